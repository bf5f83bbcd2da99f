"""Echo-planar imaging on a virtual scanner with ramps, delay and two directions, and on a real phantom."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from acquisition.errors import ConfigError, HeaderError
from acquisition.items import READOUT_HEAD, Flag, Image, Readouts
from acquisition.scan import Scan
from acquisition.sources import open_raw
from acquisition.verdict import Level
from integration.protocol import Library
from integration.router import choose
from integration.runner import Run
from recon.mri.epi import CheckGhost, EpiReadout, fitted_phase, ghost_level, ramp_places
from recon.mri.space import spaces
from tests.phantoms import nrmse, small_simulation

LIBRARY = Library()
SIMULATION = small_simulation(matrix=(2, 64, 64), n_coils=4)
TRAPEZOID = {"rampUpTime": 120.0, "rampDownTime": 120.0, "flatTopTime": 200.0, "acqDelayTime": 20.0, "dwellTime": 3.125}


def epi_scan(ramps: bool) -> Scan:
    header = SIMULATION.scan.require_mr()
    encoding = replace(header.encodings[0], trajectory="epi", trajectory_parameters=TRAPEZOID if ramps else {})
    return replace(SIMULATION.scan, mr=replace(header, encodings=(encoding,)))


def epi_readouts(scan: Scan, *, delay: float, constant: float, navigators: bool = True) -> Iterator[Readouts]:
    """Lines in alternating directions, `delay` samples late, backward ones turned by `constant` [rad]."""
    encoding = scan.require_mr().encodings[0]
    n = encoding.matrix[2]
    places = ramp_places(encoding, n) - delay
    x = np.arange(n) - n // 2
    counter = 0
    for index in range(2):
        kspace = SIMULATION.kspace(index)[:, 0]
        profiles = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(kspace, axes=2), axis=2, norm="ortho"), axes=2)
        lines = [(True, 32), (False, 32), (True, 32)] if navigators else []
        plan = [(Flag.PHASE_CORRECTION, *line) for line in lines] + [(Flag(0), k1 % 2 == 1, k1) for k1 in range(64)]
        for flag, reverse, k1 in plan:
            where = (-1 if reverse else 1) * places
            sampled = profiles[:, k1] @ np.exp(-2j * np.pi * x[:, None] * where[None] / n) / np.sqrt(n)
            head = np.zeros(1, READOUT_HEAD)
            first = next(SIMULATION.readouts()).head
            for name in ("read_dir", "phase_dir", "slice_dir", "dwell_us", "n_coils", "available_coils"):
                head[name] = first[name]
            head["n_samples"], head["center_sample"], head["k1"], head["slice"] = n, n // 2, k1, index
            head["scan_counter"] = counter
            head["flags"] = int(flag | (Flag.REVERSE if reverse else Flag(0)))
            head["flags"] |= np.uint64(Flag.LAST_IN_SLICE if k1 == 63 else 0)
            counter += 1
            turned = sampled * (np.exp(1j * constant) if reverse else 1)
            yield Readouts(head=head, data=turned[None].astype(np.complex64))


def images(scan: Scan, blocks: Iterator[Readouts], **changes: object) -> tuple[list[Image], Run]:
    protocol = LIBRARY["mri_epi"].with_changes({k.replace("__", "."): v for k, v in changes.items()})
    run = Run(scan, protocol)
    run.open()
    found = [image for block in blocks for image in run.feed(block)] + list(run.close())
    return found, run


def error(image: Image) -> float:
    truth = SIMULATION.truth(image.position.slice).data
    return nrmse(image.data * (image.data * truth).sum() / (image.data**2).sum(), truth)


@pytest.mark.parametrize("ramps", [False, True])
@pytest.mark.parametrize(("delay", "constant"), [(0.0, 0.0), (0.7, 0.4), (-0.4, -1.0)])
def test_ramps_delay_and_directions_are_undone(ramps: bool, delay: float, constant: float) -> None:
    scan = epi_scan(ramps)
    assert choose(LIBRARY, scan).name == "mri_epi"
    found, run = images(scan, epi_readouts(scan, delay=delay, constant=constant))
    assert [i.position.slice for i in found] == [0, 1]
    for image in found:
        assert error(image) < 0.04
        (ghost,) = [v for v in image.verdicts if v.check == "check.ghost"]
        assert ghost.level is Level.PASS
    assert {v.level for v in run.verdicts if v.check == "mri.epi_phase"} == {Level.PASS}


def test_without_correction_there_is_a_ghost_and_it_is_flagged() -> None:
    scan = epi_scan(True)
    found, _ = images(scan, epi_readouts(scan, delay=0.7, constant=0.6), mri__epi_readout__order="none")
    for image in found:
        assert error(image) > 0.2
        assert [v.level for v in image.verdicts if v.check == "check.ghost"] == [Level.FLAG]


def test_a_constant_is_not_enough_for_a_delay() -> None:
    scan = epi_scan(True)
    found, _ = images(scan, epi_readouts(scan, delay=0.7, constant=0.6), mri__epi_readout__order="constant")
    assert error(found[0]) > 0.08


def test_missing_navigators_are_told_of() -> None:
    scan = epi_scan(True)
    _, run = images(scan, epi_readouts(scan, delay=0.0, constant=0.0, navigators=False))
    (verdict,) = [v for v in run.verdicts if v.check == "mri.epi_phase"]
    assert verdict.level is Level.FLAG
    assert verdict.value == 128


def test_blocks_of_many_readouts_give_the_same() -> None:
    scan = epi_scan(True)
    single = list(epi_readouts(scan, delay=0.5, constant=0.2))
    joined = Readouts(head=np.concatenate([b.head for b in single]), data=np.concatenate([b.data for b in single]))
    first, _ = images(scan, iter(single))
    second, _ = images(scan, iter([joined]))
    assert all(np.allclose(a.data, b.data, atol=1e-4 * a.data.max()) for a, b in zip(first, second, strict=True))


@pytest.mark.data
def test_the_ghost_of_a_real_phantom_is_gone(data_dir) -> None:
    raw = open_raw(data_dir / "mri" / "phantom_epi_3T_2ch_100.h5")
    (image,), _ = images(raw.scan, raw.items())
    (ghosted,), _ = images(raw.scan, raw.items(), mri__epi_readout__order="none")
    level, before = ghost_level(image.data, 0.25), ghost_level(ghosted.data, 0.25)
    assert level is not None and before is not None
    assert level <= 0.10
    assert before > 0.2


# The parts


def test_samples_on_ramps_lie_closer() -> None:
    encoding = epi_scan(True).require_mr().encodings[0]
    places = ramp_places(encoding, 128)
    step = np.diff(places)
    assert places[64] == 0
    assert places[-1] - places[0] == pytest.approx(127)
    assert step[0] < 0.5 * step[64]
    assert np.allclose(step[50:70], step[60])
    assert np.array_equal(ramp_places(epi_scan(False).require_mr().encodings[0], 128), np.arange(128) - 64)


def test_the_inverse_keeps_noise_white_where_samples_are_even() -> None:
    step = EpiReadout()
    step.open(epi_scan(False))
    matrix = step._matrix(0, 128, False).numpy()
    assert np.allclose(matrix @ matrix.conj().T, np.eye(64), atol=5e-3)
    assert spaces(epi_scan(False))[0].x.recon == 64


def test_a_known_phase_is_found() -> None:
    rng = np.random.default_rng(0)
    profile = rng.normal(size=(3, 50)) + 1j * rng.normal(size=(3, 50))
    x = np.arange(50) - 25
    forward = profile * np.exp(1j * (0.7 + 0.05 * x))
    found = fitted_phase([(True, profile), (False, forward), (True, profile)], "linear")
    assert found == pytest.approx((0.7, 0.05), abs=1e-6)
    assert fitted_phase([(True, profile)], "linear") is None
    assert fitted_phase([(True, profile * 0), (False, profile)], "linear") is None


def test_the_ghost_level_is_the_planted_one() -> None:
    image = np.zeros((1, 64, 64))
    image[:, 24:40, 20:44] = 100
    ghosted = image + 0.12 * np.roll(image, 32, axis=1)
    assert ghost_level(ghosted, 0.25) == pytest.approx(0.12)
    assert ghost_level(np.ones((1, 8, 8)), 0.25) is None


def test_wrong_headers_and_parameters_are_refused() -> None:
    with pytest.raises(ConfigError, match="none, constant or linear"):
        EpiReadout(order="cubic")
    with pytest.raises(ConfigError, match=r"check\.ghost"):
        CheckGhost(flag_above=0)
    with pytest.raises(HeaderError, match="expected epi, got cartesian"):
        EpiReadout().open(SIMULATION.scan)
    with pytest.raises(HeaderError, match=r"choose a protocol with mri\.epi_readout"):
        Run(epi_scan(True), LIBRARY["mri_cartesian"]).open()
    encoding = replace(epi_scan(True).require_mr().encodings[0], trajectory_parameters=TRAPEZOID | {"dwellTime": 9.0})
    with pytest.raises(HeaderError, match="a trapezoid that holds the sampling window"):
        ramp_places(encoding, 128)
