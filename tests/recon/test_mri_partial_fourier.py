"""Partial Fourier and k-space filters against the phantom's own full data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from acquisition.errors import ConfigError
from acquisition.items import Image
from acquisition.sources.phantom.mri import Simulation
from acquisition.verdict import Level
from integration.protocol import Library
from integration.runner import Run
from recon.mri.kfilter import KspaceFilter
from recon.mri.partial_fourier import Homodyne, Pocs, Side, prediction_error
from tests.phantoms import nrmse, small_simulation
from tests.properties import normal

LIBRARY = Library()


def images(simulation: Simulation, *steps: tuple[str, dict[str, Any]]) -> list[Image]:
    whole = LIBRARY["mri_cartesian"]
    place = whole.step_names.index("mri.grappa") + 1
    run = Run(simulation.scan, whole.model_copy(update={"steps": (*whole.steps[:place], *steps, *whole.steps[place:])}))
    run.open()
    return [image for block in simulation.readouts() for image in run.feed(block)] + list(run.close())


def error(image: Image, simulation: Simulation) -> float:
    truth = simulation.truth(image.position.slice).data
    return nrmse(image.data * (image.data * truth).sum() / (image.data**2).sum(), truth)


@pytest.mark.parametrize("method", ["mri.pocs", "mri.homodyne"])
@pytest.mark.parametrize("part", [0.625, 0.75])
@pytest.mark.parametrize("acceleration", [1, 2])
def test_the_missing_side_is_made(method: str, part: float, acceleration: int) -> None:
    simulation = small_simulation(
        matrix=(1, 96, 96), n_coils=8, partial_fourier=part, acceleration=acceleration, n_acs=20
    )
    (zeros,) = images(simulation)
    (filled,) = images(simulation, (method, {}))
    assert error(filled, simulation) < (0.6 if method == "mri.pocs" else 0.8) * error(zeros, simulation)
    assert [v.level for v in filled.verdicts if v.check == method] == [Level.PASS]
    assert "partial Fourier" in filled.provenance.notes


@pytest.mark.parametrize("method", ["mri.pocs", "mri.homodyne"])
def test_a_full_frame_passes_untouched(method: str) -> None:
    simulation = small_simulation()
    first, second = images(simulation), images(simulation, (method, {}))
    assert all(np.array_equal(a.data, b.data) for a, b in zip(first, second, strict=True))
    assert not [v for v in second[0].verdicts if v.check == method]


def test_pocs_never_changes_what_was_measured() -> None:
    kspace = normal((2, 1, 32, 8), torch.complex64)
    kspace[:, :, :8] = 0
    filled = Pocs()._filled(kspace, Side(2, 8, 31, 16))
    assert torch.equal(filled[:, :, 8:], kspace[:, :, 8:])
    assert filled[:, :, :8].abs().max() > 0


def test_a_phase_that_is_not_smooth_is_left_alone_and_told_of() -> None:
    simulation = small_simulation(matrix=(1, 96, 96), n_coils=4, partial_fourier=0.75)
    noise = np.random.default_rng(0)
    blocks = [
        replace(b, data=(b.data * np.exp(2j * np.pi * noise.random())).astype(np.complex64))
        for b in simulation.readouts()
    ]
    whole = LIBRARY["mri_cartesian"]
    place = whole.step_names.index("mri.grappa") + 1
    steps = (*whole.steps[:place], ("mri.pocs", {}), *whole.steps[place:])
    run = Run(simulation.scan, whole.model_copy(update={"steps": steps}))
    run.open()
    (image,) = [image for block in blocks for image in run.feed(block)] + list(run.close())
    assert [v.level for v in image.verdicts if v.check == "mri.pocs"] == [Level.FLAG]


def test_the_gate_tells_smooth_from_rough() -> None:
    smooth = torch.zeros(1, 1, 64, 1, dtype=torch.complex64)
    y = torch.arange(64) - 32
    image = torch.exp(-(((y - 5) / 9.0) ** 2)) * torch.exp(0.03j * y)
    smooth[0, 0, :, 0] = torch.fft.fftshift(torch.fft.fft(torch.fft.ifftshift(image)))
    smooth[:, :, :14] = 0
    side = Side(2, 14, 63, 32)
    assert prediction_error(smooth, side) < 0.35
    assert prediction_error(normal((4, 1, 64, 3), torch.complex64), side) > 0.7


@pytest.mark.parametrize(("window", "width"), [("tukey", 0.3), ("gaussian", 0.7), ("hann", 1.0)])
def test_filters_lower_noise_and_ringing(window: str, width: float) -> None:
    simulation = small_simulation(matrix=(1, 64, 64), snr=30, n_noise=8)
    (plain,), (soft,) = images(simulation), images(simulation, ("mri.filter", {"window": window, "width": width}))
    corner = np.s_[0, :8, :8]
    assert soft.data[corner].std() < 0.95 * plain.data[corner].std()
    assert soft.data.mean() == pytest.approx(plain.data.mean(), rel=0.1)
    assert window in soft.provenance.notes["k-space filter"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pocs(n_iterations=0), "n_iterations"),
        (lambda: Homodyne(flag_above=0), r"mri\.homodyne flag_above"),
        (lambda: KspaceFilter(window="box"), "tukey, gaussian, hann"),
        (lambda: KspaceFilter(width=0), "width"),
    ],
)
def test_wrong_parameters_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
