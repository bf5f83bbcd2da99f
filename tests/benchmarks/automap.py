"""Direct manifold reconstruction (AUTOMAP) beside the unrolled network: does a network without physics keep up?

Run as ``python -m tests.benchmarks.automap --steps 3000 [--picture FILE]``, half an hour; without steps it prints what
memory it would take. Zhu et al., Nature 2018;555:487, DOI 10.1038/nature25988: two dense layers from all samples to all
pixels, then three convolutions. It is trained here, at a size that a small machine trains: 48 x 48, four receivers that
never move, always the same lines (every fourth, 12 for calibration). So it may know array and lines by heart; the
others are told the true maps. Judged on heads that it never saw, with the array it knows and, because patients do not
lie alike, with one turned by 15 degrees.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import rotate
from torch import Tensor, nn

from models.load import SHIPPED, load
from models.problem import Problem, Reconstructor, estimator_of
from models.train import masks
from models.train.encode import Complex, cropped_kspace, image_of
from models.train.figures import nrmse, psnr, ssim
from models.train.loop import schedule
from models.train.mr import MrSpec, random_slice
from models.train.recipe import Split, charbonnier
from models.train.scene import magnetisation
from models.train.simulated import DATA, source_of
from models.train.tissue import tissues
from models.train.unrolled import problem_of
from tests.benchmarks._timing import median_s
from tests.benchmarks.unrolled import sparse

N, COILS, R, N_ACS = 48, 4, 4, 12
LINES = masks.regular(N, R, n_acs=N_ACS)
DRAWN: dict[Split, int] = {"training": 400, "test": 12}
TURN = 15.0  # degrees
SNR = (10.0, 60.0)
BATCH, RATE = 16, 2e-4
WEIGHTS = (0.12, 0.25, 0.5, 1.0)
FIGURES = (psnr, ssim, nrmse)
GIB = 2.0**30
Networks = tuple["Automap", Reconstructor]


class Automap(nn.Module):
    """Measured samples (n, 2 x samples) in, image (n, 2, side, side) out."""

    def __init__(self, samples: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.one = nn.Linear(2 * samples, side * side)
        self.two = nn.Linear(side * side, 2 * side * side)
        self.refine = nn.Sequential(
            nn.Conv2d(2, 64, 5, padding=2), nn.ReLU(), nn.Conv2d(64, 64, 5, padding=2), nn.ReLU()
        )
        self.last = nn.ConvTranspose2d(64, 2, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        """Return the image."""
        dense = torch.tanh(self.two(torch.tanh(self.one(x)))).reshape(-1, 2, self.side, self.side)
        out: Tensor = self.last(self.refine(dense))
        return out


def weights_of(side: int, coils: int, lines: int) -> int:
    """Return how many weights the dense layers have."""
    return 2 * coils * lines * side * side**2 + 2 * side**4


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--picture", type=Path)
    options, _ = parser.parse_known_args(sys.argv[1:])
    memory_table()
    card = SHIPPED / "mr_unrolled" / "card.yaml"
    if options.steps == 0 or DATA not in os.environ or not card.exists():
        print(f"\nnothing is trained without --steps, label maps ({DATA}) and {card.parent.name}")
        return 0
    near, turned = arrays()
    automap = trained(near, options.steps)
    unrolled = estimator_of(load(card), "auto")
    assert isinstance(unrolled, Reconstructor)
    print(f"\n| {N} x {N}, R = {R} | method | PSNR [dB] | SSIM | NRMSE | [ms] |\n|---|---|---|---|---|---|")
    heads = objects("test")
    for name, maps in (("array as trained", near), (f"array turned by {TURN:g} degrees", turned)):
        scans = [scan(head, maps, np.random.default_rng([6, i])) for i, head in enumerate(heads)]
        rows = [row_of(kspace, image, maps, (automap, unrolled)) for kspace, image in scans]
        for method in rows[0]:
            figures = np.mean([row[method] for row in rows], axis=0)
            told = f"{figures[0]:.2f} | {figures[1]:.4f} | {figures[2]:.4f} | {figures[3]:.1f}"
            print(f"| {name} | {method} | {told} |", flush=True)
    if options.picture is not None:
        kspace, image = scan(heads[0], near, np.random.default_rng(6))
        problem = posed(kspace, near)
        made = {
            "truth": image,
            "CG-SENSE": problem.start.numpy().T,
            "unrolled": unrolled.reconstruct(problem).numpy().T,
            "AUTOMAP": direct(automap, kspace),
        }
        draw({name: np.abs(pixels) for name, pixels in made.items()}, options.picture)
    return 0


def memory_table() -> None:
    """What the dense layers take; training takes four times as much."""
    print("| matrix | receivers | weights | float32 [GiB] |\n|---|---|---|---|")
    for side, coils in ((N, 4), (64, 4), (128, 4), (128, 8), (256, 8), (320, 16)):
        n = weights_of(side, coils, int(masks.regular(side, R, n_acs=N_ACS if side <= N else 24).sum()))
        print(f"| {side} | {coils} | {n / 1e6:.0f} M | {4 * n / GIB:.2f} |")


def arrays() -> tuple[Complex, Complex]:
    """Return the maps (coil, y, x) of the training's receivers on fine cells, and of the same ones turned."""
    spec = MrSpec(matrix=(N, N), n_coils=COILS)
    maps = random_slice(source_of("training").heads[0], spec, np.random.default_rng(3)).coils.maps
    turned = np.stack([rotate(m, TURN, reshape=False, order=1, mode="nearest") for m in maps])
    return maps, (turned / np.sqrt((np.abs(turned) ** 2).sum(0))).astype(np.complex64)


