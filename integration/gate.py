"""The gate: what the checks of a scan come to, and which images may leave.

PASS: send. FLAG: send, marked in each image. HOLD: ask a person. The conventional image always leaves, marked:
radiologists must be able to look for themselves. Any other result (a network's, a map) that a check holds back stays
here until a person says `accept`, whose word is the last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from acquisition.items import Image
from acquisition.verdict import Level, Verdict, worst

CONVENTIONAL = "conventional"
"""Output name of the image that is made without any network."""

_WORDS = {
    Level.PASS: "Usable: nothing was found.",
    Level.FLAG: "Usable, but look first:",
    Level.HOLD: "Is this series to be repeated? A person decides:",
}


def holds(image: Image) -> bool:
    """Return whether `image` waits for a person's word."""
    return image.output != CONVENTIONAL and worst(image.verdicts) is Level.HOLD


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What all findings of one scan come to."""

    level: Level
    """PASS: send; FLAG: send, marked; HOLD: ask a person."""
    reasons: tuple[Verdict, ...] = ()
    """What was not PASS, the most severe first, each check once."""

    @property
    def text(self) -> str:
        """Return the decision in words."""
        return " ".join((_WORDS[self.level], *(verdict.advice for verdict in self.reasons)))

    def as_dict(self) -> dict[str, object]:
        """Return a JSON-ready mapping."""
        return {"level": self.level.value, "text": self.text, "checks": [v.check for v in self.reasons]}


def decide(verdicts: Iterable[Verdict]) -> Decision:
    """Return what `verdicts` come to: the most severe decides, none makes up for another."""
    found = Findings(verdicts).worst()
    severe = [v for level in (Level.HOLD, Level.FLAG) for v in found if v.level is level]
    return Decision(level=worst(severe), reasons=tuple(severe))


class Findings:
    """The most severe finding of each check, however many images say it.

    Parameters
    ----------
    verdicts
        Those to begin with.
    """

    def __init__(self, verdicts: Iterable[Verdict] = ()) -> None:
        self._found: dict[str, Verdict] = {}
        self._times: Counter[tuple[str, Level]] = Counter()
        self.add(verdicts)

    def add(self, verdicts: Iterable[Verdict]) -> None:
        """Note findings; of each check the one farthest from its limit stands for the others of its level."""
        for verdict in verdicts:
            self._times[verdict.check, verdict.level] += 1
            before = self._found.get(verdict.check)
            if before is None or _graver(verdict, before):
                self._found[verdict.check] = verdict

    def worst(self) -> list[Verdict]:
        """Return the most severe finding of each check, in the order in which the checks spoke first."""
        return [self._counted(verdict) for verdict in self._found.values()]

    def _counted(self, verdict: Verdict) -> Verdict:
        times = self._times[verdict.check, verdict.level]
        if times == 1 or verdict.level is Level.PASS:
            return verdict
        return replace(verdict, evidence="; ".join(filter(None, (verdict.evidence, f"the worst of {times} findings"))))


def _graver(verdict: Verdict, before: Verdict) -> bool:
    if verdict.level is not before.level:
        return worst((verdict, before)) is verdict.level
    return _excess(verdict) > _excess(before)


def _excess(verdict: Verdict) -> float:
    """Return how far a value lies from its limit, as a part of it."""
    if verdict.value is None or not verdict.limit:
        return 0.0
    return abs(verdict.value / verdict.limit - 1)


class Gate:
    """Lets images of one scan through, and counts those that wait."""

    def __init__(self) -> None:
        self._held: Counter[str] = Counter()

    def passes(self, image: Image) -> bool:
        """Return whether `image` may go out now."""
        if not holds(image):
            return True
        self._held[image.output] += 1
        return False

    def verdicts(self) -> list[Verdict]:
        """Return one finding per output that was held back."""
        return [
            Verdict(
                check="gate.held",
                level=Level.FLAG,
                advice=f"{n} images of {output} were not sent because a check held them; the conventional ones were.",
                value=float(n),
                unit="images",
            )
            for output, n in self._held.items()
        ]
