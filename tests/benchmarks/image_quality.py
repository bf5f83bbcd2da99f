"""How often the image checks of MR find what was planted, and how often they cry wolf.

Run as ``python -m tests.benchmarks image_quality``; ``ISOCENTER_DATA`` names the real data (without it virtual heads),
``ISOCENTER_CASES`` how many clean images there are (default 120). Images are slices of real labelled heads along all
three axes with drawn contrast, bias field, matrix, field of view and SNR of 8 to 50; defects are planted in their
k-space, so complex noise is added afterwards. Thresholds are those that the checks come with. The rule and the limit
for ghosts were shaped on images of the same heads, with this seed and another, so their rates are optimistic; the other
limits were set on virtual and real heads before this benchmark was written.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom

from acquisition.sources.nifti import read_nifti
from acquisition.verdict import Level, Verdict
from recon.mri.quality import CheckQuality
from tests.recon.quality_samples import (
    Plant,
    as_image,
    folded,
    found,
    from_k,
    ghosted,
    head_slice,
    interfered,
    moved,
    noisy,
    to_k,
)

HEADS = ("11", "14", "15", "16")
CHECKS = ("snr", "contrast", "sharpness", "ghost", "wrap", "zipper")
Image = NDArray[np.float64]


def heads() -> list[NDArray[np.int16]]:
    """Label maps of real heads, where they are."""
    folder = Path(os.environ.get("ISOCENTER_DATA", "")) / "images" / "head_labels"
    paths = [folder / f"training_seg_{n}.nii.gz" for n in HEADS]
    return [read_nifti(p).data.astype(np.int16) for p in paths if p.exists()]


def drawn(maps: list[NDArray[np.int16]], rng: np.random.Generator) -> Image:
    """One slice: labels with drawn levels, partial volume, a bias field; upright or lying."""
    n = int(rng.choice([128, 160, 192, 256]))
    if not maps:
        return head_slice(int(rng.integers(1000)), n)
    labels = maps[int(rng.integers(len(maps)))]
    axis = int(rng.integers(3))
    at = int(labels.shape[axis] * rng.uniform(0.4, 0.6))
    plane = np.take(labels, at, axis)
    levels = rng.uniform(0.1, 1.0, int(labels.max()) + 1)
    levels[0] = 0.0
    image = gaussian_filter(levels[plane], 0.5 * 256 / n)
    image = zoom(image, n / 256, order=1, grid_mode=True, mode="grid-constant")
    bias = gaussian_filter(rng.standard_normal(image.shape), n / 3)
    image = image * np.exp(0.25 * bias / np.abs(bias).max())
    return image.T if rng.random() < 0.5 else image


def few_lines(image: Image, rng: np.random.Generator) -> NDArray:
    """Fewer lines than pixels along one axis."""
    space, n = to_k(image), len(image)
    cut = int(n * rng.uniform(0.05, 0.2))
    space[:cut] = space[-cut:] = 0
    return from_k(space)


def said(image: NDArray, snr: float, seed: int) -> dict[str, Verdict]:
    """Verdicts on one image with noise."""
    verdicts = found(CheckQuality(), [as_image([noisy(image, snr, seed)])])
    return {name.removeprefix("quality."): v for name, v in verdicts.items()}


def defects(rng: np.random.Generator) -> dict[str, tuple[str, Plant, float]]:
    """Name -> check that is to find it, what is planted, SNR."""
    strength = rng.uniform(0.5, 1.0)
    return {
        "N/2 ghost of 10 to 20 %": ("ghost", lambda h: ghosted(h, 0.2 * strength), 30.0),
        "shifts of 3 to 6 pixels, every 8 lines": (
            "ghost",
            lambda h: moved(h, 6 * strength, int(rng.integers(99))),
            30,
        ),
        "field of view of 55 to 70 %": ("wrap", lambda h: folded(_filling(h), 0.85 - 0.3 * strength), 30.0),
        "interference": ("zipper", lambda h: interfered(h, 0.003 * strength), 30.0),
        "blur of 7 to 9 pixels FWHM": ("sharpness", lambda h: gaussian_filter(h, 3.0 + strength), 30.0),
        "SNR 1.5 to 3": ("snr", lambda h: h, 3.0 * strength),
    }


def _filling(image: Image) -> Image:
    """Cut away the empty rows, so that a field of view is said of the head."""
    rows = np.flatnonzero(image.max(axis=1) > 0.1 * image.max())
    return image[rows[0] : rows[-1] + 1]


def auc(clean: list[float], planted: list[float], *, low: bool) -> float:
    """Area under the ROC curve of a value."""
    c, p = np.array(clean), np.array(planted)
    if low:
        c, p = -c, -p
    return float((p[:, None] > c[None]).mean() + 0.5 * (p[:, None] == c[None]).mean())


def main() -> None:
    """Print the tables."""
    n, maps = int(os.environ.get("ISOCENTER_CASES", "120")), heads()
    rng = np.random.default_rng(11)
    clean: list[dict[str, Verdict]] = []
    took = []
    for seed in range(n):
        image = drawn(maps, rng)
        some: Callable[..., NDArray] = few_lines if rng.random() < 0.3 else lambda h, _: h
        began = time.perf_counter()
        clean.append(said(some(image, rng), float(rng.uniform(8, 50)), seed))
        took.append(time.perf_counter() - began)
    source = f"slices of {len(maps)} labelled heads" if maps else "slices of virtual heads"
    print(f"{n} clean images, {source}, median {1e3 * np.median(took):.0f} ms an image\n")
    print("| check | false FLAG [%] | false HOLD [%] |\n|---|---|---|")
    for check in CHECKS:
        told = [v[check].level for v in clean if check in v]
        print(f"| {check} | {_part(told, Level.FLAG):.1f} | {_part(told, Level.HOLD):.1f} |")
    wolves = sum(any(v.level is not Level.PASS for v in one.values()) for one in clean)
    print(f"| any | {100 * wolves / n:.1f} | |")
    print("\n| planted | by | found by it [%] | by any [%] | AUC |\n|---|---|---|---|---|")
    for name in defects(rng):
        _row(name, maps, clean, n=n // 2)


def _row(name: str, maps: list[NDArray[np.int16]], clean: list[dict[str, Verdict]], *, n: int) -> None:
    rng = np.random.default_rng(12)
    hits, any_hit, values, check = 0, 0, [], ""
    for seed in range(n):
        check, plant, snr = defects(rng)[name]
        told = said(plant(drawn(maps, rng)), snr, 1000 + seed)
        hits += check in told and told[check].level is not Level.PASS
        any_hit += any(v.level is not Level.PASS for v in told.values())
        values += [float(told[check].value or 0)] if check in told else []
    usual = [float(v[check].value or 0) for v in clean if check in v]
    area = auc(usual, values, low=check == "snr")
    print(f"| {name} | {check} | {100 * hits / n:.0f} | {100 * any_hit / n:.0f} | {area:.3f} |", flush=True)


def _part(told: list[Level], level: Level) -> float:
    return 100 * sum(t is level for t in told) / max(len(told), 1)


if __name__ == "__main__":
    main()
