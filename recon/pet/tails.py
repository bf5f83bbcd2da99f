"""How much scatter there really is: simulated scatter scaled to the counts beside the patient, plane by plane.

A tail is a line of response, with time of flight a bin of it, that sees nothing of the body: only scatter and randoms
count there. What is scattered twice or comes from outside makes a scale above 1. It is fitted for each plane (sum of
both rings) and group of segments (difference of rings). Few counts say little: a plane's scale is drawn towards that of
the whole frame, and that towards 1, in proportion to their noise. Nothing beyond `LIMITS` is believed.

References
----------
C. C. Watson, "New, faster, image-based scatter correction for 3D PET", IEEE Trans Nucl Sci 47 (2000) 1587,
DOI 10.1109/23.873020.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, convolve1d

from acquisition.items import TimeFrame
from acquisition.scan import PetHeader
from acquisition.verdict import Level, Verdict
from recon.pet.gather import Background
from recon.pet.project import Bins, LineProjector, Pairs
from recon.pet.sensitivity import Attenuation, LineModel, lines_of

Floats = NDArray[np.float64]

LIMITS = (0.5, 2.0)
"""Least and greatest scale that is believed: single scatter is half of all scatter in the largest patients, and never
twice of it."""
_BODY_PER_MM = 0.001  # a tenth of water: lung is body, air is not
_MARGIN_MM = 12.0  # crystals are not points
_WIDER = 1.5  # of the time resolution: the cut at 3 sigma becomes 4.5, where a true coincidence is no matter any more
_SAMPLES = 300_000
_SEGMENTS = 4
_SPREAD = (0.3, 0.1)  # standard deviations of the frame's scale from 1, of a plane's from the frame's
_NEIGHBOURS = np.array([1.0, 2.0, 1.0])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TailScale:
    """What simulated scatter is multiplied with."""

    pet: PetHeader
    """The scanner."""
    factors: Floats
    """Scale (segment group, sum of rings)."""
    overall: float
    """Scale of the whole frame, before the planes' own."""
    found: float
    """What the counts said of the whole frame, before limits and noise."""
    clamped: int
    """Planes and segment groups that were kept at a limit."""
    limits: tuple[float, float] = LIMITS
    """Least and greatest that is believed."""

    def of(self, pairs: Pairs) -> NDArray[np.float32]:
        """Return the scale of lines (line, 2), shape (line,)."""
        return self.factors.ravel()[_group(self.pet, pairs)].astype(np.float32)

    @property
    def verdict(self) -> Verdict:
        """FLAG where a limit was reached."""
        low, high = float(self.factors.min()), float(self.factors.max())
        evidence = f"planes {low:.2f} to {high:.2f}; {self.clamped} of {self.factors.size} at a limit; "
        fine = self.clamped == 0 and self.limits[0] <= self.found <= self.limits[1]
        advice = "Simulated scatter fits the counts beside the patient."
        if not fine:
            advice = (
                "Simulated scatter does not fit the counts beside the patient: check attenuation map, calibration and "
                "whether activity lies outside; do not trust small differences of activity."
            )
        return Verdict(
            check="pet.scatter_scale",
            level=Level.PASS if fine else Level.FLAG,
            advice=advice,
            value=self.overall,
            limit=self.limits[0] if self.overall < 1 else self.limits[1],
            unit="of the simulation",
            evidence=f"{evidence}counts say {self.found:.2f}",
        )


def tail_scale(
    model: LineModel,
    prompts: tuple[Pairs, Bins | None, NDArray[np.float32] | None],
    frame: TimeFrame,
    *,
    scatter: Background,
    others: list[Background],
    limits: tuple[float, float] = LIMITS,
) -> TailScale:
    """Return the scale at which simulated scatter explains the counts beside the body.

    Parameters
    ----------
    model
        The lines' factors, attenuation among them.
    prompts
        Detectors (event, 2) and time-of-flight bins (event,) of the frame's prompts, and how often each was counted.
    frame
        The time that they were counted in.
    scatter, others
        What was simulated, and the backgrounds that are known: randoms.
    limits
        Least and greatest scale that is believed.
    """
    pet, shape = model.pet, (_SEGMENTS, 2 * model.pet.n_rings - 1)
    body = _body(model.attenuation) if model.attenuation is not None else None
    seen, _, times = _beside(model, body, *prompts)
    pairs, tof, weight = _sampled(model)
    pairs, tof, _ = _beside(model, body, pairs, tof, None)
    counted, simulated, known = (
        np.bincount(_group(pet, p), w, int(np.prod(shape))).reshape(shape).astype(float)
        for p, w in (
            (seen, times),
            (pairs, weight * scatter.expected(pairs, tof, frame)),
            (pairs, weight * sum((b.expected(pairs, tof, frame) for b in others), np.zeros(len(pairs)))),
        )
    )
    return _fitted(pet, (counted - known, simulated, np.maximum(counted, known).astype(float)), limits)


