"""When is a frame complete, and what is missing when it is not?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from acquisition.verdict import Level, Verdict
from recon.mri.buffers import FrameBuffer
from recon.mri.pattern import as_ranges, central_run, detect, measured_lines
from recon.mri.space import Space

_SHUTTER = 0.95  # beyond this part of the half axes an elliptical 3D scan leaves corners out


def is_complete(frame: FrameBuffer, place: dict[str, int], space: Space, *, referenced: bool) -> bool:
    """Return whether the line at `place` was the last one that the header promises.

    Without undersampling that is certain. With it, the pattern must have been completed by this very line and
    calibration lines must be there already: those that are measured after the image end with a flag or on close.

    Parameters
    ----------
    frame
        The frame, `place` included.
    place
        Matrix index of the line that just came (k2, k1, average).
    space
        Its encoding space.
    referenced
        A calibration scan of its own was measured for this slice.
    """
    lines = np.asarray(space.y.indices)
    residue = place["k1"] % frame.acceleration
    per_line = len(space.z.indices) * frame.n_averages
    if frame.per_residue[residue] != int(np.count_nonzero(lines % frame.acceleration == residue)) * per_line:
        return False
    pattern = detect(measured_lines(frame.counts), frame.acceleration)
    if pattern is None or pattern.acceleration == 1:
        return int(frame.per_residue.sum()) == len(lines) * per_line
    return referenced or _n_calibration(frame, space) > 3 * frame.acceleration


def _n_calibration(frame: FrameBuffer, space: Space) -> int:
    first, last = central_run(frame.counts[space.z.encoded // 2] > 0, space.y.encoded // 2)
    return last - first


def frame_verdicts(frame: FrameBuffer, space: Space) -> tuple[Verdict, ...]:
    """Say which lines of a frame are missing, double, or short of averages; nothing when all is well."""
    return (*_missing(frame, space), *_double(frame, space))


def _missing(frame: FrameBuffer, space: Space) -> tuple[Verdict, ...]:
    measured = frame.counts > 0
    pattern = detect(measured_lines(frame.counts), frame.acceleration)
    if pattern is None:
        advice = "The measured lines follow no regular pattern from 1 to 4: the image may be aliased."
        lines = as_ranges(np.flatnonzero(measured_lines(frame.counts)) - space.y.shift)
        return (Verdict(check="mri.lines", level=Level.FLAG, advice=advice, evidence=f"measured k1 {lines}"),)
    expected = np.zeros(measured.shape, bool)
    k1 = np.asarray(space.y.indices)
    expected[np.ix_(space.z.indices, k1[k1 % pattern.acceleration == pattern.offset])] = True
    if space.is_3d and measured[(corners := ~_inside_ellipse(space)) & expected].mean() < 0.5:
        expected &= ~corners
    n_seen = frame.seen[: frame.n_averages].sum(axis=0)
    lost, short = expected & ~measured, expected & measured & (n_seen < frame.n_averages)
    return (
        *_lines_verdict(lost, space, "are missing (zero in the image)"),
        *_lines_verdict(short, space, "lack averages"),
    )


def _lines_verdict(lines: NDArray[np.bool_], space: Space, what: str) -> tuple[Verdict, ...]:
    n = int(np.count_nonzero(lines))
    if n == 0:
        return ()
    evidence = f"k1 {as_ranges(np.flatnonzero(lines.any(axis=0)) - space.y.shift)}"
    if space.is_3d:
        evidence += f", k2 {as_ranges(np.flatnonzero(lines.any(axis=1)) - space.z.shift)}"
    return (
        Verdict(
            check="mri.lines",
            level=Level.FLAG,
            advice=f"{n} lines of k-space {what}: look for artefacts.",
            value=float(n),
            limit=0.0,
            evidence=evidence,
        ),
    )


def _double(frame: FrameBuffer, space: Space) -> tuple[Verdict, ...]:
    if not frame.duplicates:
        return ()
    return (
        Verdict(
            check="mri.lines",
            level=Level.FLAG,
            advice=f"{len(frame.duplicates)} lines came twice with the same counters and were averaged.",
            value=float(len(frame.duplicates)),
            limit=0.0,
            evidence=f"k1 {as_ranges(np.unique(frame.duplicates) - space.y.shift)}",
        ),
    )


def _inside_ellipse(space: Space) -> NDArray[np.bool_]:
    z = (np.arange(space.z.encoded) - space.z.encoded // 2) / (space.z.encoded / 2)
    y = (np.arange(space.y.encoded) - space.y.encoded // 2) / (space.y.encoded / 2)
    return z[:, None] ** 2 + y[None, :] ** 2 <= _SHUTTER**2
