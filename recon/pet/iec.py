"""The IEC body phantom of NEMA NU 2 in an image: where its spheres lie, and where its background is measured.

Six spheres stand on a circle of 114.4 mm around the lung insert, 60 degrees apart, the next larger one always on the
same side. The pose is that at which the image is brightest in the hot and darkest in the cold ones, large ones first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import binary_fill_holes, distance_transform_edt, gaussian_filter, map_coordinates
from scipy.optimize import minimize

from acquisition.errors import DataError
from acquisition.geometry import Vector
from acquisition.items import Image
from recon.pet.nema import SLICES_MM, Sphere

Floats = NDArray[np.float64]

DIAMETERS_MM = (10.0, 13.0, 17.0, 22.0, 28.0, 37.0)
"""Inner diameters of the spheres [mm]."""
RATIO = 4.0
"""Activity of hot spheres over the background's, as NU 2-2018 has it."""
N_REGIONS = 12
_CIRCLE_MM = 57.2
_LUNG_MM = 25.0
_REGION_MM = 37.0  # diameter of the largest background region
_CLEAR_MM = 5.0
_WALL_MM = 5.0
_SIGMA_MM = 8.0 / 2.355
_TURNS = np.deg2rad(np.arange(0, 360, 4.0))
_CLEAREST = 0.1  # of the contrast that is expected: less is no phantom
_TRANSAXIAL = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """How the phantom lies."""

    centre_mm: Vector
    """The lung insert's axis in the plane of the spheres, LPS [mm]."""
    angle_rad: float
    """Direction of the smallest sphere, from +x towards +y [rad]."""
    turn: int
    """+1: spheres grow with the angle, -1: against it."""

    def sphere(self, number: int) -> Vector:
        """Return where sphere 0 (the smallest) to 5 is, LPS [mm]."""
        angle = self.angle_rad + self.turn * np.deg2rad(60.0) * number
        x, y, z = self.centre_mm
        return (x + _CIRCLE_MM * float(np.cos(angle)), y + _CIRCLE_MM * float(np.sin(angle)), z)

    def spheres(self, ratios: Sequence[float]) -> tuple[Sphere, ...]:
        """Return the spheres, smallest first, with their activity over that of the background."""
        return tuple(
            Sphere(diameter_mm=d, centre_mm=self.sphere(n), ratio=r)
            for n, (d, r) in enumerate(zip(DIAMETERS_MM, ratios, strict=True))
        )


def background_mm(image: Image, pose: Pose) -> tuple[tuple[float, float], ...]:
    """Return the centres (x, y) of the 12 regions of the background, clear of spheres, lung and wall [mm].

    Raises
    ------
    DataError
        There is no room for them: the phantom does not reach 20 mm to both sides of its spheres.
    """
    smooth, level = _smoothed(image)
    planes = [round(float(_index(image, (*pose.centre_mm[:2], pose.centre_mm[2] + z))[2, 0])) for z in SLICES_MM]
    if min(planes) < 0 or max(planes) >= len(smooth):
        raise _absent(f"slices from {min(planes)} to {max(planes)} of {len(smooth)}")
    body = binary_fill_holes((smooth[planes] > 0.5 * level).all(axis=0))
    reach = _REGION_MM / 2 + _CLEAR_MM
    free = distance_transform_edt(body, sampling=image.grid.spacing_mm[1:]) >= reach + _WALL_MM
    ys, xs = np.nonzero(free)
    places = np.array([image.grid.world((0, y, x))[:2] for y, x in zip(ys.tolist(), xs.tolist(), strict=True)]).reshape(
        -1, 2
    )
    for middle, radius in ((pose.centre_mm, _LUNG_MM), *((pose.sphere(n), d / 2) for n, d in enumerate(DIAMETERS_MM))):
        places = places[np.hypot(*(places - middle[:2]).T) >= radius + reach]
    if len(places) < N_REGIONS:
        raise _absent(f"room for {len(places)} regions of the background")
    chosen = [int(np.argmax(places[:, 0]))]
    far = np.hypot(*(places - places[chosen[0]]).T)
    while len(chosen) < N_REGIONS:
        chosen.append(int(np.argmax(far)))
        far = np.minimum(far, np.hypot(*(places - places[chosen[-1]]).T))
    return tuple((float(x), float(y)) for x, y in places[chosen])


def upright(image: Image) -> Image:
    """Return a transaxial volume with x growing to the patient's left and y to the back.

    Raises
    ------
    DataError
        Its slices are not transaxial.
    """
    grid, data = image.grid, image.data.reshape(image.grid.shape)
    along = (grid.y_dir[1], grid.x_dir[0])
    if min(map(abs, along)) < 1 - _TRANSAXIAL:
        raise DataError("NEMA phantom", expected="transaxial slices", got=f"x {grid.x_dir}, y {grid.y_dir}")
    for axis, sign in zip((1, 2), along, strict=True):
        if sign < 0:
            grid, data = grid.flipped(axis), np.flip(data, axis)
    return replace(image, grid=grid, data=np.ascontiguousarray(data))


