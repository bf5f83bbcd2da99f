"""Our bytes are those that pydicom writes for the same attributes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence

from acquisition.items import Kind
from integration.dicom.template import EXPLICIT_LITTLE_ENDIAN, Layer, beyond_ascii, encode_element
from integration.dicom.text import Elements, cleaned
from tests.integration.dicom_samples import FLAG, bare_scan, full_scan, grid_of, image_of, parsed, rebuilt, written

WORD = st.text(st.sampled_from("abcXYZ 019äß山"), max_size=20)
ATTRIBUTES = {
    "PatientName": WORD,
    "SeriesDescription": WORD,
    "StationName": WORD.map(lambda w: w[:16]),
    "ImageComments": WORD,
    "ImageType": st.just(("ORIGINAL", "PRIMARY", "OTHER")),
    "StudyInstanceUID": st.sampled_from(["1.2.3", "1.2.34"]),
    "StudyDate": st.just("20260101"),
    "SeriesNumber": st.integers(0, 2**31 - 1),
    "ImagePositionPatient": st.tuples(*[st.floats(-500, 500)] * 3),
    "AcquisitionMatrix": st.tuples(*[st.integers(0, 65535)] * 4),
    "Rows": st.integers(1, 65535),
    "RealWorldValueSlope": st.floats(allow_nan=False, allow_infinity=False),
    "PatientSex": st.none(),
}


@st.composite
def elements(draw: st.DrawFn, depth: int = 1) -> Elements:
    keys = draw(st.lists(st.sampled_from(sorted(ATTRIBUTES)), unique=True))
    found: Elements = {key: draw(ATTRIBUTES[key]) for key in keys}
    if depth and draw(st.booleans()):
        found["ContributingEquipmentSequence"] = draw(st.lists(elements(depth - 1), max_size=3))
    return cleaned(found)[0]


def by_pydicom(attributes: Elements, pixels: bytes, *, utf8: bool) -> bytes:
    ds = _dataset(attributes)
    if utf8:
        ds.SpecificCharacterSet = "ISO_IR 192"
    ds.add_new(0x7FE00010, "OW", pixels)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = EXPLICIT_LITTLE_ENDIAN
    ours = Layer.of({"SOPClassUID": "1", "SOPInstanceUID": "1"}).part10({}, b"")
    ds.file_meta.ImplementationClassUID = parsed(ours).file_meta.ImplementationClassUID
    ds.file_meta.ImplementationVersionName = parsed(ours).file_meta.ImplementationVersionName
    buffer = io.BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def _dataset(attributes: Elements) -> Dataset:
    ds = Dataset()
    for key, value in attributes.items():
        if isinstance(value, list):
            value = Sequence([_dataset(item) for item in value])
        setattr(ds, key, list(value) if isinstance(value, tuple) else value)
    return ds


@given(elements(), elements(), st.binary(max_size=33))
@settings(deadline=None, max_examples=150)
def test_layers_are_what_pydicom_writes(first: Elements, second: Elements, pixels: bytes) -> None:
    uids: Elements = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4", "SOPInstanceUID": "2.25.7"}
    ours = Layer.of({**uids, **first}).extended(second).part10({}, pixels)
    utf8 = beyond_ascii(first) or beyond_ascii(second)
    assert ours == by_pydicom({**uids, **first, **second}, pixels + b"\0" * (len(pixels) % 2), utf8=utf8)


@pytest.mark.parametrize("scan", [full_scan(), bare_scan()], ids=["full", "bare"])
@pytest.mark.parametrize("kind", [Kind.MAGNITUDE, Kind.REAL])
@pytest.mark.parametrize("shape", [(4, 6, 8), (1, 5, 7)])
def test_objects_are_what_pydicom_writes(scan: object, kind: Kind, shape: tuple[int, int, int]) -> None:
    data = np.random.default_rng(3).standard_normal(shape)
    data = abs(data) if kind is Kind.MAGNITUDE else data
    image = image_of(grid_of("double-oblique", shape), data=data, kind=kind, verdicts=(FLAG,))
    for instance in written(image, scan):  # type: ignore[arg-type]
        assert rebuilt(instance.data) == instance.data


def test_a_later_layer_replaces_an_element() -> None:
    layer = Layer.of({"SOPClassUID": "1", "SOPInstanceUID": "1", "Rows": 1}).extended({"Rows": 2})
    assert parsed(layer.part10({"Rows": 3}, b"")).Rows == 3
    assert parsed(layer.part10({}, b"")).Rows == 2


def test_signed_pixels_have_signed_descriptions() -> None:
    tag, encoded = encode_element("RealWorldValueFirstValueMapped", -5, signed=True)
    assert (tag, encoded) == (0x00409216, b"\x40\x00\x16\x92SS\x02\x00\xfb\xff")
