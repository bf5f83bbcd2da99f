"""What a PET scan needs beside its list-mode, read from files: the scanner's normalisation and a map of attenuation.

Both Steps stand before those that reconstruct and give them what they read; with no file named they do nothing. Maps
lie in the patient, LPS: of an Interfile image or a DICOM or NIfTI volume the file says where. The origin along the
axis of the tunnel is the middle of the rings with the table where the scan begins; `shift_mm` brings a map there whose
file counts from somewhere else, as a CT does that was made on another table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np

from acquisition.ct_geometry import patient_axes
from acquisition.errors import ConfigError, DataError
from acquisition.geometry import Grid
from acquisition.items import Image, Item
from acquisition.pet import PER_MM, mu_map, mu_on
from acquisition.pet_norm import Normalisation
from acquisition.scan import Scan
from acquisition.sources.interfile import read_image as read_interfile
from acquisition.sources.mmr_norm import normalisation, read_norm
from acquisition.sources.nifti import is_nifti, read_nifti
from acquisition.verdict import Level, Verdict
from integration.companion import companion
from integration.dicom.read import read_images

_AIR_HU = -500.0
_TISSUE_PER_MM = 0.005  # between lung and fat
_PLAUSIBLE_PER_MM = (0.005, 0.1)  # the greatest value of a map: fat to steel


@dataclass(kw_only=True)
class NormalisationFile:
    """Give the scanner's own normalisation, read when the scan begins."""

    path: str = ""
    """Header of a Siemens mMR normalisation (.n.hdr); empty: none, lines count as their geometry says."""

    def open(self, scan: Scan) -> None:
        """Read the file.

        Raises
        ------
        ConfigError
            There is no such file, or it lies where it must not.
        InputError
            It is no normalisation, damaged, or of another scanner.
        """
        self._found: Normalisation | None = None
        if self.path:
            norm = read_norm(companion(self.path, scan, where="pet.normalisation path"))
            self._found = normalisation(norm, scan.require_pet())

    def feed(self, item: Item) -> Iterator[Item]:
        """Give the normalisation before the first item; pass everything on."""
        if self._found is not None:
            found, self._found = self._found, None
            yield found
            yield _DEAD_TIME
        yield item

    def close(self) -> Iterator[Item]:
        """Give nothing."""
        yield from ()


@dataclass(kw_only=True)
class AttenuationFile:
    """Give the map of attenuation at 511 keV, read when the scan begins."""

    path: str = ""
    """Map or CT: Interfile header (.hv), NIfTI file, DICOM folder of one CT series; empty: none."""
    hardware: str = ""
    """Map of table and coils, of the same kinds, that is added to the first; empty: none."""
    unit: Literal["", "1/cm", "1/mm", "HU"] = ""
    """What the values are; empty: as the file says, of an Interfile image that does not 1/cm."""
    kvp: float = 0.0
    """Tube voltage of a CT [kV]; 0: as the file says, else 120."""
    shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Added to the map's place, LPS [mm]."""
    fwhm_mm: float = 5.0
    """Resolution to which a CT is blurred, FWHM [mm]; maps are taken as they are."""
    voxel_mm: float = 4.0
    """Size of the voxels to which the map is brought [mm]."""

    def __post_init__(self) -> None:
        if self.voxel_mm <= 0 or min(self.fwhm_mm, self.kvp) < 0:
            raise ConfigError(
                "pet.attenuation",
                expected="voxel_mm above 0, fwhm_mm and kvp from 0",
                got=f"{self.voxel_mm}, {self.fwhm_mm}, {self.kvp}",
            )

    def open(self, scan: Scan) -> None:
        """Read the map and bring it to the axes of the gantry.

        Raises
        ------
        ConfigError
            There is no such file, it lies where it must not, or its unit or voltage must be told.
        InputError
            It cannot be read, its values are none of attenuation, or it lies beside the rings.
        """
        self._found: tuple[Item, ...] = ()
        if not self.path:
            return
        names = {"path": self.path, "hardware": self.hardware}
        paths = [companion(v, scan, where=f"pet.attenuation {key}") for key, v in names.items() if v]
        images = [self._read(path) for path in paths]
        grid = covering([image.grid for image in images], scan, voxel_mm=self.voxel_mm)
        mu = self._mu(images[0], grid)
        _checked_range(mu, paths[0].name)
        for more in images[1:]:
            mu = replace(mu, data=mu.data + self._mu(more, grid).data)
        told = dict.fromkeys(v for image in images for v in image.verdicts)
        self._found = (mu, *told, _checked(mu, scan, paths[0].name))

    def feed(self, item: Item) -> Iterator[Item]:
        """Give the map before the first item; pass everything on."""
        found, self._found = self._found, ()
        yield from found
        yield item

    def close(self) -> Iterator[Item]:
        """Give nothing."""
        yield from ()

    def _read(self, path: Path) -> Image:
        if path.is_dir():
            image = _series(path)
        elif is_nifti(path):
            image = read_nifti(path, unit=self.unit or "unknown")
        else:
            image = read_interfile(path)
            image = replace(image, unit="1/cm") if image.unit == "a.u." else image
        image = replace(image, unit=self.unit or image.unit)
        if image.unit not in (*PER_MM, "HU") or image.data.ndim != 3:
            raise ConfigError(
                "pet.attenuation unit",
                expected="one volume in 1/cm, 1/mm or HU",
                got=f"{path.name}: {image.data.shape} in {image.unit}",
                action="say what it is, e.g. --set pet.attenuation.unit=HU",
            )
        x, y, z = np.add(image.grid.origin_mm, self.shift_mm).tolist()
        return replace(image, grid=replace(image.grid, origin_mm=(x, y, z)))

    def _mu(self, image: Image, grid: Grid) -> Image:
        if image.unit != "HU":
            return mu_on(image, grid)
        if image.data.min(initial=0.0) > _AIR_HU:
            raise DataError(
                f"CT {Path(self.path).name}",
                expected=f"air, below {_AIR_HU:g} HU",
                got=f"{image.data.min():.4g} HU at least",
                action="say in which unit it is: pet.attenuation.unit",
            )
        kvp = self.kvp or float(image.attributes.get("KVP") or 120.0)
        vendor = image.attributes.get("Manufacturer", "")
        return mu_map(image, grid, fwhm_mm=self.fwhm_mm, kvp=kvp, vendor=vendor)


