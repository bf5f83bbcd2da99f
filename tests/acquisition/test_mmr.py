"""PETLINK list-mode of the Biograph mMR: each word counted, each event between the right crystals, at its time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from acquisition.errors import DataError, FileFormatError, HeaderError
from acquisition.items import Events
from acquisition.pet_geometry import detectors_mm, is_crystal
from acquisition.pet_randoms import from_delayeds
from acquisition.pet_sinogram import crystal_pairs, sinogram_bin
from acquisition.sources import open_raw
from acquisition.sources.interfile_header import read_header
from acquisition.sources.mmr import census, read_mmr
from kernels import petlink

HEADER = """!INTERFILE:=
%SMS-MI header name space:=PETLINK bin address
name of data file := {data}
%study date (yyyy:mm:dd):=2026:01:02
%study time (hh:mm:ss GMT+00:00):=10:20:30
isotope name:=F-18
isotope gamma halflife (sec):=6586.2
isotope branching factor:=0.97
tracer activity at time of injection (Bq):=4.65e+007
%tracer injection date (yyyy:mm:dd):=2026:01:02
%tracer injection time (hh:mm:ss GMT+00:00):=09:07:00
%patient orientation:=HFS
data format:=CoincidenceList
start horizontal bed position (mm):=-12.5
%energy window lower level (keV) [1]:=430
%energy window upper level (keV) [1]:=610
number of rings:=64
distance between rings (cm):=0.40625
gantry crystal radius (cm):=32.8
%total listmode word counts:={words}
%LM event and tag words format (bits):=32
%axial compression:=1
%maximum ring difference:=60
%number of projections:=344
%number of views:=252
"""
N_ALL = 4084 * 252 * 344


def tag(ms: int) -> int:
    return 0x80000000 | ms


def event(plane: int, view: int, bin_: int, *, prompt: bool = True) -> int:
    return (0x40000000 if prompt else 0) | ((plane * 252 + view) * 344 + bin_)


def written(folder: Path, words: list[int], header: str = HEADER, *, tail: bytes = b"") -> Path:
    (folder / "scan.l").write_bytes(np.array(words, "<u4").tobytes() + tail)
    path = folder / "scan.l.hdr"
    path.write_text(header.format(data="scan.l", words=len(words)))
    return path


def blocks(path: Path, block_ms: int = 200) -> list[Events]:
    return list(read_mmr(read_header(path), block_ms=block_ms).items())  # type: ignore[arg-type]


def test_events_lie_between_their_crystals(tmp_path: Path) -> None:
    words = [tag(0), event(0, 0, 172), event(63, 0, 172), event(64, 5, 173), event(127, 251, 171, prompt=False)]
    (block,) = blocks(written(tmp_path, words))
    ring, crystal = np.divmod(block.prompts, 504)
    assert crystal.tolist() == [[0, 252], [0, 252], [5, 256]]
    assert ring.tolist() == [[63, 63], [0, 0], [62, 63]]  # the file counts towards the feet, segment +1 after 0
    ring, crystal = np.divmod(block.delayeds, 504)
    assert (ring.tolist(), crystal.tolist()) == ([[63, 62]], [[250, 503]])
    scan = open_raw(tmp_path / "scan.l.hdr").scan
    place = detectors_mm(scan.require_pet())[block.prompts[0]]
    np.testing.assert_allclose(place[0], [0, -334.7, 31.5 * 4.0625], atol=1e-3)  # anterior, at the head's end
    np.testing.assert_allclose(place[1], [0, 334.7, 31.5 * 4.0625], atol=1e-3)


def test_blocks_follow_the_time_tags(tmp_path: Path) -> None:
    words = [event(0, 9, 9)]
    for ms in (0, 1, 199, 200, 650, 651):
        words += [tag(ms), *[event(0, ms % 252, 100)] * 3, event(1, 0, 5, prompt=False)]
    path = written(tmp_path, words)
    found = blocks(path)
    assert [(b.start_s, b.stop_s) for b in found] == [(0.0, 0.2), (0.2, 0.4), (0.4, 0.6), (0.6, 0.652)]
    assert [len(b.prompts) for b in found] == [10, 3, 0, 6]
    assert [len(b.delayeds) for b in found] == [3, 1, 0, 2]
    assert {b.bed_mm for b in found} == {-12.5}
    fine = blocks(path, 100)
    assert np.array_equal(np.concatenate([b.prompts for b in fine]), np.concatenate([b.prompts for b in found]))
    assert len(fine) == 7
    raw = open_raw(path)
    assert [b.start_s for b in raw.items()] == [b.start_s for b in raw.items()]  # each call starts anew


def test_a_scan_that_begins_late_begins_at_its_first_tag(tmp_path: Path) -> None:
    (block,) = blocks(written(tmp_path, [tag(100_000_450), event(0, 0, 0), tag(100_000_460)]))
    assert (block.start_s, block.stop_s) == (100_000.4, 100_000.461)


def test_chunks_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    words: list[int] = []
    for ms in range(500):
        words += [tag(ms), *(rng.integers(0, N_ALL, 5) | 0x40000000).tolist(), int(rng.integers(0, N_ALL))]
    path = written(tmp_path, words)
    whole = blocks(path)
    monkeypatch.setattr("acquisition.sources.mmr._CHUNK", 97)
    parts = blocks(path)
    for a, b in zip(whole, parts, strict=True):
        assert np.array_equal(a.prompts, b.prompts) and np.array_equal(a.delayeds, b.delayeds)
    assert sum(len(b.prompts) for b in parts) == 2500


def test_tags_of_all_kinds_are_counted(tmp_path: Path) -> None:
    others = [0xA0000001, 0xA0000002, 0xC0000000, 0xFFFF0000, 0xE0000001, 0xE0000002]
    path = written(tmp_path, [tag(0), *others, event(0, 0, 0), tag(1), event(0, 0, 0, prompt=False)])
    found = census(path)
    assert (found.prompts, found.delayeds, found.time_tags, found.other_tags) == (1, 1, 2, (2, 1, 3))


def test_the_header_says_who_and_what(tmp_path: Path) -> None:
    scan = open_raw(written(tmp_path, [tag(0)])).scan
    pet = scan.require_pet()
    assert (pet.radius_mm, pet.ring_pitch_mm, pet.max_ring_difference) == (pytest.approx(334.7), 4.0625, 60)
    assert pet.tracer is not None
    assert (pet.tracer.nuclide, pet.tracer.dose_bq, pet.tracer.branching) == ("^18^Fluorine", 4.65e7, 0.97)
    assert str(pet.tracer.injected) == "2026-01-02 09:07:00" and str(scan.started) == "2026-01-02 10:20:30"
    assert scan.patient.position == "HFS" and not scan.verdicts
    longer = HEADER.replace("{words}", "1000")
    (cut,) = open_raw(written(tmp_path, [tag(0)], longer)).scan.verdicts
    assert cut.check == "pet.cut" and cut.value == 999


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("(bits):=32", "(bits):=64", r"format \(bits\): expected 32, as the Biograph mMR writes, got 64"),
        ("%axial compression:=1", "%axial compression:=11", "axial compression: expected 1"),
        ("number of rings:=64", "number of rings:=55", "number of rings: expected 64"),
        ("%number of views:=252", "%number of views:=x", "expected a number, got x"),
        ("%number of views:=252", "", "number of views: expected a value, got none"),
        ("gantry crystal radius (cm):=32.8", "gantry crystal radius (cm):=-100", "PET geometry"),
        ("2026:01:02\n%study time", "2026:13:02\n%study time", "expected yyyy:mm:dd"),
        ("%patient orientation:=HFS", "%number of views:=250", "expected one value, got '250' and '252'"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in HEADER
    path = written(tmp_path, [tag(0)], HEADER.replace(old, new))
    with pytest.raises(HeaderError, match=message):
        open_raw(path)


def test_damaged_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="expected words of 4 bytes, got 5 bytes"):
        open_raw(written(tmp_path, [tag(0)], tail=b"x"))
    with pytest.raises(FileFormatError, match="got 0 bytes"):
        open_raw(written(tmp_path, []))
    with pytest.raises(DataError, match="4084 planes x 252 views x 344 bins, got 1 beyond"):
        blocks(written(tmp_path, [tag(0), 0x40000000 | N_ALL]))
    with pytest.raises(DataError, match="time tags every millisecond, got 200 ms, then 50000 ms"):
        blocks(written(tmp_path, [tag(0), event(0, 0, 0), tag(50_000)]))
    path = written(tmp_path, [tag(0)])
    (tmp_path / "scan.l").unlink()
    with pytest.raises(FileFormatError, match=r"name of data file: expected scan\.l beside the header"):
        open_raw(path)


def plane_of(offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    return offsets // (252 * 344)


def test_the_product_in_place_of_a_division_is_exact() -> None:
    n = 252 * 344
    edges = np.concatenate([np.arange(1, 4084) * n + d for d in (-1, 0, 1)])
    counts, events = np.zeros(petlink.N_COUNTS, np.int64), np.empty((len(edges), 2), np.int32)
    axial = np.repeat(np.arange(4084, dtype=np.int32)[:, None], 2, axis=1)
    transaxial = np.zeros((n, 2), np.int32)
    petlink.decode((edges | 0x40000000).astype(np.uint32), 1, axial, transaxial, events, counts)
    np.testing.assert_array_equal(events[:, 0], plane_of(edges))


@pytest.mark.data
def test_the_real_sample_is_decoded_exactly(data_dir: Path) -> None:
    path = data_dir / "pet" / "stir" / "PET_ACQ_small.l.hdr.STIR"
    raw = open_raw(path)
    found = list(raw.items())
    prompts, delayeds = (np.concatenate([getattr(b, k) for b in found]) for k in ("prompts", "delayeds"))
    assert (len(prompts), len(delayeds)) == (218_881, 35_320)
    counted = census(path)
    assert (counted.prompts, counted.delayeds, counted.time_tags) == (218_881, 35_320, 613)
    crystals = is_crystal(raw.scan.require_pet())
    assert crystals[prompts].all() and crystals[delayeds].all()  # none of 508,402 hits meets a gap
    assert found[-1].stop_s == 0.613 and raw.scan.verdicts[0].check == "pet.cut"


@pytest.mark.data
def test_the_real_brain_lies_as_the_patient_does(data_dir: Path) -> None:
    """Cross sections shrink towards the vertex, and there is less of the head beyond it than below."""
    raw = open_raw(data_dir / "pet" / "stir" / "PET_ACQ_small.l.hdr.STIR")
    place = detectors_mm(raw.scan.require_pet())
    prompts = np.concatenate([b.prompts for b in raw.items()])  # type: ignore[union-attr]
    flat = np.abs(prompts[:, 0] // 504 - prompts[:, 1] // 504) <= 2
    first, second = np.moveaxis(place[prompts[flat]], 1, 0)
    along = second - first
    away = np.abs(first[:, 0] * along[:, 1] - first[:, 1] * along[:, 0]) / np.hypot(along[:, 0], along[:, 1])
    z = (first[:, 2] + second[:, 2]) / 2

    def seen(low: float, high: float) -> tuple[int, float]:
        there = (z > low) & (z < high) & (away < 120)
        return int(there.sum()), float(np.sqrt(np.mean(away[there] ** 2)))

    (below, _), (_, middle), (above, vertex) = seen(-50, -30), seen(-10, 10), seen(30, 50)
    assert vertex < 0.93 * middle
    assert below > 1.5 * above


@pytest.mark.data
def test_randoms_of_half_the_real_delayeds_are_those_of_the_other_half(data_dir: Path) -> None:
    """By bin and by ring, over the lines that this scanner records; without its limits a third would be missing."""
    raw = open_raw(data_dir / "pet" / "stir" / "PET_ACQ_small.l.hdr.STIR")
    pet = raw.scan.require_pet()
    delayeds = np.concatenate([b.delayeds for b in raw.items()])  # type: ignore[union-attr]
    half = np.random.default_rng(0).random(len(delayeds)) < 0.5
    rates = from_delayeds(pet, delayeds[half]).rates.reshape(64, 504)
    first, second = np.moveaxis(crystal_pairs(504, 252, 344), 2, 0)
    near = np.abs(np.subtract.outer(np.arange(64), np.arange(64))) <= 60
    by_bin = sum(rates[r][first] * (near[r] @ rates)[second] for r in range(64)).sum(axis=0)  # type: ignore[union-attr]
    assert by_bin.sum() == pytest.approx(half.sum(), rel=0.005)
    ring, crystal = np.divmod(delayeds[~half], 504)
    _, bin_, _ = sinogram_bin(crystal, 504, 344)
    edges = np.arange(0, 345, 43)
    found, expected = np.histogram(bin_, edges)[0], np.add.reduceat(by_bin, edges[:-1])
    assert (np.abs(found - expected) < 4 * np.sqrt(2 * expected)).all()
    assert expected[0] > 1.3 * expected[-1]  # the head lies off the axis, and the fit knows
    axial = near * np.einsum("rvb,svb->rs", rates[:, first], rates[:, second], optimize=True)
    sums = np.add.outer(np.arange(64), np.arange(64))
    planes = np.histogram(sums, np.arange(0, 128, 16), weights=axial)[0]
    counted = np.histogram(ring.sum(axis=1), np.arange(0, 128, 16))[0]
    assert (np.abs(counted - planes) < 4 * np.sqrt(2 * planes)).all()
