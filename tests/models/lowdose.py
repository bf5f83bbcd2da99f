"""What the tests of low doses share: a small head in three states with known enhancement."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acquisition.geometry import Grid
from acquisition.items import Image
from acquisition.scan import Encoding, Equipment, Limits, MrHeader, Scan, Study
from models.pair import Pair, remaining

SHAPE = (12, 64, 64)
VOXEL_MM = (2.0, 1.2, 1.2)
NOISE = 1.0
BRIGHT = 50.0
F32 = NDArray[np.float32]


def anatomy() -> tuple[F32, F32]:
    """Return a head before the agent, and what full dose adds to it: vessels and a lesion (z, y, x)."""
    z, y, x = (np.indices(SHAPE) - (np.reshape(SHAPE, (3, 1, 1, 1)) - 1) / 2) * np.reshape(VOXEL_MM, (3, 1, 1, 1))
    inside = (y / 34) ** 2 + (x / 28) ** 2 < 1
    folds = 6 * np.sin(y / 5 + 0.2 * z) * np.sin(x / 4) + 4 * np.sin(0.3 * z + x / 9)
    pre = np.where(inside, BRIGHT + folds, 0.0)
    pre = np.where((np.abs(x) < 3) & (np.abs(y) < 12), 0.5 * pre, pre)
    gain = np.zeros(SHAPE)
    for at in ((14, -20), (-16, 18), (20, 4), (0, 27), (-20, -8)):
        gain[(x - at[0] - 0.1 * z) ** 2 + (y - at[1]) ** 2 < 2.4**2] = 45.0
    gain[z**2 + (y - 6) ** 2 + (x + 12) ** 2 < 5.0**2] = 30.0
    return pre.astype(np.float32), np.where(inside, gain, 0.0).astype(np.float32)


def noisy(image: NDArray, seed: int, noise: float = NOISE) -> F32:
    """Return a magnitude with noise."""
    chance = np.random.default_rng(seed)
    real, other = noise * chance.standard_normal((2, *image.shape))
    return np.hypot(image + real, other).astype(np.float32)


def images(dose: float = 0.1, *, noise: float = NOISE, gain: float = 1.0) -> tuple[F32, F32, F32]:
    """Return before, low and what full dose adds to low; noise in the first two."""
    pre, added = anatomy()
    low = pre + np.float32(remaining(dose)) * added
    missing = added - np.float32(remaining(dose)) * added
    return noisy(pre / gain, 1, noise / gain), noisy(low, 2, noise), missing


def pair(dose: float = 0.1, **changes: Any) -> tuple[Pair, F32]:
    """Return a pair in one place, and what is missing."""
    pre, low, missing = images(dose, **changes)
    noise = np.full_like(low, changes.get("noise", NOISE))
    return Pair(pre=pre, low=low, noise=noise, dose=dose, field_t=3.0), missing


def image(data: NDArray, **changes: Any) -> Image:
    """Return a volume."""
    grid = Grid(
        shape=SHAPE,
        spacing_mm=VOXEL_MM,
        origin_mm=(-38.0, -38.0, -11.0),
        x_dir=(1, 0, 0),
        y_dir=(0, 1, 0),
        z_dir=(0, 0, 1),
        thickness_mm=VOXEL_MM[0],
    )
    return Image(data=np.asarray(data, np.float32), grid=grid, **changes)


def slices(volume: Image) -> list[Image]:
    """Return the slices of a volume one by one, as a scan delivers them."""
    return [
        replace(
            volume,
            data=volume.data[z : z + 1],
            grid=volume.grid.plane(z),
            position=replace(volume.position, slice=z),
        )
        for z in range(SHAPE[0])
    ]


def scan(**changes: Any) -> Scan:
    """Return the header of the low-dose scan."""
    encoding = Encoding(
        matrix=(1, 64, 128),
        fov_mm=(2.0, 76.8, 153.6),
        recon_matrix=(1, 64, 64),
        recon_fov_mm=(2.0, 76.8, 76.8),
        limits={"slice": Limits(0, SHAPE[0] - 1, 0)},
    )
    header = MrHeader(encodings=(encoding,), tr_s=(0.5,), te_s=(0.01,), flip_deg=(90.0,))
    fields: dict[str, Any] = {
        "uid": "scan-low",
        "modality": "MR",
        "protocol_name": "t1_low",
        "study": Study(instance_uid="1.2.3.4", body_part="BRAIN", series_number=5),
        "equipment": Equipment(field_strength_t=3.0),
        "mr": header,
    }
    return Scan(**(fields | changes))
