"""A slice plan as one page: a localizer of each orientation with the planned slices over it, and all that in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from acquisition.geometry import Grid
from acquisition.plan_lines import Line
from acquisition.slice_plan import SlicePlan
from integration.letters import HEIGHT, lettered

Picture = NDArray[np.uint8]
Floats = NDArray[np.float64]
Shown = tuple[Floats, Grid, Sequence[Line]]
Drawn = tuple[int, Floats, Floats]
"""Number of a slice, ends of its line (x, y) on the page."""

_SIDE = 384  # pixels of one image on the page
_MARGIN, _SCALE = 10, 2
_LINE = HEIGHT * _SCALE + 6
_MOST = 3
_NEAREST_LINES = 3.0  # pixels between lines
_CROSS, _CROSS_MM = 7, 6.0
_YELLOW, _RED, _WHITE = (255, 220, 0), (255, 70, 40), (235, 235, 235)
_LETTERS = ("RL", "AP", "FH")
"""Sides of the patient at smaller and larger LPS coordinates."""
_NAMES = ("SAGITTAL", "CORONAL", "AXIAL")


def page(shown: Sequence[Shown], plan: SlicePlan) -> Picture:
    """Return the page (y, x, rgb).

    Parameters
    ----------
    shown
        Images (y, x) with their grids and lines; of each orientation the one nearest to the plan's centre is taken.
    plan
        What its words tell.
    """
    panels = [_panel(one, plan) for one in _chosen(shown, plan)]
    words = _words(plan)
    height = _SIDE + _LINE + 3 * _MARGIN + len(words) * _LINE
    width = max(len(panels) * (_SIDE + _MARGIN) + _MARGIN, 2 * _SIDE + 3 * _MARGIN)
    picture = np.zeros((height, width, 3), np.uint8)
    for k, (panel, name) in enumerate(panels):
        x = _MARGIN + k * (_SIDE + _MARGIN)
        picture[_MARGIN : _MARGIN + _SIDE, x : x + _SIDE] = panel
        _write(picture, name, (_SIDE + 2 * _MARGIN, x), _WHITE)
    for k, line in enumerate(words):
        _write(picture, line, (_SIDE + 2 * _MARGIN + (k + 1) * _LINE, _MARGIN), _YELLOW if k == 0 else _WHITE)
    return picture


def _chosen(shown: Sequence[Shown], plan: SlicePlan) -> list[Shown]:
    best: dict[int, tuple[float, Shown]] = {}
    for one in shown:
        normal = np.asarray(one[1].normal)
        away = abs(float((np.asarray(plan.centre_mm) - one[1].centre_mm) @ normal))
        axis = int(np.argmax(np.abs(normal)))
        if axis not in best or away < best[axis][0]:
            best[axis] = (away, one)
    return [best[axis][1] for axis in sorted(best)][:_MOST]


def _panel(shown: Shown, plan: SlicePlan) -> tuple[Picture, str]:
    """Return one image in a square, its shape kept, with lines, the outer ones red, landmarks, and where sides look."""
    pixels, grid, lines = shown
    n_y, n_x = pixels.shape
    size = np.array([n_y * grid.spacing_mm[1], n_x * grid.spacing_mm[2]])
    scale = _SIDE / size.max()
    out = np.zeros((_SIDE, _SIDE, 3), np.uint8)
    ny, nx = (max(1, int(v)) for v in np.floor(size * scale))
    rows, columns = np.arange(ny) * n_y // ny, np.arange(nx) * n_x // nx
    low, high = np.percentile(pixels, (1, 99.5))
    grey = np.clip((pixels - low) / max(float(high - low), 1e-12), 0, 1)[np.ix_(rows, columns)]
    y0, x0 = (_SIDE - ny) // 2, (_SIDE - nx) // 2
    out[y0 : y0 + ny, x0 : x0 + nx] = (200 * grey).astype(np.uint8)[..., None]
    corner, zoom = np.array([x0, y0]), np.array([nx / n_x, ny / n_y])
    drawn = [(line.slice, *(corner + (np.asarray(e) + 0.5) * zoom for e in (line.start, line.stop))) for line in lines]
    outer = {0, plan.n_slices - 1}
    for number, start, stop in _apart(drawn, {*outer, plan.n_slices // 2}):
        _draw(out, start, stop, colour=_RED if number in outer else _YELLOW)
    for landmark in plan.landmarks_mm.values():
        _cross(out, np.asarray(landmark), grid, corner=corner, zoom=zoom)
    for letter, place in _sides(grid):
        _write(out, letter, place, _WHITE)
    return out, _NAMES[int(np.argmax(np.abs(grid.normal)))]


def _apart(lines: Sequence[Drawn], few: set[int]) -> list[Drawn]:
    """Return the lines; only a `few` where all of them would hide the image."""
    distances = [float(np.linalg.norm(b[1] - a[1])) for a, b in pairwise(lines)]
    near = bool(distances) and float(np.median(distances)) < _NEAREST_LINES
    return [line for line in lines if line[0] in few] if near else list(lines)


def _cross(out: Picture, place: Floats, grid: Grid, *, corner: Floats, zoom: Floats) -> None:
    """Mark a landmark that lies near the image."""
    way = place - np.asarray(grid.origin_mm)
    if abs(float(way @ np.asarray(grid.normal))) > _CROSS_MM:
        return
    at = np.array([way @ grid.x_dir / grid.spacing_mm[2], way @ grid.y_dir / grid.spacing_mm[1]])
    middle = corner + (at + 0.5) * zoom
    for arm in (np.array([_CROSS, 0.0]), np.array([0.0, _CROSS])):
        _draw(out, middle - arm, middle + arm, colour=_WHITE)


def _sides(grid: Grid) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the letter of each side of an image, left, right, top, bottom, and where it is written (y, x)."""
    middle, far = (_SIDE - HEIGHT * _SCALE) // 2, _SIDE - HEIGHT * _SCALE - 2
    for direction, before, after in (
        (grid.x_dir, (middle, 2), (middle, far)),
        (grid.y_dir, (2, middle), (far, middle)),
    ):
        axis = int(np.argmax(np.abs(direction)))
        towards = _LETTERS[axis] if direction[axis] > 0 else _LETTERS[axis][::-1]
        yield towards[0], before
        yield towards[1], after


