"""Interfile sinograms of prompts as raw data: every bin becomes its lines of response, with how often they counted.

Where rings or views were summed, the counts of a bin are shared evenly among its lines. Randoms must not have been
subtracted, nor anything been corrected: bins below 0 are refused. Time-of-flight bins are taken to grow from the first
detector to the second; the format does not say so, hence a FLAG.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import DataError
from acquisition.items import Histogram
from acquisition.pet_sinogram import crystal_pairs
from acquisition.scan import Patient, Scan
from acquisition.sources.interfile_header import Header, read_header
from acquisition.sources.interfile_sinogram import Sinogram, SinogramLayout, layout_of, read_sinogram
from acquisition.sources.mrd_raw import RawFile, RawItem
from acquisition.verdict import Level, Verdict

_POSITIONS = {
    ("head_in", "supine"): "HFS",
    ("head_in", "prone"): "HFP",
    ("feet_in", "supine"): "FFS",
    ("feet_in", "prone"): "FFP",
}
_PARTS = 32  # in which a line is told at most: as many subsets get a fair part
_UNSURE = Verdict(
    check="pet.tof_direction",
    level=Level.FLAG,
    advice="The file does not say which way its time-of-flight bins are counted: check that the image is no blur.",
)


def read_counts(path: Path) -> RawFile:
    """Open a sinogram of prompts by its header.

    Raises
    ------
    FileFormatError, HeaderError
        As `read_sinogram`.
    """
    header = read_header(path)
    layout = layout_of(header)
    digest = hashlib.sha256(header.text.encode()).hexdigest()
    where = tuple(header.word(f"patient {key}", "unknown").lower() for key in ("orientation", "rotation"))
    scan = Scan(
        uid=f"interfile-{digest[:16]}",
        modality="PT",
        patient=Patient(position=_POSITIONS.get((where[0], where[1]))),
        pet=layout.pet,
        header=header.text,
        verdicts=(_UNSURE,) if layout.pet.n_tof > 1 else (),
    )

    def items() -> Iterator[RawItem]:
        yield histogram(read_sinogram(path), _span(header))

    return RawFile(path=path, format="Interfile sinogram", scan=scan, source=items)


def histogram(sinogram: Sinogram, span_s: tuple[float, float]) -> Histogram:
    """Return the lines of a sinogram of prompts that counted, so that every n-th are a fair part of all.

    Lines are in no order, and one that counted often is told in several parts, which fall into different subsets.

    Parameters
    ----------
    sinogram
        Counts.
    span_s
        Begin and end of the time that they were counted in [s].

    Raises
    ------
    DataError
        A bin is below 0 or no number.
    """
    parts = [
        _lines(sinogram.layout, segment, axial, counts[:, axial])
        for segment, counts in enumerate(sinogram.segments)
        for axial in range(counts.shape[1])
    ]
    pairs, bins, counts = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.random.default_rng(1).permutation(len(counts))
    times = np.clip(np.ceil(counts[order]), 1, _PARTS).astype(np.int64)
    order = np.repeat(order, times)
    return Histogram(
        start_s=span_s[0],
        stop_s=span_s[1],
        prompts=pairs[order],
        counts=(counts[order] / np.repeat(times, times)).astype(np.float32),
        tof=bins[order] if sinogram.layout.pet.n_tof > 1 else None,
    )


def _lines(
    layout: SinogramLayout, segment: int, axial: int, counts: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.int16], NDArray[np.float32]]:
    """Return lines, time-of-flight bins and counts of one axial position (tof, view, bin)."""
    if not np.isfinite(counts).all() or counts.min(initial=0.0) < 0:
        raise DataError(
            f"sinogram segment {segment}, axial position {axial}",
            expected="counts of 0 or more",
            got="a bin below 0, or no number",
            action="name the prompts, from which nothing was subtracted",
        )
    n = layout.pet.n_crystals
    rings, summed = layout.rings(segment, axial), n // 2 // layout.n_views
    tof, view, bin_ = np.nonzero(counts)
    if not len(rings) or not len(tof):
        return np.zeros((0, 2), np.int32), np.zeros(0, np.int16), np.zeros(0, np.float32)
    crystals = crystal_pairs(n, n // 2, layout.n_bins).reshape(layout.n_views, summed, layout.n_bins, 2)
    pairs = (rings[:, None, None] * n + crystals[view, :, bin_][None]).reshape(-1, 2)
    share = counts[tof, view, bin_] / np.float32(len(rings) * summed)
    many = (len(rings), len(tof), summed)
    return (
        np.ascontiguousarray(pairs, np.int32),
        np.broadcast_to(tof[None, :, None], many).ravel().astype(np.int16),
        np.broadcast_to(share[None, :, None], many).ravel().astype(np.float32),
    )


def _span(header: Header) -> tuple[float, float]:
    """Return begin and end of the first frame [s]; one second where the header does not tell."""
    start = header.number("image relative start time (sec)", 0.0, index=1)
    length = header.number("image duration (sec)", 1.0, index=1)
    if length <= 0:
        raise header.wrong("image duration (sec)", "more than 0", f"{length:g}", index=1)
    return start, start + length
