"""From the object to noise-free multi-coil k-space, on a finer grid than the image's.

The object is averaged over cells of half a pixel or less, multiplied with coil sensitivities and off-resonance phase,
folded into the field of view where it sticks out along phase encoding, Fourier transformed, cropped to the
measured band and divided by the transform of the cell: what remains is ``S(k) = integral rho c exp(-2 pi i k.p)``
with k-space cells of the measurement, not of the image grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.interpolate import make_interp_spline

from acquisition.geometry import Grid
from acquisition.sources.phantom.coils import ReceiveArray
from acquisition.sources.phantom.exam import MriExam
from acquisition.sources.phantom.objects import Phantom

_CELL_MM = 1.25  # widest cell in plane; never fewer than 2 cells per pixel
_CELL_Z_MM = 2.5  # widest cell along the slab of a 3D scan
_LINES = 2  # lines per cell across the readout
_LINE_Z_MM = 0.4  # distance of lines through the slice: coarser ones show as terraces where the skull is steep
_MAP_MM = 9.0  # knots of the smooth maps; a cubic spline between them is good to 1e-3

Complex = NDArray[np.complex64]


@dataclass(frozen=True, slots=True)
class _Axis:
    """Fine cells along one encoded direction."""

    n: int
    """Encoded samples."""
    fine: int
    """Cells per encoded pixel."""
    first: int
    """Index of the first cell that is drawn, counted from the phase origin."""
    count: int
    """Cells drawn."""
    cell_mm: float
    """Width of a cell [mm]."""

    @property
    def places_mm(self) -> NDArray[np.float64]:
        """Cell centres from the phase origin [mm]."""
        return (self.first + np.arange(self.count, dtype=np.float64)) * self.cell_mm

    def transform(self, data: Complex, axis: int) -> Complex:
        """Fold the drawn cells into the encoded field of view, transform, keep the measured band (centred)."""
        length = self.fine * self.n
        buffer = np.zeros((*data.shape[:axis], length, *data.shape[axis + 1 :]), np.complex64)
        start, cells = self.first, self.count
        done = 0
        while done < cells:
            place = (start + done) % length
            piece = min(cells - done, length - place)
            buffer[_along(axis, place, place + piece)] += data[_along(axis, done, done + piece)]
            done += piece
        k = np.arange(self.n) - self.n // 2
        spectrum = fft.fft(buffer, axis=axis, overwrite_x=True).take(k, axis=axis, mode="wrap")
        weight = (1 / (self.fine * np.sinc(k / length))).astype(np.float32)
        spectrum *= weight.reshape([-1 if a == axis else 1 for a in range(data.ndim)])
        return spectrum


def _along(axis: int, start: int, stop: int) -> tuple[slice, ...]:
    return (*(slice(None),) * axis, slice(start, stop))


def encode(exam: MriExam, phantom: Phantom, *, coils: ReceiveArray | None, slice_index: int, te_s: float) -> Complex:
    """Return the full k-space of one slice (2D) or of the slab (3D), without noise.

    Parameters
    ----------
    exam
        Geometry and sampling.
    phantom
        The object.
    coils
        The receive array; None for one channel of uniform sensitivity.
    slice_index
        Which slice; 0 in 3D.
    te_s
        Echo time [s].

    Returns
    -------
    ndarray
        (coil, k2, k1, k0), complex64, centre at ``N // 2`` of each axis, readout oversampled by 2.
    """
    _, ny, nx = exam.matrix
    read, phase, along = exam.directions
    grid = exam.grid
    origin = np.asarray(grid.world((slice_index, ny // 2, nx // 2)))
    x = _drawn(phantom, read, origin=origin, n=2 * nx, pixel_mm=grid.spacing_mm[2], filtered=nx)
    y = _drawn(phantom, phase, origin=origin, n=ny, pixel_mm=grid.spacing_mm[1])
    if exam.kind == "2D":
        planes = [(0.0, exam.thickness_mm)]
    else:
        origin = np.asarray(grid.world([n // 2 for n in exam.matrix]))
        z = _slab(exam)
        planes = [(place, z.cell_mm) for place in z.places_mm]
    spectra = [
        _plane(_Plane(origin + depth * along, width, x, y, (read, phase, along)), phantom, coils=coils, te_s=te_s)
        for depth, width in planes
    ]
    stack = np.stack(spectra, axis=1)
    return stack if exam.kind == "2D" else z.transform(stack, 1)


@dataclass(frozen=True, slots=True)
class _Plane:
    """One excited plane in fine cells."""

    origin: NDArray[np.float64]
    """Phase origin in this plane, LPS [mm]."""
    thickness_mm: float
    """Its thickness [mm]."""
    x: _Axis
    """Cells along the readout."""
    y: _Axis
    """Cells along phase encoding."""
    directions: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
    """Unit vectors read, phase, slice."""

    @property
    def grid(self) -> Grid:
        """The drawn cells."""
        read, phase, _ = self.directions
        centre = self.origin + read * self.x.places_mm.mean() + phase * self.y.places_mm.mean()
        return Grid.from_centre(
            centre,
            shape=(1, self.y.count, self.x.count),
            spacing_mm=(self.thickness_mm, self.y.cell_mm, self.x.cell_mm),
            directions=self.directions,
        )


def _plane(plane: _Plane, phantom: Phantom, *, coils: ReceiveArray | None, te_s: float) -> Complex:
    """Return (coil, k1, k0) of one plane."""
    lines = (max(2, math.ceil(plane.thickness_mm / _LINE_Z_MM)), _LINES)
    drawn = phantom.render(plane.grid, te_s, subsamples=lines)[0]
    maps = _smooth_maps(plane, phantom, coils=coils, te_s=te_s)
    out = np.empty((len(maps), plane.y.n, plane.x.n), np.complex64)
    for coil in range(len(maps)):  # one by one: the working memory stays in the processor's cache
        out[coil] = plane.x.transform(plane.y.transform(maps[coil] * drawn, 0), 1)
    return out


def _smooth_maps(plane: _Plane, phantom: Phantom, *, coils: ReceiveArray | None, te_s: float) -> Complex:
    """Return coil sensitivities times off-resonance phase on the drawn cells (coil, y, x), splined from knots."""
    read, phase, _ = plane.directions
    (xs, to_x), (ys, to_y) = _knots(plane.x), _knots(plane.y)
    points = plane.origin + ys[:, None, None] * phase + xs[:, None] * read
    maps = np.ones((1, len(ys), len(xs)), np.complex64) if coils is None else coils.sensitivities(points)
    knots = (maps * np.exp(2j * np.pi * te_s * phantom.off_resonance_hz(points))).astype(np.complex64)
    # Two products of plain matrices: a small product for each coil waits for BLAS threads on a busy machine.
    along_y = to_y @ knots.transpose(1, 0, 2).reshape(len(ys), -1)
    cells = along_y.reshape(-1, len(xs)) @ to_x.T
    return cells.reshape(plane.y.count, len(knots), plane.x.count).transpose(1, 0, 2)


def _knots(axis: _Axis) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Return knot places [mm] and the matrix (cell, knot) of the cubic spline through them."""
    places = axis.places_mm
    knots = np.linspace(places[0], places[-1], max(4, math.ceil(np.ptp(places) / _MAP_MM) + 1))
    return knots, make_interp_spline(knots, np.eye(len(knots)), k=3)(places).astype(np.float32)


def _slab(exam: MriExam) -> _Axis:
    n, fine = exam.matrix[0], max(2, math.ceil(exam.thickness_mm / _CELL_Z_MM))
    return _Axis(n, fine, -fine * (n // 2), fine * n, exam.thickness_mm / fine)


def _drawn(
    phantom: Phantom,
    direction: NDArray[np.float64],
    *,
    origin: NDArray[np.float64],
    n: int,
    pixel_mm: float,
    filtered: int | None = None,
) -> _Axis:
    """Return the cells that the object covers, not beyond `filtered` pixels from the origin where there is a filter."""
    fine = max(2, math.ceil(pixel_mm / _CELL_MM))
    cell_mm = pixel_mm / fine
    low, high = (bound - float(direction @ origin) for bound in phantom.extent_mm(direction))
    first, last = math.floor(low / cell_mm) - 1, math.ceil(high / cell_mm) + 1
    if filtered is not None:
        end = fine * filtered - 1
        first, last = min(max(first, -end - 1), end - 3), min(last, end)
    return _Axis(n, fine, first, max(last, first + 3) - first + 1, cell_mm)
