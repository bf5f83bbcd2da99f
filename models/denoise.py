"""Noise taken away by a network: ``model.denoise``."""

from __future__ import annotations

from dataclasses import dataclass

from models.apply import Enhance


@dataclass(kw_only=True)
class Denoise(Enhance):
    """Give, behind each conventional image, the same with less noise (output ``denoised``) and its uncertainty.

    The conventional image goes on first and as it came. The network is used only for what its card covers; what it
    changed must look like noise (see `models.consistency`). ``denoised_uncertainty`` is the half-width of an interval
    around each pixel, in the image's unit.
    """

    check = "model.denoise"
    output = "denoised"
