"""Denoising: networks beside classical methods on test slices whose truth is known.

Run as ``OMP_NUM_THREADS=1 ISOCENTER_DATA=... python -m tests.benchmarks denoise``; ``ISOCENTER_CARDS`` names a folder
of cards that are not shipped, ``BM3D`` a Python that has the package ``bm3d`` (not for commercial use, so it is no
dependency). CT at a quarter of the dose, PET at a quarter of the counts, MR at an SNR of 10. Gaussian, non-local means
and BM3D are tuned on calibration slices, for the largest PSNR; BM3D gets the image over its noise map.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from models.engine import engine
from models.estimate import Estimator
from models.load import SHIPPED, load
from models.train.ct import ct_sample
from models.train.dataset import Samples, Source
from models.train.figures import psnr, ssim
from models.train.mr import MrSpec
from models.train.pet import pet_sample, random_activity
from models.train.recipe import Case, Split, recipe
from models.train.simulated import DATA, Simulated, source_of
from recon.mri.mppca import known_noise, low_rank, marchenko_pastur
from recon.nlm import non_local_means

N, TUNED_ON = 12, 4
WIDTHS = (0.4, 0.5, 0.6, 0.8, 1.0, 1.3, 1.6)
STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.25)
BM3D_FACTORS = (0.7, 1.0, 1.5)
ENGINES = ("openvino", "torch")
AT = (1.0, 0.75, 0.6)
"""Strengths of the network."""
Method = Callable[[Case], NDArray]
_PEER = """
import sys, time, numpy as np
from bm3d import bm3d
images = np.load(sys.argv[1]).astype(float)
start = time.perf_counter()
made = np.stack([bm3d(image, float(sys.argv[2])) for image in images])
print((time.perf_counter() - start) / len(images))
np.save(sys.argv[3], made)
"""


@dataclass(frozen=True)
class Sort:
    """One modality."""

    name: str
    """Of its recipe and card."""
    draw: Callable[[Simulated, Split, int], Case]
    """Slice by number, at the dose that is asked for."""


def of_mr(of: Simulated, split: Split, number: int) -> Case:
    """A slice at an SNR of 10 before undersampling."""
    spec = MrSpec(matrix=(192, 192), snr=(10.0, 10.0))
    return of.case(Samples(kind="denoise", source=source_of(split), n=10**6, seed=7, spec=spec)[number])


def of_ct(of: Simulated, split: Split, number: int) -> Case:
    """A slice at a quarter of the dose."""
    side = 256
    drawn = Samples(kind="ct", source=source_of(split), n=10**6, seed=7, spec=MrSpec(matrix=(side, side)))[number]
    made = ct_sample(drawn["target"], np.random.default_rng([7, number]), pixel_mm=1.0, dose=0.25)
    return of.case({"image": made.low, "sigma": made.sigma, "target": made.target})


def of_pet(of: Simulated, split: Split, number: int) -> Case:
    """A slice with 5e4 trues, a quarter of an ordinary bed position's 2e5."""
    rng = np.random.default_rng([7, number])
    source: Source = source_of(split)
    volume, pixel = source.volumes[number % len(source.volumes)]
    activity, pixel = random_activity(volume, pixel, rng)
    made = pet_sample(activity, pixel, rng, counts=5e4)
    return of.case({"image": made.low, "sigma": made.sigma, "target": made.target})


SORTS = (Sort("mr_denoise", of_mr), Sort("ct_denoise", of_ct), Sort("pet_denoise", of_pet))


def gaussian(width: float) -> Method:
    """Return a filter of a width [pixels]."""

    def method(case: Case) -> NDArray:
        image = case.measured
        real = gaussian_filter(image.real, width)
        return real + 1j * gaussian_filter(image.imag, width) if np.iscomplexobj(image) else real

    return method


def nlm(strength: float) -> Method:
    """Return non-local means of a strength."""
    return lambda case: non_local_means(case.measured[None], case.noise[None], strength=strength, reach=(0, 7))[0]


