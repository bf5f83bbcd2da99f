"""Pairs of annihilation photons from ellipsoids to a cylinder of crystals: flight, attenuation, one Compton scattering.

Everything is drawn, nothing weighted: what comes out is a Poisson process where the number of decays is one.
"""

from __future__ import annotations

from math import erf

import numpy as np
from numpy.typing import NDArray

from kernels.compile import compiled

TRUE, SCATTERED = 0, 1
_BALL, _CYLINDER = 0, 1
_FAR = 1e30
_PARALLEL = 1e-12
_KEV = 511.0

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bodies = tuple[Floats, Floats, Ints, Floats]
"""Centres (n, 3), inverse matrices (n, 3, 3), which solid (n,), what each adds to its parent's value (n,)."""
Source = tuple[Floats, Floats, Floats, Ints, Ints, int]
"""Centres, matrices, inverse matrices, which solid, parents (n,) of the activity, and which of them emits."""
Gantry = tuple[int, int, float, float, float, int]
"""Rings, crystals per ring, radius [mm], pitch [mm], angle of crystal 0 [rad], turn."""
State = NDArray[np.uint64]
"""One number: where a sequence of random numbers has got to."""
Detection = tuple[Floats, float, float, float, float]
"""Probability that each detector counts a photon of 511 keV that hits it; energy window [keV]; standard deviation at
511 keV [keV]; mu_max [1/mm]."""
Setup = tuple[Gantry, Detection, tuple[float, float, int]]
"""Gantry, detection, and (largest `reach` / 2, radius within which lines count [mm], 1 with scatter and 0 without)."""


@compiled
def emit(
    n_decays: int,
    source: Source,
    bodies: Bodies,
    setup: Setup,
    state: State,
    out: tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.uint8]],
) -> int:  # pragma: no cover - compiled
    """Let so many decays happen; return how many coincidences were counted.

    The first photon is never scattered. So a scattered coincidence is found half as often as it happens, and a true one
    is dropped half of the time: ask for twice the decays.

    Parameters
    ----------
    n_decays
        Decays of the emitting solid, thinned by the largest `reach`.
    source, bodies, setup, state
        Activity, attenuation [1/mm], the scanner, and where the random numbers have got to.
    out
        Detectors (n, 2), place along the line from its middle towards the second [mm], kind; n >= n_decays.
    """
    gantry, detection, (most, fov, scatter) = setup
    count = 0
    for _ in range(n_decays):
        p = _point(source, state)
        x, y = 2 * _draw(state) - 1, 2 * _draw(state) - 1
        while x * x + y * y > 1 or x * x + y * y == 0:
            x, y = 2 * _draw(state) - 1, 2 * _draw(state) - 1
        length = np.sqrt(x * x + y * y)
        low, high = reach(p, (x / length, y / length), gantry)
        if _draw(state) * most * 2 > high - low or not _belongs(p, source):
            continue
        cos = low + (high - low) * _draw(state)
        sin = np.sqrt(1 - cos * cos) / length
        u = (sin * x, sin * y, cos)
        one, way_one = hit(p, u, gantry)
        if one < 0 or (not scatter and hit(p, (-u[0], -u[1], -u[2]), gantry)[0] < 0):
            continue
        if _draw(state) > detection[0][one] or _draw(state) > np.exp(-depth(p, u, bodies)):
            continue
        other, way_other, kind = _partner(p, (-u[0], -u[1], -u[2]), bodies, (gantry, detection, scatter), state)
        if other < 0 or other == one or line_distance(one, other, gantry) > fov:
            continue
        away = 0.5 * (way_one - way_other)
        out[0][count, 0], out[0][count, 1] = min(one, other), max(one, other)
        out[1][count] = away if one < other else -away
        out[2][count] = kind
        count += 1
    return count


