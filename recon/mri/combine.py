"""From frames to images: the last Fourier transforms, the field of view, one image of all coils."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from acquisition.errors import ConfigError
from acquisition.items import Image, Item, Kind, Provenance
from acquisition.noise import NoiseModel
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from kernels.memory import reserve
from kernels.registry import device, kernel
from recon.calibrate import METHODS, coil_maps
from recon.mri.cache import TensorCache
from recon.mri.geometry import grid_of
from recon.mri.gfactor import gfactor_map
from recon.mri.items import Calibration, Frame, FrameKey
from recon.mri.pattern import detect, measured_lines
from recon.mri.space import Space, spaces

logger = logging.getLogger(__name__)

KINDS = {"magnitude": Kind.MAGNITUDE, "complex": Kind.COMPLEX, "phase": Kind.PHASE}
_MAPS_BYTES = 512 << 20  # expanded maps that are kept; more slices are expanded again
_BLOCKS = 8  # arrays as large as a frame whose pages are fetched while the scanner still measures
_CENTRE_LINES = 32  # of a frame that came without calibration: its own middle


class _ToImage:
    """What both ways to combine coils share: sizes, transforms, noise units, grid and provenance."""

    method = ""
    kind = "magnitude"

    def open(self, scan: Scan) -> None:
        """Plan the sizes and run every transform once."""
        self._uid, self._spaces = scan.uid, spaces(scan)
        self._patient_position = scan.patient.position
        self._noise: NoiseModel | None = None
        self._forget()
        n_coils = scan.equipment.n_coils or 1
        for space in self._spaces:
            if not space.is_3d:
                shape = (n_coils, 1, space.y.encoded, space.x.recon)
                self._coil_images(torch.zeros(shape, dtype=torch.complex64, device=device()), space)

    def feed(self, item: Item) -> Iterator[Item]:
        """Turn frames into images; noise model and calibrations end here, other items pass."""
        if isinstance(item, NoiseModel):
            self._noise = item
        elif isinstance(item, Calibration):
            self._calibrate(item)
        elif isinstance(item, Frame):
            yield self._image(item)
        else:
            yield item

    def close(self) -> Iterator[Item]:
        """Nothing is left to do."""
        return iter(())

    def _forget(self) -> None:
        """Drop what was learnt in the scan before."""

    def _calibrate(self, calibration: Calibration) -> None:
        """Learn the coils from the middle of k-space, before the frame is complete."""

    def _combined(self, frame: Frame, images: Tensor) -> Tensor:
        raise NotImplementedError

    def _image(self, frame: Frame) -> Image:
        space = self._spaces[frame.key.encoding]
        images = self._coil_images(frame.kspace, space)
        combined = _united(images) if frame.combined else self._combined(frame, images)
        frame.release()
        grid, verdicts = grid_of(frame.head, space, self._patient_position)
        if space.is_3d and space.x.recon == 1:  # one readout sample: a slice across the readout
            combined, grid = combined.permute(2, 0, 1), grid.rolled()
        whitened = self._noise is not None and self._noise.whitened
        if whitened and self.kind != "phase":
            combined = combined / (noise_std(frame, space) * frame.noise_gain)
        notes = {"combination": self.method, **frame.notes, **self._noise_notes(frame)}
        head = frame.head
        return Image(
            data=_component(combined, self.kind).cpu().numpy(),
            grid=grid,
            unit="rad" if self.kind == "phase" else "1" if whitened else "a.u.",
            kind=KINDS[self.kind],
            output=frame.output,
            position=frame.key.position,
            provenance=Provenance(notes=notes, network=frame.network),
            verdicts=(*frame.verdicts, *verdicts, *_aliased(frame, space)),
            time_stamp=int(head["time_stamp"]),
            last_readout_s=frame.last_readout_s,
            table_position_mm=(*(float(v) for v in head["table_position"]),),  # type: ignore[arg-type]
            attributes=frame.attributes,
        )

    def _coil_images(self, kspace: Tensor, space: Space) -> Tensor:
        """Transform (coil, k2, k1, x) to coil images (coil, z, y, x) of the image's field of view."""
        resize, axes = kernel("resize"), [(2, space.y)]
        if space.is_3d:
            axes.append((1, space.z))
        for axis, size in axes:
            kspace = resize(kspace, size.padded, axis)
        images = kernel("centred_ifft")(kspace, tuple(axis for axis, _ in axes))
        for axis, size in axes:
            images = resize(images, size.recon, axis)
            if size.amplitude != 1:
                images = images * size.amplitude
        return images

    def _noise_notes(self, frame: Frame) -> dict[str, str]:
        model = self._noise
        if model is None or not model.whitened:
            return {"noise": "not whitened"}
        notes = {"noise": f"{model.source}, {len(model.matrix)} coils, {model.n_samples} samples"}
        if frame.combined:
            notes["snr_unit"] = "noise that least squares would leave with a g-factor of 1; a prior leaves less"
        elif frame.acceleration > 1:
            notes["snr_unit"] = "noise standard deviation is the g-factor; sqrt(R) is divided out"
        return notes


