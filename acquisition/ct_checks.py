"""Checks of a CT scan while it runs, on line integrals: is the patient centred, did he move, metal, a cut-off turn.

They change nothing; every view passes at once. Put them behind ct.air.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter, uniform_filter1d

from acquisition.ct_geometry import fan_angles, row_pitch_iso_mm
from acquisition.ct_moments import Moments
from acquisition.ct_opposing import Opposing
from acquisition.errors import ConfigError, DataError
from acquisition.items import Item, Projections
from acquisition.scan import CtHeader, Scan
from acquisition.verdict import Level, Verdict

Floats = NDArray[np.float64]

_METAL_VIEWS = 144  # per turn that are looked at
_CHANNEL = 1 / 3  # of a channel; smaller shifts are hidden by the interpolation between rays


class _Looking:
    """What the checks have in common: they look at the patient's views, and let everything pass."""

    _ct: CtHeader
    _uid: str

    def open(self, scan: Scan) -> None:
        """Prepare for the scanner."""
        self._ct, self._uid = scan.require_ct(), scan.uid
        self._begin()

    def feed(self, item: Item) -> Iterator[Item]:
        """Look at line integrals; everything passes, and with it what is certain already.

        Raises
        ------
        DataError
            The views are no line integrals, or of another size.
        """
        yield item
        if isinstance(item, Projections) and len(item) and not item.head["flags"].any():
            ct = self._ct
            if item.domain != "lines" or item.data.shape[1:] != (ct.n_rows, ct.n_channels):
                raise DataError(
                    f"scan {self._uid}: views",
                    expected=f"line integrals of {ct.n_rows} x {ct.n_channels} elements",
                    got=f"{item.domain} of {item.data.shape[1:]}",
                    action="put ct.air before this step",
                )
            yield from self._look(item)

    def close(self) -> Iterator[Item]:
        """Say what was found, where it has not been said yet."""
        yield from self._end()

    def _begin(self) -> None:
        raise NotImplementedError

    def _look(self, item: Projections) -> Iterator[Verdict]:
        raise NotImplementedError

    def _end(self) -> Iterator[Verdict]:
        raise NotImplementedError


@dataclass(kw_only=True)
class CheckCentre(_Looking):
    """Does the patient lie in the isocentre? Said after the first turn, when the table can still be moved."""

    limit_mm: float = 25.0
    """Distance of the patient's centre of mass from the axis from which dose and noise suffer [mm]."""

    def __post_init__(self) -> None:
        if self.limit_mm <= 0:
            raise ConfigError("check.ct_centre limit_mm", expected="a distance above 0 mm", got=str(self.limit_mm))

    def _begin(self) -> None:
        self._moments = Moments(self._ct)
        self._said = False

    def _look(self, item: Projections) -> Iterator[Verdict]:
        if not self._said:
            self._moments.add(item.head, item.data)
            if self._moments.full:
                yield from self._end()

    def _end(self) -> Iterator[Verdict]:
        centre = None if self._said else self._moments.centre_mm()
        if centre is None:
            return
        self._said = True
        x, y = centre
        distance = float(np.hypot(x, y))
        off = distance > self.limit_mm
        yield Verdict(
            check="check.ct_centre",
            level=Level.FLAG if off else Level.PASS,
            advice=f"The patient lies off centre: {_way(x, y)} for the next scan."
            if off
            else "The patient lies in the centre.",
            value=distance,
            limit=self.limit_mm,
            unit="mm",
            evidence=f"centre of mass at x = {x:.0f} mm (patient's left), y = {y:.0f} mm (posterior)",
        )


def _way(x_mm: float, y_mm: float) -> str:
    """Return how to move the table and a patient who lies head first supine."""
    ways = []
    if abs(y_mm) >= 5:
        ways.append(f"{'raise' if y_mm > 0 else 'lower'} the table by {abs(y_mm):.0f} mm")
    if abs(x_mm) >= 5:
        ways.append(f"move the patient {abs(x_mm):.0f} mm to the {'right' if x_mm > 0 else 'left'}")
    return " and ".join(ways)


