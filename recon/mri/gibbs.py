"""Gibbs ringing, removed where it is: each voxel takes the shift at which its surroundings ring least."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acquisition.errors import ConfigError
from acquisition.items import Image, Item, Kind
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from recon.mri.space import Axis, spaces

_PART = 0.02  # missing part of one side of k-space from which an axis counts as partial Fourier


@dataclass(kw_only=True)
class Gibbs:
    """Local subvoxel shifts in plane, on magnitude or complex images.

    The image is split into what rings along x and what rings along y; each is sampled at shifts of up to half a voxel,
    and each voxel takes the shift with the least total variation beside it, interpolated back to its place. Ringing has
    the period of the measured voxel: along a direction that was zero-filled, or of which partial Fourier left one side
    out, nothing is done and a FLAG says so. A k-space filter in front leaves nothing to do and is flagged too.

    References
    ----------
    Kellner et al., Magn Reson Med 2016;76:1574, DOI 10.1002/mrm.26054.
    """

    n_shifts: int = 20
    """Shifts on each side of a voxel's place."""
    window: tuple[int, int] = (1, 3)
    """Nearest and farthest neighbour whose variation counts [voxels]."""

    def __post_init__(self) -> None:
        if not 1 <= self.n_shifts <= 100:
            raise ConfigError("image.gibbs n_shifts", expected="1 to 100", got=str(self.n_shifts))
        if len(self.window) != 2 or not 1 <= self.window[0] <= self.window[1] <= 16:
            expected = "two growing whole numbers from 1 to 16"
            raise ConfigError("image.gibbs window", expected=expected, got=str(self.window))

    def open(self, scan: Scan) -> None:
        """Find out along which directions ringing has the period of a voxel."""
        space = spaces(scan)[0]
        self._fine = tuple(_unsuited(axis) for axis in (space.y, space.x))

    def feed(self, item: Item) -> Iterator[Item]:
        """Correct magnitude and complex images; other items pass."""
        yield self._corrected(item) if isinstance(item, Image) and _suited(item) else item

    def close(self) -> Iterator[Item]:
        """Nothing is left to do."""
        return iter(())

    def _corrected(self, image: Image) -> Image:
        reasons = [why for why in self._fine if why]
        if image.provenance.notes.get("k-space filter") or image.provenance.notes.get("interpolation"):
            return image.with_verdicts(_told("the image was filtered or interpolated before", done=False))
        axes = tuple(axis for axis, why in zip((-2, -1), self._fine, strict=True) if not why)
        data = unringed(image.data, axes, n_shifts=self.n_shifts, window=(self.window[0], self.window[1]))
        names = " and ".join("yx"[axis] for axis in axes) or "no direction"
        notes = {**image.provenance.notes, "Gibbs": f"local subvoxel shifts along {names}"}
        image = replace(image, data=data, provenance=replace(image.provenance, notes=notes))
        return image.with_verdicts(_told("; ".join(reasons), done=bool(axes))) if reasons else image


def unringed(
    data: NDArray, axes: tuple[int, ...] = (-2, -1), *, n_shifts: int = 20, window: tuple[int, int] = (1, 3)
) -> NDArray:
    """Return images (..., y, x) without ringing along `axes` (of -2 and -1).

    Parameters
    ----------
    data
        Real or complex.
    axes
        Directions that are corrected.
    n_shifts
        Shifts on each side.
    window
        Nearest and farthest neighbour whose variation counts.
    """
    image = torch.from_numpy(np.ascontiguousarray(data))
    image = image.to(torch.complex64 if image.is_complex() else torch.float32)
    if not axes or min(image.shape[-2:]) < 2 * window[1] + 2:
        return image.numpy()
    along_x, along_y = _split(image)
    if -1 in axes:
        along_x = _shifted_back(along_x, n_shifts, window)
    if -2 in axes:
        along_y = _shifted_back(along_y.transpose(-1, -2), n_shifts, window).transpose(-1, -2)
    return (along_x + along_y).contiguous().numpy()


def _split(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return the part of the image that rings along x and the one that rings along y; their sum is the image."""
    n_y, n_x = image.shape[-2:]
    c_y = 1 + torch.cos(2 * torch.pi * torch.fft.fftfreq(n_y))[:, None]
    c_x = 1 + torch.cos(2 * torch.pi * torch.fft.fftfreq(n_x))[None]
    weight = torch.where(c_x + c_y > 1e-6, c_y / (c_x + c_y).clamp_min(1e-6), torch.full((), 0.5))
    made = torch.fft.ifft2(torch.fft.fft2(image) * weight)
    along_x = made if image.is_complex() else made.real
    return along_x, image - along_x


def _shifted_back(image: Tensor, n_shifts: int, window: tuple[int, int]) -> Tensor:
    """Return the image with each voxel taken from its best shift along the last axis."""
    image = image.contiguous()
    n = image.shape[-1]
    spectrum = torch.fft.fft(image) if image.is_complex() else torch.fft.rfft(image)
    k = torch.fft.fftfreq(n) if image.is_complex() else torch.fft.rfftfreq(n)
    out, least = image.clone(), _ringing(image, window)
    for step in range(-n_shifts, n_shifts + 1):
        if step == 0:
            continue
        shift = step / (2 * n_shifts)
        ramp = torch.polar(torch.ones_like(k), 2 * torch.pi * shift * k)
        moved = torch.fft.ifft(spectrum * ramp) if image.is_complex() else torch.fft.irfft(spectrum * ramp, n)
        ringing = _ringing(moved, window)
        neighbour = moved.roll(1 if shift > 0 else -1, -1)  # the voxel's own place lies between the two
        value = torch.lerp(moved, neighbour, abs(shift))
        better = ringing < least
        least = torch.where(better, ringing, least)
        out = torch.where(better, value, out)
    return out


def _ringing(image: Tensor, window: tuple[int, int]) -> Tensor:
    """Return the total variation on the quieter side of each voxel, along the last axis."""
    change = image - image.roll(1, -1)  # between a voxel and the one before
    size = change.real.abs() + change.imag.abs() if change.is_complex() else change.abs()
    nearest, farthest = window
    right = sum((size.roll(-i, -1) for i in range(nearest, farthest + 1)), torch.zeros_like(size))
    left = right.roll(nearest + farthest - 1, -1)
    return torch.minimum(left, right)


def _suited(image: Image) -> bool:
    return image.kind in (Kind.MAGNITUDE, Kind.COMPLEX) and image.output == "conventional"


def _unsuited(axis: Axis) -> str:
    """Return why nothing can be done along this axis; empty where it can."""
    if axis.padded != axis.encoded:
        return f"{axis.name} is interpolated"
    below, above = axis.encoded // 2 - axis.indices.start, axis.indices.stop - 1 - axis.encoded // 2
    if axis.name != "x" and abs(below - above) > 1 + _PART * axis.encoded:
        return f"{axis.name} is partial Fourier"
    return ""


def _told(why: str, *, done: bool) -> Verdict:
    part = "along one direction only" if done else "not at all"
    return Verdict(
        check="image.gibbs",
        level=Level.FLAG,
        advice=f"Ringing was removed {part}: beside sharp edges there may be lines that are no anatomy.",
        evidence=why,
    )
