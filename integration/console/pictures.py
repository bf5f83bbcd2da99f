"""Pictures for the page and for programs: PNG with a window, or the stored integers with what they mean."""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from integration.console.gallery import Picture, Series
from integration.plot import png

SIZES = (16, 4096)
"""Least and greatest size of a PNG's longer side [pixels]."""


def as_png(picture: Picture, *, centre: float | None, width: float | None, size: int) -> bytes:
    """Return a picture as 8-bit PNG (PS3.3 C.11.2.1.2 has the same window, up to half a step).

    Parameters
    ----------
    picture
        What is shown.
    centre, width
        Window [image's unit]; from 0 (or as far below as above, where codes are signed) to the white value when None.
    size
        Longest side allowed [pixels]; pixels are left out until it fits.
    """
    default_centre, default_width = window(picture)
    middle = default_centre if centre is None else centre
    wide = max(1e-12, default_width if width is None else width)
    step = max(1, -(-max(picture.codes.shape) // size))
    values = picture.codes[::step, ::step] * np.float32(picture.scale.slope) + np.float32(picture.scale.intercept)
    grey = (values - np.float32(middle - wide / 2)) * np.float32(255 / wide)
    return png(np.clip(grey + 0.5, 0, 255).astype(np.uint8))


def window(picture: Picture) -> tuple[float, float]:
    """Return the window (centre, width) that shows everything up to the white value [image's unit]."""
    top = picture.top or 1.0
    return (0.0, 2 * top) if picture.scale.signed else (top / 2, top)


def as_raw(picture: Picture) -> tuple[bytes, dict[str, str]]:
    """Return the stored integers (y, x), little endian, and headers that say how to read them."""
    codes: NDArray = picture.codes if sys.byteorder == "little" else picture.codes.byteswap()
    headers = {
        "X-Shape": ",".join(map(str, codes.shape)),
        "X-Type": "int16" if picture.scale.signed else "uint16",
        "X-Slope": repr(float(picture.scale.slope)),
        "X-Intercept": repr(float(picture.scale.intercept)),
        "X-Top": repr(float(picture.top)),
    }
    return np.ascontiguousarray(codes).tobytes(), headers


def summary(series: Series) -> dict[str, object]:
    """Return what a series is, as JSON."""
    return {
        "output": series.output,
        "unit": series.unit,
        "kind": series.kind.value,
        "network": series.note,
        "slices": series.n,
    }
