"""Where every voxel of a labelled head lies in the MNI template, and where its landmarks are.

The head's labels are made an image in the template's own brightness, then registered: affine, and diffeomorphic demons
(Vercauteren et al., NeuroImage 2009;45:S61, DOI 10.1016/j.neuroimage.2008.10.040). AC and PC are those that experts set
in the template (AFIDs, CC BY 4.0, DOI 10.1002/hbm.24693). MNI ICBM 152 template: Fonov et al., NeuroImage 2011;54:313,
DOI 10.1016/j.neuroimage.2010.07.033. Places of the template are LPS here, its x as in a patient: left is positive.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from scipy import ndimage

from models.train.labels import Head
from models.train.upright import read_upright

F32 = NDArray[np.float32]
Floats = NDArray[np.float64]

COMMISSURES = {"AC": (0.0, -2.552, -4.817), "PC": (0.0, 25.124, -2.096)}
"""In the template, LPS (x, y, z) [mm]."""
SHAPE_2MM = (95, 117, 99)
"""Voxels (z, y, x) of the template's grid of 2 mm."""
ORIGIN = np.array([-98.0, -98.0, -72.0])
_LEVELS = (
    ((48, 59, 50), 4.0, ORIGIN, 60, 1.5, 2.0),
    (SHAPE_2MM, 2.0, ORIGIN, 60, 1.5, 1.0),
    ((65, 95, 81), 1.0, np.array([-40.0, -45.0, -35.0]), 40, 1.8, 0.0),
)
"""Demons: grid, its step and corner [mm], iterations, smoothing of the field [voxels], of the images [mm]."""
_CSF = 0.24
_BRIGHTNESS_OF: dict[float, tuple[int, ...]] = {
    1.0: (2, 41),
    0.98: (7, 46),
    0.96: (13, 52),
    0.93: (16, 28, 60),
    0.9: (25, 57),
    0.87: (10, 49),
    0.79: (12, 51),
    0.76: (26, 58),
    0.74: (11, 50),
    0.735: (3, 42, 8, 47, 17, 53, 18, 54),
    0.6: (85,),
    _CSF: (5, 44, 14, 15, 72, 30, 62, 136, 137, 163, 164),
    0.8 * _CSF: (4, 43),
}
"""Brightness in the template, white matter 1 -> FreeSurfer's numbers."""
_BRIGHTNESS = {number: b for b, numbers in _BRIGHTNESS_OF.items() for number in numbers}
_PAIRS = (
    (2, 41),
    (3, 42),
    (7, 46),
    (8, 47),
    (10, 49),
    (11, 50),
    (12, 51),
    (13, 52),
    (17, 53),
    (18, 54),
    (26, 58),
    (28, 60),
)
_PARENCHYMA = [n for pair in _PAIRS for n in pair] + [16, 25, 57]
_CHIASM, _VITREOUS, _HIPPOCAMPUS_MM = 85, 506, 30
_FIXED_POINT = 15
STEP = 4
"""Voxels of the head between two samples of the map."""


@dataclass(frozen=True, slots=True, eq=False)
class Atlas:
    """The map of one head."""

    name: str
    """Of the head."""
    map_mm: F32
    """Template place (LPS x, y, z) [mm] of every `STEP`-th voxel, shape (3, z, y, x)."""
    landmarks: dict[str, Floats]
    """Voxels (z, y, x) of the head's landmarks."""

    def coordinates(self, voxels: Floats) -> F32:
        """Return the template place [mm] of voxels (n, 3) of the head; linear beyond the map's edge is not known."""
        at = np.moveaxis(voxels / STEP, -1, 0)
        found = [ndimage.map_coordinates(m, at, order=1, mode="nearest") for m in self.map_mm]
        return np.stack(found, axis=-1).astype(np.float32)


def load_atlas(head: Head, *, data: Path, cache: Path) -> Atlas:
    """Return a head's map from the cache, or make it, which takes half a minute, and keep it there.

    Parameters
    ----------
    head
        Of `models.train.labels.load_heads`.
    data
        Folder of the data sets, with the template and the label maps in ``images``.
    cache
        Folder in which maps are kept (1 MB each).
    """
    path = cache / f"head_{head.name}_atlas.npz"
    if not path.exists():
        labels, _ = read_upright(data / "images" / "head_labels" / f"training_seg_{head.name}.nii.gz")
        _keep(made(head, labels.astype(np.int64), template_image(data)), path)
    with np.load(path) as file:
        marks = {name.removeprefix("mark_"): file[name] for name in file.files if name.startswith("mark_")}
        return Atlas(head.name, file["map_mm"], marks)


