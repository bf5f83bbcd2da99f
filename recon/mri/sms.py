"""Simultaneous multi-slice: the slices that were measured together, taken apart by their coils.

The Steps stand between `mri.assemble` and `mri.grappa`. A frame with the counter g holds slices g, g + n / MB, ... of
which the j-th is turned by ``exp(2 pi i j (k1 - centre) / shift)`` (blipped CAIPI); reference lines of every slice
were measured before. Undersampling in plane is left to `mri.grappa`, which finds the same reference lines.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from acquisition.errors import ConfigError, HeaderError
from acquisition.items import Item
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from kernels.registry import kernel
from recon.mri.items import Calibration, Frame, FrameKey
from recon.mri.iterative import held
from recon.mri.pattern import MAX_ACCELERATION, Pattern, detect, measured_lines
from recon.mri.space import multiband, spaces

logger = logging.getLogger(__name__)

_LINES, _READOUT = 32, 64  # samples around the centre of k-space that weights are fitted on: more cost, and add noise
Tensors = Sequence[Tensor]
_Place = tuple[int, int]  # encoding, and slice or group in it: each encoding has reference lines of its own

_GEOMETRY = ("position", "read_dir", "phase_dir", "slice_dir")


@dataclass(frozen=True, slots=True)
class _Group:
    """What was learnt of slices that are measured together."""

    hybrid: Tensor
    """(x, tap * coil, slice * coil)."""
    leakage: tuple[float, ...]
    """Part of the other slices' signal that ends in each, relative to its own."""
    error: tuple[float, ...]
    """Relative error of each slice's own signal."""


