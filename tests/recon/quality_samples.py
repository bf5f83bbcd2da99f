"""What the tests of image quality share: a head, noise, and artefacts planted in its k-space."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from acquisition.geometry import Grid
from acquisition.items import Image, Position
from acquisition.scan import Scan, Study
from acquisition.sources.phantom.head import head
from acquisition.stream import Step
from acquisition.verdict import Verdict
from tests.phantoms import small_exam

N = 128
SCAN = Scan(uid="s", modality="MR", study=Study(body_part="HEAD"))
Slice = NDArray[np.float64]


@lru_cache(maxsize=4)
def head_slice(seed: int = 0, n: int = N) -> Slice:
    """One axial slice of a virtual head, no noise."""
    return head(seed).render(small_exam(matrix=(3, n, n)).grid.plane(1), 0.0, subsamples=(3, 3))[0].astype(float)


def to_k(image: Slice) -> NDArray[np.complex128]:
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image)))


def from_k(space: NDArray[np.complex128]) -> NDArray[np.complex128]:
    return np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(space)))


def noisy(image: NDArray, snr: float = 30.0, seed: int = 0) -> Slice:
    """Magnitude with complex noise; `snr` is that of the median of what is bright."""
    rng = np.random.default_rng(seed)
    level = np.median(np.abs(image)[np.abs(image) > 0.2 * np.abs(image).max()]) / snr
    return np.abs(image + level * (rng.standard_normal(image.shape) + 1j * rng.standard_normal(image.shape)))


def ghosted(image: Slice, phase_rad: float) -> NDArray:
    space = to_k(image)
    space[::2] *= np.exp(1j * phase_rad)
    space[1::2] *= np.exp(-1j * phase_rad)
    return from_k(space)


def moved(image: Slice, pixels: float, seed: int = 1) -> NDArray:
    """Shifted along y by up to so many pixels, another way every 8 lines."""
    n = len(image)
    shifts = np.random.default_rng(seed).uniform(-pixels, pixels, n // 8).repeat(8)
    return from_k(to_k(image) * np.exp(-2j * np.pi * (np.arange(n) - n // 2) * shifts / n)[:, None])


def folded(image: Slice, part: float) -> Slice:
    """Measured with a field of view along y that is a part of what it should be."""
    n, f = len(image), int(part * len(image))
    out = np.zeros((f, image.shape[1]))
    for row in range(n):
        out[(row - n // 2 + f // 2) % f] += image[row]
    return out


def interfered(image: Slice, strength: float, seed: int = 2) -> NDArray:
    """With a radio wave of constant frequency along x, of another phase in each line."""
    space, n = to_k(image), len(image)
    rng = np.random.default_rng(seed)
    wave = strength * np.abs(space).max() * (rng.standard_normal(n) + 1j * rng.standard_normal(n))
    return from_k(space + wave[:, None] * np.exp(2j * np.pi * 0.31 * np.arange(image.shape[1])))


def grid(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float] = (4.0, 2.0, 2.0)) -> Grid:
    return Grid.from_centre((0, 0, 0), shape=shape, spacing_mm=spacing_mm, directions=np.eye(3))


def as_image(slices: Iterable[NDArray], **changes: object) -> Image:
    data = np.stack([np.asarray(s, np.float32) for s in slices])
    return replace(Image(data=data, grid=grid(data.shape)), **changes)


def found(step: Step, images: Iterable[Image], scan: Scan = SCAN) -> dict[str, Verdict]:
    """Verdicts of a check, by name; images must pass untouched."""
    step.open(scan)
    verdicts = {}
    for image in images:
        (out,) = step.feed(image)
        assert out is image
    for verdict in step.close():
        assert isinstance(verdict, Verdict)
        verdicts[verdict.check] = verdict
    return verdicts


def series(volumes: Iterable[NDArray]) -> list[Image]:
    return [
        Image(data=v.astype(np.float32), grid=grid(v.shape), position=Position(repetition=t))
        for t, v in enumerate(volumes)
    ]


Plant = Callable[[Slice], NDArray]
