"""Localizers of labelled heads in any pose and contrast, with their AC, PC and mid-sagittal plane: to measure plans.

Half of them obey a sequence (`contrast.signals`), half have any brightness per tissue (Billot et al., Med Image Anal
2023;86:102789, DOI 10.1016/j.media.2023.102789).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from acquisition.geometry import Grid
from acquisition.items import Image
from kernels.compile import compiled
from models.train.atlas import Atlas
from models.train.contrast import random_protocol, signals
from models.train.labels import Head
from models.train.tissue import NAMES, NUMBER, PARENCHYMA, tissues

F32 = NDArray[np.float32]
Floats = NDArray[np.float64]
_POINTS = 6
_BRAIN = np.isin(np.arange(len(NAMES)), [NUMBER[n] for n in (*PARENCHYMA, "ventricle", "csf", "choroid", "dura")])
_FLATTER = 4.0  # weight of middles that lie off the plane against pairs that are askew


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pose:
    """How a head lies in the room: ``voxel = brain's middle + matrix @ (place - shift_mm)``, axes (z, y, x)."""

    matrix: Floats
    """From places in the room to voxels of the head (3, 3)."""
    shift_mm: Floats
    """Where the brain's middle is (z, y, x) [mm]."""

    def voxels(self, places_mm: Floats, head: Head) -> Floats:
        """Return voxels of the head (n, 3) at places (n, 3) [mm]."""
        return np.asarray((places_mm - self.shift_mm) @ self.matrix.T + head.centre)

    def place(self, voxel: Floats, head: Head) -> Floats:
        """Return where a voxel (z, y, x) of the head is, LPS (x, y, z) [mm]."""
        return np.asarray((np.linalg.solve(self.matrix, voxel - head.centre) + self.shift_mm)[::-1])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Truth:
    """Where things are in a posed head, LPS [mm]."""

    ac: Floats
    """Anterior commissure."""
    pc: Floats
    """Posterior commissure."""
    left: Floats
    """Unit normal of the mid-sagittal plane, from pairs of structures."""

    @property
    def posterior(self) -> Floats:
        """Unit vector from AC to PC in the mid-sagittal plane."""
        along = self.pc - self.ac
        along = along - (along @ self.left) * self.left
        return np.asarray(along / np.linalg.norm(along))

    @property
    def superior(self) -> Floats:
        """Unit normal of the AC-PC plane."""
        return np.asarray(np.cross(self.left, self.posterior))


def truth_of(pose: Pose, head: Head, atlas: Atlas) -> Truth:
    """Return a posed head's truth: AC and PC of its atlas, the plane between its pairs of structures."""
    places = {name: pose.place(voxel, head) for name, voxel in atlas.landmarks.items()}
    pairs = [(places[n], places["R" + n[1:]]) for n in places if n[0] == "L" and n[1:].isdigit()]
    across = np.array([left - right for left, right in pairs])
    middles = np.array([(left + right) / 2 for left, right in pairs])
    off = middles - middles.mean(axis=0)
    square = sum(d @ d * np.eye(3) - np.outer(d, d) for d in across) + _FLATTER * off.T @ off
    normal = np.linalg.eigh(square)[1][:, 0]
    return Truth(ac=places["AC"], pc=places["PC"], left=normal * np.sign(normal @ across.sum(axis=0)))


def random_pose(head: Head, atlas: Atlas, rng: np.random.Generator, *, largest_deg: float = 45.0) -> Pose:
    """Return a pose: from AC-PC level turned by up to `largest_deg` about any axis, shifted by some centimetres."""
    axis = rng.normal(size=3)
    angle = np.deg2rad(largest_deg) * rng.uniform() ** 0.7
    turn = Rotation.from_rotvec(axis / np.linalg.norm(axis) * angle).as_matrix()
    shift = np.clip(rng.normal(0, (20, 15, 15), 3), -50, 50)
    return Pose(matrix=level(head, atlas).T @ turn.T, shift_mm=shift)


def level(head: Head, atlas: Atlas) -> Floats:
    """Return the rotation that brings a head's AC-PC plane level and its nose forward, axes (z, y, x)."""
    own = truth_of(Pose(matrix=np.eye(3), shift_mm=np.zeros(3)), head, atlas)
    return np.stack([own.superior[::-1], own.posterior[::-1], own.left[::-1]])


def random_values(rng: np.random.Generator) -> Floats:
    """Return the brightness of each tissue: of a sequence, or any; at times of the brain alone."""
    if rng.random() < 0.5:
        protocol = random_protocol(rng)
        signal = signals(protocol, tissues(protocol.field_t, rng))
        values = np.abs(signal.water + signal.fat)
    else:
        values = rng.uniform(0.05, 1.0, len(NAMES))
        values[NUMBER["cerebellar_white"]] = values[NUMBER["white"]] * rng.normal(1, 0.05)
        values[NUMBER["cerebellar_cortex"]] = values[NUMBER["cortex"]] * rng.normal(1, 0.05)
        values[NUMBER["ventricle"]] = values[NUMBER["csf"]] * rng.normal(1, 0.05)
        values[NUMBER["cortical_bone"]] *= rng.choice([0.1, 1.0])
    values = values / max(float(values.max()), 1e-6)
    values[0] = 0.0
    if rng.random() < 0.12:
        values[~_BRAIN] = 0.0
    return np.asarray(values)


