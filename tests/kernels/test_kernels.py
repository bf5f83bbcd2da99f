"""Every fast operation against its float64 reference: odd, even, one, empty, non-contiguous."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kernels import registry
from kernels.registry import BACKENDS, OPS, kernel

GPU = torch.cuda.is_available()
FAST = ["cpu", *([pytest.param("cuda", marks=pytest.mark.gpu)] if GPU else [])]
LAYOUTS = {
    "contiguous": lambda a: a,
    "transposed": lambda a: np.ascontiguousarray(a.swapaxes(0, -1)).swapaxes(0, -1),
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
}


def normal(*shape: int, seed: int = 0) -> NDArray[np.complex64]:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def tensor(array: NDArray, backend: str) -> torch.Tensor:
    return torch.from_numpy(array).to(backend)


def close(fast: torch.Tensor, reference: NDArray, tolerance: float = 2e-6) -> None:
    got = fast.cpu().numpy()
    assert got.shape == reference.shape
    assert np.isfinite(got).all()
    if got.size:
        assert np.linalg.norm(got - reference) <= tolerance * max(np.linalg.norm(reference), 1e-6)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 4, 5), (2, 7, 1), (2, 0, 3), (0, 4, 4), (4, 16, 9)])
@pytest.mark.parametrize("axes", [(2,), (1,), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("op", ["centred_fft", "centred_ifft"])
def test_fourier(op: str, axes: tuple[int, ...], shape: tuple[int, ...], layout, backend: str) -> None:
    data = layout(normal(*shape))
    close(kernel(op, backend)(tensor(data, backend), axes), kernel(op, "reference")(data, axes))


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_transforms_undo_each_other_and_keep_energy(n: int) -> None:
    data = torch.from_numpy(normal(3, n, 4))
    spectrum = kernel("centred_fft", "cpu")(data, (1, 2))
    assert torch.linalg.vector_norm(spectrum) == pytest.approx(float(torch.linalg.vector_norm(data)), rel=1e-5)
    close(kernel("centred_ifft", "cpu")(spectrum, (1, 2)), data.numpy())


@pytest.mark.parametrize("n", [4, 7])
def test_a_point_at_the_centre_has_a_flat_spectrum(n: int) -> None:
    data = torch.zeros(n, dtype=torch.complex64)
    data[n // 2] = 1
    close(kernel("centred_fft", "cpu")(data, (0,)), np.full(n, 1 / np.sqrt(n)))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize(
    ("n", "size"), [(4, 4), (4, 7), (7, 4), (5, 5), (1, 6), (6, 1), (5, 8), (8, 5), (0, 3), (3, 0)]
)
def test_resize(n: int, size: int, backend: str) -> None:
    data = normal(2, n, 3)
    close(kernel("resize", backend)(tensor(data, backend), size, 1), kernel("resize", "reference")(data, size, 1))


def test_resize_crops_without_a_copy() -> None:
    data = torch.zeros(8)
    kernel("resize", "cpu")(data, 4, 0)[:] = 1
    assert data.tolist() == [0, 0, 1, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 4, 5), (0, 4, 5), (2, 3, 0), (7, 16, 33)])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_whiten(shape: tuple[int, int, int], layout, backend: str) -> None:
    block, matrix = layout(normal(*shape)), normal(shape[1], shape[1], seed=1)
    close(
        kernel("whiten", backend)(tensor(matrix, backend), tensor(block, backend)),
        kernel("whiten", "reference")(matrix, block),
    )


def test_whiten_writes_where_it_is_told() -> None:
    block, matrix, out = torch.from_numpy(normal(2, 3, 4)), torch.from_numpy(normal(3, 3)), torch.empty((5, 3, 4)) + 0j
    result = kernel("whiten", "cpu")(matrix, block, out=out[:2])
    assert result.data_ptr() == out.data_ptr()


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize(
    ("shape", "acceleration", "kernel_size"),
    [((2, 1, 11, 9), 2, (2, 3)), ((3, 2, 14, 8), 3, (4, 1)), ((1, 1, 9, 7), 2, (4, 5)), ((2, 1, 13, 5), 4, (4, 5))],
)
@pytest.mark.parametrize(("regularisation", "tolerance"), [(1e-4, 1e-5), (1e-2, 5e-4)])  # double, single precision
def test_grappa_calibrate(
    shape, acceleration: int, kernel_size: tuple[int, int], backend: str, regularisation: float, tolerance: float
) -> None:
    acs = normal(*shape)
    options = {"kernel": kernel_size, "regularisation": regularisation}
    weights, error = kernel("grappa_calibrate", backend)(tensor(acs, backend), acceleration, **options)
    expected, expected_error = kernel("grappa_calibrate", "reference")(acs, acceleration, **options)
    close(weights, expected, tolerance)
    assert error == pytest.approx(expected_error, rel=1e-3, abs=1e-3)


def test_grappa_finds_the_weights_that_made_the_lines() -> None:
    """Lines that are an exact combination of their neighbours give back that combination."""
    acs = normal(2, 1, 12, 30)
    for line in range(1, 11, 2):
        acs[:, 0, line] = 0.5 * acs[::-1, 0, line - 1] + 1j * acs[:, 0, line + 1]
    # only even places are exact: keep those equations by calibrating on even first lines
    even = np.concatenate([acs[:, :, i : i + 3] for i in range(0, 9, 2)], axis=1)
    weights, error = kernel("grappa_calibrate", "cpu")(torch.from_numpy(even), 2, kernel=(2, 1), regularisation=1e-12)
    expected = np.zeros((2, 1, 2, 1, 2))
    expected[0, 0, :, 0, :] = [[0, 0.5], [0.5, 0]]
    close(weights, expected + 1j * np.stack([np.zeros((1, 2, 1, 2)), np.eye(2)[None, :, None, :]]), 1e-5)
    assert error < 1e-5


def test_grappa_survives_calibration_without_signal() -> None:
    weights, error = kernel("grappa_calibrate", "cpu")(
        torch.zeros((2, 1, 9, 8), dtype=torch.complex64), 2, kernel=(4, 5), regularisation=0.0
    )
    assert error == 0
    assert not weights.any()


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("n_x", [1, 6, 9])
def test_grappa_hybrid(n_x: int, backend: str) -> None:
    weights = normal(2, 3, 2, 3, 2)
    close(
        kernel("grappa_hybrid", backend)(tensor(weights, backend), n_x),
        kernel("grappa_hybrid", "reference")(weights, n_x),
    )


@pytest.mark.parametrize("n_x", [8, 9])
def test_the_hybrid_kernel_is_the_convolution(n_x: int) -> None:
    """Applied at each x it does what the kernel does along k0, circularly."""
    weights, k0 = normal(1, 3, 1, 1, 1), normal(n_x)
    hybrid = kernel("grappa_hybrid", "cpu")(torch.from_numpy(weights), n_x)[:, 0, 0].numpy()
    x = kernel("centred_ifft", "reference")(k0, (0,)) * hybrid
    made = kernel("centred_fft", "reference")(x, (0,))
    direct = sum(weights[0, d, 0, 0, 0] * np.roll(k0, 1 - d) for d in range(3))
    np.testing.assert_allclose(made, direct, atol=1e-5)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize(("n_x", "n_lines", "n_coils"), [(1, 4, 1), (5, 9, 3), (3, 4, 2), (2, 3, 2), (0, 5, 2)])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_grappa_apply(n_x: int, n_lines: int, n_coils: int, layout, backend: str) -> None:
    lines, weights = layout(normal(n_x, n_lines, n_coils)), normal(n_x, 4 * n_coils, 2 * n_coils)
    close(
        kernel("grappa_apply", backend)(tensor(lines, backend), tensor(weights, backend)),
        kernel("grappa_apply", "reference")(lines, weights),
    )


def smooth_coils(n: int, *shape: int) -> NDArray[np.complex64]:
    """Coil images of one dominant rank: smooth maps times a positive object, and a little noise."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, m) if m > 1 else np.zeros(1) for m in shape), indexing="ij")
    angle = np.arange(n) * 2.4
    maps = [np.exp(-((y - np.sin(a)) ** 2) - (x - np.cos(a)) ** 2 - z**2 + 1j * (x + a)) for a in angle]
    return (np.array(maps) * (1 + x**2) + 0.01 * normal(n, *shape)).astype(np.complex64)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("shape", [(3, 1, 9, 8), (1, 1, 4, 4), (4, 3, 5, 6), (2, 1, 1, 1)])
