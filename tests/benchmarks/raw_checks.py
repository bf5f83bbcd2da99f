"""Checks of raw MR data: faults planted into virtual scans, clean scans of many kinds, and heads that moved.

Run as ``python -m tests.benchmarks.raw_checks [N_SCANS [N_HEADS]]`` (500 and 40; for the heads the label maps of the
data sets are needed, see `tests.conftest`). Seeds are fixed: the same numbers give the same table.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from acquisition.items import Flag, Item, Readouts, Waveform
from acquisition.mri import Prewhiten
from acquisition.mri_drift import CheckDrift
from acquisition.mri_interference import CheckInterference
from acquisition.mri_noise_level import CheckNoise
from acquisition.mri_order import CheckOrder
from acquisition.mri_overflow import CheckOverflow
from acquisition.mri_repair import Repair
from acquisition.mri_waveform import CheckWaveform
from acquisition.scan import Scan
from acquisition.sources.phantom import faults
from acquisition.sources.phantom.epi import EpiTrain, echo_planar
from acquisition.sources.phantom.exam import MriExam
from acquisition.sources.phantom.mri import Simulation
from acquisition.stream import Chain
from acquisition.verdict import Level, Verdict
from recon.mri import Assemble, Combine, Grappa, ReadoutTransform
from recon.mri import motion as motion_step
from recon.mri.epi import CheckGhost, EpiReadout
from recon.mri.motion import CheckMotion
from recon.mri.shot_poses import ShotPoses
from tests.benchmarks.raw_motion import TRAIN_KINDS, Case, held_out, moving_head

OURS = ("check.mri", "check.ghost", "mri.spikes", "mri.coil", "mri.offset", "mri.lines", "mri.slices")
"""Checks whose marks count as alarms."""
Blocks = list[Readouts]


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualScan:
    """A clean scan, and how strong its noise is."""

    scan: Scan
    """Header."""
    blocks: Blocks
    """Readouts."""
    sigma: float
    """Noise of a sample, sqrt(E|n|^2)."""

    @property
    def is_epi(self) -> bool:
        """True for echo-planar scans."""
        return self.scan.require_mr().encodings[0].trajectory == "epi"

    @property
    def imaging(self) -> NDArray[np.intp]:
        """Numbers of the imaging readouts."""
        flags = [int(b.head["flags"][0]) & int(Flag.NOISE | Flag.PHASE_CORRECTION) for b in self.blocks]
        return np.flatnonzero(np.array(flags) == 0)


def virtual_scan(seed: int) -> VirtualScan:
    """Return a scan of random matrix, coils, SNR, echo time, undersampling, partial Fourier; a quarter echo-planar."""
    rng = np.random.default_rng([seed, 5])
    epi = rng.random() < 0.25
    n = int(rng.choice([64, 80, 96]))
    exam = MriExam(
        matrix=(1, n, int(rng.choice([64, 96]))),
        n_coils=int(rng.choice([4, 8, 12, 16])),
        snr=float(np.exp(rng.uniform(np.log(10), np.log(80)))),
        te_s=(float(rng.uniform(0.003, 0.03)),),
        tr_s=0.05,
        acceleration=1 if epi else int(rng.choice([1, 1, 2, 3])),
        partial_fourier=1.0 if epi else float(rng.choice([1.0, 1.0, 0.75])),
        repetitions=1 if rng.random() < 0.7 or n > 64 else 6,
        n_noise=32,
        position_mm=(0.0, 0.0, float(rng.uniform(-10, 50))),
        seed=seed,
    )
    simulation = Simulation(exam)
    scan, blocks = simulation.scan, list(simulation.readouts())
    if epi:
        scan, stream = echo_planar(scan, blocks, EpiTrain(delay=0.3, constant_rad=0.4))
        blocks = list(stream)
    covariance = simulation.noise_covariance
    return VirtualScan(scan=scan, blocks=blocks, sigma=float(np.sqrt(np.trace(covariance).real / exam.n_coils)))


def checks(scan: Scan) -> Chain:
    """Return the checks as a protocol has them."""
    epi = scan.require_mr().encodings[0].trajectory == "epi"
    front = [CheckOrder(), CheckOverflow(), CheckNoise(), CheckInterference(), CheckDrift(), CheckWaveform()]
    first, last = (
        ([EpiReadout(order="linear")], [Grappa(), Combine(), CheckGhost()]) if epi else ([ReadoutTransform()], [])
    )
    return Chain([*front, Repair(), Prewhiten(), *first, Assemble(), *last])


def alarms(scan: Scan, items: Iterable[Item]) -> list[Verdict]:
    """Return what the checks mark in a stream."""
    chain = checks(scan)
    chain.open(scan)
    out = [made for item in items for made in chain.feed(item)] + list(chain.close())
    found = [v for item in out for v in ([item] if isinstance(item, Verdict) else getattr(item, "verdicts", ()))]
    return [v for v in found if v.level is not Level.PASS and v.check.startswith(OURS)]


def _dead(v: VirtualScan, rng: np.random.Generator) -> Iterable[Item]:
    return faults.dead_coil(v.blocks, int(rng.integers(v.blocks[0].data.shape[1])))


def _noisy(v: VirtualScan, rng: np.random.Generator) -> Iterable[Item]:
    return faults.noisy_coil(v.blocks, int(rng.integers(v.blocks[0].data.shape[1])), std=8 * v.sigma)


def _spike(v: VirtualScan, rng: np.random.Generator) -> Iterable[Item]:
    data = v.blocks[-1].data
    at = {int(rng.choice(v.imaging)): (int(rng.integers(data.shape[1])), int(rng.integers(8, data.shape[2] - 8)))}
    size = max(200 * v.sigma, 0.5 * max(float(np.abs(b.data).max()) for b in v.blocks))
    return faults.spikes(v.blocks, at, value=size * np.exp(2j * np.pi * rng.random()))


def _overflow(v: VirtualScan, rng: np.random.Generator) -> Iterable[Item]:
    largest = [np.abs(b.data.view(np.float32)).max(axis=(0, 2)) for b in v.blocks]
    limit = float(rng.uniform(0.3, 0.7)) * np.max(largest, axis=0).max()
    for block in v.blocks:
        clipped = np.clip(block.data.view(np.float32), -limit, limit)
        yield replace(block, data=clipped.view(np.complex64))


def _missing(v: VirtualScan, rng: np.random.Generator) -> Iterable[Item]:
    return faults.drop_at(v.blocks, int(rng.choice(v.imaging)))


def _twice(v: VirtualScan, rng: np.random.Generator) -> Iterable[Item]:
    return faults.duplicate_line(v.blocks, int(rng.choice(v.imaging)))


def _radio(v: VirtualScan, rng: np.random.Generator) -> Iterable[Item]:
    n = v.blocks[-1].data.shape[2]
    wave = np.exp(2j * np.pi * rng.uniform(-0.45, 0.45) * np.arange(n))
    coils = rng.uniform(0.5, 1, v.blocks[0].data.shape[1])[:, None]
    for block in v.blocks:
        heard = v.sigma * np.exp(2j * np.pi * rng.random()) * coils * wave
        yield replace(block, data=(block.data + heard).astype(np.complex64))


def _ghost(v: VirtualScan, rng: np.random.Generator) -> Iterable[Item]:
    turn = np.exp(1j * rng.uniform(0.6, 1.2) * rng.choice([-1, 1]))
    for block in v.blocks:
        wrong = block.has(Flag.REVERSE).any() and not block.has(Flag.PHASE_CORRECTION).any()
        yield replace(block, data=(block.data * turn).astype(np.complex64)) if wrong else block


def _phase(v: VirtualScan, rng: np.random.Generator) -> Iterable[Item]:
    for i, block in enumerate(v.blocks):
        turn = np.exp(1j * rng.uniform(0, 0.1) + 3j * i / len(v.blocks))
        yield replace(block, data=(block.data * turn).astype(np.complex64))


def _frequency(v: VirtualScan, rng: np.random.Generator) -> Iterable[Item]:
    n, dwell_s = v.blocks[-1].data.shape[2], float(v.blocks[-1].head["dwell_us"][0]) * 1e-6
    for i, block in enumerate(v.blocks):
        hertz = 600.0 * i / len(v.blocks)
        turn = np.exp(2j * np.pi * hertz * dwell_s * (np.arange(n) - n // 2))
        yield replace(block, data=(block.data * turn).astype(np.complex64))


def _noise_grows(v: VirtualScan, rng: np.random.Generator) -> Iterable[Item]:
    for block in v.blocks:
        if block.has(Flag.NOISE).any():
            yield block
        else:
            noise = rng.standard_normal((*block.data.shape, 2), np.float32).view(np.complex64)[..., 0]
            yield replace(block, data=block.data + np.float32(3 * v.sigma / np.sqrt(2)) * noise)


def _any(v: VirtualScan) -> bool:
    return True


def _cartesian(v: VirtualScan) -> bool:
    return not v.is_epi


def _repeated(v: VirtualScan) -> bool:
    return not v.is_epi and v.scan.require_mr().encodings[0].limit("repetition").maximum >= 4


FAULTS: dict[str, tuple[Callable[[VirtualScan, np.random.Generator], Iterable[Item]], tuple[str, ...], Callable]] = {
    "dead coil": (_dead, ("mri.coil", "check.mri_noise"), _any),
    "noisy coil, 8 times": (_noisy, ("mri.coil", "check.mri_noise"), _any),
    "spike": (_spike, ("mri.spikes",), _any),
    "overflow at 30 to 70 %": (_overflow, ("check.mri_overflow",), _any),
    "missing line": (_missing, ("check.mri_order", "mri.lines"), _any),
    "line sent twice": (_twice, ("check.mri_order", "mri.lines"), _any),
    "radio, 0.5 to 1 noise": (_radio, ("check.mri_interference",), _any),
    "noise grows 3 times after its scan": (_noise_grows, ("check.mri_noise_change",), _cartesian),
    "phase drift, 3 rad": (_phase, ("check.mri_phase_drift",), _repeated),
    "frequency drift, 600 Hz": (_frequency, ("check.mri_frequency_drift",), _repeated),
    "EPI ghost, 0.6 to 1.2 rad": (_ghost, ("check.ghost",), lambda v: v.is_epi),
}
"""Fault -> how it is planted, checks that may find it, scans in which it can be."""


def planted(n: int) -> tuple[dict[str, list[bool]], dict[str, int], int]:
    """Return what was found of each fault, alarms in clean scans by check, and clean scans with an alarm."""
    found: dict[str, list[bool]] = {name: [] for name in FAULTS}
    false: dict[str, int] = {}
    n_false = 0
    for seed in range(n):
        v = virtual_scan(seed)
        marks = {a.check for a in alarms(v.scan, v.blocks)}
        n_false += bool(marks)
        for check in marks:
            false[check] = false.get(check, 0) + 1
        for i, (name, (plant, names, fits)) in enumerate(FAULTS.items()):
            if fits(v) and (seed + i) % 2 == 0:
                rng = np.random.default_rng([seed, i])
                found[name].append(any(a.check in names for a in alarms(v.scan, plant(v, rng))))
    return found, false, n_false


def breaths(seed: int, fault: str) -> Waveform:
    """Return a minute of breathing as a belt shows it, with a fault."""
    rng = np.random.default_rng([seed, 9])
    time_s = np.arange(0, 60, 0.02)
    period = 4 + 0.4 * np.sin(time_s / rng.uniform(5, 9)) + rng.uniform(-1, 1)
    depth = np.sin(np.pi * np.cumsum(0.02 / period)) ** 4 * (1 + 0.15 * np.sin(time_s / 7 + seed))
    values = 500 + 2500 * depth + 15 * rng.standard_normal(len(time_s))
    if fault == "belt off":
        values[:] = 700
    elif fault == "cut off":
        values = np.minimum(values, np.percentile(values, rng.uniform(60, 80)))
    elif fault == "coughs":
        for start in rng.choice(len(time_s) - 60, 3, replace=False):
            values[start : start + 60] += 3500 * rng.choice([-1, 1])
    data = np.clip(np.round(values), -32768, 32767) + 32768
    return Waveform(id=2, time_stamp=0, sample_time_us=2e4, data=data.astype(np.uint32)[None], offset=-32768.0)


def breathing(n: int) -> dict[str, float]:
    """Return the part of signals that are marked, by fault."""
    out = {}
    for fault in ("", "belt off", "cut off", "coughs"):
        marked = 0
        for seed in range(n):
            step = CheckWaveform()
            step.open(Scan(uid="belt", modality="MR"))
            _ = list(step.feed(breaths(seed, fault)))
            marked += any(v.level is not Level.PASS for v in step.close())  # type: ignore[union-attr]
        out[fault or "regular"] = marked / n
    return out


def auc(score: NDArray, positive: NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve."""
    n = int(positive.sum())
    return float((rankdata(score)[positive].sum() - n * (n + 1) / 2) / max(n * (len(score) - n), 1))


