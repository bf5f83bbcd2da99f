"""A picture each second while the scanner counts: all that has been counted so far, coarse, no scatter, no resolution.

The image goes on from the one before, so two passes over at most `max_events` of the events, evenly chosen, are
enough. It is marked as not quantitative. Events go on to what comes behind.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from acquisition.errors import ConfigError
from acquisition.items import Events, Image, Item, Position, Provenance, TimeFrame
from acquisition.pet_geometry import checked
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from recon.pet.gather import Gathered, equivalent_s
from recon.pet.likelihood import ListMode, osem
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
    """List-mode OSEM of what has been counted so far, again and again."""

    every_s: float = 1.0
    """Time of the scan between two pictures [s]."""
    n_iterations: int = 2
    """How often the events are used for each picture."""
    n_subsets: int = 4
    """Parts of the events after each of which the image is updated."""
    max_events: int = 400_000
    """Events used for a picture; of more, every n-th."""
    filter_mm: float = 6.0
    """Gaussian filter of the picture, FWHM [mm]."""
    slice_mm: float = 4.0
    """Distance and thickness of slices [mm]; 0: half the distance of rings."""

    def __post_init__(self) -> None:
        if self.every_s <= 0 or min(self.n_iterations, self.n_subsets, self.max_events) < 1 or self.filter_mm < 0:
            raise ConfigError(
                "pet.preview",
                expected="every_s above 0, n_iterations, n_subsets and max_events from 1, filter_mm from 0",
                got=f"{self.every_s}, {self.n_iterations}, {self.n_subsets}, {self.max_events}, {self.filter_mm}",
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
        self._next_s, self._n_made, self._last = self.every_s, 0, torch.zeros(0)
        self._sensitivity = CACHE.get(self._data.model, self._grid, most_lines=_LINES)
        bins = np.zeros(1, np.int16) if pet.n_tof > 1 else None
        self._likelihood(np.array([[0, pet.n_crystals // 2]], np.int32), bins, 1.0).ratio(
            torch.ones(self._grid.shape), slice(None)
        )

    def feed(self, item: Item) -> Iterator[Item]:
        """Pass everything on; after the block that completes a second, give a picture."""
        changed = not isinstance(item, Events) and self._data.takes(item)
        yield item
        if changed:
            self._sensitivity = CACHE.get(self._data.model, self._grid, most_lines=_LINES)
        if not isinstance(item, Events):
            return
        moves = self._data.moves(item)
        if moves:
            self._data, self._last = self._data.moved(), torch.zeros(0)
        self._data.takes(item)
        if moves:
            self._sensitivity = CACHE.get(self._data.model, self._grid, most_lines=_LINES)
        if item.stop_s >= self._next_s - 1e-6:
            self._next_s = (np.floor(item.stop_s / self.every_s + 1e-6) + 1) * self.every_s
            if any(len(b) for b in self._data.blocks):
                yield self._picture(item)

    def close(self) -> Iterator[Item]:
        """Give a picture of a scan that was too short for one; else nothing, as the final image follows."""
        counted = [b for b in self._data.blocks if len(b)]
        if counted and not self._n_made:
            yield self._picture(self._data.blocks[-1])

    def _picture(self, item: Events) -> Image:
        begun = time.monotonic()
        frame = TimeFrame(start_s=self._data.blocks[0].start_s, stop_s=item.stop_s, index=self._n_made)
        pairs, tof = self._data.events(frame)
        n_events = len(pairs)
        part = slice(None, None, -(-n_events // self.max_events))
        pairs, tof = np.ascontiguousarray(pairs[part]), None if tof is None else np.ascontiguousarray(tof[part])
        share = len(pairs) / n_events
        data = self._likelihood(pairs, tof, share * equivalent_s(frame, self._pet.tracer))
        start = self._last + 0.02 * data.start() if len(self._last) else data.start()
        x = osem(data, start, n_iterations=self.n_iterations, n_subsets=self.n_subsets, report=lambda *_: None)
        self._last, self._n_made = x, self._n_made + 1
        return Image(
            data=GaussianPsf(self._grid, self.filter_mm)(x).numpy(),
            grid=in_patient(at_table(self._grid, self._data.shift_mm), self._scan),
            unit="a.u.",
            output=OUTPUT,
            position=Position(repetition=frame.index),
            provenance=Provenance(notes={"events": str(n_events), "made_in": f"{time.monotonic() - begun:.2f} s"}),
            verdicts=(_NOT_FOR_NUMBERS,),
            last_readout_s=item.received_s,
            attributes={
                "frame_start_s": f"{frame.start_s:.6g}",
                "frame_stop_s": f"{frame.stop_s:.6g}",
                "quantitative": "no",
            },
        )

    def _likelihood(self, pairs: NDArray[np.int32], tof: NDArray[np.int16] | None, seconds: float) -> ListMode:
        seen = torch.where(inside(self._grid), self._sensitivity.image, 0.0) * seconds
        factors = self._data.model.factors(pairs)
        if not (factors > 0).all():
            pairs, tof = pairs[factors > 0], None if tof is None else tof[factors > 0]
        return ListMode(self._pet, self._grid, pairs, tof, None, GaussianPsf(self._grid, 0.0), seen)
