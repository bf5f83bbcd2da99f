"""The ISMRMRD header (XML) to a `Scan`: tolerant of what is missing or new, strict in what geometry needs.

Times become seconds, triples become (k2, k1, k0) or (z, y, x). A number that the image's shape or scale hangs
on is right or a `HeaderError`; a broken fact about the patient or the study is left out with a FLAG. Elements
that nobody knows are ignored and counted in a verdict; the whole text stays in `Scan.header`.

Without a field of their own: ``relativeReceiverNoiseBandwidth`` is a user parameter; a parameter that occurs
again gets ``[1]``, ``[2]`` ... behind its name. Several coil labels become one coil name, ``Head+Neck``.

Source: ISMRMRD schema, DOI 10.1002/mrm.26089.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from acquisition.scan import Equipment, MrHeader, Patient, Scan, Study
from acquisition.sources.mrd_encoding import parse_encodings, parse_parameters, parse_sequence
from acquisition.sources.mrd_limits import StreamLimits, check_claim
from acquisition.sources.mrd_xml import Node, Notes, read_document

PATIENT_POSITIONS = ("HFP", "HFS", "HFDR", "HFDL", "FFP", "FFS", "FFDR", "FFDL")
NOISE_BANDWIDTH = "relativeReceiverNoiseBandwidth"
"""User parameter with the receiver's noise bandwidth relative to the nominal one."""
SOFTWARE, ACCESSION = "isocenter.software", "isocenter.accessionNumber"
"""User parameters in which `write_header` puts what the schema has no room for."""

_Parameters = dict[str, float | str]


def parse_header(xml: str) -> Scan:
    """Read an ISMRMRD header.

    Parameters
    ----------
    xml
        The document; cut at the first NUL.

    Returns
    -------
    Scan
        Modality MR. ``uid`` is the measurement id where there is one, else ``mrd-`` and a hash of the text.

    Raises
    ------
    HeaderError
        It is no ISMRMRD header or a number that matters is wrong; the message names the element's path.
    LimitError
        The text is longer than 16 MiB.
    """
    text = xml.split("\0", 1)[0].strip("\ufeff \t\r\n")
    check_claim("header", len(text), limit=StreamLimits().header_bytes, unit="bytes")
    root = read_document(text, root="ismrmrdHeader")
    root.skip("version", "waveformInformation")
    notes = Notes("mri.header")
    parameters = parse_parameters(root.get("userParameters"))
    measurement = root.get("measurementInformation") or Node.empty("measurementInformation")
    measurement.skip("relativeTablePosition", "sequenceName", "seriesDescription", "referencedImageSequence")
    measurement_id = measurement.text("measurementID")
    scan = Scan(
        uid=measurement_id or "mrd-" + hashlib.sha256(text.encode()).hexdigest()[:16],
        modality="MR",
        protocol_name=measurement.text("protocolName"),
        patient=_patient(root.get("subjectInformation"), measurement, notes=notes),
        study=_study(root.get("studyInformation"), measurement, parameters=parameters, notes=notes),
        equipment=_equipment(root, parameters, notes=notes),
        started=_started(measurement, notes),
        measurement_id=measurement_id,
        dependencies=_dependencies(measurement),
        user_parameters=parameters,
        mr=_mr(root, notes),
        header=text,
    )
    notes.unknown(root.unasked())
    return replace(scan, verdicts=tuple(notes.verdicts))


def _mr(root: Node, notes: Notes) -> MrHeader:
    return MrHeader(encodings=parse_encodings(root, notes), **parse_sequence(root.get("sequenceParameters")))


def _patient(subject: Node | None, measurement: Node, *, notes: Notes) -> Patient:
    node = subject or Node.empty("subjectInformation")
    position = _one_of(measurement.get("patientPosition"), PATIENT_POSITIONS, notes=notes)
    return Patient(
        id=node.text("patientID"),
        name=node.text("patientName"),
        birth_date=_date(node.get("patientBirthdate"), notes),
        sex=_one_of(node.get("patientGender"), ("M", "F", "O"), notes=notes),
        weight_kg=_fact(node.get("patientWeight_kg"), 1000.0, notes=notes),
        height_m=_fact(node.get("patientHeight_m"), 3.0, notes=notes),
        position=position,
    )


