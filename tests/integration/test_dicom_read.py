"""Our own series are read back frame by frame, those of others by their rescale values; what is no image is refused."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from acquisition.errors import DataError, FileFormatError
from acquisition.items import Position
from integration.dicom.read import read_image, read_images
from tests.integration.dicom_samples import FLAG, bare_scan, grid_of, image_of, parsed, writer, written


def changed(data: bytes, **values: object) -> bytes:
    """The same object with attributes replaced, or taken away (None)."""
    ds = parsed(data)
    for name, value in values.items():
        if value is None:
            delattr(ds, name)
        else:
            setattr(ds, name, value)
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def test_files_and_bytes_are_the_same(tmp_path: Path) -> None:
    instances = written(image_of(verdicts=(FLAG,)))
    for instance in instances:
        (tmp_path / f"{instance.index}.dcm").write_bytes(instance.data)
    files, streams = read_image(tmp_path.glob("*.dcm")), read_image(i.data for i in instances)
    np.testing.assert_array_equal(files.data, streams.data)
    assert files.grid == streams.grid
    assert files.attributes["ImageComments"].startswith("FLAG: Coil 3")
    assert files.attributes["SeriesDescription"] == "brain_gre_ax"
    assert read_image(tmp_path / "2.dcm").data.shape == (1, 6, 8)


def test_frames_at_the_same_place_are_kept_apart() -> None:
    series, scan = writer(bare_scan()), range(3)
    frames = [image_of(position=Position(phase=p, repetition=0), output="cine") for p in scan]
    frames = [replace(f, data=f.data + 1000 * p) for p, f in enumerate(frames)]
    objects = [i.data for f in frames for i in series.instances(f)]
    back = read_images(objects[::-1])
    assert [b.data.shape for b in back] == [(4, 6, 8)] * 3
    assert sorted(int(b.data.min()) for b in back) == [1, 1001, 2001]


def test_slices_in_an_order_that_is_not_spatial_are_sorted_along_the_normal() -> None:
    series, image = writer(), image_of()
    objects = []
    for counter, z in enumerate((2, 0, 3, 1)):
        part = replace(image, data=image.data[z : z + 1], grid=image.grid.plane(z), position=Position(slice=counter))
        objects += [i.data for i in series.instances(part)]
    back = read_image(objects)
    np.testing.assert_array_equal(back.data, image.data)
    assert back.grid.z_dir == pytest.approx(image.grid.z_dir)


def test_several_frames_are_no_image() -> None:
    series = writer()
    objects = [i.data for o in ("a", "b") for i in series.instances(image_of(output=o))]
    with pytest.raises(DataError, match=r"expected one frame, got 2: brain_gre_ax a, brain_gre_ax b\. use read_images"):
        read_image(objects)
    with pytest.raises(DataError, match="expected one frame, got 0: nothing"):
        read_image([])


def test_a_gap_is_no_regular_grid() -> None:
    objects = [i.data for i in written(image_of(grid_of(shape=(4, 6, 8))))]
    with pytest.raises(DataError, match="expected equal distances, got one 3 mm off"):
        read_image([objects[0], objects[1], objects[3]])


def test_foreign_images_are_read_by_their_rescale_values() -> None:
    data = written(image_of())[0].data
    ours = read_image(data)
    theirs = read_image(changed(data, RealWorldValueMappingSequence=None, RescaleSlope=2.0, RescaleIntercept=-3.0))
    assert theirs.unit == "a.u."
    np.testing.assert_allclose(theirs.data, 2.0 * parsed(data).pixel_array[None] - 3.0)
    assert theirs.grid == ours.grid


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    data = written(image_of())[0].data
    (tmp_path / "note.txt").write_text("no image")
    with pytest.raises(FileFormatError, match="expected a DICOM file"):
        read_image(tmp_path / "note.txt")
    with pytest.raises(FileFormatError, match="expected a CT, MR or PET image, one slice per object, got modality NM"):
        read_image(changed(data, Modality="NM"))
    with pytest.raises(FileFormatError, match="without ImagePositionPatient"):
        read_image(changed(data, ImagePositionPatient=None))