def objects(split: Split) -> list[Complex]:
    """Return slices of heads on fine cells (y, x), with the sequence's contrast and phase."""
    rng, heads, out = np.random.default_rng([5, DRAWN[split]]), source_of(split).heads, []
    for index in range(DRAWN[split]):
        drawn = random_slice(heads[index % len(heads)], MrSpec(matrix=(N, N), n_coils=COILS), rng)
        out.append(magnetisation(drawn.scene, drawn.protocol, [tissues(drawn.protocol.field_t, rng)])[0])
    return out


def scan(of: Complex, maps: Complex, rng: np.random.Generator) -> tuple[Complex, Complex]:
    """Return the whole k-space (coil, y, x) in units of its noise, and the image (y, x) that it was without noise."""
    clean = cropped_kspace(maps * of, (N, N))
    pixels = image_of(clean)
    image = (on_voxels(maps).conj() * pixels).sum(0)
    size = np.abs(image)
    gain = np.exp(rng.uniform(*np.log(SNR))) / np.median(size[size > 0.1 * np.percentile(size, 99)])
    noise = rng.standard_normal((*clean.shape, 2), np.float32).view(np.complex64)[..., 0] * np.float32(np.sqrt(0.5))
    return (gain * clean + noise).astype(np.complex64), (gain * image).astype(np.complex64)


def on_voxels(maps: Complex) -> Complex:
    """Return maps (coil, y, x) of fine cells on the measured voxels, of norm 1."""
    at = (np.arange(N) * maps.shape[-1]) // N
    few = maps[:, at][:, :, at]
    return np.asarray(few / np.sqrt((np.abs(few) ** 2).sum(0)))


def seen(kspace: Complex) -> tuple[Tensor, float]:
    """Return what `Automap` is given of a scan, (2 x samples), and its unit."""
    samples = torch.from_numpy(np.ascontiguousarray(kspace[:, LINES]))
    unit = float(image_of(np.where(LINES[:, None], kspace, 0)).__abs__().max())
    return torch.view_as_real(samples).flatten() / unit, unit


