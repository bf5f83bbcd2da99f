"""Whole-head label maps as training anatomy: heads by part, tissues instead of labels, the field that they make.

Source: the 16 label maps of SynthSeg (Apache-2.0), 256^3 voxels of 1 mm, FreeSurfer's numbers; numbers from 500 up are
what lies outside of the brain. Soft tissue, one label there, is divided into fat and muscle here, and dura is the layer
between CSF and skull: both are drawn from the head's number, the same every time.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from acquisition.errors import ConfigError, DataError
from models.train.fields import spline_matrix
from models.train.tissue import CHI_PPM, NUMBER, PARENCHYMA
from models.train.upright import read_upright

Bytes = NDArray[np.uint8]

SPLIT: dict[str, tuple[str, ...]] = {
    "training": tuple(f"{n:02d}" for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13)),
    "calibration": ("11", "14"),
    "test": ("15", "16"),
}
"""Which heads are for what; 01, 06, 11 and 15 come from one study, so each part has one of them."""

# FreeSurfer's numbers (below 500) and the extra-cerebral ones, which were identified on the maps themselves
_TISSUE_OF: dict[str, tuple[int, ...]] = {
    "white": (2, 41),
    "cortex": (3, 42),
    "csf": (24,),
    "ventricle": (4, 5, 14, 15, 43, 44, 72),
    "cerebellar_white": (7, 46),
    "cerebellar_cortex": (8, 47),
    "thalamus": (10, 49),
    "caudate": (11, 50),
    "putamen": (12, 51),
    "pallidum": (13, 52),
    "brainstem": (16,),
    "hippocampus": (17, 53),
    "amygdala": (18, 54),
    "accumbens": (26, 58),
    "ventral_dc": (28, 60),
    "white_spots": (25, 57),
    "optic_nerve": (85, 530),
    "choroid": (136, 137, 163, 164),
    "artery": (502,),
    "vein": (30, 62, 514),
    "vitreous": (506,),
    "muscle": (507,),
    "eye_muscle": (508,),
    "mucosa": (509,),
    "skin": (511,),
    "spinal_cord": (512,),
    "cortical_bone": (515,),
    "marrow": (516,),
}
FIELD_STEP = 4
"""Voxels per sample of the field map."""
_MARGIN = 4  # voxels of air kept around the head
_OUTSIDE = ("muscle", "skin", "mucosa", "marrow", "cortical_bone", "vein", "artery")
_FEW = 7  # voxels of 27: a label outside of the brain with fewer of its kind around it is noise of the labelling


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """One head, voxels of 1 mm, axes (z, y, x) in LPS."""

    name: str
    """Its number in the data set, or any other name."""
    tissue: Bytes
    """Tissue of each voxel, numbers of `tissue.NUMBER`, shape (z, y, x)."""
    field_ppm: NDArray[np.float32]
    """Shimmed field offset on every `FIELD_STEP`-th voxel [ppm], shape (z, y, x)."""
    centre: NDArray[np.float64]
    """Middle of the box around the brain [voxels], shape (3,)."""
    half: NDArray[np.float64]
    """Half of the box's sides [voxels], shape (3,)."""


def tissues_of(labels: NDArray, *, seed: int) -> Bytes:
    """Return the tissue of each voxel of a FreeSurfer label map (z, y, x) in LPS, cut to the box of the head.

    Raises
    ------
    DataError
        The map has a label that is not known.
    """
    table = np.full(1024, 255, np.uint8)
    table[0] = 0
    for name, numbers in _TISSUE_OF.items():
        table[list(numbers)] = NUMBER[name]
    whole = np.asarray(labels).astype(np.int64)
    known = (whole >= 0) & (whole < len(table))
    found = np.where(known, table[np.where(known, whole, 0)], 255).astype(np.uint8)
    if (found == 255).any():
        strange = np.unique(whole[found == 255])[:5].tolist()
        raise DataError("label map", expected="FreeSurfer's numbers", got=str(strange), action="name their tissue")
    found = _cleaned(found)
    rng = np.random.default_rng([seed, 41])
    _divide_soft_tissue(found, rng)
    _add_dura(found)
    return found


