"""The water calibration: a hardened beam gives flat water of 0 HU again."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from acquisition.ct import Air, BeamHardening
from acquisition.ct_calibrate import fit_water
from acquisition.ct_moments import Moments
from acquisition.errors import DataError, HeaderError
from acquisition.items import Image
from acquisition.sources.phantom.ct import CtExam, CtSimulation
from acquisition.sources.phantom.ct_objects import water
from acquisition.stream import Step
from recon.ct.fbp import Axial
from tests.acquisition.ct_samples import AXIAL, through

POLY = CtExam(ct=AXIAL, turns=1.0, beam="polychromatic")


def cylinder(radius: float, x: float, y: float):
    return water(radius).transformed(np.eye(3), (x, y, 0))


def rings(steps: list[Step], simulation: CtSimulation, radius: float, centre: tuple[float, float]) -> list[float]:
    """Mean HU from the middle to the rim."""
    [image, *_] = (
        i for i in through([Air(), *steps, Axial(matrix=100, fov_mm=300)], simulation) if isinstance(i, Image)
    )
    x = image.grid.origin_mm[0] + np.arange(100) * image.grid.spacing_mm[2]
    r = np.hypot(x[None] - centre[0], x[:, None] - centre[1]) / radius
    cuts = (0, 0.25, 0.5, 0.75, 0.9)
    return [float(image.data[0][(r >= a) & (r < b)].mean()) for a, b in itertools.pairwise(cuts)]


def test_polychromatic_water_is_flat_and_0_hu_after_the_calibration() -> None:
    scanned = CtSimulation(POLY, cylinder(140, 12, -9))
    fit = fit_water(scanned.scan, scanned.head, scanned.lines(), radius_mm=140)
    assert fit.centre_mm == pytest.approx((12, -9), abs=0.2) and fit.residual < 1e-3 and fit.largest > 5
    for radius, x, y in ((100.0, 5.0, 8.0), (60.0, 40.0, 0.0), (140.0, -3.0, 2.0)):
        other = CtSimulation(POLY, cylinder(radius, x, y))
        cupped = rings([], other, radius, (x, y))
        assert cupped[-1] - cupped[0] > 20
        assert np.abs(rings([BeamHardening(coefficients=fit.coefficients)], other, radius, (x, y))).max() < 2


def test_a_beam_of_one_energy_needs_no_correction() -> None:
    scanned = CtSimulation(replace(POLY, beam="monochromatic"), cylinder(140, 3, 5))
    fit = fit_water(scanned.scan, scanned.head, scanned.lines(), radius_mm=140, degree=3)
    p = np.linspace(0.2, fit.largest, 50)
    np.testing.assert_allclose(sum(c * p ** (k + 1) for k, c in enumerate(fit.coefficients)), p, rtol=2e-3)


def test_the_centre_of_mass_is_that_of_the_object() -> None:
    for direction in (1, -1):
        for turns in (1.0, 0.7, 1.6):
            exam = replace(POLY, beam="monochromatic", direction=direction, turns=turns)
            scanned = CtSimulation(exam, cylinder(60, 35, -48))
            moments = Moments(AXIAL)
            for start in range(0, len(scanned.head), 50):
                moments.add(scanned.head[start : start + 50], scanned.lines(start, start + 50))
            assert moments.full == (turns >= 1)
            assert moments.centre_mm() == pytest.approx((35, -48), abs=0.6)


def test_what_cannot_be_calibrated_is_refused() -> None:
    scanned = CtSimulation(replace(POLY, turns=0.15), cylinder(140, 12, -9))
    with pytest.raises(DataError, match="scan a full turn"):
        fit_water(scanned.scan, scanned.head, scanned.lines(), radius_mm=140)
    full = CtSimulation(POLY, cylinder(140, 12, -9))
    with pytest.raises(DataError, match="check radius_mm"):
        fit_water(full.scan, full.head, full.lines(), radius_mm=0.5)
    nobody = replace(full.scan, ct=replace(AXIAL, mu_water_per_mm=None))
    with pytest.raises(HeaderError, match="the attenuation of water"):
        fit_water(nobody, full.head, full.lines(), radius_mm=140)