@dataclass(kw_only=True)
class _SliceGrappa:
    """What both methods share: groups, equations, geometry."""

    kernel: tuple[int, int] = (5, 5)
    """Measured lines and samples along the readout (both odd) that make one sample of each slice."""
    regularisation: float = 1e-3
    """Tikhonov weight, relative to the mean power of a source sample."""
    flag_above: float = 0.25
    """Leakage of the other slices from which an image is marked."""

    _name = "slice_grappa"

    def __post_init__(self) -> None:
        for name, fine, expected in (
            ("kernel", len(self.kernel) == 2 and all(k >= 1 and k % 2 for k in self.kernel), "two odd numbers"),
            ("regularisation", self.regularisation >= 0, "0 or more"),
            ("flag_above", self.flag_above > 0, "above 0"),
        ):
            if not fine:
                raise ConfigError(f"mri.{self._name} {name}", expected=expected, got=str(getattr(self, name)))

    def open(self, scan: Scan) -> None:
        """Learn which slices are measured together.

        Raises
        ------
        HeaderError
            The header names no multiband factor, or one that does not divide the slices.
        """
        self._uid, self._spaces, self._factor = scan.uid, spaces(scan), multiband(scan)
        shift = scan.user_parameters.get("multiband_shift", 1)
        self._shift = float(shift) if not isinstance(shift, str) and shift else 1.0
        limit = self._spaces[0].encoding.limit("slice")
        self._first, n = limit.minimum, limit.maximum + 1 - limit.minimum
        factors = [space.encoding.acceleration for space in self._spaces]
        undone = all(k2 <= 1 and k1 in range(1, MAX_ACCELERATION + 1) for k2, k1 in factors)
        if self._factor < 2 or n % self._factor or not undone:
            told = ", ".join(f"R {k2:g} along k2 and {k1:g} along k1" for k2, k1 in factors)
            raise HeaderError(
                "header multiband",
                expected=f"a factor of 2 or more that divides the slices, R from 1 to {MAX_ACCELERATION} along k1",
                got=f"factor {self._factor}, {n} slices, {told}",
                action="correct the user parameter multiband, or choose a protocol for single slices",
            )
        self._n_groups, self._r = n // self._factor, [round(k1) for _, k1 in factors]
        self._calibrations: dict[_Place, Calibration] = {}
        self._known: dict[_Place, _Group] = {}

    def feed(self, item: Item) -> Iterator[Item]:
        """Learn from reference lines and pass them on; take frames apart."""
        if isinstance(item, Calibration):
            if not item.separate:  # cut from slices that lie on top of each other: says nothing of one
                return
            self._calibrations[item.key.encoding, item.key.slice] = item
            group = item.key.encoding, (item.key.slice - self._first) % self._n_groups
            self._known.pop(group, None)
            yield item
            if self._obstacle(group) is None:
                self._prepared(group)
        elif isinstance(item, Frame):
            yield from self._apart(item)
        else:
            yield item

    def close(self) -> Iterator[Item]:
        """Nothing is left to do."""
        return iter(())

    @abstractmethod
    def _equations(self, sources: Tensors, targets: Tensors, grams: Tensors, crosses: Tensors) -> tuple[Tensor, Tensor]:
        """Return the normal matrix (n, n) and right-hand sides (n, slice * coil).

        `sources` A (place, n) and `targets` b (place, coil) of each slice alone, with ``A^H A`` and ``A^H b``.
        """

    def _slices(self, group: _Place) -> list[_Place]:
        encoding, place = group
        return [(encoding, self._first + place + j * self._n_groups) for j in range(self._factor)]

    def _obstacle(self, group: _Place) -> str | None:
        """Return why a group cannot be taken apart; None when it can."""
        found = [self._calibrations.get(s) for s in self._slices(group)]
        missing = [s for (_, s), c in zip(self._slices(group), found, strict=True) if c is None]
        if missing:
            return f"no reference lines of slices {', '.join(map(str, missing))}"
        shapes = {tuple(c.kspace.shape) for c in found if c is not None}
        first = next(c for c in found if c is not None)
        n_coils, _, n_lines, n_x = first.kspace.shape
        needed = (self.kernel[0] - 1) * self._r[group[0]] + 1
        if len(shapes) > 1:
            return "the slices' reference lines differ in number"
        if n_coils < self._factor:
            return f"{n_coils} coils cannot tell {self._factor} slices apart"
        if n_lines < needed or n_x < self.kernel[1]:
            return f"{n_lines} reference lines, at least {needed} needed"
        return None

    def _prepared(self, group: _Place) -> _Group:
        if group not in self._known:
            self._known[group] = self._fit(group)
        return self._known[group]

    def _turn(self, j: int, lines: Tensor, n: int) -> Tensor:
        """Return by what the lines of the j-th slice of a group were turned."""
        angle = 2 * torch.pi * j / self._shift * (lines - n // 2).double()
        return torch.polar(torch.ones_like(angle), angle).to(torch.complex64)

    def _fit(self, group: _Place) -> _Group:
        r, sources, targets = self._r[group[0]], [], []
        for j, index in enumerate(self._slices(group)):
            calibration = self._calibrations[index]
            acs = kernel("centred_fft")(calibration.kspace[:, 0], (2,))
            first = max(0, acs.shape[2] // 2 - _READOUT // 2)
            lines = torch.arange(acs.shape[1], device=acs.device) + calibration.first[1]
            part = self._middle(lines, calibration.matrix[1], r)
            turned = acs[:, part, first : first + _READOUT] * self._turn(j, lines[part], calibration.matrix[1])[:, None]
            a, b = self._patches(turned, r)
            sources.append(a)
            targets.append(b)
        grams = [a.mH @ a for a in sources]
        crosses = [a.mH @ b for a, b in zip(sources, targets, strict=True)]
        weights = self._solved(*self._equations(sources, targets, grams, crosses))
        energies = [float(b.abs().square().sum()) for b in targets]
        leakage, error = _judged(weights, grams, crosses, energies)
        logger.info("scan %s: slices %s apart, leakage %s", self._uid, [s for _, s in self._slices(group)], leakage)
        n_coils = targets[0].shape[1]
        spread = weights.reshape(*self.kernel, n_coils, self._factor, n_coils)
        n_x = self._calibrations[self._slices(group)[0]].kspace.shape[3]
        return _Group(kernel("grappa_hybrid")(spread, n_x), leakage, error)

    def _solved(self, gram: Tensor, cross: Tensor) -> Tensor:
        """Return the regularised weights (n, slice * coil), solved in double precision."""
        double = gram.to(torch.complex128)
        scale = (self.regularisation * double.diagonal().real.mean()).clamp_min(torch.finfo(torch.float64).tiny)
        regular = double + scale * torch.eye(len(gram), dtype=double.dtype, device=double.device)
        return torch.cholesky_solve(cross.to(double.dtype), torch.linalg.cholesky(regular)).to(torch.complex64)

    def _middle(self, lines: Tensor, n: int, r: int) -> slice:
        """Return which reference lines weights are fitted on: about the centre, as many as the kernel's span asks."""
        half = max(_LINES // 2, (self.kernel[0] - 1) * r)
        kept = ((lines >= n // 2 - half) & (lines < n // 2 + half)).nonzero()[:, 0]
        return slice(int(kept[0]), int(kept[-1]) + 1) if len(kept) else slice(0, len(lines))

    def _patches(self, acs: Tensor, r: int) -> tuple[Tensor, Tensor]:
        """Return A (place, tap * k0 * coil) and b (place, coil) of one slice (coil, k1, k0)."""
        taps, width = self.kernel
        n_places = acs.shape[1] - (taps - 1) * r
        parts = acs.unfold(-1, width, 1)  # coil, k1, place, k0
        a = torch.stack([parts[:, t * r : t * r + n_places] for t in range(taps)]).permute(2, 3, 0, 4, 1)
        middle = acs[:, taps // 2 * r : taps // 2 * r + n_places, width // 2 : width // 2 + parts.shape[2]]
        return a.reshape(-1, taps * width * len(acs)), middle.permute(1, 2, 0).reshape(-1, len(acs))

    def _apart(self, frame: Frame) -> Iterator[Frame]:
        encoding, place = group = frame.key.encoding, frame.key.slice - self._first
        why = self._obstacle(group) if 0 <= place < self._n_groups else f"no group {place}"
        pattern = detect(measured_lines(frame.counts), self._r[encoding])
        if why is None and pattern is None:
            why = "the measured lines follow no regular pattern"
        if why is not None or pattern is None:
            yield held(frame, f"slices stay on top of each other: {why}", self._name)
            return
        known = self._prepared(group)
        if known.hybrid.shape[1] != self.kernel[0] * frame.kspace.shape[0]:
            yield held(frame, "the reference lines were measured with other coils", self._name)
            return
        made = unfolded(frame.kspace, pattern, known.hybrid)
        for j, index in enumerate(self._slices(group)):
            kspace = self._turned_back(made[:, :, j], pattern, j, frame.kspace.shape[2])
            out = self._slice_of(frame, index[1], kspace, (known.leakage[j], known.error[j]))

            def replica(noise: Tensor, j: int = j) -> Tensor:
                alone = unfolded(noise, pattern, known.hybrid)[:, :, j]
                return self._turned_back(alone, pattern, j, noise.shape[2])

            yield replace(out, replica=replica)
        frame.release()

    def _turned_back(self, made: Tensor, pattern: Pattern, j: int, n: int) -> Tensor:
        """Return k-space (coil, 1, k1, x) from the lines (x, line, coil) of a group's j-th slice."""
        lines = torch.from_numpy(pattern.lines.astype(np.int64)).to(made.device)
        kspace = made.new_zeros((made.shape[2], 1, n, made.shape[0]))
        kspace[:, 0, lines] = (made * self._turn(j, lines, n).conj()[:, None]).permute(2, 1, 0)
        return kspace

    def _slice_of(self, frame: Frame, index: int, kspace: Tensor, quality: tuple[float, float]) -> Frame:
        """Return one slice as a frame of its own, lying where its reference was measured."""
        head, source = frame.head.copy(), self._calibrations[frame.key.encoding, index].head
        head["slice"] = index
        if source is not None:
            for name in _GEOMETRY:
                head[name] = source[name]
        leakage, error = quality
        leaks = leakage > self.flag_above
        verdict = Verdict(
            check=f"mri.{self._name}",
            level=Level.FLAG if leaks else Level.PASS,
            advice="Much of the slices measured together may shine through: compare them before reading."
            if leaks
            else f"{self._factor} slices measured together were taken apart.",
            value=leakage,
            limit=self.flag_above,
            evidence=f"leakage on the reference lines, own signal's error {error:.3f}, shift 1/{self._shift:g}",
        )
        note = f"{self._name}, multiband {self._factor}, kernel {self.kernel[0]}x{self.kernel[1]}"
        return replace(
            frame,
            kspace=kspace,
            key=FrameKey(frame.key.encoding, index, *frame.key[2:]),
            head=head,
            verdicts=(*frame.verdicts, verdict),
            notes={**frame.notes, "simultaneous slices": note},
            release=lambda: None,
        )


@dataclass(kw_only=True)
class SliceGrappa(_SliceGrappa):
    """Slice-GRAPPA: each slice from all that were measured together.

    References
    ----------
    Setsompop et al., Magn Reson Med 2012;67:1210, DOI 10.1002/mrm.23097.
    """

    def _equations(self, sources: Tensors, targets: Tensors, grams: Tensors, crosses: Tensors) -> tuple[Tensor, Tensor]:
        together = torch.stack(list(sources)).sum(0)
        return together.mH @ together, torch.cat([together.mH @ b for b in targets], 1)


@dataclass(kw_only=True)
class SplitSliceGrappa(_SliceGrappa):
    """Split slice-GRAPPA: each kernel makes its own slice and nothing of the others, whatever their contrast.

    References
    ----------
    Cauley et al., Magn Reson Med 2014;72:93, DOI 10.1002/mrm.24898.
    """

    _name = "split_slice_grappa"

    def _equations(self, sources: Tensors, targets: Tensors, grams: Tensors, crosses: Tensors) -> tuple[Tensor, Tensor]:
        return torch.stack(list(grams)).sum(0), torch.cat(list(crosses), 1)


def unfolded(kspace: Tensor, pattern: Pattern, hybrid: Tensor) -> Tensor:
    """Return the slices (x, line, slice, coil) of the regular lines of (coil, 1, k1, x); zero beyond both ends."""
    n_coils, _, _, n_x = kspace.shape
    taps = hybrid.shape[1] // n_coils
    lines = torch.from_numpy(pattern.lines.astype(np.int64)).to(kspace.device)
    padded = kspace.new_zeros((n_x, len(lines) + taps - 1, n_coils))
    padded[:, taps // 2 : taps // 2 + len(lines)] = kspace[:, 0, lines].permute(2, 1, 0)
    made: Tensor = kernel("grappa_apply")(padded, hybrid)
    return made


def _judged(
    weights: Tensor, grams: Tensors, crosses: Tensors, energies: Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return, for each slice, the leakage of the others into it and the error of its own signal, relative to it."""
    n_coils = crosses[0].shape[1]
    leakage, error = [], []
    for j, own in enumerate(energies):
        w = weights[:, j * n_coils : (j + 1) * n_coils]
        seen = [float((w.conj() * (g @ w)).sum().real) for g in grams]
        missed = seen[j] - 2 * float((w.conj() * crosses[j]).sum().real) + own
        scale = max(own, 1e-30)
        leakage.append((max(sum(seen) - seen[j], 0.0) / scale) ** 0.5)
        error.append((max(missed, 0.0) / scale) ** 0.5)
    return tuple(leakage), tuple(error)
