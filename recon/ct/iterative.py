"""Iterative reconstruction of CT: OS-SIRT, and weighted least squares with a prior, from any views at any angles.

The Steps stand where `ct.fbp` stands. They need no full turn, no even spacing and no resting focal spot, attenuation
is never negative, and what the rays meet beside the wanted slices is reconstructed with them, beyond the fan too where
it cuts the patient off. All views of a table position are held; a helical scan is one volume, so it has to be short.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product, repeat

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acquisition.ct_geometry import checked
from acquisition.errors import ConfigError, ReconError
from acquisition.items import Image, Item, Projections
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from kernels.registry import device
from recon.ct.backend import backend
from recon.ct.extend import CUT_OFF, at_edge, ends, truncation
from recon.ct.gather import TablePositions, Volume, heights_mm, reach_mm, support_mm, surrounding
from recon.ct.ordered import Subset, Update, curvature, nesterov, ordered_subsets, split
from recon.ct.project import ConeProjector
from recon.ct.slices import SliceOptions, planned
from recon.ct.start import backprojected
from recon.ct.statistics import currents, estimated, trust
from recon.prior import TotalVariation

_LOG = logging.getLogger(__name__)
_LEAST_VIEWS = 20  # in a subset; with fewer the subsets contradict each other
_BEYOND = 0.5  # of the fan's reach, in which voxels take what the fan cuts off
_TINY = 1e-30


@dataclass(kw_only=True)
class _Iterative(SliceOptions):
    """What the methods have in common: views of a position, voxels, subsets, slices."""

    n_iterations: int = 10
    """How often all views are used; more often where they are too few for so many subsets."""
    n_subsets: int = 24
    """Subsets of the views at first; half as many after half of the iterations, a quarter for the last quarter."""
    flag_above: float = 0.05
    """Part of the measured lines that the image may leave unexplained (root mean square, weighted)."""

    _name = "ct.iterative"

    def __post_init__(self) -> None:
        if self.n_iterations < 1 or self.n_subsets < 1 or self.flag_above <= 0:
            raise ConfigError(
                self._name,
                expected="n_iterations and n_subsets from 1, flag_above above 0",
                got=f"{self.n_iterations}, {self.n_subsets}, {self.flag_above}",
            )

    def open(self, scan: Scan) -> None:
        """Check the geometry and plan the slices.

        Raises
        ------
        HeaderError
            Not a CT scan, or a geometry that no ray can be drawn from.
        """
        ct = checked(scan.require_ct(), f"scan {scan.uid}")
        self._scan, self._uid, self._ct = scan, scan.uid, ct
        self._plan = planned(scan, ct, self, radius_mm=reach_mm(ct))
        self._positions, self._n_made = TablePositions(scan.uid, ct), 0

    def feed(self, item: Item) -> Iterator[Item]:
        """Take views; give the slices of a table position when the next one begins. Everything else passes."""
        if not isinstance(item, Projections) or item.head["flags"].any():
            yield item
            return
        for views in self._positions.put(item):
            yield from self._reconstructed(views)

    def close(self) -> Iterator[Item]:
        """Give the rest.

        Raises
        ------
        ReconError
            There were no views.
        """
        for views in self._positions.rest():
            yield from self._reconstructed(views)
        if not self._n_made:
            raise ReconError(f"scan {self._uid}", expected="views", got="none", action="check whether it was cut short")

    def _weights(self, projector: ConeProjector, views: Projections) -> Tensor:
        raise NotImplementedError

    def _update(self, bend: Tensor, volume: Volume) -> Update:
        raise NotImplementedError

    def _momentum(self) -> Iterator[float]:
        return nesterov()

    def _reconstructed(self, views: Projections) -> Iterator[Image]:
        zs, edge = heights_mm(self._ct, self._plan, views.head), at_edge(views.data[..., ends(self._ct)])
        cut, reach, mu_water = edge > CUT_OFF, reach_mm(self._ct), self._plan.mu_water_per_mm
        beyond = _BEYOND * reach if cut else 0.0
        radius = support_mm(self._ct, self._plan, wanted_mm=beyond, least_mm=self.extend_mm)
        volume = surrounding(self._ct, self._plan, views.head, radius_mm=radius)
        projector = ConeProjector(self._ct, views.head, volume.grid)
        lines, weights = torch.from_numpy(views.data), self._weights(projector, views)
        whole = Subset(projector=projector, lines=lines.to(device()), weights=weights.to(device()))
        start = torch.zeros(volume.grid.shape)
        if cut:
            start = backprojected(self._scan, views, volume, extend_mm=radius - reach, mu_water_per_mm=mu_water)
        solved, unexplained = self._solved(whole, volume, start=start.to(device()))
        mu = solved.cpu().numpy()
        verdicts = _explained(unexplained, self.flag_above), truncation(edge, hu="estimates")
        for z in zs:
            image = volume.image(mu, self._plan, z, self._n_made)
            self._n_made += 1
            yield replace(image, last_readout_s=views.received_s).with_verdicts(*verdicts)

    def _solved(self, whole: Subset, volume: Volume, *, start: Tensor) -> tuple[Tensor, float]:
        """Return the attenuation [1/mm] and the part of the lines that it does not explain."""
        n_views = whole.lines.shape[0]
        stages = self._stages(n_views)
        n_iterations = sum(k for _, k in stages)
        bend = curvature(split(whole, stages[0][0]))
        update = self._update(bend, volume)
        energy = float((whole.weights * whole.lines.square()).double().sum())
        x, done, left = start, 0, [0.0]

        def report(iteration: int, misfit: float, change: float) -> None:
            left[0] = float(np.sqrt(misfit / max(energy, _TINY)))
            place = f"{done + iteration} of {n_iterations}"
            text = "scan %s: %s iteration %s, %.2f %% unexplained, changed by %.2f %%"
            _LOG.info(text, self._uid, self._name, place, 100 * left[0], 100 * change)

        for n, iterations in stages:
            subsets = split(whole, n)
            x = ordered_subsets(
                subsets, update, start=x, n_iterations=iterations, momentum=self._momentum(), report=report
            )
            done += iterations
        return x, left[0]

    def _stages(self, n_views: int) -> list[tuple[int, int]]:
        """Return subsets and iterations, stage by stage; few views allow few subsets, which need more iterations."""
        n = min(self.n_subsets, max(1, n_views // _LEAST_VIEWS))
        times = self.n_subsets / n
        half, quarter = (self.n_iterations + 1) // 2, self.n_iterations // 4
        stages = ((n, half), (n // 2, self.n_iterations - half - quarter), (n // 4, quarter))
        return [(max(1, m), round(k * times)) for m, k in stages if k]


@dataclass(kw_only=True)
class Sirt(_Iterative):
    """Simultaneous algebraic reconstruction with ordered subsets: least squares, stopped early.

    Each update adds the mean of what the rays through a voxel miss per mm of their way: Gilbert, J Theor Biol
    1972;36:105, DOI 10.1016/0022-5193(72)90180-4; with subsets: Xu et al., Comput Methods Programs Biomed
    2010;98:261, DOI 10.1016/j.cmpb.2009.09.003. Noise grows with the iterations.
    """

    _name = "ct.sirt"

    def _weights(self, projector: ConeProjector, views: Projections) -> Tensor:
        lengths = projector(torch.ones(projector.domain, device=device()))
        return torch.where(lengths > 0, 1 / lengths.clamp_min(_TINY), 0.0)

    def _update(self, bend: Tensor, volume: Volume) -> Update:
        step = torch.where(bend > 0, 1 / bend.clamp_min(_TINY), 0.0)
        return lambda z, down: (z - step * down).clamp_min_(0)

    def _momentum(self) -> Iterator[float]:
        return repeat(0.0)


@dataclass(kw_only=True)
class _Weighted(_Iterative):
    """Weights from the photons behind each ray."""

    photons: float = 0.0
    """Photons of an unattenuated ray at the calibration's tube current; 0: the source's, or read from the noise."""
    electronic: float = 0.0
    """Standard deviation of the electronic noise [photons]."""
    model_error: float = 0.005
    """Standard deviation of what line integrals through voxels cannot be trusted to, whatever the dose."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.photons, self.electronic, self.model_error) < 0:
            got = f"{self.photons}, {self.electronic}, {self.model_error}"
            raise ConfigError(self._name, expected="photons, electronic and model_error from 0", got=got)

    def _weights(self, projector: ConeProjector, views: Projections) -> Tensor:
        counts = self._unattenuated(views)
        _LOG.info("scan %s: %s, %.3g photons", self._uid, self._name, float(np.median(counts)))
        weights = trust(views.data, counts, self.electronic)
        return torch.from_numpy(weights / (1 + weights * np.float32(self.model_error**2)))

    def _unattenuated(self, views: Projections) -> NDArray[np.floating]:
        if views.photons is not None and not self.photons:
            return views.photons
        current = currents(self._ct, views.head)[:, None]
        if self.photons:
            return current * np.full(self._ct.n_channels, self.photons)
        return current * estimated(views.data, current)


