"""Did the patient lie still over a series of volumes? tSNR, DVARS, framewise displacement: ``check.mri_series``.

Power et al., NeuroImage 2012;59:2142, DOI 10.1016/j.neuroimage.2011.10.018: displacement of a sphere of 50 mm radius
from one volume to the next, the sum of three shifts and three arcs. The rigid motion is found on coarse voxels by
Gauss-Newton steps, each volume against the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, gaussian_filter, zoom

from acquisition.errors import ConfigError
from acquisition.geometry import Grid
from acquisition.items import Image, Item, Kind
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from recon.planes import CONVENTIONAL

Floats = NDArray[np.float64]

_FEWEST = 6  # volumes that make a series
_COARSE_MM = 6.0
_STEPS = 3
_SPHERE_MM = 50.0
_OUTLIER = 3.5  # robust standard deviations


@dataclass(kw_only=True)
class CheckSeries:
    """Watch a series of volumes while it runs; say at its end how still the patient lay and how steady the signal was.

    Scans with fewer than 6 repetitions pass without a word. Meant for heads: hearts and breathing move by themselves.
    """

    displacement_mm: float = 0.5
    """Framewise displacement from which a volume counts as moved [mm]."""
    moved_flag: float = 0.1
    """Part of the volumes that moved, from which the series is marked."""
    moved_hold: float = 0.4
    """The same, from which a person is asked."""
    tsnr_flag: float = 20.0
    """Median over the object of mean over standard deviation in time, below which the series is marked."""

    def __post_init__(self) -> None:
        if not (self.displacement_mm > 0 and 0 < self.moved_flag <= self.moved_hold and self.tsnr_flag >= 0):
            raise ConfigError(
                "check.mri_series",
                expected="displacement_mm above 0, 0 < moved_flag <= moved_hold, tsnr_flag of 0 or more",
                got=f"{self.displacement_mm}, {self.moved_flag}, {self.moved_hold}, {self.tsnr_flag}",
            )

    def open(self, scan: Scan) -> None:
        """Begin a series."""
        self._over: dict[int, _Time] = {}
        self._grids: dict[int, Grid] = {}
        self._now: dict[int, Floats] = {}
        self._repetition: int | None = None
        self._still: _Still | None = None
        self._whole = True

    def feed(self, item: Item) -> Iterator[Item]:
        """Pass everything on; take notes of conventional magnitudes."""
        yield item
        if isinstance(item, Image) and _ours(item):
            self._take(item)

    def close(self) -> Iterator[Item]:
        """Say how it was."""
        self._end_volume()
        if self._still is None or not self._whole or len(self._still.motions) < _FEWEST:
            return
        yield self._displacement(np.array(self._still.motions))
        yield self._steadiness()
        yield self._signal(len(self._still.motions))

    @property
    def _seen(self) -> list[_Time]:
        """Return the slices in which there is something."""
        top = max(over.top for over in self._over.values())
        return [over for over in self._over.values() if over.top >= 0.3 * top]

    def _take(self, image: Image) -> None:
        if image.position.repetition != self._repetition:
            self._end_volume()
            self._repetition = image.position.repetition
        data = np.abs(image.data).reshape(-1, *image.data.shape[-2:]).astype(np.float32)
        for k, plane in enumerate(data):
            z = image.position.slice + k
            self._grids.setdefault(z, image.grid.plane(k % image.grid.shape[0]))
            self._over.setdefault(z, _Time()).add(plane)
            self._now[z] = _coarse(plane, image.grid.spacing_mm[1:])

    def _end_volume(self) -> None:
        """Find where a volume lies, as soon as the next one begins."""
        now, self._now = self._now, {}
        if not now:
            return
        volume = np.stack([now[z] for z in sorted(now)])
        if self._still is None:
            self._still = _Still(volume, _spacing([self._grids[z] for z in sorted(now)]))
        elif volume.shape == self._still.first.shape and sorted(now) == sorted(self._over):
            self._still.add(volume)
        else:
            self._whole = False

    def _displacement(self, moves: Floats) -> Verdict:
        shift, turn = np.abs(np.diff(moves[:, :3], axis=0)), np.abs(np.diff(moves[:, 3:], axis=0))
        steps = shift.sum(axis=1) + _SPHERE_MM * turn.sum(axis=1)
        moved = steps > self.displacement_mm
        part, worst = float(moved.mean()), int(steps.argmax())
        level = Level.HOLD if part > self.moved_hold else Level.FLAG if part > self.moved_flag else Level.PASS
        return Verdict(
            check="quality.displacement",
            level=level,
            advice="The patient lay still."
            if level is Level.PASS
            else f"The patient moved in {moved.sum()} of {len(steps) + 1} volumes: cushion the head, and repeat if "
            "motion cannot be corrected.",
            value=100 * part,
            limit=100 * self.moved_flag,
            unit="%",
            evidence=f"framewise displacement {steps.mean():.2f} mm on average, {steps[worst]:.2f} mm at volume "
            f"{worst + 2}; above {self.displacement_mm:g} mm counts",
        )

    def _steadiness(self) -> Verdict:
        dvars = _dvars(self._seen)
        middle = float(np.median(dvars))
        spread = 1.4826 * float(np.median(np.abs(dvars - middle)))
        out = (dvars > middle + _OUTLIER * spread) & (dvars > 1.5 * middle)
        part, worst = float(out.mean()), int(dvars.argmax())
        return Verdict(
            check="quality.dvars",
            level=Level.FLAG if part > self.moved_flag else Level.PASS,
            advice=f"The signal jumps in {out.sum()} volumes: look for motion or spikes."
            if part > self.moved_flag
            else "The signal is steady.",
            value=100 * part,
            limit=100 * self.moved_flag,
            unit="%",
            evidence=f"DVARS {middle:.2f} % of the mean signal, {dvars[worst]:.2f} % at volume {worst + 2}",
        )

    def _signal(self, n: int) -> Verdict:
        value = float(np.median(np.concatenate([over.tsnr() for over in self._seen])))
        low = value < self.tsnr_flag
        return Verdict(
            check="quality.tsnr",
            level=Level.FLAG if low else Level.PASS,
            advice="The signal varies much from volume to volume: small effects will be missed."
            if low
            else "The signal in time is well above its noise.",
            value=value,
            limit=self.tsnr_flag,
            evidence=f"median over the object, {n} volumes",
        )


class _Time:
    """One slice over time: mean, variance and change from volume to volume."""

    def __init__(self) -> None:
        self._n, self._mean, self._square = 0, np.zeros(0), np.zeros(0)
        self._last: NDArray[np.float32] | None = None
        self.changes: list[float] = []

    def add(self, plane: NDArray[np.float32]) -> None:
        """Take the next volume's slice."""
        if self._last is None:
            self._mean, self._square = np.zeros(plane.shape), np.zeros(plane.shape)
            self.top = float(np.percentile(plane, 98))
            self.inside = plane > 0.2 * self.top
        else:
            self.changes.append(float(((plane - self._last)[self.inside].astype(float) ** 2).sum()))
        self._last = plane
        self._n += 1
        delta = plane - self._mean
        self._mean = self._mean + delta / self._n
        self._square = self._square + delta * (plane - self._mean)

    @property
    def signal(self) -> float:
        """Return the sum of the mean over the object."""
        return float(self._mean[self.inside].sum())

    def tsnr(self) -> Floats:
        """Return mean over standard deviation of each pixel of the object."""
        spread = np.sqrt(self._square[self.inside] / max(self._n - 1, 1))
        return np.asarray(self._mean[self.inside] / np.maximum(spread, 1e-9 * self._mean.max()))


