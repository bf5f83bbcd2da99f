"""A prior exam from a folder of DICOM objects: found, registered, compared; folders that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from acquisition.errors import ConfigError
from acquisition.items import Image
from acquisition.verdict import Level
from integration.dicom.mr import MrSeries
from integration.prior import Prior
from tests.recon.test_volumes import scan, slices, through, volume


def written(folder: Path, image: Image) -> Path:
    folder.mkdir()
    for number, instance in enumerate(MrSeries(scan(), "prior").instances(image)):
        (folder / f"{number}.dcm").write_bytes(bytes(instance.data))
    return folder


def test_a_prior_lies_on_todays_slices_and_the_change_is_what_is_new(tmp_path: Path) -> None:
    before = written(tmp_path / "before", volume(5.0, (4.0, -3.0, 0.0)))
    today = volume()
    z, y, x = np.indices(today.grid.shape)
    lesion = (z - 12) ** 2 * 4 + (y - 20) ** 2 + (x - 28) ** 2 < 16
    today.data[lesion] += 80
    made = {i.output: i for i in through(Prior(folder=str(before)), slices(today)) if isinstance(i, Image)}
    assert made["prior"].data.shape == today.data.shape
    assert made["change"].data[lesion].mean() > 60
    away = (today.data > 20) & ~lesion
    assert abs(np.median(made["change"].data[away])) < 4
    assert made["prior"].verdicts[-1].level is Level.PASS


def test_a_folder_that_is_no_prior(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="0 files, 0 volumes"):
        Prior(folder=str(tmp_path)).open(scan())
    with pytest.raises(ConfigError, match="flag_above_mm"):
        Prior(folder=".", flag_above_mm=0)
