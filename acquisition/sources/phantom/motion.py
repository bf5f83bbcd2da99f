"""What moves during a virtual scan: breathing, the heart, and a patient who does not lie still.

Motion is a small number of objects and the number of the one that is there during each readout.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import ConfigError
from acquisition.geometry import Vector
from acquisition.items import Readouts, Waveform
from acquisition.scan import Scan
from acquisition.sources.phantom.coils import ReceiveArray
from acquisition.sources.phantom.exam import MriExam
from acquisition.sources.phantom.mri import Simulation
from acquisition.sources.phantom.objects import Phantom
from acquisition.sources.phantom.torso import torso

RESPIRATION = 2
"""Kind of the waveform in MRD."""
_SAMPLE_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """What lies in the scanner when."""

    objects: tuple[Phantom, ...]
    """The object in each state."""
    states: tuple[int, ...]
    """State during each readout."""
    trace: NDArray[np.float64]
    """What moves, over the readouts: the depth of the breath (0 to 1), or the number of the pose."""


def breathing(
    n_readouts: int, *, tr_s: float, seed: int = 0, period_s: float = 4.0, n_states: int = 10, pulse_s: float = 0.0
) -> Schedule:
    """Return a torso that breathes, and whose heart beats every `pulse_s` where that is not 0.

    The breath follows ``sin^4``: longer out than in (Lujan et al., Med Phys 1999;26:715, DOI 10.1118/1.598577).

    Parameters
    ----------
    n_readouts
        Readouts of the scan.
    tr_s
        Time from readout to readout [s].
    seed
        Chooses the person.
    period_s, pulse_s
        Time of one breath and of one heart beat [s].
    n_states
        Depths of the breath (and phases of the heart) that are told apart.

    Raises
    ------
    ConfigError
        A time or number is not positive.
    """
    for name, fine, got in (
        ("n_readouts", n_readouts >= 1, n_readouts),
        ("tr_s", tr_s > 0, tr_s),
        ("period_s", period_s > 0, period_s),
        ("n_states", n_states >= 2, n_states),
        ("pulse_s", pulse_s >= 0, pulse_s),
    ):
        if not fine:
            raise ConfigError(f"breathing {name}", expected="a positive number (n_states: 2 or more)", got=str(got))
    time_s = np.arange(n_readouts) * tr_s
    depth = np.sin(np.pi * time_s / period_s) ** 4
    level = np.round(depth * (n_states - 1)).astype(int)
    phase = np.floor(time_s / pulse_s * n_states).astype(int) % n_states if pulse_s else np.zeros(n_readouts, int)
    pairs, states = np.unique(np.stack([level, phase], 1), axis=0, return_inverse=True)
    objects = tuple(torso(seed, breath=a / (n_states - 1), beat=b / n_states) for a, b in pairs.tolist())
    return Schedule(objects=objects, states=tuple(states.ravel().tolist()), trace=depth)


def poses(
    phantom: Phantom, moves: Sequence[tuple[float, Vector]], states: Sequence[int], *, centre_mm: Vector
) -> Schedule:
    """Return a patient who turns and shifts: pose i is `phantom` turned about S by the first of ``moves[i]`` [degrees]
    around `centre_mm`, then shifted by the second, LPS [mm]."""
    objects = []
    for angle_deg, shift_mm in moves:
        c, s = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
        turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        centre = np.asarray(centre_mm, float)
        objects.append(phantom.transformed(turn, centre - turn @ centre + np.asarray(shift_mm)))
    return Schedule(objects=tuple(objects), states=tuple(states), trace=np.asarray(states, float))


def respiration(schedule: Schedule, *, tr_s: float) -> Waveform:
    """Return the breath as the scanner's belt measures it, 50 times a second, 0 to 4095."""
    n = max(1, int(len(schedule.trace) * tr_s / _SAMPLE_S))
    time_s = np.arange(n) * _SAMPLE_S
    values = np.interp(time_s, np.arange(len(schedule.trace)) * tr_s, schedule.trace)
    data = np.round(4095 * values / max(float(np.max(values)), 1e-9)).astype(np.uint32)[None]
    return Waveform(id=RESPIRATION, time_stamp=0, sample_time_us=1e6 * _SAMPLE_S, data=data)


def moving(exam: MriExam, schedule: Schedule, *, coils: ReceiveArray | None = None) -> tuple[Scan, Iterator[Readouts]]:
    """Return header and readouts, one by one, of a Cartesian exam during which the object moves.

    Parameters
    ----------
    exam
        What is measured.
    schedule
        What lies in the scanner during each readout; its last state stays when the scan is longer.
    coils
        The receive array; a cage around the head when None.
    """
    scanners = [Simulation(exam, phantom, coils=coils) for phantom in schedule.objects]
    last = len(schedule.states) - 1

    def readouts() -> Iterator[Readouts]:
        for number, blocks in enumerate(zip(*(s.readouts() for s in scanners), strict=True)):
            yield blocks[schedule.states[min(number, last)]]

    return scanners[0].scan, readouts()