def _dvars(slices: list[_Time]) -> Floats:
    """Return the root mean square change from volume to volume over the object [% of its mean]."""
    pixels = sum(int(s.inside.sum()) for s in slices)
    mean = sum(s.signal for s in slices) / max(pixels, 1)
    changes = np.sum([s.changes for s in slices], axis=0)
    return np.asarray(100 * np.sqrt(changes / max(pixels, 1)) / max(mean, 1e-12))


def _ours(image: Image) -> bool:
    p = image.position
    first = p.contrast == p.set == p.phase == p.average == 0
    return first and image.output == CONVENTIONAL and image.kind in (Kind.MAGNITUDE, Kind.COMPLEX)


def _coarse(plane: NDArray[np.float32], spacing_mm: tuple[float, ...]) -> Floats:
    scale = [min(1.0, step / _COARSE_MM) for step in spacing_mm]
    smooth = gaussian_filter(plane.astype(float), [0.4 / s for s in scale])
    return np.asarray(zoom(smooth, scale, order=1, grid_mode=True, mode="nearest"))


def _spacing(grids: list[Grid]) -> Floats:
    """Return the distance of coarse voxels (z, y, x) [mm]."""
    gap = grids[0].spacing_mm[0]
    if len(grids) > 1:
        gap = float(np.linalg.norm(np.subtract(grids[1].origin_mm, grids[0].origin_mm)))
    return np.array([gap or 1.0, *(max(_COARSE_MM, s) for s in grids[0].spacing_mm[1:])])


