"""Which protocol a scan gets, from its own header, and why. A protocol asked for by name is never replaced."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from acquisition.errors import ConfigError
from acquisition.scan import Encoding, Scan
from integration.doors.request import AUTO
from integration.protocol import SHIPPED, Library, Match, Protocol
from recon.mri.pattern import MAX_ACCELERATION
from recon.mri.space import multiband


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What the router thought of one protocol."""

    protocol: Protocol
    """The protocol."""
    reasons: tuple[str, ...]
    """Criteria that hold, in words."""
    objections: tuple[str, ...]
    """Criteria that do not."""
    weight: int = 0
    """How much the criteria say: the scanner's own name for the scan more than its sequence, that more than sizes."""
    shipped: bool = True
    """False for a site's own protocol, which goes first among equals."""

    @property
    def fits(self) -> bool:
        """Whether every criterion holds."""
        return not self.objections


def explain(library: Library, scan: Scan) -> list[Candidate]:
    """Return all protocols for the scan's modality, the best first: fitting, then by the weight of the criteria."""
    found = [_judge(protocol, scan, library) for protocol in library if protocol.modality == scan.modality]
    return sorted(found, key=lambda c: (not c.fits, -c.weight, c.shipped, c.protocol.name))


def choose(library: Library, scan: Scan, name: str = AUTO) -> Protocol:
    """Return the protocol `name`, or for ``auto`` the one whose criteria fit most closely.

    Raises
    ------
    UnknownProtocolError
        No protocol has this name.
    ConfigError
        It is for another modality; for ``auto``: none fits, or two fit equally well.
    """
    if name != AUTO:
        protocol = library[name]
        if protocol.modality != scan.modality:
            raise ConfigError(f"protocol {name}", expected=f"a scan of modality {protocol.modality}", got=scan.modality)
        return protocol
    fitting = [c for c in explain(library, scan) if c.fits]
    if not fitting:
        raise ConfigError(
            f"scan {scan.uid}: protocol {AUTO}",
            expected="a scan that a protocol is made for",
            got=_described(scan),
            action="name a protocol; `isocenter protocols explain RAW` says what each one asks for",
        )
    if len(fitting) > 1 and (fitting[0].weight, fitting[0].shipped) == (fitting[1].weight, fitting[1].shipped):
        raise ConfigError(
            f"scan {scan.uid}: protocol {AUTO}",
            expected="one protocol that fits best",
            got=f"{fitting[0].protocol.name} and {fitting[1].protocol.name}, equally well",
            action="name one, or make the criteria of one narrower",
        )
    return fitting[0].protocol


def _judge(protocol: Protocol, scan: Scan, library: Library) -> Candidate:
    match = protocol.match
    asked = [row for row in _CRITERIA if getattr(match, row[0]) != Match.model_fields[row[0]].default]
    verdicts = [
        (criterion(match, scan), f"{given} {_value(match, given)}: {says(scan)}") for given, criterion, says in asked
    ]
    return Candidate(
        protocol=protocol,
        reasons=(f"modality {scan.modality}", *(text for holds, text in verdicts if holds)),
        objections=tuple(text for holds, text in verdicts if not holds),
        weight=sum(_WEIGHTS.get(given, 1) for given, _, _ in asked),
        shipped=library.paths[protocol.name].parent == SHIPPED,
    )


def _value(match: Match, name: str) -> str:
    value = getattr(match, name)
    return "/".join(value) if isinstance(value, tuple) else str(value)


def _encoding(scan: Scan) -> Encoding | None:
    return scan.mr.encodings[0] if scan.mr is not None and scan.mr.encodings else None


def _trajectory(scan: Scan) -> str:
    encoding = _encoding(scan)
    if scan.ct is not None:
        return scan.ct.mode
    return encoding.trajectory if encoding is not None else ""


def _detector(scan: Scan) -> str:
    return scan.ct.detector if scan.ct is not None else ""


