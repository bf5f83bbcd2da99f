"""PETSIRD: what we write the package reads, what it writes we read, and damage is named."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import petsird
import pytest

from acquisition.errors import DataError, FileFormatError, HeaderError, InputError
from acquisition.items import Events, Waveform
from acquisition.pet_geometry import detectors_mm, is_crystal
from acquisition.scan import PetHeader
from acquisition.sources import open_raw
from acquisition.sources.petsird import read_efficiencies
from acquisition.sources.petsird_schema import schema_text
from acquisition.sources.petsird_wire import Cursor, Schema, preamble
from acquisition.sources.petsird_write import PetsirdWriter, write_petsird
from kernels import varint
from tests.acquisition.petsird_samples import PET, SCAN, breath, events, lines, package_lines

OLD = Path(__file__).parent / "petsird_0_9.bin.gz"
"""Written by the package's version 0.9.1: 20 modules of 4 x 7 crystals around, two of them along the axis."""
GEOMETRIES = {
    "blocks": PET,
    "no blocks": replace(PET, block=(0, 0), gaps=()),
    "backwards": replace(PET, turn=-1),
    "one ring": replace(PET, n_rings=1, block=(1, 4), gaps=(), n_tof=1),
    "no cylinder": replace(
        PET,
        block=(0, 0),
        gaps=(),
        n_tof=1,
        detectors_mm=np.random.default_rng(5).normal(0, 200, (144, 3)).astype(np.float32),
    ),
}


def written(folder: Path, *items: object, pet: PetHeader = PET, crystals: np.ndarray | None = None) -> Path:
    path = folder / "scan.petsird"
    write_petsird(path, replace(SCAN, pet=pet), items=items, crystals=crystals)
    return path


def only_events(path: Path) -> list[Events]:
    return [item for item in open_raw(path).items() if isinstance(item, Events)]


def test_our_schema_is_the_packages_letter_for_letter() -> None:
    assert schema_text() == petsird.protocols.PETSIRDWriterBase.schema


@pytest.mark.parametrize("name", GEOMETRIES)
def test_the_package_reads_what_we_write(tmp_path: Path, name: str) -> None:
    pet = GEOMETRIES[name]
    block = events(pet, 70)
    header, prompts, delayeds, _ = package_lines(written(tmp_path, block, pet=pet))
    place = np.round(detectors_mm(pet).astype(float), 1) + 0.0
    assert prompts == lines(block.prompts, place, block.tof, pet.n_tof)
    assert delayeds == lines(block.delayeds, place, block.delayed_tof, pet.n_tof)
    edges = header.scanner.tof_bin_edges[0][0].edges
    assert len(edges) == pet.n_tof + 1 and edges[0] == -edges[-1]


@pytest.mark.parametrize("name", GEOMETRIES)
def test_we_read_what_we_write(tmp_path: Path, name: str) -> None:
    pet = GEOMETRIES[name]
    blocks = [events(pet, 200), events(pet, 100, start_s=0.1), events(pet, 0, start_s=0.2)]
    path = written(tmp_path, *blocks, pet=pet)
    read = open_raw(path).scan.require_pet()
    for ours, found in zip(blocks, only_events(path), strict=True):
        assert (found.start_s, found.stop_s) == (ours.start_s, pytest.approx(ours.stop_s))
        for kind, tof in (("prompts", "tof"), ("delayeds", "delayed_tof")):
            a = lines(getattr(ours, kind), detectors_mm(pet) + 0.0, getattr(ours, tof), pet.n_tof)
            b = lines(getattr(found, kind), detectors_mm(read) + 0.0, getattr(found, tof), read.n_tof)
            assert len(a) == len(b)
            near = sorted(a), sorted(b)
            for p, q in zip(*near, strict=True):
                np.testing.assert_allclose(p[0] + p[1], q[0] + q[1], atol=0.11)
                assert p[2] == q[2]
    if name != "no cylinder":  # the same numbers, not only the same places
        np.testing.assert_allclose(detectors_mm(read), detectors_mm(pet), atol=1e-3)
        assert np.array_equal(is_crystal(read), is_crystal(pet)) and read.turn == pet.turn
        assert read.block == pet.block


