"""Has the patient moved while counts were taken? Seen in the events themselves, without an image.

Three signals per window of time: the centre of all events [mm], each placed on its line where its time of flight says
(its middle without), randoms taken out with the delayeds; the first principal component of coarse sinograms, which
also sees what leaves the centre where it was; and the profile along the axis (`pet_axial`), which tells how far a body
longer than the scanner slid. A step in one of them, against the scatter within, is a motion.

References
----------
Y. Lu et al., "Data-driven voluntary body motion detection and non-rigid event-by-event correction for static and
dynamic PET", Phys Med Biol 64 (2019) 065002, DOI 10.1088/1361-6560/ab02c2. K. Thielemans et al., "Device-less gating
for PET/CT using PCA", IEEE NSS/MIC (2011), DOI 10.1109/NSSMIC.2011.6153796.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import ConfigError
from acquisition.items import Events, Item, Movement
from acquisition.pet_axial import AxialProfile
from acquisition.pet_checks import Looking
from acquisition.pet_geometry import coarse_sinogram, detectors_mm, places_mm
from acquisition.verdict import Level, Verdict

Floats = NDArray[np.float64]

_COARSE = (8, 12, 3)  # angles, distances, axial parts of a coarse sinogram
_ROOM = 2
_SURE = 25.0  # chi-square by which a shift along the axis must explain the profiles better, where motion is certain
_CERTAIN, _FAR_MM = 40.0, 4.0  # the same, and the least way, where only the profiles tell of it: breath gives 17
_LEAST_NOISE = 1e-12  # of a component: what identical blocks leave is rounding
_LOOK_BACK = 4  # times the least time on each side of a step
_KEEP = 600  # windows that are looked at together


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The likeliest step in a series."""

    at: int
    """First sample behind it."""
    size: Floats
    """Mean behind less mean before (component,)."""
    strength: float
    """Size against its uncertainty, squared and added up over the components."""


