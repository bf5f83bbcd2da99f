"""Curves and maps as SVG, for reports that need no plotting library."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

_WIDTH, _HEIGHT = 420, 300
_LEFT, _TOP, _RIGHT, _BOTTOM = 62, 34, 16, 46
_TICKS = 6


def curve(title: str, axes: tuple[str, str], points: tuple[NDArray, NDArray]) -> str:
    """Return a panel with one curve; both axes begin at 0.

    Parameters
    ----------
    title
        Above it.
    axes
        Names of the axes with their units, horizontal and vertical.
    points
        x, growing, and y.
    """
    x, y = (np.asarray(values, float) for values in points)
    x_ticks, y_ticks = ticks(float(x.max())), ticks(float(y.max()))
    right, top = max(x_ticks[-1], float(x.max())), max(y_ticks[-1], float(y.max()))
    across, up = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    px, py = _LEFT + across * x / right, _TOP + up * (1 - np.maximum(y, 0) / top)
    parts = [_frame(title, axes)]
    for value in x_ticks:
        at = _LEFT + across * value / right
        parts.append(f'<path class="grid" d="M{at:.1f} {_TOP}V{_TOP + up}"/>')
        parts.append(f'<text x="{at:.1f}" y="{_TOP + up + 16}" text-anchor="middle">{value:g}</text>')
    for value in y_ticks:
        at = _TOP + up * (1 - value / top)
        parts.append(f'<path class="grid" d="M{_LEFT} {at:.1f}H{_LEFT + across}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{value:g}</text>')
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(px, py, strict=True))
    return "\n".join([*parts, f'<polyline class="curve" points="{line}"/>'])


def grey_map(title: str, axes: tuple[str, str], values: NDArray, *, reach: float) -> str:
    """Return a panel with a map (y, x) in grey, 0 black, the largest value white; axes from -reach to reach."""
    side = _HEIGHT - _TOP - _BOTTOM
    left = _LEFT + (_WIDTH - _LEFT - _RIGHT - side) // 2
    grey = np.clip(255 * values / max(float(values.max()), 1e-30), 0, 255).astype(np.uint8)
    data = base64.b64encode(png(grey)).decode()
    parts = [
        _frame(title, axes),
        f'<image x="{left}" y="{_TOP}" width="{side}" height="{side}" preserveAspectRatio="none" '
        f'style="image-rendering:pixelated" href="data:image/png;base64,{data}"/>',
    ]
    for part in (-1, 0, 1):
        at, text = left + side * (part + 1) / 2, f"{part * reach:.3g}"
        parts.append(f'<text x="{at:.1f}" y="{_TOP + side + 16}" text-anchor="middle">{text}</text>')
        down = _TOP + side * (part + 1) / 2 + 4
        parts.append(f'<text x="{left - 6}" y="{down:.1f}" text-anchor="end">{text}</text>')
    return "\n".join(parts)


def sheet(panels: Sequence[str], caption: str) -> str:
    """Return an SVG document with panels side by side."""
    width, height = _WIDTH * len(panels), _HEIGHT + 24
    placed = (f'<g transform="translate({k * _WIDTH} 0)">\n{panel}\n</g>' for k, panel in enumerate(panels))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}">',
            "<style>text{font:12px sans-serif;fill:#222}.title{font-weight:bold}.grid{stroke:#ddd;fill:none}"
            ".curve{stroke:#1559a8;stroke-width:2;fill:none}</style>",
            f'<rect width="{width}" height="{height}" fill="#fff"/>',
            *placed,
            f'<text x="12" y="{height - 8}">{escape(caption)}</text>',
            "</svg>\n",
        ]
    )


def ticks(largest: float) -> list[float]:
    """Return round numbers from 0 up to `largest` or just beyond."""
    if not largest > 0:
        return [0.0, 1.0]
    rough = largest / (_TICKS - 1)
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(s for s in (1, 2, 2.5, 5, 10) if s * power >= rough * 0.999) * power
    return [float(f"{k * step:.6g}") for k in range(int(np.ceil(largest / step - 1e-6)) + 1)]


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Return an 8-bit grey (y, x) or colour image (y, x, rgb) as PNG (ISO/IEC 15948)."""
    rows, columns = pixels.shape[:2]
    colour = 2 if pixels.ndim == 3 else 0
    lines = b"".join(b"\0" + np.ascontiguousarray(row).tobytes() for row in pixels)
    chunks = (
        (b"IHDR", struct.pack(">2I5B", columns, rows, 8, colour, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines)),
        (b"IEND", b""),
    )
    body = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def _frame(title: str, axes: tuple[str, str]) -> str:
    middle, height = (_WIDTH + _LEFT - _RIGHT) / 2, (_HEIGHT + _TOP - _BOTTOM) / 2
    return "\n".join(
        [
            f'<text class="title" x="{middle}" y="20" text-anchor="middle">{escape(title)}</text>',
            f'<text x="{middle}" y="{_HEIGHT - 10}" text-anchor="middle">{escape(axes[0])}</text>',
            f'<text transform="translate(14 {height}) rotate(-90)" text-anchor="middle">{escape(axes[1])}</text>',
        ]
    )
