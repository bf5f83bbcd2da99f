"""Small CT scans for the tests, and the ways through Steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from acquisition.ct import Air
from acquisition.items import Item, Projections
from acquisition.sources.phantom.ct import CtExam, CtSimulation, gantry
from acquisition.sources.phantom.objects import Phantom
from acquisition.stream import Chain, Step
from acquisition.verdict import Verdict

AXIAL = gantry(
    mode="axial", n_rows=2, n_channels=184, pitch_mm=(4.0, 5.1432), centre=(0.5, 91.75), views_per_rotation=288
)
"""Half as fine as the virtual scanner: a turn in a tenth of a second."""
HELICAL = gantry(n_rows=8, n_channels=184, pitch_mm=(4.3788, 5.1432), centre=(3.5, 91.75), views_per_rotation=288)


def through(steps: Sequence[Step], simulation: CtSimulation, *, block: int = 32) -> list[Item]:
    """Return all that comes out of some Steps."""
    return sent(steps, simulation, simulation.projections(block=block))


def sent(steps: Sequence[Step], simulation: CtSimulation, items: Iterable[Item]) -> list[Item]:
    chain = Chain(steps)
    chain.open(simulation.scan)
    return [out for item in items for out in chain.feed(item)] + list(chain.close())


def views(items: Iterable[Item]) -> np.ndarray:
    """Return the patient's views (view, row, channel), in the order in which they came."""
    blocks = [i for i in items if isinstance(i, Projections) and not i.head["flags"].any()]
    numbers = np.concatenate([b.head["view"] for b in blocks])
    np.testing.assert_array_equal(numbers, np.arange(len(numbers)))
    return np.concatenate([b.data for b in blocks])


def verdict(items: Iterable[Item], check: str) -> Verdict:
    """Return the one verdict of a check."""
    [found] = [i for i in items if isinstance(i, Verdict) and i.check == check]
    return found


def line_blocks(exam: CtExam, phantom: Phantom | None = None, *, block: int = 32) -> tuple[CtSimulation, list[Item]]:
    """Return blocks of line integrals after ct.air."""
    simulation = CtSimulation(exam, phantom)
    items = through([Air()], simulation, block=block)
    return simulation, [i for i in items if isinstance(i, Projections)]
