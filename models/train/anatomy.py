"""One slice of one head: where the plane lies, how the head is stretched, which lesions it has, what it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from acquisition.errors import ConfigError
from models.train.draw import draw_planes
from models.train.fields import splined
from models.train.labels import FIELD_STEP, Head
from models.train.tissue import NAMES, NUMBER, PARENCHYMA

Floats = NDArray[np.float64]
F32 = NDArray[np.float32]

ORIENTATIONS: dict[str, tuple[int, int, int]] = {
    "axial": (0, 1, 2),
    "axial_turned": (0, 2, 1),
    "coronal": (1, 2, 0),
    "sagittal": (2, 1, 0),
}
"""Orientation -> which head axes (z, y, x) slice, phase and readout run along."""
_REACH = 0.88  # part of the brain within which slices lie
_HOSTS = np.array([1.0 if name in PARENCHYMA else 0.0 for name in NAMES], np.float32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plane:
    """A slice on fine cells, and the shape of the head that it cuts."""

    shape: tuple[int, int]
    """Fine cells (y, x); y is the phase encoding, x the readout."""
    cell_mm: float
    """Side of a cell [mm]."""
    fine: float = 1.5
    """Cells per voxel that will be measured."""
    thickness_mm: float
    """Thickness of the slice [mm]."""
    centre_mm: Floats
    """Middle of the plane from the brain's middle, head axes (z, y, x) [mm]."""
    directions: Floats
    """Unit vectors of slice, phase and readout (rows) in head axes (z, y, x)."""
    stretch: Floats
    """Matrix that takes places in the room to places in the label map, head axes."""
    warp_mm: F32
    """Displacement of knots over the plane [mm], shape (3, ky, kx)."""
    ripple_mm: F32
    """Displacement of finer knots along (z, y, x) [mm], shape (3, ky, kx): surfaces are not as even as labels."""
    sharpness: float = 2.0
    """Power that sharpens surfaces between voxels of the label map; 1: as blurred as linear interpolation."""

    def room_mm(self, n_knots: int) -> Floats:
        """Return places of n x n knots over the plane, from the brain's middle in head axes, (n, n, 3) [mm]."""
        _, phase, read = self.directions
        y, x = (np.linspace(-(n - 1) / 2, (n - 1) / 2, n_knots) * self.cell_mm for n in self.shape)
        return self.centre_mm + y[:, None, None] * phase + x[:, None] * read

    def moved(self, rotation_deg: Sequence[float], shift_mm: Sequence[float]) -> Plane:
        """Return the plane as it cuts a head that has turned about its own axes (z, y, x) and shifted.

        The head moves, the scanner does not: in the head's axes the plane makes the inverse movement.
        """
        turn = Rotation.from_rotvec(np.deg2rad(np.asarray(rotation_deg, float))).as_matrix()
        centre = turn.T @ (self.centre_mm - np.asarray(shift_mm, float))
        return replace(self, centre_mm=centre, directions=self.directions @ turn)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lesions:
    """Lesions of one head; nested ones behind what they lie in."""

    middles: Floats
    """Middles [voxels of the label map], shape (n, 3)."""
    inverse: Floats
    """Matrices that take a lesion to the unit ball [1/voxel], shape (n, 3, 3)."""
    waves: Floats
    """Waves on the surface: vector, phase, height; shape (n, 4, 5)."""
    what: NDArray[np.int64]
    """Tissue of each, shape (n,)."""

    def __len__(self) -> int:
        return len(self.what)

    @property
    def packed(self) -> tuple[Floats, Floats, Floats, NDArray[np.int64]]:
        """The arrays as `draw_planes` takes them."""
        return self.middles, self.inverse, self.waves, self.what


