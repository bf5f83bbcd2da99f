"""Local low rank of series: noise goes, signal and edges stay, nothing is lost where nothing is known to be noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from acquisition.errors import ConfigError, DataError
from acquisition.geometry import Grid
from acquisition.items import Image, Kind, Position
from acquisition.scan import Scan
from acquisition.verdict import Verdict
from recon.mri.mppca import MpPca, Nordic, known_noise, low_rank, marchenko_pastur

N, SIDE = 24, 28
SCAN = Scan(uid="s", modality="MR")


def clean() -> np.ndarray:
    """A disc and what surrounds it, each with its own course over the series (n, 1, y, x)."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    disc = np.hypot(y, x) < 8
    n = np.arange(N)[:, None, None]
    return (20 * disc * np.exp(-n / 10) + 12 * ~disc * np.exp(-n / 40))[:, None].astype(np.float32)


def noise(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((2, N, 1, SIDE, SIDE)).astype(np.float32) * np.array([1, 1j])[:, *(None,) * 4]).sum(0)


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.abs(values) ** 2)))


@pytest.mark.parametrize("rule", [marchenko_pastur, known_noise(np.sqrt(2))], ids=["mppca", "nordic"])
def test_noise_goes_and_signal_stays(rule) -> None:
    truth = clean()
    made = low_rank((truth + noise()).astype(np.complex64), (1, 5, 5), rule)
    assert rms(made - truth) < 0.5 * rms(noise())
    many = np.mean([low_rank((truth + noise(s)).astype(np.complex64), (1, 5, 5), rule) for s in range(6)], axis=0)
    edge = np.abs(np.diff(many[0, 0, SIDE // 2].real)).max()
    assert edge == pytest.approx(8, rel=0.15)
    residual = (truth + noise() - made)[:, 0].reshape(N, -1).mean(axis=0)
    assert np.abs(np.corrcoef(residual.real, truth[0].ravel())[0, 1]) < 0.12


def test_noise_alone_has_no_rank_and_signal_alone_is_untouched() -> None:
    alone = low_rank(noise().astype(np.complex64), (1, 5, 5), known_noise(np.sqrt(2)))
    assert rms(alone) < 0.15 * rms(noise())
    truth = clean()
    np.testing.assert_allclose(low_rank(truth, (1, 5, 5), marchenko_pastur), truth, atol=1e-3)


def test_the_noise_that_mppca_finds_is_that_which_is_there() -> None:
    rng = np.random.default_rng(3)
    matrix = 3 * rng.standard_normal((40, N, 49))
    matrix[:, :, :] += 60 * rng.standard_normal((40, N, 1)) * rng.standard_normal((40, 1, 49))
    values = np.linalg.eigvalsh(matrix @ matrix.transpose(0, 2, 1))[:, ::-1]
    rank = marchenko_pastur(values, 49, N)
    assert np.median(rank) == 1
    level = np.sqrt([v[r:].mean() / 49 for v, r in zip(values, rank, strict=True)])
    assert np.median(level) == pytest.approx(3, rel=0.05)


def images(data: np.ndarray, **changes) -> list[Image]:
    grid = Grid.from_centre((0, 0, 0), shape=data.shape[1:], spacing_mm=(2, 2, 2), directions=np.eye(3))
    fields = {"unit": "1", "kind": Kind.COMPLEX} | changes
    return [Image(data=d, grid=grid, position=Position(repetition=n), **fields) for n, d in enumerate(data)]


def played(step, items: list) -> list:
    step.open(SCAN)
    passed = [i for item in items for i in step.feed(item)]
    assert passed == items
    return list(step.close())


def test_the_series_comes_again_image_by_image() -> None:
    out = played(MpPca(), images((clean() + noise()).astype(np.complex64)))
    assert [i.position.repetition for i in out] == list(range(N))
    assert {i.output for i in out} == {"mppca"}
    assert out[0].data.dtype == np.complex64


def test_nordic_takes_the_g_factor_out_and_puts_it_back() -> None:
    g = np.linspace(0.7, 2.5, SIDE, dtype=np.float32)[None, None, :].repeat(SIDE, 1)
    truth = clean()
    series = (truth + noise() * g).astype(np.complex64)
    items = images(series)
    map_ = replace(items[0], data=g, output="gfactor", kind=Kind.MAGNITUDE)
    with_map, without = (np.stack([i.data for i in played(Nordic(), some)]) for some in ([map_, *items], items))
    assert rms(with_map - truth) < 0.6 * rms(without - truth)


def test_too_few_images_stay_as_they_are_and_are_told() -> None:
    (verdict,) = played(MpPca(), images(clean()[:3].astype(np.complex64)))
    assert isinstance(verdict, Verdict)
    assert "not denoised" in verdict.advice


def test_what_is_wrong_is_named() -> None:
    with pytest.raises(ConfigError, match=r"image\.mppca counter.*contrast"):
        MpPca(counter="slice")
    with pytest.raises(ConfigError, match=r"image\.nordic window"):
        Nordic(window=(0, 5, 5))
    with pytest.raises(DataError, match="units of their noise"):
        played(Nordic(), images(clean().astype(np.complex64), unit="a.u."))
    with pytest.raises(DataError, match="2 images or more"):
        low_rank(np.zeros((1, 1, 8, 8)), (1, 5, 5), marchenko_pastur)
