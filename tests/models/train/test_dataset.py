from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from acquisition.errors import ConfigError
from models.train import pet
from models.train.dataset import KINDS, PARTS, Samples, Source
from models.train.encode import image_of, kspace_of, white_noise
from models.train.mr import (
    calibrated_maps,
    denoise_sample,
    denoise_samples,
    gad_sample,
    unrolled_sample,
    unrolled_samples,
)
from tests.models.train.simulated import SMALL, small_head
from tests.models.train.test_pet import volume


class Small(Source):
    """Anatomy without files."""

    heads = [small_head()]  # noqa: RUF012
    volumes = [(volume(), 4.0)]  # noqa: RUF012


def samples(kind: str, part: str = "training", **changes: object) -> Samples:
    return Samples(kind=kind, source=Small(part=part, data=Path(), cache=Path()), n=20, spec=SMALL, **changes)  # type: ignore[arg-type]


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_number_is_a_sample(kind: str) -> None:
    one = samples(kind)[3]
    assert same(one, samples(kind)[3])
    assert not same(one, samples(kind)[4])
    assert not same(one, samples(kind, seed=1)[3])
    assert not same(one, samples(kind, part="test")[3])
    assert all(np.isfinite(v).all() for v in one.values())
    assert one["sigma"].min() >= 0
    assert np.abs(one["target"]).max() > 0


def test_workers_make_the_same_samples() -> None:
    data = samples("denoise")
    alone = [data[k] for k in range(4)]
    workers = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context="fork")  # type: ignore[arg-type]
    for number, got in zip(range(4), workers, strict=False):
        assert np.array_equal(got["image"].numpy(), alone[number]["image"])


def test_another_process_gets_places_not_heads() -> None:
    source = Source(part="test", data=Path("data"), cache=Path("cache"))
    object.__setattr__(source, "heads", [small_head()])
    again = pickle.loads(pickle.dumps(source))
    assert "heads" not in again.__dict__
    assert again == source


def test_an_unrolled_sample_is_a_scan() -> None:
    for seed in range(6):
        s = unrolled_sample(small_head(), np.random.default_rng(seed), SMALL)
        assert s["kspace"].shape == s["maps"].shape == (4, 48, 48)
        assert s["kspace"].dtype == s["target"].dtype == np.complex64
        assert not s["kspace"][:, ~s["mask"]].any()
        assert 1.2 < s["mask"].size / s["mask"].sum() < 9
        assert np.linalg.norm(s["maps"], axis=0) == pytest.approx(1, abs=1e-4)
        assert np.abs(s["target"]).max() > s["sigma"].min()


def test_what_the_image_does_not_explain_is_white_noise() -> None:
    spec = replace(SMALL, calibrated=0.0, snr=(8.0, 15.0))
    for seed in range(6):
        s = unrolled_sample(small_head(), np.random.default_rng(seed), spec)
        rest = (s["kspace"] - kspace_of(s["maps"] * s["target"]))[:, s["mask"]]
        assert np.median(np.abs(rest) ** 2) == pytest.approx(np.log(2), rel=0.1)  # of an exponential of mean 1


def test_sigma_is_the_noise_of_least_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    def every_second(matrix: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, int]:
        return np.broadcast_to((np.arange(matrix[0]) % 2 == 0)[:, None], matrix).copy(), 2

    monkeypatch.setattr("models.train.mr._MASKS", {"second": every_second})
    ratio = []
    for seed in range(6):
        s = unrolled_sample(small_head(), np.random.default_rng(seed), replace(SMALL, calibrated=0.0))
        folded = 2 * image_of(s["kspace"])[:, :24]
        sets = s["maps"].reshape(4, 2, 24, 48).transpose(2, 3, 0, 1)
        found = (np.linalg.pinv(sets) @ folded.transpose(1, 2, 0)[..., None])[..., 0].transpose(2, 0, 1).reshape(48, 48)
        ratio.append(np.median(np.abs((found - s["target"]).real / s["sigma"])) / 0.6745)
    assert np.mean(ratio) == pytest.approx(1, abs=0.05)


def test_true_maps_explain_the_scan_to_its_noise() -> None:
    spec = replace(SMALL, calibrated=0.0, snr=(1e4, 1e4 + 1))
    s = unrolled_sample(small_head(), np.random.default_rng(1), spec)
    rest = (s["kspace"] - kspace_of(s["maps"] * s["target"]))[:, s["mask"]]
    assert np.linalg.norm(rest) < 0.02 * np.linalg.norm(s["kspace"])