def _cleaned(found: Bytes) -> Bytes:
    """Return the head alone, cut to its box, lone voxels outside of the brain given to what is around them."""
    parts, n = ndimage.label(found > 0)
    if n == 0:
        return found
    largest = int(np.bincount(parts.ravel())[1:].argmax()) + 1
    box = tuple(slice(max(b.start - _MARGIN, 0), b.stop + _MARGIN) for b in ndimage.find_objects(parts)[largest - 1])
    found = np.where(parts[box] == largest, found[box], 0).astype(np.uint8)
    outside = np.isin(found, [NUMBER[n] for n in _OUTSIDE])
    outside[0], outside[-1], outside[:, 0], outside[:, -1], outside[..., 0], outside[..., -1] = (False,) * 6
    shifts = [(a, b, c) for a in (-1, 0, 1) for b in (-1, 0, 1) for c in (-1, 0, 1)]
    at = np.argwhere(outside)
    around = np.stack([found[tuple((at + shift).T)] for shift in shifts], axis=1)
    lone = (around == around[:, 13:14]).sum(axis=1) < _FEW
    out = found.copy()
    around = around[lone]
    best = np.array([np.bincount(row).argmax() for row in around], np.uint8)
    out[tuple(at[lone].T)] = best
    return out[_lowest(out) :]


def _lowest(found: Bytes) -> int:
    """Return the first slice from below that is whole: where the map ends, the head may end obliquely."""
    area = (found > 0).sum(axis=(1, 2)).astype(float)
    above = np.array([area[z : z + 12].max() for z in range(len(area))])
    whole = np.flatnonzero(area > 0.8 * above)
    whole = whole[area[whole] > 0.3 * area.max()]
    return int(whole[0]) if whole.size else 0


def _divide_soft_tissue(found: Bytes, rng: np.random.Generator) -> None:
    """Turn the soft tissue below the skin and some of that between the muscles into fat."""
    soft = found == NUMBER["muscle"]
    if not soft.any():
        return
    depth = ndimage.distance_transform_edt(found != NUMBER["skin"]).astype(np.float32)
    below = np.linspace(-1, 1, found.shape[0], dtype=np.float32)[:, None, None] < -0.25  # face and neck
    thick = 2.6 + 1.2 * _smooth(found.shape, 14, rng) + 1.2 * below
    islands = _smooth(found.shape, 9, rng)
    sheets = np.abs(_smooth(found.shape, 5, rng))
    fat = (depth < np.clip(thick, 1.2, 7)) | (islands > 1.0) | (sheets < np.where(below, 0.10, 0.04))
    eyes = np.isin(found, [NUMBER["vitreous"], NUMBER["eye_muscle"]])
    orbit = ndimage.distance_transform_edt(~eyes) < 9 if eyes.any() else eyes
    found[soft & (fat | orbit)] = NUMBER["fat"]


def _add_dura(found: Bytes) -> None:
    """Make the CSF next to bone dura."""
    bone = np.isin(found, [NUMBER["cortical_bone"], NUMBER["marrow"]])
    near = ndimage.binary_dilation(bone)
    found[(found == NUMBER["csf"]) & near] = NUMBER["dura"]


