"""PET: speed of decoding, projecting and the first preview; image quality of the NEMA phantom with and without timing.

Run as ``python -m tests.benchmarks.pet [speed] [nema]``. The phantom is measured by the virtual scanner, 16 rings of
240 crystals of 8 mm, 128 mm long: small and coarse, so that all reconstructions take minutes. Every row has
the same decays, with randoms, scatter, attenuation and crystals that differ; all corrections are on.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from acquisition.geometry import Grid
from acquisition.items import Events, Image
from acquisition.scan import Scan
from acquisition.sources import open_raw
from acquisition.sources.petsird_write import write_petsird
from acquisition.sources.phantom.pet import PetSimulation
from acquisition.sources.phantom.pet_exam import PetExam, clinical, gantry
from acquisition.sources.phantom.pet_objects import cylinder, nema_body
from acquisition.stream import Chain, Step
from integration.quality_pet import VIRTUAL_BQ_PER_ML, virtual_items
from kernels.memory import keep_memory
from recon.pet.iec import RATIO, Pose, background_mm, located, upright
from recon.pet.nema import Quality, quality
from recon.pet.osem import Bsrem, Osem
from recon.pet.preview import Preview
from recon.pet.project import LineProjector
from recon.pet.psf import GaussianPsf
from recon.pet.volume import VoxelOptions, gantry_grid
from tests.acquisition.test_mmr import HEADER

SECONDS = 4.0
TIMINGS: dict[str, float | None] = {"none": None, "600 ps": 600.0, "400 ps": 400.0, "200 ps": 200.0}
_VOXELS = {"voxel_mm": 4.0, "slice_mm": 4.0, "fov_mm": 340.0}
_WIDTHS_MM = (0.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0)
METHODS: dict[str, Callable[[], Step]] = {
    "OSEM 3 x 8, 5 mm filter": lambda: Osem(n_iterations=3, n_subsets=8, filter_mm=5.0, **_VOXELS),
    "the same, PSF 5 mm": lambda: Osem(n_iterations=3, n_subsets=8, psf_mm=5.0, filter_mm=5.0, **_VOXELS),
    "BSREM 6 x 8, RDP, PSF": lambda: Bsrem(n_iterations=6, n_subsets=8, psf_mm=5.0, **_VOXELS),
}
_EVENTS = 1_000_000


def main() -> None:
    """Print the tables."""
    keep_memory()
    print(f"{os.cpu_count()} cores, torch threads {torch.get_num_threads()}, load {os.getloadavg()[0]:.1f}\n")
    asked = [name for name in ("speed", "nema") if name in sys.argv] or ["speed", "nema"]
    if "speed" in asked:
        speed()
    if "nema" in asked:
        nema()


def speed() -> None:
    """Print how fast events are decoded and projected, and when the first preview is there."""
    print("| decoded | events/s |\n|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, path in (("Siemens mMR PETLINK-32", _petlink(Path(folder))), ("PETSIRD", _petsird(Path(folder)))):
            raw = open_raw(path)
            _count(raw.items())
            seconds, n = _timed(lambda raw=raw: _count(raw.items()))  # type: ignore[misc]
            print(f"| {name} | {n / seconds / 1e6:.1f} million |")
    pet = clinical()
    grid = gantry_grid(pet, VoxelOptions(voxel_mm=4.0, slice_mm=4.0))
    pairs, tof = _random_events(pet.n_rings, pet.n_crystals, pet.n_tof)
    x, y = torch.rand(grid.shape), torch.rand(len(pairs))
    print(f"\n| {' x '.join(map(str, grid.shape))} voxels of 4 mm, list-mode | forward | back |\n|---|---|---|")
    for name, operator in (
        ("time of flight", LineProjector(pet, grid, pairs, tof)),
        ("none", LineProjector(pet, grid, pairs)),
    ):
        operator(x), operator.adjoint(y)
        forward, back = _timed(lambda op=operator: op(x))[0], _timed(lambda op=operator: op.adjoint(y))[0]  # type: ignore[misc]
        print(
            f"| event-updates/s, {name} | {_EVENTS / forward / 1e6:.1f} million | {_EVENTS / back / 1e6:.1f} million |"
        )
    first, n = _first_preview()
    print(f"\nFirst preview {first:.2f} s after its last event ({n} events).")


def nema() -> None:
    """Print contrast recovery, variability, lung residual and bias by method and timing; and what timing gains."""
    header = (
        "| time of flight | method | contrast 10, 13, 17, 22, 28, 37 mm [%] | variability [%] | lung [%] | bias [%] |"
    )
    print(f"\n{header}\n|---|---|---|---|---|---|", flush=True)
    curves: dict[str, np.ndarray] = {}
    for name, ctr_ps in TIMINGS.items():
        timed = {"n_tof": 1, "tof_bin_mm": 0.0} if ctr_ps is None else {}
        exam = PetExam(pet=gantry(ctr_ps=ctr_ps or 300.0, **timed), duration_s=SECONDS)
        simulation = PetSimulation(exam, nema_body(background_bq_per_ml=VIRTUAL_BQ_PER_ML))
        items = list(virtual_items(simulation))
        for method, make in METHODS.items():
            print(_row(name, method, _measured(_image(make(), simulation.scan, items))), flush=True)
        plain = _image(Osem(n_iterations=3, n_subsets=8, **_VOXELS), simulation.scan, items)
        curves[name] = np.array([_contrast_and_noise(plain, width) for width in _WIDTHS_MM])
    _print_gain(curves)


def _print_gain(curves: dict[str, np.ndarray]) -> None:
    """Print the variability at one contrast, that of no timing and a filter of 5 mm."""
    contrast = float(curves["none"][_WIDTHS_MM.index(5.0), 0])
    print(f"\n| time of flight | variability at {contrast:.0f} % contrast (mean of 17 to 37 mm), OSEM [%] | gain |")
    print("|---|---|---|")
    noise = {n: float(np.interp(contrast, c[::-1, 0], c[::-1, 1])) for n, c in curves.items()}
    for name, value in noise.items():
        print(f"| {name} | {value:.1f} | {noise['none'] / value:.2f} |")


def _contrast_and_noise(image: Image, width_mm: float) -> tuple[float, float]:
    blurred = GaussianPsf(image.grid, width_mm)(torch.from_numpy(image.data)).numpy()
    spheres = _measured(replace(image, data=blurred)).spheres[2:]
    return (
        float(np.mean([s.contrast_percent for s in spheres])),
        float(np.mean([s.variability_percent for s in spheres])),
    )


@cache
def _places() -> tuple[Pose, tuple[tuple[float, float], ...]]:
    """Return how the phantom lies and the background regions, the same ones for all images."""
    axes = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    grid = Grid.from_centre((0.0, 0.0, 0.0), shape=(31, 85, 85), spacing_mm=(4.0, 4.0, 4.0), directions=axes)
    truth = Image(data=nema_body().activity.render(grid, subsamples=(2, 2)), grid=grid, unit="Bq/mL")
    pose = located(truth)
    return pose, background_mm(truth, pose)


def _measured(image: Image) -> Quality:
    pose, regions = _places()
    return quality(upright(image), pose.spheres((RATIO,) * 6), background_mm=regions, lung_mm=pose.centre_mm)


def _row(name: str, method: str, found: Quality) -> str:
    contrast = ", ".join(f"{s.contrast_percent:.0f}" for s in found.spheres)
    bias = 100 * (found.background / VIRTUAL_BQ_PER_ML - 1)
    noise = ", ".join(f"{s.variability_percent:.1f}" for s in found.spheres)
    return f"| {name} | {method} | {contrast} | {noise} | {found.lung_percent:.1f} | {bias:+.1f} |"


def _image(step: Step, scan: Scan, items: list) -> Image:
    chain = Chain([step])
    chain.open(scan)
    out = [o for item in items for o in chain.feed(item)] + list(chain.close())
    (image,) = (o for o in out if isinstance(o, Image))
    return image


def _first_preview() -> tuple[float, int]:
    """Return how long the first picture takes, and of how many events it is."""
    exam = PetExam(duration_s=1.0, block_s=0.25)
    simulation = PetSimulation(exam, cylinder(bq_per_ml=5e3))
    step = Preview()
    step.open(simulation.scan)
    out: list[object] = list(step.feed(simulation.normalisation))
    blocks = list(simulation.events())
    began = time.perf_counter()
    for block in blocks:
        began = time.perf_counter()
        out = [o for o in step.feed(block) if isinstance(o, Image)]
        if out:
            break
    return time.perf_counter() - began, sum(map(len, blocks))


def _petlink(folder: Path) -> Path:
    rng = np.random.default_rng(1)
    words = rng.integers(0, 4084 * 252 * 344, 4 * _EVENTS, np.uint32) | np.where(
        rng.random(4 * _EVENTS) < 0.8, np.uint32(1 << 30), np.uint32(0)
    )
    words[::1000] = np.uint32(1 << 31) | np.arange(len(words[::1000]), dtype=np.uint32)
    words.astype("<u4").tofile(folder / "scan.l")
    path = folder / "scan.l.hdr"
    path.write_text(HEADER.format(data="scan.l", words=len(words)))
    return path


def _petsird(folder: Path) -> Path:
    pet = clinical()
    pairs, tof = _random_events(pet.n_rings, pet.n_crystals, pet.n_tof)
    scan, size = Scan(uid="speed", modality="PT", pet=pet), _EVENTS // 10
    empty = np.zeros((0, 2), np.int32)

    def blocks() -> Iterator[Events]:
        for k in range(10):
            at = slice(k * size, (k + 1) * size)
            yield Events(start_s=k / 10, stop_s=(k + 1) / 10, prompts=pairs[at], delayeds=empty, tof=tof[at])

    path = folder / "speed.petsird"
    write_petsird(path, scan, items=blocks())
    return path


def _random_events(n_rings: int, n_crystals: int, n_tof: int) -> tuple[np.ndarray, np.ndarray]:
    """Return lines that pass the axis within about half of the radius, and time-of-flight bins in their middle."""
    rng, half = np.random.default_rng(0), n_crystals // 2
    first = rng.integers(0, n_crystals, _EVENTS)
    second = (first + half + rng.integers(-n_crystals // 5, n_crystals // 5 + 1, _EVENTS)) % n_crystals
    crystals = np.sort(np.stack([first, second], axis=1), axis=1)
    pairs = rng.integers(0, n_rings, (_EVENTS, 2)) * n_crystals + crystals
    tof = rng.integers(n_tof // 2 - 6, n_tof // 2 + 7, _EVENTS)
    return pairs.astype(np.int32), tof.astype(np.int16)


def _count(items: Iterator[object]) -> int:
    return sum(len(item.prompts) + len(item.delayeds) for item in items if isinstance(item, Events))


def _timed(action: Callable[[], object]) -> tuple[float, int]:
    """Return the best time of three runs [s], and what the last one gave."""
    times, out = [], None
    for _ in range(3):
        began = time.perf_counter()
        out = action()
        times.append(time.perf_counter() - began)
    return min(times), out if isinstance(out, int) else 0


if __name__ == "__main__":
    main()
