"""``isocenter check``: raw data, DICOM and NIfTI, judged and held against a reference; codes, JSON, and wrong input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from acquisition.items import Image
from acquisition.sources.mrd_file import write
from acquisition.sources.phantom.ct import gantry
from acquisition.sources.phantom.ct_objects import chest
from acquisition.verdict import Level
from integration.checker import IMAGE_CHECKS, with_image_checks
from integration.cli import FAILED, OK, WRONG, run
from integration.commands.check import CODES
from integration.export import FolderExporter
from integration.protocol import Library
from tests.acquisition.test_interfile import sinogram_file
from tests.acquisition.test_nifti import nifti
from tests.ct_pd_writer import pd_of
from tests.ct_pd_writer import write as write_views
from tests.integration.dicom_ct_samples import ct_scan
from tests.integration.dicom_samples import full_scan
from tests.integration.test_dicom_pet import pet_scan
from tests.integration.wiring_samples import raw_file
from tests.phantoms import small_simulation
from tests.recon.quality_samples import grid, head_slice, interfered, noisy

FLAG, HOLD = CODES[Level.FLAG], CODES[Level.HOLD]
AFFINE = np.diag([2.0, 2.0, 4.0, 1.0])[:3]


def checked(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict]:
    code = run(["check", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def levels(report: dict, series: int = 0) -> dict[str, str]:
    return {v["check"]: v["level"] for v in report["series"][series]["verdicts"]}


def images(folder: Path, slices: list[np.ndarray], scan: object = None, **changes: object) -> Path:
    data = np.stack(slices).astype(np.float32)
    image = replace(Image(data=data, grid=grid(data.shape)), **changes)  # type: ignore[arg-type]
    folder.parent.mkdir(parents=True, exist_ok=True)
    FolderExporter(folder, scan or full_scan(), job=folder.name).send(image)  # type: ignore[arg-type]
    return folder


# Raw data


def test_raw_data_are_judged_and_nothing_is_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = raw_file(tmp_path / "raw.h5", snr=40.0, n_noise=16)
    code, report = checked(capsys, raw)
    said = levels(report)
    assert report["series"][0]["protocol"] == "mri_cartesian"
    assert {"mri.noise", "check.image", "quality.snr", "quality.ghost", "check.centre", "check.plausible"} <= set(said)
    assert (code, report["decision"]) == (OK, "PASS"), said
    assert list(tmp_path.iterdir()) == [raw]


def test_a_scan_of_nothing_but_noise_is_held(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = checked(capsys, raw_file(tmp_path / "raw.h5", snr=0.5, n_noise=16))
    assert (code, report["decision"]) == (HOLD, "HOLD")
    assert levels(report)["quality.snr"] == "HOLD"
    assert "A person decides" in report["series"][0]["decision"]["text"]


def test_views_of_ct_are_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ct = gantry(views_per_rotation=192, n_channels=160, pitch_mm=(4.4, 6.0), centre=(3.5, 79.75), n_rows=8)
    scan = pd_of(ct, n_views=400, z0=-20.0, feed=16.0, extra={"BodyPartExamined": "CHEST", "KVP": "120"})
    write_views(tmp_path, scan, scan.lines(chest()))
    code, report = checked(capsys, tmp_path, "-p", "ct_helical", "--set", "ct.helical.matrix=96")
    said = levels(report)
    assert {"check.ct_centre", "check.ct_motion", "check.centre", "check.plausible"} <= set(said)
    assert code in (OK, FLAG)
    facts = report["series"][0]["facts"]
    assert (facts["kvp"], facts["kernel"]) == (120.0, "STANDARD")


def test_a_sinogram_of_pet_is_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coarse = ["--set", "pet.osem.voxel_mm=20", "--set", "pet.osem.slice_mm=5"]
    code, report = checked(capsys, sinogram_file(tmp_path), "-p", "pet_osem", *coarse)
    assert code in (OK, FLAG, HOLD)
    assert report["series"][0]["modality"] == "PT"
    assert "check.image" in levels(report)


def test_a_protocol_gets_only_the_checks_that_it_lacks() -> None:
    for protocol in Library():
        more = with_image_checks(protocol)
        names = [name for name, _ in more.steps]
        assert set(IMAGE_CHECKS[protocol.modality]) <= set(names)
        assert with_image_checks(more).steps == more.steps


# Images


def test_a_clean_series_passes_and_a_spoilt_one_is_flagged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clean = [noisy(head_slice(), 30, s) for s in range(5)]
    code, report = checked(capsys, images(tmp_path / "clean", clean))
    assert (code, report["decision"]) == (OK, "PASS"), levels(report)
    spoilt = [*clean[:3], noisy(interfered(head_slice(), 0.003)), clean[4]]
    code, report = checked(capsys, images(tmp_path / "spoilt", spoilt))
    assert (code, levels(report)["quality.zipper"]) == (FLAG, "FLAG")
    assert "quality.zipper" in report["series"][0]["decision"]["checks"]


def test_one_file_and_people_get_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images(tmp_path, [noisy(head_slice(), 1.8)])
    (path,) = tmp_path.rglob("*.dcm")
    assert run(["check", str(path)]) == HOLD
    told = capsys.readouterr().out
    assert told.startswith("HOLD")
    assert "check that the right coil is plugged in" in told
    assert "quality.sharpness" in told


def test_series_of_a_folder_are_told_apart_and_other_files_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images(tmp_path / "mr", [noisy(head_slice(), 30, s) for s in range(3)])
    body = (np.hypot(*np.mgrid[-64:64, -64:64]) < 50) * 1040.0 - 1000.0
    noise = np.random.default_rng(0).standard_normal((3, 128, 128))
    images(tmp_path / "ct", list(body + 10 * noise), ct_scan(), unit="HU")
    images(tmp_path / "pt", list((body > 0) * 4000 * (1 + 0.6 * noise)), pet_scan(), unit="Bq/mL", attributes=PET)
    (tmp_path / "notes.txt").write_text("hello")
    code, report = checked(capsys, tmp_path)
    found = {s["modality"]: i for i, s in enumerate(report["series"])}
    assert set(found) == {"MR", "CT", "PT"}
    assert levels(report, found["MR"])["quality.snr"] == "PASS"
    assert levels(report, found["CT"])["quality.noise"] == "PASS"
    assert levels(report, found["PT"])["quality.noise"] == "FLAG"
    assert (code, report["decision"]) == (FLAG, "FLAG")


PET = {"frame_start_s": "120", "frame_stop_s": "720", "decay_corrected_to": "start", "corrected": "DECY ATTN"}


def test_nifti_says_no_modality(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mr = nifti(tmp_path / "mr.nii", np.stack([noisy(head_slice(), 30)] * 3).astype("f4"), AFFINE)
    body = (np.hypot(*np.mgrid[-48:48, -48:48]) < 40) * 1040.0 - 1000.0
    ct = nifti(tmp_path / "ct.nii.gz", np.stack([body] * 3).astype("f4"), AFFINE)
    assert checked(capsys, mr)[1]["series"][0]["modality"] == "MR"
    assert checked(capsys, ct)[1]["series"][0]["modality"] == "CT"
    assert checked(capsys, mr, "--modality", "PT")[1]["series"][0]["modality"] == "PT"


# Reference protocols


def test_a_reference_made_of_one_exam_finds_what_the_next_does_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slices = [noisy(head_slice(), 30, s) for s in range(5)]
    reference = tmp_path / "reference.yaml"
    good = images(tmp_path / "good", slices)
    assert checked(capsys, good, "--make-reference", reference)[0] == OK
    assert "te_ms" in reference.read_text()
    code, report = checked(capsys, good, "--protocol-reference", reference)
    assert (code, levels(report)["check.protocol"]) == (OK, "PASS")
    fewer = images(tmp_path / "fewer", slices[:3])
    for path in fewer.rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.FlipAngle = 60
        dataset.save_as(path)
    code, report = checked(capsys, fewer, "--protocol-reference", reference)
    assert code == FLAG
    flagged = {name for name, level in levels(report).items() if level != "PASS"}
    assert flagged == {"protocol.flip_deg", "protocol.coverage_mm"}


def test_raw_data_are_held_against_a_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference, raw = tmp_path / "reference.yaml", raw_file(tmp_path / "raw.h5", snr=40.0, n_noise=16)
    assert checked(capsys, raw, "--make-reference", reference)[0] == OK
    assert levels(checked(capsys, raw, "--protocol-reference", reference)[1])["check.protocol"] == "PASS"
    thin = raw_file(tmp_path / "thin.h5", snr=40.0, n_noise=16, tr_s=0.004)
    code, report = checked(capsys, thin, "--protocol-reference", reference)
    assert (code, levels(report)["protocol.tr_ms"]) == (FLAG, "FLAG")


@pytest.mark.parametrize(("make", "expected"), [(ct_scan, "kvp"), (pet_scan, "dose_mbq")])
def test_references_are_made_of_ct_and_pet_too(
    make: object, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unit = "HU" if make is ct_scan else "Bq/mL"
    body = (np.hypot(*np.mgrid[-32:32, -32:32]) < 25) * 1040.0
    folder = images(tmp_path / "e", [body] * 3, make(), unit=unit, attributes=PET)  # type: ignore[operator]
    checked(capsys, folder, "--make-reference", tmp_path / "r.yaml")
    assert expected in (tmp_path / "r.yaml").read_text()
    assert levels(checked(capsys, folder, "--protocol-reference", tmp_path / "r.yaml")[1])["check.protocol"] == "PASS"


# Wrong input


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["absent"], WRONG, "there is none"),
        (["EMPTY"], FAILED, "got 0 files"),
        (["TEXT"], FAILED, "unknown first bytes"),
        (["CUT"], FAILED, "none of them such an image"),
        (["RAW", "-p", "mri_cartesain"], WRONG, "did you mean mri_cartesian?"),
        (["RAW", "--protocol-reference", "TEXT"], WRONG, "reference"),
        (["RAW", "--protocol-reference", "CTREF"], WRONG, "expected one for MR, got CT"),
        (["BOTH", "--make-reference", "NEW"], WRONG, "expected one series, got 2"),
        (["RAW", "--modality", "US"], WRONG, "invalid choice"),
    ],
)
def test_what_is_wrong_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no data at all")
    (tmp_path / "cut.dcm").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "ct.yaml").write_text("name: a\nmodality: CT\nexpected: {kvp: 120}\n")
    simulation = small_simulation()
    write(tmp_path / "raw.h5", simulation.scan, items=simulation.readouts())
    if "BOTH" in arguments:
        images(tmp_path / "both" / "one", [head_slice()])
        FolderExporter(tmp_path / "both" / "other", full_scan(uid="other"), job="k").send(
            Image(data=head_slice()[None].astype(np.float32), grid=grid((1, 128, 128)))
        )
    places = {
        "EMPTY": "empty",
        "TEXT": "text",
        "CUT": "cut.dcm",
        "RAW": "raw.h5",
        "CTREF": "ct.yaml",
        "BOTH": "both",
        "NEW": "new",
    }
    assert run(["check", *(str(tmp_path / places[a]) if a in places else a for a in arguments)]) == code
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told


def test_the_help_tells_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "--help"]) == OK
    told = " ".join(capsys.readouterr().out.split())
    assert "Exit codes: 0 PASS; 3 FLAG; 4 HOLD; 1 it could not be checked; 2 wrongly asked for" in told
