"""The gate: which images may leave, judged by their verdicts.

The conventional image always leaves, marked: radiologists must be able to look for themselves. Any other result
(a network's, a map) that a check holds back stays here, and a verdict of the scan says so.
"""

from __future__ import annotations

from collections import Counter

from acquisition.items import Image
from acquisition.verdict import Level, Verdict, worst

CONVENTIONAL = "conventional"
"""Output name of the image that is made without any network."""


class Gate:
    """Lets images of one scan through, and counts those it keeps."""

    def __init__(self) -> None:
        self._held: Counter[str] = Counter()

    def passes(self, image: Image) -> bool:
        """Return whether `image` may go out."""
        if image.output == CONVENTIONAL or worst(image.verdicts) is not Level.HOLD:
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