@pytest.mark.parametrize("patch", [(1, 1, 1), (3, 3, 3), (1, 5, 3)])
def test_walsh(shape: tuple[int, ...], patch: tuple[int, int, int], backend: str) -> None:
    images = smooth_coils(*shape)
    close(kernel("walsh", backend)(tensor(images, backend), patch), kernel("walsh", "reference")(images, patch), 5e-3)


def test_walsh_maps_have_unit_norm_and_a_smooth_phase() -> None:
    images = smooth_coils(4, 1, 20, 20) * np.exp(1j * normal(1, 1, 20, 20, seed=5).real)  # the object's phase is wild
    maps = kernel("walsh", "cpu")(torch.from_numpy(images.astype(np.complex64)), (1, 3, 3)).numpy()
    np.testing.assert_allclose((np.abs(maps) ** 2).sum(0), 1, atol=1e-5)
    step = np.abs(np.diff(maps, axis=-1)).max()
    assert step < 0.3, "neighbouring maps differ: the object's phase leaked into them"


def test_walsh_of_nothing() -> None:
    assert kernel("walsh", "cpu")(torch.zeros((2, 1, 0, 3), dtype=torch.complex64), (3, 3, 3)).shape == (2, 1, 0, 3)
    assert not kernel("walsh", "cpu")(torch.zeros((2, 1, 4, 3), dtype=torch.complex64), (3, 3, 3)).any()


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("sizes", [(1, 4, 5), (1, 8, 10), (3, 9, 7), (1, 2, 3)])
def test_upsample(sizes: tuple[int, ...], backend: str) -> None:
    data = normal(2, 1, 4, 5)
    close(kernel("upsample", backend)(tensor(data, backend), sizes), kernel("upsample", "reference")(data, sizes))


