"""Was the scan measured as the reference protocol says? ``check.protocol``: follow-up compares only like with like.

A reference is a YAML file, written from a good exam by ``isocenter check PATH --make-reference FILE`` and then edited
at will: what is taken out is not compared, a tolerance of its own goes before the usual one::

    name: brain_t1
    modality: MR
    expected: {te_ms: [2.98], tr_ms: 2300.0, flip_deg: 9.0, thickness_mm: 1.0}
    tolerances: {te_ms: 0.1}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from acquisition.errors import ConfigError, one_of
from acquisition.geometry import Grid
from acquisition.items import Image, Item
from acquisition.scan import Scan
from acquisition.verdict import Level, Verdict
from integration.gate import CONVENTIONAL

Fact = float | str | tuple[float, ...]
Facts = dict[str, Fact]


@dataclass(frozen=True, slots=True)
class Rule:
    """How one fact is compared."""

    words: str
    """What it is, for people."""
    unit: str
    """Its unit."""
    how: Literal["absolute", "relative", "angle", "least", "text"]
    """Difference in its unit; as a part of the reference; of directions [degrees]; no less than; word by word."""
    tolerance: float = 0.0
    """What is allowed, in the unit or as a part."""


RULES: dict[str, Rule] = {
    "te_ms": Rule("echo times", "ms", "relative", 0.02),
    "tr_ms": Rule("repetition time", "ms", "relative", 0.02),
    "ti_ms": Rule("inversion time", "ms", "relative", 0.02),
    "flip_deg": Rule("flip angle", "degrees", "absolute", 1.0),
    "field_t": Rule("main field", "T", "absolute", 0.1),
    "b_s_per_mm2": Rule("diffusion weightings", "s/mm2", "relative", 0.05),
    "kvp": Rule("tube voltage", "kV", "absolute", 1.0),
    "kernel": Rule("kernel", "", "text"),
    "ctdi_vol_mgy": Rule("dose index", "mGy", "relative", 0.3),
    "dose_mbq": Rule("injected activity", "MBq", "relative", 0.2),
    "uptake_min": Rule("time from injection to scan", "min", "absolute", 10.0),
    "frame_s": Rule("time of counting", "s", "relative", 0.1),
    "tracer": Rule("tracer", "", "text"),
    "matrix": Rule("matrix", "pixels", "absolute", 0.0),
    "pixel_mm": Rule("pixel size", "mm", "relative", 0.03),
    "thickness_mm": Rule("slice thickness", "mm", "relative", 0.05),
    "distance_mm": Rule("distance of slices", "mm", "relative", 0.05),
    "coverage_mm": Rule("coverage along the slices", "mm", "least", 0.05),
    "normal": Rule("orientation of the slices", "degrees", "angle", 5.0),
    "rows_along": Rule("direction of the rows", "degrees", "angle", 5.0),
}
"""What can be compared, in the order in which it is told."""


class Reference(BaseModel):
    """A reference protocol."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=64)
    """Name of the protocol."""
    modality: Literal["MR", "CT", "PT"]
    """For scans of this modality."""
    expected: dict[str, float | str | tuple[float, ...]] = Field(min_length=1)
    """What is to be found, by the names of `RULES`."""
    tolerances: dict[str, float] = Field(default_factory=dict)
    """What may differ, where the usual tolerance is not meant."""


