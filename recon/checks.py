"""Is what was made an image at all?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from acquisition.errors import ConfigError, ReconError
from acquisition.items import Image, Item
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict

_FEW = 16  # so many pixels may share the largest value by chance


@dataclass(kw_only=True)
class CheckImage:
    """Refuse what is not an image, and hold back what looks cut off.

    An image that is empty, all zero, or holds NaN or infinite values is an error, never an image. Many pixels at
    exactly the largest value mean that something was clipped.
    """

    saturated_above: float = 0.001
    """Part of the pixels at the largest value from which a person is asked."""

    def __post_init__(self) -> None:
        if not 0 < self.saturated_above <= 1:
            raise ConfigError(
                "check.image saturated_above", expected="a number above 0, at most 1", got=str(self.saturated_above)
            )

    def open(self, scan: Scan) -> None:
        """Remember the scan for messages."""
        self._uid = scan.uid

    def feed(self, item: Item) -> Iterator[Item]:
        """Check images; everything else passes.

        Raises
        ------
        ReconError
            The image is empty, all zero or not finite.
        """
        yield item.with_verdicts(self._checked(item)) if isinstance(item, Image) else item

    def close(self) -> Iterator[Item]:
        """Nothing is left to do."""
        return iter(())

    def _checked(self, image: Image) -> Verdict:
        where = f"scan {self._uid}: image {image.output}, slice {image.position.slice}"
        values = np.abs(image.data)
        if not np.isfinite(values).all():
            n = int((~np.isfinite(values)).sum())
            raise ReconError(where, expected="finite pixels", got=f"{n} NaN or infinite", action="check the raw data")
        if values.size == 0 or not values.any():
            raise ReconError(where, expected="an image", got="only zeros", action="check coil and raw data")
        largest = values.max()
        n = int((values == largest).sum())
        part = n / values.size
        saturated = n > _FEW and part > self.saturated_above
        return Verdict(
            check="check.image",
            level=Level.HOLD if saturated else Level.PASS,
            advice="Many pixels share the largest value: the image looks clipped." if saturated else "A proper image.",
            value=100 * part,
            limit=100 * self.saturated_above,
            unit="%",
            evidence=f"{n} of {values.size} pixels at the largest value {float(largest):.4g}",
        )
