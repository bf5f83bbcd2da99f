"""GRAPPA of one 320 x 320 slice against pygrappa: calibration and filling, error against the object's own full data.

Run as ``PYGRAPPA=/path/to/python python -m tests.benchmarks.grappa``, where that Python has pygrappa (its compiled
``cgrappa``); without it the table has our columns alone. Both get the same data, 24 calibration lines, kernel 4 x 5.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from acquisition.items import READOUT_HEAD
from kernels.memory import keep_memory
from kernels.registry import kernel
from recon.mri.grappa import Grappa, fill
from recon.mri.items import Calibration, Frame, FrameKey
from recon.mri.pattern import Pattern
from tests.benchmarks._timing import median_s
from tests.recon.helpers import Exam, coils, phantom

N, N_ACS, ROUNDS = 320, 24, 7
_PEER = """
import sys, time, statistics, numpy as np
from pygrappa import cgrappa
kspace, calib = (np.ascontiguousarray(np.load(f), np.complex128) for f in sys.argv[1:3])
times = []
for _ in range(3):
    start = time.perf_counter()
    out = cgrappa(kspace, calib, kernel_size=(5, 5), coil_axis=0)
    times.append(time.perf_counter() - start)
np.save(sys.argv[3], out)
print(statistics.median(times))
"""


def main() -> None:
    """Print the table."""
    keep_memory()
    print(f"{os.cpu_count()} cores, torch threads {torch.get_num_threads()}, medians of {ROUNDS}\n")
    print(
        "| 320 x 320 | calibrate [ms] | fill [ms] | pygrappa, both [ms] | ratio: both, fill | errors: ours, pygrappa |"
    )
    print("|---|---|---|---|---|---|")
    for n_coils in (16, 32):
        full = kspace_of(n_coils)
        for r in (2, 4):
            print(row(full, r))


def kspace_of(n_coils: int) -> NDArray[np.complex64]:
    """Return k-space (coil, k1, x-frequency) of the phantom with a little noise."""
    image = phantom((1, N, N))[0] * coils(n_coils, (1, N, N))[:, 0]
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image, axes=(1, 2)), norm="ortho"), axes=(1, 2))
    rng = np.random.default_rng(0)
    noise = rng.normal(size=kspace.shape) + 1j * rng.normal(size=kspace.shape)
    return (kspace + 0.002 * np.abs(image).max() * noise).astype(np.complex64)


def row(full: NDArray[np.complex64], r: int) -> str:
    """Measure one case."""
    lines = slice(N // 2 - N_ACS // 2, N // 2 + N_ACS // 2)
    wanted = np.zeros(N, bool)
    wanted[::r] = wanted[lines] = True
    kspace = np.where(wanted[None, :, None], full, 0)
    acs = torch.from_numpy(full[:, None, lines].copy())
    hybrid = kernel("centred_ifft")(torch.from_numpy(kspace.copy())[:, None], (3,))
    pattern = Pattern(r, 0, 0, int(np.flatnonzero(wanted[::r])[-1]) * r)

    step, n_coils = Grappa(), full.shape[0]
    step.open(Exam(matrix=(1, N, N), n_coils=n_coils, acceleration=r).scan)
    calibration = Calibration(
        kspace=kernel("centred_ifft")(acs, (3,)), first=(0, lines.start), matrix=(1, N), key=FrameKey(0, 0, 0, 0, 0, 0)
    )

    def calibrate() -> torch.Tensor:
        made: torch.Tensor = kernel("grappa_hybrid")(step._fit(calibration, r).kernel, N)
        return made

    weights = calibrate()
    counts = wanted[None].astype(np.uint16)
    key, head = FrameKey(0, 0, 0, 0, 0, 0), np.zeros(1, READOUT_HEAD)[0]
    work = hybrid.clone()
    frame = Frame(kspace=work, counts=counts, key=key, head=head)
    t_calibrate = median_s(calibrate, rounds=ROUNDS)
    t_fill = median_s(lambda: fill(frame, pattern, weights, within=range(N)), rounds=ROUNDS)
    ours = error(kernel("centred_fft")(work, (3,))[:, 0].numpy(), full)
    name = f"| {full.shape[0]} coils, R = {r} | {1e3 * t_calibrate:.0f} | {1e3 * t_fill:.1f} "
    peer = pygrappa(kspace, full[:, lines])
    if peer is None:
        return f"{name}| not here | | {ours:.4f} |"
    seconds, made = peer
    ratios = f"{seconds / (t_calibrate + t_fill):.0f}, {seconds / t_fill:.0f}"
    return f"{name}| {1e3 * seconds:.0f} | {ratios} | {ours:.4f}, {error(made, full):.4f} |"


def pygrappa(kspace: NDArray, calibration: NDArray) -> tuple[float, NDArray] | None:
    """Return the peer's seconds and k-space; None where it is not installed."""
    python = os.environ.get("PYGRAPPA")
    if not python:
        return None
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / name) for name in ("k.npy", "c.npy", "out.npy")]
        np.save(files[0], kspace)
        np.save(files[1], calibration)
        done = subprocess.run([python, "-c", _PEER, *files], check=True, capture_output=True, text=True)
        return float(done.stdout.split()[-1]), np.load(files[2])


def error(kspace: NDArray, full: NDArray) -> float:
    """NRMSE of the root-sum-of-squares images over the object."""
    a, b = (rss(k) for k in (kspace, full))
    inside = b > 0.1 * np.percentile(b, 99)
    return float(np.linalg.norm((a - b)[inside]) / np.linalg.norm(b[inside]))


def rss(kspace: NDArray) -> NDArray:
    """Return the image of all coils."""
    images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=(1, 2)), norm="ortho"), axes=(1, 2))
    return np.sqrt((np.abs(images) ** 2).sum(0))


if __name__ == "__main__":
    main()