def judged(case: Case, calibration: str) -> tuple[ShotPoses | None, Verdict | None, float]:
    """Return poses, verdict and processor time [s] of one moving head."""
    found: list[ShotPoses] = []
    estimate = motion_step.shot_poses

    def kept(*args: object, **more: object) -> ShotPoses:
        found.append(estimate(*args, **more))  # type: ignore[arg-type]
        return found[-1]

    motion_step.shot_poses = kept  # type: ignore[assignment]
    try:
        start = time.process_time()
        scan, chain = case.scan(calibration), Chain([ReadoutTransform(), CheckMotion()])
        chain.open(scan)
        out = [made for block in case.readouts(calibration) for made in chain.feed(block)] + list(chain.close())
        spent = time.process_time() - start
    finally:
        motion_step.shot_poses = estimate
    verdicts = [item for item in out if isinstance(item, Verdict)]
    return (found[0] if found else None), (verdicts[0] if verdicts else None), spent


def moving(cases: Sequence[Case], calibration: str) -> str:
    """Return one row of the table of moving heads; shots that are not judged count as not moved."""
    way, moved, errors, flagged, spent = [], [], [], [], []
    for case in cases:
        found, verdict, seconds = judged(case, calibration)
        spent.append(seconds)
        moved += case.moved.tolist()
        way += (np.zeros(len(case.moved)) if found is None else found.way_mm).tolist()
        flagged.append(verdict is not None and verdict.level is not Level.PASS)
        if found is not None and case.moved.any():
            true = case.poses - np.median(case.poses, axis=0)
            pose = np.column_stack([found.shift_mm, found.turn_deg])
            errors += np.abs(pose - true)[case.moved].tolist()
    score, truth = np.array(way), np.array(moved)
    if not truth.any():
        return f"- | - | - | {np.percentile(score, 95):.2f} | {100 * np.mean(flagged):.0f} | {max(spent):.2f}"
    wrong = ", ".join(f"{e:.1f}" for e in np.median(errors, axis=0))
    still = np.percentile(score[~truth], 95)
    marked = f"{100 * np.mean(flagged):.0f}"
    return f"{auc(score, truth):.3f} | {len(score)} | {wrong} | {still:.2f} | {marked} | {max(spent):.2f}"


