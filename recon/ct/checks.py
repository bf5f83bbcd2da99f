"""Checks of CT slices: is all there that was planned?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from acquisition.errors import ConfigError
from acquisition.items import Image, Item
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict

PLANNED = ("planned_start_mm", "planned_end_mm")
"""User parameters of the header that say what range of slices was planned [mm]."""
_GAP = 1.5  # distances of slices from which one is missing
_NAMED = 5


@dataclass(kw_only=True)
class CheckRange:
    """Do the slices cover what was planned, without gaps? The images pass as they come; said at the end."""

    planned_mm: tuple[float, float] = (0.0, 0.0)
    """z of the first and the last planned edge [mm]; both 0: what the header says, if anything."""
    tolerance_mm: float = 1.0
    """What may be missing at either end [mm]."""

    def __post_init__(self) -> None:
        if self.tolerance_mm < 0:
            raise ConfigError("check.ct_range tolerance_mm", expected="0 mm or more", got=str(self.tolerance_mm))

    def open(self, scan: Scan) -> None:
        """Read the plan.

        Raises
        ------
        ConfigError
            The planned range in the header is no pair of numbers.
        """
        scan.require_ct()
        given = [scan.user_parameters.get(name) for name in PLANNED]
        planned = self.planned_mm
        if planned == (0.0, 0.0) and None not in given:
            try:
                planned = float(given[0] or 0), float(given[1] or 0)
            except ValueError as error:
                raise ConfigError(
                    f"scan {scan.uid}: {', '.join(PLANNED)}", expected="numbers", got=str(given)
                ) from error
        self._planned = None if planned[0] == planned[1] else (min(planned), max(planned))
        self._slices: list[tuple[float, float, float]] = []

    def feed(self, item: Item) -> Iterator[Item]:
        """Remember where slices lie; everything passes."""
        if isinstance(item, Image) and item.output == "conventional" and item.unit == "HU":
            grid = item.grid
            for k in range(grid.shape[0]):
                self._slices.append((grid.plane(k).origin_mm[2], grid.thickness_mm, grid.spacing_mm[0]))
        yield item

    def close(self) -> Iterator[Item]:
        """Say what is missing."""
        places = sorted(self._slices)
        if not places:
            return
        yield self._gaps(places)
        if self._planned:
            yield self._ends(places, self._planned)

    def _gaps(self, places: list[tuple[float, float, float]]) -> Verdict:
        steps = [(b[0] - a[0]) / min(a[2], b[2]) for a, b in pairwise(places)]
        gaps = [places[k][0] for k, step in enumerate(steps) if step > _GAP]
        return Verdict(
            check="check.ct_gaps",
            level=Level.FLAG if gaps else Level.PASS,
            advice="Slices are missing in between: repeat the scan there."
            if gaps
            else "No slice is missing in between.",
            value=max(steps, default=1.0),
            limit=_GAP,
            unit="slice distances",
            evidence=", ".join(f"behind z = {z:.1f} mm" for z in gaps[:_NAMED]),
        )

    def _ends(self, places: list[tuple[float, float, float]], planned: tuple[float, float]) -> Verdict:
        low, high = places[0][0] - places[0][1] / 2, places[-1][0] + places[-1][1] / 2
        missing = (max(low - planned[0], 0.0), max(planned[1] - high, 0.0))
        short = max(missing) > self.tolerance_mm
        where = " and ".join(
            f"{mm:.0f} mm at the {end}"
            for mm, end in zip(missing, ("feet", "head"), strict=True)
            if mm > self.tolerance_mm
        )
        return Verdict(
            check="check.ct_range",
            level=Level.FLAG if short else Level.PASS,
            advice=f"The slices do not cover the planned range, {where} end missing: scan the rest."
            if short
            else "The planned range is covered.",
            value=max(missing),
            limit=self.tolerance_mm,
            unit="mm",
            evidence=f"slices from {low:.1f} to {high:.1f} mm, planned {planned[0]:.1f} to {planned[1]:.1f} mm",
        )
