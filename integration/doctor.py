"""Is this computer fit to reconstruct? One finding per check, each with what to do."""

from __future__ import annotations

import os
import platform
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata

import torch

from acquisition.errors import IsocenterError
from integration.delivery.destination import Destination
from integration.delivery.link import TransientError, UnreachableError
from integration.dicom.scu import connect
from integration.names import clashes
from integration.protocol import Library
from integration.settings import GIB, Settings

_RECOMMENDED_GIB = 16
_ECHO_S = 5.0


class Health(StrEnum):
    """How a check went."""

    OK = "ok"
    NOTE = "note"
    """Works, could be better."""
    FAULT = "fault"
    """The service cannot do its work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's report."""

    check: str
    """What was looked at."""
    health: Health
    """How it went."""
    text: str
    """What was found, and what to do."""


def examine(settings: Settings) -> Iterator[Finding]:
    """Yield the findings for a service with these settings, as they come."""
    yield _python()
    yield _names()
    yield _device(settings)
    yield from _memory()
    yield _data(settings)
    yield _protocols(settings)
    yield from _ports(settings)
    yield from _archives(settings)


def _python() -> Finding:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("isocenter", "torch", "numpy", "pydicom"))
    return Finding("environment", Health.OK, f"Python {platform.python_version()}, {versions}")


def _names() -> Finding:
    found = clashes()
    if not found:
        return Finding("package names", Health.OK, "recon, acquisition, models, kernels, integration are ours alone")
    text = "; ".join(f"{name} is also in {', '.join(others)}" for name, others in found.items())
    return Finding("package names", Health.FAULT, f"{text}. Use an environment of its own (make install)")


def _device(settings: Settings) -> Finding:
    if torch.cuda.is_available():
        return Finding("device", Health.OK, f"GPU {torch.cuda.get_device_name()}")
    cores = os.cpu_count() or 1
    return Finding("device", Health.OK, f"CPU, {cores} cores, {settings.threads} threads per kernel; no GPU found")


def _memory() -> Iterator[Finding]:
    if not hasattr(os, "sysconf"):
        return
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    health = Health.OK if gib >= _RECOMMENDED_GIB else Health.NOTE
    yield Finding("memory", health, f"{gib:.0f} GiB; {_RECOMMENDED_GIB} GiB hold any clinical scan")


def _data(settings: Settings) -> Finding:
    try:
        settings.data.mkdir(parents=True, exist_ok=True)
        probe = settings.data / ".doctor"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        return Finding("data folder", Health.FAULT, f"{settings.data}: {error}. Choose another with --data")
    free = shutil.disk_usage(settings.data).free / GIB
    if free <= settings.reserve_gib:
        text = f"{settings.data}: {free:.1f} GiB free, {settings.reserve_gib:g} GiB are kept free. Make room"
        return Finding("data folder", Health.FAULT, text)
    return Finding("data folder", Health.OK, f"{settings.data}: {free:.0f} GiB free")


def _protocols(settings: Settings) -> Finding:
    try:
        names = [protocol.name for protocol in Library(settings.protocols)]
    except IsocenterError as error:
        return Finding("protocols", Health.FAULT, str(error))
    return Finding("protocols", Health.OK, f"{len(names)}: {', '.join(names)}")


def _ports(settings: Settings) -> Iterator[Finding]:
    ports = (settings.mrd_port, settings.http_port, settings.stream_port)
    for name, port in zip(("scanner port", "status page", "raw stream"), ports, strict=True):
        if not port:
            continue
        try:
            with socket.create_server((settings.host, port)):
                yield Finding(name, Health.OK, f"{settings.host}:{port} is free")
        except OSError as error:
            text = f"{settings.host}:{port}: {error.strerror or error}; right if the service is running now"
            yield Finding(name, Health.NOTE, text)
    if settings.host not in ("127.0.0.1", "::1", "localhost"):
        yield Finding("address", Health.NOTE, f"{settings.host} can be reached by others; MRD has no password")


def _archives(settings: Settings) -> Iterator[Finding]:
    if not settings.destinations:
        yield Finding(
            "archive", Health.NOTE, "none set: images stay in the spool. Add one with --archive or in --config"
        )
    for destination in settings.destinations:
        name = f"archive {destination.name}"
        address = f"{destination.ae_title} at {destination.host}:{destination.port}"
        problem = _echo(destination) if destination.enabled else "is disabled"
        health = Health.OK if not problem else Health.FAULT if destination.enabled else Health.NOTE
        yield Finding(name, health, f"{address} {problem or 'answers'}")


def _echo(destination: Destination) -> str:
    """Ask an archive whether it is there; return what is wrong."""
    try:
        link = connect(destination.model_copy(update={"timeout_s": min(destination.timeout_s, _ECHO_S)}))
        try:
            link.echo()
        finally:
            link.close()
    except (UnreachableError, TransientError) as error:
        return f"does not answer: {error}"
    return ""
