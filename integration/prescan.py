"""Brightness as the body coil sees it: a scan with the even coil takes the shading of the surface coils away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from acquisition.errors import ConfigError
from acquisition.items import Image, Item, Kind
from acquisition.scan import Scan
from acquisition.sources import open_raw
from acquisition.stream import Chain
from acquisition.verdict import Level, Verdict
from recon.mri import Assemble, CombineRss, Grappa, ReadoutTransform
from recon.reformat import resampled
from recon.series import stacked

_OBJECT = 0.08  # part of the 99th percentile of the smooth image above which there is an object


@dataclass(kw_only=True)
class Prescan:
    """Multiply each image by the smooth ratio of a body-coil scan to itself; output ``normalised``.

    Both scans are of the same patient on the same table position. The ratio is 1 on average over the object, and 1
    where there is none. The conventional image stays.

    References
    ----------
    Brey and Narayana, Med Phys 1988;15:241, DOI 10.1118/1.596255.
    """

    reference: str
    """Raw data file of the body-coil scan."""
    smooth_mm: float = 12.0
    """Standard deviation of the Gaussian that leaves shading and takes anatomy away [mm]."""
    largest: float = 8.0
    """Largest factor, up or down, by which a voxel is changed."""

    def __post_init__(self) -> None:
        for name, fine, expected in (
            ("smooth_mm", self.smooth_mm > 0, "above 0"),
            ("largest", self.largest > 1, "above 1"),
        ):
            if not fine:
                raise ConfigError(f"image.prescan {name}", expected=expected, got=str(getattr(self, name)))

    def open(self, scan: Scan) -> None:
        """Reconstruct the body-coil scan.

        Raises
        ------
        ConfigError
            It holds no image.
        """
        raw = open_raw(Path(self.reference).expanduser())
        chain = Chain([ReadoutTransform(), Assemble(), Grappa(), CombineRss()])
        chain.open(raw.scan)
        items = [out for item in raw.items() for out in chain.feed(item)] + list(chain.close())
        images = [i for i in items if isinstance(i, Image)]
        if not images or not any(i.data.any() for i in images):
            raise ConfigError("image.prescan reference", expected="a scan with an image", got=str(raw.path))
        first = images[0].position
        same = [i for i in images if replace(i.position, slice=0) == replace(first, slice=0)]
        self._body = stacked(same)

    def feed(self, item: Item) -> Iterator[Item]:
        """Pass everything on; give the normalised image behind each conventional magnitude."""
        yield item
        if isinstance(item, Image) and item.output == "conventional" and item.kind is Kind.MAGNITUDE:
            yield self._normalised(item)

    def close(self) -> Iterator[Item]:
        """Nothing is left to do."""
        return iter(())

    def _normalised(self, image: Image) -> Image:
        grid = image.grid
        body = resampled(self._body.data.reshape(self._body.grid.shape), self._body.grid, grid)
        ratio = np.clip(
            self._ratio(image.data.reshape(grid.shape), body, grid.spacing_mm), 1 / self.largest, self.largest
        )
        missed = not body.any()
        verdict = Verdict(
            check="image.prescan",
            level=Level.FLAG if missed else Level.PASS,
            advice="The body-coil scan does not reach this slice: its shading was left."
            if missed
            else "Shading was taken away by the body-coil scan.",
            value=float(np.percentile(ratio, 99) / np.percentile(ratio, 1)),
            evidence=Path(self.reference).name,
        )
        data = (image.data * ratio.reshape(image.data.shape)).astype(np.float32)
        return replace(image, data=data, output="normalised", verdicts=(*image.verdicts, verdict))

    def _ratio(
        self, data: NDArray, body: NDArray[np.float32], spacing_mm: tuple[float, float, float]
    ) -> NDArray[np.float64]:
        """Return what (z, y, x) is multiplied by."""
        width = [self.smooth_mm / s if n > 1 else 0.0 for s, n in zip(spacing_mm, data.shape, strict=True)]
        own, even = (gaussian_filter(d.astype(float), width, mode="constant") for d in (data, body))
        inside = (own > _OBJECT * np.percentile(own, 99)) & (even > _OBJECT * np.percentile(even, 99))
        if not inside.any():
            return np.ones(data.shape)
        ratio = np.where(inside, even / np.maximum(own, 1e-30), 0)
        mean = float(ratio[inside].mean())
        return np.where(inside, ratio / mean, 1.0)
