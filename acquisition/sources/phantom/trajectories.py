"""Where a scanner samples k-space when it does not go line by line: radial, spiral, blades.

Coordinates (readout, sample, dims) are parts of the encoded matrix: -0.5 to 0.5 along (x, y[, z]); the sample n // 2
of a spoke is the centre.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Trajectory = NDArray[np.float32]
_EASE = 0.15
"""How long a spiral winds out of the centre before it runs at constant speed."""
GOLDEN_RAD = math.pi * (math.sqrt(5) - 1) / 2
"""Golden angle between spokes, 111.25 degrees (Winkelmann et al., DOI 10.1109/TMI.2006.885337)."""


def radial(n_spokes: int, n_samples: int, *, golden: bool = False, first: int = 0) -> Trajectory:
    """Return spokes through the centre, evenly over half a circle or one golden angle after the other."""
    step = GOLDEN_RAD if golden else math.pi / n_spokes
    angle = (first + np.arange(n_spokes)) * step
    along = (np.arange(n_samples) - n_samples // 2) / n_samples
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return (along[None, :, None] * direction[:, None, :]).astype(np.float32)


def spiral(n_interleaves: int, n_samples: int, *, turns: float) -> Trajectory:
    """Return Archimedean spirals from the centre outwards, `turns` each: even in angle first, then in length."""
    s = np.arange(n_samples) / n_samples
    t = (np.sqrt(_EASE**2 + 4 * s * (1 + _EASE)) - _EASE) / 2  # t^2 + ease t = s (1 + ease)
    angle = 2 * math.pi * (turns * t[None] + np.arange(n_interleaves)[:, None] / n_interleaves)
    radius = 0.5 * np.broadcast_to(t, angle.shape)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1).astype(np.float32)


def propeller(n_blades: int, n_lines: int, n_samples: int, *, matrix: int) -> Trajectory:
    """Return blades of parallel lines, one cycle per field of view apart, evenly over half a circle."""
    angle = (np.arange(n_blades) * math.pi / n_blades)[:, None, None]
    across = ((np.arange(n_lines) - n_lines // 2) / matrix)[None, :, None]
    along = ((np.arange(n_samples) - n_samples // 2) / n_samples)[None, None]
    x, y = along * np.cos(angle) - across * np.sin(angle), along * np.sin(angle) + across * np.cos(angle)
    return np.stack([x, y], axis=-1).reshape(-1, n_samples, 2).astype(np.float32)


def kooshball(n_spokes: int, n_samples: int) -> Trajectory:
    """Return spokes through the centre of a sphere, spread by the spiral of Saff and Kuijlaars over half of it."""
    z = (np.arange(n_spokes) + 0.5) / n_spokes
    angle = np.arange(n_spokes) * 2.399963229728653
    ring = np.sqrt(1 - z**2)
    direction = np.stack([ring * np.cos(angle), ring * np.sin(angle), z], axis=1)
    along = (np.arange(n_samples) - n_samples // 2) / n_samples
    return (along[None, :, None] * direction[:, None, :]).astype(np.float32)


def delayed(traj: Trajectory, delays: tuple[float, float]) -> Trajectory:
    """Return where spokes really went when the gradients along x and y lag by `delays` samples."""
    n_samples = traj.shape[1]
    direction = (traj[:, -1] - traj[:, 0]) / ((n_samples - 1) / n_samples)
    shift = -np.asarray(delays, np.float32) / n_samples * direction[:, :2]
    moved = traj.copy()
    moved[..., :2] += shift[:, None]
    return moved
