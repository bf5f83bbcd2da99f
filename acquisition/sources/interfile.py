"""Interfile images as STIR writes them (.hv and .v); list-mode and sinograms of prompts by their header.

STIR's axes are the scanner's: x to the right and y down for someone who stands at the foot of the bed and looks into
the tunnel, z out of the tunnel towards the bed. For a patient who lies head first supine x is the left, y the back,
z the feet. The array stays as it is stored, (z, y, x); the grid says where each voxel is.

Images of Siemens' own programs differ in the spelling of a few keys; their axes are taken to be the same, as STIR takes
them.

Without offsets in the header, voxel ``n // 2`` of x and y lies on the axis of the scanner (STIR's rule), and the
middle of the planes at z = 0.
"""

from __future__ import annotations

from pathlib import Path

from acquisition.errors import FileFormatError
from acquisition.geometry import Grid, Vector
from acquisition.items import Image
from acquisition.sources.interfile_counts import read_counts
from acquisition.sources.interfile_header import Header, pixels, read_header
from acquisition.sources.mmr import is_list_mode, read_mmr
from acquisition.sources.mrd_raw import RawFile
from acquisition.verdict import Level, Verdict

_AXES: dict[tuple[str, str], tuple[int, int, int]] = {
    ("head_in", "supine"): (1, 1, -1),
    ("head_in", "prone"): (-1, -1, -1),
    ("feet_in", "supine"): (-1, 1, 1),
    ("feet_in", "prone"): (1, -1, 1),
}
"""Signs of STIR's x, y, z along LPS, by patient orientation and rotation."""
_SIEMENS = dict(zip(("hfs", "hfp", "ffs", "ffp"), _AXES, strict=True))
_SPACING = ("scaling factor (mm/pixel)", "scale factor (mm/pixel)")
_LABELS = ("x", "y", "z")


def read_interfile(path: Path) -> RawFile:
    """Open raw data by its Interfile header: list-mode, or a sinogram of prompts.

    Raises
    ------
    FileFormatError
        It is an image.
    HeaderError
        It is list-mode of a kind that is not read.
    """
    header = read_header(path)
    if is_list_mode(header):
        return read_mmr(header)
    if header.word("pet data type", "").lower() == "emission":
        return read_counts(path)
    kind = header.word("pet data type", "data of unknown kind").lower()
    raise FileFormatError(
        f"file {path.name}",
        expected="the header of PET list-mode (data format := CoincidenceList) or of a sinogram of prompts",
        got="an image" if kind == "image" else kind,
        action="name the header of the counts; images are read by acquisition.sources.interfile",
    )


def read_image(path: Path) -> Image:
    """Read an image.

    Parameters
    ----------
    path
        The header, .hv.

    Returns
    -------
    Image
        Values (z, y, x), or (frame, z, y, x) where there are more frames than one.

    Raises
    ------
    FileFormatError
        It is no Interfile header, no image, or the data file is missing or of the wrong size.
    HeaderError
        A value is missing or makes no sense.
    """
    header = read_header(path)
    if header.word("pet data type", "image").lower() != "image":
        raise FileFormatError(
            f"file {path.name}",
            expected="an image (PET data type := Image)",
            got=header.word("pet data type"),
            action="read sinograms with read_sinogram, list-mode with open_raw",
        )
    _check_axes(header)
    nx, ny, nz = (header.count("matrix size", index=i) for i in (1, 2, 3))
    key = next((k for k in _SPACING if header.has(k, 1)), _SPACING[0])
    dx, dy, dz = (header.number(key, index=i) for i in (1, 2, 3))
    if min(nx, ny, nz) < 1 or min(dx, dy, dz) <= 0:
        raise header.wrong("matrix size", "positive sizes", f"{nx} x {ny} x {nz} of {dx} x {dy} x {dz} mm")
    n_frames = header.count("number of time frames", 1)
    data = pixels(header, (n_frames, nz, ny, nx))
    signs, verdicts = _signs(header)
    return Image(
        data=data[0] if n_frames == 1 else data,
        grid=_grid(header, (nz, ny, nx), (dz, dy, dx), signs),
        unit=header.word("quantification units", "a.u.") if header.has("quantification units") else "a.u.",
        verdicts=verdicts,
    )


def _check_axes(header: Header) -> None:
    if header.count("number of dimensions", 3) != 3:
        raise header.wrong("number of dimensions", "3", header.word("number of dimensions"))
    for index, label in enumerate(_LABELS, 1):
        found = header.word("matrix axis label", label, index=index)
        if found.lower() != label:
            raise header.wrong("matrix axis label", label, found, index=index)


def _signs(header: Header) -> tuple[tuple[int, int, int], tuple[Verdict, ...]]:
    """Return the signs of the axes along LPS, and what had to be assumed."""
    orientation = header.word("patient orientation", "unknown").lower()
    rotation = header.word("patient rotation", "unknown").lower()
    orientation, rotation = _SIEMENS.get(orientation, (orientation, rotation))
    if (orientation, rotation) in _AXES:
        return _AXES[orientation, rotation], ()
    if orientation == rotation == "unknown":
        assumed = Verdict(
            check="pet.orientation",
            level=Level.FLAG,
            advice="The file does not say how the patient lay: shown as head first supine. Check left and right.",
            evidence=header.path.name,
        )
        return _AXES["head_in", "supine"], (assumed,)
    raise header.wrong(
        "patient orientation", "head_in or feet_in, supine or prone", f"{orientation}, patient rotation {rotation}"
    )


def _grid(header: Header, shape: tuple[int, int, int], spacing_mm: Vector, signs: tuple[int, int, int]) -> Grid:
    nz, ny, nx = shape
    dz, dy, dx = spacing_mm
    key = "first pixel offset (mm)"
    first = (
        header.number(key, -(nx // 2) * dx, index=1) * signs[0],
        header.number(key, -(ny // 2) * dy, index=2) * signs[1],
        header.number(key, -(nz - 1) / 2 * dz, index=3) * signs[2],
    )
    return Grid(
        shape=shape,
        spacing_mm=spacing_mm,
        origin_mm=first,
        x_dir=(float(signs[0]), 0.0, 0.0),
        y_dir=(0.0, float(signs[1]), 0.0),
        z_dir=(0.0, 0.0, float(signs[2])),
        thickness_mm=dz,
    )
