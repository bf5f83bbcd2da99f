"""Full-dose contrast predicted from a low dose: ``model.lowdose``. Research; no protocol chooses it by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import center_of_mass, label

from acquisition.errors import ConfigError
from acquisition.geometry import Grid
from acquisition.items import Image, Item, Kind, Position
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from models import refuse, report
from models.align import Fit, Limits, calm, paired, refused
from models.apply import CONVENTIONAL, Enhance, record
from models.engine import first_able
from models.estimate import Estimate, Estimator
from models.load import Loaded
from models.noise import level
from models.pair import Pair, tissue
from models.predict import Predictor
from models.problem import estimator_of
from models.refuse import Refusal
from models.uncertainty import half_width
from recon.series import frame_of, stacked

Floats = NDArray[np.float32]
_VISIBLE = 2.0  # standard deviations of the noise, of enhancement that nothing supports
_BALL_MM = 3.0
_NAMED = 3  # places


@dataclass(kw_only=True)
class LowDose(Enhance):
    """Give, when the scan of a low dose ends, what the full dose would have shown (output ``synthetic_full_dose``).

    The low-dose images go on first and as they came. The image before the agent, of the same exam, is registered to
    them and brought to their gain; a pair that does not fit is refused. The network's enhancement is added to the
    low-dose image: it is never below 0, and never more than the full dose could give for what was measured. Output
    ``lowdose_support`` shows how many standard deviations of its noise the measured difference lies above 0; filled-in
    enhancement that this does not support is a FLAG which says where. ``synthetic_full_dose_uncertainty`` is the
    half-width of an interval around each pixel.
    """

    strength: float = 1.0
    """0: the low-dose image; 1: full dose as the network sees it; between: less enhancement is added."""
    dose: float = 0.1
    """What was given, as a part of the full dose (0.1 mmol/kg)."""
    rest_mm: float = 0.6
    """Motion left after registration above which the pair is refused [mm]."""
    travel_mm: float = 20.0
    """Motion between both images above which the pair is refused [mm]."""
    longest_s: float = 300.0
    """Once the network took longer than this for one volume [s], the scan's further volumes stay as they are."""

    check = "model.lowdose"
    output = "synthetic_full_dose"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.05 <= self.dose <= 0.5 or min(self.rest_mm, self.travel_mm) <= 0:
            got = f"dose {self.dose:g}, rest_mm {self.rest_mm:g}, travel_mm {self.travel_mm:g}"
            raise ConfigError(self.check, expected="dose 0.05 to 0.5, lengths above 0", got=got)
        self._limits = Limits(rest_mm=self.rest_mm, travel_mm=self.travel_mm)

    def before(self, scan: Scan) -> Image | Refusal:
        """Return the image before the agent, or why there is none; a Step that knows where it lies says so."""
        return Refusal("before", "nothing says where the image before the agent lies")

    def open(self, scan: Scan) -> None:
        """Hold the scan against the card, make the network ready, get the image before the agent."""
        super().open(scan)
        self._slices: dict[Position, list[Image]] = {}
        self._field_t = scan.equipment.field_strength_t or 0.0
        found = self.before(scan) if self._never is None else None
        if isinstance(found, Refusal):
            self._never = found
        self._pre = found

    def feed(self, item: Item) -> Iterator[Item]:
        """Pass everything on; keep the conventional magnitudes."""
        yield item
        if isinstance(item, Image) and item.output == CONVENTIONAL and item.kind is Kind.MAGNITUDE:
            self._slices.setdefault(frame_of(item.position), []).append(item)

    def close(self) -> Iterator[Item]:
        """Give the prediction for each volume, then how often and why there was none."""
        for images in self._slices.values():
            yield from self._volume(images)
        self._slices = {}
        yield from super().close()

    def _estimator(self, loaded: Loaded, matrix: tuple[int, ...]) -> Estimator:
        def ready(name: str) -> Estimator:
            made = estimator_of(loaded, name)
            if self.strength > 0:
                made.prepare(matrix)
            return made

        return first_able(self.engine, ready)

    def _volume(self, images: list[Image]) -> Iterator[Image]:
        if self._never is not None:
            self._refuse(self._never)
            return
        yield from self._attempted(lambda: self._predicted(stacked(images)))

    def _predicted(self, low: Image) -> tuple[Image, ...] | Refusal:
        """Return full dose, its uncertainty and the support of a volume, or why there are none."""
        ready = self._ready
        assert isinstance(ready, Predictor)
        assert isinstance(self._pre, Image)
        if not np.isfinite(low.data).all() or not low.data.any():
            return Refusal("nan", "it has pixels that are no numbers, or shows nothing")
        pair, fit = paired(low, self._pre, dose=self.dose, field_t=self._field_t, where=self.check)
        refusal = refused(fit, self._limits)
        refusal = refusal or refuse.by_image(ready.card, low, level(pair.noise), ready.statistics)
        if refusal is not None:
            return refusal
        found = ready.missing(pair)
        misfit = pair.residual(found.data)
        refusal = report.too_much(misfit, ready.card.consistency)
        if refusal is not None:
            return refusal
        verdicts = (
            report.changed(self.check, misfit, ready.card.consistency, fit.told),
            supported(pair, found.data, low.grid, check=self.check),
        )
        return self._outputs(low, pair, found, verdicts)

    def _outputs(self, low: Image, pair: Pair, found: Estimate, verdicts: tuple[Verdict, ...]) -> tuple[Image, ...]:
        assert self._ready is not None
        network, told = record(self._ready, self.strength)
        network = replace(network, synthetic=True)
        full = replace(
            low,
            data=(pair.low + np.float32(self.strength) * found.data).astype(np.float32).reshape(low.data.shape),
            output=self.output,
            provenance=replace(low.provenance, network=network),
            verdicts=(*low.verdicts, *verdicts),
            attributes={**low.attributes, **told},
        )
        width = half_width(found.spread, pair.noise, card=self._ready.card.uncertainty, strength=self.strength)
        support = np.clip(pair.support(), 0, None).astype(np.float32)
        return (
            full,
            replace(full, data=width.reshape(low.data.shape), output=f"{self.output}_uncertainty"),
            replace(low, data=support.reshape(low.data.shape), output="lowdose_support", unit="1"),
        )


