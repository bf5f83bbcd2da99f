"""The training loop: seeded, averaged, on a cosine; stopped at any time, it goes on as if nothing had happened.

Step k draws its batch from ``(seed, k)`` alone and the checkpoint holds weights, their average and the optimiser's
moments. So a training that was interrupted ends with the same numbers as one that was not, on the same machine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from acquisition.errors import ConfigError, ReconError
from models.train.recipe import Recipe, Setting

CHECKPOINT = "checkpoint.pt"
_WARM_UP = 0.02  # part of the steps over which the rate rises
_LEAST_RATE = 0.01  # of the largest, at the end
_CLIP = 1.0  # norm of the gradient
_TOLD_S = 10.0
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}  # convolutions are faster so


@dataclass(frozen=True, slots=True)
class Trained:
    """How far a training has come."""

    network: nn.Module
    """With the averaged weights, on the CPU."""
    step: int
    """Steps done."""
    seconds: float
    """Time of all runs together [s]."""
    finished: bool
    """False where the budget ended before the steps."""


class _Drawn(Dataset[tuple[Tensor, Tensor]]):
    """Step -> batch."""

    def __init__(self, recipe: Recipe, seed: int, size: int) -> None:
        self._recipe, self._seed, self._size = recipe, seed, size

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        return self._recipe.batch(np.random.default_rng((self._seed, step)), self._size)


class Training:
    """One training, in a folder of its own.

    Parameters
    ----------
    build
        Makes the network, before any training; called once, after the seed is set.
    recipe, setting
        What to do, how much.
    seed
        Of all chance.
    folder
        Where the checkpoint lies; made if it is not there.
    tell
        Takes a line of progress.
    """

    checkpoint_s = 60.0
    """Time between checkpoints [s]."""

    def __init__(
        self,
        build: Callable[[], nn.Module],
        recipe: Recipe,
        *,
        setting: Setting,
        seed: int,
        folder: Path,
        tell: Callable[[str], None],
    ) -> None:
        torch.manual_seed(seed)
        self._recipe, self._setting, self._seed, self._tell = recipe, setting, seed, tell
        self._network = build().train().requires_grad_(True).to(setting.device)
        self._averaged = {name: value.detach().clone() for name, value in self._network.state_dict().items()}
        self._optimiser = torch.optim.AdamW(self._network.parameters(), lr=setting.rate, weight_decay=0.0)
        self._path = folder / CHECKPOINT
        self.step, self.seconds, self._loss = 0, 0.0, math.nan
        folder.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            self._resume()

    def run(self, budget_s: float) -> Trained:
        """Train until the steps are done or `budget_s` is over, counted from now; a checkpoint is written at the end.

        Raises
        ------
        ReconError
            The loss is no number any more.
        """
        start = saved = told = time.monotonic()
        before = self.seconds
        for x, truth in self._batches():
            if time.monotonic() - start >= budget_s:
                break
            self._one(x, truth)
            now = time.monotonic()
            self.seconds = before + now - start
            if now - told >= _TOLD_S:
                told = now
                self._tell(self._progress())
            if now - saved >= self.checkpoint_s:
                saved = now
                self.save()
        self.save()
        self._tell(self._progress())
        self._network.load_state_dict(self._averaged)
        network = self._network.cpu().eval().requires_grad_(False)
        return Trained(network, self.step, self.seconds, self.step >= self._setting.steps)

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {
            "of": self._identity(),
            "step": self.step,
            "seconds": self.seconds,
            "network": self._network.state_dict(),
            "averaged": self._averaged,
            "optimiser": self._optimiser.state_dict(),
        }
        part = self._path.with_suffix(".part")
        torch.save(state, part)
        part.replace(self._path)

    def _resume(self) -> None:
        state: dict[str, Any] = torch.load(self._path, map_location=self._setting.device, weights_only=True)
        if state["of"] != self._identity():
            raise ConfigError(
                f"checkpoint {self._path}",
                expected=f"one of this training: {self._identity()}",
                got=str(state["of"]),
                action="choose another folder, or remove the checkpoint",
            )
        self._network.load_state_dict(state["network"])
        self._averaged = state["averaged"]
        self._optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]
        self._tell(f"going on at step {self.step} of {self._setting.steps}")

    def _identity(self) -> str:
        return f"{type(self._recipe).__name__}, {self._setting}, seed {self._seed}"

    def _batches(self) -> Iterable[tuple[Tensor, Tensor]]:
        """Return the batches of the steps that are left, in their order whoever draws them."""
        steps = range(self.step, self._setting.steps)
        drawn = _Drawn(self._recipe, self._seed, self._setting.batch)
        loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(
            drawn, batch_size=None, sampler=steps, num_workers=self._setting.workers
        )
        return loader

    def _one(self, x: Tensor, truth: Tensor) -> None:
        """Do one step."""
        x, truth = x.to(self._setting.device), truth.to(self._setting.device)
        x = x.contiguous(memory_format=_FORMATS[x.ndim])
        for group in self._optimiser.param_groups:
            group["lr"] = self._setting.rate * schedule(self.step / self._setting.steps)
        with torch.autocast(self._setting.device, torch.bfloat16, enabled=self._setting.precision == "bf16"):
            correction = self._network(x)
        loss = self._recipe.loss(x[:, : truth.shape[1]] + correction.float(), truth, x)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._network.parameters(), _CLIP)
        self._optimiser.step()
        self.step += 1
        self._average()
        self._loss = _number(loss, self.step)

    @torch.no_grad()
    def _average(self) -> None:
        """Bring the average nearer to the weights; fast in the beginning."""
        keep = min(self._setting.average, self.step / (self.step + 10))
        for name, value in self._network.state_dict().items():
            self._averaged[name].lerp_(value, 1 - keep)

    def _progress(self) -> str:
        left = self.seconds / max(self.step, 1) * (self._setting.steps - self.step)
        return f"step {self.step}/{self._setting.steps}, loss {self._loss:.4f}, {left / 60:.1f} min left"


def schedule(done: float) -> float:
    """Return the learning rate as a part of the largest: a short rise, then half a cosine. arXiv 1608.03983."""
    if done < _WARM_UP:
        return max(done / _WARM_UP, _LEAST_RATE)
    half = 0.5 * (1 + math.cos(math.pi * (done - _WARM_UP) / (1 - _WARM_UP)))
    return _LEAST_RATE + (1 - _LEAST_RATE) * half


def _number(loss: Tensor, step: int) -> float:
    value = float(loss.detach())
    if not math.isfinite(value):
        raise ReconError(f"training, step {step}", expected="a finite loss", got=str(value), action="lower the rate")
    return value
