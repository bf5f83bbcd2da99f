"""Readouts that do not go line by line, collected until their frame is whole."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from acquisition.errors import ConfigError, DataError, HeaderError
from acquisition.items import NOT_IMAGING, Flag, Item, Readouts
from acquisition.scan import Encoding, Scan
from recon.mri.items import FrameKey
from recon.mri.space import Axis, Space
from recon.mri.spokes import Spokes
from recon.mri.stack import Stack, is_stack, unstacked
from recon.mri.trajectory import in_cycles

logger = logging.getLogger(__name__)

_ENDS = Flag.LAST_IN_SLICE | Flag.LAST_IN_REPETITION | Flag.LAST_IN_MEASUREMENT


@dataclass(kw_only=True)
class Gather:
    """Collect readouts with a trajectory by slice, contrast, phase, repetition and set.

    Stacks of stars or spirals are Fourier transformed along their partitions.

    A frame is whole with a LAST_IN_SLICE, LAST_IN_REPETITION or LAST_IN_MEASUREMENT flag, or at the end of the scan.
    """

    max_gib: float = 8.0
    """Memory that the frames that are not whole may take [GiB]."""

    def __post_init__(self) -> None:
        if not 0 < self.max_gib <= 1024:
            raise ConfigError("mri.gather max_gib", expected="a number above 0", got=str(self.max_gib))

    def open(self, scan: Scan) -> None:
        """Plan the sizes.

        Raises
        ------
        HeaderError
            The trajectory is Cartesian, or the matrix or field of view is not positive.
        """
        self._uid = scan.uid
        self._spaces = [image_space(e, f"header encoding {i}") for i, e in enumerate(scan.require_mr().encodings)]
        self._frames: dict[FrameKey, list[Readouts]] = {}
        self._held = 0

    def feed(self, item: Item) -> Iterator[Item]:
        """Take readouts; give out frames. Other items pass."""
        if not isinstance(item, Readouts):
            yield item
            return
        item = item.select(~item.has(NOT_IMAGING))
        if len(item) == 0:
            return
        names = FrameKey._fields
        columns = np.stack([item.head[name] for name in names], axis=1)
        edges = np.flatnonzero((columns[1:] != columns[:-1]).any(axis=1) | item.has(_ENDS)[:-1]) + 1
        for part in np.split(np.arange(len(item)), edges):
            mask = np.zeros(len(item), bool)
            mask[part] = True
            yield from self._take(FrameKey(*columns[part[0]].tolist()), item.select(mask))

    def close(self) -> Iterator[Item]:
        """Give out what is left."""
        for key in sorted(self._frames):
            yield self._whole(key)

    def _take(self, key: FrameKey, block: Readouts) -> Iterator[Item]:
        known = self._frames.setdefault(key, [])
        check_like(known, block, len(self._spaces))
        self._held += block.data.nbytes
        if self._held > self.max_gib * (1 << 30):
            raise DataError(f"scan {self._uid}", expected=f"at most {self.max_gib:g} GiB of readouts", got="more")
        traj = None if block.traj is None else block.traj.copy()
        known.append(replace(block, head=block.head.copy(), data=block.data.copy(), traj=traj))
        if block.has(_ENDS).any():
            yield self._whole(key)

    def _whole(self, key: FrameKey) -> Spokes | Stack:
        blocks = self._frames.pop(key)
        self._held -= sum(b.data.nbytes for b in blocks)
        spokes = joined(blocks, key, self._spaces[key.encoding])
        logger.info("scan %s: frame %s, %d readouts", self._uid, tuple(key), len(spokes.data))
        if not is_stack(spokes.space.encoding, spokes.traj.shape[2]):
            return spokes
        return unstacked(spokes, np.concatenate([b.head["k2"] for b in blocks]))


def check_like(known: Sequence[Readouts], block: Readouts, n_encodings: int) -> None:
    """Check that a block has coordinates and fits the ones before it.

    Raises
    ------
    DataError
        It has none, names an encoding space that the header does not, or its coils or samples changed.
    """
    where = f"readout {block.head['scan_counter'][0]}"
    encoding = int(block.head["encoding"][0])
    if encoding >= n_encodings:
        raise DataError(f"{where} encoding", expected=f"0 to {n_encodings - 1}", got=str(encoding))
    if block.traj is None:
        raise DataError(
            f"{where} trajectory",
            expected="coordinates with each readout",
            got="none",
            action="send the trajectory",
        )
    if known and known[0].data.shape[1:] != block.data.shape[1:]:
        raise DataError(
            where,
            expected=f"{known[0].data.shape[1]} coils and {known[0].data.shape[2]} samples as before",
            got=f"{block.data.shape[1]} coils and {block.data.shape[2]} samples",
            action="check the sequence",
        )
    if known and known[0].traj is not None and known[0].traj.shape[2] != block.traj.shape[2]:
        raise DataError(
            f"{where} trajectory",
            expected=f"{known[0].traj.shape[2]} dimensions as before",
            got=str(block.traj.shape[2]),
            action="check the sequence",
        )


def joined(blocks: list[Readouts], key: FrameKey, space: Space) -> Spokes:
    """Return the readouts of one frame as arrays, discarded samples cut off, in cycles per image field of view."""
    head = blocks[0].head[0]
    first, last = int(head["discard_pre"]), blocks[0].data.shape[2] - int(head["discard_post"])
    data = np.concatenate([b.data for b in blocks])[:, :, first:last]
    raw = np.concatenate([b.traj for b in blocks if b.traj is not None])[:, first:last]
    encoding = space.encoding
    if raw.shape[2] == 3 and space.z.recon == 1:
        if raw[..., 2].any():
            raise DataError(
                f"readout {head['scan_counter']} trajectory",
                expected="2 dimensions for a slice",
                got="3",
                action="correct trajectory_dimensions or the image's matrix",
            )
        raw = raw[..., :2]
    cycles, unit = in_cycles(raw, encoding.matrix)
    scale = [r / e for r, e in zip(encoding.recon_fov_mm[::-1], encoding.fov_mm[::-1], strict=True)]
    cycles *= np.asarray(scale[: cycles.shape[2]], np.float32)
    dwell_s = float(head["dwell_us"]) * 1e-6
    return Spokes(
        data=data,
        traj=cycles,
        key=key,
        head=head,
        space=space,
        time_s=dwell_s * (np.arange(first, last, dtype=float) - int(head["center_sample"])),
        last_readout_s=blocks[-1].received_s,
        notes={"trajectory": f"{encoding.trajectory}, {len(data)} readouts, {unit}"},
    )


def image_space(encoding: Encoding, where: str) -> Space:
    """Return the sizes of an image that is not made line by line: the header's image matrix and field of view.

    Raises
    ------
    HeaderError
        They are not positive, or the trajectory is Cartesian.
    """
    if encoding.trajectory in ("cartesian", "epi"):
        raise HeaderError(
            f"{where} trajectory",
            expected="radial, spiral or another with coordinates",
            got=encoding.trajectory,
            action="choose a Cartesian protocol",
        )
    sizes = zip("zyx", encoding.recon_matrix, encoding.recon_fov_mm, strict=True)
    axes = []
    for name, n, fov in sizes:
        if n < 1 or not fov > 0:
            raise HeaderError(f"{where} {name}", expected="positive matrix and field of view", got=f"{n} / {fov} mm")
        axes.append(Axis(name=name, encoded=n, padded=n, recon=n, spacing_mm=fov / n))
    return Space(z=axes[0], y=axes[1], x=axes[2], encoding=encoding)
