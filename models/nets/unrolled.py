"""An unrolled reconstruction: steps towards the measured k-space, and between them small networks, all trained as one.

Hammernik et al., Magn Reson Med 2018;79:3055, DOI 10.1002/mrm.26977 (variational network); Yiasemis et al., CVPR 2022,
arXiv 2111.09639 (what a step saw goes on to the next); Aggarwal et al., IEEE Trans Med Imaging 2019;38:394, DOI
10.1109/TMI.2018.2865356 (steps that solve). The coil maps come from outside, so any number of coils will do. It starts
where L1-wavelets ended, and sees what CG-SENSE makes of the same data: what is left to learn is what wavelets took for
noise, or left of the noise and the aliasing that coils cannot undo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from acquisition.errors import ConfigError

_TILE = 32  # channels: the width of the matrix units of GPUs and of AMX
_SEEN = 5  # planes that a stage looks at: image and what data would change, real and imaginary, and the noise
_NEAR = 9  # pixels around one whose mean a stage does not see
_SOLVES = 4  # iterations of a step towards the data
_LEAST = 0.15  # eigenvalues of the normal operator (the largest is 1) above which a step is exact to 8 %
STAGE_INPUT = 4 * _SEEN
"""Channels of a stage's input in front of the features: four pixels side by side of each plane."""
HEAD = 8
"""Channels of the input in front of the coil maps: start (2), noise, right-hand side (2), CG-SENSE (2), mask."""


class Unrolled(nn.Module):
    """Start, noise, right-hand side, CG-SENSE's image, mask and maps in, the correction of the start out.

    ``x <- x + step_k d + stage_k(H x, d, noise, features)`` with ``d ~ (A^H A)^-1 A^H (y - A x)`` and ``A = M F S``;
    the first d is how CG-SENSE differs from the start. H takes the mean nearby away: brightness alone, which may be a
    hundred times the noise, changes nothing. There is no bias: twice the k-space is twice the image. The stages work on
    half the matrix with four times the channels (Zhang et al., IEEE Trans Image Process 2018;27:4608, DOI
    10.1109/TIP.2018.2839891), and hand on their features.

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

    def __init__(self, *, cascades: int = 4, width: int = 64, blocks: int = 1) -> None:
        super().__init__()
        if width % _TILE or width <= 0 or cascades < 1 or blocks < 1:
            raise ConfigError(
                "unrolled",
                expected=f"width a multiple of {_TILE}, cascades and blocks from 1",
                got=f"width {width}, cascades {cascades}, blocks {blocks}",
            )
        self.multiple, self.width = 1, width
        self.steps = nn.Parameter(torch.full((cascades,), 0.1))
        self.stages = nn.ModuleList(Stage(width, blocks) for _ in range(cascades))

    def forward(self, x: Tensor) -> Tensor:  # (n, HEAD + 2 coils, a, b)
        """Return the correction (n, 2, a, b)."""
        x = x.float()
        problem = unpacked(x)
        image, change = problem.start, problem.conventional - problem.start
        features = x.new_zeros((len(x), self.width, *half(x.shape[-2:])))
        for number, (step, stage) in enumerate(zip(self.steps, self.stages, strict=True)):
            if number:
                change = _Towards.apply(image, problem.rhs, problem.maps, problem.mask)
            correction, features = parted(stage(seen(image, change, problem.noise, features)), image.shape[-2:])
            image = image + step * change + correction
        return torch.cat(_planes(image - problem.start), dim=1)


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


@dataclass(frozen=True, slots=True, eq=False)
class Unpacked:
    """The network's input, apart; all in units of the noise."""

    start: Tensor
    """Where to begin (n, 1, a, b) complex."""
    noise: Tensor
    """Level of the noise (n, 1, a, b)."""
    rhs: Tensor
    """``A^H y`` (n, 1, a, b) complex."""
    conventional: Tensor
    """CG-SENSE's image (n, 1, a, b) complex."""
    mask: Tensor
    """What was measured (n, 1, a, b), the centre of k-space at index 0; no unit."""
    maps: Tensor
    """Coil maps (n, coil, a, b) complex; no unit."""


