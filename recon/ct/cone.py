"""Filtered backprojection of cone-beam rotations around a circle, on flat and cylindrical detectors.

Feldkamp, Davis and Kress, J Opt Soc Am A 1984;1:612, DOI 10.1364/JOSAA.1.000612.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from acquisition.ct_geometry import checked, fan_angles, row_heights_mm, row_pitch_iso_mm
from acquisition.errors import DataError, HeaderError, ReconError
from acquisition.items import Image, Item, Projections
from acquisition.scan import CtHeader, Scan
from kernels.ct_tile import BLOCK
from kernels.registry import device
from recon.ct.backend import backend
from recon.ct.extend import CUT_OFF, at_edge, complete, ends, truncation
from recon.ct.gather import reach_mm
from recon.ct.kernel import kernel_name, modulation, padded, response
from recon.ct.rays import SHIFTS, WIDEST
from recon.ct.redundancy import redundancy
from recon.ct.slices import Wanted, planned

_LOG = logging.getLogger(__name__)
_CHUNK = 16  # views that are filtered together
_BATCH = 32  # slices that are reconstructed together


@dataclass(kw_only=True)
class Cone(Wanted):
    """Cone-beam filtered backprojection (FDK) of one or more turns with the table at rest.

    A full turn, a short scan from half a turn and the fan angle up, or a full turn with the detector moved aside.
    """

    def open(self, scan: Scan) -> None:
        """Check the geometry and plan the slices.

        Raises
        ------
        HeaderError
            Not an axial CT scan, or a geometry that cannot be used.
        """
        ct = checked(scan.require_ct(), f"scan {scan.uid}")
        if ct.mode != "axial":
            raise HeaderError(f"scan {scan.uid}: CT", expected="axial", got=ct.mode, action="choose a helical protocol")
        modulation(self.kernel)
        self._uid, self._ct, self._reach = scan.uid, ct, reach_mm(ct)
        self._plan = planned(scan, ct, self, radius_mm=self._reach)
        self._ends, self._missing = ends(ct), _missing(ct, self.extend_mm)
        self._heads: list[NDArray[np.void]] = []
        self._data: list[NDArray[np.float32]] = []
        self._n_made, self._received_s, self._backprojected = 0, 0.0, backend().cone()

    def feed(self, item: Item) -> Iterator[Item]:
        """Take views; give the slices of a table position when the next one begins. Everything else passes.

        Raises
        ------
        DataError
            The views are no line integrals of this detector, or the focal spot flies.
        """
        if not isinstance(item, Projections) or item.head["flags"].any():
            yield item
            return
        self._check(item)
        for k in range(len(item)):
            if self._heads and abs(item.head["z_mm"][k] - self._heads[-1]["z_mm"]) > row_pitch_iso_mm(self._ct) / 2:
                yield from self._position()
            self._heads.append(item.head[k])
            self._data.append(item.data[k])
        self._received_s = item.received_s

    def close(self) -> Iterator[Item]:
        """Give the slices of the last table position.

        Raises
        ------
        ReconError
            There was none, or the views cover too little.
        """
        if not self._heads and not self._n_made:
            raise ReconError(f"scan {self._uid}", expected="views of the patient", got="none")
        if self._heads:
            yield from self._position()

    def _check(self, item: Projections) -> None:
        where, ct = f"scan {self._uid}: views", self._ct
        if item.domain != "lines":
            raise DataError(where, expected="line integrals", got=item.domain, action="put ct.air before this step")
        if item.data.shape[1:] != (ct.n_rows, ct.n_channels):
            raise DataError(where, expected=f"{ct.n_rows} x {ct.n_channels} elements", got=str(item.data.shape[1:]))
        if any(item.head[name].any() for name in SHIFTS):
            raise DataError(where, expected="a resting focal spot", got="a flying one", action="choose ct_axial")

    def _position(self) -> Iterator[Image]:
        """Reconstruct one table position."""
        head, data = np.array(self._heads, dtype=self._heads[0].dtype), self._data
        self._heads, self._data = [], []
        plan, z = self._plan, float(head["z_mm"][0])
        edge = at_edge(np.stack([view[:, self._ends] for view in data]))
        beyond = max(self.extend_mm, self._reach) if edge > CUT_OFF else 0.0
        filtered = self._filtered(head, data, beyond_mm=beyond)
        heights = row_heights_mm(self._ct) / self._ct.source_detector_mm
        near = self._ct.source_isocentre_mm - min(plan.radius_mm, self._reach)
        low, high = (heights[0] * near, heights[-1] * near) if self._ct.n_rows > 1 else (0.0, 0.0)
        n = max(1, int((high - low + row_pitch_iso_mm(self._ct) - plan.thickness_mm) / plan.increment_mm + 1e-6) + 1)
        places = (z + (low + high) / 2 + (np.arange(n) - (n - 1) / 2) * plan.increment_mm).tolist()
        _LOG.info("scan %s: %d slices from %d views at %.1f mm", self._uid, n, len(head), z)
        for start in range(0, n, _BATCH):
            batch = places[start : start + _BATCH]
            made = plan.stacked(batch, lambda zs: self._planes(filtered, head["angle_rad"], zs - z))
            for mu, place in zip(made, batch, strict=True):
                image = plan.image(mu, place, self._n_made, kernel=kernel_name(self.kernel))
                self._n_made += 1
                image = replace(image, last_readout_s=self._received_s)
                yield image.with_verdicts(truncation(edge, hu="estimates"))

    def _filtered(self, head: NDArray[np.void], data: list[NDArray[np.float32]], *, beyond_mm: float) -> torch.Tensor:
        """Return weighted, filtered views (view, row, channel), as wide on both sides, and padded, on the device.

        Filtered rows do not end where the detector does: the side that is shorter goes on as far as the other, and
        both as far as the slices' field. What the fan cuts off is completed as far as `beyond_mm`.
        """
        ct, weights = self._ct, self._weights(head)
        before, after = _missing(ct, max(beyond_mm, self.extend_mm))
        wide = replace(ct, n_channels=before + ct.n_channels + after, centre=(ct.centre[0], ct.centre[1] + before))
        measured, places = slice(before, before + ct.n_channels), ct.source_isocentre_mm * fan_angles(wide)
        tilt, spectrum = _tilt(wide), _spectrum(ct, self.kernel, wide.n_channels).to(device())
        weights = np.pad(weights.astype(np.float32), ((0, 0), (before, after)), mode="edge")
        padded_rows = torch.zeros((_CHUNK, ct.n_rows, 2 * (len(spectrum) - 1)))
        rows = padded_rows.numpy()[..., : wide.n_channels]
        width = sum(self._missing) + ct.n_channels
        shown = slice(before - self._missing[0], before - self._missing[0] + width)
        out = torch.empty((len(head), ct.n_rows, width + BLOCK), device=device())
        out[..., width:] = 0
        for start in range(0, len(head), _CHUNK):
            views = data[start : start + _CHUNK]
            some = rows[: len(views)]
            some[..., measured] = views
            if beyond_mm:
                complete(some, measured, places_mm=places, mu_per_mm=self._plan.mu_water_per_mm, sides=self._ends)
            some *= tilt
            some *= weights[start : start + _CHUNK, None, :]
            spectra = torch.fft.rfft(padded_rows[: len(views)].to(device())) * spectrum
            out[start : start + _CHUNK, :, :width] = torch.fft.irfft(spectra, n=padded_rows.shape[-1])[..., shown]
        return out

    def _weights(self, head: NDArray[np.void]) -> NDArray[np.float64]:
        """Return what each ray counts, times its part of the turn, (view, channel)."""
        ct, where = self._ct, f"scan {self._uid}: table position {head['z_mm'][0]:.1f} mm"
        if len(head) < 2:
            raise ReconError(where, expected="a rotation", got="1 view")
        angle = head["angle_rad"].astype(np.float64)
        sign = 1.0 if angle[-1] > angle[0] else -1.0
        if (np.diff(sign * angle) <= 0).any():
            raise DataError(where, expected="a gantry that turns one way", got="views out of order")
        fan = sign * fan_angles(ct)
        order = 1 if sign > 0 else -1
        weights = redundancy(sign * angle, fan[::order], where=where)[:, ::order]
        return weights * np.gradient(sign * angle)[:, None]

    def _planes(self, views: torch.Tensor, angles: NDArray[np.float64], zs: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return attenuation (z, y, x) at heights `zs` above the focal spot [mm]."""
        ct, xs, ys = self._ct, self._plan.xs, self._plan.ys
        curved = 1.0 if ct.detector == "cylindrical" else 0.0
        distances = (ct.source_isocentre_mm, ct.source_detector_mm)
        detector = (*distances, ct.centre[1] + self._missing[0], ct.centre[0], ct.pitch_mm[1], ct.pitch_mm[0], curved)
        axes = (xs, ys, np.asarray(zs, np.float64))
        return self._backprojected(views, angles.astype(np.float64), detector, axes).cpu().numpy()


