"""PET slices at many and at few counts: real FDG volumes, measured again by a small virtual scanner and reconstructed.

Volumes: IBSI's soft-tissue sarcomas (TCIA Soft-tissue-Sarcoma, CC BY 3.0). A slice is projected, attenuated, counted
(Poisson) over a background of scatter and randoms, and reconstructed by OSEM (Hudson & Larkin, IEEE TMI 1994;13:601,
DOI 10.1109/42.363108), so that noise grows with the activity and is correlated as on a scanner. Parallel rays, one
slice, no time of flight.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from acquisition.errors import ConfigError
from models.train.fields import smooth_field
from models.train.upright import read_upright
from recon.pet.noise import halves_noise

F32 = NDArray[np.float32]

SPLIT: dict[str, tuple[str, ...]] = {
    "training": tuple(f"STS_{n:03d}" for n in (*range(1, 12), 14, 16)),
    "calibration": ("STS_012", "STS_015", "STS_017"),
    "test": ("STS_013", "STS_018", "STS_019"),
}
"""Which volumes are for what."""
_MU_PER_MM = 0.0096  # water at 511 keV
_N_ANGLES, _SUBSETS, _ITERATIONS = 72, 8, 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PetSample:
    """One slice at few counts and without noise; all (y, x) [SUV]."""

    low: F32
    """At few counts."""
    sigma: F32
    """Standard deviation of its noise, estimated from two halves of the counts as the service can do."""
    target: F32
    """The same reconstruction of the expected counts."""
    counts: float
    """Trues expected in the slice."""


def load_volumes(part: str, *, data: Path) -> list[tuple[F32, float]]:
    """Return the volumes (z, y, x) [SUV] of one part and their pixels [mm].

    Raises
    ------
    ConfigError
        There is no such part.
    """
    if part not in SPLIT:
        raise ConfigError("part of the PET volumes", expected=f"one of {', '.join(SPLIT)}", got=repr(part))
    out = []
    for name in SPLIT[part]:
        voxels, spacing = read_upright(data / "pet" / "ibsi" / name / "PET_image.nii.gz")
        out.append((voxels, float(spacing[2])))
    return out


@lru_cache(maxsize=4)
def projector(n: int) -> sparse.csr_array:
    """Return the matrix (angle * bin, y * x) of sums along lines, bins of one pixel, each pixel shared by two bins.

    Rows are sorted by subset: every `_SUBSETS`-th angle.
    """
    n_bins = int(np.ceil(n * np.sqrt(2))) + 2
    order = np.concatenate([np.arange(s, _N_ANGLES, _SUBSETS) for s in range(_SUBSETS)])
    y, x = (np.indices((n, n)) - (n - 1) / 2).reshape(2, -1)
    rows, columns, weights = [], [], []
    for number, angle in enumerate(np.pi * order / _N_ANGLES):
        at = np.cos(angle) * x + np.sin(angle) * y + (n_bins - 1) / 2
        low = np.floor(at).astype(int)
        for bins, weight in ((low, low + 1 - at), (low + 1, at - low)):
            rows.append(number * n_bins + bins)
            columns.append(np.arange(n * n))
            weights.append(weight)
    shape = (_N_ANGLES * n_bins, n * n)
    triples = (np.concatenate(weights).astype(np.float32), (np.concatenate(rows), np.concatenate(columns)))
    return sparse.csr_array(triples, shape=shape)


@lru_cache(maxsize=4)
def _subsets(n: int) -> list[tuple[sparse.csr_array, sparse.csr_array]]:
    whole = projector(n)
    step = whole.shape[0] // _SUBSETS
    parts = [whole[step * s : step * (s + 1)] for s in range(_SUBSETS)]
    return [(part, part.T.tocsr()) for part in parts]


def osem(counts: NDArray, sensitivity: NDArray, background: NDArray, *, n: int) -> F32:
    """Return the image (n, n) that OSEM finds.

    Parameters
    ----------
    counts, background
        Measured, and expected beside the trues, (angle * bin,) in the projector's order.
    sensitivity
        Counts per unit of the line sums: attenuation times duration, (angle * bin,).
    n
        Pixels along a side.
    """
    image = np.ones(n * n, np.float32)
    parts = _subsets(n)
    step = len(counts) // len(parts)
    pieces = [slice(step * s, step * (s + 1)) for s in range(len(parts))]
    norms = [np.maximum(back @ sensitivity[at], 1e-9) for (_, back), at in zip(parts, pieces, strict=True)]
    for _ in range(_ITERATIONS):
        for (forward, back), at, norm in zip(parts, pieces, norms, strict=True):
            expected = sensitivity[at] * (forward @ image) + background[at]
            image = image / norm * (back @ (sensitivity[at] * counts[at] / np.maximum(expected, 1e-9)))
    return image.reshape(n, n).astype(np.float32)


def random_activity(volume: F32, pixel_mm: float, rng: np.random.Generator, *, n: int = 64) -> tuple[F32, float]:
    """Return a turned, magnified slice of a volume with a few hot spots added (n, n) [SUV], and its pixel [mm]."""
    z = int(rng.integers(volume.shape[0]))
    angle, zoom = rng.uniform(0, 2 * np.pi), rng.uniform(0.9, 1.6)
    c, s = np.cos(angle) / zoom, np.sin(angle) / zoom * rng.choice([-1, 1])
    turn = np.array([[c, -s], [s, c]]) if rng.random() < 0.5 else np.array([[-c, s], [s, c]])
    middle = (np.asarray(volume.shape[1:]) - 1) / 2
    offset = middle - turn @ np.full(2, (n - 1) / 2)
    image = ndimage.affine_transform(volume[z], turn, offset, (n, n), order=3, mode="nearest")
    y, x = np.indices((n, n)) - (n - 1) / 2
    edge = 0.44 * n * (1 + 0.06 * smooth_field((n, n), n / 3, rng))
    body = np.clip(edge - np.hypot(y * rng.uniform(0.95, 1.2), x) + 0.5, 0, 1)
    image = np.maximum(image, 0.05) * np.exp(0.12 * smooth_field((n, n), 6, rng))
    for _ in range(rng.integers(0, 4)):
        at, size = rng.uniform(-0.3 * n, 0.3 * n, 2), rng.uniform(0.8, 3.0)
        image = image + rng.uniform(1, 8) * np.exp(-0.5 * ((y - at[0]) ** 2 + (x - at[1]) ** 2) / size**2)
    return (image * body).astype(np.float32), pixel_mm / zoom


def pet_sample(activity: F32, pixel_mm: float, rng: np.random.Generator, *, counts: float | None = None) -> PetSample:
    """Return a slice measured with few counts.

    Parameters
    ----------
    activity
        The truth (n, n) [SUV].
    pixel_mm
        Side of a pixel [mm].
    rng
        Draws counts, background, blur and filter.
    counts
        Trues expected in the slice; 5e3 to 5e5 when None.
    """
    n = len(activity)
    counts = float(np.exp(rng.uniform(np.log(5e3), np.log(5e5)))) if counts is None else counts
    blurred = ndimage.gaussian_filter(activity, rng.uniform(4.0, 6.0) / 2.355 / pixel_mm)
    attenuation = np.exp(-_MU_PER_MM * pixel_mm * (projector(n) @ (activity > 0.02).astype(np.float32).ravel()))
    trues = attenuation * (projector(n) @ blurred.ravel())
    scale = counts / max(float(trues.sum()), 1e-9)
    sensitivity, trues = scale * attenuation, scale * trues
    background = np.full_like(trues, rng.uniform(0.2, 0.6) * counts / trues.size)
    halves = rng.poisson(np.stack([trues + background] * 2) / 2).astype(np.float32)
    smooth = rng.choice([0.0, rng.uniform(2, 6)]) / 2.355 / pixel_mm

    def image(measured: NDArray, part: float) -> F32:
        return ndimage.gaussian_filter(osem(measured, part * sensitivity, part * background, n=n), smooth)

    low, target = image(halves.sum(0), 1.0), image(trues + background, 1.0)
    sigma = halves_noise(low, image(halves[0], 0.5), image(halves[1], 0.5), fwhm_px=2.355 * smooth)
    return PetSample(low=low, sigma=sigma, target=target, counts=counts)
