"""Echo-planar readouts: ramp sampling, both directions, and the ghost that their difference makes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acquisition.errors import ConfigError, HeaderError
from acquisition.items import NOT_IMAGING, Flag, Image, Item, Readouts
from acquisition.scan import Encoding, Scan
from acquisition.verdict import Level, Verdict
from recon.mri.space import EPI, Space, spaces

logger = logging.getLogger(__name__)

_DAMPING = 1e-3
_TRAPEZOID = ("rampUpTime", "rampDownTime", "flatTopTime", "acqDelayTime", "dwellTime")


@dataclass(frozen=True, slots=True)
class _Phase:
    """Phase of forward readouts relative to backward ones: ``constant + slope * (x - n // 2)`` [rad]."""

    constant: float
    slope: float


@dataclass(kw_only=True)
class EpiReadout:
    """Take each echo-planar readout to image space along x, and undo the phase between the two directions.

    Where the header describes the gradient's trapezoid, samples on its ramps are placed where they were measured; the
    transform is the damped least-squares inverse, one matrix per direction. Navigators (PHASE_CORRECTION) before a
    slice give a constant and a linear phase, which backward readouts are corrected by; without navigators nothing is
    corrected and a FLAG says so.

    References
    ----------
    Ahn and Cho, IEEE Trans Med Imaging 1987;6:32, DOI 10.1109/TMI.1987.4307795; Bruder et al., Magn Reson Med
    1992;23:311, DOI 10.1002/mrm.1910230211.
    """

    order: str = "linear"
    """Phase between the directions: ``none``, ``constant`` or ``linear`` along x."""

    def __post_init__(self) -> None:
        if self.order not in ("none", "constant", "linear"):
            raise ConfigError("mri.epi_readout order", expected="none, constant or linear", got=repr(self.order))

    def open(self, scan: Scan) -> None:
        """Make the matrices of both directions.

        Raises
        ------
        HeaderError
            The trajectory is not echo-planar, or the trapezoid is impossible.
        """
        self._uid, self._spaces = scan.uid, spaces(scan)
        for i, encoding in enumerate(scan.require_mr().encodings):
            if encoding.trajectory != EPI:
                raise HeaderError(
                    f"header encoding {i} trajectory",
                    expected=EPI,
                    got=encoding.trajectory,
                    action="choose a protocol made for this trajectory",
                )
        self._matrices: dict[tuple[int, int, bool], Tensor] = {}
        self._navigators: dict[tuple[int, int], list[tuple[bool, NDArray[np.complex64]]]] = {}
        self._phases: dict[tuple[int, int], _Phase] = {}
        self._uncorrected = 0

    def feed(self, item: Item) -> Iterator[Item]:
        """Transform imaging readouts, learn from navigators; other items pass."""
        if not isinstance(item, Readouts) or item.domain == "x":
            yield item
            return
        navigator = item.has(Flag.PHASE_CORRECTION) & ~item.has(NOT_IMAGING & ~Flag.PHASE_CORRECTION)
        imaging = ~item.has(NOT_IMAGING)
        kinds = navigator * 2 + imaging
        edges = np.flatnonzero(np.diff(kinds) != 0) + 1
        for part in np.split(np.arange(len(item)), edges):
            mask = np.zeros(len(item), bool)
            mask[part] = True
            if navigator[part[0]]:
                self._learn(item.select(mask))
            elif imaging[part[0]]:
                yield self._transformed(item.select(mask))

    def close(self) -> Iterator[Item]:
        """Say what was corrected."""
        for (_, index), phase in sorted(self._phases.items()):
            yield Verdict(
                check="mri.epi_phase",
                level=Level.PASS,
                advice="The phase between the two readout directions was measured and undone.",
                value=phase.slope,
                unit="rad/voxel",
                evidence=f"slice {index}: {phase.constant:.3f} rad, {phase.slope:.5f} rad per voxel",
            )
        if self._uncorrected and self.order != "none":
            yield Verdict(
                check="mri.epi_phase",
                level=Level.FLAG,
                advice="No navigators: the ghost was not corrected. mri.epi_ghost finds it in the image itself.",
                value=float(self._uncorrected),
                unit="readouts",
            )

    def _learn(self, block: Readouts) -> None:
        """Keep the navigators of a slice until its first imaging readout."""
        for i in range(len(block)):
            key = (int(block.head["encoding"][i]), int(block.head["slice"][i]))
            reverse = bool(block.has(Flag.REVERSE)[i])
            line = self._matrix(key[0], block.data.shape[2], reverse) @ torch.from_numpy(block.data[i].T.copy())
            self._navigators.setdefault(key, []).append((reverse, line.T.numpy()))

    def _transformed(self, block: Readouts) -> Readouts:
        reverse = block.has(Flag.REVERSE)
        n_x = self._spaces[int(block.head["encoding"][0])].x.recon
        out = np.empty((*block.data.shape[:2], n_x), np.complex64)
        keys = list(zip(block.head["encoding"].tolist(), block.head["slice"].tolist(), strict=True))
        for key in dict.fromkeys(keys):
            mine = np.array([k == key for k in keys])
            phase = self._phase(key)
            for direction in (False, True):
                rows = mine & (reverse == direction)
                if not rows.any():
                    continue
                matrix = self._matrix(key[0], block.data.shape[2], direction)
                if direction and phase is not None:
                    x = torch.arange(n_x) - n_x // 2
                    matrix = torch.exp(1j * (phase.constant + phase.slope * x))[:, None].to(matrix.dtype) * matrix
                out[rows] = (torch.from_numpy(block.data[rows]) @ matrix.T).numpy()
            if phase is None:
                self._uncorrected += int(mine.sum())
        return replace(block, data=out, domain="x", traj=None)

    def _phase(self, key: tuple[int, int]) -> _Phase | None:
        """Return the phase of a slice; navigators that have come since replace the older ones."""
        lines = self._navigators.pop(key, None)
        if lines is not None and self.order != "none":
            found = fitted_phase(lines, self.order)
            if found is not None:
                self._phases[key] = _Phase(*found)
                logger.info("scan %s: slice %d: EPI phase %.3f, %.5f", self._uid, key[1], *found)
        return self._phases.get(key)

    def _matrix(self, encoding: int, n_samples: int, reverse: bool) -> Tensor:
        key = (encoding, n_samples, reverse)
        if key not in self._matrices:
            space = self._spaces[encoding]
            places = ramp_places(space.encoding, n_samples)
            self._matrices[key] = torch.from_numpy(_inverse(-places if reverse else places, space))
        return self._matrices[key]


def ramp_places(encoding: Encoding, n_samples: int) -> NDArray[np.float64]:
    """Return where the samples of a forward readout lie [cycles per encoded field of view], the centre at n // 2.

    With ``rampUpTime``, ``flatTopTime``, ``rampDownTime``, ``acqDelayTime`` and ``dwellTime`` [us] in the trajectory's
    description they follow the integral of the trapezoid; else they are even.

    Raises
    ------
    HeaderError
        Times are negative, or sampling does not fit into the trapezoid.
    """
    even = (np.arange(n_samples) - n_samples // 2).astype(np.float64)
    given = encoding.trajectory_parameters
    if not all(name in given for name in _TRAPEZOID):
        return even * (encoding.matrix[2] / n_samples)
    up, down, flat, delay, dwell = (float(given[name]) for name in _TRAPEZOID)
    time = delay + np.arange(n_samples) * dwell
    if min(up, down, flat, delay) < 0 or dwell <= 0 or time[-1] > (up + flat + down) * 1.001:
        raise HeaderError(
            "header trajectory description",
            expected="a trapezoid that holds the sampling window",
            got=f"ramps {up:g}/{down:g} us, flat {flat:g} us, window {time[0]:g} to {time[-1]:g} us",
            action="correct rampUpTime, flatTopTime, rampDownTime, acqDelayTime or dwellTime",
        )
    area = np.where(time < up, time**2 / (2 * up) if up else 0.0, time - up / 2)
    late = np.maximum(time - up - flat, 0)
    area = area - (late**2 / (2 * down) if down else 0.0)
    area -= area[n_samples // 2]
    return np.asarray(area * ((encoding.matrix[2] - encoding.matrix[2] / n_samples) / (area[-1] - area[0])), np.float64)


def _inverse(places: NDArray[np.float64], space: Space) -> NDArray[np.complex64]:
    """Return the matrix (x, sample) from samples to the image's voxels along x, orthonormal where samples are even."""
    n = space.x.padded
    x = np.arange(n) - n // 2
    forward = np.exp(-2j * np.pi * places[:, None] * x[None] / n) / np.sqrt(n)
    gram = forward.conj().T @ forward
    inverse = np.linalg.solve(gram + _DAMPING * np.trace(gram).real / n * np.eye(n), forward.conj().T)
    first = n // 2 - space.x.recon // 2
    return (inverse[first : first + space.x.recon] * space.x.amplitude).astype(np.complex64)


def fitted_phase(lines: list[tuple[bool, NDArray[np.complex64]]], order: str) -> tuple[float, float] | None:
    """Return (constant, slope per voxel) of forward relative to backward navigators (coil, x); None without both."""
    forward, backward = ([line for reverse, line in lines if reverse is wanted] for wanted in (False, True))
    if not forward or not backward:
        return None
    cross = (np.mean(forward, axis=0) * np.conj(np.mean(backward, axis=0))).sum(axis=0).astype(np.complex128)
    if not np.abs(cross).any():
        return None
    slope = float(np.angle((cross[1:] * np.conj(cross[:-1])).sum())) if order == "linear" else 0.0
    x = np.arange(len(cross)) - len(cross) // 2
    return float(np.angle((cross * np.exp(-1j * slope * x)).sum())), slope


@dataclass(kw_only=True)
class CheckGhost:
    """Measure the ghost half a field of view away along y, and mark images in which it is strong."""

    flag_above: float = 0.15
    """Mean of the ghost over mean of the object from which the image is marked."""
    threshold: float = 0.25
    """Part of the 99th percentile above which a pixel belongs to the object."""

    def __post_init__(self) -> None:
        if not self.flag_above > 0 or not 0 < self.threshold < 1:
            raise ConfigError(
                "check.ghost",
                expected="flag_above > 0 and threshold between 0 and 1",
                got=f"{self.flag_above}, {self.threshold}",
            )

    def open(self, scan: Scan) -> None:
        """Nothing to prepare."""

    def feed(self, item: Item) -> Iterator[Item]:
        """Attach the ghost's level to images; other items pass."""
        yield item.with_verdicts(self._judged(item)) if isinstance(item, Image) else item

    def close(self) -> Iterator[Item]:
        """Nothing is left to do."""
        return iter(())

    def _judged(self, image: Image) -> Verdict:
        level = ghost_level(np.abs(image.data), self.threshold)
        if level is None:
            advice = "The object fills the field of view: its ghost cannot be measured."
            return Verdict(check="check.ghost", level=Level.PASS, advice=advice, limit=self.flag_above)
        strong = level > self.flag_above
        return Verdict(
            check="check.ghost",
            level=Level.FLAG if strong else Level.PASS,
            advice="A strong ghost half a field of view away: check the navigators." if strong else "Little ghosting.",
            value=level,
            limit=self.flag_above,
        )


def ghost_level(magnitude: NDArray[np.floating], threshold: float) -> float | None:
    """Return mean(ghost) / mean(object) of (..., y, x): the object's place half a field of view away, where nothing
    of the object lies; None where there is no such place."""
    inside = magnitude > threshold * np.percentile(magnitude, 99)
    ghost = np.roll(inside, magnitude.shape[-2] // 2, axis=-2) & ~inside
    if ghost.sum() < 0.02 * inside.sum() or not inside.any():
        return None
    return float(magnitude[ghost].mean() / magnitude[inside].mean())