def located(image: Image, ratios: Sequence[float] = (RATIO,) * 6) -> Pose:
    """Return where the phantom is in an upright transaxial volume.

    Parameters
    ----------
    image
        The volume.
    ratios
        Activity of the spheres over the background's, smallest first.

    Raises
    ------
    DataError
        Nothing in the image looks like it.
    """
    smooth, level = _smoothed(image)
    seen = replace(image, data=smooth)
    body = np.argwhere(smooth.max(axis=0) > 0.5 * level)
    if not level > 0 or len(body) < 2:
        raise _absent("nothing in it")
    (y0, x0), (y1, x1) = body.min(axis=0), body.max(axis=0)
    x, y, _ = image.grid.world((0, (y0 + y1) / 2, (x0 + x1) / 2))
    weight = (np.array(ratios) - 1) * np.minimum(np.array(DIAMETERS_MM) / 25, 1) ** 2
    heights = [image.grid.world((k, 0, 0))[2] for k in range(image.grid.shape[0])]
    tried = [
        Pose(centre_mm=(x, y, z), angle_rad=float(a), turn=turn) for z in heights for a in _TURNS for turn in (1, -1)
    ]
    score = np.array([_contrasts(seen, p, level) for p in tried]) @ weight
    first = tried[int(np.argmax(score))]

    def worse(values: Floats) -> float:
        return -float(_filled(image, _moved(first, values), level) @ weight)

    found = minimize(worse, np.zeros(4), method="Nelder-Mead", options={"initial_simplex": _SIMPLEX, "xatol": 0.05})
    pose = _moved(first, found.x)
    shown = _filled(image, pose, level) / (np.array(ratios) - 1)
    if shown[-3:].min() < _CLEAREST:
        raise _absent(f"a contrast of {', '.join(f'{100 * c:.0f} %' for c in shown[-3:])} of the largest three")
    return pose


def _smoothed(image: Image) -> tuple[Floats, float]:
    """Return the image smoothed, (z, y, x), and about how bright its background is."""
    data = np.asarray(image.data, float).reshape(image.grid.shape)
    smooth = np.asarray(gaussian_filter(data, [_SIGMA_MM / s for s in image.grid.spacing_mm]))
    return smooth, float(np.median(smooth[smooth >= 0.3 * np.percentile(smooth, 99)]))


_SIMPLEX = np.vstack([np.zeros(4), 4.0 * np.eye(4)])


def _moved(pose: Pose, by: Floats) -> Pose:
    """Return a pose shifted along x, y, z and turned along the circle [mm]."""
    x, y, z = pose.centre_mm
    centre = (x + float(by[0]), y + float(by[1]), z + float(by[2]))
    return replace(pose, centre_mm=centre, angle_rad=pose.angle_rad + float(by[3]) / _CIRCLE_MM)


def _contrasts(image: Image, pose: Pose, level: float) -> Floats:
    """Return how much brighter than the background the middles of the spheres are."""
    return _values(image, np.array([pose.sphere(n) for n in range(6)])) / level - 1


def _filled(image: Image, pose: Pose, level: float) -> Floats:
    """Return how much brighter than the background the spheres are, over their volume."""
    out = []
    for n, diameter in enumerate(DIAMETERS_MM):
        places = np.array(pose.sphere(n)) + diameter / 2 * _BALL
        out.append(_values(image, places).mean() / level - 1)
    return np.array(out)


def _ball() -> Floats:
    axis = (np.arange(7) - 3) / 3.5
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    return np.asarray(points[np.linalg.norm(points, axis=1) <= 1])


_BALL = _ball()


def _values(image: Image, places_mm: Floats) -> Floats:
    """Return the image at places (n, 3), LPS [mm]; 0 outside."""
    data = np.asarray(image.data).reshape(image.grid.shape)
    return np.asarray(map_coordinates(data, _index(image, places_mm)[::-1], order=1, cval=0.0), float)


def _index(image: Image, places_mm: ArrayLike) -> Floats:
    """Return the voxel indices x, y, z (3, n) of places (n, 3), LPS [mm]."""
    places = np.atleast_2d(np.asarray(places_mm, float))
    return np.asarray((np.linalg.inv(image.grid.affine) @ np.vstack([places.T, np.ones(len(places))]))[:3])


def _absent(got: str) -> DataError:
    return DataError(
        "NEMA phantom",
        expected="the IEC body phantom with six spheres, brighter or darker than the background as told",
        got=got,
        action="name the series of the phantom, and the activity of its spheres",
    )
