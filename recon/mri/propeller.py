"""Blades of parallel lines, turned around the centre of k-space: each sees the whole middle, so motion can be found.

Pipe, Magn Reson Med 1999;42:963, DOI 10.1002/(SICI)1522-2594(199911)42:5<963::AID-MRM17>3.0.CO;2-L. The middle of every
blade is compared with the mean of all: a turn shows as a shift over the angle of its magnitude, a shift as a ramp of
its phase, and what does not fit any more (through-plane motion) as a low correlation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from acquisition.errors import ConfigError, DataError
from acquisition.items import Item
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from recon.mri.spokes import Spokes

_ANGLES = 720  # half a degree each
_PARALLEL = 0.9995
_ROUNDS = 3
_TRUST_POWER, _LEAST_TRUST = 4.0, 0.05

Complex = NDArray[np.complex64]
Floats = NDArray[np.float64]


@dataclass(slots=True)
class _Blades:
    """All blades of a slice, each on its own grid."""

    kspace: Complex
    """(blade, coil, line, sample), the centre at (line // 2, sample // 2)."""
    readouts: NDArray[np.intp]
    """Index of the readout of each line (blade, line)."""
    angle_rad: Floats
    """Direction of the readouts (blade,)."""
    step: tuple[float, float]
    """Distance of lines and of samples [cycles per field of view]."""

    @property
    def radius(self) -> float:
        """Radius of the circle that every blade covers [cycles per field of view]."""
        return (self.kspace.shape[2] // 2 - 1) * self.step[0]


@dataclass(kw_only=True)
class Propeller:
    """Take phase, rotation and translation out of the blades of a slice, and weigh them by how well they agree."""

    max_rotation_deg: float = 15.0
    """Largest turn looked for, to either side [degrees]."""
    max_shift: float = 0.08
    """Largest shift looked for, in parts of the field of view."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_rotation_deg < 90:
            got = str(self.max_rotation_deg)
            raise ConfigError("mri.propeller max_rotation_deg", expected="0 to below 90", got=got)
        if not 0 <= self.max_shift <= 0.5:
            raise ConfigError("mri.propeller max_shift", expected="0 to 0.5", got=str(self.max_shift))

    def open(self, scan: Scan) -> None:
        """Forget the scan before."""
        self._uid = scan.uid

    def feed(self, item: Item) -> Iterator[Item]:
        """Correct the frames of slices; other items pass."""
        yield self._corrected(item) if isinstance(item, Spokes) else item

    def close(self) -> Iterator[Item]:
        """Nothing is left to do."""
        return iter(())

    def _corrected(self, spokes: Spokes) -> Spokes:
        blades = _blades(spokes)
        polar, k = _polar(blades, _take_phase(blades))
        turns, shifts, trust = self._motion(polar, k)
        data, traj = np.empty_like(spokes.data), np.empty_like(spokes.traj)
        weights = np.ones(len(spokes.data), np.float32)
        for b, rows in enumerate(blades.readouts):
            angle = blades.angle_rad[b] - turns[b]
            places = _places(blades, angle)
            phase = np.exp(2j * np.pi * (places @ shifts[b]))
            traj[rows], weights[rows] = places, trust[b]
            data[rows] = (blades.kspace[b] * phase).transpose(1, 0, 2)
        half = min(spokes.space.y.recon, spokes.space.x.recon) / 2
        within = np.linalg.norm(traj, axis=2).max(axis=0) <= half  # the corners of turned blades lie outside the band
        return replace(
            spokes,
            data=data[..., within],
            traj=traj[:, within],
            time_s=spokes.time_s[within],
            trust=weights,
            verdicts=(*spokes.verdicts, _verdict(turns, shifts, trust)),
        )

    def _motion(self, polar: Complex, k: Floats) -> tuple[Floats, Floats, Floats]:
        """Return turns [rad], shifts (blade, 2) [fields of view] and trust of the blades.

        `polar` is (blade, radius, angle), `k` (radius, angle, 2).
        """
        n = len(polar)
        turns, shifts, trust = np.zeros(n), np.zeros((n, 2)), np.ones(n)
        area = np.linalg.norm(k, axis=-1)
        moved = polar
        for _ in range(_ROUNDS):
            turns += self._turns(moved, trust, area)
            turned = _turned(polar, -turns)
            moved = turned * np.exp(2j * np.pi * np.einsum("rad,bd->bra", k, shifts))
            shifts += self._shifts(moved, trust, (k, area))
            shifts -= np.median(shifts, axis=0)
            moved = turned * np.exp(2j * np.pi * np.einsum("rad,bd->bra", k, shifts))
            trust = _agreement(moved, area)
        return turns, shifts, trust

    def _turns(self, polar: Complex, trust: Floats, area: Floats) -> Floats:
        """Return how far each blade's magnitude is turned against the mean [rad]."""
        size = np.abs(polar) * np.sqrt(area)
        size -= size.mean(axis=2, keepdims=True)
        mean = np.einsum("bra,b->ra", size, trust) / trust.sum()
        spectrum = np.fft.rfft(size, axis=2) * np.fft.rfft(mean, axis=1).conj()
        match = np.fft.irfft(spectrum.sum(axis=1), n=_ANGLES, axis=1)
        reach = int(self.max_rotation_deg / 360 * _ANGLES)
        window = np.roll(match, reach, axis=1)[:, : 2 * reach + 1]
        found = np.array([_peak(row) - reach for row in window]) * 2 * np.pi / _ANGLES
        return found - np.median(found)

    def _shifts(self, polar: Complex, trust: Floats, grid: tuple[Floats, Floats]) -> Floats:
        """Return how far each blade's object is shifted against the mean (blade, 2) [fields of view]."""
        k, area = grid
        mean = np.einsum("bra,b->ra", polar, trust) / trust.sum()
        product = polar * mean.conj() * area
        n = max(3, 2 * int(self.max_shift * 200) + 1)
        steps = np.linspace(-self.max_shift, self.max_shift, n)
        width = steps[1] - steps[0]
        along_x, along_y = (np.exp(2j * np.pi * k[..., d, None] * steps) for d in (0, 1))
        match = np.abs(np.einsum("bra,ray,rax->byx", product, along_y, along_x, optimize=True))
        shifts = np.empty((len(polar), 2))
        for b, plane in enumerate(match):
            y, x = np.unravel_index(int(plane.argmax()), plane.shape)
            shifts[b] = steps[0] + width * np.array([_peak(plane[y]), _peak(plane[:, x])])
        return shifts


def _blades(spokes: Spokes) -> _Blades:
    """Sort readouts into blades of parallel lines.

    Raises
    ------
    DataError
        They are no blades of equally many parallel lines.
    """
    span = (spokes.traj[:, -1] - spokes.traj[:, 0]).astype(np.float64)
    direction = span / np.maximum(np.linalg.norm(span, axis=1, keepdims=True), 1e-9)
    starts = np.flatnonzero(np.r_[True, np.abs((direction[1:] * direction[:-1]).sum(1)) < _PARALLEL])
    sizes = np.diff(np.r_[starts, len(direction)])
    if spokes.traj.shape[2] != 2 or len(starts) < 3 or sizes.min() != sizes.max() or sizes[0] < 4:
        raise DataError(
            f"frame {tuple(spokes.key)} trajectory",
            expected="three or more blades of equally many (4 or more) parallel lines in a plane",
            got=f"{len(starts)} groups of {sizes.min()} to {sizes.max()} lines",
            action="take mri.propeller out of the protocol",
        )
    rows = starts[:, None] + np.arange(sizes[0])
    lead = direction[rows[:, 0]]
    across = np.stack([-lead[:, 1], lead[:, 0]], axis=1)
    middle = spokes.traj[rows][:, :, spokes.traj.shape[1] // 2]
    offsets = np.einsum("bld,bd->bl", middle, across)
    rows = np.take_along_axis(rows, offsets.argsort(axis=1), axis=1)
    turned = np.einsum("bld,bd->bl", direction[rows], lead) < 0
    kspace = spokes.data[rows].transpose(0, 2, 1, 3)
    kspace = np.where(turned[:, None, :, None], np.roll(kspace[..., ::-1], 1 - spokes.traj.shape[1] % 2, -1), kspace)
    along = float(np.median(np.linalg.norm(np.diff(spokes.traj, axis=1), axis=2)))
    steps = float(np.median(np.diff(np.sort(offsets, axis=1), axis=1))), along
    return _Blades(kspace.astype(np.complex64), rows, np.arctan2(lead[:, 1], lead[:, 0]), steps)


def _take_phase(blades: _Blades) -> Complex:
    """Remove from each blade's coil images the phase of their own middle (pyramid window), in place.

    Returns the blades as one even coil sees them (blade, line, sample): the shading of a single coil stays in its
    place when the patient moves, and would pull what is found towards no motion.
    """
    n_lines, n_samples = blades.kspace.shape[2:]
    half = n_lines / 2 * blades.step[0]
    v = np.clip(1 - np.abs(np.arange(n_lines) - n_lines // 2) * blades.step[0] / half, 0, None)
    u = np.clip(1 - np.abs(np.arange(n_samples) - n_samples // 2) * blades.step[1] / half, 0, None)
    images = _to_image(blades.kspace)
    low = _to_image(blades.kspace * (v[:, None] * u).astype(np.float32))
    size = np.abs(low)
    images *= np.exp(-1j * np.angle(low))
    blades.kspace[:] = _to_kspace(images)
    even = (images * size).sum(axis=1) / np.maximum(np.sqrt((size**2).sum(axis=1)), 1e-20)
    return _to_kspace(even.astype(np.complex64))


def _polar(blades: _Blades, kspace: Complex) -> tuple[Complex, Floats]:
    """Return the middle of all blades (blade, line, sample) on one polar grid (blade, radius, angle), and the grid."""
    n_blades, n_lines, n_samples = kspace.shape
    radius = np.arange(1.0, max(2.0, blades.radius + 1e-6))
    angle = np.arange(_ANGLES) * 2 * np.pi / _ANGLES
    k = radius[:, None, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    fine = 2  # twice finer than measured: the middle's magnitude has twice the object's extent
    wide = np.zeros((n_blades, fine * n_lines, fine * n_samples), np.complex64)
    first = [fine * n // 2 - n // 2 for n in (n_lines, n_samples)]
    wide[:, first[0] : first[0] + n_lines, first[1] : first[1] + n_samples] = _to_image(kspace)
    wide = _to_kspace(wide)
    out = np.empty((n_blades, *k.shape[:2]), np.complex64)
    for b, theta in enumerate(blades.angle_rad):
        u = (k @ [np.cos(theta), np.sin(theta)]) / blades.step[1] * fine + fine * n_samples // 2
        v = (k @ [-np.sin(theta), np.cos(theta)]) / blades.step[0] * fine + fine * n_lines // 2
        out[b] = map_coordinates(wide[b], [v, u], order=3, mode="nearest")
    return out, k


def _places(blades: _Blades, angle_rad: float) -> NDArray[np.float32]:
    """Return the places (line, sample, 2) of a blade at an angle."""
    n_lines, n_samples = blades.kspace.shape[2:]
    v = (np.arange(n_lines) - n_lines // 2) * blades.step[0]
    u = (np.arange(n_samples) - n_samples // 2) * blades.step[1]
    c, s = np.cos(angle_rad), np.sin(angle_rad)
    return np.stack([u[None] * c - v[:, None] * s, u[None] * s + v[:, None] * c], axis=-1).astype(np.float32)


def _turned(polar: Complex, angle_rad: Floats) -> Complex:
    """Turn each blade's polar samples by an angle, interpolating by Fourier."""
    order = np.fft.fftfreq(_ANGLES, 1 / _ANGLES)
    ramp = np.exp(-1j * angle_rad[:, None] * order)[:, None]
    turned: Complex = np.fft.ifft(np.fft.fft(polar, axis=2) * ramp, axis=2).astype(np.complex64)
    return turned


def _agreement(polar: Complex, area: Floats) -> Floats:
    """Return the trust in each blade from its correlation with the mean of the others, 1 for the median blade."""
    total = polar.sum(axis=0)
    values = np.empty(len(polar))
    for b, blade in enumerate(polar):
        rest = total - blade
        dot = np.abs((blade * rest.conj() * area).sum())
        values[b] = dot / np.sqrt((np.abs(blade) ** 2 * area).sum() * (np.abs(rest) ** 2 * area).sum() + 1e-30)
    return np.clip((values / max(float(np.median(values)), 1e-9)) ** _TRUST_POWER, _LEAST_TRUST, 1.0)


def _peak(row: Floats) -> float:
    """Return the place of the maximum, between samples by a parabola."""
    i = int(row.argmax())
    if not 0 < i < len(row) - 1:
        return float(i)
    before, at, after = row[i - 1], row[i], row[i + 1]
    bend = before - 2 * at + after
    return i + (0.5 * (before - after) / bend if bend < 0 else 0.0)


def _to_image(kspace: Complex) -> Complex:
    axes = (-2, -1)
    image: Complex = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=axes)), axes=axes)
    return image


def _to_kspace(image: Complex) -> Complex:
    axes = (-2, -1)
    kspace: Complex = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image, axes=axes)), axes=axes)
    return kspace


def _verdict(turns: Floats, shifts: Floats, trust: Floats) -> Verdict:
    """Say how the patient moved."""
    poor = int((trust < 0.5).sum())
    level = Level.FLAG if poor > len(trust) / 4 else Level.PASS
    advice = "Blades were turned and shifted back to undo motion."
    if level is Level.FLAG:
        advice = "The patient moved so much that several blades do not fit the others: look for blur, or repeat."
    return Verdict(
        check="mri.propeller",
        level=level,
        advice=advice,
        value=float(np.rad2deg(np.abs(turns).max())),
        unit="degrees",
        evidence=(
            f"{len(turns)} blades, largest shift {100 * np.linalg.norm(shifts, axis=1).max():.1f} % of the field of "
            f"view, {poor} blades trusted by less than half"
        ),
    )
