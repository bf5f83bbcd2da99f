"""The head with which localizers are compared: tissue maps of an average of people, and its landmarks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull

from acquisition.errors import FileFormatError
from models.plan_fit import Floats, Maps, Prior

FILE = Path(__file__).parent / "templates" / "brain.npz"
"""The shipped template."""
_BRAIN = 4  # tissues of the brain, the first ones
_MIDDLE = np.array([0.0, 18.0, 8.0])
_COARSE_SD, _MIDDLE_SD = 7.0, 3.0  # mm
_MATRIX_SD = 0.05
_NEAR_MM, _ELSEWHERE = 6.0, 0.03


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """Tissue maps at three resolutions, landmarks, and the sizes of heads; places are template LPS [mm]."""

    coarse: Maps
    """Blurred, for the first search."""
    middle: Maps
    """Between the two."""
    fine: Maps
    """As sharp as people are alike."""
    focus: NDArray[np.float32]
    """How much a place counts for the brain's pose, on the voxels of ``fine``: neck and face turn by themselves."""
    prior: Prior
    """Sizes of heads against the template."""
    landmarks: dict[str, Floats]
    """By name."""
    middle_mm: Floats
    """About the brain's middle."""
    surface_mm: Floats
    """Points of the brain that enclose it (n, 3)."""


@lru_cache(maxsize=2)
def load_template(path: Path = FILE) -> Template:
    """Return the template; read once.

    Raises
    ------
    FileFormatError
        The file is absent or no template.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            parts = file["parts"].astype(np.float32) / 255
            stretch = file["stretch"]
            landmarks = {k.removeprefix("mark_"): np.asarray(file[k], float) for k in file.files if k[:5] == "mark_"}
    except (OSError, KeyError, ValueError) as error:
        raise FileFormatError(f"template {path}", expected="tissue maps and landmarks", got=str(error)) from error
    first, step = np.array([-98.0, -98.0, -72.0]), 2.0
    return Template(
        coarse=_blurred(parts, first, step, _COARSE_SD),
        middle=_blurred(parts, first, step, _MIDDLE_SD),
        fine=Maps(parts, first, step, _MIDDLE, _BRAIN),
        focus=_focus(parts, step),
        prior=Prior(stretch, _MATRIX_SD),
        landmarks=landmarks,
        middle_mm=_MIDDLE,
        surface_mm=_surface(parts, first, step),
    )


def _surface(parts: NDArray[np.float32], first: Floats, step: float) -> Floats:
    """Return the voxels of brain that have the most extreme place along some direction."""
    brain = np.argwhere(parts[..., :3].sum(axis=-1) > 0.5)[:, ::-1] * step + first
    return np.asarray(brain[ConvexHull(brain).vertices])


def _focus(parts: NDArray[np.float32], step: float) -> NDArray[np.float32]:
    brain = parts[..., :3].sum(axis=-1) > 0.4
    near = ndimage.binary_dilation(brain, iterations=round(_NEAR_MM / step))
    soft = ndimage.gaussian_filter(near.astype(np.float32), 2.0 / step)
    return np.asarray(_ELSEWHERE + (1 - _ELSEWHERE) * soft, np.float32)


def _blurred(parts: NDArray[np.float32], first: Floats, step: float, sd_mm: float) -> Maps:
    """Return the maps smoothed, on every second voxel."""
    smooth = np.stack(
        [ndimage.gaussian_filter(parts[..., k], sd_mm / step)[::2, ::2, ::2] for k in range(parts.shape[3])], axis=-1
    )
    return Maps(np.ascontiguousarray(smooth), first, 2 * step, _MIDDLE, _BRAIN)
