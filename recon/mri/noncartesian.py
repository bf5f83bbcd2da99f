"""Images from samples at any place of k-space: gridding, and CG-SENSE with a Toeplitz normal operator."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from acquisition.errors import ConfigError, DataError, ReconError
from acquisition.items import Image, Item, Kind, Provenance
from acquisition.noise import NoiseModel
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from kernels.registry import kernel
from recon.mri.espirit import espirit_maps
from recon.mri.gather import Spokes
from recon.mri.geometry import grid_of
from recon.mri.trajectory import density, is_radial, spoke_delays, with_delays
from recon.nufft import Nufft, Toeplitz
from recon.solve import cg

logger = logging.getLogger(__name__)

_REGION = 24
_CACHED = 4


@dataclass(kw_only=True)
class _FromSpokes:
    """What both methods share: plans that are used again, maps, geometry."""

    correct_delays: bool = True
    """Estimate the gradients' delays from radial spokes, and move the spokes where the estimate is certain."""

    _name = "gridding"

    def open(self, scan: Scan) -> None:
        """Forget the scan before."""
        self._uid, self._patient_position = scan.uid, scan.patient.position
        self._plans: dict[bytes, tuple[Nufft, Tensor]] = {}
        self._noise: NoiseModel | None = None

    def feed(self, item: Item) -> Iterator[Item]:
        """Turn frames into images; the noise model ends here, other items pass."""
        if isinstance(item, NoiseModel):
            self._noise = item
        elif isinstance(item, Spokes):
            yield self._image(item)
        else:
            yield item

    def close(self) -> Iterator[Item]:
        """Nothing is left to do."""
        return iter(())

    def _combined(self, spokes: Spokes, transform: Nufft, weights: Tensor) -> tuple[Tensor, dict[str, str]]:
        raise NotImplementedError

    def _image(self, spokes: Spokes) -> Image:
        if not np.isfinite(spokes.data).all():
            raise DataError(f"frame {tuple(spokes.key)}", expected="finite samples", got="NaN or infinite")
        spokes, verdicts = self._placed(spokes)
        transform, weights = self._planned(spokes)
        combined, notes = self._combined(spokes, transform, weights)
        if combined.ndim == 2:
            combined = combined[None]
        grid, unplaced = grid_of(spokes.head, spokes.space, self._patient_position)
        return Image(
            data=combined.abs().cpu().numpy().astype(np.float32),
            grid=grid,
            kind=Kind.MAGNITUDE,
            position=spokes.key.position,
            provenance=Provenance(notes={**spokes.notes, **notes, "method": f"mri.{self._name}"}),
            verdicts=(*spokes.verdicts, *verdicts, *unplaced, self._verdict(spokes)),
            time_stamp=int(spokes.head["time_stamp"]),
            last_readout_s=spokes.last_readout_s,
            table_position_mm=(*(float(v) for v in spokes.head["table_position"]),),  # type: ignore[arg-type]
        )

    def _placed(self, spokes: Spokes) -> tuple[Spokes, tuple[Verdict, ...]]:
        """Move radial spokes to where they were measured."""
        usable = spokes.traj.shape[2] == 2 and len(spokes.data) >= 8 and is_radial(spokes.traj)
        if not self.correct_delays or not usable:
            return spokes, ()
        delays = spoke_delays(spokes.data, spokes.traj)
        if not delays.certain:
            return spokes, ()
        verdict = Verdict(
            check="mri.delays",
            level=Level.PASS,
            advice="Spokes were moved by the gradients' delays.",
            value=max(map(abs, delays.samples)),
            unit="samples",
            evidence="x {:.3f}, y {:.3f}, cross {:.3f}".format(*delays.samples) + f", +- {delays.error:.3f} samples",
        )
        return replace(spokes, traj=with_delays(spokes.traj, delays.samples)), (verdict,)

    def _shape(self, spokes: Spokes) -> tuple[int, ...]:
        space = spokes.space
        plane = (space.y.recon, space.x.recon)
        return plane if spokes.traj.shape[2] == 2 else (space.z.recon, *plane)

    def _planned(self, spokes: Spokes) -> tuple[Nufft, Tensor]:
        """Return the transform and the density weights of a trajectory, made once."""
        name = spokes.traj.tobytes() + bytes([spokes.data.shape[1] % 256])
        if name not in self._plans:
            while len(self._plans) >= _CACHED:
                del self._plans[next(iter(self._plans))]
            shape = self._shape(spokes)
            transform = Nufft(spokes.traj, shape, n_coils=spokes.data.shape[1])
            weights = torch.from_numpy(density(spokes.traj, shape).ravel())
            self._plans[name] = transform, weights
        return self._plans[name]

    def _verdict(self, spokes: Spokes) -> Verdict:
        n, full = len(spokes.data), _full_readouts(spokes)
        return Verdict(
            check=f"mri.{self._name}",
            level=Level.PASS,
            advice=f"Made of {n} readouts, {n / full:.0%} of what full sampling takes.",
            value=n / full,
            evidence=f"{n} readouts, {full} would be full",
        )