def packed(parts: Unpacked) -> Tensor:
    """Return the network's input (n, HEAD + 2 coils, a, b), real."""
    start, rhs, conventional, maps = (
        torch.cat([p.real, p.imag], dim=1) for p in (parts.start, parts.rhs, parts.conventional, parts.maps)
    )
    return torch.cat([start, parts.noise, rhs, conventional, parts.mask.to(start.dtype), maps], dim=1)


def unpacked(x: Tensor) -> Unpacked:
    """Undo `packed`."""
    x = x.contiguous()
    coils = (x.shape[1] - HEAD) // 2
    start, rhs, conventional = (torch.complex(x[:, i : i + 1], x[:, i + 1 : i + 2]) for i in (0, 3, 5))
    maps = torch.complex(x[:, HEAD : HEAD + coils], x[:, HEAD + coils :])
    return Unpacked(start, x[:, 2:3], rhs, conventional, x[:, 7:8], maps)


def gram(image: Tensor, maps: Tensor, mask: Tensor) -> Tensor:
    """Return ``A^H A x`` (n, 1, a, b); a mask of whole lines along a needs transforms along b only.

    Where the image's centre lies does not matter: a shift is a phase in k-space, and the mask has none.
    """
    axes = (-1,) if bool((mask == mask[..., :1, :]).all()) else (-2, -1)
    kspace = torch.fft.fftn(maps * image, dim=axes, norm="ortho").mul_(mask)
    return torch.fft.ifftn(kspace, dim=axes, norm="ortho").mul_(maps.conj()).sum(dim=1, keepdim=True)


def towards(image: Tensor, rhs: Tensor, *, maps: Tensor, mask: Tensor) -> Tensor:
    """Return about ``(A^H A)^-1 (A^H y - A^H A x)`` (n, 1, a, b): how the data would change an image.

    Chebyshev's iteration for eigenvalues from `_LEAST` to 1; what lies below comes slowly. It is the same polynomial of
    ``A^H A`` for all scans, so it is linear and its own adjoint. Golub and Varga, Numer Math 1961;3:147, DOI
    10.1007/BF01386013.
    """
    return _solved(rhs - gram(image, maps, mask), maps, mask)


def _solved(rhs: Tensor, maps: Tensor, mask: Tensor) -> Tensor:
    """Return the polynomial's image."""
    middle, reach = (1 + _LEAST) / 2, (1 - _LEAST) / 2
    ratio = reach / middle
    rest, change = rhs, rhs / middle
    x = change
    for _ in range(_SOLVES - 1):
        rest = rest - gram(change, maps, mask)
        before, ratio = ratio, 1 / (2 * middle / reach - ratio)
        change = ratio * before * change + 2 * ratio / reach * rest
        x = x + change
    return x


class _Towards(torch.autograd.Function):
    """`towards`, as a function of the image alone; nothing of its iterations is kept for the gradient."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, rhs: Tensor, maps: Tensor, mask: Tensor) -> Tensor:
        """See `towards`."""
        ctx.save_for_backward(maps, mask)
        return towards(image, rhs, maps=maps, mask=mask)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """The adjoint of the linear part."""
        maps, mask = ctx.saved_tensors
        return -gram(_solved(gradients[0], maps, mask), maps, mask), None, None, None


def seen(image: Tensor, change: Tensor, noise: Tensor, features: Tensor) -> Tensor:
    """Return what a stage looks at (n, 20 + width, a / 2, b / 2)."""
    detail = torch.cat(_planes(image), dim=1)
    detail = detail - nn.functional.avg_pool2d(detail, _NEAR, 1, _NEAR // 2, count_include_pad=False)
    planes = torch.cat([detail, *_planes(change), noise], dim=1)
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


__all__ = [
    "HEAD",
    "STAGE_INPUT",
    "Stage",
    "Unpacked",
    "Unrolled",
    "gram",
    "half",
    "packed",
    "parted",
    "seen",
    "towards",
    "unpacked",
]
