"""The analytic head: its pieces nest, its Fourier transform is right, and no flip goes unnoticed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acquisition.errors import ConfigError
from acquisition.geometry import Grid
from acquisition.sources.phantom.head import _ANATOMY, CSF, FAT, LESION, WHITE, head, overlap
from acquisition.sources.phantom.objects import AIR, Ellipsoid, Phantom, Tissue

TISSUE = Tissue(2.0, 0.05)
AXIAL = ((1, 0, 0), (0, 1, 0), (0, 0, 1))


@pytest.fixture(scope="module")
def template() -> Phantom:
    return head(0)


def tilted(centre=(12.0, -7.0, 5.0), axes=(30.0, 18.0, 22.0)) -> Ellipsoid:
    rotation, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    return Ellipsoid(np.array(centre), rotation @ np.diag(axes), TISSUE)


def cube_grid(n: int, width_mm: float, centre=(0.0, 0.0, 0.0)) -> Grid:
    return Grid.from_centre(centre, shape=(n, n, n), spacing_mm=(width_mm / n,) * 3, directions=AXIAL)


def points_of(grid: Grid) -> np.ndarray:
    z, y, x = np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij")
    return np.stack([x, y, z], -1) @ grid.affine[:3, :3].T + grid.origin_mm


def test_a_tissue_decays_with_its_own_time() -> None:
    assert TISSUE.signal(0.0) == 2.0
    assert TISSUE.signal(0.05) == pytest.approx(2 / np.e)


def test_the_spectrum_at_zero_is_the_volume() -> None:
    volume = 4 / 3 * np.pi * 30 * 18 * 22
    assert tilted().spectrum(np.zeros(3)) == pytest.approx(volume)
    assert tilted().spectrum(np.full(3, 1e-9)) == pytest.approx(volume, rel=1e-4)


def test_the_spectrum_is_continuous_where_the_series_takes_over() -> None:
    ball = Ellipsoid(np.zeros(3), np.eye(3), TISSUE)
    below, above = ball.spectrum(np.array([[0.999e-3, 0, 0], [1.001e-3, 0, 0]]))
    assert below == pytest.approx(above, rel=1e-5)


@given(st.tuples(*[st.floats(-0.2, 0.2)] * 3))
def test_a_real_object_has_a_hermitian_spectrum(k: tuple[float, float, float]) -> None:
    ellipsoid = tilted()
    assert ellipsoid.spectrum(np.array(k)) == pytest.approx(np.conj(ellipsoid.spectrum(-np.array(k))))


def test_the_spectrum_is_that_of_the_voxels() -> None:
    grid = cube_grid(96, 96.0, centre=(10.0, -5.0, 3.0))
    phantom = Phantom(ellipsoids=(tilted(),))
    voxels = phantom.render(grid, subsamples=(4, 4))
    places = points_of(grid)
    for k in ([0.0, 0.0, 0.0], [0.01, 0.0, 0.0], [0.0, -0.013, 0.0], [0.005, 0.01, -0.02], [0.04, 0.01, 0.02]):
        cell = np.prod(np.sinc(k))
        summed = (voxels * np.exp(-2j * np.pi * places @ k)).sum()
        assert summed == pytest.approx(phantom.spectrum(k) * cell, abs=2e-4 * abs(phantom.spectrum(np.zeros(3))))


def test_rendering_averages_the_point_signal(template: Phantom) -> None:
    coarse = Grid.from_centre((5, 0, 20), shape=(1, 16, 14), spacing_mm=(6.0, 13.5, 15.0), directions=AXIAL)
    fine = Grid.from_centre((5, 0, 20), shape=(6, 128, 140), spacing_mm=(1.0, 13.5 / 8, 1.5), directions=AXIAL)
    sampled = template.signal(points_of(fine)).reshape(1, 6, 16, 8, 14, 10).mean((1, 3, 5))
    rendered = template.render(coarse, subsamples=(6, 8))
    np.testing.assert_allclose(rendered, sampled, atol=0.03)  # 10 samples against a sheet of 1 mm
    assert abs(rendered.mean() - sampled.mean()) < 1e-3


def test_rendering_keeps_all_of_the_object(template: Phantom) -> None:
    grid = cube_grid(60, 270.0)
    total = template.render(grid, subsamples=(3, 3)).sum(dtype=float) * 4.5**3
    assert total == pytest.approx(template.spectrum(np.zeros(3)).real, rel=1e-3)


def test_rendering_uses_the_slice_thickness_not_the_distance() -> None:
    ball = Phantom(ellipsoids=(Ellipsoid(np.zeros(3), np.eye(3) * 10, TISSUE),))
    grid = Grid.from_centre((0, 0, 0), shape=(1, 1, 1), spacing_mm=(100.0, 1, 1), directions=AXIAL, thickness_mm=2.0)
    assert ball.render(grid, subsamples=(8, 1))[0, 0, 0] == pytest.approx(2.0)


def test_an_empty_plane_is_empty(template: Phantom) -> None:
    grid = Grid.from_centre((0, 0, 400), shape=(1, 8, 8), spacing_mm=(5, 30, 30), directions=AXIAL)
    assert not template.render(grid).any()


def test_rendering_needs_a_line_per_voxel(template: Phantom) -> None:
    with pytest.raises(ConfigError, match=r"at least 1 along z and y, got \(0, 1\)"):
        template.render(cube_grid(2, 10.0), subsamples=(0, 1))


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4])
def test_every_piece_lies_in_its_parent_and_touches_no_sibling(seed: int) -> None:
    pieces = head(seed).ellipsoids
    sphere = np.random.default_rng(0).normal(size=(300, 3))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    for index, piece in enumerate(pieces):
        assert piece.parent < index
        if piece.parent >= 0:
            assert pieces[piece.parent].contains(piece.centre + sphere @ piece.matrix.T).all()
    named = pieces[: len(_ANATOMY)]
    for index, piece in enumerate(named):
        assert not any(overlap(piece, other) for other in named[:index] if other.parent == piece.parent)


def test_the_signal_at_a_point_is_that_of_the_innermost_tissue(template: Phantom) -> None:
    pieces = template.ellipsoids
    points = np.array([p.centre for p in pieces])
    for te_s in (0.0, 0.02):
        known = {AIR.signal(te_s), *(p.tissue.signal(te_s) for p in pieces)}
        for value in template.signal(points, te_s):
            assert min(abs(value - k) for k in known) < 1e-9
    names = list(_ANATOMY)
    horn, orbit = pieces[names.index("horn_left")], pieces[names.index("orbit_left")]
    behind_the_eye = orbit.centre + orbit.matrix @ [0.0, 0.95, 0.0]
    assert template.signal(horn.centre) == pytest.approx(CSF.value)
    assert template.signal(behind_the_eye) == pytest.approx(FAT.value)


def test_the_same_seed_is_the_same_head_and_another_is_another() -> None:
    again, first, other = head(7), head(7), head(8)
    for a, b in zip(again.ellipsoids, first.ellipsoids, strict=True):
        np.testing.assert_array_equal(a.matrix, b.matrix)
        np.testing.assert_array_equal(a.centre, b.centre)
    assert not np.allclose(first.ellipsoids[0].matrix, other.ellipsoids[0].matrix)
    assert first.landmarks_mm["lesion"] != other.landmarks_mm["lesion"]


def test_every_head_keeps_left_and_right_front_and_back(template: Phantom) -> None:
    for seed in range(6):
        places = {name: np.array(p) for name, p in head(seed, variation=1.0).landmarks_mm.items()}
        assert places["lesion"][0] > 10 and places["lesion"][1] > 10 and places["lesion"][2] > 30
        assert places["nose"][1] < -80
        assert places["capsule"][0] < -60
        assert places["cerebellum"][2] < -30
    volumes = {name: abs(np.linalg.det(e.matrix)) for name, e in zip(_ANATOMY, template.ellipsoids, strict=False)}
    assert volumes["eye_left"] > 1.5 * volumes["eye_right"]
    assert volumes["horn_right"] > 1.5 * volumes["horn_left"]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_mirrored_head_is_another_head(template: Phantom, axis: int) -> None:
    grid = cube_grid(32, 240.0)
    voxels = template.render(grid, subsamples=(2, 2))
    difference = np.linalg.norm(voxels - np.flip(voxels, axis)) / np.linalg.norm(voxels)
    assert difference > 0.25


def test_the_lesion_is_the_brightest_thing_in_the_head(template: Phantom) -> None:
    lesion = np.array(template.landmarks_mm["lesion"])
    grid = Grid.from_centre(lesion, shape=(30, 30, 30), spacing_mm=(1, 1, 1), directions=AXIAL)
    bright = template.signal(points_of(grid)) > 0.5 * (WHITE.value + LESION.value)
    assert np.linalg.norm(points_of(grid)[bright].mean(0) - lesion) < 1.5


def test_moving_the_head_moves_everything(template: Phantom) -> None:
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    moved = template.transformed(turn, (5.0, 6.0, 7.0))
    points = np.random.default_rng(1).uniform(-80, 80, (200, 3))
    there = points @ turn.T + [5, 6, 7]
    np.testing.assert_allclose(moved.signal(there), template.signal(points), atol=1e-9)
    np.testing.assert_allclose(moved.off_resonance_hz(there), template.off_resonance_hz(points), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(moved.landmarks_mm["nose"], turn @ template.landmarks_mm["nose"] + np.array([5.0, 6, 7]))
