"""Metal artefact reduction by normalised sinogram replacement (NMAR), beside the conventional image.

Meyer, Raupach, Lell, Schmidt and Kachelriess, Med Phys 2010;37:5482, DOI 10.1118/1.3484090: rays through metal are
replaced by what their neighbours measure, after all have been divided by the line integrals of a prior image of air,
soft tissue and bone. Where the prior is right the quotient is flat, so interpolating it loses no edges.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter, label, map_coordinates, maximum_filter

from acquisition.ct_geometry import field_radius_mm, patient_axes
from acquisition.errors import ConfigError
from acquisition.geometry import Grid
from acquisition.items import Image, Item, Projections
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from recon.ct.fbp import Axial, Helical
from recon.ct.gather import TablePositions
from recon.ct.project import ConeProjector
from recon.ct.slices import Wanted

_LOG = logging.getLogger(__name__)
_AIR_BELOW = -500.0  # HU of the prior image: less is air, more is tissue
_SMOOTH = 1.0  # pixels, before tissues are told apart
_LUNG_ABOVE = -950.0  # HU
_WIDE = 4.0  # pixels, over which dark tissue is averaged
_LEAST_PRIOR = 0.1  # line integral of the prior below which a quotient says nothing
_PASSES = 3  # prior images, each made of the lines replaced before; a lung needs three
_FINEST = 512  # pixels along x and y of the image in which metal is looked for

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Quick:
    """Attenuation of everything in the field, coarse."""

    hu: Floats
    """HU (z, y, x)."""
    grid: Grid
    """Its voxels."""


@dataclass(kw_only=True)
class Metal(Wanted):
    """Filtered backprojection twice: as ``ct.fbp`` or ``ct.helical`` does it, and with the metal's shadow replaced.

    The conventional slices go out as always. Where metal was found, slices ``metal_reduced`` follow for the whole
    table position, the metal itself as in the conventional ones. All views of a position are held.
    """

    metal_above_hu: float = 2500.0
    """What is brighter is metal [HU]."""
    bone_above_hu: float = 350.0
    """What is brighter keeps its own value in the prior image; darker tissue counts as water [HU]."""
    least_mm3: float = 20.0
    """Smaller bright spots are no metal [mm3]."""

    def __post_init__(self) -> None:
        if not 0 < self.bone_above_hu < self.metal_above_hu or self.least_mm3 < 0:
            raise ConfigError(
                "ct.metal",
                expected="0 < bone_above_hu < metal_above_hu, least_mm3 from 0",
                got=f"{self.bone_above_hu}, {self.metal_above_hu}, {self.least_mm3}",
            )

    def open(self, scan: Scan) -> None:
        """Check the geometry and plan the slices.

        Raises
        ------
        HeaderError
            Not a CT scan that filtered backprojection can reconstruct.
        """
        self._scan, self._ct = scan, scan.require_ct()
        self._conventional = self._backprojection()
        self._conventional.open(scan)
        self._positions = TablePositions(scan.uid, self._ct)
        self._held: dict[float, Image] = {}
        self._metal_mm3 = 0.0
        self._axes = np.array(patient_axes(scan.patient.position))

    def feed(self, item: Item) -> Iterator[Item]:
        """Take views; give the slices of a table position when the next one begins. Everything else passes."""
        yield from self._kept(self._conventional.feed(item))
        if isinstance(item, Projections) and not item.head["flags"].any():
            for views in self._positions.put(item):
                yield from self._reduced(views)

    def close(self) -> Iterator[Item]:
        """Give the rest, and say how much metal there was.

        Raises
        ------
        ReconError
            The scan was too short for a single slice.
        """
        yield from self._kept(self._conventional.close())
        for views in self._positions.rest():
            yield from self._reduced(views)
        yield self._verdict(self._metal_mm3)

    def _kept(self, items: Iterator[Item]) -> Iterator[Item]:
        for item in items:
            if isinstance(item, Image):
                self._held[_place(item)] = item
            yield item

    def _backprojection(self, **changes: object) -> Axial | Helical:
        options = {f.name: getattr(self, f.name) for f in fields(Wanted)} | changes
        return (Axial if self._ct.mode == "axial" else Helical)(**options)

    def _reduced(self, views: Projections) -> Iterator[Image]:
        quick = self._quick(views, views.data)
        metal, mm3 = _large(quick.hu > self.metal_above_hu, quick.grid, self.least_mm3)
        self._metal_mm3 += mm3
        held, self._held = self._held, {}
        if not metal.any():
            return
        projector = ConeProjector(self._ct, views.head, quick.grid)
        trace = maximum_filter(projector(torch.from_numpy(metal.astype(np.float32))).numpy() > 0, (1, 3, 3))
        lines = interpolated(views.data, trace)
        for _ in range(_PASSES):
            prior = self._prior(self._quick(views, lines), metal)
            lines = normalised(views.data, trace, projector(torch.from_numpy(prior)).numpy())
        text = "scan %s: %.0f mm3 of metal in %.1f %% of the rays"
        _LOG.info(text, self._scan.uid, mm3, 100 * float(trace.mean()))
        near = binary_dilation(metal, np.ones((3, 3, 3), bool))
        for image in _images(self._backprojection(), self._scan, replace(views, data=lines)):
            before = held.get(_place(image), image)
            back = (before.data > self.metal_above_hu) & _sampled(near, quick.grid, image.grid, self._axes)
            data = np.where(back, before.data, image.data)
            made = replace(before, data=data, output="metal_reduced", last_readout_s=image.last_readout_s)
            yield made.with_verdicts(self._verdict(mm3))

    def _quick(self, views: Projections, lines: Floats) -> _Quick:
        """Reconstruct the whole field with pixels as large as a channel is at the axis."""
        ct = self._ct
        field = 2 * field_radius_mm(ct)
        pitch = ct.pitch_mm[1] * ct.source_isocentre_mm / ct.source_detector_mm
        changes = {"fov_mm": field, "centre_mm": (0.0, 0.0), "thickness_mm": 0.0, "increment_mm": 0.0}
        step = self._backprojection(kernel="soft", matrix=min(_FINEST, int(np.ceil(field / pitch))), **changes)
        in_gantry = replace(self._scan, patient=replace(self._scan.patient, position=None))
        images = sorted(_images(step, in_gantry, replace(views, data=lines)), key=_place)
        grid = replace(images[0].grid, shape=(len(images), *images[0].grid.shape[1:]))
        return _Quick(hu=np.concatenate([image.data for image in images]), grid=grid)

    def _prior(self, quick: _Quick, metal: NDArray[np.bool_]) -> Floats:
        """Return attenuation of air, lung, water and bone [1/mm] (z, y, x); what streaks, only bone keeps."""
        smooth = gaussian_filter(quick.hu, (0, _SMOOTH, _SMOOTH))
        bone = (smooth > self.bone_above_hu) & ~metal
        dark = (smooth < _AIR_BELOW) & ~metal
        share = gaussian_filter(dark.astype(np.float32), (0, _WIDE, _WIDE))
        mean = gaussian_filter(np.where(dark, quick.hu, 0), (0, _WIDE, _WIDE)) / np.maximum(share, 1e-3)
        hu = np.where(bone, quick.hu, np.where(dark, np.where(mean < _LUNG_ABOVE, -1000, mean), 0))
        mu_water = self.mu_water_per_mm or self._ct.mu_water_per_mm or 0.0
        return ((hu / 1000 + 1).clip(0) * mu_water).astype(np.float32)

    def _verdict(self, mm3: float) -> Verdict:
        found = mm3 > 0
        return Verdict(
            check="ct.metal",
            level=Level.FLAG if found else Level.PASS,
            advice="Metal in the field: read metal_reduced beside the conventional image; HU close to metal are wrong."
            if found
            else "No metal in the field.",
            value=mm3,
            limit=self.least_mm3,
            unit="mm3",
            evidence=f"voxels above {self.metal_above_hu:g} HU",
        )


def interpolated(lines: Floats, trace: NDArray[np.bool_]) -> Floats:
    """Return lines (view, row, channel) with those of `trace` interpolated linearly along the channels."""
    out, channels = lines.copy(), np.arange(lines.shape[2])
    for v, r in zip(*np.nonzero(trace.any(axis=2) & ~trace.all(axis=2)), strict=True):
        hole = trace[v, r]
        out[v, r, hole] = np.interp(channels[hole], channels[~hole], lines[v, r, ~hole])
    return out


def normalised(lines: Floats, trace: NDArray[np.bool_], reference: Floats) -> Floats:
    """Return lines with those of `trace` interpolated in units of the prior image's line integrals `reference`."""
    scale = np.maximum(reference, np.float32(_LEAST_PRIOR))
    return np.where(trace, interpolated((lines / scale).astype(np.float32), trace) * scale, lines)


