"""One training sample of MR: an undersampled scan and its full image, a noisy image, a series of doses.

Units are the product's. K-space is white with ``E|n|^2 = 1``; images are divided by the noise that the real part of a
combined image would have with a g-factor of 1, so ``sigma``, the standard deviation of the real part's noise, is the
g-factor times what filters and normalisation leave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from kernels.registry import kernel
from models.train import masks
from models.train.anatomy import Plane, random_plane
from models.train.contrast import PROTOCOLS, Protocol, random_protocol
from models.train.encode import (
    Coils,
    Complex,
    cropped_kspace,
    filtered,
    filtered_level,
    image_of,
    random_coils,
    random_window,
    receiver_noise,
    reference_level,
    unfolded_noise,
    unfolding,
    whitened,
)
from models.train.enhance import dose_series, enhanced, random_uptake
from models.train.labels import Head
from models.train.motion import moved_scene
from models.train.scene import Scene, magnetisation, random_scene
from models.train.tissue import tissues
from recon.calibrate import coil_maps

F32 = NDArray[np.float32]
Sample = dict[str, NDArray]

T1_WEIGHTED = ("t1_mprage", "t1_mprage", "t1_spgr", "t1_gre", "t1_spin_echo")
"""What contrast agents are seen with."""
_REAL = np.float32(np.sqrt(0.5))  # standard deviation of the real part where E|n|^2 = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MrSpec:
    """What is drawn for a sample."""

    matrix: tuple[int, int] = (192, 192)
    """Measured voxels (phase encoding, readout), divisible by 12."""
    n_coils: int = 8
    """Receivers."""
    fine: float = 1.5
    """Cells per voxel on which the object is drawn before its k-space is cropped; 1.5 or 2."""
    fov_mm: tuple[float, float] = (205.0, 256.0)
    """Smallest and largest field of view [mm]."""
    thickness_mm: tuple[float, float] = (1.0, 5.0)
    """Smallest and largest slice thickness [mm]."""
    snr: tuple[float, float] = (4.0, 80.0)
    """Smallest and largest SNR of the middle brightness without undersampling."""
    protocols: tuple[str, ...] = PROTOCOLS
    """What sequences are drawn from, names of `contrast.PROTOCOLS`."""
    calibrated: float = 0.5
    """Part of the samples whose coil maps come from noisy calibration lines; the others know the true ones."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Slice:
    """A drawn slice before anything is measured."""

    scene: Scene
    """What lies there."""
    protocol: Protocol
    """The sequence."""
    coils: Coils
    """The receivers."""
    maps: Complex
    """Their maps on the measured voxels (coil, y, x)."""
    profile: F32
    """How well the array sees, (y, x) fine cells: its own, or partly evened out."""


def random_slice(head: Head, spec: MrSpec, rng: np.random.Generator) -> Slice:
    """Draw a slice, a sequence and receivers."""
    protocol = random_protocol(rng, name=str(rng.choice(spec.protocols)))
    shape = tuple(2 * round(spec.fine * n / 2) for n in spec.matrix)
    fov = float(rng.uniform(*spec.fov_mm))
    thickness = float(rng.uniform(*spec.thickness_mm))
    plane: Plane = random_plane(head, (shape[0], shape[1]), fov / shape[0], rng=rng, thickness_mm=thickness)
    coils = random_coils(plane, spec.n_coils, rng)
    profile = coils.profile ** np.float32(rng.uniform(0.3, 1.0))
    return Slice(
        scene=random_scene(head, plane, protocol, rng),
        protocol=protocol,
        coils=coils,
        maps=coils.on_voxels(spec.matrix),
        profile=profile,
    )


def unrolled_sample(head: Head, rng: np.random.Generator, spec: MrSpec | None = None) -> Sample:
    """Return an undersampled scan and the image of all its lines without noise.

    Returns
    -------
    dict
        ``kspace`` (coil, y, x) complex64, white noise, zero where nothing was measured; ``mask`` (y, x) bool; ``maps``
        (coil, y, x) complex64, unit norm; ``sigma`` (y, x) float32, noise of the real part of what unregularised least
        squares gives where every R-th line was measured, with a g-factor of 1 where the pattern is irregular;
        ``target`` (y, x) complex64, all lines combined with these maps. All in k-space's units.
    """
    return next(unrolled_samples(head, rng, spec))


