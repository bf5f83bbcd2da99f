"""Which slices are made of a CT scan, and how attenuation becomes HU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acquisition.ct_geometry import patient_axes, row_pitch_iso_mm
from acquisition.errors import ConfigError, HeaderError
from acquisition.geometry import Grid, Vector
from acquisition.items import Image, Position, Provenance
from acquisition.scan import CtHeader, Scan
from recon.ct.rays import WIDEST

Floats = NDArray[np.float64]
AIR_HU = -1000.0
"""Given to pixels that the fan never covers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlicePlan:
    """Where the slices lie: `xs`, `ys`, and thickness made of thinner planes."""

    xs: Floats
    """x of the pixels in the gantry [mm]."""
    ys: Floats
    """y of the pixels in the gantry [mm]."""
    axes: tuple[Vector, Vector, Vector]
    """Directions of the gantry's x, y and z in the patient, LPS."""
    thickness_mm: float
    """Of one slice [mm]."""
    increment_mm: float
    """Distance of slices [mm]."""
    n_planes: int
    """Planes that are averaged into one slice."""
    mu_water_per_mm: float
    """Attenuation of 0 HU [1/mm]."""
    covered: NDArray[np.bool_]
    """Pixels that every view of a full turn sees (y, x)."""

    @property
    def radius_mm(self) -> float:
        """Distance of the farthest covered pixel from the axis [mm]."""
        squares = self.xs[None, :] ** 2 + self.ys[:, None] ** 2
        return float(np.sqrt(squares[self.covered].max(initial=0.0)))

    @property
    def stride(self) -> int:
        """Planes from one slice to the next; 0 where slices share no raster of planes."""
        ratio = self.increment_mm * self.n_planes / self.thickness_mm
        return round(ratio) if abs(ratio - round(ratio)) < 1e-6 else 0

    def planes_mm(self, z_mm: float) -> Floats:
        """Return z of the planes of the slice at `z_mm` [mm]."""
        return z_mm + ((np.arange(self.n_planes) + 0.5) / self.n_planes - 0.5) * self.thickness_mm

    def stacked(self, z_mm: list[float], planes: Callable[[Floats], NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Return slices at evenly spaced places, averaged over what `planes` makes of the z of their planes [mm]."""
        count, stride = self.n_planes, self.stride
        if not stride or z_mm[-1] < z_mm[0]:
            return [planes(self.planes_mm(z)).mean(axis=0) for z in z_mm]
        n = (len(z_mm) - 1) * stride + count
        made = planes(self.planes_mm(z_mm[0])[0] + np.arange(n) * (self.thickness_mm / count))
        return [made[k * stride : k * stride + count].mean(axis=0) for k in range(len(z_mm))]

    def grid(self, z_mm: float) -> Grid:
        """Return the grid in the patient of the slice at `z_mm` in the gantry."""
        spacing = (self.increment_mm, float(self.ys[1] - self.ys[0]), float(self.xs[1] - self.xs[0]))
        x_dir, y_dir, z_dir = self.axes
        x, y, z = (np.array([self.xs[0], self.ys[0], z_mm]) @ np.array(self.axes)).tolist()
        return Grid(
            shape=(1, len(self.ys), len(self.xs)),
            spacing_mm=spacing,
            origin_mm=(x, y, z),
            x_dir=x_dir,
            y_dir=y_dir,
            z_dir=z_dir,
            thickness_mm=self.thickness_mm,
        )

    def image(self, mu: NDArray[np.float32], z_mm: float, index: int, **notes: str) -> Image:
        """Return the slice of attenuation `mu` (y, x) [1/mm] in HU."""
        hu = (mu / np.float32(self.mu_water_per_mm) - np.float32(1)) * np.float32(1000)
        hu[~self.covered] = AIR_HU
        return Image(
            data=hu[None],
            grid=self.grid(z_mm),
            unit="HU",
            position=Position(slice=index),
            provenance=Provenance(notes={"mu_water": f"{self.mu_water_per_mm:.6g} /mm", **notes}),
        )


@dataclass(kw_only=True)
class SliceOptions:
    """Which slices a protocol asks for; 0 leaves the choice to the scan."""

    matrix: int = 512
    """Pixels along x and y."""
    fov_mm: float = 0.0
    """Field of view [mm]; 0: all that every view sees."""
    centre_mm: tuple[float, float] = (0.0, 0.0)
    """Centre of the field of view (x, y), LPS [mm]."""
    thickness_mm: float = 0.0
    """Slice thickness [mm]; 0: one detector row at the axis."""
    increment_mm: float = 0.0
    """Distance of slices [mm]; 0: the thickness."""
    mu_water_per_mm: float = 0.0
    """Attenuation of water [1/mm]; 0: the header's."""
    extend_mm: float = 0.0
    """How far the field goes on beyond the fan, where HU are estimates: by filtered backprojection, of water [mm]."""


@dataclass(kw_only=True)
class Wanted(SliceOptions):
    """Slices made by filtered backprojection."""

    kernel: str | tuple[float, ...] = "standard"
    """soft, standard, bone, ramp, or modulation values at evenly spaced parts of the Nyquist frequency."""


def planned(scan: Scan, ct: CtHeader, wanted: SliceOptions, *, radius_mm: float) -> SlicePlan:
    """Return where the slices of a scan lie whose rays cover `radius_mm` around the axis, and beyond if wanted.

    Raises
    ------
    ConfigError
        A size is negative, the matrix is smaller than 2, or the field would reach the focal spot.
    HeaderError
        Nobody knows how the patient lies, or how much water attenuates.
    """
    sizes = (wanted.fov_mm, wanted.thickness_mm, wanted.increment_mm, wanted.mu_water_per_mm, wanted.extend_mm)
    if min(sizes) < 0 or wanted.matrix < 2:
        raise ConfigError("CT slices", expected="sizes from 0 up, matrix from 2 up", got=f"{sizes}, {wanted.matrix}")
    most = WIDEST * ct.source_isocentre_mm - radius_mm
    if wanted.extend_mm > max(most, 0):
        raise ConfigError("CT slices: extend_mm", expected=f"at most {most:.0f} mm", got=f"{wanted.extend_mm:g} mm")
    radius_mm += wanted.extend_mm
    mu = wanted.mu_water_per_mm or ct.mu_water_per_mm
    if not mu:
        raise HeaderError(
            f"scan {scan.uid}: mu_water_per_mm",
            expected="the attenuation of water",
            got="none",
            action="set it in the header or as a parameter of the step",
        )
    axes = patient_axes(scan.patient.position)
    centre = np.array(axes) @ (*wanted.centre_mm, 0.0)
    row = row_pitch_iso_mm(ct)
    fov = wanted.fov_mm or 2 * radius_mm
    offsets = ((np.arange(wanted.matrix) + 0.5) / wanted.matrix - 0.5) * fov
    xs, ys = offsets + centre[0], offsets + centre[1]
    thickness = wanted.thickness_mm or row
    return SlicePlan(
        xs=xs,
        ys=ys,
        axes=axes,
        thickness_mm=thickness,
        increment_mm=wanted.increment_mm or thickness,
        n_planes=max(1, int(np.ceil(thickness / row - 0.25))),
        mu_water_per_mm=float(mu),
        covered=xs[None, :] ** 2 + ys[:, None] ** 2 <= radius_mm**2,
    )
