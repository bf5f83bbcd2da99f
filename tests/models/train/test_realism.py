"""Simulated heads have the detail of real ones: power of the image over spatial frequency."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.train.encode import cropped_kspace, image_of
from models.train.labels import head_of, tissues_of
from models.train.mr import MrSpec, random_slice
from models.train.scene import magnetisation
from models.train.tissue import tissues
from models.train.upright import read_upright

FREQUENCIES = (0.10, 0.15, 0.20, 0.25, 0.30, 0.35, 0.40)


def power(images: list[NDArray]) -> NDArray[np.float64]:
    """Mean log10 power at `FREQUENCIES` [cycles per voxel] against that around 0.05."""
    total = []
    for image in images:
        n = min(image.shape)
        square = image[(image.shape[0] - n) // 2 :, (image.shape[1] - n) // 2 :][:n, :n]
        window = np.hanning(n)
        spectrum = np.abs(np.fft.fftshift(np.fft.fft2(square * window[:, None] * window))) ** 2
        radius = np.hypot(*(np.indices((n, n)) - n // 2)) / n
        base = spectrum[np.abs(radius - 0.05) < 0.02].mean()
        total.append([spectrum[np.abs(radius - f) < 0.02].mean() / base for f in FREQUENCIES])
    return np.log10(np.mean(total, axis=0))


@pytest.mark.data
def test_detail_is_that_of_a_real_head(data_dir: Path) -> None:
    folder = data_dir / "images"
    real, _ = read_upright(folder / "head_T1_memprage_sag.nii.gz")
    labels, _ = read_upright(folder / "head_labels" / "training_seg_15.nii.gz")
    head = head_of("15", tissues_of(labels, seed=15))
    spec = MrSpec(fov_mm=(219.0, 221.0), thickness_mm=(1.0, 1.2), protocols=("t1_mprage",))
    made = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        drawn = random_slice(head, spec, rng)
        image = magnetisation(drawn.scene, drawn.protocol, [tissues(3.0, rng)])[0] * drawn.profile
        made.append(np.abs(image_of(cropped_kspace(image, spec.matrix))))
    theirs = power([real[z].astype(float) for z in range(60, 120, 8)])
    assert power(made) == pytest.approx(theirs, abs=0.4)
    blurred = power([np.abs(np.fft.ifft2(np.fft.fft2(m) * _low(m.shape))) for m in made])
    assert np.abs(blurred - theirs).max() > 0.8  # the test would see a loss of detail


def _low(shape: tuple[int, ...]) -> NDArray[np.float64]:
    f = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1]))
    return np.exp(-0.5 * (f / 0.2) ** 2)
