"""A U-Net that estimates what to add to an image: residual blocks without bias, a noise map beside the image.

Zhang et al., IEEE Trans Pattern Anal Mach Intell 2022;44:6360, DOI 10.1109/TPAMI.2021.3088914 (DRUNet: residual blocks,
noise map); Mohan et al., ICLR 2020, arXiv 1906.05478 (without bias the network serves noise levels it never saw).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from acquisition.errors import ConfigError

_CONV: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
_UP: dict[int, type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_TILE = 32  # channels: the width of the matrix units of GPUs and of AMX


class UNet(nn.Module):
    """Image channels and noise map in, the correction of the image out.

    There is no bias and no normalisation: twice the input is twice the output, so the unit of the image does not
    matter. The last convolution starts at 0: an untrained network corrects nothing.

    Parameters
    ----------
    image_channels
        Channels of the image: 1, 2 for real and imaginary part, more for slices side by side.
    corrected_channels
        Channels that are corrected; the output's.
    width
        Channels of the finest level, a multiple of 32; each coarser level has twice as many.
    levels
        Levels; each halves the matrix, which must be a multiple of ``2 ** (levels - 1)``.
    blocks
        Residual blocks per level and direction.
    dimensions
        2: (n, channel, y, x); 3: (n, channel, z, y, x).

    Raises
    ------
    ConfigError
        A size is out of range.
    """

    def __init__(
        self,
        *,
        image_channels: int = 1,
        corrected_channels: int = 1,
        width: int = 32,
        levels: int = 3,
        blocks: int = 1,
        dimensions: int = 2,
    ) -> None:
        super().__init__()
        if width % _TILE or width <= 0 or levels < 1 or blocks < 1 or dimensions not in _CONV:
            raise ConfigError(
                "unet",
                expected=f"width a multiple of {_TILE}, levels and blocks from 1, dimensions 2 or 3",
                got=f"width {width}, levels {levels}, blocks {blocks}, dimensions {dimensions}",
            )
        conv, up = _CONV[dimensions], _UP[dimensions]
        sizes = [width << level for level in range(levels)]
        self.multiple = 1 << (levels - 1)
        self.head = conv(image_channels + 1, width, 3, padding=1, bias=False)
        self.down = nn.ModuleList(_blocks(n, blocks, conv) for n in sizes)
        self.shrink = nn.ModuleList(conv(a, b, 2, stride=2, bias=False) for a, b in pairwise(sizes))
        self.grow = nn.ModuleList(up(b, a, 2, stride=2, bias=False) for a, b in pairwise(sizes))
        self.up = nn.ModuleList(_blocks(n, blocks, conv) for n in sizes[:-1])
        self.tail = conv(width, corrected_channels, 3, padding=1, bias=False)
        nn.init.zeros_(self.tail.weight)

    def forward(self, x: Tensor) -> Tensor:  # (n, image_channels + 1, y, x)
        """Return the correction (n, corrected_channels, y, x)."""
        x = self.head(x)  # (n, width, y, x)
        seen = []
        for blocks, shrink in zip(self.down, self.shrink, strict=False):
            x = blocks(x)
            seen.append(x)
            x = shrink(x)  # (n, 2 channels, y / 2, x / 2)
        x = self.down[-1](x)
        for grow, blocks in zip(reversed(self.grow), reversed(self.up), strict=True):
            x = blocks(grow(x) + seen.pop())
        correction: Tensor = self.tail(x)
        return correction


class _Residual(nn.Module):
    """``x + conv(relu(conv(x)))``."""

    def __init__(self, channels: int, conv: type[nn.Conv2d] | type[nn.Conv3d]) -> None:
        super().__init__()
        self.one = conv(channels, channels, 3, padding=1, bias=False)
        self.two = conv(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, as large as its input."""
        out: Tensor = x + self.two(torch.relu(self.one(x)))
        return out


def _blocks(channels: int, n: int, conv: type[nn.Conv2d] | type[nn.Conv3d]) -> nn.Sequential:
    return nn.Sequential(*(_Residual(channels, conv) for _ in range(n)))
