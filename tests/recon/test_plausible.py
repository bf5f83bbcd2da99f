"""Centre, size and levels: what fits passes, what does not is told of, for all three modalities."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from acquisition.errors import ConfigError
from acquisition.geometry import Grid
from acquisition.items import Image
from acquisition.scan import Patient, PetHeader, Scan, Study, Tracer
from acquisition.verdict import Level
from recon.plausible import CheckCentre, CheckPlausible
from recon.uniform_noise import CheckCtQuality, CheckPetQuality
from tests.recon.quality_samples import SCAN, as_image, found

N = 96
RNG = np.random.default_rng(3)
CT = Scan(uid="c", modality="CT", study=Study(body_part="CHEST"))
TRACER = Tracer(nuclide="^18^Fluorine", half_life_s=6586.2, dose_bq=3e8)
PET = Scan(
    uid="p",
    modality="PT",
    patient=Patient(weight_kg=75.0),
    pet=PetHeader(n_rings=1, n_crystals=1, radius_mm=1.0, ring_pitch_mm=1.0, tracer=TRACER),
)


def disc(radius_mm: float, spacing_mm: float = 2.5, *, x_mm: float = 0.0, y_mm: float = 0.0) -> np.ndarray:
    """1 within a disc, x and y as the grid of `volume` has them."""
    places = (np.arange(N) - (N - 1) / 2) * spacing_mm
    return (np.hypot(places[None, :] - x_mm, places[:, None] - y_mm) < radius_mm).astype(float)


def volume(plane: np.ndarray, n: int = 6, spacing_mm: float = 2.5, dz_mm: float = 5.0, unit: str = "a.u.") -> Image:
    data = np.stack([plane] * n)
    data = data + 0.02 * np.ptp(plane) * RNG.standard_normal(data.shape)
    grid = Grid.from_centre(
        (30, -20, 100), shape=data.shape, spacing_mm=(dz_mm, spacing_mm, spacing_mm), directions=np.eye(3)
    )
    return Image(data=data.astype(np.float32), grid=grid, unit=unit)


# Centre


@pytest.mark.parametrize(("x_mm", "y_mm"), [(60.0, 0.0), (-60.0, 0.0), (0.0, 60.0), (0.0, -60.0)])
def test_a_patient_off_centre_is_told_of_with_direction_and_distance(x_mm: float, y_mm: float) -> None:
    (verdict,) = found(CheckCentre(), [volume(disc(50, x_mm=x_mm, y_mm=y_mm))]).values()
    assert verdict.level is Level.FLAG
    assert verdict.value == pytest.approx(60.0, abs=3.0)
    assert f"left {x_mm:.0f}"[:7] in verdict.evidence


@pytest.mark.parametrize("scan", [SCAN, CT, PET])
def test_a_centred_patient_passes_in_every_modality(scan: Scan) -> None:
    plane = disc(60) * 1000 - (1000 if scan.modality == "CT" else 0)
    (verdict,) = found(CheckCentre(), [volume(plane)], scan).values()
    assert verdict.level is Level.PASS


def test_the_centre_of_an_empty_image_is_not_told() -> None:
    assert found(CheckCentre(), [volume(np.zeros((N, N)))]) == {}


@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_a_wrong_limit_of_the_centre_is_refused(limit: float) -> None:
    with pytest.raises(ConfigError, match="above 0, below 1"):
        CheckCentre(limit=limit)


# Plausible


def plausible(image: Image, scan: Scan = SCAN, **changes: str) -> tuple[Level, str]:
    (verdict,) = found(CheckPlausible(**changes), [image], scan).values()
    return verdict.level, verdict.advice


def test_a_head_of_usual_size_passes() -> None:
    assert plausible(volume(disc(85), n=30))[0] is Level.PASS


@pytest.mark.parametrize(
    ("image", "word"),
    [
        (volume(disc(30)), "mm across is not a head"),
        (volume(disc(200, 5.0), spacing_mm=5.0), "mm across is not a head"),
        (volume(disc(110), n=64, dz_mm=5.0), "L is too much for a head"),
    ],
)
def test_another_body_part_is_told_of(image: Image, word: str) -> None:
    level, advice = plausible(image)
    assert level is Level.FLAG
    assert "Look before you quantify" in advice
    assert word in advice


def test_the_protocol_may_say_what_is_meant_and_silence_is_no_finding() -> None:
    small = volume(disc(30))
    silent = replace(SCAN, study=Study())
    assert plausible(small, silent)[0] is Level.PASS
    assert plausible(small, silent, body_part="brain")[0] is Level.FLAG
    assert plausible(small, SCAN, body_part="WRIST")[0] is Level.PASS


def test_metal_bright_voxels_are_told_of() -> None:
    plane = disc(85)
    plane[46:48, 46:50] = 100.0
    data = np.stack([plane] * 6)
    level, advice = plausible(replace(volume(disc(85), n=6), data=data.astype(np.float32)))
    assert level is Level.FLAG
    assert "as bright as the rest" in advice


def test_hu_that_are_no_flesh_are_told_of() -> None:
    body = disc(100, 3.5)
    assert plausible(volume(body * 1040 - 1000, spacing_mm=3.5, unit="HU"), CT)[0] is Level.PASS
    level, advice = plausible(volume(body * 1600 - 1000, spacing_mm=3.5, unit="HU"), CT)
    assert level is Level.FLAG
    assert "no soft tissue" in advice


@pytest.mark.parametrize(("factor", "level"), [(1.0, Level.PASS), (1e-3, Level.FLAG), (37.0, Level.FLAG)])
def test_an_uptake_that_cannot_be_is_told_of(factor: float, level: Level) -> None:
    even = 3e8 / 75e3
    assert plausible(volume(disc(90) * even * factor, unit="Bq/mL"), PET)[0] is level


def test_without_a_dose_nothing_is_said_of_the_uptake() -> None:
    silent = replace(PET, patient=Patient())
    assert plausible(volume(disc(90) * 1e-3, unit="Bq/mL"), silent)[0] is Level.PASS


# Noise of CT and PET


@pytest.mark.parametrize(("sigma", "level"), [(12.0, Level.PASS), (90.0, Level.FLAG), (400.0, Level.HOLD)])
def test_the_noise_of_ct_is_measured_and_judged(sigma: float, level: Level) -> None:
    plane = disc(110, 3.0) * 1040 - 1000
    data = np.stack([plane] * 8) + sigma * np.random.default_rng(1).standard_normal((8, N, N))
    (verdict,) = found(CheckCtQuality(), [as_image(data, unit="HU")], CT).values()
    assert verdict.level is level
    assert verdict.value == pytest.approx(sigma, rel=0.15)


@pytest.mark.parametrize(("part", "level"), [(0.1, Level.PASS), (0.6, Level.FLAG)])
def test_the_noise_of_pet_is_measured_and_judged(part: float, level: Level) -> None:
    data = np.stack([disc(90) * 5000] * 8)
    data = data * (1 + part * np.random.default_rng(2).standard_normal(data.shape))
    (verdict,) = found(CheckPetQuality(), [as_image(data, unit="Bq/mL")], PET).values()
    assert verdict.level is level
    assert verdict.value == pytest.approx(100 * part, rel=0.3)


def test_empty_images_have_no_noise() -> None:
    assert found(CheckCtQuality(), [volume(np.full((N, N), -1024.0))], CT) == {}
    assert found(CheckPetQuality(), [volume(np.zeros((N, N)))], PET) == {}


@pytest.mark.parametrize("step", [lambda: CheckCtQuality(noise_flag_hu=0.0), lambda: CheckPetQuality(noise_hold=0.01)])
def test_wrong_limits_of_noise_are_refused(step: object) -> None:
    with pytest.raises(ConfigError, match="0 < noise_flag"):
        step()  # type: ignore[operator]
