"""From detector counts to line integrals of attenuation: the corrections that every CT scan needs.

``p = ln((I0 - d) / ma0) - ln((I - d) / ma)`` with the offset d (dark views), the air views I0 and the tube currents.
Each Step works on blocks as they come; what it repairs, it counts, and says so when the scan is over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from acquisition.ct_reference import Reference, neighbours
from acquisition.errors import ConfigError, DataError
from acquisition.items import Item, Projections
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict

_STARVED_PART = 1e-3
_BAD_PART = 0.01
_BLUR = np.array([1, 2, 3, 2, 1], np.float32) / 9


@dataclass(kw_only=True)
class Air:
    """Offset, air, tube current and logarithm; rays that almost no photon passed; elements that do not count.

    Counts below `smooth_below` are mixed with the mean of their neighbours along the channels, the more the fewer
    they are (noise of such rays makes streaks); what is still below `least` is set to it.
    """

    smooth_below: float = 20.0
    """Counts above the offset from which down rays are smoothed; 0: never."""
    least: float = 1.0
    """Smallest count above the offset that enters the logarithm."""
    bad_below: float = 0.2
    """An element whose air signal is below this part of its row's median is interpolated."""

    def __post_init__(self) -> None:
        if self.smooth_below < 0 or self.least <= 0 or not 0 < self.bad_below < 1:
            raise ConfigError(
                "ct.air",
                expected="smooth_below from 0, least above 0, bad_below between 0 and 1",
                got=f"{self.smooth_below}, {self.least}, {self.bad_below}",
            )

    def open(self, scan: Scan) -> None:
        """Remember the detector."""
        self._reference = Reference(scan)
        self._uid, self._shape, self._watched = scan.uid, self._reference.shape, scan.require_ct().reference_channels
        self._air: NDArray[np.float32] | None = None
        self._rays = self._starved = self._views = 0

    def feed(self, item: Item) -> Iterator[Item]:
        """Gather dark and air views, turn the others into line integrals. Everything else passes.

        Raises
        ------
        DataError
            Views came before dark or air views, are of another size, or are not finite.
        """
        if not isinstance(item, Projections) or item.domain != "counts":
            yield item
            return
        if item.data.shape[1:] != self._shape or not np.isfinite(item.data).all():
            raise DataError(
                f"scan {self._uid}: views",
                expected=f"finite counts of {self._shape} elements",
                got=f"{item.data.shape[1:]}, {int((~np.isfinite(item.data)).sum())} not finite",
            )
        calibration, patient = self._reference.apart(item)
        if calibration is not None:
            self._air = None
        if patient is not None:
            yield self._lines(patient)

    def close(self) -> Iterator[Item]:
        """Say what was repaired."""
        if not self._views:
            return
        if self._watched:
            yield _watch(self._reference.blocked, self._views)
        part = self._starved / max(self._rays, 1)
        yield Verdict(
            check="ct.starvation",
            level=Level.FLAG if part > _STARVED_PART else Level.PASS,
            advice="Hardly any photon came through: expect streaks and noise; raise the dose or move the arms."
            if part > _STARVED_PART
            else "Enough photons came through.",
            value=100 * part,
            limit=100 * _STARVED_PART,
            unit="%",
            evidence=f"{self._starved} of {self._rays} rays at or below {self.least:g} counts",
        )
        n_bad = len(self._bad[0])
        bad = n_bad / np.prod(self._shape)
        yield Verdict(
            check="ct.bad_elements",
            level=Level.FLAG if n_bad else Level.PASS,
            advice="Detector elements do not count; they were interpolated: calibrate the detector."
            if n_bad
            else "All detector elements count.",
            value=100 * float(bad),
            limit=0.0,
            unit="%",
            evidence=", ".join(f"row {r} channel {c}" for r, c in list(zip(*self._bad, strict=True))[:10]),
        )

    def _prepare(self) -> NDArray[np.float32]:
        air = self._reference.still()
        self._bad = np.nonzero(air < self.bad_below * np.median(air, axis=1, keepdims=True))
        if len(self._bad[0]) > _BAD_PART * air.size:
            raise DataError(
                f"scan {self._uid}: air views",
                expected=f"at most {100 * _BAD_PART:g} % of the elements without signal",
                got=f"{len(self._bad[0])} of {air.size}",
                action="repeat the air calibration",
            )
        self._weights = [self._neighbours(r, c) for r, c in zip(*self._bad, strict=True)]
        return np.log(np.maximum(air, self.least)).astype(np.float32)

    def _neighbours(self, row: int, channel: int) -> tuple[int, int, int, int, np.float32]:
        """Return the element, the nearest good channels below and above it, and the weight of the upper one."""
        bad = np.zeros(self._shape[1], bool)
        bad[self._bad[1][self._bad[0] == row]] = True
        return int(row), int(channel), *neighbours(bad, channel)

    def _lines(self, item: Projections) -> Projections:
        if self._air is None:
            self._air = self._prepare()
        output = self._reference.output(item)
        counts = item.data - self._reference.dark()
        for row, channel, a, b, weight in self._weights:
            counts[:, row, channel] = (1 - weight) * counts[:, row, a] + weight * counts[:, row, b]
        if self.smooth_below and (counts < self.smooth_below).any():
            counts = self._smoothed(counts)
        self._views += len(item)
        self._rays += counts.size
        self._starved += int((counts <= self.least).sum())
        lines = self._air - np.log(np.maximum(counts, np.float32(self.least)))
        for row, channel, a, b, weight in self._weights:
            lines[:, row, channel] = (1 - weight) * lines[:, row, a] + weight * lines[:, row, b]
        lines += np.log(output)[:, None, None]
        return replace(item, data=lines, domain="lines")

    def _smoothed(self, counts: NDArray[np.float32]) -> NDArray[np.float32]:
        padded = np.pad(counts, ((0, 0), (0, 0), (2, 2)), mode="edge")
        n = counts.shape[-1]
        mean = sum((w * padded[..., k : k + n] for k, w in enumerate(_BLUR)), np.zeros_like(counts))
        share = np.clip(1 - counts / np.float32(self.smooth_below), 0, 1)
        return counts + share * (mean - counts)


def _watch(blocked: int, n_views: int) -> Verdict:
    return Verdict(
        check="ct.reference",
        level=Level.FLAG if blocked else Level.PASS,
        advice="Something stands before the reference channels; the tube current in the header was taken instead."
        if blocked
        else "The reference channels see the tube.",
        value=float(blocked),
        limit=0.0,
        unit="views",
        evidence=f"{blocked} of {n_views} views",
    )


@dataclass(kw_only=True)
class BeamHardening:
    """Straighten line integrals that a polychromatic beam has bent: ``p' = c1 p + c2 p^2 + ...`` (water)."""

    coefficients: tuple[float, ...] = (1.0,)
    """c1, c2, ... from the scanner's water calibration."""

    def __post_init__(self) -> None:
        if not self.coefficients or self.coefficients[0] <= 0:
            raise ConfigError("ct.beam_hardening", expected="c1 above 0", got=str(self.coefficients))

    def open(self, scan: Scan) -> None:
        """Nothing to prepare."""
        scan.require_ct()

    def feed(self, item: Item) -> Iterator[Item]:
        """Correct line integrals; everything else passes."""
        if not isinstance(item, Projections) or item.domain != "lines" or self.coefficients == (1.0,):
            yield item
            return
        out = np.zeros_like(item.data)
        for c in reversed(self.coefficients):
            out = (out + np.float32(c)) * item.data
        yield replace(item, data=out)

    def close(self) -> Iterator[Item]:
        """Nothing is left to do."""
        return iter(())
