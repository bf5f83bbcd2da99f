"""MR objects: valid by dciodvfy, numbered, described, the same again for the same job."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from acquisition.errors import HeaderError
from acquisition.items import Image, Kind, Position, Provenance
from acquisition.scan import Limits, Scan, Study
from acquisition.sources.phantom.exam import ORIENTATIONS
from acquisition.verdict import Level
from integration.dicom.mr import MrSeries
from integration.dicom.part10 import split, to_implicit
from integration.dicom.uid import is_uid
from tests.integration.dicom_samples import (
    FLAG,
    HOLD,
    NOW,
    assert_valid,
    bare_scan,
    encoding,
    full_scan,
    grid_of,
    image_of,
    parsed,
    validate,
    writer,
    written,
)


def with_header(**changes: object) -> Scan:
    scan = full_scan()
    assert scan.mr is not None
    return replace(scan, mr=replace(scan.mr, **changes))


def limited(**limits: Limits) -> Scan:
    return with_header(encodings=(encoding(limits={"slice": Limits(0, 3, 0), **limits}),))


# --- the validator's word


@pytest.mark.peer("dciodvfy")
@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("scan", [full_scan(), bare_scan()], ids=["full", "bare"])
def test_every_plane_is_valid(orientation: str, scan: Scan, tmp_path: Path) -> None:
    assert_valid(written(image_of(grid_of(orientation)), scan)[:2], tmp_path)


@pytest.mark.peer("dciodvfy")
@pytest.mark.parametrize(
    "sequence", [None, "Flash", "TurboSpinEcho", "EPI", "ep2d_diff", "TrueFISP", "MPRAGE", "GradientEcho", "IR-TSE"]
)
def test_every_sequence_is_valid(sequence: str | None, tmp_path: Path) -> None:
    for times in ((), (0.9,)):
        instances = written(image_of(), with_header(sequence_type=sequence, ti_s=times))
        assert_valid(instances[:1], tmp_path)


@pytest.mark.peer("dciodvfy")
def test_volumes_echoes_phases_and_complex_images_are_valid(tmp_path: Path) -> None:
    slab = with_header(encodings=(encoding(matrix=(4, 6, 16), limits={"repetition": Limits(0, 4, 0)}),))
    series = writer(slab)
    rng = np.random.default_rng(1)
    data = (rng.standard_normal((4, 6, 8)) + 1j * rng.standard_normal((4, 6, 8))).astype(np.complex64)
    images = [
        image_of(position=Position(contrast=1, repetition=3)),
        image_of(data=data.real.copy(), kind=Kind.REAL, output="real"),
        image_of(data=data.imag.copy(), kind=Kind.IMAGINARY, output="imag"),
        image_of(data=data, kind=Kind.COMPLEX, output="complex"),
        image_of(data=np.abs(data), unit="furlong", output="odd unit", verdicts=(FLAG, HOLD)),
    ]
    for image in images:
        assert_valid(series.instances(image)[:2], tmp_path)


@pytest.mark.peer("dciodvfy")
@pytest.mark.parametrize("part", ["BRAIN", "knee", "CARDIAC", "left thumb of the patient", "HÜFTE", ""])
def test_laterality_fits_every_body_part(part: str, tmp_path: Path) -> None:
    scan = full_scan(study=Study(body_part=part))
    assert validate(written(image_of(), scan)[0].data, tmp_path) == []


@pytest.mark.peer("dciodvfy")
def test_the_validator_does_see_errors(tmp_path: Path) -> None:
    broken = written(image_of())[0].data.replace(b"MONOCHROME2 ", b"MONOCHROME9 ")
    assert any("PhotometricInterpretation" in error for error in validate(broken, tmp_path))


# --- what the header says, and what it does not


def test_the_header_is_carried_over() -> None:
    ds = parsed(written(image_of(position=Position(contrast=1)))[0])
    expected = {
        "PatientName": "Muster^Erika",
        "PatientID": "P-77",
        "PatientBirthDate": "19700102",
        "PatientSex": "F",
        "PatientWeight": 61.5,
        "PatientSize": 1.68,
        "PatientPosition": "HFS",
        "StudyInstanceUID": "1.2.3.4",
        "StudyDate": "20260304",
        "StudyTime": "040000",
        "AccessionNumber": "A-1",
        "BodyPartExamined": "BRAIN",
        "SeriesNumber": 700,
        "SeriesDescription": "brain_gre_ax",
        "FrameOfReferenceUID": "1.2.3.5",
        "Manufacturer": "Maker",
        "DeviceSerialNumber": "42",
        "AcquisitionTime": "043000.000000",
        "RepetitionTime": 2500,
        "EchoTime": 6.8,
        "EchoNumbers": 2,
        "FlipAngle": 15,
        "MagneticFieldStrength": 2.89362,
        "ImagingFrequency": 123.203042,
        "ReceiveCoilName": "HeadNeck_20",
        "ScanningSequence": "GR",
        "SequenceVariant": "SP",
        "MRAcquisitionType": "2D",
        "EchoTrainLength": 1,
        "BurnedInAnnotation": "NO",
        "LossyImageCompression": "00",
        "ContentQualification": "RESEARCH",
    }
    assert {name: ds[name].value for name in expected} == expected
    assert list(ds.ImageType) == ["ORIGINAL", "PRIMARY", "OTHER", "M"]
    assert "Laterality" not in ds


def test_silence_is_never_filled_with_an_identity() -> None:
    ds = parsed(written(image_of(), bare_scan())[0])
    for name in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
        assert not ds[name].value, name
    for name in ("RepetitionTime", "EchoTime", "Manufacturer", "PatientPosition", "Laterality"):
        assert name in ds
        assert not ds[name].value, name
    assert "FlipAngle" not in ds
    assert (ds.ScanningSequence, ds.SequenceVariant) == ("RM", "NONE")
    assert (ds.StudyDate, ds.StudyTime, ds.SeriesNumber) == ("20260304", "050607.000089", 9000)


def test_study_time_defaults_to_the_measurement() -> None:
    ds = parsed(written(image_of(), bare_scan(started=datetime(2025, 12, 31, 23, 59)))[0])
    assert (ds.StudyDate, ds.StudyTime) == ("20251231", "235900.000000")


@pytest.mark.parametrize(
    ("text", "scanning", "variant"),
    [
        ("Flash", ["GR"], ["SP"]),
        ("TurboSpinEcho", ["SE"], ["SK"]),
        ("spin-echo", ["SE"], ["NONE"]),
        ("TrueFISP", ["GR"], ["SS"]),
        ("MPRAGE", ["GR", "IR"], ["SP", "MP"]),
        ("EPI", ["EP"], ["NONE"]),
        ("ep2d_diff", ["SE", "EP"], ["NONE"]),
        ("Gradient Echo", ["GR"], ["NONE"]),
        ("tse_flair", ["SE", "IR"], ["SK"]),
        ("turboflash", ["GR"], ["SP"]),
        ("repetition", ["RM"], ["NONE"]),
        ("something new", ["RM"], ["NONE"]),
    ],
)
def test_sequence_words(text: str, scanning: list[str], variant: list[str]) -> None:
    ds = parsed(written(image_of(), with_header(sequence_type=text))[0])
    assert np.atleast_1d(ds.ScanningSequence).tolist() == scanning
    assert np.atleast_1d(ds.SequenceVariant).tolist() == variant


def test_an_inversion_time_makes_an_inversion() -> None:
    ds = parsed(written(image_of(), with_header(ti_s=(0.9,)))[0])
    assert ("IR" in ds.ScanningSequence, ds.InversionTime) == (True, 900)


def test_only_mr_scans() -> None:
    with pytest.raises(HeaderError, match="expected an MR scan, got modality CT"):
        MrSeries(Scan(uid="s", modality="CT"), "job")


# --- numbers


def test_instance_numbers_count_slices_then_contrasts_then_repetitions() -> None:
    scan = limited(contrast=Limits(0, 1, 0), repetition=Limits(0, 2, 0))
    series = writer(scan)
    numbers = []
    for repetition in range(3):
        for contrast in range(2):
            for z in range(4):
                grid = grid_of().plane(z)
                image = image_of(grid, position=Position(slice=z, contrast=contrast, repetition=repetition))
                numbers.append(series.instances(image)[0].index)
    assert numbers == list(range(1, 25))


def test_slabs_count_their_partitions() -> None:
    scan = with_header(encodings=(encoding(matrix=(4, 6, 16), limits={"slice": Limits(0, 1, 0)}),))
    series = writer(scan)
    first, second = (series.instances(image_of(position=Position(slice=s))) for s in range(2))
    assert [i.index for i in (*first, *second)] == list(range(1, 9))


def test_frames_carry_acquisition_and_time() -> None:
    scan = limited(repetition=Limits(0, 2, 0), phase=Limits(0, 1, 0), set=Limits(1, 2, 1))
    ds = parsed(written(image_of(position=Position(repetition=2, phase=1, set=2)), scan)[0])
    assert (ds.AcquisitionNumber, ds.TemporalPositionIdentifier, ds.NumberOfTemporalPositions) == (6, 6, 6)
    assert "TemporalPositionIdentifier" not in parsed(written(image_of())[0])


def test_more_than_the_header_announced_is_flagged_and_stays_distinct() -> None:
    series = writer(limited(contrast=Limits(0, 1, 0)))
    images = [image_of(position=Position(slice=s, contrast=c)) for c in range(4) for s in range(6)]
    instances = [i for image in images for i in series.instances(image)]
    assert len({i.sop_instance_uid for i in instances}) == len(instances)
    verdict = instances[-1].verdicts[-1]
    assert (verdict.check, verdict.level) == ("dicom.number", Level.FLAG)
    assert verdict.evidence == "contrast 3 of 0 ... 1, slice 5 of 0 ... 3"
    assert instances[0].verdicts == ()


# --- series


def test_one_output_is_one_series_and_complex_is_two() -> None:
    series = writer()
    data = np.exp(1j * np.linspace(-3, 3, 192)).reshape(4, 6, 8) * 5
    outputs = [
        image_of(output="denoised"),
        image_of(),
        image_of(data=data, kind=Kind.COMPLEX),
        image_of(output="denoised"),
    ]
    made = [[parsed(i) for i in series.instances(image)] for image in outputs]
    assert [len(m) for m in made] == [4, 4, 8, 4]
    table = [(d.SeriesNumber, d.SeriesDescription, d.ImageType[2:]) for m in made for d in m[:: max(1, len(m) - 1)]]
    assert table == [
        (701, "brain_gre_ax denoised", ["OTHER", "M"]),
        (701, "brain_gre_ax denoised", ["OTHER", "M"]),
        (700, "brain_gre_ax", ["OTHER", "M"]),
        (700, "brain_gre_ax", ["OTHER", "M"]),
        (700, "brain_gre_ax", ["OTHER", "M"]),
        (702, "brain_gre_ax phase", ["PHASE MAP", "P"]),
        (701, "brain_gre_ax denoised", ["OTHER", "M"]),
        (701, "brain_gre_ax denoised", ["OTHER", "M"]),
    ]
    assert len({d.SeriesInstanceUID for m in made for d in m}) == 3
    assert len({d.StudyInstanceUID for m in made for d in m}) == 1
    assert len({d.FrameOfReferenceUID for m in made for d in m}) == 1


def test_a_long_protocol_name_leaves_room_for_the_output() -> None:
    instance = written(image_of(output="denoised"), full_scan(protocol_name="x" * 80))[0]
    assert instance.description == "x" * 55 + " denoised"
    assert len(instance.description) == 64


# --- origin and findings


def test_who_made_it_from_what_is_written_down() -> None:
    ds = parsed(written(image_of())[0])
    (item,) = ds.ContributingEquipmentSequence
    (purpose,) = item.PurposeOfReferenceCodeSequence
    assert (purpose.CodeValue, purpose.CodingSchemeDesignator) == ("109102", "DCM")
    assert item.Manufacturer == "Isocenter"
    assert item.SoftwareVersions
    assert is_uid(item.DeviceUID)
    assert item.ContributionDateTime == "20260304050607.000089"
    for text in (item.ContributionDescription, ds.DerivationDescription, ds.ImageComments):
        assert "protocol gre: mri.prewhiten, mri.grappa R=2" in text
    assert "noise: own scan" in ds.ImageComments


def test_findings_stand_first_and_worst_first() -> None:
    scan = full_scan(verdicts=(FLAG,))
    instance = written(image_of(verdicts=(HOLD, FLAG)), scan)[0]
    lines = parsed(instance).ImageComments.split("\r\n")
    assert lines[0] == "HOLD: The patient moved: repeat this series. (mri.motion)"
    assert lines[1] == "FLAG: Coil 3 is noisy: check the plug. (mri.noise)"
    assert instance.verdicts == (FLAG, HOLD)
    assert instance.description == written(image_of(), scan)[0].description


def test_long_origins_are_cut_where_the_attribute_ends_and_complete_in_the_comment() -> None:
    steps = tuple(f"step-{i} a=1" for i in range(200))
    ds = parsed(written(image_of(provenance=Provenance(protocol="p", steps=steps)))[0])
    assert len(ds.DerivationDescription) == 1024
    assert ds.DerivationDescription.endswith(" ...")
    assert "step-199" in ds.ImageComments


# --- again


def test_the_same_job_makes_the_same_bytes() -> None:
    def all_of() -> list[bytes]:
        series = writer()
        images = [image_of(), image_of(data=np.full((4, 6, 8), 2j, np.complex64), kind=Kind.COMPLEX, output="c")]
        return [i.data for image in images for i in series.instances(image)]

    assert all_of() == all_of()


def test_another_time_changes_times_only_and_another_job_all_uids_of_ours() -> None:
    image = image_of()
    later = MrSeries(full_scan(), "job-1", clock=lambda: NOW + timedelta(days=400), station="recon-1")
    one, two = written(image)[0], later.instances(image)[0]
    assert one.data != two.data
    assert (one.sop_instance_uid, one.series_uid) == (two.sop_instance_uid, two.series_uid)
    other = writer(job="job-2").instances(image)[0]
    assert other.sop_instance_uid != one.sop_instance_uid
    assert other.series_uid != one.series_uid
    assert other.study_uid == one.study_uid


def test_an_instance_says_what_its_bytes_say() -> None:
    for instance in written(image_of()):
        ds = parsed(instance)
        assert instance.data[:132] == b"\0" * 128 + b"DICM"
        assert instance.sop_class_uid == ds.SOPClassUID == ds.file_meta.MediaStorageSOPClassUID
        assert instance.sop_instance_uid == ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID
        assert instance.transfer_syntax_uid == ds.file_meta.TransferSyntaxUID
        assert (instance.series_uid, instance.study_uid) == (ds.SeriesInstanceUID, ds.StudyInstanceUID)
        assert (instance.index, instance.description) == (ds.InstanceNumber, ds.SeriesDescription)
        assert all(is_uid(u) for u in (instance.sop_instance_uid, instance.series_uid, instance.study_uid))


def test_delivery_understands_it() -> None:
    instance = written(image_of())[0]
    stored = split(instance.data, "image")
    assert (stored.sop_class, stored.sop_uid) == (instance.sop_class_uid, instance.sop_instance_uid)
    implicit = dcmread(io.BytesIO(to_implicit(stored).data), force=True)
    assert implicit.PixelData == parsed(instance).PixelData


def test_an_image_with_one_channel_is_an_image() -> None:
    image = image_of()
    assert written(replace(image, data=image.data[None]))[0].data == written(image)[0].data


def test_header_without_times_or_with_fewer_than_echoes() -> None:
    def echo_time(times: tuple[float, ...], contrast: int) -> object:
        scan = with_header(te_s=times)
        return parsed(
            written(
                Image(data=np.ones((1, 6, 8)), grid=grid_of().plane(0), position=Position(contrast=contrast)), scan
            )[0]
        ).EchoTime

    assert echo_time((0.01,), 2) == 10
    assert echo_time((0.01, 0.02), 1) == 20
    assert echo_time((0.01, 0.02), 2) is None
