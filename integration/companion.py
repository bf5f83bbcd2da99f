"""Files that belong to a scan beside its raw data: a normalisation, an attenuation map.

A protocol, or who asks for one, names such a file by a parameter. At the command line it is any file of the person who
types. In the service names come over the network: they are taken within one folder only, ``DATA/companions``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from acquisition.errors import ConfigError
from acquisition.scan import Scan
from acquisition.sources.interfile_header import is_interfile, read_header

FOLDER = "companions"
"""Name of the service's folder within its data folder."""


def companion(name: str, scan: Scan, *, where: str) -> Path:
    """Return the file or folder that a parameter names.

    Parameters
    ----------
    name
        As given; relative to the scan's folder of companions, or where there is none to the current one.
    scan
        Tells the folder.
    where
        Named in errors.

    Raises
    ------
    ConfigError
        It does not exist, or lies outside the folder.
    """
    if scan.companions is None:
        path = Path(name).expanduser()
    else:
        root = scan.companions.resolve()
        path = (root / name).resolve()
        if Path(name).is_absolute() or not path.is_relative_to(root):
            raise ConfigError(
                where,
                expected=f"a name within the service's folder {FOLDER}",
                got=repr(name),
                action="copy the file there and name it without .. or a leading /",
            )
    if not path.exists():
        raise ConfigError(where, expected="a file or folder", got=f"{path}: there is none", action="check the name")
    return path


def fingerprint(paths: Iterable[Path]) -> str:
    """Return what changes with the content of files; of a folder, with the names and sizes of what is in it."""
    digest = hashlib.sha256()
    for path in paths:
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.is_file())
            digest.update("\n".join(f"{p.relative_to(path)} {p.stat().st_size}" for p in found).encode())
            continue
        content = path.read_bytes()
        digest.update(content)
        if is_interfile(content[:1024]):
            digest.update(read_header(path).data_path().read_bytes())
    return digest.hexdigest()
