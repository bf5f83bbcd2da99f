"""Normalisation of the mMR: each line of the list-mode gets the factors that the file's own indices give it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from acquisition.errors import DataError, FileFormatError, HeaderError
from acquisition.pet_geometry import is_crystal
from acquisition.pet_norm import Normalisation, SinogramFactors, uniform
from acquisition.sources import open_raw
from acquisition.sources.interfile_header import read_header
from acquisition.sources.interfile_sinogram import layout_of
from acquisition.sources.mmr import read_mmr
from acquisition.sources.mmr_norm import MmrNorm, normalisation, planes, read_norm
from acquisition.sources.phantom.pet_exam import gantry
from tests.acquisition.test_mmr import event, tag, written

PARTS = (
    ("geometric effects", (344, 127)),
    ("crystal interference", (9, 344)),
    ("crystal efficiencies", (504, 64)),
    ("axial effects", (837,)),
    ("paralyzing ring DT parameters", (64,)),
    ("non-paralyzing ring DT parameters", (64,)),
    ("TX crystal DT parameter", (9,)),
    ("additional axial effects", (837,)),
)


def header_text() -> str:
    """As the scanner writes it, what is not read left out."""
    lines = ["!INTERFILE:=", "%SMS-MI header name space:=normalization header", "!name of data file:=day.n"]
    lines += ["!PET data type:=normalization", "%number of normalization components:=8"]
    at = 0
    for i, (name, shape) in enumerate(PARTS, 1):
        lines += [f"%normalization component [{i}]:={name}", f"data offset in bytes [{i}]:={at}"]
        lines += [f"number of dimensions [{i}]:={len(shape)}", f"%matrix size [{i}]:={{{','.join(map(str, shape))}}}"]
        at += 4 * int(np.prod(shape))
    return "\n".join([*lines, "%scanner quantification factor (Bq*s/ECAT counts):=1.98459e+007", ""])


def norm_file(folder: Path, header: str = "", *, seed: int = 5) -> tuple[Path, dict[str, np.ndarray]]:
    """Write a file of chance numbers; return its header's path and the numbers by name, slowest axis first."""
    rng = np.random.default_rng(seed)
    data = {name: rng.uniform(0.5, 1.5, shape[::-1]).astype("<f4") for name, shape in PARTS}
    (folder / "day.n").write_bytes(b"".join(a.tobytes() for a in data.values()))
    path = folder / "day.n.hdr"
    path.write_text(header or header_text())
    return path, data


def test_components_are_found_where_the_header_says(tmp_path: Path) -> None:
    path, data = norm_file(tmp_path)
    offsets = [read_header(path).count("data offset in bytes", index=i) for i in range(1, 9)]
    assert offsets == [0, 174752, 187136, 316160, 319508, 319764, 320020, 320056]  # as in files of the scanner
    found = read_norm(path)
    for name, values in zip(data, (found.geometric, found.interference, found.crystals, found.axial), strict=False):
        np.testing.assert_array_equal(values, data[name])
    np.testing.assert_array_equal(found.non_paralysing_s, data["non-paralyzing ring DT parameters"])
    assert found.quantification_bq_s == pytest.approx(1.98459e7)
    np.testing.assert_array_equal(read_norm(tmp_path / "day.n").crystals, found.crystals)


def test_each_event_has_the_factors_of_its_own_indices(tmp_path: Path) -> None:
    """The formula in the file's numbers, word by word, against what the decoded detectors get."""
    path, data = norm_file(tmp_path)
    rng, rows = np.random.default_rng(1), []
    for plane, first, second in ((0, 0, 0), (63, 63, 63), (64, 1, 0), (127, 0, 1), (190, 2, 0), (4083, 3, 63)):
        rows += [(plane, first, second, int(rng.integers(252)), int(rng.integers(344))) for _ in range(20)]
    words = [tag(0), *(event(plane, view, bin_) for plane, _, _, view, bin_ in rows)]
    (block,) = read_mmr(read_header(written(tmp_path, words))).items()
    pet = open_raw(tmp_path / "scan.l.hdr").scan.require_pet()
    expected = []
    for _, first, second, view, bin_ in rows:
        t = bin_ - 172
        a, b = (view + (t >> 1)) % 504, (view - ((t + 1) >> 1) + 252) % 504
        crystal = np.roll(data["crystal efficiencies"], 1, axis=1)
        crystal[:, ::9] = 0
        axial = data["axial effects"][planes()[first, second]]
        geometric = data["geometric effects"][first + second, bin_] * data["crystal interference"][bin_, view % 9]
        expected.append(crystal[first, a] * crystal[second, b] * geometric / axial)
    norm = normalisation(read_norm(path), pet)
    pairs = block.prompts  # type: ignore[union-attr]
    np.testing.assert_allclose(norm.efficiency(pairs), expected, rtol=1e-5)
    np.testing.assert_allclose(norm.efficiency(pairs[:, ::-1].copy()), expected, rtol=1e-5)
    assert 60 < np.count_nonzero(expected) < 120  # some meet a gap


def test_planes_are_those_of_eleven_ring_differences() -> None:
    table = planes()
    assert table[0, 0] == 0 and table[63, 63] == 126 and table[3, 2] == table[5, 0] == table[2, 3]
    assert table[6, 0] == 127 and table[0, 6] == 127 + 115 and table[63, 3] == 799 and table[3, 63] == 836 - 10
    assert table[62, 0] == -1 and set(np.unique(table)) == {-1, *range(837)}


