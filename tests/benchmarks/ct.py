"""CT on the processor: FDK and fan-beam FBP against RTK and ASTRA, helical slices per second and latency.

Run as ``CT_PEERS=/path/to/python OMP_NUM_THREADS=2 python -m tests.benchmarks.ct``, where that Python has itk-rtk and
astra-toolbox; without it the tables have our columns alone. All get the same projections; times are from line
integrals in memory to the image in memory, filter included. On the processor ASTRA filters parallel views only: it gets
half a turn of those, which spares it the sorting.
"""

from __future__ import annotations

import os
import resource
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from acquisition.items import Projections
from acquisition.scan import CtHeader
from acquisition.sources.phantom.ct import CtExam, CtSimulation, gantry
from acquisition.sources.phantom.ct_objects import built, chest
from acquisition.sources.phantom.objects import Phantom
from kernels.memory import keep_memory
from recon.ct.cone import Cone
from recon.ct.fbp import Axial, Helical
from tests.benchmarks._timing import median_s

ROUNDS = 5
_MU = 0.0192
_RTK = """
import sys, time, statistics, numpy as np, itk
from itk import RTK as rtk
folder, n, size, pitch_r, pitch_c, far, detector, threads = sys.argv[1], *map(float, sys.argv[2:])
itk.MultiThreaderBase.SetGlobalMaximumNumberOfThreads(int(threads))
itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(int(threads))
lines, angles = np.load(folder + "/lines.npy"), np.load(folder + "/angles.npy")
geometry = rtk.ThreeDCircularProjectionGeometry.New()
for a in angles:
    geometry.AddProjection(far, detector, float(np.rad2deg(a)), 0, 0)
image = itk.image_from_array(lines)
image.SetSpacing([pitch_c, pitch_r, 1])
image.SetOrigin([-(lines.shape[2] - 1) / 2 * pitch_c, -(lines.shape[1] - 1) / 2 * pitch_r, 0])
nz = int(n) if lines.shape[1] > 3 else 1
times = []
for _ in range(2):
    volume = rtk.ConstantImageSource[itk.Image[itk.F, 3]].New()
    volume.SetSize([int(n), nz, int(n)])
    volume.SetSpacing([size / n] * 3)
    volume.SetOrigin([-(n - 1) / 2 * size / n, -(nz - 1) / 2 * size / n, -(n - 1) / 2 * size / n])
    volume.Update()
    start = time.perf_counter()
    fdk = rtk.FDKConeBeamReconstructionFilter[itk.Image[itk.F, 3]].New()
    fdk.SetInput(0, volume.GetOutput())
    fdk.SetInput(1, image)
    fdk.SetGeometry(geometry)
    fdk.GetRampFilter().SetTruncationCorrection(0.0)
    fdk.Update()
    times.append(time.perf_counter() - start)
np.save(folder + "/out.npy", itk.array_from_image(fdk.GetOutput()))
print(statistics.median(times))
"""
_ASTRA = """
import sys, time, statistics, numpy as np, astra
folder, n, size, pitch_r, pitch_c, far, detector, threads = sys.argv[1], *map(float, sys.argv[2:])
lines, angles = np.load(folder + "/lines.npy")[:, 0], np.load(folder + "/angles.npy")
scale = n / size
rays = astra.create_proj_geom("parallel", pitch_c * scale, lines.shape[1], angles)
grid = astra.create_vol_geom(int(n), int(n))
projector = astra.create_projector("linear", rays, grid)
times = []
for _ in range(3):
    sinogram, volume = astra.data2d.create("-sino", rays, lines), astra.data2d.create("-vol", grid)
    config = astra.astra_dict("FBP")
    config |= {"ProjectorId": projector, "ProjectionDataId": sinogram, "ReconstructionDataId": volume}
    config["option"] = {"FilterType": "Ram-Lak"}
    start = time.perf_counter()
    algorithm = astra.algorithm.create(config)
    astra.algorithm.run(algorithm)
    times.append(time.perf_counter() - start)
    made = astra.data2d.get(volume) * scale
np.save(folder + "/out.npy", made)
print(statistics.median(times))
"""