class _Still:
    """Where each volume of a series lies against the first.

    Parameters
    ----------
    first
        The first volume (z, y, x), coarse.
    spacing_mm
        Distance of its voxels (z, y, x) [mm].
    """

    def __init__(self, first: Floats, spacing_mm: Floats) -> None:
        self.first, self._spacing = first, spacing_mm
        basis, self._used = _derivatives(first, spacing_mm)
        self._solver = np.linalg.pinv(basis)
        self.motions = [np.zeros(6)]
        """Shift (z, y, x) [mm] and rotation about (z, y, x) [rad] of each volume."""

    def add(self, volume: Floats) -> None:
        """Find the motion of one more volume, beginning with that of the one before."""
        motion = self.motions[-1].copy()
        for _ in range(_STEPS):
            step = self._solver @ (_moved(volume, motion, self._spacing) - self.first).ravel()
            motion[self._used] += step[: len(self._used)]
        self.motions.append(motion)


def _derivatives(volume: Floats, spacing_mm: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Return how each voxel changes with the volume's six motions and its brightness, and which motions are seen."""
    slopes = [np.gradient(volume, axis=a) / spacing_mm[a] if volume.shape[a] > 2 else 0 * volume for a in range(3)]
    z, y, x = np.meshgrid(
        *((np.arange(n) - (n - 1) / 2) * s for n, s in zip(volume.shape, spacing_mm, strict=True)), indexing="ij"
    )
    turns = [slopes[2] * y - slopes[1] * x, slopes[0] * x - slopes[2] * z, slopes[1] * z - slopes[0] * y]
    columns = [*(-s for s in slopes), *(-t for t in turns)]
    used = np.arange(6) if volume.shape[0] > 3 else np.array([1, 2, 3])
    return np.stack([*(columns[k].ravel() for k in used), volume.ravel()], axis=1), used


def _moved(volume: Floats, motion: Floats, spacing_mm: Floats) -> Floats:
    """Return the volume brought back by a small motion."""
    about_z, about_y, about_x = motion[3:]
    turn = np.array([[0, -about_x, about_y], [about_x, 0, -about_z], [-about_y, about_z, 0]])  # acts on (z, y, x)
    matrix = np.diag(1 / spacing_mm) @ (np.eye(3) + turn) @ np.diag(spacing_mm)
    middle = (np.asarray(volume.shape) - 1) / 2
    offset = middle - matrix @ middle + motion[:3] / spacing_mm
    return np.asarray(affine_transform(volume, matrix, offset, order=1, mode="nearest"))