def test_the_header_comes_back(tmp_path: Path) -> None:
    crystals = (np.random.default_rng(0).random(144) * is_crystal(PET)).astype(np.float32)
    path = written(tmp_path, events(PET, 3), crystals=crystals)
    raw = open_raw(path)
    scan, pet = raw.scan, raw.scan.require_pet()
    assert raw.format == "PETSIRD" and scan.started == SCAN.started
    assert (scan.patient.id, scan.patient.sex, scan.patient.position) == ("P1", "F", "FFP")
    assert (scan.patient.weight_kg, scan.patient.height_m) == (61.5, 1.75)
    assert scan.study.series_instance_uid == "1.2.3.4" and scan.equipment.model == "Virtual"
    assert pet.tracer == PET.tracer and pet.max_ring_difference == 3
    assert pet.calibration_bq_per_cps == pytest.approx(123.0, rel=1e-6)
    assert (pet.n_tof, pet.tof_bin_mm, pet.tof_fwhm_mm) == (13, pytest.approx(30.0), 60.0)
    assert pet.energy_kev == (430.0, 610.0) and pet.energy_resolution == pytest.approx(0.11)
    np.testing.assert_allclose(read_efficiencies(path), crystals, rtol=1e-6)
    assert read_efficiencies(written(tmp_path, events(PET, 3))) is None
    header, *_ = package_lines(path)
    assert header.exam is not None and header.exam.patient.patients_weight == 61.5
    assert header.exam.radiopharmaceuticals[0].radionuclide_total_dose == 350.0  # MBq


def test_singles_bed_and_signals_come_with_their_time(tmp_path: Path) -> None:
    singles = np.arange(144, dtype=np.uint32) * 1000 * is_crystal(PET)
    trigger = replace(breath(), id=0, flags=1, time_stamp=77, data=np.ones((1, 1), np.uint32), gain=1.0, offset=0.0)
    path = written(
        tmp_path,
        events(PET, 9, singles=singles, bed_mm=-40.5),
        breath(),
        trigger,
        events(PET, 9, start_s=0.1, bed_mm=-40.5),
        events(PET, 9, start_s=0.2, bed_mm=12.0),
    )
    first, second, third = only_events(path)
    np.testing.assert_array_equal(first.singles, singles)
    assert second.singles is None and [e.bed_mm for e in (first, second, third)] == [-40.5, -40.5, 12.0]
    waves = [i for i in open_raw(path).items() if isinstance(i, Waveform)]
    assert [(w.id, w.time_stamp, w.flags, w.data.shape[1]) for w in waves] == [(2, 40, 0, 5), (0, 77, 1, 1)]
    value = waves[0].offset + waves[0].gain * waves[0].data[0].astype(float)
    np.testing.assert_allclose(value, [-3, 2, 17, 2, -0.5], atol=1e-6)
    assert waves[0].sample_time_us == 20_000 and waves[1].data.tolist() == [[1]]
    _, _, _, blocks = package_lines(path)
    names = [type(b.value).__name__.removesuffix("TimeBlock") for b in blocks]
    assert names == ["BedMovement", "Event", "SinglesHistogram", "ExternalSignal", "ExternalSignal", "Event",
                     "BedMovement", "Event"]  # fmt: skip


def test_a_signal_may_come_before_the_events(tmp_path: Path) -> None:
    singles = np.arange(144, dtype=np.uint32) * is_crystal(PET)
    path = written(tmp_path, breath(), events(PET, 9, singles=singles))
    header, _, _, blocks = package_lines(path)
    assert header.scanner.singles_histogram_level == petsird.SinglesHistogramLevelType.ALL
    assert [type(b.value).__name__ for b in blocks][:2] == ["ExternalSignalTimeBlock", "EventTimeBlock"]
    assert sum(isinstance(i, Waveform) for i in open_raw(path).items()) == 1
    assert [type(i) for i in open_raw(written(tmp_path, breath())).items()] == [Waveform]


def test_singles_per_block_are_units(tmp_path: Path) -> None:
    counts = np.array([70_000, 5, 6, 7, 8, 9, 10, 11], np.uint32)
    (block,) = only_events(written(tmp_path, events(PET, 9, singles=counts)))
    np.testing.assert_array_equal(block.singles, counts)
    with pytest.raises(DataError, match=r"one count per detector \(144\) or per block \(8\), got 5"):
        written(tmp_path, events(PET, 9, singles=counts[:5]))