def _missing(ct: CtHeader, beyond_mm: float) -> tuple[int, int]:
    """Return the columns to add before and after the channels to see `beyond_mm` farther than the longer side does."""
    far, reach = ct.source_isocentre_mm, reach_mm(ct)
    angles = np.arcsin(np.array([reach, min(reach + beyond_mm, WIDEST * far)]) / far)
    columns = (angles if ct.detector == "cylindrical" else np.tan(angles)) * ct.source_detector_mm / ct.pitch_mm[1]
    more = max(0, int(np.ceil(columns[1] - columns[0])))
    sides = (ct.centre[1], ct.n_channels - 1 - ct.centre[1])
    before, after = (max(0, round(max(sides) - side)) + more for side in sides)
    return before, after


def _tilt(ct: CtHeader) -> NDArray[np.float32]:
    """Return the cosine of each ray's angle to the central ray as the filter wants it, (row, channel)."""
    heights = row_heights_mm(ct)[:, None]
    fan, far = fan_angles(ct)[None, :], ct.source_detector_mm
    if ct.detector == "cylindrical":
        return (np.cos(fan) * far / np.hypot(far, heights)).astype(np.float32)
    return (far / np.sqrt(far**2 + (far * np.tan(fan)) ** 2 + heights**2)).astype(np.float32)


def _spectrum(ct: CtHeader, kernel: str | tuple[float, ...], width: int) -> torch.Tensor:
    """Return the filter's spectrum; on a cylinder, rows are in equal angles, and the kernel is stretched to them."""
    n = padded(width)
    flat = response(n, ct.pitch_mm[1] * ct.source_isocentre_mm / ct.source_detector_mm, kernel)
    if ct.detector == "flat":
        return torch.from_numpy(flat)
    angle = np.minimum(np.arange(n), n - np.arange(n)) * ct.pitch_mm[1] / ct.source_detector_mm
    stretched = np.fft.irfft(flat.astype(np.float64), n) / np.sinc(np.minimum(angle, np.pi / 2) / np.pi) ** 2
    return torch.from_numpy(np.fft.rfft(stretched).real.astype(np.float32))
