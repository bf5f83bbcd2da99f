"""Real values to 16 bits and back: one scale for a whole series, so that its slices stay comparable.

``value = slope * stored``. The first image that is not empty fixes the slope: its brightest pixel becomes 1639 to
4095, which leaves magnitudes 16 times that before 16 bits are full. Slopes are 1, 2 or 5 times a power of ten;
phase in radians has pi / 4096; integers that fit are stored as they are; where the unit is the noise, a step is at
least a hundredth of it, so that a first slice in air leaves room for a head. An image that does not fit gets a FLAG
and makes the slope coarser, for itself and what follows: no value is clipped. The slope goes out as
RealWorldValueMapping (PS3.3 C.7.6.16.2.11), which the MR Image IOD has, unlike RescaleSlope. HU have a fixed scale of
their own (`ct`), which clips what no patient has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import ReconError
from acquisition.items import Image, Kind
from acquisition.verdict import Level, Verdict
from integration.dicom.text import Elements

_FIRST_TOP = 4095
_STORED = {False: (0, 65535), True: (-32768, 32767)}
_SAMPLE = 1 << 16
_NOISE_STEP = 0.01
_NOISE_TOP = 3.0
"""Unit 1 with values above this is SNR (air alone reaches 4); below it may be a fraction."""
_UCUM: dict[str, tuple[str, str]] = {
    "a.u.": ("[arb'U]", "arbitrary unit"),
    "1": ("1", "no units"),
    "rad": ("rad", "radian"),
    "Hz": ("Hz", "hertz"),
    "s": ("s", "second"),
    "ms": ("ms", "millisecond"),
    "1/s": ("/s", "per second"),
    "ppm": ("[ppm]", "parts per million"),
    "%": ("%", "percent"),
    "mm2/s": ("mm2/s", "square millimeter per second"),
}
"""Our unit -> code value and meaning (PS3.16, UCUM)."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How stored integers stand for values."""

    slope: float
    """Value of one step."""
    signed: bool
    """int16 instead of uint16."""
    intercept: float = 0.0
    """Value of a stored 0."""

    @property
    def dtype(self) -> np.dtype:
        """Type of the stored pixels."""
        return np.dtype("<i2" if self.signed else "<u2")

    def fits(self, low: float, high: float) -> bool:
        """Return whether values from `low` to `high` can be stored."""
        first, last = _STORED[self.signed]
        return first - 0.5 < (low - self.intercept) / self.slope and (high - self.intercept) / self.slope < last + 0.5

    @property
    def limits(self) -> tuple[float, float]:
        """Smallest and largest value that can be stored."""
        first, last = _STORED[self.signed]
        return first * self.slope + self.intercept, last * self.slope + self.intercept


def first_scale(image: Image, low: float, high: float) -> Scale:
    """Choose the scale of a series from the range of its first image."""
    signed = image.kind is not Kind.MAGNITUDE or low < 0
    if image.unit == "rad":
        return Scale(math.pi / 4096, True)
    if image.data.dtype.kind in "iub" and Scale(1.0, signed).fits(low, high):
        return Scale(1.0, signed)
    top = max(abs(low), abs(high))
    least = _NOISE_STEP if image.unit == "1" and top > _NOISE_TOP else 0.0
    return Scale(_round_up(max(top / _FIRST_TOP, least)), signed)


def fitting(scale: Scale, low: float, high: float) -> tuple[Scale, tuple[Verdict, ...]]:
    """Return `scale`, or where the range from `low` to `high` does not fit, a signed or coarser one and a FLAG."""
    if scale.fits(low, high):
        return scale, ()
    signed = scale.signed or low < 0
    top = _STORED[signed][1]
    slope = scale.slope
    if not Scale(slope, signed).fits(low, high):
        slope = _round_up(max(slope, abs(low) / top, abs(high) / top))
    why = "has negative values, unlike" if signed != scale.signed else "is far brighter than"
    verdict = Verdict(
        check="dicom.scale",
        level=Level.FLAG,
        advice=f"This image {why} the first of its series, whose grey scale changes here: "
        "do not compare its brightness with slices made before it.",
        value=high if abs(high) >= abs(low) else low,
        limit=scale.slope * _STORED[scale.signed][1],
        evidence=f"stored as {Scale(slope, signed).dtype.name} with slope {slope:g} instead of {scale.slope:g}",
    )
    return Scale(slope, signed), (verdict,)


