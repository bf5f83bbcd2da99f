"""Checks of a PET scan while it counts: dead detector blocks, lost counts, and whether the dose can be trusted.

They change nothing; every block passes at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import ConfigError
from acquisition.items import Events, Item
from acquisition.pet_geometry import checked
from acquisition.pet_norm import blocks
from acquisition.scan import PetHeader, Scan
from acquisition.verdict import Level, Verdict

HALF_LIVES_S = MappingProxyType(
    {"C11": 1221.8, "N13": 597.9, "O15": 122.2, "F18": 6586.2, "CU64": 45723.6, "GA68": 4057.7, "RB82": 76.4}
    | {"ZR89": 282276.0, "Y90": 230550.0, "I124": 360806.0}
)
"""Half-lives [s] (Decay Data Evaluation Project)."""
_ELEMENTS = MappingProxyType(
    {"CARBON": "C", "NITROGEN": "N", "OXYGEN": "O", "FLUORINE": "F", "COPPER": "CU", "GALLIUM": "GA"}
    | {"RUBIDIUM": "RB", "ZIRCONIUM": "ZR", "YTTRIUM": "Y", "IODINE": "I"}
)


class Looking:
    """What the checks have in common: they look at blocks of events, and let everything pass.

    Where the table was moved the scanner sees another part of the patient: they begin anew.
    """

    _pet: PetHeader

    def open(self, scan: Scan) -> None:
        """Prepare for the scanner."""
        self._pet, self._scan = checked(scan.require_pet(), f"scan {scan.uid}"), scan
        self._bed_mm: float | None = None
        self._begin()

    def feed(self, item: Item) -> Iterator[Item]:
        """Look at events; everything passes, and with it what is certain already."""
        yield item
        if isinstance(item, Events):
            if self._bed_mm is not None and item.bed_mm != self._bed_mm:
                yield from self._moved()
            self._bed_mm = item.bed_mm
            yield from self._look(item)

    def close(self) -> Iterator[Item]:
        """Say what was found, where it has not been said yet."""
        yield from self._end()

    def _moved(self) -> Iterator[Item]:
        yield from self._end()
        self._begin()

    def _begin(self) -> None:
        raise NotImplementedError

    def _look(self, item: Events) -> Iterator[Item]:
        raise NotImplementedError

    def _end(self) -> Iterator[Item]:
        raise NotImplementedError


@dataclass(kw_only=True)
class CheckBlocks(Looking):
    """Does every detector block count? Each is held against its neighbours in its ring, and against itself before."""

    limit: float = 0.6
    """Part of the expected counts below which a block is reported."""
    window_s: float = 2.0
    """Time over which counts are added up [s]."""

    def __post_init__(self) -> None:
        if not 0 < self.limit < 1 or self.window_s <= 0:
            raise ConfigError(
                "check.pet_blocks",
                expected="a limit between 0 and 1, a window above 0 s",
                got=f"{self.limit}, {self.window_s} s",
            )

    def _begin(self) -> None:
        self._group, self._n = blocks(self._pet)
        self._around = -(-self._pet.n_crystals // (self._pet.block[1] or 1))
        self._now, self._start_s = np.zeros(self._n), 0.0
        self._before, self._lowest = np.zeros(self._n), 1.0
        self._found: set[int] = set()

    def _look(self, item: Events) -> Iterator[Verdict]:
        if not self._now.any():
            self._start_s = item.start_s
        self._now += np.bincount(self._group[item.prompts.ravel()], minlength=self._n)
        if item.stop_s - self._start_s >= self.window_s - 1e-9:
            yield from self._judged()

    def _judged(self) -> Iterator[Verdict]:
        """Hold a window's counts against what is expected of each block."""
        now, before = self._now, self._before
        expected = self._neighbours(now)
        if before.any():
            good = np.setdiff1d(np.arange(self._n), list(self._found))
            share = now[good].sum() / max(before[good].sum(), 1.0)
            expected = np.maximum(expected, np.minimum(before * share, 3 * expected))
        clear = now < expected - 6 * np.sqrt(np.maximum(expected, 1))
        part = now / np.maximum(expected, 1)
        for block in np.flatnonzero(clear & (part < self.limit)).tolist():
            if block not in self._found:
                self._found.add(block)
                yield self._verdict(block, float(part[block]))
        self._lowest = min(self._lowest, float(part[expected > 100].min(initial=1.0)))
        self._before, self._now = before + now, np.zeros(self._n)

    def _neighbours(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the median of the two blocks on each side in the ring."""
        table = counts.reshape(-1, self._around)
        return np.asarray(np.median([np.roll(table, k, axis=1) for k in (-2, -1, 1, 2)], axis=0)).ravel()

    def _verdict(self, block: int, part: float) -> Verdict:
        return Verdict(
            check="check.pet_blocks",
            level=Level.HOLD if part < 0.1 else Level.FLAG,
            advice=f"Detector block {block} counts {100 * part:.0f} % of what it should: call service, "
            "and look for streaks before you rely on the images.",
            value=100 * part,
            limit=100 * self.limit,
            unit="%",
            evidence=f"from {self._start_s:.1f} s; ring of blocks {block // self._around}, "
            f"number {block % self._around} in it",
        )

    def _end(self) -> Iterator[Verdict]:
        if self._now.any() and not self._before.any():
            yield from self._judged()
        if not self._found and self._before.any():
            yield Verdict(
                check="check.pet_blocks",
                level=Level.PASS,
                advice="All detector blocks count.",
                value=100 * self._lowest,
                limit=100 * self.limit,
                unit="%",
            )


@dataclass(kw_only=True)
class CheckRate(Looking):
    """Did counts get lost? The rate of each block of time is held against those before it."""

    limit: float = 0.8
    """Part of the usual rate below which counts are said to be lost."""
    memory_s: float = 10.0
    """Time whose median rate is the usual one [s]."""

    def __post_init__(self) -> None:
        if not 0 < self.limit < 1 or self.memory_s <= 0:
            raise ConfigError(
                "check.pet_rate",
                expected="a limit between 0 and 1, a memory above 0 s",
                got=f"{self.limit}, {self.memory_s} s",
            )

    def _begin(self) -> None:
        self._rates: deque[tuple[float, float]] = deque()
        self._lost_s, self._first_s, self._part = 0.0, 0.0, 1.0
        self._last_s: float | None = None
        self._said = False

    def _look(self, item: Events) -> Iterator[Verdict]:
        length = item.stop_s - item.start_s
        if length <= 0:
            return
        if self._last_s is not None and item.start_s - self._last_s > 1e-3:
            self._lose(self._last_s, item.start_s - self._last_s, 0.0)
        self._last_s = item.stop_s
        usual = float(np.median([r for _, r in self._rates])) * length if len(self._rates) >= 3 else 0.0
        if usual - len(item) > 6 * np.sqrt(usual) and len(item) < self.limit * usual:
            self._lose(item.start_s, length, len(item) / usual)
        else:
            self._rates.append((item.stop_s, len(item) / length))
            while item.stop_s - self._rates[0][0] > self.memory_s:
                self._rates.popleft()
        if self._lost_s and not self._said:
            self._said = True
            yield self._verdict()

    def _lose(self, start_s: float, length_s: float, part: float) -> None:
        if not self._lost_s:
            self._first_s = start_s
        self._lost_s += length_s
        self._part = min(self._part, part)

    def _verdict(self) -> Verdict:
        return Verdict(
            check="check.pet_rate",
            level=Level.FLAG if self._lost_s else Level.PASS,
            advice=f"Counts are lost since {self._first_s:.1f} s: leave that time out of the frames."
            if self._lost_s
            else "No counts were lost.",
            value=100 * self._part,
            limit=100 * self.limit,
            unit="% of the usual rate",
            evidence=f"{self._lost_s:.1f} s with too few counts" if self._lost_s else "",
        )

    def _end(self) -> Iterator[Verdict]:
        if self._last_s is not None and not self._said:
            yield self._verdict()


@dataclass(kw_only=True)
class CheckDose(Looking):
    """Can activity be turned into SUV? Tracer, dose, times and weight must be there and fit together."""

    half_life_percent: float = 1.0
    """Deviation of the half-life from that of the nuclide that is passed [%]."""
    longest_h: float = 12.0
    """Time from injection to scan that is believed [h]; as many half-lives of the tracer, where these are longer."""

    def __post_init__(self) -> None:
        if min(self.half_life_percent, self.longest_h) <= 0:
            raise ConfigError(
                "check.pet_dose", expected="limits above 0", got=f"{self.half_life_percent} %, {self.longest_h} h"
            )

    def _begin(self) -> None:
        self._said = False

    def _moved(self) -> Iterator[Item]:
        yield from ()  # the dose stays what it is

    def _look(self, item: Events) -> Iterator[Verdict]:
        yield from self._end()

    def _end(self) -> Iterator[Verdict]:
        if self._said:
            return
        self._said = True
        faults = list(self._faults())
        yield Verdict(
            check="check.pet_dose",
            level=Level.FLAG if faults else Level.PASS,
            advice=f"SUV cannot be trusted: {'; '.join(faults)}. Correct it at the console before the images are read."
            if faults
            else "Dose, times and weight fit together.",
            value=float(len(faults)),
            limit=0.0,
            unit="faults",
        )

    def _faults(self) -> Iterator[str]:
        tracer, started, weight = self._pet.tracer, self._scan.started, self._scan.patient.weight_kg
        if weight is None or not 0.3 <= weight <= 350:
            yield "no weight of the patient" if weight is None else f"a weight of {weight:g} kg"
        if tracer is None:
            yield "no tracer"
            return
        known = HALF_LIVES_S.get(nuclide(tracer.nuclide))
        if known is None:
            yield f"the nuclide {tracer.nuclide!r} is not known"
        elif abs(tracer.half_life_s / known - 1) * 100 > self.half_life_percent:
            yield f"a half-life of {tracer.half_life_s:g} s, where {tracer.nuclide} has {known:g} s"
        if tracer.dose_bq is None or not tracer.dose_bq > 0:
            yield "no dose" if tracer.dose_bq is None else f"a dose of {tracer.dose_bq:g} Bq"
        elif not 1e5 <= tracer.dose_bq <= 1e10:
            yield f"a dose of {tracer.dose_bq / 1e6:g} MBq"
        if tracer.injected is None or started is None:
            yield "no time of the injection" if tracer.injected is None else "no time of the scan"
            return
        waited_s = (started - tracer.injected).total_seconds()
        if waited_s < 0:
            yield f"the injection is {-waited_s / 60:.0f} min after the start of the scan"
        elif waited_s > self.longest_h * max(3600.0, tracer.half_life_s):
            yield f"the injection is {waited_s / 3600:.0f} h before the scan"


def nuclide(name: str) -> str:
    """Return mass and element in one way, e.g. F18 for ``^18^Fluorine``, ``18F``, ``F-18`` and ``Fluorine-18``."""
    mass = "".join(c for c in name if c.isdigit())
    word = "".join(c for c in name if c.isalpha()).upper()
    return _ELEMENTS.get(word, word) + mass