def main() -> None:
    """Print the tables."""
    keep_memory()
    print(f"{os.cpu_count()} cores, torch threads {torch.get_num_threads()}, medians of {ROUNDS}\n")
    print("| flat detector, full turn | ours [s] | RTK | ASTRA | best peer / ours | errors [HU]: ours, RTK, ASTRA |")
    print("|---|---|---|---|---|---|")
    print(circle("FDK 256^3, 360 views of 256 x 256", n=256, n_rows=256, views=360))
    print(circle("fan FBP 512^2, 720 views of 736", n=512, n_rows=1, views=720))
    print(
        "\n| helix, 64 x 736, 1152 views per turn, 512 x 512, 0.6 mm | slices/s | last view to last slice [s] | ring |"
    )
    print("|---|---|---|---|")
    for pitch in (0.6, 1.0):
        print(helix(pitch))
    print(f"\npeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB, the simulation included")


def cone_object() -> Phantom:
    """Return a ball of water with three balls in it, within the cone."""
    return built(
        {
            "water": (None, 0, (0, 0, 0), (90, 80, 70)),
            "bone": ("water", 400, (40, 10, 10), (12, 12, 12)),
            "fat": ("water", -100, (-30, 30, -15), (15, 15, 15)),
            "cyst": ("water", 60, (-10, -35, 5), (9, 9, 9)),
        }
    )