@compiled
def _partner(
    p: tuple[float, float, float],
    u: tuple[float, float, float],
    bodies: Bodies,
    setup: tuple[Gantry, Detection, int],
    state: State,
) -> tuple[int, float, int]:  # pragma: no cover - compiled
    """Follow the second photon; return detector (-1: lost), way [mm] and kind."""
    gantry, (chance, low, high, sigma, mu_max), scatter = setup
    if not scatter:
        detector, length = hit(p, u, gantry)
        lost = detector < 0 or _draw(state) > chance[detector] or _draw(state) > np.exp(-depth(p, u, bodies))
        return -1 if lost else detector, length, TRUE
    way = _flight(p, u, bodies, mu_max, state)
    if way < 0:
        detector, length = hit(p, u, gantry)
        if detector < 0 or _draw(state) > chance[detector] or _draw(state) < 0.5:
            return -1, 0.0, TRUE
        return detector, length, TRUE
    cos = _klein_nishina(state)
    energy = _KEV / (2 - cos)
    if _draw(state) * _window(_KEV, low, high, sigma) > _window(energy, low, high, sigma):
        return -1, 0.0, SCATTERED
    q = (p[0] + way * u[0], p[1] + way * u[1], p[2] + way * u[2])
    v = _turned(u, cos, 2 * np.pi * _draw(state))
    detector, length = hit(q, v, gantry)
    if detector < 0 or _draw(state) > chance[detector]:
        return -1, 0.0, SCATTERED
    if _draw(state) > np.exp(-depth(q, v, bodies) * cross_section(energy) / cross_section(_KEV)):
        return -1, 0.0, SCATTERED
    return detector, way + length, SCATTERED


@compiled
def singles(
    points: Floats, places: Floats, normals: Floats, bodies: Bodies, out: Floats
) -> None:  # pragma: no cover - compiled
    """Add up ``cos / (4 pi d^2) exp(-mu)`` over the points for each detector [1/mm^2], overwrites `out`."""
    for d in range(len(places)):
        out[d] = 0
        for i in range(len(points)):
            x, y, z = places[d, 0] - points[i, 0], places[d, 1] - points[i, 1], places[d, 2] - points[i, 2]
            far = np.sqrt(x * x + y * y + z * z)
            cos = (x * normals[d, 0] + y * normals[d, 1] + z * normals[d, 2]) / far
            p = (points[i, 0], points[i, 1], points[i, 2])
            out[d] += cos / (4 * np.pi * far * far) * np.exp(-depth(p, (x / far, y / far, z / far), bodies))


@compiled
def sources(source: Source, state: State, out: Floats) -> int:  # pragma: no cover - compiled
    """Draw points (n, 3) in the emitting solid; return how many are not in a solid within it."""
    count = 0
    for _ in range(len(out)):
        p = _point(source, state)
        if _belongs(p, source):
            out[count, 0], out[count, 1], out[count, 2] = p
            count += 1
    return count


@compiled
def reach(
    p: tuple[float, float, float], e: tuple[float, float], gantry: Gantry
) -> tuple[float, float]:  # pragma: no cover - compiled
    """Return the axial direction cosines between which a photon from `p` with the azimuth `e` meets the rings."""
    b = p[0] * e[0] + p[1] * e[1]
    way = np.sqrt(b * b + gantry[2] * gantry[2] - p[0] * p[0] - p[1] * p[1]) - b
    half = 0.5 * gantry[0] * gantry[3]
    below, above = -half - p[2], half - p[2]
    return below / np.sqrt(below * below + way * way), above / np.sqrt(above * above + way * way)


@compiled
def hit(
    p: tuple[float, float, float], u: tuple[float, float, float], gantry: Gantry
) -> tuple[int, float]:  # pragma: no cover - compiled
    """Return the detector that a photon meets (-1: none) and its way [mm]."""
    rings, crystals, radius, pitch, first, turn = gantry
    a = u[0] * u[0] + u[1] * u[1]
    b = p[0] * u[0] + p[1] * u[1]
    root = b * b - a * (p[0] * p[0] + p[1] * p[1] - radius * radius)
    if a < _PARALLEL or root <= 0:
        return -1, 0.0
    t = (np.sqrt(root) - b) / a
    ring = int(np.floor((p[2] + t * u[2]) / pitch + 0.5 * rings))
    if ring < 0 or ring >= rings:
        return -1, 0.0
    angle = (np.arctan2(p[1] + t * u[1], p[0] + t * u[0]) - first) * turn / (2 * np.pi) * crystals
    return ring * crystals + int(np.floor(angle + 0.5)) % crystals, t