def _draw(
    picture: Picture, start: NDArray[np.float64], stop: NDArray[np.float64], *, colour: tuple[int, int, int]
) -> None:
    n = int(np.abs(stop - start).max()) + 2
    points = np.round(start + np.linspace(0, 1, n)[:, None] * (stop - start) - 0.5).astype(int)
    inside = ((points >= 0) & (points < (picture.shape[1], picture.shape[0]))).all(axis=1)
    picture[points[inside, 1], points[inside, 0]] = colour


def _write(picture: Picture, text: str, place: tuple[int, int], colour: tuple[int, int, int]) -> None:
    letters = lettered(text, _SCALE)
    y, x = place
    letters = letters[: picture.shape[0] - y, : picture.shape[1] - x]
    picture[y : y + letters.shape[0], x : x + letters.shape[1]][letters] = colour


def _words(plan: SlicePlan) -> list[str]:
    def places(values: Sequence[float]) -> str:
        return ", ".join(f"{v:.1f}" for v in values)

    tilt = [f"{v:.4f}" for v in plan.normal]
    return [
        f"PROPOSED SLICES: {plan.name}   CONFIDENCE {100 * plan.confidence:.0f} %",
        f"{plan.n_slices} SLICES OF {plan.thickness_mm:g} MM EVERY {plan.slice_distance_mm:g} MM",
        f"FOV {plan.fov_mm[1]:g} X {plan.fov_mm[0]:g} MM",
        f"CENTRE (LEFT, BACK, HEAD) {places(plan.centre_mm)} MM",
        f"NORMAL {', '.join(tilt)}",
        "A PERSON CONFIRMS BEFORE THE SCAN. NOT FOR DIAGNOSIS.",
    ]
