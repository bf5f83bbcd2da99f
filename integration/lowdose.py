"""``model.lowdose`` with the image before the agent taken from a DICOM series of the same exam."""

from __future__ import annotations

from dataclasses import dataclass

from acquisition.errors import IsocenterError
from acquisition.items import Image, Kind
from acquisition.scan import MrHeader, Scan
from integration.companion import companion
from integration.dicom.read import read_images
from models.lowdose import LowDose
from models.refuse import Refusal

_CLOSE = 0.02  # part by which times and angles of one sequence may differ
_MS = 1e3


@dataclass(kw_only=True)
class LowDoseSeries(LowDose):
    """See `models.lowdose.LowDose`; the image before the agent is a series in a folder."""

    before_folder: str = ""
    """Folder with the DICOM objects of the series before the agent; within the service's folder of companions."""

    def before(self, scan: Scan) -> Image | Refusal:
        """Read the series and hold it against the scan: same study, same sequence."""
        if not self.before_folder:
            return Refusal("before", "no folder with the series before the agent was named (before_folder)")
        try:
            folder = companion(self.before_folder, scan, where="model.lowdose before_folder")
            files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "DICOMDIR")
            found = read_images(files) if files else []
        except IsocenterError as error:
            return Refusal("before", f"the series before the agent cannot be read: {error}")
        volumes = [v for v in found if v.kind is Kind.MAGNITUDE and v.attributes["Modality"] == "MR"]
        if len(volumes) != 1:
            return Refusal("before", f"one MR series of magnitudes was expected, {len(volumes)} volumes were found")
        return _other(volumes[0], scan) or volumes[0]


def _other(image: Image, scan: Scan) -> Refusal | None:
    """Return why a series is not the one before: another study, another sequence."""
    told = image.attributes
    if told["SyntheticData"] == "YES":
        return Refusal("synthetic", "the series before the agent is synthetic itself")
    study = scan.study.instance_uid
    if study and told["StudyInstanceUID"] != study:
        return Refusal("study", "the series before the agent is of another exam")
    for name, value in _timing(scan.require_mr()).items():
        given = float(told[name] or 0)
        if value and given and abs(given - value) > _CLOSE * value:
            text = f"the series before the agent was measured otherwise: {name} {given:g}, now {value:g}"
            return Refusal("sequence", text, given, value)
    return None


def _timing(header: MrHeader) -> dict[str, float]:
    """Return what both must have alike, as DICOM writes it [ms, degrees]."""
    times = {"RepetitionTime": header.tr_s, "EchoTime": header.te_s, "InversionTime": header.ti_s}
    ms = {name: _MS * values[0] for name, values in times.items() if values}
    return ms | ({"FlipAngle": header.flip_deg[0]} if header.flip_deg else {})
