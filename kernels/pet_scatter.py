"""Single scatter between pairs of PET detectors: rays through volumes, and the sum over scattering points."""

from __future__ import annotations

from math import erf

import numpy as np
from numpy.typing import NDArray

from kernels.compile import compiled
from kernels.pet_emit import cross_section

_KEV = 511.0

Floats = NDArray[np.float32]
Place = tuple[float, float, float, float, float, float]
"""Centre of the first voxel and distance of voxels [mm]: x, dx, y, dy, z, dz."""
Energy = tuple[float, float, float]
"""Energy window and standard deviation at 511 keV [keV]."""


@compiled
def rays(
    volumes: tuple[Floats, Floats],
    place: Place,
    points: NDArray[np.float64],
    detectors: NDArray[np.float64],
    step: float,
    out: tuple[Floats, Floats],
) -> None:  # pragma: no cover - compiled
    """Follow the rays from scattering points to detectors.

    Parameters
    ----------
    volumes
        Activity and attenuation [1/mm], both (z, y, x).
    place
        Where the voxels are.
    points, detectors
        Where they are (n, 3) and (m, 3) [mm].
    step
        Length of a step [mm].
    out
        Activity in each step (n, m, steps), times mm; attenuation along the ray (n, m); overwritten.
    """
    activity, mu = volumes
    for i in range(len(points)):
        for j in range(len(detectors)):
            x, y, z = (
                detectors[j, 0] - points[i, 0],
                detectors[j, 1] - points[i, 1],
                detectors[j, 2] - points[i, 2],
            )
            length = np.sqrt(x * x + y * y + z * z)
            total = 0.0
            for k in range(out[0].shape[2]):
                t = (k + 0.5) * step / length
                fx = (points[i, 0] + t * x - place[0]) / place[1]
                fy = (points[i, 1] + t * y - place[2]) / place[3]
                fz = (points[i, 2] + t * z - place[4]) / place[5]
                found = t < 1
                out[0][i, j, k] = step * _linear(activity, fx, fy, fz) if found else 0.0
                total += step * _linear(mu, fx, fy, fz) if found else 0.0
            out[1][i, j] = total


@compiled
def _linear(volume: Floats, fx: float, fy: float, fz: float) -> float:  # pragma: no cover - compiled
    """Return the value between voxels; 0 outside, the outermost voxels reach half a voxel further in z."""
    nz, ny, nx = volume.shape
    if fz < -0.5 or fz > nz - 0.5 or fx < 0 or fy < 0 or fx > nx - 1 or fy > ny - 1:
        return 0.0
    fz = min(max(fz, 0.0), nz - 1.0)
    x, y, z = min(int(fx), nx - 2), min(int(fy), ny - 2), max(min(int(fz), nz - 2), 0)
    ax, ay, az = fx - x, fy - y, fz - z
    up = min(z + 1, nz - 1)
    low = (volume[z, y, x] * (1 - ax) + volume[z, y, x + 1] * ax) * (1 - ay) + (
        volume[z, y + 1, x] * (1 - ax) + volume[z, y + 1, x + 1] * ax
    ) * ay
    high = (volume[up, y, x] * (1 - ax) + volume[up, y, x + 1] * ax) * (1 - ay) + (
        volume[up, y + 1, x] * (1 - ax) + volume[up, y + 1, x + 1] * ax
    ) * ay
    return low * (1 - az) + high * az


