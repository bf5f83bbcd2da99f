"""Partial Fourier against the phantom's own full data: lines, partitions and asymmetric echoes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from acquisition.errors import ConfigError
from acquisition.items import Image
from acquisition.sources.phantom.mri import Simulation
from acquisition.stream import Chain
from acquisition.verdict import Level
from integration.protocol import Library
from integration.runner import Run
from kernels.registry import kernel
from recon.mri.combine import Combine
from recon.mri.partial_fourier import Homodyne, Pocs, Side, prediction_error
from tests.phantoms import nrmse, small_simulation
from tests.properties import normal
from tests.recon.helpers import Exam, read_h5, run

LIBRARY = Library()


def images(simulation: Simulation, *steps: tuple[str, dict[str, Any]]) -> list[Image]:
    whole = LIBRARY["mri_cartesian"]
    place = whole.step_names.index("mri.grappa") + 1
    chain = Run(
        simulation.scan, whole.model_copy(update={"steps": (*whole.steps[:place], *steps, *whole.steps[place:])})
    )
    chain.open()
    return [image for block in simulation.readouts() for image in chain.feed(block)] + list(chain.close())


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
    filled = Pocs()._filled(kspace, Side(2, 8, 31, 32, 16))
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
    chain = Run(simulation.scan, whole.model_copy(update={"steps": steps}))
    chain.open()
    (image,) = [image for block in blocks for image in chain.feed(block)] + list(chain.close())
    assert [v.level for v in image.verdicts if v.check == "mri.pocs"] == [Level.FLAG]


def test_the_gate_tells_smooth_from_rough() -> None:
    smooth = torch.zeros(1, 1, 64, 1, dtype=torch.complex64)
    y = torch.arange(64) - 32
    image = torch.exp(-(((y - 5) / 9.0) ** 2)) * torch.exp(0.03j * y)
    smooth[0, 0, :, 0] = torch.fft.fftshift(torch.fft.fft(torch.fft.ifftshift(image)))
    smooth[:, :, :14] = 0
    side = Side(2, 14, 63, 64, 32)
    assert prediction_error(smooth, side) < 0.35
    assert prediction_error(normal((4, 1, 64, 3), torch.complex64), side) > 0.7


@pytest.mark.parametrize(
    ("short", "directions"),
    [
        ({"skip_k0": 32}, ["k0"]),
        ({"skip_k0": 32, "skip_k1": 16}, ["k1", "k0"]),
        ({"skip_k0": 32, "oversampling": 1}, ["k0"]),
        ({"skip_k0": 40, "matrix": (1, 65, 63)}, ["k0"]),
        ({"skip_k0": 32, "recon_matrix": (1, 128, 128)}, ["k0"]),
        ({"skip_k0": 24, "skip_k1": 12, "matrix": (12, 48, 48)}, ["k1", "k0"]),
    ],
)
def test_an_asymmetric_echo_is_made_whole(short: dict[str, Any], directions: list[str]) -> None:
    if short.get("oversampling") == 1:
        short["skip_k0"] = 16
    full = {name: value for name, value in short.items() if not name.startswith("skip")}
    (whole,), _ = run(Exam(**full).scan, Exam(**full).readouts())
    (zeros,), _ = run(Exam(**short).scan, Exam(**short).readouts())
    (filled,), _ = run(Exam(**short).scan, Exam(**short).readouts(), combine=Chain((Pocs(), Combine())))
    assert nrmse(filled.data, whole.data) < 0.4 * nrmse(zeros.data, whole.data)
    found = [v for v in filled.verdicts if v.check == "mri.pocs"]
    assert [v.level for v in found] == [Level.PASS] * len(directions)
    assert all(f"side of {name} " in v.advice for name, v in zip(directions, found, strict=True))


@pytest.mark.parametrize("method", ["mri.pocs", "mri.homodyne"])
@pytest.mark.parametrize("acceleration", [1, 2])
def test_volumes_are_completed_too(method: str, acceleration: int) -> None:
    """.132 zero-filled; .037 (pocs), .041 (homodyne), and .015 from all lines."""
    simulation = small_simulation(
        matrix=(8, 48, 48), kind="3D", n_coils=6, partial_fourier=0.625, acceleration=acceleration, n_acs=20
    )
    (zeros,) = images(simulation)
    (filled,) = images(simulation, (method, {}))
    assert error(filled, simulation) < 0.5 * error(zeros, simulation)
    assert [v.level for v in filled.verdicts if v.check == method] == [Level.PASS]


@pytest.mark.parametrize("step", [Pocs(), Homodyne()])
@pytest.mark.parametrize("first", [12, 24])
def test_the_noise_gain_is_the_one_measured(step: Pocs | Homodyne, first: int) -> None:
    """Noise along the signal's phase, 2000 voxels, 12 draws of noise."""
    n = 64
    y, x = torch.meshgrid(torch.arange(n) - 32, torch.arange(n) - 32, indexing="ij")
    bright = 50 * torch.sigmoid(2 * (26 - (y**2 + x**2).float().sqrt())) * torch.exp(1j * (0.03 * y + 0.0005 * y * x))
    kspace = kernel("centred_fft")(bright.to(torch.complex64)[None, None], (2,))
    kspace[:, :, :first] = 0
    side, generator = Side(2, first, n - 1, n, n // 2), torch.Generator().manual_seed(3)
    base = kernel("centred_ifft")(step._filled(kspace, side), (2,))
    inside = ((y**2 + x**2) < 20**2)[None, None]
    made, plain = [], []
    for _ in range(12):
        noise = torch.randn(1, 1, n, n, dtype=torch.complex64, generator=generator)
        noise[:, :, :first] = 0
        change = kernel("centred_ifft")(step._filled(kspace + noise, side), (2,)) - base
        made.append((change * torch.exp(-1j * base.angle())).real[inside])
        plain.append(kernel("centred_ifft")(noise, (2,)).real[inside])
    assert torch.cat(made).std() / torch.cat(plain).std() == pytest.approx(step._noise_gain(side), rel=0.04)


@pytest.mark.data
def test_a_real_head_with_fat_and_air_is_left_zero_filled(data_dir: Path) -> None:
    """Gradient echo, its phase jumps at fat and sinuses. 6/8 of its lines: zeros .060, pocs would give .067."""
    scan, blocks = read_h5(data_dir / "mri" / "head_gre_3T_16ch.h5")
    part = [b for b in blocks if b.head["k1"][0] >= 32]
    (whole,), _ = run(scan, blocks)
    (zeros,), _ = run(scan, part)
    (gated,), _ = run(scan, part, combine=Chain((Pocs(), Combine())))
    (forced,), _ = run(scan, part, combine=Chain((Pocs(flag_above=10), Combine())))
    assert np.array_equal(gated.data, zeros.data)
    assert [v.level for v in gated.verdicts if v.check == "mri.pocs"] == [Level.FLAG]
    assert nrmse(zeros.data, whole.data) < nrmse(forced.data, whole.data)


def test_only_zeros_stay_zeros() -> None:
    exam = Exam(skip_k1=16)
    blocks = [replace(b, data=np.zeros_like(b.data)) for b in exam.readouts()]
    (image,), _ = run(exam.scan, blocks, combine=Chain((Pocs(), Combine())), check=None)
    assert not image.data.any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pocs(n_iterations=0), "n_iterations"),
        (lambda: Homodyne(flag_above=0), r"mri\.homodyne flag_above"),
    ],
)
def test_wrong_parameters_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
