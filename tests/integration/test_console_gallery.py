"""The pictures in memory: true to their values, the right way round, bounded."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest

from acquisition.geometry import Grid
from acquisition.items import Kind, Position
from acquisition.scan import Scan
from integration.console import gallery as module
from integration.console.gallery import Gallery, Picture, frames
from integration.console.pictures import as_png, as_raw, window
from integration.dicom.pixels import Scale
from tests.integration.console_samples import FLAG, image

SCAN = Scan(uid="scan", modality="MR")
RAMP = np.arange(3 * 4 * 6, dtype=np.float32).reshape(3, 4, 6)


def values(picture: Picture | None) -> np.ndarray:
    assert picture is not None
    return picture.codes * picture.scale.slope + picture.scale.intercept


@pytest.mark.parametrize("offset", [0.0, -40.0])
@pytest.mark.parametrize("gain", [1e-6, 1.0, 1e5])
def test_what_is_kept_is_within_half_a_step_of_the_value(gain: float, offset: float) -> None:
    shown = Gallery(1 << 20)
    shown.add("job", SCAN, image((RAMP + offset) * np.float32(gain)))
    for z in range(3):
        picture = shown.picture("job", "conventional", z)
        error = np.abs(values(picture) - (RAMP[z] + offset) * gain)
        assert picture is not None and error.max() <= 0.501 * picture.scale.slope


def test_later_images_of_a_series_keep_its_numbers_and_their_own_values() -> None:
    shown = Gallery(1 << 20)
    shown.add("job", SCAN, image(RAMP))
    shown.add("job", SCAN, image(-100 * RAMP, position=Position(repetition=2)))
    (series,) = shown.series("job")
    assert [f["number"] for f in frames(series)] == list(range(6))
    assert [f["number"] for f in frames(series, after=4)] == [4, 5]
    assert frames(series)[5]["counters"] == {"repetition": 2}
    np.testing.assert_allclose(values(shown.picture("job", "conventional", 4)), -100 * RAMP[1], atol=1.0)
    np.testing.assert_allclose(values(shown.picture("job", "conventional", 1)), RAMP[1], atol=0.1)


def test_slices_are_turned_as_radiologists_look_and_lie_where_they_lay() -> None:
    grid = Grid.from_centre(
        (0, 0, 0), shape=(1, 4, 6), spacing_mm=(5, 2, 3), directions=((0, 0, 1), (0, 1, 0), (-1, 0, 0))
    )
    shown = Gallery(1 << 20)
    shown.add("job", SCAN, image(RAMP[:1], grid=grid))
    (frame,) = frames(shown.series("job")[0])
    assert frame["y_dir"] == [0.0, 0.0, -1.0]  # feet are down in a sagittal slice
    picture = values(shown.picture("job", "conventional", 0))
    y, x = np.argwhere(np.isclose(picture, RAMP[0, 3, 1], atol=0.05))[0]
    place = np.asarray(frame["origin_mm"]) + x * frame["spacing_mm"][1] * np.asarray(frame["x_dir"])
    place = place + y * frame["spacing_mm"][0] * np.asarray(frame["y_dir"])
    np.testing.assert_allclose(place, grid.world((0, 3, 1)), atol=1e-3)


def test_memory_is_bounded_and_the_oldest_pictures_make_room() -> None:
    shown = Gallery(10 * RAMP.size * 2)
    for n in range(40):
        shown.add(f"job{n // 10}", SCAN, image(RAMP))
        assert shown.used_bytes <= shown.limit_bytes
    assert shown.picture("job0", "conventional", 0) is None
    assert shown.picture("job3", "conventional", 29) is not None
    assert not frames(shown.series("job0")[0])[0]["kept"]


def test_only_the_latest_exams_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_EXAMS", 3)
    shown = Gallery(1 << 20)
    for n in range(8):
        shown.add(f"job{n}", SCAN, image(RAMP))
    assert list(shown.counts()) == ["job5", "job6", "job7"]
    assert shown.used_bytes == 3 * RAMP.size * 2
    assert shown.scan("job0") is None and not shown.adjust("job0", None)


def test_nothing_is_kept_without_a_console() -> None:
    shown = Gallery()
    shown.add("job", SCAN, image(RAMP))
    shown.meet("job", SCAN)
    assert not shown.counts() and not shown.series("job") and shown.scan("job") is None


def test_what_cannot_be_shown_is_not_kept_and_harms_nobody() -> None:
    shown = Gallery(1 << 20)
    shown.add("job", SCAN, image(RAMP * np.float32("nan")))
    shown.add("job", SCAN, image(RAMP * (1 + 1j), kind=Kind.COMPLEX))
    np.testing.assert_allclose(values(shown.picture("job", "conventional", 2)), np.abs(RAMP[2] * (1 + 1j)), atol=0.2)


def test_findings_are_counted_and_name_the_pictures_that_show_them() -> None:
    shown = Gallery(1 << 20)
    for _ in range(20):
        shown.add("job", SCAN, image(RAMP).with_verdicts(FLAG))
    (found,) = shown.findings("job")
    assert found.times == 20
    assert found.pictures[:2] == [("conventional", 1), ("conventional", 4)] and len(found.pictures) == 12


def decoded(png: bytes) -> np.ndarray:
    """Read back an 8-bit grey PNG without filters, its checksums checked."""

    def chunks() -> Iterator[tuple[bytes, bytes]]:
        at = 8
        while at < len(png):
            (n,) = struct.unpack(">I", png[at : at + 4])
            kind, body = png[at + 4 : at + 8], png[at + 8 : at + 8 + n]
            assert struct.unpack(">I", png[at + 8 + n : at + 12 + n])[0] == zlib.crc32(kind + body)
            yield kind, body
            at += 12 + n

    parts = dict(chunks())
    width, height = struct.unpack(">2I", parts[b"IHDR"][:8])
    rows = np.frombuffer(zlib.decompress(parts[b"IDAT"]), np.uint8).reshape(height, width + 1)
    return rows[:, 1:]


def test_a_png_has_the_window_and_fits_the_size() -> None:
    codes = np.arange(0, 400, dtype=np.uint16).reshape(20, 20)
    picture = Picture(codes, Scale(0.5, False), 200.0)
    grey = decoded(as_png(picture, centre=100.0, width=100.0, size=4096))
    expected = np.clip((codes * 0.5 - 50) / 100 * 255, 0, 255)
    assert np.abs(grey - expected).max() <= 0.51
    assert decoded(as_png(picture, centre=None, width=None, size=16)).shape == (10, 10)
    assert window(picture) == (100.0, 200.0)
    assert window(Picture(codes.astype(np.int16), Scale(1, True), 50.0)) == (0.0, 100.0)


def test_raw_pixels_say_how_to_read_them() -> None:
    codes = np.array([[1, -2], [3, 4]], np.int16)
    data, headers = as_raw(Picture(codes[::-1], Scale(0.25, True), 9.0))
    assert np.array_equal(np.frombuffer(data, "<i2").reshape(2, 2), codes[::-1])
    assert headers["X-Type"] == "int16" and headers["X-Shape"] == "2,2" and float(headers["X-Slope"]) == 0.25