@compiled
def single_scatter(
    points: tuple[NDArray[np.float64], NDArray[np.float64]],
    detectors: tuple[NDArray[np.float64], NDArray[np.float64]],
    along: tuple[Floats, Floats, float],
    energy: Energy,
    fine: float,
    out: NDArray[np.float64],
) -> None:  # pragma: no cover - compiled
    """Add up the single scatter of every pair of detectors over the scattering points.

    Parameters
    ----------
    points
        Where they are (n, 3) [mm], and attenuation times volume (n,) [mm^2].
    detectors, along, energy
        Where they are, and their inward normals (m, 3); what `rays` found, and its step [mm]; what is counted.
    fine, out
        Width of a bin [mm]; (m, m, bins) from the first detector to the second, overwritten [activity mm^-1].
    """
    where, strength = points
    activity, mu, step = along
    n, m, steps = activity.shape
    bins = out.shape[2]
    whole = cross_section(_KEV)
    full = _window(_KEV, energy)
    out[:] = 0
    for i in range(n):
        for a in range(m):
            ua, cos_a = _towards(where[i], detectors, a)
            for b in range(m):
                ub, cos_b = _towards(where[i], detectors, b)
                if a == b or cos_a <= 0 or cos_b <= 0:
                    continue
                cos = -(ua[0] * ub[0] + ua[1] * ub[1] + ua[2] * ub[2])
                kev = _KEV / (2 - cos)
                seen = _window(kev, energy) / full
                if seen < 1e-4:
                    continue
                ratio = kev / _KEV
                part = 0.5 * ratio * ratio * (ratio + 1 / ratio - 1 + cos * cos) / whole / (2 * np.pi)
                loss = mu[i, a] + mu[i, b] * cross_section(kev) / whole
                weight = strength[i] * part * seen * cos_a * cos_b * np.exp(-loss) / (ua[3] * ub[3]) ** 2
                start = 0.5 * (ua[3] - ub[3]) / fine + 0.5 * bins
                for k in range(steps):
                    if activity[i, a, k] > 0:
                        at = int(np.floor(start - (k + 0.5) * step / fine))
                        if at >= 0 and at < bins:
                            out[a, b, at] += weight * activity[i, a, k]
                            out[b, a, bins - 1 - at] += weight * activity[i, a, k]


@compiled
def _towards(
    p: NDArray[np.float64], detectors: tuple[NDArray[np.float64], NDArray[np.float64]], d: int
) -> tuple[tuple[float, float, float, float], float]:  # pragma: no cover - compiled
    """Return direction and distance to a detector, and the cosine of incidence there."""
    place, normal = detectors
    x, y, z = place[d, 0] - p[0], place[d, 1] - p[1], place[d, 2] - p[2]
    far = np.sqrt(x * x + y * y + z * z)
    cos = -(x * normal[d, 0] + y * normal[d, 1] + z * normal[d, 2]) / far
    return (x / far, y / far, z / far, far), cos


@compiled
def _window(kev: float, energy: Energy) -> float:  # pragma: no cover - compiled
    """Return the probability that a photon is measured within the energy window."""
    low, high, sigma = energy
    width = sigma * np.sqrt(2 * kev / _KEV)
    return 0.5 * (erf((high - kev) / width) - erf((low - kev) / width))


@compiled
def between(
    table: Floats,
    pairs: NDArray[np.int32],
    bins: NDArray[np.int16],
    rings: tuple[int, int, float],
    out: Floats,
) -> None:  # pragma: no cover - compiled
    """Interpolate a table of coarse detector pairs at fine ones, linearly in both rings and both angles.

    Parameters
    ----------
    table
        (ring, angle, ring, angle, bin).
    pairs, bins
        Detectors (line, 2) and time-of-flight bin (line,).
    rings
        Crystals per ring, coarse angles per ring times n, and coarse rings per fine ring.
    out
        (line,), overwritten.
    """
    crystals, _, per_ring = rings
    coarse, around = table.shape[0], table.shape[1]
    for i in range(len(pairs)):
        total = 0.0
        ra, fa, ca, ga = _corner(pairs[i, 0], crystals, per_ring, coarse, around)
        rb, fb, cb, gb = _corner(pairs[i, 1], crystals, per_ring, coarse, around)
        for n in range(16):
            p, q, r, s = n & 1, (n >> 1) & 1, (n >> 2) & 1, n >> 3
            w = (fa if p else 1 - fa) * (ga if q else 1 - ga) * (fb if r else 1 - fb) * (gb if s else 1 - gb)
            if w > 0:
                total += w * table[ra + p, (ca + q) % around, rb + r, (cb + s) % around, bins[i]]
        out[i] = total


@compiled
def _corner(
    detector: int, crystals: int, per_ring: float, coarse: int, around: int
) -> tuple[int, float, int, float]:  # pragma: no cover - compiled
    ring = (detector // crystals) * per_ring
    low = max(min(int(ring), coarse - 2), 0)
    angle = (detector % crystals) * around / crystals
    return low, ring - low, int(angle), angle - int(angle)