def _study(study: Node | None, measurement: Node, *, parameters: _Parameters, notes: Notes) -> Study:
    node = study or Node.empty("studyInformation")
    accession = parameters.pop(ACCESSION, None)
    number = _fact(measurement.get("initialSeriesNumber"), 2.0**31, notes=notes, low=0.0)
    return Study(
        instance_uid=node.text("studyInstanceUID"),
        id=node.text("studyID"),
        date=_date(node.get("studyDate"), notes),
        time=_time(node.get("studyTime"), notes),
        accession_number=node.text("accessionNumber") if accession is None else str(accession),
        referring_physician=node.text("referringPhysicianName"),
        description=node.text("studyDescription"),
        body_part=node.text("bodyPartExamined"),
        series_instance_uid=measurement.text("seriesInstanceUIDRoot"),
        series_number=None if number is None else int(number),
        frame_of_reference_uid=measurement.text("frameOfReferenceUID"),
    )


def _equipment(root: Node, parameters: _Parameters, *, notes: Notes) -> Equipment:
    node = root.get("acquisitionSystemInformation") or Node.empty("acquisitionSystemInformation")
    conditions = root.get("experimentalConditions") or Node.empty("experimentalConditions")
    node.skip("deviceID")
    bandwidth = _fact(node.get(NOISE_BANDWIDTH), 100.0, notes=notes)
    if bandwidth is not None:
        parameters.setdefault(NOISE_BANDWIDTH, bandwidth)
    coils = node.get("receiverChannels")
    software = parameters.pop(SOFTWARE, None)
    return Equipment(
        vendor=node.text("systemVendor"),
        model=node.text("systemModel"),
        serial_number=node.text("deviceSerialNumber"),
        software=None if software is None else str(software),
        institution=node.text("institutionName"),
        station=node.text("stationName"),
        field_strength_t=_fact(node.get("systemFieldStrength_T"), 30.0, notes=notes),
        n_coils=(coils.integer(low=0, high=65535) or None) if coils else None,
        coil_name=_coil_name(node),
        resonance_frequency_hz=_fact(conditions.get("H1resonanceFrequency_Hz"), 1e10, notes=notes),
    )


def _coil_name(node: Node) -> str | None:
    """Return one name for all labels: as it is when there is one, else the distinct parts before a colon."""
    labels = node.all("coilLabel")
    names = [name for label in labels if (name := label.text("coilName"))]
    for label in labels:
        label.skip("coilNumber")
    if len(names) > 1:
        names = list(dict.fromkeys(name.partition(":")[0] for name in names))
    return "+".join(names) or None


def _dependencies(measurement: Node) -> Mapping[str, str]:
    pairs = [(n.text("dependencyType"), n.text("measurementID")) for n in measurement.all("measurementDependency")]
    return {kind: needed for kind, needed in pairs if kind and needed}


def _started(measurement: Node, notes: Notes) -> datetime | None:
    date, time = measurement.get("seriesDate"), measurement.get("seriesTime")
    if date is None or time is None:
        return None
    try:
        return datetime.fromisoformat(f"{date.value[:10]}T{time.value}")
    except ValueError:
        notes.flag(time.path, got=f"{date.value!r} {time.value!r}", taken="start time left out")
        return None


def _fact(node: Node | None, high: float, *, notes: Notes, low: float = 1e-12) -> float | None:
    """Return a number that no geometry hangs on; zero and negative mean unknown, nonsense is flagged."""
    if node is None or not node.value:
        return None
    try:
        value = float(node.value)
    except ValueError:
        value = float("nan")
    if low <= value <= high:
        return value
    if value != 0:
        notes.flag(node.path, got=repr(node.value[:60]), taken="left out")
    return None


def _one_of(node: Node | None, known: tuple[str, ...], *, notes: Notes) -> str | None:
    if node is None or not node.value:
        return None
    if node.value.upper() in known:
        return node.value.upper()
    notes.flag(node.path, got=repr(node.value[:60]), taken="left out")
    return None


def _date(node: Node | None, notes: Notes) -> str | None:
    """Return YYYYMMDD of an xs:date, with or without dashes and time zone."""
    if node is None or not node.value:
        return None
    match = re.fullmatch(r"(\d{4})-?(\d\d)-?(\d\d)(Z|[+-]\d\d:\d\d)?", node.value)
    if match is None:
        notes.flag(node.path, got=repr(node.value[:60]), taken="date left out")
        return None
    return "".join(match.groups()[:3])


def _time(node: Node | None, notes: Notes) -> str | None:
    """Return HHMMSS[.ffffff] of an xs:time, with or without colons and time zone."""
    if node is None or not node.value:
        return None
    match = re.fullmatch(r"(\d\d):?(\d\d):?(\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)?", node.value)
    if match is None:
        notes.flag(node.path, got=repr(node.value[:60]), taken="time left out")
        return None
    fraction = (match[4] or "")[:6].ljust(6, "0")
    return "".join(match.groups()[:3]) + (f".{fraction}" if int(fraction) else "")
