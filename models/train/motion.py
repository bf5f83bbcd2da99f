"""A patient who moves between the shots of a scan: the lines of each shot, how the head moves, what is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from acquisition.errors import ConfigError
from models.train.contrast import TRAINS, Protocol
from models.train.encode import Coils, Complex, cropped_kspace
from models.train.scene import Scene, magnetisation
from models.train.tissue import Tissues

MOVEMENTS = ("still", "drift", "step", "nod", "twitch")
"""Kinds of movement."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Movement:
    """Where the head is during each shot, relative to a still one."""

    rotation_deg: NDArray[np.float64]
    """Rotation vector about the head axes (z, y, x), shape (shot, 3) [degrees]."""
    shift_mm: NDArray[np.float64]
    """Shift along the head axes (z, y, x), shape (shot, 3) [mm]."""

    @property
    def score_mm(self) -> float:
        """Mean way of a point 64 mm from the middle against the mean pose [mm]: how bad it is."""
        turn = np.linalg.norm(np.deg2rad(self.rotation_deg - self.rotation_deg.mean(0)), axis=1) * 64
        return float(np.hypot(turn, np.linalg.norm(self.shift_mm - self.shift_mm.mean(0), axis=1)).mean())


def random_movement(n_shots: int, rng: np.random.Generator, *, kind: str = "", severity: float = 1.0) -> Movement:
    """Return a movement; at severity 1 heads turn by up to some 3 degrees and shift by up to some 2 mm.

    Raises
    ------
    ConfigError
        The kind is unknown or there are no shots.
    """
    kind = kind or str(rng.choice(MOVEMENTS))
    if kind not in MOVEMENTS or n_shots < 1:
        raise ConfigError("movement", expected=f"one of {', '.join(MOVEMENTS)} over shots", got=f"{kind!r}, {n_shots}")
    time = np.arange(n_shots) / max(n_shots - 1, 1)
    course = np.zeros(n_shots)
    if kind == "drift":
        course = time ** rng.uniform(0.6, 1.6)
    elif kind == "step":
        for _ in range(rng.integers(1, 4)):
            course = course + rng.choice([-1, 1]) * (time >= rng.uniform(0.05, 0.95))
    elif kind == "nod":
        course = np.sin(2 * np.pi * (rng.uniform(1, 6) * time + rng.random())) * rng.uniform(0.3, 1)
    elif kind == "twitch":
        for _ in range(rng.integers(1, 5)):
            course = course + (np.abs(time - rng.random()) < rng.uniform(0.5, 2.5) / n_shots)
    size = severity * rng.uniform(0.3, 1.0)
    wobble = (
        0.0 if kind == "still" else 0.05 * size * rng.standard_normal((n_shots, 6)).cumsum(axis=0) / np.sqrt(n_shots)
    )
    pose = size * course[:, None] * (np.array([1.5, 1.5, 3.0, 2.0, 1.0, 1.0]) * rng.normal(0, 0.6, 6)) + wobble
    return Movement(rotation_deg=pose[:, :3], shift_mm=pose[:, 3:])


def shots_of(n_lines: int, protocol: Protocol, n_shots: int = 0) -> NDArray[np.int64]:
    """Return which shot reads each phase-encoding line, shape (line,).

    A train reads one line of each of its bands per shot, so the shots are interleaved; without a train lines are read
    one after the other and a shot is a run of neighbours.

    Parameters
    ----------
    n_lines
        Lines of the matrix.
    protocol
        Its kind and length of the train.
    n_shots
        Runs of lines that share a pose where there is no train; 24 when 0.
    """
    lines = np.arange(n_lines)
    if protocol.kind in TRAINS:
        return lines % max(1, int(np.ceil(n_lines / protocol.n_echoes)))
    return lines * (n_shots or min(24, n_lines)) // n_lines


def moving_kspace(
    scene: Scene, protocol: Protocol, subject: Tissues, *, coils: Coils, movement: Movement, matrix: tuple[int, int]
) -> Complex:
    """Return noise-free k-space (coil, y, x) of a head that is somewhere else in each shot; coils and field stay.

    Raises
    ------
    ConfigError
        The movement has another number of poses than the scan has shots.
    """
    shots = shots_of(matrix[0], protocol, 0 if protocol.kind in TRAINS else len(movement.shift_mm))
    if len(movement.shift_mm) != shots.max() + 1:
        raise ConfigError(
            "movement", expected=f"{shots.max() + 1} poses, one per shot", got=str(len(movement.shift_mm))
        )
    out = np.zeros((len(coils.maps), *matrix), np.complex64)
    for pose, rows in _poses(movement, shots):
        moved = moved_scene(scene, movement.rotation_deg[pose], movement.shift_mm[pose])
        image = magnetisation(moved, protocol, [subject])[0] * coils.profile
        out[:, rows] = cropped_kspace(coils.maps * image, matrix)[:, rows]
    return out


def _poses(movement: Movement, shots: NDArray[np.int64]) -> list[tuple[int, NDArray[np.intp]]]:
    """Return (a shot, all lines read in its pose): shots in the same pose to 0.01 degrees and mm are made together."""
    poses = np.round(np.concatenate([movement.rotation_deg, movement.shift_mm], axis=1), 2)
    _, first, group = np.unique(poses, axis=0, return_index=True, return_inverse=True)
    group = group.reshape(-1)
    return [(int(first[g]), np.flatnonzero(group[shots] == g)) for g in range(len(first))]


def moved_scene(scene: Scene, rotation_deg: Sequence[float], shift_mm: Sequence[float]) -> Scene:
    """Return the scene with the head in another pose; texture and small vessels go with it in the plane."""
    plane = scene.plane
    moved = plane.moved(rotation_deg, shift_mm)
    now, before = moved.directions[1:], plane.directions[1:]
    matrix = before @ now.T  # a step along the new axes, told along the old ones
    middle = (np.asarray(plane.shape) - 1) / 2
    at = before @ (moved.centre_mm - plane.centre_mm) / plane.cell_mm + middle - matrix @ middle

    def carried(image: NDArray) -> NDArray[np.float32]:
        return ndimage.affine_transform(image, matrix, at, order=1, mode="nearest")

    return replace(scene, plane=moved, grain=carried(scene.grain), vessels=carried(scene.vessels))
