"""Localizers of labelled heads in any pose: what slices of any thickness and gap see of them, in any contrast.

Each cell of the network's grid that a slice covers is the mean of a few points of the slice around it, so thick slices
and three-plane localizers cost less than volumes. Contrast: half of the samples obey a sequence (`contrast.signals`),
half have any brightness per tissue (Billot et al., Med Image Anal 2023;86:102789, DOI 10.1016/j.media.2023.102789).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from acquisition.geometry import Grid
from acquisition.items import Image
from kernels.compile import compiled
from models.cells import CELL_MM, SIDE, normalised
from models.train.atlas import Atlas
from models.train.contrast import random_protocol, signals
from models.train.fields import spline_matrix
from models.train.labels import Head
from models.train.tissue import NAMES, NUMBER, PARENCHYMA, tissues

F32 = NDArray[np.float32]
Floats = NDArray[np.float64]
_POINTS = 6
_WARP_MM, _WARP_KNOTS = 3.0, 6
_BRAIN = np.isin(np.arange(len(NAMES)), [NUMBER[n] for n in (*PARENCHYMA, "ventricle", "csf", "choroid", "dura")])
_INSIDE = np.isin(np.arange(len(NAMES)), [NUMBER[n] for n in (*PARENCHYMA, "ventricle", "choroid")])


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Parallel slices of a localizer, along the axes of the network's grid."""

    axis: int
    """Grid axis (z, y, x: 0, 1, 2) across the slices."""
    places_mm: tuple[float, ...]
    """Their places along it, from the middle of the grid [mm]."""
    thickness_mm: float
    """Of each slice [mm]."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pose:
    """How a head lies in the network's grid: ``voxel = middle + matrix @ (place - shift_mm) + warp``."""

    matrix: Floats
    """From places in the room to voxels of the head, axes (z, y, x), (3, 3)."""
    shift_mm: Floats
    """Where the brain's middle is, from the middle of the grid (z, y, x) [mm]."""
    warp: F32
    """Displacement of knots over the grid [voxels], shape (3, k, k, k); of no size for none."""

    def voxels(self, places_mm: Floats, head: Head) -> Floats:
        """Return voxels of the head (n, 3) at places (n, 3) [mm] without the warp."""
        return np.asarray((places_mm - self.shift_mm) @ self.matrix.T + head.centre)


def random_pose(rng: np.random.Generator, *, largest_deg: float = 45.0, deform: bool = True) -> Pose:
    """Return a pose: turned by up to `largest_deg` about any axis, shifted by some centimetres.

    With `deform`, the head is stretched, sheared and warped as well, and mirrored in half of all cases.
    """
    axis = rng.normal(size=3)
    angle = np.deg2rad(largest_deg) * rng.uniform() ** 0.7
    turn = Rotation.from_rotvec(axis / np.linalg.norm(axis) * angle).as_matrix()
    stretch, warp = np.eye(3), np.zeros((3, 0, 0, 0), np.float32)
    if deform:
        stretch = np.diag(1 / rng.normal(1.0, 0.06, 3).clip(0.82, 1.18)) + rng.normal(0, 0.02, (3, 3))
        stretch[:, 2] *= rng.choice([-1.0, 1.0])
        warp = rng.normal(0, _WARP_MM, (3, _WARP_KNOTS, _WARP_KNOTS, _WARP_KNOTS)).astype(np.float32)
    shift = np.clip(rng.normal(0, (20, 15, 15), 3), -50, 50)
    return Pose(matrix=stretch @ turn.T, shift_mm=shift, warp=warp)


def random_stacks(rng: np.random.Generator) -> list[Stack]:
    """Return what a localizer covers: a volume, one stack with or without gaps, or three planes."""
    kind = rng.random()
    if kind < 0.3:
        return [_stack(0, float(rng.uniform(2.0, 5.0)), 0.0, rng)]
    if kind < 0.55:
        thickness = float(rng.uniform(3.0, 9.0))
        return [_stack(int(rng.integers(3)), thickness, thickness * float(rng.choice([0.0, 0.1, 0.3, 1.0])), rng)]
    thickness, gap = float(rng.uniform(4.0, 10.0)), float(rng.uniform(0.5, 18.0))
    n = int(rng.integers(3, 12))
    return [_stack(axis, thickness, gap, rng, n=n) for axis in range(3)]


def _stack(axis: int, thickness: float, gap: float, rng: np.random.Generator, *, n: int = 0) -> Stack:
    """Return `n` slices about a place near the middle, or as many as the grid holds, ends cut off by chance."""
    step = thickness + gap
    if n:
        places = (np.arange(n) - (n - 1) / 2) * step + rng.normal(0, 8)
    else:
        half = CELL_MM * SIDE / 2
        low, high = -half, half
        if rng.random() < 0.5:
            low += rng.uniform(0, 90) if rng.random() < 0.6 else 0.0
            high -= rng.uniform(0, 70) if rng.random() < 0.6 else 0.0
        places = np.arange(low + rng.uniform(0, step), high, step)
    return Stack(axis=axis, places_mm=tuple(places.tolist()), thickness_mm=thickness)


