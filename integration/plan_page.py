"""A slice plan as one page: a localizer of each orientation with the planned slices over it, and all that in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from acquisition.geometry import Grid
from acquisition.plan_lines import Line
from acquisition.slice_plan import SlicePlan
from integration.letters import HEIGHT, lettered

Picture = NDArray[np.uint8]
Shown = tuple[NDArray[np.float64], Grid, Sequence[Line]]

_SIDE = 384  # pixels of one image on the page
_MARGIN, _SCALE = 10, 2
_LINE = HEIGHT * _SCALE + 6
_MOST = 3
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
    panels = [_panel(one, outer={0, plan.n_slices - 1}) for one in _chosen(shown, plan)]
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


def _panel(shown: Shown, *, outer: set[int]) -> tuple[Picture, str]:
    """Return one image in a square, its shape kept, with its lines, the `outer` ones red, and where its sides look."""
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
    for line in lines:
        start, stop = (corner + (np.asarray(end) + 0.5) * zoom for end in (line.start, line.stop))
        _draw(out, start, stop, colour=_RED if line.slice in outer else _YELLOW)
    for letter, place in _sides(grid):
        _write(out, letter, place, _WHITE)
    return out, _NAMES[int(np.argmax(np.abs(grid.normal)))]


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
