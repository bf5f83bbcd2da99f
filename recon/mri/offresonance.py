"""Samples taken while the field is not the same everywhere: the transform with off-resonance, in time segments.

``y_j = sum_r x_r exp(2 pi i f_r t_j) exp(-2 pi i k_j r)``. Over the range of f, ``exp(2 pi i f t)`` is a sum of a few
``b_l(t) exp(2 pi i f tau_l)``, so the transform is a sum of as many plain ones.

References
----------
Noll et al., IEEE Trans Med Imaging 1991;10:629, DOI 10.1109/42.108599 (time segments).
Sutton, Noll, Fessler, IEEE Trans Med Imaging 2003;22:178, DOI 10.1109/TMI.2002.808360 (their best interpolation).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acquisition.errors import DataError
from recon.linop import LinearOperator
from recon.nufft import Nufft

_ERROR = {torch.complex64: 2e-3, torch.complex128: 1e-6}
_MOST = 64
_FREQUENCIES = 256


class OffResonance(LinearOperator):
    """Images (coil, *shape) to samples (coil, sample) under off-resonance; scaled like `Nufft`.

    Parameters
    ----------
    plain
        The transform without off-resonance.
    field_hz
        Off-resonance of each voxel, the image's shape [Hz].
    time_s
        Time of each sample after the echo (sample,) [s].

    Raises
    ------
    DataError
        Sizes do not fit, numbers are not finite, or the phase range would need too many segments.
    """

    def __init__(self, plain: Nufft, field_hz: NDArray[np.float32], time_s: NDArray[np.float64]) -> None:
        super().__init__(plain.domain, plain.range)
        shape, n = tuple(plain.domain[1:]), plain.range[1]
        if field_hz.shape != shape or time_s.shape != (n,):
            raise DataError(
                "field map",
                expected=f"{shape} voxels and {n} sample times",
                got=f"{field_hz.shape} and {time_s.shape}",
                action="measure the field on the image's grid",
            )
        if not (np.isfinite(field_hz).all() and np.isfinite(time_s).all()):
            raise DataError("field map", expected="finite numbers", got="NaN or infinite")
        self._plain = plain
        places, weights = segments(field_hz, time_s, error=_ERROR[plain.dtype])
        turn = np.exp(2j * np.pi * places.reshape(-1, *(1,) * len(shape)) * field_hz)
        self._turn = torch.from_numpy(turn).to(plain.dtype)
        self._weights = torch.from_numpy(weights).to(plain.dtype)

    @property
    def n_segments(self) -> int:
        """Time segments."""
        return len(self._turn)

    def _forward(self, x: Tensor) -> Tensor:
        out = torch.zeros(self.range, dtype=x.dtype)
        for turn, weight in zip(self._turn, self._weights, strict=True):
            out.addcmul_(weight, self._plain(x * turn))
        return out

    def _adjoint(self, y: Tensor) -> Tensor:
        out = torch.zeros(self.domain, dtype=y.dtype)
        for turn, weight in zip(self._turn, self._weights, strict=True):
            out.addcmul_(turn.conj(), self._plain.adjoint(y * weight.conj()))
        return out


def segments(
    field_hz: NDArray[np.float32], time_s: NDArray[np.float64], *, error: float
) -> tuple[NDArray[np.float64], NDArray[np.complex128]]:
    """Return the fewest times tau (segment,) [s] and weights b (segment, sample) that keep the root mean square of
    ``exp(2 pi i f t) - sum_l b_l(t) exp(2 pi i f tau_l)`` over the field's range below `error` for each sample.

    Raises
    ------
    DataError
        More than 64 segments would be needed.
    """
    low, high = float(field_hz.min()), float(field_hz.max())
    frequency = np.linspace(low, high, _FREQUENCIES)
    times, where = np.unique(time_s, return_inverse=True)
    wanted = np.exp(2j * np.pi * frequency[:, None] * times)
    turns = (high - low) * float(np.ptp(times))
    for n in range(max(1, int(turns)), _MOST + 1):
        places = np.linspace(times[0], times[-1], n) if n > 1 else times.mean(keepdims=True)
        basis = np.exp(2j * np.pi * frequency[:, None] * places)
        weights, *_ = np.linalg.lstsq(basis, wanted, rcond=1e-10)
        rest = np.sqrt((np.abs(basis @ weights - wanted) ** 2).mean(axis=0))
        if rest.max() < error:
            return places, weights[:, where]
    raise DataError(
        "field map",
        expected=f"phases that {_MOST} time segments follow",
        got=f"{high - low:.0f} Hz over {1e3 * np.ptp(times):.1f} ms",
        action="check the field map and the sample times; shim, or shorten the readout",
    )
