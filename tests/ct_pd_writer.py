"""Writes DICOM-CT-PD folders from the virtual CT scanner, by the format's own definition of the gantry.

Everything is drawn in the format's coordinates (X right, Y up, Z out of the gantry), rays included: an error in the
reader's change of coordinates cannot hide in the same error here. A patient head first supine has the left at +X, the
back at -Y and the head at -Z; one feet first supine the right at +X and the head at +Z.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from acquisition.scan import CtHeader
from acquisition.sources.phantom.objects import Phantom

TO_PATIENT = np.diag([1.0, -1.0, -1.0])
"""(X, Y, Z) of the gantry to LPS of a patient head first supine."""
TO_FEET_FIRST = np.diag([-1.0, -1.0, 1.0])
"""The same for a patient feet first supine."""


@dataclass(kw_only=True)
class PdScan:
    """One scan in the format's own words; angles grow counter-clockwise from 12 o'clock, seen from the front."""

    rows: int = 6
    columns: int = 31
    pitch: tuple[float, float] = (20.0, 5.0)
    """Transverse, axial [mm]."""
    centre: tuple[float, float] = (15.3, 3.9)
    """DetectorCentralElement (column, row), from 1."""
    rho: float = 595.0
    d0: float = 1085.6
    steps: int = 24
    n_views: int = 40
    phi0: float = 0.4
    sense: int = 1
    """+1: phi grows."""
    z0: float = 12.0
    feed: float = 18.0
    """Of Z per rotation; positive: from head to feet."""
    shifts: tuple[tuple[float, float, float], ...] = ((0.0, 0.0, 0.0),)
    """dphi, dz, drho of successive views."""
    mode: str = "HELICAL"
    shape: str = "CYLINDRICAL"
    mu_water: float = 0.0192
    extra: dict[str, Any] = field(default_factory=dict)
    """More standard attributes."""

    def phi(self, v: int) -> float:
        return self.phi0 + self.sense * 2 * np.pi * v / self.steps

    def z(self, v: int) -> float:
        return self.z0 + self.feed * v / self.steps

    def shift(self, v: int) -> tuple[float, float, float]:
        return self.shifts[v % len(self.shifts)]

    def spot(self, v: int) -> np.ndarray:
        """Focal spot in the gantry (X, Y, Z)."""
        dphi, dz, drho = self.shift(v)
        phi, rho = self.phi(v) + dphi, self.rho + drho
        return np.array([-rho * np.sin(phi), rho * np.cos(phi), self.z(v) + dz])

    def elements(self, v: int) -> np.ndarray:
        """Elements (row, column, XYZ): on an arc around the resting focus, or on a plane."""
        phi = self.phi(v)
        column = (np.arange(1, self.columns + 1) - self.centre[0]) * self.pitch[0]
        row = (np.arange(1, self.rows + 1) - self.centre[1]) * self.pitch[1]
        focus = np.array([-self.rho * np.sin(phi), self.rho * np.cos(phi)])
        if self.shape == "FLAT":
            inward, along = np.array([np.sin(phi), -np.cos(phi)]), np.array([np.cos(phi), np.sin(phi)])
            place = focus + self.d0 * inward + column[:, None] * along
        else:
            turned = phi + column / self.d0
            place = focus + self.d0 * np.stack([np.sin(turned), -np.cos(turned)], -1)
        out = np.empty((self.rows, self.columns, 3))
        out[..., :2], out[..., 2] = place, (self.z(v) - row)[:, None]
        return out

    def lines(self, phantom: Phantom, lying: np.ndarray = TO_PATIENT) -> np.ndarray:
        """Exact line integrals (view, row, column) through a patient."""
        spots = np.array([self.spot(v) for v in range(self.n_views)]) @ lying
        ends = np.array([self.elements(v) for v in range(self.n_views)]) @ lying
        return line_integrals(phantom, spots[:, None, None], ends, mu_water=self.mu_water)


def line_integrals(phantom: Phantom, starts: np.ndarray, ends: np.ndarray, *, mu_water: float) -> np.ndarray:
    """Integrals from `starts` to `ends` (..., xyz) through ellipsoids: chords of the unit ball."""
    way = ends - starts
    total = np.zeros(way.shape[:-1])
    for part, value in zip(phantom.ellipsoids, phantom.amplitudes(), strict=True):
        inverse = np.linalg.inv(part.matrix)
        u, d = (starts - part.centre) @ inverse.T, way @ inverse.T
        a, b, c = (d * d).sum(-1), (u * d).sum(-1), (u * u).sum(-1) - 1
        total += value * mu_water * 2 * np.sqrt(np.maximum(b * b - a * c, 0)) / a
    return (total * np.linalg.norm(way, axis=-1)).astype(np.float32)


def pd_of(ct: CtHeader, **changes: Any) -> PdScan:
    """The same gantry as a virtual scanner's."""
    fields: dict[str, Any] = {
        "rows": ct.n_rows,
        "columns": ct.n_channels,
        "pitch": ct.pitch_mm[::-1],
        "centre": (ct.centre[1] + 1, ct.centre[0] + 1),
        "rho": ct.source_isocentre_mm,
        "d0": ct.source_detector_mm,
        "steps": ct.views_per_rotation,
    }
    return PdScan(**(fields | changes))


