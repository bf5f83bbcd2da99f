"""Diffusion: the trace image of each weighting, and the apparent diffusion coefficient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from acquisition.errors import ConfigError, HeaderError
from acquisition.items import Image, Item, Kind, Position
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict


@dataclass(kw_only=True)
class DiffusionMap:
    """Gather the weightings of each slice by the counter `counter`; give the trace and ADC when all are there.

    b values come from the header, one for each count. Directions of one b value are averaged geometrically (the
    trace); ``ln S = ln S0 - b ADC`` is fitted with weights S^2. Outputs ``trace_b1000`` and ``adc`` [1e-6 mm2/s].

    References
    ----------
    Le Bihan et al., Radiology 1986;161:401, DOI 10.1148/radiology.161.2.3763909.
    """

    counter: str = "set"
    """Counter of the weightings: set, repetition, contrast or phase."""
    threshold: float = 0.05
    """Part of the 99th percentile at the lowest b below which a voxel is background."""

    def __post_init__(self) -> None:
        if self.counter not in ("set", "repetition", "contrast", "phase") or not 0 <= self.threshold < 1:
            raise ConfigError(
                "map.diffusion",
                expected="counter set, repetition, contrast or phase, threshold 0 to 1",
                got=f"{self.counter}, {self.threshold}",
            )

    def open(self, scan: Scan) -> None:
        """Read the b values.

        Raises
        ------
        HeaderError
            There are fewer than two different ones.
        """
        self._b = np.asarray(scan.require_mr().diffusion_b_s_per_mm2, float)
        if len(set(self._b.tolist())) < 2:
            raise HeaderError(
                "header diffusion b values",
                expected="two or more different ones, one for each weighting",
                got=", ".join(f"{b:g}" for b in self._b) or "none",
                action="choose a protocol without map.diffusion",
            )
        self._images: dict[Position, dict[int, Image]] = {}

    def feed(self, item: Item) -> Iterator[Item]:
        """Pass everything on; give trace and ADC of a slice behind its last weighting."""
        yield item
        if not isinstance(item, Image) or item.output != "conventional":
            return
        index = int(getattr(item.position, self.counter))
        key = replace(item.position, **{self.counter: 0})
        images = self._images.setdefault(key, {})
        if index < len(self._b):
            images[index] = item
        if len(images) == len(self._b):
            yield from self._maps(self._images.pop(key))

    def close(self) -> Iterator[Item]:
        """Say which slices lack weightings."""
        if self._images:
            yield Verdict(
                check="map.diffusion",
                level=Level.FLAG,
                advice=f"{len(self._images)} slices lack weightings: no ADC of them was made.",
                value=float(len(self._images)),
                unit="slices",
            )

    def _maps(self, images: dict[int, Image]) -> Iterator[Image]:
        values = np.unique(self._b)
        traces = []
        for b in values:
            same = [np.abs(images[i].data).astype(np.float64) for i in np.flatnonzero(self._b == b).tolist()]
            floor = 1e-6 * max(float(s.max(initial=0)) for s in same) + 1e-30
            traces.append(np.exp(np.mean([np.log(np.maximum(s, floor)) for s in same], axis=0)))
        first = images[0]
        for b, trace in zip(values, traces, strict=True):
            if b > 0:
                yield replace(first, data=trace.astype(np.float32), output=f"trace_b{b:g}", kind=Kind.MAGNITUDE)
        series = np.stack(traces)
        inside = series[0] > self.threshold * np.percentile(series[0], 99)
        weight, logs, b = series**2, np.log(np.maximum(series, 1e-30)), values.reshape(-1, *[1] * (series.ndim - 1))
        total = np.maximum(weight.sum(0), 1e-30)
        mean_b, mean_log = (weight * b).sum(0) / total, (weight * logs).sum(0) / total
        spread = np.maximum((weight * (b - mean_b) ** 2).sum(0), 1e-30)
        adc = -(weight * (b - mean_b) * (logs - mean_log)).sum(0) / spread
        adc = np.where(inside, np.clip(adc, 0, 1e-2), 0) * 1e6
        yield replace(first, data=adc.astype(np.float32), output="adc", unit="1e-6 mm2/s", kind=Kind.MAGNITUDE)
