"""What a prediction from a low dose may not do: work on a pair that is none, lose or invent a lesion.

Run as ``OMP_NUM_THREADS=1 ISOCENTER_DATA=... python -m tests.benchmarks lowdose_safety``; ``ISOCENTER_CARDS`` names a
folder of cards that are not shipped. Volumes of the test heads as in ``lowdose``; both images are registered as in the
service, after the head was moved by some millimetres and degrees.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from acquisition.geometry import Grid
from acquisition.items import Image
from models import refuse, report
from models.align import Limits, paired, refused
from models.noise import level
from models.pair import remaining
from models.predict import Predictor
from models.train.doses import SPEC, Slab, dose_slab
from models.train.mr_lowdose import pair_of
from models.train.simulated import DATA, source_of
from recon.rigid import Rigid
from tests.benchmarks.lowdose import DOSE, SLICES, predictor, slabs

N = 6
LESIONS_MM, BRIGHT = (3.0, 5.0, 8.0), (0.3, 0.6)


def image(data: NDArray, voxel_mm: tuple[float, float, float]) -> Image:
    """Return a volume."""
    n_z, n_y, n_x = data.shape
    grid = Grid(
        shape=(n_z, n_y, n_x),
        spacing_mm=voxel_mm,
        origin_mm=(-n_x / 2 * voxel_mm[2], -n_y / 2 * voxel_mm[1], -n_z / 2 * voxel_mm[0]),
        x_dir=(1.0, 0.0, 0.0),
        y_dir=(0.0, 1.0, 0.0),
        z_dir=(0.0, 0.0, 1.0),
        thickness_mm=voxel_mm[0],
    )
    return Image(data=np.ascontiguousarray(data, np.float32), grid=grid)


def moved(volume: Image, turn_deg: NDArray, shift_mm: NDArray) -> Image:
    """Return a volume after the head moved."""
    turn = Rotation.from_rotvec(np.deg2rad(turn_deg)).as_matrix()
    centre = np.asarray(volume.grid.centre_mm)
    motion = Rigid(turn, centre + shift_mm - turn @ centre)
    return replace(volume, data=motion.moved(volume.data, volume.grid))


def planted(slab: Slab, other: Slab, seed: int) -> Iterator[tuple[str, Image, Image]]:
    """Yield what is planted, the image after and the image before."""
    rng, snr = np.random.default_rng([37, seed]), (20.0, 40.0)[seed % 2]
    here, there = (replace(s, back=(0.0, 0.0)) for s in (slab, other))
    pre, low = here.noisy(snr, rng, name="pre"), here.noisy(snr, rng)
    full = here.noisy(snr, rng, name="full")
    before, after = image(pre, slab.voxel_mm), image(low, slab.voxel_mm)
    yield "clean, still", after, before
    yield "clean, moved", after, moved(before, rng.normal(0, 1.5, 3), rng.normal(0, 1.5, 3))
    yield "order exchanged", before, after
    yield "no agent given", image(here.noisy(snr, rng, name="pre"), slab.voxel_mm), before
    yield "full dose given", image(full, slab.voxel_mm), before
    yield "three times the dose", image(low + 0.25 * (full - low), slab.voxel_mm), before
    yield "another head", after, image(there.noisy(snr, rng, name="pre"), slab.voxel_mm)
    yield "moved far", after, moved(before, np.array([0, 0, 25.0]), np.array([10.0, 25.0, 8.0]))
    half = (pre + moved(before, np.array([0, 0, 2.0]), np.array([2.5, 1.5, 0.0])).data) / 2
    yield "moved while it was measured", after, image(half, slab.voxel_mm)
    for name in ("t2_tse", "flair"):
        spec = replace(SPEC, thickness_mm=(2.0, 2.0))
        drawn = dose_slab(source_of("test").heads[seed % 2], rng, spec, n_slices=SLICES, earlier=name)
        drawn = replace(drawn, back=(0.0, 0.0))
        first, then = drawn.noisy(snr, rng, name="pre"), drawn.noisy(snr, rng)
        yield f"before by {name}", image(then, drawn.voxel_mm), image(first, drawn.voxel_mm)
    yield "before inverted", after, image(np.maximum(np.percentile(pre, 99.9) - pre, 0), slab.voxel_mm)


def outcome(after: Image, before: Image, network: Predictor | None) -> str:
    """Return why a pair is refused, or an empty text."""
    pair, fit = paired(after, before, dose=DOSE, field_t=3.0, where="benchmark")
    found = refused(fit, Limits())
    if found is None and network is not None:
        low = replace(after, unit=network.card.input.units[0])
        found = refuse.by_image(network.card, low, level(pair.noise), network.statistics)
        if found is None:
            misfit = pair.residual(network.missing(pair).data)
            found = report.too_much(misfit, network.card.consistency)
    return found.cause if found else ""


def failures_table(network: Predictor | None) -> None:
    """Print how often each planted failure is refused, and clean pairs."""
    volumes = slabs(N + 1, lesions=5.0)
    seen: dict[str, list[str]] = {}
    for number in range(N):
        for name, after, before in planted(volumes[number], volumes[number + 1], number):
            seen.setdefault(name, []).append(outcome(after, before, network))
    print(f"\n### Planted failures, {N} volumes each\n\n| planted | refused | why |\n|---|---|---|")
    for name, causes in seen.items():
        why = ", ".join(f"{c} {n}" for c, n in Counter(filter(None, causes)).items())
        print(f"| {name} | {sum(map(bool, causes))} of {len(causes)} | {why} |", flush=True)


def inserted_table(network: Predictor) -> None:
    """Print what part of the missing enhancement of an inserted ball is filled in, and the change elsewhere."""
    print("\n### Inserted lesions, the rest of the head the same\n")
    print("| diameter mm | full enhancement / tissue | SNR | kept %, median (5-95 %) | elsewhere, sd of noise |")
    print("|" + "---|" * 5)
    for snr in (20.0, 40.0):
        for size in LESIONS_MM:
            for bright in BRIGHT:
                rows = [inserted(s, network, size, bright=bright, snr=snr) for s in slabs(N, lesions=5.0)[:4]]
                kept, away = np.transpose(rows)
                low, middle, high = (100 * np.percentile(kept, p) for p in (5, 50, 95))
                told = f"{middle:.0f} ({low:.0f}-{high:.0f}) | {np.max(away):.2f}"
                print(f"| {size:g} | {bright:g} | {snr:g} | {told} |", flush=True)


def inserted(slab: Slab, network: Predictor, size_mm: float, *, bright: float, snr: float) -> tuple[float, float]:
    """Return the part of a ball's enhancement that is shown after full dose was predicted, and the change elsewhere."""
    rng = np.random.default_rng([41, int(size_mm), int(10 * bright)])
    part = slice(SLICES // 2 - 4, SLICES // 2 + 5)
    cut = replace(slab, **{n: getattr(slab, n)[part] for n in ("pre", "low", "full", "tumour", "brain")})
    calm = (cut.brain[4] > 0.99) & (cut.full[4] - cut.low[4] < 0.02)
    at = np.argwhere(calm)[int(rng.integers(calm.sum()))]
    places = np.indices(cut.low.shape, np.float32) - np.reshape((4, *at), (3, 1, 1, 1))
    radius = np.sqrt(((places * np.reshape(cut.voxel_mm, (3, 1, 1, 1))) ** 2).sum(axis=0))
    ball = (bright / (1 + np.exp((radius - size_mm / 2) / 0.4))).astype(np.float32)
    plus = replace(cut, low=cut.low + np.float32(remaining(cut.dose)) * ball, full=cut.full + ball)
    made = []
    for state in (cut, plus):
        pair = pair_of(state, snr, np.random.default_rng(3))
        made.append(pair.low + network.missing(pair).data)
    change = (made[1] - made[0]) / snr
    core = ball > 0.5 * bright
    far = radius > size_mm / 2 + 12
    noise = float(np.median(slab.sigma)) / snr
    return float(change[core].mean() / ball[core].mean()), float(np.std(change[far])) / noise


def main() -> int:
    """Print the tables."""
    if DATA not in os.environ:
        print(f"not run: set {DATA} to the folder of the data sets")
        return 2
    network = predictor()
    failures_table(network)
    if network is not None:
        inserted_table(network)
    return 0
