"""How much each ray of a circular scan counts, where some are measured twice: weights of a ray and its opposite add up.

A ray of the view at angle a and fan angle g is measured again, the other way, at ``a + pi - 2 g`` and ``-g``. Weights
are normalised so that a ray and its opposite together count 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import ReconError

Floats = NDArray[np.float64]
_SYMMETRIC = 0.9  # shorter side of the fan as a part of the longer one, from which the detector counts as centred


def redundancy(turned_rad: Floats, fan_rad: Floats, *, where: str) -> Floats:
    """Return the weight of each ray, shape (view, channel).

    A full turn counts each ray half; what was measured beyond it fades in and out. With the detector moved aside, the
    part of the fan that both sides see changes over smoothly (Wang, Med Phys 2002;29:1634, DOI 10.1118/1.1489043).
    From half a turn and the fan angle up to a full turn: Parker (Med Phys 1982;9:254, DOI 10.1118/1.595078), with what
    was measured beyond the least spent on the transition (Silver, Med Phys 2000;27:773, DOI 10.1118/1.598939).

    Parameters
    ----------
    turned_rad
        How far the gantry had turned at each view, growing in its direction, from the first [rad], (view,).
    fan_rad
        Fan angle of each channel, growing in the direction of rotation [rad], (channel,).
    where
        Named in errors.

    Raises
    ------
    ReconError
        The views cover too little.
    """
    step = float(turned_rad[-1] - turned_rad[0]) / (len(turned_rad) - 1)
    total, beta = len(turned_rad) * step, turned_rad - turned_rad[0] + step / 2
    short, long = sorted((float(-fan_rad[0]), float(fan_rad[-1])))
    if total > 2 * np.pi - step / 2:
        return _turn(beta, total, step)[:, None] * _aside(fan_rad, short, long)
    if moved_aside(short, long):
        raise ReconError(
            where,
            expected="a full turn, because the detector is moved aside",
            got=f"{np.rad2deg(total):.1f} degrees",
            action="check whether the rotation was cut short",
        )
    spare = (total - np.pi) / 2
    if spare < long - step:
        raise ReconError(
            where,
            expected=f"half a turn and the fan angle: {180 + 2 * np.rad2deg(long):.1f} degrees",
            got=f"{np.rad2deg(total):.1f} degrees",
            action="check whether the rotation was cut short, or choose an iterative protocol",
        )
    return _parker(beta, fan_rad, max(spare, long + step / 2))


def moved_aside(one_rad: float, other_rad: float) -> bool:
    """Whether a fan that goes so far to its two sides counts as a detector moved aside, which needs a full turn."""
    return min(one_rad, other_rad) < _SYMMETRIC * max(one_rad, other_rad)


def _turn(beta: Floats, total: float, step: float) -> Floats:
    excess = total - 2 * np.pi
    if excess < 1.5 * step:
        return np.full(len(beta), 0.5 * 2 * np.pi / total)
    rise = np.clip(np.minimum(beta, total - beta) / excess, 0, 1)
    return 0.5 * np.sin(np.pi / 2 * rise) ** 2


def _aside(fan: Floats, short: float, long: float) -> Floats:
    if not moved_aside(short, long):
        return np.ones(len(fan))
    towards = fan if fan[-1] >= -fan[0] else -fan
    return 1 + np.sin(np.pi / 2 * np.clip(towards / short, -1, 1))


def _parker(beta: Floats, fan: Floats, spare: float) -> Floats:
    b, g = beta[:, None], fan[None, :]
    early = b / (2 * (spare + g))
    late = (np.pi + 2 * spare - b) / (2 * (spare - g))
    return np.sin(np.pi / 2 * np.clip(np.minimum(early, late), 0, 1)) ** 2
