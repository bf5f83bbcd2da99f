from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from acquisition.errors import ConfigError, DataError
from models.train.labels import SPLIT, field_of, head_of, load_heads, tissues_of
from models.train.tissue import FIELDS_T, NAMES, NUMBER, SOURCES, tissues
from tests.models.train.simulated import label_map, small_head


def test_no_head_is_in_two_parts() -> None:
    names = [name for part in SPLIT.values() for name in part]
    assert sorted(names) == [f"{n:02d}" for n in range(1, 17)]
    assert [len(SPLIT[p]) for p in ("training", "calibration", "test")] == [12, 2, 2]


def test_labels_become_tissues() -> None:
    head = small_head()
    share = np.bincount(head.tissue.ravel(), minlength=len(NAMES)) / head.tissue.size
    for name in ("white", "cortex", "csf", "ventricle", "skin", "fat", "muscle", "cortical_bone", "dura", "vein"):
        assert share[NUMBER[name]] > 1e-5, name
    z, y, x = (round(c) for c in head.centre)
    assert head.tissue[z, y, x] == NUMBER["white"]


def test_dura_lies_between_bone_and_csf() -> None:
    tissue = small_head().tissue
    z, y, x = np.argwhere(tissue == NUMBER["dura"]).T
    shifts = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]
    around = np.stack([tissue[z + a, y + b, x + c] for a, b, c in shifts])
    assert np.isin(around, [NUMBER["cortical_bone"], NUMBER["marrow"]]).any(axis=0).all()


def test_specks_in_the_air_and_lone_voxels_go() -> None:
    labels = label_map()
    labels[2, 2, 2] = 507
    soft = np.argwhere(labels == 507)
    labels[tuple(soft[np.random.default_rng(0).choice(len(soft), 300, replace=False)].T)] = 516
    tissue = tissues_of(labels, seed=1)
    assert tissue.shape == tissues_of(label_map(), seed=1).shape
    assert (labels == 516).sum() >= 300
    assert (tissue == NUMBER["marrow"]).sum() == 0


def test_fat_lies_below_the_skin() -> None:
    head = small_head()
    row = head.tissue[round(head.centre[0]), round(head.centre[1])]
    inner = row[np.flatnonzero(row == NUMBER["skin"])[0] :]
    first = inner[inner != NUMBER["skin"]][0]
    assert first == NUMBER["fat"]


def test_the_field_of_a_ball_is_a_dipole() -> None:
    """Outside of a ball: ``(chi / 3) (a / r)^3 (3 cos^2 - 1)``; twice as much along the field as across, other sign."""
    n, radius = 128, 20
    z, y, x = np.indices((n, n, n)) - (n - 1) / 2
    tissue = np.where(z**2 + y**2 + x**2 < radius**2, NUMBER["csf"], 0).astype(np.uint8)
    field = field_of(tissue)
    m = n // 8
    along, across = field[m + 9, m, m], field[m, m + 9, m]
    far = field[0, 0, 0]
    along, across = along - far, across - far
    assert along < 0 < across  # water is more diamagnetic than air
    assert along / across == pytest.approx(-2, rel=0.25)
    assert along == pytest.approx(-9.4 / 3 * (radius / 38) ** 3 * 2, rel=0.3)


def test_a_strange_label_is_refused() -> None:
    labels = label_map()
    labels[40, 40, 40] = 999
    with pytest.raises(DataError, match="999"):
        tissues_of(labels, seed=1)


def test_a_map_without_brain_is_refused() -> None:
    with pytest.raises(DataError, match="a brain"):
        head_of("empty", np.full((8, 8, 8), NUMBER["muscle"], np.uint8))


def test_an_unknown_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="training, calibration, test"):
        load_heads("validation", data=tmp_path, cache=tmp_path)


@pytest.mark.data
def test_a_real_head(data_dir: Path) -> None:
    from models.train.upright import read_upright

    labels, spacing = read_upright(data_dir / "images" / "head_labels" / "training_seg_15.nii.gz")
    assert spacing == (1.0, 1.0, 1.0)
    tissue = tissues_of(labels[60:230:2, ::2, ::2], seed=15)
    present = {NAMES[n] for n in np.unique(tissue)}
    assert {"white", "cortex", "csf", "fat", "muscle", "vitreous", "skin", "marrow"} <= present
    eyes = np.argwhere(tissue == NUMBER["vitreous"]).mean(0)
    brain = np.argwhere(tissue == NUMBER["white"]).mean(0)
    assert eyes[1] < brain[1] - 15  # anterior: smaller y
    assert eyes[0] < brain[0]


def test_the_table_is_physical() -> None:
    for field in FIELDS_T:
        table = tissues(field)
        assert (table.t2_s <= table.t1_s).all()
        assert (table.t2star_s <= table.t2_s).all()
        assert table.t1_s[NUMBER["white"]] < table.t1_s[NUMBER["cortex"]] < table.t1_s[NUMBER["csf"]]
    assert (tissues(3.0).t1_s[1:] >= tissues(1.5).t1_s[1:]).all()
    assert all("DOI" in text for key, text in SOURCES.items() if key != "estimate")


def test_subjects_differ_and_are_repeated() -> None:
    one, again, other = (tissues(3.0, np.random.default_rng(s)) for s in (1, 1, 2))
    assert (one.t1_s == again.t1_s).all()
    assert (one.t1_s != other.t1_s).all()
    many = np.stack([tissues(3.0, np.random.default_rng(s)).t1_s for s in range(300)])
    assert np.log(many).std(0).mean() == pytest.approx(np.hypot(0.07, 0.05), rel=0.1)


def test_a_field_outside_of_the_table_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"1.5 to 3.0 T, got 7 T"):
        tissues(7.0)
