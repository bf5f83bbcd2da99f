"""The receive arrays: fields of loops, unit norm, known noise."""

from __future__ import annotations

import numpy as np
import pytest

from acquisition.errors import ConfigError
from acquisition.sources.phantom.coils import _WIRE_MM, ReceiveArray, cage

COUNTS = [1, 2, 7, 16, 32, 64]


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    return np.random.default_rng(0).uniform(-90, 90, (500, 3))


def test_the_field_on_the_axis_of_a_loop_is_the_textbook_one() -> None:
    """B(z) is proportional to (R^2 + z^2)^(-3/2), the wire's thickness added in quadrature."""
    loop = ReceiveArray(np.zeros((1, 3)), np.array([[1.0, 0, 0]]), 50.0)
    z = np.array([0.0, 20.0, 60.0, 120.0])
    field = loop._transverse(0, np.stack([z, 0 * z, 0 * z], axis=1))
    expected = (50.0**2 + _WIRE_MM**2 + z**2) ** -1.5
    np.testing.assert_allclose(field.imag, 0, atol=1e-12)
    np.testing.assert_allclose(field.real / field.real[0], expected / expected[0], rtol=1e-9)


@pytest.mark.parametrize("n_coils", COUNTS)
def test_maps_have_unit_norm_everywhere(points: np.ndarray, n_coils: int) -> None:
    maps = cage(n_coils).sensitivities(points)
    assert maps.shape == (n_coils, 500)
    assert maps.dtype == np.complex64
    np.testing.assert_allclose((np.abs(maps) ** 2).sum(0), 1, rtol=1e-5)


def test_maps_keep_the_shape_of_the_points(points: np.ndarray) -> None:
    maps = cage(4).sensitivities(points.reshape(5, 100, 3))
    np.testing.assert_array_equal(maps.reshape(4, 500), cage(4).sensitivities(points))


def test_each_coil_sees_best_what_is_near(points: np.ndarray) -> None:
    array = cage(16)
    towards = 0.6 * array.centres_mm
    seen = np.abs(array.sensitivities(towards))
    assert (seen.argmax(0) == np.arange(16)).mean() > 0.9


def test_maps_are_smooth() -> None:
    line = np.stack([np.linspace(-80, 80, 161), np.zeros(161), np.full(161, 10.0)], axis=1)
    steps = np.abs(np.diff(cage(16).sensitivities(line), axis=1))
    assert steps.max() < 0.03


def test_maps_differ_between_coils_in_phase_too(points: np.ndarray) -> None:
    maps = cage(16).sensitivities(points)
    gram = np.abs(maps @ maps.conj().T) / len(points)
    correlation = gram / np.sqrt(np.outer(np.diag(gram), np.diag(gram)))
    assert np.linalg.cond(gram) < 1e4
    assert (correlation - np.eye(16)).max() < 0.95


@pytest.mark.parametrize("n_coils", COUNTS)
def test_the_noise_covariance_is_one(n_coils: int) -> None:
    covariance = cage(n_coils).noise_covariance(5)
    np.testing.assert_allclose(covariance, covariance.conj().T, atol=1e-14)
    assert np.linalg.eigvalsh(covariance).min() > 0.1
    assert np.trace(covariance).real / n_coils == pytest.approx(1)
    np.testing.assert_array_equal(covariance, cage(n_coils).noise_covariance(5))


def test_neighbours_share_noise_and_seeds_differ() -> None:
    covariance = cage(16).noise_covariance(0)
    off = np.abs(covariance - np.diag(np.diag(covariance)))
    assert 0.1 < off.max() < 0.8
    assert not np.allclose(covariance, cage(16).noise_covariance(1))


def test_an_array_without_coils_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one coil, got 0"):
        cage(0)
