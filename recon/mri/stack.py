"""Stacks of stars or spirals: the same trajectory in every partition, phase encoding between them.

A Fourier transform along the partitions makes planes of it, each with the samples of a single slice (Peters et al.,
Magn Reson Med 2000;43:91, DOI 10.1002/(SICI)1522-2594(200001)43:1<91::AID-MRM11>3.0.CO;2-4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from acquisition.errors import DataError
from acquisition.scan import Encoding, Limits
from acquisition.verdict import Level, Verdict
from kernels.registry import kernel
from recon.mri.items import FrameKey
from recon.mri.spokes import Spokes

_SAME = 0.05
"""Largest distance of samples that count as the same place [cycles per field of view]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """The planes of one frame, from the first to the last along the slice direction."""

    planes: tuple[Spokes, ...]
    """Samples of each plane; one trajectory for all."""

    @property
    def key(self) -> FrameKey:
        """Which frame it is."""
        return self.planes[0].key


def is_stack(encoding: Encoding, dims: int) -> bool:
    """Return whether readouts with coordinates in a plane belong to a volume."""
    return encoding.matrix[0] > 1 and dims == 2


def unstacked(spokes: Spokes, k2: NDArray[np.uint16]) -> Stack | Spokes:
    """Transform the partitions of a frame into planes.

    Where the partitions do not share one trajectory (turned from partition to partition), the samples are given
    their third coordinate instead, for a transform in three dimensions.

    Parameters
    ----------
    spokes
        All readouts of the frame; trajectory (readout, sample, 2).
    k2
        Partition counter of each readout.

    Raises
    ------
    DataError
        A counter lies outside the encoded partitions.
    """
    encoding = spokes.space.encoding
    partition = _partitions(encoding, k2)
    rows = [np.flatnonzero(partition == p) for p in range(encoding.matrix[0])]
    measured = [r for r in rows if len(r)]
    if not _alike(spokes.traj, measured):
        return _with_depth(spokes, partition - encoding.matrix[0] // 2)
    n = len(measured[0])
    kspace = np.zeros((len(rows), n, *spokes.data.shape[1:]), np.complex64)
    for p, r in enumerate(rows):
        if len(r):
            kspace[p] = spokes.data[r]
    planes = _transformed(torch.from_numpy(kspace), spokes)
    part = {"traj": spokes.traj[measured[0]], "verdicts": (*spokes.verdicts, *_missing(rows))}
    notes = {**spokes.notes, "stack": f"{len(measured)} of {len(rows)} partitions, {n} readouts each"}
    return Stack(planes=tuple(replace(spokes, data=plane, notes=notes, **part) for plane in planes))  # type: ignore[arg-type]


def _partitions(encoding: Encoding, k2: NDArray[np.uint16]) -> NDArray[np.intp]:
    """Return each readout's index in the encoded matrix."""
    n = encoding.matrix[0]
    centre = encoding.limits.get("k2", Limits(0, n - 1, n // 2)).center
    partition = k2.astype(np.intp) + n // 2 - centre
    if partition.min() < 0 or partition.max() >= n:
        raise DataError(
            "readout k2",
            expected=f"{centre - n // 2} to {centre - n // 2 + n - 1}",
            got=f"{k2.min()} to {k2.max()}",
            action="correct encodedSpace.matrixSize.z or the limits of kspace_encoding_step_2",
        )
    return partition


def _alike(traj: NDArray[np.float32], rows: Sequence[NDArray[np.intp]]) -> bool:
    first = traj[rows[0]]
    return all(len(r) == len(first) and float(np.abs(traj[r] - first).max()) < _SAME for r in rows[1:])


def _with_depth(spokes: Spokes, k: NDArray[np.intp]) -> Spokes:
    """Return the samples with their place along the partitions, in cycles per field of view of the image."""
    encoding = spokes.space.encoding
    depth = np.broadcast_to(
        (k * encoding.recon_fov_mm[0] / encoding.fov_mm[0]).astype(np.float32)[:, None, None],
        (*spokes.traj.shape[:2], 1),
    )
    return replace(spokes, traj=np.concatenate([spokes.traj, depth], axis=2))


def _transformed(kspace: torch.Tensor, spokes: Spokes) -> NDArray[np.complex64]:
    """Return planes (z, readout, coil, sample) from partitions (k2, readout, coil, sample)."""
    encoding, n = spokes.space.encoding, spokes.space.z.recon
    padded = max(1, round(n * encoding.fov_mm[0] / encoding.recon_fov_mm[0]))
    wide = kernel("resize")(kspace, padded, 0)
    planes: NDArray[np.complex64] = kernel("resize")(kernel("centred_ifft")(wide, (0,)), n, 0).numpy()
    return planes


def _missing(rows: Sequence[NDArray[np.intp]]) -> tuple[Verdict, ...]:
    lost = [p for p, r in enumerate(rows) if not len(r)]
    if not lost:
        return ()
    return (
        Verdict(
            check="mri.partitions",
            level=Level.FLAG,
            advice="Partitions were not measured and stand as zeros: expect blur along the slab.",
            value=float(len(lost)),
            limit=0.0,
            unit="partitions",
            evidence=f"missing {', '.join(map(str, lost[:20]))} of {len(rows)}",
        ),
    )
