"""The ghost of an echo-planar frame without navigators: the phase that makes all lines obey the same coils."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from acquisition.errors import ConfigError
from acquisition.items import Item
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from kernels.registry import kernel
from recon.mri.coilset import compression
from recon.mri.items import Calibration, Frame, FrameKey

logger = logging.getLogger(__name__)

_COILS = 4  # virtual coils that the search looks at
_LINES, _SAMPLES = 40, 40  # in the middle of k-space, that it looks at
_TURNS, _SLOPES, _ROUNDS = 8, 13, 7  # constants and slopes tried over half a circle, then halvings of both steps
_LEAST_GAIN = 0.02  # relative fall of the misfit below which nothing is changed


@dataclass(kw_only=True)
class EpiGhost:
    """Turn backward lines by ``constant + slope x`` so that one kernel predicts all lines from their neighbours.

    Coils and the object's extent make each sample a sum of its neighbours in all coils, the same everywhere in k-space
    (as in GRAPPA). A phase between the directions breaks that: its neighbours lie in the other direction. The misfit of
    the best kernel is least at the right phase, and at that plus pi, of which the smaller is taken.

    Stands behind `mri.assemble`, for fully sampled frames whose lines alternate in direction. Undersampled frames pass
    with a FLAG: aliasing and ghost cannot be told apart. The first frame of a slice decides for all that follow, so
    that a series does not flicker.

    References
    ----------
    Phase model: Bruder et al., Magn Reson Med 1992;23:311, DOI 10.1002/mrm.1910230211; coils as the measure: Hoge,
    Polimeni, Magn Reson Med 2016;76:32, DOI 10.1002/mrm.25839.
    """

    steepest: float = 3.0
    """Largest phase looked for at the edge of the field of view [rad]."""

    def __post_init__(self) -> None:
        if not 0 <= self.steepest <= 20:
            raise ConfigError("mri.epi_ghost steepest", expected="0 to 20", got=str(self.steepest))

    def open(self, scan: Scan) -> None:
        """Forget the scan before."""
        self._uid = scan.uid
        self._known: dict[FrameKey, tuple[float, float, float]] = {}

    def feed(self, item: Item) -> Iterator[Item]:
        """Correct frames of slices; other items pass, but calibrations cut from frames before the ghost is gone."""
        if isinstance(item, Calibration) and not item.separate:
            return
        yield self._corrected(item) if isinstance(item, Frame) and item.kspace.shape[1] == 1 else item

    def close(self) -> Iterator[Item]:
        """Nothing is left to do."""
        return iter(())

    def _corrected(self, frame: Frame) -> Frame:
        lines = np.flatnonzero(frame.counts[0])
        if len(lines) < frame.counts.shape[1] // 2 or (np.diff(lines) != 1).any():
            verdict = _told(Level.FLAG, "Undersampled: the ghost cannot be found without navigators.", None, "")
            return replace(frame, verdicts=(*frame.verdicts, verdict))
        key = FrameKey(frame.key.encoding, frame.key.slice, 0, 0, 0, 0)
        backward = torch.from_numpy(lines[1::2])
        if key not in self._known:
            self._known[key] = self._search(frame.kspace[:, 0], backward)
            logger.info("scan %s: slice %d: ghost phase %.3f, %.3f", self._uid, frame.key.slice, *self._known[key][:2])
        constant, slope, gain = self._known[key]
        if gain < _LEAST_GAIN:
            return replace(frame, verdicts=(*frame.verdicts, _told(Level.PASS, "No ghost to correct.", gain, "")))
        x = torch.linspace(-1, 1, frame.kspace.shape[3])
        frame.kspace[:, 0, backward] *= torch.exp(1j * (constant + slope * x)).to(frame.kspace.dtype)
        evidence = f"constant {constant:.3f} rad, {slope:.3f} rad at the edge of the field of view"
        told = _told(Level.PASS, "The ghost was found in the image itself and taken off.", gain, evidence)
        return replace(frame, verdicts=(*frame.verdicts, told), notes={**frame.notes, "ghost correction": evidence})

    def _search(self, kspace: Tensor, backward: Tensor) -> tuple[float, float, float]:
        """Return constant, slope, and the part by which the misfit falls, from (coil, k1, x)."""
        few = torch.einsum("vc,cyx->vyx", compression(kspace, 1.0)[:_COILS], kspace)
        parity = torch.zeros(few.shape[1], dtype=torch.bool)
        parity[backward] = True
        first = max(0, few.shape[1] // 2 - _LINES // 2)
        few, parity = few[:, first : first + _LINES], parity[first : first + _LINES]
        x = torch.linspace(-1, 1, few.shape[2])
        still = _spectrum(few)
        moving = few[:, parity]

        def misfit(constant: float, slope: float) -> float:
            turned = still.clone()
            turned[:, parity] = _spectrum(moving * torch.exp(1j * (constant + slope * x)).to(few.dtype))
            return _misfit(turned)

        best = min(
            (misfit(c, s), c, s)
            for c in np.pi * (np.arange(_TURNS) / _TURNS - 0.5)
            for s in np.linspace(-self.steepest, self.steepest, _SLOPES)
        )
        step_c, step_s = np.pi / _TURNS / 2, self.steepest / (_SLOPES - 1)
        for _ in range(_ROUNDS):
            near = [(best[1] + i * step_c, best[2] + j * step_s) for i in (-1, 0, 1) for j in (-1, 0, 1)]
            best = min(best, *((misfit(c, s), c, s) for c, s in near))
            step_c, step_s = step_c / 2, step_s / 2
        constant = (best[1] + np.pi / 2) % np.pi - np.pi / 2
        start = misfit(0.0, 0.0)
        return float(constant), float(best[2]), (start - best[0]) / max(start, 1e-30)


def _spectrum(lines: Tensor) -> Tensor:
    """Return the middle of the transform along x of (coil, k1, x)."""
    full: Tensor = kernel("centred_fft")(lines, (2,))
    first = max(0, full.shape[2] // 2 - _SAMPLES // 2)
    return full[:, :, first : first + _SAMPLES]


def _misfit(kspace: Tensor) -> float:
    """Return how badly one kernel predicts each sample of (coil, k1, k0) from the lines before and behind it."""
    n_coils = kspace.shape[0]
    parts = kspace.unfold(2, 3, 1)  # coil, k1, place, 3
    a = torch.cat([parts[:, :-2], parts[:, 2:]], -1).permute(1, 2, 0, 3).reshape(-1, 6 * n_coils)
    b = kspace[:, 1:-1, 1:-1].permute(1, 2, 0).reshape(-1, n_coils)
    gram, cross = a.mH @ a, a.mH @ b
    energy = float(b.abs().square().sum())
    scale = 1e-4 * float(gram.diagonal().real.mean())
    regular = (gram + max(scale, 1e-30) * torch.eye(len(gram))).to(torch.complex128)
    weights = torch.linalg.solve(regular, cross.to(torch.complex128)).to(a.dtype)
    return float((a @ weights - b).abs().square().sum()) / max(energy, 1e-30)


def _told(level: Level, advice: str, gain: float | None, evidence: str) -> Verdict:
    return Verdict(
        check="mri.epi_ghost",
        level=level,
        advice=advice,
        value=None if gain is None else 100 * gain,
        unit="%",
        evidence=evidence or "fall of the misfit between neighbouring lines",
    )
