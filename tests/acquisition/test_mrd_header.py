"""Headers: what scanners forget is filled in or left out with a word, what geometry needs is right or an error."""

from __future__ import annotations

import warnings
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import ismrmrd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acquisition.errors import DataError, HeaderError, InputError, LimitError
from acquisition.scan import Encoding, Equipment, Limits, MrHeader, Patient, Scan, Study
from acquisition.sources.mrd_header import parse_header
from acquisition.sources.mrd_header_write import write_header
from acquisition.verdict import Level, worst

SPACE = (
    "<matrixSize><x>256</x><y>64</y><z>1</z></matrixSize>"
    "<fieldOfView_mm><x>572.0</x><y>143.0</y><z>5</z></fieldOfView_mm>"
)
ENCODING = (
    f"<encoding><encodedSpace>{SPACE}</encodedSpace><reconSpace>{SPACE}</reconSpace>"
    "<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>63</maximum><center>32</center>"
    "</kspace_encoding_step_1></encodingLimits><trajectory>cartesian</trajectory></encoding>"
)


def header(
    body: str = "", *, encoding: str = ENCODING, attributes: str = 'xmlns="http://www.ismrm.org/ISMRMRD"'
) -> str:
    return f"<?xml version='1.0'?><ismrmrdHeader {attributes}>{body}{encoding}</ismrmrdHeader>"


def full_scan() -> Scan:
    """A scan in which every field that a header can carry is filled."""
    encoding = Encoding(
        matrix=(8, 64, 256),
        fov_mm=(40.0, 143.25, 572.0),
        recon_matrix=(8, 64, 128),
        recon_fov_mm=(40.0, 143.25, 286.0),
        limits={
            "k0": Limits(0, 255, 128),
            "k1": Limits(4, 63, 32),
            "slice": Limits(0, 3, 0),
            "user_7": Limits(0, 1, 0),
        },
        trajectory="epi",
        trajectory_parameters={
            "identifier": "ConventionalEPI",
            "dwellTime": 2.7,
            "etl": 100.0,
            "comment": "c",
            "s": "5",
        },
        acceleration=(1.0, 2.0),
        calibration_mode="embedded",
        echo_train_length=7,
    )
    second = replace(encoding, trajectory_parameters={}, calibration_mode=None, acceleration=(1.0, 1.0), limits={})
    return Scan(
        uid="m-1",
        modality="MR",
        protocol_name="t2 <tse> & more",
        patient=Patient(
            id="P1", name="Müller^Ä", birth_date="19700131", sex="F", weight_kg=71.5, height_m=1.75, position="FFDR"
        ),
        study=Study(
            instance_uid="1.2.3",
            id="S1",
            date="20240229",
            time="123456.500000",
            accession_number="A-17",
            referring_physician="Dr^No",
            description="knee",
            body_part="KNEE",
            series_instance_uid="1.2.3.4",
            series_number=5,
            frame_of_reference_uid="1.2.9",
        ),
        equipment=Equipment(
            vendor="V",
            model="M",
            serial_number="007",
            software="XA60",
            institution="I",
            station="ST",
            field_strength_t=2.89362,
            n_coils=32,
            coil_name="Head:1",
            resonance_frequency_hz=123203042.0,
        ),
        started=datetime(2024, 2, 29, 12, 34, 56, 250000),
        measurement_id="m-1",
        dependencies={"noise": "m-0", "senmap": "m-9"},
        user_parameters={"long": 3.0, "double": 0.1, "text": "7", "relativeReceiverNoiseBandwidth": 0.79},
        mr=MrHeader(
            encodings=(encoding, second),
            tr_s=(0.048,),
            te_s=(0.0124, 0.0153, 0.1),
            ti_s=(0.9,),
            flip_deg=(8.0, 15.5),
            sequence_type="TurboSpinEcho",
            echo_spacing_s=(0.00049,),
            diffusion_b_s_per_mm2=(0.0, 1000.0),
        ),
    )


def meaning(scan: Scan) -> Scan:
    return replace(scan, uid="", header="", verdicts=())


