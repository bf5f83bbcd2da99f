"""Interfile: images and sinograms of STIR where they lie in the patient, and headers that are wrong."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from acquisition.errors import DataError, FileFormatError, HeaderError
from acquisition.items import Histogram
from acquisition.pet_sinogram import crystal_pairs
from acquisition.sources import open_raw
from acquisition.sources.interfile import read_image
from acquisition.sources.interfile_header import read_header
from acquisition.sources.interfile_sinogram import layout_of, read_sinogram

IMAGE = """!INTERFILE  :=
imaging modality := PT
name of data file := image.v
patient orientation := head_in
patient rotation := supine
imagedata byte order := LITTLEENDIAN
!PET data type := Image
!number format := float
!number of bytes per pixel := 4
number of dimensions := 3
matrix axis label [1] := x
!matrix size [1] := 5
scaling factor (mm/pixel) [1] := 2
matrix axis label [2] := y
!matrix size [2] := 4
scaling factor (mm/pixel) [2] := 3
matrix axis label [3] := z
!matrix size [3] := 3
scaling factor (mm/pixel) [3] := 7.5
number of time frames := 1
!END OF INTERFILE :=
"""
SINOGRAM = """!INTERFILE  :=
name of data file := sino.s
imagedata byte order := LITTLEENDIAN
!PET data type := Emission
!number format := float
!number of bytes per pixel := 4
number of dimensions := 4
matrix axis label [4] := segment
!matrix size [4] := 3
matrix axis label [3] := view
!matrix size [3] := 6
matrix axis label [2] := axial coordinate
!matrix size [2] := { 3, 4, 3}
matrix axis label [1] := tangential coordinate
!matrix size [1] := 5
minimum ring difference per segment := { -1, 0, 1}
maximum ring difference per segment := { -1, 0, 1}
Scanner parameters:=
Number of rings := 4
Number of detectors per ring := 12
Inner ring diameter (cm) := 40
Average depth of interaction (cm) := 0.5
Distance between rings (cm) := 0.5
View offset (degrees) := 10
end scanner parameters:=
"""


def image_file(folder: Path, header: str = IMAGE, dtype: str = "<f4") -> Path:
    np.arange(60).astype(dtype).tofile(folder / "image.v")
    path = folder / "image.hv"
    path.write_text(header)
    return path


def sinogram_file(folder: Path, header: str = SINOGRAM) -> Path:
    np.arange(300, dtype="<f4").tofile(folder / "sino.s")
    path = folder / "sino.hs"
    path.write_text(header)
    return path


@pytest.mark.parametrize(
    ("orientation", "rotation", "signs"),
    [
        ("head_in", "supine", (1, 1, -1)),
        ("head_in", "prone", (-1, -1, -1)),
        ("feet_in", "supine", (-1, 1, 1)),
        ("feet_in", "prone", (1, -1, 1)),
    ],
)
def test_a_voxel_lies_where_stir_puts_it(
    tmp_path: Path, orientation: str, rotation: str, signs: tuple[int, int, int]
) -> None:
    header = IMAGE.replace("head_in", orientation).replace("supine", rotation)
    image = read_image(image_file(tmp_path, header))
    assert image.data.shape == (3, 4, 5) and image.data[2, 3, 4] == 59 and image.data[0, 0, 1] == 1
    # STIR: x = (i - 2) 2 mm to the right, y = (j - 2) 3 mm down, z = (k - 1) 7.5 mm out of the tunnel
    np.testing.assert_allclose(image.grid.world((0, 0, 0)), np.multiply(signs, (-4, -6, -7.5)))
    np.testing.assert_allclose(image.grid.world((2, 3, 4)), np.multiply(signs, (4, 3, 7.5)))
    np.testing.assert_allclose(image.grid.world((1, 2, 2)), 0, atol=1e-12)
    assert not image.verdicts


def test_a_patient_of_unknown_position_is_flagged(tmp_path: Path) -> None:
    header = "\n".join(line for line in IMAGE.splitlines() if not line.startswith("patient"))
    image = read_image(image_file(tmp_path, header))
    assert image.grid.z_dir == (0.0, 0.0, -1.0)
    assert [v.check for v in image.verdicts] == ["pet.orientation"]
    with pytest.raises(HeaderError, match="patient orientation: expected head_in or feet_in"):
        read_image(image_file(tmp_path, IMAGE.replace("head_in", "upside_down")))


def test_the_spelling_of_siemens_is_read(tmp_path: Path) -> None:
    header = IMAGE.replace("scaling factor", "scale factor").replace("imagedata byte", "image data byte")
    for position, orientation, rotation in (("HFS", "head_in", "supine"), ("FFP", "feet_in", "prone")):
        theirs = header.replace("patient orientation := head_in", f"%patient orientation:={position}")
        theirs = theirs.replace("patient rotation := supine\n", "")
        ours = IMAGE.replace("head_in", orientation).replace("supine", rotation)
        one, other = read_image(image_file(tmp_path, theirs)), read_image(image_file(tmp_path, ours))
        assert one.grid == other.grid and not one.verdicts
        np.testing.assert_array_equal(one.data, other.data)


def test_offsets_and_numbers_are_used(tmp_path: Path) -> None:
    header = IMAGE.replace("number of time", "first pixel offset (mm) [1] := 10\nfirst pixel offset (mm) [3] := 20\n"
                           "image scaling factor[1] := 0.5\nnumber of time")  # fmt: skip
    header = header.replace("format := float", "format := signed integer").replace("per pixel := 4", "per pixel := 2")
    image = read_image(image_file(tmp_path, header.replace("LITTLE", "BIG"), ">i2"))
    assert image.data.dtype == np.float32 and image.data[2, 3, 4] == 29.5
    np.testing.assert_allclose(image.grid.world((0, 0, 0)), (10, -6, -20))
    many = IMAGE.replace("matrix size [3] := 3", "matrix size [3] := 1").replace("frames := 1", "frames := 3")
    assert read_image(image_file(tmp_path, many)).data.shape == (3, 1, 4, 5)


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ("!INTERFILE", "INTERVAL", FileFormatError, "expected !INTERFILE in the first line"),
        ("[1] := 5", "[1] := 6", FileFormatError, r"expected 288 bytes for 1 x 3 x 4 x 6 of float32, got 240 bytes"),
        ("[1] := 5", "[1] := 0", HeaderError, "matrix size: expected positive sizes"),
        ("[1] := 5", "[1] := 5.5", HeaderError, r"matrix size \[1\]: expected a whole number, got 5.5"),
        ("[1] := 2\n", "[1] := nan\n", HeaderError, r"mm/pixel\) \[1\]: expected a finite number"),
        ("label [1] := x", "label [1] := z", HeaderError, r"matrix axis label \[1\]: expected x, got z"),
        ("format := float", "format := bit", HeaderError, "number format: expected float or"),
        ("per pixel := 4", "per pixel := 3", HeaderError, "got float of 3 bytes"),
        ("image.v", "other.v", FileFormatError, r"expected other\.v beside the header, got no such file"),
        ("type := Image", "type := Emission", FileFormatError, r"expected an image .*got Emission"),
        ("number of dimensions := 3", "number of dimensions := 2", HeaderError, "number of dimensions: expected 3"),
    ],
)
def test_a_wrong_image_is_named(tmp_path: Path, old: str, new: str, error: type[Exception], message: str) -> None:
    assert old in IMAGE
    with pytest.raises(error, match=message):
        read_image(image_file(tmp_path, IMAGE.replace(old, new)))


def test_keys_are_read_as_people_write_them(tmp_path: Path) -> None:
    path = tmp_path / "h.hv"
    path.write_bytes(
        b"\xef\xbb\xbf!INTERFILE :=\r\n!Matrix  Size[ 2 ]:= { 1,2,\\\n 3} ; sizes\r\n%A Key := 4\r\n; x := 1\r\n"
    )
    header = read_header(path)
    assert header.numbers("matrix size", index=2) == (1, 2, 3)
    assert header.number("a key") == 4 and not header.has("x")
    assert header.has("a key")
    with pytest.raises(HeaderError, match="b key: expected a value, got none"):
        header.numbers("b key")


def test_raw_data_are_counts(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"expected the header of PET list-mode .*, got an image"):
        open_raw(image_file(tmp_path))
    with pytest.raises(FileFormatError, match="got emission corrected data"):
        open_raw(sinogram_file(tmp_path, SINOGRAM.replace(":= Emission", ":= Emission corrected data")))
    raw = open_raw(sinogram_file(tmp_path))
    (block,) = raw.items()
    assert isinstance(block, Histogram) and raw.scan.pet.n_rings == 4 and raw.scan.patient.position is None
    assert block.counts.sum() == pytest.approx(np.arange(300).sum()) and block.tof is None
    place: dict[tuple[int, int], float] = defaultdict(float)
    for (a, b), count in zip(block.prompts.tolist(), block.counts.tolist(), strict=True):
        place[a, b] += count
    assert len(place) == 299 and block.counts.max() < 10 and len(block) == sum(min(c, 32) for c in range(300))
    # segment +1 of the file: first minus second ring, axial positions towards the head; view 0, middle bin
    stored = np.arange(300).reshape(-1, 5)[-18:].reshape(6, 3, 5)
    assert place[12, 6] == pytest.approx(stored[0, 2, 2]) and place[36, 30] == pytest.approx(stored[0, 0, 2])


def test_summed_rings_and_views_share_their_counts(tmp_path: Path) -> None:
    header = SINOGRAM.replace(
        "{ -1, 0, 1}\nmaximum ring difference per segment := { -1, 0, 1}",
        "{ -1}\nmaximum ring difference per segment := { 1}",
    )
    header = (
        header.replace("size [4] := 3", "size [4] := 1")
        .replace("{ 3, 4, 3}", "{ 7}")
        .replace("size [3] := 6", "size [3] := 3")
    )
    path = sinogram_file(
        tmp_path, header + "image duration (sec) [1] := 30\nimage relative start time (sec) [1] := 5\n"
    )
    data = np.zeros((3, 7, 5), "<f4")
    data[1, 5, 3] = 8.0  # stored out of the tunnel: axial position 1 of ours, rings 0 and 1 either way round
    data.tofile(tmp_path / "sino.s")
    (block,) = open_raw(path).items()
    assert (block.start_s, block.stop_s) == (5.0, 35.0)
    np.testing.assert_array_equal(block.counts, 1.0)
    lines = sorted(map(tuple, block.prompts[::2].tolist()))
    np.testing.assert_array_equal(block.prompts[::2], block.prompts[1::2])
    crystals = crystal_pairs(12, 6, 5)[2:4, 3]
    assert lines == sorted((r * 12 + int(a), (1 - r) * 12 + int(b)) for r in (0, 1) for a, b in crystals)


def test_what_is_no_count_is_refused(tmp_path: Path) -> None:
    path = sinogram_file(tmp_path)
    values = np.arange(300, dtype="<f4")
    values[7] = -1
    values.tofile(tmp_path / "sino.s")
    with pytest.raises(DataError, match="sinogram segment 0, axial position 1: expected counts of 0 or more"):
        list(open_raw(path).items())
    late = sinogram_file(tmp_path, SINOGRAM + "image duration (sec) [1] := 0\n")
    with pytest.raises(HeaderError, match="expected more than 0, got 0"):
        list(open_raw(late).items())


def test_a_sinogram_is_read_per_segment_towards_the_head(tmp_path: Path) -> None:
    found = read_sinogram(sinogram_file(tmp_path))
    layout = found.layout
    assert [s.shape for s in found.segments] == [(1, 3, 6, 5), (1, 4, 6, 5), (1, 3, 6, 5)]
    stored = np.arange(300).reshape(-1, 5)[18 : 18 + 24].reshape(6, 4, 5)  # segment 0: (view, axial, bin)
    np.testing.assert_array_equal(found.segments[1][0], stored.swapaxes(0, 1)[::-1])
    assert layout.rings(1, 0).tolist() == [[0, 0]] and layout.rings(1, 3).tolist() == [[3, 3]]
    assert layout.rings(2, 0).tolist() == [[1, 0]] and layout.rings(0, 2).tolist() == [[2, 3]]
    assert layout.pet.radius_mm == pytest.approx(205.0)
    assert layout.pet.first_angle_rad == pytest.approx(np.deg2rad(10 - 90))
    assert layout.crystals()[0, 2].tolist() == [0, 6]


def test_axial_before_view_is_the_same_sinogram(tmp_path: Path) -> None:
    swapped = SINOGRAM.replace("[3] := view", "[3] := axial coordinate").replace(
        "[2] := axial coordinate", "[2] := view"
    )
    swapped = swapped.replace("size [3] := 6", "size [3] := { 3, 4, 3}").replace(
        "size [2] := { 3, 4, 3}", "size [2] := 6"
    )
    found = read_sinogram(sinogram_file(tmp_path, swapped))
    stored = np.arange(300).reshape(-1, 5)[18 : 18 + 24].reshape(4, 6, 5)
    np.testing.assert_array_equal(found.segments[1][0], stored[::-1])


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        (
            "label [4] := segment",
            "label [4] := time",
            FileFormatError,
            "got tangential coordinate, axial .*, view, time",
        ),
        ("size [4] := 3", "size [4] := 2", HeaderError, "one axial size and two ring differences per segment"),
        ("{ -1, 0, 1}\nmax", "{ -1, x, 1}\nmax", HeaderError, "expected whole numbers"),
        ("size [3] := 6", "size [3] := 5", HeaderError, "views that divide half of 12 detectors"),
        ("size [1] := 5", "size [1] := 4", FileFormatError, "expected 960 bytes"),
        ("of rings := 4", "of rings := 0", HeaderError, "PET geometry"),
    ],
)
def test_a_wrong_sinogram_is_named(tmp_path: Path, old: str, new: str, error: type[Exception], message: str) -> None:
    assert old in SINOGRAM
    with pytest.raises(error, match=message):
        read_sinogram(sinogram_file(tmp_path, SINOGRAM.replace(old, new)))


@pytest.mark.data
def test_files_of_stir(data_dir: Path) -> None:
    folder = data_dir / "pet" / "stir"
    image = read_image(folder / "test_image_3.hv")
    assert image.data.shape == (31, 97, 97) and image.data.sum() == pytest.approx(3415.9648, rel=1e-5)
    np.testing.assert_allclose(image.grid.world((15, 48, 48)), 0, atol=1e-9)
    scatter = read_sinogram(folder / "scatter_cylinder.hs")
    part = scatter.segments[0][0]
    assert part.shape == (8, 32, 35) and part.sum() == pytest.approx(6996.62, rel=1e-5)
    t, view = np.arange(35) - 17, np.arange(32) * np.pi / 32
    centre = (part.sum(0) * t).sum(1) / part.sum((0, 2))
    wave = np.stack([np.cos(view), np.sin(view)], axis=1)
    place, *_ = np.linalg.lstsq(wave, centre, rcond=None)
    np.testing.assert_allclose(wave @ place, centre, atol=0.05)  # one source, seen from all sides
    assert np.hypot(*place) > 0.5
    signa = layout_of(read_header(folder / "PET_TOF_Interfile_header_Signa_PETMR.hs"))
    rings = [signa.rings(s, a) for s in range(45) for a in range(signa.n_axial[s])]
    assert len({tuple(p) for r in rings for p in r.tolist()}) == 45**2 == sum(map(len, rings))  # each pair once
    assert signa.pet.n_tof == 27 and signa.pet.tof_bin_mm == pytest.approx(13 * 6.84615 * 0.149896229, rel=1e-6)
    with pytest.raises(FileFormatError, match=r"Siemens_mMR_seg2\.s beside the header"):
        read_sinogram(folder / "Siemens_mMR_seg2.hs")
