"""Retrospective undersampling: a fully sampled Cartesian scan as if it had been measured R times faster.

The scan's own full data then serve as the reference. Every R-th line of the lattice through the k-space centre
is kept, and ``n_acs`` lines around it as embedded calibration.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import ConfigError, DataError
from acquisition.items import NOT_IMAGING, Flag, Readouts
from acquisition.scan import Encoding, Limits, Scan

_FIRST = sum(int(f) for f in Flag if (f.name or "").startswith("FIRST_IN"))
_LAST = sum(int(f) for f in Flag if (f.name or "").startswith("LAST_IN"))
_SAME_SLICE = ("encoding", "slice", "contrast", "phase", "repetition", "set")


def undersample(readouts: Iterable[Readouts], scan: Scan, *, r: int, n_acs: int) -> tuple[Scan, Iterator[Readouts]]:
    """Return the header and readouts of `scan` undersampled along k1, calibration embedded.

    The FIRST and LAST flags of a line that is left out pass to its neighbour that stays (same slice, contrast,
    phase, repetition and set); readouts that make no image (noise, navigators) stay as they are. All readouts
    are taken in before the first is given out.

    Parameters
    ----------
    readouts
        The full scan, in any block size.
    scan
        Its header.
    r
        Undersampling, at least 1; 1 gives the scan back.
    n_acs
        Calibration lines around the centre.

    Raises
    ------
    ConfigError
        `r` is less than 1 or `n_acs` negative.
    DataError
        The scan is not Cartesian, already undersampled, or lines of the lattice are missing.
    """
    if r < 1 or n_acs < 0:
        raise ConfigError("undersample", expected="r >= 1 and n_acs >= 0", got=f"r={r}, n_acs={n_acs}")
    encoding = scan.require_mr().encodings[0]
    blocks = list(readouts)
    if r == 1:
        return scan, iter(blocks)
    _check_full(scan, encoding)
    head = np.concatenate([block.head for block in blocks])
    limits = _k1_limits(encoding)
    keep, head = _thin(head, limits, r=r, n_acs=n_acs)
    faster = replace(encoding, acceleration=(encoding.acceleration[0], float(r)), calibration_mode="embedded")
    mr = replace(scan.require_mr(), encodings=(faster, *scan.require_mr().encodings[1:]))
    # The header text and identifiers are of the full scan: the text is dropped, the identifiers say what was done.
    mark = f"-r{r}a{n_acs}"
    measurement_id = f"{scan.measurement_id}{mark}" if scan.measurement_id else None
    changed = replace(scan, mr=mr, header="", uid=f"{scan.uid}{mark}", measurement_id=measurement_id)
    return changed, _kept(blocks, head, keep)


def _check_full(scan: Scan, encoding: Encoding) -> None:
    if encoding.trajectory != "cartesian" or encoding.acceleration[1] != 1:
        raise DataError(
            f"undersample scan {scan.uid}",
            expected="a fully sampled Cartesian scan",
            got=f"{encoding.trajectory}, R = {encoding.acceleration[1]:g} along k1",
            action="choose another scan",
        )


def _k1_limits(encoding: Encoding) -> Limits:
    """Return the k1 limits; the whole matrix where the header is silent."""
    n = encoding.matrix[1]
    return encoding.limits.get("k1", Limits(0, n - 1, n // 2))


def _thin(head: NDArray[np.void], limits: Limits, *, r: int, n_acs: int) -> tuple[NDArray[np.bool_], NDArray[np.void]]:
    """Return which readouts stay, and all heads with the flags of what stays set right."""
    imaging = (head["flags"] & np.uint64(NOT_IMAGING)) == 0
    k1 = head["k1"].astype(np.int64)
    first = limits.center - n_acs // 2
    regular = (k1 - limits.center) % r == 0
    acs = (k1 >= first) & (k1 < first + n_acs)
    lattice = np.arange(limits.minimum, limits.maximum + 1)
    lattice = lattice[(lattice - limits.center) % r == 0]
    if missing := sorted(set(lattice.tolist()) - set(k1[imaging].tolist())):
        raise DataError(
            "undersample",
            expected="all lines of the lattice",
            got=f"k1 {missing[:5]} missing",
            action="use a full scan",
        )
    keep = ~imaging | regular | acs
    head = head.copy()
    head["flags"][imaging] &= ~np.uint64(Flag.CALIBRATION | Flag.CALIBRATION_AND_IMAGING)
    head["flags"][imaging & acs & regular] |= np.uint64(Flag.CALIBRATION_AND_IMAGING)
    head["flags"][imaging & acs & ~regular] |= np.uint64(Flag.CALIBRATION)
    _hand_on_edges(head, keep, imaging)
    return keep, head


def _hand_on_edges(head: NDArray[np.void], keep: NDArray[np.bool_], imaging: NDArray[np.bool_]) -> None:
    """Give FIRST flags of lost readouts to the next, LAST flags to the previous that stays in the same slice."""
    keys = np.stack([head[name] for name in _SAME_SLICE], axis=1)
    _, group = np.unique(keys, axis=0, return_inverse=True)
    group = group.reshape(-1)
    if ((head["flags"] & np.uint64(Flag.LAST_IN_MEASUREMENT)) != 0).any():
        head["flags"][np.flatnonzero(keep)[-1]] |= np.uint64(Flag.LAST_IN_MEASUREMENT)
    for lost in np.flatnonzero(imaging & ~keep & ((head["flags"] & np.uint64(_FIRST)) != 0)):
        stays = np.flatnonzero(keep & imaging & (group == group[lost]) & (np.arange(len(head)) > lost))
        head["flags"][stays[:1]] |= head["flags"][lost] & np.uint64(_FIRST)
    for lost in np.flatnonzero(imaging & ~keep & ((head["flags"] & np.uint64(_LAST)) != 0)):
        stays = np.flatnonzero(keep & imaging & (group == group[lost]) & (np.arange(len(head)) < lost))
        head["flags"][stays[-1:]] |= head["flags"][lost] & np.uint64(_LAST)


def _kept(blocks: list[Readouts], head: NDArray[np.void], keep: NDArray[np.bool_]) -> Iterator[Readouts]:
    start = 0
    for block in blocks:
        rows = slice(start, start + len(block))
        start += len(block)
        if keep[rows].any():
            yield replace(block, head=head[rows]).select(keep[rows])
