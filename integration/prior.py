"""The same patient earlier: a prior exam brought to today's position, and what has changed since."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import ConfigError, IsocenterError
from acquisition.items import Image, Item, Kind, Position
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from integration.dicom.read import read_images
from recon.register import brought, rigid
from recon.series import frame_of, stacked


@dataclass(kw_only=True)
class Prior:
    """Register a series of an earlier exam to each volume when the scan ends.

    Outputs ``prior``, on the slices of today, and ``change``, today less the prior after its brightness was fitted to
    today's. The measured images pass as they are; where the prior cannot be used a FLAG says why.
    """

    folder: str
    """Folder with the DICOM objects of one MR series."""
    flag_above_mm: float = 30.0
    """Distance of the two positions from which the registration is marked [mm]."""

    def __post_init__(self) -> None:
        if not self.flag_above_mm > 0:
            raise ConfigError("image.prior flag_above_mm", expected="above 0", got=str(self.flag_above_mm))

    def open(self, scan: Scan) -> None:
        """Read the prior.

        Raises
        ------
        ConfigError
            The folder holds no single volume of the scan's modality.
        """
        self._slices: dict[Position, list[Image]] = {}
        folder = Path(self.folder).expanduser()
        files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "DICOMDIR")
        found = read_images(files) if files else []
        volumes = [v for v in found if v.kind is Kind.MAGNITUDE and v.attributes["Modality"] == scan.modality]
        if len(volumes) != 1:
            raise ConfigError(
                "image.prior folder",
                expected=f"the objects of one {scan.modality} series of magnitudes",
                got=f"{folder}: {len(files)} files, {len(volumes)} volumes",
                action="name a folder with one series",
            )
        self._prior = volumes[0]

    def feed(self, item: Item) -> Iterator[Item]:
        """Pass everything on; keep the conventional magnitudes."""
        if isinstance(item, Image) and item.output == "conventional" and item.kind is Kind.MAGNITUDE:
            self._slices.setdefault(frame_of(item.position), []).append(item)
        yield item

    def close(self) -> Iterator[Item]:
        """Give the prior and the change for each volume."""
        for images in self._slices.values():
            try:
                yield from self._compared(stacked(images))
            except IsocenterError as error:
                yield Verdict(
                    check="image.prior", level=Level.FLAG, advice="No comparison was made.", evidence=str(error)
                )

    def _compared(self, volume: Image) -> Iterator[Image]:
        motion = rigid(volume, self._prior)
        today = volume.data.reshape(volume.grid.shape)
        before = brought(self._prior, volume.grid, motion)
        before *= _brightness(today, before)
        travel = motion.travel_mm(volume.grid)
        far = travel > self.flag_above_mm
        verdict = Verdict(
            check="image.prior",
            level=Level.FLAG if far else Level.PASS,
            advice="The prior lay far away: look whether it was registered." if far else "The prior was registered.",
            value=travel,
            limit=self.flag_above_mm,
            unit="mm",
            evidence=f"{self._prior.attributes.get('SeriesDescription', '')}, turned by {motion.angle_deg:.2f} degrees",
        )
        told = (*volume.verdicts, verdict)
        yield replace(volume, data=before, output="prior", verdicts=told)
        change = (today - before).astype(np.float32)
        yield replace(volume, data=change, kind=Kind.REAL, output="change", verdicts=told)


def _brightness(today: NDArray, before: NDArray) -> float:
    """Return the median ratio of the two where both are bright."""
    both = (today > 0.2 * np.percentile(today, 99)) & (before > 0.2 * np.percentile(before, 99))
    return float(np.median(today[both] / before[both])) if both.any() else 1.0
