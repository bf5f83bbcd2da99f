"""Scattered radiation: estimated from the counts themselves and subtracted, before the logarithm.

It fills up the shadow of the patient, so the middle of the image gets dark and bands join dense parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from acquisition.ct_reference import Reference
from acquisition.errors import ConfigError
from acquisition.items import Item, Projections
from acquisition.scan import CtHeader, Scan
from acquisition.verdict import Level, Verdict

Counts = NDArray[np.float32]

_LEAST = 0.1  # part of the measured counts that always stays
_SHADOW = 0.8  # a ray below this part of its air signal passed through the patient


class _Subtracting:
    """What both have in common: calibration in, counts less scatter out, how much it was."""

    def open(self, scan: Scan) -> None:
        """Prepare for the detector."""
        self._ct: CtHeader = scan.require_ct()
        self._reference = Reference(scan)
        self._taken = self._kept = 0.0

    def feed(self, item: Item) -> Iterator[Item]:
        """Subtract the scatter from the patient's counts; everything else passes.

        Raises
        ------
        DataError
            Views came before dark or air views, or are of another size.
        """
        if not isinstance(item, Projections) or item.domain != "counts" or not len(item):
            yield item
            return
        calibration, patient = self._reference.apart(item)
        if calibration is not None:
            yield calibration
        if patient is not None:
            yield self._less(patient)

    def close(self) -> Iterator[Item]:
        """Say how much was subtracted."""
        if self._kept:
            yield Verdict(
                check="ct.scatter",
                level=Level.PASS,
                advice="Scattered radiation was estimated and subtracted.",
                value=100 * self._taken / self._kept,
                unit="%",
                evidence="subtracted scatter against what is left behind the patient",
            )

    def _less(self, block: Projections) -> Projections:
        measured, air = block.data - self._reference.dark(), self._reference.air(block)
        primary = np.maximum(measured - self._scatter(measured, air), np.float32(_LEAST) * measured)
        shadow = measured < _SHADOW * air
        self._taken += float((measured - primary)[shadow].sum(dtype=np.float64))
        self._kept += float(primary[shadow].sum(dtype=np.float64))
        return replace(block, data=primary + self._reference.dark())

    def _scatter(self, measured: Counts, air: Counts) -> Counts:
        raise NotImplementedError


@dataclass(kw_only=True)
class Scatter(_Subtracting):
    """Scatter as a smooth copy of what each ray loses: ``ratio * G * (I p)``, solved for the primary I.

    Ohnesorge, Flohr, Klingenbeck-Regn, Eur Radiol 1999;9:563, DOI 10.1007/s003300050710. Put it before ct.air.
    """

    ratio: float = 0.02
    """Part of a ray's lost radiation (counts times line integral) that reaches the detector again."""
    spread_mm: float = 90.0
    """Standard deviation of the spread along the channels, at the detector [mm]."""
    iterations: int = 3
    """Times the estimate is made anew from the primary radiation."""

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 0.5 or self.spread_mm <= 0 or self.iterations < 1:
            raise ConfigError(
                "ct.scatter",
                expected="ratio from 0 to below 0.5, spread_mm above 0, iterations from 1",
                got=f"{self.ratio}, {self.spread_mm}, {self.iterations}",
            )

    def _scatter(self, measured: Counts, air: Counts) -> Counts:
        sigma = self.spread_mm / self._ct.pitch_mm[1]
        scatter = np.zeros((len(measured), 1, measured.shape[-1]), np.float32)
        for _ in range(self.iterations):
            primary = np.maximum(measured - scatter, np.maximum(np.float32(_LEAST) * measured, np.float32(1e-3)))
            potential = (primary * np.log(np.maximum(air / primary, 1))).mean(axis=1, keepdims=True)
            scatter = np.float32(self.ratio) * gaussian_filter1d(potential, sigma, mode="constant")
        return scatter


@dataclass(kw_only=True)
class ConstantScatter(_Subtracting):
    """Scatter as one value per view: a fixed part of the mean signal behind the patient.

    After Boellaard et al., Radiother Oncol 1997;44:149. Put it before ct.air.
    """

    ratio: float = 0.05
    """Scatter against primary radiation, averaged over the patient's shadow."""

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 2:
            raise ConfigError("ct.scatter_constant", expected="ratio from 0 to below 2", got=str(self.ratio))

    def _scatter(self, measured: Counts, air: Counts) -> Counts:
        shadow = measured < _SHADOW * air
        n = np.maximum(shadow.sum(axis=(1, 2)), 1)
        mean = np.where(shadow, measured, 0).sum(axis=(1, 2), dtype=np.float64) / n
        part = self.ratio / (1 + self.ratio)
        return (part * mean).astype(np.float32)[:, None, None]
