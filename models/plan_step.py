"""The Step that plans the next series on the images of a localizer, when the scan ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from acquisition.errors import DataError
from acquisition.items import Image, Item, Kind
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from models.plan import planned, target_of
from models.template import load_template
from recon.series import stacked


@dataclass(kw_only=True)
class PlanBrain:
    """Plan a series of the head on the images of this scan, a localizer: a `SlicePlan`, or why there is none.

    Images pass as they are.
    """

    target: str = "brain-acpc"
    """brain-acpc, brain-sagittal, hippocampus, orbit, iac."""
    source: str = "conventional"
    """Output that is planned on."""

    def __post_init__(self) -> None:
        target_of(self.target, where="plan.brain")

    def open(self, scan: Scan) -> None:
        """Forget the scan before; read the template now, not when the scan ends."""
        load_template()
        self._images: list[Image] = []
        self._frame = scan.study.frame_of_reference_uid

    def feed(self, item: Item) -> Iterator[Item]:
        """Pass everything on; keep the magnitudes."""
        if isinstance(item, Image) and item.output == self.source and item.kind is Kind.MAGNITUDE:
            self._images.append(item)
        yield item

    def close(self) -> Iterator[Item]:
        """Give the plan and its verdict."""
        try:
            made = planned(stacks_of(self._images), self.target, frame_of_reference_uid=self._frame)
        except DataError as error:
            yield Verdict(check="plan.brain", level=Level.FLAG, advice="No plan: plan by hand.", evidence=str(error))
            return
        if made.plan is not None:
            yield made.plan
        yield made.verdict


def stacks_of(images: list[Image]) -> list[Image]:
    """Return images as stacks of parallel slices; slices that fit to no other stay alone."""
    groups: list[list[Image]] = []
    for image in images:
        near = (g for g in groups if abs(_cosine(g[0], image)) > 0.999 and g[0].data.shape == image.data.shape)
        group = next(near, None)
        groups.append([image]) if group is None else group.append(image)
    out: list[Image] = []
    for group in groups:
        try:
            out.append(stacked(group))
        except DataError:  # unevenly spaced: each slice tells where it is
            out += group
    return out


def _cosine(one: Image, other: Image) -> float:
    return sum(a * b for a, b in zip(one.grid.normal, other.grid.normal, strict=True))


__all__ = ["PlanBrain", "stacks_of"]
