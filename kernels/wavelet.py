"""Daubechies-4 wavelet shrinkage of one image in one compiled pass: what iterations on a CPU spend their time on.

A third of the time of strided convolutions, by one thread: on a busy machine nothing waits for a second one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.compile import compiled

SCALING = (0.48296291314469025, 0.836516303737469, 0.22414386804185735, -0.12940952255092145)
"""Daubechies' scaling filter with two vanishing moments (Comm Pure Appl Math 1988;41:909,
DOI 10.1002/cpa.3160410705)."""

_H0, _H1, _H2, _H3 = (np.float32(v) for v in SCALING)


@compiled
def shrink_image(
    image: NDArray[np.float32],
    out: NDArray[np.float32],
    work: NDArray[np.float32],
    setting: tuple[int, int, int, float],
) -> None:  # pragma: no cover - compiled
    """Turn an image cyclically, shrink the details of its wavelet transform, turn it back.

    Parameters
    ----------
    image, out
        Real and imaginary parts (y, x, 2).
    work
        (2, 2, padded y, padded x).
    setting
        Levels, shift along y and x, threshold.
    """
    levels, shift_y, shift_x, threshold = setting
    a, b = work[0], work[1]
    height, width = a.shape[1], a.shape[2]
    _load(image, a, shift_y, shift_x)
    h, w = height, width
    for _ in range(levels):
        _rows_apart(a, b, h, w)
        _columns_apart(b, a, h, w)
        _shrink(a, h, w, np.float32(threshold))
        h //= 2
        w //= 2
    for _ in range(levels):
        h *= 2
        w *= 2
        _columns_together(a, b, h, w)
        _rows_together(b, a, h, w)
    _store(a, out, shift_y, shift_x)


@compiled
def _load(
    image: NDArray[np.float32], a: NDArray[np.float32], shift_y: int, shift_x: int
) -> None:  # pragma: no cover - compiled
    """Turn (y, x, 2) by the shift into planes (2, y, x); zero beyond."""
    n_y, n_x = image.shape[0], image.shape[1]
    a[:, n_y:] = 0
    a[:, :, n_x:] = 0
    for y in range(n_y):
        to = (y + shift_y) % n_y
        for x in range(n_x - shift_x):
            a[0, to, x + shift_x] = image[y, x, 0]
            a[1, to, x + shift_x] = image[y, x, 1]
        for x in range(n_x - shift_x, n_x):
            a[0, to, x + shift_x - n_x] = image[y, x, 0]
            a[1, to, x + shift_x - n_x] = image[y, x, 1]


@compiled
def _store(
    a: NDArray[np.float32], out: NDArray[np.float32], shift_y: int, shift_x: int
) -> None:  # pragma: no cover - compiled
    n_y, n_x = out.shape[0], out.shape[1]
    for y in range(n_y):
        of = (y + shift_y) % n_y
        for x in range(n_x - shift_x):
            out[y, x, 0] = a[0, of, x + shift_x]
            out[y, x, 1] = a[1, of, x + shift_x]
        for x in range(n_x - shift_x, n_x):
            out[y, x, 0] = a[0, of, x + shift_x - n_x]
            out[y, x, 1] = a[1, of, x + shift_x - n_x]


@compiled
def _rows_apart(a: NDArray[np.float32], b: NDArray[np.float32], h: int, w: int) -> None:  # pragma: no cover - compiled
    """Each row into its low half and its high half."""
    half = w // 2
    for plane in range(2):
        for y in range(h):
            row, to = a[plane, y], b[plane, y]
            for i in range(half - 1):
                x0, x1, x2, x3 = row[2 * i], row[2 * i + 1], row[2 * i + 2], row[2 * i + 3]
                to[i] = _H0 * x0 + _H1 * x1 + _H2 * x2 + _H3 * x3
            for i in range(half - 1):
                x0, x1, x2, x3 = row[2 * i], row[2 * i + 1], row[2 * i + 2], row[2 * i + 3]
                to[half + i] = _H3 * x0 - _H2 * x1 + _H1 * x2 - _H0 * x3
            x0, x1, x2, x3 = row[w - 2], row[w - 1], row[0], row[1]
            to[half - 1] = _H0 * x0 + _H1 * x1 + _H2 * x2 + _H3 * x3
            to[w - 1] = _H3 * x0 - _H2 * x1 + _H1 * x2 - _H0 * x3


@compiled
def _columns_apart(
    b: NDArray[np.float32], a: NDArray[np.float32], h: int, w: int
) -> None:  # pragma: no cover - compiled
    half = h // 2
    for plane in range(2):
        for i in range(half):
            r0, r1 = b[plane, 2 * i], b[plane, 2 * i + 1]
            r2, r3 = b[plane, (2 * i + 2) % h], b[plane, (2 * i + 3) % h]
            low, high = a[plane, i], a[plane, half + i]
            for x in range(w):
                low[x] = _H0 * r0[x] + _H1 * r1[x] + _H2 * r2[x] + _H3 * r3[x]
            for x in range(w):
                high[x] = _H3 * r0[x] - _H2 * r1[x] + _H1 * r2[x] - _H0 * r3[x]


@compiled
def _shrink(a: NDArray[np.float32], h: int, w: int, threshold: np.float32) -> None:  # pragma: no cover - compiled
    """Shrink the details of one scale; the approximation is the first quarter."""
    for y in range(h):
        first = w // 2 if y < h // 2 else 0
        real, imag = a[0, y], a[1, y]
        for x in range(first, w):
            size = np.sqrt(real[x] * real[x] + imag[x] * imag[x])
            keep = max(size - threshold, np.float32(0)) / max(size, np.float32(1e-30))
            real[x] *= keep
            imag[x] *= keep


@compiled
def _columns_together(
    a: NDArray[np.float32], b: NDArray[np.float32], h: int, w: int
) -> None:  # pragma: no cover - compiled
    half = h // 2
    for plane in range(2):
        for i in range(half):
            low, high = a[plane, i], a[plane, half + i]
            low_before, high_before = a[plane, (i - 1) % half], a[plane, half + (i - 1) % half]
            even, odd = b[plane, 2 * i], b[plane, 2 * i + 1]
            for x in range(w):
                even[x] = _H0 * low[x] + _H2 * low_before[x] + _H3 * high[x] + _H1 * high_before[x]
            for x in range(w):
                odd[x] = _H1 * low[x] + _H3 * low_before[x] - _H2 * high[x] - _H0 * high_before[x]


@compiled
def _rows_together(
    b: NDArray[np.float32], a: NDArray[np.float32], h: int, w: int
) -> None:  # pragma: no cover - compiled
    half = w // 2
    for plane in range(2):
        for y in range(h):
            row, to = b[plane, y], a[plane, y]
            to[0] = _H0 * row[0] + _H2 * row[half - 1] + _H3 * row[half] + _H1 * row[w - 1]
            to[1] = _H1 * row[0] + _H3 * row[half - 1] - _H2 * row[half] - _H0 * row[w - 1]
            for i in range(1, half):
                low, low_before, high, high_before = row[i], row[i - 1], row[half + i], row[half + i - 1]
                to[2 * i] = _H0 * low + _H2 * low_before + _H3 * high + _H1 * high_before
                to[2 * i + 1] = _H1 * low + _H3 * low_before - _H2 * high - _H0 * high_before
