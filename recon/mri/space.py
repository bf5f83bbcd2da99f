"""Sizes: from the encoded matrix to the voxels of the image, one axis at a time.

k-space is zero-padded (or cropped) to ``padded = recon_matrix * encoded_fov / recon_fov`` samples, transformed,
and the field of view is cropped to the image: oversampling goes, interpolation comes, in one transform. The voxel
size that results, ``encoded_fov / padded``, is what the image's grid says, whatever was rounded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from acquisition.errors import HeaderError
from acquisition.scan import Encoding, Limits, Scan
from acquisition.verdict import Level, Verdict

CARTESIAN, EPI = "cartesian", "epi"


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One direction of an encoding space."""

    name: str
    """z, y or x."""
    encoded: int
    """Samples of the encoded matrix."""
    padded: int
    """Samples that are transformed."""
    recon: int
    """Voxels of the image."""
    spacing_mm: float
    """Voxel size [mm]."""
    first: int = 0
    """Smallest counter that will be measured."""
    last: int = 0
    """Largest counter that will be measured."""
    shift: int = 0
    """Matrix index minus counter; puts the k-space centre on encoded // 2."""

    @property
    def amplitude(self) -> float:
        """Factor after an orthonormal transform of the padded axis that keeps amplitudes and noise."""
        return math.sqrt(self.padded / self.encoded)

    @property
    def indices(self) -> range:
        """Matrix indices that will be measured."""
        return range(self.first + self.shift, self.last + self.shift + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The three axes of one encoding space."""

    z: Axis
    """Slice or partition direction, k2."""
    y: Axis
    """Phase direction, k1."""
    x: Axis
    """Readout direction, k0."""
    encoding: Encoding
    """The header's words."""
    verdicts: tuple[Verdict, ...] = ()
    """What was repaired."""

    @property
    def is_3d(self) -> bool:
        """True when k2 is encoded."""
        return self.z.encoded > 1


def spaces(scan: Scan) -> tuple[Space, ...]:
    """Plan every encoding space of `scan`.

    Raises
    ------
    HeaderError
        There is none, a size is not positive, counters do not fit the matrix, or the trajectory is not Cartesian.
    """
    encodings = scan.require_mr().encodings
    if not encodings:
        raise HeaderError("header encoding", expected="at least one encoding space", got="none")
    return tuple(_space(encoding, f"header encoding {i}") for i, encoding in enumerate(encodings))


def multiband(scan: Scan) -> int:
    """Return how many slices are measured together: the user parameter ``multiband``, else 1."""
    value = scan.user_parameters.get("multiband", 1)
    return max(1, round(value)) if not isinstance(value, str) else 1


def _space(encoding: Encoding, where: str) -> Space:
    if encoding.trajectory not in (CARTESIAN, EPI):
        raise HeaderError(
            f"{where} trajectory",
            expected=f"{CARTESIAN} or {EPI}",
            got=encoding.trajectory,
            action="choose a protocol made for this trajectory",
        )
    verdicts: list[Verdict] = []
    axes = []
    for dim, (name, counter) in enumerate((("z", "k2"), ("y", "k1"), ("x", None))):
        axis = _axis(encoding, dim, f"{where} {name}")
        if counter:
            first, last, centre = _counters(encoding.limits.get(counter), axis.encoded, where=f"{where} {counter}")
            declared = encoding.limits.get(counter)
            if declared and declared.center != centre:
                verdicts.append(_centre_verdict(counter, declared, centre))
            axis = replace(axis, first=first, last=last, shift=axis.encoded // 2 - centre)
        axes.append(axis)
    return Space(z=axes[0], y=axes[1], x=axes[2], encoding=encoding, verdicts=tuple(verdicts))


def _axis(encoding: Encoding, dim: int, where: str) -> Axis:
    encoded, recon = encoding.matrix[dim], encoding.recon_matrix[dim]
    fov, recon_fov = encoding.fov_mm[dim], encoding.recon_fov_mm[dim]
    if encoded < 1 or recon < 1 or not (fov > 0 and recon_fov > 0 and math.isfinite(fov * recon_fov)):
        raise HeaderError(
            where,
            expected="positive matrix and field of view",
            got=f"encoded {encoded} / {fov} mm, image {recon} / {recon_fov} mm",
            action="correct encodedSpace and reconSpace",
        )
    name = "zyx"[dim]
    if dim == 0 and encoded == 1:  # a slice: it has a thickness, nothing to transform
        return Axis(name=name, encoded=1, padded=1, recon=1, spacing_mm=fov)
    padded = max(1, round(recon * fov / recon_fov))
    return Axis(name=name, encoded=encoded, padded=padded, recon=recon, spacing_mm=fov / padded)


def _counters(limits: Limits | None, encoded: int, *, where: str) -> tuple[int, int, int]:
    """Return (first, last, centre); a centre that throws lines out of the matrix is replaced by its middle."""
    if limits is None:
        return 0, encoded - 1, encoded // 2
    for centre in (limits.center, encoded // 2):
        shift = encoded // 2 - centre
        if 0 <= limits.minimum + shift <= limits.maximum + shift < encoded:
            return limits.minimum, limits.maximum, centre
    raise HeaderError(
        f"{where} limits",
        expected=f"counters that fit {encoded} lines",
        got=f"{limits.minimum} to {limits.maximum}, centre {limits.center}",
        action="correct encodingLimits or encodedSpace.matrixSize",
    )


def _centre_verdict(counter: str, declared: Limits, centre: int) -> Verdict:
    return Verdict(
        check="mri.header",
        level=Level.FLAG,
        advice=f"The header's k-space centre of {counter} does not fit the matrix: its middle was used.",
        value=float(declared.center),
        evidence=f"limits {declared.minimum} to {declared.maximum}, centre {declared.center}, used {centre}",
    )