def network(estimator: Estimator, strength: float) -> Method:
    """Return a network at a strength."""

    def method(case: Case) -> NDArray:
        made = estimator.estimate(case.measured, case.noise).data
        return np.asarray(case.measured + np.float32(strength) * (made - case.measured))

    return method


def tuned(make: Callable[[float], Method], values: Sequence[float], cases: Sequence[Case]) -> tuple[float, Method]:
    """Return the value with the largest mean PSNR, and its method."""
    best = max(values, key=lambda value: np.mean([score(make(value)(c), c)[0] for c in cases]))
    return best, make(best)


def score(image: NDArray, case: Case) -> tuple[float, float]:
    """Return PSNR [dB] and SSIM inside."""
    assert case.inside is not None
    return psnr(image, case.truth, case.inside), ssim(image, case.truth, case.inside)


def bm3d(python: str, cases: Sequence[Case], factor: float) -> tuple[list[NDArray], float]:
    """Return what the peer makes of images of one size, and its time per slice [s]; parts of complex ones alone."""
    of_noise = [c.measured / c.noise for c in cases]
    parts = [p for w in of_noise for p in ((w.real, w.imag) if np.iscomplexobj(w) else (w,))]
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / name) for name in ("in.npy", "out.npy")]
        np.save(files[0], np.stack(parts))
        command = [python, "-c", _PEER, files[0], str(factor), files[1]]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        made = np.load(files[1])
    pairs = len(parts) // len(cases)
    whole = made[0::2] + 1j * made[1::2] if pairs == 2 else made
    return [w * c.noise for w, c in zip(whole, cases, strict=True)], pairs * float(done.stdout.split()[-1])


