"""CG-SENSE and L1-wavelet against BART and SigPy; ESPIRiT; a real brain with 12 % of its samples.

Run as ``python -m tests.benchmarks.iterative``. All programs get the same data and, for the iterations, the same
number of threads. BART's times include its start (a few ms) and reading its input, which cannot be taken apart.
"""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from acquisition.sources.cfl import read_cfl as open_cfl
from acquisition.stream import Chain
from integration.protocol import Library
from kernels.memory import keep_memory
from kernels.registry import kernel
from recon.mri.coilset import CoilOptions, compression, noise_level
from recon.mri.dynamic import LowRankSparse
from recon.mri.espirit import espirit_maps
from recon.mri.items import Frame
from recon.mri.iterative import L1Wavelet
from recon.mri.model import CartesianSense, CartesianSeries
from recon.prior import WaveletSparsity
from recon.solve import cg, fista
from tests.benchmarks._timing import median_s
from tests.conftest import ROOT
from tests.peers import program
from tests.recon.helpers import coils, phantom

BRAIN = Path(os.environ.get("ISOCENTER_DATA", ROOT.parent / "shared" / "data")) / "mri" / "brain8_poisson"
N, R, N_ACS, ITERATIONS, ROUNDS = 256, 4, 24, 30, 5


def read_cfl(base: Path) -> NDArray[np.complex64]:
    """Read a BART file as it is, first dimension first."""
    dims = [int(word) for word in base.with_name(base.name + ".hdr").read_text().splitlines()[1].split()]
    return np.fromfile(base.with_name(base.name + ".cfl"), np.complex64).reshape(dims, order="F")


def write_cfl(base: Path, array: NDArray) -> None:
    """Write one."""
    base.with_name(base.name + ".hdr").write_text("# Dimensions\n" + " ".join(map(str, array.shape)) + "\n")
    array.astype(np.complex64).ravel(order="F").tofile(base.with_name(base.name + ".cfl"))


def error(image: NDArray, reference: NDArray) -> float:
    """NRMSE of magnitudes after a scalar fit over the pixels above 10 % of the reference's 99th percentile."""
    a, b = np.abs(image), np.abs(reference)
    inside = b > 0.1 * np.percentile(b, 99)
    a, b = a[inside], b[inside]
    return float(np.linalg.norm(a * (a @ b) / (a @ a) - b) / np.linalg.norm(b))