@dataclass(kw_only=True)
class CheckMotion(_Looking):
    """Did the patient lie still? Each line is measured from both ends, half a turn apart, and must read the same."""

    limit_mm: float = 0.5
    """Shift within half a turn from which edges are seen twice; never less than a third of a channel [mm]."""

    def __post_init__(self) -> None:
        if self.limit_mm <= 0:
            raise ConfigError("check.ct_motion limit_mm", expected="a distance above 0 mm", got=str(self.limit_mm))

    def _begin(self) -> None:
        self._opposing: Opposing | None = None
        self._first: NDArray[np.void] | None = None
        self._kept: Floats = np.zeros((0, 2, 0))
        self._every = max(1, self._ct.views_per_rotation // 72)
        self._runs: list[list[tuple[float, Floats, Floats]]] = []
        self._flying = False
        pitch = self._ct.pitch_mm[1] * self._ct.source_isocentre_mm / self._ct.source_detector_mm
        self._limit = max(self.limit_mm, _CHANNEL * pitch)

    def _look(self, item: Projections) -> Iterator[Verdict]:
        self._flying |= any(item.head[name].any() for name in ("angle_shift_rad", "z_shift_mm", "radius_shift_mm"))
        if self._flying:
            return iter(())
        jumps = np.abs(np.diff(item.head["z_mm"])) > row_pitch_iso_mm(self._ct) / 2
        cuts = np.flatnonzero(jumps) + 1 if self._ct.mode == "axial" else np.zeros(0, int)
        for part in np.split(np.arange(len(item)), cuts):
            self._take(item.head[part], item.data[part])
        return iter(())

    def _take(self, head: NDArray[np.void], lines: NDArray[np.float32]) -> None:
        moved = (
            self._first is not None and abs(head["z_mm"][0] - self._first["z_mm"][0]) > row_pitch_iso_mm(self._ct) / 2
        )
        if self._ct.mode == "axial" and moved:
            self._opposing = self._first = None
        if self._opposing is None:
            if self._first is None:
                self._first, self._lines = head[:1].copy(), lines[:1].copy()
                head, lines = head[1:], lines[1:]
            if not len(head):
                return
            self._start(self._first, head)
            self._add(self._first, self._lines)
        self._add(head, lines)

    def _start(self, first: NDArray[np.void], head: NDArray[np.void]) -> None:
        sign = 1.0 if head["angle_rad"][0] > first["angle_rad"][0] else -1.0
        n = len(head)
        helical = self._ct.mode == "helical"
        z_step = float(head["z_mm"][-1] - first["z_mm"][0]) / n if helical else 0.0
        step = sign * 2 * np.pi / self._ct.views_per_rotation
        self._opposing = Opposing(self._ct, angle_step_rad=step, z_step_mm=z_step)
        self._kept = np.zeros((0, 2, len(self._opposing.places)))
        self._z: Floats = np.zeros(0)
        self._runs.append([])

    def _add(self, head: NDArray[np.void], lines: NDArray[np.float32]) -> None:
        """Compare every few directions, and keep what later views will be compared with."""
        opposing = self._opposing
        assert opposing is not None
        self._kept = np.concatenate([self._kept, opposing.reduced(lines)])
        self._z = np.concatenate([self._z, head["z_mm"]])
        start = 0
        while len(self._kept) - start >= opposing.span:
            at = start + opposing.reach
            found = opposing.shifts_mm(*opposing.pair(self._kept, at))
            self._runs[-1].append((float(self._z[at]), *found))
            start += self._every
        self._kept, self._z = self._kept[start:], self._z[start:]

    def _end(self) -> Iterator[Verdict]:
        worst, z, n = 0.0, 0.0, 0
        for run in self._runs:
            if run:
                size = _sizes(np.array([r[1] for r in run]), np.array([r[2] for r in run]))
                k = int(size.argmax())
                n += len(run)
                if size[k] > worst:
                    worst, z = float(size[k]), run[k][0]
        moved = worst > self._limit
        if moved:
            advice = (
                f"The patient moved by about {worst:.1f} mm: look at z = {z:.0f} mm, and repeat if edges are doubled."
            )
        else:
            why = "the focal spot flies" if self._flying else "too short a turn"
            advice = "The patient lay still." if n else f"Whether the patient moved was not checked: {why}."
        yield Verdict(
            check="check.ct_motion",
            level=Level.FLAG if moved else Level.PASS,
            advice=advice,
            value=worst if n else None,
            limit=self._limit,
            unit="mm",
            evidence=f"{n} directions measured from both ends; the worst near z = {z:.0f} mm" if n else "",
        )


def _sizes(shifts: Floats, information: Floats) -> Floats:
    """Return the root mean square shift over the segments and an eighth of a turn, for each direction."""
    usual = np.median(information.max(axis=1))
    weight = np.minimum(information, 0.2 * usual)
    above = uniform_filter1d((weight * shifts**2).sum(axis=1), 9, mode="nearest")
    return np.sqrt(above / np.maximum(uniform_filter1d(weight.sum(axis=1), 9, mode="nearest"), 1e-12))


@dataclass(kw_only=True)
class CheckMetal(_Looking):
    """Is there metal in the beam? Line integrals stand out steeply from those around them, or are saturated."""

    rise: float = 1.5
    """Line integral above the median of its surroundings that no bone reaches."""
    around_mm: float = 60.0
    """Width of the surroundings, at the axis [mm]."""
    saturated: float = 9.0
    """Line integral from which hardly any radiation comes through."""
    views: float = 0.05
    """Part of the views in which it must be seen."""

    def __post_init__(self) -> None:
        if min(self.rise, self.around_mm, self.saturated, self.views) <= 0 or self.views >= 1:
            raise ConfigError(
                "check.ct_metal",
                expected="numbers above 0, views below 1",
                got=f"{self.rise}, {self.around_mm}, {self.saturated}, {self.views}",
            )

    def _begin(self) -> None:
        ct = self._ct
        pitch = ct.pitch_mm[1] * ct.source_isocentre_mm / ct.source_detector_mm
        self._width = 2 * max(2, round(self.around_mm / pitch / 2)) + 1
        self._every = max(1, ct.views_per_rotation // _METAL_VIEWS)
        self._n_views = self._n_metal = 0
        self._largest, self._z = 0.0, [np.inf, -np.inf]

    def _look(self, item: Projections) -> Iterator[Verdict]:
        looked = item.head["view"] % self._every == 0
        if not looked.any():
            return iter(())
        rows, z = item.data[looked].max(axis=1), item.head["z_mm"][looked]
        thin = max(1, self._width // 48)  # the median needs no finer channels
        around = np.repeat(median_filter(rows[:, ::thin], size=(1, self._width // thin | 1), mode="nearest"), thin, 1)
        above = (rows - around[:, : rows.shape[1]] > self.rise) | (rows > self.saturated)
        metal = (above[:, 1:] & above[:, :-1]).any(axis=1)
        self._n_views += len(rows)
        if metal.any():
            self._n_metal += int(metal.sum())
            self._largest = max(self._largest, float(rows[metal].max()))
            self._z = [min(self._z[0], float(z[metal].min())), max(self._z[1], float(z[metal].max()))]
        return iter(())

    def _end(self) -> Iterator[Verdict]:
        if not self._n_views:
            return
        part = self._n_metal / self._n_views
        found = part > self.views
        yield Verdict(
            check="check.ct_metal",
            level=Level.FLAG if found else Level.PASS,
            advice="Metal in the beam: expect streaks; take off what can be taken off, or use metal artefact reduction."
            if found
            else "No metal in the beam.",
            value=100 * part,
            limit=100 * self.views,
            unit="% of views",
            evidence=f"line integrals up to {self._largest:.1f}, from z = {self._z[0]:.0f} to {self._z[1]:.0f} mm"
            if self._n_metal
            else "",
        )


@dataclass(kw_only=True)
class CheckTurn(_Looking):
    """Did the gantry turn far enough at every table position for an image to be made?"""

    def _begin(self) -> None:
        self._turns: list[tuple[float, float, float]] = []

    def _look(self, item: Projections) -> Iterator[Verdict]:
        angle, z = item.head["angle_rad"], item.head["z_mm"]
        new = np.abs(np.diff(z)) > row_pitch_iso_mm(self._ct) / 2
        cuts = np.flatnonzero(new) + 1 if self._ct.mode == "axial" else np.zeros(0, int)
        for part in np.split(np.arange(len(item)), cuts):
            low, high, place = float(angle[part].min()), float(angle[part].max()), float(z[part[0]])
            same = self._turns and (
                self._ct.mode == "helical" or abs(place - self._turns[-1][2]) <= row_pitch_iso_mm(self._ct) / 2
            )
            if same:
                before = self._turns.pop()
                low, high, place = min(low, before[0]), max(high, before[1]), before[2]
            self._turns.append((low, high, place))
        return iter(())

    def _end(self) -> Iterator[Verdict]:
        if not self._turns:
            return
        fan = fan_angles(self._ct)
        step = 2 * np.pi / self._ct.views_per_rotation
        needed = float(np.pi + fan[-1] - fan[0])
        turned, z = min((high - low + step, place) for low, high, place in self._turns)
        short = turned < needed - step
        n = sum(high - low + step < needed - step for low, high, _ in self._turns)
        yield Verdict(
            check="check.ct_turn",
            level=Level.HOLD if short else Level.PASS,
            advice=f"The rotation at z = {z:.0f} mm was cut short: repeat the scan there."
            if short
            else "The gantry turned far enough.",
            value=float(np.rad2deg(turned)),
            limit=float(np.rad2deg(needed)),
            unit="degrees",
            evidence=f"{n} of {len(self._turns)} table positions with less than half a turn and the fan angle",
        )
