"""Noise of CT and PET images, in the form of the MR checks: ``check.ct_quality``, ``check.pet_quality``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from acquisition.errors import ConfigError
from acquisition.verdict import Level, Verdict
from recon import quality
from recon.planes import LookingAtImages

_SHIFT_HU = 1024.0


@dataclass(kw_only=True)
class CheckCtQuality(LookingAtImages):
    """How noisy and how sharp are the slices? Said when the scan is over; images pass as they come."""

    noise_flag_hu: float = 60.0
    """Noise inside the body from which soft tissue can hardly be judged [HU]; sharp kernels need a higher limit."""
    noise_hold_hu: float = 250.0
    """The same, from which a person is asked [HU]."""

    def __post_init__(self) -> None:
        if not 0 < self.noise_flag_hu <= self.noise_hold_hu:
            raise ConfigError(
                "check.ct_quality",
                expected="0 < noise_flag_hu <= noise_hold_hu",
                got=f"{self.noise_flag_hu}, {self.noise_hold_hu}",
            )

    def _judged(self) -> Iterator[Verdict]:
        found = []
        for plane in self._planes.middle[::2]:
            where = quality.parts(np.maximum(plane.data + np.float32(_SHIFT_HU), 0))
            if where is not None and (noise := quality.noise_level(plane.data, where.inside)) > 0:
                found.append((noise, plane, quality.edge_width(plane.data, where)))
        if not found:
            return
        noise = float(np.median([n for n, _, _ in found]))
        worst, plane, _ = max(found, key=lambda row: row[0])
        level = Level.HOLD if noise > self.noise_hold_hu else Level.FLAG if noise > self.noise_flag_hu else Level.PASS
        yield Verdict(
            check="quality.noise",
            level=level,
            advice="Noise is low enough for soft tissue."
            if level is Level.PASS
            else "The slices are noisy: take thicker slices or a softer kernel before anything is scanned again.",
            value=noise,
            limit=self.noise_flag_hu,
            unit="HU",
            evidence=f"median of {len(found)} slices, {worst:.1f} HU in {plane.name}; sharpest edges "
            f"{float(np.median([e for _, _, e in found])):.1f} pixels wide",
        )


@dataclass(kw_only=True)
class CheckPetQuality(LookingAtImages):
    """How noisy is the activity where it is even? Said when the scan is over; images pass as they come."""

    noise_flag: float = 0.4
    """Standard deviation over the mean inside the body from which small lesions are lost."""
    noise_hold: float = 1.0
    """The same, from which a person is asked."""

    def __post_init__(self) -> None:
        if not 0 < self.noise_flag <= self.noise_hold:
            raise ConfigError(
                "check.pet_quality",
                expected="0 < noise_flag <= noise_hold",
                got=f"{self.noise_flag}, {self.noise_hold}",
            )

    def _judged(self) -> Iterator[Verdict]:
        found = []
        for plane in self._planes.middle:
            where = quality.parts(np.maximum(plane.data, 0))
            if where is not None and (noise := quality.noise_level(plane.data, where.inside)) > 0 and where.level > 0:
                found.append(noise / where.level)
        if not found:
            return
        noise = float(np.median(found))
        level = Level.HOLD if noise > self.noise_hold else Level.FLAG if noise > self.noise_flag else Level.PASS
        yield Verdict(
            check="quality.noise",
            level=level,
            advice="Noise is low enough."
            if level is Level.PASS
            else "The images are noisy: were dose and time as planned? Count longer while the patient lies there.",
            value=100 * noise,
            limit=100 * self.noise_flag,
            unit="%",
            evidence=f"median of {len(found)} slices; noise by third differences where it is even",
        )