def _full_readouts(spokes: Spokes) -> int:
    """Return how many readouts full sampling takes: pi/2 N spokes; for others as many samples as voxels."""
    n = max(spokes.space.y.recon, spokes.space.x.recon)
    if is_radial(spokes.traj):
        return max(1, round(np.pi / 2 * n) if spokes.traj.shape[2] == 2 else round(np.pi / 2 * n * n))
    voxels = spokes.space.y.recon * spokes.space.x.recon
    return max(1, round(voxels / spokes.traj.shape[1]))


def samples_of(spokes: Spokes) -> Tensor:
    """Return the samples as (coil, readout * sample)."""
    return torch.from_numpy(np.ascontiguousarray(spokes.data.transpose(1, 0, 2))).flatten(1)


def maps_of(images: Tensor, crop: float) -> Tensor:
    """Return coil maps (coil, *shape) from gridded coil images: ESPIRiT on the middle of their transform."""
    axes = tuple(range(1, images.ndim))
    region = kernel("centred_fft")(images, axes)
    for axis in axes:
        region = kernel("resize")(region, min(_REGION, images.shape[axis]), axis)
    return espirit_maps(region.contiguous(), tuple(images.shape[1:]), crop=crop).maps[0]


@dataclass(kw_only=True)
class Gridding(_FromSpokes):
    """Density compensation, adjoint transform, adaptive coil combination: direct, for densely sampled data.

    References
    ----------
    Jackson et al., IEEE Trans Med Imaging 1991;10:473, DOI 10.1109/42.97598.
    """

    def _combined(self, spokes: Spokes, transform: Nufft, weights: Tensor) -> tuple[Tensor, dict[str, str]]:
        images = transform.adjoint(samples_of(spokes) * weights)
        return (maps_of(images, 0.0).conj() * images).sum(0), {}


@dataclass(kw_only=True)
class NufftSense(_FromSpokes):
    """CG-SENSE for any trajectory; the normal operator is a multiplication on a doubled grid.

    The density weights stand in the least-squares problem as well: a few iterations are enough, and that early
    ending is the regularisation together with `damping`.

    References
    ----------
    Pruessmann et al., Magn Reson Med 2001;46:638, DOI 10.1002/mrm.1241.
    """

    n_iterations: int = 10
    """Iterations."""
    damping: float = 0.005
    """Tikhonov weight, relative to the normal operator's diagonal."""
    crop: float = 0.8
    """ESPIRiT eigenvalue below which a voxel is taken as outside the object."""

    _name = "nufft_sense"

    def __post_init__(self) -> None:
        for field, fine, expected in (
            ("n_iterations", self.n_iterations >= 1, "at least 1"),
            ("damping", self.damping >= 0, "0 or more"),
            ("crop", 0 <= self.crop < 1, "0 to below 1"),
        ):
            if not fine:
                raise ConfigError(f"mri.nufft_sense {field}", expected=expected, got=str(getattr(self, field)))

    def _combined(self, spokes: Spokes, transform: Nufft, weights: Tensor) -> tuple[Tensor, dict[str, str]]:
        shape = transform.domain[1:]
        images = transform.adjoint(samples_of(spokes) * weights)
        maps = maps_of(images, self.crop)
        if not maps.any():
            raise ReconError(f"frame {tuple(spokes.key)}", expected="an object", got="no voxel that the coils explain")
        conjugate = maps.conj().resolve_conj()
        rhs = (conjugate * images).sum(0)
        toeplitz = Toeplitz(spokes.traj.reshape(-1, spokes.traj.shape[-1]), weights, shape=shape, n_coils=len(maps))
        level = float(weights.sum()) / float(np.prod(shape))
        solution = cg(
            lambda x: (conjugate * toeplitz(maps * x)).sum(0),
            rhs,
            n_iterations=self.n_iterations,
            damping=self.damping * level,
        )
        return solution.x, {"iterations": str(solution.n_iterations), "residual": f"{solution.residual:.2e}"}
