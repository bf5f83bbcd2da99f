"""What a network runs on: OpenVINO or torch on the CPU, torch with a CUDA graph on a GPU. One interface.

``prepare`` pays for everything that the first call would cost (export, compilation, graph capture, warm-up) when the
scan's header is there; ``run`` is the hot path. OpenVINO was chosen for the CPU after measuring beside each other, on a
busy machine (U-Net 32 channels, 320 x 320, two cores without matrix units): its bf16 takes a third of the time of
torch's bf16 and a quarter of torch's float32, both with channels last.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import logging
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from acquisition.errors import ConfigError, ReconError, one_of
from kernels.registry import device

LOG = logging.getLogger(__name__)
Made = TypeVar("Made")

Floats = NDArray[np.float32]
Shape = tuple[int, ...]
Precision = Literal["bf16", "f32"]
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
_WARM_UPS = 3
_FAILURES = (
    "GeneralFailure",
    "InitializationFailure",
    "NotImplementedFailure",
    "OpConversionFailure",
    "OpValidationFailure",
)


class Engine(Protocol):
    """Runs one network; for one thread at a time."""

    name: str
    """What it is, with the precision, e.g. openvino-bf16; for the image's provenance."""
    preparations: int
    """How often something was prepared: it must not grow in the hot path."""
    prepare_s: float
    """How long the last preparation took [s]."""

    def prepare(self, shape: Shape) -> None:
        """Make ready for inputs (n, channel, y, x) of this shape; nothing to do where it is.

        Raises
        ------
        ReconError
            It cannot be done here.
        """

    def run(self, x: Floats) -> Floats:
        """Return what the network makes of `x`, which has the prepared shape; the result is the caller's.

        Raises
        ------
        ReconError
            It did not work out.
        """


class _Prepared:
    """What engines share: the shape they are ready for, errors made ours."""

    def __init__(self, network: nn.Module, *, precision: Precision) -> None:
        self.network, self.precision = network, precision
        self.preparations, self.prepare_s = 0, 0.0
        self._shape: Shape = ()

    name = ""
    failures: tuple[type[Exception], ...] = (RuntimeError, ValueError, TypeError)
    """What the library raises where a network, a shape or the memory does not suit it."""

    def prepare(self, shape: Shape) -> None:
        """Make ready for inputs of this shape, and run once."""
        if shape == self._shape:
            return
        start = time.perf_counter()
        try:
            self._prepare(shape)
            self._shape = shape
            self._run(np.zeros(shape, np.float32))
        except self.failures as error:
            self._shape = ()
            raise _failed(self.name, f"prepare for {shape}", error) from error
        self.preparations += 1
        self.prepare_s = time.perf_counter() - start

    def run(self, x: Floats) -> Floats:
        """Run the network."""
        if x.shape != self._shape:
            raise ReconError(f"engine {self.name}", expected=f"input {self._shape}", got=str(x.shape))
        try:
            return self._run(x)
        except self.failures as error:
            raise _failed(self.name, "run", error) from error

    def _prepare(self, shape: Shape) -> None:
        raise NotImplementedError

    def _run(self, x: Floats) -> Floats:
        raise NotImplementedError


class TorchCpu(_Prepared):
    """The judge: torch in float32."""

    name = "torch-f32"

    def _prepare(self, shape: Shape) -> None:
        """Nothing is compiled."""

    def _run(self, x: Floats) -> Floats:
        with torch.inference_mode():
            result: Floats = self.network(torch.from_numpy(x)).numpy().copy()  # it may be a view of the input
        return result


class TorchCuda(_Prepared):
    """A CUDA graph of the network for one shape: no launch costs, no Python between kernels."""

    def __init__(self, network: nn.Module, *, precision: Precision) -> None:
        super().__init__(network, precision=precision)
        self.name = f"cuda-{precision}"
        self._type = torch.bfloat16 if precision == "bf16" else torch.float32

    def _prepare(self, shape: Shape) -> None:
        order = _FORMATS[len(shape)]
        network = copy.deepcopy(self.network).to("cuda", self._type)
        network = network.to(memory_format=order)  # type: ignore[call-overload]
        self._pinned = torch.empty(shape, dtype=torch.float32, pin_memory=True)
        self._x = torch.zeros(shape, dtype=self._type, device="cuda").to(memory_format=order)
        own = torch.cuda.Stream()
        own.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(own), torch.inference_mode():
            for _ in range(_WARM_UPS):  # libraries choose their algorithms before the capture
                network(self._x)
        torch.cuda.current_stream().wait_stream(own)
        self._graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(self._graph):
            self._y = network(self._x).float()

    def _run(self, x: Floats) -> Floats:
        self._pinned.copy_(torch.from_numpy(x))
        with torch.inference_mode():
            self._x.copy_(self._pinned, non_blocking=True)
            self._graph.replay()
            result: Floats = self._y.cpu().numpy()
        return result


