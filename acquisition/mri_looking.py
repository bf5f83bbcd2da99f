"""What the checks of raw MR data have in common: they look at readouts while the scan runs, and let everything pass.

An item goes on before it is looked at, so no image waits for a check.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from acquisition.items import NOT_IMAGING, Flag, Item, Readouts
from acquisition.scan import Encoding, MrHeader, Scan
from acquisition.verdict import Verdict

OUTER = 3 / 8
"""Lines farther from the centre than this part of the matrix hold little of the object."""


class Looking:
    """A Step that changes nothing."""

    _mr: MrHeader
    _uid: str

    def open(self, scan: Scan) -> None:
        """Forget the scan before."""
        self._mr, self._uid = scan.require_mr(), scan.uid
        self._begin()

    def feed(self, item: Item) -> Iterator[Item]:
        """Pass everything on, then look at readouts; what is certain is said at once."""
        yield item
        if isinstance(item, Readouts) and len(item) and item.domain == "k0":
            yield from self._look(item)

    def close(self) -> Iterator[Item]:
        """Say what was found, where it has not been said yet."""
        yield from self._end()

    def _begin(self) -> None:
        raise NotImplementedError

    def _look(self, item: Readouts) -> Iterator[Verdict]:
        raise NotImplementedError

    def _end(self) -> Iterator[Verdict]:
        raise NotImplementedError

    def _encoding(self, item: Readouts) -> Encoding:
        return self._mr.encodings[min(int(item.head["encoding"][0]), len(self._mr.encodings) - 1)]


def kept(item: Readouts) -> NDArray[np.complex64]:
    """Return the samples that count (n, coil, k0)."""
    pre, post = int(item.head["discard_pre"][0]), int(item.head["discard_post"][0])
    return item.data[:, :, pre : item.data.shape[2] - post]


def outer_lines(item: Readouts, encoding: Encoding) -> NDArray[np.bool_]:
    """Return which imaging readouts lie far from the centre of k-space along k1 (n,)."""
    size, limit = encoding.matrix[1], encoding.limits.get("k1")
    centre = limit.center if limit else size // 2
    far = np.abs(item.head["k1"].astype(int) - centre) >= OUTER * size
    return np.asarray(far & ~item.has(NOT_IMAGING) & (size >= 32))


def noise_lines(item: Readouts) -> NDArray[np.bool_]:
    """Return which readouts are noise alone (n,)."""
    return item.has(Flag.NOISE)
