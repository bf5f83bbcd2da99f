"""What a client asks for: the name of a protocol and changes to it, in the forms that clients send it.

::

    mri_cartesian                                        config file or text: a name, `.xml` may follow
    {"protocol": "mri_cartesian", "set": {"mri.grappa.kernel": "5,4"}}        ours; "urgency": "interactive" and
                                                         "network_deadline_s": 3 may be added
    {"version": "...", "parameters": {"config": "mri_cartesian", ...}}        OpenRecon, FIRE; also as TEXT

``auto`` lets the router choose by the header. No name is ever replaced by another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from acquisition.errors import ConfigError
from acquisition.verdict import Level, Verdict

AUTO = "auto"
"""Let the router choose."""
_NAMES = ("customconfig", "config")  # the first that is not empty counts
_HURRY = {"urgency": "urgency", "networkdeadline": "network_deadline_s"}  # ids at a console have letters only
_LONGEST_NAME = 200
_LONGEST_WAIT_S = 1e6


class Urgency(StrEnum):
    """What a scan waits for, the most urgent first."""

    INTERACTIVE = "interactive"
    """A hand at the console: a localizer, real time."""
    INLINE = "inline"
    """The exam: images while the patient is on the table."""
    BATCH = "batch"
    """Nobody: a scan that is reconstructed again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The wish of one client."""

    protocol: str
    """Name of a protocol, or `AUTO`."""
    changes: Mapping[str, object] = field(default_factory=dict)
    """Values for ``step.parameter``."""
    urgency: Urgency = Urgency.INLINE
    """What the scan waits for."""
    network_deadline_s: float | None = None
    """A network's image that is not there this long after its conventional one is left out [s]; None: it is kept."""
    unused: tuple[str, ...] = ()
    """Console parameters that mean nothing to us."""

    def verdicts(self) -> tuple[Verdict, ...]:
        """Return what was not used, as a finding."""
        if not self.unused:
            return ()
        return (
            Verdict(
                check="scan.parameters",
                level=Level.FLAG,
                advice="Some parameters set at the console have no effect here; check the protocol card.",
                evidence=f"not used: {', '.join(self.unused)}"[:500],
            ),
        )


def from_name(name: str) -> Request:
    """Read the body of a config file message.

    Raises
    ------
    ConfigError
        It is empty or no name.
    """
    bare = name.strip().removesuffix(".xml")
    if not bare or len(bare) > _LONGEST_NAME or not bare.isprintable():
        raise ConfigError(
            "config",
            expected=f"the name of a protocol, or `{AUTO}`",
            got=repr(name[:40]) if name.strip() else "nothing",
            action="name a protocol in the config message",
        )
    return Request(protocol=bare)


def from_text(text: str) -> Request:
    """Read the body of a config text message: a name or one of the JSON forms.

    Raises
    ------
    ConfigError
        It is neither, or a key is unknown.
    """
    text = text.strip()
    if text.startswith("<"):
        raise ConfigError(
            "config text",
            expected="the name of a protocol, or JSON that names one",
            got="XML, perhaps a Gadgetron chain",
            action=f"send the name of a protocol, or `{AUTO}`",
        )
    if not text.startswith("{"):
        return from_name(text)
    document = _object(text)
    if "parameters" in document:
        return _console(document["parameters"])
    unknown = sorted(document.keys() - {"protocol", "set", "urgency", "network_deadline_s"})
    changes = document.get("set", {})
    name = document.get("protocol")
    if unknown or not isinstance(name, str) or not isinstance(changes, dict):
        raise ConfigError(
            "config text",
            expected='{"protocol": name, "set": {"step.parameter": value}} or {"parameters": {"config": name}}',
            got=f"keys {', '.join(sorted(document)) or 'none'}",
            action="correct the JSON",
        )
    return Request(protocol=from_name(name).protocol, changes=changes, **_hurry(document))


def _hurry(document: Mapping[str, object]) -> dict[str, Any]:
    """Read how urgent a scan is; a console may send numbers as text."""
    urgency, deadline_s = document.get("urgency", Urgency.INLINE), document.get("network_deadline_s")
    if isinstance(deadline_s, str) and deadline_s.isdecimal():
        deadline_s = int(deadline_s)
    if urgency not in list(Urgency):
        raise ConfigError("config text, urgency", expected=f"one of {', '.join(Urgency)}", got=repr(urgency)[:40])
    if deadline_s is not None and not (isinstance(deadline_s, int | float) and 0 <= deadline_s < _LONGEST_WAIT_S):
        raise ConfigError("config text, network_deadline_s", expected="seconds", got=repr(deadline_s)[:40])
    return {"urgency": Urgency(str(urgency)), "network_deadline_s": deadline_s}


def from_remark(text: str) -> Request | None:
    """Read a TEXT message: console parameters that name a protocol, else None (it is a line for the log)."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        document = _object(text)
    except ConfigError:
        return None
    parameters = document.get("parameters")
    return _console(parameters) if isinstance(parameters, dict) and any(map(parameters.get, _NAMES)) else None


def _object(text: str) -> dict[str, object]:
    try:
        document = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ConfigError("config text", expected="JSON", got=str(error), action="correct it") from error
    if not isinstance(document, dict):
        raise ConfigError("config text", expected="a JSON object", got=type(document).__name__, action="correct it")
    return document


def _console(parameters: object) -> Request:
    """Read OpenRecon's parameters: `config` names the protocol, dotted names change it."""
    if not isinstance(parameters, dict):
        raise ConfigError(
            "config text, parameters", expected="an object", got=type(parameters).__name__, action="correct it"
        )
    names = [parameters[key] for key in _NAMES if parameters.get(key)]
    if not names:
        raise ConfigError(
            "config text, parameters",
            expected="`config` with the name of a protocol",
            got=", ".join(map(str, parameters)) or "nothing",
            action="add the choice parameter `config`",
        )
    others = {key: value for key, value in parameters.items() if key not in (*_NAMES, "urgency", "networkdeadline")}
    return Request(
        protocol=from_name(str(names[0])).protocol,
        changes={key: value for key, value in others.items() if "." in key},
        unused=tuple(sorted(key for key in others if "." not in key)),
        **_hurry(
            {name: parameters[key] for key, name in _HURRY.items() if parameters.get(key) not in (None, "", "none")}
        ),
    )