@compiled
def line_distance(one: int, other: int, gantry: Gantry) -> float:  # pragma: no cover - compiled
    """Return how far the line of two detectors passes from the axis [mm]."""
    return gantry[2] * abs(np.cos(np.pi * (one % gantry[1] - other % gantry[1]) / gantry[1]))


@compiled
def depth(
    p: tuple[float, float, float], u: tuple[float, float, float], bodies: Bodies
) -> float:  # pragma: no cover - compiled
    """Return the line integral from `p` onwards along the unit vector `u`, exact."""
    centres, inverse, shapes, values = bodies
    total = 0.0
    for n in range(len(shapes)):
        q = _times(inverse, n, (p[0] - centres[n, 0], p[1] - centres[n, 1], p[2] - centres[n, 2]))
        low, high = _interval(q, _times(inverse, n, u), shapes[n])
        if high > 0 and high > low:
            total += values[n] * (high - max(low, 0.0))
    return total


@compiled
def value_at(x: float, y: float, z: float, bodies: Bodies) -> float:  # pragma: no cover - compiled
    """Return the sum of the values of the solids that contain a point."""
    centres, inverse, shapes, values = bodies
    total = 0.0
    for n in range(len(shapes)):
        if _inside((x, y, z), n, centres, inverse, shapes):
            total += values[n]
    return total


@compiled
def _flight(
    p: tuple[float, float, float],
    u: tuple[float, float, float],
    bodies: Bodies,
    mu_max: float,
    state: State,
) -> float:  # pragma: no cover - compiled
    """Return how far a photon flies before it interacts [mm], -1 where it leaves (Woodcock tracking)."""
    centres, inverse, shapes, _ = bodies
    end = 0.0
    for n in range(len(shapes)):
        q = _times(inverse, n, (p[0] - centres[n, 0], p[1] - centres[n, 1], p[2] - centres[n, 2]))
        low, high = _interval(q, _times(inverse, n, u), shapes[n])
        if high > low:
            end = max(end, high)
    t = 0.0
    while mu_max > 0:
        t -= np.log(1 - _draw(state)) / mu_max
        if t >= end:
            break
        here = value_at(p[0] + t * u[0], p[1] + t * u[1], p[2] + t * u[2], bodies)
        if _draw(state) * mu_max < here:
            return t
    return -1.0


