"""Weights: only the file that the card names, only numbers, never a program."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors import torch as safetensors

from acquisition.errors import ConfigError, FileFormatError, LimitError
from models import load as module
from models.load import cards, find, load
from models.nets import NETS
from tests.models.samples import card_folder, document, network, statistics


def replaced(folder: Path, data: bytes) -> Path:
    """Put other bytes in the place of the weights, and their sum on the card."""
    (folder / "weights.safetensors").write_bytes(data)
    card = yaml.safe_load((folder / "card.yaml").read_text())
    card["weights"] |= {"sha256": hashlib.sha256(data).hexdigest(), "size": max(len(data), 1)}
    (folder / "card.yaml").write_text(yaml.safe_dump(card))
    return folder / "card.yaml"


def test_what_is_written_is_what_is_loaded(tmp_path: Path) -> None:
    made = network(seed=3)
    loaded = load(card_folder(tmp_path, made) / "card.yaml")
    for name, value in made.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], value)
    assert np.array_equal(loaded.statistics.mean, statistics().mean)
    assert np.array_equal(loaded.statistics.precision, statistics().precision)
    assert not any(p.requires_grad for p in loaded.network.parameters())
    assert not loaded.network.training


def test_a_network_is_built_once_but_its_file_is_checked_each_time(tmp_path: Path) -> None:
    path = card_folder(tmp_path) / "card.yaml"
    assert load(path) is load(path)
    weights = tmp_path / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(FileFormatError, match=r"expected sha256 .* as card sample says, got .*do not edit the sum"):
        load(path)


def test_only_so_many_networks_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BUILT", {})
    monkeypatch.setattr(module, "_MOST_BUILT", 2)
    for seed in range(3):
        load(card_folder(tmp_path / str(seed), network(seed=seed)) / "card.yaml")
    assert len(module._BUILT) == 2


class _Program:
    """Would leave a file behind if it were unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.trace,))


def _torch_saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("dumped", [pickle.dumps, _torch_saved])
def test_a_pickle_is_refused_and_never_run(tmp_path: Path, dumped) -> None:
    trace = tmp_path / "trace"
    path = replaced(card_folder(tmp_path), dumped(_Program(trace)))
    with pytest.raises(FileFormatError, match=r"expected safetensors, got a pickle or zip.*never opened"):
        load(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected safetensors"),
        (b"\xff" * 100, "expected safetensors"),
        (
            safetensors.save({"network.head.weight": torch.full((2, 2), float("nan"))}),
            "NaN or infinite in network.head",
        ),
        (safetensors.save({"network.head.weight": torch.zeros(2, 2)}), "expected weights of unet, got .*Missing key"),
    ],
)
def test_what_is_no_weights_of_this_network_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises((FileFormatError, ConfigError), match=message):
        load(replaced(card_folder(tmp_path), data))


def test_weights_without_statistics_are_refused(tmp_path: Path) -> None:
    data = safetensors.save({f"network.{k}": v for k, v in network().state_dict().items()})
    with pytest.raises(FileFormatError, match=r"expected ood.mean, ood.precision"):
        load(replaced(card_folder(tmp_path), data))


def test_statistics_of_another_version_are_refused(tmp_path: Path) -> None:
    tensors = {f"network.{k}": v for k, v in network().state_dict().items()}
    few = {"ood.mean": torch.zeros(2, dtype=torch.float64), "ood.precision": torch.eye(2, dtype=torch.float64)}
    with pytest.raises(FileFormatError, match=r"expected 14 figures.*publish the card anew"):
        load(replaced(card_folder(tmp_path), safetensors.save(tensors | few)))


def test_weights_that_are_too_large_are_not_even_read(tmp_path: Path) -> None:
    folder = card_folder(tmp_path)
    with (folder / "weights.safetensors").open("wb") as file:
        file.truncate(20_000_001)
    with pytest.raises(LimitError, match="at most 20000000 bytes, got 20000001"):
        load(folder / "card.yaml")


def test_missing_weights_are_named(tmp_path: Path) -> None:
    folder = card_folder(tmp_path)
    (folder / "weights.safetensors").unlink()
    with pytest.raises(FileFormatError, match=r"weights.safetensors: expected a file"):
        load(folder / "card.yaml")


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"name": "unett"}, r"expected one of .*unet.* \(did you mean unet\?\)"),
        ({"name": "unet", "parameters": {"depth": 2}}, "expected its parameters, got .*depth"),
        ({"name": "unet", "parameters": {"width": 48}}, "width a multiple of 32"),
    ],
)
def test_a_network_that_is_not_there_is_named(tmp_path: Path, named: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(card_folder(tmp_path, network=named) / "card.yaml")


def test_cards_are_found_by_name_by_folder_and_by_file(tmp_path: Path) -> None:
    folder = card_folder(tmp_path / "sample")
    for name in ("sample", str(folder), str(folder / "card.yaml")):
        assert find(name, where="test", folders=[tmp_path]) == folder / "card.yaml"
    assert folder / "card.yaml" in list(cards([tmp_path]))
    with pytest.raises(ConfigError, match=r"test: card 'sampel': expected one of .*did you mean sample\?"):
        find("sampel", where="test", folders=[tmp_path])
    with pytest.raises(ConfigError, match="or the path of a card"):
        find(str(tmp_path), where="test")


def test_every_network_of_the_table_is_there() -> None:
    for name in NETS:
        assert network(name).multiple >= 1  # type: ignore[operator]
    assert document()["network"]["name"] in NETS
