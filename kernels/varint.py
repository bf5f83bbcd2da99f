"""Numbers of seven bits a byte, the least first, the top bit set on all but the last byte (LEB128)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.compile import compiled

MOST_BYTES = 10
"""Bytes of the longest number."""


@compiled
def read(data: NDArray[np.uint8], start: int, out: NDArray) -> int:  # pragma: no cover - compiled
    """Read as many numbers as `out` (n,) holds; return where the next byte is, -1 if the data end or make no sense."""
    at, end = start, data.shape[0]
    for i in range(out.shape[0]):
        if at >= end:
            return -1
        byte = data[at]
        at += 1
        value = np.uint64(byte & 127)
        shift = np.uint64(0)
        while byte >= 128:
            shift += np.uint64(7)
            if at >= end or shift > 63:
                return -1
            byte = data[at]
            at += 1
            value |= np.uint64(byte & 127) << shift
        out[i] = value
    return at


@compiled
def write(values: NDArray, out: NDArray[np.uint8]) -> int:  # pragma: no cover - compiled
    """Write the non-negative numbers `values` (n,) to `out`, which has room for them; return the bytes used."""
    at = 0
    for i in range(values.shape[0]):
        rest = np.uint64(values[i])
        while rest >= 128:
            out[at] = np.uint8((rest & np.uint64(127)) | np.uint64(128))
            at += 1
            rest >>= np.uint64(7)
        out[at] = np.uint8(rest)
        at += 1
    return at


@compiled
def place(
    columns: NDArray[np.uint32],
    first: NDArray[np.int32],
    second: NDArray[np.int32],
    pairs: NDArray[np.int32],
    tof: NDArray[np.int16],
) -> int:  # pragma: no cover - compiled
    """Turn coincidences into pairs of detectors; return how many name a detector that there is not.

    Parameters
    ----------
    columns
        Both detection bins and the time-of-flight bin (event, 3).
    first, second
        Detector of each detection bin (bin,).
    pairs, tof
        Receive the detectors (event, 2) and the time-of-flight bin (event,).
    """
    wrong = 0
    for i in range(columns.shape[0]):
        a, b = columns[i, 0], columns[i, 1]
        if a >= first.shape[0] or b >= second.shape[0]:
            wrong += 1
            continue
        pairs[i, 0], pairs[i, 1], tof[i] = first[a], second[b], columns[i, 2]
    return wrong
