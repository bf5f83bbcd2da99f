"""The main line with real sockets and a real archive: virtual scanner -> service -> Orthanc -> read back over REST."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from acquisition.geometry import Grid
from acquisition.items import Image
from acquisition.sources.phantom.exam import ORIENTATIONS, MriExam
from acquisition.sources.phantom.mri import Simulation
from integration.delivery.destination import Destination
from integration.dicom.read import read_images
from integration.doors.mrd_client import Answer, MrdClient
from integration.protocol import Library
from integration.rooms import rooms
from integration.service import Plan, Service
from tests.integration.delivery_samples import until
from tests.integration.dicom_samples import validate
from tests.peers import Orthanc
from tests.phantoms import nrmse

pytestmark = pytest.mark.peer("orthanc")

LARGEST_NRMSE = {1: 0.015, 2: 0.035, 3: 0.06, 4: 0.10}
"""By acceleration, after a scalar fit, over the whole image of noise-free phantoms of about 100 x 100 pixels."""
_NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def library() -> Library:
    return Library()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, _orthanc: Orthanc, library: Library) -> Iterator[Service]:
    """The service as `isocenter serve` builds it, with Orthanc as its archive."""
    archive = Destination(name="orthanc", host="127.0.0.1", port=_orthanc.dicom_port, ae_title=_orthanc.ae_title)
    plan = Plan(
        data=tmp_path_factory.mktemp("data"), mrd_port=0, http_port=None, destinations=(archive,), reserve_bytes=0
    )
    with Service(plan, rooms(library)) as running:
        yield running


def scanned(service: Service, simulation: Simulation) -> Answer:
    with MrdClient("127.0.0.1", service.mrd_port) as client:
        answer = client.send(simulation.scan, simulation.readouts(), config="auto", speed=float("inf"))
    assert answer.troubles() == []
    return answer


def in_archive(service: Service, orthanc: Orthanc, n: int) -> list[bytes]:
    """Wait for the objects of the newest job in the archive; return them as the archive gives them."""
    job = service.console.jobs(1)[0].job
    until(lambda: len([d for d in service.console.deliveries(job) if d.sent_at]) == n, 20)
    uids = [d.sop_uid for d in service.console.deliveries(job)]
    assert len(set(uids)) == n
    kept = orthanc.instances()
    assert all(kept.count(uid) == 1 for uid in uids)
    return [orthanc.file(uid) for uid in uids]


def true_volume(simulation: Simulation) -> tuple[NDArray, Grid]:
    exam = simulation.exam
    planes = [simulation.truth(i).data for i in range(exam.matrix[0] if exam.kind == "2D" else 1)]
    return np.concatenate(planes), exam.grid


def in_place(image: Image, shape: tuple[int, ...], grid: Grid) -> NDArray:
    """Put each voxel where the prescription says that its place in the patient is; every place is met once."""
    indices = np.indices(image.data.shape).reshape(3, -1)
    world = image.grid.affine @ np.vstack([indices[::-1], np.ones(indices.shape[1])])
    xyz = np.linalg.solve(grid.affine, world)[:3]
    found = np.rint(xyz).astype(int)
    assert np.abs(xyz - found).max() < 0.02, f"off by {np.abs(xyz - found).max():.3f} voxels"
    result = np.full(shape, np.nan)
    result[found[2], found[1], found[0]] = image.data.reshape(-1)
    assert np.isfinite(result).all()
    return result


def error(image: Image, simulation: Simulation) -> float:
    """NRMSE against the object, each voxel at its place in the patient, one scale for the whole volume."""
    truth, grid = true_volume(simulation)
    pixels = in_place(image, truth.shape, grid)
    return nrmse(pixels * (pixels * truth).sum() / (pixels**2).sum(), truth)


def exam(**changes: Any) -> MriExam:
    fields: dict[str, Any] = {
        "matrix": (3, 96, 104),
        "fov_mm": (210.0, 240.0),
        "gap_mm": 1.0,
        "n_coils": 8,
        "snr": float("inf"),
        "tr_s": 0.002,
        "seed": next(_NUMBERS),
    }
    return MriExam(**(fields | changes))


@pytest.mark.parametrize("orientation", sorted(ORIENTATIONS))
def test_every_orientation_arrives_in_its_place(service: Service, _orthanc: Orthanc, orientation: str) -> None:
    simulation = Simulation(exam(orientation=orientation, acceleration=2, position_mm=(7.0, -11.0, 22.0)))
    scanned(service, simulation)
    files = in_archive(service, _orthanc, 3)
    (image,) = read_images(files)
    found = error(image, simulation)
    assert found < LARGEST_NRMSE[2], f"NRMSE {found:.4f}"
    assert np.allclose(sorted(image.grid.spacing_mm), sorted(simulation.exam.grid.spacing_mm), atol=1e-4)


@pytest.mark.peer("dciodvfy")
def test_what_the_archive_gives_back_is_conformant(service: Service, _orthanc: Orthanc, tmp_path: Path) -> None:
    scanned(service, Simulation(exam(orientation="double-oblique")))
    for file in in_archive(service, _orthanc, 3):
        assert validate(file, tmp_path) == []


@st.composite
def exams(draw: st.DrawFn) -> MriExam:
    """Any exam that the virtual scanner can run and a demonstration may meet."""
    r = draw(st.integers(1, 4))
    kind = draw(st.sampled_from(["2D", "2D", "3D"]))
    return exam(
        kind=kind,
        matrix=(8 if kind == "3D" else draw(st.integers(1, 3)), draw(st.integers(90, 113)), draw(st.integers(90, 113))),
        gap_mm=0.0 if kind == "3D" else draw(st.sampled_from([0.0, 1.5])),
        acceleration=r,
        calibration=draw(st.sampled_from(["embedded", "separate"])),
        n_coils=draw(st.sampled_from([12, 16])) if r > 2 else draw(st.sampled_from([1 if r == 1 else 6, 8])),
        orientation=draw(st.sampled_from(sorted(ORIENTATIONS))),
        position_mm=tuple(draw(st.floats(-30, 30, width=16)) for _ in range(3)),
        averages=draw(st.integers(1, 2)),
        slice_order=draw(st.sampled_from(["interleaved", "ascending"])),
    )


@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(chosen=exams())
def test_any_exam_arrives_whole_and_in_its_place(service: Service, _orthanc: Orthanc, chosen: MriExam) -> None:
    simulation = Simulation(chosen)
    answer = scanned(service, simulation)
    n = chosen.matrix[0]
    (image,) = read_images(in_archive(service, _orthanc, n))
    found = error(image, simulation)
    assert found < LARGEST_NRMSE[chosen.acceleration] * (1.5 if chosen.kind == "3D" else 1), f"NRMSE {found:.4f}"
    assert {i.output for i in answer.images} == {"conventional"}


def test_two_echoes_and_two_repetitions_are_frames_of_one_series(service: Service, _orthanc: Orthanc) -> None:
    simulation = Simulation(exam(te_s=(0.0034, 0.0068), repetitions=2, matrix=(2, 64, 64), fov_mm=(220.0, 220.0)))
    scanned(service, simulation)
    images = read_images(in_archive(service, _orthanc, 8))
    assert len(images) == 4
    truth = {c: np.concatenate([simulation.truth(i, c).data for i in range(2)]) for c in (0, 1)}
    errors = []
    for image in images:
        pixels = in_place(image, truth[0].shape, simulation.exam.grid)
        errors.append([nrmse(pixels * (pixels * t).sum() / (pixels**2).sum(), t) for t in truth.values()])
    best = np.argmin(errors, axis=1)
    assert sorted(best.tolist()) == [0, 0, 1, 1]


def test_scans_of_one_patient_share_study_and_frame_of_reference(service: Service, _orthanc: Orthanc) -> None:
    first = Simulation(exam(study_id="77", matrix=(1, 64, 64), fov_mm=(220.0, 220.0)))
    found = []
    for simulation in (first, Simulation(replace(first.exam, series_number=2, orientation="sagittal"))):
        scanned(service, simulation)
        found.append(pydicom.dcmread(BytesIO(in_archive(service, _orthanc, 1)[0])))
    a, b = found
    assert a.StudyInstanceUID == b.StudyInstanceUID
    assert a.FrameOfReferenceUID == b.FrameOfReferenceUID
    assert a.SeriesInstanceUID != b.SeriesInstanceUID
    assert a.PatientID == b.PatientID == "PHANTOM-0001"


def test_the_archive_shows_one_patient(_orthanc: Orthanc, service: Service) -> None:
    scanned(service, Simulation(exam(matrix=(1, 64, 64), fov_mm=(220.0, 220.0))))
    in_archive(service, _orthanc, 1)
    assert {i["MainDicomTags"]["PatientID"] for i in _orthanc.get("/patients?expand")} == {"PHANTOM-0001"}
