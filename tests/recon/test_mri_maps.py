"""Results beside the conventional image: outputs, susceptibility, projections, relaxation, diffusion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from acquisition.errors import ConfigError, DataError, HeaderError
from acquisition.geometry import Grid
from acquisition.items import Image, Kind, Position, Readouts
from acquisition.scan import MrHeader, Scan
from acquisition.verdict import Level, Verdict
from recon.mri.diffusion import DiffusionMap
from recon.mri.outputs import Outputs
from recon.mri.projection import Projection
from recon.mri.relaxation import RelaxationMap
from recon.mri.swi import Swi, high_pass
from recon.series import stacked

GRID = Grid.from_centre(
    (1.0, -2.0, 3.0), shape=(1, 20, 24), spacing_mm=(4.0, 1.5, 1.0), directions=[(1, 0, 0), (0, 0, -1), (0, 1, 0)]
)
RNG = np.random.default_rng(0)


def scan(**changes: Any) -> Scan:
    return Scan(uid="s", modality="MR", mr=MrHeader(encodings=(), **changes))


def image(data: np.ndarray, **changes: Any) -> Image:
    return Image(**({"data": data[None].astype(data.dtype), "grid": GRID} | changes))


def through(step: Any, images: list[Image], header: Scan | None = None) -> list[Any]:
    step.open(header or scan())
    return [out for i in images for out in step.feed(i)] + list(step.close())


def slices(n: int) -> Iterator[Image]:
    for z in range(n):
        origin = tuple(np.asarray(GRID.origin_mm) + 4.0 * z * np.asarray(GRID.z_dir))
        yield replace(
            image(RNG.random((20, 24)).astype(np.float32)),
            grid=replace(GRID, origin_mm=origin),
            position=Position(slice=z),
        )


# Outputs


def test_a_complex_image_becomes_its_parts() -> None:
    data = (RNG.normal(size=(20, 24)) + 1j * RNG.normal(size=(20, 24))).astype(np.complex64)
    made = through(Outputs(kinds=("magnitude", "phase", "real", "imaginary")), [image(data, kind=Kind.COMPLEX)])
    named = {i.output: i for i in made}
    assert list(named) == ["conventional", "phase", "real", "imaginary"]
    again = named["conventional"].data * np.exp(1j * named["phase"].data)
    assert np.allclose(again, data, atol=1e-5)
    assert np.allclose(named["real"].data + 1j * named["imaginary"].data, data)
    assert (named["phase"].unit, named["phase"].kind) == ("rad", Kind.PHASE)
    magnitude = image(np.abs(data))
    assert through(Outputs(), [magnitude]) == [magnitude]


# Susceptibility


def test_veins_become_dark_and_nothing_else() -> None:
    y, x = np.indices((64, 64)) - 32
    background = 0.02 * x + 0.0004 * y**2
    veins = (np.abs(x - 7) < 1) & (np.abs(y) < 20)
    data = (100 * np.exp(1j * (background - 1.2 * veins))).astype(np.complex64)
    grid = replace(GRID, shape=(1, 64, 64))
    made = {i.output: i for i in through(Swi(), [image(data, kind=Kind.COMPLEX, grid=grid)])}
    assert set(made) == {"conventional", "swi", "swi_phase"}
    weighted = made["swi"].data[0] / 100
    inner = np.s_[12:52, 12:52]
    assert weighted[veins & (np.abs(y) < 15)].max() < 0.6
    assert np.median(weighted[inner][~veins[inner]]) > 0.95
    assert np.allclose(made["conventional"].data, 100, atol=1e-3)


def test_the_filter_takes_slow_phase_away() -> None:
    x = np.arange(64) - 32
    slow = np.exp(1j * 0.03 * x)[None].repeat(64, 0)
    assert np.abs(high_pass(slow, 0.25)[:, 8:-8]).max() < 0.1


# Projections


def test_slices_make_a_volume_whatever_their_order() -> None:
    stack = list(slices(5))
    volume = stacked(reversed(stack))
    assert volume.data.shape == (5, 20, 24)
    assert np.array_equal(volume.data[3], stack[3].data[0])
    assert np.allclose(volume.grid.world((3, 2, 1)), stack[3].grid.world((0, 2, 1)))
    with pytest.raises(DataError, match="evenly spaced"):
        stacked([stack[0], stack[1], stack[4]])


@pytest.mark.parametrize("mode", ["max", "min"])
def test_projections_show_the_extreme_in_its_place(mode: str) -> None:
    stack = list(slices(6))
    value = 9.0 if mode == "max" else -9.0
    stack[4].data[0, 13, 17] = value
    place = np.asarray(stack[4].grid.world((0, 13, 17)))
    made = through(Projection(mode=mode), stack)
    assert made[:6] == stack
    projections = {i.output: i for i in made[6:]}
    prefix = "mip" if mode == "max" else "minip"
    assert set(projections) == {f"{prefix}_{d}" for d in ("through", "vertical", "horizontal")}
    for flat in projections.values():
        assert flat.data.shape == flat.grid.shape
        index = np.unravel_index((flat.data * value).argmax(), flat.data.shape)
        there = np.asarray(flat.grid.world(index))
        across = np.asarray(flat.grid.z_dir)
        apart = there - place
        assert np.allclose(apart - across * (apart @ across), 0, atol=1e-6)
        axes = [flat.grid.x_dir, flat.grid.y_dir, flat.grid.z_dir]
        assert np.linalg.det(axes) == pytest.approx(np.linalg.det([GRID.x_dir, GRID.y_dir, GRID.z_dir]))


def test_slabs_overlap_by_half() -> None:
    made = through(Projection(thickness_mm=8.0, directions=("through",)), list(slices(6)))[6:]
    assert {i.output for i in made} == {"mip_through_8mm"}
    assert [i.position.slice for i in made] == list(range(6))
    assert made[0].grid.thickness_mm == 8.0


def test_slices_that_make_no_stack_are_told_of() -> None:
    stack = list(slices(4))
    del stack[1]
    made = through(Projection(), stack)
    assert isinstance(made[-1], Verdict)
    assert made[-1].level is Level.FLAG


# Relaxation

TE_S = (0.005, 0.015, 0.03, 0.06, 0.1)


def echoes(t_ms: np.ndarray, noise: float = 0.0) -> list[Image]:
    return [
        image(
            (1000 * np.exp(-1e3 * te / t_ms) + noise * RNG.normal(size=t_ms.shape)).astype(np.float32),
            position=Position(contrast=i),
            last_readout_s=float(i),
        )
        for i, te in enumerate(TE_S)
    ]


def test_relaxation_times_are_found() -> None:
    truth = np.linspace(10, 200, 480).reshape(20, 24)
    made = through(RelaxationMap(name="t2"), echoes(truth), scan(te_s=TE_S))
    assert [i.output for i in made] == ["conventional"] * 5 + ["t2"]
    found = made[-1]
    assert np.allclose(found.data[0], truth, rtol=1e-3)
    assert (found.unit, found.last_readout_s) == ("ms", 4.0)
    assert found.verdicts[-1].level is Level.PASS


def test_noise_leaves_them_unbiased_and_background_is_zero() -> None:
    truth = np.full((20, 24), 50.0)
    noisy = echoes(truth, noise=10.0)
    for i in noisy:
        i.data[0, :5] = 0.5
    found = through(RelaxationMap(), noisy, scan(te_s=TE_S))[-1].data[0]
    assert not found[:5].any()
    assert found[5:].mean() == pytest.approx(50, rel=0.02)


def test_what_is_no_decay_is_flagged() -> None:
    growing = [
        replace(i, data=i.data[:, ::-1] * (1 + 2 * (n % 2))) for n, i in enumerate(echoes(np.full((20, 24), 60.0)))
    ]
    assert through(RelaxationMap(), growing, scan(te_s=TE_S))[-1].verdicts[-1].level is Level.FLAG


def test_missing_echoes_and_echo_times_are_told() -> None:
    made = through(RelaxationMap(), echoes(np.full((20, 24), 60.0))[:3], scan(te_s=TE_S))
    assert made[-1].check == "map.relaxation"
    with pytest.raises(HeaderError, match="two or more growing echo times, got 5 ms"):
        through(RelaxationMap(), [], scan(te_s=(0.005,)))


# Diffusion


def test_diffusion_coefficients_are_found() -> None:
    truth = np.linspace(300, 3000, 480).reshape(20, 24)  # 1e-6 mm2/s
    b = (0.0, 500.0, 1000.0, 1000.0, 1000.0)
    spread = (1.0, 1.0, 0.8, 1.0, 1.2)
    weighted = [
        image((1000 * np.exp(-v * s * truth * 1e-6)).astype(np.float32), position=Position(set=i))
        for i, (v, s) in enumerate(zip(b, spread, strict=True))
    ]
    made = through(DiffusionMap(), weighted, scan(diffusion_b_s_per_mm2=b))
    named = {i.output: i for i in made}
    assert set(named) == {"conventional", "trace_b500", "trace_b1000", "adc"}
    assert np.allclose(named["adc"].data[0], truth, rtol=1e-3)
    assert named["adc"].unit == "1e-6 mm2/s"
    assert np.allclose(named["trace_b1000"].data[0], 1000 * np.exp(-1e-3 * truth), rtol=1e-4)
    left = through(DiffusionMap(), weighted[:2], scan(diffusion_b_s_per_mm2=b))
    assert left[-1].check == "map.diffusion"
    with pytest.raises(HeaderError, match="two or more different ones"):
        through(DiffusionMap(), [], scan())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Outputs(kinds=("phase",)), "magnitude and any of"),
        (lambda: Outputs(kinds=("magnitude", "nice")), r"image\.outputs kinds"),
        (lambda: Swi(power=0), r"image\.swi"),
        (lambda: Projection(mode="mean"), "mode max or min"),
        (lambda: RelaxationMap(name="t3"), "t2 or t2star"),
        (lambda: DiffusionMap(counter="slice"), "counter: expected contrast"),
    ],
)
def test_wrong_parameters_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("step", [Outputs(), Swi(), Projection(), DiffusionMap(), RelaxationMap()])
def test_what_is_not_meant_for_them_passes(step: Any) -> None:
    header = scan(te_s=TE_S, diffusion_b_s_per_mm2=(0.0, 1.0))
    block = Readouts(head=np.zeros(0), data=np.zeros((0, 1, 1), np.complex64))
    step.open(header)
    assert list(step.feed(block)) == [block]
