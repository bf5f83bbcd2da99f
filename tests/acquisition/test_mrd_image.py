"""Images on the wire: geometry, voxels, attributes, and what other people's images lack."""

from __future__ import annotations

import io
import struct
from dataclasses import replace

import ismrmrd
import numpy as np
import pytest

from acquisition.errors import DataError, MessageError
from acquisition.items import Image, Kind
from acquisition.sources.mrd_image import DATA_TYPES, ORIGINAL_HEADER, encode_image
from acquisition.sources.mrd_meta import read_meta, write_meta
from acquisition.verdict import Level, worst
from tests.acquisition.mrd_samples import decoded, encoded, make_image

OWN = ("data", "attributes", "grid")


def _reference(image: Image) -> ismrmrd.Image:
    return ismrmrd.Image.deserialize_from(io.BytesIO(encoded(image)[2:]).read)


def _with_meta(meta: dict[str, str], **head: object) -> Image:
    """What a plain client sends: an image made by the reference library."""
    theirs = ismrmrd.Image.from_array(np.ones((1, 2, 3, 4), np.float32), transpose=False, **head)
    theirs.attribute_string = write_meta(meta).decode()
    (image,) = decoded(struct.pack("<H", 1022) + theirs.to_bytes())
    return image


@pytest.mark.parametrize("dtype", [d.name for d in DATA_TYPES.values()])
@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 5, 3)])
def test_an_image_comes_back_as_it_went(dtype: str, shape: tuple[int, int, int]) -> None:
    kind = Kind.COMPLEX if np.dtype(dtype).kind == "c" else Kind.PHASE
    image = make_image(dtype, kind=kind, shape=shape)
    (back,) = decoded(encoded(image))
    np.testing.assert_array_equal(back.data, image.data)
    assert back.data.dtype == image.data.dtype
    same = {name: getattr(image, name) for name in OWN}
    assert replace(back, **same) == image
    assert back.grid.shape == image.grid.shape
    assert back.grid.thickness_mm == pytest.approx(3.5)
    np.testing.assert_allclose(back.grid.affine, image.grid.affine, atol=1e-5)
    assert {k: back.attributes[k] for k in image.attributes} == dict(image.attributes)


def test_the_reference_sees_centre_field_of_view_and_directions() -> None:
    image = make_image()
    theirs = _reference(image)
    assert theirs.matrix_size == (4, 3, 2)
    assert tuple(theirs.field_of_view) == (5.0, 4.5, 8.0)
    np.testing.assert_allclose(theirs.position, (10.5, -20.25, 30.0), rtol=1e-6)
    np.testing.assert_allclose(theirs.read_dir, image.grid.x_dir, rtol=1e-6)
    np.testing.assert_allclose(theirs.phase_dir, image.grid.y_dir, rtol=1e-6)
    np.testing.assert_allclose(theirs.slice_dir, image.grid.z_dir, rtol=1e-6)
    np.testing.assert_array_equal(theirs.data[0], image.data)
    assert (theirs.slice, theirs.contrast, theirs.image_type, theirs.image_series_index) == (3, 1, 1, 1)


def test_one_slice_says_its_thickness_as_field_of_view() -> None:
    assert tuple(_reference(make_image(shape=(1, 3, 4))).field_of_view) == (5.0, 4.5, 3.5)


def test_the_reference_sees_the_attributes() -> None:
    meta = _reference(make_image()).meta
    assert meta["DataRole"] == "Quantitative"
    assert meta["SeriesDescription"] == "snr map"
    assert meta["ROI_1"] == ["1", "2", "3"]
    assert [float(v) for v in meta["ImageRowDir"]] == pytest.approx([0.8, 0.6, 0.0])
    assert [float(v) for v in meta["ImageColumnDir"]] == pytest.approx([-0.36, 0.48, 0.8])
    assert meta["ImageComments"] == 'FLAG: Noise "high" & rising; look.'
    assert ORIGINAL_HEADER not in meta


def test_given_attributes_win_but_never_over_the_geometry() -> None:
    image = replace(make_image(), attributes={"SeriesDescription": "mine", "ImageRowDir": "9\\9\\9"}, unit="a.u.")
    meta = _reference(image).meta
    assert (meta["SeriesDescription"], meta["DataRole"]) == ("mine", "Image")
    assert float(meta["ImageRowDir"][0]) == pytest.approx(0.8)


def test_several_channels_keep_their_axis() -> None:
    image = replace(make_image(), data=np.arange(48, dtype=np.float32).reshape(2, 2, 3, 4))
    assert _reference(image).data.shape == (2, 2, 3, 4)
    (back,) = decoded(encoded(image))
    np.testing.assert_array_equal(back.data, image.data)


def test_voxels_in_any_memory_order_are_sent_in_ours() -> None:
    image = make_image()
    turned = replace(image, data=np.asfortranarray(image.data), grid=image.grid)
    assert encoded(turned) == encoded(image)
    big = replace(image, data=image.data.astype(">f4"))
    assert encoded(big) == encoded(image)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (np.zeros((2, 3, 4), np.int64), "expected voxels of uint16, .* got int64"),
        (np.zeros((2, 3, 4), bool), "got bool"),
        (np.zeros((3, 4), np.float32), r"got shape \(3, 4\)"),
        (np.zeros((2, 4, 3), np.float32), r"the grid's \(2, 3, 4\)"),
        (np.zeros((2, 1, 2, 3, 4), np.float32), "send one image per frame"),
    ],
)
def test_what_mrd_cannot_say_is_refused(data, match: str) -> None:
    with pytest.raises(DataError, match=match):
        encode_image(replace(make_image(), data=data))


