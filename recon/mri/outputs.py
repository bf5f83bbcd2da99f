"""One complex image, several results: magnitude, phase, real and imaginary part, each its own series."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import ConfigError
from acquisition.items import Image, Item, Kind
from acquisition.scan import Scan

KINDS: dict[str, Kind] = {
    "magnitude": Kind.MAGNITUDE,
    "phase": Kind.PHASE,
    "real": Kind.REAL,
    "imaginary": Kind.IMAGINARY,
}


@dataclass(kw_only=True)
class Outputs:
    """Split complex images (`mri.combine` with ``kind: complex``); the magnitude is the conventional image."""

    kinds: tuple[str, ...] = ("magnitude", "phase")
    """magnitude, phase [rad], real, imaginary; the magnitude is always among them."""

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or "magnitude" not in self.kinds:
            expected = f"magnitude and any of {', '.join(KINDS)}"
            raise ConfigError("image.outputs kinds", expected=expected, got=str(self.kinds))

    def open(self, scan: Scan) -> None:
        """Nothing to prepare."""

    def feed(self, item: Item) -> Iterator[Item]:
        """Split complex images; other items pass."""
        if not isinstance(item, Image) or item.kind is not Kind.COMPLEX:
            yield item
            return
        for kind in self.kinds:
            yield component(item, kind)

    def close(self) -> Iterator[Item]:
        """Nothing is left to do."""
        return iter(())


def component(image: Image, kind: str) -> Image:
    """Return one component of a complex image; the magnitude keeps its output's name."""
    parts: dict[str, Callable[[NDArray], NDArray]] = {
        "magnitude": np.abs,
        "phase": np.angle,
        "real": np.real,
        "imaginary": np.imag,
    }
    return replace(
        image,
        data=parts[kind](image.data).astype(np.float32),
        kind=KINDS[kind],
        output=image.output if kind == "magnitude" else kind,
        unit="rad" if kind == "phase" else image.unit,
    )
