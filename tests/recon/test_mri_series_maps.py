"""Maps made of series whose truth is known: T1, velocity, field, echoes, perfusion."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from acquisition.errors import ConfigError, HeaderError
from acquisition.items import Image, Kind, Position
from acquisition.scan import Encoding, Limits, MrHeader, Scan
from acquisition.verdict import Level, Verdict
from recon.mri.echoes import CombineEchoes, FieldHz, field_hz
from recon.mri.perfusion import PerfusionMap, deconvolved
from recon.mri.t1 import FlipAngleMap, InversionMap
from recon.mri.velocity import VelocityMap, still_plane
from tests.recon.test_mri_maps import GRID, image, scan, through

RNG = np.random.default_rng(7)
T1_MS = np.linspace(150, 2500, 480).reshape(20, 24)


def counted(n: int, counter: str, **changes: Any) -> Scan:
    """A scan whose header promises n counts."""
    limits = {counter: Limits(0, n - 1, 0)}
    encoding = Encoding(
        matrix=(1, 20, 24), fov_mm=(4, 30, 24), recon_matrix=(1, 20, 24), recon_fov_mm=(4, 30, 24), limits=limits
    )
    own = {k: changes.pop(k) for k in list(changes) if k == "user_parameters"}
    return Scan(uid="s", modality="MR", mr=MrHeader(encodings=(encoding,), **changes), **own)


def named(items: list[Any]) -> dict[str, Image]:
    return {i.output: i for i in items if isinstance(i, Image)}


# T1


@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_inversion_times_give_t1(noise: float) -> None:
    ti_s = (2.4, 0.05, 0.4, 1.1, 0.15, 4.0)  # in any order
    images = [
        image(
            np.abs(500 * (1 - 2 * np.exp(-1e3 * t / T1_MS)) + noise * RNG.normal(size=T1_MS.shape)).astype(np.float32)
        )
        for t in ti_s
    ]
    images = [replace(i, position=Position(contrast=n)) for n, i in enumerate(images)]
    found = named(through(InversionMap(), images, scan(ti_s=ti_s)))["t1"]
    assert found.unit == "ms"
    assert np.median(np.abs(found.data[0] / T1_MS - 1)) < (1e-3 if noise == 0 else 0.03)
    assert found.verdicts[-1].level is Level.PASS


def test_look_locker_is_corrected() -> None:
    ti_s = (0.1, 0.18, 0.9, 1.0, 1.7, 1.8, 2.6, 3.4)
    a, b = 300.0, 540.0  # saturated: B < 2 A
    apparent = T1_MS / (b / a - 1)
    images = [
        image(np.abs(a - b * np.exp(-1e3 * t / apparent)).astype(np.float32), position=Position(set=n))
        for n, t in enumerate(ti_s)
    ]
    found = named(through(InversionMap(counter="set", look_locker=True), images, scan(ti_s=ti_s)))["t1"]
    inside = apparent < 3000
    np.testing.assert_allclose(found.data[0][inside], T1_MS[inside], rtol=0.01)


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_flip_angles_give_t1(noise: float) -> None:
    tr_s, flip = 0.015, (3.0, 10.0, 20.0)
    e1 = np.exp(-1e3 * tr_s / T1_MS)
    images = []
    for n, degrees in enumerate(flip):
        a = np.deg2rad(degrees)
        signal = 1000 * np.sin(a) * (1 - e1) / (1 - e1 * np.cos(a)) + noise * RNG.normal(size=e1.shape)
        images.append(image(signal.astype(np.float32), position=Position(contrast=n)))
    found = named(through(FlipAngleMap(), images, scan(tr_s=(tr_s,), flip_deg=flip)))["t1"].data[0]
    if noise == 0:
        np.testing.assert_allclose(found, T1_MS, rtol=2e-3)
    else:
        assert abs(np.median(found / T1_MS) - 1) < 0.02


def test_what_follows_no_relaxation_is_flagged() -> None:
    ti_s = (0.1, 0.5, 1.0, 2.0, 3.0)
    images = [
        image((100 * (1 + n % 2) * np.ones((20, 24))).astype(np.float32), position=Position(contrast=n))
        for n in range(5)
    ]
    for i, sign in zip(images, (1, -1, 1, -1, 1), strict=True):
        i.data[:] *= 1 + 0.5 * sign
    assert named(through(InversionMap(), images, scan(ti_s=ti_s)))["t1"].verdicts[-1].level is Level.FLAG


# Velocity


def flowing(venc: float, shift: float = 0.0) -> tuple[np.ndarray, list[Image]]:
    y, x = np.indices((40, 44))
    vessel = (y - 20) ** 2 + (x - 25) ** 2 < 36
    truth = np.where(vessel, 60.0 * (1 - ((y - 20) ** 2 + (x - 25) ** 2) / 36), 0.0)
    bright = 80 * np.exp(1j * (0.4 + 0.02 * x))
    eddy = 0.15 + 0.1 * (y / 40) - 0.12 * (x / 44) + shift
    grid = replace(GRID, shape=(1, 40, 44))
    images = [
        image(d.astype(np.complex64), kind=Kind.COMPLEX, grid=grid, position=Position(set=n))
        for n, d in enumerate((bright, bright * np.exp(1j * (np.pi * truth / venc + eddy))))
    ]
    return truth, images


def test_velocities_and_eddy_currents() -> None:
    truth, images = flowing(100.0)
    header = counted(2, "set", user_parameters={"VENC": 100.0})
    made = named(through(VelocityMap(), images, header))["velocity_1"]
    np.testing.assert_allclose(made.data[0], truth, atol=1.0)
    assert (made.unit, made.verdicts[-1].level) == ("cm/s", Level.PASS)
    raw = named(through(VelocityMap(background="none"), images, header))["velocity_1"].data[0]
    assert abs(np.median(raw - truth)) > 2


def test_velocities_beyond_venc_are_flagged() -> None:
    _, images = flowing(58.0)
    made = named(through(VelocityMap(venc_cm_per_s=58.0), images, counted(2, "set")))["velocity_1"]
    assert made.verdicts[-1].level is Level.FLAG


def test_three_directions_give_speed() -> None:
    truth, images = flowing(100.0)
    more = [replace(images[1], position=Position(set=n)) for n in (2, 3)]
    made = named(through(VelocityMap(venc_cm_per_s=100.0), [*images, *more], counted(4, "set")))
    np.testing.assert_allclose(made["speed"].data[0], np.sqrt(3) * truth, atol=2.0)
    assert not still_plane(np.zeros((1, 5, 5), complex), np.zeros((1, 5, 5), bool)).any()


# Echoes


def test_the_field_is_found_beyond_the_wrap_of_later_echoes() -> None:
    te_s = np.array([0.004, 0.0065, 0.013, 0.025])
    truth = np.linspace(-180, 190, 480).reshape(20, 24)
    series = np.stack([100 * np.exp(2j * np.pi * truth * t + 0.7j) for t in te_s])
    series += 3 * (RNG.normal(size=series.shape) + 1j * RNG.normal(size=series.shape))
    assert np.abs(field_hz(series, te_s) - truth).max() < 2.5
    images = [
        image(s.astype(np.complex64), kind=Kind.COMPLEX, position=Position(contrast=n)) for n, s in enumerate(series)
    ]
    made = named(through(FieldHz(), images, scan(te_s=tuple(te_s))))["field"]
    assert (made.unit, made.kind, made.verdicts[-1].level) == ("Hz", Kind.REAL, Level.FLAG)  # 190 of 200 Hz


def test_echoes_are_combined() -> None:
    images = [image(np.full((20, 24), v, np.float32), position=Position(contrast=n)) for n, v in enumerate((3.0, 4.0))]
    made = named(through(CombineEchoes(), images, scan(te_s=(0.01, 0.02))))["echoes"]
    np.testing.assert_allclose(made.data, np.sqrt(12.5), rtol=1e-6)


# Perfusion


def bolus(n: int, tr_s: float, delay_s: float = 0.0) -> np.ndarray:
    """A gamma variate that arrives 15 s after the start."""
    t = np.maximum(np.arange(n) * tr_s - 15 - delay_s, 0)
    return t**3 * np.exp(-t / 1.5)


def perfused(noise: float = 0.0, n: int = 60, tr_s: float = 1.5) -> tuple[dict[str, np.ndarray], list[Image]]:
    """Two slices: an artery, and tissue with known flow, transit time and delay."""
    artery = bolus(n, tr_s) * 30 / bolus(n, tr_s).max()
    y, x = np.indices((20, 24))
    flow = np.where(x < 12, 0.010, 0.004)  # 1/s
    transit = np.where(y < 10, 4.0, 6.0)
    delay = np.where((x >= 12) & (y < 10), 4.5, 0.0)
    fine, dt = 0.1, 0.1
    t = np.arange(int(n * tr_s / fine)) * fine
    source = np.interp(t, np.arange(n) * tr_s, artery)
    curves = np.zeros((n, 20, 24))
    for f, m, d in {(f, m, d) for f, m, d in zip(flow.flat, transit.flat, delay.flat, strict=True)}:
        residue = np.exp(-t / m)
        course = f * dt * np.convolve(np.interp(t - d, t, source, left=0), residue)[: len(t)]
        curves[:, (flow == f) & (transit == m) & (delay == d)] = np.interp(np.arange(n) * tr_s, t, course)[:, None]
    curves[:, 8:12, 2:6] = artery[:, None, None]
    signal = 1000 * np.exp(-0.03 * curves)
    images = []
    for z in range(2):
        for r in range(n):
            noisy = signal[r] + noise * RNG.normal(size=signal[r].shape)
            images.append(image(noisy.astype(np.float32), position=Position(slice=z, repetition=r)))
    return {"flow": flow, "mtt": transit, "tmax": delay}, images


@pytest.mark.parametrize("noise", [0.0, 2.5])
def test_perfusion_maps_show_flow_transit_and_delay(noise: float) -> None:
    truth, images = perfused(noise)
    made = through(PerfusionMap(), images, counted(60, "repetition", te_s=(0.03,), tr_s=(1.5,)))
    maps = named(made)
    assert {"cbv", "cbf", "mtt", "tmax"} <= set(maps)
    tissue = np.ones((20, 24), bool)
    tissue[7:13, 1:7] = False
    fast, slow = (tissue & (truth["flow"] == f) & (truth["tmax"] == 0) for f in (0.010, 0.004))
    cbf, tmax = maps["cbf"].data[0], maps["tmax"].data[0]
    assert np.median(cbf[fast]) / np.median(cbf[slow]) == pytest.approx(2.5, rel=0.2)
    volume = maps["cbv"].data[0]
    wide, narrow = (fast & (truth["mtt"] == m) for m in (6.0, 4.0))
    assert np.median(volume[wide]) / np.median(volume[narrow]) == pytest.approx(1.5, rel=0.12)
    late = tissue & (truth["tmax"] > 0)
    allowed = 1.6 if noise == 0 else 3.1  # noise costs singular values, and those cost sharpness in time
    assert np.median(tmax[late]) == pytest.approx(4.5, abs=allowed)
    assert abs(np.median(tmax[fast])) <= allowed
    assert maps["mtt"].verdicts[-1].level is Level.PASS


def test_flow_does_not_depend_on_the_delay() -> None:
    n, step = 60, 1.5
    artery = bolus(n, step)
    late = np.stack([bolus(n, step, d) for d in (0.0, 3.0, -3.0)], axis=1) * 0.2
    flow, delay = deconvolved(late, artery, step_s=step, oscillation=0.095)
    np.testing.assert_allclose(flow, flow[0], rtol=0.05)
    np.testing.assert_allclose(delay - delay[0], [0, 3, -3], atol=1e-9)


def test_no_bolus_is_told() -> None:
    images = [
        image((100 + RNG.normal(size=(20, 24))).astype(np.float32), position=Position(repetition=r)) for r in range(40)
    ]
    made = through(PerfusionMap(), images, counted(40, "repetition", te_s=(0.03,), tr_s=(1.5,)))
    assert isinstance(made[-1], Verdict)
    assert made[-1].level is Level.FLAG


# What cannot be


@pytest.mark.parametrize(
    ("step", "header", "message"),
    [
        (InversionMap(), scan(), "three or more different inversion times"),
        (FlipAngleMap(), scan(flip_deg=(10.0,)), "two or more different angles"),
        (VelocityMap(), counted(2, "set"), "user parameter venc"),
        (FieldHz(), scan(te_s=(0.01,)), "growing echo times"),
        (PerfusionMap(), counted(5, "repetition", te_s=(0.03,), tr_s=(1.5,)), "repetitions or more"),
    ],
)
def test_headers_that_say_too_little(step: Any, header: Scan, message: str) -> None:
    with pytest.raises(HeaderError, match=message):
        step.open(header)


@pytest.mark.parametrize(
    ("make", "bad"),
    [
        (InversionMap, {"longest_ms": 1.0}),
        (FlipAngleMap, {"threshold": 2.0}),
        (VelocityMap, {"background": "all"}),
        (PerfusionMap, {"oscillation": 0.0}),
        (CombineEchoes, {"counter": "slice"}),
    ],
)
def test_wrong_parameters(make: Any, bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        make(**bad)