@dataclass(kw_only=True)
class Pwls(_Weighted):
    """Penalised weighted least squares: photon statistics, and a prior that smooths noise and keeps edges.

    ``min_x sum_i w_i (A x - p)_i^2 / 2 + R(x), x >= 0`` with ``w = 1 / Var(p)``, electronic noise included (Sauer and
    Bouman, IEEE Trans Signal Process 1993;41:534, DOI 10.1109/78.193196), ``R = sum V / s^2 e^2 (sqrt(1 + (g / e)^2)
    - 1)`` over pairs of neighbours with the slope g between them, the voxel's volume V [mm^3], the slope s that is
    expected and the slope e from which it is an edge; by ordered subsets with momentum (`recon.ct.ordered`).
    """

    slope_hu_per_mm: float = 9.0
    """Slopes that are expected in tissue [HU/mm]; smaller is smoother. Holds for any dose, voxel and thickness."""
    edge_hu_per_mm: float = 6.0
    """Slope from which it is an edge [HU/mm]; small values flatten tissue as total variation does."""

    _name = "ct.pwls"

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.slope_hu_per_mm, self.edge_hu_per_mm) <= 0:
            raise ConfigError(
                self._name,
                expected="slope_hu_per_mm and edge_hu_per_mm above 0",
                got=f"{self.slope_hu_per_mm}, {self.edge_hu_per_mm}",
            )

    def _update(self, bend: Tensor, volume: Volume) -> Update:
        per_hu = self._plan.mu_water_per_mm / 1000
        steps = np.array([s for s in product((-1, 0, 1), repeat=3) if any(s) and (not s[0] or not any(s[1:]))])
        distance = np.linalg.norm(steps * volume.grid.spacing_mm, axis=1)
        share = np.where(steps[:, 0] != 0, 1.0, np.where(np.abs(steps).sum(1) == 1, 2 / 3, 1 / 3))
        weights = share * np.prod(volume.grid.spacing_mm) / (distance * self.slope_hu_per_mm * per_hu) ** 2
        edges = self.edge_hu_per_mm * per_hu * distance
        neighbours = (steps, weights.astype(np.float32), edges.astype(np.float32))
        slope, stiff, smoothed = torch.empty_like(bend), torch.empty_like(bend), backend().hyperbola

        def update(z: Tensor, down: Tensor) -> Tensor:
            slope.copy_(down)
            stiff.copy_(bend)
            smoothed(z, neighbours, slope, stiff)
            return (z - slope / stiff.clamp_min(_TINY)).clamp_min_(0)

        return update


