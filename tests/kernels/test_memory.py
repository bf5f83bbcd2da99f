"""Memory that is kept."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kernels.memory import keep_memory

FAULTS = """
import resource, sys, threading
import torch
from kernels.memory import keep_memory
if sys.argv[1] == "keep":
    assert keep_memory()
def work():
    for _ in range(10):
        torch.ones(2 << 20)  # 8 MiB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(2 << 20)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator only")
def test_freed_pages_are_used_again() -> None:
    faults = {
        mode: int(subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, check=True).stdout)
        for mode in ("keep", "as is")
    }
    assert faults["keep"] < 0.2 * faults["as is"], faults


def test_elsewhere_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_memory() is False
