"""Files: the reference library's and ours, recorded streams, real scans, and damaged ones."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import h5py
import ismrmrd
import numpy as np
import pytest

from acquisition.errors import DataError, DeliveryError, FileFormatError, HeaderError, InputError, LimitError
from acquisition.items import READOUT_HEAD, Image, Readouts, Waveform
from acquisition.sources import FORMATS, mrd_hdf5, open_raw
from acquisition.sources.mrd_file import read, read_images, write, write_images
from acquisition.sources.mrd_header import parse_header
from acquisition.sources.mrd_header_write import write_header
from acquisition.sources.mrd_heap import open_heap
from acquisition.sources.mrd_limits import StreamLimits
from acquisition.sources.mrd_wire import Close, ConfigFile, ConfigText, Header, Text
from tests.acquisition.mrd_samples import encoded, joined, make_image, make_readouts, make_waveform, same_readouts
from tests.acquisition.test_mrd_header import full_scan, header

ITEMS = (make_readouts(3, 2, 8), make_readouts(4, 2, 8, dims=2), make_waveform(), make_readouts(2, 5, 4), make_image())


def reference_file(path: Path, *, group: str = "dataset") -> None:
    """A file made by the reference library, one acquisition at a time."""
    with ismrmrd.Dataset(str(path), group) as dataset:
        dataset.write_xml_header(write_header(full_scan()).encode())
        for block in (m for m in ITEMS if isinstance(m, Readouts)):
            for i in range(len(block)):
                traj = None if block.traj is None else block.traj[i]
                head = block.head[i].tobytes()
                dataset.append_acquisition(ismrmrd.Acquisition(head=head, data=block.data[i], trajectory=traj))
        waveform = ismrmrd.Waveform.from_bytes(encoded(make_waveform())[2:])
        dataset.append_waveform(waveform)
        dataset.append_image("image_0", ismrmrd.Image.from_bytes(encoded(make_image())[2:]))


def check_items(items: list) -> None:
    assert [type(i) for i in items] == [Readouts, Readouts, Readouts, Waveform, Image]
    for ours, sent in zip(items, (ITEMS[0], ITEMS[1], ITEMS[3]), strict=False):
        same_readouts(ours, sent)
    np.testing.assert_array_equal(items[3].data, ITEMS[2].data)
    assert replace(items[3], data=ITEMS[2].data) == ITEMS[2]
    np.testing.assert_array_equal(items[4].data, ITEMS[4].data)
    np.testing.assert_allclose(items[4].grid.affine, ITEMS[4].grid.affine, atol=1e-5)


@pytest.mark.parametrize("group", ["dataset", "measurement 7", "a/b"])
def test_we_read_the_reference_files_under_any_name(tmp_path: Path, group: str) -> None:
    reference_file(tmp_path / "raw.dat", group=group)
    raw = open_raw(tmp_path / "raw.dat")
    assert (raw.format, raw.scan.measurement_id, raw.config) == ("ISMRMRD HDF5", "m-1", None)
    check_items(list(raw.items()))
    check_items(list(raw.items()))


def test_the_reference_reads_our_files(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", full_scan(), items=ITEMS)
    check_items(list(read(tmp_path / "a.h5").items()))
    with ismrmrd.Dataset(str(tmp_path / "a.h5"), "dataset", mode="r") as dataset:
        ismrmrd.xsd.CreateFromDocument(dataset.read_xml_header())
        everything = [(block, i) for block in (ITEMS[0], ITEMS[1], ITEMS[3]) for i in range(len(block))]
        assert dataset.number_of_acquisitions() == len(everything)
        for number, (block, i) in enumerate(everything):
            theirs = dataset.read_acquisition(number)
            assert bytes(theirs.getHead()) == block.head[i].tobytes()
            np.testing.assert_array_equal(theirs.data, block.data[i])
            if block.traj is not None:
                np.testing.assert_array_equal(theirs.traj, block.traj[i])
        np.testing.assert_array_equal(dataset.read_waveform(0).data, ITEMS[2].data)
        np.testing.assert_array_equal(dataset.read_image("snr_map", 0).data[0], ITEMS[4].data)


@pytest.mark.parametrize("dtype", ["uint16", "float32", "complex64", "complex128"])
def test_images_of_a_series_may_differ_in_shape(tmp_path: Path, dtype: str) -> None:
    sizes = [(1, 3, 4), (1, 5, 6), (1, 3, 4)]
    images = [replace(make_image(dtype, shape=s), attributes={"n": str(n)}) for n, s in enumerate(sizes)]
    other = replace(images[0], output="data")
    write_images(tmp_path / "i.h5", [*images, other], scan=full_scan())
    with ismrmrd.Dataset(str(tmp_path / "i.h5"), "dataset", mode="r") as dataset:
        assert set(dataset.list()) == {"xml", "snr_map", "snr_map_2", "data_2"}
        assert dataset.number_of_images("snr_map") == 2
        theirs = dataset.read_image("snr_map", 1)
        assert (theirs.meta["n"], theirs.image_index, theirs.image_series_index) == ("2", 2, 1)
        np.testing.assert_array_equal(theirs.data[0], images[2].data)
        assert dataset.read_image("data_2", 0).image_series_index == 2
    back = {image.attributes["n"] + image.output: image for image in read_images(tmp_path / "i.h5")}
    assert sorted(back) == ["0data", "0snr map", "1snr map", "2snr map"]
    np.testing.assert_array_equal(back["1snr map"].data, images[1].data)


def test_blocks_are_bounded_and_join_to_the_whole(tmp_path: Path, monkeypatch) -> None:
    block = make_readouts(50, 2, 8)
    write(tmp_path / "a.h5", full_scan(), items=[block])
    monkeypatch.setattr(mrd_hdf5, "BLOCK_BYTES", 7 * 128)
    monkeypatch.setattr(mrd_hdf5, "_RECORDS_AT_ONCE", 20)
    items = list(read(tmp_path / "a.h5").items())
    assert [len(i) for i in items] == [7, 7, 6, 7, 7, 6, 7, 3]
    same_readouts(joined(items), block)


def test_the_original_header_is_kept_only_while_it_is_true(tmp_path: Path) -> None:
    scan = parse_header(header("<vendorThing>1</vendorThing>"))
    write(tmp_path / "a.h5", scan, items=[])
    assert read(tmp_path / "a.h5").scan == scan
    write(tmp_path / "a.h5", replace(scan, protocol_name="new"), items=[])
    again = read(tmp_path / "a.h5").scan
    assert (again.protocol_name, "vendorThing" in again.header) == ("new", False)


def test_headers_in_another_layout_are_read_by_name(tmp_path: Path) -> None:
    block = make_readouts(3)
    usual = mrd_hdf5.file_head_dtype()
    turned = np.dtype([(name, usual[name]) for name in reversed(usual.names)])
    floats = h5py.special_dtype(vlen=np.dtype("float32"))
    rows = np.empty(3, [("head", turned), ("data", floats), ("traj", floats)])
    source = block.head.view(usual)
    for name in usual.names:
        rows["head"][name] = source[name]
    for i in range(3):
        rows["data"][i], rows["traj"][i] = block.data[i].reshape(-1).view(np.float32), np.zeros(0, np.float32)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x/xml"] = header()
        file.create_dataset("x/data", data=rows)
    (ours,) = read(tmp_path / "a.h5").items()
    same_readouts(ours, block)
    assert ours.head.dtype == READOUT_HEAD


def test_a_recorded_stream_is_a_file_too(tmp_path: Path) -> None:
    xml = write_header(full_scan())
    stream = encoded(ConfigFile("brain"), Header(xml), Text("x"), *ITEMS, Close())
    (tmp_path / "rec.mrd").write_bytes(stream)
    raw = open_raw(tmp_path / "rec.mrd")
    assert (raw.format, raw.config, raw.scan.protocol_name) == ("MRD stream", "brain", "t2 <tse> & more")
    items = list(raw.items())
    assert [type(i) for i in items] == [Readouts, Readouts, Waveform, Readouts, Image]
    same_readouts(items[3], ITEMS[3])


@pytest.mark.parametrize("first", [Header(write_header(full_scan())), ConfigText("<c/>"), Text("hi")])
def test_a_recording_may_begin_with_any_of_the_opening_messages(tmp_path: Path, first) -> None:
    rest = () if isinstance(first, Header) else (Header(write_header(full_scan())),)
    (tmp_path / "rec").write_bytes(encoded(first, *rest, Close()))
    assert open_raw(tmp_path / "rec").scan.measurement_id == "m-1"


def test_a_recording_without_close_is_read_with_a_warning(tmp_path: Path, caplog) -> None:
    (tmp_path / "rec").write_bytes(encoded(Header(header()), ITEMS[0]))
    with caplog.at_level(logging.WARNING):
        assert len(list(read(tmp_path / "rec").items())) == 1
    assert "no closing message" in caplog.text


@pytest.mark.parametrize(
    ("stream", "match"),
    [
        (encoded(Header(header()), ITEMS[0])[:-3], "expected a whole last message, got end of stream"),
        (encoded(Header(header()), ITEMS[0], Header(header())), "got a second scan header"),
        (encoded(ConfigText("a"), ITEMS[0]), "expected a scan header before the data"),
        (encoded(ConfigText("a")), "expected a scan header before the data"),
        (encoded(Header(header())) + b"\xff\xff", "got 65535"),
    ],
)
def test_damaged_recordings_say_so(tmp_path: Path, stream: bytes, match: str) -> None:
    (tmp_path / "rec").write_bytes(stream)
    with pytest.raises(InputError, match=match):
        list(open_raw(tmp_path / "rec").items())


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"MATLAB 5.0 MAT-file", "MATLAB 5"),
        (b"\0" * 128 + b"DICM", "DICOM"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"<?xml version='1.0'?>", "XML text"),
        (b"hello world", "unknown first bytes 68 65 6c 6c 6f 20 77 6f"),
        (b"\x01\x00\xff\xfe" * 300, "unknown first bytes"),
        (b"\x03\x00\xff\xff\xff\xff", "unknown first bytes"),
    ],
)
def test_other_files_are_named_with_what_is_read(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "x.h5").write_bytes(content)
    kinds = "ISMRMRD HDF5 or MRD stream or PETSIRD or Interfile header of list-mode"
    with pytest.raises(FileFormatError, match=f"file x.h5: expected {kinds}, got {found}"):
        open_raw(tmp_path / "x.h5")
    assert len({kind.name for kind in FORMATS}) == len(FORMATS)


def test_a_missing_file_is_an_error_of_ours(tmp_path: Path) -> None:
    for reader in (open_raw, read):
        with pytest.raises(FileFormatError, match=r"file none: .*FileNotFoundError"):
            reader(tmp_path / "none")


def test_truncated_hdf5_files_are_refused_at_every_length(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", full_scan(), items=ITEMS)
    whole = (tmp_path / "a.h5").read_bytes()
    for cut in np.linspace(8, len(whole) - 1, 40).astype(int):
        (tmp_path / "b.h5").write_bytes(whole[:cut])
        with pytest.raises(FileFormatError, match=r"file b.h5: expected a readable ISMRMRD HDF5"):
            list(open_raw(tmp_path / "b.h5").items())


@pytest.mark.parametrize("through_library", [False, True])
def test_samples_that_are_not_as_many_as_the_header_says_are_refused(
    tmp_path: Path, through_library, monkeypatch
) -> None:
    write(tmp_path / "a.h5", full_scan(), items=[make_readouts(3, 2, 8)])
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        row = file["dataset/data"][1]
        row["data"] = row["data"][:-2]
        file["dataset/data"][1] = row
    if through_library:
        monkeypatch.setattr(mrd_hdf5, "open_heap", lambda *args, **kwargs: None)
    with pytest.raises(FileFormatError, match=r"a.h5, samples: expected 32 numbers as the headers say, got \[30\]"):
        list(read(tmp_path / "a.h5").items())


def used_source(path: Path) -> str:
    """How the acquisitions of a file are read."""
    with h5py.File(path, "r") as file:
        group = mrd_hdf5._choose_group(path, file, None)
        heap = open_heap(path, file[group]["data"], head=mrd_hdf5.file_head_dtype())
        if heap is None:
            return "library"
        with heap:
            return "heap"


def rewritten(path: Path, *, userblock: int = 0, libver: str | None = None, **storage: object) -> Path:
    """The same acquisitions, stored in another way."""
    out = path.with_name("other.h5")
    with h5py.File(path, "r") as old, h5py.File(out, "w", userblock_size=userblock, libver=libver) as new:
        new["dataset/xml"] = old["dataset/xml"][()]
        new.create_dataset("dataset/data", data=old["dataset/data"][()], **storage)
    return out


@pytest.mark.parametrize(
    ("storage", "source"),
    [
        ({}, "heap"),
        ({"chunks": (1,)}, "heap"),
        ({"chunks": (4,), "maxshape": (None,), "libver": "latest"}, "heap"),
        ({"chunks": (7,)}, "heap"),
        ({"chunks": (4,), "compression": "gzip"}, "library"),
    ],
)
def test_every_way_of_storing_gives_the_same_readouts(tmp_path: Path, storage, source: str) -> None:
    write(tmp_path / "a.h5", full_scan(), items=ITEMS)
    other = rewritten(tmp_path / "a.h5", **storage)
    assert (used_source(tmp_path / "a.h5"), used_source(other)) == ("heap", source)
    items = list(read(other).items())
    for ours, sent in zip(items, (ITEMS[0], ITEMS[1], ITEMS[3]), strict=True):
        same_readouts(ours, sent)


def test_a_file_with_a_user_block_is_left_to_the_library(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", full_scan(), items=ITEMS)
    other = rewritten(tmp_path / "a.h5", userblock=512)
    assert used_source(other) == "library"
    same_readouts(next(mrd_hdf5.read_hdf5(other).items()), ITEMS[0])


def test_flipped_bytes_in_heaps_and_references_never_crash(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", full_scan(), items=[make_readouts(6, 2, 8), make_readouts(6, 2, 8, dims=1)])
    whole = (tmp_path / "a.h5").read_bytes()
    heaps = [at for at in range(0, len(whole), 8) if whole[at : at + 4] == b"GCOL"]
    with h5py.File(tmp_path / "a.h5", "r") as file:
        chunks: list = []
        file["dataset/data"].id.chunk_iter(chunks.append)
    rng, refused = np.random.default_rng(0), 0
    for trial in range(150):
        raw = bytearray(whole)
        base, span = (int(rng.choice(heaps)), 96) if trial % 2 else (chunks[0].byte_offset, 12 * 372)
        for position in base + rng.integers(0, span, 3):
            raw[position] = rng.integers(0, 256)
        (tmp_path / "b.h5").write_bytes(raw)
        try:
            list(read(tmp_path / "b.h5").items())
        except InputError:
            refused += 1
    assert refused > 30


def test_limits_hold_for_files(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", full_scan(), items=ITEMS)
    with pytest.raises(LimitError, match="at most 4 coils, got a claim of 5"):
        list(mrd_hdf5.read_hdf5(tmp_path / "a.h5", limits=StreamLimits(coils=4)).items())
    with pytest.raises(LimitError, match="image: expected at most 10 bytes"):
        list(read_images(tmp_path / "a.h5", limits=StreamLimits(image_bytes=10)))


def test_of_several_measurements_one_must_be_named(tmp_path: Path) -> None:
    for group in ("noise", "scan"):
        reference_file(tmp_path / "two.h5", group=group)
    with pytest.raises(FileFormatError, match=r"got /noise, /scan. name the group"):
        read(tmp_path / "two.h5")
    check_items(list(mrd_hdf5.read_hdf5(tmp_path / "two.h5", group="scan").items()))
    with pytest.raises(FileFormatError, match="named other"):
        mrd_hdf5.read_hdf5(tmp_path / "two.h5", group="other")


def test_an_hdf5_file_of_something_else_is_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["kspace"] = np.zeros(3)
    with pytest.raises(FileFormatError, match=r"expected one group with an ISMRMRD header .* got none among kspace"):
        open_raw(tmp_path / "x.h5")


def test_a_file_with_a_broken_header_says_so(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["dataset/xml"] = "<ismrmrdHeader/>"
    with pytest.raises(HeaderError, match=r"expected 1 ... 64 encodings"):
        open_raw(tmp_path / "x.h5")


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", full_scan(), items=ITEMS)
    before = (tmp_path / "a.h5").read_bytes()
    with pytest.raises(DataError, match=r"item to write: .* got str"):
        write(tmp_path / "a.h5", full_scan(), items=[ITEMS[0], "x"])
    assert (tmp_path / "a.h5").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]
    with pytest.raises(DeliveryError, match="check the folder"):
        write(tmp_path / "none" / "a.h5", full_scan(), items=[])


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("head_gre_3T_16ch", {(128, 16, 128)}),
        ("head_gre_3T_body2ch", {(128, 2, 128)}),
        ("phantom_epi_3T_2ch_100", {(103, 2, 200)}),
        ("phantom_trufi_3T_12ch_grappa2_noise", {(45, 12, 256)}),
    ],
)
def test_real_scans_are_read_as_the_reference_reads_them(data_dir: Path, tmp_path: Path, name: str, shapes) -> None:
    path = data_dir / "mri" / f"{name}.h5"
    raw = open_raw(path)
    items = list(raw.items())
    assert {item.data.shape for item in items} == shapes
    assert raw.scan.verdicts == ()
    block = joined(items)
    with ismrmrd.Dataset(str(path), "dataset", mode="r") as dataset:
        for number in range(dataset.number_of_acquisitions()):
            theirs = dataset.read_acquisition(number)
            assert bytes(theirs.getHead()) == block.head[number].tobytes()
            np.testing.assert_array_equal(theirs.data, block.data[number])
    write(tmp_path / "again.h5", raw.scan, items=items)
    (tmp_path / "rec").write_bytes(encoded(Header(raw.scan.header), *items, Close()))
    for copy in ("again.h5", "rec"):
        same_readouts(joined(open_raw(tmp_path / copy).items()), block)
        assert open_raw(tmp_path / copy).scan == raw.scan
