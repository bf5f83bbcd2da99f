"""Small headers and lines for the tests of the assembler: every line holds one value, its number plus one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from acquisition.items import Flag, Item, Readouts
from acquisition.scan import Encoding, Limits, MrHeader, Scan
from acquisition.verdict import Verdict
from recon.mri import Assemble
from recon.mri.items import Frame
from tests.recon.helpers import Exam

N_X = 4


def scan(k1: int = 16, *, k2: int = 1, acceleration: float = 1.0, mode: str | None = None, **limits) -> Scan:
    declared = {"k1": Limits(0, k1 - 1, k1 // 2), "k2": Limits(0, k2 - 1, k2 // 2)}
    declared |= {
        name: Limits(*value) if isinstance(value, tuple) else Limits(0, value, 0) for name, value in limits.items()
    }
    encoding = Encoding(
        matrix=(k2, k1, N_X),
        fov_mm=(5, 200, 200),
        recon_matrix=(k2, k1, N_X),
        recon_fov_mm=(5, 200, 200),
        limits=declared,
        acceleration=(1.0, acceleration),
        calibration_mode=mode,
    )
    return Scan(uid="t", modality="MR", mr=MrHeader(encodings=(encoding,)))


def line(k1: int, value: complex = 1, *, n_coils: int = 2, received_s: float = 0.0, **head) -> Readouts:
    data = np.full((1, n_coils, N_X), value, np.complex64)
    return Readouts(head=Exam().head(k1=k1, n_samples=N_X, **head), data=data, domain="x", received_s=received_s)


def lines(k1: Iterable[int], **head) -> list[Readouts]:
    return [line(i, i + 1, **head) for i in k1]


def feed(step: Assemble, items: Iterable[Item]) -> list[Item]:
    """What comes out, frames with a copy of their k-space, memory given back at once."""
    out = []
    for item in items:
        for made in step.feed(item):
            out.append(taken(made))
    return out


def taken(made: Item) -> Item:
    if isinstance(made, Frame):
        copy = replace(made, kspace=made.kspace.clone())
        made.release()
        return copy
    return made


def run(header: Scan, items: Iterable[Item], step: Assemble | None = None) -> tuple[list[Item], list[Item]]:
    """(what came while feeding, what came on close)."""
    step = step or Assemble()
    step.open(header)
    return feed(step, items), [taken(item) for item in step.close()]


def frames(items: Iterable[Item]) -> list[Frame]:
    return [item for item in items if isinstance(item, Frame)]


def verdicts(items: Iterable[Item]) -> list[Verdict]:
    return [item for item in items if isinstance(item, Verdict)]


def values(frame: Frame, k2: int = 0) -> list[float]:
    assert len(set(frame.kspace[:, k2].numpy().std(axis=(0, 2)).round(6))) == 1, "coils and x hold the same value here"
    return frame.kspace[0, k2, :, 0].real.tolist()


def last(k1: int, flag: Flag, **head) -> Readouts:
    return line(k1, k1 + 1, flags=int(flag), **head)


def undersampled(n: int, r: int, low: int, high: int, *, flag: bool = True) -> list[Readouts]:
    """Regular lines and calibration between them, in rising order."""
    out = []
    for k1 in range(n):
        if k1 % r == 0:
            out.append(line(k1, k1 + 1))
        elif low <= k1 < high:
            out.append(line(k1, k1 + 1, flags=int(Flag.CALIBRATION) if flag else 0))
    return out
