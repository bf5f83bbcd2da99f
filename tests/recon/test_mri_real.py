"""Real data through the whole chain: a head and its own undersampling, and a phantom with a noise scan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from acquisition.items import Flag, Image, Readouts
from acquisition.mri import Prewhiten
from acquisition.scan import MrHeader, Scan
from tests.recon.helpers import levels, merged, nrmse, read_h5, run

pytestmark = pytest.mark.data
HEAD, TRUFI = "head_gre_3T_16ch.h5", "phantom_trufi_3T_12ch_grappa2_noise.h5"


def undersampled(scan: Scan, blocks: list[Readouts], r: int, acs: int = 24) -> tuple[Scan, list[Readouts]]:
    """Keep every r-th line and the middle `acs`, flagged as a scanner does."""
    encoding = replace(scan.require_mr().encodings[0], acceleration=(1.0, float(r)), calibration_mode="embedded")
    centre = encoding.matrix[1] // 2
    kept = []
    for block in blocks:
        k1 = int(block.head["k1"][0])
        middle = centre - acs // 2 <= k1 < centre - acs // 2 + acs
        if k1 % r == 0 or middle:
            head = block.head.copy()
            head["flags"] = int(Flag.CALIBRATION) if k1 % r else 0
            kept.append(replace(block, head=head))
    kept[-1].head["flags"] |= np.uint64(Flag.LAST_IN_MEASUREMENT)
    return replace(scan, mr=MrHeader(encodings=(encoding,))), kept


def head(data_dir: Path, r: int = 1, **changed) -> Image:
    scan, blocks = read_h5(data_dir / "mri" / HEAD)
    if r > 1:
        scan, blocks = undersampled(scan, blocks, r)
    (image,), _ = run(scan, merged(blocks, 7), **changed)
    return image


def test_the_head_is_a_head(data_dir: Path) -> None:
    image = head(data_dir)
    assert image.data.shape == (1, 128, 128)
    assert image.grid.spacing_mm == (3, 2, 2)
    assert levels(image, "mri.geometry") == ["FLAG"]
    bright = image.data[0] > 0.1 * np.percentile(image.data, 99)
    assert 0.2 < bright.mean() < 0.5
    air = np.concatenate([image.data[0, :8, :8].ravel(), image.data[0, -8:, -8:].ravel()])
    assert np.median(image.data[0][bright]) > 15 * air.mean()


@pytest.mark.parametrize(("r", "limit"), [(2, 0.022), (3, 0.034), (4, 0.058)])
def test_the_undersampled_head_is_its_full_self(data_dir: Path, r: int, limit: float) -> None:
    """In-object NRMSE against its own full data: .0217, .0330, .0562 measured; zero-filled .088, .114, .128."""
    full, image, zeros = head(data_dir), head(data_dir, r), head(data_dir, r, grappa=None)
    assert nrmse(image.data, full.data) < limit
    assert nrmse(zeros.data, full.data) > 2 * limit
    assert levels(image, "mri.grappa") == ["PASS"]


def test_a_phantom_with_noise_scan_is_whitened_and_unaliased(data_dir: Path) -> None:
    scan, blocks = read_h5(data_dir / "mri" / TRUFI)
    (image,), verdicts = run(scan, blocks)
    assert image.data.shape == (1, 64, 128)
    assert image.unit == "1"
    assert not any(v.check == "mri.lines" for v in image.verdicts)
    assert [(v.check, v.level.value) for v in verdicts] == [("mri.noise", "PASS")]
    assert levels(image, "mri.grappa") == ["PASS"]
    (aliased,), _ = run(scan, blocks, grappa=None)
    bottle = image.data[0] > 0.15 * image.data.max()
    rows = np.flatnonzero(bottle.any(axis=1))
    ghost = np.roll(bottle, 32, axis=0) & ~bottle
    ghost &= ~np.roll(bottle, 2, axis=0) & ~np.roll(bottle, -2, axis=0)
    signal = np.median(image.data[0][bottle])
    assert len(rows) < 60
    assert np.median(image.data[0][ghost]) < 0.02 * signal
    assert np.median(aliased.data[0][ghost]) > 3 * np.median(image.data[0][ghost])


def test_the_noise_of_the_real_noise_scan_becomes_white(data_dir: Path) -> None:
    scan, blocks = read_h5(data_dir / "mri" / TRUFI)
    noise = next(b for b in blocks if b.has(Flag.NOISE).all())
    step = Prewhiten(receiver_noise_bandwidth=1.0)
    step.open(scan)
    assert not list(step.feed(noise))
    head = noise.head.copy()
    head["flags"] = 0
    *_, white = step.feed(replace(noise, head=head))
    covariance = white.data[0] @ white.data[0].conj().T / white.data.shape[2]
    np.testing.assert_allclose(covariance, np.eye(12), atol=1e-4)