def extent(data: NDArray, where: str) -> tuple[float, float]:
    """Return the smallest and the largest value.

    Raises
    ------
    ReconError
        There is no voxel, or a value that is no finite number.
    """
    low, high = (float(data.min()), float(data.max())) if data.size else (math.nan, math.nan)
    if not (math.isfinite(low) and math.isfinite(high)):
        n_bad = int(np.count_nonzero(~np.isfinite(data)))
        action = "the reconstruction failed; look at its steps and repeat it from the raw data"
        got = f"{n_bad} of {data.size} voxels NaN or infinite"
        raise ReconError(where, expected="finite voxels", got=got, action=action)
    return low, high


def store(data: NDArray, scale: Scale) -> NDArray:
    """Return the stored integers of `data`, contiguous; values beyond an offset scale are clipped to its limits."""
    if data.dtype.kind in "iub" and scale.slope == 1 and not scale.intercept:
        return np.ascontiguousarray(data, scale.dtype)
    single = data.dtype.itemsize <= 4 and data.dtype.kind == "f" and 1e-30 < scale.slope < 1e30
    steps = np.empty(data.shape, np.float32 if single else np.float64)
    np.multiply(data, steps.dtype.type(1 / scale.slope), out=steps)
    if scale.intercept:
        steps -= steps.dtype.type(scale.intercept / scale.slope)
        np.clip(steps, *_STORED[scale.signed], out=steps)
    np.rint(steps, out=steps)
    return steps.astype(scale.dtype)


def window_top(data: NDArray) -> float:
    """Return the value that should be white: the 99.5th percentile of the magnitudes, of a sample of voxels."""
    stride = max(1, math.isqrt(data.size // _SAMPLE))
    sample = np.abs(data[..., ::stride, ::stride]).ravel()
    rank = int(0.995 * (sample.size - 1))
    return float(np.partition(sample, rank)[rank]) or float(sample.max())


def scale_elements(image: Image, scale: Scale, *, top: float) -> Elements:
    """Return the attributes that say what stored pixels mean and how to show them.

    Parameters
    ----------
    image
        Gives unit and kind.
    scale
        Its scale.
    top
        Value shown white.
    """
    high = math.pi / scale.slope if image.unit == "rad" else max(1.0, top / scale.slope)
    first, last = _STORED[scale.signed]
    mapping: Elements = {
        "RealWorldValueFirstValueMapped": first,
        "RealWorldValueLastValueMapped": last,
        "RealWorldValueIntercept": 0.0,
        "RealWorldValueSlope": scale.slope,
        "LUTExplanation": f"{image.kind.value} [{image.unit}]",
        "LUTLabel": image.kind.value,
        "MeasurementUnitsCodeSequence": [_unit(image.unit)],
    }
    return {
        **storage_elements(scale),
        "WindowCenter": 0 if scale.signed else math.ceil(high) / 2,
        "WindowWidth": math.ceil(high) * (2 if scale.signed else 1),
        "RealWorldValueMappingSequence": [mapping],
    }


def storage_elements(scale: Scale) -> Elements:
    """Return the attributes that say how pixels are stored."""
    return {
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": int(scale.signed),
        "BurnedInAnnotation": "NO",
        "LossyImageCompression": "00",
    }


def _unit(unit: str) -> Elements:
    if unit not in _UCUM:
        return {"CodeValue": unit, "CodingSchemeDesignator": "99ISOCENTER", "CodeMeaning": unit}
    value, meaning = _UCUM[unit]
    return {"CodeValue": value, "CodingSchemeDesignator": "UCUM", "CodingSchemeVersion": "1.4", "CodeMeaning": meaning}


def _round_up(least: float) -> float:
    """Return the smallest of 1, 2, 5, 10 ... that is not below `least`; 1 for an empty image."""
    if least <= 0:
        return 1.0
    exponent = math.floor(math.log10(max(least, 1e-290)))
    ladder = (float(f"{digit}e{exponent}") for digit in (1, 2, 5, 10))
    return next((step for step in ladder if step >= least * (1 - 1e-12)), float(f"2e{exponent + 1}"))
