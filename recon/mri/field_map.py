"""Off-resonance from two echo times of the same slice, handed on with the samples."""

from __future__ import annotations

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
from recon.mri.items import FrameKey
from recon.mri.noncartesian import samples_of, shape_of
from recon.mri.spokes import Spokes
from recon.mri.trajectory import density
from recon.nufft import Nufft

_NEAR_WRAP = 0.9
_MATTERS = 0.1


@dataclass(kw_only=True)
class FieldMap:
    """Estimate the off-resonance of each slice from its first two contrasts, for the Steps that undo its blur.

    ``f = angle(sum_coils conj(I_0) I_1) / (2 pi (TE_1 - TE_0))`` on images of `lines` k-space lines, smoothed with the
    signal's weight so that air takes the value of what lies beside it. A frame waits for the slice's second contrast.

    References
    ----------
    Schneider and Glover, Magn Reson Med 1991;18:335, DOI 10.1002/mrm.1910180210.
    """

    lines: int = 48
    """Lines in the middle of k-space that the map is made of."""

    def __post_init__(self) -> None:
        if self.lines < 8:
            raise ConfigError("mri.field_map lines", expected="at least 8", got=str(self.lines))

    def open(self, scan: Scan) -> None:
        """Read the echo times.

        Raises
        ------
        HeaderError
            There are not two.
        """
        te_s = scan.require_mr().te_s
        if len(te_s) < 2 or not te_s[1] > te_s[0]:
            raise HeaderError(
                "header sequenceParameters TE",
                expected="two growing echo times",
                got=str(te_s),
                action="measure two echoes, or take mri.field_map out of the protocol",
            )
        self._delta_s = te_s[1] - te_s[0]
        self._waiting: dict[FrameKey, Spokes] = {}
        self._known: dict[FrameKey, tuple[NDArray[np.float32], Verdict]] = {}

    def feed(self, item: Item) -> Iterator[Item]:
        """Add the map to frames of slices; other items pass."""
        if not isinstance(item, Spokes) or item.traj.shape[2] != 2:
            yield item
            return
        slice_key = item.key._replace(contrast=0)
        if item.key.contrast == 0:
            self._waiting[slice_key] = item
            return
        first = self._waiting.pop(slice_key, None)
        if item.key.contrast == 1 and first is not None:
            self._known[slice_key] = self._estimate(first, item)
            yield self._with_map(first)
        yield self._with_map(item)

    def close(self) -> Iterator[Item]:
        """Let the frames go whose second contrast never came."""
        for spokes in self._waiting.values():
            yield self._with_map(spokes)

    def _with_map(self, spokes: Spokes) -> Spokes:
        known = self._known.get(spokes.key._replace(contrast=0))
        if known is None:
            verdict = Verdict(
                check="mri.field_map",
                level=Level.FLAG,
                advice="The second echo did not come: blur by off-resonance was left in.",
            )
            return replace(spokes, verdicts=(*spokes.verdicts, verdict))
        return replace(spokes, field_hz=known[0], verdicts=(*spokes.verdicts, known[1]))

    def _estimate(self, first: Spokes, second: Spokes) -> tuple[NDArray[np.float32], Verdict]:
        one, two = self._low(first), self._low(second)
        product = (one.conj() * two).sum(0)
        field = (_spread(product).angle() / (2 * torch.pi * self._delta_s)).numpy().astype(np.float32)
        inside = product.abs().numpy() > _MATTERS * float(product.abs().max())
        most = float(np.abs(field[inside]).max()) if inside.any() else 0.0
        limit = 0.5 / self._delta_s
        wraps = most > _NEAR_WRAP * limit
        verdict = Verdict(
            check="mri.field_map",
            level=Level.FLAG if wraps else Level.PASS,
            advice="Off-resonance may exceed what the echo times tell apart: look for blur."
            if wraps
            else "Off-resonance was measured and is undone.",
            value=most,
            limit=limit,
            unit="Hz",
            evidence=f"echo times {1e3 * self._delta_s:.2f} ms apart",
        )
        return field, verdict

    def _low(self, spokes: Spokes) -> Tensor:
        """Return coil images of the middle of k-space, Hann window."""
        shape = shape_of(spokes)
        weights = torch.from_numpy(density(spokes.traj, shape).ravel())
        images = Nufft(spokes.traj, shape, n_coils=spokes.data.shape[1]).adjoint(samples_of(spokes) * weights)
        region = kernel("centred_fft")(images, (1, 2))
        for axis, n in ((1, shape[0]), (2, shape[1])):
            k = (torch.arange(n) - n // 2).abs() / (min(self.lines, n) / 2)
            window = torch.where(k < 1, torch.cos(k * torch.pi / 2).square(), torch.zeros_like(k))
            region = region * window.view([-1 if a == axis else 1 for a in range(3)])
        return kernel("centred_ifft")(region, (1, 2))


def _spread(product: Tensor) -> Tensor:
    """Return the product smoothed ever wider until it has signal everywhere."""
    out = product
    spectrum = kernel("centred_fft")(product, (0, 1))
    ny, nx = product.shape
    k = torch.hypot(
        *torch.meshgrid(torch.arange(ny).float() - ny // 2, torch.arange(nx).float() - nx // 2, indexing="ij")
    )
    floor = 0.05 * float(product.abs().max())
    for width in (12.0, 6.0, 3.0, 1.5):
        wide = kernel("centred_ifft")(spectrum * torch.exp(-((k / width) ** 2)), (0, 1))
        weight = (out.abs() / floor).clamp(max=1)
        out = out * weight + wide * (1 - weight)
    return out