def heads_table(n: int, data: Path) -> Iterator[str]:
    """Yield the rows of the table of moving heads."""
    yield (
        "| movement | calibration | AUC | shots | error: y, x [mm], turn [deg] | still, 95 % [mm] | scans marked [%] | "
        "most CPU [s] |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    with tempfile.TemporaryDirectory() as folder:
        heads = held_out(data, Path(os.environ.get("ISOCENTER_HEADS", folder)))
        for movement in ("in plane", "any", "still"):
            cases = [moving_head(heads[s % len(heads)], s, kinds=TRAIN_KINDS, motion=movement) for s in range(n)]
            for calibration in ("separate", "embedded"):
                yield f"| {movement} | {calibration} | {moving(cases, calibration)} |"


def main() -> int:
    """Print the tables."""
    torch.set_num_threads(1)
    numbers = [int(a) for a in sys.argv[1:] if a.isdigit()]
    n, n_heads = numbers[0] if numbers else 500, numbers[1] if len(numbers) > 1 else 40
    found, false, n_false = planted(n)
    print("| planted | scans | found [%] |\n|---|---|---|")
    for name, marks in found.items():
        print(f"| {name} | {len(marks)} | {100 * np.mean(marks) if marks else float('nan'):.1f} |")
    print(f"\n{n_false} of {n} clean scans were marked ({100 * n_false / n:.1f} %): {false or 'none'}\n")
    for name, part in breathing(n).items():
        print(f"breathing signal, {name}: {100 * part:.1f} % marked")
    data = Path(os.environ.get("ISOCENTER_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
    if n_heads and (data / "images" / "head_labels").is_dir():
        print("")
        for row in heads_table(n_heads, data):
            print(row, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
