"""What a CT series of a test object measures: HU, uniformity, noise and its spectrum, sharpness, contrast to noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from acquisition.errors import ConfigError, DataError
from acquisition.items import Image
from integration.dicom.read import read_images
from recon.ct.mtf import Mtf, mtf_disc, mtf_wire
from recon.ct.quality import NoisePower, Slice, contrast_to_noise, noise_power, squares, uniformity
from recon.ct.uniform import Disc, round_object, squares_in

_WATER_HU = 100.0  # from 0: farther off it is not water that was found
_STRUCTURE_HU = 20.0  # beyond twice the noise: more is no uniform region
_RIM_MM = 10.0
_SIDE_PIXELS = (16, 64)
_OF_AXES = 1e-3
_MEASURED = ("CT", "PT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where to measure; None: the object's own water and edge."""

    uniform: Disc | None = None
    """The uniform region."""
    edge: Disc | None = None
    """A disc whose edge shows the sharpness."""
    wire: tuple[float, float, float] | None = None
    """A wire: x, y and its diameter [mm]; it goes before the edge."""
    pair: tuple[tuple[float, float], tuple[float, float]] | None = None
    """An insert and its background (x, y) [mm]."""
    region_mm: float = 0.0
    """Radius of these two regions [mm]; 0: a tenth of the uniform region's."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Quality:
    """What was measured."""

    uniform: Disc
    """The uniform region."""
    hu: float
    """Mean of its middle [HU]."""
    uniformity_hu: float
    """Largest difference of its rim from its middle, with its sign [HU]."""
    noise_hu: float
    """Standard deviation in its middle, within slices [HU]."""
    noise: NoisePower
    """Spectrum of the noise."""
    n_squares: int
    """Squares it was averaged over."""
    mtf: Mtf | None
    """Sharpness."""
    mtf_from: str
    """What it was measured at, or why it was not."""
    cnr: float | None
    """Contrast over noise of the pair."""


def volume_of(series: Path) -> Image:
    """Read a folder, or a file, with one CT or PET series.

    Raises
    ------
    ConfigError
        There is no such place.
    DataError
        It does not hold exactly one CT or PET volume.
    """
    if not series.exists():
        raise ConfigError("series", expected="a folder or file with DICOM CT or PET images", got=f"{series}: not there")
    files = sorted(p for p in series.rglob("*") if p.is_file()) if series.is_dir() else [series]
    files = [p for p in files if p.name != "DICOMDIR" and p.name[0] != "."]
    found = [image for image in (read_images(files) if files else []) if image.attributes["Modality"] in _MEASURED]
    if len(found) != 1 or (found[0].attributes["Modality"] == "CT" and found[0].unit != "HU"):
        got = ", ".join(f"{len(i.data)} slices {i.attributes['SeriesDescription']!r} [{i.unit}]" for i in found)
        raise DataError(
            str(series),
            expected="the images of one CT series in HU, or of one PET series",
            got=got or f"{len(files)} files, none of them CT or PET",
            action="name a folder with one series",
        )
    return found[0]


def slices_of(volume: Image, span: tuple[int, int] | None = None) -> list[Slice]:
    """Return the slices of an axial volume, x to the left and y to the back of the patient growing.

    Parameters
    ----------
    volume
        The volume (z, y, x).
    span
        First and last slice, counted from 1; None: the middle third.

    Raises
    ------
    DataError
        The slices are tilted, or their pixels are not square.
    ConfigError
        There are no such slices.
    """
    grid, n = volume.grid, len(volume.data)
    along = grid.x_dir[0], grid.y_dir[1]
    if min(map(abs, along)) < 1 - _OF_AXES or abs(grid.spacing_mm[1] / grid.spacing_mm[2] - 1) > _OF_AXES:
        raise DataError(
            "CT series",
            expected="axial slices of square pixels",
            got=f"rows along {grid.x_dir}, columns along {grid.y_dir}, pixels of {grid.spacing_mm[1:]} mm",
        )
    first, last = span or (n // 3 + 1, n - n // 3)
    if not 1 <= first <= last <= n:
        raise ConfigError("slices", expected=f"first:last from 1 to {n}", got=f"{first}:{last}")
    turn = tuple(slice(None, None, 1 if a > 0 else -1) for a in along)
    xs, ys = (
        np.sort(np.arange(count) * step * sign + start)
        for count, step, sign, start in (
            (grid.shape[2], grid.spacing_mm[2], np.sign(along[0]), grid.origin_mm[0]),
            (grid.shape[1], grid.spacing_mm[1], np.sign(along[1]), grid.origin_mm[1]),
        )
    )
    return [Slice(hu=hu[turn[1], turn[0]], xs_mm=xs, ys_mm=ys) for hu in volume.data[first - 1 : last]]


def measured(slices: Sequence[Slice], places: Places) -> Quality:
    """Measure in some slices of a test object.

    Noise is that within single slices; everything else is measured in their mean.

    Raises
    ------
    DataError
        Something is not there where it should be.
    """
    mean = Slice(hu=np.mean([s.hu for s in slices], axis=0), xs_mm=slices[0].xs_mm, ys_mm=slices[0].ys_mm)
    whole = None if places.uniform else round_object(mean)
    uniform = places.uniform or _inner(whole or round_object(mean))
    centre, radius = uniform.centre_mm, uniform.radius_mm
    low, high = (n * mean.pixel_mm for n in _SIDE_PIXELS)
    side = float(np.clip(0.5 * radius, low, high))
    middles = squares_in(uniform, side)
    noise = float(np.sqrt(np.mean([s.disc(centre, 0.4 * radius).var(dtype=np.float64) for s in slices])))
    if whole:
        _require_water(mean.disc(centre, radius), noise)
    rim, middle = uniformity(mean, centre_mm=centre, radius_mm=0.88 * radius, region_mm=0.12 * radius)
    cut = np.concatenate([squares(s, centres_mm=middles, side_mm=side) for s in slices])
    mtf, mtf_from = _sharpness(mean, places, whole)
    return Quality(
        uniform=uniform,
        hu=middle,
        uniformity_hu=rim,
        noise_hu=noise,
        noise=noise_power(cut, pixel_mm=mean.pixel_mm),
        n_squares=len(cut),
        mtf=mtf,
        mtf_from=mtf_from,
        cnr=_contrast(slices, places, 0.1 * radius),
    )


def _inner(whole: Disc) -> Disc:
    rim = min(_RIM_MM, 0.25 * whole.radius_mm)
    return Disc(centre_mm=whole.centre_mm, radius_mm=whole.radius_mm - rim)


def _require_water(values: np.ndarray, noise: float) -> None:
    middle, spread = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    if abs(middle) > _WATER_HU or spread > 2 * noise + _STRUCTURE_HU:
        raise DataError(
            "uniform region",
            expected="nothing but water inside the object",
            got=f"{middle:.0f} HU, differing by {spread:.0f} HU from place to place",
            action="say where it is uniform, or choose slices where it is water",
        )


def _sharpness(mean: Slice, places: Places, whole: Disc | None) -> tuple[Mtf | None, str]:
    if places.wire:
        x, y, diameter = places.wire
        return mtf_wire(mean, centre_mm=(x, y), wire_mm=diameter), "wire"
    if places.edge:
        disc = places.edge
        margin = min(_RIM_MM, 0.5 * disc.radius_mm)
        return mtf_disc(mean, centre_mm=disc.centre_mm, radius_mm=disc.radius_mm, margin_mm=margin), "edge of a disc"
    if whole is None:
        return None, "neither edge nor wire given"
    try:
        return mtf_disc(mean, centre_mm=whole.centre_mm, radius_mm=whole.radius_mm), "edge of the object"
    except DataError as error:
        return None, str(error)


def _contrast(slices: Sequence[Slice], places: Places, region_mm: float) -> float | None:
    if places.pair is None:
        return None
    insert, background = places.pair
    radius = places.region_mm or region_mm
    found = [contrast_to_noise(s, insert_mm=insert, background_mm=background, radius_mm=radius) for s in slices]
    return float(np.mean(found))
