"""What the tests of the unrolled network share: drawn planes of k-space whose truth is known, small networks."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from models.nets import build
from models.nets.unrolled import STAGE_INPUT
from models.problem import Problem
from models.train.unrolled import problem_of
from tests.models.samples import ellipses

SMALL = {"cascades": 2, "width": 32, "blocks": 1}


def drawn_maps(n_coils: int, plane: tuple[int, int], seed: int = 0) -> Tensor:
    """Smooth maps of unit norm (coil, a, b)."""
    chance = np.random.default_rng(seed)
    a, b = np.meshgrid(*(np.linspace(-1, 1, n) for n in plane), indexing="ij")
    terms = np.stack([np.ones_like(a), a, b, a * b])
    weights = chance.standard_normal((n_coils, 4)) + 1j * chance.standard_normal((n_coils, 4))
    maps = np.tensordot(weights, terms, 1)
    return torch.from_numpy((maps / np.linalg.norm(maps, axis=0)).astype(np.complex64))


def drawn_mask(plane: tuple[int, int], kind: str, seed: int = 0) -> Tensor:
    """Every second line and the middle (1, b), or half of the samples of a plane (a, b); the centre at n // 2."""
    if kind == "lines":
        mask = np.arange(plane[1]) % 2 == 0
        mask[plane[1] // 2 - 6 : plane[1] // 2 + 6] = True
        return torch.from_numpy(mask[None])
    mask = np.random.default_rng(seed).random(plane) < 0.5
    mask[plane[0] // 2 - 6 : plane[0] // 2 + 6, plane[1] // 2 - 6 : plane[1] // 2 + 6] = True
    return torch.from_numpy(mask)


def measured(
    truth: Tensor, *, n_coils: int = 4, kind: str = "lines", noise: float = 1.0, level: float = 1.0
) -> Problem:
    """What is left of a plane (a, b) behind coils, lines and noise; `level` is what the problem is told of it."""
    plane = (truth.shape[0], truth.shape[1])
    maps, mask = drawn_maps(n_coils, plane), drawn_mask(plane, kind)
    axes = (-1,) if kind == "lines" else (-2, -1)
    kspace = torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(maps * truth, axes), dim=axes, norm="ortho"), axes)
    generator = torch.Generator().manual_seed(3)
    kspace = kspace + noise * torch.randn(kspace.shape, dtype=kspace.dtype, generator=generator)
    return problem_of(maps, kspace * mask, mask, level=level)


def truth_of(matrix: int = 48) -> Tensor:
    """A drawn plane, complex."""
    a = torch.arange(matrix) / matrix
    return torch.from_numpy(ellipses(7, matrix)) * torch.exp(2j * (a[:, None] + a))


def small_network(seed: int = 0, *, size: float = 0.02, **parameters: int) -> nn.Module:
    """An unrolled network with random weights that corrects a little."""
    torch.manual_seed(seed)
    net = build("unrolled", SMALL | parameters, where="test")
    for stage in net.stages:  # type: ignore[union-attr]
        nn.init.normal_(stage.tail.weight, std=size)
    return net.requires_grad_(False)


class Lesion(nn.Module):
    """A stage that adds a square of 8 x 8 pixels to the image, `brightness` times the noise."""

    def __init__(self, brightness: float) -> None:
        super().__init__()
        self.brightness = brightness

    def forward(self, x: Tensor) -> Tensor:
        noise = x[:, STAGE_INPUT - 4 : STAGE_INPUT]  # the last plane
        tail = torch.zeros_like(x[:, :8])
        tail[:, :4, 14:18, 14:18] = self.brightness * noise[..., 14:18, 14:18]
        return torch.cat([tail, x[:, STAGE_INPUT:]], dim=1)
