"""The pose of a head in a localizer: many beginnings, a few that go on, one that is refined, and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from acquisition.errors import DataError
from acquisition.items import Image
from models.plan_fit import AFFINE, SIMILARITY, Fit, Floats, Prior, Samples, fitted, score
from models.template import Template

_COARSE, _MIDDLE, _FINE = 1800, 5000, 20000
_KEPT, _REFINED, _CHOOSING = 24, 8, 6000
_BRIGHT = 0.15
_NEAR_DEG = 12.0
_DEEP_MM, _LOCAL_MM, _LOCAL_SD, _LOCAL, _FEWEST = 30.0, 18.0, 0.06, 5000, 60
_PARTS, _BLOCK_MM = 4, 16.0


@dataclass(frozen=True, slots=True, eq=False)
class Fits:
    """One head: fits to all of the brain and near its two landmarks."""

    whole: Fit
    """To all of the brain."""
    ac: Fit
    """Near the anterior commissure."""
    pc: Fit
    """Near the posterior commissure."""


@dataclass(frozen=True, slots=True, eq=False)
class Pose:
    """Where a head lies, and the evidence for it."""

    fits: Fits
    """From the whole image."""
    parts: tuple[Fits, ...]
    """The same after parts of the image were left out."""
    second: float
    """Variance explained by the best pose that is another one; 0: there was none."""
    seen: int
    """Voxels of about 2 mm that were seen near AC and PC, of both the one that was seen less."""
    depth_mm: float
    """Smallest standard deviation, along any direction, of the places of those voxels [mm]; 0 for one slice."""


def gathered(images: Sequence[Image], *, seed: int = 0) -> Samples:
    """Return the voxels of all stacks of a localizer, evenly in space, brightness about 1.

    Raises
    ------
    DataError
        There is nothing to see.
    """
    rng = np.random.default_rng(seed)
    parts = [_of_stack(image, rng) for image in images]
    values = np.concatenate([p.values for p in parts])
    if not values.size or not values.max() > 0:
        raise DataError("localizer", expected="a head", got="nothing above 0", action="check the series")
    bright = values[values > _BRIGHT * np.percentile(values, 99.5)]
    level = float(np.percentile(bright, 90)) if bright.size else 1.0
    return Samples(
        np.concatenate([p.places_mm for p in parts]),
        np.minimum(values / level, 1.6),
        np.concatenate([p.through_mm for p in parts]),
        np.concatenate([p.weights for p in parts]),
    )


def _of_stack(image: Image, rng: np.random.Generator) -> Samples:
    """Return voxels of one stack, averaged to about 2 mm in the plane, thinned to what is needed."""
    data = np.abs(np.asarray(image.data)).reshape(image.grid.shape).astype(np.float32)
    spacing = np.asarray(image.grid.spacing_mm)
    sides = [max(1, round(2.0 / s)) for s in spacing]
    if max(sides) > 1:
        data = ndimage.uniform_filter(data, sides, mode="nearest")
    steps = [max(1, round(2.0 / s)) for s in spacing]
    index = np.stack(np.meshgrid(*[np.arange(0, n, s) for n, s in zip(data.shape, steps, strict=True)], indexing="ij"))
    index = index.reshape(3, -1)
    if index.shape[1] > 120_000:
        index = index[:, rng.choice(index.shape[1], 120_000, replace=False)]
    affine = image.grid.affine
    places = index[::-1].T @ affine[:3, :3].T + affine[:3, 3]
    values = data[tuple(index)].astype(float)
    through = np.tile(np.asarray(image.grid.z_dir) * image.grid.thickness_mm / 2, (len(values), 1))
    volume = image.grid.thickness_mm * np.prod(spacing[1:]) * np.prod(steps)
    return Samples(places, values, through, np.full(len(values), volume))


def found(images: Sequence[Image], template: Template, *, starts: Sequence[Fit] = ()) -> Pose:
    """Return the pose of the head in a localizer.

    Parameters
    ----------
    images
        Its stacks.
    template
        The head it is compared with.
    starts
        Poses to begin with beside those that are tried anyway, e.g. a network's.

    Raises
    ------
    DataError
        There is nothing to see.
    """
    samples = gathered(images)
    rng = np.random.default_rng(1)
    coarse = _thinned(samples, _COARSE, rng)
    tries = [*starts, *_beginnings(samples, template)]
    scores = [score(fit, template.coarse, coarse) for fit in tries]
    order = np.argsort(scores)[::-1]
    kept = [tries[i] for i in order[:_KEPT]]
    first = [fitted(fit, template.coarse, coarse, basis=SIMILARITY, n_steps=10, prior=template.prior) for fit in kept]
    first.sort(key=lambda fit: -fit.explained)
    middle = _thinned(samples, _MIDDLE, rng, first[0])
    distinct = _distinct(first)[:_REFINED]
    second = [_brought(f, template, middle) for f in distinct]
    second.sort(key=lambda fit: -fit.explained)
    third = []
    for fit in _distinct(second)[:3]:
        near = _focused(_thinned(samples, _CHOOSING, rng, fit), fit, template)
        third.append(fitted(_fresh(fit), template.fine, near, basis=AFFINE, n_steps=4, prior=template.prior))
    common = _thinned(samples, _CHOOSING, rng, third[0])
    second = sorted((replace(f, explained=score(f, template.fine, common)) for f in third), key=lambda f: -f.explained)
    others = [f.explained for f in second[1:] if turned_deg(f, second[0]) > _NEAR_DEG]
    return refined(samples, template, second[0], second=max(others, default=0.0))


def _brought(fit: Fit, template: Template, samples: Samples) -> Fit:
    """Return the fit at middle resolution: of everything, then of the brain."""
    fit = fitted(_fresh(fit), template.middle, samples, basis=SIMILARITY, n_steps=3, prior=template.prior)
    for _ in range(2):
        near = _focused(samples, fit, template)
        fit = fitted(_fresh(fit), template.middle, near, basis=AFFINE, n_steps=4, prior=template.prior)
    return fit


def _focused(samples: Samples, fit: Fit, template: Template) -> Samples:
    """Return the samples, those that lie in the brain in this pose weighing most."""
    maps = template.fine
    index = np.rint((fit.template(samples.places_mm) - maps.first_mm) / maps.step_mm).astype(int)[:, ::-1]
    index = np.clip(index, 0, np.array(template.focus.shape) - 1)
    weights = samples.weights * template.focus[tuple(index.T)]
    return Samples(samples.places_mm, samples.values, samples.through_mm, weights)


def refined(samples: Samples, template: Template, fit: Fit, *, second: float = 0.0) -> Pose:
    """Return the pose near a fit, at full resolution, with what it is when parts of the image are left out."""
    rng = np.random.default_rng(2)
    fine = _focused(_thinned(samples, _FINE, rng, fit), fit, template)
    whole = fitted(_fresh(fit), template.fine, fine, basis=AFFINE, n_steps=6, prior=template.prior)
    middle = (template.landmarks["AC"] + template.landmarks["PC"]) / 2
    deep = _local(whole, template, _near(whole, samples, middle, _DEEP_MM), 0.1)
    near = [_near(deep, samples, template.landmarks[name], _LOCAL_MM) for name in ("AC", "PC")]
    fits = Fits(whole, *(_local(deep, template, some, _LOCAL_SD) for some in near))
    parts = []
    for k in range(_PARTS):
        one = fitted(_fresh(whole), template.fine, _without(fine, k), basis=AFFINE, n_steps=2, prior=template.prior)
        pair = (
            _local(f, template, _without(some, k), _LOCAL_SD, n_steps=2)
            for f, some in zip((fits.ac, fits.pc), near, strict=True)
        )
        parts.append(Fits(one, *pair))
    return Pose(fits, tuple(parts), second, min(len(some) for some in near), min(_depth_mm(some) for some in near))


def _depth_mm(samples: Samples) -> float:
    if len(samples) < _FEWEST:
        return 0.0
    return float(np.sqrt(max(np.linalg.eigvalsh(np.cov(samples.places_mm.T))[0], 0.0)))


def _near(fit: Fit, samples: Samples, place: Floats, reach_mm: float) -> Samples:
    """Return samples about a place of the template, those that are near weighing more."""
    away = ((fit.template(samples.places_mm) - place) ** 2).sum(axis=1) / reach_mm**2 / 2
    near = np.flatnonzero(away < 3.5)
    if len(near) > _LOCAL:
        near = np.random.default_rng(3).choice(near, _LOCAL, replace=False)
    some = samples.chosen(near)
    return Samples(some.places_mm, some.values, some.through_mm, np.exp(-away[near]))


def _without(samples: Samples, part: int) -> Samples:
    """Return the samples but for one part of the blocks of space."""
    block = np.floor(samples.places_mm / _BLOCK_MM).astype(int) @ np.array([1, 3, 7])
    return samples.chosen(np.flatnonzero(block % _PARTS != part))


def _local(fit: Fit, template: Template, samples: Samples, sd: float, *, n_steps: int = 5) -> Fit:
    """Return the fit to some samples; the size stays near that of the fit that it begins with."""
    if len(samples) < _FEWEST:
        return fit
    prior = Prior(_stretch(fit), sd)
    return fitted(_fresh(fit), template.fine, samples, basis=AFFINE, n_steps=n_steps, prior=prior)


def turned_deg(one: Fit, other: Fit) -> float:
    """Return the angle between two poses [degrees]."""
    return float(np.rad2deg(Rotation.from_matrix(rotation(one) @ rotation(other).T).magnitude()))


def rotation(fit: Fit) -> Floats:
    """Return the rotation nearest to a pose's matrix."""
    u, _, v = np.linalg.svd(fit.matrix)
    return np.asarray(u @ v)


