"""Faults planted into a stream of readouts, one function each: what a broken scan looks like on the wire.

Readouts are counted from 0 over the whole stream, whatever the block size. Each function leaves the blocks it
is given untouched and yields new ones where it changes something.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import ConfigError
from acquisition.items import COUNTERS, Flag, Readouts


def drop_lines(
    readouts: Iterable[Readouts], k1: Collection[int], *, slice_index: int | None = None
) -> Iterator[Readouts]:
    """Leave out the readouts of the lines `k1`, in one slice or in all; their flags are lost with them."""
    wanted = list(k1)
    for block in readouts:
        lost = np.isin(block.head["k1"], wanted) & ~block.has(Flag.NOISE)
        if slice_index is not None:
            lost &= block.head["slice"] == slice_index
        if not lost.all():
            yield block.select(~lost) if lost.any() else block


def drop_at(readouts: Iterable[Readouts], at: int) -> Iterator[Readouts]:
    """Leave out readout number `at`."""
    for first, block in _counted(readouts):
        keep = first + np.arange(len(block)) != at
        if keep.any():
            yield block if keep.all() else block.select(keep)


def duplicate_line(readouts: Iterable[Readouts], at: int) -> Iterator[Readouts]:
    """Send readout number `at` twice."""
    for first, block in _counted(readouts):
        yield block
        if 0 <= at - first < len(block):
            yield block.select(np.arange(len(block)) == at - first)


def nan_sample(readouts: Iterable[Readouts], at: int, *, coil: int = 0, sample: int = 0) -> Iterator[Readouts]:
    """Make one sample of readout number `at` not a number."""
    for first, block in _counted(readouts):
        if 0 <= at - first < len(block):
            data = block.data.copy()
            data[at - first, coil, sample] = complex(np.nan, np.nan)
            block = replace(block, data=data)
        yield block


def dead_coil(readouts: Iterable[Readouts], coil: int) -> Iterator[Readouts]:
    """Silence one coil: zeros, noise readouts included."""
    for block in readouts:
        data = block.data.copy()
        data[:, coil] = 0
        yield replace(block, data=data)


def spikes(readouts: Iterable[Readouts], at: Mapping[int, tuple[int, int]], *, value: complex) -> Iterator[Readouts]:
    """Add `value` to one sample of some readouts: number of the readout -> (coil, sample)."""
    for first, block in _counted(readouts):
        hit = {i - first: place for i, place in at.items() if 0 <= i - first < len(block)}
        if hit:
            data = block.data.copy()
            for row, (coil, sample) in hit.items():
                data[row, coil, sample] += value
            block = replace(block, data=data)
        yield block


def offset(readouts: Iterable[Readouts], value: complex, *, coil: int) -> Iterator[Readouts]:
    """Add `value` to every sample of one coil, noise readouts included: a receiver's offset."""
    for block in readouts:
        data = block.data.copy()
        data[:, coil] += value
        yield replace(block, data=data)


def noisy_coil(readouts: Iterable[Readouts], coil: int, *, std: float, seed: int = 0) -> Iterator[Readouts]:
    """Bury one coil in noise of standard deviation `std` (E|n|^2 = std^2), noise readouts included."""
    rng = np.random.default_rng(seed)
    for block in readouts:
        shape = (*block.data[:, coil].shape, 2)
        data = block.data.copy()
        noise = rng.standard_normal(shape, np.float32).view(np.complex64)[..., 0]
        data[:, coil] += np.float32(std / np.sqrt(2)) * noise
        yield replace(block, data=data)


def cut_after(readouts: Iterable[Readouts], n: int) -> Iterator[Readouts]:
    """End the stream after `n` readouts."""
    for first, block in _counted(readouts):
        if first >= n:
            return
        yield block if first + len(block) <= n else block.select(np.arange(len(block)) < n - first)


def wrong_counter(readouts: Iterable[Readouts], at: int, *, counter: str, value: int) -> Iterator[Readouts]:
    """Set an encoding counter of readout number `at` to `value`.

    Raises
    ------
    ConfigError
        There is no such counter.
    """
    if counter not in COUNTERS:
        raise ConfigError("wrong_counter", expected=f"one of {', '.join(COUNTERS)}", got=counter)
    return _with_head(readouts, at, field=counter, value=value)


def without_flags(readouts: Iterable[Readouts], flags: Flag) -> Iterator[Readouts]:
    """Clear `flags` everywhere, as converters do."""
    for block in readouts:
        yield replace(block, head=_cleared(block.head, flags))


def _cleared(head: NDArray[np.void], flags: Flag) -> NDArray[np.void]:
    head = head.copy()
    head["flags"] &= ~np.uint64(flags)
    return head


def _with_head(readouts: Iterable[Readouts], at: int, *, field: str, value: int) -> Iterator[Readouts]:
    for first, block in _counted(readouts):
        if 0 <= at - first < len(block):
            head = block.head.copy()
            head[field][at - first] = value
            block = replace(block, head=head)
        yield block


def _counted(readouts: Iterable[Readouts]) -> Iterator[tuple[int, Readouts]]:
    """Yield each block with the number of its first readout."""
    count = 0
    for block in readouts:
        yield count, block
        count += len(block)
