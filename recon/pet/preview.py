"""A picture each second while the scanner counts: all that has been counted so far, coarse, no scatter, no resolution.

One pass over the events (`recon.pet.onepass`): each is projected once, in the block it came with, on voxels of 4 mm. So
the work per second does not grow with the scan, and most of a picture is made before its last event is counted. It
knows attenuation and normalisation as far as they have come, but neither randoms nor scatter nor resolution, and its
first seconds are blurred: it is marked as not quantitative. Events go on to what comes behind.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from acquisition.errors import ConfigError
from acquisition.items import Events, Histogram, Image, Item, Position, Provenance, TimeFrame
from acquisition.pet_geometry import checked
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from recon.pet.gather import Gathered, equivalent_s
from recon.pet.onepass import OnePass
from recon.pet.psf import GaussianPsf
from recon.pet.sensitivity import CACHE
from recon.pet.volume import VoxelOptions, at_table, gantry_grid, in_patient, inside

OUTPUT = "preview"
_LINES = 400_000
_NOT_FOR_NUMBERS = Verdict(
    check="pet.preview",
    level=Level.FLAG,
    advice="A preview made while counting, without scatter correction: look, but do not measure in it.",
)


@dataclass(kw_only=True)
class Preview(VoxelOptions):
    """One pass of list-mode expectation maximisation; a picture of all that has been counted again and again."""

    every_s: float = 1.0
    """Time of the scan between two pictures [s]."""
    batch_events: int = 30_000
    """Events after which the image is updated; a block of fewer is one batch."""
    most_per_s: int = 1_000_000
    """Events used of each second of the scan; of more, every n-th."""
    power: float = 2.0
    """How much later events weigh: as this power of the counts at their time; 0: all the same. The higher, the sooner
    what the first, blurred images made of their events, and what was before a motion, is forgotten, and more noise."""
    filter_mm: float = 6.0
    """Gaussian filter of the picture, FWHM [mm]."""
    slice_mm: float = 4.0
    """Distance and thickness of slices [mm]; 0: half the distance of rings."""

    def __post_init__(self) -> None:
        if self.every_s <= 0 or min(self.batch_events, self.most_per_s) < 1 or min(self.power, self.filter_mm) < 0:
            raise ConfigError(
                "pet.preview",
                expected="every_s above 0, batch_events and most_per_s from 1, power and filter_mm from 0",
                got=f"{self.every_s}, {self.batch_events}, {self.most_per_s}, {self.power}, {self.filter_mm}",
            )

    def open(self, scan: Scan) -> None:
        """Plan the voxels, find the sensitivity, compile.

        Raises
        ------
        HeaderError
            Not a PET scan, or a geometry that no line can be drawn from.
        """
        pet = checked(scan.require_pet(), f"scan {scan.uid}")
        self._pet, self._grid = pet, gantry_grid(pet, self)
        self._scan, self._data = scan, Gathered(pet, f"scan {scan.uid}", scan.patient.position)
        self._next_s, self._n_made, self._first_s = self.every_s, 0, 0.0
        self._n_events = self._n_used = 0
        self._work_s = 0.0
        self._filter = GaussianPsf(self._grid, self.filter_mm)
        pairs, bins = np.array([[0, pet.n_crystals // 2]], np.int32), np.zeros(1, np.int16) if pet.n_tof > 1 else None
        OnePass(pet, self._grid, power=0.0).add(pairs, bins, 1.0)  # compiles
        self._pass = OnePass(pet, self._grid, power=self.power)
        self._learn()

    def feed(self, item: Item) -> Iterator[Item]:
        """Use events and pass everything on; after the block that completes a second, give a picture."""
        changed = not isinstance(item, Events | Histogram) and self._data.takes(item)
        yield item
        if changed:
            self._learn()
        if isinstance(item, Events):
            self._use(item)
            if item.stop_s >= self._next_s - 1e-6:
                self._next_s = (np.floor(item.stop_s / self.every_s + 1e-6) + 1) * self.every_s
                if self._n_used:
                    yield self._picture()

    def close(self) -> Iterator[Item]:
        """Give a picture of a scan that was too short for one; else nothing, as the final image follows."""
        if self._n_used and not self._n_made:
            yield self._picture()

    def _learn(self) -> None:
        """Take what is known of the lines' factors into the image."""
        model = self._data.model
        found = CACHE.get(model, self._grid, most_lines=_LINES)
        self._normalisation = model.normalisation
        self._pass.sees(torch.where(inside(self._grid), found.image, 0.0))

    def _use(self, item: Events) -> None:
        begun = time.monotonic()
        moves = self._data.moves(item)
        if moves:  # another part of the patient, so another picture
            self._data, self._pass = self._data.moved(), OnePass(self._pet, self._grid, power=self.power)
        if not self._data.blocks:
            self._first_s = item.start_s
        self._data.takes(item)
        if moves:
            self._learn()
        del self._data.blocks[:-1]  # the latest is enough to see whether the next one fits
        length = item.stop_s - item.start_s
        stride = max(1, -(-len(item) // max(1, int(self.most_per_s * length))))
        pairs, tof = item.prompts[::stride], None if item.tof is None else item.tof[::stride]
        good = self._normalisation.efficiency(pairs) > 0
        pairs, tof = pairs[good], None if tof is None or self._pet.n_tof < 2 else tof[good]
        seconds = equivalent_s(TimeFrame(start_s=item.start_s, stop_s=item.stop_s), self._pet.tracer) / stride
        n = max(1, round(len(pairs) / self.batch_events))
        for k in range(n):
            part = slice(k, None, n)
            batch = np.ascontiguousarray(pairs[part]), None if tof is None else np.ascontiguousarray(tof[part])
            self._pass.add(*batch, seconds / n)
        self._n_events, self._n_used = self._n_events + len(item), self._n_used + len(pairs)
        self._work_s += time.monotonic() - begun

    def _picture(self) -> Image:
        begun, last = time.monotonic(), self._data.blocks[-1]
        data = self._filter(self._pass.image).numpy()
        work_s, self._work_s = self._work_s + time.monotonic() - begun, 0.0
        self._n_made += 1
        notes = {"events": f"{self._n_used} of {self._n_events}", "work": f"{work_s:.2f} s"}
        return Image(
            data=data,
            grid=in_patient(at_table(self._grid, self._data.shift_mm), self._scan),
            unit="a.u.",
            output=OUTPUT,
            position=Position(repetition=self._n_made - 1),
            provenance=Provenance(notes=notes),
            verdicts=(_NOT_FOR_NUMBERS,),
            last_readout_s=last.received_s,
            attributes={
                "frame_start_s": f"{self._first_s:.6g}",
                "frame_stop_s": f"{last.stop_s:.6g}",
                "quantitative": "no",
            },
        )
