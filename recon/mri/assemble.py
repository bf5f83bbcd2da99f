"""Readouts become frames: each line goes to its place in k-space by its counters, as it arrives."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from acquisition.errors import ConfigError, DataError
from acquisition.items import COUNTERS, NOT_IMAGING, Flag, Item, Readouts
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from recon.mri.buffers import FrameBuffer, Pool
from recon.mri.complete import frame_verdicts, is_complete
from recon.mri.items import Calibration, Frame, FrameKey
from recon.mri.pattern import as_ranges, central_region, central_run
from recon.mri.space import Space, multiband, spaces

logger = logging.getLogger(__name__)

EMBEDDED = ("embedded", "interleaved")
"""Calibration modes in which calibration lines belong to the image's own k-space."""
_MAX_AVERAGES = 1024  # of a header that does not say how many
_MIN_CALIBRATION = 4  # lines; fewer say nothing about the coils
_MAX_CALIBRATION = 64  # lines around the centre; more cost time and add nothing
_MAP_LINES = 32  # lines that coil maps are made of when everything is measured
SAMPLINGS = ("regular", "any")
_OPTIONAL = ("slice", "contrast", "phase", "repetition", "set", "average")


@dataclass(kw_only=True)
class Assemble:
    """Fill frames (coil, k2, k1, x) line by line and give each out the moment it is complete.

    A frame is complete when the flags say so (LAST_IN_SLICE, LAST_IN_REPETITION, LAST_IN_MEASUREMENT, in the last
    average) or when every line that the header's limits, acceleration and averages promise is there; what is left
    is given out on close. encodingLimits.center lands on matrix index n // 2; lines that partial Fourier left out
    stay zero. Averages are divided out. The calibration region goes ahead as an item of its own.

    Where the calibration mode is embedded (or interleaved), lines flagged CALIBRATION fill the image's k-space; in
    every other mode they are a scan of their own and never enter an image. Two lines with the same counters are
    averaged and flagged; so are missing lines, lines after their frame, and slices of which nothing came.
    """

    max_gib: float = 8.0
    """Memory that all frames of a scan together may take [GiB]."""
    sampling: str = "regular"
    """``regular``: every R-th line is expected and what is missing is told; ``any``: the lines are as they come."""

    def __post_init__(self) -> None:
        if self.sampling not in SAMPLINGS:
            raise ConfigError("mri.assemble sampling", expected=" or ".join(SAMPLINGS), got=repr(self.sampling))
        if not 0 < self.max_gib <= 1024:
            raise ConfigError("mri.assemble max_gib", expected="a number above 0", got=str(self.max_gib))

    def open(self, scan: Scan) -> None:
        """Plan the sizes; take the memory of the first frame where the header names the coils.

        Raises
        ------
        HeaderError
            Matrix, field of view or limits contradict each other, or the trajectory is not Cartesian.
        LimitError
            One frame would take more memory than allowed.
        """
        self._uid, self._spaces, self._simultaneous = scan.uid, spaces(scan), multiband(scan)
        self._pool = Pool(int(self.max_gib * (1 << 30)))
        self._frames: dict[FrameKey, FrameBuffer] = {}
        self._references: dict[FrameKey, FrameBuffer] = {}
        self._referenced: set[FrameKey] = set()
        self._done: set[FrameKey] = set()
        self._late: dict[FrameKey, list[int]] = {}
        self._header_verdicts = [v for space in self._spaces for v in space.verdicts]
        if scan.equipment.n_coils:
            shape = self._shape(self._spaces[0], scan.equipment.n_coils)
            self._pool.give_back(self._pool.take(shape, f"scan {self._uid}"))

    def feed(self, item: Item) -> Iterator[Item]:
        """Take transformed readouts; give out calibrations and frames. Other items pass."""
        if not isinstance(item, Readouts):
            yield item
            return
        yield from self._header_verdicts
        self._header_verdicts = []
        lines = torch.from_numpy(item.data) if item.data.flags.writeable else torch.from_numpy(item.data.copy())
        counters = [item.head[name].tolist() for name in ("encoding", *COUNTERS)]
        for i, flags in enumerate(item.head["flags"].tolist()):
            if not flags & NOT_IMAGING:
                row = dict(zip(("encoding", *COUNTERS), (column[i] for column in counters), strict=True))
                yield from self._line(item, lines[i], i=i, row=row)
            if flags & Flag.LAST_IN_MEASUREMENT:
                yield from self._flush(list(self._frames))

    def close(self) -> Iterator[Item]:
        """Give out what is left, complete or not, and say what never came or came too late."""
        yield from self._header_verdicts
        yield from self._flush(list(self._frames))
        yield from self._absent_slices()
        for key, lines in self._late.items():
            yield Verdict(
                check="mri.lines",
                level=Level.FLAG,
                advice=f"{len(lines)} readouts of slice {key.slice} came after its image was made: not in the image.",
                value=float(len(lines)),
                evidence=f"{key._asdict()}, k1 {as_ranges(np.unique(lines))}",
            )

    def _line(self, item: Readouts, line: torch.Tensor, *, i: int, row: dict[str, int]) -> Iterator[Item]:
        """Put one readout where it belongs; give out what that completes."""
        head = item.head[i]
        space = self._checked(item, head, row)
        key = FrameKey(*(row[name] for name in FrameKey._fields))
        place = {
            "k2": row["k2"] + space.z.shift,
            "k1": row["k1"] + space.y.shift,
            "average": row["average"],
        }
        flags = int(head["flags"])
        calibration = bool(flags & (Flag.CALIBRATION | Flag.CALIBRATION_AND_IMAGING))
        separate = calibration and space.encoding.calibration_mode not in EMBEDDED
        if separate:
            reference = self._buffer(self._references, key, space=space, n_coils=len(line))
            self._add(reference, line, place=place, head=head, received_s=item.received_s)
        if separate and not flags & Flag.CALIBRATION_AND_IMAGING:
            if flags & (Flag.LAST_IN_SLICE | Flag.LAST_IN_MEASUREMENT):
                yield from self._reference_items(key)
            return
        if key in self._done:
            self._late.setdefault(key, []).append(row["k1"])
            return
        frame = self._buffer(self._frames, key, space=space, n_coils=len(line))
        self._add(frame, line, place=place, head=head, received_s=item.received_s)
        if not calibration:
            yield from self._reference_items(key)
            yield from self._early_calibration(frame, space, place)
        ready = self._ready(frame, flags, place, space)
        yield from self._flush(ready)

    def _add(
        self, buffer: FrameBuffer, line: torch.Tensor, *, place: dict[str, int], head: np.void, received_s: float
    ) -> None:
        buffer.add(line, **place)
        buffer.last_readout_s = received_s
        if buffer.head is None:
            buffer.head = head.copy()

    def _checked(self, item: Readouts, head: np.void, row: dict[str, int]) -> Space:
        """Return the readout's encoding space, once every counter is known to lie inside it."""
        where = f"readout {head['scan_counter']}"
        if row["encoding"] >= len(self._spaces):
            raise DataError(f"{where} encoding", expected=f"0 to {len(self._spaces) - 1}", got=str(row["encoding"]))
        space = self._spaces[row["encoding"]]
        for name, axis in (("k1", space.y), ("k2", space.z)):
            _in_range(f"{where} counter {name}", row[name], axis.first, axis.last)
        for name in _OPTIONAL:
            if name in space.encoding.limits:
                limit = space.encoding.limits[name]
                _in_range(f"{where} counter {name}", row[name], limit.minimum, limit.maximum)
        _in_range(f"{where} counter average", row["average"], 0, _MAX_AVERAGES - 1)
        if item.domain != "x" or item.data.shape[2] != space.x.recon:
            raise DataError(
                where,
                expected=f"{space.x.recon} voxels along x",
                got=f"{item.data.shape[2]} values in domain {item.domain}",
                action="put mri.readout in front of mri.assemble",
            )
        return space

    def _buffer(
        self, buffers: dict[FrameKey, FrameBuffer], key: FrameKey, *, space: Space, n_coils: int
    ) -> FrameBuffer:
        buffer = buffers.get(key)
        if buffer is None:
            shape = self._shape(space, n_coils)
            n_averages = min(space.encoding.limit("average").maximum + 1, _MAX_AVERAGES)
            buffer = buffers[key] = FrameBuffer(
                key=key,
                kspace=self._pool.take(shape, f"scan {self._uid}"),
                n_averages=n_averages,
                acceleration=max(1, round(space.encoding.acceleration[1])),
            )
        if buffer.kspace.shape[0] != n_coils:
            raise DataError(f"slice {key.slice}", expected=f"{buffer.kspace.shape[0]} coils", got=str(n_coils))
        return buffer

    @staticmethod
    def _shape(space: Space, n_coils: int) -> tuple[int, ...]:
        return (n_coils, space.z.encoded, space.y.encoded, space.x.recon)

    def _ready(self, frame: FrameBuffer, flags: int, place: dict[str, int], space: Space) -> list[FrameKey]:
        """Return the frames that this line completes, by flag or by count."""
        key, ready = frame.key, set[FrameKey]()
        if place["average"] >= frame.n_averages - 1 and flags & (Flag.LAST_IN_SLICE | Flag.LAST_IN_REPETITION):
            whole = bool(flags & Flag.LAST_IN_REPETITION)
            n_lines = frame.seen.sum()
            for other, buffer in self._frames.items():
                near = other.encoding == key.encoding and other.repetition == key.repetition
                # echoes and sets inside the line loop carry no flag of their own: they end with this line too
                if near and (whole or other.slice == key.slice) and buffer.seen.sum() >= n_lines:
                    ready.add(other)
        if is_complete(frame, place, space, referenced=self._has_reference(key)):
            ready.add(key)
        return sorted(ready)

    def _has_reference(self, key: FrameKey) -> bool:
        return any(k.slice == key.slice and k.encoding == key.encoding for k in (*self._references, *self._referenced))

    def _flush(self, keys: list[FrameKey]) -> Iterator[Item]:
        """Give out frames: pending calibration first."""
        for key in sorted(keys):
            frame = self._frames.pop(key, None)
            if frame is None or frame.head is None:
                continue
            space = self._spaces[key.encoding]
            yield from self._reference_items(key)
            yield from self._calibration(frame, space)
            self._done.add(key)
            verdicts = frame_verdicts(frame, space) if self.sampling == "regular" else ()
            logger.info("scan %s: frame %s, %d lines", self._uid, tuple(key), int(np.count_nonzero(frame.counts)))
            kspace = frame.mean()
            yield Frame(
                kspace=kspace,
                counts=frame.counts,
                key=key,
                head=frame.head,
                last_readout_s=frame.last_readout_s,
                verdicts=verdicts,
                release=lambda kspace=kspace: self._pool.give_back(kspace),  # type: ignore[misc]
            )

    def _early_calibration(self, frame: FrameBuffer, space: Space, place: dict[str, int]) -> Iterator[Item]:
        """Give out the calibration region of a slice as soon as a line beyond it shows that it is complete."""
        if space.is_3d or frame.calibrated or place["average"] < frame.n_averages - 1:
            return
        centre = space.y.encoded // 2
        first, last = central_run(frame.counts[0] > 0, centre)
        beyond = not first - 1 <= place["k1"] <= last and last - first >= max(8, 3 * frame.acceleration + 1)
        enough = frame.acceleration == 1 and min(centre - first, last - centre) >= _MAP_LINES // 2
        if beyond or enough:
            yield from self._calibration(frame, space)

    def _calibration(self, frame: FrameBuffer, space: Space) -> Iterator[Item]:
        region = _region(frame, space)
        n_lines = region[1].stop - region[1].start
        grown = n_lines > frame.calibrated and (frame.acceleration > 1 or not frame.calibrated)
        if n_lines < _MIN_CALIBRATION or not grown:
            return
        frame.calibrated = n_lines
        yield _cut(frame, region, separate=False)

    def _reference_items(self, key: FrameKey) -> Iterator[Item]:
        """Give out the separate calibration of this slice."""
        for other in [k for k in self._references if k.slice == key.slice and k.encoding == key.encoding]:
            buffer = self._references.pop(other)
            self._referenced.add(other)
            region = _region(buffer, self._spaces[other.encoding])
            if region[1].stop - region[1].start >= _MIN_CALIBRATION:
                yield _cut(buffer, region, separate=True)
            self._pool.give_back(buffer.kspace)

    def _absent_slices(self) -> Iterator[Verdict]:
        slices = self._spaces[0].encoding.limit("slice")
        n_slices = (slices.maximum + 1 - slices.minimum) // self._simultaneous
        absent = sorted(set(range(slices.minimum, slices.minimum + n_slices)) - {key.slice for key in self._done})
        if absent:
            yield Verdict(
                check="mri.slices",
                level=Level.FLAG,
                advice=f"Nothing was measured for {len(absent)} promised slices: repeat the scan if they are needed.",
                value=float(len(absent)),
                evidence=f"slices {as_ranges(np.array(absent))}",
            )


def _in_range(where: str, value: int, first: int, last: int) -> None:
    if not first <= value <= last:
        raise DataError(where, expected=f"{first} to {last}", got=str(value), action="correct encodingLimits")


def _region(frame: FrameBuffer, space: Space) -> tuple[slice, slice]:
    """Return the fully sampled middle of a frame as slices of (k2, k1)."""
    region = central_region(frame.counts > 0)
    return tuple(  # type: ignore[return-value]
        slice(max(part.start, n // 2 - limit // 2), min(part.stop, n // 2 + limit // 2))
        for part, n, limit in zip(region, frame.counts.shape, (_MAX_CALIBRATION // 2, _MAX_CALIBRATION), strict=True)
    )


def _cut(frame: FrameBuffer, region: tuple[slice, slice], *, separate: bool) -> Calibration:
    return Calibration(
        kspace=frame.region(*region),
        first=(region[0].start, region[1].start),
        matrix=(frame.counts.shape[0], frame.counts.shape[1]),
        key=frame.key,
        separate=separate,
        head=frame.head,
    )
