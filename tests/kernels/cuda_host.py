"""A stand-in for CuPy: the CUDA text compiled by g++, each launch run thread after thread on the CPU.

The glue (`kernels.ct_cuda`) and the kernels (`ct_cuda.cu`) run unchanged; the compiler and the driver are what differs.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from kernels import ct_cuda, registry
from recon.ct import backend
from tests.peers import program, require

_SIGNATURE = re.compile(r'extern "C" __global__ void (\w+)\(([^)]*)\)')
_FLAGS = ["-O2", "-std=c++17", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]


class RawModule:
    """`cupy.RawModule`, as far as it is used here; compiled modules are kept in a folder."""

    def __init__(self, folder: Path, code: str, options: tuple[str, ...]) -> None:
        self._signatures = {name: parameters.split(",") for name, parameters in _SIGNATURE.findall(code)}
        library = folder / f"kernels{'_'.join(options)}.so"
        if not library.exists():
            source = library.with_suffix(".cpp")
            source.write_text("\n".join([_header(), code, *map(_launcher, self._signatures.items())]))
            command = [program("g++") or "g++", *_FLAGS, *options, str(source), "-o", str(library)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        self._library = ctypes.CDLL(str(library))

    def get_function(self, name: str) -> Callable[..., None]:
        n = len(self._signatures[name])
        launch = self._library[f"launch_{name}"]
        launch.argtypes = [ctypes.c_uint * 3, ctypes.c_uint * 3, *[ctypes.c_void_p] * n]
        launch.restype = None

        def kernel(grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[np.uint64, ...]) -> None:
            assert len(arguments) == n, f"{name}: {len(arguments)} arguments, {n} parameters"
            assert all(type(a) is np.uint64 and a for a in arguments), "every argument is the address of a tensor"
            assert min(*grid, *block) >= 1 and block[0] * block[1] * block[2] <= 1024
            assert max(grid[1:]) <= 65535 and grid[0] < 2**31 and block[2] <= 64
            launch((ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*block), *map(int, arguments))

        return kernel


def _header() -> str:
    return Path(__file__).with_name("cuda_host.h").read_text()


def _launcher(signature: tuple[str, list[str]]) -> str:
    name, parameters = signature
    names = ", ".join(re.findall(r"\w+", p)[-1] for p in parameters)
    head = (
        f'extern "C" void launch_{name}(const unsigned int *grid_, const unsigned int *block_, {",".join(parameters)})'
    )
    return f"{head} {{ every_thread(grid_, block_, [&] {{ {name}({names}); }}); }}"


def stand_in(folder: Path) -> ModuleType:
    """Return a module `cupy` whose modules are compiled by g++ into a folder."""

    @contextlib.contextmanager
    def device(index: int | None) -> Iterator[None]:
        yield

    @contextlib.contextmanager
    def from_external(stream: object) -> Iterator[None]:
        assert stream.__cuda_stream__() == (0, 77)  # type: ignore[attr-defined]
        yield

    module = ModuleType("cupy")
    module.RawModule = lambda *, code, options: RawModule(folder, code, options)  # type: ignore[attr-defined]
    module.cuda = SimpleNamespace(  # type: ignore[attr-defined]
        Device=device, Stream=SimpleNamespace(from_external=from_external)
    )
    return module


def forget() -> None:
    """Forget the device, and what was compiled for it."""
    for cached in (registry.device, ct_cuda.compiled, ct_cuda._module):
        cached.cache_clear()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where compiled kernels are kept."""
    return tmp_path_factory.mktemp("cuda_host")


DEVICES = ["host", *([pytest.param("cuda", marks=pytest.mark.gpu)] if torch.cuda.is_available() else [])]


@pytest.fixture(params=DEVICES)
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[None]:
    """CT runs its CUDA kernels: compiled for the CPU, and once more on a GPU where there is one."""
    forget()
    if request.param == "cuda":
        pytest.importorskip("cupy")
        monkeypatch.setenv(registry.ENVIRONMENT, "cuda")
    else:
        require("g++")
        monkeypatch.delenv(registry.ENVIRONMENT, raising=False)
        monkeypatch.setitem(sys.modules, "cupy", stand_in(folder))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda at: SimpleNamespace(cuda_stream=77))
        monkeypatch.setitem(backend.BACKENDS, "cpu", backend.GPU)
    yield
    forget()
