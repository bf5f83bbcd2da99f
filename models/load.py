"""Cards found, weights checked before they are read, networks built. Nothing that comes in a file is executed.

Weights are safetensors: a table of numbers. A pickle, which is a program, is never opened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor, nn

from acquisition.errors import ConfigError, FileFormatError, LimitError, one_of
from models.card import FILE, MAX_WEIGHTS, Card, read_card
from models.nets import build
from models.ood import Statistics

SHIPPED = Path(__file__).parent / "cards"
"""Folder of the cards that come with the program: one sub-folder each, ``card.yaml`` and the weights."""
_NETWORK = "network."
_MEAN, _PRECISION = "ood.mean", "ood.precision"
_BUILT: dict[tuple[str, str], Loaded] = {}
"""Networks by the sum of their weights and the text of their card."""
_MOST_BUILT = 8


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A network that may be used, and what its card says."""

    card: Card
    """The card."""
    network: nn.Module
    """With its weights, in float32, for inference only; shared, so never to be changed."""
    statistics: Statistics
    """Of the training images."""


def cards(folders: Sequence[Path] = ()) -> Iterator[Path]:
    """Yield the files of all cards: the shipped ones, then those in sub-folders of `folders`."""
    for folder in (SHIPPED, *folders):
        yield from sorted(folder.glob(f"*/{FILE}"))


def find(card: str, *, where: str, folders: Sequence[Path] = ()) -> Path:
    """Return the file of a card, by name or by its path.

    Raises
    ------
    ConfigError
        There is none; the message names those there are.
    """
    named = {path.parent.name: path for path in cards(folders)}
    if card in named:
        return named[card]
    path = Path(card)
    path = path / FILE if path.is_dir() else path
    if not path.is_file() or path.suffix != ".yaml":
        raise ConfigError(
            f"{where}: card {card!r}",
            expected=f"{one_of(card, named)}, or the path of a card",
            got=repr(card),
            action="`isocenter models list` names the cards",
        )
    return path


def load(path: Path) -> Loaded:
    """Read a card and the network behind it; the file of weights is checked each time, the network built once.

    Raises
    ------
    ConfigError
        The card is wrong, or names another network than the weights are of.
    FileFormatError
        The weights are not those that the card names, or no safetensors.
    LimitError
        The file of weights is too large.
    """
    card = read_card(path)
    data = verified(path.parent / card.weights.file, card)
    key = (card.weights.sha256, card.text())
    if key not in _BUILT:
        while len(_BUILT) >= _MOST_BUILT:
            _BUILT.pop(next(iter(_BUILT)), None)
        _BUILT[key] = _built(card, data)
    return _BUILT[key]


def verified(path: Path, card: Card) -> bytes:
    """Return the bytes of the weights after all checks that need no look inside.

    Raises
    ------
    FileFormatError
        Absent, or not the file that the card names.
    LimitError
        Larger than any card may have.
    """
    try:
        size = path.stat().st_size
        if size > MAX_WEIGHTS:
            raise LimitError(f"weights {path}", expected=f"at most {MAX_WEIGHTS} bytes", got=f"{size}")
        data = path.read_bytes()
    except OSError as error:
        raise FileFormatError(f"weights {path}", expected="a file", got=str(error)) from error
    found = hashlib.sha256(data).hexdigest()
    if found != card.weights.sha256:
        raise FileFormatError(
            f"weights {path}",
            expected=f"sha256 {card.weights.sha256}, as card {card.name} says",
            got=found,
            action="restore the file, or publish the card anew; do not edit the sum",
        )
    return data


def packed(network: nn.Module, statistics: Statistics) -> bytes:
    """Return weights and statistics as one safetensors file."""
    tensors = {_NETWORK + name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    tensors[_MEAN] = torch.from_numpy(statistics.mean.copy())
    tensors[_PRECISION] = torch.from_numpy(statistics.precision.copy())
    return bytes(safetensors.save(tensors))


def _built(card: Card, data: bytes) -> Loaded:
    tensors = unpacked(data, where=f"weights of card {card.name}")
    network = build(card.network.name, card.network.parameters, where=f"card {card.name}")
    weights = {name.removeprefix(_NETWORK): t for name, t in tensors.items() if name.startswith(_NETWORK)}
    try:
        network.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        told = " ".join(str(error).split())[:300]
        raise ConfigError(f"card {card.name}", expected=f"weights of {card.network.name}", got=told) from error
    network.requires_grad_(False)
    if not {_MEAN, _PRECISION} <= tensors.keys():
        raise FileFormatError(f"weights of card {card.name}", expected=f"{_MEAN}, {_PRECISION}", got=", ".join(tensors))
    return Loaded(card, network, Statistics(tensors[_MEAN].numpy(), tensors[_PRECISION].numpy()))


def unpacked(data: bytes, *, where: str) -> Mapping[str, Tensor]:
    """Return the tensors of a safetensors file.

    Raises
    ------
    FileFormatError
        It is none, or holds what is not finite.
    """
    try:
        tensors: dict[str, Tensor] = safetensors.load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        kind = (
            "a pickle or zip, which may be a program and is never opened" if data.startswith((b"PK", b"\x80")) else ""
        )
        raise FileFormatError(where, expected="safetensors", got=kind or " ".join(str(error).split())) from error
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise FileFormatError(where, expected="finite numbers", got=f"NaN or infinite in {', '.join(broken[:3])}")
    return tensors
