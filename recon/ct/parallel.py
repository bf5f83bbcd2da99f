"""Fan views into filtered parallel views, while they arrive, in memory that the geometry bounds.

Each detector row is sorted by itself (a ray keeps the tilt it had), filtered along the channels, and kept in a ring
until no slice needs it: Stierstorfer et al., Phys Med Biol 2004;49:2209, DOI 10.1088/0031-9155/49/11/007.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray

from acquisition.ct_geometry import fan_angles, row_heights_mm
from acquisition.scan import CtHeader
from kernels.ct_parallel import BLOCK, LANES, backproject, rebin
from recon.ct.kernel import padded, response

Floats = NDArray[np.float64]

CHUNK = 32
"""Parallel views that are sorted and filtered together."""
_TILE = 128  # pixels along x and y that are backprojected together
_FLAT = 0.6  # part of the detector's half height that has full weight


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """How the focal spot moves: the same step from view to view."""

    angle_rad: float
    """Angle of view 0 [rad]."""
    angle_step_rad: float
    """Step of the angle, with the sign of the rotation [rad]."""
    z_mm: float
    """z of view 0 [mm]."""
    z_step_mm: float
    """Step along z, with the sign of the table's motion [mm]."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Columns:
    """The columns of a parallel view."""

    start_mm: float
    """Signed distance of column 0 from the axis [mm]."""
    pitch_mm: float
    """Distance of columns [mm]."""
    later: Floats
    """How many views after the parallel view's number a column is measured."""
    channel: Floats
    """In which channel; -1 in none."""
    depth: Floats
    """Focal spot to the point nearest the axis, along the ray's projection [mm]."""
    reach: Floats
    """Focal spot to the detector, likewise [mm]."""


def columns_of(ct: CtHeader, step_rad: float) -> Columns:
    """Return the columns of parallel views made from the fans of `ct`, `step_rad` apart."""
    fan = fan_angles(ct)
    ends = ct.source_isocentre_mm * np.sin(fan[[0, -1]])
    pitch = ct.source_isocentre_mm * ct.pitch_mm[1] / ct.source_detector_mm
    n = int(np.floor((ends[1] - ends[0]) / pitch)) + 1  # symmetric: opposite views have the same columns
    p = pitch * (np.arange(n) - (n - 1) / 2)
    gamma = np.arcsin(p / ct.source_isocentre_mm)
    reach = ct.source_detector_mm / (np.ones_like(gamma) if ct.detector == "cylindrical" else np.cos(gamma))
    return Columns(
        start_mm=float(p[0]),
        pitch_mm=float(pitch),
        later=gamma / step_rad,
        channel=np.interp(gamma, fan, np.arange(ct.n_channels), left=-1, right=-1),
        depth=ct.source_isocentre_mm * np.cos(gamma),
        reach=reach,
    )


class ParallelViews:
    """A ring of filtered parallel views that fills as fan views come.

    Parameters
    ----------
    ct
        The scanner.
    path
        Where the views of this run are.
    kernel
        Name or modulation of the reconstruction kernel.
    capacity
        Parallel views that are kept.
    """

    def __init__(self, ct: CtHeader, path: Path, *, kernel: str | tuple[float, ...], capacity: int) -> None:
        self.ct, self.path = ct, path
        self.columns = columns_of(ct, path.angle_step_rad)
        self.ahead = int(np.ceil(np.abs(self.columns.later).max())) + 1
        self._heights = row_heights_mm(ct).astype(np.float32)
        self._fans = np.zeros((2 * self.ahead + 4 * CHUNK, ct.n_rows, ct.n_channels), np.float32)
        n = len(self.columns.later)
        self._padded = padded(n)
        self._sorted = np.zeros((CHUNK, ct.n_rows, self._padded), np.float32)
        self._filtered = torch.zeros(self._sorted.shape)
        self._spectrum = torch.zeros((CHUNK, ct.n_rows, self._padded // 2 + 1), dtype=torch.complex64)
        self._response = torch.from_numpy(response(self._padded, self.columns.pitch_mm, kernel))
        self.ring = np.zeros((capacity + CHUNK, ct.n_rows, n + BLOCK), np.float32)
        self.n_fans = 0
        self.first = self.ahead
        self.stop = self.ahead
        """Parallel views from `first` to before `stop` have been made (the oldest may have been overwritten)."""

    def put(self, fans: NDArray[np.float32]) -> None:
        """Take at most `CHUNK` fan views (view, row, channel), the next in order."""
        at = (self.n_fans + np.arange(len(fans))) % len(self._fans)
        self._fans[at] = fans
        self.n_fans += len(fans)

    def sort(self, *, at_least: int = CHUNK) -> bool:
        """Make the next chunk of parallel views; False when fewer than `at_least` can be made."""
        count = min(CHUNK, self.n_fans - self.ahead - self.stop)
        if count < max(at_least, 1):
            return False
        c, out = self.columns, self._sorted[:count]
        rebin(self._fans, self.stop, (c.later, c.channel, c.reach), self._heights, out)
        spectrum, filtered = self._spectrum[:count], self._filtered[:count]
        torch.fft.rfft(torch.from_numpy(out), out=spectrum)
        spectrum *= self._response
        torch.fft.irfft(spectrum, n=self._padded, out=filtered)
        n, half = len(c.later), self.ct.views_per_rotation // 2
        for k, view in enumerate(filtered.numpy(), start=self.stop):
            self.ring[k % len(self.ring), :, :n] = view[:, n - 1 :: -1] if k // half % 2 else view[:, :n]
        self.stop += count
        return True

    def planes(self, first: int, last: int, *, place: tuple[Floats, Floats, Floats]) -> NDArray[np.float32]:
        """Reconstruct planes from parallel views `first` to `last`: attenuation per mm, (z, y, x).

        Parameters
        ----------
        first, last
            Views that may contribute, both included; at least half a turn.
        place
            x, y and z of the voxels [mm].
        """
        xs, ys, zs = place
        path, c = self.path, self.columns
        half = self.ct.views_per_rotation // 2
        out = np.empty((len(zs), len(ys), len(xs)), np.float32)
        span = (first, last, half, path.angle_rad, path.angle_step_rad)
        table = (c.start_mm, c.pitch_mm, c.later * path.z_step_mm, c.depth, c.reach)
        rows = (path.z_mm, path.z_step_mm, float(self.ct.centre[0]), self.ct.pitch_mm[0])
        spacing = float(zs[1] - zs[0]) if len(zs) > 1 else self.ct.pitch_mm[0]

        def part(corner: tuple[int, int, int]) -> None:
            k, y, x = corner
            here = (slice(y, y + _TILE), slice(x, x + _TILE))
            tile = np.empty((len(ys[here[0]]), len(xs[here[1]]), LANES), np.float32)
            backproject(self.ring, span, table, rows, (xs[here[1]], ys[here[0]], float(zs[k]), spacing, _FLAT), tile)
            out[k : k + LANES, *here] = tile.transpose(2, 0, 1)[: len(zs) - k]

        corners = product(*(range(0, len(a), n) for a, n in ((zs, LANES), (ys, _TILE), (xs, _TILE))))
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            list(pool.map(part, corners))
        out *= np.float32(np.pi / half)
        return out
