"""The pictures that a console shows: the latest images as 16-bit codes in bounded memory, and what belongs to them.

Filled by the export thread, behind the pixels that go back to the scanner; read by the web server's threads. Nothing
here is the record: what falls out of memory is in the archive.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import ReconError
from acquisition.geometry import Grid, display_orientation
from acquisition.items import Image, Kind, SlicePlan
from acquisition.scan import Scan
from acquisition.verdict import Verdict
from integration.dicom.pixels import Scale, extent, first_scale, fitting, store, window_top

LOG = logging.getLogger(__name__)

_MOST_EXAMS = 64
_SHOWN_ON = 12  # pictures that are named as evidence of one finding
_COUNTERS = ("contrast", "phase", "repetition", "set", "average")


@dataclass(slots=True)
class Sheet:
    """One image as it is shown: slices (z, y, x), turned the way a radiologist looks at them."""

    first: int
    """Number of its first slice within the series."""
    codes: NDArray | None
    """Stored integers (slice, y, x); None: no longer in memory."""
    scale: Scale
    """How they stand for values."""
    grid: Grid
    """Their place in the patient."""
    counters: Mapping[str, int]
    """Counters that are not 0."""
    top: float
    """Value to be shown white, in the image's unit."""
    verdicts: tuple[Verdict, ...]
    """What the checks said of it."""
    made_at: float
    """When it was shown first [s since 1970]."""
    n: int
    """Number of slices."""


@dataclass(slots=True)
class Series:
    """One output of a scan."""

    output: str
    """Name of the result."""
    unit: str
    """a.u., HU, Bq/mL ..."""
    kind: Kind
    """Component of the complex image."""
    note: str
    """The network that changed it; empty: none did."""
    scale: Scale
    """Scale of its next image."""
    sheets: list[Sheet] = field(default_factory=list)
    """In the order in which they were made."""

    @property
    def n(self) -> int:
        """Number of slices so far."""
        return self.sheets[-1].first + self.sheets[-1].n if self.sheets else 0


@dataclass(slots=True)
class Found:
    """One finding, however many pictures carry it."""

    verdict: Verdict
    """What was found."""
    times: int = 0
    """Images that carry it."""
    pictures: list[tuple[str, int]] = field(default_factory=list)
    """The first of them: output and number of the slice."""


@dataclass(slots=True)
class Exhibit:
    """What is shown of one scan."""

    scan: Scan
    """Its header."""
    series: dict[str, Series] = field(default_factory=dict)
    """By output."""
    findings: dict[tuple[str, str, str], Found] = field(default_factory=dict)
    """What its images carry, by check, level and advice."""
    plans: Sequence[SlicePlan] = ()
    """Where the next series shall go; grows while the scan runs, the last one counts."""
    adjusted: SlicePlan | None = None
    """The plan as a person moved it."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One slice, ready to be shown."""

    codes: NDArray
    """Stored integers (y, x)."""
    scale: Scale
    """How they stand for values."""
    top: float
    """Value to be shown white."""