@compiled
def _draw(state: State) -> float:  # pragma: no cover - compiled
    """Return a number from 0 to below 1 (SplitMix64, DOI 10.1145/2660193.2660195; six times as fast as PCG here)."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@compiled
def _klein_nishina(state: State) -> float:  # pragma: no cover - compiled
    """Draw the cosine of the scattering angle at 511 keV."""
    while True:
        cos = 2 * _draw(state) - 1
        ratio = 1 / (2 - cos)
        if 2 * _draw(state) < ratio * ratio * (ratio + 1 / ratio - 1 + cos * cos):
            return cos


@compiled
def cross_section(kev: float) -> float:  # pragma: no cover - compiled
    """Return the total Klein-Nishina cross section, in units of 2 pi r_e^2."""
    a = kev / _KEV
    log = np.log(1 + 2 * a)
    return (1 + a) / (a * a) * (2 * (1 + a) / (1 + 2 * a) - log / a) + log / (2 * a) - (1 + 3 * a) / ((1 + 2 * a) ** 2)


@compiled
def _window(kev: float, low: float, high: float, sigma: float) -> float:  # pragma: no cover - compiled
    """Return the probability that a photon is measured within the energy window."""
    width = sigma * np.sqrt(2 * kev / _KEV)
    return 0.5 * (erf((high - kev) / width) - erf((low - kev) / width))


@compiled
def _turned(
    u: tuple[float, float, float], cos: float, phi: float
) -> tuple[float, float, float]:  # pragma: no cover - compiled
    """Return `u` turned by an angle of this cosine towards the azimuth `phi`."""
    sin = np.sqrt(max(1 - cos * cos, 0.0))
    x, y, z = u
    if abs(z) > 0.999999:
        return sin * np.cos(phi), sin * np.sin(phi), cos * (1.0 if z > 0 else -1.0)
    across = np.sqrt(1 - z * z)
    c, s = sin * np.cos(phi) / across, sin * np.sin(phi) / across
    return x * cos + x * z * c - y * s, y * cos + y * z * c + x * s, z * cos - across * across * c


@compiled
def _point(source: Source, state: State) -> tuple[float, float, float]:  # pragma: no cover - compiled
    """Draw a point in the emitting solid."""
    centres, matrices, _, shapes, _, n = source
    while True:
        a, b, c = 2 * _draw(state) - 1, 2 * _draw(state) - 1, 2 * _draw(state) - 1
        if shapes[n] == _BALL and a * a + b * b + c * c > 1:
            continue
        if shapes[n] == _CYLINDER and a * a + b * b > 1:
            continue
        x, y, z = _times(matrices, n, (a, b, c))
        return centres[n, 0] + x, centres[n, 1] + y, centres[n, 2] + z


@compiled
def _belongs(p: tuple[float, float, float], source: Source) -> bool:  # pragma: no cover - compiled
    """Return whether a point of the emitting solid is in none of its children."""
    centres, _, inverse, shapes, parents, n = source
    found = False
    for k in range(len(shapes)):
        found = found or (parents[k] == n and _inside(p, k, centres, inverse, shapes))
    return not found


@compiled
def _inside(
    p: tuple[float, float, float], n: int, centres: Floats, inverse: Floats, shapes: Ints
) -> bool:  # pragma: no cover - compiled
    a, b, c = _times(inverse, n, (p[0] - centres[n, 0], p[1] - centres[n, 1], p[2] - centres[n, 2]))
    if shapes[n] == _BALL:
        return a * a + b * b + c * c <= 1
    if shapes[n] == _CYLINDER:
        return a * a + b * b <= 1 and abs(c) <= 1
    return abs(a) <= 1 and abs(b) <= 1 and abs(c) <= 1


@compiled
def _times(
    m: Floats, n: int, u: tuple[float, float, float]
) -> tuple[float, float, float]:  # pragma: no cover - compiled
    """Return matrix `n` of `m` times a vector."""
    return (
        m[n, 0, 0] * u[0] + m[n, 0, 1] * u[1] + m[n, 0, 2] * u[2],
        m[n, 1, 0] * u[0] + m[n, 1, 1] * u[1] + m[n, 1, 2] * u[2],
        m[n, 2, 0] * u[0] + m[n, 2, 1] * u[1] + m[n, 2, 2] * u[2],
    )


@compiled
def _interval(
    u: tuple[float, float, float], d: tuple[float, float, float], shape: int
) -> tuple[float, float]:  # pragma: no cover - compiled
    """Return for which t ``u + t d`` lies in the unit solid; empty: the second is not larger."""
    if shape == _BALL:
        return _round(
            d[0] * d[0] + d[1] * d[1] + d[2] * d[2],
            u[0] * d[0] + u[1] * d[1] + u[2] * d[2],
            u[0] * u[0] + u[1] * u[1] + u[2] * u[2] - 1,
        )
    low, high = _slab(u[2], d[2])
    if shape == _CYLINDER:
        one, other = _round(d[0] * d[0] + d[1] * d[1], u[0] * d[0] + u[1] * d[1], u[0] * u[0] + u[1] * u[1] - 1)
        return max(low, one), min(high, other)
    for i in range(2):
        one, other = _slab(u[i], d[i])
        low, high = max(low, one), min(high, other)
    return low, high


@compiled
def _round(a: float, b: float, q: float) -> tuple[float, float]:  # pragma: no cover - compiled
    """Return for which t ``a t^2 + 2 b t + q <= 0``."""
    if a < _PARALLEL:
        return (-_FAR, _FAR) if q <= 0 else (0.0, 0.0)
    root = b * b - a * q
    if root <= 0:
        return 0.0, 0.0
    half = np.sqrt(root) / a
    return -half - b / a, half - b / a


@compiled
def _slab(u: float, d: float) -> tuple[float, float]:  # pragma: no cover - compiled
    """Return for which t ``|u + t d| <= 1``."""
    if abs(d) > _PARALLEL:
        one, other = (-1 - u) / d, (1 - u) / d
        return min(one, other), max(one, other)
    return (0.0, 0.0) if abs(u) > 1 else (-_FAR, _FAR)
