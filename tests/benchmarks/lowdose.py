"""Low-dose gadolinium: a network beside what anybody can do with the subtraction, on heads that it never saw.

Run as ``OMP_NUM_THREADS=1 ISOCENTER_DATA=... python -m tests.benchmarks lowdose``; ``ISOCENTER_CARDS`` names a folder
of cards that are not shipped. Simulated volumes of heads 15 and 16 at a tenth of the dose, their truth without noise;
and one real pair of full dose, of which the low dose is made: ``before + 0.137 (after - before)`` and noise on both.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, label, shift

from acquisition.sources.nifti import read_nifti
from models.align import gain_of
from models.engine import engine
from models.load import SHIPPED, load
from models.lowdose import unsupported_pieces
from models.pair import Pair, noise_of_pair, remaining, tissue
from models.predict import Predictor
from models.train.doses import SPEC, Slab, dose_slab
from models.train.figures import psnr, ssim
from models.train.mr_lowdose import pair_of
from models.train.simulated import DATA, source_of

F32 = NDArray[np.float32]
Bools = NDArray[np.bool_]
N, FREE, SLICES = 6, 3, 20
SNRS = (20.0, 40.0)
DOSE = 0.1
SEEN = 0.1
"""Missing enhancement that counts as enhancing, over the brightness of tissue."""
LESION_MM, BALL_MM = 5.0, 3.0
Method = Callable[[Pair], F32]
"""From a pair to the enhancement that full dose would add to the low-dose image."""


@dataclass(frozen=True, eq=False)
class Exam:
    """One volume whose truth is known, in units of its noise."""

    pair: Pair
    """What is measured."""
    full: F32
    """After the whole dose, no noise where it is simulated (z, y, x)."""
    before: F32
    """Before the agent, likewise."""
    added: F32
    """What the whole dose adds to the small one, likewise."""
    brain: Bools
    """Where the brain is."""
    enhancing: Bools
    """What enhances in it."""
    lesions: Bools
    """Enhancing lesions."""
    bright: float
    """Brightness of tissue."""
    voxel_mm: tuple[float, float, float]
    """Sides of a voxel [mm]."""


@cache
def slabs(n: int, *, lesions: float) -> tuple[Slab, ...]:
    """Return volumes of the test heads at a tenth of the dose in which something enhances."""
    heads, found, seed = source_of("test").heads, [], 0
    spec = replace(SPEC, thickness_mm=(1.5, 3.0))
    while len(found) < n:
        seed += 1
        rng = np.random.default_rng([23, int(10 * lesions), seed])
        slab = dose_slab(heads[seed % len(heads)], rng, spec, n_slices=SLICES, lesions=lesions)
        if slab.dose == DOSE and slab.brain.mean() > 0.05 and (slab.full - slab.low).max() > SEEN:
            found.append(slab)
    return tuple(found)


def simulated(slab: Slab, snr: float, seed: int) -> Exam:
    """Return a slab as it is measured at an SNR."""
    pair = pair_of(slab, snr, np.random.default_rng([29, seed]))
    brain = slab.brain > 0.5
    enhancing = brain & (slab.full - slab.low > SEEN)
    before = shift(slab.pre, (0, *slab.back), order=1, mode="nearest")
    return Exam(
        pair=pair,
        full=np.float32(snr) * slab.full,
        before=np.float32(snr) * before,
        added=np.float32(snr) * (slab.full - slab.low),
        brain=brain,
        enhancing=enhancing,
        lesions=(slab.tumour > 0.5) & enhancing,
        bright=snr,
        voxel_mm=slab.voxel_mm,
    )


def real(data: Path, snr: float) -> Exam | None:
    """Return the real pair (tests only), where it is here; what enhances is what people outlined."""
    folder = data / "images" / "brats_case"
    if not folder.exists():
        return None
    pre, full, seg = (read_nifti(folder / f"{n}.nii.gz").data for n in ("t1n", "t1c", "segmentation"))
    brain = tissue(pre)
    pre = pre * np.float32(gain_of(full, pre, brain)[0])
    bright = float(np.median(full[brain]))
    rng = np.random.default_rng(31)
    noise = bright / snr
    low = pre + np.float32(remaining(DOSE)) * (full - pre)
    part = slice(20, 140)
    both = np.stack([pre, low])[:, part]
    one, other = noise * rng.standard_normal((2, *both.shape), np.float32)
    measured = np.hypot(both + one, other).astype(np.float32)
    pair = Pair(pre=measured[0], low=measured[1], noise=noise_of_pair(*measured), dose=DOSE, field_t=3.0)
    lesions = (seg == 3)[part]
    return Exam(
        pair=pair,
        full=full[part],
        before=pre[part],
        added=(full - low)[part],
        brain=brain[part],
        enhancing=lesions,
        lesions=lesions,
        bright=bright,
        voxel_mm=(1.0, 1.0, 1.0),
    )


def predictor(name: str = "mr_lowdose", on: str = "openvino") -> Predictor | None:
    """Return the network, where there is a card."""
    for folder in (Path(os.environ.get("ISOCENTER_CARDS", SHIPPED)), SHIPPED):
        if (folder / name / "card.yaml").exists():
            loaded = load(folder / name / "card.yaml")
            return Predictor(loaded, engine(on, loaded.network, precision=loaded.card.network.precision))
    return None


def methods() -> Mapping[str, Method]:
    """Return the rows of the table."""
    found: dict[str, Method] = {
        "low dose": lambda pair: np.zeros_like(pair.low),
        "subtraction x 7.3": lambda pair: np.float32(pair.factor) * pair.difference,
        "smoothed 1 voxel, x 7.3": lambda pair: pair.trivial(),
        "the same, not below 0": lambda pair: np.maximum(pair.trivial(), 0),
    }
    network = predictor()
    if network is not None:
        found["network"] = lambda pair: network.missing(pair).data
    return found


def scores(exam: Exam, missing: F32) -> tuple[float, float, float, float]:
    """Return PSNR and SSIM in the brain, and PSNR and SSIM where it enhances; the peak is the brain's in all."""
    made = exam.pair.low + missing
    slices = [z for z in range(len(made)) if exam.brain[z].sum() > 500]
    rows = []
    for z in slices:
        here = exam.enhancing[z]
        peak = float(np.percentile(exam.full[z][exam.brain[z]], 99.9))
        error = float(np.mean((made[z] - exam.full[z])[here] ** 2)) if here.sum() > 20 else np.nan
        inside = (exam.brain[z], here)
        like = [ssim(made[z], exam.full[z], i) if i.sum() > 20 else np.nan for i in inside]
        rows.append((psnr(made[z], exam.full[z], exam.brain[z]), like[0], 10 * np.log10(peak**2 / error), like[1]))
    mean = np.nanmean(rows, axis=0)
    return float(mean[0]), float(mean[1]), float(mean[2]), float(mean[3])