def test_a_scan_is_written_while_it_runs_and_may_be_empty(tmp_path: Path) -> None:
    path = tmp_path / "live.petsird"
    with path.open("wb") as file, PetsirdWriter(file, SCAN) as writer:
        for k in range(5):
            writer.write(events(PET, 50, start_s=0.1 * k))
            file.flush()
            assert path.stat().st_size > 10_000
    assert sum(map(len, only_events(path))) == 250
    assert only_events(written(tmp_path)) == []


def test_events_that_no_crystal_counted_are_not_written(tmp_path: Path) -> None:
    block = events(PET, 5)
    with pytest.raises(DataError, match="expected crystals among 144 detectors, got a gap"):
        written(tmp_path, replace(block, prompts=np.full((5, 2), 8, np.int32)))
    with pytest.raises(DataError, match="got detectors 0 to 144"):
        written(tmp_path, replace(block, prompts=np.array([[0, 144]], np.int32), tof=block.tof[:1]))  # type: ignore[index]
    with pytest.raises(HeaderError, match="positive sizes"):
        written(tmp_path, pet=replace(PET, radius_mm=-1.0))


def package_scanner(n_tof: int, energies: int) -> petsird.ScannerInformation:
    """A scanner as the package's own example builds it, with flat modules and energy bins."""
    from petsird.helpers import generator  # its example program: imported here, for it is slow

    definition = replace(
        generator.mtype0_def,
        num_crystals_per_module=(1, 4, 7),
        number_of_tof_bins=n_tof,
        number_of_event_energy_bins=energies,
    )
    scanner = petsird.ScannerInformation(scanner_geometry=generator.get_scanner_geometry([definition]))
    scanner.tof_bin_edges = [[petsird.BinEdges(edges=np.linspace(-400, 400, n_tof + 1, dtype=np.float32))]]
    scanner.tof_resolution = [[70.0]]
    scanner.event_energy_bin_edges = [petsird.BinEdges(edges=np.linspace(435, 650, energies + 1, dtype=np.float32))]
    scanner.energy_resolution_at_511 = [0.1]
    return scanner


def package_file(path: Path, scanner: petsird.ScannerInformation, prompts: list[tuple[int, int, int]]) -> Path:
    made = [petsird.CoincidenceEvent(detection_bins=[a, b], tof_idx=t) for a, b, t in prompts]
    block = petsird.EventTimeBlock(time_interval=petsird.TimeInterval(start=0, stop=250), prompt_events=[[made]])
    with petsird.BinaryPETSIRDWriter(str(path)) as writer:
        writer.write_header(petsird.Header(scanner=scanner))
        writer.write_time_blocks([petsird.TimeBlock.EventTimeBlock(block)])
    return path