def test_series_and_image_numbers_are_ours_to_choose_and_else_kept() -> None:
    image = _with_meta({}, image_series_index=7, image_index=9)
    assert (image.output, image.position.slice) == ("series 7", 0)
    assert _numbers(encode_image(image)) == (7, 9)
    assert _numbers(encode_image(image, series_index=2, image_index=3)) == (2, 3)
    assert _numbers(encode_image(make_image())) == (1, 1)


def _numbers(parts) -> tuple[int, int]:
    theirs = ismrmrd.Image.deserialize_from(io.BytesIO(b"".join(map(bytes, parts))[2:]).read)
    return theirs.image_series_index, theirs.image_index


def test_what_the_contract_has_no_field_for_passes_through() -> None:
    image = _with_meta({"A": "b"}, user_int=(1, 2, 3, 4, 5, 6, 7, 8), flags=1 << 60, measurement_uid=42)
    theirs = _reference(image)
    assert (tuple(theirs.user_int), theirs.flags, theirs.measurement_uid) == ((1, 2, 3, 4, 5, 6, 7, 8), 1 << 60, 42)
    assert theirs.meta["A"] == "b"


def test_a_broken_original_header_is_refused() -> None:
    with pytest.raises(DataError, match="MrdImageHeader: expected 198 bytes in base64"):
        encode_image(replace(make_image(), attributes={ORIGINAL_HEADER: "AAAA"}))


def test_an_image_without_geometry_is_flagged_not_trusted() -> None:
    image = _with_meta({})
    assert worst(image.verdicts) is Level.FLAG
    assert {"field of view", "directions"} == {v.evidence.split(" in ")[0] for v in image.verdicts}
    assert image.grid.spacing_mm == (1.0, 1.0, 1.0)


def test_skewed_directions_are_an_error() -> None:
    with pytest.raises(DataError, match="perpendicular"):
        _with_meta({}, read_dir=(1, 0, 0), phase_dir=(1, 1, 0), slice_dir=(0, 0, 1), field_of_view=(1, 1, 1))


def test_a_type_that_contradicts_the_voxels_is_flagged() -> None:
    checks = [v.check for v in _with_meta({}, image_type=5).verdicts]
    assert "mri.image_type" in checks
    assert "mri.image_type" not in [v.check for v in _with_meta({}, image_type=1).verdicts]


def test_colour_images_are_flagged_and_stay_colour() -> None:
    theirs = ismrmrd.Image.from_array(np.ones((3, 1, 3, 4), np.uint16), transpose=False, image_type=6)
    (image,) = decoded(struct.pack("<H", 1022) + theirs.to_bytes())
    assert (image.kind, worst(image.verdicts)) == (Kind.MAGNITUDE, Level.FLAG)
    assert _reference(image).image_type == 6


@pytest.mark.parametrize(
    ("meta", "match"),
    [
        ({"IsocenterVerdicts": "[{}]"}, "IsocenterVerdicts: expected the JSON this software writes"),
        ({"IsocenterVerdicts": '[{"check": 1, "level": "PASS", "advice": ""}]'}, "check is int"),
        ({"IsocenterVerdicts": '[{"check": "a", "level": "GOOD", "advice": ""}]'}, "GOOD"),
        ({"IsocenterProvenance": "[" * 100000}, "IsocenterProvenance"),
        ({"IsocenterThickness_mm": "-1"}, "IsocenterThickness_mm: expected a length in mm"),
    ],
)
def test_forged_attributes_of_ours_are_refused(meta: dict[str, str], match: str) -> None:
    with pytest.raises(MessageError, match=match):
        _with_meta(meta)


def test_meta_is_read_as_the_reference_writes_it() -> None:
    meta = ismrmrd.Meta({"a": "1", "b": ["x", "y"], "c": ""})
    assert read_meta(meta.serialize().encode()) == {"a": "1", "b": "x\\y", "c": ""}
    assert read_meta(b"\0\0") == {}
    assert ismrmrd.Meta.deserialize(write_meta({"b": "x\\y"}).decode()) == {"b": ["x", "y"]}


@pytest.mark.parametrize(
    "xml",
    [
        b"<a/>",
        b"<ismrmrdMeta>",
        b"<ismrmrdMeta><meta><value>1</value></meta></ismrmrdMeta>",
        b'<!DOCTYPE x [<!ENTITY e "boom">]><ismrmrdMeta>&e;</ismrmrdMeta>',
        b"\xff\xfe",
    ],
)
def test_broken_meta_is_refused(xml: bytes) -> None:
    with pytest.raises(MessageError, match="ismrmrdMeta document without DTD"):
        read_meta(xml)


def test_meta_cannot_carry_control_characters() -> None:
    with pytest.raises(DataError, match=r"'a'.*U\+0001"):
        write_meta({"a": "\x01"})