@dataclass(kw_only=True)
class CheckMotion(Looking):
    """Did the patient lie still? The centre of the events and coarse sinograms must not step."""

    limit_mm: float = 1.0
    """Shift of the centre of activity from which it is reported [mm]."""
    window_s: float = 0.5
    """Time over which one centre is taken [s]."""
    settle_s: float = 4.0
    """Least time on each side of a step, so that a breath is none [s]."""
    strength: float = 60.0
    """Squared size against uncertainty from which a step is certain."""

    def __post_init__(self) -> None:
        if min(self.limit_mm, self.window_s, self.settle_s, self.strength) <= 0:
            raise ConfigError(
                "check.pet_motion",
                expected="numbers above 0",
                got=f"{self.limit_mm} mm, {self.window_s} s, {self.settle_s} s, {self.strength}",
            )

    def _begin(self) -> None:
        pet = self._pet
        self._place = detectors_mm(pet).astype(float)
        self._axis = AxialProfile(pet, self._place)
        self._profiles: list[Floats] = []
        self._centres: list[Floats] = []
        self._errors: list[Floats] = []
        self._sinograms: list[Floats] = []
        self._times: list[float] = []
        self._reset(0.0)
        self._found: list[Verdict] = []

    def _reset(self, start_s: float) -> None:
        self._start_s = start_s
        self._sum, self._square, self._number, self._noise = np.zeros(3), np.zeros(3), 0.0, 0.0
        self._sinogram, self._profile = np.zeros(_COARSE), np.zeros(self._axis.n_planes)

    def _look(self, item: Events) -> Iterator[Item]:
        if not self._noise:
            self._start_s = item.start_s
        self._add(item.prompts, item.tof, 1.0)
        self._add(item.delayeds, item.delayed_tof, -1.0)
        if item.stop_s - self._start_s >= self.window_s - 1e-9:
            self._finish(item.stop_s)
            yield from self._judged(_ROOM)

    def _add(self, pairs: NDArray[np.int32], tof: NDArray[np.int16] | None, sign: float) -> None:
        """Add events (sign 1) or delayeds (-1) to the window."""
        if not len(pairs):
            return
        where = places_mm(self._pet, self._place, pairs, tof)
        self._sum += sign * where.sum(axis=0)
        self._square += (where**2).sum(axis=0)
        self._number += sign * len(pairs)
        self._noise += len(pairs)
        self._profile += sign * self._axis.counts(self._place[pairs, 2].mean(axis=1))
        width, length = 0.6 * self._pet.radius_mm, max(float(np.ptp(self._place[:, 2])), 1e-9)
        self._sinogram += sign * coarse_sinogram(self._place, pairs, _COARSE, width_mm=width, length_mm=length)

    def _finish(self, stop_s: float) -> None:
        """Close a window: its centre, how sure that is, and its sinogram."""
        if self._number > 100:
            centre = self._sum / self._number
            spread = self._square / self._noise - (self._sum / max(self._number, 1.0)) ** 2
            self._centres.append(centre)
            self._errors.append(np.maximum(spread, 1.0) * self._noise / self._number**2)
            self._sinograms.append(np.maximum(self._sinogram, 0).ravel() / self._number)
            self._profiles.append(np.maximum(self._profile, 0))
            self._times.append(self._start_s)
        self._reset(stop_s)
        for kept in self._kept():
            del kept[: max(0, len(kept) - _KEEP)]

    def _judged(self, room: int) -> Iterator[Item]:
        """Report a step that is certain; what was before it is forgotten.

        One less than `room` windows from the latest place that can be told may lie further on: it is waited for.
        """
        margin = max(2, int(np.ceil(self.settle_s / self.window_s - 1e-9)))
        if len(self._centres) < 2 * margin:
            return
        centres = np.array(self._centres)
        found = step(centres, np.array(self._errors), margin)
        size = float(np.linalg.norm(found.size))
        by = "centre of the events"
        if found.strength < self.strength or size < self.limit_mm:
            series = first_component(np.array(self._sinograms))
            turned = step(series, np.full(series.shape, _noise(series)), margin)
            if turned.strength < 2 * self.strength or turned.size[0] ** 2 < 16 * _noise(series):
                slid = self._likeliest_slide(margin, room)
                if slid is None:
                    return
                by, turned = "profile along the axis", slid
            else:
                by = "coarse sinograms"
            found = turned
            moved = centres[found.at :].mean(axis=0) - centres[: found.at].mean(axis=0)
            found = Step(at=found.at, size=moved, strength=found.strength)
        if found.at > len(centres) - margin - room:
            return
        found = self._slid(found)
        size = float(np.linalg.norm(found.size))
        verdict = self._verdict(found, size, by)
        x, y, z = found.size.tolist()
        yield Movement(time_s=self._times[found.at], shift_mm=(x, y, z))
        self._found.append(verdict)
        for kept in self._kept():
            del kept[: found.at + margin // 2]  # a step seen a little early is not seen twice
        yield verdict

    def _slid(self, found: Step) -> Step:
        """Return a step with the way along the axis that the profiles tell, where they are sure of it."""
        before, behind = (np.sum(part, axis=0) for part in (self._profiles[: found.at], self._profiles[found.at :]))
        z_mm, better = self._axis.shift_mm(before, behind)
        return found if better < _SURE else replace(found, size=np.array([*found.size[:2], z_mm]))

    def _likeliest_slide(self, margin: int, room: int) -> Step | None:
        """Return the surest shift along the axis in the latest windows, looked for once in `margin` windows."""
        n = len(self._profiles)
        if room and n % margin:
            return None
        total = np.cumsum(self._profiles, axis=0)
        places = range(max(margin, n - _LOOK_BACK * margin), n - margin + 1, 2)
        found = [(k, *self._axis.shift_mm(total[k - 1], total[-1] - total[k - 1])) for k in places]
        at, z_mm, better = max(found, key=lambda f: f[2])
        if better < _CERTAIN or abs(z_mm) < _FAR_MM:
            return None
        return Step(at=at, size=np.array([0.0, 0.0, z_mm]), strength=better)

    def _kept(self) -> tuple[list, ...]:
        """Return what is kept of each window."""
        return self._centres, self._errors, self._sinograms, self._profiles, self._times

    def _verdict(self, found: Step, size: float, by: str) -> Verdict:
        time_s = self._times[found.at]
        x, y, z = found.size.tolist()
        doubt = "" if by.startswith("centre") else " (or a detector failed)"
        return Verdict(
            check="check.pet_motion",
            level=Level.FLAG,
            advice=f"The patient moved at {time_s:.1f} s by about {size:.1f} mm{doubt}: split the frame there, "
            "and see whether he lies well.",
            value=size,
            limit=self.limit_mm,
            unit="mm",
            evidence=f"{by}; shift at {time_s:.1f} s: x {x:+.1f}, y {y:+.1f}, z {z:+.1f} mm; "
            f"strength {found.strength:.0f}",
        )

    def _end(self) -> Iterator[Item]:
        yield from self._judged(0)
        if not self._found and self._centres:
            centres = np.array(self._centres)
            yield Verdict(
                check="check.pet_motion",
                level=Level.PASS,
                advice="The patient lay still.",
                value=float(np.linalg.norm(centres.std(axis=0))),
                limit=self.limit_mm,
                unit="mm",
                evidence=f"spread of {len(centres)} centres of {self.window_s:g} s",
            )


def step(series: Floats, variance: Floats, margin: int) -> Step:
    """Return the likeliest step in a series (n, component), at least `margin` samples from both ends.

    The uncertainty is the greater of `variance` (n, component) and what neighbouring samples differ by.
    """
    n = len(series)
    own = np.median(np.diff(series, axis=0) ** 2, axis=0) / 2 / 0.455
    each = np.maximum(np.maximum(variance.mean(axis=0), own), np.finfo(float).tiny)
    k = np.arange(margin, n - margin + 1)
    total = np.cumsum(series, axis=0)
    size = (total[-1] - total[k - 1]) / (n - k)[:, None] - total[k - 1] / k[:, None]
    strength = (size**2 / (each * (1 / k + 1 / (n - k))[:, None])).sum(axis=1)
    best = int(strength.argmax())
    return Step(at=int(k[best]), size=size[best], strength=float(strength[best]))


def first_component(samples: Floats) -> Floats:
    """Return the first principal component of samples (n, value) over time, (n, 1)."""
    middle = np.sqrt(samples) - np.sqrt(samples).mean(axis=0)
    _, _, directions = np.linalg.svd(middle, full_matrices=False)
    return np.asarray(middle @ directions[:1].T)


def _noise(series: Floats) -> float:
    """Return the variance of a sample, from the differences of neighbours."""
    return max(float(np.median(np.diff(series, axis=0) ** 2) / 2 / 0.455), _LEAST_NOISE)
