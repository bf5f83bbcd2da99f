"""List-mode reconstruction of PET: OSEM, and MAP with the relative difference prior; frames, resolution, Bq/mL.

The Steps wait for the end of the scan, because randoms and scatter are known then. Without calibration, normalisation,
attenuation, randoms or scatter the image is made all the same, and a FLAG says that it is not quantitative.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acquisition.errors import ConfigError, HeaderError, ReconError
from acquisition.items import Events, Image, Item, Position, Provenance, TimeFrame
from acquisition.pet_geometry import checked
from acquisition.scan import Scan, Tracer
from acquisition.verdict import Level, Verdict
from recon.noise import NOISE
from recon.pet.beds import BedImage, joined
from recon.pet.gather import DelayedRandoms, Gathered, equivalent_s
from recon.pet.likelihood import Likelihood, ListMode, Relaxation, bsrem, osem, svrg
from recon.pet.noise import halves_noise
from recon.pet.prior import RelativeDifference
from recon.pet.project import Bins, Pairs
from recon.pet.psf import GaussianPsf
from recon.pet.scattered import ScatterCounts, scatter_counts
from recon.pet.sensitivity import CACHE, LineModel
from recon.pet.tails import LIMITS, tail_scale
from recon.pet.volume import VoxelOptions, at_table, gantry_grid, in_patient, inside

_LOG = logging.getLogger(__name__)
_CHECK = "pet.quantitative"
_SCATTER_ROUNDS = 2  # the first overestimates activity by what is scattered, the second hardly
_SCATTER_FILTER_MM = 6.0


@dataclass(kw_only=True)
class _ListModeStep(VoxelOptions):
    """What the methods have in common: events, frames, corrections, units."""

    n_iterations: int = 4
    """How often all events are used."""
    n_subsets: int = 8
    """Parts of the events after each of which the image is updated."""
    psf_mm: float = 0.0
    """Resolution that is modelled, FWHM [mm]; 0: none."""
    filter_mm: float = 0.0
    """Gaussian filter of the result, FWHM [mm]; 0: none."""
    frames_s: tuple[float, ...] = ()
    """Lengths of the frames, one behind the other [s]; empty: one frame of the whole scan."""
    decay_to: Literal["start", "injection"] = "start"
    """Time to which activity is corrected."""
    scatter: Literal["single", "none"] = "single"
    """How scatter is found where nothing before this Step has: by single scatter simulation, if attenuation and
    calibration are known, or not at all."""
    noise_map: bool = False
    """Give a map of the noise of each frame as well (output ``noise``), from both halves of its counts: twice the
    work. The prior of BSREM weighs more on half of the counts, so its noise comes out too small."""
    scatter_limits: tuple[float, float] = LIMITS
    """Least and greatest scale of simulated scatter to the counts beside the patient; equal: that scale."""

    _name = "pet.osem"

    def __post_init__(self) -> None:
        low, high = self.scatter_limits
        if not 0 < low <= high:
            got = f"{low}, {high}"
            raise ConfigError(self._name, expected="scatter_limits above 0, the least first", got=got)
        if min(self.n_iterations, self.n_subsets) < 1 or min((self.psf_mm, self.filter_mm, *self.frames_s)) < 0:
            raise ConfigError(
                self._name,
                expected="n_iterations and n_subsets from 1, lengths and times from 0",
                got=f"{self.n_iterations}, {self.n_subsets}, {self.psf_mm}, {self.filter_mm}, {self.frames_s}",
            )

    def open(self, scan: Scan) -> None:
        """Check the geometry and plan the voxels.

        Raises
        ------
        HeaderError
            Not a PET scan, a geometry that no line can be drawn from, or no time of injection to correct to.
        """
        pet = checked(scan.require_pet(), f"scan {scan.uid}")
        self._scan, self._pet, self._grid = scan, pet, gantry_grid(pet, self)
        self._data = Gathered(pet, f"scan {scan.uid}", scan.patient.position)
        self._psf = GaussianPsf(self._grid, self.psf_mm)
        self._since_injection_s = _since_injection(scan, self.decay_to)

    def feed(self, item: Item) -> Iterator[Item]:
        """Take events, normalisation, attenuation and background; pass on everything else."""
        if self._data.moves(item):
            self._data = self._data.moved()
        if not self._data.takes(item):
            yield item

    def close(self) -> Iterator[Item]:
        """Give one image per frame, then those that another Step asked for; all positions of the table together.

        Raises
        ------
        ReconError
            Nothing was counted.
        """
        beds = self._data.all_beds
        if not any(len(b) for bed in beds for b in bed.blocks):
            raise ReconError(
                f"scan {self._scan.uid}", expected="coincidences", got="none", action="check whether it was cut short"
            )
        if len(beds) == 1:
            yield from self._of_bed()
            return
        parts: list[BedImage] = []
        for bed in beds:
            self._data = bed
            for item in self._of_bed():
                if isinstance(item, Image):
                    parts.append(self._weighted(item))
                else:
                    yield item
        yield from joined(parts)

    def _weighted(self, image: Image) -> BedImage:
        """Return an image of this position of the table with what its voxels are worth."""
        sensitivity = CACHE.get(self._data.model, self._grid).image
        frame = TimeFrame(
            start_s=float(image.attributes["frame_start_s"]), stop_s=float(image.attributes["frame_stop_s"])
        )
        seconds = equivalent_s(self._data.counting(frame)[1], self._pet.tracer)
        return BedImage(image, torch.where(inside(self._grid), sensitivity * seconds, 0.0).numpy())

    def _of_bed(self) -> Iterator[Item]:
        """Give one image per frame of one position of the table."""
        names = {b.name for b in self._data.backgrounds}
        if "randoms" not in names and any(isinstance(b, Events) and len(b.delayeds) for b in self._data.blocks):
            self._data.takes(DelayedRandoms(self._data))
        for frame in (*self._frames(), *self._data.frames):
            events = self._data.events(frame)
            if not len(events[0]):
                yield _empty(frame)
                continue
            model, frame = self._data.counting(frame)
            found = CACHE.get(model, self._grid)
            seen = torch.where(inside(self._grid), self._psf.adjoint(found.image), 0.0)
            self._simulate_scatter(model, seen, events, frame)
            data = self._likelihood(model, seen, events, frame)
            x = self._solved(data)
            yield self._image(x, frame, found.stride)
            if self.noise_map and not frame.parts:
                yield replace(self._image(self._noise(data, x), frame, found.stride), output=NOISE)

    def _simulate_scatter(
        self, model: LineModel, seen: Tensor, events: tuple[Pairs, Bins | None], frame: TimeFrame
    ) -> None:
        """Put the scatter of this frame beside the randoms, from images that have been corrected for it so far."""
        calibration, attenuation = self._pet.calibration_bq_per_cps, model.attenuation
        others = [b for b in self._data.backgrounds if not isinstance(b, ScatterCounts)]
        if self.scatter == "none" or not calibration or attenuation is None or any(b.name == "scatter" for b in others):
            return
        self._data.backgrounds = others
        per_bq = (self._pet.tracer.branching if self._pet.tracer else 1.0) / calibration
        blur = GaussianPsf(self._grid, _SCATTER_FILTER_MM)
        for _ in range(_SCATTER_ROUNDS):
            data = self._likelihood(model, seen, events, frame)
            first = osem(data, data.start(), n_iterations=1, n_subsets=self.n_subsets, report=lambda *_: None)
            activity = (blur(first) / per_bq).numpy()
            counts = scatter_counts(activity, self._grid, attenuation, norm=model.normalisation, per_bq=per_bq)
            prompts = (*events, self._data.counts(frame))
            scale = tail_scale(model, prompts, frame, scatter=counts, others=others, limits=self.scatter_limits)
            self._data.backgrounds = [*others, replace(counts, scale=scale)]

    def _solve(self, data: Likelihood) -> Tensor:
        raise NotImplementedError

    def _frames(self) -> list[TimeFrame]:
        start, stop = self._data.blocks[0].start_s, self._data.stop_s
        edges = start + np.concatenate([[0.0], np.cumsum(self.frames_s)]) if self.frames_s else [start, stop]
        spans = [(float(a), float(min(b, stop))) for a, b in pairwise(edges) if a < stop]
        return [TimeFrame(start_s=a, stop_s=b, index=n) for n, (a, b) in enumerate(spans)]

    def _likelihood(
        self, model: LineModel, seen: Tensor, events: tuple[Pairs, Bins | None], frame: TimeFrame
    ) -> ListMode:
        (pairs, tof), seconds = events, equivalent_s(frame, self._pet.tracer)
        counts, factors = self._data.counts(frame), model.factors(pairs)
        use = factors > 0
        if not use.all():
            pairs, tof, factors = pairs[use], None if tof is None else tof[use], factors[use]
            counts = None if counts is None else counts[use]
        background: NDArray[np.float32] | None = None
        if self._data.backgrounds:
            known = sum(b.expected(pairs, tof, frame).astype(np.float64) for b in self._data.backgrounds)
            background = (known / (factors * seconds)).astype(np.float32)
        return ListMode(model.pet, self._grid, pairs, tof, background, self._psf, seen * seconds, counts)

    def _solved(self, data: Likelihood) -> Tensor:
        x = self._solve(data)
        return GaussianPsf(self._grid, self.filter_mm)(x)

    def _noise(self, data: ListMode, x: Tensor) -> Tensor:
        one, other = (self._solved(data.half(k)).numpy() for k in (0, 1))
        return torch.from_numpy(halves_noise(x.numpy(), one, other, fwhm_px=self.filter_mm / self.voxel_mm))

    def _image(self, x: Tensor, frame: TimeFrame, stride: int) -> Image:
        pet = self._pet
        calibration, tracer = pet.calibration_bq_per_cps, pet.tracer
        scale = (calibration or 1.0) / (tracer.branching if tracer else 1.0)
        if tracer is not None:
            scale *= 2 ** (self._since_injection_s / tracer.half_life_s)
        done = self._corrections(frame)
        missing = [name for name, there in done.items() if not there]
        verdict = _quantitative(missing, calibrated=calibration is not None)
        notes = {
            "sensitivity": f"1 of {stride} lines",
            "corrected": " ".join(name for name, there in done.items() if there),
            "live": f"{100 * frame.live:.2f} %",
        }
        fitted = [b.scale.verdict for b in self._data.backgrounds if isinstance(b, ScatterCounts) and b.scale]
        return Image(
            data=(x * scale).numpy(),
            grid=in_patient(at_table(self._grid, self._data.shift_mm), self._scan),
            unit="Bq/mL" if calibration is not None else "a.u.",
            output=frame.output,
            position=Position(repetition=frame.index, phase=frame.gate),
            provenance=Provenance(notes=notes),
            last_readout_s=self._data.blocks[-1].received_s,
            table_position_mm=(0.0, 0.0, self._data.blocks[0].bed_mm),
            attributes={
                "frame_start_s": f"{frame.start_s:.6g}",
                "frame_stop_s": f"{frame.stop_s:.6g}",
                "decay_corrected_to": self.decay_to if tracer else "none",
                "corrected": notes["corrected"],
                "quantitative": "no" if verdict.level is Level.FLAG else "yes",
                "n_frames": str(1 if frame.parts else len(self._frames())),
                "method": self._name,
                **_gate_attributes(frame, tracer),
            },
        ).with_verdicts(verdict, *fitted)

    def _corrections(self, frame: TimeFrame) -> dict[str, bool]:
        """Return DICOM's words of CorrectedImage, and whether each holds; dead time only where there is some."""
        names = {b.name for b in self._data.backgrounds}
        dead = {"DTIM": self._data.live(frame) is not None} if self._pet.dead_time_s > 0 else {}
        return {
            **dead,
            "DECY": self._pet.tracer is not None,
            "NORM": self._data.normalisation is not None,
            "ATTN": self._data.attenuation is not None,
            "RAN": "randoms" in names,
            "SCAT": "scatter" in names,
        }


