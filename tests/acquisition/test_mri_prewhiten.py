"""Prewhitening: noise comes out white, whatever state the noise scan is in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from acquisition.errors import ConfigError, DataError
from acquisition.items import READOUT_HEAD, Flag, Item, Readouts, Waveform
from acquisition.mri import Prewhiten
from acquisition.noise import NoiseModel
from acquisition.scan import Encoding, MrHeader, Scan
from acquisition.verdict import Level, Verdict

N_COILS = 6
SCAN = Scan(
    uid="test",
    modality="MR",
    mr=MrHeader(
        encodings=(
            Encoding(matrix=(1, 64, 64), fov_mm=(5, 200, 200), recon_matrix=(1, 64, 64), recon_fov_mm=(5, 200, 200)),
        )
    ),
)


def covariance(seed: int = 3) -> np.ndarray:
    """Coils that share noise and differ by a factor of about ten."""
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((N_COILS, N_COILS)) + 1j * rng.standard_normal((N_COILS, N_COILS))
    return np.diag(np.linspace(1, 10, N_COILS)) + 0.5 * a @ a.conj().T


def noise(n: int, samples: int, seed: int, cov: np.ndarray | None = None) -> np.ndarray:
    rng = np.random.default_rng(seed)
    white = rng.standard_normal((n, N_COILS, samples)) + 1j * rng.standard_normal((n, N_COILS, samples))
    root = np.linalg.cholesky(covariance() if cov is None else cov)
    return (root @ (white / np.sqrt(2))).astype(np.complex64)


def block(data: np.ndarray, flag: Flag | int = 0, dwell_us: float = 5.0, **values) -> Readouts:
    head = np.zeros(len(data), READOUT_HEAD)
    head["flags"], head["dwell_us"], head["n_samples"] = int(flag), dwell_us, data.shape[2]
    head["scan_counter"] = np.arange(len(data))
    for name, value in values.items():
        head[name] = value
    return Readouts(head=head, data=data)


def run(step: Prewhiten, *blocks: Item) -> list[Item]:
    step.open(SCAN)
    out = []
    for item in blocks:
        for made in step.feed(item):
            out.append(replace(made, data=made.data.copy()) if isinstance(made, Readouts) else made)
    return out + list(step.close())


def parts(items: list[Item]) -> tuple[np.ndarray, list[Verdict], list[NoiseModel]]:
    data = [item.data for item in items if isinstance(item, Readouts)]
    verdicts = [item for item in items if isinstance(item, Verdict)]
    return np.concatenate(data) if data else np.zeros(0), verdicts, [i for i in items if isinstance(i, NoiseModel)]


def measured(data: np.ndarray) -> np.ndarray:
    flat = np.moveaxis(data, 1, 0).reshape(N_COILS, -1)
    return flat @ flat.conj().T / flat.shape[1]


@pytest.mark.parametrize("n_blocks", [1, 4])
def test_noise_comes_out_white(n_blocks: int) -> None:
    scans = np.split(noise(4, 4096, 1), n_blocks)
    out = run(
        Prewhiten(receiver_noise_bandwidth=1.0),
        *(block(part, Flag.NOISE) for part in scans),
        block(noise(20, 1000, 2)),
    )
    data, verdicts, models = parts(out)
    np.testing.assert_allclose(measured(data), np.eye(N_COILS), atol=0.03)
    assert [v.level for v in verdicts] == [Level.PASS]
    assert "6 coils, 16384 samples, diagonal max/min" in verdicts[0].evidence
    assert models[0].whitened
    assert models[0].source == "noise scan"


def test_the_noise_scan_itself_becomes_exactly_white() -> None:
    scan = noise(2, 500, 1)
    data, _, _ = parts(run(Prewhiten(receiver_noise_bandwidth=1.0), block(scan, Flag.NOISE), block(scan)))
    np.testing.assert_allclose(measured(data), np.eye(N_COILS), atol=1e-5)


@pytest.mark.parametrize("noise_dwell_us", [2.5, 5.0, 20.0])
def test_noise_power_follows_the_bandwidth(noise_dwell_us: float) -> None:
    """Imaging at 5 us: noise power is noise_dwell / 5 times that of the noise scan, over the receiver's 0.79."""
    imaging = noise(20, 1000, 2) * np.sqrt(noise_dwell_us / 5.0 / 0.79)
    step = Prewhiten()
    out = run(step, block(noise(4, 4096, 1), Flag.NOISE, noise_dwell_us), block(imaging.astype(np.complex64)))
    np.testing.assert_allclose(measured(parts(out)[0]), np.eye(N_COILS), atol=0.05)


