"""What the tests of the networks share: cards in a folder with networks made for a test, images and scans for them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from acquisition.geometry import Grid
from acquisition.items import Image
from acquisition.scan import Encoding, Equipment, MrHeader, Scan, Study
from acquisition.verdict import Verdict
from models.denoise import Denoise
from models.load import packed
from models.nets import NETS, build
from models.nets.unet import UNet
from models.ood import Statistics, features, fitted
from models.train.ellipses import drawn

MATRIX = 48
TEST_NETS = {
    name.lower(): f"tests.models.samples:{name}"
    for name in ("Blur", "Lesion", "Broken", "NotANumber", "Bessel", "Through")
}


class _Plain(nn.Module):
    """A network with one number, so that it has weights."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(1))


class Blur(_Plain):
    """Replaces each pixel by the mean of 3 x 3."""

    def forward(self, x: Tensor) -> Tensor:
        image = x[:, :1]
        return self.one * (nn.functional.avg_pool2d(image, 3, stride=1, padding=1) - image)


class Lesion(_Plain):
    """Adds a bright square of 6 x 6."""

    def forward(self, x: Tensor) -> Tensor:
        square = torch.zeros_like(x[:, :1])
        square[..., 20:26, 20:26] = 6.0
        return self.one * square


class Broken(_Plain):
    """Works once, for the warm-up."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > 1:
            raise RuntimeError("no such kernel")
        return 0 * x[:, :1]


class Bessel(_Plain):
    """Uses a function that OpenVINO does not know."""

    def forward(self, x: Tensor) -> Tensor:
        return 1e-3 * self.one * torch.special.bessel_j0(x[:, :1])


class Through(_Plain):
    """Gives the image itself, not a copy."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1]


class NotANumber(_Plain):
    """Divides by nothing, once there is an image."""

    def forward(self, x: Tensor) -> Tensor:
        return self.one * 0 * x[:, :1] / (x[:, :1] - x[:, :1])


@cache
def statistics() -> Statistics:
    """Figures of drawn images."""
    return fitted(np.stack([features(ellipses(seed), 1.0) for seed in range(40)]))


def ellipses(seed: int, matrix: int = MATRIX) -> np.ndarray:
    """A drawn image in units of its noise (y, x)."""
    chance = np.random.default_rng(seed)
    return drawn(chance, matrix) + chance.standard_normal((matrix, matrix), np.float32)


def document(**changes: Any) -> dict[str, Any]:
    """What a complete card says."""
    figure = {"name": "PSNR", "unit": "dB", "value": 30.0, "ci95": [29.0, 31.0], "items": 9, "data": "drawn images"}
    bound = {"flag_above": 4.0, "refuse_above": 8.0}
    fields: dict[str, Any] = {
        "name": "sample",
        "version": "1.2.3",
        "title": "A sample",
        "intended_use": "Tests.",
        "modality": "MR",
        "anatomy": ["HEAD", "BRAIN"],
        "sequences": [],
        "input": {"units": ["1"], "kinds": ["magnitude"], "matrix": [MATRIX, MATRIX], "ranges": {"snr": [2, 200]}},
        "network": {"name": "unet", "parameters": {"levels": 2}},
        "weights": {"file": "weights.safetensors", "sha256": "0" * 64, "size": 1},
        "training": {
            "recipe": "ellipses",
            "setting": "tiny",
            "seed": 1,
            "steps": 1,
            "minutes": 0.1,
            "machine": "none",
            "data": [{"name": "drawn", "licence": "Apache-2.0", "used_for": "training", "items": 1}],
        },
        "metrics": [figure],
        "ood": {"threshold": 3.0, "quantile": 0.99, "items": 40},
        "consistency": {"rms": bound, "peak": bound},
        "uncertainty": {"members": 1, "coverage": 0.9, "factor": 2.0, "floor": 0.1, "items": 40},
        "limits": ["Knows nothing."],
    }
    return fields | changes


def network(name: str = "unet", *, rms: float = 0.3, seed: int = 0, **parameters: Any) -> nn.Module:
    """A network; a U-Net has random weights and corrects a drawn image by `rms` standard deviations of the noise."""
    torch.manual_seed(seed)
    made = build(name, parameters or ({"levels": 2} if name == "unet" else {}), where="test")
    if isinstance(made, UNet):
        nn.init.normal_(made.tail.weight)
        channels, depth = made.head.in_channels - 1, made.head.weight.ndim - 4
        drawn_ = torch.from_numpy(ellipses(1000)).expand(1, channels, *(4,) * depth, -1, -1)
        with torch.no_grad():
            correction = made(torch.cat([drawn_, torch.ones_like(drawn_[:, :1])], dim=1))
            made.tail.weight.mul_(rms / correction.square().mean().sqrt())
    return made


def card_folder(folder: Path, made: nn.Module | None = None, **changes: Any) -> Path:
    """Write a card and its weights; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    data = packed(made if made is not None else network(), statistics())
    (folder / "weights.safetensors").write_bytes(data)
    weights = {"file": "weights.safetensors", "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    (folder / "card.yaml").write_text(yaml.safe_dump(document(weights=weights) | changes, sort_keys=False))
    return folder


def plain_card(folder: Path, name: str, **changes: Any) -> Path:
    """Write a card of one of `TEST_NETS`, which the caller has entered into `NETS`."""
    assert name in NETS
    return card_folder(folder, network(name), network={"name": name}, **changes)


def scan(*, matrix: tuple[int, int] = (MATRIX, MATRIX), body_part: str | None = "HEAD", **changes: Any) -> Scan:
    """An MR scan of slices."""
    n_y, n_x = matrix
    encoding = Encoding(
        matrix=(1, n_y, 2 * n_x),
        fov_mm=(5.0, 1.0 * n_y, 2.0 * n_x),
        recon_matrix=(1, n_y, n_x),
        recon_fov_mm=(5.0, 1.0 * n_y, 1.0 * n_x),
        acceleration=(1.0, 2.0),
    )
    fields: dict[str, Any] = {
        "uid": "scan-1",
        "modality": "MR",
        "protocol_name": "t1_se_ax",
        "study": Study(body_part=body_part),
        "equipment": Equipment(field_strength_t=3.0),
        "mr": MrHeader(encodings=(encoding,), sequence_type="TurboSpinEcho"),
    }
    return Scan(**(fields | changes))


def image(data: np.ndarray | None = None, **changes: Any) -> Image:
    """A conventional slice in units of its noise."""
    values = ellipses(1000) if data is None else data
    values = values[None] if values.ndim == 2 else values
    grid = Grid.from_centre((0, 0, 0), shape=values.shape[-3:], spacing_mm=(5.0, 1.0, 1.0), directions=np.eye(3))
    return replace(Image(data=values, grid=grid, unit="1"), **changes)


def step(folder: Path, **changes: Any) -> Denoise:
    """The Step with a card, at full strength on torch."""
    return Denoise(**{"card": str(folder), "engine": "torch", "strength": 1.0} | changes)


def played(made: Denoise, *images: Image, of=None) -> tuple[list[Image], list[Verdict]]:
    """Run a whole scan; return images and findings of the scan."""
    made.open(of or scan())
    out = [item for one in images for item in made.feed(one)] + list(made.close())
    return [i for i in out if isinstance(i, Image)], [v for v in out if isinstance(v, Verdict)]
