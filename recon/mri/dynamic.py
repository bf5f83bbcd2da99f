"""Series of Cartesian frames solved together: what hardly changes from frame to frame need not be measured in each.

The Steps stand where `mri.grappa` stands. They keep the measured lines of each frame, and when all phases and
repetitions of a slice are in (or the scan closes), they solve for the whole series and give its frames out. The coils
are learnt from the mean over time, so frames need no calibration lines of their own.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acquisition.errors import DataError, ReconError
from acquisition.items import Item
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from kernels.registry import kernel
from recon.mri.coilset import CoilOptions, Coils, CoilStore, noise_level, sampling_gain
from recon.mri.items import Calibration, Frame, FrameKey
from recon.mri.iterative import held, resized
from recon.mri.model import CartesianSeries
from recon.prior import LocallyLowRank, LowRank, TemporalFourierSparsity, TemporalVariation
from recon.solve import Solution, fista

logger = logging.getLogger(__name__)

_IN_A_SERIES = ("phase", "repetition")


@dataclass(slots=True)
class _Series:
    """The frames of one slice that are solved together."""

    key: FrameKey
    """Of the series: phase and repetition 0."""
    total: Tensor
    """Sum of k-space over the frames (coil, k2, k1, x)."""
    seen: NDArray[np.int64]
    """In how many frames each line was measured (k2, k1)."""
    frames: list[Frame] = field(default_factory=list)
    """The frames, without their k-space."""
    lines: list[Tensor] = field(default_factory=list)
    """Their measured lines (coil, line, x)."""
    noise: list[float] = field(default_factory=list)
    """Noise of a sample, frame by frame."""

    def add(self, frame: Frame) -> None:
        """Take a frame; its memory goes back.

        Raises
        ------
        DataError
            It is of another size than the ones before.
        """
        if frame.kspace.shape != self.total.shape:
            got, expected = tuple(frame.kspace.shape), tuple(self.total.shape)
            raise DataError(f"frame {tuple(frame.key)}", expected=f"k-space of shape {expected}", got=f"{got}")
        measured = frame.counts > 0
        self.total += frame.kspace
        self.seen += measured
        self.noise.append(noise_level(frame.kspace, frame.counts))
        self.lines.append(frame.kspace[:, torch.from_numpy(measured)])
        frame.release()
        self.frames.append(replace(frame, kspace=self.total.new_empty(0), release=lambda: None))

    def mean(self) -> Frame:
        """Return the mean over time as one frame."""
        scale = torch.from_numpy(1 / np.maximum(self.seen, 1)).to(self.total)
        kspace = self.total * scale[..., None]
        return replace(self.frames[0], kspace=kspace, counts=self.seen.clip(0, 65535).astype(np.uint16), key=self.key)


@dataclass(kw_only=True)
class _Dynamic(CoilOptions):
    """What the methods share: collecting a series, its coils, its layout."""

    n_iterations: int = 30
    """Iterations."""
    weight: float = 1.0
    """Weight of the prior, in units of the noise in the zero-filled images."""
    max_gib: float = 4.0
    """Memory that the lines of all waiting frames may take [GiB]."""

    _name = "dynamic"

    def _rules(self) -> Sequence[tuple[str, bool, str]]:
        return (
            *super()._rules(),
            ("n_sets", self.n_sets == 1, "1: a series has one set of maps"),
            ("n_iterations", self.n_iterations >= 1, "at least 1"),
            ("weight", self.weight >= 0, "0 or more"),
            ("max_gib", 0 < self.max_gib <= 1024, "a number above 0"),
        )

    def open(self, scan: Scan) -> None:
        """Learn how many frames a series has; forget the scan before."""
        self._uid, self._coils = scan.uid, CoilStore(self)
        self._waiting: dict[FrameKey, _Series] = {}
        self._n_frames = [
            math.prod(e.limit(c).maximum - e.limit(c).minimum + 1 for c in _IN_A_SERIES)
            for e in scan.require_mr().encodings
        ]

    def feed(self, item: Item) -> Iterator[Item]:
        """Collect frames; give a series out when it is complete. Other items pass."""
        if isinstance(item, Calibration):
            if item.separate:
                self._coils.learn(item)
        elif isinstance(item, Frame):
            key = item.key._replace(phase=0, repetition=0)
            if key not in self._waiting:
                seen = np.zeros(item.counts.shape, np.int64)
                self._waiting[key] = _Series(key, torch.zeros_like(item.kspace), seen)
            series = self._waiting[key]
            series.add(item)
            self._within_limit()
            if len(series.frames) == self._n_frames[item.key.encoding]:
                yield from self._solved(self._waiting.pop(key))
        else:
            yield item

    def close(self) -> Iterator[Item]:
        """Solve the series that stayed incomplete."""
        for key in sorted(self._waiting):
            yield from self._solved(self._waiting.pop(key))

    def _solve(self, model: CartesianSeries, rhs: Tensor, noise: float) -> Solution:
        """Return the series (frame, a, b); `noise`: standard deviation of the noise in the pixels of `rhs`."""
        raise NotImplementedError

    def _within_limit(self) -> None:
        n_bytes = sum(8 * (s.total.numel() + sum(t.numel() for t in s.lines)) for s in self._waiting.values())
        if n_bytes > self.max_gib * (1 << 30):
            raise ReconError(
                f"scan {self._uid}: mri.{self._name}",
                expected=f"series that fit in {self.max_gib} GiB",
                got=f"{n_bytes / (1 << 30):.1f} GiB",
                action="raise max_gib, or choose a protocol that makes frame by frame",
            )

    def _solved(self, series: _Series) -> Iterator[Item]:
        mean = series.mean()
        try:
            coils = self._coils.of(mean)
        except ReconError as error:
            for frame, lines in zip(series.frames, series.lines, strict=True):
                yield held(replace(frame, kspace=_filled(lines, frame.counts)), str(error), self._name)
            return
        solve = self._slices if series.total.shape[1] == 1 else self._volumes
        kspace = solve(series, coils)
        logger.info("scan %s: %s of %s, %d frames", self._uid, self._name, tuple(series.key), len(series.frames))
        for frame, one in zip(series.frames, kspace, strict=True):
            yield self._told(frame, one, n_frames=len(series.frames), n_coils=len(coils.compression))

    def _slices(self, series: _Series, coils: Coils) -> Tensor:
        """Solve for a series of slices; return k-space (frame, 1, 1, k1, x)."""
        resize, n_k1, n = kernel("resize"), series.total.shape[2], coils.maps.shape[3]
        data = torch.stack(
            [
                resize(torch.einsum("vc,czyx->vxy", coils.compression, _filled(lines, frame.counts)), n, 2)
                for lines, frame in zip(series.lines, series.frames, strict=True)
            ]
        )
        masks = resize(_masks(series), n, 2)
        solved = self._problem(coils.maps[0], masks, data=data, axes=(-1,), noise=_level(series))
        full = resize(kernel("centred_fft")(solved, (2,)), n_k1, 2)
        return full.transpose(1, 2)[:, None, None]

    def _volumes(self, series: _Series, coils: Coils) -> Tensor:
        """Solve for a series of volumes, x by x; return k-space (frame, 1, k2, k1, x)."""
        n_coils, *grid = coils.maps.shape[2:]
        masks, shape = resized(_masks(series), grid), series.total.shape[1:]
        out = series.total.new_zeros((len(series.frames), 1, *shape))
        level = _level(series)
        for x in range(shape[2]):
            data = out.new_zeros((len(series.frames), n_coils, *shape[:2]))
            for into, lines, frame in zip(data, series.lines, series.frames, strict=True):
                into[:, torch.from_numpy(frame.counts > 0)] = coils.compression @ lines[..., x]
            if data.any():
                solved = self._problem(coils.maps[x, 0], masks, data=resized(data, grid), axes=(-2, -1), noise=level)
                out[:, 0, ..., x] = resized(kernel("centred_fft")(solved, (1, 2)), shape[:2])
        return out

    def _problem(self, maps: Tensor, masks: Tensor, *, data: Tensor, axes: tuple[int, ...], noise: float) -> Tensor:
        model = CartesianSeries(maps, masks, axes)
        rhs = model.adjoint(model.centre_first(data))
        part = math.sqrt(float(masks.double().mean()))
        return model.centre_middle(self._solve(model, rhs, noise * part).x)

    def _told(self, frame: Frame, kspace: Tensor, *, n_frames: int, n_coils: int) -> Frame:
        promised = self._n_frames[frame.key.encoding]
        short = n_frames < promised
        advice = f"Solved together with {n_frames - 1} other frames of its series."
        missing = f"Only {n_frames} of {promised} frames of this series were measured: movement may be smoothed."
        evidence = f"{(frame.counts > 0).mean():.1%} of the lines measured, {n_coils} virtual coils"
        verdict = Verdict(
            check=f"mri.{self._name}",
            level=Level.FLAG if short else Level.PASS,
            advice=missing if short else advice,
            value=float(n_frames),
            limit=float(promised),
            unit="frames",
            evidence=f"{evidence}, {self.n_iterations} iterations",
        )
        return replace(
            frame,
            kspace=kspace,
            counts=np.ones_like(frame.counts),
            combined=True,
            noise_gain=frame.noise_gain * sampling_gain(frame.counts),
            verdicts=(*frame.verdicts, verdict),
            notes={**frame.notes, "method": f"mri.{self._name}", "sampling": evidence},
        )


@dataclass(kw_only=True)
class KtVariation(_Dynamic):
    """Temporal total variation: each pixel changes seldom. Contrast uptake, perfusion.

    References
    ----------
    Feng et al. (GRASP), Magn Reson Med 2014;72:707, DOI 10.1002/mrm.24980.
    """

    _name = "kt_tv"

    def _solve(self, model: CartesianSeries, rhs: Tensor, noise: float) -> Solution:
        prior = TemporalVariation(self.weight * noise)
        return fista(model.gram, rhs, prior, step=1.0, n_iterations=self.n_iterations, start=model.still(rhs))


@dataclass(kw_only=True)
class KtSparse(_Dynamic):
    """k-t SPARSE-SENSE: each pixel's course has few frequencies; its mean is free. Cine.

    References
    ----------
    Otazo et al., Magn Reson Med 2010;64:767, DOI 10.1002/mrm.22463.
    """

    _name = "kt_sparse"

    def _solve(self, model: CartesianSeries, rhs: Tensor, noise: float) -> Solution:
        prior = TemporalFourierSparsity(self.weight * noise)
        return fista(model.gram, rhs, prior, step=1.0, n_iterations=self.n_iterations, start=model.still(rhs))


@dataclass(kw_only=True)
class KtLowRank(_Dynamic):
    """Locally low rank: the courses of neighbouring pixels lie in few dimensions. Cine, parameter maps.

    References
    ----------
    Trzasko and Manduca, Proc ISMRM 2011:4371; Zhang et al., Magn Reson Med 2015;73:655, DOI 10.1002/mrm.25161.
    """

    weight: float = 0.5
    """Weight of the prior, in units of the largest singular value that a block of noise has."""
    block: int = 8
    """Side of a block [pixels]."""

    _name = "kt_low_rank"

    def _rules(self) -> Sequence[tuple[str, bool, str]]:
        return (*super()._rules(), ("block", self.block >= 2, "at least 2"))

    def _solve(self, model: CartesianSeries, rhs: Tensor, noise: float) -> Solution:
        prior = LocallyLowRank(self.weight * noise * _edge(self.block**2, len(rhs)), block=self.block)
        return fista(model.gram, rhs, prior, step=1.0, n_iterations=self.n_iterations, start=model.still(rhs))


@dataclass(kw_only=True)
class LowRankSparse(_Dynamic):
    """Low rank plus sparse: a background of few dimensions, and what moves on it with few frequencies.

    Both parts are one vector; the normal operator acts on their sum, so the largest eigenvalue is 2.

    References
    ----------
    Otazo et al., Magn Reson Med 2015;73:1125, DOI 10.1002/mrm.25240; as accelerated proximal gradients: Lin and
    Fessler, IEEE Trans Comput Imaging 2019;5:17, DOI 10.1109/TCI.2018.2882089.
    """

    weight: float = 1.0
    """Weight of the sparse part, in units of the noise in the zero-filled images."""
    low_rank: float = 1.0
    """Weight of the low-rank part, in units of the largest singular value that the noise has."""

    _name = "low_rank_sparse"

    def _rules(self) -> Sequence[tuple[str, bool, str]]:
        return (*super()._rules(), ("low_rank", self.low_rank >= 0, "0 or more"))

    def _solve(self, model: CartesianSeries, rhs: Tensor, noise: float) -> Solution:
        background = LowRank(self.low_rank * noise * _edge(rhs[0].numel(), len(rhs)))
        movement = TemporalFourierSparsity(self.weight * noise, free=0)

        def gram(parts: Tensor) -> Tensor:
            return model.gram(parts[0] + parts[1]).expand(parts.shape).clone()

        def prox(parts: Tensor, step: float) -> Tensor:
            return torch.stack([background(parts[0], step), movement(parts[1], step)])

        start = model.still(rhs)
        start = torch.stack([start, torch.zeros_like(start)])
        twice = rhs.expand(start.shape)
        both = fista(gram, twice, prox, step=0.5, n_iterations=self.n_iterations, start=start)
        return replace(both, x=both.x.sum(0))


def _edge(rows: int, columns: int) -> float:
    """Return the largest singular value of a matrix of unit noise (Marchenko and Pastur's edge)."""
    return math.sqrt(rows) + math.sqrt(columns)


def _level(series: _Series) -> float:
    return float(np.sqrt(np.mean(np.square(series.noise))))


def _masks(series: _Series) -> Tensor:
    """Return which lines each frame measured (frame, k2, k1)."""
    return torch.from_numpy(np.stack([frame.counts > 0 for frame in series.frames])).to(series.total.device)


def _filled(lines: Tensor, counts: NDArray[np.uint16]) -> Tensor:
    """Put measured lines (coil, line, x) back into k-space (coil, k2, k1, x)."""
    out = lines.new_zeros((lines.shape[0], *counts.shape, lines.shape[2]))
    out[:, torch.from_numpy(counts > 0)] = lines
    return out
