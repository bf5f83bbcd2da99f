"""A real head undersampled along k1, 24 calibration lines: error in the object against its own full data.

Run as ``python -m tests.benchmarks.undersampling [--picture FILE]``. Ours is the protocol ``mri_cartesian``; SigPy's
CG-SENSE (ESPIRiT maps, lambda 0.01) reconstructs the same lines in the same run. Each is compared with its own
reconstruction of all lines, after one scalar fit, over the pixels above 10 % of the 99th percentile.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from acquisition.items import Readouts
from acquisition.scan import Scan
from acquisition.sources import open_raw
from acquisition.sources.phantom.undersample import undersample
from integration.commands.reconstruct import reconstructed
from integration.protocol import Library, Protocol
from integration.runner import Run
from tests.conftest import ROOT

FILE = Path(os.environ.get("ISOCENTER_DATA", ROOT.parent / "shared" / "data")) / "mri" / "head_gre_3T_16ch.h5"
FACTORS, N_ACS = (2, 3, 4), 24


def ours(scan: Scan, blocks: list[Readouts], protocol: Protocol) -> NDArray:
    """Return the magnitude (y, x)."""
    (image,) = reconstructed(Run(scan, protocol), blocks)
    return np.abs(image.data[0])


def full_kspace(blocks: list[Readouts]) -> NDArray:
    """Return (coil, k1, k0) of a fully sampled slice, scaled to an image of about 1."""
    order = np.concatenate([b.head["k1"] for b in blocks])
    data = np.concatenate([b.data for b in blocks])[np.argsort(order)].transpose(1, 0, 2)
    return data / np.abs(np.fft.ifft2(data, norm="ortho")).max()


def sigpy_sense(kspace: NDArray, mask: NDArray) -> NDArray:
    """Return SigPy's CG-SENSE magnitude (y, x)."""
    import sigpy.mri as mr

    sampled = (kspace * mask[None, :, None]).astype(np.complex64)
    maps = mr.app.EspiritCalib(sampled, show_pbar=False).run()
    weights = np.repeat(mask[:, None], kspace.shape[2], axis=1).astype(np.float32)
    return np.abs(mr.app.SenseRecon(sampled, maps, lamda=0.01, weights=weights, show_pbar=False).run())


def mask_of(n: int, r: int) -> NDArray:
    """Return which lines are measured."""
    mask = np.zeros(n, bool)
    mask[::r] = True
    mask[n // 2 - N_ACS // 2 : n // 2 + N_ACS // 2] = True
    return mask


def error(image: NDArray, reference: NDArray) -> float:
    """NRMSE over the object after one scalar fit."""
    inside = reference > 0.1 * np.percentile(reference, 99)
    a, b = image[inside], reference[inside]
    return float(np.linalg.norm(a * (a @ b) / (a @ a) - b) / np.linalg.norm(b))


def main() -> None:
    """Print the table; draw the picture when asked."""
    warnings.simplefilter("ignore")
    if not FILE.exists():
        print(f"no data at {FILE}")
        return
    raw, protocol = open_raw(FILE), Library()["mri_cartesian"]
    blocks = list(raw.items())
    kspace = full_kspace(blocks)
    pictures = {1: ours(raw.scan, blocks, protocol)}
    their_full = sigpy_sense(kspace, np.ones(kspace.shape[1], bool))
    print("| R | lines | ours (GRAPPA) | SigPy CG-SENSE | ours [ms] | SigPy [ms] |\n|---|---|---|---|---|---|")
    for r in FACTORS:
        scan, kept = undersample(blocks, raw.scan, r=r, n_acs=N_ACS)
        kept = list(kept)
        ours(scan, kept, protocol)  # warm
        began = time.perf_counter()
        pictures[r] = ours(scan, kept, protocol)
        middle = time.perf_counter()
        theirs = sigpy_sense(kspace, mask_of(kspace.shape[1], r))
        end = time.perf_counter()
        errors = f"{error(pictures[r], pictures[1]):.4f} | {error(theirs, their_full):.4f}"
        times = f"{1e3 * (middle - began):.0f} | {1e3 * (end - middle):.0f}"
        print(f"| {r} | {sum(map(len, kept))} | {errors} | {times} |")
    if "--picture" in sys.argv:
        draw(pictures, Path(sys.argv[sys.argv.index("--picture") + 1]))


def draw(pictures: dict[int, NDArray], path: Path) -> None:
    """Write the full image, the undersampled ones, and their differences times five."""
    import matplotlib.pyplot as plt

    top = np.percentile(pictures[1], 99.7)
    full = pictures[1]
    crop = np.s_[4:108, 22:106]
    shown = [("all 128 lines", full), *((f"R = {r}", pictures[r]) for r in (2, 3))]
    differences = [(f"5 x difference, R = {r}", 5 * np.abs(pictures[r] - full)) for r in (2, 3)]
    figure, axes = plt.subplots(1, 5, figsize=(12, 3.3), facecolor="black")
    for axis, (title, pixels) in zip(axes, [*shown, *differences], strict=True):
        axis.imshow(pixels[crop], cmap="gray", vmin=0, vmax=top, interpolation="lanczos")
        axis.set_title(title, color="white", fontsize=10)
        axis.axis("off")
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.01, top=0.9, wspace=0.03)
    figure.savefig(path, dpi=80, facecolor="black")


if __name__ == "__main__":
    main()
