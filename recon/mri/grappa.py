"""GRAPPA: the lines that were not measured are made of their measured neighbours in all coils."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from acquisition.errors import ConfigError, HeaderError
from acquisition.items import Item
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from kernels.registry import kernel
from recon.mri.cache import TensorCache
from recon.mri.items import Calibration, Frame, FrameKey
from recon.mri.pattern import MAX_ACCELERATION, Pattern, as_ranges, detect, measured_lines
from recon.mri.space import spaces

logger = logging.getLogger(__name__)

_READOUT = 128  # samples around the centre of k-space along the readout that weights are fitted on: the rest adds noise
_WEIGHTS_BYTES = 512 << 20  # hybrid weights that are kept; more slices are expanded again from their kernel


@dataclass(frozen=True, slots=True, kw_only=True)
class _Weights:
    """What was learnt from one calibration."""

    kernel: Tensor
    """(tap, k0, coil, offset, target coil)."""
    error: float
    """Relative error of the fit."""
    n_lines: int
    """Calibration lines."""
    source: FrameKey
    """Where the calibration was measured."""


@dataclass(kw_only=True)
class Grappa:
    """Fill a regularly undersampled frame (R = 1 to 4 along k1); a fully sampled frame passes.

    Weights are fitted in k-space as soon as a slice's calibration arrives, transformed along the readout, and
    applied in hybrid space (k1, x) to all x at once. Measured lines are never changed. Weights serve every
    repetition and contrast of their slice that brings no calibration of its own. Beyond the last measured line
    neighbours count as zero. A frame that cannot be filled goes on with zeros, and a HOLD says so.

    References
    ----------
    Griswold et al., Magn Reson Med 2002;47:1202, DOI 10.1002/mrm.10171.
    """

    kernel: tuple[int, int] = (4, 5)
    """Measured lines (even) and samples along the readout (odd) that make one sample; lines that would span more than
    half of the calibration are left out."""
    regularisation: float = 3e-4
    """Tikhonov weight, relative to the mean power of a source sample."""
    flag_above: float = 0.5
    """Relative error of the fit from which the image is marked."""

    _weights: dict[FrameKey, _Weights] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self.kernel = (int(self.kernel[0]), int(self.kernel[1])) if len(self.kernel) == 2 else self.kernel
        taps, width = self.kernel if len(self.kernel) == 2 else (0, 0)
        if taps < 2 or taps % 2 or width < 1 or width % 2 == 0:
            raise ConfigError(
                "mri.grappa kernel",
                expected="an even number of lines and an odd number of samples",
                got=str(self.kernel),
            )
        if not self.regularisation >= 0:
            raise ConfigError("mri.grappa regularisation", expected="a number >= 0", got=str(self.regularisation))
        if not self.flag_above > 0:
            raise ConfigError("mri.grappa flag_above", expected="a number above 0", got=str(self.flag_above))

    def open(self, scan: Scan) -> None:
        """Check that the header's undersampling is one that this step undoes.

        Raises
        ------
        HeaderError
            Undersampling along k2, of a fraction, or of more than 4.
        """
        self._uid, self._spaces = scan.uid, spaces(scan)
        for i, space in enumerate(self._spaces):
            along_k2, along_k1 = space.encoding.acceleration
            if along_k2 > 1 or along_k1 > MAX_ACCELERATION or along_k1 != round(along_k1):
                raise HeaderError(
                    f"header encoding {i} acceleration",
                    expected=f"1 along k2 and a whole number up to {MAX_ACCELERATION} along k1",
                    got=f"{along_k2:g} along k2 and {along_k1:g} along k1",
                    action="choose a protocol that undoes this undersampling",
                )
        self._weights, self._calibrations = {}, dict[FrameKey, Calibration]()
        self._hybrid = TensorCache(_WEIGHTS_BYTES)

    def feed(self, item: Item) -> Iterator[Item]:
        """Learn from calibrations and pass them on; fill frames."""
        if isinstance(item, Calibration):
            self._learn(item)
            yield item
        elif isinstance(item, Frame):
            yield self._fill(item)
        else:
            yield item

    def close(self) -> Iterator[Item]:
        """Nothing is left to do."""
        return iter(())

    def _learn(self, calibration: Calibration) -> None:
        """Remember a calibration; fit at once when the header says that it will be needed."""
        key = calibration.key
        for old in [k for k in self._calibrations if k._replace(repetition=0) == key._replace(repetition=0)]:
            del self._calibrations[old]  # memory stays bounded however many repetitions bring their own lines
            self._weights.pop(old, None)
            self._hybrid.drop(old)
        self._calibrations[key] = calibration
        declared = round(self._spaces[key.encoding].encoding.acceleration[1])
        if declared > 1 and self._obstacle(calibration, declared) is None:
            self._prepared(key, declared)

    def _source(self, key: FrameKey) -> FrameKey | None:
        """Return the calibration for a frame: its own, else the latest of its slice."""
        if key in self._calibrations:
            return key
        same = [k for k in self._calibrations if (k.encoding, k.slice) == (key.encoding, key.slice)]
        return same[-1] if same else None

    def _obstacle(self, calibration: Calibration | None, acceleration: int) -> str | None:
        """Return why lines cannot be made from this calibration; None when they can."""
        if calibration is None:
            return "no calibration lines were measured"
        n_coils, _, n_lines, n_x = calibration.kspace.shape
        taps, width = self._taps(n_lines, acceleration), self.kernel[1]
        if n_coils < 2:
            return "one coil cannot tell aliased places apart"
        if n_lines < (needed := (taps - 1) * acceleration + 1):
            return f"{n_lines} calibration lines, at least {needed} needed"
        if n_x < width:
            return f"{n_x} samples along the readout, at least {width} needed"
        return None

    def _prepared(self, source: FrameKey, acceleration: int) -> tuple[_Weights, Tensor]:
        """Return the weights of one calibration, fitted and expanded along x when they are not yet."""
        known = self._weights.get(source)
        if known is None or known.kernel.shape[3] != acceleration - 1:
            self._hybrid.drop(source)
            known = self._weights[source] = self._fit(self._calibrations[source], acceleration)
        n_x = self._calibrations[source].kspace.shape[3]
        return known, self._hybrid.get(source, lambda: kernel("grappa_hybrid")(known.kernel, n_x))

    def _fit(self, calibration: Calibration, acceleration: int) -> _Weights:
        acs = kernel("centred_fft")(calibration.kspace, (3,))
        first = max(0, acs.shape[3] // 2 - _READOUT // 2)
        weights, error = kernel("grappa_calibrate")(
            acs[..., first : first + _READOUT],
            acceleration,
            kernel=(self._taps(acs.shape[2], acceleration), self.kernel[1]),
            regularisation=self.regularisation,
        )
        logger.info("scan %s: GRAPPA R=%d for %s, error %.3f", self._uid, acceleration, tuple(calibration.key), error)
        return _Weights(kernel=weights, error=error, n_lines=acs.shape[2], source=calibration.key)

    def _taps(self, n_lines: int, acceleration: int) -> int:
        """Return how many lines make one: fewer than asked where they would span more than half of the calibration."""
        taps = self.kernel[0]
        while taps > 2 and (taps - 1) * acceleration + 1 > n_lines // 2:
            taps -= 2
        return taps

    def _fill(self, frame: Frame) -> Frame:
        space = self._spaces[frame.key.encoding]
        declared = round(space.encoding.acceleration[1])
        pattern = detect(measured_lines(frame.counts), declared)
        if pattern is None:
            return held(frame, "the measured lines follow no regular pattern")
        if pattern.acceleration == 1:
            return replace(frame, notes={**frame.notes, "acceleration": "1"})
        source = self._source(frame.key)
        calibration = None if source is None else self._calibrations[source]
        obstacle = self._obstacle(calibration, pattern.acceleration)
        if obstacle or source is None:
            return held(frame, f"R={pattern.acceleration}: {obstacle}")
        weights, hybrid = self._prepared(source, pattern.acceleration)
        if hybrid.shape[1] != weights.kernel.shape[0] * frame.kspace.shape[0]:
            return held(frame, "the calibration was measured with other coils")
        fill(frame, pattern, hybrid, within=space.y.indices)
        told = replace(self._told(frame, weights, pattern, declared), unfolding=hybrid)
        before, lines = frame.replica, replace(frame, kspace=frame.kspace.new_empty(0))
        if before is None:
            return told

        def replica(kspace: Tensor) -> Tensor:
            other = replace(lines, kspace=before(kspace))
            fill(other, pattern, hybrid, within=space.y.indices)
            return other.kspace

        return replace(told, replica=replica)

    def _told(self, frame: Frame, weights: _Weights, pattern: Pattern, declared: int) -> Frame:
        """Attach what was done to the frame."""
        r = pattern.acceleration
        notes = {
            "acceleration": str(r),
            "grappa": f"kernel {weights.kernel.shape[0]}x{self.kernel[1]}, regularisation {self.regularisation:g}, "
            f"{weights.n_lines} calibration lines, error {weights.error:.3f}",
        }
        poor = weights.error > self.flag_above
        advice = "The calibration lines hardly predict each other: look for residual aliasing."
        verdicts = [
            Verdict(
                check="mri.grappa",
                level=Level.FLAG if poor else Level.PASS,
                advice=advice if poor else f"Undersampling of {r} undone.",
                value=weights.error,
                limit=self.flag_above,
                evidence=f"R={r}, {notes['grappa']}, calibration {tuple(weights.source)}",
            )
        ]
        if r != declared:
            advice = f"The header says acceleration {declared}, the lines say {r}: the lines were believed."
            evidence = f"regular lines {as_ranges(pattern.lines[:4])} ..."
            verdicts.append(Verdict(check="mri.grappa", level=Level.FLAG, advice=advice, value=r, evidence=evidence))
        return replace(frame, acceleration=r, verdicts=(*frame.verdicts, *verdicts), notes={**frame.notes, **notes})


def fill(frame: Frame, pattern: Pattern, weights: Tensor, *, within: range) -> None:
    """Write the lines that were not measured into the frame's k-space.

    Parameters
    ----------
    frame
        Its k-space (coil, k2, k1, x) is changed in place.
    pattern
        Regular lines along k1.
    weights
        (x, tap * coil, offset * coil), see `kernels.tensor.grappa_hybrid`.
    within
        Matrix indices that the scan covers; nothing is made outside, where partial Fourier left lines out.
    """
    n_coils, _, n_k1, _ = frame.kspace.shape
    r, taps = pattern.acceleration, weights.shape[1] // n_coils
    lines = np.arange(pattern.offset - taps // 2 * r, n_k1 + taps // 2 * r, r)  # beyond both ends
    inside = (lines >= 0) & (lines < n_k1)
    targets = lines[taps // 2 - 1 : len(lines) - taps // 2, None] + np.arange(1, r)  # block, offset
    empty = (frame.counts == 0).all(axis=0)
    wanted = np.array([[t in within and bool(empty[t]) for t in row] for row in targets])
    to = torch.from_numpy(targets[wanted]).to(frame.kspace.device)
    chosen = torch.from_numpy(wanted).to(frame.kspace.device)
    sources = torch.from_numpy(lines[inside]).to(frame.kspace.device)
    padded = frame.kspace.new_zeros((frame.kspace.shape[3], len(lines), n_coils))
    for plane in frame.kspace.unbind(1):
        padded[:, torch.from_numpy(inside).to(plane.device)] = plane.index_select(1, sources).permute(2, 1, 0)
        made = kernel("grappa_apply")(padded, weights)  # x, block, offset, coil
        plane.index_copy_(1, to, made[:, chosen].permute(2, 1, 0))


def held(frame: Frame, why: str) -> Frame:
    """Mark a frame that goes on with zeros where lines were not measured."""
    verdict = Verdict(
        check="mri.grappa",
        level=Level.HOLD,
        advice=f"Cannot unalias: {why}. The image is the zero-filled one: do not read it, repeat the scan.",
        evidence=f"frame {tuple(frame.key)}, {int(np.count_nonzero(frame.counts))} lines measured",
    )
    return replace(frame, verdicts=(*frame.verdicts, verdict), notes={**frame.notes, "grappa": f"not done: {why}"})
