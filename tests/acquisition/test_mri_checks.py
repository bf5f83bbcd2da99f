"""Faults planted into raw MR data are found by the check that is there for them; clean scans pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acquisition.errors import ConfigError
from acquisition.items import Flag, Item, Readouts, Waveform
from acquisition.mri_drift import CheckDrift, drifted
from acquisition.mri_interference import CheckInterference
from acquisition.mri_noise_level import CheckNoise
from acquisition.mri_order import CheckOrder
from acquisition.mri_overflow import CheckOverflow
from acquisition.mri_waveform import CheckWaveform
from acquisition.scan import Scan
from acquisition.sources.phantom.faults import drop_at, duplicate_line, noisy_coil
from acquisition.sources.phantom.mri import Simulation
from acquisition.verdict import Level, Verdict
from tests.phantoms import small_simulation

ALL = (CheckOrder, CheckOverflow, CheckNoise, CheckInterference, CheckDrift)


@pytest.fixture(scope="module")
def scanner() -> Simulation:
    return small_simulation(matrix=(1, 64, 64), n_coils=6, snr=30, n_noise=32, repetitions=5)


@pytest.fixture(scope="module")
def blocks(scanner: Simulation) -> list[Readouts]:
    return list(scanner.readouts())


def sigma(scanner: Simulation) -> float:
    return float(np.sqrt(np.trace(scanner.noise_covariance).real / scanner.exam.n_coils))


def told(step: Any, scan: Scan, items: Iterable[Item]) -> tuple[list[Verdict], list[Verdict]]:
    """Verdicts during the scan and at its end; everything else must have passed, as the same objects."""
    step.open(scan)
    early: list[Verdict] = []
    for item in items:
        first, *rest = step.feed(item)
        assert first is item
        early += rest
    return early, list(step.close())


def marked(step: Any, scan: Scan, items: Iterable[Item]) -> list[Verdict]:
    early, late = told(step, scan, items)
    return [v for v in (*early, *late) if v.level is not Level.PASS]


@pytest.mark.parametrize("check", ALL)
@pytest.mark.parametrize("block", [1, 7])
def test_a_clean_scan_passes(scanner: Simulation, check: type, block: int) -> None:
    early, late = told(check(), scanner.scan, scanner.readouts(block=block))
    assert early or late
    assert {v.level for v in (*early, *late)} == {Level.PASS}


@pytest.mark.parametrize("check", ALL)
def test_without_noise_repetitions_are_no_fault(check: type) -> None:
    quiet = small_simulation(matrix=(1, 32, 32), n_noise=0, repetitions=6)
    assert not marked(check(), quiet.scan, quiet.readouts())


@pytest.mark.parametrize("check", ALL)
def test_other_items_and_transformed_lines_pass(scanner: Simulation, blocks: list[Readouts], check: type) -> None:
    assert told(check(), scanner.scan, ["x", replace(blocks[0], domain="x")]) == ([], [])


@pytest.mark.parametrize("part", [0.4, 0.8])
def test_an_overdriven_receiver_is_told_at_once(scanner: Simulation, blocks: list[Readouts], part: float) -> None:
    limit = part * max(float(np.abs(b.data.view(np.float32)).max()) for b in blocks)
    cut = [replace(b, data=np.clip(b.data.view(np.float32), -limit, limit).view(np.complex64)) for b in blocks]
    early, late = told(CheckOverflow(), scanner.scan, cut)
    assert [v.level for v in early] == [Level.HOLD]
    assert not late
    assert f"{limit:.6g}" in early[0].evidence


def test_a_full_receiver_needs_one_sample_where_its_end_is_known(scanner: Simulation, blocks: list[Readouts]) -> None:
    largest = max(float(np.abs(b.data.view(np.float32)).max()) for b in blocks)
    assert marked(CheckOverflow(full_scale=0.999 * largest), scanner.scan, blocks)
    assert not marked(CheckOverflow(full_scale=1.1 * largest), scanner.scan, blocks)


def test_coarse_numbers_are_no_overflow(scanner: Simulation, blocks: list[Readouts]) -> None:
    """A receiver of few steps repeats its largest value by chance."""
    step = max(float(np.abs(b.data.view(np.float32)).max()) for b in blocks) / 12
    coarse = [replace(b, data=(step * np.round(b.data.view(np.float32) / step)).view(np.complex64)) for b in blocks]
    assert not marked(CheckOverflow(), scanner.scan, coarse)


@pytest.mark.parametrize("at", [50, 200])
def test_a_lost_readout_is_told_with_the_next(scanner: Simulation, blocks: list[Readouts], at: int) -> None:
    (early,), late = told(CheckOrder(), scanner.scan, drop_at(blocks, at))
    assert not late
    assert early.value == 1
    assert early.evidence.startswith(f"1 before readout {at + 1}")


def test_a_readout_sent_twice_is_told(scanner: Simulation, blocks: list[Readouts]) -> None:
    (early,), _ = told(CheckOrder(), scanner.scan, duplicate_line(blocks, 77))
    assert "again readout 77" in early.evidence


def test_a_scanner_that_does_not_count_is_not_judged(scanner: Simulation, blocks: list[Readouts]) -> None:
    for counter in (0, 3):  # all alike, or in steps of three
        heads = [b.head.copy() for b in blocks]
        for i, head in enumerate(heads):
            head["scan_counter"] = counter * i
        renamed = [replace(b, head=h) for b, h in zip(blocks, heads, strict=True)]
        assert told(CheckOrder(), scanner.scan, renamed) == ([], [])


@pytest.mark.parametrize("coil", [0, 5])
def test_a_noisy_coil_is_named_before_the_image(scanner: Simulation, blocks: list[Readouts], coil: int) -> None:
    early, _ = told(CheckNoise(), scanner.scan, noisy_coil(blocks, coil, std=8 * sigma(scanner)))
    assert early[0].level is Level.FLAG
    assert f"coil {coil} " in early[0].advice


def test_a_silent_coil_is_named(scanner: Simulation, blocks: list[Readouts]) -> None:
    def quiet() -> Iterator[Readouts]:
        for block in blocks:
            data = block.data.copy()
            data[:, 2] *= 0.05
            yield replace(block, data=data)

    assert "coil 2 " in marked(CheckNoise(), scanner.scan, quiet())[0].advice


def test_one_signal_on_two_coils_is_told(scanner: Simulation, blocks: list[Readouts]) -> None:
    def doubled() -> Iterator[Readouts]:
        for block in blocks:
            data = block.data.copy()
            data[:, 4] = 1.1 * data[:, 1]
            yield replace(block, data=data)

    (shared,) = marked(CheckNoise(), scanner.scan, doubled())
    assert shared.check == "check.mri_noise_shared"
    assert "Coils 1 and 4" in shared.advice


@pytest.mark.parametrize("factor", [2.5, 0.4])
def test_noise_that_changes_after_its_scan_is_told(scanner: Simulation, blocks: list[Readouts], factor: float) -> None:
    noise = [replace(b, data=factor * b.data) if b.has(Flag.NOISE).any() else b for b in blocks]
    (change,) = marked(CheckNoise(), scanner.scan, noise)
    assert change.check == "check.mri_noise_change"
    assert change.value == pytest.approx(max(factor, 1 / factor), rel=0.3)


def test_an_earlier_noise_scan_is_the_measure(scanner: Simulation, blocks: list[Readouts], tmp_path: Path) -> None:
    covariance = scanner.noise_covariance
    np.save(tmp_path / "same.npy", covariance)
    np.save(tmp_path / "other.npy", np.diag([9.0, 1, 1, 1, 1, 1]) @ covariance)
    np.save(tmp_path / "few.npy", covariance[:3, :3])
    assert not marked(CheckNoise(earlier=str(tmp_path / "same.npy")), scanner.scan, blocks)
    (change,) = marked(CheckNoise(earlier=str(tmp_path / "other.npy")), scanner.scan, blocks)
    assert change.evidence.startswith("coil 0: 0.33")
    (few,) = marked(CheckNoise(earlier=str(tmp_path / "few.npy")), scanner.scan, blocks)
    assert "3 coils, this one 6" in few.advice


@pytest.mark.parametrize("khz", [-60.0, 12.5])
def test_a_radio_is_found_at_its_frequency(scanner: Simulation, blocks: list[Readouts], khz: float) -> None:
    rng = np.random.default_rng(0)
    wave = np.exp(2j * np.pi * khz * 1e3 * 5e-6 * np.arange(128)) * sigma(scanner)
    heard = [replace(b, data=(b.data + np.exp(6.28j * rng.random()) * wave).astype(np.complex64)) for b in blocks]
    early, late = told(CheckInterference(), scanner.scan, heard)
    assert not late
    (found,) = early
    assert float(found.evidence.split(" kHz")[0]) == pytest.approx(khz, abs=1.0)


def test_a_radio_that_begins_after_the_noise_scan_is_found(scanner: Simulation, blocks: list[Readouts]) -> None:
    wave = 3 * sigma(scanner) * np.exp(2j * np.pi * 0.4 * np.arange(128))
    heard = [b if b.has(Flag.NOISE).any() else replace(b, data=(b.data + wave).astype(np.complex64)) for b in blocks]
    (found,) = marked(CheckInterference(), scanner.scan, heard)
    assert "imaging" in found.evidence


@pytest.mark.parametrize("sign", [1, -1])
def test_phase_and_frequency_that_drift_are_measured(scanner: Simulation, blocks: list[Readouts], sign: int) -> None:
    n, k = len(blocks), np.arange(128) - 64

    def turned(rad: float, hertz: float) -> list[Readouts]:
        return [
            replace(b, data=(b.data * np.exp(1j * i / n * (rad + 2 * np.pi * hertz * 5e-6 * k))).astype(np.complex64))
            for i, b in enumerate(blocks)
        ]

    (phase,) = marked(CheckDrift(), scanner.scan, turned(sign * 2.5, 0))
    assert phase.check == "check.mri_phase_drift"
    assert sign * float(phase.value or 0) > 1
    (frequency,) = marked(CheckDrift(), scanner.scan, turned(0, sign * 600.0))
    assert frequency.check == "check.mri_frequency_drift"
    assert sign * float(frequency.value or 0) > 30


def test_jumps_are_no_drift() -> None:
    assert drifted(np.array([0.0, 1, 2, 3, 4, 5])) == pytest.approx(4.0)
    assert drifted(np.array([0.0, 3, -3, 3, -3, 3, -3, 2, -2])) == 0


def belt(values: np.ndarray) -> Waveform:
    return Waveform(id=2, time_stamp=0, sample_time_us=2e4, data=np.round(values).astype(np.uint32)[None])


@pytest.mark.parametrize(("fault", "word"), [("off", "does not move"), ("cut", "stop"), ("cough", "jumps"), ("", "")])
def test_a_breathing_signal_is_judged(scanner: Simulation, fault: str, word: str) -> None:
    time_s = np.arange(0, 60, 0.02)
    values = 1000 + 800 * np.sin(np.pi * time_s / 4.1) ** 4 + np.random.default_rng(0).normal(0, 8, len(time_s))
    if fault == "off":
        values[:] = 512
    elif fault == "cut":
        values = np.minimum(values, 1300)
    elif fault == "cough":
        values[900:1100] += 1800
    early, (verdict,) = told(CheckWaveform(), scanner.scan, [belt(values[:1500]), belt(values[1500:])])
    assert not early
    assert (verdict.level is Level.PASS) == (fault == "")
    assert word in verdict.advice


def test_a_short_signal_is_not_judged(scanner: Simulation) -> None:
    assert told(CheckWaveform(), scanner.scan, [belt(np.full(100, 5.0))]) == ([], [])


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: CheckOverflow(least=1), "least 2 or more"),
        (lambda: CheckOrder(rare=0), "rare"),
        (lambda: CheckNoise(ratio_above=1), "ratio_above"),
        (lambda: CheckNoise(earlier="/nowhere.npy"), "a file that exists"),
        (lambda: CheckInterference(above=1), "ratios above 1"),
        (lambda: CheckDrift(phase_above=0), "limits above 0"),
        (lambda: CheckWaveform(stops_above=1), "parts between 0 and 1"),
    ],
)
def test_limits_that_make_no_sense_are_refused(make: Any, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make()
