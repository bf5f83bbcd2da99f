"""Engines: the same within the tolerance, ready before the first image, honest when they fail."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from acquisition.errors import ConfigError, ReconError
from models import engine as module
from models.engine import ENGINES, OpenVino, TorchCpu, TorchCuda, available, candidates, engine
from models.nets import NETS
from tests.models.samples import TEST_NETS, network

SHAPE = (1, 2, 48, 40)


def inputs(snr: float = 50.0) -> np.ndarray:
    chance = np.random.default_rng(0)
    x = chance.standard_normal(SHAPE).astype(np.float32)
    x[:, 0] += snr * (chance.random(SHAPE[2:]) > 0.5)
    x[:, 1] = 1
    return x


def apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))


@pytest.fixture(scope="module")
def judged() -> tuple[torch.nn.Module, np.ndarray]:
    net = network()
    judge = TorchCpu(net, precision="f32")
    judge.prepare(SHAPE)
    return net, judge.run(inputs())


def test_openvino_in_float32_is_torch(judged) -> None:
    net, expected = judged
    made = OpenVino(net, precision="f32")
    made.prepare(SHAPE)
    assert made.name == "openvino-f32"
    np.testing.assert_allclose(made.run(inputs()), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_openvino_in_bf16_is_torch_within_two_percent(judged) -> None:
    """bf16 keeps 8 bits: a few parts in a thousand per layer, of the correction and not of the image."""
    net, expected = judged
    made = OpenVino(net, precision="bf16")
    made.prepare(SHAPE)
    assert apart(made.run(inputs()), expected) < 0.02 * np.sqrt(np.mean(expected**2))
    if made.name == "openvino-bf16":
        assert apart(made.run(inputs()), expected) > 0


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16", "f32"])
def test_the_cuda_graph_is_torch_within_two_percent(judged, precision) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    net, expected = judged
    made = TorchCuda(net, precision=precision)
    made.prepare(SHAPE)
    for _ in range(3):
        assert apart(made.run(inputs()), expected) < 0.02 * np.sqrt(np.mean(expected**2))
    assert not made.run(np.zeros(SHAPE, np.float32)).any()


@pytest.mark.parametrize("name", available())
def test_results_are_the_callers_and_the_same_each_time(name: str) -> None:
    made = engine(name, network(), precision="f32")
    made.prepare(SHAPE)
    first = made.run(inputs())
    kept = first.copy()
    made.run(2 * inputs())
    assert np.array_equal(first, kept)
    assert np.array_equal(made.run(inputs()), kept)


@pytest.mark.parametrize("name", available())
def test_a_result_is_never_a_view_of_the_input(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETS, "through", TEST_NETS["through"])
    made, x = engine(name, network("through"), precision="f32"), inputs()
    made.prepare(SHAPE)
    result = made.run(x)
    x[:] = 7
    assert np.array_equal(result, inputs()[:, :1])


def test_nothing_is_compiled_twice_or_in_the_hot_path(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network()
    made = OpenVino(net, precision="f32")
    made.prepare(SHAPE)
    assert made.prepare_s > 0
    again = OpenVino(net, precision="f32")  # the next scan
    monkeypatch.setattr(torch.export, "export", None)
    again.prepare(SHAPE)
    made.prepare(SHAPE)
    assert np.array_equal(again.run(inputs()), made.run(inputs()))
    assert made.preparations == again.preparations == 1


def test_without_bf16_the_name_says_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        def get_property(self, device: str, name: str) -> list[str]:
            return ["FP32"]

    class Package:
        Core = Old

    monkeypatch.setattr(module, "_openvino", Package)
    assert OpenVino(network(), precision="bf16").name == "openvino-f32"


@pytest.mark.parametrize("name", available())
def test_another_shape_must_be_prepared(name: str) -> None:
    made = engine(name, network(), precision="f32")
    made.prepare(SHAPE)
    with pytest.raises(ReconError, match=r"expected input \(1, 2, 48, 40\), got \(1, 2, 8, 8\)"):
        made.run(np.zeros((1, 2, 8, 8), np.float32))


def test_a_failure_is_ours_and_says_what(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETS, "broken", TEST_NETS["broken"])
    made = TorchCpu(network("broken"), precision="f32")
    made.prepare(SHAPE)
    with pytest.raises(
        ReconError, match=r"engine torch-f32: expected run, got no such kernel\. the conventional image"
    ):
        made.run(inputs())


def test_a_preparation_that_fails_leaves_nothing_half_ready() -> None:
    made = TorchCpu(network(), precision="f32")
    with pytest.raises(ReconError, match=r"expected prepare for \(1, 5, 8, 8\)"):
        made.prepare((1, 5, 8, 8))
    with pytest.raises(ReconError, match=r"expected input \(\)"):
        made.run(np.zeros((1, 5, 8, 8), np.float32))


def test_what_openvino_cannot_convert_is_ours_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETS, "bessel", TEST_NETS["bessel"])
    with pytest.raises(ReconError, match=r"engine openvino-f32: expected prepare for \(1, 2, 48, 40\), got .*bessel"):
        OpenVino(network("bessel"), precision="f32").prepare(SHAPE)


def test_auto_is_the_service_s_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available", lambda: ("cuda", "openvino", "torch"))
    monkeypatch.setattr(module, "device", lambda: torch.device("cpu"))
    assert candidates("auto") == ("openvino", "torch")
    monkeypatch.setattr(module, "device", lambda: torch.device("cuda"))
    assert candidates("auto") == ("cuda", "openvino", "torch")
    monkeypatch.setattr(module, "available", lambda: ("torch",))
    assert candidates("auto") == ("torch",)
    with pytest.raises(ConfigError, match="expected auto, or one of torch, got 'cuda'"):
        candidates("cuda")
    assert set(ENGINES) == {"cuda", "openvino", "torch"}


def test_openvino_s_telemetry_is_never_loaded() -> None:
    """Its package sends a message at import; a hospital's computer must not."""
    code = (
        "import sys; from models import engine; ov = engine._openvino(); import openvino.tools.ovc as ovc;"
        "assert sys.modules['openvino_telemetry'] is None;"
        "assert type(ovc.telemetry).__module__ == 'openvino.tools.ovc.telemetry_stub', type(ovc.telemetry)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