def random_plane(
    head: Head,
    shape: tuple[int, int],
    cell_mm: float,
    *,
    rng: np.random.Generator,
    thickness_mm: float,
    orientation: str = "",
) -> Plane:
    """Return a slice at a random place, oblique by up to 12 degrees, through a head of random shape.

    Parameters
    ----------
    head
        The slice lies in its brain.
    shape, cell_mm, thickness_mm
        Fine cells (y, x), their side and the slice's thickness [mm].
    orientation
        One of `ORIENTATIONS`; drawn when empty.

    Raises
    ------
    ConfigError
        The orientation is unknown.
    """
    orientation = orientation or str(rng.choice(list(ORIENTATIONS), p=(0.4, 0.2, 0.2, 0.2)))
    if orientation not in ORIENTATIONS:
        raise ConfigError("orientation", expected=f"one of {', '.join(ORIENTATIONS)}", got=repr(orientation))
    axes = ORIENTATIONS[orientation]
    tilt = Rotation.from_euler("xyz", np.clip(rng.normal(0, 5, 3), -12, 12), degrees=True).as_matrix()
    directions = np.eye(3)[list(axes)] * rng.choice([-1.0, 1.0], 3)[:, None] @ tilt
    centre = rng.normal(0, 4, 3)
    centre[axes[0]] = rng.uniform(-_REACH, _REACH) * head.half[axes[0]]
    stretch = np.diag(1 / rng.normal(1.0, 0.035, 3).clip(0.92, 1.08)) + rng.normal(0, 0.015, (3, 3))
    stretch[:, 2] *= rng.choice([-1.0, 1.0])  # left and right are exchanged in half of all heads
    extent = max(shape) * cell_mm
    n_knots = max(5, round(extent / 28.0) + 2)
    return Plane(
        shape=shape,
        cell_mm=cell_mm,
        thickness_mm=thickness_mm,
        centre_mm=centre,
        directions=directions,
        stretch=stretch,
        warp_mm=rng.normal(0, 1.6, (3, n_knots, n_knots)).astype(np.float32),
        ripple_mm=rng.normal(0, rng.uniform(0.1, 0.4), (3, round(extent / 3.5), round(extent / 3.5))).astype(
            np.float32
        ),
        sharpness=float(rng.uniform(1.0, 3.0)),
    )


def draw(head: Head, plane: Plane, values: NDArray, *, lesions: Lesions | None = None, n_planes: int = 0) -> F32:
    """Return what the tissues of a slice add up to.

    Parameters
    ----------
    head
        The anatomy.
    plane
        The slice.
    values
        Worth of each tissue in each channel (tissue, channel).
    lesions
        Lesions in it.
    n_planes
        Planes over the slice's thickness; one per 1.2 mm when 0.

    Returns
    -------
    ndarray
        (channel, y, x).

    Raises
    ------
    ConfigError
        `values` does not have a row for each tissue.
    """
    if values.ndim != 2 or len(values) != len(NAMES):
        raise ConfigError("tissue values", expected=f"({len(NAMES)}, channels)", got=str(values.shape))
    n_planes = n_planes or max(1, round(plane.thickness_mm / 1.2))
    normal, phase, read = plane.directions
    corner = plane.centre_mm - plane.cell_mm * ((plane.shape[0] - 1) / 2 * phase + (plane.shape[1] - 1) / 2 * read)
    frame = np.stack([corner, plane.cell_mm * phase, plane.cell_mm * read]) @ plane.stretch.T
    frame[0] += head.centre
    depth = ((np.arange(n_planes) + 0.5) / n_planes - 0.5) * plane.thickness_mm
    planes = np.empty((n_planes, 4))
    planes[:, :3] = depth[:, None] * (plane.stretch @ normal)
    planes[:, 3] = _profile(n_planes)
    table = np.concatenate([np.asarray(values, np.float32), _HOSTS[:, None]], axis=1)
    out = np.empty((table.shape[1], *plane.shape), np.float32)
    warp = np.ascontiguousarray(splined(plane.warp_mm, plane.shape) + splined(plane.ripple_mm, plane.shape), np.float32)
    packed = (lesions or no_lesions()).packed
    draw_planes(np.asarray(head.tissue), table, (frame, planes, warp, plane.sharpness), packed, out)
    return out[:-1]


def _profile(n: int) -> Floats:
    """Return weights of the planes over the thickness: a slice profile with soft flanks."""
    weight = 1.0 - 0.35 * np.abs(np.linspace(-1, 1, n)) ** 4 if n > 1 else np.ones(1)
    return weight / weight.sum()


def no_lesions() -> Lesions:
    """Return none."""
    return Lesions(
        middles=np.zeros((0, 3)), inverse=np.zeros((0, 3, 3)), waves=np.zeros((0, 4, 5)), what=np.zeros(0, np.int64)
    )


