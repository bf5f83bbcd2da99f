"""GRAPPA along both phase encodings: regular lattices in (k2, k1), with or without CAIPIRINHA's shift."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acquisition.errors import ConfigError, HeaderError
from acquisition.items import Item
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from kernels.registry import kernel
from recon.mri.grappa import held
from recon.mri.items import Calibration, Frame, FrameKey
from recon.mri.pattern import central_region
from recon.mri.space import spaces

logger = logging.getLogger(__name__)

_MOST = 4  # undersampling along one encoding
_SHARE = 0.5  # part of a lattice that must have been measured: corners are often left out
_STRAY = 0.05  # part of the lines outside calibration that may lie off the lattice
_READOUT = 64  # samples around the centre of k-space along the readout that the weights are fitted on
_CHUNK = 16  # readout positions that are filled at a time


@dataclass(frozen=True, slots=True)
class Lattice:
    """Measured lines ``k2 = o2 (mod r2)``, ``k1 = o1 + shift * (k2 - o2) / r2 (mod r1)``."""

    r2: int
    """Undersampling along k2."""
    r1: int
    """Undersampling along k1."""
    shift: int
    """CAIPIRINHA's shift along k1 from one measured row to the next."""
    o2: int
    """First measured row, below r2."""
    o1: int
    """First line of row o2, below r1."""

    def mask(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Return which lines (k2, k1) lie on it."""
        k2, k1 = np.indices(shape)
        row = (k2 - self.o2) // self.r2
        return np.asarray(((k2 - self.o2) % self.r2 == 0) & ((k1 - self.o1 - self.shift * row) % self.r1 == 0))

    def sources(self, taps: int) -> list[tuple[int, int]]:
        """Return the measured lines around a cell, relative to its first line: (k2, k1), nearest `taps` of two rows."""
        rows = (0, 1) if self.r2 > 1 else (0,)
        half = taps // 2
        found = []
        for row in rows:
            start = self.shift * row % self.r1
            found += [(row * self.r2, start + (j - half + (start == 0 or row == 0)) * self.r1) for j in range(taps)]
        return found

    def targets(self) -> list[tuple[int, int]]:
        """Return the lines of a cell that were not measured, relative to its first line."""
        return [(a, b) for a in range(self.r2) for b in range(self.r1) if (a, b) != (0, 0)]


@dataclass(frozen=True, slots=True)
class _Learnt:
    """Weights of one calibration and lattice."""

    kernel: Tensor
    """(source, k0, coil, target, coil)."""
    error: float
    """Relative error of the fit."""


@dataclass(kw_only=True)
class Grappa3d:
    """Fill volumes undersampled along k2 and k1; measured lines are never changed, other frames pass.

    Each missing line of a cell is made of the nearest lines of the two measured rows around it, in all coils, weights
    in hybrid space as for slices. Lattice and shift are found from the lines themselves.

    References
    ----------
    Griswold et al., Magn Reson Med 2002;47:1202, DOI 10.1002/mrm.10171; Breuer et al. (2D CAIPIRINHA), Magn Reson Med
    2006;55:549, DOI 10.1002/mrm.20787.
    """

    taps: int = 4
    """Lines of each measured row that make one line; even."""
    width: int = 5
    """Samples along the readout; odd."""
    regularisation: float = 3e-4
    """Tikhonov weight, relative to the mean power of a source sample."""
    flag_above: float = 0.5
    """Relative error of the fit from which the image is marked."""

    def __post_init__(self) -> None:
        for name, fine, expected in (
            ("taps", self.taps >= 2 and self.taps % 2 == 0, "an even number"),
            ("width", self.width >= 1 and self.width % 2 == 1, "an odd number"),
            ("regularisation", self.regularisation >= 0, "0 or more"),
            ("flag_above", self.flag_above > 0, "above 0"),
        ):
            if not fine:
                raise ConfigError(f"mri.grappa_3d {name}", expected=expected, got=str(getattr(self, name)))

    def open(self, scan: Scan) -> None:
        """Check that the header's undersampling is one that this step undoes.

        Raises
        ------
        HeaderError
            Undersampling of a fraction, or of more than 4 along an encoding.
        """
        self._uid, self._spaces = scan.uid, spaces(scan)
        for i, space in enumerate(self._spaces):
            along = space.encoding.acceleration
            if any(a != round(a) or not 1 <= a <= _MOST for a in along):
                raise HeaderError(
                    f"header encoding {i} acceleration",
                    expected=f"whole numbers from 1 to {_MOST}",
                    got="{:g} along k2 and {:g} along k1".format(*along),
                    action="choose a protocol that undoes this undersampling",
                )
        self._calibrations: dict[FrameKey, Calibration] = {}
        self._known: dict[tuple[FrameKey, int, int, int], _Learnt] = {}

    def feed(self, item: Item) -> Iterator[Item]:
        """Learn from calibrations and pass them on; fill frames."""
        if isinstance(item, Calibration):
            key = _same(item.key)
            self._calibrations[key] = item
            self._known = {k: v for k, v in self._known.items() if k[0] != key}
            yield item
        elif isinstance(item, Frame):
            yield self._filled(item)
        else:
            yield item

    def close(self) -> Iterator[Item]:
        """Nothing is left to do."""
        return iter(())

    def _filled(self, frame: Frame) -> Frame:
        measured = frame.counts > 0
        if measured.all():
            return frame
        declared = self._spaces[frame.key.encoding].encoding.acceleration
        lattice = find_lattice(measured, (round(declared[0]), round(declared[1])))
        if lattice is None:
            return held(frame, "the measured lines follow no regular lattice")
        acs, why = self._calibration(frame, lattice)
        if acs is None:
            return held(frame, f"R={lattice.r2}x{lattice.r1}: {why}")
        key = (_same(frame.key), lattice.r2, lattice.r1, lattice.shift)
        if key not in self._known:
            self._known[key] = self._fit(acs, lattice)
        learnt = self._known[key]
        space, lines = self._spaces[frame.key.encoding], replace(frame, kspace=frame.kspace.new_empty(0))
        within = space.z.indices, space.y.indices
        fill(frame, lattice, learnt.kernel, taps=self.taps, within=within)

        def replica(kspace: Tensor) -> Tensor:
            other = replace(lines, kspace=kspace.clone())
            fill(other, lattice, learnt.kernel, taps=self.taps, within=within)
            return other.kspace

        return replace(self._told(frame, lattice, learnt), replica=replica)

    def _calibration(self, frame: Frame, lattice: Lattice) -> tuple[Tensor | None, str]:
        """Return the calibration lines of a frame (coil, k2, k1, x), or why there are none."""
        known = self._calibrations.get(_same(frame.key))
        if known is not None:
            acs = known.kspace
        else:
            k2, k1 = central_region(frame.counts > 0)
            acs = frame.kspace[:, k2, k1]
        places = [*lattice.sources(self.taps), *lattice.targets()]
        needed = [max(p[a] for p in places) - min(p[a] for p in places) + 1 for a in (0, 1)]
        if acs.shape[0] != frame.kspace.shape[0]:
            return None, "the calibration was measured with other coils"
        if acs.shape[0] < 2:
            return None, "one coil cannot tell aliased places apart"
        if acs.shape[1] < needed[0] or acs.shape[2] < needed[1]:
            got = f"{acs.shape[1]} x {acs.shape[2]} calibration lines"
            return None, f"{got}, at least {needed[0]} x {needed[1]} needed"
        return acs, ""

    def _fit(self, acs: Tensor, lattice: Lattice) -> _Learnt:
        acs = kernel("centred_fft")(acs, (3,))
        first = max(0, acs.shape[3] // 2 - _READOUT // 2)
        acs = acs[..., first : first + _READOUT]
        weights, error = calibrated(acs, lattice, kernel=(self.taps, self.width), regularisation=self.regularisation)
        factors = (lattice.r2, lattice.r1, lattice.shift)
        logger.info("scan %s: GRAPPA R=%dx%d, shift %d, error %.3f", self._uid, *factors, error)
        return _Learnt(weights, error)

    def _told(self, frame: Frame, lattice: Lattice, learnt: _Learnt) -> Frame:
        poor = learnt.error > self.flag_above
        evidence = f"R={lattice.r2}x{lattice.r1}, shift {lattice.shift}, 2x{self.taps}x{self.width} samples per coil"
        verdict = Verdict(
            check="mri.grappa_3d",
            level=Level.FLAG if poor else Level.PASS,
            advice="The calibration lines hardly predict each other: look for residual aliasing."
            if poor
            else f"Undersampling of {lattice.r2} x {lattice.r1} undone.",
            value=learnt.error,
            limit=self.flag_above,
            evidence=evidence,
        )
        notes = {**frame.notes, "grappa": f"{evidence}, error {learnt.error:.3f}"}
        return replace(frame, acceleration=lattice.r1 * lattice.r2, verdicts=(*frame.verdicts, verdict), notes=notes)


def find_lattice(measured: NDArray[np.bool_], declared: tuple[int, int]) -> Lattice | None:
    """Return the lattice of the header's undersampling (k2, k1) that explains the measured lines best.

    None where less than half of every lattice was measured, or many lines outside the calibration lie off it.
    """
    r2, r1 = declared
    k2, k1 = central_region(measured)
    outside = measured.copy()
    outside[k2, k1] = False
    rows, lines = np.flatnonzero(measured.any(1)), np.flatnonzero(measured.any(0))
    if not rows.size:
        return None
    box = np.s_[rows[0] : rows[-1] + 1, lines[0] : lines[-1] + 1]
    best: tuple[float, Lattice] | None = None
    for shift in range(r1 if r2 > 1 else 1):
        for o2 in range(r2):
            for o1 in range(r1):
                lattice = Lattice(r2, r1, shift, o2, o1)
                mask = lattice.mask((measured.shape[0], measured.shape[1]))
                share = float(measured[box][mask[box]].mean()) if mask[box].any() else 0.0
                stray = float((outside & ~mask).sum()) / max(1, int(outside.sum()))
                if share >= _SHARE and stray <= _STRAY and (best is None or share - stray > best[0]):
                    best = share - stray, lattice
    return None if best is None else best[1]


def calibrated(
    acs: Tensor, lattice: Lattice, *, kernel: tuple[int, int], regularisation: float
) -> tuple[Tensor, float]:
    """Fit weights (source, k0, coil, target, coil) on fully measured lines (coil, k2, k1, k0); and the relative error.

    `kernel` is (taps, width) of `Grappa3d`.
    """
    taps, width = kernel
    sources, targets = lattice.sources(taps), lattice.targets()
    n_coils, n2, n1, n0 = acs.shape
    places = [*sources, *targets]
    low = [min(p[a] for p in places) for a in (0, 1)]
    span = [max(p[a] for p in places) - low[a] for a in (0, 1)]
    n_rows, n_lines, n_samples = n2 - span[0], n1 - span[1], n0 - width + 1
    n, m = len(sources) * width * n_coils, len(targets) * n_coils
    gram, cross = (acs.new_zeros((n, k), dtype=torch.complex128) for k in (n, m))
    energy, acs = 0.0, acs.to(torch.complex128)
    for row in range(n_rows):

        def cut(place: tuple[int, int], first: int, row: int = row) -> Tensor:
            line = place[1] - low[1]
            return acs[:, row + place[0] - low[0], line : line + n_lines, first : first + n_samples].flatten(1)

        a = torch.cat([cut(s, d) for s in sources for d in range(width)]).T
        b = torch.cat([cut(t, width // 2) for t in targets]).T
        gram += a.mH @ a
        cross += a.mH @ b
        energy += float(b.abs().square().sum())
    scale = max(regularisation * float(gram.diagonal().real.mean()), torch.finfo(torch.float64).tiny)
    regular = gram + scale * torch.eye(n, dtype=gram.dtype, device=gram.device)
    weights = torch.cholesky_solve(cross, torch.linalg.cholesky(regular))
    rest = energy + float((weights.conj() * (gram @ weights - 2 * cross)).sum().real)
    error = (max(rest, 0.0) / energy) ** 0.5 if energy > 0 else 0.0
    return weights.to(torch.complex64).reshape(len(sources), width, n_coils, len(targets), n_coils), error


def fill(frame: Frame, lattice: Lattice, weights: Tensor, *, taps: int, within: tuple[range, range]) -> None:
    """Write the lines that were not measured into the frame's k-space (coil, k2, k1, x), some x at a time.

    Nothing is made outside the matrix indices `within` (k2, k1), where partial Fourier left lines out.
    """
    n_coils, n2, n1, n_x = frame.kspace.shape
    period = lattice.r2 * lattice.r1  # rows after which the lattice repeats
    mask = lattice.mask((n2 + period, n1 + lattice.r1))
    k2, k1 = (torch.from_numpy(i) for i in np.nonzero(mask))
    k2, k1 = k2 - period, k1 - lattice.r1  # cells that begin before the first line too
    empty = torch.zeros((n2, n1), dtype=torch.bool)
    rows, columns = (slice(r.start, r.stop) for r in within)
    empty[rows, columns] = torch.from_numpy(frame.counts[rows, columns] == 0)

    def index(place: tuple[int, int]) -> Tensor:
        """Return the flat line numbers of a place in all cells; the one beyond the last where there is none."""
        a, b = k2 + place[0], k1 + place[1]
        return torch.where((a >= 0) & (a < n2) & (b >= 0) & (b < n1), a * n1 + b, n2 * n1)

    of = [index(s) for s in lattice.sources(taps)]
    to = [index(t) for t in lattice.targets()]
    open_ = torch.cat([empty.flatten(), torch.zeros(1, dtype=torch.bool)])
    hybrid = kernel("grappa_hybrid")(weights, n_x)
    n_t = len(to) * n_coils
    for first in range(0, n_x, _CHUNK):
        part = frame.kspace[..., first : first + _CHUNK]
        lines = torch.cat([part.reshape(n_coils, n2 * n1, -1), part.new_zeros((n_coils, 1, part.shape[3]))], 1)
        lines = lines.permute(2, 1, 0).contiguous()  # x, line, coil
        made = lines.new_zeros((len(lines), len(k2), n_t))
        for s, where in enumerate(of):
            made.baddbmm_(lines[:, where], hybrid[first : first + _CHUNK, s * n_coils : (s + 1) * n_coils])
        for t, where in enumerate(to):
            chosen = open_[where]
            lines[:, where[chosen]] = made[:, chosen, t * n_coils : (t + 1) * n_coils]
        frame.kspace[..., first : first + _CHUNK] = lines[:, :-1].permute(2, 1, 0).reshape(part.shape)


def _same(key: FrameKey) -> FrameKey:
    return FrameKey(key.encoding, key.slice, 0, 0, 0, 0)