def recovered(exam: Exam, missing: F32) -> list[float]:
    """Return the part of the enhancement that is shown, of each lesion as large as a ball of 5 mm."""
    pieces, n = label(exam.lesions)
    least = np.pi / 6 * LESION_MM**3 / np.prod(exam.voxel_mm)
    inside = [pieces == k for k in range(1, n + 1)]
    made = exam.pair.low + missing - exam.before
    return [float(made[i].mean() / (exam.full - exam.before)[i].mean()) for i in inside if i.sum() >= least]


def invented(exam: Exam, missing: F32) -> int:
    """Return how many pieces as large as a ball of 3 mm were filled in, a tenth of tissue more than is missing, where
    the brain does not enhance; blurred by a voxel, so that no noise counts."""
    added, true = (gaussian_filter(i, 1.0) for i in (missing, exam.added))
    false = (added - true > SEEN * exam.bright) & exam.brain & (true < 0.3 * SEEN * exam.bright)
    pieces, n = label(false)
    sizes = np.bincount(pieces.ravel(), minlength=n + 1)[1:] * np.prod(exam.voxel_mm)
    return int((sizes >= np.pi / 6 * BALL_MM**3).sum())


def exams(snr: float) -> Iterator[tuple[Exam, bool]]:
    """Yield volumes with lesions and volumes without."""
    for free, slabs_ in ((False, slabs(N, lesions=5.0)), (True, slabs(FREE, lesions=0.0))):
        for number, slab in enumerate(slabs_):
            yield simulated(slab, snr, number), free


def table(snr: float) -> None:
    """Print the rows for one SNR."""
    print(
        f"\n### SNR {snr:g}, {N} volumes with and {FREE} without lesions, heads 15 and 16\n\n"
        "| method | brain PSNR dB | SSIM | enhancing PSNR dB | SSIM | lesions >= 5 mm: recovered % (median, 5-95 %) |"
        " within 90-110 % | invented pieces >= 3 mm, lesion-free | unsupported | s/volume |\n|" + "---|" * 10
    )
    all_ = list(exams(snr))
    for name, method in methods().items():
        rows, parts, false, flagged, took = [], [], 0, 0, 0.0
        for exam, free in all_:
            start = time.perf_counter()
            missing = method(exam.pair)
            took += time.perf_counter() - start
            rows.append(scores(exam, missing))
            parts += recovered(exam, missing)
            false += invented(exam, missing) if free else 0
            flagged += len(unsupported_pieces(exam.pair, missing, exam.voxel_mm))
        values = " | ".join(f"{v:.2f}" if k % 2 == 0 else f"{v:.3f}" for k, v in enumerate(np.nanmean(rows, axis=0)))
        low, middle, high = (100 * np.percentile(parts, p) for p in (5, 50, 95))
        kept = 100 * float(np.mean([0.9 <= p <= 1.1 for p in parts]))
        told = f"{middle:.0f} ({low:.0f}-{high:.0f}) | {kept:.0f} % of {len(parts)} | {false} | {flagged}"
        print(f"| {name} | {values} | {told} | {took / len(all_):.1f} |", flush=True)


def real_table(data: Path) -> None:
    """Print the rows for the real pair."""
    print("\n### Real pair (BraTS case), low dose made of it, noise added\n")
    print("| SNR | method | brain PSNR dB | SSIM | outlined enhancing PSNR dB | SSIM | recovered % |\n|" + "---|" * 7)
    for snr in (SNRS[0], SNRS[-1]):
        exam = real(data, snr)
        if exam is None:
            print("not here")
            return
        for name, method in methods().items():
            missing = method(exam.pair)
            p, s, pe, se = scores(exam, missing)
            gained = (exam.pair.low + missing - exam.before)[exam.lesions].mean()
            part = 100 * gained / (exam.full - exam.before)[exam.lesions].mean()
            print(f"| {snr:g} | {name} | {p:.2f} | {s:.3f} | {pe:.2f} | {se:.3f} | {part:.0f} |", flush=True)


def main() -> int:
    """Print the tables."""
    if DATA not in os.environ:
        print(f"not run: set {DATA} to the folder of the data sets")
        return 2
    for snr in SNRS:
        table(snr)
    real_table(Path(os.environ[DATA]))
    return 0