def test_discarded_noise_samples_do_not_count() -> None:
    scan = noise(2, 500, 1)
    scan[:, :, :10] = 1e6
    out = run(Prewhiten(), block(scan, Flag.NOISE, discard_pre=10), block(noise(1, 10, 2)))
    assert parts(out)[2][0].n_samples == 980
    assert abs(parts(out)[2][0].covariance).max() < 1e3


def test_without_noise_scan_data_stay_and_it_is_said() -> None:
    imaging = noise(3, 50, 2)
    data, verdicts, models = parts(run(Prewhiten(), block(imaging)))
    np.testing.assert_array_equal(data, imaging)
    assert [v.level for v in verdicts] == [Level.FLAG]
    assert verdicts[0].check == "mri.noise"
    assert "No noise scan: data not whitened, SNR units not available" in verdicts[0].advice
    assert not models[0].whitened


def test_a_dead_coil_is_named_and_silent() -> None:
    scan, imaging = noise(1, 4096, 1), noise(2, 100, 2)
    scan[:, 2] = 0
    data, verdicts, models = parts(run(Prewhiten(), block(scan, Flag.NOISE), block(imaging)))
    assert models[0].dead_coils == (2,)
    assert verdicts[0].level is Level.FLAG
    assert "no noise in coil 2: set to zero" in verdicts[0].advice
    assert not data[:, 2].any()
    assert np.isfinite(data).all()
    living = np.delete(np.arange(N_COILS), 2)
    assert np.abs(data[:, living]).mean() == pytest.approx(np.sqrt(0.79 * np.pi / 4), rel=0.1)


def test_an_all_zero_noise_scan_whitens_nothing() -> None:
    imaging = noise(2, 100, 2)
    data, verdicts, _ = parts(run(Prewhiten(), block(np.zeros_like(imaging), Flag.NOISE), block(imaging)))
    np.testing.assert_array_equal(data, imaging)
    assert "The noise samples are all zero: data not whitened" in verdicts[0].advice


@pytest.mark.parametrize("samples", [1, 5, 30])
def test_too_few_noise_samples_are_flagged_and_safe(samples: int) -> None:
    data, verdicts, _ = parts(run(Prewhiten(), block(noise(1, samples, 1), Flag.NOISE), block(noise(2, 100, 2))))
    assert verdicts[0].level is Level.FLAG
    assert f"only {samples} noise samples for 6 coils" in verdicts[0].advice
    assert np.isfinite(data).all()
    assert 0.05 < np.abs(data).mean() < 50


def test_two_coils_with_the_same_noise_are_flagged_and_safe() -> None:
    scan = noise(1, 4096, 1)
    scan[:, 3] = 2 * scan[:, 4]
    data, verdicts, _ = parts(run(Prewhiten(), block(scan, Flag.NOISE), block(noise(2, 100, 2))))
    assert "not positive definite" in verdicts[0].advice
    assert np.isfinite(data).all()
    assert np.abs(data).max() < 1e4


def test_broken_noise_samples_are_left_out_and_counted() -> None:
    scan = noise(1, 4096, 1)
    scan[0, 1, 7] = np.nan
    scan[0, 2, 9] = np.inf
    data, verdicts, models = parts(run(Prewhiten(), block(scan, Flag.NOISE), block(noise(2, 100, 2))))
    assert models[0].n_samples == 4094
    assert "2 noise samples are not finite" in verdicts[0].advice
    assert np.isfinite(data).all()


@pytest.mark.parametrize(("n", "level"), [(10, Level.HOLD), (200, Level.FLAG)])
def test_broken_readouts_are_taken_out_and_named(n: int, level: Level) -> None:
    imaging = noise(n, 20, 2)
    imaging[3, 0, 5] = np.nan
    scan = block(noise(1, 1000, 1), Flag.NOISE)
    data, verdicts, _ = parts(run(Prewhiten(), scan, block(imaging, k1=np.arange(n), slice=4)))
    assert len(data) == n - 1
    assert np.isfinite(data).all()
    report = verdicts[-1]
    assert (report.check, report.level) == ("mri.readouts", level)
    assert report.advice.startswith("1 readouts held numbers that are not finite")
    assert report.evidence == "readout 3, k1 3, slice 4"


def test_large_finite_numbers_are_not_broken() -> None:
    imaging = np.full((2, N_COILS, 8), 3e38, np.complex64)  # the sum overflows, the samples do not
    data, verdicts, _ = parts(run(Prewhiten(), block(imaging)))
    assert len(data) == 2
    assert [v.check for v in verdicts] == ["mri.noise"]


