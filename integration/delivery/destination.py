"""Where images go: the address of one archive and how patient we are with it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from acquisition.errors import ConfigError

Commitment = Literal["auto", "require", "off"]


class Destination(BaseModel):
    """One DICOM archive, workstation or scanner that images are sent to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    """Our name for it, as protocols and the journal use it."""
    host: str
    """Host name or address."""
    port: int = Field(ge=1, le=65535)
    """TCP port."""
    ae_title: str = Field(pattern=r"^[ -\[\]-~]{1,16}$")
    """Called AE title."""
    calling_ae: str = Field(default="ISOCENTER", pattern=r"^[ -\[\]-~]{1,16}$")
    """Calling AE title: the name under which the archive knows us."""
    commitment: Commitment = "auto"
    """Storage commitment: use it where offered (auto), insist on it (require), never ask (off)."""
    associations: int = Field(default=2, ge=1, le=16)
    """Associations kept open at the same time."""
    timeout_s: float = Field(default=10.0, gt=0)
    """Longest wait for a connection or an answer [s]."""
    max_attempts: int = Field(default=8, ge=1)
    """Attempts per image before it becomes a dead letter."""
    backoff_first_s: float = Field(default=1.0, gt=0)
    """Wait after the first failure, doubled after each further one [s]."""
    backoff_max_s: float = Field(default=900.0, gt=0)
    """Longest wait between two attempts [s]."""
    max_outage_s: float = Field(default=86400.0, gt=0)
    """How long the archive may be unreachable before what waits for it becomes dead letters [s]."""
    commit_timeout_s: float = Field(default=60.0, gt=0)
    """Longest wait for the answer to one storage commitment request [s]."""
    ct_objects: Literal["classic", "enhanced"] = "classic"
    """CT slice by slice while the scan runs (classic), or one Enhanced CT object per series at its end."""
    verdicts: Literal["none", "report"] = "none"
    """What the checks found: in the images' comments only (none), or as a structured report of each scan, too."""
    rejections: Literal["none", "key_object"] = "none"
    """Whether it is told of scans that a person rejected (key_object); many archives then hide the images at once."""
    enabled: bool = True
    """A disabled destination is sent nothing; what is queued for it waits."""


_LIST = TypeAdapter(list[Destination])


def read_destinations(path: Path) -> list[Destination]:
    """Read the JSON list of destinations that `write_destinations` wrote.

    Raises
    ------
    ConfigError
        The file is missing, not JSON, names one destination twice, or a field is wrong.
    """
    try:
        found = _LIST.validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(str(path), expected="a JSON list of destinations", got=str(error)) from error
    except ValidationError as error:
        raise ConfigError(str(path), got=str(error), action="Correct the named field") from error
    names = [d.name for d in found]
    if len(set(names)) != len(names):
        raise ConfigError(str(path), expected="each destination named once", got=", ".join(names))
    return found


def write_destinations(path: Path, destinations: Iterable[Destination]) -> None:
    """Write the list as JSON, whole or not at all."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(json.dumps([d.model_dump() for d in destinations], indent=2) + "\n")
    scratch.replace(path)
