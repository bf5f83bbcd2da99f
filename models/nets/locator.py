"""Where in a template head does each place of a localizer lie: a small 3D U-Net that gives coordinates, not landmarks.

Every cell of the brain votes, so a plan rests on whatever was covered: Gopinath et al., arXiv 2404.16781 (registration
by regression). Instance statistics make it independent of the contrast's scale.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from acquisition.errors import ConfigError

_GROUPS = 8
SHRINK = 4
"""Cells of the input along each axis for one cell of the output."""
INPUT, OUTPUT = 2, 4
"""Channels: image and what of it was measured; template coordinates (x, y, z) and the brain's logit."""


class Locator(nn.Module):
    """Image and coverage in; template coordinates [100 mm, LPS] and the logit of brain out, four times coarser.

    Parameters
    ----------
    width
        Channels of the output's level, a multiple of 16; the coarser levels have twice and three times as many.

    Raises
    ------
    ConfigError
        The width is out of range.
    """

    multiple = 32

    def __init__(self, *, width: int = 32) -> None:
        super().__init__()
        if width % 16 or width <= 0:
            raise ConfigError("locator", expected="width a multiple of 16", got=str(width))
        self.head = _conv(8 * INPUT, 24)
        self.one = nn.Sequential(_conv(24, width, stride=2), _conv(width, width))
        self.two = nn.Sequential(_conv(width, 2 * width, stride=2), _conv(2 * width, 2 * width))
        self.three = nn.Sequential(
            _conv(2 * width, 3 * width, stride=2), _conv(3 * width, 3 * width), _conv(3 * width, 3 * width)
        )
        self.up_two = nn.Conv3d(3 * width, 2 * width, 1)
        self.back_two = _conv(2 * width, 2 * width)
        self.up_one = nn.Conv3d(2 * width, width, 1)
        self.back_one = _conv(width, width)
        self.tail = nn.Conv3d(width, OUTPUT, 1)

    def forward(self, x: Tensor) -> Tensor:  # (n, 2, z, y, x)
        """Return (n, 4, z / 4, y / 4, x / 4)."""
        n, c, *sides = x.shape
        z, y, w = (side // 2 for side in sides)
        blocks = x.reshape(n, c, z, 2, y, 2, w, 2).permute(0, 1, 3, 5, 7, 2, 4, 6)
        one = self.one(self.head(blocks.reshape(n, 8 * c, z, y, w)))  # (n, width, z / 4, y / 4, x / 4)
        two = self.two(one)
        three = self.three(two)
        two = self.back_two(two + _twice(self.up_two(three)))
        one = self.back_one(one + _twice(self.up_one(two)))
        out: Tensor = self.tail(one)
        return out


def _conv(channels: int, wanted: int, *, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv3d(channels, wanted, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.GroupNorm(_GROUPS, wanted), nn.LeakyReLU(0.1))


def _twice(x: Tensor) -> Tensor:
    grown: Tensor = functional.interpolate(x, scale_factor=2.0, mode="nearest")
    return grown


__all__ = ["INPUT", "OUTPUT", "SHRINK", "Locator"]
