"""PET projector: analytic chords, bins that add up to the whole line, an exact transpose, lines at the edge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from acquisition.errors import DataError, ReconError
from acquisition.geometry import Grid
from acquisition.scan import PetHeader
from recon.pet.project import LineProjector

AXES = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
PET = PetHeader(n_rings=13, n_crystals=120, radius_mm=200.0, ring_pitch_mm=8.0, first_angle_rad=0.01)
TIMED = replace(PET, n_tof=17, tof_bin_mm=25.0, tof_fwhm_mm=60.0)


def grid_of(shape: tuple[int, int, int] = (20, 40, 44), mm: tuple[float, float, float] = (3.0, 4.0, 3.5)) -> Grid:
    return Grid.from_centre((6.0, -4.0, 2.3), shape=shape, spacing_mm=mm, directions=AXES)


def lines(pet: PetHeader, n: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    first = rng.integers(0, pet.n_crystals, n)
    other = (first + pet.n_crystals // 2 + rng.integers(-25, 26, n)) % pet.n_crystals
    rings = rng.integers(0, pet.n_rings, (n, 2))
    return (rings * pet.n_crystals + np.stack([first, other], -1)).astype(np.int32)


def free(*ends: tuple[tuple[float, float, float], tuple[float, float, float]]) -> tuple[PetHeader, np.ndarray]:
    """A scanner with two detectors for each line."""
    place = np.array(ends, np.float32).reshape(-1, 3)
    pet = PetHeader(n_rings=1, n_crystals=len(place), radius_mm=1.0, ring_pitch_mm=1.0, detectors_mm=place)
    return pet, np.arange(len(place), dtype=np.int32).reshape(-1, 2)


def box_chords(ends: np.ndarray, grid: Grid) -> np.ndarray:
    half = np.array(grid.shape[::-1]) * grid.spacing_mm[::-1] / 2
    a, u = ends[:, 0] - grid.centre_mm, ends[:, 1] - ends[:, 0]
    with np.errstate(divide="ignore"):
        t = np.sort(np.stack([(-half - a) / u, (half - a) / u]), axis=0)
    return np.maximum(t[1].min(-1) - t[0].max(-1), 0) * np.linalg.norm(u, axis=-1)


def test_a_full_box_gives_its_chord() -> None:
    """Joseph's method ends a volume over half a voxel: exact on average, and for each line that does not graze."""
    grid, directions = grid_of(), np.random.default_rng(7).normal(size=(2, 4000, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    ends = np.float32(250 * directions).transpose(1, 0, 2)
    pet, pairs = free(*ends)
    chord = LineProjector(pet, grid, pairs)(torch.ones(grid.shape, dtype=torch.float64)).numpy()
    expected = box_chords(ends.astype(float), grid)
    error = chord - expected
    assert (expected > 0).sum() > 400
    assert abs(error.mean()) < 0.01 and np.abs(error).mean() < 0.1
    assert (np.abs(error) > 1).mean() < 0.01


def _places(pet: PetHeader) -> np.ndarray:
    from acquisition.pet_geometry import detectors_mm

    return detectors_mm(pet)


@pytest.mark.parametrize(
    ("end", "length"),
    [
        ((300.0, 0.0, 0.0), 44 * 3.5),
        ((0.0, -300.0, 0.0), 40 * 4.0),
        ((0.0, 0.0, 300.0), 20 * 3.0),
        ((300.0, 60.0, 0.0), 44 * 3.5 * np.hypot(1, 0.2)),
    ],
)
def test_lines_through_two_opposite_faces_are_exact(end: tuple[float, float, float], length: float) -> None:
    grid = grid_of()
    centre = np.array(grid.centre_mm)
    pet, pair = free((tuple(centre - end), tuple(centre + end)))
    for p in (pair, pair[:, ::-1].copy()):
        assert float(LineProjector(pet, grid, p)(torch.ones(grid.shape))[0]) == pytest.approx(length, rel=1e-5)


def test_an_ellipsoid_gives_its_chord() -> None:
    axes = np.array([60.0, 48.0, 24.0])
    grid = Grid.from_centre((0, 0, 0), shape=(40, 70, 88), spacing_mm=(1.5, 1.5, 1.5), directions=AXES)
    pairs = lines(PET, 3000)
    # partial volume: 3 x 3 x 3 points per voxel
    fine = [np.arange(3 * n) for n in grid.shape]
    z, y, x = np.meshgrid(*((f - (len(f) - 1) / 2) * 0.5 for f in fine), indexing="ij", sparse=True)
    inside = (x / axes[0]) ** 2 + (y / axes[1]) ** 2 + (z / axes[2]) ** 2 <= 1
    volume = inside.reshape(40, 3, 70, 3, 88, 3).mean((1, 3, 5))
    got = LineProjector(PET, grid, pairs)(torch.from_numpy(volume)).numpy()
    a, b = (_places(PET)[pairs[:, i]] / axes for i in (0, 1))
    u = b - a
    aa, ab = np.sum(u * u, -1), np.sum(a * u, -1)
    root = np.maximum(ab**2 - aa * (np.sum(a * a, -1) - 1), 0)
    expected = 2 * np.sqrt(root) / aa * np.linalg.norm(u * axes, axis=-1)
    assert expected.max() > 90
    error = got - expected
    thick = expected > 30  # where a line only grazes, what counts is the size of the voxels
    assert thick.sum() > 500 and abs(error.mean()) < 0.05
    assert abs(error[thick].mean()) < 0.003 * expected[thick].mean()
    assert np.sqrt(np.square(error[thick]).mean()) < 0.5


@pytest.mark.parametrize("n_tof", [17, 18])
def test_bins_add_up_to_the_whole_line(n_tof: int) -> None:
    pet, grid, pairs = replace(TIMED, n_tof=n_tof), grid_of(), lines(PET, 200)
    x = torch.rand(grid.shape, generator=torch.Generator().manual_seed(1))
    total = sum(LineProjector(pet, grid, pairs, np.full(len(pairs), b, np.int16))(x).double() for b in range(pet.n_tof))
    whole = LineProjector(pet, grid, pairs)(x).double()
    torch.testing.assert_close(total, whole, rtol=2e-6, atol=1e-4)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_point_is_seen_in_the_bin_where_it_lies(swapped: bool) -> None:
    grid = Grid.from_centre((0, 0, 0), shape=(1, 1, 81), spacing_mm=(5.0, 5.0, 2.5), directions=AXES)
    pet, pair = free(((-200.0, 0.0, 0.0), (200.0, 0.0, 0.0)))
    pet = replace(pet, n_tof=17, tof_bin_mm=25.0, tof_fwhm_mm=60.0)
    point = torch.zeros(grid.shape)
    point[0, 0, 40 + 20] = 1.0  # 50 mm from the middle, towards the second detector
    pair = pair[:, ::-1].copy() if swapped else pair
    seen = [float(LineProjector(pet, grid, pair, np.array([b], np.int16))(point)[0]) for b in range(17)]
    assert int(np.argmax(seen)) == 8 + (-2 if swapped else 2)
    mean = np.dot(seen, (np.arange(17) - 8) * 25.0) / np.sum(seen)
    assert mean == pytest.approx(-50 if swapped else 50, abs=0.01)
    spread = np.dot(seen, ((np.arange(17) - 8) * 25.0 - mean) ** 2) / np.sum(seen)
    sigma = 60 / 2.3548
    assert spread == pytest.approx(sigma**2 * 0.9733 + 25**2 / 12, rel=0.01)  # 0.9733: cut off at 3 sigma


def test_what_lies_outside_gives_nothing_and_takes_nothing() -> None:
    grid = grid_of()
    _, y0, z0 = grid.centre_mm
    pet, pairs = free(
        ((-300.0, y0, z0 + 40), (300.0, y0, z0 + 40)),
        ((-300.0, y0 - 90, z0), (300.0, y0 - 90, z0)),
        ((-300.0, y0, z0), (-200.0, y0, z0)),
        ((5.0, 5.0, 5.0), (5.0, 5.0, 5.0)),
    )
    operator = LineProjector(pet, grid, pairs)
    assert not operator(torch.ones(grid.shape)).any()
    assert not operator.adjoint(torch.ones(4)).any()
    timed = replace(pet, n_tof=3, tof_bin_mm=20.0, tof_fwhm_mm=10.0)
    assert not LineProjector(timed, grid, pairs, np.zeros(4, np.int16))(torch.ones(grid.shape)).any()


def test_grazing_lines_fall_off_over_the_outermost_voxel() -> None:
    grid = grid_of()
    _, y0, z0 = grid.centre_mm
    edge = y0 + 40 * 4.0 / 2
    offsets = [-2.0, 0.0, 1.0, 1.999, 2.001]
    pet, pairs = free(*(((-300.0, edge + o, z0), (300.0, edge + o, z0)) for o in offsets))
    chord = LineProjector(pet, grid, pairs)(torch.ones(grid.shape, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(chord / (44 * 3.5), [1.0, 0.5, 0.25, 0.00025, 0.0], atol=1e-5)


@pytest.mark.parametrize("tof", [False, True])
def test_the_transpose_is_exact_in_single_precision(tof: bool) -> None:
    grid, pairs = grid_of(), lines(PET, 5000)
    rng = np.random.default_rng(3)
    bins = rng.integers(0, 17, len(pairs)).astype(np.int16) if tof else None
    operator = LineProjector(TIMED, grid, pairs, bins)
    x, y = (torch.from_numpy(rng.random(s, np.float32)) for s in (operator.domain, operator.range))
    left = torch.dot(operator(x).double(), y.double())
    right = torch.sum(operator.adjoint(y).double() * x.double())
    assert abs(left - right) < 1e-5 * abs(left)


def test_what_does_not_fit_is_refused() -> None:
    grid, pairs = grid_of(), lines(PET, 5)
    with pytest.raises(DataError, match="expected detectors 0 to 1559, got 0 to 1560"):
        LineProjector(PET, grid, np.array([[0, 1560]], np.int32))
    with pytest.raises(DataError, match=r"expected int32 pairs \(event, 2\), got int64"):
        LineProjector(PET, grid, pairs.astype(np.int64))
    with pytest.raises(DataError, match="expected no time-of-flight bins"):
        LineProjector(PET, grid, pairs, np.zeros(5, np.int16))
    with pytest.raises(ReconError, match="along the gantry's axes"):
        LineProjector(PET, grid.transposed(), pairs)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("pet", [PET, TIMED], ids=["whole lines", "time of flight"])
def test_sharing_out_is_projecting_dividing_and_smearing(pet: PetHeader, threads: int) -> None:
    grid, pairs, rng = grid_of(), lines(pet, 400), np.random.default_rng(3)
    tof = rng.integers(0, pet.n_tof, len(pairs)).astype(np.int16) if pet.n_tof > 1 else None
    x = torch.from_numpy(rng.random(grid.shape))
    x[:, :12] = 0  # some lines see nothing
    projector = LineProjector(pet, grid, pairs, tof)
    seen = projector(x)
    wanted = projector.adjoint(torch.where(seen > 0, 1 / seen, 0.0)).numpy()
    padded = np.zeros([n + 2 for n in (*grid.shape[1:], grid.shape[0])])
    padded[1:-1, 1:-1, 1:-1] = x.numpy().transpose(1, 2, 0)
    sums = np.zeros((threads, *padded.shape))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        projector.share(padded, sums)
        projector.share(padded, sums)
    finally:
        torch.set_num_threads(before)
    found = sums.sum(0)[1:-1, 1:-1, 1:-1].transpose(2, 0, 1)
    assert (seen == 0).any() and (seen > 0).sum() > 100
    np.testing.assert_allclose(found, 2 * wanted, rtol=1e-9, atol=1e-12 * wanted.max())
