"""Direct unfolding: the object, exact noise, and what it cannot unfold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from acquisition.errors import ConfigError
from acquisition.items import Image
from acquisition.mri import Prewhiten
from acquisition.stream import Chain
from acquisition.verdict import Level
from recon.mri import Assemble, Combine, ReadoutTransform
from recon.mri.pattern import Pattern
from recon.mri.sense import Sense, _aliased, unfolded
from tests.phantoms import small_simulation
from tests.properties import normal
from tests.recon.helpers import Exam
from tests.recon.test_mri_iterative import error, images, protocol


@pytest.mark.parametrize("matrix", [(1, 96, 96), (1, 97, 90)])
@pytest.mark.parametrize("r", [1, 2, 3, 4])
def test_slices_are_unfolded(matrix: tuple[int, int, int], r: int) -> None:
    simulation = small_simulation(matrix=matrix, n_coils=12, acceleration=r, n_acs=24)
    (image,) = images(simulation.scan, simulation.readouts(), protocol("mri.sense"))
    assert error(image, simulation) < 0.025
    (told,) = (v for v in image.verdicts if v.check == "mri.sense")
    assert told.level is Level.PASS


def test_more_undersampling_costs_more_noise() -> None:
    g = []
    for r in (2, 3, 4):
        simulation = small_simulation(matrix=(1, 96, 96), n_coils=8, acceleration=r, n_acs=24)
        (image,) = images(simulation.scan, simulation.readouts(), protocol("mri.sense"))
        g += [v.value for v in image.verdicts if v.check == "mri.sense"]
    assert 1 <= g[0] < g[1] < g[2]


def test_folds_of_known_coils_come_apart() -> None:
    maps = normal((5, 3, 12), torch.complex64)
    maps /= maps.abs().square().sum(0).sqrt()
    image, phase = (
        normal((3, 12), torch.complex64, 2),
        torch.exp(2j * torch.pi * torch.arange(3) / 3).to(torch.complex64),
    )
    aliased = ((maps * image).view(5, 3, 3, 4) * phase[:, None]).sum(2)
    found, g = unfolded(aliased, maps, phase, damping=0.0)
    torch.testing.assert_close(found, image, atol=1e-4, rtol=1e-4)
    assert (g >= 1 - 1e-4).all()
    nothing, g = unfolded(aliased, torch.zeros_like(maps), phase, damping=0.0)
    assert not nothing.any()
    assert not g.any()


def test_everything_stays_on_the_device_of_the_frame() -> None:
    """The device ``meta`` holds no values, and refuses the CPU's tensors like a GPU does."""
    data = torch.empty((4, 24, 32), dtype=torch.complex64, device="meta")
    aliased, phase = _aliased(data, Pattern(2, 0, 0, 31), 32)
    image, g = unfolded(aliased, data, phase, damping=1e-3)
    assert (image.device.type, g.device.type) == ("meta", "meta")


def test_the_g_factor_is_the_noise_that_is_seen() -> None:
    exam = Exam(matrix=(1, 96, 96), acceleration=3, noise=0.05, n_coils=12)
    made: list[Image] = []
    for seed in range(24):
        chain = Chain(
            [
                Prewhiten(receiver_noise_bandwidth=1.0),
                ReadoutTransform(),
                Assemble(),
                Sense(damping=0.0, energy=1.0, gfactor=True),
                Combine(kind="complex"),
            ]
        )
        chain.open(exam.scan)
        blocks = [exam.noise_scan(20000), *replace(exam, seed=seed).readouts()]
        items = [i for b in blocks for i in chain.feed(b)] + list(chain.close())
        made += [i for i in items if isinstance(i, Image)]
    pictures = np.stack([i.data for i in made if i.output == "conventional"])
    g = np.mean([i.data for i in made if i.output == "gfactor"], axis=0)
    assert made[0].unit == "1"
    strong = np.abs(pictures[0]) > 0.4 * np.abs(pictures[0]).max()
    seen = pictures.real.std(axis=0)[strong]
    # only the regular third of the lines enters, the unit counts the calibration lines too
    n_lines = len({int(k) for b in exam.readouts() for k in b.head["k1"]})
    unit = np.sqrt(n_lines / 32)
    assert np.median(seen / (g[strong] * unit)) == pytest.approx(1, abs=0.08)


def test_what_cannot_be_unfolded_is_held() -> None:
    simulation = small_simulation(matrix=(8, 40, 40), kind="3D", n_coils=4, gap_mm=0.0)
    (image,) = images(simulation.scan, simulation.readouts(), protocol("mri.sense"))
    assert any(v.level is Level.HOLD and "volume" in v.evidence for v in image.verdicts)


@pytest.mark.parametrize("bad", [{"n_sets": 2}, {"damping": -1.0}, {"flag_above": 0.0}, {"kernel": 1}])
def test_wrong_parameters(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        Sense(**bad)
