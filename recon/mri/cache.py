"""Tensors that can be made again, kept while there is room."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(slots=True)
class TensorCache:
    """Least recently used goes first once `limit_bytes` are passed; the newest always stays."""

    limit_bytes: int
    """How much is kept [byte]."""
    _kept: OrderedDict[Hashable, Tensor] = field(default_factory=OrderedDict)

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """Return what is kept under `key`; make and keep it where there is none."""
        tensor = self._kept.pop(key, None)
        if tensor is None:
            tensor = make()
        self._kept[key] = tensor
        while len(self._kept) > 1 and self.n_bytes > self.limit_bytes:
            self._kept.popitem(last=False)
        return tensor

    def drop(self, key: Hashable) -> None:
        """Forget `key`: what it was made of has changed."""
        self._kept.pop(key, None)

    @property
    def n_bytes(self) -> int:
        """Bytes kept."""
        return sum(t.numel() * t.element_size() for t in self._kept.values())