def supported(pair: Pair, missing: Floats, grid: Grid, *, check: str) -> Verdict:
    """Return whether the measured difference supports all that was filled in (z, y, x), and where it does not."""
    pieces = unsupported_pieces(pair, missing, grid.spacing_mm)
    if not pieces:
        return Verdict(
            check=f"{check}.support",
            level=Level.PASS,
            advice="All enhancement that was filled in is supported by the low-dose difference.",
            value=0.0,
            unit="places",
        )
    named = "; ".join("({:.0f}, {:.0f}, {:.0f})".format(*grid.world(at)) for at, _ in pieces[:_NAMED])
    return Verdict(
        check=f"{check}.support",
        level=Level.FLAG,
        advice="The synthetic image shows enhancement that the low-dose images do not support: do not rely on it.",
        value=float(len(pieces)),
        limit=0.0,
        unit="places",
        evidence=f"largest at LPS {named} mm, {pieces[0][1]:.0f} mm3",
    )


def unsupported_pieces(
    pair: Pair, missing: Floats, voxel_mm: tuple[float, ...]
) -> list[tuple[tuple[float, ...], float]]:
    """Return the middle (z, y, x) [voxels] and volume [mm3] of each piece of unsupported enhancement as large as a
    ball of 3 mm, the largest first; edges, where the least motion hides support, do not count."""
    found = pair.unsupported(missing) > _VISIBLE * pair.noise
    inside = tissue(pair.low)
    if inside.any():
        found &= calm(pair.pre, inside)
    pieces, n = label(found)
    voxel = float(np.prod(voxel_mm))
    least = np.pi / 6 * _BALL_MM**3
    sizes = np.bincount(pieces.ravel(), minlength=n + 1)[1:] * voxel
    large = [int(k) + 1 for k in np.argsort(-sizes) if sizes[k] >= least]
    return [(center_of_mass(found, pieces, k), float(sizes[k - 1])) for k in large]


__all__ = ["Fit", "LowDose", "supported", "unsupported_pieces"]
