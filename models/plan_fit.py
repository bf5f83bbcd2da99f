"""An affine fit of tissue maps to an image of any contrast: each tissue has one brightness, which the fit finds, too.

``y_i = sum_k beta_k P_k(A p_i + b) + bias``: brightness beta, slowly varying bias and pose are unknowns of one least
squares problem, solved by Gauss-Newton steps (the correlation ratio of Roche et al., MICCAI 1998, DOI
10.1007/BFb0056301, made differentiable by variable projection). Slices are as thick as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kernels.compile import compiled

F32 = NDArray[np.float32]
Floats = NDArray[np.float64]

AFFINE = np.eye(12)
"""All 12 parameters of a step: rows of the matrix, each (shift, x, y, z)."""
_REACH_MM = 50.0
"""Unit of places in a step's parameters [mm]."""
_N_BIAS = 9
_CORRELATED = 60.0  # samples that count as one: neighbours share their anatomy
_RIDGE = 1e-6
_BIAS_SD = 0.12  # of a bright voxel's brightness
_UNEXPLAINED = 0.2


def _similarity() -> Floats:
    """Return the 7 of 12 parameters that turn, shift and scale alike, (12, 7)."""
    rows = []
    for axis in range(3):
        shift = np.zeros((3, 4))
        shift[axis, 0] = 1
        rows.append(shift)
    for a, b in ((1, 2), (2, 0), (0, 1)):
        turn = np.zeros((3, 4))
        turn[a, 1 + b], turn[b, 1 + a] = -1, 1
        rows.append(turn)
    scale = np.zeros((3, 4))
    scale[:, 1:] = np.eye(3)
    rows.append(scale)
    return np.stack([row.ravel() for row in rows], axis=1)


SIMILARITY = _similarity()
"""7 of the 12: turned, shifted, scaled alike."""


@dataclass(frozen=True, slots=True, eq=False)
class Maps:
    """Tissue maps of a template at one resolution."""

    parts: F32
    """Part of each tissue (z, y, x, tissue)."""
    first_mm: Floats
    """Place of voxel (0, 0, 0), template LPS (x, y, z) [mm]."""
    step_mm: float
    """Distance of voxels [mm]."""
    middle_mm: Floats
    """Point about which steps turn, template LPS [mm]."""
    n_brain: int
    """The first of the tissues, which are brain."""


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Voxels of a localizer."""

    places_mm: Floats
    """LPS (n, 3) [mm]."""
    values: Floats
    """Brightness (n,), about 1 where it is bright."""
    through_mm: Floats
    """Half a slice from middle to face (n, 3) [mm]."""
    weights: Floats
    """(n,)."""

    def chosen(self, which: NDArray) -> Samples:
        """Return some of them."""
        return Samples(self.places_mm[which], self.values[which], self.through_mm[which], self.weights[which])

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """A pose and how well the maps explain the image in it."""

    matrix: Floats
    """From LPS to template LPS (3, 3)."""
    shift_mm: Floats
    """(3,)."""
    explained: float = 0.0
    """Part of the image's variance that the tissues explain."""
    beta: Floats | None = None
    """Brightness of tissues and bias."""

    def template(self, places_mm: Floats) -> Floats:
        """Return template places (n, 3) of places in the patient (n, 3) [mm]."""
        return np.asarray(places_mm @ self.matrix.T + self.shift_mm)

    def patient(self, template_mm: Floats) -> Floats:
        """Return where template places (..., 3) are in the patient [mm]."""
        return np.asarray((np.asarray(template_mm) - self.shift_mm) @ np.linalg.inv(self.matrix).T)


@dataclass(frozen=True, slots=True, eq=False)
class Prior:
    """What sizes heads have against the template."""

    stretch: Floats
    """Mean symmetric part of the matrix (3, 3)."""
    sd: float
    """Standard deviation of its entries."""


def fitted(fit: Fit, maps: Maps, samples: Samples, *, basis: Floats, n_steps: int, prior: Prior) -> Fit:
    """Return the fit after some Gauss-Newton steps; the best one seen, so a step never makes it worse.

    Parameters
    ----------
    fit
        Where to begin.
    maps, samples
        Template and image.
    basis
        `AFFINE` or `SIMILARITY`, (12, m).
    n_steps
        How many.
    prior
        Keeps the size of the head within what heads have.
    """
    best, at = fit, fit
    n_linear = maps.parts.shape[3] + _N_BIAS
    for step in range(n_steps + 1):
        normal, right, square = _normal(at, maps, samples)
        _hold_bias(normal, square, samples, n_linear)
        linear, rhs = normal[:n_linear, :n_linear] + _RIDGE * np.eye(n_linear) * len(samples), right[:n_linear]
        beta = np.asarray(np.linalg.solve(linear, rhs), np.float64)
        rest = max(square - float(beta @ rhs), 1e-9)
        total = max(square - right[-1] ** 2 / max(normal[-1, -1], 1e-9), 1e-9)
        at = replace(at, explained=1 - rest / total, beta=beta)
        if at.explained > best.explained or best.beta is None:
            best = at
        if step == n_steps:
            break
        if step == 0 and fit.beta is None:
            normal, right, square = _normal(at, maps, samples)
            _hold_bias(normal, square, samples, n_linear)
        noise = rest / max(float(samples.weights.sum()), 1.0) * _CORRELATED
        at = _stepped(at, normal[:-1, :-1], right[:-1], basis, (noise, prior))
    return best