def template_image(data: Path) -> Any:
    """Return the brain of the MNI template, white matter 1, as SimpleITK has it (LPS)."""
    names = ("t1", "gm", "wm")
    paths = [data / "images" / f"mni_icbm152_{n}_tal_nlin_sym_09a_converted.nii.gz" for n in names]
    t1, grey, white = (read_upright(path)[0] for path in paths)
    grey, white = grey / grey.max(), white / white.max()
    brain = ndimage.binary_fill_holes(ndimage.binary_closing(grey + white > 0.3, iterations=4))
    brain = ndimage.binary_dilation(brain)
    return _itk(np.where(brain, t1 / np.median(t1[white > 0.95]), 0.0), ORIGIN)


def made(head: Head, labels: NDArray[np.int64], template: Any) -> Atlas:
    """Return the map of a head from its label map (z, y, x), LPS."""
    offset = _offset(head, labels)
    box = ndimage.find_objects(np.isin(labels, list(_BRIGHTNESS)).astype(np.uint8))[0]
    low = [max(b.start - 10, 0) for b in box]
    cut = labels[tuple(slice(a, b.stop + 10) for a, b in zip(low, box, strict=True))]
    moving = _smoothed(_itk(_as_image(cut), [float(v) for v in reversed(low)]), 0.7)
    fixed = _smoothed(template, 0.7)
    chain = sitk.CompositeTransform(3)
    affine = _affine(fixed, moving)
    chain.AddTransform(affine)
    for shape, step, origin, n_steps, sd, blur in _LEVELS:
        chain.AddTransform(_demons(fixed, moving, (_grid(shape, step, origin), n_steps, sd, blur), chain))
    marks = {name: np.array(chain.TransformPoint(place)[::-1]) - offset for name, place in COMMISSURES.items()}
    return Atlas(head.name, _inverted(chain, affine, head, offset), marks | _structures(labels, offset))


def _as_image(labels: NDArray[np.int64]) -> NDArray[np.float32]:
    table = np.full(1024, _CSF, np.float32)
    for brightness, numbers in _BRIGHTNESS_OF.items():
        table[list(numbers)] = brightness
    brain = ndimage.binary_closing(np.isin(labels, list(_BRIGHTNESS)), iterations=4)
    return np.where(brain, table[labels], 0).astype(np.float32)


def _affine(fixed: Any, moving: Any) -> Any:
    start = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.AffineTransform(3), sitk.CenteredTransformInitializerFilter.MOMENTS
    )
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsCorrelation()
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(0.02, seed=1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 80, 0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2])
    method.SetSmoothingSigmasPerLevel([4, 2])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetInitialTransform(start, inPlace=True)
    method.SetNumberOfThreads(1)  # the same answer every time
    method.Execute(fixed, moving)
    return sitk.AffineTransform(start)


def _demons(fixed: Any, moving: Any, how: tuple[Any, int, float, float], chain: Any) -> Any:
    grid, n_steps, sd, blur = how
    one = sitk.Resample(_smoothed(fixed, blur), grid)
    two = sitk.Resample(_smoothed(moving, blur), grid, chain)
    demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
    demons.SetNumberOfIterations(n_steps)
    demons.SetStandardDeviations(sd)
    demons.SetSmoothDisplacementField(True)
    demons.SetSmoothUpdateField(True)
    demons.SetNumberOfThreads(1)
    return sitk.DisplacementFieldTransform(sitk.Cast(demons.Execute(one, two), sitk.sitkVectorFloat64))