def test_a_written_header_comes_back_and_the_reference_reads_it() -> None:
    scan = full_scan()
    xml = write_header(scan)
    assert meaning(parse_header(xml)) == meaning(scan)
    assert parse_header(xml).verdicts == ()
    theirs = ismrmrd.xsd.CreateFromDocument(xml.encode())
    assert theirs.encoding[0].encodedSpace.matrixSize.x == 256
    assert theirs.encoding[0].encodingLimits.kspace_encoding_step_1.minimum == 4
    assert theirs.encoding[0].parallelImaging.accelerationFactor.kspace_encoding_step_1 == 2
    assert theirs.encoding[0].trajectory.value == "epi"
    assert theirs.sequenceParameters.TE == [12.4, 15.3, 100.0]
    assert theirs.measurementInformation.patientPosition.value == "FFDR"
    assert theirs.measurementInformation.measurementDependency[1].measurementID == "m-9"
    assert theirs.acquisitionSystemInformation.relativeReceiverNoiseBandwidth == 0.79
    assert theirs.subjectInformation.patientName == "Müller^Ä"


def test_the_reference_writes_what_we_read() -> None:
    scan = full_scan()
    theirs = ismrmrd.xsd.CreateFromDocument(write_header(scan).encode())
    assert meaning(parse_header(ismrmrd.xsd.ToXML(theirs))) == meaning(scan)


def test_a_bare_scan_writes_a_bare_header() -> None:
    bare = Encoding(matrix=(1, 8, 8), fov_mm=(5.0, 8.0, 8.0), recon_matrix=(1, 8, 8), recon_fov_mm=(5.0, 8.0, 8.0))
    scan = Scan(uid="x", modality="MR", mr=MrHeader(encodings=(bare,)))
    xml = write_header(scan)
    assert meaning(parse_header(xml)) == meaning(scan)
    ismrmrd.xsd.CreateFromDocument(xml.encode())
    assert "patientPosition" not in xml


def test_a_zoned_start_keeps_its_zone() -> None:
    started = datetime(2024, 2, 29, 12, 0, tzinfo=timezone(timedelta(hours=2)))
    assert parse_header(write_header(replace(full_scan(), started=started))).started == started


def test_a_fractional_acceleration_is_kept_though_the_schema_wants_whole_numbers() -> None:
    scan = full_scan()
    encoding = replace(scan.mr.encodings[0], acceleration=(1.5, 2.3))
    xml = write_header(replace(scan, mr=replace(scan.mr, encodings=(encoding,))))
    assert parse_header(xml).mr.encodings[0].acceleration == (1.5, 2.3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ismrmrd.xsd.CreateFromDocument(xml.encode())


seconds = st.floats(0, 1e4, allow_nan=False).map(abs)
texts = st.text("abcÄß<>&'\"^ 0123456789", min_size=1).map(str.strip).filter(bool)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    te=st.lists(seconds, max_size=4),
    name=texts,
    flip=st.floats(-180, 180),
    fov=st.floats(0.001, 1e4),
    parameters=st.dictionaries(texts.filter(lambda t: "[" not in t), st.floats(allow_nan=False) | texts, max_size=4),
)
def test_every_number_survives_to_the_last_bit(te, name, flip, fov, parameters) -> None:
    scan = full_scan()
    encoding = replace(scan.mr.encodings[0], fov_mm=(5.0, fov, fov))
    mr = replace(scan.mr, te_s=tuple(te), flip_deg=(flip,), encodings=(encoding,))
    patient = replace(scan.patient, name=name)
    scan = replace(scan, mr=mr, patient=patient, user_parameters=parameters)
    assert meaning(parse_header(write_header(scan))) == meaning(scan)


def test_milliseconds_are_seconds_to_the_last_bit() -> None:
    scan = parse_header(header("<sequenceParameters><TR>48</TR><TE>12.4</TE><TE>1e1</TE></sequenceParameters>"))
    assert (scan.mr.tr_s, scan.mr.te_s) == ((0.048,), (0.0124, 0.01))


