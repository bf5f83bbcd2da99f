"""Reconstruction kernels: the ramp, shaped by a modulation that is given at parts of the Nyquist frequency."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from scipy.interpolate import PchipInterpolator

from acquisition.errors import ConfigError

KERNELS: dict[str, tuple[float, ...]] = {
    "ramp": (1.0, 1.0, 1.0, 1.0, 1.0),
    "soft": (1.0, 0.815, 0.4564, 0.1636, 0.0),
    "standard": (1.0, 0.9338, 0.7441, 0.4425, 0.0531),
    "bone": (1.0, 1.0485, 1.17, 1.2202, 0.9201),
}
"""Modulation of the ramp at 0, 1/4, 1/2, 3/4 and all of the Nyquist frequency."""


def modulation(kernel: str | Sequence[float]) -> tuple[float, ...]:
    """Return a kernel's modulation at evenly spaced parts of the Nyquist frequency.

    Parameters
    ----------
    kernel
        A name of `KERNELS`, or the values themselves, the first one 1.

    Raises
    ------
    ConfigError
        The name is unknown, or the values do not start with 1 (which keeps HU).
    """
    if isinstance(kernel, str):
        if kernel not in KERNELS:
            raise ConfigError("CT kernel", expected=f"one of {', '.join(sorted(KERNELS))}", got=repr(kernel))
        return KERNELS[kernel]
    values = tuple(float(v) for v in kernel)
    if len(values) < 2 or values[0] != 1 or min(values) < 0:
        raise ConfigError("CT kernel", expected="two or more values from 0 up, the first one 1", got=str(values))
    return values


def kernel_name(kernel: str | Sequence[float]) -> str:
    """Return what a kernel is called in DICOM's ConvolutionKernel: its name, CUSTOM for values."""
    return kernel.upper() if isinstance(kernel, str) else "CUSTOM"


def response(n: int, distance_mm: float, kernel: str | Sequence[float], *, dense: int = 1) -> NDArray[np.float32]:
    """Return the filter's spectrum for rows of `n` samples after zero padding, shape (n // 2 + 1,), in 1/mm.

    The spectrum of the sampled ramp (Kak & Slaney, Principles of Computerized Tomographic Imaging, 1988, eq. 3.61)
    times the modulation, which is interpolated over the frequency's square: a cusp at frequency 0 would add the second
    derivative of the projections to the image (-2.3 HU in the middle of 20 cm of water with the soft kernel).
    Where a flying focal spot makes the samples `dense` times as dense as the detector's, the modulation is still that
    at parts of the detector's Nyquist frequency, so that a kernel looks the same; above, it falls straight to 0.
    """
    index = np.minimum(np.arange(n), n - np.arange(n))
    ramp = np.zeros(n)
    odd = index % 2 == 1
    ramp[odd] = -1 / (np.pi * index[odd] * distance_mm) ** 2
    ramp[0] = 1 / (4 * distance_mm**2)
    values = modulation(kernel)
    given, wanted = np.linspace(0, 1, len(values)), np.linspace(0, dense, n // 2 + 1)
    shape = PchipInterpolator(given**2, values)(np.minimum(wanted, 1) ** 2)
    shape *= np.where(wanted > 1, (dense - wanted) / max(dense - 1, 1), 1)
    return (np.fft.rfft(ramp).real * distance_mm * shape).astype(np.float32)


def padded(n: int) -> int:
    """Return the length to which rows of `n` samples are padded so that the filter does not wrap: even, a fast one."""
    return 2 * next_fast_len(n, real=True)
