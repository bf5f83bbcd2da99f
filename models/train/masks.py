"""Which samples of k-space are measured: every R-th line, random lines, Poisson discs; partial Fourier."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import ConfigError
from kernels.compile import compiled

Mask = NDArray[np.bool_]


def centre_lines(n: int, n_acs: int) -> slice:
    """Return the `n_acs` lines around the centre of n."""
    first = n // 2 - n_acs // 2
    return slice(max(first, 0), min(first + n_acs, n))


def regular(n: int, r: int, *, n_acs: int = 24) -> Mask:
    """Return every r-th line through the centre and the calibration lines, shape (n,).

    Raises
    ------
    ConfigError
        `r` is less than 1 or there are no lines.
    """
    if r < 1 or n < 1:
        raise ConfigError("regular mask", expected="r >= 1 and lines", got=f"r={r}, n={n}")
    mask = np.arange(n) % r == (n // 2) % r
    mask[centre_lines(n, n_acs)] = True
    return mask


def random_lines(n: int, r: float, rng: np.random.Generator, *, n_acs: int = 16) -> Mask:
    """Return n / r lines: the calibration lines and random others, denser towards the centre, shape (n,).

    Raises
    ------
    ConfigError
        Fewer lines are asked for than calibrate.
    """
    wanted = round(n / r)
    if wanted < n_acs:
        expected = f"at least the {n_acs} lines of the calibration"
        raise ConfigError("random mask", expected=expected, got=f"{wanted} of {n} lines", action="lower r or n_acs")
    mask = np.zeros(n, bool)
    mask[centre_lines(n, n_acs)] = True
    weight = (1 - 0.9 * np.abs(np.arange(n) - n // 2) / (n / 2)) ** 2
    weight[mask] = 0
    more = wanted - int(mask.sum())
    if more > 0:
        mask[rng.choice(n, more, replace=False, p=weight / weight.sum())] = True
    return mask


def poisson_disc(shape: tuple[int, int], r: float, *, seed: int, n_acs: int = 16) -> Mask:
    """Return 1 / r of the samples of a plane (k2, k1), none close to another, closer towards the centre.

    The last masks are kept. The distance is found by halving so that the number of samples fits within 3 %.

    Raises
    ------
    ConfigError
        `r` is less than 1.
    """
    if r < 1:
        raise ConfigError("Poisson disc mask", expected="r >= 1", got=f"{r:g}")
    return _poisson_disc(shape, r, seed, n_acs)


@lru_cache(maxsize=128)
def _poisson_disc(shape: tuple[int, int], r: float, seed: int, n_acs: int) -> Mask:
    rng = np.random.default_rng([seed, 43])
    order = rng.permutation(shape[0] * shape[1])
    middle = np.zeros(shape, bool)
    middle[centre_lines(shape[0], n_acs), centre_lines(shape[1], n_acs)] = True
    wanted, low, high = shape[0] * shape[1] / r, 0.3, 8.0
    mask = middle
    for _ in range(14):
        base = (low + high) / 2
        mask = _thrown(order, middle, base)
        if abs(mask.sum() / wanted - 1) < 0.01:
            break
        low, high = (base, high) if mask.sum() > wanted else (low, base)
    mask.setflags(write=False)
    return mask


@compiled
def _thrown(order: NDArray[np.int64], middle: Mask, base: float) -> Mask:  # pragma: no cover - compiled
    """Take the samples in the given order that have no neighbour within ``base * (0.55 + 1.1 * |k|)``."""
    n_y, n_x = middle.shape
    mask = middle.copy()
    for flat in order:
        y, x = flat // n_x, flat % n_x
        ky, kx = (y - n_y // 2) / (n_y / 2), (x - n_x // 2) / (n_x / 2)
        reach = base * (0.55 + 1.1 * np.sqrt(ky * ky + kx * kx))
        w = int(reach)
        free = True
        for j in range(max(y - w, 0), min(y + w + 1, n_y)):
            for i in range(max(x - w, 0), min(x + w + 1, n_x)):
                if mask[j, i] and (j - y) ** 2 + (i - x) ** 2 <= reach * reach:
                    free = False
                    break
            if not free:
                break
        if free:
            mask[y, x] = True
    return mask


def partial_fourier(n: int, part: float) -> Mask:
    """Return the lines of partial Fourier: the first ones are left out, shape (n,).

    Raises
    ------
    ConfigError
        `part` does not lie from above 0.5 to 1.
    """
    if not 0.5 < part <= 1:
        raise ConfigError("partial Fourier", expected="above 0.5 to 1", got=f"{part:g}")
    return np.arange(n) >= n - round(part * n)


def acceleration(mask: Mask) -> float:
    """Return how many times fewer samples a mask has than all."""
    return mask.size / max(int(mask.sum()), 1)
