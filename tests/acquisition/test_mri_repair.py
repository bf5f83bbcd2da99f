"""Spikes, offsets and broken coils: found, repaired, told; data without a fault passes as it came."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acquisition.errors import ConfigError
from acquisition.items import Flag, Item, Readouts, Waveform
from acquisition.mri_repair import Repair
from acquisition.sources.phantom.faults import dead_coil, noisy_coil, offset, spikes
from acquisition.sources.phantom.mri import Simulation
from acquisition.stream import Chain
from acquisition.verdict import Level, Verdict
from tests.phantoms import small_simulation
from tests.recon.helpers import Exam, nrmse, read_h5, steps

PLACES = {30: (0, 40), 41: (3, 100), 55: (2, 9), 60: (1, 66), 70: (3, 2)}  # at the edge and near the centre as well


@pytest.fixture(scope="module")
def scanner() -> Simulation:
    return small_simulation(matrix=(1, 64, 64), n_coils=4, snr=60, n_noise=8)


def sigma(scanner: Simulation) -> float:
    return float(np.sqrt(np.trace(scanner.noise_covariance).real / scanner.exam.n_coils))


def run(step: Repair, scan: Any, blocks: Iterable[Item]) -> tuple[list[Readouts], list[Verdict]]:
    step.open(scan)
    out: list[Any] = [made for block in blocks for made in step.feed(block)]
    return out, list(step.close())  # type: ignore[arg-type]


def reconstructed(scan: Any, blocks: Iterable[Readouts], *first: Any) -> np.ndarray:
    chain = Chain((*first, *steps()))
    chain.open(scan)
    made = [item for block in blocks for item in chain.feed(block)]
    return next(item for item in made if hasattr(item, "grid")).data


def test_what_has_no_fault_passes_as_it_came(scanner: Simulation) -> None:
    blocks = list(scanner.readouts(block=4))
    out, verdicts = run(Repair(), scanner.scan, blocks)
    assert not verdicts
    assert all(a is b for a, b in zip(out, blocks, strict=True))


@pytest.mark.parametrize(
    "exam", [Exam(), Exam(noise=0.002), Exam(oversampling=1), Exam(skip_k0=24, matrix=(1, 63, 65))]
)
def test_signal_is_no_spike(exam: Exam) -> None:
    assert not run(Repair(spike_above=10), exam.scan, exam.readouts())[1]


@pytest.mark.parametrize("size", [1, 7])
@pytest.mark.parametrize("strength", [60, 1e3, 1e5])
def test_spikes_are_taken_off_to_within_the_noise(scanner: Simulation, strength: float, size: int) -> None:
    blocks = list(scanner.readouts(block=size))
    value = strength * sigma(scanner) * np.exp(0.7j)
    out, verdicts = run(Repair(), scanner.scan, spikes(blocks, PLACES, value=value))
    before, after = (np.concatenate([b.data for b in part if b.data.shape[2] == 128]) for part in (blocks, out))
    assert np.abs(after - before).max() < 8 * sigma(scanner)
    (told,) = verdicts
    assert told.check == "mri.spikes"
    assert "5 samples in 5 readouts" in told.advice
    for at, (coil, sample) in PLACES.items():
        assert f"k1 {at - 8}, k2 0, slice 0, coil {coil}, sample {sample}:" in told.evidence


def test_a_burst_of_neighbours_goes_too(scanner: Simulation) -> None:
    blocks = list(scanner.readouts())
    dirty: Iterable[Readouts] = blocks
    for sample in (50, 51, 53):
        dirty = spikes(dirty, {40: (1, sample)}, value=500 * sigma(scanner))
    out, (told,) = run(Repair(), scanner.scan, dirty)
    assert np.abs(out[40].data - blocks[40].data).max() < 40 * sigma(scanner)
    assert told.level is Level.FLAG


def test_without_oversampling_spikes_are_interpolated() -> None:
    exam = Exam(oversampling=1, noise=0.002)
    blocks = list(exam.readouts())
    out, (told,) = run(Repair(), exam.scan, spikes(blocks, {50: (2, 11)}, value=3.0))
    assert abs(out[50].data[0, 2, 11] - blocks[50].data[0, 2, 11]) < 0.02
    assert "k1 50, k2 0, slice 0, coil 2, sample 11" in told.evidence


def test_the_image_is_saved(scanner: Simulation) -> None:
    """Herringbone gone: NRMSE against the clean scan."""
    value = 2e4 * sigma(scanner)
    clean = reconstructed(scanner.scan, scanner.readouts())
    broken = reconstructed(scanner.scan, spikes(scanner.readouts(), PLACES, value=value))
    saved = reconstructed(scanner.scan, spikes(scanner.readouts(), PLACES, value=value), Repair())
    assert nrmse(broken, clean) > 0.1
    assert nrmse(saved, clean) < 0.002


def test_many_spikes_ask_for_a_person(scanner: Simulation) -> None:
    places = {i: (i % 4, 20 + i) for i in range(20, 60)}
    _, (told,) = run(Repair(), scanner.scan, spikes(scanner.readouts(), places, value=1e3 * sigma(scanner)))
    assert told.level is Level.HOLD
    assert told.value == pytest.approx(100 * 40 / 64)


def test_spikes_in_the_noise_scan_do_not_count(scanner: Simulation) -> None:
    out, (told,) = run(Repair(), scanner.scan, spikes(scanner.readouts(), {2: (1, 5)}, value=1e4 * sigma(scanner)))
    assert out[2].data[0, 1, 5] == 0
    assert "coil 1, sample 5" in told.evidence


def test_an_offset_is_measured_in_the_noise_scan_and_taken_off(scanner: Simulation) -> None:
    value = 0.3 * sigma(scanner) * (1 - 1j)
    clean = reconstructed(scanner.scan, scanner.readouts())
    dirty = reconstructed(scanner.scan, offset(scanner.readouts(), value, coil=2))
    saved = reconstructed(scanner.scan, offset(scanner.readouts(), value, coil=2), Repair())
    centre = (0, 32, 32)
    assert abs(dirty[centre] - clean[centre]) > 4 * abs(saved[centre] - clean[centre])
    _, (told,) = run(Repair(), scanner.scan, offset(scanner.readouts(), value, coil=2))
    assert (told.check, told.level) == ("mri.offset", Level.FLAG)
    assert told.evidence.startswith("coil 2:")
    assert told.value == pytest.approx(0.3 * np.sqrt(2), rel=0.3)


def test_a_coil_full_of_noise_is_silenced_in_noise_and_imaging(scanner: Simulation) -> None:
    blocks = noisy_coil(scanner.readouts(), 1, std=200 * sigma(scanner))
    out, (told,) = run(Repair(), scanner.scan, blocks)
    assert not any(b.data[:, 1].any() for b in out)
    assert (told.check, told.level) == ("mri.coil", Level.FLAG)
    assert "Coil 1 is broken" in told.advice
    assert 100 < told.value < 400


@pytest.mark.parametrize("n_noise", [0, 8])
def test_a_dead_coil_is_told_with_and_without_noise_scan(n_noise: int) -> None:
    simulation = small_simulation(matrix=(1, 32, 32), snr=60, n_noise=n_noise)
    _, (told,) = run(Repair(), simulation.scan, dead_coil(simulation.readouts(), 3))
    assert told.check == "mri.coil"
    assert "Coil 3" in told.advice


def test_all_zero_one_coil_and_short_readouts_pass() -> None:
    for exam in (Exam(n_coils=1, noise=0.01), Exam(matrix=(1, 16, 8))):
        assert not run(Repair(), exam.scan, [exam.noise_scan(512), *exam.readouts()])[1]
    exam = Exam(n_coils=3)
    zeros = [replace(b, data=np.zeros_like(b.data)) for b in (exam.noise_scan(512), *exam.readouts())]
    assert not run(Repair(), exam.scan, zeros)[1]


def test_read_only_blocks_waveforms_and_transformed_lines(scanner: Simulation) -> None:
    block = next(b for b in scanner.readouts() if not b.has(Flag.NOISE).any())
    block.data.flags.writeable = False
    wave = Waveform(id=0, time_stamp=0, sample_time_us=1, data=np.zeros((1, 1), np.uint32))
    line = replace(block, domain="x")
    out, _ = run(Repair(), scanner.scan, [block, wave, line])
    assert [a is b for a, b in zip(out, [block, wave, line], strict=True)] == [True] * 3


def test_discarded_samples_are_not_judged() -> None:
    exam = Exam(noise=0.002)
    blocks = [replace(b, data=b.data.copy()) for b in exam.readouts()]
    for block in blocks:
        block.data[:, :, :10] = 1e3
        block.head["discard_pre"] = 10
    assert not run(Repair(), exam.scan, blocks)[1]


@pytest.mark.data
@pytest.mark.parametrize(
    "name", ["head_gre_3T_16ch.h5", "head_gre_3T_body2ch.h5", "phantom_trufi_3T_12ch_grappa2_noise.h5"]
)
def test_real_data_has_no_false_alarm(data_dir: Path, name: str) -> None:
    scan, blocks = read_h5(data_dir / "mri" / name)
    assert not run(Repair(spike_above=8), scan, blocks)[1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"spike_above": 2}, "spike_above"), ({"coil_ratio": 1}, "coil_ratio"), ({"hold_above": 0}, "hold_above")],
)
def test_wrong_parameters_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Repair(**fields)
