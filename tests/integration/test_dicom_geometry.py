"""Every voxel keeps its place in the patient and its value, through DICOM's bytes and back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acquisition.errors import DataError
from acquisition.geometry import Grid
from acquisition.items import Image
from acquisition.sources.phantom.exam import ORIENTATIONS
from acquisition.verdict import Level
from integration.dicom.common import DicomInstance
from integration.dicom.read import read_image
from tests.integration.dicom_samples import bare_scan, full_scan, grid_of, image_of, parsed, validate, writer, written
from tests.phantoms import small_simulation

# (x grows towards, y grows towards) as seen on a screen, LPS.
LOOKS = {
    "axial": ((1, 0, 0), (0, 1, 0)),
    "coronal": ((1, 0, 0), (0, 0, -1)),
    "sagittal": ((0, 1, 0), (0, 0, -1)),
    "double-oblique": ((1, 0, 0), (0, 1, 0)),
}


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    axes, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    if draw(st.booleans()):  # the planes that scanners prescribe, any axis along any side
        axes = np.eye(3)[rng.permutation(3)] * rng.choice([-1.0, 1.0], (3, 1))
    shape = tuple(int(n) for n in rng.integers(1, 7, 3))
    spacing = tuple(float(s) for s in rng.uniform(0.3, 8, 3))
    return Grid.from_centre(
        rng.uniform(-200, 200, 3), shape=shape, spacing_mm=spacing, directions=list(axes), thickness_mm=spacing[0] * 0.8
    )


def places(image: Image) -> dict[int, tuple[float, ...]]:
    """Value -> position [mm]; values are unique."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in image.data.shape), indexing="ij"), -1).reshape(-1, 3)
    world = np.array([image.grid.world(i) for i in index])
    values = (int(v) for v in image.data.ravel())
    return dict(zip(values, (tuple(p) for p in world), strict=True))


def dicom_places(instances: list[DicomInstance]) -> dict[int, tuple[float, ...]]:
    """The same by the standard's own equation (PS3.3 C.7.6.2.1.1) from what pydicom reads."""
    found = {}
    for instance in instances:
        ds = parsed(instance)
        along_row, along_column = np.array(ds.ImageOrientationPatient, float).reshape(2, 3)
        between_rows, between_columns = ds.PixelSpacing
        for (row, column), value in np.ndenumerate(ds.pixel_array):
            place = along_row * between_columns * column + along_column * between_rows * row
            found[int(value)] = tuple(np.array(ds.ImagePositionPatient, float) + place)
    return found


def assert_same(before: dict[int, tuple[float, ...]], after: dict[int, tuple[float, ...]]) -> None:
    assert before.keys() == after.keys()
    np.testing.assert_allclose([after[v] for v in before], list(before.values()), rtol=0, atol=1e-6)


@given(grids())
@settings(deadline=None, max_examples=60)
def test_voxels_keep_place_and_value(grid: Grid) -> None:
    image = image_of(grid)
    instances = written(image, bare_scan())
    assert_same(places(image), dicom_places(instances))
    assert_same(places(image), places(read_image([i.data for i in instances[::-1]])))


@given(grids())
@settings(deadline=None, max_examples=30)
def test_a_grid_comes_back_as_it_is_shown(grid: Grid) -> None:
    back = read_image([i.data for i in written(image_of(grid), bare_scan())]).grid
    assert back.thickness_mm == pytest.approx(grid.thickness_mm, abs=1e-9)
    assert back.spacing_mm[0] == pytest.approx(grid.spacing_mm[0], abs=1e-6)
    np.testing.assert_allclose(back.centre_mm, grid.centre_mm, atol=1e-6)
    if grid.shape[0] > 1:
        np.testing.assert_allclose(back.z_dir, grid.z_dir, atol=1e-7)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_a_screen_shows_it_the_usual_way(orientation: str, turn: int) -> None:
    """Whatever way round it was measured: left on the right, feet or posterior down."""
    grid = grid_of(orientation)
    for _ in range(turn):
        grid = grid.transposed().flipped(2)
    rows, columns = np.array(parsed(written(image_of(grid))[0]).ImageOrientationPatient, float).reshape(2, 3)
    assert rows @ LOOKS[orientation][0] > 0.8
    assert columns @ LOOKS[orientation][1] > 0.8


def test_slice_by_slice_is_the_same_as_the_volume() -> None:
    """Streamed 2D slices and the whole stack make the same pictures at the same places with the same numbers."""
    image = image_of(grid_of("double-oblique"))
    stream = writer()
    for z, whole in enumerate(written(image)):
        part = replace(
            image, data=image.data[z : z + 1], grid=image.grid.plane(z), position=replace(image.position, slice=z)
        )
        one, other = parsed(stream.instances(part)[0]), parsed(whole)
        for name in ("ImageOrientationPatient", "InstanceNumber", "PixelData", "SpacingBetweenSlices"):
            assert one[name].value == other[name].value, name
        np.testing.assert_allclose(one.ImagePositionPatient, other.ImagePositionPatient, atol=1e-9)


