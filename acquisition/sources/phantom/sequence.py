"""The order in which a virtual scanner reads its lines, and the heads that say so.

Order: noise readouts; separate calibration lines of all slices; then, from slow to fast, repetition, slice (in
slice order), average, k2, k1, contrast. FIRST and LAST flags stand on imaging readouts: SLICE once per slice and
repetition, AVERAGE and CONTRAST per slice, K1 per (slice, average, k2, contrast), K2 per (slice, average,
contrast) in 3D. The k1 counter starts at 0 at the first line of the partial Fourier band; the header's limits
name its centre.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from acquisition.items import READOUT_HEAD, Flag
from acquisition.sources.phantom.exam import MriExam

TICK_S = 0.0025
"""One tick of the time stamps [s]."""
_START_TICKS = int(9.5 * 3600 / TICK_S)  # 09:30:00, the scan's start
_LOOPS = ("repetition", "slice", "average", "k2", "k1", "contrast")

Heads = NDArray[np.void]

# flag pair -> counters that name the run of readouts of which it marks the first and the last
_EDGES: dict[tuple[Flag, Flag], tuple[str, ...]] = {
    (Flag.FIRST_IN_K1, Flag.LAST_IN_K1): ("repetition", "slice", "average", "k2", "contrast"),
    (Flag.FIRST_IN_AVERAGE, Flag.LAST_IN_AVERAGE): ("repetition", "slice", "average"),
    (Flag.FIRST_IN_SLICE, Flag.LAST_IN_SLICE): ("repetition", "slice"),
    (Flag.FIRST_IN_CONTRAST, Flag.LAST_IN_CONTRAST): ("repetition", "slice", "contrast"),
    (Flag.FIRST_IN_REPETITION, Flag.LAST_IN_REPETITION): ("repetition",),
}
_EDGES_3D = _EDGES | {(Flag.FIRST_IN_K2, Flag.LAST_IN_K2): ("repetition", "slice", "average", "contrast")}


def acs_lines(exam: MriExam) -> NDArray[np.int64]:
    """Return the k1 counters of the calibration lines; none when R = 1."""
    if exam.acceleration == 1:
        return np.empty(0, np.int64)
    first = max(0, exam.k1_center - exam.n_acs // 2)
    return np.arange(first, min(exam.n_lines, exam.k1_center - exam.n_acs // 2 + exam.n_acs))


def lattice_lines(exam: MriExam) -> NDArray[np.int64]:
    """Return the k1 counters of the regular undersampling; the centre is always one of them."""
    return np.arange(exam.k1_center % exam.acceleration, exam.n_lines, exam.acceleration)


def slice_order(exam: MriExam) -> NDArray[np.int64]:
    """Return the slice counters in the order of excitation."""
    slices = np.arange(exam.n_slices)
    return slices if exam.slice_order == "ascending" else np.concatenate([slices[::2], slices[1::2]])


def heads(exam: MriExam) -> Heads:
    """Return the heads of all readouts of the exam in the order of measurement, dtype `READOUT_HEAD`."""
    parts = [np.zeros(exam.n_noise, READOUT_HEAD)]
    parts[0]["flags"] = int(Flag.NOISE)
    lattice, acs = lattice_lines(exam), acs_lines(exam)
    if exam.calibration == "separate" and acs.size:
        parts.append(_loops(exam, acs, repetitions=1, averages=1))
        parts[-1]["flags"] = int(Flag.CALIBRATION)
        lines = lattice
    else:
        lines = np.union1d(lattice, acs)
    imaging = _loops(exam, lines, repetitions=exam.repetitions, averages=exam.averages)
    if exam.calibration == "embedded":
        imaging["flags"] |= _embedded(imaging["k1"], lattice, acs)
    _mark_edges(imaging, _EDGES if exam.kind == "2D" else _EDGES_3D)
    imaging["flags"][-1] |= np.uint64(Flag.LAST_IN_MEASUREMENT)
    return _common(exam, np.concatenate([*parts, imaging]))


def _loops(exam: MriExam, lines: NDArray[np.int64], *, repetitions: int, averages: int) -> Heads:
    """Return heads with the counters of the nested loops."""
    ranges = (
        np.arange(repetitions),
        slice_order(exam),
        np.arange(averages),
        np.arange(exam.n_partitions),
        lines,
        np.arange(len(exam.te_s)),
    )
    loops = np.meshgrid(*ranges, indexing="ij")
    part = np.zeros(loops[0].size, READOUT_HEAD)
    for name, values in zip(_LOOPS, loops, strict=True):
        part[name] = values.ravel()
    return part


def _embedded(k1: NDArray[np.uint16], lattice: NDArray[np.int64], acs: NDArray[np.int64]) -> NDArray[np.uint64]:
    calibration, regular = np.isin(k1, acs), np.isin(k1, lattice)
    flags = np.where(regular, int(Flag.CALIBRATION_AND_IMAGING), int(Flag.CALIBRATION))
    return np.where(calibration, flags, 0).astype(np.uint64)


def _mark_edges(part: Heads, edges: dict[tuple[Flag, Flag], tuple[str, ...]]) -> None:
    for (first, last), names in edges.items():
        keys = np.stack([part[name] for name in names], axis=1)
        _, starts = np.unique(keys, axis=0, return_index=True)
        _, ends = np.unique(keys[::-1], axis=0, return_index=True)
        part["flags"][starts] |= np.uint64(first)
        part["flags"][len(part) - 1 - ends] |= np.uint64(last)


def _common(exam: MriExam, head: Heads) -> Heads:
    """Fill in what all readouts share, the geometry of each slice, and the clock."""
    nx, n = exam.matrix[2], len(head)
    noise = (head["flags"] & np.uint64(Flag.NOISE)) != 0
    head["version"] = 1
    head["measurement_uid"] = int(exam.digest[:8], 16)
    head["scan_counter"] = np.arange(n)
    head["n_samples"], head["center_sample"] = 2 * nx, nx
    head["n_coils"] = head["available_coils"] = exam.n_coils
    head["channel_mask"] = _channel_mask(exam.n_coils)
    head["dwell_us"] = np.where(noise, exam.noise_dwell_us or exam.dwell_us, exam.dwell_us)
    head["read_dir"], head["phase_dir"], head["slice_dir"] = exam.directions
    grid = exam.grid
    centres = [grid.plane(s).centre_mm if exam.kind == "2D" else grid.centre_mm for s in range(exam.n_slices)]
    head["position"] = np.asarray(centres)[head["slice"]]
    head["time_stamp"] = _START_TICKS + np.floor(np.arange(n) * exam.readout_time_s / TICK_S)
    return head


def _channel_mask(n_coils: int) -> NDArray[np.uint64]:
    bits = np.zeros(16 * 64, np.uint8)
    bits[:n_coils] = 1
    return np.packbits(bits, bitorder="little").view("<u8")
