"""Undersampled k-space reconstructed by an unrolled network: ``model.unrolled``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from acquisition.errors import IsocenterError
from acquisition.items import Image, Item
from acquisition.noise import NoiseModel
from acquisition.scan import Scan
from acquisition.verdict import Verdict
from models import refuse, report
from models.apply import Enhance, record
from models.consistency import Residual
from models.engine import first_able
from models.estimate import Estimator
from models.load import Loaded
from models.noise import noise_of
from models.problem import Problem, Reconstructor
from models.refuse import Refusal
from recon.mri.coilset import fast_size
from recon.mri.combine import Combine
from recon.mri.items import Frame
from recon.mri.iterative import CgSense, lines_of, plane_of
from recon.mri.model import CartesianSense
from recon.mri.space import spaces


@dataclass(kw_only=True)
class Unrolled(Enhance):
    """CG-SENSE, and behind each of its frames the same one as an unrolled network sees it (output ``unrolled``).

    It stands where `mri.cg_sense` stands, and does what that does: its frames go on first, made into images before
    the network begins. The network starts from the same image, maps and k-space. It is used only for what its card
    covers, and what it changed is measured again and held against the noise of the k-space (`Problem.residual`).
    Nothing is said of the uncertainty of single pixels.
    """

    check = "model.unrolled"
    output = "unrolled"

    def open(self, scan: Scan) -> None:
        """Hold the scan against the card; load, compile and warm up for the matrix in its header."""
        self._sense, self._combine = _Kept(), Combine(kind="complex")
        self._sense.open(scan)
        self._combine.open(scan)
        self._plane = (self.matrix[1], fast_size(self.matrix[0])) if self.matrix else _plane(scan)
        super().open(scan)

    def feed(self, item: Item) -> Iterator[Item]:
        """Learn from calibrations; give for each frame CG-SENSE's, then the network's; other items pass."""
        if isinstance(item, NoiseModel):
            list(self._combine.feed(item))
        if not isinstance(item, Frame):
            yield from self._sense.feed(item)
            return
        for conventional in self._sense.feed(item):
            if isinstance(conventional, Frame):  # Steps behind may change a frame in place
                kept = replace(conventional, kspace=conventional.kspace.clone(), release=lambda: None)
                yield conventional
                yield from self._behind(kept)
            else:
                yield conventional

    def _estimator(self, loaded: Loaded, matrix: tuple[int, ...]) -> Estimator:
        """Return the network on the first engine that takes it."""

        def ready(name: str) -> Reconstructor:
            made = Reconstructor(loaded, name)
            if self.strength > 0:
                made.prepare(self._plane)
            return made

        return first_able(self.engine, ready)

    def _behind(self, conventional: Frame) -> Iterator[Frame]:
        if self._never is not None:
            self._refuse(self._never)
            return
        start = time.monotonic()
        try:
            made = self._frame(conventional)
        except IsocenterError as error:
            made = Refusal("engine", f"the network failed: {error}")
        self._watch(time.monotonic() - start)
        if isinstance(made, Refusal):
            self._refuse(made)
            return
        self._done += 1
        yield made

    def _frame(self, conventional: Frame) -> Frame | Refusal:
        """Return the frame as the network sees it, or why there is none."""
        ready, problems = self._ready, self._sense.problems
        assert isinstance(ready, Reconstructor)
        if not problems:
            return Refusal("calibration", "there is no usable calibration, and so no coil maps")
        (image,) = self._combine.feed(conventional)
        assert isinstance(image, Image)
        noise, _ = noise_of(image)
        refusal = refuse.by_image(ready.card, image, noise, ready.statistics)
        if refusal is not None:
            return refusal
        if self.strength == 0:
            return self._told(conventional, conventional.kspace.clone(), report.unchanged(self.check))
        prepared = ready.engine.preparations
        made = [ready.reconstruct(problem) for problem in problems]
        found = _worst([problem.residual(plane) for problem, plane in zip(problems, made, strict=True)])
        refusal = report.too_much(found, ready.card.consistency)
        if refusal is not None:
            return refusal
        told = [report.changed(self.check, found, ready.card.consistency, _evidence(problems, made))]
        if ready.engine.preparations > prepared:
            told.append(report.late(self.check, ready.engine.prepare_s))
        kspace = _kspace([plane.to(conventional.kspace.device) for plane in made], conventional.kspace)
        blend = conventional.kspace + self.strength * (kspace - conventional.kspace)
        return self._told(conventional, blend, *told)

    def _told(self, conventional: Frame, kspace: Tensor, *verdicts: Verdict) -> Frame:
        assert self._ready is not None
        network, attributes = record(self._ready, self.strength)
        return replace(
            conventional,
            kspace=kspace,
            output=self.output,
            network=network,
            attributes=attributes,
            verdicts=(*conventional.verdicts, *verdicts),
            notes={**conventional.notes, "method": self.check},
        )


@dataclass(kw_only=True)
class _Kept(CgSense):
    """CG-SENSE that keeps what it solved, plane by plane, until the next frame."""

    problems: list[Problem] = field(default_factory=list)
    """Of the last frame: one of a slice, one for each place along the readout of a volume."""

    def feed(self, item: Item) -> Iterator[Item]:
        """As CG-SENSE does."""
        if isinstance(item, Frame):
            self.problems.clear()
        yield from super().feed(item)

    def _keep(self, model: CartesianSense, rhs: Tensor, solution: Tensor, *, level: float, energy: float) -> None:
        start, right, maps = (model.centre_middle(t)[0].cpu() for t in (solution, rhs, model.maps))
        mask = model.mask.expand(start.shape).cpu()
        self.problems.append(Problem(start=start, rhs=right, mask=mask, maps=maps, level=level, energy=energy))


def _plane(scan: Scan) -> tuple[int, ...]:
    """Return the plane (a, b) that CG-SENSE will solve."""
    space = spaces(scan)[0]
    first = fast_size(space.z.encoded) if space.is_3d else space.x.recon
    return first, fast_size(space.y.encoded)


def _kspace(planes: Sequence[Tensor], like: Tensor) -> Tensor:
    """Return the k-space (1, k2, k1, x) of planes (a, b), as CG-SENSE lays it out."""
    if like.shape[1] == 1:
        return lines_of(planes[0][None], like.shape[2])
    out = torch.zeros_like(like)
    places = (x for x in range(like.shape[3]) if like[..., x].any())
    for x, plane in zip(places, planes, strict=True):
        out[..., x] = plane_of(plane[None], like.shape[1:3])
    return out


def _worst(found: Sequence[Residual]) -> Residual:
    return Residual(max(f.rms for f in found), max(f.peak for f in found))


def _evidence(problems: Sequence[Problem], planes: Sequence[Tensor]) -> str:
    """Return what is said of the measured k-space beside the change."""
    pairs = list(zip(problems, planes, strict=True))
    network = max(problem.unexplained(plane) for problem, plane in pairs)
    conventional = max(problem.unexplained(problem.start) for problem, _ in pairs)
    return f"outermost lines; unexplained k-space {network:.2f}, of the conventional image {conventional:.2f}"
