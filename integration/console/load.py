"""How busy this computer is: processor, memory, disk, GPU; read from the kernel, kept nowhere."""

from __future__ import annotations

import os
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import torch

_STAT, _MEMORY, _SELF = Path("/proc/stat"), Path("/proc/meminfo"), Path("/proc/self/statm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One look at the computer."""

    cpu: float | None
    """Busy part of all cores since the last look, 0 ... 1; None: not known here."""
    cores: int
    """Number of cores."""
    memory: float | None
    """Used part of the memory, 0 ... 1."""
    process_bytes: int
    """Resident memory of the service [bytes]."""
    disk: float
    """Used part of the disk with the spool, 0 ... 1."""
    free_bytes: int
    """Free space there [bytes]."""
    gpu: str | None
    """Name of the GPU; None: there is none."""
    gpu_memory: float | None
    """Used part of its memory, 0 ... 1."""


class Meter:
    """Looks at the computer; two looks within a second give the same answer.

    Parameters
    ----------
    folder
        Any place on the disk of the spool.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = folder, threading.Lock()
        self._last: tuple[float, float] | None = None
        self._seen: tuple[float, Load] | None = None

    def read(self) -> Load:
        """Return the load now."""
        with self._lock:
            if self._seen is None or time.monotonic() - self._seen[0] > 0.9:
                self._seen = time.monotonic(), self._look()
            return self._seen[1]

    def _look(self) -> Load:
        disk = shutil.disk_usage(self._folder)
        gpu, gpu_memory = _gpu()
        return Load(
            cpu=self._cpu(),
            cores=os.cpu_count() or 1,
            memory=_memory(),
            process_bytes=_resident(),
            disk=round(disk.used / disk.total, 3),
            free_bytes=disk.free,
            gpu=gpu,
            gpu_memory=gpu_memory,
        )

    def _cpu(self) -> float | None:
        """Return the busy part since the last look (proc(5), /proc/stat)."""
        if not _STAT.exists():
            return None
        ticks = [float(t) for t in _STAT.read_text().split("\n", 1)[0].split()[1:9]]
        total, idle = sum(ticks), ticks[3] + ticks[4]
        before, self._last = self._last, (total, idle)
        if before is None or total <= before[0]:
            return None
        return round(1 - (idle - before[1]) / (total - before[0]), 3)


def _memory() -> float | None:
    if not _MEMORY.exists():
        return None
    rows = dict(line.split(":", 1) for line in _MEMORY.read_text().splitlines())
    total, free = (float(rows[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    return round(1 - free / total, 3)


def _resident() -> int:
    if not _SELF.exists():
        return 0
    return int(_SELF.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _gpu() -> tuple[str | None, float | None]:
    """Return name and used memory of a GPU that this process uses already: looking must not start one."""
    if not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None, None
    free, total = torch.cuda.mem_get_info()
    return torch.cuda.get_device_name(), round(1 - free / total, 3)