def _stretch(fit: Fit) -> Floats:
    u, s, _ = np.linalg.svd(fit.matrix)
    return np.asarray(u @ np.diag(s) @ u.T)


def _fresh(fit: Fit) -> Fit:
    return Fit(fit.matrix, fit.shift_mm)


def _thinned(samples: Samples, n: int, rng: np.random.Generator, fit: Fit | None = None) -> Samples:
    """Return about n samples, those of a head near a pose, each slab of space by its volume."""
    index: NDArray = np.arange(len(samples))
    if fit is not None:
        q = fit.template(samples.places_mm)
        index = np.flatnonzero((np.abs(q - np.array([0.0, 18.0, 12.0])) < np.array([92.0, 112.0, 96.0])).all(axis=1))
    if len(index) < 50:
        index = np.arange(len(samples))
    weight = samples.weights[index]
    chosen = rng.choice(index, min(n, len(index)), replace=False, p=weight / weight.sum())
    some = samples.chosen(chosen)
    return Samples(some.places_mm, some.values, some.through_mm, np.ones(len(chosen)))


def _distinct(fits: Sequence[Fit]) -> list[Fit]:
    out: list[Fit] = []
    for fit in fits:
        if all(turned_deg(fit, other) > _NEAR_DEG / 2 or _apart_mm(fit, other) > 15 for other in out):
            out.append(fit)
    return out


