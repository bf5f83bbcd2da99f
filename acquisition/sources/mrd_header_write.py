"""A `Scan` to an ISMRMRD header (XML), in the order of the schema; `mrd_header.parse_header` is the way back.

What the schema has no room for goes into user parameters (`SOFTWARE`, a non-numeric `ACCESSION`). A fractional
acceleration is written as it is although the schema wants whole numbers, because a rounded one is wrong. The
schema demands a patient position and a resonance frequency: an unknown position is left out rather than guessed
(the ``ismrmrd`` package then refuses the header), an unknown frequency is 0.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from decimal import Decimal

from acquisition.errors import HeaderError
from acquisition.scan import Encoding, Limits, MrHeader, Scan
from acquisition.sources.mrd_encoding import COUNTER_ELEMENTS
from acquisition.sources.mrd_header import ACCESSION, NOISE_BANDWIDTH, SOFTWARE
from acquisition.sources.mrd_meta import xml_text

NAMESPACE = "http://www.ismrm.org/ISMRMRD"

_Value = str | float | int | None
_Triple = tuple[float, float, float]


def write_header(scan: Scan) -> str:
    """Return the ISMRMRD header of an MR scan.

    Parameters
    ----------
    scan
        Its ``header``, ``verdicts`` and ``uid`` are not written; ``measurement_id`` is.

    Raises
    ------
    HeaderError
        The scan is not MR, or a date or time is not in DICOM's form.
    DataError
        A text holds a character that XML cannot carry.
    """
    mr = scan.require_mr()
    root = ET.Element("ismrmrdHeader", xmlns=NAMESPACE)
    _subject(root, scan)
    _study(root, scan)
    _measurement(root, scan)
    _system(root, scan)
    conditions = _section(root, "experimentalConditions")
    _leaf(conditions, "H1resonanceFrequency_Hz", round(scan.equipment.resonance_frequency_hz or 0))
    for encoding in mr.encodings:
        _encoding(root, encoding)
    _sequence(root, mr)
    _user_parameters(root, scan)
    return ET.tostring(root, encoding="unicode", xml_declaration=True)


def _subject(root: ET.Element, scan: Scan) -> None:
    patient = scan.patient
    rows: dict[str, _Value] = {
        "patientName": patient.name,
        "patientWeight_kg": patient.weight_kg,
        "patientHeight_m": patient.height_m,
        "patientID": patient.id,
        "patientBirthdate": _date("patient.birth_date", patient.birth_date),
        "patientGender": patient.sex,
    }
    _leaves(root, "subjectInformation", rows=rows)


def _study(root: ET.Element, scan: Scan) -> None:
    study = scan.study
    rows: dict[str, _Value] = {
        "studyDate": _date("study.date", study.date),
        "studyTime": _time("study.time", study.time),
        "studyID": study.id,
        "accessionNumber": study.accession_number if _whole(study.accession_number) else None,
        "referringPhysicianName": study.referring_physician,
        "studyDescription": study.description,
        "studyInstanceUID": study.instance_uid,
        "bodyPartExamined": study.body_part,
    }
    _leaves(root, "studyInformation", rows=rows)


def _measurement(root: ET.Element, scan: Scan) -> None:
    section = ET.Element("measurementInformation")
    _leaf(section, "measurementID", scan.measurement_id)
    if scan.started is not None:
        _leaf(section, "seriesDate", scan.started.date().isoformat())
        _leaf(section, "seriesTime", scan.started.timetz().isoformat())
    _leaf(section, "patientPosition", scan.patient.position)
    _leaf(section, "initialSeriesNumber", scan.study.series_number)
    _leaf(section, "protocolName", scan.protocol_name)
    for kind, measurement_id in scan.dependencies.items():
        dependency = _section(section, "measurementDependency")
        _leaf(dependency, "dependencyType", kind)
        _leaf(dependency, "measurementID", measurement_id)
    _leaf(section, "seriesInstanceUIDRoot", scan.study.series_instance_uid)
    _leaf(section, "frameOfReferenceUID", scan.study.frame_of_reference_uid)
    if len(section):
        root.append(section)


def _system(root: ET.Element, scan: Scan) -> None:
    equipment = scan.equipment
    section = ET.Element("acquisitionSystemInformation")
    _leaf(section, "systemVendor", equipment.vendor)
    _leaf(section, "systemModel", equipment.model)
    _leaf(section, "systemFieldStrength_T", equipment.field_strength_t)
    _leaf(section, NOISE_BANDWIDTH, scan.user_parameters.get(NOISE_BANDWIDTH))
    _leaf(section, "receiverChannels", equipment.n_coils)
    if equipment.coil_name is not None:
        label = _section(section, "coilLabel")
        _leaf(label, "coilNumber", 0)
        _leaf(label, "coilName", equipment.coil_name)
    _leaf(section, "institutionName", equipment.institution)
    _leaf(section, "stationName", equipment.station)
    _leaf(section, "deviceSerialNumber", equipment.serial_number)
    if len(section):
        root.append(section)


def _encoding(root: ET.Element, encoding: Encoding) -> None:
    section = _section(root, "encoding")
    _space(section, "encodedSpace", matrix=encoding.matrix, fov_mm=encoding.fov_mm)
    _space(section, "reconSpace", matrix=encoding.recon_matrix, fov_mm=encoding.recon_fov_mm)
    limits = _section(section, "encodingLimits")
    for name, element in COUNTER_ELEMENTS.items():
        if name in encoding.limits:
            _limit(limits, element, encoding.limits[name])
    _leaf(section, "trajectory", encoding.trajectory)
    if encoding.trajectory_parameters:
        _trajectory(section, encoding)
    if encoding.acceleration != (1.0, 1.0) or encoding.calibration_mode is not None:
        parallel = _section(section, "parallelImaging")
        factor = _section(parallel, "accelerationFactor")
        _leaf(factor, "kspace_encoding_step_1", encoding.acceleration[1])
        _leaf(factor, "kspace_encoding_step_2", encoding.acceleration[0])
        _leaf(parallel, "calibrationMode", encoding.calibration_mode)
    _leaf(section, "echoTrainLength", encoding.echo_train_length)


def _space(parent: ET.Element, name: str, *, matrix: tuple[int, int, int], fov_mm: _Triple) -> None:
    section = _section(parent, name)
    for child, triple in (("matrixSize", matrix), ("fieldOfView_mm", fov_mm)):
        rows = zip("xyz", reversed(triple), strict=True)
        _leaves(section, child, rows=dict(rows))


def _limit(parent: ET.Element, name: str, limits: Limits) -> None:
    _leaves(parent, name, rows={"minimum": limits.minimum, "maximum": limits.maximum, "center": limits.center})


def _trajectory(parent: ET.Element, encoding: Encoding) -> None:
    section = _section(parent, "trajectoryDescription")
    parameters = dict(encoding.trajectory_parameters)
    comment = parameters.pop("comment", None)
    _leaf(section, "identifier", parameters.pop("identifier", encoding.trajectory))
    _parameters(section, parameters)
    _leaf(section, "comment", comment)


def _sequence(root: ET.Element, mr: MrHeader) -> None:
    section = ET.Element("sequenceParameters")
    for name, values_s in (("TR", mr.tr_s), ("TE", mr.te_s), ("TI", mr.ti_s)):
        _list(section, name, values=map(_milliseconds, values_s))
    _list(section, "flipAngle_deg", values=mr.flip_deg)
    _leaf(section, "sequence_type", mr.sequence_type)
    _list(section, "echo_spacing", values=map(_milliseconds, mr.echo_spacing_s))
    for b_value in mr.diffusion_b_s_per_mm2:
        diffusion = _section(section, "diffusion")
        _leaves(diffusion, "gradientDirection", rows={"rl": 0, "ap": 0, "fh": 0})
        _leaf(diffusion, "bvalue", b_value)
    if len(section):
        root.append(section)


def _user_parameters(root: ET.Element, scan: Scan) -> None:
    parameters = dict(scan.user_parameters)
    parameters.pop(NOISE_BANDWIDTH, None)
    if scan.equipment.software is not None:
        parameters[SOFTWARE] = scan.equipment.software
    if scan.study.accession_number is not None and not _whole(scan.study.accession_number):
        parameters[ACCESSION] = scan.study.accession_number
    if parameters:
        _parameters(_section(root, "userParameters"), parameters)


def _parameters(section: ET.Element, parameters: Mapping[str, float | str]) -> None:
    by_kind: dict[str, list[tuple[str, float | str]]] = {"Long": [], "Double": [], "String": []}
    for name, value in parameters.items():
        by_kind[_kind(value)].append((name, value))
    for kind, rows in by_kind.items():
        for name, value in rows:
            _leaves(section, f"userParameter{kind}", rows={"name": name, "value": value})


def _kind(value: float | str) -> str:
    if isinstance(value, str):
        return "String"
    return "Long" if float(value).is_integer() and abs(value) < 2**53 else "Double"


def _section(parent: ET.Element, name: str) -> ET.Element:
    return ET.SubElement(parent, name)


def _leaves(parent: ET.Element, name: str, *, rows: Mapping[str, _Value]) -> None:
    """Append a section with one element per value that is known; no section where none is."""
    if any(value is not None for value in rows.values()):
        section = _section(parent, name)
        for child, value in rows.items():
            _leaf(section, child, value)


def _list(parent: ET.Element, name: str, *, values: Iterable[_Value]) -> None:
    for value in values:
        _leaf(parent, name, value)


def _leaf(parent: ET.Element, name: str, value: _Value) -> None:
    if value is not None:
        ET.SubElement(parent, name).text = _format(f"header element {name}", value)


def _format(where: str, value: str | float) -> str:
    if isinstance(value, str):
        return xml_text(where, value)
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "INF" if value > 0 else "-INF"
    return str(int(value)) if float(value).is_integer() and abs(value) < 2**53 else repr(float(value))


def _milliseconds(seconds: float) -> str:
    return f"{Decimal(repr(float(seconds))) * 1000:f}"


def _whole(text: str | None) -> bool:
    return text is not None and text.isascii() and text.isdigit() and len(text) <= 18


def _date(where: str, text: str | None) -> str | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{4})(\d\d)(\d\d)", text)
    if match is None:
        raise HeaderError(where, expected="YYYYMMDD", got=repr(text), action="correct the scan's header")
    return "-".join(match.groups())


def _time(where: str, text: str | None) -> str | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d\d)(\d\d)(\d\d)(\.\d+)?", text)
    if match is None:
        raise HeaderError(where, expected="HHMMSS[.ffffff]", got=repr(text), action="correct the scan's header")
    hours, minutes, seconds, fraction = match.groups()
    return f"{hours}:{minutes}:{seconds}{fraction or ''}"
