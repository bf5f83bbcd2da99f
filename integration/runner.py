"""One scan through one protocol: Steps opened, fed, closed; images stamped with their origin, judged at the gate.

Images that the gate holds come out, too: who takes them asks `gate.holds`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain

from acquisition.items import Events, Histogram, Image, Item, Projections, Readouts, SlicePlan, Waveform
from acquisition.scan import Scan
from acquisition.stream import Chain
from acquisition.verdict import Level, Verdict
from integration.dicom.common import PRODUCT, software_version
from integration.gate import Gate
from integration.protocol import Protocol
from integration.schedule.aside import Aside

_MOST_VERDICTS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a run has done."""

    protocol: str
    """Name of the protocol."""
    readouts: int
    """Readouts or views fed."""
    prompts: int = 0
    """Coincidences fed."""
    delayeds: int = 0
    """Delayed coincidences fed."""
    images: dict[str, int]
    """Images let through, by output."""


class Run:
    """The reconstruction of one scan.

    Parameters
    ----------
    scan
        Its header.
    protocol
        What to do.
    aside
        Runs its networks beside it; None: they are Steps like the others.
    """

    def __init__(self, scan: Scan, protocol: Protocol, aside: Aside | None = None) -> None:
        self.scan, self.protocol, self._aside = scan, protocol, aside
        self._chain = Chain(protocol.build() if aside is None else aside.around(protocol.build()))
        self._gate = Gate()
        self.plans: list[SlicePlan] = []
        """Where the next series shall go."""
        self._found: list[Verdict] = list(scan.verdicts)
        self._unused: Counter[str] = Counter()
        self._images: Counter[str] = Counter()
        self._readouts = self._prompts = self._delayeds = 0

    def open(self) -> None:
        """Let every Step prepare: check that it can be done, allocate, warm up.

        Raises
        ------
        IsocenterError
            This protocol cannot be used for this scan.
        """
        self._chain.open(self.scan)

    def feed(self, item: Item) -> Iterator[Image]:
        """Take one item; give the images that are ready now."""
        if isinstance(item, Readouts | Projections):
            self._readouts += len(item)
        elif isinstance(item, Events):
            self._prompts += len(item.prompts)
            self._delayeds += len(item.delayeds)
        elif isinstance(item, Histogram):
            self._prompts += round(float(item.counts.sum(dtype=float)))
        late = () if self._aside is None else self._aside.ready()
        return self._out(chain(self._chain.feed(item), late))

    def close(self) -> Iterator[Image]:
        """The scan is over: give the rest."""
        late = () if self._aside is None else self._aside.close()
        return self._out(chain(self._chain.close(), late))

    @property
    def verdicts(self) -> list[Verdict]:
        """Findings that belong to the scan, not to one image; the most severe are never crowded out."""
        beside = () if self._aside is None else tuple(v for v in self._aside.verdicts if v not in self._found)
        found = [*self._found, *beside, *self._gate.verdicts(), *self._wasted()]
        severe = sorted(found, key=lambda v: v.level is Level.PASS)
        return severe[:_MOST_VERDICTS]

    @property
    def summary(self) -> Summary:
        """What has been done so far."""
        return Summary(
            protocol=self.protocol.name,
            readouts=self._readouts,
            prompts=self._prompts,
            delayeds=self._delayeds,
            images=dict(self._images),
        )

    def _out(self, items: Iterable[Item]) -> Iterator[Image]:
        for item in items:
            if isinstance(item, Image):
                image = self._stamped(item)
                if self._gate.passes(image):
                    self._images[image.output] += 1
                yield image
            elif isinstance(item, Verdict):
                self._found.append(item)
            elif isinstance(item, SlicePlan):
                self.plans.append(item)
            elif not isinstance(item, Waveform):
                self._unused[type(item).__name__] += 1

    def _stamped(self, image: Image) -> Image:
        provenance = replace(
            image.provenance,
            protocol=self.protocol.name,
            steps=self.protocol.summary(),
            software=f"{PRODUCT} {software_version()}",
        )
        return replace(image, provenance=provenance)

    def _wasted(self) -> list[Verdict]:
        """Return a finding when measured data came out at the end of the protocol without becoming an image.

        Events that a preview has seen go on to the end; they were wasted only if no image came of them.
        """
        kinds = ("Readouts", "Frame", "Projections", *(() if self._images else ("Events",)))
        return [
            Verdict(
                check="protocol.unused",
                level=Level.FLAG,
                advice=f"Measured data were not used by protocol {self.protocol.name}; is it the right one?",
                value=float(self._unused[name]),
                unit="items",
                evidence=f"{self._unused[name]} x {name} reached the end of the protocol",
            )
            for name in kinds
            if self._unused[name]
        ]