def _smooth(shape: Sequence[int], scale: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a smooth random field of unit variance; `scale` is its correlation length in voxels."""
    field = rng.standard_normal([max(4, int(np.ceil(n / scale)) + 2) for n in shape]).astype(np.float32)
    for axis, n in enumerate(shape):
        along = np.moveaxis(field, axis, -1)
        field = np.moveaxis(along @ spline_matrix(n, along.shape[-1]).T, -1, axis)
    return (field - field.mean()) / max(float(field.std()), 1e-6)


def field_of(tissue: Bytes) -> NDArray[np.float32]:
    """Return the field offset that the tissues' susceptibilities make, shimmed over the brain [ppm].

    ``B(k) = (1/3 - k_z^2 / k^2) chi(k)`` on voxels of `FIELD_STEP` (DOI 10.1002/cmr.b.20034), main field along z; what
    lies below the neck continues its last slice. The shim takes out a polynomial of second order.
    """
    step = FIELD_STEP
    chi = CHI_PPM[tissue].astype(np.float32)
    whole = [(-n) % step for n in chi.shape]
    chi = np.pad(chi, [(0, w) for w in whole], mode="edge")
    z, y, x = (n // step for n in chi.shape)
    chi = chi.reshape(z, step, y, step, x, step).mean(axis=(1, 3, 5))
    pad = z // 2
    chi = np.pad(chi, [(pad, 0), (0, 0), (0, 0)], mode="edge")
    chi = np.pad(chi, [(0, pad), (y // 2, y // 2), (x // 2, x // 2)], constant_values=CHI_PPM[0])
    k = np.meshgrid(*(fft.fftfreq(n) for n in chi.shape[:2]), fft.rfftfreq(chi.shape[2]), indexing="ij")
    square = k[0] ** 2 + k[1] ** 2 + k[2] ** 2
    square[0, 0, 0] = 1.0
    dipole = 1 / 3 - k[0] ** 2 / square
    dipole[0, 0, 0] = 0.0
    field = fft.irfftn(fft.rfftn(chi - CHI_PPM[0]) * dipole, chi.shape)
    field = field[pad : pad + z, y // 2 : y // 2 + y, x // 2 : x // 2 + x]
    brain = np.isin(tissue, [NUMBER[n] for n in PARENCHYMA])
    brain = np.pad(brain, [(0, w) for w in whole])[::step, ::step, ::step]
    return _shimmed(field, brain).astype(np.float32)


def _shimmed(field: NDArray, brain: NDArray[np.bool_]) -> NDArray:
    """Take out the polynomial of second order that fits best in the brain."""
    z, y, x = (g / n - 0.5 for g, n in zip(np.indices(field.shape), field.shape, strict=True))
    terms = np.stack([np.ones_like(z), z, y, x, z * y, z * x, y * x, z * z, y * y, x * x], axis=-1)
    if brain.sum() <= terms.shape[-1]:
        return field - field.mean()
    fit, *_ = np.linalg.lstsq(terms[brain], field[brain], rcond=None)
    return np.clip(field - terms @ fit, -4, 4)


def head_of(name: str, tissue: Bytes) -> Head:
    """Return a head with its field map.

    Raises
    ------
    DataError
        There is no brain in it.
    """
    brain = np.isin(tissue, [NUMBER[n] for n in PARENCHYMA])
    if not brain.any():
        raise DataError(f"head {name}", expected="a brain", got="none of its tissues", action="choose another map")
    return Head(name, tissue, field_of(tissue), *_brain_box(tissue))


def _brain_box(tissue: Bytes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return middle and half sides of the box around the brain [voxels]."""
    brain = np.isin(tissue, [NUMBER[n] for n in PARENCHYMA]).astype(np.uint8)
    ends = np.array([(b.start, b.stop - 1) for b in ndimage.find_objects(brain)[0]], float)
    return ends.mean(axis=1), (ends[:, 1] - ends[:, 0]) / 2


def load_heads(part: str, *, data: Path, cache: Path) -> list[Head]:
    """Return the heads of one part, from the cache where they are, else made from the label maps and kept there.

    Parameters
    ----------
    part
        training, calibration or test.
    data
        Folder of the data sets, with ``images/head_labels`` in it.
    cache
        Folder in which heads are kept as arrays (28 MB each); made where it is missing.

    Raises
    ------
    ConfigError
        There is no such part.
    """
    if part not in SPLIT:
        raise ConfigError("part of the heads", expected=f"one of {', '.join(SPLIT)}", got=repr(part))
    cache.mkdir(parents=True, exist_ok=True)
    return [_cached(name, data, cache) for name in SPLIT[part]]


def _cached(name: str, data: Path, cache: Path) -> Head:
    files = cache / f"head_{name}_tissue.npy", cache / f"head_{name}_field.npy"
    if not all(file.exists() for file in files):
        labels, _ = read_upright(data / "images" / "head_labels" / f"training_seg_{name}.nii.gz")
        head = head_of(name, tissues_of(labels, seed=int(name)))
        arrays: tuple[NDArray, NDArray] = (head.tissue, head.field_ppm)
        for file, array in zip(files, arrays, strict=True):
            part = file.with_suffix(f".{os.getpid()}.part")
            with part.open("wb") as out:
                np.save(out, array)
            part.replace(file)
    tissue = np.load(files[0], mmap_mode="r")
    return Head(name, tissue, np.load(files[1]), *_brain_box(tissue))
