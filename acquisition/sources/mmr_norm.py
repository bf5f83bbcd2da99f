"""Normalisation of the Siemens Biograph mMR: the components of a ``.n`` file, told by its Interfile header ``.n.hdr``.

A line of detectors a and b in rings r and s (the file's numbers), in view v and bin t of the uncompressed sinogram, has
the efficiency

    crystal[r, a] crystal[s, b] geometric[r + s, t] interference[t, v mod 9] / axial[plane]

where plane is that of the sinogram with axial compression 11 into which the line is summed: 837 planes, segments 0, +1,
-1 ... 5 of 11 ring differences each. Rings run towards the feet, as in list-mode. In the file the gap is the last of
the nine crystals of a block, in list-mode the first: crystal c of list-mode is c - 1 of the file. The axial effects are
divided by, the "additional" ones are not used; both as STIR and NiftyPET do it.

Dead-time parameters are read and not applied: they need the singles of each block, and public programs disagree about
the formula. The scanner's quantification factor is told, and not used: it counts in the vendor's own image units.

References
----------
STIR, BinNormalisationFromECAT8, and pull request 631 (axial effects), https://github.com/UCL/STIR.
P. J. Markiewicz et al., "NiftyPET", Neuroinformatics 16 (2018) 95, DOI 10.1007/s12021-017-9352-y.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import DataError, FileFormatError
from acquisition.pet_geometry import is_crystal, seen_mm
from acquisition.pet_norm import Normalisation, SinogramFactors
from acquisition.scan import PetHeader
from acquisition.sources.interfile_header import Header, read_header
from acquisition.sources.mrd_raw import reading

Floats = NDArray[np.float32]

_RINGS, _CRYSTALS, _BINS, _BLOCK = 64, 504, 344, 9
_SPAN, _MOST = 11, 60
_COMPONENTS: dict[str, tuple[int, ...]] = {
    "geometric effects": (2 * _RINGS - 1, _BINS),
    "crystal interference": (_BINS, _BLOCK),
    "crystal efficiencies": (_RINGS, _CRYSTALS),
    "axial effects": (837,),
    "paralyzing ring dt parameters": (_RINGS,),
    "non-paralyzing ring dt parameters": (_RINGS,),
    "tx crystal dt parameter": (_BLOCK,),
    "additional axial effects": (837,),
}
"""Name in the header and shape, slowest axis first."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MmrNorm:
    """The components as the file has them: its order of rings, crystals and planes."""

    geometric: Floats
    """Geometric effects by sum of the rings and bin (127, 344)."""
    interference: Floats
    """Crystal interference by bin and crystal of the block (344, 9)."""
    crystals: Floats
    """Efficiencies (ring, crystal), (64, 504)."""
    axial: Floats
    """Axial effects of the planes of axial compression 11 (837,); lines are divided by them."""
    paralysing_s: Floats
    """Paralysing dead time of each ring (64,); not applied."""
    non_paralysing_s: Floats
    """Non-paralysing dead time of each ring (64,); not applied."""
    quantification_bq_s: float | None
    """Scanner quantification factor [Bq s per count of the vendor's images]; None: not told."""


def read_norm(path: Path) -> MmrNorm:
    """Read the components by their header.

    Parameters
    ----------
    path
        The header (``.n.hdr``), or the ``.n`` file beside it.

    Raises
    ------
    FileFormatError
        It is no normalisation, or the data file is missing or too short.
    HeaderError
        A component is missing or of another size than on this scanner.
    DataError
        A factor is no number of 0 or more, or an axial effect is 0.
    """
    header = read_header(_header_of(path))
    if header.word("pet data type", "data of unknown kind").lower() != "normalization":
        raise FileFormatError(
            f"file {header.path.name}",
            expected="a normalisation (PET data type := normalization)",
            got=header.word("pet data type", "data of unknown kind"),
            action="name the .n.hdr that the scanner exported with the list-mode",
        )
    found = _components(header)
    key = "scanner quantification factor (bq*s/ecat counts)"
    return _sound(
        MmrNorm(
            geometric=found["geometric effects"],
            interference=found["crystal interference"],
            crystals=found["crystal efficiencies"],
            axial=found["axial effects"],
            paralysing_s=found["paralyzing ring dt parameters"],
            non_paralysing_s=found["non-paralyzing ring dt parameters"],
            quantification_bq_s=header.number(key) if header.has(key) else None,
        ),
        header.path.name,
    )