def test_slice_location_grows_with_the_normal() -> None:
    found = [parsed(i) for i in written(image_of(grid_of("double-oblique")))]
    locations = [float(d.SliceLocation) for d in found]
    np.testing.assert_allclose(np.abs(np.diff(locations)), 6.0, atol=1e-9)
    assert [float(d.SpacingBetweenSlices) for d in found] == [6.0] * 4
    assert [float(d.SliceThickness) for d in found] == [5.0] * 4


def test_phase_encoding_follows_the_turn() -> None:
    straight, turned = grid_of("axial", (1, 6, 8)), grid_of("axial", (1, 8, 6)).transposed()
    ds = parsed(written(image_of(straight))[0])
    assert (ds.InPlanePhaseEncodingDirection, ds.AcquisitionMatrix) == ("COL", [0, 8, 6, 0])
    ds = parsed(written(image_of(turned))[0])
    assert (ds.InPlanePhaseEncodingDirection, ds.AcquisitionMatrix) == ("ROW", [8, 0, 0, 6])
    assert (ds.Rows, ds.Columns) == (8, 6)


def test_radial_scans_have_no_phase_encoding_direction() -> None:
    scan = full_scan()
    assert scan.mr is not None
    radial = replace(scan.mr.encodings[0], trajectory="radial")
    ds = parsed(written(image_of(), replace(scan, mr=replace(scan.mr, encodings=(radial,))))[0])
    assert "InPlanePhaseEncodingDirection" not in ds
    assert "AcquisitionMatrix" not in ds


def test_skewed_directions_become_a_right_angle_around_the_same_centre_with_a_flag() -> None:
    grid = Grid.from_centre(
        (5, 6, 7), shape=(2, 6, 8), spacing_mm=(5, 30, 30), directions=[(1, 0.004, 0), (0.004, 1, 0), (0, 0, 1)]
    )
    instance = written(image_of(grid))[0]
    rows, columns = np.array(parsed(instance).ImageOrientationPatient, float).reshape(2, 3)
    assert abs(rows @ columns) < 1e-9
    np.testing.assert_allclose(rows, (1, 0, 0), atol=1e-9)
    np.testing.assert_allclose(read_image(instance.data).grid.centre_mm, grid.plane(0).centre_mm, atol=1e-6)
    flags = [v for v in instance.verdicts if v.check == "dicom.plane"]
    assert flags[0].level is Level.FLAG
    assert flags[0].value == pytest.approx(0.458, abs=1e-3)
    assert "right angle" in parsed(instance).ImageComments


def test_rounding_of_single_precision_directions_is_no_flag() -> None:
    o = ORIENTATIONS["double-oblique"]
    directions = [np.array(d, np.float32) for d in (o.read, o.phase, o.slice)]
    grid = Grid.from_centre((5, 6, 7), shape=(1, 6, 8), spacing_mm=(5, 30, 30), directions=directions)
    assert written(image_of(grid))[0].verdicts == ()


@pytest.mark.parametrize(
    ("shape", "changes", "message"),
    [
        ((4, 6, 9), {}, r"expected the grid's shape \(4, 6, 8\), got an array \(4, 6, 9\)"),
        ((2, 4, 6, 8), {}, r"expected one real or complex frame \(z, y, x\), got magnitude uint16 \(2, 4, 6, 8\)"),
        ((4, 6, 8), {"spacing_mm": (6.0, 0.0, 30.0)}, "expected positive voxel sizes"),
        ((4, 6, 8), {"thickness_mm": -1.0}, "expected positive voxel sizes"),
        ((4, 6, 8), {"origin_mm": (0.0, float("nan"), 0.0)}, "expected finite positions"),
    ],
)
def test_geometry_that_cannot_be_said_is_refused(shape: tuple[int, ...], changes: dict, message: str) -> None:
    image = image_of(data=np.ones(shape, np.uint16), grid=replace(grid_of(), **changes))
    with pytest.raises(DataError, match=message):
        written(image)


@pytest.mark.peer("dciodvfy")
@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("kind", ["2D", "3D"])
def test_a_virtual_exam_is_where_it_was_prescribed(orientation: str, kind: str, tmp_path: Path) -> None:
    simulation = small_simulation(orientation=orientation, kind=kind, matrix=(3, 32, 24))
    series = writer(simulation.scan)
    frames = [simulation.truth(s) for s in range(simulation.exam.n_slices)]
    instances = [i for frame in frames for i in series.instances(frame)]
    assert [i.index for i in instances] == [1, 2, 3]
    assert validate(instances[1].data, tmp_path) == []
    back, grid = read_image([i.data for i in instances]), simulation.exam.grid
    np.testing.assert_allclose(back.grid.centre_mm, grid.centre_mm, atol=1e-4)
    truth = np.concatenate([np.abs(f.data).reshape(-1, 32, 24) for f in frames])
    inverse = np.linalg.inv(back.grid.affine)
    for index in np.random.default_rng(0).integers(0, (3, 32, 24), (50, 3)):
        x, y, z = np.rint((inverse @ [*grid.world(index), 1.0])[:3]).astype(int)
        assert back.data[z, y, x] == pytest.approx(float(truth[tuple(index)]), abs=float(truth.max()) / 1600)
