"""Recipe of the unrolled reconstruction of heads: simulated scans of 6 to 16 receivers, R from 2 to 8.

Drawing a scan and solving it once by CG-SENSE and L1-wavelets costs as much as a step of the training. So scans are
kept, and a batch is patches of them. Lines along the readout fall apart into problems of one column each; so a patch is
a few columns, and exact. What is told of the noise is off by chance, as what the service measures is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.nets.unrolled import HEAD, Unpacked, packed
from models.problem import Problem
from models.train import simulated
from models.train.dataset import Source
from models.train.encode import kspace_of, reference_level
from models.train.mr import MrSpec, Sample, unrolled_sample
from models.train.recipe import Case, Setting, Split
from recon.mri.coilset import compression
from recon.mri.espirit import espirit_maps
from recon.mri.model import CartesianSense
from recon.mri.pattern import central_region
from recon.solve import cg

_MATRIX = {"lines": (96, 120, 144, 192, 192, 240), "discs": (96, 120, 144, 192)}  # R divides all of them
_FACTORS = (2, 3, 4, 4, 6, 8)
_KEPT = {"lines": 100, "discs": 30}  # scans of each matrix
_PATCH = 64  # columns
_RECEIVERS = (6, 8, 8, 16)
_COILS, _ENERGY = 8, 0.995  # virtual coils
_REGION = 24  # samples of the middle that maps are made from, as in the service
_ESPIRIT = 0.85  # part of the scans with maps from their own middle; the others know the true ones
_DISCS = 0.3  # part of the batches with irregular samples in both directions
_ITERATIONS, _TOLERANCE, _DAMPING = 15, 1e-3, 0.01  # of CG-SENSE, as in `recon.mri.iterative`
_SNR = (5.0, 90.0)
_TOLD = (0.85, 1.25)  # times the noise
_SPOTS, _CONTRAST = 4.0, (0.1, 1.0)  # mean number of small lesions, and their brightness over that of the image
_PARTS: tuple[Split, ...] = ("training", "calibration", "test")


class UnrolledMr:
    """See the module."""

    settings: Mapping[str, Setting] = {
        "small": Setting(steps=4000, batch=2, rate=1e-3, cases=48, average=0.995, precision="bf16", workers=1),
        "full": Setting(steps=60000, batch=16, rate=1e-3, cases=100, device="cuda", precision="bf16", workers=14),
        "tiny": Setting(steps=2, batch=1, rate=1e-3, cases=24, average=0.5),
    }

    def card(self) -> dict[str, Any]:
        """Return what a person says of it."""
        heads = "SynthSeg label maps (heads {}), contrasts, coils and noise simulated"
        rows = (("training", "01-10, 12, 13", 12), ("calibration", "11, 14", 48), ("test", "15, 16", 48))
        return {
            "title": "Unrolled reconstruction of undersampled Cartesian MRI of the head",
            "intended_use": "Research only: a second image beside CG-SENSE, Cartesian scans of the head, R 2 to 8.",
            "modality": "MR",
            "anatomy": ["HEAD", "BRAIN"],
            "sequences": [],
            "input": {
                "units": ["1", "a.u."],
                "kinds": ["complex"],
                "matrix": [256, 256],
                "ranges": {"snr": [3.0, 200.0], "voxel_mm": [0.7, 2.5]},
            },
            "network": {"name": "unrolled", "parameters": {"cascades": 4, "width": 64, "blocks": 1}},
            "members": 1,
            "training": {
                "data": [
                    {"name": heads.format(which), "licence": "Apache-2.0", "used_for": use, "items": n}
                    for use, which, n in rows
                ]
            },
            "limits": [
                "Trained on simulated heads alone: on real ones it gains less over L1-wavelets.",
                "Behind irregular samples in both directions (a real brain, 12 % measured) it is hardly better.",
                "At R = 2 and a good SNR it is no better than CG-SENSE, a real head a little worse.",
                "At R = 4 a lesion of 2 pixels keeps 0.7 of its contrast, where CG-SENSE keeps 0.77.",
                "One set of coil maps: no wrapped field of view. Nothing is said of the uncertainty of single pixels.",
            ],
        }

    def batch(self, chance: np.random.Generator, size: int) -> tuple[Tensor, Tensor]:
        """Return patches of kept scans, see `models.nets.unrolled.packed`, and their images of all lines without noise.

        All have one matrix; patches are turned in phase, and mirrored where there are lines alone.
        """
        kind = "discs" if chance.random() < _DISCS else "lines"
        n = int(chance.choice(_MATRIX[kind]))
        count = 1 if kind == "discs" and n > 120 else size
        pairs = [self._patch(kind, n, chance) for _ in range(count)]
        return torch.cat([x for x, _ in pairs]), torch.cat([wanted for _, wanted in pairs])

    def loss(self, estimate: Tensor, truth: Tensor, x: Tensor) -> Tensor:
        """Return the error as a part of the start's, per scan: root mean square and mean magnitude, half and half.

        Each scan counts alike, whatever its SNR and undersampling; 1 is no better than L1-wavelets.
        """
        after, before = (_errors(image, truth) for image in (estimate, x[:, : truth.shape[1]]))
        return (after / before.clamp_min(1e-3)).mean()

    def cases(self, split: Split, n: int) -> Iterator[Case]:
        """Yield whole slices, every fifth with irregular samples in both directions."""
        for index in range(n):
            chance = np.random.default_rng([17, _PARTS.index(split), index])
            kind = "discs" if index % 5 == 4 else "lines"
            n = int(chance.choice(_MATRIX[kind]))
            problem, truth = solved(self._sample(split, kind, chance, n=n), espirit=True)
            image = truth.numpy()
            inside = np.abs(image) > 0.1 * np.percentile(np.abs(image), 99)
            noise = np.full(image.shape, problem.noise, np.float32)
            yield Case(problem.start.numpy(), image, noise, inside, problem)

    @cached_property
    def _sources(self) -> Mapping[str, Source]:
        return {part: simulated.source_of(part) for part in _PARTS}

    @cached_property
    def _drawn(self) -> dict[tuple[str, int, int], tuple[Unpacked, Tensor]]:
        return {}

    def _patch(self, kind: str, n: int, chance: np.random.Generator) -> tuple[Tensor, Tensor]:
        key = kind, n, int(chance.integers(_KEPT[kind]))
        if key not in self._drawn:
            self._drawn[key] = self._scan(kind, n, np.random.default_rng([23, len(kind), *key[1:]]))
        parts, truth = self._drawn[key]
        columns, mirror = slice(None), False
        if kind == "lines":  # samples along the readout would have to be mirrored, too
            first = int(chance.integers(truth.shape[-2] - _PATCH + 1))
            columns, mirror = slice(first, first + _PATCH), chance.random() < 0.5
        turn = complex(np.exp(2j * np.pi * chance.random()))
        start, rhs, conventional, truth = (turn * t for t in (parts.start, parts.rhs, parts.conventional, truth))
        x = _filled(packed(replace(parts, start=start, rhs=rhs, conventional=conventional)))[:, :, columns]
        wanted = torch.cat([truth.real, truth.imag], dim=1)[:, :, columns]
        return (x.flip(2), wanted.flip(2)) if mirror else (x, wanted)

    def _scan(self, kind: str, n: int, chance: np.random.Generator) -> tuple[Unpacked, Tensor]:
        """Return a scan as the network sees it, and its truth (1, 1, a, b); where there are lines, bright columns."""
        sample = spotted(self._sample("training", kind, chance, n=n), chance)
        told = float(np.exp(chance.uniform(*np.log(_TOLD))))
        problem, truth = solved(sample, espirit=chance.random() < _ESPIRIT, level=told)
        parts, truth = problem.parts(), truth[None, None]
        if kind == "discs":
            return parts, truth
        columns = _bright(truth[0, 0].abs().mean(1).numpy())
        cut = {name: getattr(parts, name)[..., columns, :].clone() for name in parts.__slots__}
        return Unpacked(**cut), truth[..., columns, :].clone()

    def _sample(self, split: Split, kind: str, chance: np.random.Generator, *, n: int) -> Sample:
        heads = self._sources[split].heads
        masks = ("regular", "random") if kind == "lines" else ("poisson",)
        receivers = int(chance.choice(_RECEIVERS))
        spec = MrSpec(calibrated=0.0, masks=masks, factors=_FACTORS, snr=_SNR, matrix=(n, n), n_coils=receivers)
        return unrolled_sample(heads[int(chance.integers(len(heads)))], chance, spec)


def spotted(sample: Sample, chance: np.random.Generator) -> Sample:
    """Return a scan with small lesions of 2 to 5 pixels, darker or brighter than what is around them."""
    target = sample["target"]
    size = np.abs(target)
    level = reference_level(size)
    inside = np.argwhere(size > 0.2 * level)
    y, x = np.indices(target.shape, np.float32)
    more = np.zeros_like(target)
    for _ in range(chance.poisson(_SPOTS) if len(inside) else 0):
        at = tuple(inside[int(chance.integers(len(inside)))])
        fwhm, height = chance.uniform(1.8, 5.0), level * float(np.exp(chance.uniform(*np.log(_CONTRAST))))
        height = height if chance.random() < 0.5 else -min(height, 0.8 * float(size[at]))
        bell = np.exp(-4 * np.log(2) * ((y - at[0]) ** 2 + (x - at[1]) ** 2) / fwhm**2)
        more += (height * bell * target[at] / size[at]).astype(more.dtype)
    kspace = sample["kspace"] + kspace_of(sample["maps"] * more) * sample["mask"]
    return {**sample, "kspace": kspace, "target": target + more}


def solved(
    sample: Sample, *, espirit: bool, columns: slice = slice(None), level: float = 1.0
) -> tuple[Problem, Tensor]:
    """Return what the network gets of a simulated scan, and the truth (a, b): readout, phase encoding.

    Parameters
    ----------
    sample
        See `models.train.mr.unrolled_sample`; with its true maps.
    espirit
        Whether the maps come from the scan's middle, as the service's do; else the true ones.
    columns
        Which columns of the readout; all of them where samples are irregular along it.
    level
        What is told of the noise, which is 1.
    """
    mask, kspace, true = (torch.from_numpy(sample[name]) for name in ("mask", "kspace", "maps"))
    rows, middle = central_region(sample["mask"])
    region = kspace[:, rows, middle]
    few = compression(region, _ENERGY)[:_COILS]
    known = torch.einsum("vc,cyx->vyx", few, true)
    if espirit:
        region = torch.einsum("vc,cyx->vyx", few, _cut(region))
        maps = espirit_maps(region, tuple(true.shape[1:]), crop=0.9).maps[0]
    else:
        maps = known / known.abs().square().sum(0).sqrt().clamp_min(1e-6)
    truth = (maps.conj() * known).sum(0) * torch.from_numpy(sample["target"])
    measured = torch.einsum("vc,cyx->vyx", few, kspace)
    seen = mask
    if bool((mask == mask[:, :1]).all()):
        measured, seen = _hybrid(measured), mask[:, :1]
    maps, measured, truth, seen = (t.mT for t in (maps, measured, truth, seen))
    if len(seen) == 1:
        maps, measured, truth = (t[..., columns, :] for t in (maps, measured, truth))
    return problem_of(maps.contiguous(), measured.contiguous(), seen, level=level), truth.contiguous()


def problem_of(maps: Tensor, kspace: Tensor, mask: Tensor, *, level: float = 1.0) -> Problem:
    """Return what the network gets, from maps and k-space (coil, a, b) and the mask (a, b), or (1, b) for lines."""
    model = CartesianSense(maps[None], mask, (-1,) if len(mask) == 1 else (-2, -1))
    data = model.centre_first(kspace) * model.mask
    rhs = model.adjoint(data)
    start = cg(model.gram, rhs, n_iterations=_ITERATIONS, tolerance=_TOLERANCE, damping=_DAMPING).x
    return Problem(
        start=model.centre_middle(start)[0],
        rhs=model.centre_middle(rhs)[0],
        mask=model.mask.expand(maps.shape[1:]),
        maps=maps,
        level=level,
        energy=float(data.abs().square().sum()),
    )


def _bright(profile: np.ndarray) -> slice:
    """Return the columns that show something, at least those of a patch."""
    bright = np.flatnonzero(profile > 0.1 * profile.max())
    first, last = max(bright[0] - 4, 0), min(bright[-1] + 5, len(profile))
    spare = max(_PATCH - (last - first), 0)
    first = max(first - spare, 0)
    return slice(first, max(last, first + _PATCH))


def _cut(region: Tensor) -> Tensor:
    """Return the middle of (coil, y, x) that maps are made from."""
    sides = [max((n - _REGION) // 2, 0) for n in region.shape[1:]]
    return region[:, sides[0] : region.shape[1] - sides[0], sides[1] : region.shape[2] - sides[1]].contiguous()


def _hybrid(kspace: Tensor) -> Tensor:
    """Transform (coil, y, x) along the readout."""
    shifted = torch.fft.ifftshift(kspace, dim=-1)
    return torch.fft.fftshift(torch.fft.ifft(shifted, dim=-1, norm="ortho"), dim=-1)


def _filled(x: Tensor) -> Tensor:
    """Add coils that see nothing, so that all scans of a batch have as many."""
    head, (real, imag) = x[:, :HEAD], x[:, HEAD:].chunk(2, dim=1)
    nothing = x.new_zeros((1, _COILS - real.shape[1], *x.shape[2:]))
    return torch.cat([head, real, nothing, imag, nothing], dim=1)


def _errors(image: Tensor, truth: Tensor) -> Tensor:
    """Return the root mean square and the mean magnitude of the error of each (n, 2)."""
    power = (image - truth).square().sum(1).flatten(1)
    return torch.stack([(power.mean(1) + 1e-8).sqrt(), (power + 1e-8).sqrt().mean(1)], dim=1)
