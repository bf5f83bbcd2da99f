"""Slice planning on heads that the template was never made of: random pose, contrast, coverage. Prints the table.

``ISOCENTER_DATA=... python -m tests.benchmarks.planning [CASES]``. A case counts as wrong where the AC-PC plane or the
mid-sagittal plane is off by more than 10 degrees, or AC or PC by more than 10 mm.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import numpy as np

from models.plan import planned
from models.train.atlas import Atlas, load_atlas
from models.train.labels import Head
from models.train.localizer import random_grids, random_pose, random_values, scanned, truth_of
from models.train.simulated import source_of

_WRONG_DEG, _WRONG_MM = 10.0, 10.0
_SEED = 21


@dataclass(frozen=True, slots=True)
class Case:
    """What one localizer gave."""

    head: str
    planned: bool
    middle_deg: float
    axial_deg: float
    ac_mm: float
    pc_mm: float
    seconds: float

    @property
    def wrong(self) -> bool:
        """Return whether nobody would want this plan."""
        return max(self.middle_deg, self.axial_deg) > _WRONG_DEG or max(self.ac_mm, self.pc_mm) > _WRONG_MM


def case(head: Head, atlas: Atlas, number: int) -> Case:
    """Return what one random localizer of a head gives."""
    rng = np.random.default_rng([_SEED, number])
    pose, grids, values = random_pose(head, atlas, rng), random_grids(rng), random_values(rng)
    noise = float(np.exp(rng.uniform(np.log(0.01), np.log(0.08))))
    images = [scanned(head, pose, grid, values=values, rng=rng, noise=noise) for grid in grids]
    truth = truth_of(pose, head, atlas)
    start = time.perf_counter()
    made = planned(images, "brain-acpc")
    seconds = time.perf_counter() - start
    marks = made.landmarks
    return Case(
        head.name,
        made.plan is not None,
        _degrees(marks.left, truth.left),
        _degrees(marks.superior, truth.superior),
        float(np.linalg.norm(marks.ac - truth.ac)),
        float(np.linalg.norm(marks.pc - truth.pc)),
        seconds,
    )


def _degrees(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.rad2deg(np.arccos(np.clip(a @ b, -1, 1))))


def table(cases: list[Case]) -> str:
    """Return the figures of the plans, and how many there are."""
    plans = [c for c in cases if c.planned]
    rows = [f"{len(cases)} localizers, {len(plans)} plans, {sum(c.wrong for c in plans)} of them wrong"]
    rows.append(f"refused though right: {sum(not c.wrong for c in cases if not c.planned)}")
    for name, unit in (("middle_deg", "degrees"), ("axial_deg", "degrees"), ("ac_mm", "mm"), ("pc_mm", "mm")):
        values = np.array([getattr(c, name) for c in plans])
        median, high = np.percentile(values, (50, 95))
        rows.append(
            f"{name.split('_')[0]:<8}median {median:.2f}, 95 % below {high:.2f}, all below {values.max():.2f} {unit}"
        )
    seconds = np.array([c.seconds for c in cases])
    rows.append(f"time    median {np.median(seconds):.2f}, 95 % below {np.percentile(seconds, 95):.2f} s")
    return "\n".join(rows)


def main(n_cases: int) -> None:
    """Print the table."""
    source = source_of("test")
    heads = [(head, load_atlas(head, data=source.data, cache=source.cache)) for head in source.heads]
    cases = [case(*heads[number % len(heads)], number) for number in range(n_cases)]
    sys.stdout.write(table(cases) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