def covering(maps: list[Grid], scan: Scan, *, voxel_mm: float) -> Grid:
    """Return voxels along the gantry's axes, as they lie in the patient, that hold all of some maps within the rings.

    Parameters
    ----------
    maps
        Voxels of the maps, in the patient.
    scan
        Tells the rings, and how the patient lies in them.
    voxel_mm
        Size of the voxels [mm].

    Raises
    ------
    DataError
        The maps lie beside the rings.
    """
    axes, radius = np.array(patient_axes(scan.patient.position)), scan.require_pet().radius_mm
    corners = [own.world(at) for own in maps for at in product(*((0, n - 1) for n in own.shape))]
    places = np.array(corners) @ axes.T
    low, high = places.min(0) - voxel_mm, places.max(0) + voxel_mm
    low[:2], high[:2] = np.maximum(low[:2], -radius), np.minimum(high[:2], radius)
    if (high <= low).any():
        raise DataError(
            "pet.attenuation",
            expected=f"a map within {radius:g} mm of the rings' axis",
            got=f"one from {places.min(0).round().tolist()} to {places.max(0).round().tolist()} mm",
            action="say how far to move it: pet.attenuation.shift_mm",
        )
    nx, ny, nz = np.ceil((high - low) / voxel_mm).astype(int).tolist()
    centre = ((low + high) / 2) @ axes
    return Grid.from_centre(centre, shape=(nz, ny, nx), spacing_mm=(voxel_mm,) * 3, directions=tuple(axes))


def _series(folder: Path) -> Image:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "DICOMDIR")
    found = [image for image in (read_images(files) if files else []) if image.attributes["Modality"] == "CT"]
    if len(found) != 1:
        raise ConfigError(
            "pet.attenuation path",
            expected="a folder with one CT series",
            got=f"{folder.name}: {len(files)} files, {len(found)} CT volumes",
            action="leave one series in it, without its scout",
        )
    return found[0]


def _checked_range(mu: Image, name: str) -> None:
    low, high = _PLAUSIBLE_PER_MM
    most = float(mu.data.max(initial=0.0))
    if not low <= most <= high:
        raise DataError(
            f"attenuation map {name}",
            expected=f"a greatest value of {10 * low:g} to {10 * high:g} 1/cm",
            got=f"{10 * most:.4g} 1/cm",
            action="say in which unit it is: pet.attenuation.unit",
        )


def _checked(mu: Image, scan: Scan, name: str) -> Verdict:
    """Return a finding on the map: whether it covers the rings from end to end.

    Raises
    ------
    DataError
        There is no tissue between the rings.
    """
    pet, grid = scan.require_pet(), mu.grid
    axis = np.array(patient_axes(scan.patient.position))[2]
    z = float(axis @ grid.origin_mm) + grid.spacing_mm[0] * np.arange(grid.shape[0])
    beds = np.array(pet.beds_mm or (0.0,))
    half = pet.n_rings * pet.ring_pitch_mm / 2
    first, last = -half - float((beds - beds[0]).max()), half - float((beds - beds[0]).min())
    between = (z >= first) & (z <= last)
    if not (mu.data[between] > _TISSUE_PER_MM).any():
        raise DataError(
            f"attenuation map {name}",
            expected=f"tissue between {first:.0f} and {last:.0f} mm along the axis of the rings",
            got=f"a map from {z[0]:.0f} to {z[-1]:.0f} mm",
            action="say how far to move it: pet.attenuation.shift_mm",
        )
    lacking = max(z[0] - first, last - z[-1], 0.0)
    short = lacking > 2 * grid.spacing_mm[0]
    return Verdict(
        check="pet.attenuation",
        level=Level.FLAG if short else Level.PASS,
        advice="The map of attenuation ends within the rings: the slices beyond are too dark."
        if short
        else "The map of attenuation covers the rings; look whether it lies on the patient.",
        value=lacking,
        limit=2 * grid.spacing_mm[0],
        unit="mm",
        evidence=f"greatest value {10 * float(mu.data.max()):.3g} 1/cm",
    )


_DEAD_TIME = Verdict(
    check="pet.dead_time",
    level=Level.PASS,
    advice="Dead time is not corrected: the normalisation tells it per ring, the list-mode's singles are not used.",
)
