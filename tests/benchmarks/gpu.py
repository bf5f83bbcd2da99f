"""On a GPU: CT's CUDA kernels against numba, voxel updates per second, MRI's operations on both devices.

Run as ``python -m tests.benchmarks.gpu [--small]`` where torch and CuPy see a GPU; without one it says so and exits 2.
An update is one voxel in one view (GUPS: 10^9 of them per second), for projections as for backprojections. Speeds are
of arrays on the GPU, after one call to warm up; the rows from lines to images include all transfers.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from acquisition.geometry import Grid
from acquisition.sources.phantom.ct import CtExam, CtSimulation, gantry
from kernels import registry
from kernels.ct_tile import BLOCK
from recon.ct.backend import backend
from recon.ct.project import ConeProjector
from tests.benchmarks.ct import circle
from tests.kernels.test_ct_cuda import SETTINGS, Setting

ROUNDS = 5
TARGET_GUPS = 350
_AXES = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
_FAR, _REACH, _FIELD = 600.0, 1100.0, 220.0


@dataclass(frozen=True)
class Size:
    """How much is computed."""

    n: int
    """Voxels and detector elements along each side."""
    views: int
    """Views of a full turn."""


def main() -> int:
    """Print the tables; return 2 where there is no GPU."""
    if missing := what_is_missing():
        print(f"no GPU benchmark: {missing}")
        return 2
    small = "--small" in sys.argv
    parity, speed = (Size(48, 30), Size(128, 90)) if small else (Size(128, 90), Size(512, 720))
    with on("cuda"):
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, medians of {ROUNDS}\n")
    for table in (parity_table(parity), speed_table(speed), step_table(small), mri_table(64 if small else 320)):
        for line in table:
            print(line, flush=True)
        print()
    return 0


def what_is_missing() -> str:
    """Return what keeps us from running, nothing if all is there."""
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed (pip install 'isocenter[gpu]')"
    return ""


@contextmanager
def on(name: str) -> Iterator[None]:
    """Compute on a device."""
    before = os.environ.get(registry.ENVIRONMENT)
    try:
        os.environ[registry.ENVIRONMENT] = name
        registry.device.cache_clear()
        registry.kernel.cache_clear()
        yield
    finally:
        os.environ.pop(registry.ENVIRONMENT)
        if before is not None:
            os.environ[registry.ENVIRONMENT] = before
        registry.device.cache_clear()
        registry.kernel.cache_clear()


def exam(size: Size, detector: str) -> CtExam:
    """Return a full turn around voxels that fill the cone."""
    pitch = 1.35 * _FIELD * _REACH / _FAR / size.n
    ct = gantry(
        mode="axial",
        detector=detector,
        n_rows=size.n,
        n_channels=size.n,
        pitch_mm=(pitch, pitch),
        centre=((size.n - 1) / 2, (size.n - 1) / 2),
        source_isocentre_mm=_FAR,
        source_detector_mm=_REACH,
        views_per_rotation=size.views,
    )
    return CtExam(ct=ct, turns=1.0)


def projector(size: Size, detector: str) -> ConeProjector:
    """Return the forward model on the current device."""
    spacing = _FIELD / size.n
    grid = Grid.from_centre((0, 0, 0), shape=(size.n,) * 3, spacing_mm=(spacing,) * 3, directions=_AXES)
    given = exam(size, detector)
    return ConeProjector(given.ct, CtSimulation(given).head, grid)


def backprojection(size: Size, detector: str) -> Callable[[Tensor], Tensor]:
    """Return the cone-beam backprojection of filtered views on the current device."""
    ct, at = exam(size, detector).ct, ((np.arange(size.n) + 0.5) / size.n - 0.5) * _FIELD
    curved = float(detector == "cylindrical")
    numbers = (_FAR, _REACH, ct.centre[1], ct.centre[0], ct.pitch_mm[1], ct.pitch_mm[0], curved)
    angles, way = np.arange(size.views) * 2 * np.pi / size.views, backend().cone()
    return lambda views: way(views, angles, numbers, (at, at, at))


def filtered(size: Size, device: str) -> Tensor:
    """Return smooth views, padded as the kernels expect."""
    made = torch.zeros((size.views, size.n, size.n + BLOCK), device=device)
    line = torch.linspace(0, 9, size.n, device=device)
    made[..., : size.n] = torch.cos(line)[:, None] * torch.sin(2 * line)[None, :] + 1
    return made


def parity_table(size: Size) -> Iterator[str]:
    """Yield how far CUDA is from numba."""
    yield f"| {size.n}^3, {size.views} views of {size.n}^2: largest difference / largest value | flat | cylindrical |"
    yield "|---|---|---|"
    rng = torch.Generator().manual_seed(0)
    volume = torch.rand((size.n,) * 3, generator=rng)
    lines = torch.rand((size.views, size.n, size.n), generator=rng)
    ways: dict[str, Callable[[str], Tensor]] = {
        "projection": lambda detector: projector(size, detector)(volume),
        "its transpose": lambda detector: projector(size, detector).adjoint(lines),
        "cone backprojection (numba: rows by steps of depth)": lambda detector: backprojection(size, detector)(
            filtered(size, "cpu")
        ),
    }
    for name, way in ways.items():
        found = []
        for detector in ("flat", "cylindrical"):
            made = []
            for device in ("cuda", "cpu"):
                with on(device):
                    made.append(way(detector))
            found.append(f"{apart(*made):.1e}")
        yield f"| {name} | {' | '.join(found)} |"
    with on("cuda"):
        found = []
        for detector in ("flat", "cylindrical"):
            a = projector(size, detector)
            forward, back = a(volume).double(), a.adjoint(lines).double()
            mismatch = (forward * lines).sum() / (back * volume).sum() - 1
            found.append(f"{abs(float(mismatch)):.1e}")
    yield f"| <A x, y> / <x, A^T y> - 1 | {' | '.join(found)} |"
    with on("cuda"):
        found = [f"{against_definition(SETTINGS[name]):.1e}" for name in ("flat", "cylinder")]
    yield f"| cone backprojection of noise, against its definition in double precision | {' | '.join(found)} |"


def against_definition(setting: Setting) -> float:
    """Return how far a small backprojection is from what it is defined to be."""
    views = setting.views(rough=True)
    made = backend().cone()(views, setting.angles, setting.detector, setting.axes)
    return apart(made.double(), torch.from_numpy(setting.exact(views)))


def speed_table(size: Size) -> Iterator[str]:
    """Yield speeds on the GPU."""
    yield (
        f"| {size.n}^3, {size.views} views of {size.n}^2 | detector | seconds | GUPS | of {TARGET_GUPS} GUPS "
        "| peak memory |"
    )
    yield "|---|---|---|---|---|---|"
    updates = size.n**3 * size.views
    with on("cuda"):
        device = registry.device().type
        for detector in ("flat", "cylindrical"):
            a = projector(size, detector)
            jobs: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
                "FDK backprojection": (backprojection(size, detector), filtered(size, device)),
                "projection": (a, torch.rand(a.domain, device=device)),
                "its transpose": (a.adjoint, torch.rand(a.range, device=device)),
            }
            for name in list(jobs):
                way, given = jobs.pop(name)
                seconds, peak = timed(way, given)
                rate = updates / seconds / 1e9
                part = f"{rate / TARGET_GUPS:.2f}"
                yield f"| {name} | {detector} | {seconds:.3f} | {rate:.0f} | {part} | {peak:.2f} GB |"


def step_table(small: bool) -> Iterator[str]:
    """Yield what the Step `ct.fdk` takes on each device, from lines in memory to HU in memory."""
    n, views = (64, 60) if small else (256, 360)
    yield "| device | ct.fdk | ours [s] | RTK | ASTRA | best peer / ours | errors [HU]: ours, RTK |"
    yield "|---|---|---|---|---|---|---|"
    for device in ("cpu", "cuda"):
        with on(device):
            yield f"| {device} {circle(f'FDK {n}^3, {views} views of {n} x 256', n=n, n_rows=n, views=views)}"


def mri_table(n: int) -> Iterator[str]:
    """Yield times of MRI's operations on both devices, and how far they are apart."""
    yield f"| MRI, 16 coils, {n} x {n} | cpu [ms] | cuda [ms] | cpu / cuda | largest difference / largest value |"
    yield "|---|---|---|---|---|"
    for name, (op, arguments, options) in mri_cases(n).items():
        times, results = [], []
        for device in ("cpu", "cuda"):
            with on(device):
                here = registry.device()
                given = [a.to(here) if isinstance(a, Tensor) else a for a in arguments]
                way = registry.kernel(op)
                results.append(first_of(way(*given, **options)).cpu())
                times.append(1e3 * timed(lambda x, w=way, g=given, o=options: w(x, *g[1:], **o), given[0])[0])
        yield f"| {name} | {times[0]:.2f} | {times[1]:.3f} | {times[0] / times[1]:.1f} | {apart(*results[::-1]):.1e} |"