def test_received_memory_may_be_read_only_and_is_left_alone() -> None:
    imaging = noise(2, 100, 2)
    imaging.flags.writeable = False
    before = imaging.copy()
    data, _, _ = parts(run(Prewhiten(), block(noise(1, 1000, 1), Flag.NOISE), block(imaging)))
    np.testing.assert_array_equal(imaging, before)
    assert not np.array_equal(data, before)


def test_the_hot_path_reuses_its_memory() -> None:
    step = Prewhiten()
    step.open(SCAN)
    list(step.feed(block(noise(1, 1000, 1), Flag.NOISE)))
    places = set()
    for i in range(4):
        *_, out = step.feed(block(noise(2, 100, i)))
        places.add(out.data.__array_interface__["data"][0])
    assert len(places) == 1


def test_noise_of_another_coil_is_not_used() -> None:
    imaging = noise(2, 50, 2)
    scan = block(noise(1, 1000, 1)[:, :4], Flag.NOISE)
    data, verdicts, _ = parts(run(Prewhiten(), scan, block(imaging)))
    np.testing.assert_array_equal(data, imaging)
    assert "Noise scan of 4 coils, imaging with 6: data not whitened" in verdicts[0].advice


def test_noise_in_the_middle_of_a_block_and_after_imaging() -> None:
    mixed = block(np.concatenate([noise(1, 1000, 1), noise(1, 1000, 2)]), flags=[int(Flag.NOISE), 0])
    out = run(Prewhiten(), mixed, block(noise(2, 1000, 3), Flag.NOISE))
    data, verdicts, _ = parts(out)
    assert len(data) == 1
    assert [v.level for v in verdicts] == [Level.PASS, Level.FLAG]
    assert "only the first noise scan was used" in verdicts[1].advice


def test_corners_of_k_space_make_the_coils_equally_noisy() -> None:
    imaging = noise(64, 64, 2)
    centre = np.zeros((64, 1, 64))
    centre[24:40, :, 24:40] = 100
    step = Prewhiten(fallback="corners")
    lines = [block((imaging + centre)[i : i + 1].astype(np.complex64), k1=i) for i in range(64)]
    items = run(step, *lines)
    data, verdicts, models = parts(items)
    assert len(data) == 64, "lines that waited for the corners are not lost"
    order = [int(item.head["k1"][0]) for item in items if isinstance(item, Readouts)]
    assert order == list(range(64))
    assert verdicts[0].level is Level.FLAG
    assert "corners of k-space" in verdicts[0].advice
    assert models[0].n_samples >= 4 * 10 * N_COILS
    outside = np.concatenate([data[:20], data[44:]])
    np.testing.assert_allclose(measured(outside).diagonal().real, 1, atol=0.3)


def test_corners_that_never_come_leave_the_data_as_they_are() -> None:
    imaging = noise(100, 64, 2)
    data, verdicts, _ = parts(
        run(Prewhiten(fallback="corners"), *(block(imaging[i : i + 1], k1=32) for i in range(100)))
    )
    np.testing.assert_array_equal(data, imaging)
    assert "data not whitened" in verdicts[0].advice


def test_a_short_scan_gives_its_held_lines_on_close() -> None:
    data, _, models = parts(run(Prewhiten(fallback="corners"), block(noise(3, 64, 2), k1=[0, 1, 2])))
    assert len(data) == 3
    assert models[0].source == "corners"


def test_a_second_scan_gives_what_the_first_gave() -> None:
    step = Prewhiten()
    blocks = (block(noise(1, 1000, 1), Flag.NOISE), block(noise(3, 50, 2)))
    first, second = run(step, *blocks), run(step, *blocks)
    np.testing.assert_array_equal(parts(first)[0], parts(second)[0])
    assert parts(first)[1] == parts(second)[1]


def test_what_is_not_a_readout_passes() -> None:
    waveform = Waveform(id=0, time_stamp=1, sample_time_us=1.0, data=np.zeros((1, 1), np.uint32))
    assert run(Prewhiten(), waveform) == [waveform]


def test_a_change_of_coils_within_the_scan_is_an_error() -> None:
    with pytest.raises(DataError, match=r"readout 0: expected 6 coils like the readouts before, got 4"):
        run(Prewhiten(), block(noise(1, 10, 1)), block(noise(1, 10, 1)[:, :4]))


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"fallback": "guess"}, "fallback: expected none or corners, got 'guess'"),
        ({"receiver_noise_bandwidth": 0.0}, "receiver_noise_bandwidth: expected a number above 0, at most 1, got 0"),
        ({"receiver_noise_bandwidth": float("nan")}, "receiver_noise_bandwidth"),
    ],
)
def test_wrong_parameters_are_refused(values: dict, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Prewhiten(**values)