def unrolled_samples(head: Head, rng: np.random.Generator, spec: MrSpec | None = None) -> Iterator[Sample]:
    """Yield scans of one slice without end, each with its own SNR, noise, lines and maps: drawing it costs the most."""
    spec = spec or MrSpec()
    drawn = random_slice(head, spec, rng)
    image = magnetisation(drawn.scene, drawn.protocol, [tissues(drawn.protocol.field_t, rng)])[0] * drawn.profile
    object_ = cropped_kspace(drawn.coils.maps * image, spec.matrix)
    level = reference_level(np.abs(image))
    while True:
        clean = object_ * np.float32(_snr(spec, rng) * _REAL / level)
        noisy = clean + whitened(receiver_noise(clean.shape, drawn.coils, rng), drawn.coils)
        mask, r = _MASKS[str(rng.choice(list(_MASKS)))](spec.matrix, rng)
        maps = drawn.maps
        if rng.random() < spec.calibrated and np.any(mask.all(axis=1)):
            maps = calibrated_maps(noisy, mask)
        g = unfolding(maps, r)[0] if r > 1 else np.ones(spec.matrix, np.float32)
        sigma = _REAL * g * np.float32(np.sqrt(masks.acceleration(mask)))
        target = (maps.conj() * image_of(clean)).sum(0)
        yield {"kspace": noisy * mask, "mask": mask, "maps": maps, "sigma": sigma, "target": target}


def calibrated_maps(kspace: NDArray, mask: NDArray[np.bool_]) -> Complex:
    """Return coil maps (coil, y, x) as the service finds them: Walsh's method on the lines around the centre."""
    lines = np.asarray(mask.all(axis=1))
    gaps = np.flatnonzero(~lines)
    middle = len(lines) // 2
    below, above = gaps[gaps < middle], gaps[gaps > middle]
    first, last = int(below[-1]) + 1 if below.size else 0, int(above[0]) if above.size else len(lines)
    region = torch.from_numpy(np.ascontiguousarray(kspace[:, None, first:last]))
    region = kernel("centred_ifft")(region, (3,))
    shape = kspace.shape[-2:]
    coarse = coil_maps(region, first=(0, first), matrix=(1, *shape))
    fine = kernel("upsample")(coarse, (1, *shape))
    return np.asarray(kernel("unit_norm")(fine)[:, 0].numpy(), np.complex64)


def denoise_sample(head: Head, rng: np.random.Generator, spec: MrSpec | None = None) -> Sample:
    """Return a noisy image, its noise level and its truth, as behind undersampling, filters and normalisation.

    The noise is that of lines left out and unfolded with the coils' maps (R from 1 to 4), so it is stronger where the
    g-factor is, and alike in voxels that fell onto each other; filters and partial Fourier act on truth and noise.

    Returns
    -------
    dict
        ``image`` and ``target`` (y, x) complex64, ``sigma`` (y, x) float32, all in units of the noise of a full scan.
    """
    return next(denoise_samples(head, rng, spec))


def denoise_samples(head: Head, rng: np.random.Generator, spec: MrSpec | None = None) -> Iterator[Sample]:
    """Yield images of one slice without end, each with its own SNR, undersampling, filter and noise."""
    spec = spec or MrSpec()
    drawn = random_slice(head, spec, rng)
    image = magnetisation(drawn.scene, drawn.protocol, [tissues(drawn.protocol.field_t, rng)])[0] * drawn.profile
    object_ = image_of(cropped_kspace(image, spec.matrix))
    level, even = reference_level(np.abs(object_)), np.float32(1) / _on_voxels(drawn.profile, spec.matrix)
    while True:
        clean = object_ * np.float32(_snr(spec, rng) / level)
        g, covariance = unfolding(drawn.maps, int(rng.choice([1, 2, 2, 3, 3, 4])))
        window = random_window(spec.matrix, rng)
        window /= np.float32(
            np.sqrt((window**2).mean())
        )  # the product divides by the filter's gain, so white noise stays 1
        noise = filtered(unfolded_noise(covariance, rng)[0], window)
        sigma, target = filtered_level(g, window), filtered(clean, window)
        if rng.random() < 0.4:  # evened out by what a reference scan saw
            target, noise, sigma = target * even, noise * even, sigma * even
        yield {"image": target + noise, "sigma": sigma, "target": target}


