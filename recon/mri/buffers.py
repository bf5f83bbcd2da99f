"""Memory for frames of k-space that fill up line by line, used again for the next frame."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acquisition.errors import LimitError
from kernels.registry import device
from recon.mri.items import FrameKey

MAX_BYTES = 8 << 30
"""All frames of a scan together may take this much memory."""


class Pool:
    """Hands out zeroed k-space memory and takes it back."""

    def __init__(self, limit_bytes: int = MAX_BYTES) -> None:
        self.limit_bytes, self.taken_bytes = limit_bytes, 0
        self._free: list[Tensor] = []

    def take(self, shape: tuple[int, ...], where: str) -> Tensor:
        """Return zeros of `shape`, complex64, on the working device.

        Raises
        ------
        LimitError
            The frames in use would take more than the limit.
        """
        n_bytes = 8 * int(np.prod([int(n) for n in shape], dtype=object))
        if self.taken_bytes + n_bytes > self.limit_bytes:
            raise LimitError(
                where,
                expected=f"at most {self.limit_bytes >> 20} MiB of k-space at a time",
                got=f"{(self.taken_bytes + n_bytes) >> 20} MiB for a frame of shape {shape}",
                action="check the header's matrix and coils, and that frames are completed by flags or counters",
            )
        self.taken_bytes += n_bytes
        for i, tensor in enumerate(self._free):
            if tensor.shape == shape:
                return self._free.pop(i).zero_()
        return torch.zeros(shape, dtype=torch.complex64, device=device())

    def give_back(self, tensor: Tensor) -> None:
        """Take memory back; it is zeroed when it is handed out again."""
        self.taken_bytes -= 8 * tensor.numel()
        self._free.append(tensor)


@dataclass(slots=True, kw_only=True)
class FrameBuffer:
    """One frame while it is being measured."""

    key: FrameKey
    """Which frame."""
    kspace: Tensor
    """Sum over averages (coil, k2, k1, x)."""
    n_averages: int
    """Averages that the header promises."""
    acceleration: int
    """Undersampling along k1 that the header promises."""
    counts: NDArray[np.uint16] = field(init=False)
    """How often each line was measured (k2, k1)."""
    seen: NDArray[np.bool_] = field(init=False)
    """Which lines were measured in which average (average, k2, k1)."""
    per_residue: NDArray[np.int64] = field(init=False)
    """Different lines and averages so far, by line modulo `acceleration`."""
    duplicates: list[int] = field(default_factory=list)
    """Lines that came twice with the same counters."""
    head: np.void | None = None
    """Header of the first imaging readout."""
    last_readout_s: float = 0.0
    """When the last readout arrived [s]."""
    calibrated: int = 0
    """Lines of the calibration region that was given out."""

    def __post_init__(self) -> None:
        shape = tuple(self.kspace.shape[1:3])
        self.counts = np.zeros(shape, np.uint16)
        self.seen = np.zeros((self.n_averages, *shape), bool)
        self.per_residue = np.zeros(self.acceleration, np.int64)

    def add(self, line: Tensor, *, k2: int, k1: int, average: int) -> None:
        """Add one line (coil, x) at matrix index (k2, k1)."""
        target = self.kspace[:, k2, k1]
        if self.counts[k2, k1]:
            target += line.to(target.device)
        else:
            target.copy_(line)
        self.counts[k2, k1] += 1
        if average >= len(self.seen):
            more = np.zeros((average + 1 - len(self.seen), *self.seen.shape[1:]), bool)
            self.seen = np.concatenate([self.seen, more])
        if self.seen[average, k2, k1]:
            self.duplicates.append(k1)
        else:
            self.seen[average, k2, k1] = True
            self.per_residue[k1 % self.acceleration] += 1

    def mean(self) -> Tensor:
        """Divide lines that were measured several times by their count, once; return the k-space."""
        for k2, k1 in np.argwhere(self.counts > 1):
            self.kspace[:, k2, k1] /= int(self.counts[k2, k1])
        return self.kspace

    def region(self, k2: slice, k1: slice) -> Tensor:
        """Return a copy of a part of k-space, averages divided out."""
        counts = torch.from_numpy(np.maximum(self.counts[k2, k1], 1).astype(np.float32)).to(self.kspace.device)
        return self.kspace[:, k2, k1] / counts[None, :, :, None]
