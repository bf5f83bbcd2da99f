from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from acquisition.errors import ConfigError
from models.train.pet import SPLIT, load_volumes, osem, pet_sample, projector, random_activity


def volume() -> np.ndarray:
    """A volume like a cropped one: background, a hot rim, noise-like structure."""
    rng = np.random.default_rng(0)
    _, y, x = np.indices((12, 40, 36))
    out = 0.8 + 0.1 * rng.standard_normal((12, 40, 36))
    radius = np.hypot(y - 18, x - 20)
    out[(radius < 9) & (radius > 4)] += 6
    return out.astype(np.float32)


def test_no_volume_is_in_two_parts() -> None:
    names = [name for part in SPLIT.values() for name in part]
    assert sorted(names) == [f"STS_{n:03d}" for n in range(1, 20)]


def test_every_angle_sees_all_of_the_activity() -> None:
    image = np.random.default_rng(1).random((24, 24)).astype(np.float32)
    rows = (projector(24) @ image.ravel()).reshape(72, -1)
    assert rows.sum(1) == pytest.approx(image.sum(), rel=1e-5)


def test_expected_counts_give_the_activity_back() -> None:
    y, x = np.indices((24, 24)) - 11.5
    image = (1 + 3 * np.exp(-(((y - 3) ** 2 + x**2) / 12))) * (np.hypot(y, x) < 10)
    sensitivity = np.full(projector(24).shape[0], 50.0)
    background = np.full_like(sensitivity, 20.0)
    counts = sensitivity * (projector(24) @ image.ravel()) + background
    found = osem(counts, sensitivity, background, n=24)
    inside = np.hypot(y, x) < 8
    assert found[inside] == pytest.approx(image[inside], rel=0.15)
    assert found[inside].mean() == pytest.approx(image[inside].mean(), rel=0.02)


def test_noise_falls_with_the_counts_and_leaves_no_bias() -> None:
    activity, pixel = random_activity(volume(), 4.0, np.random.default_rng(2), n=40)
    relative = []
    for counts in (1e4, 1.6e5):
        made = [pet_sample(activity, pixel, np.random.default_rng(s), counts=counts) for s in range(12)]
        hot = made[0].target > 0.3 * made[0].target.max()
        error = np.stack([(m.low - m.target)[hot] for m in made])
        relative.append(error.std() / made[0].target[hot].mean())
        assert error.mean() / made[0].target[hot].mean() == pytest.approx(0, abs=0.04)
    assert relative[0] / relative[1] == pytest.approx(4, rel=0.3)


def test_sigma_is_the_noise() -> None:
    activity, pixel = random_activity(volume(), 4.0, np.random.default_rng(3), n=40)
    z = []
    for seed in range(16):
        made = pet_sample(activity, pixel, np.random.default_rng(seed), counts=8e4)
        hot = made.target > 0.3 * made.target.max()
        z.append(np.std((made.low - made.target)[hot] / made.sigma[hot]))
    assert np.mean(z) == pytest.approx(1, abs=0.15)


def test_activities_are_drawn_by_their_seed() -> None:
    one, again, other = (random_activity(volume(), 4.0, np.random.default_rng(s)) for s in (1, 1, 2))
    assert (one[0] == again[0]).all()
    assert one[0].shape == (64, 64)
    assert (one[0] != other[0]).any()
    assert one[0].min() >= 0


def test_an_unknown_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="training, calibration, test"):
        load_volumes("all", data=tmp_path)


@pytest.mark.data
def test_real_volumes(data_dir: Path) -> None:
    found = load_volumes("test", data=data_dir)
    assert len(found) == 3
    for voxels, pixel in found:
        assert 3.5 < pixel < 6
        assert 3 < voxels.max() < 30