def drawn(head: Head, pose: Pose, stacks: Sequence[Stack], values: Floats, rng: np.random.Generator) -> tuple[F32, F32]:
    """Return the image and how many slices cover each cell, both (z, y, x); no noise, no bias."""
    total, count = np.zeros((SIDE,) * 3, np.float32), np.zeros((SIDE,) * 3, np.float32)
    table, offsets = values.astype(np.float32), rng.uniform(-0.5, 0.5, (_POINTS, 3))
    warp = _warped(pose.warp)
    for stack in stacks:
        places, near = _slices(stack)
        steps = np.full(3, CELL_MM)
        steps[stack.axis] = stack.thickness_mm
        around = (offsets * steps) @ pose.matrix.T
        middle = head.centre - pose.matrix @ pose.shift_mm
        _add_slices(np.asarray(head.tissue), table, (pose.matrix, middle, around), (places, near), (warp, total, count))
    return total / np.maximum(count, 1), count


def _slices(stack: Stack) -> tuple[Floats, NDArray[np.bool_]]:
    """Return along each axis where the slices see a cell [mm], and whether any does, both (3, side)."""
    middles = (np.arange(SIDE) - (SIDE - 1) / 2) * CELL_MM
    slices = np.asarray(stack.places_mm)
    nearest = slices[np.abs(middles[:, None] - slices).argmin(axis=1)]
    places, near = np.tile(middles, (3, 1)), np.ones((3, SIDE), bool)
    places[stack.axis] = nearest
    near[stack.axis] = np.abs(middles - nearest) <= max(stack.thickness_mm, CELL_MM) / 2 + 1e-6
    return places, near


def _warped(knots: F32) -> F32:
    """Return the displacement of each cell (z, y, x, 3) [voxels]; empty for none."""
    if not knots.size:
        return np.zeros((0, 0, 0, 3), np.float32)
    m = spline_matrix(SIDE, knots.shape[1])
    along_x = np.tensordot(knots, m, (3, 1))  # (3, a, b, x)
    along_y = np.tensordot(along_x, m, (2, 1))  # (3, a, x, y)
    return np.ascontiguousarray(np.tensordot(m, along_y, (1, 1)).transpose(0, 3, 2, 1))


@compiled
def _add_slices(
    tissue: NDArray[np.uint8],
    values: F32,
    pose: tuple[Floats, Floats, Floats],
    slices: tuple[Floats, NDArray[np.bool_]],
    into: tuple[F32, F32, F32],
) -> None:  # pragma: no cover - compiled
    """Add the mean value of the tissues at points around each covered cell; the neck goes on below the map."""
    matrix, middle, around = pose
    places, near = slices
    warp, total, count = into
    n_z, n_y, n_x = tissue.shape
    for a in range(total.shape[0]):
        for b in range(total.shape[1]):
            for c in range(total.shape[2]):
                if not (near[0, a] and near[1, b] and near[2, c]):
                    continue
                p, q, r = places[0, a], places[1, b], places[2, c]
                at_z = matrix[0, 0] * p + matrix[0, 1] * q + matrix[0, 2] * r + middle[0]
                at_y = matrix[1, 0] * p + matrix[1, 1] * q + matrix[1, 2] * r + middle[1]
                at_x = matrix[2, 0] * p + matrix[2, 1] * q + matrix[2, 2] * r + middle[2]
                if len(warp):
                    at_z, at_y, at_x = at_z + warp[a, b, c, 0], at_y + warp[a, b, c, 1], at_x + warp[a, b, c, 2]
                found = np.float32(0)
                for k in range(len(around)):
                    z = int(max(at_z + around[k, 0], 0.0) + 0.5)
                    y = int(np.floor(at_y + around[k, 1] + 0.5))
                    x = int(np.floor(at_x + around[k, 2] + 0.5))
                    if z < n_z and y >= 0 and y < n_y and x >= 0 and x < n_x:
                        found += values[tissue[z, y, x]]
                total[a, b, c] += found / np.float32(len(around))
                count[a, b, c] += 1


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


