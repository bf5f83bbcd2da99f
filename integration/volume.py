"""The images of a scan stacked into one array, for those who go on with NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from acquisition.errors import DataError
from acquisition.items import Image, Kind
from integration.gate import CONVENTIONAL


class Volumes:
    """Collects images; one volume per output."""

    def __init__(self) -> None:
        self._images: dict[str, dict[tuple[int, ...], Image]] = {}

    def add(self, image: Image) -> None:
        """Keep one image."""
        contrast = (image.position.set, image.position.contrast, image.position.phase, image.position.repetition)
        key = (*contrast, image.position.average, image.position.slice)
        self._images.setdefault(image.output, {})[key] = image

    def write(self, path: Path) -> dict[str, object]:
        """Write the conventional output (else the first) as magnitude, float32; return what was written.

        The shape is (z, y, x), in the order of the slice counters; with several contrasts, phases, repetitions,
        sets or averages (frame, z, y, x).

        Raises
        ------
        DataError
            The images differ in size, or a frame lacks slices.
        """
        output = CONVENTIONAL if CONVENTIONAL in self._images else next(iter(self._images))
        found = sorted(self._images[output].items())
        frames: dict[tuple[int, ...], list[np.ndarray]] = {}
        for key, image in found:
            frames.setdefault(key[:-1], []).append(_magnitude(image))
        shapes = {np.concatenate(planes).shape if _same(planes) else () for planes in frames.values()}
        if len(shapes) != 1 or () in shapes:
            got = ", ".join(str(tuple(p.shape for p in planes)) for planes in frames.values())[:200]
            raise DataError(
                f"volume {path}",
                expected="the same slices of one size in every frame",
                got=got,
                action="use the DICOM files, they hold every image",
            )
        volume = np.stack([np.concatenate(planes) for planes in frames.values()])
        volume = volume[0] if len(frames) == 1 else volume
        with path.open("wb") as file:
            np.save(file, volume)
        return {
            "file": str(path),
            "output": output,
            "shape": list(volume.shape),
            "slices": [key[-1] for key, _ in found if key[:-1] == found[0][0][:-1]],
            "frames": [
                dict(zip(("set", "contrast", "phase", "repetition", "average"), k, strict=True)) for k in frames
            ],
            "voxel_mm": list(_first(found[0][1])),
        }


def _magnitude(image: Image) -> np.ndarray:
    data = np.abs(image.data) if image.kind is Kind.COMPLEX or np.iscomplexobj(image.data) else image.data
    return np.asarray(data, np.float32).reshape(-1, *data.shape[-2:])


def _same(planes: list[np.ndarray]) -> bool:
    return len({p.shape[1:] for p in planes}) == 1


def _first(image: Image) -> tuple[float, ...]:
    return tuple(float(v) for v in image.grid.spacing_mm)