def test_accession_numbers_keep_leading_zeros() -> None:
    scan = full_scan()
    scan = replace(scan, study=replace(scan.study, accession_number="00123"))
    assert parse_header(write_header(scan)).study.accession_number == "00123"


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"study": Study(date="2024-02-29")}, "study.date: expected YYYYMMDD"),
        ({"study": Study(time="noon")}, "study.time: expected HHMMSS"),
        ({"patient": Patient(birth_date="1970")}, "patient.birth_date"),
        ({"mr": None}, "expected an MR scan"),
        ({"protocol_name": "a\x00b"}, r"protocolName: .*U\+0000"),
    ],
)
def test_a_scan_that_no_header_can_say_is_refused(changes, match: str) -> None:
    with pytest.raises((HeaderError, DataError), match=match):
        write_header(replace(full_scan(), **changes))


def test_a_minimal_header_is_enough_in_any_namespace_and_version() -> None:
    for attributes in ("", 'xmlns="urn:x"', 'xmlns="http://www.ismrm.org/ISMRMRD" version="9"'):
        scan = parse_header(header("<version>3</version>", attributes=attributes) + "\0\0")
        assert (scan.modality, scan.verdicts, scan.measurement_id) == ("MR", (), None)
        encoding = scan.mr.encodings[0]
        assert (encoding.matrix, encoding.fov_mm) == ((1, 64, 256), (5.0, 143.0, 572.0))
        assert (encoding.limit("k1"), encoding.limit("k2")) == (Limits(0, 63, 32), Limits())
    prefixed = (
        header(attributes='xmlns:i="urn:x"')
        .replace("<encoding>", "<i:encoding>")
        .replace("</encoding>", "</i:encoding>")
    )
    assert parse_header(prefixed).mr.encodings[0].matrix == (1, 64, 256)


def test_the_uid_is_the_measurement_id_or_a_hash() -> None:
    named = header("<measurementInformation><measurementID>45_1</measurementID></measurementInformation>")
    assert parse_header(named).uid == "45_1"
    assert parse_header(header()).uid == parse_header(header()).uid != parse_header(header("<version>1</version>")).uid
    assert parse_header(header()).uid.startswith("mrd-")


def flags(scan: Scan) -> dict[str, str]:
    return {v.evidence.partition(": ")[0].rpartition("/")[2]: v.advice for v in scan.verdicts if v.level is Level.FLAG}


@pytest.mark.parametrize(
    ("old", "new", "flagged", "check"),
    [
        ("<trajectory>cartesian</trajectory>", "", "trajectory", lambda e: e.trajectory == "cartesian"),
        (">cartesian<", ">Radial<", None, lambda e: e.trajectory == "radial"),
        (">cartesian<", ">rosette<", "trajectory", lambda e: e.trajectory == "other"),
        (f"<reconSpace>{SPACE}</reconSpace>", "", "reconSpace", lambda e: e.recon_matrix == e.matrix),
        ("<z>1</z>", "", None, lambda e: e.matrix[0] == 1),
        ("<center>32<", "<center>64<", "center", lambda e: e.limit("k1").center == 64),
        ("<x>256</x>", "<x>256.0</x>", None, lambda e: e.matrix[2] == 256),
    ],
)
def test_what_scanners_forget(old: str, new: str, flagged: str | None, check) -> None:
    scan = parse_header(header(encoding=ENCODING.replace(old, new)))
    assert set(flags(scan)) == ({flagged} if flagged else set())
    assert check(scan.mr.encodings[0])


def parallel(body: str) -> str:
    return header(encoding=ENCODING.replace("</encoding>", f"<parallelImaging>{body}</parallelImaging></encoding>"))


