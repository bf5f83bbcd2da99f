"""Windows on k-space: noise, ringing, and what the report says of both."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from acquisition.errors import ConfigError
from acquisition.mri import Prewhiten
from acquisition.stream import Chain
from recon.mri.combine import Combine
from recon.mri.kfilter import WINDOWS, KspaceFilter, _width
from recon.mri.partial_fourier import Pocs
from tests.recon.helpers import Exam, run

PREWHITEN = Prewhiten(receiver_noise_bandwidth=1.0)
ALL = [("tukey", 0.3), ("gaussian", 0.7), ("hann", 1.0), ("fermi", 0.2)]


def image(exam: Exam, *steps: Any) -> Any:
    (made,), _ = run(
        exam.scan,
        [exam.noise_scan(20000), *exam.readouts()],
        prewhiten=PREWHITEN,
        combine=Chain((*steps, Combine(kind="complex"))),
    )
    return made


@pytest.mark.parametrize(("window", "width"), ALL)
def test_pixels_stay_in_units_of_their_noise(window: str, width: float) -> None:
    """Inside the object the difference of two measurements has standard deviation sqrt(2), whatever the window."""
    exams = [Exam(noise=0.01, n_coils=4, seed=seed) for seed in range(4)]
    made = [image(exam, KspaceFilter(window=window, width=width)) for exam in exams]
    inside = exams[0].object() > 0.3 * exams[0].object().max()
    assert made[0].unit == "1"
    phase = np.exp(-1j * np.angle(made[0].data))
    pairs = [(a.data - b.data) * phase for a, b in zip(made[::2], made[1::2], strict=True)]
    measured = np.concatenate([d.real[inside] for d in pairs]).std() / np.sqrt(2)
    assert measured == pytest.approx(1, rel=0.06)


@pytest.mark.parametrize(("window", "width"), ALL)
def test_the_note_says_how_much_wider_pixels_are(window: str, width: float) -> None:
    soft = image(Exam(n_coils=2), KspaceFilter(window=window, width=width))
    note = soft.provenance.notes["k-space filter"]
    noise, along_y, along_x = (float(v) for v in re.findall(r"[xy] (\d\.\d+)", note))
    assert 0.2 < noise < 1
    assert 1 < along_y == along_x < 2


@pytest.mark.parametrize("recon_matrix", [(1, 64, 64), (1, 128, 128), (1, 96, 80)])
def test_the_windows_edge_is_that_of_what_was_measured(recon_matrix: tuple[int, int, int]) -> None:
    """The same window whatever the image's matrix: the ratio of filtered and plain spectra is the window."""
    exam = Exam(recon_matrix=recon_matrix, n_coils=1)
    plain, soft = image(exam).data[0], image(exam, KspaceFilter(window="tukey", width=0.5)).data[0]
    spectra = [np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(d))) for d in (plain, soft)]
    row, centre = recon_matrix[1] // 2, recon_matrix[2] // 2
    ratio = np.abs(spectra[1][row, centre : centre + 30]) / np.abs(spectra[0][row, centre : centre + 30])
    window = WINDOWS["tukey"](torch.arange(30) / 32, 0.5).numpy()
    np.testing.assert_allclose(ratio / ratio[0], window, atol=0.03)


def test_a_plain_window_has_the_width_of_a_sinc() -> None:
    assert _width(torch.ones(65)) * 65 == pytest.approx(1.2067 * 65, rel=0.01)


def test_it_stands_with_partial_fourier() -> None:
    made = image(Exam(skip_k1=16, noise=0.01), Pocs(), KspaceFilter())
    assert {"partial Fourier", "k-space filter"} <= set(made.provenance.notes)


@pytest.mark.parametrize("matrix", [(1, 65, 63), (6, 32, 32)])
def test_odd_sizes_and_volumes(matrix: tuple[int, int, int]) -> None:
    made = image(Exam(matrix=matrix, n_coils=2), KspaceFilter(window="hann", width=1.0))
    assert made.data.shape == matrix
    assert ("z " in made.provenance.notes["k-space filter"]) == (matrix[0] > 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"window": "box"}, "tukey, gaussian, hann, fermi"), ({"width": 0}, "width"), ({"width": 1.1}, "at most 1")],
)
def test_wrong_parameters_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        KspaceFilter(**fields)
