"""Small virtual exams, and the plainest reconstruction there is, to hold others against."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acquisition.items import NOT_IMAGING, Flag, Readouts
from acquisition.scan import Scan
from acquisition.sources.phantom.exam import MriExam
from acquisition.sources.phantom.mri import Simulation

Frame = tuple[int, int, int]  # slice, contrast, repetition


def small_exam(**changes: Any) -> MriExam:
    """An exam of well under a second: 3 slices of 64 x 64, 4 coils, no noise."""
    fields = {"matrix": (3, 64, 64), "n_coils": 4, "snr": float("inf"), "n_noise": 0, "tr_s": 0.002}
    return MriExam(**(fields | changes))


def small_simulation(**changes: Any) -> Simulation:
    """The scanner that runs `small_exam`."""
    return Simulation(small_exam(**changes))


def assemble(scan: Scan, readouts: Iterable[Readouts]) -> dict[Frame, NDArray[np.complex64]]:
    """Sort readouts into k-space (coil, k2, k1, k0) by what header and counters say; averages are averaged.

    Lines that only calibrate are used where calibration is embedded. Unmeasured samples are zero.
    """
    encoding = scan.require_mr().encodings[0]
    n2, n1, n0 = encoding.matrix
    shifts = [n // 2 - encoding.limit(name).center for n, name in ((n2, "k2"), (n1, "k1"))]
    sums: dict[Frame, NDArray[np.complex64]] = {}
    counts: dict[Frame, NDArray[np.int64]] = {}
    skipped = NOT_IMAGING if encoding.calibration_mode == "embedded" else NOT_IMAGING | Flag.CALIBRATION
    for block in readouts:
        for head, data in zip(block.head, block.data, strict=True):
            if int(head["flags"]) & int(skipped):
                continue
            frame = (int(head["slice"]), int(head["contrast"]), int(head["repetition"]))
            space = sums.setdefault(frame, np.zeros((len(data), n2, n1, n0), np.complex64))
            count = counts.setdefault(frame, np.zeros((n2, n1), np.int64))
            k2, k1 = int(head["k2"]) + shifts[0], int(head["k1"]) + shifts[1]
            space[:, k2, k1] += data
            count[k2, k1] += 1
    return {frame: space / np.maximum(counts[frame], 1)[:, :, None] for frame, space in sums.items()}


def coil_images(kspace: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """Centred inverse transform of (coil, k2, k1, k0), readout oversampling of 2 cut off: (coil, z, y, x)."""
    axes = (-3, -2, -1)
    pixels = np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(kspace, axes), axes=axes), axes)
    nx = kspace.shape[-1] // 2
    first = nx - nx // 2  # keeps the phase origin at index nx // 2, for odd nx too
    return pixels[..., first : first + nx].astype(np.complex64)


def rss(images: NDArray[np.complex64]) -> NDArray[np.float32]:
    """Root sum of squares over coils."""
    return np.sqrt((np.abs(images) ** 2).sum(0)).astype(np.float32)


def nrmse(image: NDArray, reference: NDArray) -> float:
    """Root mean square difference over the root mean square of `reference`."""
    return float(np.linalg.norm(image - reference) / np.linalg.norm(reference))
