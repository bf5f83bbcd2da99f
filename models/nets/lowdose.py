"""A U-Net that fills in what a small dose of contrast agent left out: never below 0, never above the physical bound.

Pinetz et al. 2024, arXiv 2403.03539 (the enhancement predicted from the noisy subtraction, told the field and the
dose); Gong et al., J Magn Reson Imaging 2018;48:330, DOI 10.1002/jmri.25970 (before and low dose in, full dose out).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.nets.unet import UNet


class LowDose(nn.Module):
    """Channels of `models.pair.Pair.planes` in, the correction of the first one out.

    The sum of both is the enhancement that is missing. It is clamped to 0 and to the second channel, but not while
    training: what is outside there must still be told in which direction to go.

    Parameters
    ----------
    slices
        Slices of the difference among the channels.
    width, levels, blocks
        Of `UNet`.
    """

    def __init__(self, *, slices: int = 5, width: int = 32, levels: int = 3, blocks: int = 1) -> None:
        super().__init__()
        self.unet = UNet(image_channels=slices + 5, width=width, levels=levels, blocks=blocks)
        self.multiple = self.unet.multiple

    def forward(self, x: Tensor) -> Tensor:  # (n, slices + 7, y, x)
        """Return the correction (n, 1, y, x)."""
        first, bound = x[:, :1], x[:, 1:2]
        correction: Tensor = self.unet(torch.cat([first, x[:, 2:]], dim=1))
        if self.training:
            return correction
        return torch.minimum(torch.relu(first + correction), bound) - first