def normalisation(norm: MmrNorm, pet: PetHeader) -> Normalisation:
    """Return the efficiency of every line of a scan on this scanner.

    Parameters
    ----------
    norm
        The components.
    pet
        The scanner, as the header of the list-mode tells it.

    Raises
    ------
    DataError
        The scan was made on another scanner.
    """
    sizes = (pet.n_rings, pet.n_crystals, pet.block, pet.gaps)
    if sizes != (_RINGS, _CRYSTALS, (8, _BLOCK), (0,)):
        raise DataError(
            "normalisation of the mMR",
            expected=f"a scan of {_RINGS} rings of {_CRYSTALS} crystals in blocks of 8 x {_BLOCK}",
            got=f"{pet.n_rings} rings of {pet.n_crystals} in blocks of {pet.block[0]} x {pet.block[1]}",
            action="use the normalisation of this scanner",
        )
    crystals = np.roll(norm.crystals[::-1], 1, axis=1).ravel()
    factors = SinogramFactors(
        n_crystals=_CRYSTALS,
        geometric=norm.geometric[::-1].copy(),
        interference=norm.interference,
        axial=_axial(norm.axial)[::-1, ::-1].copy(),
    )
    crystals = np.where(is_crystal(pet), crystals, 0).astype(np.float32)
    return Normalisation(pet=pet, crystals=crystals, fov_mm=seen_mm(pet), sinogram=factors)


def planes() -> NDArray[np.int64]:
    """Return the plane of axial compression 11 of each pair of the file's rings (64, 64); -1: not in coincidence."""
    first, second = np.meshgrid(np.arange(_RINGS), np.arange(_RINGS), indexing="ij")
    difference, half = first - second, _SPAN // 2
    segment = (np.abs(difference) + half) // _SPAN
    least = np.where(segment > 0, segment * _SPAN - half, 0)
    number = 2 * segment - (difference > half)  # 0, +1, -1, +2 ... are 0, 1, 2, 3 ...
    sizes = [2 * _RINGS - 1 - 2 * max(0, ((n + 1) // 2) * _SPAN - half) for n in range(_MOST // _SPAN * 2 + 1)]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    inside = np.abs(difference) <= _MOST
    return np.where(inside, starts[np.where(inside, number, 0)] + first + second - least, -1)


def _header_of(path: Path) -> Path:
    beside = path.with_name(path.name + ".hdr")
    return beside if path.suffix.lower() == ".n" and beside.is_file() else path


def _components(header: Header) -> dict[str, Floats]:
    path = header.data_path()
    with reading(path, "normalisation"):
        data = path.read_bytes()
    found: dict[str, Floats] = {}
    for i in range(1, header.count("number of normalization components") + 1):
        name = header.word("normalization component", index=i).lower()
        shape = header.numbers("matrix size", index=i)[::-1]
        if shape != _COMPONENTS.get(name, shape):
            raise header.wrong("matrix size", f"{name} of {_COMPONENTS[name]}, as on the mMR", str(shape), index=i)
        at, n_bytes = header.count("data offset in bytes", index=i), 4 * int(np.prod(shape))
        if at + n_bytes > len(data):
            raise FileFormatError(
                f"file {path.name}: {name}",
                expected=f"bytes {at} to {at + n_bytes}",
                got=f"a file of {len(data)}",
                action="copy the file again",
            )
        found[name] = np.frombuffer(data, "<f4", n_bytes // 4, at).reshape(shape)
    if missing := [name for name in _COMPONENTS if name not in found]:
        raise header.wrong("normalization component", ", ".join(missing), f"only {', '.join(found) or 'none'}")
    return found


def _sound(norm: MmrNorm, name: str) -> MmrNorm:
    for what, values, least in (
        ("geometric effects", norm.geometric, 0.0),
        ("crystal interference", norm.interference, 0.0),
        ("crystal efficiencies", norm.crystals, 0.0),
        ("axial effects", norm.axial, np.finfo(np.float32).tiny),
    ):
        if not np.isfinite(values).all() or values.min() < least:
            raise DataError(
                f"file {name}: {what}",
                expected="finite numbers of 0 or more" if least == 0 else "finite numbers above 0",
                got=f"{values.min()} to {values.max()}",
                action="export the normalisation again",
            )
    return norm


def _axial(effects: Floats) -> Floats:
    plane = planes()
    return np.where(plane >= 0, 1 / effects[np.maximum(plane, 0)], 0).astype(np.float32)
