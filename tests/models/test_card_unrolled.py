"""The shipped card ``mr_unrolled``: what it claims, on scans of a head of shells that no training saw."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor

from acquisition.items import Image
from acquisition.stream import Chain
from acquisition.verdict import Verdict
from integration.protocol import Library
from models.load import find, load
from models.ood import features
from models.problem import Problem, Reconstructor, estimator_of
from models.train import masks
from models.train.encode import kspace_of, reference_level
from models.train.figures import nrmse
from models.train.mr import MrSpec, Sample, unrolled_sample
from models.train.unrolled import solved
from models.verify import compared
from tests.models.train.simulated import small_head
from tests.phantoms import small_simulation

MATRIX, N_ACS = 96, 16
CARD = find("mr_unrolled", where="test")
SPEC = MrSpec(
    matrix=(MATRIX, MATRIX), n_coils=8, fov_mm=(104.0, 110.0), calibrated=0.0, masks=("all",), snr=(20.0, 40.0)
)


@lru_cache(maxsize=1)
def network() -> Reconstructor:
    made = estimator_of(load(CARD), "torch")
    assert isinstance(made, Reconstructor)
    return made


@lru_cache(maxsize=8)
def scan(seed: int, r: int) -> Sample:
    """Every r-th line of a slice, and 16 in the middle."""
    sample = unrolled_sample(small_head(), np.random.default_rng([5, seed]), SPEC)
    lines = masks.regular(MATRIX, r, n_acs=N_ACS)[:, None]
    mask = np.broadcast_to(lines, (MATRIX, MATRIX)).copy()
    return {**sample, "kspace": sample["kspace"] * mask, "mask": mask}


def off(image: Tensor, truth: NDArray) -> float:
    size = np.abs(truth)
    return nrmse(np.abs(image.numpy()), size, size > 0.1 * np.percentile(size, 99))


def errors(problem: Problem, truth: Tensor) -> list[float]:
    """NRMSE of CG-SENSE, of the best of three L1-wavelets, and of the network."""
    sparse = min(off(problem.sparse(weight=w), truth.numpy()) for w in (0.25, 0.5, 1.0))
    return [off(problem.start, truth.numpy()), sparse, off(network().reconstruct(problem), truth.numpy())]


@pytest.mark.parametrize("r", [2, 4])
def test_it_is_better_than_the_methods_it_starts_from(r: int) -> None:
    found = np.array([errors(*solved(scan(seed, r), espirit=True)) for seed in range(5)])
    conventional, sparse, made = found.mean(0)
    assert (found[:, 2] < found[:, 0]).all()
    assert made < 0.8 * conventional
    assert made < 0.97 * sparse


@pytest.mark.parametrize(("r", "fwhm", "least"), [(2, 3.0, 0.9), (2, 4.0, 0.9), (4, 4.0, 0.85)])
def test_a_small_lesion_keeps_its_contrast_and_nothing_else_changes(r: int, fwhm: float, least: float) -> None:
    kept, conventional, elsewhere = [], [], []
    for seed, sign in ((0, 1), (1, -1), (2, 1), (3, -1)):
        sample = scan(seed, r)
        lesion = lesion_in(sample["target"], fwhm, sign)
        kspace = sample["kspace"] + kspace_of(sample["maps"] * lesion) * sample["mask"]
        (before, truth), (after, _) = (
            solved({**sample, "kspace": k}, espirit=True) for k in (sample["kspace"], kspace)
        )
        wanted = (np.abs(sample["target"] + lesion) - np.abs(sample["target"])).T
        change = sizes(network().reconstruct(after)) - sizes(network().reconstruct(before))
        kept.append(np.vdot(wanted, change) / np.vdot(wanted, wanted))
        conventional.append(np.vdot(wanted, sizes(after.start) - sizes(before.start)) / np.vdot(wanted, wanted))
        far = np.abs(wanted) < 1e-3 * np.abs(wanted).max()
        elsewhere.append(np.linalg.norm(change[far]) / np.linalg.norm(truth.numpy()))
    assert np.mean(kept) > least
    assert np.mean(kept) > np.mean(conventional) - 0.05
    assert max(elsewhere) < 0.02


def sizes(image: Tensor) -> NDArray:
    return np.abs(image.numpy())


def lesion_in(target: NDArray, fwhm: float, sign: int) -> NDArray:
    """A bell at half of what is around it, where the head is even."""
    y, x = np.indices(target.shape, np.float32)
    size = np.abs(target)
    at = (MATRIX // 2 + 12, MATRIX // 2 + 8)
    bell = np.exp(-4 * np.log(2) * ((y - at[0]) ** 2 + (x - at[1]) ** 2) / np.float32(fwhm**2))
    made: NDArray = (sign * 0.5 * reference_level(size) * bell * target[at] / size[at]).astype(np.complex64)
    return made


@lru_cache(maxsize=4)
def served(seed: int = 1, body_part: str = "HEAD", **changes: object) -> tuple[list[Image], list[Verdict]]:
    """What the protocol gives for a slice of the virtual scanner, R = 2."""
    fields = {"matrix": (1, 128, 128), "n_coils": 8, "acceleration": 2, "n_acs": 24, "snr": 40.0, "n_noise": 16}
    simulation = small_simulation(**(fields | {"seed": seed} | changes))
    scan = replace(simulation.scan, study=replace(simulation.scan.study, body_part=body_part))
    chain = Chain(Library()["mri_unrolled"].build())
    chain.open(scan)
    items = [item for block in simulation.readouts() for item in chain.feed(block)] + list(chain.close())
    verdicts = [i for i in items if isinstance(i, Verdict) and i.check.startswith("model.unrolled")]
    return [i for i in items if isinstance(i, Image)], verdicts


def test_the_service_gives_both_images_and_says_which_is_which() -> None:
    images, found = served()
    assert [i.output for i in images] == ["conventional", "unrolled"]
    assert found == []
    conventional, made = images
    record = made.provenance.network
    assert record is not None
    assert (record.card, record.strength) == ("mr_unrolled", 1.0)
    assert conventional.provenance.network is None
    assert 0.005 < nrmse(made.data, conventional.data, conventional.data > 0) < 0.3


@pytest.mark.parametrize(
    ("changes", "cause"), [({"body_part": "KNEE"}, "anatomy"), ({"fov_mm": (520.0, 520.0)}, "range.voxel_mm")]
)
def test_what_the_card_does_not_cover_stays_conventional(changes: dict[str, object], cause: str) -> None:
    images, found = served(**changes)
    assert [i.output for i in images] == ["conventional"]
    assert found[0].check == f"model.unrolled.{cause}"


def foreign(kind: str) -> NDArray:
    """Pictures of no head, SNR 40."""
    y, x = np.indices((128, 128), np.float32)
    noise = np.random.default_rng(2).standard_normal((2, 128, 128)).astype(np.float32)
    drawn = {
        "stripes": 40 * (1 + np.sin(x / 3)),
        "checkerboard": 80 * ((x // 4 + y // 4) % 2),
        "points": 80 * ((x % 16 == 0) & (y % 16 == 0)),
        "noise": 0 * x,
    }
    made: NDArray = drawn[kind] + noise[0] + 1j * noise[1]
    return made


@pytest.mark.parametrize("kind", ["stripes", "checkerboard", "points", "noise"])
def test_what_is_no_head_is_foreign(kind: str) -> None:
    loaded = load(CARD)
    assert loaded.statistics.score(features(foreign(kind), 1.0)) > loaded.card.ood.threshold


def test_the_engines_agree() -> None:
    assert all(row.agrees for row in compared(CARD))