def gad_sample(head: Head, rng: np.random.Generator, spec: MrSpec | None = None) -> Sample:
    """Return a slice before, after a tenth and after all of the contrast agent, with noise of their own.

    In half of the samples the head lies up to a degree and a millimetre elsewhere after the injections.

    Returns
    -------
    dict
        ``pre``, ``low``, ``full`` (y, x) complex64 with noise; ``pre_clean``, ``low_clean``, ``target`` without, the
        last after the full dose where the head lay for ``low``; ``sigma`` (y, x) float32; ``dose`` () float32.
    """
    spec = spec or MrSpec(protocols=T1_WEIGHTED, snr=(12.0, 80.0))
    drawn = random_slice(head, spec, rng)
    subject, uptake = tissues(drawn.protocol.field_t, rng), random_uptake(rng)
    dose = float(rng.choice([0.1, 0.1, rng.uniform(0.05, 0.3)]))
    moves = rng.normal(0, 0.5, (2, 3)) if rng.random() < 0.5 else np.zeros((2, 3))
    after = moved_scene(drawn.scene, moves[0].tolist(), moves[1].tolist()) if moves.any() else drawn.scene
    if moves.any():
        before = magnetisation(drawn.scene, drawn.protocol, [enhanced(subject, uptake, 0.0)])
        series = dose_series(after, drawn.protocol, subject, uptake=uptake, doses=(dose, 1.0))
        images = np.concatenate([before, series])
    else:
        images = dose_series(drawn.scene, drawn.protocol, subject, uptake=uptake, doses=(0.0, dose, 1.0))
    clean = image_of(cropped_kspace(images * drawn.profile, spec.matrix))
    clean *= np.float32(_snr(spec, rng) / reference_level(np.abs(clean[0])))
    g, covariance = unfolding(drawn.maps, int(rng.choice([1, 2, 3])))
    noisy = clean + unfolded_noise(covariance, rng, n=3)
    return {
        "pre": noisy[0],
        "low": noisy[1],
        "full": noisy[2],
        "pre_clean": clean[0],
        "low_clean": clean[1],
        "target": clean[2],
        "sigma": g,
        "dose": np.float32(dose),
    }


def _snr(spec: MrSpec, rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(*np.log(spec.snr))))


def _on_voxels(smooth: NDArray, matrix: tuple[int, int]) -> F32:
    """Return a smooth map of fine cells on the measured voxels."""
    return np.asarray(np.abs(image_of(cropped_kspace(smooth, matrix))), np.float32).clip(0.1)


def _regular(matrix: tuple[int, int], rng: np.random.Generator) -> tuple[NDArray[np.bool_], int]:
    r = int(rng.integers(2, 5))
    lines = masks.regular(matrix[0], r, n_acs=min(int(rng.choice([16, 24, 32])), matrix[0] // 6))
    if rng.random() < 0.25:
        lines &= masks.partial_fourier(matrix[0], float(rng.uniform(0.65, 0.95)))
    return np.broadcast_to(lines[:, None], matrix).copy(), r


def _random_lines(matrix: tuple[int, int], rng: np.random.Generator) -> tuple[NDArray[np.bool_], int]:
    lines = masks.random_lines(
        matrix[0], float(rng.uniform(2, 5)), rng, n_acs=min(int(rng.choice([12, 16, 24])), matrix[0] // 8)
    )
    return np.broadcast_to(lines[:, None], matrix).copy(), 1


def _discs(matrix: tuple[int, int], rng: np.random.Generator) -> tuple[NDArray[np.bool_], int]:
    r = float(rng.choice([3.0, 4.0, 6.0, 8.0]))
    return masks.poisson_disc(matrix, r, seed=int(rng.integers(16)), n_acs=min(20, matrix[0] // 8)).copy(), 1


_MASKS: Mapping[str, Callable[[tuple[int, int], np.random.Generator], tuple[NDArray[np.bool_], int]]] = {
    "regular": _regular,
    "random": _random_lines,
    "poisson": _discs,
}
"""Name -> mask (y, x) and the factor of its regular pattern, 1 where there is none."""