def _large(mask: NDArray[np.bool_], grid: Grid, least_mm3: float) -> tuple[NDArray[np.bool_], float]:
    """Return the connected parts of at least so many mm3, and what they measure together [mm3]."""
    parts, _ = label(mask)
    sizes = np.bincount(parts.ravel()) * float(np.prod(grid.spacing_mm))
    sizes[0] = 0.0
    keep = sizes >= max(least_mm3, 1e-9)
    return keep[parts], float(sizes[keep].sum())


def _sampled(mask: NDArray[np.bool_], of: Grid, at: Grid, axes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return a mask in the gantry at the voxels of a grid in the patient, in whom the gantry's axes point as told."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in at.shape), indexing="ij"), -1)[..., ::-1]
    points = (index @ at.affine[:3, :3].T + at.affine[:3, 3]) @ axes.T
    places = ((points - of.origin_mm) / of.spacing_mm[::-1])[..., ::-1]
    return map_coordinates(mask.astype(np.uint8), np.moveaxis(places, -1, 0), order=0, mode="nearest") > 0


def _images(step: Axial | Helical, scan: Scan, views: Projections) -> list[Image]:
    step.open(scan)
    return [image for image in (*step.feed(views), *step.close()) if isinstance(image, Image)]


def _place(image: Image) -> float:
    return round(image.grid.origin_mm[2], 4)
