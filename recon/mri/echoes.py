"""Several echoes of one excitation: one image of them all, and the field that turned their phase."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import HeaderError
from acquisition.items import Image, Kind
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from recon.mri.gathered import Gathered, foreground, mapped

_NEAR_WRAP = 0.9


@dataclass(kw_only=True)
class CombineEchoes(Gathered):
    """Root of the mean square over the echoes: the SNR of all of them, their contrasts mixed. Output ``echoes``.

    References
    ----------
    Held et al., Skeletal Radiol 2003 (MEDIC); weights as for coils: Roemer et al., Magn Reson Med 1990;16:192,
    DOI 10.1002/mrm.1910160203.
    """

    _name = "image.echoes"

    def _expected(self, scan: Scan) -> int:
        return len(echo_times(scan, self._name))

    def _made(self, images: list[Image]) -> Iterable[Image]:
        power = np.zeros(images[0].data.shape)
        for image in images:
            power += np.abs(image.data).astype(np.float64) ** 2
        yield mapped(images, np.sqrt(power / len(images)), output="echoes", unit=images[0].unit)


@dataclass(kw_only=True)
class FieldHz(Gathered):
    """Off-resonance from complex echoes; output ``field`` [Hz], 0 in the background.

    The two echoes nearest in time give the phase without doubt up to 1 / (2 dTE); each further echo is unwrapped by
    what the ones before predict, and all together give a line weighted by the signal's power.

    References
    ----------
    Schneider and Glover, Magn Reson Med 1991;18:335, DOI 10.1002/mrm.1910180210; more echoes: Dagher et al., Magn
    Reson Med 2014;71:105, DOI 10.1002/mrm.24628.
    """

    threshold: float = 0.05
    """Part of the first echo's 99th percentile below which a voxel is background."""

    _name = "map.field"
    _kinds: ClassVar = (Kind.COMPLEX,)

    def _rules(self) -> Sequence[tuple[str, bool, str]]:
        return (*super()._rules(), ("threshold", 0 <= self.threshold < 1, "0 to below 1"))

    def _expected(self, scan: Scan) -> int:
        self._te_s = echo_times(scan, self._name)
        return len(self._te_s)

    def _made(self, images: list[Image]) -> Iterable[Image]:
        series = np.stack([i.data for i in images])
        inside = foreground(np.abs(series[0]), self.threshold)
        field = np.where(inside, field_hz(series, self._te_s), 0)
        limit = 0.5 / float(np.diff(self._te_s).min())
        most = float(np.percentile(np.abs(field[inside]), 99)) if inside.any() else 0.0
        wraps = most > _NEAR_WRAP * limit
        verdict = Verdict(
            check=self._name,
            level=Level.FLAG if wraps else Level.PASS,
            advice="Off-resonance may be beyond what the echoes tell apart." if wraps else "Off-resonance measured.",
            value=most,
            limit=limit,
            unit="Hz",
            evidence=f"99th percentile over {int(inside.sum())} voxels, {len(self._te_s)} echoes",
        )
        yield mapped(images, field, output="field", unit="Hz", kind=Kind.REAL, verdicts=(verdict,))


def echo_times(scan: Scan, name: str) -> NDArray[np.float64]:
    """Return the header's echo times [s].

    Raises
    ------
    HeaderError
        There are fewer than two, or they do not grow.
    """
    te_s = np.asarray(scan.require_mr().te_s)
    if len(te_s) < 2 or (np.diff(te_s) <= 0).any():
        raise HeaderError(
            "header TE",
            expected="two or more growing echo times",
            got=", ".join(f"{1e3 * t:g} ms" for t in te_s) or "none",
            action=f"choose a protocol without {name}",
        )
    return te_s


def field_hz(series: NDArray[np.complexfloating], te_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the off-resonance (...) [Hz] of complex echoes (echo, ...)."""
    nearest = int(np.diff(te_s).argmin())
    step = series[nearest].conj() * series[nearest + 1]
    rate = np.angle(step) / (te_s[nearest + 1] - te_s[nearest])  # rad/s
    base = series[nearest]
    total = np.zeros(base.shape)
    above = np.zeros(base.shape)
    order = sorted((i for i in range(len(te_s)) if i != nearest), key=lambda i: abs(te_s[i] - te_s[nearest]))
    for i in order:
        dt = te_s[i] - te_s[nearest]
        turned = base.conj() * series[i]
        phase = rate * dt + np.angle(turned * np.exp(-1j * rate * dt))  # the wrap that lies nearest the prediction
        weight = np.abs(turned)
        total += weight * dt**2
        above += weight * dt * phase
        rate = above / np.maximum(total, 1e-30)
    return np.asarray(rate / (2 * np.pi))
