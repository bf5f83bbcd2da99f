"""Volumes cut, unwarped, made even, registered: each against what was done to a known object."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from acquisition.errors import ConfigError, DataError
from acquisition.geometry import Grid
from acquisition.items import Image, Kind, Position
from acquisition.scan import Encoding, Limits, MrHeader, Patient, Scan
from acquisition.sources.phantom.exam import MriExam
from acquisition.sources.phantom.head import head
from acquisition.sources.phantom.motion import poses
from acquisition.sources.phantom.mri import Simulation
from acquisition.verdict import Level, Verdict
from integration import steps
from recon.mri.bias import Bias, shading
from recon.mri.unwarp import Harmonics, Unwarp, read_harmonics
from recon.reformat import PLANES, Reformat, enclosing, resampled
from recon.register import Subtract, brought, rigid

EXAM = MriExam(matrix=(24, 48, 48), kind="3D", thickness_mm=6.0, gap_mm=0.0, n_coils=1)


def volume(angle_deg: float = 0.0, shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0), **changes: Any) -> Image:
    moved = poses(head(0), [(angle_deg, shift_mm)], [0], centre_mm=EXAM.grid.centre_mm).objects[0]
    truth = Simulation(EXAM.at(**changes), moved).truth(0)
    return Image(data=truth.data.astype(np.float32) * 100, grid=truth.grid, kind=Kind.MAGNITUDE)


def slices(image: Image, repetition: int = 0) -> Iterator[Image]:
    for z in range(image.grid.shape[0]):
        position = Position(slice=z, repetition=repetition)
        yield replace(image, data=image.data[z : z + 1], grid=image.grid.plane(z), position=position)


def scan(n_slices: int = 24, **changes: Any) -> Scan:
    encoding = Encoding(
        matrix=(1, 48, 48),
        fov_mm=(6, 240, 240),
        recon_matrix=(1, 48, 48),
        recon_fov_mm=(6, 240, 240),
        limits={"slice": Limits(0, n_slices - 1, 0), "repetition": Limits(0, 1, 0)},
    )
    return Scan(uid="s", modality="MR", mr=MrHeader(encodings=(encoding,)), **changes)


def through(step: Any, images: Any, header: Scan | None = None) -> list[Any]:
    step.open(header or scan())
    return [out for i in images for out in step.feed(i)] + list(step.close())


# Cuts


@pytest.mark.parametrize("orientation", ["axial", "double-oblique"])
def test_cuts_show_each_place_as_it_is(orientation: str) -> None:
    source = volume(orientation=orientation)
    z, y, x = np.indices(source.grid.shape)
    places = np.stack([x, y, z, np.ones_like(x)], axis=-1) @ source.grid.affine.T
    ramp = (0.3 * places[..., 0] - 0.2 * places[..., 1] + 0.5 * places[..., 2] + 500).astype(np.float32)
    made = [i for i in through(Reformat(), slices(replace(source, data=ramp))) if i.output.startswith("mpr")]
    expected = {"mpr_coronal", "mpr_sagittal"} | ({"mpr_axial"} if orientation != "axial" else set())
    assert {i.output for i in made} == expected
    for cut in made:
        name = cut.output.removeprefix("mpr_")
        assert tuple(np.round(cut.grid.x_dir, 6)) == PLANES[name][0]
        nz, ny, nx = cut.grid.shape
        index = (nz // 2, ny // 2, nx // 2)
        place = np.asarray(cut.grid.world(index))
        assert cut.data[index] == pytest.approx(0.3 * place[0] - 0.2 * place[1] + 0.5 * place[2] + 500, abs=0.02)


def test_a_cut_and_back_is_the_volume() -> None:
    source = volume()
    grid = enclosing(source.grid, PLANES["coronal"], (2.5, 2.5, 2.5))
    cut = resampled(source.data, source.grid, grid, order=3)
    back = resampled(cut, grid, source.grid, order=3)
    inner = np.s_[2:-2, 4:-4, 4:-4]
    assert np.linalg.norm((back - source.data)[inner]) < 0.06 * np.linalg.norm(source.data[inner])


def test_thick_slices_are_told_and_single_slices_left() -> None:
    source = volume(thickness_mm=20.0, matrix=(6, 48, 48))
    made = [i for i in through(Reformat(), slices(source)) if i.output.startswith("mpr")]
    assert all(i.verdicts[-1].level is Level.FLAG for i in made)
    assert len(through(Reformat(), list(slices(source))[:1])) == 1


# Gradient non-linearity

HARMONICS = Harmonics(250.0, {("x", "A", 3, 1): 0.06, ("y", "B", 3, 1): 0.05, ("z", "A", 3, 0): -0.08})


def table(path: Path, harmonics: Harmonics = HARMONICS) -> Path:
    lines = ["coefficients of a made-up coil", f" {harmonics.radius_mm / 1e3:.3f} m = R0, radius"]
    for (axis, kind, n, m), value in harmonics.terms.items():
        lines.append(f" {len(lines)} {kind}( {n}, {m})  {value:.8f}      {axis}")
    path.write_text("\n".join(lines))
    return path


def test_coefficients_are_read_back(tmp_path: Path) -> None:
    found = read_harmonics(table(tmp_path / "coil.grad"))
    assert found.radius_mm == 250
    assert found.terms == HARMONICS.terms


def test_the_cubic_term_is_what_it_should_be() -> None:
    places = np.array([[0.0, 0.0, 120.0], [60.0, 0.0, 0.0]])
    found = Harmonics(250.0, {("z", "A", 3, 0): 1.0}).displacement_mm(places)
    assert found[0, 2] == pytest.approx(250 * (120 / 250) ** 3)  # P_3(1) = 1
    assert found[1, 2] == pytest.approx(0)  # P_3(0) = 0
    sideways = Harmonics(250.0, {("x", "A", 3, 1): 1.0}).displacement_mm(places)
    norm = np.sqrt(7 * 2 / (2 * 24))
    assert sideways[1, 0] == pytest.approx(250 * (60 / 250) ** 3 * norm * -1.5)  # P_3^1(0) = -3/2 without its sign


def test_a_warped_object_is_unwarped(tmp_path: Path) -> None:
    true = volume(matrix=(48, 96, 96), thickness_mm=3.0, position_mm=(10.0, 20.0, 15.0))
    grid = true.grid
    z, y, x = np.indices(grid.shape)
    places = np.stack([x, y, z, np.ones_like(x)], axis=-1) @ grid.affine[:3].T
    signs = np.array([1, -1, -1])
    # what the scanner shows at p + d(p) is what lies at p: find p for each shown place
    source = places.copy()
    for _ in range(30):
        source = places - signs * HARMONICS.displacement_mm(signs * source)
    index = (source - grid.origin_mm) @ np.stack([grid.z_dir, grid.y_dir, grid.x_dir]).T / np.asarray(grid.spacing_mm)
    warped = map_coordinates(true.data, np.moveaxis(index, -1, 0), order=3).astype(np.float32)
    volume_change = np.abs(np.linalg.det(np.stack([np.stack(np.gradient(index[..., a]), -1) for a in range(3)], -2)))
    header = scan(patient=Patient(position="HFS"))
    shown = replace(true, data=warped * volume_change.astype(np.float32))
    made = {i.output: i for i in through(Unwarp(coefficients=str(table(tmp_path / "c.grad"))), [shown], header)}
    inner = np.s_[4:-4, 8:-8, 8:-8]
    before, after = (np.linalg.norm((d - true.data)[inner]) for d in (shown.data, made["unwarped"].data))
    assert after < 0.25 * before
    assert made["displacement"].unit == "mm"
    assert made["displacement"].data.max() > 2
    assert made["unwarped"].verdicts[-1].level is Level.PASS


def test_a_bent_slice_and_an_unknown_position_are_told(tmp_path: Path) -> None:
    path = str(table(tmp_path / "c.grad", Harmonics(250.0, {("z", "A", 2, 0): 0.3})))
    one = list(slices(volume()))[:1]
    made = through(Unwarp(coefficients=path), one, scan(patient=Patient(position="HFS")))
    assert made[1].verdicts[-1].level is Level.FLAG
    assert "out of its plane" in made[1].verdicts[-1].advice
    made = through(Unwarp(coefficients=path, flag_above_mm=100.0), one, scan())
    assert "not given" in made[1].verdicts[-1].evidence


def test_files_that_are_no_coefficients(tmp_path: Path) -> None:
    (tmp_path / "x.grad").write_text("nothing")
    with pytest.raises(ConfigError, match="0 coefficients, no radius"):
        read_harmonics(tmp_path / "x.grad")
    with pytest.raises(ConfigError, match="readable file"):
        read_harmonics(tmp_path / "missing.grad")


# Shading


def test_shading_is_taken_off() -> None:
    true = volume()
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in true.grid.shape], indexing="ij")
    shade = np.exp(0.5 * x - 0.3 * y + 0.2 * z * z).astype(np.float32)
    made = through(Bias(), slices(replace(true, data=true.data * shade)))
    normal = np.concatenate([i.data for i in made if isinstance(i, Image) and i.output == "normalised"])
    inside = true.data > 20
    before, after = (np.std(np.log(d[inside] / true.data[inside])) for d in (true.data * shade, normal))
    assert after < 0.65 * before
    assert [i.position.slice for i in made if isinstance(i, Image)][24:] == list(range(24))


def test_nothing_to_even_is_told() -> None:
    empty = replace(volume(), data=np.zeros(EXAM.grid.shape, np.float32))
    made = through(Bias(), slices(empty))
    assert isinstance(made[-1], Verdict)
    assert shading(empty.data, empty.grid) is None


# Registration


def test_a_known_motion_is_found() -> None:
    fixed, moving = volume(), volume(7.0, (5.0, -4.0, 0.0))
    motion = rigid(fixed, moving)
    assert motion.angle_deg == pytest.approx(7.0, abs=0.6)
    assert motion.travel_mm(fixed.grid) == pytest.approx(np.hypot(5, 4), abs=0.8)
    back = brought(moving, fixed.grid, motion)
    inner = np.s_[2:-2, 4:-4, 4:-4]
    before, after = (np.linalg.norm((d - fixed.data)[inner]) for d in (moving.data, back))
    assert after < 0.4 * before


def test_uptake_is_what_remains_of_two_volumes() -> None:
    first, later = volume(), volume(4.0, (3.0, 0.0, 0.0))
    z, y, x = np.indices(later.grid.shape)
    lesion = (z - 12) ** 2 * 4 + (y - 20) ** 2 + (x - 28) ** 2 < 16
    later = replace(later, data=later.data + 60 * lesion.astype(np.float32))
    made = through(Subtract(), [*slices(first), *slices(later, repetition=1)])
    (uptake,) = [i for i in made if isinstance(i, Image) and i.output == "subtraction"]
    assert uptake.kind is Kind.REAL
    assert uptake.data[lesion].mean() > 50
    away = (later.data > 20) & ~lesion
    assert np.abs(np.median(uptake.data[away])) < 3
    assert uptake.verdicts[-1].level is Level.PASS


def test_what_cannot_be_registered_is_told() -> None:
    empty = replace(volume(), data=np.zeros(EXAM.grid.shape, np.float32))
    with pytest.raises(DataError, match="registration moving"):
        rigid(volume(), empty)
    made = through(Subtract(), slices(volume(), repetition=1))
    assert made[-1].level is Level.FLAG
    assert "first repetition" in made[-1].evidence


def test_a_step_whose_package_is_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: str) -> None:
        raise ModuleNotFoundError("no", name="SimpleITK")

    monkeypatch.setattr(steps.importlib, "import_module", fails)
    with pytest.raises(ConfigError, match=r"isocenter\[registration\]"):
        steps.step_class("image.bias")


@pytest.mark.parametrize(
    ("make", "bad"),
    [
        (Reformat, {"planes": ("oblique",)}),
        (Reformat, {"flag_ratio": 0.5}),
        (Bias, {"largest": 1.0}),
        (Subtract, {"flag_above_mm": 0.0}),
    ],
)
def test_wrong_parameters(make: Any, bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        make(**bad)


def test_plane_of_a_grid_is_kept() -> None:
    grid: Grid = volume().grid
    assert enclosing(grid, PLANES["axial"], grid.spacing_mm).shape == grid.shape
