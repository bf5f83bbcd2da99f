"""Coil compression: white noise stays white, few virtual coils do, GRAPPA stands on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from acquisition.errors import ConfigError
from acquisition.items import READOUT_HEAD, Item
from acquisition.stream import Chain
from acquisition.verdict import Level
from recon.mri.assemble import Assemble
from recon.mri.compress import Compress, CompressGeometric
from recon.mri.items import Calibration, Frame, FrameKey
from tests.properties import normal
from tests.recon.helpers import Exam, nrmse, read_h5, run
from tests.recon.test_mri_real import undersampled

BOTH = [Compress, CompressGeometric]
KEY = FrameKey(0, 0, 0, 0, 0, 0)


def frame(kspace: torch.Tensor, **changes: Any) -> Frame:
    counts = np.ones(tuple(kspace.shape[1:3]), np.uint16)
    return Frame(kspace=kspace.clone(), counts=counts, key=KEY, head=np.zeros(1, READOUT_HEAD)[0], **changes)


def calibration(kspace: torch.Tensor) -> Calibration:
    return Calibration(kspace=kspace.clone(), first=(0, 0), matrix=(1, kspace.shape[2]), key=KEY)


def fed(step: Any, *items: Item) -> list[Any]:
    step.open(Exam().scan)
    return [out for item in items for out in step.feed(item)]


def coiled(n_coils: int = 12, n_x: int = 40, rank: int = 3) -> torch.Tensor:
    """K-space of `rank` independent sources seen by all coils, the mixture drifting along x."""
    sources = normal((rank, 1, 24, n_x), torch.complex64)
    mixing = normal((2, n_coils, rank), torch.complex64)
    drift = torch.linspace(0, 1, n_x)
    return torch.einsum("cr,rzyx->czyx", mixing[0], sources) + torch.einsum(
        "cr,rzyx,x->czyx", mixing[1], sources, drift
    )


@pytest.mark.parametrize("make", BOTH)
@pytest.mark.parametrize("n_x", [1, 7, 40])
def test_white_noise_stays_white(make: Any, n_x: int) -> None:
    rows = make(n_virtual=5)._learnt(coiled(n_x=n_x)).rows.reshape(-1, 5, 12)
    gram = rows @ rows.mH
    np.testing.assert_allclose(gram.numpy(), np.broadcast_to(np.eye(5), gram.shape), atol=2e-5)


@pytest.mark.parametrize("make", BOTH)
def test_all_energy_is_kept_by_as_many_coils_as_there_are_sources(make: Any) -> None:
    data = coiled(rank=3)
    n = 6 if make is Compress else 3  # the mixture drifts: twice as many sources over all x
    _, made = fed(make(n_virtual=n), calibration(data), frame(data))
    assert made.kspace.shape[0] == n
    energy = float(data.abs().square().sum())
    assert float(made.kspace.abs().square().sum()) == pytest.approx(energy, rel=3e-3)
    (told,) = made.verdicts
    assert told.level is Level.PASS
    assert told.value == pytest.approx(100, abs=0.3)


@pytest.mark.parametrize("make", BOTH)
def test_the_energy_chooses_the_number(make: Any) -> None:
    data = coiled(rank=3)
    few, many = (fed(make(energy=e), frame(data))[0].kspace.shape[0] for e in (0.5, 0.98))
    assert few < many <= 6
    assert fed(make(energy=1.0), frame(normal((5, 1, 24, 9), torch.complex64)))[0].kspace.shape[0] == 5


def test_geometric_coils_change_smoothly_and_need_fewer() -> None:
    data = coiled(rank=3)
    rows = CompressGeometric(n_virtual=3)._learnt(data).rows
    steps = (rows[1:] - rows[:-1]).abs().square().sum((1, 2)).sqrt()
    assert steps.max() < 0.5  # turned at random they would differ by about 2.4
    kept = [make(n_virtual=3)._learnt(data).kept for make in BOTH]
    assert kept[1] > kept[0]


@pytest.mark.parametrize("make", BOTH)
def test_calibration_and_frame_are_mixed_alike_whatever_comes_later(make: Any) -> None:
    first, later = coiled(), coiled() * 1j
    lines, again, made = fed(make(n_virtual=4), calibration(first), calibration(later), frame(first))
    torch.testing.assert_close(lines.kspace, made.kspace)
    torch.testing.assert_close(again.kspace, 1j * lines.kspace)
    assert "4 of 12 coils" in made.notes["coil compression"]


@pytest.mark.parametrize("make", BOTH)
@pytest.mark.parametrize("shape", [(1, 1, 24, 9), (6, 1, 24, 9), (3, 5, 11, 7)])
def test_edges(make: Any, shape: tuple[int, ...]) -> None:
    """One coil, all zero, volumes and odd sizes."""
    assert fed(make(n_virtual=2), frame(normal(shape, torch.complex64)))[0].kspace.shape[0] == min(2, shape[0])
    zeros = fed(make(), frame(torch.zeros(shape, dtype=torch.complex64)))[0]
    assert not zeros.kspace.any()


@pytest.mark.parametrize("make", BOTH)
def test_other_coils_and_too_few_are_told(make: Any) -> None:
    _, odd = fed(make(n_virtual=4), calibration(coiled(12)), frame(coiled(10)))
    assert odd.kspace.shape[0] == 10
    assert [v.level for v in odd.verdicts] == [Level.FLAG]
    (poor,) = fed(make(n_virtual=1), frame(coiled()))
    assert [v.level for v in poor.verdicts] == [Level.FLAG]


@pytest.mark.parametrize("make", BOTH)
def test_pixels_keep_their_noise_units(make: Any) -> None:
    exams = [Exam(noise=0.01, seed=seed, acceleration=2) for seed in (1, 2)]
    made = []
    for exam in exams:
        blocks = [exam.noise_scan(20000), *exam.readouts()]
        (image,), _ = run(exam.scan, blocks, assemble=Chain((Assemble(), make(n_virtual=5))))
        (plain,), _ = run(exam.scan, blocks)
        made.append((image.data, plain.data))
    inside = exams[0].object() > 0.3 * exams[0].object().max()
    compressed, full = ((made[0][i] - made[1][i])[inside].std() for i in (0, 1))
    assert compressed == pytest.approx(full, rel=0.1)


@pytest.mark.data
@pytest.mark.parametrize(("make", "n"), [(Compress, 8), (CompressGeometric, 4)])
def test_a_real_head_loses_nothing(data_dir: Path, make: Any, n: int) -> None:
    """R=3 in-object NRMSE, 16 coils .0333; 8 principal components .0337, 4 geometric coils .0338."""
    scan, blocks = read_h5(data_dir / "mri" / "head_gre_3T_16ch.h5")
    (full,), _ = run(scan, blocks)
    scan, blocks = undersampled(scan, blocks, 3)
    (image,), _ = run(scan, blocks, assemble=Chain((Assemble(), make(n_virtual=n))))
    assert nrmse(image.data, full.data) < 0.0345


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"n_virtual": -1}, "n_virtual"), ({"energy": 0}, "energy"), ({"flag_below": 2}, "flag_below")],
)
@pytest.mark.parametrize("make", BOTH)
def test_wrong_parameters_are_refused(make: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**fields)


def test_other_items_pass() -> None:
    exam = Exam()
    block = next(exam.readouts())
    assert fed(Compress(), block, replace(block)) == [block, replace(block)]
