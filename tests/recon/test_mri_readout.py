"""Samples along the readout land where the header says, and become voxels with the right size and noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from acquisition.errors import DataError, HeaderError
from acquisition.items import Flag, Readouts
from acquisition.scan import Encoding, MrHeader, Scan
from acquisition.verdict import Verdict
from kernels.registry import kernel
from recon.mri import ReadoutTransform
from tests.recon.helpers import Exam


def header(encoded: int = 32, recon: int = 16, *, fov: float = 400.0, recon_fov: float = 200.0, **other) -> Scan:
    encoding = Encoding(
        matrix=(1, 8, encoded),
        fov_mm=(5, 200, fov),
        recon_matrix=(1, 8, recon),
        recon_fov_mm=(5, 200, recon_fov),
        **other,
    )
    return Scan(uid="t", modality="MR", mr=MrHeader(encodings=(encoding,)))


def block(data: np.ndarray, **values) -> Readouts:
    head = Exam().head(n_samples=data.shape[2], center_sample=data.shape[2] // 2, **values)
    return Readouts(head=np.repeat(head, len(data)), data=data.astype(np.complex64))


def samples(n: int = 32, rows: int = 2, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, 3, n)) + 1j * rng.standard_normal((rows, 3, n))


def transform(scan: Scan, item: Readouts) -> Readouts:
    step = ReadoutTransform()
    step.open(scan)
    (out,) = step.feed(item)
    assert not list(step.close())
    return replace(out, data=out.data.copy())


def expected(data: np.ndarray, padded: int, recon: int) -> np.ndarray:
    """Zero-pad (or cut) k-space, transform, cut the field of view."""
    resize, n = kernel("resize", "reference"), data.shape[2]
    line = kernel("centred_ifft", "reference")(resize(data.astype(complex), padded, 2), (2,))
    return resize(line, recon, 2) * np.sqrt(padded / n)


@pytest.mark.parametrize(("encoded", "recon"), [(32, 16), (33, 17), (32, 15), (30, 15), (31, 31), (1, 1)])
def test_oversampling_is_cut_off(encoded: int, recon: int) -> None:
    data = samples(encoded)
    scan = header(encoded, recon, fov=10.0 * encoded, recon_fov=10.0 * recon)
    out = transform(scan, block(data))
    assert out.domain == "x"
    assert out.data.dtype == np.complex64
    np.testing.assert_allclose(out.data, expected(data, encoded, recon), atol=1e-5)


@pytest.mark.parametrize(("recon", "padded"), [(32, 64), (20, 40), (8, 16)])
def test_the_image_matrix_may_be_finer_or_coarser(recon: int, padded: int) -> None:
    data = samples()
    out = transform(header(recon=recon), block(data))
    np.testing.assert_allclose(out.data, expected(data, padded, recon), atol=1e-5)


def test_a_constant_keeps_its_value_on_any_matrix() -> None:
    k0 = np.zeros((1, 1, 32))
    k0[..., 16] = np.sqrt(32)
    for recon in (8, 16, 32, 50):
        np.testing.assert_allclose(transform(header(recon=recon), block(k0)).data, 1, atol=1e-5)


@pytest.mark.parametrize("recon", [16, 32])
def test_white_noise_stays_white(recon: int) -> None:
    out = transform(header(recon=recon), block(samples(rows=3000) / np.sqrt(2)))
    assert np.mean(np.abs(out.data) ** 2) == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("missing", [1, 7, 12])
def test_an_asymmetric_echo_is_filled_with_zeros(missing: int) -> None:
    data = samples()
    item = block(data[:, :, missing:])
    item.head["center_sample"] = 16 - missing
    data[:, :, :missing] = 0
    np.testing.assert_allclose(transform(header(), item).data, expected(data, 32, 16), atol=1e-5)


def test_discarded_samples_leave_no_trace() -> None:
    data = samples()
    padded = np.concatenate([np.full((2, 3, 4), 1e6), data, np.full((2, 3, 3), 1e6)], axis=2)
    item = block(padded, discard_pre=4, discard_post=3)
    item.head["center_sample"] = 20
    np.testing.assert_allclose(transform(header(), item).data, expected(data, 32, 16), atol=1e-5)


@pytest.mark.parametrize("centre", [15, 16])
def test_a_reversed_readout_is_turned(centre: int) -> None:
    """Scanners differ in whether they count the centre in the turned readout or in the measured one."""
    data = samples()
    item = block(data[:, :, ::-1], flags=int(Flag.REVERSE))
    item.head["center_sample"] = centre
    np.testing.assert_allclose(transform(header(), item).data, expected(data, 32, 16), atol=1e-5)


def test_a_reversed_asymmetric_readout_is_turned_with_its_centre_and_discards() -> None:
    data = samples()
    kept = data[:, :, 10:]
    item = block(np.concatenate([np.full((2, 3, 2), 9.0), kept[:, :, ::-1]], 2), flags=int(Flag.REVERSE), discard_pre=2)
    item.head["center_sample"] = 2 + (22 - 1 - 6)
    data[:, :, :10] = 0
    np.testing.assert_allclose(transform(header(), item).data, expected(data, 32, 16), atol=1e-5)


def test_a_mixed_block_is_split_in_its_order() -> None:
    data = samples(rows=4)
    item = block(data)
    item.head["flags"] = [0, int(Flag.REVERSE), int(Flag.NAVIGATION), 0]
    item.head["scan_counter"] = [0, 1, 2, 3]
    step = ReadoutTransform()
    step.open(header())
    seen = [(out.domain, out.head["scan_counter"].tolist()) for out in step.feed(item)]
    assert seen == [("k0", [2]), ("x", [0]), ("x", [1]), ("x", [3])]


def test_memory_is_reused_and_input_may_be_read_only() -> None:
    step = ReadoutTransform()
    step.open(header())
    data = block(samples())
    data.data.flags.writeable = False
    (first,) = step.feed(data)
    kept = first.data.copy()
    (second,) = step.feed(data)
    np.testing.assert_array_equal(kept, second.data)


def test_an_echo_centre_that_cannot_be_is_replaced_and_said() -> None:
    data = samples()
    item = block(data)
    item.head["center_sample"] = 0
    step = ReadoutTransform()
    step.open(header())
    (out,) = step.feed(item)
    np.testing.assert_allclose(out.data, expected(data, 32, 16), atol=1e-5)
    (verdict,) = step.close()
    assert isinstance(verdict, Verdict)
    assert verdict.level == "FLAG"
    assert "echo centre does not fit" in verdict.advice


@pytest.mark.parametrize(
    ("item", "match"),
    [
        (block(samples(40)), "samples that fit the encoded matrix of 32, got 40 samples with the centre at 20"),
        (block(samples(32), encoding=1), "encoding: expected 0 to 0, got 1"),
        (block(samples(32), discard_pre=20, discard_post=12), "expected samples that are kept, got 32 samples"),
    ],
)
def test_readouts_that_contradict_the_header_are_errors(item: Readouts, match: str) -> None:
    with pytest.raises(DataError, match=match):
        transform(header(), item)


def test_what_is_transformed_already_passes() -> None:
    item = replace(block(samples(16)), domain="x")
    step = ReadoutTransform()
    step.open(header())
    assert list(step.feed(item)) == [item]


@pytest.mark.parametrize(
    ("scan", "match"),
    [
        (header(trajectory="radial"), "trajectory: expected cartesian or epi, got radial"),
        (header(trajectory="epi"), r"choose a protocol with mri\.epi_readout"),
        (header(encoded=0), "x: expected positive matrix and field of view"),
        (header(fov=0.0), "positive matrix and field of view"),
        (header(recon_fov=float("nan")), "positive matrix and field of view"),
        (Scan(uid="t", modality="MR", mr=MrHeader(encodings=())), "at least one encoding space"),
        (Scan(uid="t", modality="CT"), "expected an MR scan"),
    ],
)
def test_headers_that_cannot_be_are_refused(scan: Scan, match: str) -> None:
    with pytest.raises(HeaderError, match=match):
        ReadoutTransform().open(scan)
