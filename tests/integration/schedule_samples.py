"""What the tests of the scheduling share: a network that is slow, dies or fails as it is told, and its worker."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

from acquisition.errors import ReconError
from acquisition.items import Enhancement, Image, Item
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from integration import steps
from integration.schedule import worker

STEP = "model.test"
PLACE = "tests.integration.schedule_samples:Network"
NETWORK = Enhancement(card="test", version="1", sha256="0", strength=1.0, engine="none")


@dataclass(kw_only=True)
class Network:
    """Doubles each conventional image."""

    seconds: float = 0.0
    """Time it takes [s]."""
    die: str = ""
    """A file: it dies when it can append to it a byte and there were fewer than `deaths`."""
    deaths: int = 1
    """How often it dies."""
    fail: bool = False
    """Whether it fails in a way that is foreseen."""
    log: str = ""
    """A file in which it notes which scan it worked for."""

    def open(self, scan: Scan) -> None:
        self._uid, self._n = scan.uid, 0

    def feed(self, item: Item) -> Iterator[Item]:
        yield item
        if not isinstance(item, Image) or item.output != "conventional":
            return
        time.sleep(self.seconds)
        if self.log:
            with Path(self.log).open("a") as file:
                file.write(f"{self._uid}\n")
        if self.fail:
            raise ReconError("network", got="planted")
        if self.die:
            with Path(self.die).open("ab") as file:
                file.write(b".")
            if Path(self.die).stat().st_size <= self.deaths:
                os._exit(3)
        self._n += 1
        provenance = replace(item.provenance, network=NETWORK)
        yield replace(item, data=2 * item.data, output="enhanced", provenance=provenance)

    def close(self) -> Iterator[Item]:
        yield Verdict(check="model.test", level=Level.PASS, advice=f"{self._n} images.", value=float(self._n))


def main(connection: Connection, environment: Mapping[str, str]) -> None:
    """A worker that knows the network of the tests."""
    steps.STEPS[STEP] = PLACE
    worker.main(connection, environment)
