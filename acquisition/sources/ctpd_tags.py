"""The attributes of DICOM-CT-PD by name: which there are, and how to read values that came as raw bytes.

Chen et al., Med Phys 2015;42:6964, DOI 10.1118/1.4935406, table of private tags (groups 7029 to 7041).
"""

from __future__ import annotations

from collections.abc import MutableSequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from acquisition.errors import HeaderError

TAGS: dict[str, tuple[int, str]] = {
    "DetectorElementTransverseSpacing": (0x70291002, "FL"),
    "DetectorElementAxialSpacing": (0x70291006, "FL"),
    "DetectorShape": (0x7029100B, "CS"),
    "NumberofDetectorRows": (0x70291010, "US"),
    "NumberofDetectorColumns": (0x70291011, "US"),
    "DetectorFocalCenterAngularPosition": (0x70311001, "FL"),
    "DetectorFocalCenterAxialPosition": (0x70311002, "FL"),
    "DetectorFocalCenterRadialDistance": (0x70311003, "FL"),
    "ConstantRadialDistance": (0x70311031, "FL"),
    "DetectorCentralElement": (0x70311033, "FL"),
    "SourceAngularPositionShift": (0x7033100B, "FL"),
    "SourceAxialPositionShift": (0x7033100C, "FL"),
    "SourceRadialDistanceShift": (0x7033100D, "FL"),
    "FlyingFocalSpotMode": (0x7033100E, "CS"),
    "NumberofSourceAngularSteps": (0x70331013, "US"),
    "NumberofSources": (0x7033105B, "US"),
    "NumberofSpectra": (0x70331061, "US"),
    "PhotonStatistics": (0x70331065, "FL"),
    "TypeofProjectionData": (0x70371009, "CS"),
    "BeamHardeningCorrectionFlag": (0x70391003, "CS"),
    "GainCorrectionFlag": (0x70391004, "CS"),
    "DarkFieldCorrectionFlag": (0x70391005, "CS"),
    "FlatFieldCorrectionFlag": (0x70391006, "CS"),
    "BadPixelCorrectionFlag": (0x70391007, "CS"),
    "ScatterCorrectionFlag": (0x70391008, "CS"),
    "LogFlag": (0x70391009, "CS"),
    "WaterAttenuationCoefficient": (0x70411001, "DS"),
    "HUCalibrationFactor": (0x00180061, "DS"),
    "XRayTubeCurrent": (0x00181151, "IS"),
    "InstanceNumber": (0x00200013, "IS"),
    "RescaleIntercept": (0x00281052, "DS"),
    "RescaleSlope": (0x00281053, "DS"),
}
"""Name -> tag and VR of the private attributes, and of those that every view is asked for; others go by keyword."""
_FEW = 2
_PACKED = {"US": "<u2", "FL": "<f4"}


class Attributes(Protocol):
    """A data set as its library gives it: elements with ``value``, by tag or keyword."""

    def __contains__(self, key: Any) -> bool: ...

    def __getitem__(self, key: Any) -> Any: ...

    def get_item(self, key: Any) -> Any:
        """Return the element as it stands in the file, its value often still bytes."""


@dataclass(frozen=True, slots=True)
class Tags:
    """The attributes of one file."""

    dataset: Attributes
    """What the library read."""
    where: str
    """The file, for messages."""

    def values(self, name: str) -> tuple[Any, ...]:
        """Return the values of an attribute, () where it is missing; raw bytes (UN) are decoded by `TAGS`."""
        tag, vr = TAGS.get(name, (name, ""))
        value = self.raw(name) if vr else self.dataset[tag].value if tag in self.dataset else None
        if isinstance(value, bytes):
            if vr in _PACKED:
                dtype = np.dtype(_PACKED[vr])
                return tuple(np.frombuffer(value[: len(value) // dtype.itemsize * dtype.itemsize], dtype).tolist())
            value = value.decode("ascii", "replace").strip("\0 ").split("\\")
        if value is None:
            return ()
        several = tuple(value) if isinstance(value, MutableSequence) else (value,)
        return tuple(v for v in several if v != "")

    def raw(self, name: str) -> Any:
        """Return what stands in the file, None where the attribute is missing; equal bytes are equal values."""
        element = self.dataset.get_item(TAGS[name][0] if name in TAGS else name)
        return None if element is None else element.value

    def numbers(self, name: str, n: int) -> tuple[float, ...]:
        """Return `n` finite numbers; few of them without the digits that single precision does not have.

        Raises
        ------
        HeaderError
            They are not there.
        """
        values = self.values(name)
        try:
            found = tuple(float(v) for v in values)
        except ValueError:
            found = ()
        if len(found) != n or not np.isfinite(found).all():
            tag = f" ({TAGS[name][0] >> 16:04X},{TAGS[name][0] & 0xFFFF:04X})" if name in TAGS else ""
            raise HeaderError(
                f"{self.where}: {name}{tag}",
                expected="a finite number" if n == 1 else f"{n} finite numbers",
                got=", ".join(map(str, values[:5])) or "none",
                action="get the file again, or add the tag",
            )
        return tuple(float(f"{v:.8g}") for v in found) if n <= _FEW else found

    def number(self, name: str, default: float | None = None) -> float:
        """Return a finite number, `default` (unless None) where the attribute is missing; raises HeaderError."""
        if default is not None and not self.values(name):
            return default
        return self.numbers(name, 1)[0]

    def known(self, name: str) -> float | None:
        """Return a finite number, or None where the attribute is missing; raises HeaderError."""
        return self.number(name) if self.values(name) else None

    def text(self, name: str) -> str:
        """Return the first value as text, empty where it is missing."""
        values = self.values(name)
        return str(values[0]).strip() if values else ""
