"""What every object says whatever its modality: patient, study, series, frame of reference, equipment, origin.

Defaults, where the scanner is silent: identity (name, id, birth date, sex, referring physician, accession number,
study id) stays empty; study date and time are the measurement's start, else now; a series without a number
counts from 9000; body part is left out; patient position stays empty.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version

from acquisition.items import Enhancement, Image, Provenance
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from integration.dicom.text import Elements
from integration.dicom.uid import device_uid, frame_of_reference_uid, is_uid, study_uid

PRODUCT = "Isocenter"
_ST = 1024
_SEVERE_FIRST = (Level.HOLD, Level.FLAG)
_POSITIONS = frozenset({"HFS", "HFP", "HFDR", "HFDL", "FFS", "FFP", "FFDR", "FFDL"})
_SEXES = frozenset({"M", "F", "O"})
# Laterality is type 2C: absent for these (PS3.16 annex L), empty for all others and where nothing is said.
_UNPAIRED = (
    "ABDOMEN ABDOMENPELVIS AORTA BACK BLADDER BRAIN CEREBELLUM CHEST CHESTABDPELVIS COCCYX CSPINE CTSPINE "
    "ESOPHAGUS FACE GALLBLADDER HEAD HEADNECK HEART JAW LIVER LSPINE LSSPINE MEDIASTINUM NECK NOSE PANCREAS "
    "PELVIS PROSTATE RECTUM SCALP SKULL SPINE SPLEEN SSPINE STERNUM STOMACH THYMUS THYROID TLSPINE TONGUE TSPINE "
    "UTERUS WHOLEBODY "
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomInstance:
    """One finished object."""

    sop_class_uid: str
    """SOPClassUID."""
    sop_instance_uid: str
    """SOPInstanceUID; the same again when the same job is done again."""
    series_uid: str
    """SeriesInstanceUID."""
    study_uid: str
    """StudyInstanceUID."""
    transfer_syntax_uid: str
    """TransferSyntaxUID of ``data``."""
    index: int
    """InstanceNumber."""
    description: str
    """SeriesDescription, for people."""
    data: bytes
    """Complete Part 10 file; the preamble is 128 zeros."""
    verdicts: tuple[Verdict, ...] = ()
    """Everything that was found about this image, the making of the object included."""


@lru_cache(maxsize=1)
def software_version() -> str:
    """Return our own version."""
    try:
        return version("isocenter")
    except PackageNotFoundError:
        return "unknown"


def patient(scan: Scan) -> Elements:
    """Patient and patient study modules."""
    p = scan.patient
    elements: Elements = {
        "PatientName": p.name,
        "PatientID": p.id,
        "PatientBirthDate": p.birth_date,
        "PatientSex": p.sex if p.sex in _SEXES else None,
    }
    return elements | known({"PatientWeight": p.weight_kg, "PatientSize": p.height_m})


def study(scan: Scan, job: str, *, now: datetime) -> Elements:
    """General study module."""
    s = scan.study
    start = scan.started or now
    elements: Elements = {
        "StudyInstanceUID": study_uid(scan, job),
        "StudyDate": s.date or f"{start:%Y%m%d}",
        "StudyTime": s.time if s.date or s.time else f"{start:%H%M%S.%f}",
        "ReferringPhysicianName": s.referring_physician,
        "StudyID": s.id,
        "AccessionNumber": s.accession_number,
    }
    return elements | known({"StudyDescription": s.description})


def series(scan: Scan, *, uid: str, number: int, description: str) -> Elements:
    """General series module."""
    part = (scan.study.body_part or "").strip().upper()
    position = scan.patient.position
    elements: Elements = {
        "Modality": scan.modality,
        "SeriesInstanceUID": uid,
        "SeriesNumber": number,
        "SeriesDescription": description,
    }
    if scan.modality != "PT":  # which has codes in its place (PS3.3 C.7.3.1)
        elements["PatientPosition"] = position if position in _POSITIONS else None
    if part not in _UNPAIRED.split():
        elements["Laterality"] = None
    if scan.started:
        date, time = f"{scan.started:%Y%m%d}", f"{scan.started:%H%M%S.%f}"
        elements |= {"SeriesDate": date, "SeriesTime": time, "AcquisitionDate": date, "AcquisitionTime": time}
    return elements | known({"ProtocolName": scan.protocol_name, "BodyPartExamined": part})


def frame_of_reference(scan: Scan, job: str) -> Elements:
    """Frame of reference module."""
    return {"FrameOfReferenceUID": frame_of_reference_uid(scan, job), "PositionReferenceIndicator": None}


def equipment(scan: Scan) -> Elements:
    """General equipment module: the scanner, not us."""
    e = scan.equipment
    elements: Elements = {"Manufacturer": e.vendor}
    return elements | known(
        {
            "ManufacturerModelName": e.model,
            "DeviceSerialNumber": e.serial_number,
            "SoftwareVersions": e.software,
            "InstitutionName": e.institution,
            "StationName": e.station,
        }
    )


def contribution(provenance: Provenance, *, now: datetime, station: str) -> Elements:
    """Return what we say of ourselves: processing equipment (PS3.3 C.12.1.1.5), as IHE AIR asks for it."""
    item: Elements = {
        "Manufacturer": PRODUCT,
        "ManufacturerModelName": PRODUCT,
        "SoftwareVersions": software_version(),
        "DeviceUID": device_uid(station),
        "ContributionDateTime": f"{now:%Y%m%d%H%M%S.%f}",
        "ContributionDescription": shortened(_origin(provenance), _ST),
        "PurposeOfReferenceCodeSequence": [
            {"CodeValue": "109102", "CodingSchemeDesignator": "DCM", "CodeMeaning": "Processing Equipment"}
        ],
    }
    network = [_network_equipment(provenance.network, item)] if provenance.network else []
    return {"ContributingEquipmentSequence": [item, *network]}


def derived(elements: Elements, provenance: Provenance) -> Elements:
    """Return `elements` of an image; where a network changed its pixels, ImageType says DERIVED.

    Where it predicts what was not measured, SyntheticData (PS3.3 C.12.1) says so as well.
    """
    if provenance.network is None:
        return elements
    kinds = elements["ImageType"]
    assert isinstance(kinds, tuple)
    made: Elements = {"SyntheticData": "YES"} if provenance.network.synthetic else {}
    return {**elements, "ImageType": ("DERIVED", *kinds[1:]), **made}


def output_words(image: Image, conventional: str) -> str:
    """Return what sets the series of an output apart from the conventional one in SeriesDescription."""
    network = image.provenance.network
    if network is not None:
        return f"(DL {image.output[:34].replace('_', ' ')} {network.strength:g})"
    return "" if image.output == conventional else image.output[:40]


_SYNTHESIZING: Elements = {
    "CodeValue": "109100",
    "CodingSchemeDesignator": "DCM",
    "CodeMeaning": "Synthesizing Equipment",
}


def _network_equipment(network: Enhancement, ours: Elements) -> Elements:
    """Return the network as equipment of its own, in the same place and at the same time as ours."""
    purpose = {"PurposeOfReferenceCodeSequence": [_SYNTHESIZING]} if network.synthetic else {}
    return {
        **ours,
        **purpose,
        "ManufacturerModelName": f"network {network.card}",
        "SoftwareVersions": network.version,
        "ContributionDescription": shortened(_enhanced_by(network), _ST),
    }


def _enhanced_by(network: Enhancement) -> str:
    what = "SYNTHETIC, not measured: predicted" if network.synthetic else "Enhanced"
    return (
        f"{what} by the neural network {network.card} {network.version}, strength {network.strength:g}, "
        f"on {network.engine}, weights sha256 {network.sha256}"
    )


def origin(image: Image, verdicts: Iterable[Verdict], *, now: datetime) -> Elements:
    """Return when and how the image was made, and what the checks said of it, the most severe first."""
    provenance = image.provenance
    findings = [f"{v.level}: {v.advice} ({v.check})" for level in _SEVERE_FIRST for v in verdicts if v.level is level]
    notes = [f"{name}: {note}" for name, note in provenance.notes.items()]
    return {
        "InstanceCreationDate": f"{now:%Y%m%d}",
        "InstanceCreationTime": f"{now:%H%M%S.%f}",
        "ContentDate": f"{now:%Y%m%d}",
        "ContentTime": f"{now:%H%M%S.%f}",
        "ContentQualification": "RESEARCH",
        "DerivationDescription": shortened(_origin(provenance), _ST),
        "ImageComments": "\r\n".join([*findings, _origin(provenance), *notes]),
    }


def header_notes(scan: Scan) -> list[str]:
    """Return what of the header could not be used for another reason than its form as text."""
    s, p = scan.study, scan.patient
    checks = (
        ("StudyInstanceUID", s.instance_uid, not s.instance_uid or is_uid(s.instance_uid)),
        ("FrameOfReferenceUID", s.frame_of_reference_uid, is_uid(s.frame_of_reference_uid)),
        ("PatientSex", p.sex, p.sex in _SEXES),
        ("PatientPosition", p.position, p.position in _POSITIONS),
    )
    return [f"{name}: not a value that DICOM knows" for name, value, fine in checks if value and not fine]


def header_verdict(notes: Iterable[str]) -> tuple[Verdict, ...]:
    """Return a FLAG that names the attributes which are not what the scanner sent; nothing without notes."""
    text = "; ".join(notes)
    if not text:
        return ()
    names = ", ".join(dict.fromkeys(note.split(":")[0].split(" ")[0] for note in text.split("; ")))
    return (
        Verdict(
            check="dicom.header",
            level=Level.FLAG,
            advice=f"Some of the scanner's header does not fit into DICOM and was changed or left empty: {names}.",
            evidence=text,
        ),
    )


def shortened(text: str, length: int) -> str:
    """Return `text`, cut at `length` characters with a sign that it was."""
    return text if len(text) <= length else f"{text[: length - 4]} ..."


def known(elements: Elements) -> Elements:
    """Return the elements that have a value."""
    return {key: value for key, value in elements.items() if value not in (None, "", ())}


def _origin(provenance: Provenance) -> str:
    steps = f": {', '.join(provenance.steps)}" if provenance.steps else ""
    protocol = f", protocol {provenance.protocol}{steps}" if provenance.protocol else steps
    enhanced = f"{_enhanced_by(provenance.network)}. " if provenance.network else ""  # first: long texts are cut
    return f"{enhanced}Reconstructed from raw data by {PRODUCT} {software_version()}{protocol}"
