"""Velocity from phase contrast: the phase between a flow-encoded image and its reference."""

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

_NEAR_ALIAS = 0.95
_FEWEST = 100


@dataclass(kw_only=True)
class VelocityMap(Gathered):
    """``v = venc / pi * angle(conj(I_0) I_n)`` for each encoded image n = 1 ...; output ``velocity_n`` [cm/s].

    Three encodings also give ``speed``. What eddy currents add is a plane of phase over the still tissue: bright
    voxels whose phase is the same in every heart phase cannot be known slice by slice, so the plane is fitted
    robustly to all bright voxels, and those that do not follow it (blood) count ever less.

    References
    ----------
    Bryant et al., J Comput Assist Tomogr 1984;8:588, DOI 10.1097/00004728-198408000-00002; background: Walker et al.,
    J Magn Reson Imaging 1993;3:521, DOI 10.1002/jmri.1880030315.
    """

    counter: str = "set"
    """Counter of the encodings; 0 is the reference."""
    venc_cm_per_s: float = 0.0
    """Velocity that turns the phase by pi [cm/s]; 0 takes the header's user parameter ``venc``."""
    background: str = "plane"
    """What eddy currents left: ``plane`` takes a fitted one off, ``none`` leaves it."""
    threshold: float = 0.1
    """Part of the reference's 99th percentile below which a voxel is background."""

    _name = "map.velocity"
    _kinds: ClassVar = (Kind.COMPLEX,)

    def _rules(self) -> Sequence[tuple[str, bool, str]]:
        return (
            *super()._rules(),
            ("venc_cm_per_s", self.venc_cm_per_s >= 0, "0 or more"),
            ("background", self.background in ("plane", "none"), "plane or none"),
            ("threshold", 0 <= self.threshold < 1, "0 to below 1"),
        )

    def _expected(self, scan: Scan) -> int:
        given = {k.lower(): v for k, v in scan.user_parameters.items()}.get("venc", 0.0)
        self._venc = self.venc_cm_per_s or (float(given) if not isinstance(given, str) else 0.0)
        encodings = scan.require_mr().encodings
        n = 1 + max((e.limit(self.counter).maximum for e in encodings), default=0)
        if not self._venc > 0 or n < 2:
            raise HeaderError(
                "header venc and encodings",
                expected=f"a user parameter venc [cm/s], and two or more images by the counter {self.counter}",
                got=f"venc {self._venc:g}, {n} images",
                action=f"give venc_cm_per_s in the protocol, or choose one without {self._name}",
            )
        return n

    def _made(self, images: list[Image]) -> Iterable[Image]:
        reference = images[0].data
        inside = foreground(np.abs(reference), self.threshold)
        parts = []
        for n, image in enumerate(images[1:], 1):
            turned = reference.conj() * image.data
            if self.background == "plane":
                turned = turned * np.exp(-1j * still_plane(turned, inside))
            velocity = np.where(inside, np.angle(turned) * self._venc / np.pi, 0)
            parts.append(velocity)
            told = (self._verdict(velocity, n),)
            yield mapped(images, velocity, output=f"velocity_{n}", unit="cm/s", kind=Kind.REAL, verdicts=told)
        if len(parts) == 3:
            yield mapped(images, np.sqrt(np.square(parts).sum(axis=0)), output="speed", unit="cm/s")

    def _verdict(self, velocity: NDArray, n: int) -> Verdict:
        most = float(np.percentile(np.abs(velocity), 99.9))
        aliases = most > _NEAR_ALIAS * self._venc
        return Verdict(
            check=self._name,
            level=Level.FLAG if aliases else Level.PASS,
            advice="Velocities reach venc and may be folded: repeat with a larger venc."
            if aliases
            else "Velocities stay below venc.",
            value=most,
            limit=self._venc,
            unit="cm/s",
            evidence=f"encoding {n}, 99.9th percentile",
        )


def still_plane(turned: NDArray[np.complexfloating], inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the plane of phase [rad] that the bright voxels of (..., z, y, x) follow, found by Tukey's biweight.

    Zero where fewer than 100 voxels are bright.
    """
    ones = np.ones(turned.shape)
    y, x = (np.linspace(-0.5, 0.5, n) for n in turned.shape[-2:])
    basis = np.stack([ones, ones * y[:, None], ones * x], axis=-1)
    if inside.sum() < _FEWEST:
        return np.zeros(turned.shape)
    a, size = basis[inside], np.abs(turned[inside])
    middle = np.angle((turned[inside]).sum())
    phase = np.angle(turned[inside] * np.exp(-1j * middle))
    weight = size
    for _ in range(10):
        normal = a.T @ (a * weight[:, None])
        plane = np.linalg.solve(normal, a.T @ (weight * phase))
        rest = phase - a @ plane
        scale = 4.685 * 1.4826 * max(float(np.median(np.abs(rest))), 1e-6)
        weight = size * np.clip(1 - (rest / scale) ** 2, 0, None) ** 2
    return np.asarray(middle + basis @ plane)
