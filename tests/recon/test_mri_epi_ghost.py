"""The ghost without navigators: found in the image, on the phantom; where it cannot be, that is said."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from acquisition.errors import ConfigError
from acquisition.items import Flag, Image, Readouts
from acquisition.sources.phantom.epi import EpiTrain, echo_planar
from acquisition.sources.phantom.exam import MriExam
from acquisition.sources.phantom.mri import Simulation
from acquisition.verdict import Level
from integration.protocol import Library
from recon.mri.epi_ghost import EpiGhost
from tests.phantoms import nrmse
from tests.recon.test_mri_sms import images

LIBRARY = Library()
SINGLE = Simulation(MriExam(matrix=(2, 64, 64), n_coils=6, snr=80.0, n_noise=0))


def reconstructed(train: EpiTrain, name: str, *, navigators: bool = False) -> list[Image]:
    scan, blocks = echo_planar(SINGLE.scan, SINGLE.readouts(), train)

    def kept() -> Iterator[Readouts]:
        return (b for b in blocks if navigators or not b.has(Flag.PHASE_CORRECTION).any())

    return images(scan, kept(), LIBRARY[name])[0]


def error(image: Image) -> float:
    truth = SINGLE.truth(image.position.slice).data
    return nrmse(image.data * (image.data * truth).sum() / (image.data**2).sum(), truth)


@pytest.mark.parametrize(("delay", "constant"), [(0.6, 0.5), (-0.4, -0.9), (0.0, 1.2), (0.3, 0.0)])
def test_the_ghost_is_found_in_the_image(delay: float, constant: float) -> None:
    train = EpiTrain(delay=delay, constant_rad=constant)
    ghosted = reconstructed(train, "mri_epi")
    clean = reconstructed(train, "mri_epi_self")
    best = reconstructed(train, "mri_epi", navigators=True)
    for bad, good, ideal in zip(ghosted, clean, best, strict=True):
        assert error(good) < error(ideal) + 0.03
        assert error(good) < 0.6 * error(bad)


def test_nothing_is_changed_without_a_ghost() -> None:
    (first, _) = reconstructed(EpiTrain(), "mri_epi_self")
    (told,) = (v for v in first.verdicts if v.check == "mri.epi_ghost")
    assert told.advice == "No ghost to correct."


def test_undersampled_frames_are_told() -> None:
    half = Simulation(MriExam(matrix=(1, 64, 64), n_coils=6, acceleration=2, n_noise=0))
    scan, blocks = echo_planar(half.scan, half.readouts(), EpiTrain(delay=0.5))
    (image,) = images(scan, blocks, LIBRARY["mri_epi_self"])[0]
    assert any(v.check == "mri.epi_ghost" and v.level is Level.FLAG for v in image.verdicts)


def test_wrong_parameters() -> None:
    with pytest.raises(ConfigError, match="steepest"):
        EpiGhost(steepest=-1.0)
    assert np.isfinite(EpiGhost().steepest)
