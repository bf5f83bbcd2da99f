"""What all tests share: where real data is, and which programs from other projects are at hand."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # on few cores BLAS threads wait for each other longer than they work

import pytest

pytest_plugins = ["tests.peers", "tests.kernels.cuda_host"]

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real data sets; the test is skipped, saying so, where it is absent."""
    folder = Path(os.environ.get("ISOCENTER_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data sets not found at {folder} (set ISOCENTER_DATA)")
    return folder