class Gallery:
    """The pictures of the last scans.

    Parameters
    ----------
    limit_bytes
        Memory for pixels [bytes]; the oldest pictures make room for new ones. 0: nothing is kept.
    """

    def __init__(self, limit_bytes: int = 0) -> None:
        self.limit_bytes, self.used_bytes = limit_bytes, 0
        self._exhibits: OrderedDict[str, Exhibit] = OrderedDict()
        self._held: deque[Sheet] = deque()
        self._lock = threading.Lock()

    def add(self, job: str, scan: Scan, image: Image) -> None:
        """Keep one image of a scan; never raises for what an image holds: what cannot be shown is not kept."""
        if not self.limit_bytes:
            return
        try:
            sheet, series = self._sheet(job, image)
        except ReconError as error:
            LOG.warning("job %s: an image of %s is not shown: %s", job, image.output, error)
            return
        with self._lock:
            exhibit = self._exhibit(job, scan)
            known = exhibit.series.setdefault(image.output, series)
            sheet.first, known.scale = known.n, sheet.scale
            known.sheets.append(sheet)
            _note(exhibit.findings, sheet, image.output)
            self._held.append(sheet)
            self.used_bytes += _size(sheet)
            self._make_room()

    def meet(self, job: str, scan: Scan, plans: Sequence[SlicePlan] = ()) -> None:
        """Keep the header of a scan that has begun, and the list to which its plans are added."""
        if self.limit_bytes:
            with self._lock:
                self._exhibit(job, scan).plans = plans

    def scan(self, job: str) -> Scan | None:
        """Return the header of a scan, None when it is no longer in memory."""
        with self._lock:
            exhibit = self._exhibits.get(job)
        return exhibit.scan if exhibit else None

    def plans(self, job: str) -> tuple[SlicePlan | None, SlicePlan | None]:
        """Return the plan that was made on a scan, and that plan as a person moved it; None: there is none."""
        with self._lock:
            exhibit = self._exhibits.get(job)
            made = list(exhibit.plans) if exhibit else []
        return made[-1] if made else None, exhibit.adjusted if exhibit else None

    def adjust(self, job: str, plan: SlicePlan | None) -> bool:
        """Keep a plan as a person moved it, or forget the move (None); False when the scan is no longer in memory."""
        with self._lock:
            exhibit = self._exhibits.get(job)
            if exhibit is not None:
                exhibit.adjusted = plan
        return exhibit is not None

    def series(self, job: str) -> list[Series]:
        """Return the outputs of a scan, each a snapshot, in the order in which they appeared."""
        with self._lock:
            exhibit = self._exhibits.get(job)
            return [replace(s, sheets=list(s.sheets)) for s in exhibit.series.values()] if exhibit else []

    def findings(self, job: str) -> list[Found]:
        """Return what the images of a scan carry."""
        with self._lock:
            exhibit = self._exhibits.get(job)
            return [replace(f, pictures=list(f.pictures)) for f in exhibit.findings.values()] if exhibit else []

    def counts(self) -> Mapping[str, dict[str, int]]:
        """Return the number of slices by job and output."""
        with self._lock:
            counted = {job: {name: s.n for name, s in e.series.items()} for job, e in self._exhibits.items()}
        return MappingProxyType(counted)

    def picture(self, job: str, output: str, number: int) -> Picture | None:
        """Return one slice, None when there is none or it is no longer in memory."""
        with self._lock:
            exhibit = self._exhibits.get(job)
            series = exhibit.series.get(output) if exhibit else None
            for sheet in reversed(series.sheets if series else ()):
                if sheet.first <= number < sheet.first + sheet.n and sheet.codes is not None:
                    return Picture(sheet.codes[number - sheet.first], sheet.scale, sheet.top)
        return None

    def _exhibit(self, job: str, scan: Scan) -> Exhibit:
        if job not in self._exhibits:
            self._exhibits[job] = Exhibit(scan)
            while len(self._exhibits) > _MOST_EXAMS:
                _, gone = self._exhibits.popitem(last=False)
                self._forget([sheet for s in gone.series.values() for sheet in s.sheets])
        return self._exhibits[job]

    def _make_room(self) -> None:
        while self.used_bytes > self.limit_bytes and self._held:
            self._forget([self._held.popleft()])

    def _forget(self, sheets: Sequence[Sheet]) -> None:
        for sheet in sheets:
            self.used_bytes -= _size(sheet)
            sheet.codes = None

    def _sheet(self, job: str, image: Image) -> tuple[Sheet, Series]:
        """Return the image as a sheet, and the series that it would begin."""
        data = np.abs(image.data) if np.iscomplexobj(image.data) else image.data
        data, grid = display_orientation(data, image.grid)
        slices = data.reshape(-1, *data.shape[-2:])
        shown = replace(image, data=slices)
        low, high = extent(slices, f"job {job}, {image.output}")
        with self._lock:
            exhibit = self._exhibits.get(job)
            known = exhibit.series.get(image.output) if exhibit else None
        scale, _ = fitting(known.scale if known else first_scale(shown, low, high), low, high)
        network = image.provenance.network
        series = Series(
            image.output, image.unit, image.kind, f"{network.card} {network.version}" if network else "", scale
        )
        counters = {name: n for name in _COUNTERS if (n := getattr(image.position, name))}
        sheet = Sheet(
            first=0,
            codes=store(slices, scale),
            scale=scale,
            grid=grid,
            counters=counters,
            top=window_top(slices),
            verdicts=image.verdicts,
            made_at=time.time(),
            n=len(slices),
        )
        return sheet, series


def _note(findings: dict[tuple[str, str, str], Found], sheet: Sheet, output: str) -> None:
    for verdict in sheet.verdicts:
        found = findings.setdefault((verdict.check, verdict.level.value, verdict.advice), Found(verdict))
        found.times += 1
        if len(found.pictures) < _SHOWN_ON:
            found.pictures.append((output, sheet.first + sheet.n // 2))


def _size(sheet: Sheet) -> int:
    return 0 if sheet.codes is None else int(sheet.codes.nbytes)


def frames(series: Series, after: int = 0) -> list[dict[str, Any]]:
    """Return what a viewer must know of the slices numbered from `after`: their place, counters and white value."""
    found = []
    for sheet in series.sheets:
        n_z = sheet.grid.shape[0]
        for index in range(max(0, after - sheet.first), sheet.n):
            origin = np.asarray(sheet.grid.world((index % n_z, 0, 0)))
            found.append(
                {
                    "number": sheet.first + index,
                    "shape": list(sheet.grid.shape[1:]),
                    "spacing_mm": list(sheet.grid.spacing_mm[1:]),
                    "thickness_mm": sheet.grid.thickness_mm,
                    "origin_mm": [round(float(v), 4) for v in origin],
                    "x_dir": list(sheet.grid.x_dir),
                    "y_dir": list(sheet.grid.y_dir),
                    "at_mm": round(float(origin @ np.asarray(sheet.grid.normal)), 3),
                    "counters": dict(sheet.counters) | ({"frame": index // n_z} if index >= n_z else {}),
                    "top": sheet.top,
                    "kept": sheet.codes is not None,
                }
            )
    return found


__all__ = ["Exhibit", "Found", "Gallery", "Picture", "Series", "Sheet", "frames"]
