"""DICOM into a folder or the spool; the volume for NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from acquisition.errors import ConfigError, DataError
from acquisition.items import Image, Kind, Position
from integration.delivery.destination import Destination
from integration.delivery.journal import Journal
from integration.delivery.rows import Job
from integration.delivery.spool import Spool
from integration.dicom.enhanced_ct import ENHANCED_CT_STORAGE
from integration.dicom.read import read_image
from integration.export import FolderExporter, SpoolExporter
from integration.protocol import Library
from integration.runner import Run
from integration.volume import Volumes
from tests.integration.dicom_ct_samples import ct_image, ct_scan
from tests.integration.dicom_samples import validate
from tests.phantoms import small_simulation

SIMULATION = small_simulation()


@pytest.fixture(scope="module")
def images() -> list[Image]:
    run = Run(SIMULATION.scan, Library()["mri_cartesian"])
    run.open()
    return [image for block in SIMULATION.readouts() for image in run.feed(block)]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal.sqlite") as opened:
        yield opened


def test_one_file_per_slice_and_the_same_job_writes_the_same_files(tmp_path: Path, images: list[Image]) -> None:
    first = [FolderExporter(tmp_path, SIMULATION.scan, job="j").send(image) for image in images]
    paths = sorted(tmp_path.rglob("*.dcm"))
    assert sorted(p for r in first for p in r.paths) == paths
    assert len(paths) == 3
    again = FolderExporter(tmp_path, SIMULATION.scan, job="j")
    assert [again.send(image).sop_uids for image in images] == [r.sop_uids for r in first]
    assert sorted(tmp_path.rglob("*.dcm")) == paths
    other = FolderExporter(tmp_path / "o", SIMULATION.scan, job="k").send(images[0])
    assert not set(other.sop_uids) & {u for r in first for u in r.sop_uids}


def test_files_of_others_stay(tmp_path: Path, images: list[Image]) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    FolderExporter(tmp_path, SIMULATION.scan, job="j").send(images[0])
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_each_output_has_its_folder_even_under_one_name(tmp_path: Path, images: list[Image]) -> None:
    exporter = FolderExporter(tmp_path, SIMULATION.scan, job="j")
    for output in ("conventional", "a/b", "a:b"):
        exporter.send(replace(images[0], output=output))
    folders = [p.parent for p in tmp_path.rglob("*.dcm")]
    assert len(folders) == len(set(folders)) == 3
    assert all(p.parent == tmp_path for p in folders)


@pytest.mark.peer("dciodvfy")
def test_files_are_conformant_and_read_back_the_same(tmp_path: Path, images: list[Image]) -> None:
    exporter = FolderExporter(tmp_path, SIMULATION.scan, job="j")
    paths = [path for image in images for path in exporter.send(image).paths]
    assert [validate(path, tmp_path) for path in paths] == [[], [], []]
    back = read_image(paths)
    assert back.data.shape == (3, 64, 64)


def test_a_modality_without_dicom_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected modality CT or MR or PT, got XX"):
        FolderExporter(tmp_path, replace(SIMULATION.scan, modality="XX"), job="j")


def test_the_spool_and_the_journal_know_each_image(tmp_path: Path, journal: Journal, images: list[Image]) -> None:
    spool = Spool(tmp_path / "spool", reserve_bytes=0)
    journal.open_job(Job(job="j", scan_uid="s", modality="MR", protocol="p"))
    exporter = SpoolExporter(
        spool, journal, destinations=[archive("pacs"), archive("ws")], scan=SIMULATION.scan, job="j"
    )
    receipts = [exporter.send(image) for image in images]
    queued = {(d.sop_uid, d.destination) for d in journal.deliveries("j")}
    assert queued == {(u, d) for r in receipts for u in r.sop_uids for d in ("pacs", "ws")}
    assert all(p.exists() for r in receipts for p in r.paths)


def archive(name: str, **changes: str) -> Destination:
    return Destination.model_validate({"name": name, "host": "127.0.0.1", "port": 104, "ae_title": "X"} | changes)


def test_an_archive_that_takes_enhanced_ct_gets_one_object_when_the_scan_is_over(
    tmp_path: Path, journal: Journal
) -> None:
    spool = Spool(tmp_path / "spool", reserve_bytes=0)
    journal.open_job(Job(job="j", scan_uid="s", modality="CT", protocol="p"))
    archives = [archive("pacs"), archive("research", ct_objects="enhanced")]
    exporter = SpoolExporter(spool, journal, destinations=archives, scan=ct_scan(), job="j")
    whole = ct_image()
    for z in range(whole.grid.shape[0]):
        exporter.send(slice_of(whole, z))
    assert {d.destination for d in journal.deliveries("j")} == {"pacs"}
    exporter.finish()
    exporter.finish()
    sent = [(d.destination, journal.instance(d.sop_uid)) for d in journal.deliveries("j")]
    assert [row.sop_class for name, row in sent if name == "research" and row] == [ENHANCED_CT_STORAGE]
    assert len([name for name, _ in sent if name == "pacs"]) == whole.grid.shape[0]


def test_slices_that_are_no_volume_go_one_by_one_to_everyone(tmp_path: Path, journal: Journal) -> None:
    spool = Spool(tmp_path / "spool", reserve_bytes=0)
    journal.open_job(Job(job="j", scan_uid="s", modality="CT", protocol="p"))
    archives = [archive("research", ct_objects="enhanced")]
    exporter = SpoolExporter(spool, journal, destinations=archives, scan=ct_scan(), job="j")
    whole = ct_image()
    for z in (0, 1, 3):
        exporter.send(slice_of(whole, z))
    assert not journal.deliveries("j")
    exporter.finish()
    assert [d.destination for d in journal.deliveries("j")] == ["research"] * 3


def slice_of(whole: Image, z: int) -> Image:
    origin = np.array(whole.grid.origin_mm) + z * whole.grid.spacing_mm[0] * np.array(whole.grid.z_dir)
    x, y, along = origin.tolist()
    grid = replace(whole.grid, shape=(1, *whole.grid.shape[1:]), origin_mm=(x, y, along))
    return replace(whole, data=whole.data[z : z + 1], grid=grid, position=Position(slice=z))


# The volume


def volume(tmp_path: Path, *images: Image) -> tuple[np.ndarray, dict[str, object]]:
    volumes = Volumes()
    for image in images:
        volumes.add(image)
    report = volumes.write(tmp_path / "v.npy")
    return np.load(tmp_path / "v.npy"), report


def test_slices_are_stacked_in_order(tmp_path: Path, images: list[Image]) -> None:
    array, report = volume(tmp_path, *reversed(images))
    assert array.dtype == np.float32
    assert array.shape == (3, 64, 64)
    for image in images:
        assert np.array_equal(array[image.position.slice], image.data[0])
    assert report["slices"] == [0, 1, 2]


def test_frames_come_first(tmp_path: Path, images: list[Image]) -> None:
    second = [replace(i, position=replace(i.position, repetition=1), data=2 * i.data) for i in images]
    array, report = volume(tmp_path, *images, *second)
    assert array.shape == (2, 3, 64, 64)
    assert np.array_equal(array[1], 2 * array[0])
    assert [f["repetition"] for f in report["frames"]] == [0, 1]  # type: ignore[index, union-attr]


def test_the_conventional_output_goes_first_and_complex_becomes_magnitude(tmp_path: Path, images: list[Image]) -> None:
    other = replace(images[0], output="aaa")
    complex_ = replace(images[0], data=images[0].data * 1j, kind=Kind.COMPLEX)
    array, report = volume(tmp_path, other, complex_)
    assert report["output"] == "conventional"
    assert np.allclose(array, np.abs(images[0].data))
    assert volume(tmp_path, other)[1]["output"] == "aaa"


def test_a_frame_that_lacks_a_slice_is_an_error(tmp_path: Path, images: list[Image]) -> None:
    extra = replace(images[0], position=Position(slice=0, repetition=1))
    with pytest.raises(DataError, match="the same slices of one size in every frame"):
        volume(tmp_path, *images, extra)
    with pytest.raises(DataError, match="one size"):
        volume(tmp_path, images[0], replace(images[1], data=images[1].data[..., :10]))
