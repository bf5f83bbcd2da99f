"""Is an MR image good enough? SNR, contrast, sharpness, ghosts, wrap-around, interference: ``check.mri_quality``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from acquisition.errors import ConfigError
from acquisition.verdict import Level, Verdict
from recon import quality
from recon.planes import LookingAtImages, Plane
from recon.quality import Parts

_PIXELS = 600_000  # that are looked at: within a second on two cores
_FEWEST = 3
_LEAST_PART = 0.05
_AXES = {"y": "columns", "x": "rows"}
Seen = Sequence[tuple[Plane, Parts]]


@dataclass(kw_only=True)
class CheckQuality(LookingAtImages):
    """Measure the conventional images when the scan is over, and say what a technologist can do about it.

    Images pass as they come. A dozen slices are looked at; of artefacts the worst slice counts, of SNR, contrast and
    sharpness the median. A limit of 0 switches its check off.
    """

    snr_flag: float = 5.0
    """Median of the object over the noise's standard deviation below which the scan is marked."""
    snr_hold: float = 2.5
    """The same, below which a person is asked."""
    contrast_flag: float = 1.0
    """Distance of the object's two main levels over the noise, below which no tissue is told from another."""
    ghost_flag: float = 0.025
    """Signal beside the object along one axis more than along the other, part of the object's, from which to mark."""
    ghost_hold: float = 0.12
    """The same, from which a person is asked."""
    wrap_flag: float = 0.08
    """Part of the border at which the object comes in from the opposite side."""
    zipper_flag: float = 15.0
    """Brightness of a line through the air, in standard deviations of all such lines."""
    edge_flag_px: float = 4.5
    """Width of the sharpest edges from which the image is blurred [pixels]."""

    def __post_init__(self) -> None:
        given = vars(self)
        wrong = [name for name, value in given.items() if not value >= 0]
        if wrong or self.snr_hold > self.snr_flag or 0 < self.ghost_hold < self.ghost_flag:
            raise ConfigError(
                "check.mri_quality",
                expected="limits of 0 or more; snr_hold below snr_flag, ghost_hold above ghost_flag",
                got=", ".join(f"{name}={value:g}" for name, value in given.items()),
            )

    def _judged(self) -> Iterator[Verdict]:
        planes = self._planes.middle
        if not planes:
            return
        n = max(_FEWEST, _PIXELS // max(planes[0].data.size, 1))
        chosen = planes[:: max(1, -(-len(planes) // n))]
        looked = [(plane, quality.parts(plane.data)) for plane in chosen]
        seen = [(plane, where) for plane, where in looked if where is not None and where.part > _LEAST_PART]
        if not seen:
            yield _nothing(len(looked))
            return
        yield from self._levels(seen)
        for verdict in (self._ghost(seen), self._wrap(seen), self._zipper(seen)):
            if verdict is not None:
                yield verdict

    def _levels(self, seen: Seen) -> Iterator[Verdict]:
        noise = [quality.noise_level(plane.data, where.inside) for plane, where in seen]
        known = [(s, plane, where) for s, (plane, where) in zip(noise, seen, strict=True) if s > 0]
        if known:
            snr = float(np.median([where.level / s for s, _, where in known]))
            cnr = float(np.median([quality.contrast(plane.data, where) / s for s, plane, where in known]))
            yield self._snr(snr, f"median of {len(known)} slices; noise by third differences inside the object")
            yield self._contrast(cnr)
        width = float(np.median([quality.edge_width(plane.data, where) for plane, where in seen]))
        yield self._sharpness(width)
        yield _measured(seen)

    def _snr(self, value: float, evidence: str) -> Verdict:
        level = Level.HOLD if value < self.snr_hold else Level.FLAG if value < self.snr_flag else Level.PASS
        return Verdict(
            check="quality.snr",
            level=level,
            advice="The signal is well above the noise."
            if level is Level.PASS
            else "The images are noisy: check that the right coil is plugged in and chosen, then repeat with more "
            "averages or larger voxels.",
            value=value,
            limit=self.snr_flag,
            evidence=evidence,
        )

    def _contrast(self, value: float) -> Verdict:
        low = value < self.contrast_flag
        return Verdict(
            check="quality.contrast",
            level=Level.FLAG if low else Level.PASS,
            advice="Tissues look alike within the noise: make sure that this is the contrast that was wanted."
            if low
            else "Tissues are told apart.",
            value=value,
            limit=self.contrast_flag,
            evidence="distance of the two main levels of the object over the noise",
        )

    def _sharpness(self, width: float) -> Verdict:
        blurred = 0 < self.edge_flag_px < width
        return Verdict(
            check="quality.sharpness",
            level=Level.FLAG if blurred else Level.PASS,
            advice="Edges are blurred: did the patient move? Repeat if small structures matter."
            if blurred
            else "Edges are sharp.",
            value=width,
            limit=self.edge_flag_px,
            unit="pixels",
            evidence="step over steepest slope at the steepest edges, of the more blurred axis",
        )

    def _ghost(self, seen: Seen) -> Verdict | None:
        found = [(ghost, plane) for plane, where in seen if (ghost := quality.ghosts(plane.data, where)) is not None]
        if not found or not self.ghost_flag:
            return None
        (value, axis), plane = max(found, key=lambda pair: pair[0][0])
        over = value > self.ghost_flag
        level = Level.HOLD if 0 < self.ghost_hold < value else Level.FLAG if over else Level.PASS
        return Verdict(
            check="quality.ghost",
            level=level,
            advice=f"Ghosts along the {_AXES[axis]} in {plane.name}: did the patient move, or do blood or eyes move "
            "there? Repeat if they cross what is looked for."
            if over
            else "No ghosts beside the object.",
            value=100 * value,
            limit=100 * self.ghost_flag,
            unit="%",
            evidence=f"air along {axis} against air along the other axis, {plane.name}, {len(found)} slices looked at",
        )

    def _wrap(self, seen: Seen) -> Verdict | None:
        if not self.wrap_flag:
            return None
        (value, axis), plane = max(((quality.wrapped(p.data, w), p) for p, w in seen), key=lambda pair: pair[0][0])
        over = value > self.wrap_flag
        return Verdict(
            check="quality.wrap",
            level=Level.FLAG if over else Level.PASS,
            advice=f"The object wraps around along the {_AXES[axis]} in {plane.name}: enlarge the field of view or add "
            "phase oversampling, and repeat if it covers what is looked for."
            if over
            else "Nothing wraps around.",
            value=100 * value,
            limit=100 * self.wrap_flag,
            unit="%",
            evidence=f"part of the border along {axis} that goes on at the opposite one",
        )

    def _zipper(self, seen: Seen) -> Verdict | None:
        if not self.zipper_flag:
            return None
        (value, axis, line), plane = max(((quality.zipper(p.data, w), p) for p, w in seen), key=lambda pair: pair[0][0])
        over = value > self.zipper_flag
        where = f"{'column' if axis == 'y' else 'row'} {line} of {plane.name}"
        return Verdict(
            check="quality.zipper",
            level=Level.FLAG if over else Level.PASS,
            advice=f"A line of interference at {where}: close the door, switch off devices in the room, and repeat."
            if over
            else "No line of interference.",
            value=value,
            limit=self.zipper_flag,
            unit="standard deviations",
            evidence=where if over else "",
        )


def _nothing(n: int) -> Verdict:
    return Verdict(
        check="quality.snr",
        level=Level.HOLD,
        advice="Nothing but noise is to be seen: check coil and position, and repeat.",
        value=0.0,
        evidence=f"no object in {n} slices",
    )


def _measured(seen: Seen) -> Verdict:
    """Return the measures that have no limit of their own: they depend on how much of the image is object."""
    efc = float(np.median([quality.entropy_focus(plane.data) for plane, _ in seen]))
    fber = float(np.median([quality.energy_ratio(plane.data, where) for plane, where in seen]))
    part = float(np.median([where.part for _, where in seen]))
    return Verdict(
        check="quality.entropy",
        level=Level.PASS,
        advice="How the energy of the image is spread: to be compared with the same protocol on other days.",
        value=efc,
        evidence=f"EFC {efc:.3f}, FBER {fber:.4g}, object in {100 * part:.0f} % of the slice",
    )