def scanned(
    head: Head, pose: Pose, grid: Grid, *, values: Floats, rng: np.random.Generator, noise: float = 0.02
) -> Image:
    """Return one stack of a localizer, its middle 0 being the middle of the room: bias and Rician noise in it.

    Parameters
    ----------
    head, pose
        What lies in the scanner, and how.
    grid
        The stack, LPS [mm].
    values
        Brightness of each tissue.
    rng
        Draws points within the voxels, noise and bias.
    noise
        Standard deviation, as a part of the 90th percentile of what is bright.
    """
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), axis=-1).reshape(-1, 3)
    affine = grid.affine
    places = (index[:, ::-1] @ affine[:3, :3].T + affine[:3, 3])[:, ::-1]  # z, y, x
    sides = np.array([grid.thickness_mm, *grid.spacing_mm[1:]])
    axes = np.stack([grid.z_dir, grid.y_dir, grid.x_dir])[:, ::-1]
    around = (rng.uniform(-0.5, 0.5, (_POINTS, 3)) * sides) @ axes @ pose.matrix.T
    out = np.empty(len(places), np.float32)
    _mean_around(np.asarray(head.tissue), values.astype(np.float32), pose.voxels(places, head), around, out)
    unit = places / 100
    bend = rng.normal(0, 0.25, 9)
    terms = np.stack([*unit.T, *(unit**2).T, unit[:, 0] * unit[:, 1], unit[:, 0] * unit[:, 2], unit[:, 1] * unit[:, 2]])
    out *= np.exp(np.clip(bend @ terms, -1.0, 1.0))
    bright = out[out > 0.1 * max(float(out.max()), 1e-6)]
    sigma = noise * float(np.percentile(bright, 90)) if bright.size else noise
    noisy = np.hypot(out + sigma * rng.standard_normal(out.shape), sigma * rng.standard_normal(out.shape))
    return Image(data=noisy.astype(np.float32).reshape(grid.shape), grid=grid)


@compiled
def _mean_around(
    tissue: NDArray[np.uint8], values: F32, at: Floats, around: Floats, out: F32
) -> None:  # pragma: no cover - compiled
    """Average the values of the tissues at points around each place; the neck goes on below the map."""
    n_z, n_y, n_x = tissue.shape
    for i in range(len(at)):
        total = np.float32(0)
        for k in range(len(around)):
            z = int(max(at[i, 0] + around[k, 0], 0.0) + 0.5)
            y = int(np.floor(at[i, 1] + around[k, 1] + 0.5))
            x = int(np.floor(at[i, 2] + around[k, 2] + 0.5))
            if z < n_z and y >= 0 and y < n_y and x >= 0 and x < n_x:
                total += values[tissue[z, y, x]]
        out[i] = total / np.float32(len(around))


def random_grids(rng: np.random.Generator) -> list[Grid]:
    """Return the stacks of a localizer: three planes, a volume, or one stack; some are cut, some oblique."""
    tilt = Rotation.from_euler("xyz", rng.normal(0, 2, 3), degrees=True).as_matrix()
    axes = {"axial": np.eye(3), "coronal": np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0.0]])}
    axes["sagittal"] = np.array([[0, 1, 0], [0, 0, -1], [-1, 0, 0.0]])
    kind = rng.random()
    off = rng.normal(0, 6, 3)
    if kind < 0.5:
        n, thickness = int(rng.integers(5, 12)), float(rng.uniform(5, 8))
        step = thickness + float(rng.uniform(2, 12))
        pixel = float(rng.uniform(1.2, 2.4))
        plan = [(name, n, step, thickness, pixel) for name in axes]
    elif kind < 0.75:
        side = float(rng.uniform(1.6, 3.5))
        plan = [("axial", round(float(rng.uniform(130, 250)) / side), side, side, side)]
    else:
        name, thickness = str(rng.choice(list(axes))), float(rng.uniform(3, 6))
        step = thickness * float(rng.choice([1.0, 1.1, 1.3]))
        plan = [(name, round(float(rng.uniform(130, 220)) / step), step, thickness, float(rng.uniform(1.0, 2.0)))]
    grids = []
    for name, n, step, thickness, pixel in plan:
        fov = float(rng.uniform(210, 280))
        grids.append(
            Grid.from_centre(
                off,
                shape=(n, round(fov / pixel), round(fov / pixel)),
                spacing_mm=(step, pixel, pixel),
                directions=axes[name] @ tilt.T,
                thickness_mm=thickness,
            )
        )
    return grids