class OpenVino(_Prepared):
    """Compiled for this CPU; bf16 where it has instructions for it, else float32, and the name says which."""

    def __init__(self, network: nn.Module, *, precision: Precision) -> None:
        can = "BF16" in _openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        super().__init__(network, precision=precision if can else "f32")
        self.name = f"openvino-{self.precision}"
        frontend = importlib.import_module("openvino.frontend")  # its exceptions are no RuntimeError
        self.failures = (*_Prepared.failures, *(getattr(frontend, name) for name in _FAILURES))

    def _prepare(self, shape: Shape) -> None:
        self._request = _compiled(self.network, shape, self.precision).create_infer_request()

    def _run(self, x: Floats) -> Floats:
        result: Floats = self._request.infer([x])[0]
        return result.copy()


@lru_cache(maxsize=32)  # an unrolled network is several
def _compiled(network: nn.Module, shape: Shape, precision: Precision) -> Any:
    """Return the compiled network; the next scan of this shape finds it ready."""
    openvino = _openvino()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about itself
        exported = torch.export.export(network, (torch.zeros(shape),))
        model = openvino.convert_model(exported)
    options = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    return openvino.Core().compile_model(model, "CPU", options)


def _openvino() -> Any:
    """Return the package, deaf to its telemetry, which would send a message from the hospital at each import."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # import raises, a stub stands in
    return importlib.import_module("openvino")


ENGINES: Mapping[str, Any] = {"cuda": TorchCuda, "openvino": OpenVino, "torch": TorchCpu}
"""By name, as protocols and the command line give it."""


def available() -> tuple[str, ...]:
    """Return the engines that this computer has, the fastest first."""
    here = {
        "cuda": torch.cuda.is_available(),
        "openvino": importlib.util.find_spec("openvino") is not None,
        "torch": True,
    }
    return tuple(name for name, there in here.items() if there)


def candidates(name: str) -> tuple[str, ...]:
    """Return the engines that `name` stands for, the next one for a network that the one before cannot run.

    ``auto`` is CUDA where the service's device is, then OpenVINO, then torch; any other name is itself.

    Raises
    ------
    ConfigError
        There is no such engine, or not on this computer.
    """
    if name == "auto":
        return tuple(e for e in available() if e != "cuda" or device().type == "cuda")
    if name not in available():
        raise ConfigError("engine", expected=f"auto, or {one_of(name, available())}", got=repr(name))
    return (name,)


def first_able(name: str, make: Callable[[str], Made]) -> Made:
    """Return what `make` makes with the first engine that `name` stands for and that can; others are logged.

    Raises
    ------
    ReconError
        None can; the first one's reason.
    """
    failed: ReconError | None = None
    for each in candidates(name):
        try:
            return make(each)
        except ReconError as error:
            LOG.warning("engine %s is passed over: %s", each, error)
            failed = failed or error
    assert failed is not None
    raise failed


def engine(name: str, network: nn.Module, *, precision: Precision) -> Engine:
    """Make the first engine that `name` stands for, see `candidates`.

    Raises
    ------
    ConfigError
        There is no such engine, or not on this computer.
    """
    made: Engine = ENGINES[candidates(name)[0]](network, precision=precision)
    return made


def _failed(name: str, what: str, error: Exception) -> ReconError:
    told = " ".join(str(error).split())[:300]
    return ReconError(f"engine {name}", expected=what, got=told, action="the conventional image is not affected")


__all__ = ["ENGINES", "Engine", "OpenVino", "TorchCpu", "TorchCuda", "available", "candidates", "engine"]
