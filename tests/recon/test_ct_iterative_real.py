"""Real acrylic discs over 90 degrees (Helsinki Tomography Challenge 2022): what is predicted of views not used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from acquisition.items import Image, Projections
from acquisition.scan import Scan
from recon.ct.fbp import Axial
from recon.ct.iterative import Pwls, TotalVariationCt
from recon.ct.project import ConeProjector
from tests.benchmarks.ct_limited import backprojected, real, reconstructed

pytestmark = pytest.mark.data

FIELD = {"matrix": 128, "mu_water_per_mm": 0.0315}  # acrylic at 45 kV


def unpredicted(image: Image, scan: Scan, block: Projections) -> float:
    """The part of measured lines that the image does not predict, after the best scale."""
    mu = torch.from_numpy((image.data / 1000 + 1).clip(0).astype(np.float32))
    made = ConeProjector(scan.require_ct(), block.head, image.grid)(mu).numpy()
    made *= (made * block.data).sum() / np.square(made).sum()
    return float(np.linalg.norm(made - block.data) / np.linalg.norm(block.data))


def test_views_that_were_not_used_are_predicted(data_dir: Path) -> None:
    path = data_dir / "ct" / "htc2022"
    if not path.is_dir():
        pytest.skip(f"no {path}")
    scan, block = real(path)
    used, unused = (
        replace(block, head=block.head[at], data=block.data[at]) for at in (slice(141), slice(141, None, 4))
    )
    fbp = backprojected(Axial(**FIELD), scan, used)
    pwls = reconstructed(Pwls(**FIELD), scan, used)
    tv = reconstructed(TotalVariationCt(slope_hu_per_mm=100.0, **FIELD), scan, used)
    left = [unpredicted(image, scan, unused) for image in (fbp, pwls, tv)]
    assert left[1] < 0.65 * left[0] and left[2] < 0.55 * left[0]
