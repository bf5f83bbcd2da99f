"""DICOM objects of 200 slices of 512 x 512: our layers against a fresh pydicom dataset per slice.

Run as ``python -m tests.benchmarks.dicom_write``.
"""

from __future__ import annotations

import io
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence

from acquisition.geometry import Grid
from acquisition.items import Image, Position
from acquisition.scan import Limits
from integration.dicom import plane
from integration.dicom.text import cleaned
from integration.dicom.uid import instance_uid
from tests.integration.dicom_samples import encoding, full_scan, image_of, parsed, writer

N, SIZE, ROUNDS = 200, 512, 5


def volume(dtype: str) -> Image:
    grid = Grid.from_centre(
        (0, 0, 0), shape=(N, SIZE, SIZE), spacing_mm=(1, 0.5, 0.5), directions=[(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    )
    data = np.random.default_rng(0).integers(0, 4096, grid.shape, np.uint16)
    return replace(image_of(), data=data.astype(dtype), grid=grid)


def best(work: Callable[[], object]) -> tuple[float, float]:
    """Return the shortest and the median time [ms]."""
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - began))
    return min(times), statistics.median(times)


def fresh(image: Image, template: Dataset) -> None:
    """One new pydicom dataset per slice, by keyword, as most programs do it."""
    attributes = [(e.keyword, e.value) for e in template if e.keyword != "PixelData"]
    for z in range(N):
        ds = _dataset(attributes)
        own, _ = cleaned({"SOPInstanceUID": instance_uid("job", "conventional", z), "InstanceNumber": z + 1})
        for key, value in {**own, **cleaned(plane.slice_elements(image.grid, z))[0]}.items():
            setattr(ds, key, list(value) if isinstance(value, tuple) else value)
        ds.PixelData = image.data[z].tobytes()
        ds["PixelData"].VR = "OW"
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = template.file_meta.TransferSyntaxUID
        dcmwrite(io.BytesIO(), ds, enforce_file_format=True)


def _dataset(attributes: list) -> Dataset:
    ds = Dataset()
    for key, value in attributes:
        if isinstance(value, Sequence):
            value = [_dataset([(e.keyword, e.value) for e in item]) for item in value]
        setattr(ds, key, value)
    return ds


def slices(image: Image) -> None:
    """One image per slice, as a 2D scan streams them."""
    scan = full_scan()
    assert scan.mr is not None
    header = replace(scan.mr, encodings=(encoding(limits={"slice": Limits(0, N - 1, 0)}),))
    series = writer(replace(scan, mr=header))
    for z in range(N):
        one = replace(image, data=image.data[z : z + 1], grid=image.grid.plane(z), position=Position(slice=z))
        series.instances(one)


def main() -> None:
    """Print the table."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {sys.version.split()[0]}, commit {commit.strip()}"
    print(f"{machine}, {N} slices of {SIZE} x {SIZE}, {ROUNDS} rounds\n")
    integers, floats = volume("u2"), volume("f4")
    template = parsed(writer().instances(integers)[0])
    reference = best(lambda: fresh(integers, template))
    rows = {
        "fresh pydicom dataset per slice, uint16": reference,
        "ours, one volume, uint16": best(lambda: writer().instances(integers)),
        "ours, slice by slice, uint16": best(lambda: slices(integers)),
        "ours, one volume, float32 scaled to 16 bits": best(lambda: writer().instances(floats)),
        "ours, slice by slice, float32 scaled to 16 bits": best(lambda: slices(floats)),
    }
    print(f"| writer | best [ms] | median [ms] | speed against pydicom |\n|{'---|' * 4}")
    for name, (low, middle) in rows.items():
        print(f"| {name} | {low:.0f} | {middle:.0f} | {reference[1] / middle:.1f} |")


if __name__ == "__main__":
    main()
