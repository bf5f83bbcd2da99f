"""Images of gates: a lesion that goes with the diaphragm is sharper and as hot as it is, and activity stays right."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from acquisition.items import Image, Position, Waveform
from acquisition.pet_gate import Gate
from acquisition.stream import Chain
from acquisition.verdict import Verdict
from integration.export import series_of
from recon.pet.osem import Osem
from recon.pet.volume import VoxelOptions, gantry_grid
from tests.acquisition.pet_chests import GANTRY, LESION_MM, LESION_RADIUS_MM, breathing, chest, mu_image
from tests.integration.dicom_samples import assert_valid, parsed

VOXELS = {"voxel_mm": 6.0, "slice_mm": 4.0, "fov_mm": 340.0}


@cache
def images() -> tuple[Image, ...]:
    """Ungated, four gates, quietest part; by events alone, the attenuation that of the end of expiration."""
    simulation, items = breathing()
    mu = mu_image(chest(), gantry_grid(GANTRY, VoxelOptions(**VOXELS)))
    step = Osem(**VOXELS, n_iterations=3, n_subsets=6, filter_mm=4.0, scatter="none")
    chain = Chain([Gate(signal="events"), step])
    chain.open(simulation.scan)
    events = [i for i in items if not isinstance(i, Waveform)]
    early = [o for i in (simulation.normalisation, mu, *events) for o in chain.feed(i)]
    out = [*early, *chain.close()]
    assert all(isinstance(o, Image | Verdict) for o in out)
    return tuple(o for o in out if isinstance(o, Image))


def _places(image: Image) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    axes = [
        image.grid.origin_mm[2 - k] + image.grid.spacing_mm[k] * np.arange(n) for k, n in enumerate(image.data.shape)
    ]
    return np.meshgrid(*axes, indexing="ij")  # type: ignore[return-value]


def _lesion(image: Image) -> tuple[float, float, float]:
    """Return the mean in the lesion where it is at the end of expiration, its place and its spread along z [mm]."""
    z, y, x = _places(image)
    near = np.hypot(x - LESION_MM[0], y - LESION_MM[1]) < 14.0
    inside = near & (np.hypot(np.hypot(x - LESION_MM[0], y - LESION_MM[1]), z - LESION_MM[2]) < LESION_RADIUS_MM)
    profile = np.where(near, image.data, 0).sum(axis=(1, 2))
    profile = np.where((z[:, 0, 0] > -12) & (z[:, 0, 0] < 44), profile - 0.3 * profile.max(), 0).clip(0)
    centre = (profile * z[:, 0, 0]).sum() / profile.sum()
    spread = np.sqrt((profile * (z[:, 0, 0] - centre) ** 2).sum() / profile.sum())
    return float(image.data[inside].mean()), float(centre), float(spread)


def test_the_lesion_is_sharper_and_hotter_in_the_quiet_part() -> None:
    ungated, *gates, quiet = images()
    assert [i.output for i in images()] == ["conventional"] + ["gated"] * 4 + ["quiet"]
    hot, _, wide = _lesion(ungated)
    quiet_hot, quiet_place, narrow = _lesion(quiet)
    assert quiet_hot > 1.3 * hot and narrow < 0.85 * wide
    assert quiet_place == pytest.approx(LESION_MM[2], abs=2.5)
    places = [_lesion(g)[1] for g in gates]
    assert places[0] == pytest.approx(LESION_MM[2], abs=3.0) and places[3] < places[0] - 10.0


def test_activity_stays_right() -> None:
    ungated, *gates, quiet = images()
    z, y, x = _places(ungated)
    body = (np.hypot(x / 140, y / 90) < 1) & (np.abs(z) < 60)
    seconds = np.array([float(g.attributes["live_s"]) for g in gates])
    mean = np.average([g.data[body].mean() for g in gates], weights=seconds)
    assert seconds.sum() == pytest.approx(40.0, abs=0.5)
    assert mean == pytest.approx(ungated.data[body].mean(), rel=0.02)
    muscle = (np.hypot(x / 140, y / 90) < 1) & (np.abs(x) < 8) & (np.abs(z) < 40)
    for image in (*gates, quiet):
        assert image.data[muscle].mean() == pytest.approx(ungated.data[muscle].mean(), rel=0.08)
        assert image.attributes["decay_corrected_to"] == "start" and image.attributes["gated_by"] == "events"


@pytest.mark.peer("dciodvfy")
def test_gates_are_one_series_of_dicom(tmp_path: Path) -> None:
    writer = series_of(breathing()[0].scan, "job")
    made = [m for image in images() for m in writer.instances(image)]
    kinds = {}
    for instance in made:
        ds = parsed(instance)
        kinds.setdefault(ds.SeriesInstanceUID, []).append(ds)
    plain, gated, quiet = kinds.values()
    n = images()[0].grid.shape[0]
    assert [len(k) for k in (plain, gated, quiet)] == [n, 4 * n, n]
    assert gated[0].SeriesType == ["GATED", "IMAGE"] and quiet[0].SeriesType == ["STATIC", "IMAGE"]
    assert (gated[0].NumberOfTimeSlots, gated[0].NumberOfRRIntervals, gated[0].BeatRejectionFlag) == (4, 1, "N")
    assert sorted(int(d.ImageIndex) for d in gated) == list(range(1, 4 * n + 1))
    assert sorted({float(d.TriggerTime) for d in gated}) == pytest.approx([0, 1000, 2000, 3000], abs=50)
    assert len({int(d.InstanceNumber) for d in gated}) == 4 * n
    assert gated[0].ActualFrameDuration == pytest.approx(10_000, abs=1500)
    assert gated[0].ImageType[0] == quiet[0].ImageType[0] == "ORIGINAL"
    assert images()[1].position == Position(phase=0) and images()[4].position == Position(phase=3)
    first = [i for image in images()[1:3] for i in writer.instances(image)[:2]]
    assert_valid(first, tmp_path, "PETImage")