@dataclass(kw_only=True)
class Osem(_ListModeStep):
    """Ordered-subset expectation maximisation of list-mode events, stopped early."""

    def _solve(self, data: Likelihood) -> Tensor:
        start = torch.where(data.seen, data.start(), 0.0)

        def report(iteration: int, x: Tensor) -> None:
            _LOG.info("scan %s: %s iteration %d of %d", self._scan.uid, self._name, iteration, self.n_iterations)

        return osem(data, start, n_iterations=self.n_iterations, n_subsets=self.n_subsets, report=report)


@dataclass(kw_only=True)
class Bsrem(_ListModeStep):
    """Maximum a posteriori with the relative difference prior, by BSREM, begun with one iteration of OSEM."""

    n_iterations: int = 12
    """How often all events are used."""
    beta: float = 0.03
    """Strength of the prior, against one count: its local weight is the root of the expected counts per voxel."""
    gamma: float = 2.0
    """How much edges are kept."""
    relaxation: float = 0.1
    """How fast steps grow shorter: step k is ``1 / (1 + relaxation (k - 1))``."""

    _name = "pet.bsrem"

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.beta, self.gamma, self.relaxation) < 0:
            got = f"{self.beta}, {self.gamma}, {self.relaxation}"
            raise ConfigError(self._name, expected="beta, gamma and relaxation from 0", got=got)

    def _solve(self, data: Likelihood) -> Tensor:
        start, prior = self._begun(data)
        steps = Relaxation(decay=self.relaxation)
        return bsrem(data, start, prior, n_iterations=self.n_iterations, n_subsets=self.n_subsets, steps=steps)

    def _begun(self, data: Likelihood) -> tuple[Tensor, RelativeDifference]:
        """Return one iteration of OSEM, and the prior for images as bright."""
        start = osem(data, data.start(), n_iterations=1, n_subsets=self.n_subsets, report=lambda *_: None)
        kappa = data.sensitivity.clamp_min(0).sqrt()
        epsilon = max(1e-3 * float(start.max()), 1e-30)
        return start, RelativeDifference(data.grid, self.beta, kappa=kappa, gamma=self.gamma, epsilon=epsilon)