def bm3d_tuned(sort: Sort, of: Simulated, cases: Sequence[Case]) -> tuple[str, list[NDArray], float] | None:
    """Return the peer's row, tuned on half as many slices as the others are; None where it is not installed."""
    python = os.environ.get("BM3D")
    if not python:
        return None
    known = [sort.draw(of, "calibration", number) for number in range(TUNED_ON // 2)]

    def gained(factor: float) -> float:
        images = bm3d(python, known, factor)[0]
        return float(np.mean([score(i, c)[0] for i, c in zip(images, known, strict=True)]))

    best = max(BM3D_FACTORS, key=gained)
    return f"BM3D {best:g} (peer)", *bm3d(python, cases, best)


def card_of(name: str) -> Path | None:
    """Return where a card is."""
    folders = (Path(os.environ.get("ISOCENTER_CARDS", SHIPPED)), SHIPPED)
    return next((path for f in folders if (path := f / name / "card.yaml").exists()), None)


def estimator(name: str, on: str) -> Estimator | None:
    """Return a network on an engine, where there is a card."""
    path = card_of(name)
    if path is None:
        return None
    loaded = load(path)
    return Estimator(loaded, engine(on, loaded.network, precision=loaded.card.network.precision))


def methods(sort: Sort, of: Simulated) -> dict[str, Method]:
    """Return the methods of a table, tuned."""
    cases = [sort.draw(of, "calibration", number) for number in range(TUNED_ON)]
    width, smooth = tuned(gaussian, WIDTHS, cases)
    strength, alike = tuned(nlm, STRENGTHS, cases)
    found: dict[str, Method] = {"noisy": lambda case: case.measured}
    found |= {f"Gaussian {width:g} px": smooth, f"NLM {strength:g}": alike}
    for on in ENGINES:
        made = estimator(sort.name, on)
        if made is not None:
            found |= {f"network {s:g}, {on}": network(made, s) for s in (AT if on == ENGINES[0] else AT[:1])}
    return found


def table(sort: Sort) -> None:
    """Print one modality's table."""
    of = recipe(sort.name)
    assert isinstance(of, Simulated)
    cases = [sort.draw(of, "test", number) for number in range(N)]
    print(f"\n### {sort.name}, {N} test slices of {cases[0].truth.shape}\n")
    print(
        "| method | PSNR dB | gain dB | SSIM | hot SUVmean bias % | hot max bias % | s/slice |\n"
        "|---|---|---|---|---|---|---|"
    )
    before = np.mean([score(c.measured, c)[0] for c in cases])
    rows = [(name, *_timed(method, cases)) for name, method in methods(sort, of).items()]
    peer = bm3d_tuned(sort, of, cases)
    for name, made, took in [*rows, *([peer] if peer else [])]:
        p, s = np.mean([score(m, c) for m, c in zip(made, cases, strict=True)], axis=0)
        mean, most = np.mean([_hot(m, c) for m, c in zip(made, cases, strict=True)], axis=0)
        bias = f"{100 * mean:+.1f} | {100 * most:+.1f}" if sort.name == "pet_denoise" else " | "
        print(f"| {name} | {p:.2f} | {p - before:+.2f} | {s:.3f} | {bias} | {took:.3f} |", flush=True)


def _timed(method: Method, cases: Sequence[Case]) -> tuple[list[NDArray], float]:
    """Return a method's images and its time per slice [s]."""
    method(cases[0])
    start = time.perf_counter()
    made = [method(c) for c in cases]
    return made, (time.perf_counter() - start) / len(cases)


def _hot(image: NDArray, case: Case) -> tuple[float, float]:
    """Return the relative bias of the mean where the truth is above half of its largest value, and of the largest."""
    truth = np.abs(case.truth)
    hot = truth > 0.5 * truth.max()
    return float(np.abs(image)[hot].mean() / truth[hot].mean() - 1), float(np.abs(image).max() / truth.max() - 1)


def series_table(n: int = 32) -> None:
    """Print the classical methods of series: a slice of MR at a falling brightness, fresh noise in each image."""
    of = recipe("mr_denoise")
    assert isinstance(of, Simulated)
    case = of_mr(of, "test", 0)
    rng = np.random.default_rng(1)
    # courses that differ from place to place: two tissues by brightness, one slow and one fast
    bright = np.abs(case.truth) > np.median(np.abs(case.truth)[case.inside])
    times = np.linspace(0, 2, n)[:, None, None]
    truth = (case.truth * np.where(bright, np.exp(-times / 3), np.exp(-times))).astype(np.complex64)
    noise = rng.standard_normal((2, *truth.shape)).astype(np.float32) * case.noise
    noisy = (truth + noise[0] + 1j * noise[1]).astype(np.complex64)
    print(
        f"\n### Series of {n} complex images {truth.shape[1:]}\n\n"
        "| method | PSNR dB | gain dB | s/image |\n|---|---|---|---|"
    )
    rules: dict[str, Callable[[], NDArray]] = {
        "noisy": lambda: noisy,
        "NLM 0.1": lambda: np.stack([nlm(0.1)(replace(case, measured=i)) for i in noisy]),
        "MP-PCA": lambda: low_rank(noisy[:, None], (1, 5, 5), marchenko_pastur)[:, 0],
        "NORDIC": lambda: low_rank(noisy[:, None] / case.noise, (1, 5, 5), known_noise(np.sqrt(2)))[:, 0] * case.noise,
    }
    made = estimator("mr_denoise", ENGINES[0])
    if made is not None:
        rules["network 1"] = lambda: np.stack([made.estimate(i, case.noise).data for i in noisy])
    before = 0.0
    for name, rule in rules.items():
        start = time.perf_counter()
        images = rule()
        took = (time.perf_counter() - start) / n
        figure = float(np.mean([psnr(i, t, case.inside) for i, t in zip(images, truth, strict=True)]))
        before = before or figure
        print(f"| {name} | {figure:.2f} | {figure - before:+.2f} | {took:.3f} |", flush=True)


def main() -> int:
    """Print the tables."""
    if DATA not in os.environ:
        print(f"not run: set {DATA} to the folder of the data sets")
        return 2
    for sort in SORTS:
        table(sort)
    series_table()
    return 0
