"""Non-local means: each voxel becomes the mean of voxels whose surroundings look like its own: ``image.nlm``.

Buades, Coll, Morel, Multiscale Model Simul 2005;4:490, DOI 10.1137/040616024; volumes, and the distance that noise
alone makes: Coupe et al., IEEE Trans Med Imaging 2008;27:425, DOI 10.1109/TMI.2007.906087; noise that differs from
place to place: Manjon et al., J Magn Reson Imaging 2010;31:192, DOI 10.1002/jmri.22003.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import ConfigError
from acquisition.items import Image, Item
from acquisition.scan import Scan
from kernels.alike import add_alike
from recon.noise import local_noise

F32 = NDArray[np.float32]
_LEAST = 1e-12


@dataclass(kw_only=True)
class NonLocalMeans:
    """Give, behind each conventional image, the same with less noise (output ``nlm``); volumes as volumes.

    The classical method that a network must beat. The noise is read from the image as ``image.noise`` does.
    """

    strength: float = 0.25
    """How much two patches may differ beyond the noise [variances of the noise]: larger is smoother."""
    patch_px: int = 1
    """Half of the side of a patch, which has ``2 patch_px + 1`` voxels [pixels]."""
    reach_px: tuple[int, int] = (2, 7)
    """How far away the like is looked for, across and within slices [pixels]."""

    def __post_init__(self) -> None:
        checked(self.strength, self.patch_px, self.reach_px)

    def open(self, scan: Scan) -> None:
        """Nothing depends on the scan."""

    def feed(self, item: Item) -> Iterator[Item]:
        """Pass everything on; behind each conventional image the smoother one."""
        yield item
        if isinstance(item, Image) and item.output == "conventional":
            data = item.data.reshape(item.grid.shape)
            made = non_local_means(
                data, local_noise(data), strength=self.strength, patch=self.patch_px, reach=self.reach_px
            )
            yield replace(item, data=made.reshape(item.data.shape), output="nlm")

    def close(self) -> Iterator[Item]:
        """Nothing is left to do."""
        return iter(())


def non_local_means(
    data: NDArray, noise: NDArray, *, strength: float = 0.25, patch: int = 1, reach: tuple[int, int] = (2, 7)
) -> NDArray:
    """Return a volume (z, y, x) with less noise.

    Parameters
    ----------
    data
        Real or complex values; the parts of complex ones are averaged alike.
    noise
        Standard deviation of the noise of each (of the real part), same unit.
    strength
        How much patches may differ beyond the noise, in variances of the noise.
    patch
        Half of the side of a patch.
    reach
        How far away the like is looked for, across and within slices.

    Raises
    ------
    ConfigError
        A parameter is out of range.
    """
    checked(strength, patch, reach)
    if np.iscomplexobj(data):
        parts = [non_local_means(p, noise, strength=strength, patch=patch, reach=reach) for p in (data.real, data.imag)]
        return (parts[0] + 1j * parts[1]).astype(data.dtype)
    values = np.ascontiguousarray(data, np.float32)
    scaled = (values / np.maximum(noise, _LEAST)).astype(np.float32)
    sums = (np.zeros_like(values), np.zeros_like(values), np.full_like(values, _LEAST))
    room = (np.empty(values.shape[1:], np.float32), np.empty_like(values))
    for offset in _offsets(values.shape, reach):
        add_alike(values, scaled, offset, (patch, 2.0, 2 * strength), room, sums)
    total, weights, most = sums  # a voxel is as like itself as the most alike of the others
    return ((total + most * values) / (weights + most)).astype(data.dtype)


def checked(strength: float, patch: int, reach: tuple[int, int]) -> None:
    """Check the parameters.

    Raises
    ------
    ConfigError
        One is out of range.
    """
    if not strength > 0 or not 0 <= patch <= 8 or len(reach) != 2 or not 0 <= reach[0] <= 15 or not 1 <= reach[1] <= 31:
        raise ConfigError(
            "image.nlm",
            expected="strength above 0, patch_px 0 to 8, reach_px 0 to 15 and 1 to 31",
            got=f"{strength}, {patch}, {reach}",
        )


def _offsets(shape: tuple[int, ...], reach: tuple[int, int]) -> Iterator[tuple[int, int, int]]:
    """Yield half of the offsets within reach: the other half is the same pairs seen from the other voxel."""
    across, within = min(reach[0], shape[0] - 1), reach[1]
    n_y, n_x = min(within, shape[1] - 1), min(within, shape[2] - 1)
    for offset in product(range(across + 1), range(-n_y, n_y + 1), range(-n_x, n_x + 1)):
        if offset > (0, 0, 0):
            yield offset
