"""Virtual patients and test objects: all different, all possible, all where they say they are."""

from __future__ import annotations

import numpy as np
import pytest

from acquisition.errors import ConfigError
from acquisition.sources.phantom.ct_matter import TITANIUM, Matter
from acquisition.sources.phantom.ct_objects import chest
from acquisition.sources.phantom.ct_people import ball, inserted, person
from acquisition.sources.phantom.ct_test_objects import (
    ACR_HU,
    ACR_Z_MM,
    CATPHAN_HU,
    CATPHAN_Z_MM,
    LINE_PAIRS_PER_CM,
    acr_like,
    catphan_like,
)


@pytest.mark.parametrize("region", ["chest", "abdomen", "head"])
@pytest.mark.parametrize("seed", range(1, 6))
def test_people_are_proper_trees(region: str, seed: int) -> None:
    phantom = person(region, seed)
    u = np.random.default_rng(seed).normal(size=(300, 3))
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    for e in phantom.ellipsoids:
        if e.parent >= 0:
            surface = e.centre + u @ e.matrix.T
            assert phantom.ellipsoids[e.parent].contains(surface).all()
            for other in phantom.ellipsoids:
                if other.parent == e.parent and other is not e:
                    assert not other.contains(surface).any()


def test_every_seed_is_another_person_and_the_same_seed_the_same() -> None:
    points = np.random.default_rng(1).uniform(-100, 100, (20000, 3))
    values = [person("abdomen", seed).signal(points) for seed in (*range(8), 3)]
    np.testing.assert_array_equal(values[3], values[8])
    for k, one in enumerate(values[:8]):
        assert all((np.abs(one - other) > 0.001).mean() > 0.1 for other in values[:k])
    assert len({len(person("chest", seed).ellipsoids) for seed in range(8)}) > 3
    with pytest.raises(ConfigError, match="one of abdomen, chest, head, got 'knee'"):
        person("knee", 1)


def test_contrast_agent_lies_in_the_vessels() -> None:
    phantom, plain = person("chest", 2, iodine_mg_per_ml=15.0), person("chest", 2)
    aorta = np.array(phantom.landmarks_mm["aorta"])
    lung = phantom.landmarks_mm["lung_left"]
    assert phantom.signal(aorta) > plain.signal(aorta) + 0.1
    assert sum(isinstance(e.tissue, Matter) for e in phantom.ellipsoids) >= 3
    assert phantom.signal(np.array(lung)) == pytest.approx(plain.signal(np.array(lung)), abs=1e-9)


def test_metal_goes_where_there_is_room() -> None:
    phantom = inserted(chest(), ball((0, 95, 40), (3, 3, 10), TITANIUM), name="screw")
    assert phantom.signal(np.array([0.0, 95.0, 40.0])) == pytest.approx(TITANIUM.value)
    assert phantom.landmarks_mm["screw"] == (0.0, 95.0, 40.0)
    alone = inserted(chest(), ball((0, -160, 0), (3, 3, 3), 400.0), name="button")
    assert alone.ellipsoids[-1].parent == -1
    with pytest.raises(ConfigError, match=r"screw: expected room for it"):
        inserted(chest(), ball((0, 66, 0), (3, 30, 10), TITANIUM), name="screw")


@pytest.mark.parametrize(
    ("phantom", "nominal", "z"), [(acr_like(), ACR_HU, ACR_Z_MM), (catphan_like(), CATPHAN_HU, CATPHAN_Z_MM)]
)
def test_inserts_are_at_their_landmarks(phantom, nominal, z) -> None:
    for name, hu in nominal.items():
        x, y, zz = phantom.landmarks_mm[name]
        assert zz == z["hu"]
        for dz in (-19, 0, 19):
            assert 1000 * (phantom.signal(np.array([x + 4, y, zz + dz])) - 1) == pytest.approx(hu, abs=1e-6)
    assert phantom.signal(np.array([0.0, 0.0, z["uniformity"]])) == pytest.approx(phantom.ellipsoids[0].tissue.value)


def test_rods_bars_and_wire_are_what_they_are_called() -> None:
    acr = acr_like()
    rods = [name for name in acr.landmarks_mm if name.startswith("rod_")]
    assert len(rods) == 21
    for name in rods:
        assert acr.signal(np.array(acr.landmarks_mm[name])) == pytest.approx(1.006)
    for k, pairs in enumerate(LINE_PAIRS_PER_CM):
        a = 2 * np.pi * k / len(LINE_PAIRS_PER_CM)
        along = np.linspace(-9, 9, 9001)[:, None] * np.array([-np.sin(a), np.cos(a), 0])
        profile = acr.signal(65 * np.array([np.cos(a), np.sin(a), 0]) + along + [0, 0, ACR_Z_MM["line_pairs"]])
        edges = np.flatnonzero(np.diff(profile > 1.5))
        assert np.diff(edges) * 0.002 == pytest.approx(5 / pairs, abs=0.01)
        assert 14 < np.ptp(edges) * 0.002 + 5 / pairs < 16.5
    wire = catphan_like().ellipsoids[-1]
    assert wire.tissue.value == pytest.approx(4.0) and catphan_like(wire_mm=1.0).ellipsoids[-1].tissue.value == 1.75
