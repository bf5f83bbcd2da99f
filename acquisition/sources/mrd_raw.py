"""A file of raw data: its scan at once, its items when asked for, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from acquisition.errors import FileFormatError
from acquisition.items import Events, Histogram, Image, Projections, Readouts, Waveform
from acquisition.scan import Scan

RawItem = Readouts | Projections | Events | Histogram | Waveform | Image
"""What a file of raw data holds."""

BLOCK_BYTES = 4 << 20
"""Samples of one block handed out, about [bytes]; a single readout may be larger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawFile:
    """An opened file of raw data."""

    path: Path
    """Where it is."""
    format: str
    """What it is, in words."""
    scan: Scan
    """Its header."""
    config: str | None = None
    """The protocol that a recorded stream asked for."""
    source: Callable[[], Iterator[RawItem]]
    """Opens the file and gives its items."""

    def items(self) -> Iterator[RawItem]:
        """Yield blocks of readouts or views of equal shape or of events, waveforms and images; each call starts anew.

        Raises
        ------
        FileFormatError
            The file is damaged; what was read before is good.
        """
        return self.source()


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn what a damaged file makes its library raise into one error that names the file.

    Raises
    ------
    FileFormatError
        The file cannot be read.
    """
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, MemoryError) as error:
        raise FileFormatError(
            f"file {path.name}",
            expected=f"a readable {what}",
            got=f"{type(error).__name__}: {error}"[:300],
            action="copy or convert the file again",
        ) from error