@dataclass(kw_only=True)
class TotalVariationCt(_Weighted):
    """Weighted least squares with total variation within slices: for few views and for a limited angle.

    ``min_x sum_i w_i (A x - p)_i^2 / 2 + V / (h s) sum |grad x|, x >= 0``, proximal gradients with ordered subsets.
    Sidky and Pan, Phys Med Biol 2008;53:4777, DOI 10.1088/0031-9155/53/17/021.
    """

    slope_hu_per_mm: float = 24.0
    """Mean slope that is expected [HU/mm]; smaller is flatter."""
    n_iterations: int = 24
    """How often all views are used."""

    _name = "ct.tv"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.slope_hu_per_mm <= 0:
            raise ConfigError(self._name, expected="slope_hu_per_mm above 0", got=str(self.slope_hu_per_mm))

    def _update(self, bend: Tensor, volume: Volume) -> Update:
        dz, _, dx = volume.grid.spacing_mm
        scale = 1000 / self._plan.mu_water_per_mm
        prior = TotalVariation(dz * dx * scale / self.slope_hu_per_mm, n_inner=10)
        step = 1 / max(float(bend.max()), _TINY)
        return lambda z, down: prior(torch.add(z, down, alpha=-step), step).clamp_min_(0)


def _explained(part: float, limit: float) -> Verdict:
    bad = part > limit
    return Verdict(
        check="ct.misfit",
        level=Level.FLAG if bad else Level.PASS,
        advice="The image does not explain what was measured: look for motion, metal or an object beyond the fan."
        if bad
        else "The image explains what was measured.",
        value=100 * part,
        limit=100 * limit,
        unit="%",
        evidence="root mean square of the weighted difference of line integrals, relative to the measured ones",
    )
