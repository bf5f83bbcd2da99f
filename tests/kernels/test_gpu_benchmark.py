"""The benchmark for GPUs runs where there is none: it says so, and its tables are filled by the stand-in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from recon.ct import backend
from tests.benchmarks import gpu as benchmark


def test_without_a_gpu_it_says_so_and_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert benchmark.main() == 2
    assert capsys.readouterr().out == "no GPU benchmark: torch sees no CUDA device\n"


@pytest.mark.parametrize("gpu", ["host"], indirect=True)
def test_its_tables_compare_the_two(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def on(name: str) -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setitem(backend.BACKENDS, "cpu", backend.BACKENDS["cuda"] if name == "cuda" else backend.HOST)
            yield

    monkeypatch.setattr(benchmark, "on", on)
    monkeypatch.setattr(benchmark, "ROUNDS", 1)
    size = benchmark.Size(16, 8)
    numbers = [re.findall(r"\d\.\de[-+]\d\d", row) for row in benchmark.parity_table(size)][2:]
    assert [len(n) for n in numbers] == [2] * 5
    for pair, limit in zip(numbers, (1e-5, 1e-5, 0.03, 1e-6, 1e-4), strict=True):
        assert all(0 <= float(n) < limit for n in pair)
    assert len(list(benchmark.speed_table(size))) == 2 + 6
    assert len(list(benchmark.mri_table(8))) == 2 + 12
