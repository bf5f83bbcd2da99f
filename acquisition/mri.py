"""The first step of every MR scan: make the noise white and equally strong in all coils.

What follows may then weigh coils by signal alone, and pixel values become multiples of the noise.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from acquisition.errors import ConfigError, DataError
from acquisition.items import Flag, Item, Readouts
from acquisition.noise import SAMPLES_PER_COIL, NoiseModel, NoiseSum, bandwidth_scale, identity_model
from acquisition.scan import Encoding, Scan
from acquisition.verdict import Level, Verdict
from kernels.registry import kernel

logger = logging.getLogger(__name__)

FALLBACKS = ("none", "corners")
_HELD_READOUTS = 64  # so long does the corner estimate wait for the corners of k-space
_BROKEN_HOLD = 0.01  # more broken readouts than this part: ask a person


@dataclass(kw_only=True)
class Prewhiten:
    """Apply ``L^-1`` of the noise covariance ``Psi = L L^H`` to each readout as it arrives.

    Noise readouts are summed up and end here; with the first other readout the matrix is fixed, a `NoiseModel`
    and a Verdict on it go ahead, and each block is whitened by one matrix product. Readouts with NaN or infinite
    samples are taken out and reported when the scan closes. The blocks given out share one buffer: each is valid
    until the next is fed.
    """

    fallback: str = "none"
    """Without noise scan: ``none`` leaves the data as they are, ``corners`` takes the outermost k-space."""
    receiver_noise_bandwidth: float = 0.79
    """Equivalent noise bandwidth of the receiver, part of the nominal one (Siemens: 0.79)."""

    _noise: NoiseSum = field(default_factory=NoiseSum, init=False, repr=False)
    _model: NoiseModel | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.fallback not in FALLBACKS:
            raise ConfigError("mri.prewhiten fallback", expected=" or ".join(FALLBACKS), got=repr(self.fallback))
        if not 0 < self.receiver_noise_bandwidth <= 1:
            raise ConfigError(
                "mri.prewhiten receiver_noise_bandwidth",
                expected="a number above 0, at most 1",
                got=str(self.receiver_noise_bandwidth),
            )

    def open(self, scan: Scan) -> None:
        """Forget the scan before; the buffers stay."""
        self._uid, self._encodings = scan.uid, scan.require_mr().encodings
        self._noise, self._model = NoiseSum(), None
        self._corners, self._held, self._n_held = NoiseSum(), list[Readouts](), 0
        self._broken, self._n_readouts, self._late_noise = list[str](), 0, 0
        self._whiten = kernel("whiten", "cpu")
        self._in = self._out = torch.empty((0, 0, 0), dtype=torch.complex64)

    def feed(self, item: Item) -> Iterator[Item]:
        """Take noise readouts; give out the others whitened, behind the model that was used."""
        if not isinstance(item, Readouts):
            yield item
            return
        noise = item.has(Flag.NOISE)
        if noise.any():
            self._collect(item.select(noise))
            item = item.select(~noise)
        item = self._without_broken(item)
        if len(item) == 0:
            return
        if self._model is None and not self._may_decide(item):
            return
        if self._model is None:
            yield from self._decide(item)
        for block in (*self._unheld(), item):
            yield self._apply(block)

    def close(self) -> Iterator[Item]:
        """Give out what still waits for a corner estimate, and the report on broken readouts."""
        if self._model is None and self._held:
            yield from self._decide(self._held[0])
            for block in self._unheld():
                yield self._apply(block)
        if self._broken:
            yield self._broken_verdict()
        if self._late_noise:
            advice = "Noise was measured again after imaging began: only the first noise scan was used."
            yield Verdict(check="mri.noise", level=Level.FLAG, advice=advice, value=float(self._late_noise))

    def _collect(self, block: Readouts) -> None:
        if self._model is not None:
            self._late_noise += len(block)
            return
        pre, post = int(block.head["discard_pre"][0]), int(block.head["discard_post"][0])
        self._noise.add(block.data[:, :, pre : block.data.shape[2] - post])
        self._noise.dwell_us = float(block.head["dwell_us"][0])

    def _without_broken(self, block: Readouts) -> Readouts:
        self._n_readouts += len(block)
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(block.data.sum()):  # one pass; a sum that overflows is looked at below
                return block
        good = np.asarray(np.isfinite(block.data).all(axis=(1, 2)))
        self._broken += [f"readout {r['scan_counter']}, k1 {r['k1']}, slice {r['slice']}" for r in block.head[~good]]
        return block.select(good)

    def _may_decide(self, block: Readouts) -> bool:
        """Return whether the noise is known well enough; if not, keep `block` for later."""
        if self._noise.n_samples > 0 or self.fallback == "none":
            return True
        for corner in _corners(block, self._encodings):
            self._corners.add(corner)
        enough = self._corners.n_samples >= 4 * SAMPLES_PER_COIL * block.data.shape[1]
        if enough or self._n_held + len(block) > _HELD_READOUTS:
            return True
        self._held.append(replace(block, head=block.head.copy(), data=block.data.copy()))
        self._n_held += len(block)
        return False

    def _unheld(self) -> list[Readouts]:
        held, self._held = self._held, []
        return held

    def _decide(self, block: Readouts) -> Iterator[Item]:
        """Fix the whitening matrix for the rest of the scan."""
        n_coils = block.data.shape[1]
        self._model = self._choose(n_coils, float(block.head["dwell_us"][0]))
        self._matrix = torch.from_numpy(self._model.matrix)
        logger.info(
            "scan %s: noise from %s, %d coils, %d samples, diagonal ratio %.2f",
            *(self._uid, self._model.source, n_coils, self._model.n_samples, self._model.diagonal_ratio),
        )
        yield self._model
        yield _verdict(self._model)

    def _choose(self, n_coils: int, dwell_us: float) -> NoiseModel:
        if self._noise.n_samples and len(self._noise.total) != n_coils:
            return identity_model(n_coils, (f"noise scan of {len(self._noise.total)} coils, imaging with {n_coils}",))
        if self._noise.n_samples:
            scale = bandwidth_scale(self._noise.dwell_us, dwell_us, self.receiver_noise_bandwidth)
            return self._noise.model("noise scan", scale)
        if self._corners.n_samples:
            return self._corners.model("corners")
        return identity_model(n_coils, ("no noise scan",))

    def _apply(self, block: Readouts) -> Readouts:
        model = self._model
        if model is None or len(model.matrix) != block.data.shape[1]:
            raise DataError(
                f"readout {block.head['scan_counter'][0]}",
                expected=f"{0 if model is None else len(model.matrix)} coils like the readouts before",
                got=f"{block.data.shape[1]}",
                action="send one coil configuration per scan",
            )
        if model.source == "none":
            return block
        if self._out.shape[1:] != block.data.shape[1:] or len(self._out) < len(block):
            self._in, self._out = torch.empty((2, *block.data.shape), dtype=torch.complex64)
        n = len(block)
        np.copyto(self._in[:n].numpy(), block.data)  # received blocks may be read-only, which torch refuses
        return replace(block, data=self._whiten(self._matrix, self._in[:n], out=self._out[:n]).numpy())

    def _broken_verdict(self) -> Verdict:
        part = len(self._broken) / max(self._n_readouts, 1)
        return Verdict(
            check="mri.readouts",
            level=Level.HOLD if part > _BROKEN_HOLD else Level.FLAG,
            advice=f"{len(self._broken)} readouts held numbers that are not finite and were left out.",
            value=100 * part,
            limit=100 * _BROKEN_HOLD,
            unit="%",
            evidence="; ".join(self._broken[:20]),
        )


def _corners(block: Readouts, encodings: tuple[Encoding, ...]) -> Iterator[NDArray[np.complex64]]:
    """Yield the outermost eighth at both ends of the readouts that lie in the outer quarter along k1."""
    n = block.data.shape[2] // 8
    for row, data in zip(block.head, block.data, strict=True):
        if row["encoding"] < len(encodings) and n > 0:
            encoding = encodings[row["encoding"]]
            size, limit = encoding.matrix[1], encoding.limits.get("k1")
            centre = limit.center if limit else size // 2
            if abs(int(row["k1"]) - centre) >= 3 * size / 8:
                yield np.concatenate([data[None, :, :n], data[None, :, -n:]], axis=2)


def _verdict(model: NoiseModel) -> Verdict:
    """Say which covariance was used, and how good it is."""
    evidence = (
        f"{len(model.covariance)} coils, {model.n_samples} samples, diagonal max/min {model.diagonal_ratio:.2f}"
        f"{'; ' if model.defects else ''}{'; '.join(model.defects)}"
    )
    if not model.whitened:
        advice = f"{model.defects[0].capitalize()}: data not whitened, SNR units not available."
    elif model.source == "corners":
        advice = "No noise scan: noise estimated from the corners of k-space, SNR units are approximate."
    elif model.defects:
        advice = f"Noise scan is poor: {'; '.join(model.defects)}. Check the coil and repeat the noise scan."
    else:
        advice = "Noise whitened with the covariance of the noise scan."
    level = Level.PASS if model.source == "noise scan" and not model.defects else Level.FLAG
    return Verdict(check="mri.noise", level=level, advice=advice, value=model.diagonal_ratio, evidence=evidence)
