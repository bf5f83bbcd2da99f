"""Did the patient move, and in which shot? Told slice by slice from raw data, while the scan goes on.

A shot is one train of echoes: its lines lie all over k-space, so that its neighbours' lines and the coils say where
they should be. A scan without trains reads neighbouring lines at neighbouring times; there only the borders between
runs of lines tell, which was not sure enough on simulated heads and wrong on a real phantom: it is not judged.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acquisition.errors import ConfigError
from acquisition.items import NOT_IMAGING, Flag, Item, Readouts
from acquisition.noise import NoiseModel
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from kernels.registry import kernel
from recon.calibrate import coil_maps
from recon.mri.coilset import compression
from recon.mri.pattern import central_run
from recon.mri.shot_model import LatticeModel
from recon.mri.shot_poses import ShotPoses, shot_poses
from recon.mri.space import CARTESIAN, Space, spaces

logger = logging.getLogger(__name__)

_COILS = 8  # virtual coils that are looked at
_MOST_LINES, _VOXELS = 160, 48  # lines and voxels along the readout that are looked at
_PAUSE = 5  # usual times between readouts that end a train
_FEWEST = 4  # shots, and coils, that can be compared
_ACS = 24
_SURE = 4.0  # standard errors from which a shot has moved


@dataclass(slots=True)
class _Slice:
    """What was measured of one slice, in the order of time."""

    k1: list[int] = field(default_factory=list)
    """Matrix index of each imaging line."""
    time_stamps: list[int] = field(default_factory=list)
    """When each was measured, scanner clock."""
    lines: list[Tensor] = field(default_factory=list)
    """The lines (coil, x), few voxels."""
    reference: dict[int, Tensor] = field(default_factory=dict)
    """Lines of a calibration of its own."""
    frame: tuple[int, ...] = ()
    """Counters of the frame that is looked at."""
    judged: bool = False
    """Nothing more is needed."""


@dataclass(kw_only=True)
class CheckMotion:
    """Find shots in which the head was not where it was in most others; stands behind `mri.readout`.

    Looks at some slices of 2D Cartesian scans with echo trains, at the first frame of each. Undersampling must be
    regular, with calibration lines. Volumes, and scans without trains, are not judged. Everything passes as it came,
    before it is looked at.
    """

    slices: int = 3
    """Slices that are judged, evenly spaced."""
    moved_above: float = 1.0
    """Way of a point 57 mm from the middle from which a shot has moved: a shift in mm, a turn in degrees [mm]."""
    hold_above: float = 0.3
    """Part of the shots that moved from which a person is asked."""

    def __post_init__(self) -> None:
        for name, fine, expected in (
            ("slices", self.slices >= 1, "1 or more"),
            ("moved_above", self.moved_above > 0, "above 0"),
            ("hold_above", 0 < self.hold_above <= 1, "above 0, at most 1"),
        ):
            if not fine:
                raise ConfigError(f"check.mri_motion {name}", expected=expected, got=str(getattr(self, name)))

    def open(self, scan: Scan) -> None:
        """Choose the slices."""
        self._uid, self._spaces = scan.uid, spaces(scan)
        self._found: dict[int, _Slice] = {}
        self._white = False
        space = self._spaces[0]
        self._train = space.encoding.echo_train_length or 1
        fit = space.encoding.trajectory == CARTESIAN and not space.is_3d and self._train > 1
        limit = space.encoding.limit("slice")
        chosen = np.linspace(limit.minimum, limit.maximum, min(self.slices, limit.maximum - limit.minimum + 1) + 2)
        self._chosen = set(np.round(chosen[1:-1]).astype(int).tolist()) if fit else set()

    def feed(self, item: Item) -> Iterator[Item]:
        """Pass everything on; keep the lines of the chosen slices and judge a slice when its frame is over."""
        yield item
        if isinstance(item, NoiseModel):
            self._white = item.whitened
        if not self._chosen or not isinstance(item, Readouts) or item.domain != "x":
            return
        wanted = np.isin(item.head["slice"], list(self._chosen)) & ~item.has(NOT_IMAGING) & (item.head["encoding"] == 0)
        for i in np.flatnonzero(wanted).tolist():
            yield from self._line(item, i)

    def close(self) -> Iterator[Item]:
        """Judge what is left."""
        for number in sorted(self._found):
            yield from self._judge(number)

    def _line(self, item: Readouts, i: int) -> Iterator[Verdict]:
        head, space = item.head[i], self._spaces[0]
        number, flags = int(head["slice"]), int(head["flags"])
        known = self._found.setdefault(number, _Slice())
        if known.judged:
            return
        k1 = int(head["k1"]) + space.y.shift
        separate = flags & Flag.CALIBRATION and space.encoding.calibration_mode == "separate"
        if separate:
            known.reference[k1] = _few(item.data[i])
        frame = tuple(int(head[name]) for name in ("average", "contrast", "phase", "repetition", "set"))
        if not separate or flags & Flag.CALIBRATION_AND_IMAGING:
            known.frame = known.frame or frame
            if frame == known.frame and 0 <= k1 < space.y.encoded and k1 not in known.k1:
                known.k1.append(k1)
                known.time_stamps.append(int(head["time_stamp"]))
                known.lines.append(_few(item.data[i]))
        over = flags & (Flag.LAST_IN_SLICE | Flag.LAST_IN_MEASUREMENT) and bool(known.lines)
        if over or (known.frame and frame > known.frame):
            yield from self._judge(number)

    def _judge(self, number: int) -> Iterator[Verdict]:
        known = self._found[number]
        if known.judged or not known.lines:
            return
        known.judged = True
        problem = _problem(known, self._spaces[0], least=1.0 if self._white else 0.0)
        if problem is not None:
            lines, masks, model, voxel_mm = problem
            yield self._verdict(number, shot_poses(lines, masks, model=model, voxel_mm=voxel_mm), masks)
        known.lines.clear()

    def _verdict(self, number: int, found: ShotPoses, masks: list[NDArray[np.bool_]]) -> Verdict:
        way, error = found.way_mm, np.sqrt((found.error**2).sum(axis=1))
        moved = np.flatnonzero((way > self.moved_above) & (way > _SURE * error))
        part = float(sum(masks[s].sum() for s in moved) / sum(m.sum() for m in masks))
        level = Level.PASS if not len(moved) else Level.HOLD if part > self.hold_above else Level.FLAG
        told = "; ".join(
            f"shot {s + 1}: {found.shift_mm[s, 0]:+.1f} mm along phase, {found.shift_mm[s, 1]:+.1f} mm along readout, "
            f"{found.turn_deg[s]:+.1f} degrees (+- {error[s]:.1f})"
            for s in moved[:10]
        )
        logger.info("scan %s: slice %d: %d of %d shots moved", self._uid, number, len(moved), len(way))
        return Verdict(
            check="check.mri_motion",
            level=level,
            advice=f"The patient moved in {len(moved)} of {len(way)} shots: look for ghosts, repeat if they disturb."
            if len(moved)
            else "No movement between shots.",
            value=float(way[moved].max() if len(moved) else way.max()),
            limit=self.moved_above,
            unit="mm",
            evidence=f"slice {number}, {len(way)} shots, {100 * part:.0f} % of the lines moved"
            + (f"; {told}" if told else ""),
        )


def _few(line: NDArray[np.complex64]) -> Tensor:
    """Return a line (coil, x) on few voxels of the same field of view, a copy."""
    spectrum = kernel("centred_fft")(torch.from_numpy(line.astype(np.complex64)), (1,))
    return kernel("centred_ifft")(kernel("resize")(spectrum, min(_VOXELS, spectrum.shape[1]), 1), (1,)).clone()


def _problem(
    known: _Slice, space: Space, *, least: float
) -> tuple[Tensor, list[NDArray[np.bool_]], LatticeModel, tuple[float, float]] | None:
    """Return lines (coil, line, x) in units of their noise (taken to be `least` or more), shots, coils and voxels of
    a slice; None where it cannot be judged."""
    r, size = max(1, round(space.encoding.acceleration[1])), space.y.encoded
    k1, lines, centre = np.array(known.k1), torch.stack(known.lines, dim=1), size // 2
    n_coils = len(lines)
    lattice = (k1 - centre) % r == 0
    lowest, highest = int(k1[lattice].min()), int(k1[lattice].max())
    half = min((centre - lowest) // r, (highest - centre) // r + 1, _MOST_LINES // 2)
    place = (k1 - centre) // r + half
    used = lattice & (place >= 0) & (place < 2 * half)
    if n_coils < _FEWEST or half < 8 or used.sum() != 2 * half:
        return None
    shots = shots_of(np.array(known.time_stamps), space.encoding.echo_train_length or 1)
    masks = [np.isin(np.arange(2 * half), place[used & (shots == s)]) for s in np.unique(shots[used])]
    middle = _calibration(known, size)
    if len(masks) < _FEWEST or middle is None:
        return None
    region, first = middle
    rows = compression(region, 1.0)[:_COILS]
    matrix = (1, 2 * half * r, region.shape[2])
    region = torch.einsum("vc,cyx->vyx", rows, region)[:, None]
    maps = coil_maps(region, first=(0, first - centre + half * r), matrix=matrix)
    model = LatticeModel(kernel("unit_norm")(kernel("upsample")(maps, matrix))[:, 0], 2 * half)
    order = np.flatnonzero(used)[np.argsort(place[used])]
    seen = torch.einsum("vc,cyx->vyx", rows, lines[:, order])
    fov_mm = space.encoding.fov_mm[1], space.x.spacing_mm * space.x.recon
    return seen / max(least, _noise(seen, model)), masks, model, (fov_mm[0] / matrix[1], fov_mm[1] / matrix[2])


def _noise(lines: Tensor, model: LatticeModel) -> float:
    """Return the standard deviation of what the coils leave unexplained."""
    n_coils = len(lines)
    rest = lines - model.forward(model.solved(lines))
    free = max(1, n_coils - model.folding) / n_coils
    return max(1e-30, float((rest.abs().square().median() / (math.log(2) * free)).sqrt()))


def _calibration(known: _Slice, size: int) -> tuple[Tensor, int] | None:
    """Return fully sampled lines around the centre (coil, line, x) and the matrix index of the first."""
    lines = known.reference or dict(zip(known.k1, known.lines, strict=True))
    measured = np.zeros(size, bool)
    measured[list(lines)] = True
    first, last = central_run(measured, size // 2)
    first, last = max(first, size // 2 - _ACS // 2), min(last, size // 2 + _ACS // 2)
    if last - first < 12:
        return None
    return torch.stack([lines[k] for k in range(first, last)], dim=1), first


def shots_of(time_stamps: NDArray[np.int64], train: int) -> NDArray[np.int64]:
    """Return the shot of each readout in the order of time.

    Parameters
    ----------
    time_stamps
        Scanner clock of each readout (n,).
    train
        Echoes of a train; a pause ends it early.
    """
    n, steps = len(time_stamps), np.diff(time_stamps)
    pauses = np.flatnonzero(steps > _PAUSE * max(1.0, float(np.median(steps)))) + 1 if n > 1 else np.zeros(0, int)
    if len(pauses) < n // (2 * train):
        return np.arange(n) // train
    return np.searchsorted(pauses, np.arange(n), side="right")
