"""Values go to 16 bits and come back within half a step; nothing is clipped; a series has one scale."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acquisition.errors import ReconError
from acquisition.items import Image, Kind
from acquisition.verdict import Level
from integration.dicom.common import DicomInstance
from integration.dicom.read import read_image, read_images
from tests.integration.dicom_samples import assert_valid, grid_of, image_of, parsed, writer, written


def image_with(values: object, **changes: object) -> Image:
    """One slice (6, 8) filled with `values`, repeated."""
    return image_of(grid_of().plane(0), data=np.resize(np.asarray(values), (1, 6, 8)), **changes)


def slope(instance: DicomInstance) -> float:
    return parsed(instance).RealWorldValueMappingSequence[0].RealWorldValueSlope


@given(st.integers(0, 2**32 - 1), st.floats(-30, 30), st.sampled_from(["f4", "f8"]))
@settings(deadline=None, max_examples=60)
def test_values_come_back_within_half_a_step(seed: int, exponent: float, dtype: str) -> None:
    data = (np.random.default_rng(seed).random((4, 6, 8)) * 10**exponent).astype(dtype)
    instances = written(image_of(data=data))
    step = slope(instances[0])
    assert data.max() / 4096 <= step <= data.max() / 1600
    np.testing.assert_allclose(read_image([i.data for i in instances]).data, data, rtol=1e-6, atol=0.501 * step)


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "?"])
def test_integers_that_fit_are_stored_as_they_are(dtype: str) -> None:
    top = min(60000, np.iinfo(dtype).max if dtype != "?" else 1)
    data = np.linspace(0, top, 48).astype(dtype)
    instance = written(image_with(data))[0]
    assert slope(instance) == 1
    np.testing.assert_array_equal(parsed(instance).pixel_array.ravel(), data.astype(int))


def test_integers_that_do_not_fit_are_scaled() -> None:
    data = np.linspace(0, 10**6, 48).astype(np.int32)
    np.testing.assert_allclose(read_image(written(image_with(data))[0].data).data.ravel(), data, atol=251)


def test_slices_of_a_series_share_one_scale() -> None:
    series = writer()
    instances = [series.instances(image_with([0.0, level]))[0] for level in (1.0, 0.01, 15.9)]
    assert {slope(i) for i in instances} == {0.0005}
    assert [parsed(i).pixel_array.max() for i in instances] == [2000, 20, 31800]
    assert all(i.verdicts == () for i in instances)


def test_a_far_brighter_image_is_not_clipped_but_flagged(caplog: pytest.LogCaptureFixture) -> None:
    series = writer()
    series.instances(image_with([0.0, 1.0]))
    with caplog.at_level(logging.WARNING):
        instance = series.instances(image_with([0.0, 99.0]))[0]
    assert read_image(instance.data).data.max() == pytest.approx(99, rel=1e-3)
    (verdict,) = instance.verdicts
    assert (verdict.check, verdict.level, verdict.value) == ("dicom.scale", Level.FLAG, 99)
    assert verdict.limit == pytest.approx(32.77, rel=1e-3)
    assert "far brighter than the first of its series, whose grey scale changes here" in verdict.advice
    assert "FLAG: This image is far brighter" in parsed(instance).ImageComments
    assert "scan scan-1 job job-1: This image is far brighter" in caplog.text
    later = series.instances(image_with([0.0, 2.0]))[0]
    assert (slope(later), later.verdicts) == (slope(instance), ())


@pytest.mark.peer("dciodvfy")
def test_negative_magnitudes_keep_their_sign(tmp_path: Path) -> None:
    series = writer()
    series.instances(image_with([0.0, 1.0]))
    instance = series.instances(image_with([-1.0, 1.0]))[0]
    assert read_image(instance.data).data.min() == pytest.approx(-1)
    assert "has negative values, unlike the first of its series" in instance.verdicts[0].advice
    first = written(image_with([-1.0, 1.0]))[0]
    assert first.verdicts == ()
    assert parsed(first).PixelRepresentation == 1
    assert_valid([instance, first], tmp_path)


def test_a_first_slice_in_air_leaves_room_for_the_head() -> None:
    """Values in units of the noise: air has 4, a head hundreds."""
    series = writer()
    instances = [series.instances(image_with([0.0, level], unit="1"))[0] for level in (4.5, 400.0)]
    assert [slope(i) for i in instances] == [0.01, 0.01]
    assert all(i.verdicts == () for i in instances)
    assert slope(written(image_with([0.0, 1.0], unit="1"))[0]) == 0.0005


def test_an_empty_first_image_does_not_fix_the_scale() -> None:
    series = writer()
    instances = [series.instances(image_with([0.0, level]))[0] for level in (0.0, 1e-3, 2e-3)]
    assert [slope(i) for i in instances] == [1, 5e-7, 5e-7]
    assert all(i.verdicts == () for i in instances)


def test_phase_is_pi_over_4096() -> None:
    data = np.linspace(-math.pi, math.pi, 48)
    instance = written(image_with(data, kind=Kind.PHASE, unit="rad"))[0]
    ds = parsed(instance)
    assert slope(instance) == math.pi / 4096
    assert (ds.pixel_array.min(), ds.pixel_array.max(), ds.PixelRepresentation) == (-4096, 4096, 1)
    assert (ds.WindowCenter, ds.WindowWidth) == (0, 8192)
    assert ds.RealWorldValueMappingSequence[0].RealWorldValueFirstValueMapped == -32768
    back = read_image(instance.data)
    assert (back.kind, back.unit) == (Kind.PHASE, "rad")
    np.testing.assert_allclose(back.data.ravel(), data, atol=4e-4)


def test_complex_comes_back_as_magnitude_and_phase() -> None:
    rng = np.random.default_rng(2)
    data = rng.standard_normal((4, 6, 8)) + 1j * rng.standard_normal((4, 6, 8))
    images = read_images([i.data for i in written(image_of(data=data, kind=Kind.COMPLEX))])
    magnitude, phase = sorted(images, key=lambda image: image.kind)
    np.testing.assert_allclose(magnitude.data * np.exp(1j * phase.data), data, atol=3e-3)


def test_real_values_are_signed() -> None:
    data = np.linspace(-2, 3, 48)
    back = read_image(written(image_with(data, kind=Kind.REAL, unit="1"))[0].data)
    assert (back.kind, back.unit) == (Kind.REAL, "1")
    np.testing.assert_allclose(back.data.ravel(), data, atol=1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_image_is_refused(bad: float) -> None:
    with pytest.raises(ReconError, match="expected finite voxels, got 24 of 48 voxels NaN or infinite"):
        written(image_with([bad, 1.0]))


def test_the_window_shows_the_brightest_so_far() -> None:
    series = writer()
    windows = []
    for level in (1.0, 2.0, 0.1):
        ds = parsed(series.instances(image_with(np.linspace(0, level, 48)))[0])
        windows.append((float(ds.WindowCenter), float(ds.WindowWidth)))
    assert windows[0][1] == pytest.approx(2000, rel=0.05)
    assert windows[1] == windows[2]
    assert windows[1][1] == pytest.approx(4000, rel=0.05)
    assert all(width == 2 * center for center, width in windows)


def test_one_bright_voxel_is_not_black() -> None:
    data = np.zeros((1, 300, 300), np.float32)
    data[0, 0, 0] = 5
    grid = replace(grid_of().plane(0), shape=(1, 300, 300))
    assert parsed(written(image_of(grid, data=data))[0]).WindowWidth == 2500


def test_units_have_codes() -> None:
    def code(unit: str) -> tuple[str, str]:
        (mapping,) = parsed(written(image_with([1.0], unit=unit))[0]).RealWorldValueMappingSequence
        (item,) = mapping.MeasurementUnitsCodeSequence
        return item.CodeValue, item.CodingSchemeDesignator

    assert code("a.u.") == ("[arb'U]", "UCUM")
    assert code("ms") == ("ms", "UCUM")
    assert code("furlong") == ("furlong", "99ISOCENTER")


@pytest.mark.parametrize("order", ["C", "F", "flipped", "strided", "big-endian"])
def test_memory_order_does_not_matter(order: str) -> None:
    image = image_of(data=np.random.default_rng(1).random((4, 6, 8)).astype(np.float32))
    views = {
        "C": image.data,
        "F": np.asfortranarray(image.data),
        "flipped": image.data[:, ::-1].copy()[:, ::-1],
        "strided": np.repeat(image.data, 2, axis=2)[..., ::2],
        "big-endian": image.data.astype(">f4"),
    }
    assert written(replace(image, data=views[order]))[0].data == written(image)[0].data


def test_the_input_is_not_changed() -> None:
    image = image_of(data=np.random.default_rng(1).random((4, 6, 8)).astype(np.float32))
    before = image.data.copy()
    image.data.setflags(write=False)
    written(image)
    np.testing.assert_array_equal(image.data, before)