def test_maps_from_calibration_lines_are_the_coils() -> None:
    spec = replace(SMALL, calibrated=0.0, snr=(60.0, 61.0))
    s = unrolled_sample(small_head(), np.random.default_rng(11), spec)
    mask = np.ones((48, 48), bool)
    rng = np.random.default_rng(0)
    full = kspace_of(s["maps"] * s["target"]) + white_noise((4, 48, 48), rng)
    found = calibrated_maps(full, mask)
    inside = np.abs(s["target"]) > 0.3 * np.percentile(np.abs(s["target"]), 99)
    alike = np.abs((found.conj() * s["maps"]).sum(0))[inside]
    assert np.median(alike) > 0.995


def test_the_noise_of_a_denoise_sample_is_its_sigma() -> None:
    ratio, flat = [], []
    for seed in range(30):
        s = denoise_sample(small_head(), np.random.default_rng(seed), SMALL)
        noise = s["image"] - s["target"]
        ratio.append(np.std((noise / s["sigma"]).real))
        flat.append(s["sigma"].std() / s["sigma"].mean())
    assert np.mean(ratio) == pytest.approx(1, abs=0.02)
    assert max(flat) > 0.1
    assert np.std(ratio) < 0.08


def test_one_slice_can_be_measured_again_and_again() -> None:
    first, second = islice(denoise_samples(small_head(), np.random.default_rng(3), SMALL), 2)
    assert same(first, denoise_sample(small_head(), np.random.default_rng(3), SMALL))
    assert not np.array_equal(first["image"], second["image"])
    a, b = (np.abs(s["target"]) / np.abs(s["target"]).mean() for s in (first, second))
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.9
    one, other = islice(unrolled_samples(small_head(), np.random.default_rng(3), SMALL), 2)
    assert same(one, unrolled_sample(small_head(), np.random.default_rng(3), SMALL))
    assert not np.array_equal(one["kspace"], other["kspace"])


def test_doses_have_independent_noise_and_one_anatomy() -> None:
    noises, shares = [], []
    for seed in range(12):
        s = gad_sample(small_head(), np.random.default_rng(seed))
        noise = [(s[a] - s[b]).ravel() for a, b in (("pre", "pre_clean"), ("low", "low_clean"), ("full", "target"))]
        noises.append(np.abs(np.corrcoef(noise)) - np.eye(3))
        assert 0.05 <= s["dose"] <= 0.3
        shares.append(np.abs(s["target"] - s["pre_clean"]).sum() / np.abs(s["pre_clean"]).sum())
    assert np.max(noises) < 0.05
    assert np.mean(shares) > 0.01


def test_parts_of_the_heads_and_of_the_volumes_have_the_same_names() -> None:
    assert tuple(pet.SPLIT) == PARTS == ("training", "calibration", "test")


@pytest.mark.parametrize(
    ("change", "match"),
    [({"kind": "video"}, "one of unrolled"), ({"part": "all"}, "one of training"), ({"n": 0}, "at least 1")],
)
def test_what_cannot_be_drawn_is_refused(change: dict, match: str) -> None:
    part = change.pop("part", "test")
    fields = {"kind": "ct", "source": Small(part=part, data=Path(), cache=Path()), "n": 2} | change
    with pytest.raises(ConfigError, match=match):
        Samples(**fields)


def test_a_number_that_is_not_there() -> None:
    with pytest.raises(IndexError, match="there are 20"):
        samples("ct")[20]


@pytest.mark.data
def test_a_real_head_makes_samples(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.train.labels.SPLIT", {"test": ("15",)})
    source = Source(part="test", data=data_dir, cache=tmp_path)
    made = [Samples(kind="unrolled", source=source, n=2)[k] for k in range(2)]
    assert made[0]["kspace"].shape == (8, 192, 192)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["head_15_field.npy", "head_15_tissue.npy"]
    again = Source(part="test", data=data_dir / "gone", cache=tmp_path)  # from the cache alone
    assert same(Samples(kind="unrolled", source=again, n=2)[0], made[0])
    assert isinstance(again.heads[0].tissue, np.memmap)
    zero_filled = np.linalg.norm(image_of(made[0]["kspace"]), axis=0)
    assert np.corrcoef(zero_filled.ravel(), np.abs(made[0]["target"]).ravel())[0, 1] > 0.8
    assert torch.from_numpy(made[0]["target"]).dtype == torch.complex64
