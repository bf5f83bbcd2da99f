"""Rigid registration of two volumes of one patient, and their difference. Needs SimpleITK (extra ``registration``).

Mutual information makes it independent of the contrast: Mattes et al., IEEE Trans Med Imaging 2003;22:120,
DOI 10.1109/TMI.2003.809072.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from acquisition.errors import ConfigError, DataError
from acquisition.geometry import Grid
from acquisition.items import Image, Item, Kind, Position
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from recon.rigid import Rigid
from recon.series import stacked

_SHRINK, _SMOOTH_MM = (4, 2, 1), (4.0, 2.0, 0.5)
_SAMPLES = 40_000
_FEWEST = 4


def rigid(fixed: Image, moving: Image) -> Rigid:
    """Find the motion between two volumes.

    Parameters
    ----------
    fixed, moving
        Magnitudes (z, y, x) of at least 4 slices, same frame of reference or not far from each other.

    Raises
    ------
    DataError
        Fewer slices, or nothing to see.
    """
    for name, image in (("fixed", fixed), ("moving", moving)):
        if image.data.shape[-3] < _FEWEST or not np.ptp(image.data) > 0:
            got = f"{image.data.shape[-3]} slices, values {image.data.min():g} to {image.data.max():g}"
            raise DataError(f"registration {name}", expected=f"{_FEWEST} or more slices of an object", got=got)
    target, source = _itk(fixed), _itk(moving)
    start = sitk.Euler3DTransform()
    start.SetCenter(tuple(fixed.grid.centre_mm))
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(min(1.0, _SAMPLES / target.GetNumberOfPixels()), seed=1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 200, 0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    levels = [f for f in _SHRINK if min(fixed.data.shape[-3:]) // f >= _FEWEST]
    method.SetShrinkFactorsPerLevel(levels)
    method.SetSmoothingSigmasPerLevel(_SMOOTH_MM[-len(levels) :])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetInitialTransform(start, inPlace=True)
    method.SetNumberOfThreads(1)  # the same answer every time
    method.Execute(target, source)
    rotation = np.array(start.GetMatrix()).reshape(3, 3)
    centre = np.asarray(start.GetCenter())
    return Rigid(rotation, np.asarray(start.GetTranslation()) + centre - rotation @ centre)


def brought(moving: Image, grid: Grid, motion: Rigid) -> NDArray[np.float32]:
    """Return `moving` on another volume's grid (z, y, x) after the motion is undone; 0 outside."""
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(motion.rotation.ravel().tolist())
    transform.SetTranslation(motion.shift_mm.tolist())
    like = _itk_of(np.zeros(grid.shape, np.float32), grid)
    made = sitk.Resample(_itk(moving), like, transform, sitk.sitkLinear, 0.0, sitk.sitkFloat32)
    return np.asarray(sitk.GetArrayFromImage(made), np.float32)


@dataclass(kw_only=True)
class Subtract:
    """Register every later repetition to the first and give their difference: uptake of contrast agent.

    Output ``subtraction`` for each repetition, when its last slice is there. The measured images pass as they are.
    """

    flag_above_mm: float = 5.0
    """Motion of the centre of the volume from which the difference is marked [mm]."""

    def __post_init__(self) -> None:
        if not self.flag_above_mm > 0:
            raise ConfigError("image.subtract flag_above_mm", expected="above 0", got=str(self.flag_above_mm))

    def open(self, scan: Scan) -> None:
        """Learn how many slices a volume has."""
        header = scan.require_mr()
        self._n_slices = max((e.limit("slice").maximum for e in header.encodings), default=0) + 1
        self._slices: dict[Position, list[Image]] = {}
        self._first: dict[Position, Image] = {}

    def feed(self, item: Item) -> Iterator[Item]:
        """Pass everything on; give the difference behind the last slice of a repetition."""
        yield item
        if not isinstance(item, Image) or item.output != "conventional" or item.kind is not Kind.MAGNITUDE:
            return
        key = replace(item.position, slice=0)
        images = self._slices.setdefault(key, [])
        images.append(item)
        if len(images) == self._n_slices:
            yield from self._difference(key, self._slices.pop(key))

    def close(self) -> Iterator[Item]:
        """Say which repetitions stayed incomplete."""
        if self._slices:
            yield _told("incomplete repetitions", f"{len(self._slices)} lack slices", Level.FLAG)

    def _difference(self, key: Position, images: list[Image]) -> Iterator[Item]:
        base = replace(key, repetition=0)
        try:
            volume = stacked(images)
            if key.repetition == 0:
                self._first[base] = volume
                return
            if base not in self._first:
                yield _told("no subtraction", "the first repetition is not there", Level.FLAG)
                return
            yield difference(volume, self._first[base], output="subtraction", flag_above_mm=self.flag_above_mm)
        except DataError as error:
            yield _told("no subtraction", str(error), Level.FLAG)


def difference(volume: Image, earlier: Image, *, output: str, flag_above_mm: float) -> Image:
    """Return ``volume - earlier``, the earlier one registered to it, with a Verdict that says how far it moved.

    Raises
    ------
    DataError
        One of them cannot be registered.
    """
    motion = rigid(volume, earlier)
    data = volume.data.reshape(volume.grid.shape) - brought(earlier, volume.grid, motion)
    travel = motion.travel_mm(volume.grid)
    far = travel > flag_above_mm
    verdict = Verdict(
        check="image.subtract",
        level=Level.FLAG if far else Level.PASS,
        advice="The patient moved far between the two: edges in the difference may be motion."
        if far
        else "The two volumes were registered before they were subtracted.",
        value=travel,
        limit=flag_above_mm,
        unit="mm",
        evidence=f"turned by {motion.angle_deg:.2f} degrees",
    )
    return replace(
        volume, data=data.astype(np.float32), kind=Kind.REAL, output=output, verdicts=(*volume.verdicts, verdict)
    )


def _told(advice: str, evidence: str, level: Level) -> Verdict:
    return Verdict(check="image.subtract", level=level, advice=advice.capitalize() + ".", evidence=evidence)


def _itk(image: Image) -> sitk.Image:
    return _itk_of(np.ascontiguousarray(image.data.reshape(image.grid.shape), np.float32), image.grid)


def _itk_of(data: NDArray[np.float32], grid: Grid) -> sitk.Image:
    made = sitk.GetImageFromArray(data)
    made.SetSpacing(tuple(float(v) for v in reversed(grid.spacing_mm)))
    made.SetOrigin(tuple(grid.origin_mm))
    made.SetDirection(np.stack([grid.x_dir, grid.y_dir, grid.z_dir], axis=1).ravel().tolist())
    return made