def test_we_read_what_the_package_writes(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    prompts = [(int(a), int(b), int(t)) for a, b, t in rng.integers(0, (3360, 3360, 9), (300, 3))]
    path = package_file(tmp_path / "p", package_scanner(9, 3), prompts)
    pet = open_raw(path).scan.require_pet()
    assert (pet.n_rings, pet.n_crystals, pet.energy_kev) == (14, 80, (435.0, 650.0))
    assert pet.radius_mm == pytest.approx(410.0, abs=0.1)  # 400 mm to the face, 20 mm deep
    (block,) = only_events(path)
    assert block.tof is not None and block.tof.tolist() == [t for *_, t in prompts]
    _, told, _, _ = package_lines(path)
    place = np.round(detectors_mm(pet).astype(float), 1) + 0.0
    found = lines(block.prompts, place, block.tof, 9)
    assert len(found) == len(told) == 300
    for p, q in zip(sorted(found), sorted(told), strict=True):
        np.testing.assert_allclose(p[0] + p[1], q[0] + q[1], atol=0.11)


def test_version_0_9_is_read_by_its_own_schema(tmp_path: Path) -> None:
    path = tmp_path / "old.petsird"
    path.write_bytes(gzip.decompress(OLD.read_bytes()))
    raw = open_raw(path)
    pet = raw.scan.require_pet()
    assert (raw.scan.patient.id, raw.scan.patient.name, raw.scan.protocol_name) == ("123", "Old^File", "brain")
    assert (pet.n_rings, pet.n_crystals, pet.n_tof) == (14, 80, 11)
    first, second = only_events(path)
    assert (len(first.prompts), len(first.delayeds), len(second.prompts)) == (60, 9, 20)
    assert first.tof is not None and first.tof.tolist() == [i % 11 for i in range(60)]
    assert first.singles is not None and first.singles.sum() == np.arange(3360).sum()
    assert (
        first.singles[first.prompts[1, 0]] == 36 + 37 + 38
    )  # event 1 is in detection bin 37, three energies a crystal
    assert first.bed_mm == second.bed_mm == -55.0 and second.stop_s == 0.25
    (wave,) = (i for i in raw.items() if isinstance(i, Waveform))
    np.testing.assert_allclose(wave.offset + wave.gain * wave.data[0].astype(float), [0.5, -1.25, 3.0, 2.0], atol=1e-6)


def test_damage_is_named_and_nothing_hangs(tmp_path: Path) -> None:
    good = written(tmp_path, events(PET, 30), breath()).read_bytes()
    path = tmp_path / "bad"
    rng = np.random.default_rng(1)
    for cut in (5, 9, 11, 5000, 13_100, len(good) - 60, len(good) - 1):
        path.write_bytes(good[:cut])
        with pytest.raises(FileFormatError, match="cut or damaged"):
            list(open_raw(path).items())
    for _ in range(200):
        broken = bytearray(good)
        broken[rng.integers(9, len(good))] = rng.integers(256)
        path.write_bytes(bytes(broken))
        try:
            list(open_raw(path).items())
        except InputError:
            continue


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"name":"PETSIRD","sequence"', '"name":"OTHERS1","sequence"', "the protocol PETSIRD, got protocol OTHERS1"),
        ('"name":"tofIdx","type":"uint32"', '"name":"tofInd","type":"uint32"', "two detection bins and tofIdx"),
        ('"name":"tofIdx","type":"uint32"', '"name":"tofIdx","type":"octets"', "a primitive of yardl, got octets"),
        ('"name":"start","type"', '"name":"begin","type"', "TimeInterval with start, got begin, stop"),
        ('{"protocol"', '["protocol"', "expected a yardl schema"),
    ],
)  # fmt: skip
def test_an_unknown_schema_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    good = written(tmp_path, events(PET, 3)).read_bytes()
    text = schema_text().replace(old, new)
    assert text != schema_text()
    path = tmp_path / "other"
    path.write_bytes(bytes(preamble(text)) + good[len(preamble(schema_text())) :])
    with pytest.raises(FileFormatError, match=message):
        open_raw(path)


def test_contradictions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"module types 0, 0: expected detection bins of the header's scanner .*, got 1 of 2"
    ):
        only_events(package_file(tmp_path / "p", package_scanner(9, 3), [(3360, 0, 0), (1, 0, 0)]))
    with pytest.raises(DataError, match="9 time-of-flight bins, got time-of-flight bin 9"):
        only_events(package_file(tmp_path / "p", package_scanner(9, 3), [(5, 0, 9)]))
    uneven = package_scanner(9, 3)
    uneven.tof_bin_edges[0][0].edges[3] += 10
    with pytest.raises(HeaderError, match="tofBinEdges: expected equal bins around 0"):
        open_raw(package_file(tmp_path / "p", uneven, []))
    none = package_scanner(9, 3)
    none.scanner_geometry.replicated_modules[0].transforms.clear()
    with pytest.raises(HeaderError, match="scanner geometry: expected detecting elements, got none"):
        open_raw(package_file(tmp_path / "p", none, []))


def test_numbers_of_every_length_come_back() -> None:
    values = np.array([0, 1, 127, 128, 16383, 16384, 2**31, 2**32, 2**63, 2**64 - 1], np.uint64)
    room = np.empty(varint.MOST_BYTES * len(values), np.uint8)
    n = varint.write(values, room)
    found = np.empty_like(values)
    assert varint.read(room[:n], 0, found) == n
    np.testing.assert_array_equal(found, values)
    assert varint.read(room[: n - 1], 0, found) == -1
    assert varint.read(np.full(11, 255, np.uint8), 0, found[:1]) == -1


def test_signed_numbers_come_back() -> None:
    codec = Schema(schema_text(), "test").codec({"vector": {"items": "int64"}})
    values = np.array([0, -1, 1, -64, 64, 2**62, -(2**62), -(2**63), 2**63 - 1])
    out = bytearray()
    codec.write(out, values)
    np.testing.assert_array_equal(codec.read(Cursor(np.frombuffer(out, np.uint8), "test")), values)