def _apart_mm(one: Fit, other: Fit) -> float:
    middle = np.array([0.0, 18.0, 8.0])
    return float(np.linalg.norm(one.patient(middle) - other.patient(middle)))


def _beginnings(samples: Samples, template: Template) -> list[Fit]:
    """Return poses turned up to 45 degrees about any axis, the brain at several heights of what is bright."""
    bright = samples.values * samples.weights * (samples.values > _BRIGHT)
    if not bright.sum() > 0:
        bright = samples.weights
    middle = bright @ samples.places_mm / bright.sum()
    stretch = np.trace(template.prior.stretch) / 3
    out = []
    for turn in _TURNS:
        matrix = stretch * turn
        for up in (0.0, 28.0, 56.0, -22.0):
            brain = middle + turn.T @ np.array([0.0, 0.0, up])
            out.append(Fit(matrix, template.middle_mm - matrix @ brain))
    return out


def _turns() -> list[Floats]:
    """Return rotations about 20 degrees apart that fill a ball of 45 degrees."""
    steps = np.deg2rad(np.arange(-44, 45, 22))
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    near = grid[np.linalg.norm(grid, axis=1) < np.deg2rad(52)]
    return [np.asarray(Rotation.from_rotvec(v).as_matrix()) for v in near]


_TURNS = _turns()
__all__ = ["Fits", "Pose", "found", "gathered", "refined", "rotation", "turned_deg"]
