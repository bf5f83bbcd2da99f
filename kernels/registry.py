"""Which function does an operation here: ``op -> {reference, cpu, cuda}``, chosen once at start.

``reference`` is plain NumPy in float64, written like the equation; it is the judge in the tests. ``cpu`` and
``cuda`` are torch: the same text runs on both, on the device its tensors live on.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from importlib import import_module

import torch

BACKENDS = {"reference": "kernels.reference", "cpu": "kernels.tensor", "cuda": "kernels.tensor"}
"""Module of each backend."""

OPS = (
    "centred_fft",
    "centred_ifft",
    "resize",
    "whiten",
    "grappa_calibrate",
    "grappa_hybrid",
    "grappa_apply",
    "walsh",
    "upsample",
    "unit_norm",
    "coil_combine",
    "rss",
)
"""Every operation; each backend has all of them."""

ENVIRONMENT = "ISOCENTER_DEVICE"
"""Environment variable that names the device: cpu or cuda."""


@cache
def device() -> torch.device:
    """Return the device that large arrays live on: ``ISOCENTER_DEVICE``, the CPU where it is not set.

    Raises
    ------
    LookupError
        The named device does not exist on this machine.
    """
    name = os.environ.get(ENVIRONMENT, "cpu")
    if name not in ("cpu", "cuda") or (name == "cuda" and not torch.cuda.is_available()):
        raise LookupError(f"{ENVIRONMENT}={name}: no such device here. Use cpu, or cuda where torch sees a GPU")
    return torch.device(name)


@cache
def kernel(op: str, backend: str | None = None) -> Callable:
    """Return the function that does `op`.

    Parameters
    ----------
    op
        One of `OPS`.
    backend
        One of `BACKENDS`; by default the one of `device`.

    Raises
    ------
    LookupError
        There is no such operation or backend.
    """
    backend = backend or device().type
    if op not in OPS or backend not in BACKENDS:
        raise LookupError(f"kernel {op}/{backend}: known are {', '.join(OPS)} for {', '.join(BACKENDS)}")
    return getattr(import_module(BACKENDS[backend]), op)