def _hold_bias(normal: Floats, square: float, samples: Samples, n_linear: int) -> None:
    """Keep the bias small, as coils make it: else it explains a head in any pose."""
    power = square / max(float(samples.weights.sum()), 1e-9)
    at = np.arange(n_linear - _N_BIAS, n_linear)
    normal[at, at] += _CORRELATED * _UNEXPLAINED * power / _BIAS_SD**2


def score(fit: Fit, maps: Maps, samples: Samples) -> float:
    """Return how much of the variance the tissues explain in a pose, without bias."""
    k = maps.parts.shape[3]
    normal, right, square = _normal(fit, maps, samples, n=k + 1)
    beta = np.linalg.solve(normal[:k, :k] + _RIDGE * np.eye(k) * len(samples), right[:k])
    total = max(square - right[-1] ** 2 / max(normal[-1, -1], 1e-9), 1e-9)
    return 1 - max(square - float(beta @ right[:k]), 0.0) / total


def _normal(fit: Fit, maps: Maps, samples: Samples, *, n: int = 0) -> tuple[Floats, Floats, float]:
    """Return normal matrix and right-hand side of brightness, bias, step and constant, and the sum of squares."""
    k = maps.parts.shape[3]
    n = n or k + _N_BIAS + 12 + 1
    normal, right = np.zeros((n, n)), np.zeros(n)
    beta = np.zeros(k + _N_BIAS) if fit.beta is None else fit.beta
    index = np.ascontiguousarray(fit.matrix / maps.step_mm)
    first = (fit.shift_mm - maps.first_mm) / maps.step_mm
    middle = (maps.middle_mm - maps.first_mm) / maps.step_mm
    square = _accumulate(
        (maps.parts, maps.n_brain, maps.step_mm),
        (samples.places_mm, samples.values, samples.through_mm, samples.weights),
        (index, first, middle),
        beta,
        (normal, right),
    )
    normal += np.tril(normal, -1).T
    return normal, right, square


def _stepped(fit: Fit, normal: Floats, right: Floats, basis: Floats, known: tuple[float, Prior]) -> Fit:
    """Return the pose after one step; brightness and bias are solved for with it."""
    noise, prior = known
    n_linear = len(right) - 12
    whole = np.zeros((len(right), n_linear + basis.shape[1]))
    whole[:n_linear, :n_linear] = np.eye(n_linear)
    whole[n_linear:, n_linear:] = basis
    rows, wanted = _sizes(fit, prior)
    weight = noise / prior.sd**2
    square = normal.copy()
    square[n_linear:, n_linear:] += weight * rows.T @ rows
    rhs = right.copy()
    rhs[n_linear:] += weight * rows.T @ wanted
    small = whole.T @ square @ whole
    small += np.diag(1e-4 * np.diag(small) + 1e-9)
    step = (whole @ np.linalg.solve(small, whole.T @ rhs))[n_linear:].reshape(3, 4)
    return _moved(fit, step)


def _moved(fit: Fit, step: Floats) -> Fit:
    """Return the pose after ``q <- q + step (1, (q - middle) / reach)``, at most 12 mm and 12 degrees at once."""
    limit = max(1.0, np.abs(step[:, 0]).max() / 12.0, np.abs(step[:, 1:]).max() / _REACH_MM / 0.2)
    shift, turn = step[:, 0] / limit, np.eye(3) + step[:, 1:] / _REACH_MM / limit
    skew = (turn - turn.T) / 2
    turned = turn - skew + _exponential(skew) - np.eye(3)  # a rotation stays one
    middle = _MIDDLE
    return Fit(turned @ fit.matrix, turned @ (fit.shift_mm - middle) + middle + shift, fit.explained, fit.beta)


_MIDDLE = np.array([0.0, 18.0, 8.0])
"""About the brain's middle, template LPS [mm]."""


def _exponential(skew: Floats) -> Floats:
    vector = np.array([skew[2, 1], skew[0, 2], skew[1, 0]])
    angle = float(np.linalg.norm(vector))
    if angle < 1e-9:
        return np.eye(3)
    k = skew / angle
    return np.asarray(np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k)


def _sizes(fit: Fit, prior: Prior) -> tuple[Floats, Floats]:
    """Return six linear conditions on a step that bring the head's size to the prior's, (6, 12), (6,)."""
    u, s, _ = np.linalg.svd(fit.matrix)
    stretch = u @ np.diag(s) @ u.T
    rows, wanted = [], []
    for a, b in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)):
        row = np.zeros((3, 4))
        row[a, 1 + b] += 0.5 / _REACH_MM
        row[b, 1 + a] += 0.5 / _REACH_MM
        rows.append(row.ravel())
        wanted.append(prior.stretch[a, b] - stretch[a, b])
    return np.stack(rows), np.array(wanted)


