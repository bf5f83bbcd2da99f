"""The g-factor against many replicas of noise, and its place in the protocol."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from acquisition.items import Image, Item
from acquisition.scan import Scan
from acquisition.sources.phantom.exam import MriExam
from acquisition.sources.phantom.sms import SmsSimulation
from acquisition.stream import Chain
from integration.protocol import Library
from integration.runner import Run
from kernels.registry import kernel
from recon.mri import Assemble, Combine, Grappa, ReadoutTransform
from recon.mri.gfactor import gfactor_map
from recon.mri.grappa import fill
from recon.mri.items import Frame, FrameKey
from recon.mri.pattern import Pattern
from tests.phantoms import small_simulation
from tests.properties import normal
from tests.recon.helpers import Exam, coils, phantom


@pytest.mark.parametrize("acceleration", [2, 3])
def test_it_is_what_replicas_of_noise_show(acceleration: int) -> None:
    n, n_coils, shape = 48, 6, (1, 48, 48)
    maps = torch.from_numpy(coils(n_coils, shape)[:, 0]).to(torch.complex64)
    maps = kernel("unit_norm")(maps)
    kspace = kernel("centred_fft")(maps * torch.from_numpy(phantom(shape)[0]).to(torch.complex64), (1, 2))
    acs = kspace[:, None, 12:36]
    weights, _ = kernel("grappa_calibrate")(acs, acceleration, kernel=(4, 3), regularisation=1e-4)
    hybrid = kernel("grappa_hybrid")(weights, n)
    expected = gfactor_map(hybrid, maps, acceleration=acceleration, padded=n)
    lines = np.arange(0, n, acceleration)
    counts = np.zeros((1, n), np.uint16)
    counts[0, lines] = 1
    images = []
    for seed in range(300):
        noise = torch.zeros(n_coils, 1, n, n, dtype=torch.complex64)
        noise[:, 0, lines] = normal((n_coils, len(lines), n), torch.complex64, seed)
        frame = Frame(kspace=noise, counts=counts, key=FrameKey(0, 0, 0, 0, 0, 0), head=np.zeros(1)[0])
        fill(frame, Pattern(acceleration, 0, 0, int(lines[-1])), hybrid, within=range(n))
        images.append((maps.conj() * kernel("centred_ifft")(noise[:, 0], (1,))).sum(0))
    spread = torch.stack(images).abs().square().mean(0).sqrt() / np.sqrt(acceleration)
    ratio = (spread / expected)[:, 4:-4]
    assert abs(float(ratio.mean()) - 1) < 0.06
    assert float(ratio.std()) < 0.08
    assert expected.mean() >= 0.8


def images(**changes: Any) -> list[Image]:
    simulation = small_simulation(matrix=(2, 64, 64), n_coils=6, n_acs=20, **changes)
    run = Run(simulation.scan, Library()["mri_cartesian"].with_changes({"mri.combine.gfactor": True}))
    run.open()
    return [image for block in simulation.readouts() for image in run.feed(block)] + list(run.close())


def test_a_map_stands_behind_the_first_image_of_each_slice() -> None:
    made = images(acceleration=3, repetitions=2)
    assert [i.output for i in made].count("conventional") == 4
    maps = [i for i in made if i.output == "gfactor"]
    assert [i.position.slice for i in maps] == sorted({i.position.slice for i in maps})
    assert len(maps) == 2
    for image in maps:
        assert image.unit == "1"
        assert image.data.shape == (1, 64, 64)
        assert 0.9 < np.median(image.data[0, 16:48, 16:48]) < 4


def test_more_acceleration_costs_more() -> None:
    means = [
        np.mean([i.data[0, 16:48, 16:48].mean() for i in images(acceleration=r) if i.output == "gfactor"])
        for r in (2, 3, 4)
    ]
    assert means == sorted(means)


def test_without_undersampling_there_is_none() -> None:
    assert {i.output for i in images()} == {"conventional"}


LIBRARY = Library()


class Tagged:
    """A Step that lets frames carry what was done to them, as slices measured together do."""

    def open(self, scan: Scan) -> None:
        """Nothing to prepare."""

    def feed(self, item: Item) -> Iterator[Item]:
        """Tag frames."""
        yield replace(item, replica=lambda kspace: kspace.clone()) if isinstance(item, Frame) else item

    def close(self) -> Iterator[Item]:
        """Nothing is left to do."""
        return iter(())


def gmap(*between: Any, exam: Exam, replicas: int = 80) -> np.ndarray:
    chain = Chain([ReadoutTransform(), Assemble(), *between, Combine(gfactor=True, replicas=replicas)])
    chain.open(exam.scan)
    items = [i for b in exam.readouts() for i in chain.feed(b)] + list(chain.close())
    (found,) = [i for i in items if isinstance(i, Image) and i.output == "gfactor"]
    return found.data


def test_replicas_show_what_the_weights_say() -> None:
    exam = Exam(matrix=(1, 96, 96), acceleration=3, n_coils=12)
    exact, replicated = gmap(Grappa(), exam=exam), gmap(Tagged(), Grappa(), exam=exam)
    inside = exam.object() > 0.3 * exam.object().max()
    # calibration lines are measured and not made: the replicas know, the formula does not
    assert 0.8 < np.median(replicated[inside] / exact[inside]) < 1.1
    assert np.corrcoef(replicated[inside], exact[inside])[0, 1] > 0.5


def test_volumes_and_slices_measured_together_have_maps_too() -> None:
    simulation = SmsSimulation(MriExam(matrix=(4, 48, 48), n_coils=12, gap_mm=20.0, snr=100.0), 2, shift=2)
    protocol = LIBRARY["mri_sms"].with_changes({"mri.combine.gfactor": "true"})
    run = Run(simulation.scan, protocol)
    run.open()
    items = [i for b in simulation.readouts() for i in run.feed(b)] + list(run.close())
    maps = [i for i in items if isinstance(i, Image) and i.output == "gfactor"]
    assert len(maps) == 4
    for image in maps:
        truth = simulation.truth(image.position.slice).data
        assert 0.8 < np.median(image.data[truth > 0.3 * truth.max()]) < 1.6
