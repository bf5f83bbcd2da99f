"""How much a message may claim, checked before memory is taken.

An acquisition header alone can claim 65535 x 65535 samples of 8 bytes, 32 GiB; a text 4 GiB; image attributes 16 EiB.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from acquisition.errors import LimitError
from acquisition.scan import Scan

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLimits:
    """Largest sizes that a stream may claim."""

    text_bytes: int = 1 * MIB
    """Config text or text [bytes]."""
    header_bytes: int = 16 * MIB
    """Scan header [bytes]."""
    coils: int = 1024
    """Receiver channels of one readout; the MRD channel mask has as many bits."""
    samples: int = 65535
    """Samples of one readout."""
    trajectory_dims: int = 16
    """Numbers per sample in a trajectory."""
    readout_bytes: int = 256 * MIB
    """Samples and trajectory of one readout [bytes]."""
    waveform_bytes: int = 64 * MIB
    """Samples of one waveform [bytes]."""
    image_bytes: int = 1024 * MIB
    """Voxels of one image [bytes]."""
    attribute_bytes: int = 4 * MIB
    """Attributes of one image [bytes]."""

    def for_scan(self, scan: Scan) -> Self:
        """Return these limits, narrowed generously to what `scan`'s header leads to expect.

        Four times the coils and at least 128; 64 times the longest encoded readout and at least 16384
        samples, because a spiral or a noise readout is longer than the matrix.
        """
        coils, samples = self.coils, self.samples
        if scan.equipment.n_coils is not None:
            coils = min(coils, max(128, 4 * scan.equipment.n_coils))
        if scan.mr is not None:
            samples = min(samples, max(16384, 64 * max(e.matrix[2] for e in scan.mr.encodings)))
        readout = min(self.readout_bytes, coils * samples * 8 + samples * self.trajectory_dims * 4)
        return replace(self, coils=coils, samples=samples, readout_bytes=readout)


def check_claim(where: str, claim: int, *, limit: int, unit: str, detail: str = "") -> None:
    """Refuse a claim above its limit.

    Raises
    ------
    LimitError
        It is above; the message names claim and limit.
    """
    if claim > limit:
        raise LimitError(
            where,
            expected=f"at most {_amount(limit, unit)}",
            got=f"a claim of {_amount(claim, unit)}{detail and f' ({detail})'}",
            action="check the sender; raise the limit only if this is what the scanner really sends",
        )


def _amount(value: int, unit: str) -> str:
    if unit != "bytes" or value < MIB:
        return f"{value} {unit}"
    return (
        f"{value} bytes ({value / MIB:.0f} MiB)"
        if value < 1024 * MIB
        else f"{value} bytes ({value / MIB / 1024:.1f} GiB)"
    )
