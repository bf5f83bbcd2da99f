"""What PET Steps collect while the scanner counts: events by time, normalisation, attenuation, background."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import DataError
from acquisition.items import Events, Histogram, Image, Item, TimeFrame
from acquisition.pet import PER_MM, live_part
from acquisition.pet_norm import Normalisation, blocks, uniform
from acquisition.pet_randoms import from_delayeds
from acquisition.scan import PetHeader, Tracer
from recon.pet.project import Bins, Pairs, check_pairs
from recon.pet.sensitivity import Attenuation, LineModel, attenuation_of
from recon.pet.volume import at_table, in_gantry

_ALIKE = 0.005  # detector blocks whose live time differs by less need no sensitivity of their own


@runtime_checkable
class Background(Protocol):
    """Coincidences that are no true ones: randoms, scatter. Travels through a protocol like data."""

    @property
    def name(self) -> str:
        """Return randoms or scatter."""

    def expected(self, pairs: Pairs, tof: Bins | None, frame: TimeFrame) -> NDArray[np.float32]:
        """Return the counts expected in a frame on each line and time-of-flight bin (event,)."""


_SAME_MM = 0.5  # positions of the table that are nearer than this are one


@dataclass(slots=True)
class Gathered:
    """All that has come of one scan with the table at one position."""

    pet: PetHeader
    """The scanner."""
    where: str
    """The scan, for errors."""
    position: str | None = None
    """How the patient lies, DICOM's word; None: head first supine."""
    earlier: tuple[Gathered, ...] = ()
    """The same of the positions of the table before this one."""
    blocks: list[Events | Histogram] = field(default_factory=list)
    """Events, or lines and how often they counted, in order of time."""
    normalisation: Normalisation | None = None
    """How well lines count; None: as geometry says."""
    attenuation: Attenuation | None = None
    """What the patient absorbs, with the table where the scan begins."""
    backgrounds: list[Background] = field(default_factory=list)
    """Randoms and scatter."""
    frames: list[TimeFrame] = field(default_factory=list)
    """Frames that another Step asks for, beside those of the protocol."""

    def takes(self, item: Item) -> bool:
        """Keep `item` if it is of use; return whether it was.

        Raises
        ------
        DataError
            The events contradict the header, or come from another position of the table; see `moves`.
        """
        if isinstance(item, Events | Histogram):
            self._put(item)
        elif isinstance(item, Normalisation):
            self.normalisation = item
        elif isinstance(item, Image) and item.unit in PER_MM:
            self.attenuation = attenuation_of(replace(item, grid=in_gantry(item.grid, self.position)))
        elif isinstance(item, TimeFrame):
            self.frames.append(item)
        elif isinstance(item, Background):
            self.backgrounds = [b for b in self.backgrounds if b.name != item.name] + [item]
        else:
            return False
        return True

    @property
    def model(self) -> LineModel:
        """The factors of the lines, as far as they are known."""
        attenuation = self.attenuation
        if attenuation is not None and self.shift_mm:
            attenuation = replace(attenuation, grid=at_table(attenuation.grid, -self.shift_mm))
        return LineModel(self.pet, self.normalisation or uniform(self.pet), attenuation)

    def counting(self, frame: TimeFrame) -> tuple[LineModel, TimeFrame]:
        """Return the factors of the lines in a frame, and the frame with the part of it that was counted.

        Dead time that all blocks share makes the frame shorter; what they do not share makes crystals worse.
        """
        live = self.live(frame)
        if live is None:
            return self.model, frame
        norm = self.normalisation or uniform(self.pet)
        mean = float(live[norm.crystals > 0].mean())
        frame, model = replace(frame, live=mean**2), self.model
        if np.ptp(live[norm.crystals > 0]) < _ALIKE * mean:
            return model, frame
        return replace(model, normalisation=replace(norm, crystals=norm.crystals * np.float32(live / mean))), frame

    def live(self, frame: TimeFrame) -> NDArray[np.float64] | None:
        """Return the part of the photons that each detector counted in a frame, 1 without dead time (detector,).

        From the single counts of each block of time; None where dead time or single counts are not told.

        Raises
        ------
        DataError
            Single counts are of neither blocks nor detectors, or more than a block of this dead time can count.
        """
        chosen, (group, n) = self._within(frame), blocks(self.pet)
        told = [b for b in chosen if isinstance(b, Events) and b.singles is not None]
        if self.pet.dead_time_s <= 0 or not chosen or len(told) < len(chosen):
            return None
        total, square = 0.0, np.zeros(n)
        for block in told:
            span = TimeFrame(start_s=block.start_s, stop_s=block.stop_s)
            singles, weight = np.asarray(block.singles, float), equivalent_s(span, self.pet.tracer)
            if len(singles) == len(group):
                singles = np.bincount(group, singles, n)
            if len(singles) != n:
                got = f"{len(singles)} at {block.start_s:g} s"
                expected = f"single counts of {n} blocks or {len(group)} detectors"
                raise DataError(f"{self.where}: dead time", expected=expected, got=got, action="check the source")
            square += weight * live_part(singles / span.duration_s, self.pet.dead_time_s) ** 2
            total += weight
        return np.asarray(np.sqrt(square / total)[group])

    @property
    def stop_s(self) -> float:
        """End of the last block [s]."""
        before = self.earlier[-1].stop_s if self.earlier else 0.0
        return self.blocks[-1].stop_s if self.blocks else before

    @property
    def bed_mm(self) -> float | None:
        """Position of the table [mm]; None: nothing has come."""
        return self.blocks[0].bed_mm if self.blocks else None

    @property
    def shift_mm(self) -> float:
        """How far the table has carried the patient from where the scan begins, along the axis of the rings [mm]."""
        first = self.pet.beds_mm[0] if self.pet.beds_mm else (*self.earlier, self)[0].bed_mm
        return 0.0 if first is None or self.bed_mm is None else self.bed_mm - first

    @property
    def all_beds(self) -> tuple[Gathered, ...]:
        """What has come of each position, all with what is known now of lines and patient."""
        for bed in self.earlier:
            bed.normalisation, bed.attenuation = self.normalisation, self.attenuation
        return (*self.earlier, self)

    def moves(self, item: Item) -> bool:
        """Return whether `item` is a block of events from another position of the table."""
        return (
            isinstance(item, Events | Histogram)
            and self.bed_mm is not None
            and abs(item.bed_mm - self.bed_mm) >= _SAME_MM
        )

    def moved(self) -> Gathered:
        """Return where to keep what comes of the next position of the table."""
        return replace(self, earlier=(*self.earlier, self), blocks=[], backgrounds=list(self.backgrounds))

    def events(self, frame: TimeFrame) -> tuple[Pairs, Bins | None]:
        """Return detectors and bins of the prompts of the blocks that begin in what a frame counts."""
        chosen = self._within(frame)
        pairs = np.concatenate([b.prompts for b in chosen]) if chosen else np.zeros((0, 2), np.int32)
        if self.pet.n_tof < 2:
            return pairs, None
        bins = [b.tof for b in chosen if b.tof is not None]
        return pairs, np.concatenate(bins) if bins else np.zeros(0, np.int16)

    def counts(self, frame: TimeFrame) -> NDArray[np.float32] | None:
        """Return how often each event of `events` was counted (event,); None: each once."""
        chosen = self._within(frame)
        if not any(isinstance(b, Histogram) for b in chosen):
            return None
        return np.concatenate([b.counts if isinstance(b, Histogram) else np.ones(len(b), np.float32) for b in chosen])

    def delayeds(self, frame: TimeFrame) -> Pairs:
        """Return the detectors of the delayed coincidences of the blocks that begin in what a frame counts."""
        chosen = [b.delayeds for b in self._within(frame) if isinstance(b, Events)]
        return np.concatenate(chosen) if chosen else np.zeros((0, 2), np.int32)

    def _within(self, frame: TimeFrame) -> list[Events | Histogram]:
        counted = frame.counts(np.array([b.start_s for b in self.blocks]))
        return [b for b, there in zip(self.blocks, counted.tolist(), strict=True) if there]

    def _put(self, item: Events | Histogram) -> None:
        check_pairs(item.prompts, self.pet.n_rings * self.pet.n_crystals)
        timed = item.tof is not None and len(item.tof) == len(item.prompts)
        rules = (
            (f"blocks after {self.stop_s:g} s", f"one at {item.start_s:g} s", item.start_s >= self.stop_s - 1e-6),
            ("a time-of-flight bin for each event", "others", self.pet.n_tof < 2 or timed),
            (f"the table at {self.bed_mm or 0.0:g} mm", f"{item.bed_mm:g} mm", not self.moves(item)),
            (
                "each position of the table once",
                f"{item.bed_mm:g} mm again",
                all(abs(item.bed_mm - (b.bed_mm or 0.0)) >= _SAME_MM for b in self.earlier),
            ),
        )
        for expected, got, fine in rules:
            if not fine:
                raise DataError(f"{self.where}: events", expected=expected, got=got, action="check the source")
        self.blocks.append(item)


@dataclass(frozen=True, slots=True)
class DelayedRandoms:
    """Randoms of each frame, from its own delayed coincidences."""

    data: Gathered
    """The scan."""
    name: str = "randoms"
    """What it is."""

    def expected(self, pairs: Pairs, tof: Bins | None, frame: TimeFrame) -> NDArray[np.float32]:
        """Return the randoms expected in a frame on each line and time-of-flight bin (event,)."""
        norm = self.data.normalisation or uniform(self.data.pet)
        found = from_delayeds(self.data.pet, self.data.delayeds(frame), fov_mm=norm.fov_mm)
        return found.per_bin(pairs).astype(np.float32)


def equivalent_s(frame: TimeFrame, tracer: Tracer | None) -> float:
    """Return how long the activity of the scan's start would have to be measured for the counts of a frame [s].

    Decay, the frame's length and its dead time; branching and calibration are applied to the image.
    """
    return frame.live * (frame.duration_s if tracer is None else frame.equivalent_s(tracer.half_life_s))
