"""PET objects: valid by dciodvfy, activity and places come back, every slice its slope, SUV from the header."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset

from acquisition.errors import DataError, HeaderError, ReconError
from acquisition.items import Image, Kind, Position, Provenance
from acquisition.scan import PetHeader, Scan, Tracer
from acquisition.verdict import Level
from integration.dicom.pet import PET_IMAGE_STORAGE, PetSeries
from integration.dicom.read import read_image
from integration.dicom.suv import suv_factor
from integration.export import series_of
from tests.integration.dicom_samples import FLAG, NOW, assert_valid, full_scan, grid_of, parsed, rebuilt, validate

KIND = "PETImage"
STARTED = datetime(2026, 3, 4, 0, 30)
TRACER = Tracer(
    nuclide="^18^Fluorine",
    half_life_s=6586.2,
    branching=0.9673,
    name="FDG",
    dose_bq=3.1e8,
    injected=STARTED - timedelta(seconds=6586.2),
)


def pet_scan(tracer: Tracer | None = TRACER, **changes: Any) -> Scan:
    pet = PetHeader(
        n_rings=16,
        n_crystals=240,
        radius_mm=340.0,
        ring_pitch_mm=8.0,
        tracer=tracer,
        calibration_bq_per_cps=3.3e6,
    )
    return replace(full_scan(modality="PT", mr=None, pet=pet), started=STARTED, **changes)


def bare_pet_scan() -> Scan:
    return Scan(uid="scan-1", modality="PT", pet=PetHeader(n_rings=2, n_crystals=9, radius_mm=90.0, ring_pitch_mm=4.0))


def pet_image(**changes: Any) -> Image:
    grid = changes.pop("grid", None) or grid_of()
    rng = np.random.default_rng(2)
    data = rng.gamma(2.0, 3000.0, grid.shape).astype(np.float32) * np.array([1, 10, 0.01, 0])[:, None, None]
    attributes = {
        "frame_start_s": "120",
        "frame_stop_s": "720",
        "decay_corrected_to": "start",
        "corrected": "DECY NORM ATTN RAN SCAT",
        "method": "pet.osem",
    }
    told = attributes | changes.pop("attributes", {})
    image = Image(data=data.astype(np.float32), grid=grid, unit="Bq/mL", provenance=Provenance(protocol="pet_osem"))
    return replace(image, attributes=told, **changes)


def writer(scan: Scan | None = None) -> PetSeries:
    return PetSeries(scan or pet_scan(), "job-1", clock=lambda: NOW, station="recon-1")


@pytest.mark.peer("dciodvfy")
@pytest.mark.parametrize("orientation", ["axial", "coronal"])
@pytest.mark.parametrize("scan", [pet_scan(), bare_pet_scan(), pet_scan(None)], ids=["full", "bare", "no tracer"])
def test_every_plane_is_valid(orientation: str, scan: Scan, tmp_path: Path) -> None:
    assert_valid(writer(scan).instances(pet_image(grid=grid_of(orientation))), tmp_path, KIND)


@pytest.mark.peer("dciodvfy")
def test_every_image_is_valid(tmp_path: Path) -> None:
    series = writer()
    images = [
        pet_image(output="preview", unit="a.u.", verdicts=(FLAG,), attributes={"corrected": ""}),
        pet_image(output="frames", position=Position(repetition=3), attributes={"n_frames": "5"}),
        pet_image(output="adm", attributes={"decay_corrected_to": "injection"}),
        pet_image(output="negative", data=-pet_image().data),
        pet_image(output="dim", unit="a.u.", data=1e-8 * pet_image().data),
        pet_image(output="gate", position=Position(phase=1)),
    ]
    for image in images:
        assert_valid(series.instances(image), tmp_path, KIND)
    broken = series.instances(pet_image())[0].data.replace(b"MONOCHROME2 ", b"MONOCHROME9 ")
    assert any("PhotometricInterpretation" in error for error in validate(broken, tmp_path, KIND))


def test_a_preview_does_not_look_like_the_final_series() -> None:
    series = writer()
    told = {"frame_start_s": "0", "quantitative": "no", "corrected": "", "decay_corrected_to": "none", "method": ""}
    preview = pet_image(output="preview", unit="a.u.", verdicts=(FLAG,), attributes=told)
    early, final = (parsed(series.instances(image)[0]) for image in (preview, pet_image()))
    assert early.SeriesInstanceUID != final.SeriesInstanceUID and early.SeriesNumber != final.SeriesNumber
    assert early.SeriesDescription == f"{final.SeriesDescription} preview not quantitative"
    assert (early.ImageType, final.ImageType) == (["ORIGINAL", "PRIMARY", "PREVIEW"], ["ORIGINAL", "PRIMARY"])
    assert (early.Units, final.Units, early.DecayCorrection) == ("NONE", "BQML", "NONE")
    assert not early.CorrectedImage and "DecayFactor" not in early
    assert FLAG.advice in early.ImageComments and FLAG.advice not in final.ImageComments
    with pytest.raises(HeaderError, match="this is no quantitative PET"):
        suv_factor(flat(early))


def test_activity_and_places_come_back_and_every_slice_has_its_slope() -> None:
    image = pet_image()
    instances = series_of(pet_scan(), "job-1").instances(image)
    slopes = [float(parsed(i).RescaleSlope) for i in instances]
    assert len(set(slopes)) == 4 and slopes[1] > 5 * slopes[0] > 100 * slopes[2]
    back = read_image([i.data for i in instances[::-1]])
    for z in range(4):
        np.testing.assert_allclose(back.data[z], image.data[z], atol=0.51 * slopes[z], rtol=1e-7)
    assert back.unit == "Bq/mL" and rebuilt(instances[0].data) == instances[0].data
    np.testing.assert_allclose(back.grid.affine, image.grid.affine, atol=1e-6)
    assert [i.index for i in instances] == [1, 2, 3, 4]
    assert len({i.sop_instance_uid for i in instances}) == 4


def test_what_the_scan_was() -> None:
    ds = parsed(writer().instances(pet_image())[2])
    expected = {
        "SOPClassUID": PET_IMAGE_STORAGE,
        "Modality": "PT",
        "Units": "BQML",
        "CountsSource": "EMISSION",
        "SeriesType": ["STATIC", "IMAGE"],
        "CorrectedImage": ["DECY", "NORM", "ATTN", "RAN", "SCAT"],
        "DecayCorrection": "START",
        "SeriesDate": "20260304",
        "AcquisitionTime": "003200.000000",
        "ActualFrameDuration": 600000,
        "NumberOfSlices": 4,
        "ImageIndex": 3,
        "RescaleIntercept": 0,
        "DoseCalibrationFactor": 3.3e6,
        "RandomsCorrectionMethod": "DLYD",
        "ReconstructionMethod": "pet.osem",
    }
    assert {name: ds[name].value for name in expected} == expected
    factor = 600 * np.log(2) / 6586.2 / (2 ** (-120 / 6586.2) - 2 ** (-720 / 6586.2))
    assert float(ds.DecayFactor) == pytest.approx(factor)
    assert float(ds.FrameReferenceTime) == pytest.approx(418e3, rel=0.01)
    assert 2 ** (float(ds.FrameReferenceTime) / 6586.2e3) == pytest.approx(factor)
    item = ds.RadiopharmaceuticalInformationSequence[0]
    assert (item.RadionuclideTotalDose, item.RadiopharmaceuticalStartDateTime) == (3.1e8, "20260303224013.800000")
    assert item.RadionuclideCodeSequence[0].CodeValue == "C-111A1"
    assert ds.PatientGantryRelationshipCodeSequence[0].CodeMeaning == "headfirst"


@pytest.mark.parametrize("decay_to", ["start", "injection"])
def test_suv_from_the_header_that_we_write(decay_to: str) -> None:
    """Injected before midnight, one half-life before the scan."""
    header = flat(parsed(writer().instances(pet_image(attributes={"decay_corrected_to": decay_to}))[0]))
    left = 0.5 if decay_to == "start" else 1.0
    assert suv_factor(header).factor == pytest.approx(61.5e3 / (3.1e8 * left), rel=1e-6)


def test_no_suv_from_what_is_not_quantitative() -> None:
    for scan, changes, message in [
        (pet_scan(), {"unit": "a.u."}, "Units"),
        (pet_scan(), {"attributes": {"corrected": "DECY"}}, "CorrectedImage"),
        (pet_scan(None), {}, "RadionuclideTotalDose|HalfLife"),
        (pet_scan(replace(TRACER, injected=None)), {}, "RadiopharmaceuticalStartTime"),
        (replace(pet_scan(), started=None), {}, "RadiopharmaceuticalStartTime"),
    ]:
        instance = writer(scan).instances(pet_image(**changes))[0]
        with pytest.raises(HeaderError, match=message):
            suv_factor(flat(parsed(instance)))
    assert [(v.check, v.level) for v in instance.verdicts] == [("dicom.pet_time", Level.FLAG)]


def flat(ds: Dataset) -> dict[str, Any]:
    header = {e.keyword: e.value for e in ds if e.VR != "SQ"}
    items = ds.RadiopharmaceuticalInformationSequence
    return header | {e.keyword: e.value for item in items for e in item if e.VR != "SQ"}


def test_frames_share_a_series_and_are_numbered() -> None:
    series = writer()
    made = [
        series.instances(pet_image(position=Position(repetition=r), attributes={"n_frames": "3"})) for r in range(3)
    ]
    assert len({i.series_uid for frame in made for i in frame}) == 1
    ds = [parsed(frame[1]) for frame in made]
    assert [d.ImageIndex for d in ds] == [2, 6, 10]
    assert ds[0].SeriesType == ["DYNAMIC", "IMAGE"] and ds[0].NumberOfTimeSlices == 3
    assert len({d.InstanceNumber for d in ds}) == 3


def test_what_is_no_activity_is_refused() -> None:
    with pytest.raises(DataError, match="expected real values of activity"):
        writer().instances(pet_image(kind=Kind.PHASE))
    with pytest.raises(DataError, match="expected 4 slices, as the grid has, got 3"):
        writer().instances(pet_image(data=np.ones((3, 6, 8))))
    with pytest.raises(ReconError, match="expected finite voxels"):
        writer().instances(pet_image(data=np.full((4, 6, 8), np.nan)))
    with pytest.raises(HeaderError, match="expected a PET scan, got modality MR"):
        PetSeries(full_scan(), "job")
