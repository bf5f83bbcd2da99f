"""What a site sets: one YAML file for ``isocenter serve`` and ``isocenter doctor``; every key has a default.

::

    data: /var/lib/isocenter
    protocols: [/etc/isocenter/protocols]
    destinations:
      - {name: pacs, host: pacs.hospital, port: 104, ae_title: PACS}
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from acquisition.errors import ConfigError
from integration.console.access import LOOPBACK
from integration.delivery.destination import Destination
from integration.doors.mrd_call import CallLimits
from integration.doors.stream.keys import check_keys, read_clients, read_keys
from integration.doors.stream.server import Keys
from integration.service import Plan
from integration.steps import one_of

GIB, MIB = 1 << 30, 1 << 20
DAY_S = 86400.0


def default_data() -> Path:
    """Return where the journal, recordings and spool lie unless a site says otherwise."""
    home = os.environ.get("XDG_DATA_HOME")
    return (Path(home) if home else Path.home() / ".local" / "share") / "isocenter"


def default_threads() -> int:
    """Return how many threads a kernel may use: half the cores, so that receiving and sending never wait."""
    return max(1, (os.cpu_count() or 1) // 2)


class Settings(BaseModel):
    """All settings of a service."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    """Address to listen at. The MRD protocol has no password: leave the loopback only on the scanner's own network."""
    mrd_port: int = Field(default=9002, ge=0, le=65535)
    """Port for scanners; 0: a free one."""
    http_port: int | None = Field(default=8080, ge=0, le=65535)
    """Port of the status page; 0: a free one, null: no page."""
    stream_port: int | None = Field(default=None, ge=0, le=65535)
    """Port of the raw stream (ZeroMQ, for MRI, CT and PET); 0: a free one, null: no such door."""
    stream_key: Path | None = None
    """Key file of the raw stream, made by ``isocenter keys``; null: the stream opens on the loopback address only."""
    stream_clients: Path | None = None
    """Who may speak on the raw stream: a name and a public key on each line. Goes with stream_key."""
    data: Path = Field(default_factory=default_data)
    """Folder of journal, recordings and spool."""
    protocols: tuple[Path, ...] = ()
    """Folders with the site's own protocols."""
    destinations: tuple[Destination, ...] = ()
    """Archives."""
    limits: CallLimits = CallLimits()
    """Patience and memory for one client."""
    reserve_gib: float = Field(default=2.0, ge=0)
    """Space that is left free on the disk [GiB]."""
    retention_days: float = Field(default=7.0, ge=0)
    """How long recordings are kept whose images no archive vouches for [days]."""
    drain_s: float = Field(default=30.0, ge=0)
    """How long running scans may go on when the service is stopped [s]."""
    console: bool = False
    """Serve the console page, which shows patients and pictures, at the HTTP port; on the loopback only."""
    console_mib: int = Field(default=512, ge=16)
    """Memory for the pictures of the console page [MiB]."""
    workers: int = Field(default=1, ge=0, le=64)
    """Processes that run networks beside the conventional reconstruction, one per device; 0: in the scan's thread."""
    threads: int = Field(default_factory=default_threads, ge=1)
    """Threads of one kernel."""

    @field_validator("destinations")
    @classmethod
    def _named_once(cls, value: tuple[Destination, ...]) -> tuple[Destination, ...]:
        names = [d.name for d in value]
        if len(set(names)) != len(names):
            raise ValueError(f"each destination needs a name of its own; got {', '.join(names)}")
        return value

    @model_validator(mode="after")
    def _console_on_the_loopback(self) -> Settings:
        if self.console and self.host not in LOOPBACK:
            raise ValueError(f"no console at {self.host}: it shows patients and has no password, so 127.0.0.1 only")
        if self.console and self.http_port is None:
            raise ValueError("the console needs an HTTP port")
        return self

    @model_validator(mode="after")
    def _both_keys(self) -> Self:
        if (self.stream_key is None) != (self.stream_clients is None):
            raise ValueError("stream_key and stream_clients go together")
        return self

    def keys(self) -> Keys | None:
        """Return the keys of the raw stream.

        Raises
        ------
        ConfigError
            A key file is wrong.
        """
        if self.stream_key is None or self.stream_clients is None:
            return None
        return Keys(own=check_keys(read_keys(self.stream_key)), clients=read_clients(self.stream_clients))

    def plan(self) -> Plan:
        """Return what the service is told.

        Raises
        ------
        ConfigError
            A key file is wrong.
        """
        return Plan(
            data=self.data,
            host=self.host,
            mrd_port=self.mrd_port,
            http_port=self.http_port,
            stream_port=self.stream_port,
            stream_keys=self.keys(),
            destinations=self.destinations,
            limits=self.limits,
            reserve_bytes=int(self.reserve_gib * GIB),
            retention_s=self.retention_days * DAY_S,
            workers=self.workers,
            drain_s=self.drain_s,
            picture_bytes=self.console_mib * MIB if self.console else 0,
        )


def read_settings(path: Path | None, **given: object) -> Settings:
    """Read the settings file, if there is one, and put `given` (from the command line) over it.

    Parameters
    ----------
    path
        The YAML file.
    given
        Values by name; None stands for not given.

    Raises
    ------
    ConfigError
        The file cannot be read, or a key or value is wrong.
    """
    where = f"settings {path}" if path else "settings"
    document = {} if path is None else _document(path, where)
    document |= {key: value for key, value in given.items() if value is not None}
    try:
        return Settings.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        if first["type"] in ("extra_forbidden", "unexpected_keyword_argument") and len(first["loc"]) == 1:
            raise ConfigError(f"{where}: {place}", expected=one_of(place, Settings.model_fields), got=place) from error
        raise ConfigError(f"{where}: {place}", expected=first["msg"], got=repr(first["input"])[:120]) from error


def _document(path: Path, where: str) -> dict[str, object]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(where, expected="a YAML file", got=" ".join(str(error).split())) from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(where, expected="`key: value` pairs", got=repr(document)[:80])
    return document


def parse_archive(text: str, *, index: int = 0) -> Destination:
    """Read ``HOST:PORT:AETITLE`` from a command line.

    Raises
    ------
    ConfigError
        It is of another form.
    """
    parts = text.rsplit(":", 2)
    try:
        host, port, title = parts
        name = "archive" if index == 0 else f"archive{index + 1}"
        return Destination(name=name, host=host.strip("[]"), port=int(port), ae_title=title)
    except (ValueError, ValidationError) as error:
        raise ConfigError(
            "--archive", expected="HOST:PORT:AETITLE", got=repr(text), action="for example 127.0.0.1:4242:ORTHANC"
        ) from error