@pytest.mark.parametrize(("n", "size"), [(8, 16), (9, 18), (8, 20), (7, 21)])
def test_upsample_keeps_a_ramp_and_its_centre(n: int, size: int) -> None:
    ramp = (torch.arange(n) - n // 2) / n
    fine = kernel("upsample", "cpu")(ramp, (size,))
    expected = (torch.arange(size) - size // 2) / size
    inside = (expected >= ramp[0]) & (expected <= ramp[-1])
    torch.testing.assert_close(fine[inside], expected[inside])


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 1, 4, 5), (2, 3, 0, 4)])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_coil_operations(shape: tuple[int, ...], layout, backend: str) -> None:
    images, maps = layout(normal(*shape)), normal(*shape, seed=1)
    maps[:, :, :1] = 0
    for op, arguments in (("unit_norm", (maps,)), ("coil_combine", (images, maps)), ("rss", (images,))):
        fast = kernel(op, backend)(*(tensor(a, backend) for a in arguments))
        close(fast, kernel(op, "reference")(*arguments))


def test_combining_with_the_true_maps_gives_the_object_and_keeps_noise() -> None:
    maps = kernel("unit_norm", "cpu")(torch.from_numpy(normal(8, 1, 60, 50)))
    noise = torch.from_numpy(normal(8, 1, 60, 50, seed=2)) / np.sqrt(2)
    combined = kernel("coil_combine", "cpu")(maps * 5 + noise, maps)
    assert float(combined.real.mean()) == pytest.approx(5, abs=0.05)
    assert float((combined - combined.mean()).abs().square().mean()) == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("op", OPS)
def test_every_backend_has_every_operation(op: str, backend: str) -> None:
    assert callable(kernel(op, backend))


def test_an_unknown_operation_or_backend_is_refused() -> None:
    with pytest.raises(LookupError, match="kernel magic/cpu: known are centred_fft"):
        kernel("magic", "cpu")
    with pytest.raises(LookupError, match="for reference, cpu, cuda"):
        kernel("rss", "abacus")


@pytest.mark.parametrize("name", ["tpu", "cuda"])
def test_a_device_that_is_not_here_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(registry.ENVIRONMENT, name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    registry.device.cache_clear()
    try:
        with pytest.raises(LookupError, match=f"ISOCENTER_DEVICE={name}: no such device here"):
            registry.device()
    finally:
        registry.device.cache_clear()


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="no CUDA device: the cuda kernels were not compared with the reference")
def test_the_gpu_took_part() -> None:
    assert len(FAST) == 2
