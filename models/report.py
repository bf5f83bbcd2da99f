"""What is said of a network's work: verdicts of its images, and of a scan whose images it was not used for."""

from __future__ import annotations

from acquisition.verdict import Level, Verdict
from models.card import Consistency
from models.consistency import Residual
from models.refuse import Refusal

_UNIT = "sd of noise"


def unchanged(check: str) -> Verdict:
    """Return the finding of strength 0."""
    return Verdict(check=check, level=Level.PASS, advice="Strength 0: this is the conventional image.", value=0.0)


def changed(check: str, found: Residual, limits: Consistency, source: str) -> Verdict:
    """Return the finding of an enhanced image; `source` says where the noise is known from."""
    advice, limit = "", limits.rms.flag_above
    if found.rms > limits.rms.flag_above or found.peak > limits.peak.flag_above:
        advice = "The network changed more than usual: compare with the conventional image."
    elif found.rms < limits.rms.flag_below or found.peak < limits.peak.flag_below:
        advice = "The network found less noise than it was told of: check dose, noise scan and matrix."
        limit = limits.rms.flag_below
    return Verdict(
        check=check,
        level=Level.FLAG if advice else Level.PASS,
        advice=advice or "The network changed no more than the noise explains.",
        value=found.rms,
        limit=limit,
        unit=_UNIT,
        evidence=f"largest block {found.peak:.2f} (flag above {limits.peak.flag_above:g}); noise from {source}",
    )


def too_much(found: Residual, limits: Consistency) -> Refusal | None:
    """Return why an enhanced image must not go out, None where it may."""
    figures = (("in all", found.rms, limits.rms), ("in one place", found.peak, limits.peak))
    for where, value, bound in figures:
        if not value <= bound.refuse_above:
            told = f"the network changed more than the noise explains {where} ({value:.2f})"
            return Refusal("consistency", told, value, bound.refuse_above, _UNIT)
    return None


def late(check: str, seconds: float) -> Verdict:
    """Return the finding of an image that had to wait for the network to be made ready."""
    return Verdict(
        check=f"{check}.prepare",
        level=Level.FLAG,
        advice="The image had another matrix than the scan's header said: the network was made ready late.",
        value=seconds,
        unit="s",
    )


def refused(check: str, refusal: Refusal, n: int, total: int) -> Verdict:
    """Return the finding of a scan: `n` of `total` images stayed conventional."""
    return Verdict(
        check=f"{check}.{refusal.cause}",
        level=Level.FLAG,
        advice=f"{n} of {total} images were not enhanced: {refusal.told}. The conventional images are complete.",
        value=refusal.value,
        limit=refusal.limit,
        unit=refusal.unit,
    )
