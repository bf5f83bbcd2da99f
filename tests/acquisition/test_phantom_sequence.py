"""What the virtual scanner says about its readouts: order, counters, flags, header, clock."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from acquisition.items import COUNTERS, READOUT_HEAD, Flag
from acquisition.sources.phantom.exam import MriExam, demo_exam
from acquisition.sources.phantom.mri import Simulation
from acquisition.sources.phantom.sequence import acs_lines, heads, lattice_lines, slice_order
from tests.phantoms import assemble, nrmse, small_exam, small_simulation

EXAMS = {
    "full": small_exam(n_noise=3),
    "embedded": small_exam(acceleration=2, n_acs=16),
    "separate": small_exam(acceleration=3, n_acs=16, calibration="separate", n_noise=4),
    "partial": small_exam(partial_fourier=0.75, acceleration=2, n_acs=12),
    "all loops": small_exam(matrix=(5, 33, 32), averages=2, repetitions=3, te_s=(0.003, 0.006), tr_s=0.004),
    "3D": small_exam(kind="3D", matrix=(6, 32, 32), acceleration=2, n_acs=8, averages=2),
    "one slice": small_exam(matrix=(1, 16, 16)),
    "demo": demo_exam(),
}


@pytest.fixture(params=EXAMS, scope="module")
def exam(request: pytest.FixtureRequest) -> MriExam:
    return EXAMS[request.param]


def has(head: np.ndarray, flag: Flag) -> np.ndarray:
    return (head["flags"] & np.uint64(flag)) != 0


def imaging(head: np.ndarray) -> np.ndarray:
    """What is not noise and not separate calibration."""
    return head[np.flatnonzero(has(head, Flag.FIRST_IN_SLICE))[0] :]


def test_counters_stay_within_the_limits_and_reach_them(exam: MriExam) -> None:
    encoding = Simulation(exam).scan.require_mr().encodings[0]
    head = imaging(heads(exam))
    for name in COUNTERS:
        limits = encoding.limit(name)
        assert head[name].min() >= limits.minimum
        assert head[name].max() <= limits.maximum
        if name != "k1":
            assert set(head[name]) == set(range(limits.minimum, limits.maximum + 1))
    assert limits_are_reached(head["k1"], encoding.limit("k1").maximum, exam)


def limits_are_reached(k1: np.ndarray, maximum: int, exam: MriExam) -> bool:
    return k1.min() < exam.acceleration and k1.max() > maximum - exam.acceleration


def test_the_centre_of_k_space_is_always_measured(exam: MriExam) -> None:
    encoding = Simulation(exam).scan.require_mr().encodings[0]
    assert encoding.limit("k1").center in lattice_lines(exam)
    assert encoding.limit("k2").center == exam.n_partitions // 2
    assert encoding.limit("k0").center == heads(exam)["center_sample"][0] == exam.matrix[2]


def test_every_frame_is_complete_and_no_line_comes_twice(exam: MriExam) -> None:
    head = imaging(heads(exam))
    names = ("repetition", "slice", "average", "contrast", "k2", "k1")
    seen = Counter(zip(*(head[n].tolist() for n in names), strict=True))
    assert set(seen.values()) == {1}
    frames = exam.repetitions * exam.n_slices * exam.averages * len(exam.te_s) * exam.n_partitions
    per_frame = np.union1d(lattice_lines(exam), acs_lines(exam) if exam.calibration == "embedded" else [])
    assert len(seen) == frames * len(per_frame)


@pytest.mark.parametrize(
    ("first", "last", "names"),
    [
        (Flag.FIRST_IN_SLICE, Flag.LAST_IN_SLICE, ("repetition", "slice")),
        (Flag.FIRST_IN_REPETITION, Flag.LAST_IN_REPETITION, ("repetition",)),
        (Flag.FIRST_IN_AVERAGE, Flag.LAST_IN_AVERAGE, ("repetition", "slice", "average")),
        (Flag.FIRST_IN_CONTRAST, Flag.LAST_IN_CONTRAST, ("repetition", "slice", "contrast")),
        (Flag.FIRST_IN_K1, Flag.LAST_IN_K1, ("repetition", "slice", "average", "k2", "contrast")),
    ],
)
def test_edges_are_marked_once_at_the_edge(exam: MriExam, first: Flag, last: Flag, names: tuple[str, ...]) -> None:
    head = heads(exam)
    runs: dict[tuple[int, ...], list[int]] = {}
    start = len(head) - len(imaging(head))
    for number in range(start, len(head)):
        runs.setdefault(tuple(int(head[name][number]) for name in names), []).append(number)
    assert np.flatnonzero(has(head, first)).tolist() == sorted(run[0] for run in runs.values())
    assert np.flatnonzero(has(head, last)).tolist() == sorted(run[-1] for run in runs.values())


def test_only_the_very_last_readout_ends_the_measurement(exam: MriExam) -> None:
    head = heads(exam)
    assert np.flatnonzero(has(head, Flag.LAST_IN_MEASUREMENT)).tolist() == [len(head) - 1]


def test_k2_edges_are_marked_in_3d_only() -> None:
    head = heads(EXAMS["3D"])
    assert has(head, Flag.FIRST_IN_K2).sum() == has(head, Flag.LAST_IN_K2).sum() == 2
    assert not has(heads(EXAMS["full"]), Flag.FIRST_IN_K2 | Flag.LAST_IN_K2).any()


def test_noise_comes_first_and_is_nothing_else(exam: MriExam) -> None:
    head = heads(exam)
    assert np.flatnonzero(has(head, Flag.NOISE)).tolist() == list(range(exam.n_noise))
    assert (head["flags"][: exam.n_noise] == int(Flag.NOISE)).all()


def test_embedded_calibration_fills_the_centre() -> None:
    exam = EXAMS["embedded"]
    one = heads(exam)
    one = one[one["slice"] == 0]
    both, only = has(one, Flag.CALIBRATION_AND_IMAGING), has(one, Flag.CALIBRATION)
    assert sorted(one["k1"][both | only]) == list(range(24, 40))
    assert not (both & only).any()
    assert (one["k1"][both] % 2 == 0).all() and (one["k1"][only] % 2 == 1).all()
    assert np.all(np.diff(one["k1"].astype(int)) > 0)


def test_separate_calibration_comes_before_imaging_for_all_slices() -> None:
    exam = EXAMS["separate"]
    head = heads(exam)
    part = head[exam.n_noise : exam.n_noise + 3 * 16]
    assert (part["flags"] == int(Flag.CALIBRATION)).all()
    assert Counter(part["slice"].tolist()) == {0: 16, 1: 16, 2: 16}
    assert sorted(set(part["k1"].tolist())) == list(range(24, 40))
    rest = head[exam.n_noise + 3 * 16 :]
    assert not has(rest, Flag.CALIBRATION | Flag.CALIBRATION_AND_IMAGING).any()
    assert set(rest["k1"] % 3) == {32 % 3}


def test_full_sampling_has_no_calibration() -> None:
    assert not has(heads(EXAMS["full"]), Flag.CALIBRATION | Flag.CALIBRATION_AND_IMAGING).any()
    assert acs_lines(EXAMS["full"]).size == 0


def test_partial_fourier_shifts_the_centre() -> None:
    exam = EXAMS["partial"]
    encoding = Simulation(exam).scan.require_mr().encodings[0]
    assert encoding.matrix[1] == 64
    assert (encoding.limit("k1").maximum, encoding.limit("k1").center) == (47, 16)
    assert small_exam(partial_fourier=0.5001).n_lines == 33  # the centre and one half at least


def test_partial_fourier_data_are_lines_of_the_full_data() -> None:
    full, partial = small_simulation(), small_simulation(partial_fourier=0.75)
    ours = assemble(partial.scan, partial.readouts(block=64))[1, 0, 0]
    np.testing.assert_array_equal(ours[:, :, 16:], full.kspace(1)[:, :, 16:])
    assert not ours[:, :, :16].any()


@pytest.mark.parametrize("calibration", ["embedded", "separate"])
def test_undersampled_data_are_lines_of_the_full_data(calibration: str) -> None:
    full, fast = small_simulation(), small_simulation(acceleration=2, n_acs=8, calibration=calibration)
    ours = assemble(fast.scan, fast.readouts(block=64))[2, 0, 0]
    measured = np.abs(ours).sum((0, 1, 3)) > 0
    expected = set(range(0, 64, 2)) | (set(range(28, 36)) if calibration == "embedded" else set())
    assert set(np.flatnonzero(measured)) == expected
    np.testing.assert_array_equal(ours[:, :, measured], full.kspace(2)[:, :, measured])


def test_averages_and_repetitions_hold_the_same_object() -> None:
    simulation = small_simulation(averages=2, repetitions=2, matrix=(2, 32, 32))
    frames = assemble(simulation.scan, simulation.readouts(block=32))
    assert set(frames) == {(s, 0, r) for s in (0, 1) for r in (0, 1)}
    assert nrmse(frames[0, 0, 0], frames[0, 0, 1]) < 1e-6


def test_interleaved_slices_come_even_first() -> None:
    assert slice_order(small_exam(matrix=(5, 16, 16))).tolist() == [0, 2, 4, 1, 3]
    assert slice_order(small_exam(matrix=(5, 16, 16), slice_order="ascending")).tolist() == [0, 1, 2, 3, 4]
    assert slice_order(EXAMS["3D"]).tolist() == [0]


def test_heads_carry_shape_geometry_and_coils(exam: MriExam) -> None:
    head = heads(exam)
    assert head.dtype == READOUT_HEAD
    assert set(head["n_samples"]) == {2 * exam.matrix[2]}
    assert set(head["n_coils"]) == set(head["available_coils"]) == {exam.n_coils}
    bits = np.unpackbits(head["channel_mask"][0].view(np.uint8), bitorder="little")
    assert np.flatnonzero(bits).tolist() == list(range(exam.n_coils))
    for name, direction in zip(("read_dir", "phase_dir", "slice_dir"), exam.directions, strict=True):
        np.testing.assert_allclose(head[name], np.tile(direction, (len(head), 1)), atol=1e-6)
    assert len(set(head["measurement_uid"])) == 1
    for s in range(exam.n_slices):
        place = exam.grid.plane(s).centre_mm if exam.kind == "2D" else exam.position_mm
        np.testing.assert_allclose(head["position"][head["slice"] == s][0], place, atol=1e-4)


def test_more_than_64_channels_are_masked_too() -> None:
    head = heads(small_exam(matrix=(1, 8, 8), n_coils=70))
    assert head["channel_mask"][0].tolist() == [2**64 - 1, 2**6 - 1, *[0] * 14]


def test_the_clock_runs(exam: MriExam) -> None:
    head = heads(exam)
    assert head["scan_counter"].tolist() == list(range(len(head)))
    ticks = np.diff(head["time_stamp"].astype(np.int64))
    assert (ticks >= 0).all()
    spent_s = (head["time_stamp"][-1] - head["time_stamp"][0]) * 0.0025
    assert spent_s == pytest.approx((len(head) - 1) * exam.readout_time_s, abs=0.0026)


def test_the_header_is_filled() -> None:
    scan = Simulation(demo_exam()).scan
    encoding = scan.require_mr().encodings[0]
    assert scan.patient.name == "PHANTOM^ISOCENTER"
    assert scan.study.instance_uid is not None and scan.study.instance_uid.startswith("2.25.")
    assert len(scan.study.instance_uid) <= 64
    assert encoding.matrix == (1, 256, 512)
    assert encoding.fov_mm == (5.0, 240.0, 480.0)
    assert encoding.recon_matrix == (1, 256, 256)
    assert encoding.recon_fov_mm == (5.0, 240.0, 240.0)
    assert encoding.acceleration == (1.0, 2.0)
    assert encoding.calibration_mode == "embedded"
    assert set(encoding.limits) == {"k0", "k2", *COUNTERS}
    assert scan.require_mr().te_s == (0.0034,)
    assert scan.equipment.n_coils == 16
    assert Simulation(small_exam()).scan.require_mr().encodings[0].calibration_mode is None


def test_the_slab_of_a_3d_scan_is_encoded() -> None:
    encoding = Simulation(EXAMS["3D"]).scan.require_mr().encodings[0]
    assert encoding.matrix == (6, 32, 64)
    assert encoding.fov_mm[0] == 30.0
    assert encoding.limit("slice").maximum == 0


def test_exams_of_one_patient_share_study_and_frame_but_not_series() -> None:
    first, second = small_exam(), small_exam(series_number=2)
    a, b = Simulation(first).scan.study, Simulation(second).scan.study
    assert (a.instance_uid, a.frame_of_reference_uid) == (b.instance_uid, b.frame_of_reference_uid)
    assert a.series_instance_uid != b.series_instance_uid
    other = Simulation(small_exam(patient_id="PHANTOM-0002")).scan.study
    assert other.instance_uid != a.instance_uid
    assert Simulation(small_exam(n_coils=5)).scan.uid != Simulation(first).scan.uid