def trained(maps: Complex, steps: int) -> Automap:
    """Train on heads that are mirrored and turned by chance, measured by the array that never moves."""
    torch.manual_seed(1)
    network, pool, rng = Automap(COILS * int(LINES.sum()) * N, N), objects("training"), np.random.default_rng(2)
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE)
    begun = time.monotonic()
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = RATE * schedule(step / steps)
        inputs, truths = zip(
            *(example(pool[int(rng.integers(len(pool)))], maps, rng) for _ in range(BATCH)), strict=True
        )
        with torch.autocast("cpu", torch.bfloat16):
            made = network(torch.stack(inputs))
        loss = charbonnier(made.float(), torch.stack(truths))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if step % 100 == 0:
            told = f"step {step}/{steps}, loss {float(loss.detach()):.4f}, {time.monotonic() - begun:.0f} s"
            print(told, file=sys.stderr, flush=True)
    return network.eval().requires_grad_(False)


def example(of: Complex, maps: Complex, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return one input and its image (2, y, x)."""
    turned = np.rot90(of, int(rng.integers(4)))
    moved = np.roll(turned[::-1] if rng.random() < 0.5 else turned, rng.integers(-8, 9, 2), (0, 1))
    kspace, image = scan(moved * np.complex64(np.exp(2j * np.pi * rng.random())), maps, rng)
    x, unit = seen(kspace)
    return x, torch.from_numpy(np.stack([image.real, image.imag]) / np.float32(unit))


def row_of(kspace: Complex, image: Complex, maps: Complex, networks: Networks) -> dict[str, list[float]]:
    """Return the figures of every method, and its time [ms]."""
    automap, unrolled = networks
    problem = posed(kspace, maps)
    truth = np.abs(image)
    inside = truth > 0.1 * np.percentile(truth, 99)
    methods: dict[str, Callable[[], NDArray]] = {
        "zero-filled": lambda: problem.rhs.numpy().T,
        "CG-SENSE": lambda: posed(kspace, maps).start.numpy().T,
        **{f"L1-wavelet, weight {w:g}": partial(_sparse, problem, w) for w in WEIGHTS},
        "unrolled": lambda: unrolled.reconstruct(problem).numpy().T,
        "AUTOMAP": lambda: direct(automap, kspace),
    }
    return {
        name: [*(f(np.abs(make()), truth, inside) for f in FIGURES), 1e3 * median_s(make, rounds=3)]
        for name, make in methods.items()
    }


def _sparse(problem: Problem, weight: float) -> NDArray:
    return sparse(problem, weight).numpy().T


def posed(kspace: Complex, maps: Complex) -> Problem:
    """Return the scan as the other methods get it: readout transformed, true maps."""
    hybrid = fft.fftshift(fft.ifft(fft.ifftshift(kspace, -1), norm="ortho"), -1).astype(np.complex64)
    mask = torch.from_numpy(LINES)[None]
    rows = (torch.from_numpy(np.ascontiguousarray(a.swapaxes(1, 2))) for a in (on_voxels(maps), hybrid))
    known, measured = rows
    return problem_of(known, measured * mask, mask)


def direct(network: Automap, kspace: Complex) -> NDArray:
    """Return AUTOMAP's image (y, x)."""
    x, unit = seen(kspace)
    with torch.inference_mode():
        real, imag = network(x[None])[0].numpy()
    return np.asarray(unit * (real + 1j * imag))


def draw(images: Mapping[str, NDArray], path: Path) -> None:
    """Write images side by side."""
    import matplotlib.pyplot as plt

    top = float(np.percentile(images["truth"], 99.7))
    figure, axes = plt.subplots(1, len(images), figsize=(3 * len(images), 3.3), facecolor="black")
    for axis, (name, image) in zip(axes, images.items(), strict=True):
        axis.imshow(image, cmap="gray", vmin=0, vmax=top)
        axis.set_title(name, color="white")
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=80, facecolor="black")


if __name__ == "__main__":
    sys.exit(main())
