"""`isocenter quality`: what is planted in a DICOM series is what is read off the screen."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import erfc

from acquisition.errors import DataError
from acquisition.geometry import Grid
from acquisition.items import Image
from integration.cli import FAILED, OK, WRONG, run
from integration.plot import curve, png, ticks
from integration.quality import Places, measured, slices_of
from recon.ct.quality import Slice
from recon.ct.uniform import Disc, round_object, squares_in
from tests.integration.dicom_ct_samples import ct_image, ct_writer
from tests.integration.dicom_samples import image_of
from tests.integration.dicom_samples import written as written_mr

PIXEL, N, COUNT = 0.75, 224, 9
WATER, RADIUS, CENTRE = 3.0, 60.0, (6.0, -4.0)
NOISE, BLUR_MM, CUP = 12.0, 0.8, 5.0
INSERT, CONTRAST = (26.0, 12.0), 60.0
AXES = {"HFS": ((1, 0, 0), (0, 1, 0), (0, 0, 1)), "FFP": ((-1, 0, 0), (0, -1, 0), (0, 0, 1))}


def noise(shape: tuple[int, ...]) -> np.ndarray:
    """Noise of a ramp that falls off again: standard deviation `NOISE`, peak at 0.25 / sqrt(2) per mm."""
    fy, fx = np.fft.fftfreq(shape[1], PIXEL)[:, None], np.fft.fftfreq(shape[2], PIXEL)[None]
    f = np.hypot(fy, fx)
    shaped = np.fft.ifft2(
        np.fft.fft2(np.random.default_rng(3).normal(size=shape)) * np.sqrt(f * np.exp(-((f / 0.25) ** 2)))
    )
    return NOISE * shaped.real / shaped.real.std()


def phantom(position: str = "HFS", *, insert: bool = False) -> Image:
    """A water cylinder in air, brighter at its rim, blurred; on request a rod in the last two slices."""
    grid = Grid.from_centre((0, 0, 20), shape=(COUNT, N, N), spacing_mm=(2.0, PIXEL, PIXEL), directions=AXES[position])
    index = np.stack(np.meshgrid(np.arange(N), np.arange(N), indexing="xy"), -1)
    x, y = (index @ grid.affine[:2, :2].T + grid.affine[:2, 3]).transpose(2, 0, 1)
    r = np.hypot(x - CENTRE[0], y - CENTRE[1])
    inside = 0.5 * erfc((r - RADIUS) / np.sqrt(2) / BLUR_MM)
    hu = np.repeat((-1000 + (1000 + WATER + CUP * (r / RADIUS) ** 2) * inside)[None], COUNT, axis=0)
    if insert:
        hu[-2:] += CONTRAST * (np.hypot(x - INSERT[0], y - INSERT[1]) < 8)
    return ct_image(grid, data=(hu + noise(hu.shape)).astype(np.float32))


def written(folder: Path, image: Image) -> str:
    folder.mkdir(parents=True)
    for k, instance in enumerate(ct_writer().instances(image)):
        (folder / f"{k}.dcm").write_bytes(instance.data)
    return str(folder)


@pytest.fixture(scope="module")
def water(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(tmp_path_factory.mktemp("quality") / "water", phantom())


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    assert run(["quality", *arguments, "--json"]) == OK
    return json.loads(capsys.readouterr().out)


# What comes out


@pytest.mark.parametrize("position", AXES)
def test_planted_numbers_come_out(position: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = asked(capsys, written(tmp_path / "s", phantom(position)), "--slices", "1:9")
    assert found["slices"] == found["of"] == COUNT and found["pixel_mm"] == PIXEL
    assert found["uniform"]["centre_mm"] == pytest.approx(CENTRE, abs=0.1)
    assert found["uniform"]["radius_mm"] == pytest.approx(RADIUS - 10, abs=0.2)
    assert found["hu"] == pytest.approx(WATER, abs=0.5)
    assert found["uniformity_hu"] == pytest.approx(CUP * (44 / 60) ** 2, abs=1)
    assert found["noise_hu"] == pytest.approx(NOISE, rel=0.03)
    nps, mtf = found["nps"], found["mtf"]
    plane = np.array(nps["plane_hu2_mm2"])
    assert plane.sum() / plane.size / PIXEL**2 == pytest.approx(NOISE**2, rel=0.05)
    assert nps["peak_lp_per_cm"] == pytest.approx(2.5 / np.sqrt(2), abs=0.5)
    f, power = np.array(nps["lp_per_cm"]) / 10, np.array(nps["hu2_mm2"])
    expected = f * np.exp(-((f / 0.25) ** 2))
    np.testing.assert_allclose(power / power.max(), expected / expected.max(), atol=0.13)
    assert mtf["from"] == "edge of the object"
    assert mtf["f50_lp_per_cm"] == pytest.approx(10 * np.sqrt(np.log(2) / 2) / np.pi / BLUR_MM, rel=0.03)
    assert mtf["f10_lp_per_cm"] == pytest.approx(10 * np.sqrt(np.log(10) / 2) / np.pi / BLUR_MM, rel=0.06)
    assert found["cnr"] is None and found["mtf_missing"] is None


def test_a_rod_stands_out_where_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    series = written(tmp_path / "s", phantom("FFP", insert=True))
    places = ["--uniform=6,-20,25", "--cnr=26,12:-14,12", "--roi", "6"]
    there = asked(capsys, series, "--slices", "8:9", *places)
    assert there["cnr"] == pytest.approx(CONTRAST / NOISE, rel=0.15)
    assert there["uniform"]["centre_mm"] == [6, -20] and there["mtf_missing"] == "neither edge nor wire given"
    before = asked(capsys, series, "--slices", "1:6", *places)
    assert abs(before["cnr"]) < 0.5
    rod = asked(capsys, series, "--slices", "8:9", "--edge=26,12,8")
    assert rod["mtf"]["from"] == "edge of a disc"
    assert rod["mtf"]["f50_lp_per_cm"] is None and min(rod["mtf"]["values"]) > 0.4  # drawn pixel by pixel: no blur


def test_a_wire_gives_the_blur(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = phantom()
    at = (np.arange(N) - (N - 1) / 2) * PIXEL
    r2 = (at[None] - 10) ** 2 + (at[:, None] + 15) ** 2
    wire = replace(image, data=image.data + np.float32(2500) * np.exp(-r2 / 2 / 0.9**2).astype(np.float32))
    found = asked(capsys, written(tmp_path / "s", wire), "--uniform=6,20,25", "--wire=10,-15")
    assert found["mtf"]["from"] == "wire"
    assert found["mtf"]["f50_lp_per_cm"] == pytest.approx(10 * np.sqrt(np.log(2) / 2) / np.pi / 0.9, rel=0.03)


def test_people_get_a_table_and_a_picture(water: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "quality.svg"
    assert run(["quality", water, "--plot", str(picture), "--cnr=26,12:-14,12"]) == OK
    table = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.replace("power", "").splitlines())
    assert {"HU", "noise", "MTF", "CNR", "uniformity", "slices"} <= set(table)
    assert float(table["HU"]) == pytest.approx(WATER, abs=0.6)
    assert table["slices"].startswith("3 of 9")
    root = ET.fromstring(picture.read_text())  # well formed
    lines = root.findall(".//{*}polyline")
    titles = [t.text for t in root.findall(".//{*}text[@class='title']")]
    assert titles == ["MTF, edge of the object", "Noise power spectrum", "Noise power in the plane"]
    points = np.array([[float(v) for v in p.split(",")] for p in lines[0].attrib["points"].split()])
    assert np.all(np.diff(points[:, 0]) > 0)
    assert points[0, 1] == points[:20, 1].min() < points[-1, 1] - 100  # begins at the top, falls
    assert len(root.findall(".//{*}image")) == 1


# What is refused


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["absent"], WRONG, "expected a folder or file with DICOM CT or PET images, got absent: not there"),
        (["EMPTY"], FAILED, "expected the images of one CT series in HU, or of one PET series, got 0 files"),
        (["TEXT"], FAILED, "expected a DICOM file"),
        (["MR"], FAILED, "none of them CT"),
        (["TWO"], FAILED, "name a folder with one series"),
        (["WATER", "--slices", "5:12"], WRONG, "expected first:last from 1 to 9, got 5:12"),
        (["WATER", "--slices", "a:b"], WRONG, "'a:b' is not FIRST:LAST"),
        (["WATER", "--uniform", "1,2"], WRONG, "is not 3 numbers with commas"),
        (["WATER", "--uniform", "1,2,nan"], WRONG, "is not 3 numbers with commas"),
        (["WATER", "--uniform", "0,0,-4"], WRONG, "no number above 0"),
        (["WATER", "--uniform", "0,0,4"], FAILED, "expected a disc that holds squares of 12 mm"),
        (["WATER", "--uniform", "70,0,40"], FAILED, "region: expected"),
        (["WATER", "--edge", "0,0,20"], FAILED, "MTF of a disc"),
        (["WATER", "--wire", "0,0"], FAILED, "expected a wire"),
        (["WATER", "--wire", "0,0", "--edge", "0,0,20"], WRONG, "not allowed with"),
        (["WATER", "--cnr", "0,0"], WRONG, "numbers with commas"),
        (["WATER", "--plot", "OUT.png"], WRONG, "expected a name that ends in .svg"),
        (["BODY"], FAILED, "expected nothing but water inside the object"),
        (["OVAL"], FAILED, "expected a round one"),
        (["CORONAL"], FAILED, "expected axial slices of square pixels"),
    ],
)
def test_what_cannot_be_measured_is_said(
    water: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    what = arguments[0]
    folder = tmp_path / "s"
    if what == "TEXT":
        folder.mkdir()
        (folder / "readme.txt").write_text("no image")
    elif what == "EMPTY":
        folder.mkdir()
    elif what == "MR":
        folder.mkdir()
        (folder / "1.dcm").write_bytes(written_mr(image_of())[0].data)
    elif what == "TWO":
        written(folder / "one", phantom())
        other = ct_writer(job="job-2").instances(phantom())
        (folder / "other.dcm").write_bytes(other[0].data)
    elif what in ("BODY", "OVAL", "CORONAL"):
        written(folder, _odd(what))
    given = {"WATER": water, "absent": "absent"}.get(what, str(folder))
    assert run(["quality", given, *arguments[1:]]) == code
    told = capsys.readouterr().err
    assert message in told and "Traceback" not in told


def _odd(what: str) -> Image:
    image = phantom()
    at = (np.arange(N) - (N - 1) / 2) * PIXEL
    if what == "BODY":
        bone = (np.abs(at[None] - 6) < 18) & (np.abs(at[:, None] - 10) < 18)
        return replace(image, data=image.data + np.float32(700) * bone)
    if what == "OVAL":
        oval = (at[None] / 70) ** 2 + (at[:, None] / 40) ** 2 < 1
        return replace(image, data=np.where(oval, 0, -1000).astype(np.float32)[None].repeat(COUNT, axis=0))
    directions = ((1, 0, 0), (0, 0, -1), (0, 1, 0))
    return replace(
        image,
        grid=Grid.from_centre((0, 0, 0), shape=(COUNT, N, N), spacing_mm=(2.0, PIXEL, PIXEL), directions=directions),
    )


# The parts


def test_a_couch_is_no_part_of_a_round_object() -> None:
    at = np.arange(-80, 80, 0.8)
    hu = np.where(np.hypot(at[None] - 5, at[:, None] + 8) < 50, 0.0, -1000.0)
    hu[(at > 42.5) & (at < 45)] = 200.0  # a plate below, touching
    found = round_object(Slice(hu=hu, xs_mm=at, ys_mm=at))
    assert found.centre_mm == pytest.approx((5, -8), abs=0.4) and found.radius_mm == pytest.approx(50, abs=0.5)
    with pytest.raises(DataError, match="nothing above -500 HU"):
        round_object(Slice(hu=np.full((50, 50), -1000.0), xs_mm=at[:50], ys_mm=at[:50]))


def test_squares_stay_inside_their_disc() -> None:
    disc = Disc(centre_mm=(10.0, -5.0), radius_mm=40.0)
    found = np.array(squares_in(disc, 15.0)) - disc.centre_mm
    assert len(found) > 20 and [0, 0] in found.tolist()
    assert np.hypot(*(np.abs(found) + 7.5).T).max() <= 40
    with pytest.raises(DataError, match="squares of 15 mm, got 10 mm"):
        squares_in(replace(disc, radius_mm=10.0), 15.0)


def test_noise_is_that_of_slices_not_of_their_mean() -> None:
    slices = slices_of(phantom(), (1, COUNT))
    many, one = measured(slices, Places()), measured(slices[:1], Places())
    assert many.noise_hu == pytest.approx(one.noise_hu, rel=0.1)
    assert many.n_squares == COUNT * one.n_squares


@pytest.mark.parametrize("largest", [1.0, 0.093, 7.2, 4521.0, 1e-6, 0.0])
def test_ticks_are_round_and_reach_the_end(largest: float) -> None:
    found = ticks(largest)
    assert found[0] == 0 and found[-1] >= largest and 2 <= len(found) <= 7
    assert len(set(np.round(np.diff(found) / found[1], 6))) == 1
    if largest:
        assert found[-2] < largest


def test_a_png_is_one_and_a_curve_is_escaped() -> None:
    made = png(np.arange(6, dtype=np.uint8).reshape(2, 3))
    assert made[:8] == b"\x89PNG\r\n\x1a\n" and made[16:24] == b"\0\0\0\x03\0\0\0\x02"
    start = made.index(b"IDAT") + 4
    assert zlib.decompress(made[start : made.index(b"IEND") - 8]) == b"\0\0\1\2\0\3\4\5"
    assert "&lt;a&gt; &amp; b" in curve("<a> & b", ("x", "y"), (np.array([0, 1.0]), np.array([0, 1.0])))