def write(
    folder: Path, scan: PdScan, lines: np.ndarray, *, raw: bool = True, swapped: bool = True, wrapped: bool = True
) -> list[Path]:
    """Write one file per view, in an order of names that is not that of the views.

    Parameters
    ----------
    folder
        Made if it is not there.
    scan, lines
        The gantry, and line integrals (view, row, column).
    raw
        Private values as bytes (UN, implicit VR) instead of by their VR.
    swapped
        Columns of the detector as rows of the image.
    wrapped
        Angles between 0 and 2 pi, and Z rounded to 0.01 mm.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for v, data in enumerate(lines):
        ds = _view(scan, v, data, swapped=swapped, wrapped=wrapped)
        if raw:
            for element in list(ds):
                if element.tag.is_private:
                    ds.add_new(element.tag, "UN", _bytes(element.VR, element.value))
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if raw else ExplicitVRLittleEndian
        path = folder / name_of(v)
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def name_of(v: int) -> str:
    """Return the file of view `v`, from 0."""
    return f"{(v * 7919) % 100003:06d}.dcm"


def _view(scan: PdScan, v: int, data: np.ndarray, *, swapped: bool, wrapped: bool) -> Dataset:
    slope, intercept = float(np.ptp(data)) / 65000 or 1e-4, float(data.min())
    slope, intercept = float(f"{slope:.9g}"), float(f"{intercept:.9g}")
    stored = np.clip(np.rint((data - intercept) / slope), 0, 65535).astype("<u2")
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", f"1.2.3.{v + 1}"
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.SeriesInstanceUID, ds.InstanceNumber, ds.Modality = "1.2.3", v + 1, "CT"
    ds.Rows, ds.Columns = stored.T.shape if swapped else stored.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.RescaleSlope, ds.RescaleIntercept = f"{slope:.9g}", f"{intercept:.9g}"
    ds.PixelData = (stored.T if swapped else stored).tobytes()
    for name, value in scan.extra.items():
        setattr(ds, name, value)
    for tag, vr, value in _private(scan, v, wrapped=wrapped):
        ds.add_new(tag, vr, value)
    return ds


def _private(scan: PdScan, v: int, *, wrapped: bool) -> list[tuple[int, str, Any]]:
    phi, z = scan.phi(v), scan.z(v)
    dphi, dz, drho = scan.shift(v)
    moves = "".join(axis for axis, n in (("XY", 0), ("Z", 1)) if any(s[n] for s in scan.shifts))
    photons = (1e5 * (1 - np.linspace(-0.9, 0.7, scan.columns) ** 2) * (1 + 0.1 * v)).tolist()
    return [
        (0x70291002, "FL", scan.pitch[0]),
        (0x70291006, "FL", scan.pitch[1]),
        (0x7029100B, "CS", scan.shape),
        (0x70291010, "US", scan.rows),
        (0x70291011, "US", scan.columns),
        (0x70311001, "FL", phi % (2 * np.pi) if wrapped else phi),
        (0x70311002, "FL", round(z, 2) if wrapped else z),
        (0x70311003, "FL", scan.rho),
        (0x70311031, "FL", scan.d0),
        (0x70311033, "FL", list(scan.centre)),
        (0x7033100B, "FL", dphi),
        (0x7033100C, "FL", dz),
        (0x7033100D, "FL", drho),
        (0x7033100E, "CS", f"FFS{moves or 'NONE'}"),
        (0x70331013, "US", scan.steps),
        (0x70331061, "US", 1),
        (0x70331065, "FL", photons),
        (0x70371009, "CS", scan.mode),
        (0x7037100A, "CS", "FANBEAM"),
        (0x70391003, "CS", "YES"),
        (0x70391009, "CS", "YES"),
        (0x70411001, "DS", f"{scan.mu_water:.6g}"),
    ]


def _bytes(vr: str, value: Any) -> bytes:
    values = value if isinstance(value, list) or hasattr(value, "append") else [value]
    if vr in ("FL", "US"):
        return struct.pack(f"<{len(values)}{'f' if vr == 'FL' else 'H'}", *values)
    text = "\\".join(str(v) for v in values)
    return (text + " " * (len(text) % 2)).encode()
