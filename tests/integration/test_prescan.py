"""Shading taken away by a body-coil scan: known shading, a real head, scans that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acquisition.errors import ConfigError, FileFormatError
from acquisition.items import Image
from acquisition.sources import open_raw
from acquisition.sources.mrd_file import write
from acquisition.sources.phantom.exam import MriExam
from acquisition.sources.phantom.mri import Simulation
from acquisition.verdict import Level
from integration.prescan import Prescan
from integration.protocol import Library
from integration.runner import Run
from tests.recon.test_volumes import scan, slices, through, volume

FIELDS: dict[str, Any] = {"n_coils": 4, "snr": float("inf"), "n_noise": 0}


def body_scan(path: Path, **changes: Any) -> Path:
    simulation = Simulation(MriExam(**({"matrix": (3, 48, 48)} | FIELDS | changes)))
    write(path, simulation.scan, items=list(simulation.readouts()))
    return path


def test_known_shading_is_taken_away(tmp_path: Path) -> None:
    true = volume()
    step = Prescan(reference=str(body_scan(tmp_path / "body.h5")))
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in true.grid.shape], indexing="ij")
    shade = np.exp(0.6 * x - 0.4 * y + 0.2 * z).astype(np.float32)
    ratio = step._ratio(true.data * shade, true.data, true.grid.spacing_mm)
    inside = true.data > 20
    before, after = (np.std(np.log(s[inside])) for s in (shade, shade * ratio))
    assert after < 0.3 * before
    assert np.isfinite(ratio).all()


def test_each_image_gets_its_slice_and_the_conventional_one_stays(tmp_path: Path) -> None:
    path = body_scan(tmp_path / "body.h5")
    simulation = Simulation(MriExam(matrix=(3, 48, 48), **FIELDS))
    protocol = Library()["mri_cartesian"]
    protocol = protocol.model_copy(update={"steps": (*protocol.steps, ("image.prescan", {"reference": str(path)}))})
    run = Run(simulation.scan, protocol)
    run.open()
    items = [i for b in simulation.readouts() for i in run.feed(b)] + list(run.close())
    images = [i for i in items if isinstance(i, Image)]
    assert [i.output for i in images] == ["conventional", "normalised"] * 3
    told = [i.verdicts[-1] for i in images if i.output == "normalised"]
    assert {v.level for v in told} == {Level.PASS}


def test_slices_beyond_the_body_scan_are_told(tmp_path: Path) -> None:
    path = body_scan(tmp_path / "body.h5", position_mm=(0.0, 0.0, 60.0))
    made = through(Prescan(reference=str(path)), list(slices(volume()))[:1], scan())
    assert made[1].verdicts[-1].level is Level.FLAG
    np.testing.assert_array_equal(made[1].data, made[0].data)


@pytest.mark.data
def test_a_real_head_is_evener(data_dir: Path) -> None:
    body = data_dir / "mri" / "head_gre_3T_body2ch.h5"
    protocol = Library()["mri_cartesian"]
    protocol = protocol.model_copy(update={"steps": (*protocol.steps, ("image.prescan", {"reference": str(body)}))})
    raw = open_raw(data_dir / "mri" / "head_gre_3T_16ch.h5")
    run = Run(raw.scan, protocol)
    run.open()
    plain, even = [i for b in raw.items() for i in run.feed(b)] + list(run.close())
    back, front = np.s_[0, 75:100, 45:85], np.s_[0, 20:45, 45:85]
    before, after = (np.median(i.data[back]) / np.median(i.data[front]) for i in (plain, even))
    assert abs(after - 1) < 0.6 * abs(before - 1)


def test_what_is_no_reference(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="smooth_mm"):
        Prescan(reference="x", smooth_mm=0.0)
    (tmp_path / "note.txt").write_text("nothing")
    with pytest.raises(FileFormatError):
        Prescan(reference=str(tmp_path / "note.txt")).open(scan())
