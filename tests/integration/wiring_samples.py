"""What the tests of the wiring share: raw files of virtual scans, and Steps made for a test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from acquisition.items import Image, Item
from acquisition.scan import Scan
from acquisition.sources.mrd_file import write
from acquisition.verdict import Level, Verdict
from tests.phantoms import small_simulation


@dataclass(kw_only=True)
class Needy:
    """A Step with a parameter that has no default."""

    threshold: float
    """Above it something happens."""

    def open(self, scan: Scan) -> None:
        """Nothing."""

    def feed(self, item: Item) -> Iterator[Item]:
        """Pass on."""
        yield item

    def close(self) -> Iterator[Item]:
        """Nothing."""
        return iter(())


@dataclass(kw_only=True)
class Doubter:
    """Adds to each image a second one, `smooth`, that a check holds back; and holds back the first as well."""

    def open(self, scan: Scan) -> None:
        """Nothing."""

    def feed(self, item: Item) -> Iterator[Item]:
        """Doubt images."""
        if isinstance(item, Image):
            hold = Verdict(check="test.doubt", level=Level.HOLD, advice="Do not believe this.")
            yield item.with_verdicts(hold)
            yield replace(item, output="smooth").with_verdicts(hold)
            yield replace(item, output="sharp")
        else:
            yield item

    def close(self) -> Iterator[Item]:
        """Say something about the scan."""
        yield Verdict(check="test.scan", level=Level.FLAG, advice="A scan like any other.")


def raw_file(path: Path, **changes: Any) -> Path:
    """Write a small virtual exam as ISMRMRD HDF5."""
    simulation = small_simulation(**changes)
    write(path, simulation.scan, items=simulation.readouts(block=32))
    return path
