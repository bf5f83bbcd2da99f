"""`isocenter quality` on PET: the phantom in a DICOM series, and on the virtual scanner."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from acquisition.items import Image
from acquisition.sources.phantom.pet_exam import PetExam, gantry
from integration import quality_pet
from integration.cli import FAILED, OK, WRONG, run
from integration.export import series_of
from integration.protocol import Library
from tests.integration.test_dicom_pet import pet_scan
from tests.integration.test_quality import phantom as water
from tests.integration.test_quality import written as written_ct
from tests.recon.test_pet_iec import phantom


def written(folder: Path, image: Image) -> str:
    folder.mkdir()
    told = {"frame_start_s": "0", "frame_stop_s": "60", "decay_corrected_to": "start", "corrected": "DECY NORM ATTN"}
    for k, instance in enumerate(series_of(pet_scan(), "job").instances(replace(image, attributes=told))):
        (folder / f"{k}.dcm").write_bytes(instance.data)
    return str(folder)


@pytest.fixture(scope="module")
def nema(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(tmp_path_factory.mktemp("nema") / "s", phantom("shifted and turned")[0])


def test_a_series_is_measured(nema: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["quality", nema, "--background", "5000", "--json"]) == OK
    found = json.loads(capsys.readouterr().out)
    assert found["unit"] == "Bq/mL" and found["series"] == nema
    assert found["background"] == pytest.approx(5300, rel=0.01)
    assert found["background_bias_percent"] == pytest.approx(6.0, abs=1.0)
    assert found["phantom"]["centre_mm"] == pytest.approx((12, -9, 11), abs=1.5)
    assert [s["diameter_mm"] for s in found["spheres"]] == [10, 13, 17, 22, 28, 37]
    contrast = [s["contrast_percent"] for s in found["spheres"]]
    assert run(["quality", nema, "--ratio", "7", "--json"]) == OK
    other = json.loads(capsys.readouterr().out)
    assert other["background_bias_percent"] is None
    assert [s["contrast_percent"] for s in other["spheres"]] == pytest.approx(
        np.multiply(contrast, 0.5), rel=0.1, abs=1
    )


def test_people_get_a_table_and_a_picture(nema: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "nema.svg"
    assert run(["quality", nema, "--plot", str(picture)]) == OK
    lines = capsys.readouterr().out.splitlines()
    assert [line[:16].strip() for line in lines] == [
        "phantom",
        "background",
        "sphere",
        "contrast",
        "variability",
        "lung residual",
    ]
    root = ET.fromstring(picture.read_text())
    titles = [t.text for t in root.findall(".//{*}text[@class='title']")]
    assert titles == ["Contrast recovery", "Background variability", "Plane of the spheres"]
    up = [float(p.split(",")[1]) for p in root.findall(".//{*}polyline")[0].attrib["points"].split()]
    assert len(up) == 6 and up[5] < up[2] < up[0]  # larger spheres stand higher


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["NEMA", "--slices", "1:3", "--roi", "4"], WRONG, "expected options for PET, got --slices, --roi"),
        (["WATER", "--ratio", "4"], WRONG, "expected options for CT, got --ratio"),
        (["NEMA", "--cold", "12"], WRONG, "expected a ratio above 1, cold spheres of 10, 13"),
        (["NEMA", "--ratio", "0.5"], WRONG, "expected a ratio above 1"),
        (["NEMA", "--seconds", "3"], WRONG, "--seconds: expected --virtual beside it"),
        (["NEMA", "--virtual", "pet_osem"], WRONG, "not allowed with"),
        (["--virtual", "pet_osem", "--ratio", "3"], WRONG, "--ratio: expected a series that it belongs to"),
        (["--virtual", "ct_helical"], WRONG, "expected a protocol for PET (PT), got CT"),
        ([], WRONG, "is required"),
        (["NEMA", "--cold", "37,28"], FAILED, "expected the IEC body phantom"),
    ],
)
def test_what_cannot_be_measured_is_said(
    nema: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    given = [nema if a == "NEMA" else written_ct(tmp_path / "w", water()) if a == "WATER" else a for a in arguments]
    assert run(["quality", *given]) == code
    told = capsys.readouterr().err
    assert message in told and "Traceback" not in told


def test_a_protocol_is_measured_on_the_virtual_scanner() -> None:
    shipped = Library()["pet_osem"]
    protocol = shipped.model_copy(update={"steps": shipped.steps[1:]})
    voxels = {"voxel_mm": 7.0, "slice_mm": 8.0, "fov_mm": 330.0}
    changes = {f"pet.osem.{k}": v for k, v in (voxels | {"filter_mm": 8.0, "n_iterations": 3}).items()}
    exam = PetExam(pet=gantry(n_rings=8, n_crystals=160, ring_pitch_mm=16.0), duration_s=0.4, efficiency=0.9)
    image = quality_pet.virtual_image(protocol.with_changes(changes), exam)
    assert image.attributes["corrected"] == "DECY NORM ATTN RAN SCAT"
    found = quality_pet.measured(image, quality_pet.Filling(background_bq_per_ml=quality_pet.VIRTUAL_BQ_PER_ML))
    assert abs(found.bias_percent) < 8
    assert found.nema.spheres[5].contrast_percent > 40 and found.nema.lung_percent < 50
    assert np.hypot(*found.pose.centre_mm[:2]) < 6