@dataclass(kw_only=True)
class Combine(_ToImage):
    """Transform along k1 (and k2), cut the field of view, combine the coils by their maps.

    ``m = sum_c conj(s_c) m_c`` with maps s of unit norm from the calibration lines (or the frame's own middle),
    estimated when they arrive. All transforms are orthonormal, so behind `mri.prewhiten` the image is in units of
    its own noise: unit ``1``, the standard deviation of the noise in the real part is 1 (times the g-factor where
    lines were filled). Without whitening the unit is ``a.u.``. One image per slice, or per volume in 3D. Pixels
    come from the plain centred transform (origin at voxel n // 2) and the grid's centre is MRD's position; see
    `recon.mri.geometry.grid_of`.
    """

    kind: str = "magnitude"
    """magnitude, complex, or phase [rad]; the phase is relative to one virtual coil of the whole slice."""
    maps: str = "walsh"
    """How coil maps are found: walsh (local covariance) or inati (maps and image in turns; cheaper for many coils)."""
    gfactor: bool = False
    """Give a map of the g-factor of each slice or volume as well; output ``gfactor``. Exact behind mri.grappa alone,
    else from `replicas` of noise that go the same way."""
    replicas: int = 40
    """Replicas of noise; 40 leave 8 % of uncertainty in each voxel."""

    method = "adaptive"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError("mri.combine kind", expected=", ".join(KINDS), got=repr(self.kind))
        if not 1 <= self.replicas <= 1000:
            raise ConfigError("mri.combine replicas", expected="1 to 1000", got=str(self.replicas))
        if self.maps not in METHODS:
            raise ConfigError("mri.combine maps", expected=", ".join(METHODS), got=repr(self.maps))

    def feed(self, item: Item) -> Iterator[Item]:
        """Turn frames into images; with `gfactor`, a map behind the first image of each slice."""
        for out in super().feed(item):
            yield out
            if self.gfactor and isinstance(item, Frame) and isinstance(out, Image):
                yield from self._gfactor(item, out)

    def _gfactor(self, frame: Frame, image: Image) -> Iterator[Image]:
        key, space = _same_slice(frame.key), self._spaces[frame.key.encoding]
        exact = frame.unfolding is not None and frame.replica is None and not space.is_3d
        if key in self._mapped or not (exact or frame.replica):
            return
        self._mapped.add(key)
        if exact and frame.unfolding is not None:
            maps = self._plane(key, space, 0)[:, 0]
            values = gfactor_map(frame.unfolding, maps, acceleration=frame.acceleration, padded=space.y.padded)[None]
        else:
            values = self._noise_of(frame, space)
        data = values.cpu().numpy().astype(np.float32)
        yield replace(image, data=data, unit="1", kind=Kind.MAGNITUDE, output="gfactor")

    def _noise_of(self, frame: Frame, space: Space) -> Tensor:
        """Return the g-factor (z, y, x): white noise on the measured lines, sent the frame's way again and again.

        Robson et al., Magn Reson Med 2008;60:895, DOI 10.1002/mrm.21728.
        """
        assert frame.replica is not None
        generator = torch.Generator().manual_seed(0)
        spread = torch.from_numpy(np.where(frame.counts > 0, 1 / np.sqrt(np.maximum(frame.counts, 1)), 0)).float()
        n_coils = len(self._coarse[_same_slice(frame.key)])
        shape = (n_coils, *frame.counts.shape, space.x.recon)
        power = torch.zeros((space.z.recon, space.y.recon, space.x.recon))
        for _ in range(self.replicas):
            noise = torch.randn(shape, dtype=torch.complex64, generator=generator) * spread[None, :, :, None]
            images = self._coil_images(frame.replica(noise), space)
            power += self._combined(frame, images).abs().square()
        return (power / self.replicas / 2).sqrt() / noise_std(frame, space)

    def _forget(self) -> None:
        self._mapped: set[FrameKey] = set()
        self._coarse: dict[FrameKey, Tensor] = {}
        self._maps = TensorCache(_MAPS_BYTES)

    def _calibrate(self, calibration: Calibration) -> None:
        self._learn(calibration.kspace, calibration.first, calibration.key)

    def _learn(self, region: Tensor, first: tuple[int, int], key: FrameKey) -> None:
        """Estimate the coarse maps of a slice; expand them now where that is cheap."""
        space, key = self._spaces[key.encoding], _same_slice(key)
        matrix = (space.z.encoded, space.y.encoded, space.x.recon)
        self._maps.drop(key)
        self._coarse[key] = coil_maps(region, first=first, matrix=matrix, method=self.maps)
        if not space.is_3d:
            self._plane(key, space, 0)
            reserve(8 * len(region) * space.y.padded * space.x.recon, _BLOCKS)

    def _plane(self, key: FrameKey, space: Space, z: int) -> Tensor:
        """Return the maps (coil, 1, y, x) of one plane of the image."""
        if space.is_3d:  # the maps of a whole volume at once would double the memory
            return self._expanded(self._coarse[key], space, z)
        return self._maps.get(key, lambda: self._expanded(self._coarse[key], space, 0))

    @staticmethod
    def _expanded(coarse: Tensor, space: Space, z: int) -> Tensor:
        """Bring one plane of the coarse maps to the image's voxels."""
        along_z = kernel("upsample")(coarse, (space.z.padded, *coarse.shape[2:]))
        plane = kernel("resize")(along_z, space.z.recon, 1)[:, z : z + 1]
        plane = kernel("upsample")(plane, (1, space.y.padded, space.x.recon))
        return kernel("unit_norm")(kernel("resize")(plane, space.y.recon, 2))

    def _combined(self, frame: Frame, images: Tensor) -> Tensor:
        key, space = _same_slice(frame.key), self._spaces[frame.key.encoding]
        known = self._coarse.get(key)
        if known is None or known.shape[0] != images.shape[0]:
            self._learn_from(frame)
        planes = [
            kernel("coil_combine")(images[:, z : z + 1], self._plane(key, space, z)) for z in range(images.shape[1])
        ]
        return planes[0] if len(planes) == 1 else torch.cat(planes)

    def _learn_from(self, frame: Frame) -> None:
        """Take the frame's own middle where no calibration came."""
        n_k2, n_k1 = frame.kspace.shape[1:3]
        half = _CENTRE_LINES // 2
        z, y = slice(max(0, n_k2 // 2 - half), n_k2 // 2 + half), slice(max(0, n_k1 // 2 - half), n_k1 // 2 + half)
        self._learn(frame.kspace[:, z, y], (z.start, y.start), frame.key)


@dataclass(kw_only=True)
class CombineRss(_ToImage):
    """Transform like `Combine`, then take the root of the sum of squares over the coils: no maps, no phase."""

    method = "rss"

    def _combined(self, frame: Frame, images: Tensor) -> Tensor:
        return kernel("rss")(images)


def _united(images: Tensor) -> Tensor:
    """Return the image of a frame whose coils are combined; several sets of maps share their power."""
    return images[0] if len(images) == 1 else kernel("rss")(images)


def noise_std(frame: Frame, space: Space) -> float:
    """Return the noise standard deviation of a frame's pixels, in whitened units and without the g-factor.

    Whitened samples have E|n|^2 = 1, so 1/sqrt(2) in the real part. Averages lower it by the root of their number,
    lines and samples that were never measured by the root of the measured part; each line that GRAPPA makes costs as
    much as it saves: sqrt(R).
    """
    counts = frame.counts[frame.counts > 0].astype(float)
    if counts.size == 0:
        return 1.0
    n_regular = counts.size if frame.acceleration == 1 else _covered(frame)
    lines = float((1 / counts).mean()) * n_regular / frame.counts.size * frame.acceleration
    head = frame.head
    kept = int(head["n_samples"]) - int(head["discard_pre"]) - int(head["discard_post"])
    samples = min(kept / space.x.encoded, 1.0) if kept > 0 else 1.0
    return float(np.sqrt(lines * samples / 2))


def _covered(frame: Frame) -> int:
    """Return how many lines lie between the first and the last measured one, in both directions."""
    k2, k1 = (np.flatnonzero((frame.counts > 0).any(axis=axis)) for axis in (1, 0))
    return int(k2[-1] - k2[0] + 1) * int(k1[-1] - k1[0] + 1)


def _aliased(frame: Frame, space: Space) -> tuple[Verdict, ...]:
    """Hold an undersampled frame that no step has looked at: a protocol without mri.grappa."""
    pattern = detect(measured_lines(frame.counts), round(space.encoding.acceleration[1]))
    seen = frame.acceleration > 1 or any(v.check == "mri.grappa" for v in frame.verdicts)
    if seen or (pattern is not None and pattern.acceleration == 1):
        return ()
    advice = "The lines are undersampled and no step of the protocol undoes that: do not read this image."
    return (
        Verdict(check="mri.aliasing", level=Level.HOLD, advice=advice, evidence="put mri.grappa before mri.combine"),
    )


def _component(image: Tensor, kind: str) -> Tensor:
    if kind == "magnitude":
        return image.abs()
    return image.angle() if kind == "phase" else image


def _same_slice(key: FrameKey) -> FrameKey:
    """Coils do not change between the contrasts, phases and repetitions of a slice."""
    return FrameKey(key.encoding, key.slice, 0, 0, 0, 0)
