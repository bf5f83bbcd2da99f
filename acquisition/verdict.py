"""What a check found, in a form that a technologist and a program can both act on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How far to trust the result; the order is the order of severity."""

    PASS = "PASS"
    FLAG = "FLAG"
    """Send, marked: look before you rely on it."""
    HOLD = "HOLD"
    """Ask a person first."""


_SEVERITY = {Level.PASS: 0, Level.FLAG: 1, Level.HOLD: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One check's finding. It travels with the image it speaks of."""

    check: str
    """Stable dotted name, e.g. ``mri.noise``."""
    level: Level
    """PASS, FLAG or HOLD."""
    advice: str
    """One sentence for the technologist: what was found and what to do."""
    value: float | None = None
    """The measured value, in ``unit``."""
    limit: float | None = None
    """The limit it was held against, in ``unit``."""
    unit: str = ""
    """Unit of ``value`` and ``limit``."""
    evidence: str = ""
    """What a physicist needs to reproduce the finding (which line, which coil, how much)."""

    def as_dict(self) -> dict[str, str | float | None]:
        """Return a JSON-ready mapping of all fields."""
        return {
            "check": self.check,
            "level": self.level.value,
            "advice": self.advice,
            "value": self.value,
            "limit": self.limit,
            "unit": self.unit,
            "evidence": self.evidence,
        }


def worst(verdicts: Iterable[Verdict]) -> Level:
    """Return the most severe level among `verdicts`; PASS when there is none."""
    return max((v.level for v in verdicts), key=_SEVERITY.__getitem__, default=Level.PASS)
