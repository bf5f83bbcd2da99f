"""Series: a planted motion is measured with its sign, a still one passes, tSNR and DVARS are what was put in."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, rotate, shift

from acquisition.errors import ConfigError
from acquisition.items import Image, Position
from acquisition.verdict import Level
from recon.mri.quality_series import CheckSeries
from tests.recon.quality_samples import as_image, found, grid, series

RNG = np.random.default_rng(7)
Z, Y, X = np.mgrid[-8:8, -32:32, -32:32]
BODY = 100.0 * ((Z / 6.5) ** 2 + (Y / 24) ** 2 + (X / 19) ** 2 < 1)
BODY = gaussian_filter(BODY * (1 + 0.8 * gaussian_filter(RNG.standard_normal(BODY.shape), 3) * 10), 1.0)
SPACING = (4.0, 2.0, 2.0)


def noise(seed: int, sigma: float = 1.0) -> np.ndarray:
    return sigma * np.random.default_rng(seed).standard_normal(BODY.shape)


def watched(volumes: list[np.ndarray], **changes: float) -> dict:
    return found(CheckSeries(**changes), series(volumes))


def test_a_still_head_passes_with_the_tsnr_that_it_has() -> None:
    said = watched([BODY + noise(t, 2.0) for t in range(20)])
    assert {v.level for v in said.values()} == {Level.PASS}
    expected = np.median(BODY[0.2 * np.percentile(BODY, 98) < BODY]) / 2.0
    assert said["quality.tsnr"].value == pytest.approx(expected, rel=0.12)
    dvars = float(said["quality.dvars"].evidence.split()[1])
    level = BODY[0.2 * np.percentile(BODY, 98) < BODY].mean()
    assert dvars == pytest.approx(100 * 2.0 * np.sqrt(2) / level, rel=0.1)


def motions(volumes: list[np.ndarray]) -> np.ndarray:
    step = CheckSeries()
    step.open(None)  # type: ignore[arg-type]
    for image in series(volumes):
        list(step.feed(image))
    list(step.close())
    assert step._still is not None
    return np.array(step._still.motions)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_planted_shift_is_measured_with_its_sign(axis: int, sign: int) -> None:
    way = np.zeros(3)
    way[axis] = sign * 1.5
    volumes = [BODY] * 3 + [shift(BODY, way / SPACING, order=3)] * 4
    got = motions(volumes)
    assert got[2, :3] == pytest.approx(np.zeros(3), abs=0.05)
    assert got[-1, :3] == pytest.approx(way, abs=0.3)
    assert np.abs(got[-1, 3:]).max() < np.deg2rad(0.5)


@pytest.mark.parametrize("degrees", [2.0, -2.0])
def test_a_planted_rotation_is_measured_with_its_sign(degrees: float) -> None:
    turned = rotate(BODY, degrees, axes=(1, 2), reshape=False, order=3)
    got = motions([BODY] * 3 + [turned] * 4)[-1]
    assert np.rad2deg(abs(got[3])) == pytest.approx(2.0, rel=0.2)
    assert np.sign(got[3]) == -np.sign(motions([turned] * 3 + [BODY] * 4)[-1][3])
    assert np.abs(got[:3]).max() < 0.3


def test_a_restless_head_is_flagged_then_held() -> None:
    still = [BODY + noise(t) for t in range(20)]
    some = [shift(v, (0, 1.0 * (t % 7 == 3), 0), order=1) for t, v in enumerate(still)]
    many = [shift(v, (0, 1.0 * (t % 2), 0), order=1) for t, v in enumerate(still)]
    one, other = watched(some), watched(many)
    assert one["quality.displacement"].level is Level.FLAG
    assert "6 of 20 volumes" in one["quality.displacement"].advice
    assert other["quality.displacement"].level is Level.HOLD


def test_a_jump_of_the_signal_is_found_without_motion() -> None:
    volumes = [BODY + noise(t) for t in range(21)]
    for t in (5, 11, 16):
        volumes[t] = volumes[t] * 1.08
    said = watched(volumes)
    assert said["quality.dvars"].level is Level.FLAG
    assert said["quality.displacement"].level is Level.PASS


def test_a_noisy_series_is_marked() -> None:
    assert watched([BODY + noise(t, 15.0) for t in range(12)])["quality.tsnr"].level is Level.FLAG


def test_slices_that_come_alone_are_put_together() -> None:
    images = []
    for t in range(8):
        data = BODY + noise(t)
        for z in range(len(data)):
            plane = grid(data.shape).plane(z)
            images.append(
                Image(data=data[z : z + 1].astype(np.float32), grid=plane, position=Position(slice=z, repetition=t))
            )
    whole = watched([BODY + noise(t) for t in range(8)])
    alone = found(CheckSeries(), images)
    assert alone["quality.tsnr"].value == pytest.approx(whole["quality.tsnr"].value)
    assert alone["quality.displacement"].evidence == whole["quality.displacement"].evidence


def test_short_broken_and_other_series_pass_without_a_word() -> None:
    assert watched([BODY] * 5) == {}
    assert watched([BODY] * 7 + [BODY[:4]]) == {}
    echoes = [as_image(BODY[:3], position=Position(contrast=c)) for c in range(9)]
    assert found(CheckSeries(), echoes[1:]) == {}


def test_a_single_slice_is_followed_in_its_plane() -> None:
    plane = BODY[8:9]
    way = [np.roll(plane, 1, axis=1) if t % 2 else plane for t in range(10)]
    assert watched([plane] * 10)["quality.displacement"].level is Level.PASS
    assert watched(way)["quality.displacement"].level is Level.HOLD


@pytest.mark.parametrize("changes", [{"displacement_mm": 0.0}, {"moved_hold": 0.01}, {"tsnr_flag": -1.0}])
def test_wrong_limits_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="displacement_mm above 0"):
        CheckSeries(**changes)
