"""The earlier image brought to the later one: position, gain; and how far the two can be trusted to be one pair.

A difference of two images shows motion, other parameters and another gain as well as any agent. Each has a figure of
its own here, taken where no agent goes or from what an agent cannot do, and a limit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from acquisition.errors import DataError
from acquisition.items import Image
from models.pair import Pair, blurred_noise, noise_of_pair, remaining, tissue
from models.refuse import Refusal
from recon.rigid import Rigid, registration

Floats = NDArray[np.float32]

_BLOCK_MM = 32.0
_FEWEST = 200  # voxels of tissue in a block
_ROUNDS = 4
_TAIL = 99.5  # percentile of what enhances strongly: vessels, mucosa
_NOISE_TAIL = 2.576  # the same percentile of a normal variable
_WORST = 90.0  # percentile of the blocks
_EVEN = 60.0  # percentile of the slopes in tissue


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How well two images are one pair."""

    travel_mm: float
    """How far the middle of the head went between them."""
    angle_deg: float
    """How far it turned."""
    overlap: float
    """Part of the later image's tissue that the earlier one shows."""
    alike: float
    """Correlation of both in tissue."""
    rest_mm: float
    """Motion that is left after registration, in the worst tenth of the blocks."""
    gain: float
    """Brightness of the later image over the earlier one, where nothing enhances."""
    uneven: float
    """Spread of that ratio over the head: another receiver, another sequence."""
    uptake: float
    """Strongest enhancement over the tissue's brightness, as it would be at full dose."""
    order: float
    """Strongest loss over the strongest gain of signal."""

    @property
    def told(self) -> str:
        """All figures in words."""
        return (
            f"moved {self.travel_mm:.1f} mm, {self.angle_deg:.1f} degrees; left {self.rest_mm:.2f} mm; gain"
            f" {self.gain:.3g}, uneven by {100 * self.uneven:.1f} %; alike {self.alike:.3f}; strongest enhancement"
            f" {self.uptake:.2f}, loss to gain {self.order:.2f}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a pair must keep to."""

    travel_mm: float = 20.0
    """Largest motion [mm]."""
    rest_mm: float = 0.6
    """Largest motion left after registration [mm]."""
    overlap: float = 0.85
    """Smallest part of the tissue that both show."""
    alike: float = 0.95
    """Smallest correlation."""
    uneven: float = 0.08
    """Largest spread of the gain."""
    uptake: tuple[float, float] = (0.1, 5.5)
    """Strongest enhancement, extrapolated to full dose, over the tissue's brightness."""
    order: float = 0.85
    """Largest loss over gain of signal."""


def brought(low: Image, pre: Image, *, where: str) -> tuple[Floats, Rigid]:
    """Return the earlier image on the later one's grid (z, y, x), and how the head moved.

    Raises
    ------
    DataError
        They cannot be registered.
    ConfigError
        The package for it is not installed.
    """
    module = registration(where)
    motion: Rigid = module.rigid(low, pre)
    return np.asarray(module.brought(pre, low.grid, motion), np.float32), motion


def paired(low: Image, pre: Image, *, dose: float, field_t: float, where: str) -> tuple[Pair, Fit]:
    """Register two magnitudes, level their gains, and say how well they fit.

    Parameters
    ----------
    low, pre
        Volumes after and before the agent, of one exam.
    dose
        Part of the full dose that was given.
    field_t
        Field strength [T].
    where
        Named in errors.

    Raises
    ------
    DataError
        They cannot be registered, or show nothing in common.
    """
    for name, image in (("low dose", low), ("before", pre)):
        if not np.isfinite(image.data).all():
            raise DataError(f"{where}: image {name}", expected="numbers", got="NaN or infinite values")
    before, motion = brought(low, pre, where=where)
    after = np.asarray(low.data.reshape(low.grid.shape), np.float32)
    seen = tissue(after)
    both = seen & (before > 0.02 * np.percentile(before, 99))
    overlap = float(both.sum() / max(seen.sum(), 1))
    if both.sum() < _FEWEST:
        raise DataError(where, expected="two images of one place", got=f"{both.sum()} voxels in common")
    even = calm(before, both)
    gain, uneven = gain_of(after, before, even)
    before *= np.float32(gain)
    pair = Pair(pre=before, low=after, noise=noise_of_pair(before, after), dose=dose, field_t=field_t)
    fit = fitted(pair, both, even, spacing_mm=low.grid.spacing_mm)
    found = {"travel_mm": motion.travel_mm(low.grid), "angle_deg": motion.angle_deg, "overlap": overlap}
    return pair, replace(fit, gain=gain, uneven=uneven, **found)


def calm(image: Floats, inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return what of `inside` is no edge: there the least motion makes gain and loss of signal."""
    steep = np.hypot(*np.gradient(gaussian_filter(image, (0, 1, 1)), axis=(1, 2)))
    return np.asarray(inside & (steep < np.percentile(steep[inside], _EVEN)))


def gain_of(after: Floats, before: Floats, even: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the ratio of the two where nothing enhances, and its robust spread over places some millimetres wide."""
    wide = (0, 2.0, 2.0)
    ratio = gaussian_filter(after * even, wide)[even] / np.maximum(gaussian_filter(before * even, wide)[even], 1e-6)
    for _ in range(_ROUNDS):  # what enhances lies above
        middle = np.median(ratio)
        spread = 1.4826 * np.median(np.abs(ratio - middle)) + 1e-6
        ratio = ratio[np.abs(ratio - middle) < 3 * spread]
    return float(middle), float(spread / middle)


def fitted(pair: Pair, both: NDArray[np.bool_], even: NDArray[np.bool_], *, spacing_mm: tuple[float, ...]) -> Fit:
    """Return the figures of a pair that is registered and levelled; motion, overlap and gain are not known here."""
    bright = float(np.median(pair.low[both]))
    change = gaussian_filter(pair.difference, (0, 1, 1))[even]
    noise = _NOISE_TAIL * blurred_noise(1) * float(np.sqrt(2) * np.median(pair.noise[both]))
    gained = max(float(np.percentile(change, _TAIL)) - noise, 0.0)
    lost = max(-float(np.percentile(change, 100 - _TAIL)) - noise, 0.0)
    smooth = [gaussian_filter(i, (0, 1, 1))[both] for i in (pair.low, pair.pre)]
    return Fit(
        travel_mm=0.0,
        angle_deg=0.0,
        overlap=1.0,
        alike=float(np.corrcoef(smooth)[0, 1]),
        rest_mm=rest_mm(pair, both, spacing_mm),
        gain=1.0,
        uneven=0.0,
        uptake=gained / remaining(pair.dose) / bright,
        order=lost / max(gained, 1e-6 * bright),
    )


def rest_mm(pair: Pair, both: NDArray[np.bool_], spacing_mm: tuple[float, ...]) -> float:
    """Return the motion in the plane that is left between both images, block by block: the worst tenth [mm].

    Least squares of ``low - pre = -shift . gradient``, Lucas and Kanade 1981; what enhances strongly is left out.
    """
    mean = gaussian_filter((pair.low + pair.pre) / 2, (0, 1, 1))
    change = gaussian_filter(pair.difference, (0, 1, 1))
    usable = both & (change < 3 * np.std(change[both]))
    slopes = np.gradient(mean, axis=(1, 2))
    size = [max(round(_BLOCK_MM / s), 1) for s in spacing_mm]
    found = []
    for corner in np.ndindex(*(max(n // s, 1) for n, s in zip(mean.shape, size, strict=True))):
        part = tuple(slice(c * s, (c + 1) * s) for c, s in zip(corner, size, strict=True))
        inside = usable[part]
        if inside.sum() < _FEWEST:
            continue
        a = np.stack([s[part][inside] for s in slopes], axis=1).astype(np.float64)
        gram = a.T @ a
        ridge = 1e-3 * np.trace(gram) * np.eye(2) + 1e-12 * np.eye(2)
        step = np.linalg.solve(gram + ridge, a.T @ change[part][inside])
        found.append(float(np.hypot(*(step * spacing_mm[1:]))))
    return float(np.percentile(found, _WORST)) if found else float("inf")


_WHY = {
    "overlap": "the images before and after show different places",
    "travel": "the patient moved far between the two",
    "alike": "the image before shows something else, or with another sequence",
    "gain": "the two differ where nothing enhances: another sequence, or another coil",
    "rest": "they do not lie on each other after registration",
    "order": "signal was lost rather than gained: was the order of the two exchanged?",
    "little": "hardly anything enhances: was the agent given?",
    "much": "it enhances more than this part of the dose can",
}
"""Cause -> what is said."""


def refused(fit: Fit, limits: Limits) -> Refusal | None:
    """Return why a pair must not be used, None where it may."""
    little, much = limits.uptake
    figures = (
        ("overlap", fit.overlap, limits.overlap, fit.overlap >= limits.overlap),
        ("travel", fit.travel_mm, limits.travel_mm, fit.travel_mm <= limits.travel_mm),
        ("alike", fit.alike, limits.alike, fit.alike >= limits.alike),
        ("gain", fit.uneven, limits.uneven, fit.uneven <= limits.uneven),
        ("rest", fit.rest_mm, limits.rest_mm, fit.rest_mm <= limits.rest_mm),
        ("order", fit.order, limits.order, fit.order <= limits.order),
        ("little", fit.uptake, little, fit.uptake >= little),
        ("much", fit.uptake, much, fit.uptake <= much),
    )
    for cause, value, bound, kept in figures:
        if not kept:
            return Refusal(f"pair.{cause}", _WHY[cause], value, bound, "mm" if cause in ("travel", "rest") else "")
    return None