def _dimensions(scan: Scan) -> int:
    encoding = _encoding(scan)
    return 3 if encoding is not None and encoding.matrix[0] > 1 else 2


def _count(scan: Scan, counter: str) -> int:
    encoding = _encoding(scan)
    return encoding.limit(counter).maximum + 1 if encoding is not None else 1


def _sequence(scan: Scan) -> str:
    return (scan.mr.sequence_type if scan.mr is not None else None) or ""


def _acceleration(scan: Scan) -> str:
    encoding = _encoding(scan)
    return "{:g} along k2, {:g} along k1".format(*encoding.acceleration) if encoding is not None else "none"


def _weightings(scan: Scan) -> int:
    return len(set(scan.mr.diffusion_b_s_per_mm2)) if scan.mr is not None else 0


def _beyond_grappa(scan: Scan) -> bool:
    encoding = _encoding(scan)
    if encoding is None:
        return False
    along_k2, along_k1 = encoding.acceleration
    return along_k2 > 1 or along_k1 > MAX_ACCELERATION or along_k1 != round(along_k1)


def _lattice(scan: Scan) -> bool:
    encoding = _encoding(scan)
    along = (1.0, 1.0) if encoding is None else encoding.acceleration
    return along[0] > 1 and all(a == round(a) and a <= MAX_ACCELERATION for a in along)


def _found(pattern: str, text: str | None) -> bool:
    return re.search(pattern, text or "", re.IGNORECASE) is not None


_CRITERIA: tuple[tuple[str, Callable[[Match, Scan], bool], Callable[[Scan], str]], ...] = (
    ("trajectory", lambda m, s: _trajectory(s) in m.trajectory, _trajectory),
    ("dimensions", lambda m, s: _dimensions(s) == m.dimensions, lambda s: f"{_dimensions(s)}D"),
    ("name", lambda m, s: _found(m.name, s.protocol_name), lambda s: s.protocol_name or "not given"),
    ("sequence", lambda m, s: _found(m.sequence, _sequence(s)), lambda s: _sequence(s) or "not given"),
    ("body_part", lambda m, s: _found(m.body_part, s.study.body_part), lambda s: s.study.body_part or "not given"),
    ("min_contrasts", lambda m, s: _count(s, "contrast") >= m.min_contrasts, lambda s: f"{_count(s, 'contrast')}"),
    (
        "min_repetitions",
        lambda m, s: _count(s, "repetition") >= m.min_repetitions,
        lambda s: f"{_count(s, 'repetition')}",
    ),
    ("min_weightings", lambda m, s: _weightings(s) >= m.min_weightings, lambda s: f"{_weightings(s)}"),
    ("beyond_grappa", lambda m, s: _beyond_grappa(s), _acceleration),
    ("lattice", lambda m, s: _lattice(s), _acceleration),
    ("multiband", lambda m, s: multiband(s) > 1, lambda s: f"{multiband(s)} slices together"),
    ("detector", lambda m, s: _detector(s) == m.detector, _detector),
    (
        "parameter",
        lambda m, s: s.user_parameters.get(m.parameter, 0) not in (0, 0.0, "", "0"),
        lambda s: "vendor parameters",
    ),
    ("never", lambda m, s: not m.never, lambda s: "only by name"),
)
"""Name of the criterion, whether it holds, and what the scan says."""

_WEIGHTS = {"beyond_grappa": 8, "lattice": 8, "multiband": 8, "name": 4, "parameter": 4, "body_part": 2, "sequence": 2}


def _described(scan: Scan) -> str:
    if scan.pet is not None:
        pet = scan.pet
        return f"{scan.modality}, {pet.n_rings} rings of {pet.n_crystals}, {pet.n_tof} time-of-flight bins"
    return (
        f"{scan.modality}, {_trajectory(scan) or 'no'} trajectory, {_dimensions(scan)}D, "
        f"protocol {scan.protocol_name or 'not named'}, sequence {_sequence(scan) or 'not named'}"
    )
