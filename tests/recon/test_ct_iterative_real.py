"""Real acrylic discs over 90 degrees (Helsinki Tomography Challenge 2022): what is predicted of views not used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.io import loadmat

from acquisition.items import VIEW_HEAD, Image, Projections
from acquisition.scan import CtHeader, Scan
from acquisition.stream import Step
from recon.ct.fbp import Axial
from recon.ct.iterative import Pwls, TotalVariationCt
from recon.ct.project import ConeProjector

pytestmark = pytest.mark.data

FIELD = {"matrix": 128, "mu_water_per_mm": 0.0315}  # acrylic at 45 kV
CT = CtHeader(
    mode="axial",
    detector="flat",
    n_rows=1,
    n_channels=280,
    pitch_mm=(0.2, 0.4),
    centre=(0.0, 139.5),
    source_isocentre_mm=410.66,
    source_detector_mm=553.74,
    views_per_rotation=720,
)
SCAN = Scan(uid="htc2022-tb", modality="CT", ct=CT)


def views(angles_deg: NDArray[np.float64], lines: NDArray[np.float32]) -> Projections:
    head = np.zeros(len(angles_deg), VIEW_HEAD)
    head["view"], head["angle_rad"] = np.arange(len(head)), np.deg2rad(angles_deg)
    return Projections(head=head, data=lines[:, None], domain="lines")


def reconstructed(step: Step, block: Projections) -> Image:
    step.open(SCAN)
    [image] = [i for i in (*step.feed(block), *step.close()) if isinstance(i, Image)]
    return image


def unpredicted(image: Image, block: Projections) -> float:
    """The part of measured lines that the image does not predict, after the best scale."""
    mu = torch.from_numpy((image.data / 1000 + 1).clip(0).astype(np.float32))
    made = ConeProjector(CT, block.head, image.grid)(mu).numpy()
    made *= (made * block.data).sum() / np.square(made).sum()
    return float(np.linalg.norm(made - block.data) / np.linalg.norm(block.data))


def test_views_that_were_not_used_are_predicted(data_dir: Path) -> None:
    path = data_dir / "ct" / "htc2022" / "tb_subsample_90.mat"
    if not path.is_file():
        pytest.skip(f"no {path}")
    data = loadmat(path, squeeze_me=True, struct_as_record=False)["CtDataLimited"]
    lines = data.sinogram.astype(np.float32).reshape(181, 280, 2).mean(axis=-1)
    angles = data.parameters.angles.astype(float)
    used, unused = views(angles[:141], lines[:141]), views(angles[141::4], lines[141::4])
    full = np.zeros((760, 280), np.float32)
    full[200:341] = lines[:141]
    fbp = reconstructed(Axial(**FIELD), views(angles[0] + 0.5 * (np.arange(760) - 200), full))
    pwls = reconstructed(Pwls(**FIELD), used)
    tv = reconstructed(TotalVariationCt(slope_hu_per_mm=100.0, **FIELD), used)
    left = [unpredicted(image, unused) for image in (fbp, pwls, tv)]
    assert left[1] < 0.65 * left[0] and left[2] < 0.55 * left[0]