def test_parallel_imaging_is_k2_k1_and_may_be_fractional() -> None:
    factor = "<accelerationFactor><kspace_encoding_step_1>2.3</kspace_encoding_step_1>{}</accelerationFactor>"
    scan = parse_header(parallel(factor.format("<kspace_encoding_step_2>3</kspace_encoding_step_2>")))
    assert (scan.mr.encodings[0].acceleration, scan.verdicts) == ((3.0, 2.3), ())
    scan = parse_header(parallel(factor.format("") + "<calibrationMode>Embedded</calibrationMode>"))
    assert (scan.mr.encodings[0].acceleration, scan.mr.encodings[0].calibration_mode) == ((1.0, 2.3), "embedded")
    scan = parse_header(parallel(factor.format("<kspace_encoding_step_2>0</kspace_encoding_step_2>")))
    assert scan.mr.encodings[0].acceleration == (1.0, 2.3)
    assert "kspace_encoding_step_2" in flags(scan)


def test_simultaneous_slices_are_flagged() -> None:
    assert "multiband" in flags(parse_header(parallel("<multiband><deltaKz>1</deltaKz></multiband>")))


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("<subjectInformation><patientWeight_kg>heavy</patientWeight_kg></subjectInformation>", "patientWeight_kg"),
        ("<subjectInformation><patientGender>X</patientGender></subjectInformation>", "patientGender"),
        ("<subjectInformation><patientBirthdate>soon</patientBirthdate></subjectInformation>", "patientBirthdate"),
        ("<studyInformation><studyTime>noon</studyTime></studyInformation>", "studyTime"),
        ("<measurementInformation><patientPosition>UP</patientPosition></measurementInformation>", "patientPosition"),
        ("<measurementInformation><seriesDate>1</seriesDate><seriesTime>2</seriesTime></measurementInformation>",
         "seriesTime"),
        ("<experimentalConditions><H1resonanceFrequency_Hz>-1</H1resonanceFrequency_Hz></experimentalConditions>",
         "H1resonanceFrequency_Hz"),
    ],
)  # fmt: skip
def test_a_broken_fact_is_left_out_with_a_flag_not_a_lost_scan(body: str, field: str) -> None:
    scan = parse_header(header(body))
    assert set(flags(scan)) == {field}
    assert worst(scan.verdicts) is Level.FLAG


def test_unknown_elements_are_counted_and_do_not_mark_the_images() -> None:
    scan = parse_header(header("<vendorThing><a/><b/></vendorThing><studyInformation><new>1</new></studyInformation>"))
    (verdict,) = scan.verdicts
    assert (verdict.level, verdict.value) == (Level.PASS, 2.0)
    assert "ismrmrdHeader/vendorThing" in verdict.evidence
    assert "studyInformation/new" in verdict.evidence


def test_repeated_parameters_are_all_kept() -> None:
    row = "<userParameterDouble><name>a</name><value>{}</value></userParameterDouble>"
    base64 = "<userParameterBase64><name>b</name><value>AAA=</value></userParameterBase64>"
    scan = parse_header(
        header(f"<userParameters>{row.format(1)}{row.format(2.5)}{row.format('x')}{base64}</userParameters>")
    )
    assert scan.user_parameters == {"a": 1.0, "a[1]": 2.5, "a[2]": "x", "b": "AAA="}