def circle(name: str, *, n: int, n_rows: int, views: int) -> str:
    """Measure one case of a full turn around a flat detector."""
    far, detector, size, width = 600.0, 1100.0, 220.0, (256 if n_rows > 1 else 736)
    pitch = 1.35 * size * detector / far / width
    ct = gantry(
        mode="axial",
        detector="flat",
        n_rows=n_rows,
        n_channels=width,
        pitch_mm=(pitch, pitch),
        centre=((n_rows - 1) / 2, (width - 1) / 2),
        source_isocentre_mm=far,
        source_detector_mm=detector,
        views_per_rotation=views,
        mu_water_per_mm=_MU,
    )
    simulation = CtSimulation(CtExam(ct=ct, turns=1.0), cone_object())
    lines, head = simulation.lines(), simulation.head
    spacing = size / n
    step: Cone | Axial = (
        Cone(kernel="ramp", matrix=n, fov_mm=size, thickness_mm=spacing, increment_mm=spacing)
        if n_rows > 1
        else Axial(kernel="ramp", matrix=n, fov_mm=size)
    )
    made: list[NDArray] = []

    def ours() -> None:
        made.clear()
        step.open(simulation.scan)
        for item in [*step.feed(Projections(head=head, data=lines, domain="lines")), *step.close()]:
            made.append(item.data[0])  # type: ignore[attr-defined]

    seconds = median_s(ours, rounds=ROUNDS)
    errors = [middle_error(np.stack(made), simulation, size)]
    found: list[float | None] = []
    for script in (_RTK, _ASTRA) if n_rows == 1 else (_RTK,):
        numbers = (n, size, pitch, pitch, far, detector)
        if script is _RTK:
            peer = asked(script, lines[:views], head["angle_rad"][:views], numbers)
        else:
            peer = asked(script, *parallel(ct, views // 2, numbers), (*numbers[:2], 1.0, 1.35 * size / width, far, far))
        found.append(None if peer is None else peer[0])
        if peer is not None:
            errors.append(middle_error(upright(peer[1]), simulation, size))
    found += [None] * (2 - len(found))
    times = [f"{s:.2f}" if s is not None else "" for s in found]
    known = [s for s in found if s is not None]
    ratio = f"{min(known) / seconds:.1f}" if known else ""
    note = f" ({len(made)} slices)" if n_rows > 1 else ""
    return f"| {name}{note} | {seconds:.2f} | {' | '.join(times)} | {ratio} | {', '.join(f'{e:.1f}' for e in errors)} |"


def parallel(ct: CtHeader, views: int, numbers: tuple[float, ...]) -> tuple[NDArray, NDArray]:
    """Return parallel views of half a turn, which is what ASTRA filters on the processor, and their angles."""
    far = 1e6
    changes = {"source_isocentre_mm": far, "source_detector_mm": far + 1, "views_per_rotation": 2 * views}
    simulation = CtSimulation(
        CtExam(ct=replace(ct, pitch_mm=(1.0, 1.35 * numbers[1] / ct.n_channels), **changes), turns=0.5), cone_object()
    )
    return simulation.lines(), simulation.head["angle_rad"]


def upright(mu: NDArray) -> NDArray:
    """Return a peer's image (z, y, x) in HU, turned until it lies as ours does."""
    volume = mu[None] if mu.ndim == 2 else mu.transpose(1, 2, 0)
    return 1000 * (volume / _MU - 1)


def middle_error(volume: NDArray, simulation: CtSimulation, size: float) -> float:
    """Return the root mean square error in flat parts of the middle slice [HU], the best of eight orientations."""
    image, n = volume[len(volume) // 2], volume.shape[-1]
    at = ((np.arange(n) + 0.5) / n - 0.5) * size
    points = np.stack([*np.meshgrid(at, at, indexing="ij")[::-1], np.zeros((n, n))], -1)
    truth = 1000 * (simulation.phantom.signal(points) - 1)
    calm = np.ones_like(truth, bool)
    for shift in (-6, -3, 3, 6):
        for axis in (0, 1):
            calm &= np.roll(truth, shift, axis) == truth
    calm &= truth > -900
    ways = [np.rot90(w, k) for w in (image, image.T) for k in range(4)]
    return float(min(np.sqrt(np.square((w - truth)[calm]).mean()) for w in ways))


def asked(script: str, lines: NDArray, angles: NDArray, numbers: tuple[float, ...]) -> tuple[float, NDArray] | None:
    """Return the peer's seconds and image; None where it is not installed."""
    python = os.environ.get("CT_PEERS")
    if not python:
        return None
    with tempfile.TemporaryDirectory() as folder:
        rows = np.repeat(lines, 3, axis=1) if lines.shape[1] == 1 and script is _RTK else lines
        np.save(Path(folder) / "lines.npy", rows)
        np.save(Path(folder) / "angles.npy", angles)
        command = [python, "-c", script, folder, *map(str, numbers), str(torch.get_num_threads())]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return float(done.stdout.split()[-1]), np.load(Path(folder) / "out.npy")


def helix(pitch: float) -> str:
    """Measure a helical chest, fed as fast as it is taken."""
    ct = gantry(n_rows=64, n_channels=736, pitch_mm=(1.0947, 1.2858), centre=(31.5, 366.25), views_per_rotation=1152)
    feed = 38.4 * pitch
    simulation = CtSimulation(CtExam(ct=ct, turns=3.0, feed_mm=feed, start_z_mm=-1.5 * feed), chest())
    lines, step = simulation.lines(), Helical(matrix=512, fov_mm=360, thickness_mm=0.6)
    best = 0.0
    for _ in range(2):
        step.open(simulation.scan)
        start, n = time.perf_counter(), 0
        for k in range(0, len(lines), 32):
            block = Projections(head=simulation.head[k : k + 32], data=lines[k : k + 32], domain="lines")
            n += len(list(step.feed(block)))
        ring = step._views.ring.nbytes if step._views else 0
        last = time.perf_counter()
        n += len(list(step.close()))
        end = time.perf_counter()
        best = max(best, n / (end - start))
    return f"| pitch {pitch}, {n} slices | {best:.1f} | {end - last:.2f} | {ring / 1e9:.2f} GB |"


if __name__ == "__main__":
    main()