def _fitted(pet: PetHeader, sums: tuple[Floats, Floats, Floats], limits: tuple[float, float]) -> TailScale:
    """Return the scales from net counts, simulated scatter and variance of the counts, (segment group, plane)."""
    net, simulated, variance = (np.asarray(a.sum(), float) for a in sums)
    found = net / simulated if simulated > 0 else np.ones(())
    overall = float(np.clip(_drawn(1.0, found, simulated, variance, _SPREAD[0]), *limits))
    near = [convolve1d(a.astype(float), _NEIGHBOURS, axis=1, mode="constant") for a in sums]
    # the same counts stand in three planes: a sum of w x has the variance of a sum of w^2 x
    noise = convolve1d(sums[2].astype(float), _NEIGHBOURS**2, axis=1, mode="constant")
    own = np.divide(near[0], near[1], out=np.full_like(near[0], overall), where=near[1] > 0)
    factors = _drawn(overall, own, near[1], noise, _SPREAD[1])
    beyond = (factors < limits[0]) | (factors > limits[1])
    return TailScale(
        pet=pet,
        factors=np.clip(factors, *limits),
        overall=overall,
        found=float(found),
        clamped=int(beyond.sum()),
        limits=limits,
    )


def _drawn(towards: float, found: Floats, simulated: Floats, variance: Floats, spread: float) -> Floats:
    """Return what is most likely where `found` has the noise of its counts and truth differs by `spread`."""
    told = np.square(spread * simulated)
    weight = np.divide(told, told + variance, out=np.zeros_like(told), where=told > 0)
    return np.asarray(towards + weight * (found - towards))


def _group(pet: PetHeader, pairs: Pairs) -> NDArray[np.int64]:
    """Return segment group times planes plus plane of lines (line, 2)."""
    ring = (pairs // pet.n_crystals).astype(np.int64)
    most = pet.n_rings - 1 if pet.max_ring_difference is None else pet.max_ring_difference
    group = np.minimum(np.abs(ring[:, 0] - ring[:, 1]) * _SEGMENTS // (most + 1), _SEGMENTS - 1)
    return group * (2 * pet.n_rings - 1) + ring.sum(axis=1)


def _body(attenuation: Attenuation) -> Attenuation:
    """Return where the body is, and a margin around it, as a volume of ones."""
    inside = attenuation.mu_per_mm > _BODY_PER_MM
    reach = [int(np.ceil(_MARGIN_MM / s)) for s in attenuation.grid.spacing_mm]
    offsets = np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij")
    ball = sum((o * s / _MARGIN_MM) ** 2 for o, s in zip(offsets, attenuation.grid.spacing_mm, strict=True)) <= 1
    return Attenuation(binary_dilation(inside, ball).astype(np.float32), attenuation.grid)


def _beside(
    model: LineModel, body: Attenuation | None, pairs: Pairs, tof: Bins | None, counts: NDArray[np.float32] | None
) -> tuple[Pairs, Bins | None, NDArray[np.float32] | None]:
    """Return the lines and bins that count and see nothing of the body."""
    pet = replace(model.pet, tof_fwhm_mm=_WIDER * model.pet.tof_fwhm_mm)
    keep = model.normalisation.efficiency(pairs) > 0
    if body is not None and len(pairs):
        keep &= LineProjector(pet, body.grid, pairs, tof)(torch.from_numpy(body.mu_per_mm)).numpy() <= 0
    pairs = np.ascontiguousarray(pairs[keep])
    return pairs, *(None if a is None else np.ascontiguousarray(a[keep]) for a in (tof, counts))  # type: ignore[return-value]


def _sampled(model: LineModel) -> tuple[Pairs, Bins | None, float]:
    """Return lines and bins that stand for all, and for how many each of them does."""
    pet = model.pet
    found = list(lines_of(pet, reach_mm=model.normalisation.fov_mm, most_lines=_SAMPLES))
    pairs, stride = np.concatenate([p for p, _ in found]), found[0][1]
    if pet.n_tof < 2:
        return pairs, None, float(stride)
    tof = np.random.default_rng(1).integers(0, pet.n_tof, len(pairs)).astype(np.int16)
    return pairs, tof, float(stride * pet.n_tof)
