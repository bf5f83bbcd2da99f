"""Real raw data at scanner pace through the whole line into Orthanc, by the commands of the README."""

from __future__ import annotations

import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from acquisition.sources import open_raw
from integration.demo import running
from tests.integration.delivery_samples import until
from tests.peers import Orthanc
from tests.phantoms import nrmse

pytestmark = [pytest.mark.data, pytest.mark.peer("orthanc")]


def streamed(raw: Path, folder: Path, orthanc: Orthanc) -> tuple[dict[str, object], pydicom.Dataset]:
    """Send a file to a fresh service; return what the client reports and the one object in the archive."""
    archive = f"127.0.0.1:{orthanc.dicom_port}:{orthanc.ae_title}"
    command = ["integration", "serve", "--mrd-port", "0", "--http-port", "0", "--data", str(folder / "data")]
    with running(folder, "service", [*command, "--archive", archive]) as ready:
        to = ["--to", f"127.0.0.1:{ready['mrd_port']}", "--pace", "scanner", "--json"]
        send = [sys.executable, "-m", "integration", "send", str(raw), *to]
        report = json.loads(subprocess.run(send, capture_output=True, check=True).stdout)
        until(lambda: len(orthanc.instances()) == 1, 20)
    return report, pydicom.dcmread(BytesIO(orthanc.file(orthanc.instances()[0])))


def pixels_of(dataset: pydicom.Dataset) -> NDArray[np.float64]:
    return dataset.pixel_array.astype(float)


def test_a_real_head_is_in_the_archive_as_its_own_fourier_transform_shows_it(
    data_dir: Path, tmp_path: Path, orthanc: Orthanc
) -> None:
    raw = data_dir / "mri" / "head_gre_3T_16ch.h5"
    report, dataset = streamed(raw, tmp_path, orthanc)
    assert report["troubles"] == []
    assert report["latency_ms"]["p99"] < 500  # type: ignore[index]
    blocks = list(open_raw(raw).items())
    order = np.argsort(np.concatenate([b.head["k1"] for b in blocks]))
    kspace = np.concatenate([b.data for b in blocks])[order].transpose(1, 0, 2)
    images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=(1, 2))), axes=(1, 2))
    expected = np.sqrt((np.abs(images) ** 2).sum(0))
    found = pixels_of(dataset)
    ways = {"as is": found, "rows": found[::-1], "columns": found[:, ::-1], "both": found[::-1, ::-1]}
    errors = {name: nrmse(v * (v * expected).sum() / (v**2).sum(), expected) for name, v in ways.items()}
    assert min(errors, key=errors.__getitem__) == "as is", errors
    assert errors["as is"] < 0.2  # root sum of squares adds noise and shading that adaptive combination has not
    assert min(errors[name] for name in errors if name != "as is") > 0.3


def test_a_prospectively_undersampled_phantom_is_unaliased(data_dir: Path, tmp_path: Path, orthanc: Orthanc) -> None:
    report, dataset = streamed(data_dir / "mri" / "phantom_trufi_3T_12ch_grappa2_noise.h5", tmp_path, orthanc)
    assert report["troubles"] == []
    found = pixels_of(dataset)
    assert found.shape == (64, 128)
    disc = found > 0.15 * found.max()
    rows, columns = np.flatnonzero(disc.any(1)), np.flatnonzero(disc.any(0))
    y, x = np.indices(found.shape)
    radius_y, radius_x = np.ptp(rows) / 2 + 1, np.ptp(columns) / 2 + 1
    inside = ((y - rows.mean()) / radius_y) ** 2 + ((x - columns.mean()) / radius_x) ** 2 <= 1.2
    assert np.ptp(rows) > 40  # the bottle fills the field: an alias would lie half a field away
    assert found[~inside].mean() < 0.02 * found[inside].mean()
    assert "mri.grappa" not in dataset.ImageComments or "HOLD" not in dataset.ImageComments
