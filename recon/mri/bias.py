"""Brightness made even: the slow shading that receive coils leave. Needs SimpleITK (extra ``registration``)."""

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
from recon.series import frame_of, stacked

_COARSE_MM = 4.0
_KNOTS_MM = 90.0
_LEVELS = (50, 40, 30)


@dataclass(kw_only=True)
class Bias:
    """Estimate the shading of each volume when the scan ends and divide by it (N4); output ``normalised``.

    The field is estimated on voxels of about 4 mm, inside what Otsu's threshold calls the object, and has mean 1
    there. Contrast between tissues that itself changes slowly from one side to the other is taken for shading; the
    conventional image stays for that reason.

    References
    ----------
    Tustison et al., IEEE Trans Med Imaging 2010;29:1310, DOI 10.1109/TMI.2010.2046908.
    """

    largest: float = 8.0
    """Largest factor, up or down, by which a voxel is changed."""

    def __post_init__(self) -> None:
        if not self.largest > 1:
            raise ConfigError("image.bias largest", expected="above 1", got=str(self.largest))

    def open(self, scan: Scan) -> None:
        """Forget the scan before."""
        self._slices: dict[Position, list[Image]] = {}

    def feed(self, item: Item) -> Iterator[Item]:
        """Pass everything on; keep the conventional magnitudes."""
        if isinstance(item, Image) and item.output == "conventional" and item.kind is Kind.MAGNITUDE:
            self._slices.setdefault(frame_of(item.position), []).append(item)
        yield item

    def close(self) -> Iterator[Item]:
        """Give the normalised slices of each frame."""
        for images in self._slices.values():
            try:
                volume = stacked(images)
            except DataError as error:
                yield _not_done(str(error))
                continue
            field = shading(volume.data.reshape(volume.grid.shape), volume.grid)
            if field is None:
                yield _not_done("no object to see")
                continue
            yield from self._normalised(images, volume, np.clip(field, 1 / self.largest, self.largest))

    def _normalised(self, images: list[Image], volume: Image, field: NDArray[np.float32]) -> Iterator[Image]:
        told = Verdict(
            check="image.bias",
            level=Level.PASS,
            advice="Shading was estimated from the image itself and divided out.",
            value=float(np.percentile(field, 99) / np.percentile(field, 1)),
            evidence=f"shading {field.min():.2f} to {field.max():.2f}",
        )
        data = (volume.data.reshape(volume.grid.shape) / field).astype(np.float32)
        if len(images) == 1:
            yield replace(
                images[0],
                data=data.reshape(images[0].data.shape),
                output="normalised",
                verdicts=(*images[0].verdicts, told),
            )
            return
        normal = np.asarray(volume.grid.z_dir)
        for z, image in enumerate(sorted(images, key=lambda i: float(np.asarray(i.grid.origin_mm) @ normal))):
            shape = image.data.shape
            yield replace(image, data=data[z].reshape(shape), output="normalised", verdicts=(*image.verdicts, told))


def shading(data: NDArray, grid: Grid) -> NDArray[np.float32] | None:
    """Return the shading of (z, y, x), mean 1 inside the object; None where there is no object."""
    if not np.ptp(data) > 0:
        return None
    full = sitk.GetImageFromArray(np.ascontiguousarray(data, np.float32))
    full.SetSpacing(tuple(float(v) for v in reversed(grid.spacing_mm)))
    factors = [
        max(1, min(round(_COARSE_MM / s), n // 8 or 1)) for s, n in zip(full.GetSpacing(), full.GetSize(), strict=True)
    ]
    coarse = sitk.Shrink(sitk.Cast(full, sitk.sitkFloat32), factors)
    mask = sitk.OtsuThreshold(coarse, 0, 1, 200)
    if not sitk.GetArrayViewFromImage(mask).any():
        return None
    filter_ = sitk.N4BiasFieldCorrectionImageFilter()
    filter_.SetMaximumNumberOfIterations(list(_LEVELS))
    filter_.SetNumberOfControlPoints([_control(n * s) for n, s in zip(full.GetSize(), full.GetSpacing(), strict=True)])
    filter_.Execute(sitk.Cast(coarse, sitk.sitkFloat32) + float(np.max(data)) * 1e-4, mask)
    field = sitk.GetArrayFromImage(sitk.Exp(sitk.Cast(filter_.GetLogBiasFieldAsImage(full), sitk.sitkFloat32)))
    inside = data > 0.1 * np.percentile(data, 99)
    return np.asarray(field / field[inside].mean(), np.float32)


def _control(extent_mm: float) -> int:
    return int(np.clip(round(extent_mm / _KNOTS_MM), 1, 4)) + 3


def _not_done(why: str) -> Verdict:
    return Verdict(check="image.bias", level=Level.FLAG, advice="Brightness was not made even.", evidence=why)
