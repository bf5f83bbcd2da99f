"""A patient who moved during a PET scan: the frame is split there, and the parts are brought together.

Each part is reconstructed by itself and registered to the first, without attenuation: the map lies where the patient
lay at first, and its edges would hold the image there. A part is then one that a scanner measured which has made the
reverse motion around a patient at rest: its lines are moved, not its voxels, so nothing is interpolated, each line
finds the attenuation it went through, and one likelihood takes all parts by their counts, time and decay. Only the
scatter of a part is simulated where the patient then lay, with the map moved there.

References
----------
Y. Lu et al., "Data-driven voluntary body motion detection and non-rigid event-by-event correction for static and
dynamic PET", Phys Med Biol 64 (2019) 065002, DOI 10.1088/1361-6560/ab02c2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from acquisition.errors import ConfigError, DataError
from acquisition.items import Image, Item, Movement, TimeFrame
from acquisition.pet_geometry import detectors_mm
from acquisition.scan import PetHeader, Scan
from acquisition.verdict import Level, Verdict
from recon.pet.likelihood import Together, osem
from recon.pet.osem import Osem
from recon.pet.psf import GaussianPsf
from recon.pet.scattered import ScatterCounts
from recon.pet.sensitivity import CACHE, Attenuation, LineModel
from recon.pet.volume import inside
from recon.rigid import STILL, Rigid, registration

OUTPUT = "motion_corrected"
_CHECK = "pet.motion"
_ROUNDS = 2
_LOOK_ITERATIONS, _LOOK_FILTER_MM = 2, 12.0  # of the images that are registered
_SEEN_WELL = 0.25  # of the sensitivity of the best slice


@dataclass(kw_only=True)
class OsemMotion(Osem):
    """OSEM of the whole scan, and, where ``check.pet_motion`` before it saw motion, a second image without it.

    Output ``motion_corrected``, the patient as he lay at first. The uncorrected image stays the conventional one.
    """

    limit_mm: float = 2.0
    """Way that the second registration still finds from which the image is marked [mm]."""
    guard_s: float = 0.5
    """Time left out on each side of a motion [s]."""
    least_s: float = 2.0
    """Shortest part that is used [s]."""

    _name = "pet.osem_motion"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.limit_mm <= 0 or min(self.guard_s, self.least_s) < 0:
            got = f"{self.limit_mm} mm, {self.guard_s} s, {self.least_s} s"
            raise ConfigError(self._name, expected="a limit above 0 mm, times from 0 s", got=got)

    def open(self, scan: Scan) -> None:
        """Check the geometry, plan the voxels, load the registration.

        Raises
        ------
        ConfigError
            The registration is not installed.
        HeaderError
            Not a PET scan, a geometry that no line can be drawn from, or no time of injection to correct to.
        """
        super().open(scan)
        self._movements: list[Movement] = []
        self._register = registration(self._name)

    def feed(self, item: Item) -> Iterator[Item]:
        """Take events, normalisation, attenuation, background, and what moved; pass on everything else."""
        if isinstance(item, Movement):
            self._movements.append(item)
        yield from super().feed(item)

    def close(self) -> Iterator[Item]:
        """Give the images of the frames, then the one without motion.

        Raises
        ------
        ReconError
            Nothing was counted.
        """
        yield from super().close()
        if not self._movements:
            return
        if len(self._data.all_beds) > 1:
            yield _uncorrected("the table was moved during the scan")
            return
        parts = self._parts()
        if len(parts) < 2:
            yield _uncorrected(f"{len(parts)} parts of {self.least_s:g} s or more with counts")
            return
        try:
            motions, left = self._motions(parts)
        except DataError as error:
            yield _uncorrected(str(error))
            return
        yield self._together(parts, motions).with_verdicts(self._told(motions, left))

    def _parts(self) -> list[TimeFrame]:
        """Return the time between motions, guards left out."""
        start, stop = self._data.blocks[0].start_s, self._data.stop_s
        times = sorted(m.time_s for m in self._movements)
        edges = [start - self.guard_s, *times, stop + self.guard_s]
        spans = [(a + self.guard_s, b - self.guard_s) for a, b in pairwise(edges)]
        frames = [TimeFrame(start_s=a, stop_s=b, parts=((a, b),)) for a, b in spans if b - a >= max(self.least_s, 1e-6)]
        frames = [self._whole_blocks(f) for f in frames]
        return [f for f in frames if f.parts and len(self._data.events(f)[0])]

    def _whole_blocks(self, frame: TimeFrame) -> TimeFrame:
        """Return a frame cut to the blocks of events that lie within it: its time is that of its counts."""
        a, b = frame.spans[0]
        kept = [e for e in self._data.blocks if e.start_s >= a - 1e-6 and e.stop_s <= b + 1e-6]
        if not kept:
            return replace(frame, parts=())
        a, b = kept[0].start_s, kept[-1].stop_s
        return TimeFrame(start_s=a, stop_s=b, parts=((a, b),))

    def _motions(self, parts: Sequence[TimeFrame]) -> tuple[list[Rigid], float]:
        """Return the way from the first part to each, and the greatest that the last registration still found [mm].

        Raises
        ------
        DataError
            There is nothing to register.
        """
        self._data.backgrounds = [b for b in self._data.backgrounds if not isinstance(b, ScatterCounts)]
        motions, left, first = [STILL] * len(parts), 0.0, self._look(parts[0], STILL)
        for _ in range(_ROUNDS):
            looks = [self._look(p, m) for p, m in zip(parts[1:], motions[1:], strict=True)]
            steps = [self._register.rigid(first, look) for look in looks]
            left = max(step.travel_mm(self._grid) for step in steps)
            motions = [STILL, *(m.after(s) for m, s in zip(motions[1:], steps, strict=True))]
        return motions, left

    def _look(self, part: TimeFrame, motion: Rigid) -> Image:
        """Return a quick image of a part without attenuation, the motion so far undone, made for registration.

        Slices that few lines see are left out, and the root makes the noise alike and hot places matter less.
        """
        lines, part = self._data.counting(part)
        still = replace(lines, attenuation=None)
        model = _moved(still, motion)
        seen = self._seen(model)
        data = self._likelihood(model, seen, self._data.events(part), part)
        x = osem(data, data.start(), n_iterations=_LOOK_ITERATIONS, n_subsets=self.n_subsets, report=lambda *_: None)
        smooth = GaussianPsf(self._grid, _LOOK_FILTER_MM)(x).clamp_min(0).sqrt().numpy()
        best = torch.minimum(seen, self._seen(still)).amax(dim=(1, 2)).numpy()
        well = np.flatnonzero(best > _SEEN_WELL * best.max())
        first, last = int(well[0]), int(well[-1]) + 1
        shape = (last - first, *self._grid.shape[1:])
        grid = replace(self._grid, shape=shape, origin_mm=self._grid.world((first, 0, 0)))
        return Image(data=np.ascontiguousarray(smooth[first:last]), grid=grid)

    def _together(self, parts: Sequence[TimeFrame], motions: Sequence[Rigid]) -> Image:
        """Return the image of all parts, as the patient lay at first."""
        data = []
        for part, motion in zip(parts, motions, strict=True):
            lines, counted = self._data.counting(part)
            there = replace(lines, attenuation=_moved_map(lines.attenuation, motion))
            events, model = self._data.events(part), _moved(lines, motion)
            self._simulate_scatter(there, self._seen(there), events, counted)
            data.append(self._likelihood(model, self._seen(model), events, counted))
        frame = TimeFrame(
            start_s=parts[0].start_s,
            stop_s=parts[-1].stop_s,
            parts=tuple(p.spans[0] for p in parts),
            output=OUTPUT,
            source="motion",
        )
        model, frame = self._data.counting(frame)
        image = self._image(self._solved(Together.of(data)), frame, CACHE.get(model, self._grid).stride)
        told = {**image.attributes, "corrected": f"{image.attributes['corrected']} MOTN".strip()}
        return replace(image, attributes=told)

    def _seen(self, model: LineModel) -> Tensor:
        found = CACHE.get(model, self._grid)
        return torch.where(inside(self._grid), self._psf.adjoint(found.image), 0.0)

    def _told(self, motions: Sequence[Rigid], left: float) -> Verdict:
        ways = ["x {:+.1f}, y {:+.1f}, z {:+.1f} mm".format(*m.way_mm(self._grid)) for m in motions[1:]]
        turns = [f"{m.angle_deg:.1f} degrees" for m in motions[1:]]
        far = left > self.limit_mm
        return Verdict(
            check=_CHECK,
            level=Level.FLAG if far else Level.PASS,
            advice="The parts of the scan still do not lie on each other: compare with the uncorrected image."
            if far
            else "The patient moved; the parts of the scan were brought together as he lay at first.",
            value=left,
            limit=self.limit_mm,
            unit="mm",
            evidence="; ".join(f"part {n + 2}: {w}, {t}" for n, (w, t) in enumerate(zip(ways, turns, strict=True))),
        )


def around(pet: PetHeader, motion: Rigid) -> PetHeader:
    """Return the scanner as a patient who made a motion sees it who believes that he is at rest."""
    if motion is STILL:
        return pet
    return replace(pet, detectors_mm=motion.undone(detectors_mm(pet)))


def _moved(lines: LineModel, motion: Rigid) -> LineModel:
    """Return the lines as they lie in a patient who has not moved."""
    return replace(lines, pet=around(lines.pet, motion))


def _moved_map(attenuation: Attenuation | None, motion: Rigid) -> Attenuation | None:
    """Return the attenuation of a patient who has moved."""
    if attenuation is None or motion is STILL:
        return attenuation
    moved = motion.moved(attenuation.mu_per_mm, attenuation.grid)
    return Attenuation(np.ascontiguousarray(moved), attenuation.grid)


def _uncorrected(why: str) -> Verdict:
    return Verdict(
        check=_CHECK,
        level=Level.FLAG,
        advice="The patient moved, and it could not be corrected: repeat the scan if the image is blurred.",
        evidence=why,
    )
