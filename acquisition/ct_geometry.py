"""Where the rays of a CT view run: the one geometry that every source fills and every reconstruction reads.

Gantry coordinates are LPS [mm] of a patient who lies head first supine, with the axis of rotation at x = y = 0;
`patient_axes` turns them for one who lies otherwise.
With ``e = (cos a, sin a, 0)`` and ``t = (-sin a, cos a, 0)`` at the view's angle a, the focal spot rests at
``R e + z``; element (row, channel) of the detector is seen from there

- cylinder: at the fan angle ``g = (channel - c0) pitch / D``, at ``D (-cos g e + sin g t)``;
- plane: at ``-D e + (channel - c0) pitch t``;

both raised by ``(row - r0) pitch`` along +z. A flying focal spot moves, the detector stays. So a ray from the rest
position is the parallel ray of angle ``a - g`` at the signed distance ``R sin g`` from the axis, along t of that angle.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import HeaderError
from acquisition.geometry import Vector
from acquisition.scan import CtHeader

Floats = NDArray[np.float64]


_LEFT, _BACK, _HEAD = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
_RIGHT, _FRONT, _FEET = (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, -1.0)
_LYING: dict[str, tuple[Vector, Vector, Vector]] = {
    "HFS": (_LEFT, _BACK, _HEAD),
    "HFP": (_RIGHT, _FRONT, _HEAD),
    "HFDR": (_BACK, _RIGHT, _HEAD),
    "HFDL": (_FRONT, _LEFT, _HEAD),
    "FFS": (_RIGHT, _BACK, _FEET),
    "FFP": (_LEFT, _FRONT, _FEET),
    "FFDR": (_FRONT, _RIGHT, _FEET),
    "FFDL": (_BACK, _LEFT, _FEET),
}
"""PatientPosition (PS3.3 C.7.3.1.1.2) -> where the gantry's x, y (down) and z point in the patient, LPS."""


def patient_axes(position: str | None) -> tuple[Vector, Vector, Vector]:
    """Return the directions of the gantry's x, y and z axes in the patient, LPS; head first supine if None.

    Raises
    ------
    HeaderError
        It is no position that DICOM knows.
    """
    if position is not None and position not in _LYING:
        raise HeaderError("patient position", expected=", ".join(_LYING), got=position)
    return _LYING[position or "HFS"]


def checked(ct: CtHeader, where: str) -> CtHeader:
    """Return `ct` if rays can be drawn from it.

    Raises
    ------
    HeaderError
        A size is not positive, or the axis of rotation does not lie between tube and detector.
    """
    sizes = (ct.n_rows, ct.n_channels, *ct.pitch_mm, ct.source_isocentre_mm, ct.views_per_rotation)
    if not all(np.isfinite(s) and s > 0 for s in sizes) or ct.source_detector_mm <= ct.source_isocentre_mm:
        raise HeaderError(
            f"{where}: CT geometry",
            expected="positive sizes and the isocentre between tube and detector",
            got=f"{ct.n_rows} x {ct.n_channels} elements of {ct.pitch_mm} mm, distances "
            f"{ct.source_isocentre_mm} and {ct.source_detector_mm} mm, {ct.views_per_rotation} views per turn",
            action="check the geometry in the header",
        )
    if any(not 0 <= channel < ct.n_channels for channel in ct.reference_channels):
        raise HeaderError(
            f"{where}: reference channels",
            expected=f"channels from 0 to {ct.n_channels - 1}",
            got=str(ct.reference_channels),
            action="check the header",
        )
    return ct


def fan_angles(ct: CtHeader) -> Floats:
    """Return the fan angle of each channel [rad], shape (n_channels,)."""
    channels = np.arange(ct.n_channels, dtype=np.float64)
    u = (channels - ct.centre[1]) * (ct.pitch_mm[1] / ct.source_detector_mm)
    return u if ct.detector == "cylindrical" else np.arctan(u)


def row_heights_mm(ct: CtHeader) -> Floats:
    """Return the height of each row above the focal spot, at the detector [mm], shape (n_rows,)."""
    return (np.arange(ct.n_rows, dtype=np.float64) - ct.centre[0]) * ct.pitch_mm[0]


def row_pitch_iso_mm(ct: CtHeader) -> float:
    """Return the distance of rows scaled to the axis of rotation [mm]."""
    return ct.pitch_mm[0] * ct.source_isocentre_mm / ct.source_detector_mm


def pitch_factor(ct: CtHeader) -> float | None:
    """Return the way of the focal spot in one rotation over the width of all rows at the axis, if it is known."""
    return None if ct.feed_mm is None else abs(ct.feed_mm) / (ct.n_rows * row_pitch_iso_mm(ct))


def field_radius_mm(ct: CtHeader) -> float:
    """Return the radius around the axis that every view of a full turn sees [mm]."""
    angles = fan_angles(ct)
    return ct.source_isocentre_mm * float(np.sin(min(-angles[0], angles[-1])))


def focal_spots(ct: CtHeader, head: NDArray[np.void]) -> Floats:
    """Return the focal spot of each view, LPS [mm], shape (n, 3)."""
    angle = head["angle_rad"] + head["angle_shift_rad"]
    radius = ct.source_isocentre_mm + head["radius_shift_mm"]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), head["z_mm"] + head["z_shift_mm"]], axis=-1)


def detector_columns(ct: CtHeader, head: NDArray[np.void]) -> Floats:
    """Return where each channel stands at the height of the resting focal spot, LPS [mm], (n, channel, 3)."""
    angle = head["angle_rad"][:, None]
    fan = fan_angles(ct)
    reach = ct.source_detector_mm / (np.ones_like(fan) if ct.detector == "cylindrical" else np.cos(fan))
    along, across = ct.source_isocentre_mm - reach * np.cos(fan), reach * np.sin(fan)
    x = along * np.cos(angle) - across * np.sin(angle)
    y = along * np.sin(angle) + across * np.cos(angle)
    return np.stack([x, y, np.broadcast_to(head["z_mm"][:, None], x.shape)], axis=-1)
