"""Virtual scanners at the raw stream: the images are those without it; the client of the README; recordings."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from acquisition.items import VIEW_HEAD, Events, Image, Projections
from acquisition.sources import open_raw
from acquisition.sources.mrd_wire import ConfigFile
from acquisition.sources.petsird_write import write_petsird
from integration import demo_feed
from integration.delivery.states import JobState
from integration.demo import House, delivered
from integration.demo_feed import Console, Gantry, Measured, serving
from integration.dicom.archive import Archive, Folder
from integration.doors.stream.client import StreamClient
from integration.doors.stream.messages import Opened, Progress
from integration.house import new_job
from integration.protocol import Library
from integration.rooms import rooms
from integration.service import Service
from tests.integration.delivery_samples import settled
from tests.integration.doors_samples import plan
from tests.integration.stream_samples import CONFIGS, Wire, ct, directly, pet, said, shm_rings

README = Path(__file__).resolve().parents[2] / "integration/doors/stream/README.md"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(plan(tmp_path_factory.mktemp("service"), stream_port=0), rooms(Library())) as running:
        yield running


def through(service: Service, scan: Any, items: Any, **options: Any) -> Any:
    with StreamClient(f"tcp://127.0.0.1:{service.stream_port}", **options) as client:
        answers = client.send(said(scan, items))
    assert answers.end is not None and answers.end.state == "COMPLETE", answers.end
    return answers


def assert_images(found: list[Image], wanted: list[Image]) -> None:
    assert len(found) == len(wanted) > 0
    for one, other in zip(found, wanted, strict=True):
        assert one.data.tobytes() == other.data.tobytes() and one.data.dtype == other.data.dtype
        assert (one.grid, one.unit, one.output, one.position) == (other.grid, other.unit, other.output, other.position)
        assert (one.provenance.protocol, one.provenance.steps) == (other.provenance.protocol, other.provenance.steps)
        assert {v.check for v in one.verdicts} == {v.check for v in other.verdicts}


@pytest.mark.parametrize("sample", [ct, pet])
@pytest.mark.parametrize("ring_bytes", [0, 1 << 22])
def test_the_images_are_those_without_the_stream(service: Service, sample: Any, ring_bytes: int) -> None:
    scan, items = sample()
    answers = through(service, scan, items, ring_bytes=ring_bytes)
    assert_images(answers.images, directly(scan, items))
    assert {i.unit for i in answers.images} <= {"HU", "Bq/mL", "a.u."}
    assert not [name for name in shm_rings() if name in str(answers)]


def test_a_pet_file_through_the_stream_gives_the_images_of_the_file(service: Service, tmp_path: Path) -> None:
    scan, items = pet()
    path = tmp_path / "exam.petsird"
    write_petsird(path, scan, items=[replace(i, singles=None) for i in items if isinstance(i, Events)])
    raw = open_raw(path)
    answers = through(service, raw.scan, list(open_raw(path).items()))
    assert_images(answers.images, directly(raw.scan, list(raw.items())))


def test_the_client_in_the_readme_is_short_and_works(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    code, header = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(code.splitlines()) <= 66 and "integration" not in code
    names: dict[str, Any] = {}
    exec(code + header, names)
    images: list[np.ndarray] = []
    stream = names["Stream"](
        f"tcp://127.0.0.1:{service.stream_port}",
        names["SCAN"],
        protocol="ct_axial",
        on_image=lambda pixels, about: images.append(pixels),
    )
    index, counts = _readme_views()
    for start in range(0, len(index), 16):
        stream.views(index[start : start + 16], counts[start : start + 16])
    end = stream.close()
    direct = _readme_images(names["SCAN"], index, counts)
    assert end["state"] == "COMPLETE", (end, capsys.readouterr().out)
    assert len(images) == len(direct) > 0
    for one, other in zip(images, direct, strict=True):
        assert one.tobytes() == other.data.tobytes()


def _readme_views() -> tuple[np.ndarray, np.ndarray]:
    """Dark and air, then one turn around a disc that is not in the middle."""
    index = np.zeros(112, [("flags", "<u4"), ("view", "<u4"), ("time_s", "<f8"), ("angle_rad", "<f8"), ("z_mm", "<f8")])
    index["view"] = np.arange(112)
    index["flags"][:8], index["flags"][8:16] = 1, 2
    index["angle_rad"] = 2 * np.pi * (index["view"] - 16.0) / 96
    index["time_s"] = 0.5 * index["view"] / 96
    counts = np.full((112, 4, 92), 30_000, "<u2")
    counts[:8] = 100
    counts[16:, :, 40:50] = 12_000
    return index, counts


def _readme_images(header: dict[str, Any], index: np.ndarray, counts: np.ndarray) -> list[Image]:
    from acquisition.scan import Scan
    from integration.doors.stream.plain import from_plain
    from integration.runner import Run

    scan = from_plain(Scan, header, lambda *_: b"", "scan")
    work = Run(scan, Library()["ct_axial"])
    work.open()
    head = np.zeros(len(index), VIEW_HEAD)
    for name in index.dtype.names or ():
        head[name] = index[name]
    found: list[Image] = []
    for start in range(0, len(index), 16):
        block = slice(start, start + 16)
        found += work.feed(Projections(head=head[block], data=counts[block].astype(np.float32)))
    return [*found, *work.close()]


@pytest.mark.parametrize("ring_bytes", [0, 1 << 22])
def test_a_recording_of_the_stream_is_played_again(service: Service, tmp_path: Path, ring_bytes: int) -> None:
    """What a killed service leaves is reconstructed by the next one, with the same UIDs."""
    scan, items = ct()
    answers = through(service, scan, items, ring_bytes=ring_bytes)
    source = service.recorder.path(answers.job)
    assert source.stat().st_size > sum(i.data.nbytes for i in items)
    job = new_job()
    shutil.copy(source, service.recorder.path(job))
    assert service.house.replay(job) is JobState.COMPLETE
    row = service.console.job(job)
    assert row is not None and row.protocol == "ct_helical" and row.source == "recording"


def test_a_recording_that_breaks_off_gives_what_it_can(service: Service) -> None:
    scan, items = ct()
    source = service.recorder.path(through(service, scan, items).job)
    job = new_job()
    data = source.read_bytes()
    service.recorder.path(job).write_bytes(data[: 3 * len(data) // 4])
    assert service.house.replay(job) is JobState.INTERRUPTED


def test_a_scan_that_dies_with_the_service_is_made_by_the_next_one(tmp_path: Path) -> None:
    scan, items = ct()
    data = tmp_path / "data"
    with ExitStack() as stack:
        first = stack.enter_context(Service(plan(data, stream_port=0, drain_s=0.0), rooms(Library())))
        wire = stack.enter_context(Wire(first.stream_port or 0))
        wire.open(scan, protocol="ct_helical", set={"ct.helical.matrix": 32.0})
        job = wire.until(Opened)[0].job
        for seq, item in enumerate(items, 1):
            wire.block(seq, item)
        while wire.until(Progress)[0].taken < len(items):
            pass
        again = tmp_path / "again"
        (again / "raw").mkdir(parents=True)
        shutil.copy(first.recorder.path(job), again / "raw")
    with Service(plan(again), rooms(Library())) as second:
        second.house.recovered.wait(30)
        row = second.console.job(job)
    assert row is not None and row.state is JobState.INTERRUPTED and row.protocol == "ct_helical"


def test_the_scanner_of_the_demonstration_speaks_through_the_stream(tmp_path: Path) -> None:
    """CT and PET as in the demonstration, at the gantry's pace, into an archive."""
    archive = Archive(Folder(tmp_path / "archive", reserve_bytes=0))
    port = archive.start("127.0.0.1", 0)
    place = House(mrd_port=0, http_port=0, archive=tmp_path / "archive", archive_port=port)
    told: list[str] = []
    try:
        for sample in (ct, pet):
            scan, items = sample()
            config = CONFIGS[scan.modality]
            measured = Measured(source="virtual", scan=replace(scan, protocol_name="chest_helical"), items=items)
            with serving(place, f"service-{scan.modality}", stream_port=0) as (at, service):
                gantry = Gantry(measured, speed=50.0)
                console = Console(service, "", tell=told.append, watch=lambda image, n: image.output)
                feed = (config if isinstance(i, ConfigFile) else i for i in gantry.box)
                gantry.start()
                demo_feed._deliver(service, SimpleNamespace(box=feed), console, source="")  # type: ignore[arg-type]
                gantry.stop()
                row = delivered(at, console.job)
            assert (row["state"], row["modality"], row["source"]) == ("COMPLETE", scan.modality, "127.0.0.1")
            assert row["images"] > 0 and console.troubles == []
    finally:
        settled()
        archive.stop()
    assert {"conventional", "preview"} <= set(told)
