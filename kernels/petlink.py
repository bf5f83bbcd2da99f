"""PETLINK list-mode of 32 bits: words in, pairs of detectors out.

Bit 31 clear: a coincidence, bit 30 set for a prompt, bits 0 to 29 its place in a sinogram (plane, view, bin).
Bit 31 set: a tag; bits 29 and 30 clear for the time [ms], anything else singles, dead time, gates.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.compile import compiled

PROMPTS, DELAYEDS, TIME_MS, FIRST_TAG, WRONG, N_COUNTS = 0, 1, 2, 3, 7, 8
"""What the counters count; tags of kind k at ``FIRST_TAG + k``, coincidences outside the sinogram at ``WRONG``."""


@compiled
def decode(
    words: NDArray[np.uint32],
    until_ms: int,
    axial: NDArray[np.int32],
    transaxial: NDArray[np.int32],
    events: NDArray[np.int32],
    counts: NDArray[np.int64],
) -> int:  # pragma: no cover - compiled
    """Decode `words` (word,) up to the first time tag of `until_ms` or later; return how many were read.

    Parameters
    ----------
    axial, transaxial
        Of both detectors ring times crystals per ring (plane, 2), and crystal (view * bin, 2).
    events
        Receives pairs (word, 2): prompts from the front, delayeds from the back.
    counts
        Added to (8,); `PROMPTS` and `DELAYEDS` are those of this call.
    """
    n_pairs, n_all = transaxial.shape[0], transaxial.shape[0] * axial.shape[0]
    part = 1.0 / n_pairs  # a product in place of a division: exact, offsets are below 2^30
    front, back, read = 0, events.shape[0], words.shape[0]
    for i in range(words.shape[0]):
        word = words[i]
        if word >> np.uint32(31):
            kind = (word >> np.uint32(29)) & np.uint32(3)
            if kind == 0:
                time = np.int64(word & np.uint32(0x1FFFFFFF))
                if time >= until_ms:
                    read = i
                    break
                counts[TIME_MS] = time
            counts[FIRST_TAG + kind] += 1
            continue
        offset = np.int64(word & np.uint32(0x3FFFFFFF))
        if offset >= n_all:
            counts[WRONG] += 1
            continue
        plane = np.int64((offset + 0.5) * part)
        pair = offset - plane * n_pairs
        if word & np.uint32(0x40000000):
            row = front
            front += 1
        else:
            back -= 1
            row = back
        events[row, 0] = axial[plane, 0] + transaxial[pair, 0]
        events[row, 1] = axial[plane, 1] + transaxial[pair, 1]
    counts[PROMPTS], counts[DELAYEDS] = front, events.shape[0] - back
    return read