@dataclass(slots=True)
class Places:
    """Where the conventional slices of one exam lie; of volumes and of single slices alike."""

    grids: list[Grid] = field(default_factory=list)
    """One per slice."""
    kernel: str = ""
    """Kernel of a CT reconstruction, where the images tell it."""

    def add(self, image: Image) -> None:
        """Take an image's slices, once however often they are measured."""
        if image.output == CONVENTIONAL:
            known = {grid.origin_mm for grid in self.grids}
            planes = (image.grid.plane(z) for z in range(image.grid.shape[0]))
            self.grids += [plane for plane in planes if plane.origin_mm not in known]
            self.kernel = self.kernel or image.provenance.notes.get("kernel", "")

    def facts(self) -> Facts:
        """Return what the geometry is, of the slices that are parallel to the first."""
        if not self.grids:
            return {}
        first = self.grids[0]
        alike = [g for g in self.grids if abs(np.dot(g.normal, first.normal)) > 0.999 and g.shape == first.shape]
        along = np.sort([float(np.dot(g.origin_mm, first.normal)) for g in alike])
        steps = np.diff(along)
        facts: Facts = {
            "matrix": (float(first.shape[1]), float(first.shape[2])),
            "pixel_mm": tuple(round(s, 4) for s in first.spacing_mm[1:]),
            "thickness_mm": round(first.thickness_mm, 4),
            "coverage_mm": round(float(np.ptp(along)) + first.thickness_mm, 3),
            "normal": tuple(round(v, 6) for v in first.normal),
            "rows_along": tuple(round(v, 6) for v in first.x_dir),
        }
        facts |= {"distance_mm": round(float(np.median(steps)), 4)} if steps.size else {}
        return facts | ({"kernel": self.kernel} if self.kernel else {})


def facts_of(scan: Scan) -> Facts:
    """Return what a raw scan's header tells."""
    found: dict[str, object] = {}
    if scan.mr is not None:
        mr = scan.mr
        found = {
            "te_ms": tuple(round(1e3 * t, 4) for t in mr.te_s),
            "tr_ms": _one([1e3 * t for t in mr.tr_s]),
            "ti_ms": tuple(round(1e3 * t, 4) for t in mr.ti_s),
            "flip_deg": _one(mr.flip_deg),
            "b_s_per_mm2": tuple(sorted(set(mr.diffusion_b_s_per_mm2))),
            "field_t": scan.equipment.field_strength_t,
        }
    elif scan.ct is not None:
        found = {"kvp": scan.ct.kvp, "ctdi_vol_mgy": scan.ct.ctdi_vol_mgy}
    elif scan.pet is not None and scan.pet.tracer is not None:
        tracer = scan.pet.tracer
        waited = (scan.started - tracer.injected).total_seconds() / 60 if scan.started and tracer.injected else None
        dose = tracer.dose_bq and tracer.dose_bq * 1e-6
        found = {"tracer": tracer.name, "dose_mbq": dose, "uptake_min": waited}
    return known(found)


def known(found: Mapping[str, object]) -> Facts:
    """Return the facts that were told; numbers rounded to what a header can mean."""
    told = {key: value for key, value in found.items() if value not in (None, "", ())}
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in told.items()}  # type: ignore[misc]


def _one(values: object) -> float | None:
    numbers = list(values)  # type: ignore[call-overload]
    return round(float(numbers[0]), 4) if numbers else None


def compare(reference: Reference, facts: Facts) -> Iterator[Verdict]:
    """Yield a FLAG for every fact that is not as the reference says, or one PASS."""
    fine = []
    for key, rule in RULES.items():
        if key not in reference.expected:
            continue
        verdict = _compared(key, rule, reference=reference, got=facts.get(key))
        if verdict is None:
            fine.append(rule.words)
        else:
            yield verdict
    if len(fine) == len(reference.expected):
        yield Verdict(
            check="check.protocol",
            level=Level.PASS,
            advice=f"Measured as the protocol {reference.name} says.",
            evidence=", ".join(fine),
        )


def _compared(key: str, rule: Rule, *, reference: Reference, got: Fact | None) -> Verdict | None:
    want = reference.expected[key]
    limit = reference.tolerances.get(key, rule.tolerance)
    away = None if got is None else _difference(rule, want, got)
    if away is not None and away <= limit + 1e-9:
        return None
    said = "is not told" if got is None else f"is {_shown(got)}"
    parts = rule.how in ("relative", "least")
    return Verdict(
        check=f"protocol.{key}",
        level=Level.FLAG,
        advice=f"Not as protocol {reference.name}: {rule.words} {said}, expected {_shown(want)} {rule.unit}".rstrip()
        + "; compare with earlier exams only with care, or repeat.",
        value=None if away is None or not np.isfinite(away) else 100 * away if parts else away,
        limit=100 * limit if parts else limit,
        unit="%" if parts else rule.unit,
        evidence=f"{key}: {_shown(got) if got is not None else 'nothing'} against {_shown(want)}",
    )


