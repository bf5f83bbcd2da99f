"""One plane of measured k-space through an unrolled network, and what the network's image is held against: the same
k-space."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acquisition.errors import ReconError
from models.consistency import Residual, residual
from models.engine import engine
from models.estimate import Estimate, Estimator
from models.load import Loaded
from models.nets.lowdose import LowDose
from models.nets.unrolled import STAGE_INPUT, Unpacked, Unrolled, gram, half, packed, parted, seen, towards
from models.predict import Predictor
from recon.mri.iterative import sparsity
from recon.mri.model import CartesianSense
from recon.solve import fista


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """One plane of k-space, reduced to what a network needs; the phase encoding, or one of two, is the last axis."""

    start: Tensor
    """Image of CG-SENSE (a, b) complex64."""
    rhs: Tensor
    """``A^H y`` (a, b) complex64."""
    mask: Tensor
    """What was measured (a, b) float32, the centre of k-space at index 0."""
    maps: Tensor
    """Coil maps (coil, a, b) complex64."""
    level: float
    """Standard deviation of the noise of one complex sample of k-space."""
    energy: float
    """Sum of the squared magnitudes of the measured samples."""

    @property
    def noise(self) -> float:
        """Standard deviation of the real part of what least squares would give, were the g-factor 1."""
        return self.level * math.sqrt(0.5 / max(float(self.mask.mean()), 1e-6))

    def model(self) -> CartesianSense:
        """Return the forward model of the plane."""
        lines = bool((self.mask == self.mask[:1]).all())
        axes: tuple[int, ...] = (-1,) if lines else (-2, -1)
        mask = torch.fft.fftshift(self.mask[:1] if lines else self.mask, dim=axes) > 0
        return CartesianSense(self.maps[None], mask, axes)

    def sparse(self, *, weight: float = 0.5, n_iterations: int = 16) -> Tensor:
        """Return the image (a, b) of L1-wavelets, from CG-SENSE's on: where the network starts."""
        model = self.model()
        rhs, start = (model.centre_first(t[None]) for t in (self.rhs, self.start))
        prior = sparsity(model, self.level * math.sqrt(float(self.mask.mean())), weight=weight)
        found = fista(model.gram, rhs, prior, step=1.0, n_iterations=n_iterations, start=start)
        return model.centre_middle(found.x)[0]

    def parts(self) -> Unpacked:
        """Return what the network gets, in the unit of k-space."""
        noise = torch.full((1, 1, *self.start.shape), self.noise)
        start, rhs, conventional = (t[None, None] for t in (self.sparse(), self.rhs, self.start))
        return Unpacked(start, noise, rhs, conventional, self.mask[None, None], self.maps[None])

    def packed(self) -> Tensor:
        """Return the network's input (1, channel, a, b), see `models.nets.unrolled.packed`."""
        return packed(self.parts())

    def gram(self, image: Tensor) -> Tensor:
        """Return ``A^H A x`` (a, b)."""
        return gram(image[None, None], self.maps[None], self.mask[None, None])[0, 0]

    def unexplained(self, image: Tensor) -> float:
        """Return the root mean square of ``A x - y`` over the measured samples, in standard deviations of the noise.

        1 where all that is left is noise; below for an image that has some of the noise in it.
        """
        part = torch.vdot(image.flatten(), (self.gram(image) - 2 * self.rhs).flatten()).real
        return math.sqrt(max(self.energy + float(part), 0.0) / self._samples) / self.level

    def residual(self, image: Tensor) -> Residual:
        """Return how much worse an image (a, b) explains the measured k-space than CG-SENSE's does.

        The root mean square is what of the samples it leaves unexplained beyond that; truth and least squares differ
        by noise alone, which has 1. The largest block is one of ``A^H (A x - y)``, noise for the truth: something
        invented or lost stands out of it, unless no sample sees it.
        """
        noise = np.full(image.shape, self.level * math.sqrt(float(self.mask.mean()) / 2), np.float32)
        misfit = (self.gram(image) - self.rhs).numpy()
        more = max(self.unexplained(image) ** 2 - self.unexplained(self.start) ** 2, 0.0)
        return Residual(math.sqrt(more), residual(np.zeros_like(misfit), misfit, noise).peak)

    @property
    def _samples(self) -> float:
        return max(float(self.mask.sum()) * len(self.maps), 1.0)


class Reconstructor(Estimator):
    """An unrolled network: the steps towards the data in torch, the small networks between them on an engine.

    Parameters
    ----------
    loaded
        Network and card.
    name
        Of the engine, see `models.engine.ENGINES`.
    """

    def __init__(self, loaded: Loaded, name: str) -> None:
        if not isinstance(loaded.network, Unrolled):
            got = type(loaded.network).__name__
            raise ReconError(f"card {loaded.card.name}", expected="an unrolled network", got=got)
        precision = loaded.card.network.precision
        self._stages = [engine(name, stage, precision=precision) for stage in loaded.network.stages]
        super().__init__(loaded, self._stages[0])
        self._steps, self._width = [float(s) for s in loaded.network.steps], loaded.network.width

    def prepare(self, matrix: tuple[int, ...]) -> None:
        """Make ready for planes of this matrix (a, b).

        Raises
        ------
        ReconError
            The engine cannot.
        """
        for stage in self._stages:
            stage.prepare((1, STAGE_INPUT + self._width, *half(matrix)))

    @torch.inference_mode()
    def reconstruct(self, problem: Problem) -> Tensor:
        """Return the network's image (a, b) of one plane.

        Raises
        ------
        ReconError
            The engine failed, or its result is not finite.
        """
        plane, unit = problem.start.shape, problem.level
        self.prepare(tuple(plane))
        parts = problem.parts()
        maps, mask, noise = parts.maps, parts.mask, parts.noise / unit
        image, rhs, conventional = (t / unit for t in (parts.start, parts.rhs, parts.conventional))
        features = torch.zeros((1, self._width, *half(plane)))
        for number, (step, stage) in enumerate(zip(self._steps, self._stages, strict=True)):
            change = towards(image, rhs, maps=maps, mask=mask) if number else conventional - image
            out = torch.from_numpy(stage.run(seen(image, change, noise, features).numpy()))
            correction, features = parted(out, plane)
            image = image + step * change + correction
        if not torch.isfinite(torch.view_as_real(image)).all():
            raise ReconError(f"network {self.card.name}", expected="finite pixels", got="NaN or infinite")
        return (image[0, 0] * unit).clone()

    def solved(self, problem: Problem) -> Estimate:
        """Return the network's image as `Estimator.estimate` does; it makes no mirror images, so the spread is 0."""
        data: NDArray = self.reconstruct(problem).numpy()
        return Estimate(data, np.zeros(data.shape, np.float32))


def estimator_of(loaded: Loaded, name: str) -> Estimator:
    """Return a network on an engine, of the kind that it needs."""
    if isinstance(loaded.network, Unrolled):
        return Reconstructor(loaded, name)
    kind = Predictor if isinstance(loaded.network, LowDose) else Estimator
    return kind(loaded, engine(name, loaded.network, precision=loaded.card.network.precision))


def halved(image: NDArray, level: float) -> Problem:
    """Return a plane seen by one coil everywhere, every second line measured: for comparing engines."""
    start = torch.from_numpy(image.astype(np.complex64))
    mask, maps = torch.zeros(start.shape), torch.ones_like(start)[None]
    mask[:, ::2] = 1
    rhs = gram(start[None, None], maps[None], mask[None, None])[0, 0]
    return Problem(start=start, rhs=rhs, mask=mask, maps=maps, level=level, energy=0.0)
