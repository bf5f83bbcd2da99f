"""Echo-planar readouts made of Cartesian ones: alternating directions, ramps, eddy currents' delay and phase.

The samples of a line are placed by the gradient's trapezoid and its delay: the line's profile is transformed to where
it was really measured. Runs of one slice begin with three navigators.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from acquisition.items import Flag, Readouts
from acquisition.scan import Scan

_NAVIGATORS = (True, False, True)  # which of them run backwards


@dataclass(frozen=True, slots=True, kw_only=True)
class EpiTrain:
    """How the readout gradient swings."""

    ramp_us: float = 120.0
    """Ramp on both sides [us]; 0 samples evenly."""
    flat_us: float = 200.0
    """Flat top [us]."""
    wait_us: float = 20.0
    """From the start of the ramp to the first sample [us]."""
    delay: float = 0.0
    """Delay of the gradient against the samples [samples]."""
    constant_rad: float = 0.0
    """Phase of backward readouts against forward ones [rad]."""

    def dwell_us(self, n: int) -> float:
        """Return the time between samples [us], so that `n` of them fill the trapezoid evenly about its middle."""
        return (2 * self.ramp_us + self.flat_us - 2 * self.wait_us) / n

    def places(self, n: int) -> NDArray[np.float64]:
        """Return where the samples of a forward readout lie [cycles per encoded field of view], without delay."""
        even = (np.arange(n) - n // 2).astype(float)
        if self.ramp_us == 0:
            return even
        time = self.wait_us + np.arange(n) * self.dwell_us(n)
        total = 2 * self.ramp_us + self.flat_us
        fine = np.linspace(0, total, 20_001)
        gradient = np.minimum(np.minimum(fine, total - fine) / self.ramp_us, 1)
        area = np.concatenate([[0], np.cumsum((gradient[1:] + gradient[:-1]) / 2)])
        place = np.interp(time, fine, area)
        place -= place[n // 2]
        return np.asarray(place * ((n - 1) / (place[-1] - place[0])))


def echo_planar(scan: Scan, readouts: Iterable[Readouts], train: EpiTrain) -> tuple[Scan, Iterator[Readouts]]:
    """Return header and stream of an echo-planar scan of the same object.

    Parameters
    ----------
    scan, readouts
        A Cartesian scan, each line with its samples even and the centre at sample n // 2.
    train
        How the gradient swings.
    """
    header = scan.require_mr()
    (encoding,) = header.encodings
    n = encoding.matrix[2]
    given: dict[str, float | str] = {}
    if train.ramp_us:
        given = {
            "rampUpTime": train.ramp_us,
            "rampDownTime": train.ramp_us,
            "flatTopTime": train.flat_us,
            "acqDelayTime": train.wait_us,
            "dwellTime": train.dwell_us(n),
        }
    encoding = replace(encoding, trajectory="epi", trajectory_parameters=given)
    return replace(scan, mr=replace(header, encodings=(encoding,))), _train(readouts, train, n)


def _train(readouts: Iterable[Readouts], train: EpiTrain, n: int) -> Iterator[Readouts]:
    matrices = {
        reverse: _to_places((-1 if reverse else 1) * (train.places(n) - train.delay), n) for reverse in (False, True)
    }
    turn = {False: 1.0, True: np.exp(1j * train.constant_rad)}
    counter, run, echo = 0, None, 0
    for block in readouts:
        for i in range(len(block)):
            line = block.select(np.arange(len(block)) == i)
            flags = int(line.head["flags"][0])
            if flags & Flag.NOISE:
                yield _counted(line, counter, Flag(0))
                counter += 1
                continue
            mine = (*(int(line.head[c][0]) for c in ("slice", "repetition", "set")), bool(flags & Flag.CALIBRATION))
            if mine != run:
                run, echo = mine, 0
                for reverse in _NAVIGATORS:
                    yield _navigator(line, matrices[reverse] * turn[reverse], counter, reverse)
                    counter += 1
            reverse = echo % 2 == 1
            echo += 1
            data = (line.data @ (matrices[reverse] * turn[reverse]).T).astype(np.complex64)
            yield _counted(replace(line, data=data), counter, Flag.REVERSE if reverse else Flag(0))
            counter += 1


def _to_places(places: NDArray[np.float64], n: int) -> NDArray[np.complex128]:
    """Return the matrix from even samples to samples at `places`."""
    x = np.arange(n) - n // 2
    inverse = np.exp(2j * np.pi * x[:, None] * x[None] / n) / n
    return np.asarray(np.exp(-2j * np.pi * places[:, None] * x[None] / n) @ inverse)


def _counted(line: Readouts, counter: int, more: Flag) -> Readouts:
    head = line.head.copy()
    head["scan_counter"] = counter
    head["flags"] |= np.uint64(more)
    return replace(line, head=head)


def _navigator(line: Readouts, matrix: NDArray[np.complex128], counter: int, reverse: bool) -> Readouts:
    """Return the first line of a run once more, without phase encoding of its own, as a navigator."""
    head = line.head.copy()
    head["scan_counter"] = counter
    head["flags"] = int(Flag.PHASE_CORRECTION | (Flag.REVERSE if reverse else Flag(0)))
    return replace(line, head=head, data=(line.data @ matrix.T).astype(np.complex64))