@compiled
def _accumulate(
    template: tuple[F32, int, float],
    samples: tuple[Floats, Floats, Floats, Floats],
    pose: tuple[Floats, Floats, Floats],
    beta: Floats,
    into: tuple[Floats, Floats],
) -> float:  # pragma: no cover - compiled
    """Add all samples to the lower half of the normal equations; return the sum of squares."""
    parts, n_brain, step_mm = template
    places, values, through, weights = samples
    matrix, first, middle = pose
    normal, right = into
    k, n = parts.shape[3], len(right)
    row, slope = np.zeros(n), np.zeros(3)
    square = 0.0
    for i in range(len(values)):
        row[:] = 0.0
        slope[:] = 0.0
        x0 = matrix[0, 0] * places[i, 0] + matrix[0, 1] * places[i, 1] + matrix[0, 2] * places[i, 2] + first[0]
        y0 = matrix[1, 0] * places[i, 0] + matrix[1, 1] * places[i, 1] + matrix[1, 2] * places[i, 2] + first[1]
        z0 = matrix[2, 0] * places[i, 0] + matrix[2, 1] * places[i, 1] + matrix[2, 2] * places[i, 2] + first[2]
        tx = matrix[0, 0] * through[i, 0] + matrix[0, 1] * through[i, 1] + matrix[0, 2] * through[i, 2]
        ty = matrix[1, 0] * through[i, 0] + matrix[1, 1] * through[i, 1] + matrix[1, 2] * through[i, 2]
        tz = matrix[2, 0] * through[i, 0] + matrix[2, 1] * through[i, 1] + matrix[2, 2] * through[i, 2]
        n_sub = 3 if tx * tx + ty * ty + tz * tz > 0.6 else 1
        for s in range(n_sub):
            part = 0.67 * (s - 1) if n_sub == 3 else 0.0
            x, y, z = x0 + part * tx, y0 + part * ty, z0 + part * tz
            _add_point(parts, (x, y, z), (beta, n_sub), row, slope)
        gx, gy, gz = slope[0], slope[1], slope[2]
        row[n - 1] = 1.0
        brain = row[:n_brain].sum() if n > k + 1 else 0.0
        u, v, w = (
            (x0 - middle[0]) * step_mm / 50.0,
            (y0 - middle[1]) * step_mm / 50.0,
            (z0 - middle[2]) * step_mm / 50.0,
        )
        if brain > 0.01:
            row[k], row[k + 1], row[k + 2] = brain * u, brain * v, brain * w
            row[k + 3], row[k + 4], row[k + 5] = brain * u * u, brain * v * v, brain * w * w
            row[k + 6], row[k + 7], row[k + 8] = brain * u * v, brain * u * w, brain * v * w
        at = k + 9
        if n > k + 1:
            gx, gy, gz = gx / step_mm, gy / step_mm, gz / step_mm
            row[at], row[at + 1], row[at + 2], row[at + 3] = gx, gx * u, gx * v, gx * w
            row[at + 4], row[at + 5], row[at + 6], row[at + 7] = gy, gy * u, gy * v, gy * w
            row[at + 8], row[at + 9], row[at + 10], row[at + 11] = gz, gz * u, gz * v, gz * w
        _add_row(row, values[i], weights[i], (normal, right))
        square += weights[i] * values[i] * values[i]
    return square


@compiled
def _add_point(
    parts: F32, at: tuple[float, float, float], how: tuple[Floats, int], row: Floats, slope: Floats
) -> None:  # pragma: no cover - compiled
    """Add the tissues at a point between voxels to `row`, and how the brightness changes along x, y, z to `slope`."""
    beta, n_sub = how
    n_z, n_y, n_x, k = parts.shape
    x, y, z = at
    ix, iy, iz = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
    if ix < 0 or iy < 0 or iz < 0 or ix >= n_x - 1 or iy >= n_y - 1 or iz >= n_z - 1:
        return
    fx, fy, fz = x - ix, y - iy, z - iz
    for corner in range(8):
        dz, dy, dx = corner >> 2, (corner >> 1) & 1, corner & 1
        wz, wy, wx = (fz if dz else 1 - fz), (fy if dy else 1 - fy), (fx if dx else 1 - fx)
        w = wz * wy * wx / n_sub
        bright = 0.0
        for c in range(k):
            p = parts[iz + dz, iy + dy, ix + dx, c]
            if p != 0:
                row[c] += w * p
                bright += beta[c] * p
        bright /= n_sub
        slope[2] += (bright if dz else -bright) * wy * wx
        slope[1] += (bright if dy else -bright) * wz * wx
        slope[0] += (bright if dx else -bright) * wz * wy


@compiled
def _add_row(
    row: Floats, value: float, weight: float, into: tuple[Floats, Floats]
) -> None:  # pragma: no cover - compiled
    """Add one equation to the lower half of the normal equations."""
    normal, right = into
    for a in range(len(row)):
        scaled = row[a] * weight
        if scaled != 0:
            right[a] += scaled * value
            for b in range(a + 1):
                normal[a, b] += scaled * row[b]
