"""Fan views into filtered parallel views, while they arrive, in memory that the geometry bounds.

Each detector row is sorted by itself (a ray keeps the tilt it had), filtered along the channels, and kept in a ring
until no slice needs it: Stierstorfer et al., Phys Med Biol 2004;49:2209, DOI 10.1088/0031-9155/49/11/007.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray

from acquisition.scan import CtHeader
from kernels.ct_parallel import backproject, backproject_plane, rebin
from kernels.ct_tile import BLOCK, LANES
from recon.ct.extend import complete
from recon.ct.kernel import padded, response
from recon.ct.rays import Path, rays_of

Floats = NDArray[np.float64]

CHUNK = 32
"""Parallel views that are sorted and filtered together."""
_TILE = 128  # pixels along x and y that are backprojected together
_WATER = 0.0192  # attenuation of water [1/mm] where nobody says it
_LINES = 32  # lines of a single plane that are backprojected together
_FLAT = 0.6  # part of the detector's half height that has full weight


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
    extend_mm
        How far rows go on beyond the fan, completed as by a cylinder of water.
    """

    def __init__(
        self,
        ct: CtHeader,
        path: Path,
        *,
        kernel: str | tuple[float, ...],
        capacity: int,
        extend_mm: float = 0.0,
    ) -> None:
        self.path, self.half = path.parallel, ct.views_per_rotation // len(path.shifts) // 2
        self.rays = rays_of(ct, path, extend_mm=extend_mm)
        self._extends, self._mu = extend_mm > 0, ct.mu_water_per_mm or _WATER
        n_spots, n = len(path.shifts), len(self.rays.later)
        self.ahead = int(np.ceil(np.abs(self.rays.sources[0]).max() / n_spots)) + 1
        self._n_spots, n_rows = n_spots, len(self.rays.heights_mm)
        self._fans = np.zeros((n_spots * (2 * self.ahead + 4 * CHUNK), ct.n_rows, ct.n_channels), np.float32)
        self._padded = padded(n)
        self._sorted = np.zeros((CHUNK, n_rows, self._padded), np.float32)
        self._filtered = torch.zeros(self._sorted.shape)
        self._spectrum = torch.zeros((CHUNK, n_rows, self._padded // 2 + 1), dtype=torch.complex64)
        filtered = response(self._padded, self.rays.pitch_mm, kernel, dense=self.rays.dense)
        self._response = torch.from_numpy(filtered)
        self.ring = np.zeros((capacity + CHUNK, n_rows, n + BLOCK), np.float32)
        self.n_fans = 0
        self.first = self.ahead
        self.stop = self.ahead
        """Parallel views from `first` to before `stop` have been made (the oldest may have been overwritten)."""

    @property
    def n_views(self) -> int:
        """Parallel views that would have been measured if the fan had no width."""
        return self.n_fans // self._n_spots

    def put(self, fans: NDArray[np.float32]) -> None:
        """Take at most `CHUNK` fan views (view, row, channel), the next in order."""
        at = (self.n_fans + np.arange(len(fans))) % len(self._fans)
        self._fans[at] = fans
        self.n_fans += len(fans)

    def sort(self, *, at_least: int = CHUNK) -> bool:
        """Make the next chunk of parallel views; False when fewer than `at_least` can be made."""
        count = min(CHUNK, self.n_views - self.ahead - self.stop)
        if count < max(at_least, 1):
            return False
        out = self._sorted[:count]
        rebin(self._fans, self.stop, self.rays.sources, self.rays.reach_mm, self.rays.heights_mm, out)
        if self._extends:
            rows, rays = out[..., : len(self.rays.later)], self.rays
            complete(rows, rays.measured, places_mm=rays.places_mm, mu_per_mm=self._mu)
        spectrum, filtered = self._spectrum[:count], self._filtered[:count]
        torch.fft.rfft(torch.from_numpy(out), out=spectrum)
        spectrum *= self._response
        torch.fft.irfft(spectrum, n=self._padded, out=filtered)
        n, half = len(self.rays.later), self.half
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
        if self.ring.shape[1] == 1:
            return np.repeat(self._plane(first, last, place=place[:2])[None], len(place[2]), axis=0)
        xs, ys, zs = place
        path, rays, half = self.path, self.rays, self.half
        out = np.empty((len(zs), len(ys), len(xs)), np.float32)
        span = (first, last, half, path.angle_rad, path.angle_step_rad)
        lag = rays.later * path.z_step_mm / self._n_spots
        table = (rays.start_mm, rays.pitch_mm, lag, rays.depth_mm, rays.reach_mm)
        rows = (path.z_mm, path.z_step_mm, rays.row0, rays.row_pitch_mm)
        spacing = float(zs[1] - zs[0]) if len(zs) > 1 else rays.row_pitch_mm

        def part(corner: tuple[int, int, int]) -> None:
            k, y, x = corner
            here = (slice(y, y + _TILE), slice(x, x + _TILE))
            tile = np.zeros((len(ys[here[0]]), len(xs[here[1]]), LANES), np.float32)
            backproject(self.ring, span, table, rows, (xs[here[1]], ys[here[0]], float(zs[k]), spacing, _FLAT), tile)
            out[k : k + LANES, *here] = tile.transpose(2, 0, 1)[: len(zs) - k]

        corners = product(*(range(0, len(a), n) for a, n in ((zs, LANES), (ys, _TILE), (xs, _TILE))))
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            list(pool.map(part, corners))
        out *= np.float32(np.pi / half)
        return out

    def _plane(self, first: int, last: int, *, place: tuple[Floats, Floats]) -> NDArray[np.float32]:
        """Reconstruct the plane of a single row: opposite views are averaged before they are backprojected."""
        xs, ys = place
        path, rays, half, n = self.path, self.rays, self.half, len(self.rays.later)
        directions = np.empty((half, n), np.float32)
        for t in range(half):
            views = range(first + (t - first) % half, last + 1, half)
            directions[t] = np.mean([self.ring[v % len(self.ring), 0, :n] for v in views], axis=0)
        out = np.zeros((len(ys), len(xs)), np.float32)

        def part(y: int) -> None:
            here = slice(y, y + _LINES)
            angles = (path.angle_rad, path.angle_step_rad)
            backproject_plane(directions, (rays.start_mm, rays.pitch_mm), angles, (xs, ys[here]), out[here])

        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            list(pool.map(part, range(0, len(ys), _LINES)))
        return out * np.float32(np.pi / half)
