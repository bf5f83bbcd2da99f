"""Interfile sinograms as STIR writes them (.hs and .s).

A sinogram comes per segment as (tof, axial, view, bin). STIR counts rings and axial positions out of the tunnel, which
is towards the feet of a patient who lies head first; here both grow towards the head, so the axial axis is turned. Its
detector 0 is at the top, its indices grow towards the patient's left, and its ring difference, second minus first in
its own numbers, is first minus second in ours. `acquisition.pet_sinogram` says which detectors a bin belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import FileFormatError
from acquisition.pet_geometry import checked
from acquisition.pet_norm import Normalisation
from acquisition.pet_sinogram import crystal_pairs
from acquisition.scan import PetHeader
from acquisition.sources.interfile_header import Header, pixels, read_header

_MM_PER_PS = 0.299792458 / 2
_GAPS = {"siemens mmr": (0,)}
"""Virtual crystals within a block: the format does not tell them."""
_AXIAL, _VIEW = "axial coordinate", "view"


@dataclass(frozen=True, slots=True, kw_only=True)
class SinogramLayout:
    """How a sinogram is made up."""

    pet: PetHeader
    """The scanner."""
    n_views: int
    """Views over half a turn."""
    n_bins: int
    """Bins per view."""
    n_axial: tuple[int, ...]
    """Axial positions of each segment."""
    differences: tuple[tuple[int, int], ...]
    """Least and greatest first minus second ring of each segment."""

    def rings(self, segment: int, axial: int) -> NDArray[np.int32]:
        """Return the pairs of rings whose counts were summed at an axial position, shape (pair, 2)."""
        least, most = self.differences[segment]
        step = 1 if most > least else 2
        total = (self.pet.n_rings - 1) + step * (axial - (self.n_axial[segment] - 1) / 2)
        found = [((total + d) / 2, (total - d) / 2) for d in range(least, most + 1)]
        inside = [p for p in found if p[0] == int(p[0]) and min(p) >= 0 and max(p) < self.pet.n_rings]
        return np.array(inside, np.int32).reshape(-1, 2)

    def crystals(self) -> NDArray[np.int32]:
        """Return the crystals of both detectors of each bin, shape (view, bin, 2)."""
        return crystal_pairs(self.pet.n_crystals, self.n_views, self.n_bins)

    def efficiency(self, norm: Normalisation, segment: int, axial: int) -> NDArray[np.float64]:
        """Return the efficiency of the bins of one sinogram, that of all lines summed into each, shape (view, bin)."""
        half = self.pet.n_crystals // 2
        lines = crystal_pairs(self.pet.n_crystals, half, self.n_bins)
        total = np.zeros((half, self.n_bins))
        for rings in self.rings(segment, axial):
            pairs = (rings * np.int32(self.pet.n_crystals) + lines).astype(np.int32).reshape(-1, 2)
            total += norm.efficiency(pairs).reshape(total.shape)
        return total.reshape(self.n_views, -1, self.n_bins).sum(axis=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sinogram:
    """Counts, or what stands in their place, per bin."""

    layout: SinogramLayout
    """Which bins."""
    segments: tuple[NDArray[np.float32], ...]
    """Per segment (tof, axial, view, bin)."""


def read_sinogram(path: Path) -> Sinogram:
    """Read a sinogram.

    Parameters
    ----------
    path
        The header, .hs.

    Raises
    ------
    FileFormatError
        It is no Interfile header, no sinogram, or the data file is missing or of the wrong size.
    HeaderError
        A value is missing or makes no sense.
    """
    header = read_header(path)
    layout = layout_of(header)
    n_tof, (n_views, n_bins) = layout.pet.n_tof, (layout.n_views, layout.n_bins)
    flat = pixels(header, (n_tof, sum(layout.n_axial) * n_views * n_bins))
    by_view = header.word("matrix axis label", index=3).lower() == _VIEW
    parts = np.split(flat, np.cumsum(layout.n_axial)[:-1] * n_views * n_bins, axis=1)
    segments = []
    for part, n in zip(parts, layout.n_axial, strict=True):
        stored = part.reshape((n_tof, n_views, n, n_bins) if by_view else (n_tof, n, n_views, n_bins))
        segments.append((stored.swapaxes(1, 2) if by_view else stored)[:, ::-1])
    return Sinogram(layout=layout, segments=tuple(segments))


def layout_of(header: Header) -> SinogramLayout:
    """Return what a sinogram's header says.

    Raises
    ------
    FileFormatError
        It is no sinogram.
    HeaderError
        A value is missing or contradicts another.
    """
    labels = [header.word("matrix axis label", "", index=i).lower() for i in range(1, 6)]
    orders = (["tangential coordinate", _AXIAL, _VIEW], ["tangential coordinate", _VIEW, _AXIAL])
    if labels[:3] not in orders or labels[3] != "segment" or labels[4] not in ("", "timing positions"):
        raise FileFormatError(
            f"file {header.path.name}",
            expected="axes tangential, axial and view in either order, segment, timing positions",
            got=", ".join(filter(None, labels)) or "no axes",
            action="read images with read_image, list-mode with open_raw",
        )
    sizes = header.numbers("matrix size", index=1 + labels.index(_AXIAL))
    least = header.numbers("minimum ring difference per segment")
    most = header.numbers("maximum ring difference per segment")
    if not len(sizes) == len(least) == len(most) == header.count("matrix size", index=4):
        raise header.wrong(
            "matrix size", "one axial size and two ring differences per segment", f"{len(sizes)}, {len(least)}", index=4
        )
    layout = SinogramLayout(
        pet=_geometry(header, max(map(abs, (*least, *most)))),
        n_views=header.count("matrix size", index=1 + labels.index(_VIEW)),
        n_bins=header.count("matrix size", index=1),
        n_axial=sizes,
        differences=tuple(zip(least, most, strict=True)),
    )
    if layout.n_views < 1 or layout.pet.n_crystals % (2 * layout.n_views) or layout.n_bins >= layout.pet.n_crystals:
        raise header.wrong(
            "matrix size",
            f"views that divide half of {layout.pet.n_crystals} detectors, and fewer bins than detectors",
            f"{layout.n_views} views of {layout.n_bins} bins",
        )
    return layout


def _geometry(header: Header, max_difference: int) -> PetHeader:
    n_tof = header.count("matrix size", 1, index=5)
    unmashed_ps = header.number("size of unmashed tof time bins (ps)", 0.0)
    tof_bin_mm = unmashed_ps * header.number("tof mashing factor", 1.0) * _MM_PER_PS
    depth_cm = header.number("average depth of interaction (cm)")
    around = header.count("number of crystals per block in transaxial direction", 0)
    gaps = _GAPS.get(header.word("scanner type", "").lower(), ())
    pet = PetHeader(
        n_rings=header.count("number of rings"),
        n_crystals=header.count("number of detectors per ring"),
        radius_mm=10 * (header.number("inner ring diameter (cm)") / 2 + depth_cm),
        ring_pitch_mm=10 * header.number("distance between rings (cm)"),
        first_angle_rad=float(np.deg2rad(header.number("view offset (degrees)", 0.0)) - np.pi / 2),
        block=(header.count("number of crystals per block in axial direction", 0), around),
        gaps=gaps,
        max_ring_difference=max_difference,
        n_tof=n_tof,
        tof_bin_mm=tof_bin_mm if n_tof > 1 else 0.0,
        tof_fwhm_mm=header.number("tof timing resolution (ps)", 0.0) * _MM_PER_PS if n_tof > 1 else 0.0,
        energy_kev=(
            header.number("energy window lower level", 430.0, index=1),
            header.number("energy window upper level", 610.0, index=1),
        ),
        energy_resolution=header.number("energy resolution", 0.12),
    )
    return checked(pet, f"file {header.path.name}")