def _inverted(chain: Any, affine: Any, head: Head, offset: Floats) -> F32:
    """Return the template place of every `STEP`-th voxel of a head: the chain's inverse, by fixed-point steps."""
    matrix = np.array(affine.GetMatrix()).reshape(3, 3)
    centre = np.array(affine.GetCenter())
    shift = np.array(affine.GetTranslation()) + centre - matrix @ centre
    places = forward(chain)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in places.shape[:3]], indexing="ij"), axis=-1)[..., ::-1]
    more = (places - ((index * 2.0 + ORIGIN) @ matrix.T + shift)).astype(np.float32)
    shape = [-(-n // STEP) + 1 for n in head.tissue.shape]
    wanted = np.stack(np.meshgrid(*[np.arange(n) * STEP for n in shape], indexing="ij"), axis=-1).reshape(-1, 3)
    target = (wanted + offset)[:, ::-1] - shift
    back = np.linalg.inv(matrix).T
    at = target @ back
    for _ in range(_FIXED_POINT):
        voxel = ((at - ORIGIN) / 2)[:, ::-1].T
        bend = np.stack([ndimage.map_coordinates(more[..., k], voxel, order=1, mode="nearest") for k in range(3)], -1)
        at = 0.5 * at + 0.5 * ((target - bend) @ back)
    return np.ascontiguousarray(at.T.reshape(3, *shape), np.float32)


def forward(chain: Any) -> Floats:
    """Return where every voxel of the template's 2 mm grid is in the label map (z, y, x, 3), x y z [voxels]."""
    grid = _grid(SHAPE_2MM, 2.0, ORIGIN)
    field = sitk.TransformToDisplacementField(
        chain, sitk.sitkVectorFloat64, grid.GetSize(), grid.GetOrigin(), grid.GetSpacing(), grid.GetDirection()
    )
    index = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE_2MM], indexing="ij"), axis=-1)[..., ::-1]
    return np.asarray(index * 2.0 + ORIGIN + sitk.GetArrayFromImage(field))


def _structures(labels: NDArray[np.int64], offset: Floats) -> dict[str, Floats]:
    """Return centres of paired structures (L, R and FreeSurfer's number of the left one), eyes, hippocampi, chiasm."""
    numbers = [n for pair in _PAIRS for n in pair]
    centres = dict(zip(numbers, np.array(ndimage.center_of_mass(labels > 0, labels, numbers)) - offset, strict=True))
    found = {f"{side}{pair[0]}": centres[n] for pair in _PAIRS for side, n in zip("LR", pair, strict=True)}
    found["CHIASM"] = np.argwhere(labels == _CHIASM).mean(axis=0) - offset
    eyes = np.argwhere(labels == _VITREOUS) - offset
    left = eyes[:, 2] > (found["L3"][2] + found["R3"][2]) / 2
    found["EYE_L"], found["EYE_R"] = eyes[left].mean(axis=0), eyes[~left].mean(axis=0)
    for side, number in (("L", 17), ("R", 53)):
        voxels = np.argwhere(labels == number) - offset
        voxels = voxels[np.linalg.norm(voxels - np.median(voxels, axis=0), axis=1) < _HIPPOCAMPUS_MM]
        middle = voxels.mean(axis=0)
        along = np.linalg.eigh(np.cov((voxels - middle).T))[1][:, 2]
        along = along * np.sign(along[1])
        found[f"HIP_{side}_A"], found[f"HIP_{side}_P"] = middle - 15 * along, middle + 15 * along
    return found


def _offset(head: Head, labels: NDArray[np.int64]) -> Floats:
    """Return voxel (0, 0, 0) of the head in its label map: the boxes of both brains have one middle."""
    box = ndimage.find_objects(np.isin(labels, _PARENCHYMA).astype(np.uint8))[0]
    return np.array([(b.start + b.stop - 1) / 2 for b in box]) - head.centre


def _grid(shape: tuple[int, int, int], step: float, origin: Any) -> Any:
    return _itk(np.zeros(shape), origin, step)


def _itk(data: NDArray, origin: Any, step: float = 1.0) -> Any:
    image = sitk.GetImageFromArray(np.ascontiguousarray(data, np.float32))
    image.SetOrigin([float(v) for v in origin])
    image.SetSpacing([step] * 3)
    return image


def _smoothed(image: Any, sd_mm: float) -> Any:
    return sitk.SmoothingRecursiveGaussian(image, sd_mm) if sd_mm else image


def _keep(atlas: Atlas, path: Path) -> None:
    """Write a head's map, whole or not at all."""
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as out:
        np.savez(out, allow_pickle=False, map_mm=atlas.map_mm, **{f"mark_{k}": v for k, v in atlas.landmarks.items()})
    part.replace(path)