def median_ms(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Return the median time after one warm-up [ms]."""
    return 1e3 * median_s(work, rounds=rounds)


def brain_ours(folder: Path, rounds: int = ROUNDS) -> tuple[NDArray, float]:
    """Reconstruct the brain with our protocol; return the image and the median time of the solver's Step, maps
    known, once warm [s]."""
    raw = open_cfl(folder / "ksp.cfl")
    steps = Library()["mri_compressed_sensing"].build()
    (place,) = [i for i, s in enumerate(steps) if isinstance(s, L1Wavelet)]
    before, solver, after = Chain(steps[:place]), steps[place], Chain(steps[place + 1 :])
    for part in (before, solver, after):
        part.open(raw.scan)
    items = [item for block in raw.items() for item in before.feed(block)] + list(before.close())
    times, done = [], None
    for _ in range(rounds + 1):
        for item in items:
            began = time.perf_counter()
            out = list(solver.feed(item))
            if isinstance(item, Frame):
                times.append(time.perf_counter() - began)
                done = out
    (image,) = [i for o in done or [] for i in after.feed(o)]
    return image.data[0], statistics.median(times[1:])


def bart(*words: str, folder: Path) -> None:
    """Run BART."""
    subprocess.run([program("bart") or "bart", *words], check=True, capture_output=True, cwd=folder)


def scene(n_coils: int) -> tuple[NDArray, NDArray, NDArray]:
    """Return k-space (coil, k1, x-frequency) of the phantom with noise, the mask of lines, the object."""
    shape = (1, N, N)
    rng = np.random.default_rng(0)
    image, maps = phantom(shape)[0], coils(n_coils, shape)[:, 0]
    seen = torch.from_numpy((maps * image).astype(np.complex64))
    kspace = kernel("centred_fft")(seen, (1, 2)).numpy()
    noise = rng.normal(size=kspace.shape) + 1j * rng.normal(size=kspace.shape)
    mask = np.zeros(N, bool)
    mask[::R] = True
    mask[N // 2 - N_ACS // 2 : N // 2 + N_ACS // 2] = True
    return (kspace + 0.01 * noise).astype(np.complex64), mask, image * np.linalg.norm(maps, axis=0)


def main() -> None:
    """Print the tables."""
    warnings.simplefilter("ignore")
    keep_memory()  # as the service and the command line do
    print(f"{os.cpu_count()} cores, torch threads {torch.get_num_threads()}, medians of {ROUNDS}\n")
    maps_table()
    iterations_table()
    series_table()
    brain_table()


def maps_table() -> None:
    """ESPIRiT, 256 x 256, 24 lines."""
    print("| ESPIRiT 256 x 256, 24 x 24 | ours [ms] | BART [ms] | SigPy [ms] | BART / ours |\n|---|---|---|---|---|")
    for n_coils in (8, 16):
        kspace, _, _ = scene(n_coils)
        low = slice(N // 2 - 12, N // 2 + 12)
        region = torch.from_numpy(kspace[:, low, low].copy())
        ours = median_ms(lambda region=region: espirit_maps(region, (N, N)))
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_cfl(folder / "k", kspace.transpose(1, 2, 0)[None])
            theirs = median_ms(lambda folder=folder: bart("ecalib", "-m1", "-r24", "k", "s", folder=folder), 3)
        sigpy = median_ms(lambda kspace=kspace: sigpy_maps(kspace), 1)
        print(f"| {n_coils} coils | {ours:.0f} | {theirs:.0f} | {sigpy:.0f} | {theirs / ours:.1f} |")


def sigpy_maps(kspace: NDArray) -> NDArray:
    """SigPy's ESPIRiT."""
    import sigpy.mri as mr

    return mr.app.EspiritCalib(kspace, show_pbar=False).run()


def iterations_table() -> None:
    """CG-SENSE and L1-wavelet, 30 iterations; ours on virtual coils, as its Steps do (compressing is timed)."""
    import sigpy.mri as mr

    kspace, mask, image = scene(8)
    low = slice(N // 2 - 12, N // 2 + 12)
    region = torch.from_numpy(kspace[:, low, low].copy())
    few = compression(region, CoilOptions().energy)
    maps = espirit_maps(region, (N, N)).maps
    virtual = espirit_maps(torch.einsum("vc,cyx->vyx", few, region), (N, N), crop=0.9).maps.mT.contiguous()
    sampled = kspace * mask[None, :, None]
    axes = (2,)
    hybrid = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(sampled, axes=axes), axis=2, norm="ortho"), axes=axes)
    measured, lines = torch.from_numpy(np.ascontiguousarray(hybrid)), torch.from_numpy(mask)[None]
    level = noise_level(measured[:, None], mask[None].astype(np.uint16)) * math.sqrt(mask.mean())
    sparse = WaveletSparsity((N, N), 0.5 * level)

    def problem() -> tuple[CartesianSense, torch.Tensor]:
        model = CartesianSense(virtual, lines, (-1,))
        return model, model.adjoint(model.centre_first(torch.einsum("vc,cyx->vxy", few, measured)))

    def ours_cg() -> torch.Tensor:
        model, rhs = problem()
        return model.centre_middle(cg(model.gram, rhs, n_iterations=ITERATIONS, damping=0.001).x)

    def ours_l1() -> torch.Tensor:
        model, rhs = problem()
        return model.centre_middle(fista(model.gram, rhs, sparse, step=1.0, n_iterations=ITERATIONS).x)

    weights = np.repeat(mask[:, None], N, 1).astype(np.float32)
    top = float(np.percentile(problem()[1].abs().numpy(), 99))
    theirs = {
        "CG-SENSE": lambda: mr.app.SenseRecon(
            sampled, maps[0].numpy(), lamda=0.001, weights=weights, max_iter=ITERATIONS, show_pbar=False
        ).run(),
        "L1-wavelet": lambda: mr.app.L1WaveletRecon(
            sampled, maps[0].numpy(), 0.004 * top, weights=weights, max_iter=ITERATIONS, show_pbar=False
        ).run(),
    }
    commands = {"CG-SENSE": ("-l2", "-r0.001"), "L1-wavelet": ("-l1", "-r0.004")}
    buffer = torch.randn(len(few), N, N, dtype=torch.complex64)
    transforms = ITERATIONS * 2 * median_ms(lambda: torch.fft.fft(buffer, dim=-1, norm="ortho"), 20)
    title = f"256 x 256 x 8 (ours: {len(few)} virtual), R = 4, {ITERATIONS} iterations"
    print(f"\n| {title} | ours [ms] | BART | SigPy | best peer / ours | errors: ours, BART, SigPy |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_cfl(folder / "k", sampled.transpose(1, 2, 0)[None])
        write_cfl(folder / "s", maps[0].numpy().transpose(1, 2, 0)[None])
        for method, work in (("CG-SENSE", ours_cg), ("L1-wavelet", ours_l1)):
            words = ("pics", "-S", *commands[method], f"-i{ITERATIONS}", "k", "s", "x")
            t_ours, t_bart = median_ms(work), median_ms(lambda words=words: bart(*words, folder=folder), 3)
            t_sigpy = median_ms(theirs[method], 2)
            found = (work()[0].T.numpy(), read_cfl(folder / "x").squeeze(), theirs[method]())
            ratio = min(t_bart, t_sigpy) / t_ours
            line = f"| {method} | {t_ours:.0f} | {t_bart:.0f} | {t_sigpy:.0f} | {ratio:.1f} |"
            print(line, ", ".join(f"{error(e, image):.4f}" for e in found), "|")
    print(f"| its Fourier transforms alone | {transforms:.0f} | | | | |")


def series_table() -> None:
    """Low rank plus sparse, 16 frames of 128 x 128, 8 virtual coils: each iteration against its own transforms."""
    frames, n = 16, 128
    maps = torch.randn(8, n, n, dtype=torch.complex64)
    masks = torch.rand(frames, 1, n) < 0.25
    model = CartesianSeries(maps / maps.abs().square().sum(0).sqrt(), masks, (-1,))
    rhs = model.adjoint(torch.randn(model.range, dtype=torch.complex64))
    solve = LowRankSparse()._solve
    ours = median_ms(lambda: solve(model, rhs, 0.1), 3)
    buffer = torch.randn(8, n, n, dtype=torch.complex64)
    transforms = 30 * 2 * frames * median_ms(lambda: torch.fft.fft(buffer, dim=-1, norm="ortho"), 20)
    print("\n| low rank plus sparse, 16 x 128 x 128 x 8, 30 iterations | [ms] |\n|---|---|")
    print(f"| ours | {ours:.0f} |\n| its Fourier transforms alone | {transforms:.0f} |")


def brain_table() -> None:
    """The real brain."""
    if not BRAIN.exists():
        print(f"\nno data at {BRAIN}")
        return
    reference = np.abs(read_cfl(BRAIN / "img").squeeze()[..., 0]).T
    image, seconds = brain_ours(BRAIN)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bart("ecalib", "-m1", "-r20", str(BRAIN / "ksp"), "s", folder=folder)
        words = ("pics", "-S", "-l1", "-r0.003", "-i50", str(BRAIN / "ksp"), "s", "x")
        theirs = median_ms(lambda: bart(*words, folder=folder), 3)
        their_error = error(read_cfl(folder / "x").squeeze().T, reference)
    print("\n| real brain, 230 x 180 x 8, 12.4 % measured | error | time, maps known [ms] |\n|---|---|---|")
    print(f"| ours, mri_compressed_sensing | {error(image, reference):.4f} | {1e3 * seconds:.0f} |")
    print(f"| BART pics -l1 -r0.003 -i50 | {their_error:.4f} | {theirs:.0f} |")
    print(f"| ratio | | {theirs / 1e3 / seconds:.1f} |")


if __name__ == "__main__":
    main()
