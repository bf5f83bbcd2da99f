"""When a network is not used: the scan or the image is not what its card covers. One sentence says why.

A value that the card limits and the scanner does not tell is a reason as well: what is not known is not covered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from acquisition.items import Image
from acquisition.scan import Scan
from models.card import ANY, Card
from models.noise import snr
from models.ood import REGIONS, Statistics, features


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the network was not used."""

    cause: str
    """Stable word: modality, anatomy, sequence, range.snr ..., unit, kind, shape, nan, empty,
    ood, consistency, gfactor, engine, late, setup."""
    told: str
    """For the technologist, after "images were not enhanced:"."""
    value: float | None = None
    """What was found."""
    limit: float | None = None
    """What the card allows."""
    unit: str = ""
    """Of both."""


HEADER: Mapping[str, tuple[str, str, Callable[[Scan], float | None]]] = {
    "acceleration": ("acceleration", "", lambda scan: _acceleration(scan)),
    "field_strength_t": ("field strength", "T", lambda scan: scan.equipment.field_strength_t),
    "ctdi_mgy": ("CTDIvol", "mGy", lambda scan: scan.ct.ctdi_vol_mgy if scan.ct else None),
    "kvp": ("tube voltage", "kV", lambda scan: scan.ct.kvp if scan.ct else None),
    "activity_mbq": ("injected activity", "MBq", lambda scan: _activity(scan)),
}
"""Quantities that a scan's header tells: name in the card -> what it is called, unit, where it stands."""


def by_header(card: Card, scan: Scan, *, body_part: str) -> Refusal | None:
    """Return why a whole scan is not covered, None where it is.

    Parameters
    ----------
    card, scan
        What is covered, and what comes.
    body_part
        Taken where the scan names none.
    """
    if scan.modality != card.modality:
        return Refusal("modality", f"the network is for {card.modality}, the scan is {scan.modality}")
    return _anatomy(card, scan, body_part) or _sequence(card, scan) or _header_ranges(card, scan)


def by_image(card: Card, image: Image, noise: float, statistics: Statistics) -> Refusal | None:
    """Return why an image is not covered, None where it is; `noise` is its standard deviation."""
    if image.unit not in card.input.units:
        return Refusal("unit", f"its unit is {image.unit}, the network is for {' or '.join(card.input.units)}")
    if image.kind not in card.input.kinds:
        return Refusal("kind", f"it is a {image.kind} image, the network is for {' or '.join(card.input.kinds)}")
    if image.data.size != np.prod(image.grid.shape):
        return Refusal("shape", f"it is no single frame: {image.data.shape} on a grid {image.grid.shape}")
    if image.grid.shape[0] < card.input.dimensions - 1:
        return Refusal("shape", "it is a single slice, and the network is for volumes")
    if not np.isfinite(image.data).all():
        broken = int((~np.isfinite(image.data)).sum())
        return Refusal("nan", "it has pixels that are no numbers", float(broken), 0.0, "pixels")
    if not image.data.any() or noise <= 0:
        return Refusal("empty", "it shows nothing: its pixels are all 0, or without any noise")
    return _image_ranges(card, image, noise) or _foreign(card, image, noise, statistics)


def _anatomy(card: Card, scan: Scan, body_part: str) -> Refusal | None:
    if ANY in card.anatomy:
        return None
    part = (scan.study.body_part or body_part).strip().upper()
    if part in card.anatomy:
        return None
    got = f"the scan shows {part}" if part else "the scan does not say what it shows"
    return Refusal("anatomy", f"the network is for {', '.join(card.anatomy)}, and {got}")


def _sequence(card: Card, scan: Scan) -> Refusal | None:
    told = " ".join(t for t in (scan.protocol_name, scan.mr and scan.mr.sequence_type) if t)
    if not card.sequences or any(re.search(pattern, told, re.IGNORECASE) for pattern in card.sequences):
        return None
    return Refusal(
        "sequence", f"the network is for sequences like {', '.join(card.sequences)}, not {told or 'unnamed'}"
    )


def _header_ranges(card: Card, scan: Scan) -> Refusal | None:
    for name, (words, unit, read) in HEADER.items():
        limits = getattr(card.input.ranges, name)
        if limits is None:
            continue
        if (value := read(scan)) is None:
            return Refusal(
                f"range.{name}", f"the scan does not tell its {words}, and the network needs {_span(limits)}"
            )
        if refusal := _outside(name, words, unit, value, limits):
            return refusal
    return None


def _image_ranges(card: Card, image: Image, noise: float) -> Refusal | None:
    ranges, (_, y_mm, x_mm) = card.input.ranges, image.grid.spacing_mm
    found = (
        ("snr", "signal-to-noise ratio", "", snr(image.data, noise)),
        ("noise", "noise", image.unit, noise),
        ("voxel_mm", "voxel size", "mm", y_mm),
        ("voxel_mm", "voxel size", "mm", x_mm),
        ("slice_mm", "slice thickness", "mm", image.grid.thickness_mm),
    )
    for name, words, unit, value in found:
        limits = getattr(ranges, name)
        if limits is not None and (refusal := _outside(name, words, unit, value, limits)):
            return refusal
    return None


def _foreign(card: Card, image: Image, noise: float, statistics: Statistics) -> Refusal | None:
    figures = features(REGIONS[card.input.figures](image.data), noise)
    score = statistics.score(figures)
    if score <= card.ood.threshold:
        return None
    told = f"it is unlike the images the network has learnt from ({statistics.strangest(figures)})"
    return Refusal("ood", told, score, card.ood.threshold)


def _outside(name: str, words: str, unit: str, value: float, limits: tuple[float, float]) -> Refusal | None:
    low, high = limits
    slack = 1e-4 * abs(value)  # headers hold single precision
    if low - slack <= value <= high + slack:
        return None
    told = f"its {words} is {value:.3g} {unit}".rstrip() + f", the network was trained on {_span(limits)}"
    return Refusal(f"range.{name}", told, value, low if value < low else high, unit)


def _span(limits: tuple[float, float]) -> str:
    return f"{limits[0]:g} to {limits[1]:g}"


def _acceleration(scan: Scan) -> float | None:
    return float(np.prod(scan.mr.encodings[0].acceleration)) if scan.mr and scan.mr.encodings else None


def _activity(scan: Scan) -> float | None:
    tracer = scan.pet.tracer if scan.pet else None
    return tracer.dose_bq / 1e6 if tracer and tracer.dose_bq is not None else None
