"""A network as a Step: the conventional image goes on first and untouched, then what the network makes of it.

Whatever speaks against the network (its card, the image, the engine, the check of what it changed) costs the second
image, never the first; a verdict of the scan says why.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from acquisition.errors import ConfigError, IsocenterError
from acquisition.items import Enhancement, Image, Item, Kind, Position
from acquisition.scan import Scan
from acquisition.verdict import Verdict
from models import refuse, report
from models.card import Card, read_card
from models.consistency import Residual, residual
from models.engine import Floats, candidates, engine, first_able
from models.estimate import Estimator
from models.load import Loaded, find, load
from models.noise import level, noise_maps, noise_of
from models.refuse import Refusal
from models.uncertainty import half_width

LOG = logging.getLogger(__name__)
CONVENTIONAL = "conventional"
_MISSING = {
    "gfactor": "no map of the g-factor came: set gfactor: true of mri.combine",
    "noise": "no map of the noise came: put image.noise before, or set noise_map: true of pet.osem",
}
"""Series that a card may want beside the image -> what is said where it does not come."""


@dataclass(kw_only=True)
class Enhance:
    """What all Steps with a network share. A Step of its own names `check` and `output`; see ``model.denoise``."""

    card: str
    """Name of the network's card (``isocenter models list``), or the path of a card."""
    strength: float = 0.75
    """0: the conventional image, bit for bit; 1: the network's; between: the mean of both, so weighted."""
    body_part: str = ""
    """DICOM body part that is taken where the scan names none; empty: a card for certain parts then refuses."""
    matrix: tuple[int, ...] = ()
    """Matrix (y, x) or (z, y, x) to make ready for, where Steps before change it; empty: the header's."""
    engine: str = "auto"
    """What it runs on: auto, cuda, openvino or torch."""
    longest_s: float = 20.0
    """Once the network took longer than this for one image [s], the scan's further images stay conventional."""

    check = "model.enhance"
    output = "enhanced"

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise ConfigError(f"{self.check} strength", expected="0 to 1", got=str(self.strength))
        if not self.longest_s > 0:
            raise ConfigError(f"{self.check} longest_s", expected="above 0 s", got=str(self.longest_s))
        candidates(self.engine)
        self._path = find(self.card, where=self.check)
        dimensions = read_card(self._path).input.dimensions
        if self.matrix and (len(self.matrix) != dimensions or min(self.matrix) < 1):
            raise ConfigError(f"{self.check} matrix", expected=f"{dimensions} numbers from 1", got=str(self.matrix))

    def open(self, scan: Scan) -> None:
        """Hold the scan against the card; load, compile and warm up for the matrix in its header."""
        self._uid = scan.uid
        self._refused: dict[str, tuple[Refusal, int]] = {}
        self._waiting: list[Image] = []
        self._maps: dict[Position, Floats] = {}
        self._done = 0
        self._never, self._ready = self._opened(scan)
        if self._never is not None:
            LOG.info("scan %s: %s not used: %s", scan.uid, self.card, self._never.told)

    def feed(self, item: Item) -> Iterator[Item]:
        """Pass everything on; behind each conventional image the enhanced one and its uncertainty."""
        yield item
        if not isinstance(item, Image):
            return
        if item.output in _MISSING and item.output == self._wanted:
            self._maps[self._place(item)] = np.asarray(item.data, np.float32).reshape(item.grid.shape)
            due = [i for i in self._waiting if self._map_of(i) is not None]
            self._waiting = [i for i in self._waiting if self._map_of(i) is None]
            for image in due:
                yield from self._enhanced(image)
        elif item.output == CONVENTIONAL:
            yield from self._conventional(item)

    def close(self) -> Iterator[Item]:
        """Give what waited in vain as a finding, and say how often and why the network was not used."""
        for _ in self._waiting:
            self._refuse(Refusal(self._wanted, _MISSING[self._wanted]))
        self._waiting = []
        for refusal, n in self._refused.values():
            yield report.refused(self.check, refusal, n, n + self._done)

    def _opened(self, scan: Scan) -> tuple[Refusal | None, Estimator | None]:
        try:
            loaded = load(self._path)
            refusal = refuse.by_header(loaded.card, scan, body_part=self.body_part)
            if refusal is not None:
                return refusal, None
            return None, self._estimator(loaded, self.matrix or _matrix(scan, loaded.card))
        except IsocenterError as error:
            return Refusal("setup", f"the network could not be made ready: {error}"), None

    def _estimator(self, loaded: Loaded, matrix: tuple[int, ...]) -> Estimator:
        """Return the network on the first engine that takes it; the image's provenance names the engine."""

        def ready(name: str) -> Estimator:
            made = Estimator(loaded, engine(name, loaded.network, precision=loaded.card.network.precision))
            if self.strength > 0:
                made.prepare(matrix)
            return made

        return first_able(self.engine, ready)

    def _conventional(self, image: Image) -> Iterator[Item]:
        if self._never is not None:
            self._refuse(self._never)
        elif self._wanted in _MISSING and self._map_of(image) is None:
            self._waiting.append(image)
        else:
            yield from self._enhanced(image)

    def _enhanced(self, image: Image) -> Iterator[Item]:
        ready = self._ready
        assert ready is not None
        yield from self._attempted(lambda: self._made(image, ready))

    def _attempted(self, make: Callable[[], tuple[Image, ...] | Refusal]) -> Iterator[Image]:
        """Yield what a network makes, or refuse: what fails costs the second image only."""
        start = time.monotonic()
        try:
            made = make()
        except IsocenterError as error:
            made = Refusal("engine", f"the network failed: {error}")
        self._watch(time.monotonic() - start)
        if isinstance(made, Refusal):
            self._refuse(made)
            return
        self._done += 1
        yield from made

    def _watch(self, took: float) -> None:
        """Give the network up for the rest of the scan where it took too long [s]."""
        if took > self.longest_s:
            self._never = Refusal("late", f"the network took {took:.1f} s", took, self.longest_s, "s")

    def _made(self, image: Image, ready: Estimator) -> tuple[Image, ...] | Refusal:
        """Return the enhanced image and its uncertainty, or why there are none."""
        card, prepared = ready.card, ready.engine.preparations
        (noise, source), map_ = noise_of(image), self._map_of(image)
        if map_ is not None and self._wanted == "noise":
            noise, source = level(map_), "its map"
            map_ = map_ / np.float32(noise or 1.0)
        maps = noise_maps(image, noise, map_)
        refusal = refuse.by_image(card, image, level(maps), ready.statistics)
        if refusal is not None:
            return refusal
        if self.strength == 0:
            width = half_width(maps * 0, maps, card=card.uncertainty, strength=0.0)
            return self._images(image, image.data.copy(), width, report.unchanged(self.check))
        conventional = image.data.reshape(image.grid.shape)
        made = ready.image(conventional, maps)
        found = self._residual(conventional, made.data, maps)
        refusal = report.too_much(found, card.consistency)
        if refusal is not None:
            return refusal
        width = half_width(made.spread, maps, card=card.uncertainty, strength=self.strength)
        told = [report.changed(self.check, found, card.consistency, source)]
        if ready.engine.preparations > prepared:
            told.append(report.late(self.check, ready.engine.prepare_s))
        return self._images(image, blended(conventional, made.data, self.strength), width, *told)

    def _residual(self, conventional: NDArray, network: NDArray, noise: Floats) -> Residual:
        """Return how far the network's image (z, y, x) is from what was measured; a network that works on raw data
        holds it against those."""
        return residual(conventional, network, noise)

    def _images(self, image: Image, data: NDArray, width: Floats, *verdicts: Verdict) -> tuple[Image, ...]:
        assert self._ready is not None
        network, told = record(self._ready, self.strength)
        enhanced = replace(
            image,
            data=data.reshape(image.data.shape),
            output=self.output,
            provenance=replace(image.provenance, network=network),
            verdicts=(*image.verdicts, *verdicts),
            attributes={**image.attributes, **told},
        )
        shown = width.reshape(image.data.shape)
        return enhanced, replace(enhanced, data=shown, kind=Kind.MAGNITUDE, output=f"{self.output}_uncertainty")

    @property
    def _wanted(self) -> str:
        return "image" if self._ready is None else self._ready.card.input.noise

    def _place(self, image: Image) -> Position:
        """Return which images share a map: all of a slice share the g-factor, noise is that of one image."""
        return image.position if self._wanted == "noise" else Position(slice=image.position.slice)

    def _map_of(self, image: Image) -> Floats | None:
        map_ = self._maps.get(self._place(image))
        return map_ if map_ is not None and map_.shape == image.grid.shape else None

    def _refuse(self, refusal: Refusal) -> None:
        first, n = self._refused.get(refusal.cause, (refusal, 0))
        self._refused[refusal.cause] = (first, n + 1)


def record(ready: Estimator, strength: float) -> tuple[Enhancement, dict[str, str]]:
    """Return what is told of a network that changed an image: for its provenance, and as MRD attributes."""
    card = ready.card
    network = Enhancement(
        card=card.name,
        version=card.version,
        sha256=card.weights.sha256,
        strength=strength,
        engine=ready.engine.name,
    )
    details = f"{card.name} {card.version}, strength {strength:g}"
    return network, {"DeepLearning": "true", "DeepLearningDetails": details}


def blended(conventional: NDArray, network: NDArray, strength: float) -> NDArray:
    """Return the image between the two: 0 the conventional one, 1 the network's."""
    result: NDArray = (conventional + np.float32(strength) * (network - conventional)).astype(conventional.dtype)
    return result


def _matrix(scan: Scan, card: Card) -> tuple[int, ...]:
    """Return the matrix that the images will have; what the card says where the header does not."""
    if scan.mr is None or not scan.mr.encodings:
        return card.input.matrix
    return scan.mr.encodings[0].recon_matrix[-card.input.dimensions :]
