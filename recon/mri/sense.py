"""SENSE: regularly undersampled slices unfolded voxel by voxel, and exactly how much noise that costs."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from acquisition.errors import ReconError
from acquisition.items import Item
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from kernels.registry import kernel
from recon.mri.coilset import CoilOptions, CoilStore, sampling_gain
from recon.mri.gfactor import gfactor_image
from recon.mri.items import Calibration, Frame
from recon.mri.iterative import held
from recon.mri.pattern import Pattern, detect, measured_lines
from recon.mri.space import Space, spaces

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Sense(CoilOptions):
    """Unfold slices undersampled by 2 to 4 along k1: R unknowns per aliased voxel, solved at once for all.

    Only the regular lines enter; calibration lines give the maps. Direct, so a slice takes a few milliseconds; where
    the maps are wrong the fold stays sharp, which GRAPPA and iterations blur. The g-factor is exact, and its median
    and largest values over the object are in the Verdict.

    References
    ----------
    Pruessmann et al., Magn Reson Med 1999;42:952,
    DOI 10.1002/(SICI)1522-2594(199911)42:5<952::AID-MRM16>3.0.CO;2-S.
    """

    damping: float = 1e-3
    """Tikhonov weight, relative to the strongest coil vector."""
    gfactor: bool = False
    """Give a map of the g-factor of each frame as well; output ``gfactor``."""
    flag_above: float = 4.0
    """g-factor that 1 % of the object exceeds from which the image is marked."""

    _name = "sense"

    def _rules(self) -> Sequence[tuple[str, bool, str]]:
        return (
            *super()._rules(),
            ("n_sets", self.n_sets == 1, "1: unfolding knows one set of maps"),
            ("damping", self.damping >= 0, "0 or more"),
            ("flag_above", self.flag_above > 0, "above 0"),
        )

    def open(self, scan: Scan) -> None:
        """Forget the scan before."""
        self._uid, self._spaces, self._coils = scan.uid, spaces(scan), CoilStore(self)
        self._patient_position = scan.patient.position

    def feed(self, item: Item) -> Iterator[Item]:
        """Learn from calibrations, unfold frames; other items pass."""
        if isinstance(item, Calibration):
            self._coils.learn(item)
        elif isinstance(item, Frame):
            yield from self._unfolded(item, self._spaces[item.key.encoding])
        else:
            yield item

    def close(self) -> Iterator[Item]:
        """Nothing is left to do."""
        return iter(())

    def _unfolded(self, frame: Frame, space: Space) -> Iterator[Item]:
        pattern = detect(measured_lines(frame.counts), round(space.encoding.acceleration[1]))
        if space.is_3d or pattern is None:
            yield held(frame, "a volume" if space.is_3d else "the lines follow no regular pattern", self._name)
            return
        try:
            coils = self._coils.of(frame)
        except ReconError as error:
            yield held(frame, str(error), self._name)
            return
        r, n = pattern.acceleration, frame.kspace.shape[2]
        wide = r * math.ceil(coils.maps.shape[3] / r)
        maps = kernel("unit_norm")(kernel("upsample")(coils.maps[0], (wide,)))
        data = torch.einsum("vc,cyx->vxy", coils.compression, frame.kspace[:, 0])
        aliased, phase = _aliased(data, pattern, wide)
        image, g = unfolded(aliased, maps, phase, damping=self.damping)
        full = kernel("resize")(kernel("centred_fft")(image, (1,)), n, 1)
        frame.release()
        yield self._told(frame, full.T[None, None], g, r)
        if self.gfactor:
            yield gfactor_image(frame, g, space, self._patient_position)

    def _told(self, frame: Frame, kspace: Tensor, g: Tensor, r: int) -> Frame:
        inside = g[g > 0].cpu().numpy()
        middle, most = (float(np.percentile(inside, q)) if len(inside) else 0.0 for q in (50, 99))
        noisy = most > self.flag_above
        verdict = Verdict(
            check="mri.sense",
            level=Level.FLAG if noisy else Level.PASS,
            advice="Noise is much amplified where coils cannot tell folded places apart."
            if noisy
            else f"Undersampling of {r} undone.",
            value=most,
            limit=self.flag_above,
            evidence=f"g-factor over the object: median {middle:.2f}, 99th percentile {most:.2f}, R={r}",
        )
        counts = frame.counts.copy()
        return replace(
            frame,
            kspace=kspace,
            counts=np.ones_like(counts),
            combined=True,
            noise_gain=frame.noise_gain * sampling_gain(counts),
            verdicts=(*frame.verdicts, verdict),
            notes={**frame.notes, "method": "mri.sense", "g-factor": f"median {middle:.2f}, 99 % below {most:.2f}"},
            release=lambda: None,
        )


def _aliased(data: Tensor, pattern: Pattern, wide: int) -> tuple[Tensor, Tensor]:
    """Return the folded coil images (coil, x, y) of the regular lines on `wide` voxels, and the phase (R,) of each
    fold: ``a(y) = sum_r phase_r c(y + r wide / R) s(y + r wide / R)``."""
    n, r = data.shape[2], pattern.acceleration
    lines = torch.from_numpy(pattern.lines.astype(np.int64)).to(data.device)
    regular = torch.zeros_like(data)
    regular[:, :, lines] = data[:, :, lines]
    folded = kernel("centred_ifft")(kernel("resize")(regular, wide, 2), (2,)) * r
    offset = (pattern.offset - n // 2) % r
    turn = torch.arange(r, device=data.device)
    phase = torch.polar(torch.ones(r, device=data.device), 2 * math.pi * offset / r * turn)
    return folded, phase


def unfolded(aliased: Tensor, maps: Tensor, phase: Tensor, *, damping: float) -> tuple[Tensor, Tensor]:
    """Return the image (x, y) and its g-factor; 0 where no coil sees anything.

    Parameters
    ----------
    aliased
        Folded coil images (coil, x, y); y is a multiple of R.
    maps
        Coil maps of unit norm (coil, x, y).
    phase
        Of each fold (R,).
    damping
        Relative to the strongest coil vector (1).
    """
    r, (n_coils, n_x, n_y) = len(phase), maps.shape
    part = n_y // r
    e = (maps.view(n_coils, n_x, r, part) * phase[:, None]).permute(1, 3, 0, 2)  # x, y, coil, fold
    a = aliased[:, :, :part].permute(1, 2, 0)[..., None]
    gram = e.mH @ e
    seen = gram.diagonal(dim1=-2, dim2=-1).real > 1e-6  # x, y, fold
    regular = gram + torch.diag_embed((~seen).to(gram.dtype) + damping)
    inverse = torch.linalg.inv(regular)
    image = (inverse @ (e.mH @ a))[..., 0] * seen
    noise = (inverse @ gram @ inverse).diagonal(dim1=-2, dim2=-1).real.clamp_min(0)
    g = (noise * gram.diagonal(dim1=-2, dim2=-1).real).sqrt() * seen
    return image.permute(0, 2, 1).reshape(n_x, n_y), g.permute(0, 2, 1).reshape(n_x, n_y)
