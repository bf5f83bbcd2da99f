"""Does the attenuation map lie where the patient lay while counts were taken?

A quick image without attenuation is registered to the map by mutual information. Across the axis the outline of the
body gives the shift to a millimetre. Along it organs must, which pull the result by up to 10 mm on virtual torsos;
where time of flight is measured, a second answer comes from the counts: they are likeliest where the map lies right.
Only what both say is believed, so that a map that fits is not blamed.

References
----------
A. Rezaei et al., "Simultaneous reconstruction of activity and attenuation in time-of-flight PET", IEEE Trans Med
Imaging 31 (2012) 2224, DOI 10.1109/TMI.2012.2212719: why time of flight tells attenuation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from acquisition.errors import ConfigError, DataError
from acquisition.items import Image, Item, TimeFrame
from acquisition.pet_geometry import checked
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from recon.pet.gather import Gathered, equivalent_s
from recon.pet.likelihood import ListMode, osem
from recon.pet.project import LineProjector
from recon.pet.psf import GaussianPsf
from recon.pet.sensitivity import CACHE, Attenuation, LineModel
from recon.pet.volume import VoxelOptions, gantry_grid, inside
from recon.rigid import Rigid, registration

_CHECK = "check.pet_ct"
_FWHM_MM, _SEEN_WELL, _LINES = 12.0, 0.25, 1_000_000
_WAYS_MM = (-30.0, -20.0, -10.0, 0.0, 10.0, 20.0, 30.0)
_SIGMA = 1 / np.sqrt(8 * np.log(2))


@dataclass(kw_only=True)
class CheckAlignment(VoxelOptions):
    """Do CT and PET fit together? The attenuation map must lie where an image without attenuation shows the body."""

    voxel_mm: float = 6.0
    """Size of the voxels along x and y [mm]."""
    slice_mm: float = 4.0
    """Distance and thickness of slices [mm]; 0: half the distance of rings."""
    limit_mm: float = 8.0
    """Shift across the axis from which it is reported [mm]."""
    axial_limit_mm: float = 8.0
    """Shift along the axis from which it is reported [mm]."""
    max_events: int = 400_000
    """Events that are looked at; of more, every n-th."""

    def __post_init__(self) -> None:
        if min(self.limit_mm, self.axial_limit_mm) <= 0 or self.max_events < 1:
            got = f"{self.limit_mm} mm, {self.axial_limit_mm} mm, {self.max_events}"
            raise ConfigError(_CHECK, expected="limits above 0 mm, max_events from 1", got=got)

    def open(self, scan: Scan) -> None:
        """Plan the voxels, load the registration.

        Raises
        ------
        ConfigError
            The registration is not installed.
        HeaderError
            Not a PET scan, or a geometry that no line can be drawn from.
        """
        pet = checked(scan.require_pet(), f"scan {scan.uid}")
        self._register, self._grid = registration(_CHECK), gantry_grid(pet, self)
        self._data = Gathered(pet, f"scan {scan.uid}", scan.patient.position)

    def feed(self, item: Item) -> Iterator[Item]:
        """Look at normalisation, attenuation, and events at the table's first position; everything passes."""
        if not self._data.moves(item):
            self._data.takes(item)
        yield item

    def close(self) -> Iterator[Item]:
        """Say how far the map is off, where there is one."""
        attenuation = self._data.model.attenuation
        if attenuation is None or not any(len(b) for b in self._data.blocks):
            return
        try:
            motion = self._register.rigid(self._unattenuated(), _smooth(attenuation))
        except DataError as error:
            yield _unknown(str(error))
            return
        yield self._verdict(motion, self._along(attenuation, motion))

    def _unattenuated(self) -> Image:
        """Return the image without attenuation, in the slices that many lines see."""
        counted = self._counted(None)
        seen, x = counted.sensitivity, _solved(counted)
        best = seen.amax(dim=(1, 2)).numpy()
        well = np.flatnonzero(best > _SEEN_WELL * best.max())
        first, last = int(well[0]), int(well[-1]) + 1
        shape = (last - first, *self._grid.shape[1:])
        grid = replace(self._grid, shape=shape, origin_mm=self._grid.world((first, 0, 0)))
        return Image(data=GaussianPsf(self._grid, _FWHM_MM)(x).numpy()[first:last].copy(), grid=grid)

    def _along(self, attenuation: Attenuation, motion: Rigid) -> float:
        """Return how far the map lies off along the axis [mm]: the smaller of both ways, 0 where they contradict."""
        x, y, z = motion.way_mm(self._grid).tolist()
        if self._data.pet.n_tof < 2:
            return float(z)
        fits = []
        for way in _WAYS_MM:
            moved = Rigid(np.eye(3), np.array([-x, -y, way])).moved(attenuation.mu_per_mm, attenuation.grid)
            fits.append(self._fit(Attenuation(moved, attenuation.grid)))
        k = int(np.clip(np.argmax(fits), 1, len(fits) - 2))
        bend = fits[k - 1] - 2 * fits[k] + fits[k + 1]
        step = (_WAYS_MM[1] - _WAYS_MM[0]) * (fits[k - 1] - fits[k + 1]) / 2 / min(bend, -1e-12)
        likely = float(-np.clip(_WAYS_MM[k] + step, _WAYS_MM[0], _WAYS_MM[-1]))
        return min(z, likely, key=abs) if z * likely > 0 else 0.0

    def _fit(self, attenuation: Attenuation) -> float:
        """Return the logarithm of the likelihood of an event, activity and its amount fitted."""
        counted = self._counted(attenuation)
        x = _solved(counted)
        seen = LineProjector(counted.pet, self._grid, counted.pairs, counted.tof)(x).numpy()
        rate = self._model(attenuation).factors(counted.pairs) * seen
        total = float((x * counted.sensitivity).double().sum())
        good = rate > 0
        return float(np.log(rate[good] / total, dtype=np.float64).mean())

    def _model(self, attenuation: Attenuation | None) -> LineModel:
        return LineModel(self._data.pet, self._data.model.normalisation, attenuation)

    def _counted(self, attenuation: Attenuation | None) -> ListMode:
        """Return some of the events, as if the map were the true one."""
        data, model = self._data, self._model(attenuation)
        frame = TimeFrame(start_s=data.blocks[0].start_s, stop_s=data.stop_s)
        pairs, tof = data.events(frame)
        part = slice(None, None, -(-len(pairs) // self.max_events))
        share, pairs = len(pairs[part]) / len(pairs), pairs[part]
        use = self._model(None).factors(pairs) > 0
        events = np.ascontiguousarray(pairs[use]), None if tof is None else np.ascontiguousarray(tof[part][use])
        found = CACHE.get(model, self._grid, most_lines=_LINES).image
        seen = torch.where(inside(self._grid), found, 0.0) * share * equivalent_s(frame, data.pet.tracer)
        return ListMode(data.pet, self._grid, *events, None, GaussianPsf(self._grid, 0.0), seen)

    def _verdict(self, motion: Rigid, z: float) -> Verdict:
        x, y, _ = motion.way_mm(self._grid).tolist()
        across = float(np.hypot(x, y))
        over = [across / self.limit_mm, abs(z) / self.axial_limit_mm]
        value, limit = ((across, self.limit_mm), (abs(z), self.axial_limit_mm))[int(np.argmax(over))]
        off = max(over) > 1
        return Verdict(
            check=_CHECK,
            level=Level.FLAG if off else Level.PASS,
            advice=f"The attenuation map lies about {value:.0f} mm off the patient: look at the fusion, do not trust "
            "activity near edges; align CT and PET, or repeat the CT."
            if off
            else "The attenuation map fits the patient.",
            value=value,
            limit=limit,
            unit="mm",
            evidence=f"map against emission: x {x:+.1f}, y {y:+.1f}, z {z:+.1f} mm, {motion.angle_deg:.1f} degrees",
        )


def _solved(counted: ListMode) -> torch.Tensor:
    return osem(counted, counted.start(), n_iterations=2, n_subsets=6, report=lambda *_: None)


def _smooth(attenuation: Attenuation) -> Image:
    """Return the map as smooth as the image."""
    sigma = [_FWHM_MM * _SIGMA / s for s in attenuation.grid.spacing_mm]
    return Image(data=gaussian_filter(attenuation.mu_per_mm, sigma, mode="nearest"), grid=attenuation.grid)


def _unknown(why: str) -> Verdict:
    return Verdict(
        check=_CHECK,
        level=Level.FLAG,
        advice="Whether CT and PET fit together could not be checked: look at the fusion.",
        evidence=why,
    )
