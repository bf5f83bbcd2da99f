"""From samples along the readout to voxels along x, while the scanner still measures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from acquisition.errors import DataError, HeaderError
from acquisition.items import NOT_IMAGING, Flag, Item, Readouts
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from kernels.registry import kernel
from recon.mri.space import CARTESIAN, Space, spaces

_SHAPE = ["encoding", "center_sample", "discard_pre", "discard_post"]


@dataclass(kw_only=True)
class ReadoutTransform:
    """Place each readout's samples around the k-space centre, transform along k0 and cut to the image's x.

    Discarded samples go, readouts measured backwards (REVERSE) are turned (sample s becomes n - 1 - s, its centre
    with it), an asymmetric echo is filled with zeros, readout oversampling is cut off in the image. The transform
    is orthonormal and centred, and amplitudes do not depend on padding: white noise of variance 1 keeps variance 1
    where the echo is complete. The blocks given out share one buffer: each is valid until the next is fed.
    """

    def open(self, scan: Scan) -> None:
        """Plan the sizes and run the transform once.

        Raises
        ------
        HeaderError
            The trajectory is echo-planar: its two directions would make a ghost.
        """
        self._spaces = spaces(scan)
        for i, space in enumerate(self._spaces):
            if space.encoding.trajectory != CARTESIAN:
                raise HeaderError(
                    f"header encoding {i} trajectory",
                    expected=CARTESIAN,
                    got=space.encoding.trajectory,
                    action="choose a protocol with mri.epi_readout",
                )
        self._buffer = torch.empty((0, 0, 0), dtype=torch.complex64)
        self._ifft = kernel("centred_ifft", "cpu")
        self._guessed = 0
        for space in self._spaces:
            self._ifft(torch.zeros((1, 1, space.x.padded), dtype=torch.complex64), (2,))

    def feed(self, item: Item) -> Iterator[Item]:
        """Transform imaging readouts; pass on everything else."""
        if not isinstance(item, Readouts) or item.domain == "x":
            yield item
            return
        other = item.has(NOT_IMAGING)
        if other.any():
            yield item.select(other)
            item = item.select(~other)
        if len(item) == 0:
            return
        shapes = np.stack([item.head[name] for name in _SHAPE], axis=1)
        reverse = item.has(Flag.REVERSE)
        for first, last in _runs(np.column_stack([shapes, reverse])):
            run = np.zeros(len(item), bool)
            run[first:last] = True
            yield self._transform(item.select(run) if last - first < len(item) else item, bool(reverse[first]))

    def close(self) -> Iterator[Item]:
        """Say whether echo centres had to be guessed."""
        if self._guessed:
            yield Verdict(
                check="mri.readout",
                level=Level.FLAG,
                advice="The readouts' echo centre does not fit the matrix: their middle was used.",
                value=float(self._guessed),
                evidence=f"{self._guessed} readouts",
            )

    def _transform(self, block: Readouts, reverse: bool) -> Readouts:
        head = block.head[0]
        where = f"readout {head['scan_counter']}"
        if head["encoding"] >= len(self._spaces):
            raise DataError(f"{where} encoding", expected=f"0 to {len(self._spaces) - 1}", got=str(head["encoding"]))
        space = self._spaces[head["encoding"]]
        samples = torch.from_numpy(_kept(block, reverse, where))
        first = self._place(block, samples.shape[2], reverse=reverse, space=space)
        spectrum = self._cleared(len(block), block.data.shape[1], space.x.padded)
        to = first + space.x.padded // 2 - space.x.encoded // 2
        low, high = max(0, -to), min(samples.shape[2], space.x.padded - to)  # cut only where the image is coarser
        spectrum[:, :, to + low : to + high] = samples[:, :, low:high]
        line = kernel("resize", "cpu")(self._ifft(spectrum, (2,)), space.x.recon, 2)
        return replace(block, data=(line * space.x.amplitude).numpy(), domain="x", traj=None)

    def _place(self, block: Readouts, n_kept: int, *, reverse: bool, space: Space) -> int:
        """Return the matrix index of the first kept sample."""
        head, n, size = block.head[0], block.data.shape[2], space.x.encoded
        centre, pre = int(head["center_sample"]), int(head["discard_post" if reverse else "discard_pre"])
        centre = n - 1 - centre if reverse else centre
        first = size // 2 - (centre - pre)
        if reverse and n_kept == size and abs(first) <= 1:  # scanners differ in whether the centre is turned too
            return 0
        if 0 <= first <= size - n_kept:
            return first
        if n_kept != size:
            raise DataError(
                f"readout {head['scan_counter']}",
                expected=f"samples that fit the encoded matrix of {size}",
                got=f"{n_kept} samples with the centre at {centre - pre}",
                action="correct center_sample or encodedSpace.matrixSize.x",
            )
        self._guessed += len(block)
        return 0

    def _cleared(self, n: int, n_coils: int, size: int) -> torch.Tensor:
        if self._buffer.shape[1:] != (n_coils, size) or len(self._buffer) < n:
            self._buffer = torch.empty((n, n_coils, size), dtype=torch.complex64)
        return self._buffer[:n].zero_()


def _kept(block: Readouts, reverse: bool, where: str) -> np.ndarray:
    """Return the samples that count, in the order of growing k0; never read-only."""
    n, pre, post = block.data.shape[2], int(block.head["discard_pre"][0]), int(block.head["discard_post"][0])
    if pre + post >= n:
        raise DataError(where, expected="samples that are kept", got=f"{n} samples, {pre} + {post} of them discarded")
    kept = block.data[:, :, pre : n - post]
    if reverse:
        kept = kept[:, :, ::-1]
    return kept if kept.flags.writeable and not reverse else kept.copy()


def _runs(rows: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield (first, last + 1) of each run of equal rows."""
    edges = np.flatnonzero((rows[1:] != rows[:-1]).any(axis=1)) + 1
    yield from zip([0, *edges.tolist()], [*edges.tolist(), len(rows)], strict=True)
