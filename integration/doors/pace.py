"""When each readout of a recorded scan is due, if it is sent again at the scanner's own pace.

The time stamps of the readouts say it, in ticks of 2.5 ms as Siemens counts and most converters keep. Where they
do not grow, one readout per TR and contrast; where the header is silent too, one every 10 ms.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice

import numpy as np

from acquisition.items import Readouts
from acquisition.scan import Scan
from acquisition.sources.mrd_raw import RawItem

TICK_S = 0.0025
"""One tick of the time stamps [s]."""
LONGEST_GAP_S = 5.0
"""A longer pause between two readouts (or one into the past) counts as one ordinary step [s]."""
UNKNOWN_TR_S = 0.010
"""Time from readout to readout where nothing tells it [s]."""
_PROBE = 512


def single(items: Iterable[RawItem]) -> Iterator[RawItem]:
    """Yield blocks of readouts one readout at a time, and all else as it comes."""
    for item in items:
        if not isinstance(item, Readouts):
            yield item
            continue
        for i in range(len(item)):
            traj = None if item.traj is None else item.traj[i : i + 1]
            yield replace(item, head=item.head[i : i + 1], data=item.data[i : i + 1], traj=traj)


def scheduled(items: Iterable[RawItem], scan: Scan) -> Iterator[tuple[float, RawItem]]:
    """Yield each single item with the time at which it is complete [s from the start of the scan].

    Parameters
    ----------
    items
        What a raw data file gives.
    scan
        Its header, for the repetition time.
    """
    singles = single(items)
    first = list(islice(singles, _PROBE))
    step_s = readout_time_s(scan)
    clocked = _grows([int(i.head["time_stamp"][0]) for i in first if isinstance(i, Readouts)])
    due, last = 0.0, None
    for item in chain(first, singles):
        if isinstance(item, Readouts):
            stamp = int(item.head["time_stamp"][0])
            gap = -1.0 if last is None or not clocked else (stamp - last) * TICK_S
            due += gap if 0 <= gap <= LONGEST_GAP_S else step_s
            last = stamp
        yield due, item


def readout_time_s(scan: Scan) -> float:
    """Return the mean time from readout to readout that the header tells [s]."""
    if scan.mr is None or not scan.mr.tr_s or scan.mr.tr_s[0] <= 0:
        return UNKNOWN_TR_S
    encoding = scan.mr.encodings[0]
    per_tr = max(encoding.echo_train_length or 1, encoding.limit("contrast").maximum + 1)
    return scan.mr.tr_s[0] / per_tr


def _grows(stamps: list[int]) -> bool:
    """Whether some steps go forward by a plausible amount."""
    steps = TICK_S * np.diff(np.asarray(stamps, np.int64)).astype(float)
    return bool(np.any((steps > 0) & (steps <= LONGEST_GAP_S)))
