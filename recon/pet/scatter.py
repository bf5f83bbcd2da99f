"""Single scatter simulation: what the first image and the attenuation map say about scattered coincidences.

A photon pair that was scattered once at q counts on the line of detectors a and b. For points q on a coarse grid and a
few detectors per ring the rays from q are followed through activity and attenuation; the Klein-Nishina formula, the
energy window and both solid angles give the expected counts, time of flight included. Lines between the few detectors
are interpolated, by splines first: straight lines would cut the peak by 2 % and fill the tails. What is scattered
twice, or comes from outside the image, is left to the scale fitted in the tails (`recon.pet.tails`).

References
----------
C. C. Watson, "New, faster, image-based scatter correction for 3D PET", IEEE Trans Nucl Sci 47 (2000) 1587,
DOI 10.1109/23.873020. C. C. Watson, "Extension of single scatter simulation to scatter correction of time-of-flight
PET", IEEE Trans Nucl Sci 54 (2007) 1679, DOI 10.1109/TNS.2007.901227.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import make_interp_spline
from scipy.special import erf

from acquisition.errors import ConfigError, DataError
from acquisition.items import Image
from acquisition.pet_geometry import checked, detectors_mm
from acquisition.pet_norm import Normalisation
from acquisition.scan import PetHeader
from kernels.pet_scatter import between, rays, single_scatter

Floats = NDArray[np.float64]
_SIGMA = 1 / np.sqrt(8 * np.log(2))
_FINE = 4  # bins of the sum per time-of-flight bin
_FINER = (2, 3)  # steps per coarse ring and angle


@dataclass(frozen=True, slots=True, kw_only=True)
class ScatterOptions:
    """How finely scatter is sampled."""

    rings: int = 4
    """Rings of coarse detectors."""
    angles: int = 30
    """Coarse detectors per ring."""
    point_mm: float = 24.0
    """Distance of scattering points [mm]."""
    step_mm: float = 8.0
    """Step along the rays [mm]."""
    mu_per_mm: float = 0.004
    """Attenuation from which a place scatters [1/mm]."""
    seed: int = 1
    """Of the scattering points' places within their cells."""

    def __post_init__(self) -> None:
        if self.rings < 2 or self.angles < 8 or min(self.point_mm, self.step_mm) <= 0:
            raise ConfigError(
                "scatter",
                expected="2 rings, 8 angles or more, distances above 0 mm",
                got=f"{self.rings} rings, {self.angles} angles, {self.point_mm} mm, {self.step_mm} mm",
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scatter:
    """Expected single scatter of every line of response."""

    norm: Normalisation
    """Efficiencies of the crystals."""
    table: NDArray[np.float32]
    """Coarse pairs (ring, angle, ring, angle, time-of-flight bin) [Bq/mL mm]; crystals of efficiency 1."""
    scale: float = 1.0
    """What the simulated scatter is multiplied with."""

    def integrals(self, pairs: NDArray[np.int32], tof: NDArray[np.int16] | None = None) -> NDArray[np.float32]:
        """Return the scatter of lines (line, 2), in one time-of-flight bin each or in all, as if it were activity.

        Returns
        -------
        ndarray
            (line,) [Bq/mL mm], efficiencies included; divided by the calibration [Bq s] it is in counts per second.
        """
        pet = self.norm.pet
        pairs = np.ascontiguousarray(pairs, np.int32)
        out = np.empty(len(pairs), np.float32)
        table = self.table if tof is not None else self.table.sum(-1, keepdims=True)
        bins = np.zeros(len(pairs), np.int16) if tof is None else np.ascontiguousarray(tof, np.int16)
        per_ring = (self.table.shape[0] - 1) / max(pet.n_rings - 1, 1)
        between(np.ascontiguousarray(table), pairs, bins, (pet.n_crystals, self.table.shape[1], per_ring), out)
        crystals = self.norm.crystals
        counted = self.norm.efficiency(pairs) > 0
        return out * crystals[pairs[:, 0]] * crystals[pairs[:, 1]] * counted * np.float32(self.scale)

    def scaled(self, scale: float) -> Scatter:
        """Return the same with another scale."""
        return Scatter(norm=self.norm, table=self.table, scale=scale)


def simulate(activity: Image, mu: Image, norm: Normalisation, *, options: ScatterOptions | None = None) -> Scatter:
    """Return the expected single scatter of an object.

    Parameters
    ----------
    activity
        Volume (z, y, x) [Bq/mL], voxel axes along x, y and z.
    mu
        Attenuation at 511 keV on the same grid [1/mm].
    norm
        The scanner and its efficiencies.
    options
        How finely; the defaults when absent.

    Raises
    ------
    DataError
        Both volumes are not on one grid, or its axes are not those of the gantry.
    """
    options = options or ScatterOptions()
    pet, grid = checked(norm.pet, "scatter"), activity.grid
    upright = np.allclose([grid.x_dir, grid.y_dir, grid.z_dir], np.eye(3))
    if activity.data.shape != mu.data.shape or mu.grid != grid or not upright:
        raise DataError(
            "scatter: volumes",
            expected="activity and mu on one grid along x, y and z",
            got=f"{activity.data.shape} and {mu.data.shape}",
            action="resample mu to the grid of the image",
        )
    (dz, dy, dx), (x, y, z) = grid.spacing_mm, grid.origin_mm
    volumes = (np.ascontiguousarray(activity.data, np.float32), np.ascontiguousarray(mu.data, np.float32))
    points, strength = _points(mu, options)
    places, normals = _coarse(pet, options)
    steps = int(np.ceil(pet.radius_mm * 1.5 / options.step_mm))
    along = (np.empty((len(points), len(places), steps), np.float32), np.empty((len(points), len(places)), np.float32))
    rays(volumes, (x, dx, y, dy, z, dz), points, places, options.step_mm, along)
    fine, n_fine = (pet.tof_bin_mm / _FINE, pet.n_tof * _FINE) if pet.n_tof > 1 else (4 * pet.radius_mm, 1)
    sums = np.empty((len(places), len(places), n_fine))
    energy = (*pet.energy_kev, pet.energy_resolution * 511 * _SIGMA)
    single_scatter((points, strength), (places, normals), (*along, options.step_mm), energy, fine, sums)
    table = (4 * pet.radius_mm**2 * sums @ _blur(pet).T).astype(np.float32)
    coarse = table.reshape(options.rings, options.angles, options.rings, options.angles, -1)
    return Scatter(norm=norm, table=_finer(coarse))


def _points(mu: Image, options: ScatterOptions) -> tuple[Floats, Floats]:
    """Return scattering points (n, 3) [mm], one in each cell of the grid that is dense, and mu times volume [mm^2]."""
    rng = np.random.default_rng(options.seed)
    every = [max(1, round(options.point_mm / s)) for s in mu.grid.spacing_mm]
    shape = [-(-n // e) for n, e in zip(mu.data.shape, every, strict=True)]
    padded = np.zeros([n * e for n, e in zip(shape, every, strict=True)])
    padded[tuple(slice(0, n) for n in mu.data.shape)] = np.where(mu.data > options.mu_per_mm, mu.data, 0)
    cells = padded.reshape(shape[0], every[0], shape[1], every[1], shape[2], every[2])
    cells = cells.transpose(0, 2, 4, 1, 3, 5).reshape(*shape, -1)
    total = cells.sum(-1)
    cell = np.argwhere(total > 0)
    table = np.cumsum(cells[tuple(cell.T)], axis=1)
    chosen = (table < rng.random((len(cell), 1)) * table[:, -1:]).sum(axis=1)
    index = cell * every + np.stack(np.unravel_index(chosen, every), axis=1)
    places = np.asarray(mu.grid.origin_mm) + (index * mu.grid.spacing_mm)[:, ::-1]
    return places, total[tuple(cell.T)] * float(np.prod(mu.grid.spacing_mm))


def _coarse(pet: PetHeader, options: ScatterOptions) -> tuple[Floats, Floats]:
    """Return place and inward normal of the coarse detectors, (ring * angle, 3)."""
    rings = detectors_mm(pet).reshape(pet.n_rings, pet.n_crystals, 3).astype(float)
    z = np.linspace(rings[0, 0, 2], rings[-1, 0, 2], options.rings)
    angle = pet.first_angle_rad + pet.turn * 2 * np.pi * np.arange(options.angles) / options.angles
    place = np.empty((options.rings, options.angles, 3))
    place[..., 0], place[..., 1], place[..., 2] = np.cos(angle), np.sin(angle), z[:, None]
    place[..., :2] *= pet.radius_mm
    normals = -place * [1, 1, 0] / pet.radius_mm
    return place.reshape(-1, 3), normals.reshape(-1, 3)


def _finer(table: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a table (ring, angle, ring, angle, bin) with more rings and angles, between which lines are straight.

    Splines run through the square root: it is smoother, and nothing falls below 0.
    """
    rings, angles = table.shape[:2]
    few, every = np.arange(rings), np.linspace(0, rings - 1, (rings - 1) * _FINER[0] + 1)
    along = make_interp_spline(few, np.eye(rings), k=min(3, rings - 1))(every)
    turn, unit = np.arange(angles + 1), np.eye(angles)
    around = make_interp_spline(turn, np.vstack([unit, unit[:1]]), k=3, bc_type="periodic")
    weights = (along, around(np.arange(angles * _FINER[1]) / _FINER[1]))
    root = np.sqrt(table)
    for axis in range(4):
        w = weights[axis % 2].astype(np.float32)
        root = np.moveaxis(np.tensordot(w, root, (1, axis)), 0, axis)
    return np.ascontiguousarray(np.square(root), np.float32)


def _blur(pet: PetHeader) -> Floats:
    """Return what each time-of-flight bin sees of each fine one (bin, fine)."""
    if pet.n_tof == 1:
        return np.ones((1, 1))
    fine = (np.arange(pet.n_tof * _FINE) + 0.5) / _FINE
    edges = np.arange(pet.n_tof + 1)
    sigma = pet.tof_fwhm_mm * _SIGMA / pet.tof_bin_mm
    below = 0.5 * (1 + erf((edges[:, None] - fine) / (np.sqrt(2) * sigma)))
    return np.asarray(np.diff(below, axis=0))
