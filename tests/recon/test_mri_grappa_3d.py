"""GRAPPA along both phase encodings: lattices found, volumes unfolded, what cannot be is held."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from acquisition.errors import ConfigError, HeaderError, ReconError
from acquisition.items import READOUT_HEAD, Flag, Image, Readouts
from acquisition.scan import Scan
from acquisition.sources.phantom.mri import Simulation
from acquisition.verdict import Level
from integration.protocol import Library
from integration.router import choose
from integration.runner import Run
from recon.mri.grappa_3d import Grappa3d, Lattice, fill, find_lattice
from recon.mri.items import Frame, FrameKey
from tests.phantoms import nrmse, small_simulation
from tests.properties import normal

LIBRARY = Library()
ACS = (range(7, 17), range(16, 36))


def volume(**changes: Any) -> Simulation:
    fields = {"matrix": (24, 52, 40), "kind": "3D", "n_coils": 10, "gap_mm": 0.0, "thickness_mm": 8.0}
    return small_simulation(**(fields | changes))


def undersampled(
    simulation: Simulation, wanted: Callable[[int, int], bool], factors: tuple[float, float]
) -> tuple[Scan, list[Readouts]]:
    header = simulation.scan.require_mr()
    encoding = replace(header.encodings[0], acceleration=factors, calibration_mode="embedded")
    blocks = [
        b
        for b in simulation.readouts()
        if wanted(int(b.head["k2"][0]), int(b.head["k1"][0]))
        or int(b.head["flags"][0]) & (Flag.LAST_IN_MEASUREMENT | Flag.NOISE)
    ]
    return replace(simulation.scan, mr=replace(header, encodings=(encoding,))), blocks


def lattice(r2: int, r1: int, shift: int, acs: tuple[range, range] = ACS) -> Callable[[int, int], bool]:
    def wanted(k2: int, k1: int) -> bool:
        return (k2 % r2 == 0 and (k1 - shift * (k2 // r2)) % r1 == 0) or (k2 in acs[0] and k1 in acs[1])

    return wanted


def made(scan: Scan, blocks: list[Readouts], **parameters: Any) -> Image:
    protocol = LIBRARY["mri_caipi"].with_changes({f"mri.grappa_3d.{k}": str(v) for k, v in parameters.items()})
    run = Run(scan, protocol)
    run.open()
    (image,) = [i for b in blocks for i in run.feed(b)] + list(run.close())
    return image


def error(image: Image, simulation: Simulation) -> float:
    return nrmse(image.data * (image.data * (t := simulation.truth().data)).sum() / (image.data**2).sum(), t)


@pytest.mark.parametrize(
    ("r2", "r1", "shift", "loss"),
    [(2, 2, 0, 0.035), (2, 2, 1, 0.035), (2, 1, 0, 0.035), (2, 3, 1, 0.045), (2, 3, 2, 0.045), (3, 2, 1, 0.11)],
)
def test_volumes_are_unfolded(r2: int, r1: int, shift: int, loss: float) -> None:
    simulation = volume()
    scan, blocks = undersampled(simulation, lattice(r2, r1, shift), (r2, r1))
    assert choose(LIBRARY, scan).name == "mri_caipi"
    image = made(scan, blocks)
    assert error(image, simulation) < error(made(simulation.scan, list(simulation.readouts())), simulation) + loss
    (told,) = (v for v in image.verdicts if v.check == "mri.grappa_3d")
    assert told.level is Level.PASS
    assert f"R={r2}x{r1}, shift {shift}" in (told.evidence or "")


def test_odd_sizes() -> None:
    simulation = volume(matrix=(21, 45, 33))
    scan, blocks = undersampled(simulation, lattice(2, 2, 1, (range(6, 16), range(13, 32))), (2, 2))
    full = made(simulation.scan, list(simulation.readouts()))
    assert error(made(scan, blocks), simulation) < error(full, simulation) + 0.035


def test_measured_lines_are_never_changed() -> None:
    wanted = lattice(2, 2, 1)
    counts = np.array([[wanted(a, b) for b in range(52)] for a in range(24)]).astype(np.uint16)

    kspace = normal((3, 24, 52, 6), torch.complex64)
    kspace *= torch.from_numpy(counts > 0)[None, :, :, None]
    frame = Frame(
        kspace=kspace.clone(), counts=counts, key=FrameKey(0, 0, 0, 0, 0, 0), head=np.zeros(1, READOUT_HEAD)[0]
    )
    weights = torch.ones((8, 5, 3, 3, 3), dtype=torch.complex64)
    found = find_lattice(counts > 0, (2, 2))
    assert found is not None
    fill(frame, found, weights, taps=4, within=(range(24), range(52)))
    measured = torch.from_numpy(counts > 0)
    assert torch.equal(frame.kspace[:, measured], kspace[:, measured])
    assert (frame.kspace[:, ~measured].abs().sum(dim=(0, 2)) > 0).float().mean() > 0.98


@pytest.mark.parametrize("lost", [0.0, 0.2])
def test_a_lattice_is_found_in_what_was_measured(lost: float) -> None:
    truth = Lattice(2, 3, 2, 1, 0)
    measured = truth.mask((30, 60)) & (np.random.default_rng(1).random((30, 60)) >= lost)
    measured[10:20, 20:40] = True
    assert find_lattice(measured, (2, 3)) == truth
    elliptic = (
        np.add(*np.meshgrid(((np.arange(30) - 15) / 15) ** 2, ((np.arange(60) - 30) / 30) ** 2, indexing="ij")) < 1
    )
    assert find_lattice(measured & elliptic, (2, 3)) == truth


def test_no_lattice_is_held() -> None:
    simulation = volume()
    rng = np.random.default_rng(3)
    lines = rng.random((24, 52)) < 0.3
    scan, blocks = undersampled(simulation, lambda k2, k1: bool(lines[k2, k1]), (2, 2))
    assert Level.HOLD in {v.level for v in made(scan, blocks).verdicts}


def test_missing_calibration_and_one_coil_are_held() -> None:
    nothing = (range(0), range(0))
    simulation = volume()
    scan, blocks = undersampled(simulation, lattice(2, 2, 1, nothing), (2, 2))
    image = made(scan, blocks)
    assert any(v.level is Level.HOLD and "calibration lines" in v.evidence + v.advice for v in image.verdicts)
    simulation = volume(n_coils=1)
    scan, blocks = undersampled(simulation, lattice(2, 2, 1), (2, 2))
    assert any(v.level is Level.HOLD and "one coil" in v.advice + v.evidence for v in made(scan, blocks).verdicts)


def test_all_zero_data_are_told() -> None:
    simulation = volume()
    scan, blocks = undersampled(simulation, lattice(2, 2, 1), (2, 2))
    with pytest.raises(ReconError, match="only zeros"):
        made(scan, [replace(b, data=np.zeros_like(b.data)) for b in blocks])


def test_noise_units_and_smaller_kernels() -> None:
    simulation = volume(snr=60.0, n_noise=32)
    scan, blocks = undersampled(simulation, lattice(2, 2, 1), (2, 2))
    assert error(made(scan, blocks, taps=2, width=3), simulation) < 0.2


def test_what_the_header_may_not_ask() -> None:
    simulation = volume()
    scan, _ = undersampled(simulation, lattice(2, 2, 1), (1.5, 2.0))
    with pytest.raises(HeaderError, match="whole numbers from 1 to 4"):
        Grappa3d().open(scan)


@pytest.mark.parametrize("bad", [{"taps": 3}, {"width": 4}, {"regularisation": -1.0}, {"flag_above": 0.0}])
def test_wrong_parameters(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        Grappa3d(**bad)
