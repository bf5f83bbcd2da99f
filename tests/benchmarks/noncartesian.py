"""Radial: 400 spokes x 512 x 8 coils against BART and SigPy on the same data in the same run; real-time pictures.

Run as ``python -m tests.benchmarks.noncartesian``.
"""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from acquisition.items import Image
from acquisition.sources.phantom.exam import MriExam
from acquisition.sources.phantom.noncartesian import NonCartesianExam, NonCartesianSimulation
from acquisition.sources.phantom.trajectories import radial
from kernels.memory import keep_memory
from recon.mri.noncartesian import maps_of
from recon.mri.radial_stream import RadialStream
from recon.mri.trajectory import density
from recon.nufft import Nufft, Toeplitz
from recon.solve import cg
from tests.benchmarks.iterative import bart, error, median_ms, read_cfl, write_cfl

N, SPOKES, SAMPLES, COILS, ITERATIONS = 256, 400, 512, 8, 10


def main() -> None:
    """Print the tables."""
    warnings.simplefilter("ignore")
    keep_memory()
    print(f"{os.cpu_count()} cores, torch threads {torch.get_num_threads()}\n")
    transforms_and_sense()
    realtime()


def transforms_and_sense() -> None:
    """Forward, adjoint, CG-SENSE."""
    import sigpy as sp
    import sigpy.mri as mr

    base = MriExam(matrix=(1, N, N), n_coils=COILS, snr=60.0)
    subject = NonCartesianSimulation(NonCartesianExam(base=base, traj=radial(SPOKES, SAMPLES)))
    blocks = list(subject.readouts())
    truth = subject.truth()
    traj = subject.exam.traj * N
    points = traj.reshape(-1, 2)
    samples = torch.from_numpy(
        np.ascontiguousarray(np.concatenate([b.data for b in blocks]).transpose(1, 0, 2))
    ).flatten(1)
    transform = Nufft(points, (N, N), n_coils=COILS)
    weights = torch.from_numpy(density(traj, (N, N)).ravel())
    images = transform.adjoint(samples * weights)
    maps = maps_of(images, 0.8)
    conjugate = maps.conj().resolve_conj()
    coil_images = maps * images[:1]

    def ours() -> torch.Tensor:
        rhs = (conjugate * transform.adjoint(samples * weights)).sum(0)
        gram = Toeplitz(points, weights, shape=(N, N)).sense(maps)
        return cg(gram, rhs, n_iterations=ITERATIONS, damping=0.001 * float(weights.sum()) / N**2).x

    coordinates = points[:, ::-1].astype(np.float64)
    theirs_coils, theirs_samples = coil_images.numpy(), samples.numpy()
    sense = lambda: mr.app.SenseRecon(  # noqa: E731
        theirs_samples, maps.numpy(), coord=coordinates, lamda=0.001, max_iter=ITERATIONS, show_pbar=False
    ).run()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_cfl(folder / "t", np.concatenate([traj, np.zeros_like(traj[..., :1])], 2).transpose(2, 1, 0))
        write_cfl(folder / "y", samples.numpy().reshape(COILS, SPOKES, SAMPLES).transpose(2, 1, 0)[None])
        write_cfl(folder / "i", theirs_coils.transpose(2, 1, 0)[:, :, None])
        write_cfl(folder / "s", maps.numpy().transpose(2, 1, 0)[:, :, None])
        rows = {
            "forward": (
                lambda: transform(coil_images),
                lambda: bart("nufft", "t", "i", "o", folder=folder),
                lambda: sp.nufft(theirs_coils, coordinates),
            ),
            "adjoint": (
                lambda: transform.adjoint(samples),
                lambda: bart("nufft", "-a", f"-d{N}:{N}:1", "t", "y", "o", folder=folder),
                lambda: sp.nufft_adjoint(theirs_samples, coordinates, (COILS, N, N)),
            ),
            f"CG-SENSE, {ITERATIONS} iterations": (
                ours,
                lambda: bart(
                    "pics", "-S", "-l2", "-r0.001", f"-i{ITERATIONS}", "-t", "t", "y", "s", "x", folder=folder
                ),
                sense,
            ),
        }
        print(
            f"| {SPOKES} x {SAMPLES} x {COILS} | ours [ms] | BART | SigPy | best peer / ours |\n|---|---|---|---|---|"
        )
        for what, (mine, barts, sigpys) in rows.items():
            times = median_ms(mine), median_ms(barts, 2), median_ms(sigpys, 2)
            print(f"| {what} | {times[0]:.0f} | {times[1]:.0f} | {times[2]:.0f} | {min(times[1:]) / times[0]:.1f} |")
        errors = [error(ours().numpy(), truth), error(read_cfl(folder / "x").squeeze().T, truth), error(sense(), truth)]
    print("| error of CG-SENSE against the object | " + " | ".join(f"{e:.4f}" for e in errors) + " | |")


def realtime() -> None:
    """Latency from the last spoke to the picture."""
    base = MriExam(matrix=(1, N, N), n_coils=16, snr=60.0)
    subject = NonCartesianSimulation(NonCartesianExam(base=base, traj=radial(605, 2 * N, golden=True)))
    step, times = RadialStream(), []
    step.open(subject.scan)
    for spoke in list(subject.readouts()):
        began = time.perf_counter()
        for item in step.feed(spoke):
            if isinstance(item, Image):
                times.append(1e3 * (time.perf_counter() - began))
    p50, p99 = np.percentile(times[1:], [50, 99])
    print("\n| real time, 256 x 256, 16 coils, 55 spokes, every 11 | p50 [ms] | p99 [ms] | first [ms] |")
    print("|---|---|---|---|")
    print(f"| last spoke to picture | {p50:.0f} | {p99:.0f} | {times[0]:.0f} |")


if __name__ == "__main__":
    main()
