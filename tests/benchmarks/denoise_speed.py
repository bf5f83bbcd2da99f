"""What denoising costs per slice: each card's network on torch float32, torch bf16 and OpenVINO, whole estimates.

Run as ``python -m tests.benchmarks denoise_speed``; ``ISOCENTER_CARDS`` names a folder of cards that are not shipped.
An estimate runs the network once per mirror image. Memory is what the process grows by from before the engine is made
to after the first estimate, so each row is a process of its own.
"""

from __future__ import annotations

import resource
import subprocess
import sys

import numpy as np
import torch
from torch import Tensor, nn

from models.engine import TorchCpu, engine
from models.estimate import Estimator
from models.load import Loaded, load
from tests.benchmarks._timing import median_s
from tests.benchmarks.denoise import SORTS, card_of

ROWS = ("torch-f32", "torch-bf16", "openvino-bf16")
ROUNDS = 5


class _Bf16(nn.Module):
    """A network under torch's autocast."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            result: Tensor = self.network(x.contiguous(memory_format=torch.channels_last))
        return result.float()


def made(loaded: Loaded, row: str) -> Estimator:
    """Return the estimator of a row."""
    if row == "openvino-bf16":
        return Estimator(loaded, engine("openvino", loaded.network, precision="bf16"))
    network = _Bf16(loaded.network) if row == "torch-bf16" else loaded.network
    return Estimator(loaded, TorchCpu(network, precision="f32"))


def one(name: str, row: str) -> None:
    """Print one row."""
    path = card_of(name)
    assert path is not None
    loaded = load(path)
    shape = loaded.card.input.matrix
    rng = np.random.default_rng(0)
    noise = np.ones(shape, np.float32)
    image = rng.standard_normal(shape, np.float32) * 3
    data = (image + 1j * image).astype(np.complex64) if loaded.card.input.kinds == ("complex",) else image
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    estimator = made(loaded, row)
    estimator.estimate(data, noise)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    first = estimator.engine.prepare_s
    per_slice = 1e3 * median_s(lambda: estimator.estimate(data, noise), rounds=ROUNDS)
    members = loaded.card.uncertainty.members
    size = " x ".join(map(str, shape))
    print(f"| {name}, {size}, {members} passes | {row} | {per_slice:.0f} | {first:.1f} | {grown:.0f} |", flush=True)


def main() -> int:
    """Print the table."""
    print(f"{torch.get_num_threads()} threads\n")
    print("| card | engine | ms/slice | first call s | memory MiB |\n|---|---|---|---|---|", flush=True)
    for sort in SORTS:
        if card_of(sort.name) is None:
            print(f"| {sort.name} | no card | | | |")
            continue
        for row in ROWS:
            subprocess.run([sys.executable, "-m", __name__, sort.name, row], check=True)
    return 0


if __name__ == "__main__":
    if len(sys.argv) == 3:
        one(sys.argv[1], sys.argv[2])
    else:
        sys.exit(main())
