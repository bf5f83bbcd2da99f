"""Iterative methods against the phantom's own full data; irregular lines, volumes, one coil, nothing at all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from acquisition.errors import ConfigError
from acquisition.items import Flag, Image, Readouts
from acquisition.mri import Prewhiten
from acquisition.scan import Scan
from acquisition.sources.phantom.mri import Simulation
from acquisition.stream import Chain
from acquisition.verdict import Level
from integration.protocol import Library, Protocol
from integration.router import choose
from integration.runner import Run
from recon.mri import Assemble, Combine, ReadoutTransform
from recon.mri.iterative import CgSense, L1Wavelet, TvSense
from recon.mri.sense import Sense
from tests.phantoms import nrmse, small_simulation
from tests.recon.helpers import Exam

LIBRARY = Library()
METHODS = ("mri.cg_sense", "mri.l1_wavelet", "mri.tv")


def protocol(method: str, **parameters: Any) -> Protocol:
    steps = [
        ("mri.prewhiten", {}),
        ("mri.readout", {}),
        ("mri.assemble", {"sampling": "any"}),
        (method, parameters),
        ("mri.combine", {}),
        ("check.image", {}),
    ]
    return LIBRARY["mri_sense"].model_copy(update={"steps": tuple(steps)})


def images(scan: Scan, blocks: Iterable[Readouts], chosen: Protocol) -> list[Image]:
    run = Run(scan, chosen)
    run.open()
    found = [image for block in blocks for image in run.feed(block)]
    return found + list(run.close())


def error(image: Image, simulation: Simulation) -> float:
    truth = simulation.truth(image.position.slice).data
    return nrmse(image.data * (image.data * truth).sum() / (image.data**2).sum(), truth)


def kept(simulation: Simulation, lines: set[int]) -> list[Readouts]:
    """The readouts of these lines k1 alone, the last one marked."""
    blocks = [b for b in simulation.readouts() if int(b.head["k1"][0]) in lines]
    for block in blocks:
        block.head["flags"] &= ~np.uint64(Flag.LAST_IN_SLICE)
    blocks[-1].head["flags"] |= np.uint64(Flag.LAST_IN_SLICE)
    return blocks


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("acceleration", "limit"), [(1, 0.02), (2, 0.03), (3, 0.06)])
def test_regular_undersampling_is_undone(method: str, acceleration: int, limit: float) -> None:
    simulation = small_simulation(matrix=(2, 96, 96), n_coils=8, acceleration=acceleration, n_acs=20)
    found = images(simulation.scan, simulation.readouts(), protocol(method))
    assert len(found) == 2
    for image in found:
        assert error(image, simulation) < limit
        assert image.unit == "a.u."
        assert [v.level for v in image.verdicts if v.check == method] == [Level.PASS]


@pytest.mark.parametrize("method", METHODS)
def test_random_lines_are_undone_better_than_by_zeros(method: str) -> None:
    simulation = small_simulation(matrix=(1, 97, 90), n_coils=8)
    rng = np.random.default_rng(5)
    lines = {*range(38, 60), *rng.choice(97, 24, replace=False).tolist()}
    (image,) = images(simulation.scan, kept(simulation, lines), protocol(method))
    plain = LIBRARY["mri_sense"].model_copy(
        update={"steps": (("mri.readout", {}), ("mri.assemble", {"sampling": "any"}), ("mri.combine_rss", {}))}
    )
    (zeros,) = images(simulation.scan, kept(simulation, lines), plain)
    assert error(image, simulation) < 0.55 * error(zeros, simulation)
    assert error(image, simulation) < 0.09


def test_sparsity_beats_least_squares_in_noise() -> None:
    simulation = small_simulation(matrix=(1, 96, 96), n_coils=8, acceleration=4, n_acs=20, snr=25, n_noise=16)
    errors = {
        m: error(images(simulation.scan, simulation.readouts(), protocol(m, **p))[0], simulation)
        for m, p in (
            ("mri.cg_sense", {}),
            ("mri.l1_wavelet", {}),
            ("mri.tv", {}),
        )
    }
    assert errors["mri.l1_wavelet"] < 0.9 * errors["mri.cg_sense"]
    assert errors["mri.tv"] < 0.9 * errors["mri.cg_sense"]


@pytest.mark.parametrize("method", METHODS)
def test_a_volume_is_solved_along_its_readout(method: str) -> None:
    simulation = small_simulation(matrix=(12, 40, 36), kind="3D", n_coils=6, gap_mm=0.0)
    rng = np.random.default_rng(2)
    wanted = rng.random((12, 40)) < 0.5
    wanted[:, 12:28] = True
    blocks = [
        b
        for b in simulation.readouts()
        if wanted[int(b.head["k2"][0]), int(b.head["k1"][0])] or int(b.head["flags"][0]) & Flag.LAST_IN_MEASUREMENT
    ]
    (image,) = images(simulation.scan, blocks, protocol(method))
    assert image.data.shape == (12, 40, 36)
    assert error(image, simulation) < 0.09


@pytest.mark.parametrize("shift", [0, 1])
def test_both_phase_encodings_undersampled_with_and_without_caipirinha_shift(shift: int) -> None:
    simulation = small_simulation(matrix=(20, 48, 32), kind="3D", n_coils=8, gap_mm=0.0)

    def wanted(k2: int, k1: int) -> bool:
        regular = k2 % 2 == 0 and (k1 + shift * (k2 // 2)) % 2 == 0
        return regular or (4 <= k2 < 16 and 14 <= k1 < 34)

    header = simulation.scan.require_mr()
    encoding = replace(header.encodings[0], acceleration=(2.0, 2.0), calibration_mode="embedded")
    scan = replace(simulation.scan, mr=replace(header, encodings=(encoding,)))
    blocks = [
        b
        for b in simulation.readouts()
        if wanted(int(b.head["k2"][0]), int(b.head["k1"][0])) or int(b.head["flags"][0]) & Flag.LAST_IN_MEASUREMENT
    ]
    assert choose(LIBRARY, scan).name == "mri_caipi"
    (image,) = images(scan, blocks, LIBRARY["mri_sense"].with_changes({"mri.prewhiten.fallback": "none"}))
    assert image.data.shape == (20, 48, 32)
    assert error(image, simulation) < 0.10


def test_one_coil_fully_sampled_is_the_image() -> None:
    simulation = small_simulation(matrix=(1, 64, 64), n_coils=1)
    (image,) = images(simulation.scan, simulation.readouts(), protocol("mri.cg_sense", crop=0.0, damping=0.0))
    assert error(image, simulation) < 0.03


def test_two_sets_of_maps_share_their_power() -> None:
    simulation = small_simulation(matrix=(1, 64, 64), n_coils=6, acceleration=2, n_acs=20)
    (image,) = images(simulation.scan, simulation.readouts(), protocol("mri.cg_sense", n_sets=2))
    assert error(image, simulation) < 0.05


def test_without_calibration_the_image_is_held() -> None:
    simulation = small_simulation(matrix=(1, 64, 64), n_coils=4)
    (image,) = images(simulation.scan, kept(simulation, set(range(0, 64, 2))), protocol("mri.cg_sense"))
    held = [v for v in image.verdicts if v.check == "mri.cg_sense"]
    assert [v.level for v in held] == [Level.HOLD]
    assert "larger than the kernel" in held[0].evidence


def test_all_zero_data_are_no_image() -> None:
    simulation = small_simulation(matrix=(1, 64, 64), n_coils=4)
    blocks = [Readouts(head=b.head, data=np.zeros_like(b.data)) for b in simulation.readouts()]
    with pytest.raises(Exception, match="only zeros"):
        images(simulation.scan, blocks, protocol("mri.l1_wavelet"))


def test_the_result_depends_smoothly_on_the_weight() -> None:
    simulation = small_simulation(matrix=(1, 96, 96), n_coils=8, acceleration=3, n_acs=20, snr=40, n_noise=8)
    errors = [
        error(images(simulation.scan, simulation.readouts(), protocol("mri.l1_wavelet", weight=w))[0], simulation)
        for w in (0.25, 0.5, 1.0)
    ]
    assert max(errors) < 1.2 * min(errors)


@pytest.mark.parametrize("snr", [15, 60])
def test_the_weight_of_half_the_noise_is_near_the_best(snr: float) -> None:
    simulation = small_simulation(matrix=(1, 96, 96), n_coils=8, acceleration=3, n_acs=20, snr=snr, n_noise=16)
    errors = {
        w: error(images(simulation.scan, simulation.readouts(), protocol("mri.l1_wavelet", weight=w))[0], simulation)
        for w in (0.12, 0.25, 0.5, 1.0, 2.0)
    }
    assert errors[0.5] < 1.1 * min(errors.values())


def test_the_same_data_give_the_same_image() -> None:
    simulation = small_simulation(matrix=(1, 64, 64), acceleration=2, n_acs=16)
    first, second = (
        images(simulation.scan, simulation.readouts(), protocol("mri.l1_wavelet"))[0].data for _ in range(2)
    )
    assert np.array_equal(first, second)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CgSense(n_iterations=0), r"mri\.cg_sense n_iterations: expected at least 1"),
        (lambda: L1Wavelet(crop=1.0), r"mri\.l1_wavelet crop"),
        (lambda: TvSense(energy=0), r"mri\.tv energy"),
        (lambda: CgSense(n_sets=9), "1 to 4"),
        (lambda: CgSense(kernel=1), "at least 2"),
        (lambda: CgSense(flag_above=0), "above 0"),
    ],
)
def test_wrong_parameters_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(("acceleration", "most"), [(1, 1.06), (2, 1.5)])
def test_pixels_are_in_units_of_noise_times_g(acceleration: int, most: float) -> None:
    """Two scans that differ in their noise only: half the variance of the difference is that of one."""
    exam = Exam(matrix=(1, 96, 96), acceleration=acceleration, noise=0.05, n_coils=12)
    made = []
    for seed in (1, 2):
        steps = [
            Prewhiten(receiver_noise_bandwidth=1.0),
            ReadoutTransform(),
            Assemble(sampling="any"),
            CgSense(damping=0.0, energy=1.0, n_iterations=30),
            Combine(kind="complex"),
        ]
        chain = Chain(steps)
        chain.open(exam.scan)
        blocks = [exam.noise_scan(20000), *replace(exam, seed=seed).readouts()]
        items = [i for b in blocks for i in chain.feed(b)] + list(chain.close())
        made += [i for i in items if isinstance(i, Image)]
    assert {image.unit for image in made} == {"1"}
    strong = np.abs(made[0].data) > 0.4 * np.abs(made[0].data).max()
    noise = np.std((made[0].data - made[1].data).real[strong]) / np.sqrt(2)
    assert 0.94 < noise < most


def test_the_g_factor_map_is_that_of_direct_unfolding() -> None:
    exam = Exam(matrix=(1, 96, 96), acceleration=3, n_coils=12, acs=24)
    made = {}
    for step in (CgSense(damping=0.0, tolerance=0.0, n_iterations=40, replicas=60), Sense(damping=0.0, gfactor=True)):
        chain = Chain([ReadoutTransform(), Assemble(sampling="any"), step, Combine()])
        chain.open(exam.scan)
        items = [i for b in exam.readouts() for i in chain.feed(b)] + list(chain.close())
        (made[type(step)],) = [i for i in items if isinstance(i, Image) and i.output == "gfactor"]
    iterated, direct = (made[c].data for c in (CgSense, Sense))
    inside = direct > 0.5
    assert made[CgSense].unit == "1"
    # calibration lines lower the noise of the one and not of the other
    assert 0.75 < np.median(iterated[inside] / direct[inside]) < 1.1
    assert np.corrcoef(iterated[inside], direct[inside])[0, 1] > 0.5
