"""A beam of many energies: it hardens, bone and iodine show it, metal stops it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from acquisition.errors import ConfigError
from acquisition.sources.phantom.ct import CtExam, CtSimulation, gantry
from acquisition.sources.phantom.ct_matter import (
    STEEL,
    TITANIUM,
    Matter,
    composition,
    contrast_agent,
    mass_attenuation,
    matter,
    spectrum,
    transmission,
)
from acquisition.sources.phantom.ct_objects import built, water
from acquisition.sources.phantom.objects import Tissue

SMALL = gantry(mode="axial", n_rows=2, n_channels=60, pitch_mm=(4.0, 15.0), centre=(0.5, 29.6), views_per_rotation=12)


def test_the_spectrum_is_that_of_a_tube() -> None:
    means = []
    for kvp in (80.0, 100.0, 120.0, 140.0):
        energy, part = spectrum(kvp)
        assert part.sum() == pytest.approx(1) and (part >= 0).all() and energy.max() < kvp
        means.append(1 / (part / energy).sum())  # of the photons
    assert means == sorted(means)
    assert 55 < means[2] < 63  # 120 kV clinical: about 60 keV
    energy, part = spectrum(120.0)
    line = (part / energy)[np.abs(energy - 57.5).argmin()]
    assert line > 1.5 * (part / energy)[np.abs(energy - 52.5).argmin()]
    with pytest.raises(ConfigError, match="60 to 150 kV, got 40"):
        spectrum(40.0)


def test_attenuation_is_the_tables_and_jumps_at_the_k_edge_of_iodine() -> None:
    assert mass_attenuation("water", 60.0) == pytest.approx(0.2059)
    assert mass_attenuation("water", 70.0) == pytest.approx(0.1929, rel=0.01)  # between the table's energies
    below, above = mass_attenuation("iodine", [33.1, 33.3])
    assert above > 5 * below
    with pytest.raises(ConfigError, match="one of aluminium, bone"):
        mass_attenuation("cheese", 60.0)


def test_tissues_are_water_and_bone_at_the_reference_energy() -> None:
    for value in (0.0, 0.15, 1.0, 1.05, 1.3, 1.9, 2.6, 3.4):
        mixed = composition(Tissue(value, np.inf))
        assert min(mixed.values()) >= 0
        if value > 0:
            assert matter(mixed).value == pytest.approx(value, rel=1e-6)
    assert composition(TITANIUM) == {"titanium": 4.54}
    assert isinstance(STEEL, Matter) and STEEL.value > 2 * TITANIUM.value > 20
    assert 200 < 1000 * (contrast_agent(10.0).value - 1.04) < 300


def test_a_thin_object_is_seen_at_the_beams_mean_and_a_thick_one_hardens() -> None:
    thickness = np.array([1e-3, 5.0, 10.0, 20.0, 30.0], np.float32)  # g/cm^2
    p = -np.log(transmission({"water": thickness}, 120.0))
    energy, part = spectrum(120.0)
    assert p[0] / 1e-3 == pytest.approx((part * mass_attenuation("water", energy)).sum(), rel=1e-2)
    effective = p / thickness
    assert (np.diff(effective) < 0).all() and effective[-1] < 0.96 * effective[0]
    bone = -np.log(transmission({"bone": thickness}, 120.0)) / thickness
    assert bone[-1] / bone[0] < effective[-1] / effective[0]


def test_material_line_integrals_are_lengths_times_densities() -> None:
    phantom = built(
        {
            "body": (None, 0.0, (0, 0, 0), (100, 80, 500)),
            "iodine": ("body", contrast_agent(20.0), (30, 10, 0), (15, 15, 500)),
            "screw": ("body", TITANIUM, (-40, 0, 0), (6, 6, 500)),
        }
    )
    simulation = CtSimulation(CtExam(ct=SMALL), phantom)
    areal = simulation.areal_densities()
    assert set(areal) == {"water", "iodine", "titanium"}
    mono = sum(np.float32(mass_attenuation(name, 70.0)) * rays for name, rays in areal.items())
    scale = SMALL.mu_water_per_mm * 10 / float(mass_attenuation("water", 70.0))
    np.testing.assert_allclose(mono * scale, simulation.lines(), rtol=1e-4, atol=1e-4)
    poly = CtSimulation(replace(simulation.exam, beam="polychromatic"), phantom)
    assert (poly.lines()[mono > 0.1] > 0).all()
    through = (areal["titanium"] > 4) & (areal["iodine"] < 0.01)
    assert (poly.lines()[through] < 1.35 * mono[through]).all()
    assert poly.lines()[through].mean() / mono[through].mean() < poly.lines().mean() / mono.mean()


def test_polychromatic_water_alone_follows_the_spectrum() -> None:
    simulation = CtSimulation(CtExam(ct=SMALL, beam="polychromatic"), water(90))
    rays = simulation.areal_densities()["water"]
    np.testing.assert_allclose(simulation.lines(), -np.log(transmission({"water": rays}, 120.0)), atol=1e-5)
    assert rays.max() == pytest.approx(18.0, rel=0.01)


def test_wide_channels_blur_the_signal_not_the_lines() -> None:
    rod = built({"rod": (None, 3000.0, (0, 0, 0), (4, 4, 500))})
    narrow = CtSimulation(CtExam(ct=SMALL), rod).lines()
    wide = CtSimulation(CtExam(ct=SMALL, subrays=40), rod).lines()
    assert wide.shape == narrow.shape and 0 < wide.max() < narrow.max()
    fine = CtSimulation(CtExam(ct=replace(SMALL, n_channels=2400, pitch_mm=(4.0, 0.375), centre=(0.5, 1203.5))), rod)
    signal = np.exp(-fine.lines().astype(float)).reshape(12, 2, 60, 40).mean(-1)
    np.testing.assert_allclose(wide, -np.log(signal), atol=1e-5)