def spoiled(image: F32, count: F32, rng: np.random.Generator) -> tuple[F32, F32]:
    """Return image and coverage as a scanner with coils and noise gives them: blobs, bias, cut edges, Rician noise."""
    m = spline_matrix(SIDE, 4)
    strength = rng.uniform(0, 0.45)
    knots = rng.normal(0, strength, (4, 4, 4)).astype(np.float32)
    bias = np.tensordot(m, np.tensordot(np.tensordot(knots, m, (2, 1)), m, (1, 1)), (1, 0)).swapaxes(1, 2)
    out = image * np.exp(np.clip(bias, -1.5, 1.5))
    for _ in range(rng.poisson(0.6)):
        out = _blob(out, rng)
    covered = (count > 0).astype(np.float32)
    if rng.random() < 0.35:
        axis, cut = int(rng.integers(3)), int(rng.integers(4, 22))
        away = np.moveaxis(covered, axis, 0)
        away[:cut] = 0.0
        if rng.random() < 0.5:
            away[-int(rng.integers(4, 18)) :] = 0.0
    level = float(np.percentile(out[covered > 0], 90)) if covered.any() else 1.0
    sigma = np.float32(level * np.exp(rng.uniform(np.log(0.005), np.log(0.12))))
    real = out + sigma * rng.standard_normal(out.shape, np.float32)
    noisy = np.hypot(real, sigma * rng.standard_normal(out.shape, np.float32)) ** np.float32(rng.uniform(0.75, 1.3))
    return (noisy * covered).astype(np.float32), covered


def _blob(image: F32, rng: np.random.Generator) -> F32:
    """Return the image with a lesion: an ellipsoid of other brightness where there was signal."""
    at = rng.integers(SIDE // 4, 3 * SIDE // 4, 3)
    radii = np.exp(rng.uniform(np.log(1.2), np.log(7.0))) * np.exp(rng.normal(0, 0.25, 3))
    z, y, x = np.ogrid[:SIDE, :SIDE, :SIDE]
    radius = ((z - at[0]) / radii[0]) ** 2 + ((y - at[1]) / radii[1]) ** 2 + ((x - at[2]) / radii[2]) ** 2
    part = np.clip(1.5 - radius, 0, 1).astype(np.float32) * (image > 0.1 * image.max())
    return np.asarray(image + part * (np.float32(rng.uniform(0, 1.3)) * image.max() - image), np.float32)


def sample(head: Head, atlas: Atlas, rng: np.random.Generator) -> tuple[F32, F32]:
    """Return one input (2, z, y, x) and its truth (5, z/4, y/4, x/4): coordinates [100 mm], brain, weight."""
    pose = random_pose(rng)
    image, count = drawn(head, pose, random_stacks(rng), random_values(rng), rng)
    image, covered = spoiled(image, count, rng)
    return normalised(image, covered), truth(head, atlas, pose, covered)


def truth(head: Head, atlas: Atlas, pose: Pose, covered: F32) -> F32:
    """Return template coordinates, brain and weight of each coarse cell (5, z/4, y/4, x/4)."""
    n = SIDE // 4
    middles = (np.arange(n) - (n - 1) / 2) * 4 * CELL_MM
    places = np.stack(np.meshgrid(middles, middles, middles, indexing="ij"), axis=-1).reshape(-1, 3)
    at = pose.voxels(places, head)
    warp = _warped(pose.warp)
    if warp.size:
        at = at + warp.reshape(n, 4, n, 4, n, 4, 3).mean(axis=(1, 3, 5)).reshape(-1, 3)
    mirrored = np.linalg.det(pose.matrix) < 0
    coordinates = atlas.coordinates(at)
    if mirrored:
        coordinates = coordinates * np.array([-1.0, 1.0, 1.0], np.float32)
    index = np.clip(np.round(at).astype(int), 0, np.array(head.tissue.shape) - 1)
    inside = (np.abs(at - index) < 1).all(axis=1)
    brain = inside & _INSIDE[np.asarray(head.tissue)[tuple(index.T)]]
    seen = covered.reshape(n, 4, n, 4, n, 4).mean(axis=(1, 3, 5)).ravel()
    weight = brain * np.where(seen > 0.05, 1.0, 0.3)
    out = np.concatenate([coordinates.T / 100, brain[None], weight[None]])
    return np.ascontiguousarray(out.reshape(5, n, n, n), np.float32)


def scanned(
    head: Head, pose: Pose, grid: Grid, *, values: Floats, rng: np.random.Generator, noise: float = 0.02
) -> Image:
    """Return one stack of a localizer, its middle 0 being the middle of the room: bias and Rician noise in it.

    Parameters
    ----------
    head, pose
        What lies in the scanner, and how; the pose's warp is left out.
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


def true_place(pose: Pose, head: Head, voxel: Floats) -> Floats:
    """Return where a voxel (z, y, x) of the head is in the room, LPS (x, y, z) [mm]."""
    place = np.linalg.solve(pose.matrix, voxel - head.centre) + pose.shift_mm
    return np.asarray(place[::-1])


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