def test_a_bin_of_a_compressed_sinogram_is_the_sum_of_its_lines(tmp_path: Path) -> None:
    path, _ = norm_file(tmp_path)
    header = (SINOGRAM, tmp_path / "s.hs")
    header[1].write_text(header[0])
    layout = layout_of(read_header(header[1]))
    pet = replace(layout.pet, fov_mm=None)
    norm = normalisation(read_norm(path), pet)
    found = layout.efficiency(norm, 0, 63)  # rings that add up to 63 and differ by 1, two views together
    assert found.shape == (126, 344)
    lines = layout.crystals()[40, 100] + np.array([[0, 0], [1, 1]])
    rings = [(31, 32), (32, 31)]
    pairs = np.array([[r * 504 + a, s * 504 + b] for a, b in lines for r, s in rings], np.int32)
    assert found[40, 100] == pytest.approx(norm.efficiency(pairs).sum(), rel=1e-5)


SINOGRAM = """!INTERFILE  :=
name of data file := s.s
!PET data type := Emission
number of dimensions := 4
matrix axis label [4] := segment
!matrix size [4] := 1
matrix axis label [3] := view
!matrix size [3] := 126
matrix axis label [2] := axial coordinate
!matrix size [2] := { 127}
matrix axis label [1] := tangential coordinate
!matrix size [1] := 344
minimum ring difference per segment := { -1}
maximum ring difference per segment := { 1}
Scanner type := Siemens mMR
Number of rings := 64
Number of detectors per ring := 504
Inner ring diameter (cm) := 65.6
Average depth of interaction (cm) := 0.7
Distance between rings (cm) := 0.40625
Number of crystals per block in axial direction := 8
Number of crystals per block in transaxial direction := 9
"""


def test_gaps_and_lines_beyond_the_bins_do_not_count(tmp_path: Path) -> None:
    path, _ = norm_file(tmp_path)
    pet = open_raw(written(tmp_path, [tag(0)])).scan.require_pet()
    norm = normalisation(read_norm(path), pet)
    assert not norm.crystals[~is_crystal(pet)].any() and norm.crystals[is_crystal(pet)].min() > 0
    steps = np.arange(1, 504)
    pairs = np.stack([np.full(503, 10), (10 + steps) % 504], axis=-1).astype(np.int32) + np.int32(504 * 20)
    seen = norm.efficiency(pairs) > 0
    real = is_crystal(pet)[pairs].all(axis=1)
    np.testing.assert_array_equal(seen, real & (np.abs(steps - 252) <= 172))
    assert (uniform(pet).efficiency(pairs)[real & (np.abs(steps - 252) > 172)] == 0).all()
    assert norm.key() != normalisation(read_norm(norm_file(tmp_path, seed=6)[0]), pet).key()


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ("type:=normalization", "type:=Emission", FileFormatError, r"expected a normalisation .* got Emission"),
        ("{504,64}", "{504,55}", HeaderError, r"matrix size \[3\]: expected crystal efficiencies of \(64, 504\)"),
        ("[4]:=axial effects", "[4]:=axial affects", HeaderError, "normalization component: expected axial effects"),
        ("[8]:=320056", "[8]:=320060", FileFormatError, r"day\.n: additional axial effects: expected bytes 320060"),
        ("day.n", "other.n", FileFormatError, r"expected other\.n beside the header"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, old: str, new: str, error: type[Exception], message: str) -> None:
    text = header_text()
    assert old in text
    with pytest.raises(error, match=message):
        read_norm(norm_file(tmp_path, text.replace(old, new))[0])


def test_values_and_scanners_that_cannot_be_are_refused(tmp_path: Path) -> None:
    path, data = norm_file(tmp_path)
    broken = data["axial effects"].copy()
    broken[3] = 0
    (tmp_path / "day.n").write_bytes(b"".join((data | {"axial effects": broken})[name].tobytes() for name in data))
    with pytest.raises(DataError, match=r"day\.n\.hdr: axial effects: expected finite numbers above 0, got 0\.0"):
        read_norm(path)
    good: MmrNorm = read_norm(norm_file(tmp_path)[0])
    with pytest.raises(DataError, match=r"expected a scan of 64 rings of 504 crystals .* got 16 rings of 240"):
        normalisation(good, gantry())
    ones = np.ones((7, 5), np.float32)
    with pytest.raises(DataError, match="factors of the sinogram: expected numbers of 0 or more for 7 sums"):
        SinogramFactors(n_crystals=8, geometric=ones, interference=ones[:4], axial=ones[:4, :4])


def test_counts_of_an_even_source_are_even_once_divided_by_the_efficiency(tmp_path: Path) -> None:
    """Poisson counts of one sinogram whose lines all see the same activity: the planted factors go, the noise stays."""
    norm = normalisation(read_norm(norm_file(tmp_path)[0]), open_raw(written(tmp_path, [tag(0)])).scan.require_pet())
    header = tmp_path / "s.hs"
    header.write_text(SINOGRAM.replace("{ -1}", "{ 0}").replace("{ 1}", "{ 0}").replace("127}", "64}"))
    layout = layout_of(read_header(header))
    efficiency = layout.efficiency(norm, 0, 30)
    counts = np.random.default_rng(2).poisson(400 * efficiency)
    seen = efficiency > 0.5
    corrected = counts[seen] / efficiency[seen]
    assert corrected.mean() == pytest.approx(400, rel=0.002)
    assert corrected.std() / 400 < 1.1 * np.sqrt((1 / efficiency[seen]).mean() / 400)
    assert counts[seen].std() / counts[seen].mean() > 5 * corrected.std() / 400
    wrong: Normalisation = replace(norm, crystals=np.roll(norm.crystals, 1))
    shifted = layout.efficiency(wrong, 0, 30)
    both = seen & (shifted > 0.5)
    assert (counts[both] / shifted[both]).std() > 5 * corrected.std()  # one crystal off, and the pattern comes back
