"""Diffusion: the trace image of each weighting, and the apparent diffusion coefficient."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from acquisition.errors import HeaderError
from acquisition.items import Image
from acquisition.scan import Scan
from recon.mri.gathered import Gathered, foreground, mapped


@dataclass(kw_only=True)
class DiffusionMap(Gathered):
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

    _name = "map.diffusion"

    def _rules(self) -> Sequence[tuple[str, bool, str]]:
        return (*super()._rules(), ("threshold", 0 <= self.threshold < 1, "0 to below 1"))

    def _expected(self, scan: Scan) -> int:
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
        return len(self._b)

    def _made(self, images: list[Image]) -> Iterable[Image]:
        values = np.unique(self._b)
        traces = []
        for b in values:
            same = [np.abs(images[i].data).astype(np.float64) for i in np.flatnonzero(self._b == b).tolist()]
            floor = 1e-6 * max(float(s.max(initial=0)) for s in same) + 1e-30
            traces.append(np.exp(np.mean([np.log(np.maximum(s, floor)) for s in same], axis=0)))
        for b, trace in zip(values, traces, strict=True):
            if b > 0:
                yield mapped(images, trace, output=f"trace_b{b:g}", unit=images[0].unit)
        series = np.stack(traces)
        inside = foreground(series[0], self.threshold)
        weight, logs, b = series**2, np.log(np.maximum(series, 1e-30)), values.reshape(-1, *[1] * (series.ndim - 1))
        total = np.maximum(weight.sum(0), 1e-30)
        mean_b, mean_log = (weight * b).sum(0) / total, (weight * logs).sum(0) / total
        spread = np.maximum((weight * (b - mean_b) ** 2).sum(0), 1e-30)
        adc = -(weight * (b - mean_b) * (logs - mean_log)).sum(0) / spread
        adc = np.where(inside, np.clip(adc, 0, 1e-2), 0) * 1e6
        yield mapped(images, adc, output="adc", unit="1e-6 mm2/s")
