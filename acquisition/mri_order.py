"""Did every readout arrive, once and in order? The scanner counts them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from acquisition.errors import ConfigError
from acquisition.items import Readouts
from acquisition.mri_looking import Looking
from acquisition.verdict import Level, Verdict

_SURE = 8  # readouts counted one by one before a gap means anything
_LISTED = 20


@dataclass(kw_only=True)
class CheckOrder(Looking):
    """Look for gaps and repetitions in the scanner's own count of readouts; told at the first one.

    Scanners that do not count, or count in other steps, are not judged. What a lost readout does to its image is
    `mri.assemble`'s to say.
    """

    rare: float = 0.1
    """Part of the readouts with a gap before them from which the count is not one by one."""

    def __post_init__(self) -> None:
        if not 0 < self.rare < 1:
            raise ConfigError("check.mri_order rare", expected="between 0 and 1", got=str(self.rare))

    def _begin(self) -> None:
        self._last, self._n, self._regular = -1, 0, 0
        self._lost, self._twice = list[str](), list[str]()
        self._n_lost = 0
        self._told = False

    def _look(self, item: Readouts) -> Iterator[Verdict]:
        counters = item.head["scan_counter"].astype(np.int64)
        before = np.concatenate([[self._last if self._last >= 0 else counters[0] - 1], counters[:-1]])
        steps = counters - before
        self._last, self._n = int(counters[-1]), self._n + len(item)
        self._regular += int((steps == 1).sum())
        for i in np.flatnonzero(steps != 1).tolist():
            where = f"readout {counters[i]}, k1 {item.head['k1'][i]}, slice {item.head['slice'][i]}"
            if steps[i] > 1:
                self._n_lost += int(steps[i]) - 1
                self._lost.append(f"{steps[i] - 1} before {where}")
            else:
                self._twice.append(where)
        if not self._told and self._counted and (self._lost or self._twice):
            self._told = True
            yield self._verdict()

    @property
    def _counted(self) -> bool:
        gaps = len(self._lost) + len(self._twice)
        return self._regular >= _SURE and gaps <= max(1, self.rare * self._n)

    def _verdict(self) -> Verdict:
        found = len(self._lost) + len(self._twice)
        what = f"{self._n_lost} readouts never arrived" if self._lost else f"{len(self._twice)} readouts came twice"
        return Verdict(
            check="check.mri_order",
            level=Level.FLAG if found else Level.PASS,
            advice=f"{what}: look at the connection; repeat the scan if its image shows it."
            if found
            else "Every readout arrived once and in order.",
            value=float(self._n_lost + len(self._twice)),
            limit=0.0,
            unit="readouts",
            evidence="; ".join((*self._lost, *(f"again {w}" for w in self._twice))[:_LISTED]),
        )

    def _end(self) -> Iterator[Verdict]:
        if not self._told and self._counted:
            yield self._verdict()
