"""CT slices while the gantry turns: when each was measured, and how many are made together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from acquisition.items import Image
from acquisition.sources.phantom.ct import CtExam, CtSimulation, gantry
from recon.ct.fbp import Axial, Helical, together
from recon.ct.slices import planned
from tests.recon.test_ct_fbp import scanned

SMALL = gantry(n_rows=8, centre=(3.5, 91.75), n_channels=184, pitch_mm=(2.1894, 5.1432), views_per_rotation=192)


def live(step: Helical | Axial, exam: CtExam, *, broken_after_s: float = np.inf) -> list[tuple[int, Image]]:
    """Return slices and the number of the block at which they came; block n is received at n s."""
    simulation, blocks = scanned(exam, block=24)
    step.open(simulation.scan)
    made = []
    for n, block in enumerate(blocks, 1):
        data = block.data if n <= broken_after_s else 3 - block.data
        fed = step.feed(replace(block, data=data, received_s=float(n)))
        made += [(n, image) for image in fed if isinstance(image, Image)]
    return made + [(len(blocks), image) for image in step.close() if isinstance(image, Image)]


@pytest.mark.parametrize("feed", [8.0, -8.0])
def test_the_last_view_of_a_slice_is_the_last_that_matters_to_it(feed: float) -> None:
    exam = CtExam(ct=SMALL, turns=6, feed_mm=feed, start_z_mm=-3 * feed)
    options = {"matrix": 24, "fov_mm": 300, "thickness_mm": 2.4}
    made = live(Helical(**options), exam)
    times = [image.last_readout_s for _, image in made]
    assert len(made) > 10 and sorted(times) == times and times[-1] == 6 * 192 / 24
    assert all(measured <= came for measured, (came, _) in zip(times, made, strict=True))
    per_slice = 2.4 / abs(feed) * 192 / 24
    running = [t for t in times if t < times[-1]]
    np.testing.assert_allclose(np.diff(running), per_slice, atol=1)
    broken = live(Helical(**options), exam, broken_after_s=times[4])
    differ = [float(np.abs(a.data - b.data).max()) for (_, a), (_, b) in zip(made, broken, strict=True)]
    assert max(differ[:5]) == 0
    assert min(differ[9:]) > 10


def test_axial_slices_were_measured_when_their_turn_ended() -> None:
    exam = CtExam(ct=replace(SMALL, mode="axial"), turns=1.25)
    assert {image.last_readout_s for _, image in live(Axial(matrix=16), exam)} == {10.0}


@pytest.mark.parametrize(
    ("thickness", "increment", "count"),
    [(0.0, 0.0, 15), (2.4, 2.4, 8), (3.6, 3.6, 5), (4.8, 1.2, 16), (19.2, 19.2, 1), (3.6, 3.1, 1)],
)
def test_as_few_slices_are_made_together_as_fill_the_planes(thickness: float, increment: float, count: int) -> None:
    scan = CtSimulation(CtExam(ct=SMALL, feed_mm=8.0)).scan
    wanted = Helical(thickness_mm=thickness, increment_mm=increment)
    assert together(planned(scan, SMALL, wanted, radius_mm=200.0)) == count