@dataclass(kw_only=True)
class Svrg(Bsrem):
    """The same image as `Bsrem`, by variance reduced gradients: closer to the maximum after as many iterations."""

    n_iterations: int = 8
    """How often all events are used; every other time twice."""
    relaxation: float = 0.02
    """How fast steps grow shorter: step k is ``0.5 / (1 + relaxation (k - 1))``; whole steps diverge."""

    _name = "pet.svrg"

    def _solve(self, data: Likelihood) -> Tensor:
        start, prior = self._begun(data)
        steps = Relaxation(first=0.5, decay=self.relaxation)
        return svrg(data, start, prior, n_iterations=self.n_iterations, n_subsets=self.n_subsets, steps=steps)


def _since_injection(scan: Scan, decay_to: str) -> float:
    if decay_to == "start":
        return 0.0
    tracer = scan.require_pet().tracer
    if tracer is None or tracer.injected is None or scan.started is None:
        raise HeaderError(
            f"scan {scan.uid}: decay_to injection",
            expected="tracer, time of injection and start of the scan",
            got="not all of them",
            action="correct to the start, or complete the header",
        )
    return (scan.started - tracer.injected).total_seconds()


def _gate_attributes(frame: TimeFrame, tracer: Tracer | None) -> dict[str, str]:
    """Return what an image of a gate tells beside the rest: time counted, its decay, of how many gates it is one."""
    if not frame.parts:
        return {}
    slot_ms = 1000 * frame.period_s / frame.n_gates
    return {
        "live_s": f"{frame.duration_s:.6g}",
        "decay_factor": f"{frame.live * frame.duration_s / equivalent_s(frame, tracer):.8g}",
        "n_gates": str(frame.n_gates),
        "gated_by": frame.source,
        "slot_ms": f"{slot_ms:.6g}",
        "trigger_ms": f"{slot_ms * frame.gate:.6g}",
    }


def _quantitative(missing: list[str], *, calibrated: bool) -> Verdict:
    lacking = [*missing, *(() if calibrated else ("calibration",))]
    if not lacking:
        return Verdict(check=_CHECK, level=Level.PASS, advice="All corrections were made: values are in Bq/mL.")
    return Verdict(
        check=_CHECK,
        level=Level.FLAG,
        advice="This image is not quantitative: do not measure activity or SUV in it.",
        value=float(len(lacking)),
        limit=0.0,
        unit="corrections",
        evidence=f"missing: {', '.join(lacking)}",
    )


def _empty(frame: TimeFrame) -> Verdict:
    return Verdict(
        check="pet.frame",
        level=Level.FLAG,
        advice="Nothing was counted during a frame, which has no image: look for a gap in the measurement.",
        value=0.0,
        unit="events",
        evidence=f"frame {frame.index}, {frame.start_s:g} to {frame.stop_s:g} s",
    )
