"""Sharpness: blurred by a known amount, and by the reconstruction kernel, whose modulation is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.interpolate import PchipInterpolator

from acquisition.errors import DataError
from acquisition.items import Image, Projections
from acquisition.sources.phantom.ct import CtExam, CtSimulation, gantry
from acquisition.sources.phantom.ct_objects import water
from acquisition.sources.phantom.ct_test_objects import CATPHAN_Z_MM, catphan_like
from acquisition.sources.phantom.objects import Phantom
from recon.ct.fbp import Axial
from recon.ct.kernel import KERNELS
from recon.ct.mtf import Mtf, mtf_disc, mtf_wire
from recon.ct.quality import Slice, slice_of

CT = gantry(mode="axial", n_rows=1, centre=(0.0, 183.75))
WIRE = (6.0, -17.0)


def blurred(sigma_mm: float, *, radius_mm: float, centre_mm: tuple[float, float], sign: float = 1.0) -> Slice:
    """A disc of 100 HU after a Gaussian, sampled at points."""
    n, pixel, fine = 128, 0.5, 9
    place = (np.arange(n * fine) - (n * fine - 1) / 2) * pixel / fine
    disc = 100.0 * sign * (np.hypot(place[None] - centre_mm[0], place[:, None] - centre_mm[1]) < radius_mm)
    f = np.fft.fftfreq(n * fine, pixel / fine)
    smooth = np.fft.ifft2(np.fft.fft2(disc) * np.exp(-2 * (np.pi * sigma_mm) ** 2 * (f[None] ** 2 + f[:, None] ** 2)))
    at = place[fine // 2 :: fine]
    return Slice(hu=smooth.real[fine // 2 :: fine, fine // 2 :: fine], xs_mm=at, ys_mm=at)


def gaussian(sigma_mm: float, f: np.ndarray) -> np.ndarray:
    return np.exp(-2 * (np.pi * sigma_mm * f / 10) ** 2)


@pytest.mark.parametrize("sigma", [0.4, 0.7, 1.1])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_edge_of_a_disc_gives_the_blur(sigma: float, sign: float) -> None:
    image = blurred(sigma, radius_mm=20, centre_mm=(1.3, -0.7), sign=sign)
    mtf = mtf_disc(image, centre_mm=(0.5, -1.5), radius_mm=20, margin_mm=8)
    np.testing.assert_allclose(mtf.values, gaussian(sigma, mtf.lp_per_cm), atol=5e-3)
    assert mtf.frequency(0.5) == pytest.approx(10 * np.sqrt(np.log(2) / 2) / np.pi / sigma, rel=0.01)
    if sigma > 0.6:
        assert mtf.frequency(0.1) == pytest.approx(10 * np.sqrt(np.log(10) / 2) / np.pi / sigma, rel=0.01)


@pytest.mark.parametrize("diameter", [0.3, 2.0])
def test_a_wire_gives_the_blur_whatever_its_thickness(diameter: float) -> None:
    image = blurred(0.7, radius_mm=diameter / 2, centre_mm=(3.2, -5.1))
    image.hu[:] += 20 + 0.3 * image.xs_mm[None] - 0.2 * image.ys_mm[:, None]
    mtf = mtf_wire(image, centre_mm=(3.0, -5.0), wire_mm=diameter)
    f = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(mtf.at(f), gaussian(0.7, f), atol=0.015)


def reconstructed(phantom: Phantom, **changes: object) -> Slice:
    simulation = CtSimulation(CtExam(ct=replace(CT, views_per_rotation=1152), turns=1.0), phantom)
    step = Axial(**changes)  # type: ignore[arg-type]
    step.open(simulation.scan)
    block = Projections(head=simulation.head, data=simulation.lines(), domain="lines")
    [image] = [i for i in [*step.feed(block), *step.close()] if isinstance(i, Image)]
    return slice_of(image.data, image.grid)


@pytest.mark.parametrize("kernel", ["soft", "standard", "bone"])
def test_a_reconstruction_has_the_modulation_of_its_kernel(kernel: str) -> None:
    """The kernel, and twice linear interpolation between channels (rebinning, backprojection): sinc^4."""
    disc = reconstructed(water(30).transformed(np.eye(3), (4, 3, 0)), matrix=360, fov_mm=90, kernel=kernel)
    wire = reconstructed(
        catphan_like(wire_mm=1.0).transformed(np.eye(3), (0, 0, -CATPHAN_Z_MM["wire"])),
        matrix=80,
        fov_mm=20,
        centre_mm=WIRE,
        kernel=kernel,
    )
    pitch = CT.pitch_mm[1] * CT.source_isocentre_mm / CT.source_detector_mm
    f = np.arange(0.5, 3.3, 0.25)
    kernel_itself = PchipInterpolator(np.linspace(0, 1, 5) ** 2, KERNELS[kernel])((f / 10 * 2 * pitch) ** 2)
    expected = kernel_itself * np.sinc(f / 10 * pitch) ** 4
    by_disc = mtf_disc(disc, centre_mm=(4, 3), radius_mm=30)
    by_wire = mtf_wire(wire, centre_mm=WIRE, half_mm=8, wire_mm=1.0)
    np.testing.assert_allclose(by_disc.at(f), expected, atol=0.035)
    np.testing.assert_allclose(by_wire.at(f), expected, atol=0.05)
    assert by_disc.frequency(0.5) == pytest.approx(by_wire.frequency(0.5), rel=0.05)


def test_frequencies_are_read_between_the_samples() -> None:
    mtf = Mtf(lp_per_cm=np.array([0.0, 2.0, 4.0]), values=np.array([1.0, 0.6, 0.2]))
    assert mtf.frequency(0.5) == pytest.approx(2.5) and mtf.at(3.0) == pytest.approx(0.4)
    with pytest.raises(DataError, match=r"a fall to 0\.1, got none"):
        mtf.frequency(0.1)


def test_what_cannot_be_measured_is_refused() -> None:
    image = blurred(0.7, radius_mm=20, centre_mm=(0, 0))
    with pytest.raises(DataError, match="a margin below the radius"):
        mtf_disc(image, centre_mm=(20, 0), radius_mm=20)
    with pytest.raises(DataError, match="a margin below the radius"):
        mtf_disc(image, centre_mm=(0, 0), radius_mm=8)
    with pytest.raises(DataError, match="no contrast"):
        mtf_disc(replace(image, hu=np.zeros_like(image.hu)), centre_mm=(0, 0), radius_mm=15, margin_mm=5)
    noise = np.random.default_rng(1).normal(0, 50, image.hu.shape)
    with pytest.raises(DataError, match=r"an edge|its centre near"):
        mtf_disc(replace(image, hu=noise), centre_mm=(0, 0), radius_mm=15, margin_mm=5)
    with pytest.raises(DataError, match="the square around it"):
        mtf_wire(image, centre_mm=(31, 0))
    with pytest.raises(DataError, match="nothing brighter"):
        mtf_wire(replace(image, hu=noise), centre_mm=(0, 0))