def test_several_coil_labels_become_one_name() -> None:
    label = "<coilLabel><coilNumber>1</coilNumber><coilName>{}</coilName></coilLabel>"
    body = "".join(map(label.format, ("Head_32:1:H11", "Head_32:1:H12", "Neck:N1")))
    scan = parse_header(header(f"<acquisitionSystemInformation>{body}</acquisitionSystemInformation>"))
    assert (scan.equipment.coil_name, scan.verdicts) == ("Head_32+Neck", ())


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("<x>256</x>", "<x>0</x>", r"encoding/encodedSpace/matrixSize/x: expected a number 1 ... 65535, got '0'"),
        ("<x>256</x>", "<x>65536</x>", "matrixSize/x"),
        ("<x>256</x>", "<x>12.5</x>", "matrixSize/x: expected a whole number, got '12.5'"),
        ("<x>256</x>", "<x>many</x>", "got 'many'"),
        ("<y>143.0</y>", "<y>0</y>", "fieldOfView_mm/y"),
        ("<y>143.0</y>", "<y>-3</y>", "fieldOfView_mm/y"),
        ("<y>143.0</y>", "<y>NaN</y>", "fieldOfView_mm/y"),
        ("<y>143.0</y>", "<y>INF</y>", "fieldOfView_mm/y"),
        ("<y>143.0</y>", "", "fieldOfView_mm/y: expected this element, got nothing"),
        ("<maximum>63<", "<maximum>65536<", "kspace_encoding_step_1/maximum"),
        ("<minimum>0<", "<minimum>-1<", "kspace_encoding_step_1/minimum"),
        ("<minimum>0<", "<minimum>64<", "expected minimum <= maximum, got 64 ... 63"),
        (f"<encodedSpace>{SPACE}</encodedSpace>", "", "encoding/encodedSpace: expected this element"),
        (ENCODING, "", "expected 1 ... 64 encodings, got 0"),
        (ENCODING, ENCODING * 65, "expected 1 ... 64 encodings, got 65"),
        ("<trajectory>", "<parallelImaging><accelerationFactor><kspace_encoding_step_1>-2</kspace_encoding_step_1>"
         "</accelerationFactor></parallelImaging><trajectory>", "kspace_encoding_step_1: expected a number 0 ... 1000"),
    ],
)  # fmt: skip
def test_a_number_that_geometry_hangs_on_is_right_or_an_error(old: str, new: str, match: str) -> None:
    assert old in ENCODING
    with pytest.raises(HeaderError, match=match):
        parse_header(header(encoding=ENCODING.replace(old, new)))


@pytest.mark.parametrize("value", ["-1", "nan", "x", ""])
def test_times_are_finite_and_not_negative(value: str) -> None:
    with pytest.raises(HeaderError, match="sequenceParameters/TE"):
        parse_header(header(f"<sequenceParameters><TE>{value}</TE></sequenceParameters>"))


BOMB = '<!DOCTYPE b [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><ismrmrdHeader>&b;</ismrmrdHeader>'
OUTSIDE = '<!DOCTYPE b [<!ENTITY a SYSTEM "file:///etc/passwd">]><ismrmrdHeader>&a;</ismrmrdHeader>'


@pytest.mark.parametrize(
    ("xml", "match"),
    [
        (BOMB, "XML without DTD and entities"),
        (OUTSIDE, "XML without DTD and entities"),
        ("<!DOCTYPE ismrmrdHeader><ismrmrdHeader/>", "DTDForbidden"),
        ("", "ParseError"),
        ("<a/>", "expected <ismrmrdHeader>, got <a>"),
        ("<ismrmrdHeader>", "ParseError"),
        ("<ismrmrdHeader>\ud800</ismrmrdHeader>", "UnicodeEncodeError"),
        ("<ismrmrdHeader>" + "<a>" * 100000 + "</a>" * 100000 + "</ismrmrdHeader>", "32 deep"),
        ("<ismrmrdHeader>" + "<a/>" * 200001 + "</ismrmrdHeader>", "at most 200000 elements"),
    ],
)
def test_hostile_documents_are_refused(xml: str, match: str) -> None:
    with pytest.raises(HeaderError, match=match):
        parse_header(xml)


def test_an_endless_header_is_refused() -> None:
    with pytest.raises(LimitError, match="header: expected at most 16777216 bytes"):
        parse_header("x" * ((16 << 20) + 1))


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.data())
def test_mutated_headers_are_read_or_refused(data) -> None:
    text = write_header(full_scan())
    for _ in range(data.draw(st.integers(1, 4))):
        begin = data.draw(st.integers(0, len(text) - 1))
        end = begin + data.draw(st.integers(0, 30))
        text = (
            text[:begin]
            + data.draw(st.text(max_size=10) | st.sampled_from(["<", "&", "nan", "-1", "1e999"]))
            + text[end:]
        )
        if not text:
            return
    try:
        scan = parse_header(text)
    except InputError:
        return
    assert all(n >= 1 for e in scan.mr.encodings for n in e.matrix)
