"""An unrolled reconstruction: steps towards the measured k-space, and between them small networks, all trained as one.

Hammernik et al., Magn Reson Med 2018;79:3055, DOI 10.1002/mrm.26977 (variational network); Yiasemis et al., CVPR 2022,
arXiv 2111.09639 (what a step saw goes on to the next). The coil maps come from outside, so any number of coils will
do. It starts where CG-SENSE ended: what is left to learn is the noise and the aliasing that coils cannot undo.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from acquisition.errors import ConfigError

_TILE = 32  # channels: the width of the matrix units of GPUs and of AMX
_SEEN = 5  # planes that a stage looks at: image and misfit, real and imaginary, and the noise
STAGE_INPUT = 4 * _SEEN
"""Channels of a stage's input in front of the features: four pixels side by side of each plane."""
HEAD = 6
"""Channels of the input in front of the coil maps: start (2), noise, right-hand side (2), mask."""


class Unrolled(nn.Module):
    """Start, noise, right-hand side, mask and maps in, the correction of the start out.

    ``x <- x - step_k (A^H A x - A^H y) + stage_k(x, A^H A x - A^H y, noise, features)``, with ``A = M F S``. There is
    no bias: twice the k-space is twice the image. The stages work on half the matrix with four times the channels
    (Zhang et al., IEEE Trans Image Process 2018;27:4608, DOI 10.1109/TIP.2018.2839891), and hand on their features.

    Parameters
    ----------
    cascades
        Steps towards the data, and networks behind them.
    width
        Channels of the networks, a multiple of 32.
    blocks
        Residual blocks of each.

    Raises
    ------
    ConfigError
        A size is out of range.
    """

    def __init__(self, *, cascades: int = 8, width: int = 64, blocks: int = 1) -> None:
        super().__init__()
        if width % _TILE or width <= 0 or cascades < 1 or blocks < 1:
            raise ConfigError(
                "unrolled",
                expected=f"width a multiple of {_TILE}, cascades and blocks from 1",
                got=f"width {width}, cascades {cascades}, blocks {blocks}",
            )
        self.multiple, self.width = 1, width
        self.steps = nn.Parameter(torch.full((cascades,), 0.5))
        self.stages = nn.ModuleList(Stage(width, blocks) for _ in range(cascades))

    def forward(self, x: Tensor) -> Tensor:  # (n, HEAD + 2 coils, a, b)
        """Return the correction (n, 2, a, b)."""
        x = x.float()
        start, noise, rhs, mask, maps = unpacked(x)
        image, features = start, x.new_zeros((len(x), self.width, *half(x.shape[-2:])))
        for step, stage in zip(self.steps, self.stages, strict=True):
            misfit = gram(image, maps, mask) - rhs
            correction, features = parted(stage(seen(image, misfit, noise, features)), image.shape[-2:])
            image = image - step * misfit + correction
        return torch.cat(_planes(image - start), dim=1)


class Stage(nn.Module):
    """One of the small networks, on half the matrix."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(STAGE_INPUT, width, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList(_Residual(width) for _ in range(blocks))
        self.tail = nn.Conv2d(width, 8, 3, padding=1, bias=False)
        nn.init.zeros_(self.tail.weight)

    def forward(self, x: Tensor) -> Tensor:  # (n, 20 + width, a / 2, b / 2)
        """Return the correction, four pixels side by side, and the features (n, 8 + width, a / 2, b / 2)."""
        features = x[:, STAGE_INPUT:] + self.head(x[:, :STAGE_INPUT])
        for block in self.blocks:
            features = block(features)
        return torch.cat([self.tail(features), features], dim=1)


class _Residual(nn.ModuleList):
    """``x + conv(relu(conv(x)))``."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, as large as its input."""
        out: Tensor = x + self[1](torch.relu(self[0](x)))
        return out


def packed(start: Tensor, noise: Tensor, rhs: Tensor, *, mask: Tensor, maps: Tensor) -> Tensor:
    """Return the network's input (n, HEAD + 2 coils, a, b), real.

    Parameters
    ----------
    start, rhs
        Complex images (n, a, b): where to begin, and ``A^H y``; in units of the noise.
    noise
        Level of the noise (n, a, b), same unit.
    mask
        What was measured (n, a, b), the centre of k-space at index 0.
    maps
        Coil maps (n, coil, a, b).
    """
    parts = (start[:, None], rhs[:, None], maps)
    s, r, m = (torch.cat([p.real, p.imag], dim=1) for p in parts)
    return torch.cat([s, noise[:, None], r, mask[:, None].to(s.dtype), m], dim=1)


def unpacked(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return start, noise, right-hand side and mask (n, 1, a, b) and maps (n, coil, a, b); see `packed`."""
    x = x.contiguous()
    coils = (x.shape[1] - HEAD) // 2
    start, rhs = torch.complex(x[:, 0:1], x[:, 1:2]), torch.complex(x[:, 3:4], x[:, 4:5])
    maps = torch.complex(x[:, HEAD : HEAD + coils], x[:, HEAD + coils :])
    return start, x[:, 2:3], rhs, x[:, 5:6], maps


def gram(image: Tensor, maps: Tensor, mask: Tensor) -> Tensor:
    """Return ``A^H A x`` (n, 1, a, b); a mask of whole lines along a needs transforms along b only.

    Where the image's centre lies does not matter: a shift is a phase in k-space, and the mask has none.
    """
    axes = (-1,) if bool((mask == mask[..., :1, :]).all()) else (-2, -1)
    kspace = torch.fft.fftn(maps * image, dim=axes, norm="ortho") * mask
    return (maps.conj() * torch.fft.ifftn(kspace, dim=axes, norm="ortho")).sum(dim=1, keepdim=True)


def seen(image: Tensor, misfit: Tensor, noise: Tensor, features: Tensor) -> Tensor:
    """Return what a stage looks at (n, 20 + width, a / 2, b / 2)."""
    planes = torch.cat([*_planes(image), *_planes(misfit), noise], dim=1)
    n_a, n_b = planes.shape[-2:]
    planes = nn.functional.pad(planes, (0, n_b % 2, 0, n_a % 2))
    return torch.cat([nn.functional.pixel_unshuffle(planes, 2), features], dim=1)


def parted(x: Tensor, plane: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return a stage's correction (n, 1, a, b) of this plane, complex, and its features."""
    planes = nn.functional.pixel_shuffle(x[:, :8].float(), 2)[..., : plane[0], : plane[1]]
    return torch.complex(planes[:, 0:1].contiguous(), planes[:, 1:2].contiguous()), x[:, 8:]


def half(plane: Sequence[int]) -> tuple[int, int]:
    """Return the matrix that the stages work on."""
    return (plane[0] + 1) // 2, (plane[1] + 1) // 2


def _planes(image: Tensor) -> tuple[Tensor, Tensor]:
    return image.real, image.imag


__all__ = ["HEAD", "STAGE_INPUT", "Stage", "Unrolled", "gram", "half", "packed", "parted", "seen", "unpacked"]