def _difference(rule: Rule, want: Fact, got: Fact) -> float:
    """Return how far `got` is from `want`, infinitely where they cannot be compared."""
    if rule.how == "text":
        return 0.0 if str(want).strip().lower() == str(got).strip().lower() else float("inf")
    try:
        one, other = np.atleast_1d(np.asarray(want, float)), np.atleast_1d(np.asarray(got, float))
    except ValueError:
        return float("inf")
    if one.shape != other.shape:
        return float("inf")
    if rule.how == "angle":
        cosine = abs(float(one @ other)) / max(float(np.linalg.norm(one) * np.linalg.norm(other)), 1e-12)
        return float(np.rad2deg(np.arccos(min(cosine, 1.0))))
    away = one - other if rule.how == "least" else np.abs(one - other)
    scale = np.ones_like(one) if rule.how == "absolute" else np.maximum(np.abs(one), 1e-12)
    return float((away / scale).max())


def _shown(fact: Fact) -> str:
    if isinstance(fact, str):
        return fact
    return " x ".join(f"{v:.4g}" for v in fact) if isinstance(fact, tuple | list) else f"{fact:.5g}"


def read_reference(path: Path) -> Reference:
    """Read a reference protocol.

    Raises
    ------
    ConfigError
        It cannot be read, or it says something unknown; the message says where.
    """
    where = f"reference {path}"
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        reference = Reference.model_validate(document)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(where, expected="a YAML file", got=" ".join(str(error).split())) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "document"
        raise ConfigError(f"{where}: {place}", expected=first["msg"], got=repr(first["input"])[:120]) from error
    for key in (*reference.expected, *reference.tolerances):
        if key not in RULES:
            raise ConfigError(f"{where}: {key}", expected=one_of(key, RULES), got=repr(key))
    return reference


def written_reference(path: Path, *, name: str, modality: str, facts: Facts) -> None:
    """Write a reference from the facts of a good exam.

    Raises
    ------
    ConfigError
        Nothing is known of the exam.
    """
    if not facts:
        raise ConfigError(f"reference {path}", expected="an exam whose header says how it was measured", got="no facts")
    expected = {key: list(facts[key]) if isinstance(facts[key], tuple) else facts[key] for key in RULES if key in facts}  # type: ignore[arg-type]
    document = {"name": name, "modality": modality, "expected": expected}
    remarks = "".join(
        f"#   {key}: {rule.words} [{rule.unit or 'text'}]\n" for key, rule in RULES.items() if key in facts
    )
    text = yaml.safe_dump(document, sort_keys=False, default_flow_style=None, allow_unicode=True)
    path.write_text(
        f"# Take out what need not agree; add `tolerances: {{te_ms: 0.1}}` where more may differ.\n{remarks}{text}"
    )


@dataclass(kw_only=True)
class CheckProtocol:
    """Compare the scan's header and the place of its slices with a reference protocol. Images pass as they come."""

    reference: str
    """YAML file of the reference protocol."""

    def open(self, scan: Scan) -> None:
        """Read the reference.

        Raises
        ------
        ConfigError
            It cannot be read, or is for another modality.
        """
        self._reference = read_reference(Path(self.reference).expanduser())
        require_modality(self._reference, scan.modality)
        self._facts, self._places = facts_of(scan), Places()

    def feed(self, item: Item) -> Iterator[Item]:
        """Remember where slices lie; everything passes."""
        if isinstance(item, Image):
            self._places.add(item)
        yield item

    def close(self) -> Iterator[Item]:
        """Say what differs."""
        yield from compare(self._reference, self._facts | self._places.facts())


def require_modality(reference: Reference, modality: str) -> None:
    """Make sure that a reference is for scans of `modality`.

    Raises
    ------
    ConfigError
        It is not.
    """
    if reference.modality != modality:
        raise ConfigError(f"reference {reference.name}", expected=f"one for {modality}", got=reference.modality)