# kind -> shells from outside in: (tissue, semi-axis [mm] from to, or part of the shell before)
_SHELLS: dict[str, tuple[tuple[str, float, float], ...]] = {
    "metastasis": (("oedema", 5, 18), ("tumour", 0.3, 0.6), ("necrosis", 0.4, 0.8)),
    "small_metastasis": (("tumour", 1.2, 4),),
    "glioma": (("oedema", 15, 32), ("tumour", 0.5, 0.75), ("necrosis", 0.3, 0.75)),
    "plaque": (("plaque", 1.0, 6),),
    "infarct": (("infarct", 4, 22),),
    "bleed": (("oedema", 5, 14), ("haemorrhage", 0.4, 0.8)),
    "microbleed": (("haemorrhage", 0.8, 2.5),),
    "calcification": (("calcification", 0.8, 2.5),),
}
LESIONS = tuple(_SHELLS)
"""Kinds of lesions."""
_COMMON = (0.18, 0.22, 0.08, 0.28, 0.08, 0.04, 0.06, 0.06)


def random_lesions(head: Head, plane: Plane, rng: np.random.Generator, *, mean: float = 3.0) -> Lesions:
    """Return lesions whose middles lie in the brain near the slice; `mean` is how many on average, often none."""
    if rng.random() < 0.25:
        return no_lesions()
    parts = []
    for _ in range(rng.poisson(mean)):
        middle = _place_in_slice(head, plane, rng)
        if middle is not None:
            parts += _shells(str(rng.choice(LESIONS, p=_COMMON)), middle, rng)
    if not parts:
        return no_lesions()
    middles, inverse, waves, what = zip(*parts, strict=True)
    return Lesions(
        middles=np.stack(middles), inverse=np.stack(inverse), waves=np.stack(waves), what=np.array(what, np.int64)
    )


def _place_in_slice(head: Head, plane: Plane, rng: np.random.Generator) -> Floats | None:
    """Return a place in the brain within 6 mm of the slice [voxels], if one of 20 trials hits it."""
    normal, phase, read = plane.directions
    for _ in range(20):
        y, x = rng.uniform(-0.4, 0.4, 2) * np.asarray(plane.shape) * plane.cell_mm
        place = plane.centre_mm + rng.uniform(-6, 6) * normal + y * phase + x * read
        at = plane.stretch @ place + head.centre
        index = np.round(at).astype(int)
        if (index >= 0).all() and (index < head.tissue.shape).all() and _HOSTS[head.tissue[tuple(index)]]:
            return np.asarray(at)
    return None


def _shells(kind: str, middle: Floats, rng: np.random.Generator) -> list[tuple[Floats, Floats, Floats, int]]:
    turn = Rotation.random(rng=rng).as_matrix()
    shape = np.exp(rng.normal(0, 0.25, 3))
    axes, out = np.ones(3), []
    for number, (name, low, high) in enumerate(_SHELLS[kind]):
        if number and rng.random() < 0.3:
            break
        axes = shape * np.exp(rng.uniform(np.log(low), np.log(high))) if number == 0 else axes * rng.uniform(low, high)
        rough = rng.uniform(0.05, 0.22) * (1.3 if name in ("oedema", "infarct") else 0.7)
        waves = np.empty((4, 5))
        waves[:, :3] = rng.normal(0, 2.6, (4, 3))
        waves[:, 3] = rng.uniform(0, 2 * np.pi, 4)
        waves[:, 4] = rough
        out.append((middle, np.ascontiguousarray((turn / axes).T), waves, NUMBER[name]))
        middle = middle + turn @ (rng.uniform(-0.2, 0.2, 3) * axes)
    return out


def field_hz(head: Head, plane: Plane, field_t: float) -> tuple[F32, F32]:
    """Return the off-resonance over the plane and its change through the slice, (y, x) each [Hz], [Hz/mm].

    From the head's field map, on knots of about the map's own spacing.
    """
    n_knots = max(8, round(max(plane.shape) * plane.cell_mm / FIELD_STEP))
    normal = plane.directions[0]
    room = plane.room_mm(n_knots)
    hz = 1e-6 * 42.577e6 * field_t
    two = []
    for side in (-0.5, 0.5):
        at = (room + side * FIELD_STEP * normal) @ plane.stretch.T + head.centre
        at = (at - (FIELD_STEP - 1) / 2) / FIELD_STEP
        two.append(ndimage.map_coordinates(head.field_ppm, np.moveaxis(at, -1, 0), order=1, mode="nearest"))
    middle = hz * (two[0] + two[1]) / 2
    slope = hz * (two[1] - two[0]) / FIELD_STEP
    maps = splined(np.stack([middle, slope]).astype(np.float32), plane.shape)
    return maps[0], maps[1]