def mri_cases(n: int) -> dict[str, tuple[str, tuple, dict]]:
    """Return for every operation of the registry what it is called with."""
    rng = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.complex64, generator=rng)

    images, n_coils = normal(16, 1, n, n), 16
    kernel = {"kernel": (4, 5), "regularisation": 1e-2}
    cases = {
        "centred_fft": ((images, (2, 3)), {}),
        "centred_ifft": ((images, (2, 3)), {}),
        "resize": ((images, 2 * n, 3), {}),
        "whiten": ((normal(n_coils, n_coils), normal(n, n_coils, 2 * n)), {}),
        "grappa_calibrate": ((normal(n_coils, 1, 24, n), 2), kernel),
        "grappa_hybrid": ((normal(4, 5, n_coils, 1, n_coils), n), {}),
        "grappa_apply": ((normal(n, n // 2, n_coils), normal(n, 4 * n_coils, n_coils)), {}),
        "walsh": ((images[..., ::2, ::2].contiguous(), (1, 5, 5)), {}),
        "upsample": ((images, (1, 2 * n, 2 * n)), {}),
        "unit_norm": ((images,), {}),
        "coil_combine": ((images, normal(16, 1, n, n)), {}),
        "rss": ((images,), {}),
    }
    return {name: (name, *cases[name]) for name in registry.OPS}


def first_of(result: Tensor | tuple) -> Tensor:
    """Return an operation's array."""
    return result[0] if isinstance(result, tuple) else result


def apart(made: Tensor, expected: Tensor) -> float:
    """Return the largest difference over the largest value."""
    return float((made.cpu() - expected.cpu()).abs().max() / expected.abs().max())


def timed(way: Callable[[Tensor], object], given: Tensor) -> tuple[float, float]:
    """Return the median time [s] and the peak of the GPU's memory that torch has given out [GB]."""
    there = given.is_cuda
    wait = torch.cuda.synchronize if there else (lambda: None)
    if there:
        torch.cuda.reset_peak_memory_stats()
    way(given)
    wait()
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        way(given)
        wait()
        times.append(time.perf_counter() - start)
    return statistics.median(times), torch.cuda.max_memory_allocated() / 1e9 if there else 0.0


if __name__ == "__main__":
    sys.exit(main())
