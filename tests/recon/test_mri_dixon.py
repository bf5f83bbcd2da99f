"""Water and fat apart: known mixtures in a known field, and real hearts without swaps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from acquisition.errors import ConfigError, HeaderError
from acquisition.geometry import Grid
from acquisition.items import Image, Kind, Position
from acquisition.scan import Equipment, MrHeader, Scan
from recon.mri.dixon import Dixon, _fat_phasor, separate

TE_S = np.array([0.00155, 0.00382, 0.00609])


def scene(te_s: NDArray, field_t: float, *, n: int = 96, noise: float = 0.0) -> tuple[NDArray, ...]:
    """Return echoes, water, fat, field: an oval of water with a rim and islands of fat, 250 Hz of field across it."""
    y, x = (np.indices((n, n)) - n // 2) / n
    body = (y / 0.42) ** 2 + (x / 0.35) ** 2 < 1
    rim = body & ((y / 0.36) ** 2 + (x / 0.29) ** 2 > 1)
    island = ((y - 0.1) / 0.06) ** 2 + ((x + 0.1) / 0.08) ** 2 < 1
    mixed = ((y + 0.15) / 0.08) ** 2 + ((x - 0.1) / 0.06) ** 2 < 1
    fat = np.where(rim | island, 90.0, np.where(mixed, 40.0, 0.0)) * body
    water = np.where(rim | island, 5.0, np.where(mixed, 60.0, 100.0)) * body
    field = 180 * x + 120 * y - 60 * (x**2 + y**2) + 20
    phasor = _fat_phasor(te_s, field_t)
    turn = np.exp(2j * np.pi * field * te_s[:, None, None])
    rng = np.random.default_rng(0)
    dirt = noise * (rng.normal(size=turn.shape) + 1j * rng.normal(size=turn.shape))
    return (water + fat * phasor[:, None, None]) * turn * np.exp(0.7j) + dirt, water, fat, field


@pytest.mark.parametrize("field_t", [1.5, 3.0])
@pytest.mark.parametrize("noise", [0.0, 2.0])
def test_known_mixtures_come_apart(field_t: float, noise: float) -> None:
    te_s = TE_S * 1.5 / field_t
    series, water, fat, field = scene(te_s, field_t, noise=noise)
    inside = water + fat > 0
    w, f, b0 = separate(series, te_s, field_t, threshold=0.05)
    swapped = inside & (np.abs(np.abs(f) - fat) > 30)
    assert swapped.sum() < 0.005 * inside.sum()
    good = inside & ~swapped
    assert np.abs(np.abs(w) - water)[good].mean() < 2 + noise
    assert np.abs(np.abs(f) - fat)[good].mean() < 2 + noise
    period = 1 / np.diff(te_s).min()
    apart = (b0 - field + period / 2) % period - period / 2
    assert np.abs(apart[good]).mean() < 3
    assert not w[~(np.abs(series).mean(0) > 0)].any()


def scan(te_s: NDArray = TE_S, field_t: float | None = 1.5) -> Scan:
    return Scan(
        uid="s",
        modality="MR",
        mr=MrHeader(encodings=(), te_s=tuple(te_s)),
        equipment=Equipment(field_strength_t=field_t),
    )


def echoes(series: NDArray) -> list[Image]:
    grid = Grid.from_centre(
        (0, 0, 0), shape=(1, *series.shape[1:]), spacing_mm=(5, 2, 2), directions=[(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    )
    return [
        Image(
            data=echo[None].astype(np.complex64),
            grid=grid,
            kind=Kind.COMPLEX,
            position=Position(contrast=i),
            last_readout_s=float(i),
        )
        for i, echo in enumerate(series)
    ]


def through(step: Dixon, images: list[Image]) -> list[Any]:
    step.open(scan())
    return [out for image in images for out in step.feed(image)] + list(step.close())


def test_every_echo_stays_and_the_maps_come_behind_the_last() -> None:
    series, _, fat, _ = scene(TE_S, 1.5)
    made = through(Dixon(), echoes(series))
    assert [i.output for i in made] == ["conventional"] * 3 + ["water", "fat", "fat_fraction", "b0"]
    assert all(i.kind is Kind.MAGNITUDE for i in made)
    assert {i.output: i.unit for i in made}["fat_fraction"] == "%"
    assert made[-1].last_readout_s == 2.0
    fraction = made[5].data[0]
    assert fraction[fat == 90].mean() > 90
    assert fraction[(fat == 0) & (np.abs(series[0]) > 50)].mean() < 5


def test_the_other_sense_of_precession_is_the_conjugate() -> None:
    series, *_ = scene(TE_S, 1.5)
    first, second = through(Dixon(), echoes(series)), through(Dixon(clockwise=False), echoes(series.conj()))
    assert np.allclose(first[3].data, second[3].data)


def test_missing_echoes_are_told_of() -> None:
    series, *_ = scene(TE_S, 1.5)
    assert through(Dixon(), echoes(series)[:2])[-1].check == "map.dixon"


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(HeaderError, match=r"three or more growing echo times, got 1\.55 ms, 3\.82 ms"):
        Dixon().open(scan(TE_S[:2]))
    with pytest.raises(HeaderError, match="field strength"):
        Dixon().open(scan(field_t=None))
    with pytest.raises(ConfigError, match="threshold"):
        Dixon(threshold=1)


@pytest.mark.data
@pytest.mark.parametrize("name", ["PKdata1", "PKdata3", "PKdata4"])
def test_real_hearts_have_no_swaps(data_dir, name: str) -> None:
    """A swap is a jump of the field by half the fat's shift or more between neighbours of good signal."""
    import scipy.io

    file = scipy.io.loadmat(data_dir / "mri" / "kellman_water_fat" / f"{name}.mat")
    data = next(v for k, v in file.items() if not k.startswith("__"))[0, 0]
    series = np.moveaxis(data["images"][:, :, 0, 0, :], -1, 0).astype(np.complex64)
    te_s, field_t = data["TE"].ravel(), float(data["FieldStrength"].ravel()[0])
    water, fat, b0 = separate(series, te_s, field_t, threshold=0.05)
    strong = np.abs(water) + np.abs(fat)
    strong = strong > 0.15 * np.percentile(strong, 99)
    period = 1 / np.diff(te_s).min()
    jumps = total = 0
    for axis in (0, 1):
        both = strong & np.roll(strong, -1, axis)
        step = (np.roll(b0, -1, axis) - b0 + period / 2) % period - period / 2
        jumps += int((np.abs(step)[both] > 108).sum())
        total += int(both.sum())
    assert jumps < 0.002 * total
    assert np.abs(water[strong]).sum() > np.abs(fat[strong]).sum()
