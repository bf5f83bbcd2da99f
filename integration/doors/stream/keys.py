"""Who may speak on the raw stream: CURVE keys, one file for our own, one that lists those of scanners.

::

    stream.key            public and secret key of this end, readable for its user only
    stream.clients        NAME and public key of each scanner that is let in, one a line

Without keys the door opens on the loopback address only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import zmq
from zmq.utils import z85

from acquisition.errors import ConfigError

_Z85 = re.compile(r"[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """Both keys of one end, 40 characters each."""

    public: str
    """May be told to anyone."""
    secret: str
    """Stays here."""

    def __repr__(self) -> str:
        return f"KeyPair(public={self.public!r})"


def make_keys(path: Path) -> KeyPair:
    """Make a pair of keys and keep it in a new file that only its user can read.

    Raises
    ------
    ConfigError
        The file is there already, or cannot be written.
    """
    public, secret = (key.decode() for key in zmq.curve_keypair())
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(f"public {public}\nsecret {secret}\n")
    except OSError as error:
        raise ConfigError(
            f"key file {path}", expected="a new file", got=str(error), action="choose another name"
        ) from error
    return KeyPair(public=public, secret=secret)


def read_keys(path: Path) -> KeyPair:
    """Read a pair of keys.

    Raises
    ------
    ConfigError
        It cannot be read, others can read it too, or it is no key file.
    """
    found = dict(_rows(path))
    if path.stat().st_mode & 0o077:
        raise ConfigError(
            f"key file {path}", expected="mode 600", got="readable for others", action=f"chmod 600 {path}"
        )
    if found.keys() != {"public", "secret"}:
        raise ConfigError(f"key file {path}", expected="a line `public KEY` and one `secret KEY`", got="others")
    return KeyPair(public=found["public"], secret=found["secret"])


def read_clients(path: Path) -> dict[str, str]:
    """Read who is let in: public key -> name.

    Raises
    ------
    ConfigError
        It cannot be read, or a line is no name with a key.
    """
    rows = _rows(path)
    keys = {key: name for name, key in rows}
    if len(keys) != len(rows):
        raise ConfigError(f"client list {path}", expected="each key once", got="one twice")
    return keys


def check_keys(keys: KeyPair) -> KeyPair:
    """Return a pair whose halves belong together.

    Raises
    ------
    ConfigError
        They do not.
    """
    if zmq.curve_public(keys.secret.encode()).decode() != keys.public:
        raise ConfigError("stream keys", expected="a public key that belongs to the secret one", got="another")
    return keys


class Porter:
    """Answers ZeroMQ's question whether a client may come in (ZAP, RFC 27).

    Parameters
    ----------
    context
        Of the sockets it stands before.
    clients
        Public key -> name.
    """

    def __init__(self, context: zmq.Context, clients: Mapping[str, str]) -> None:
        self.socket = context.socket(zmq.REP)
        self.socket.linger = 0
        self.socket.bind("inproc://zeromq.zap.01")
        self._clients = dict(clients)

    def answer(self) -> str:
        """Answer one question; return what was answered, in words."""
        frames = self.socket.recv_multipart()
        if len(frames) < 6:
            self.socket.send_multipart([b"1.0", b"", b"500", b"not a ZAP request", b"", b""])
            return "a garbled question"
        version, request, _, address, _, mechanism, *credentials = frames
        key = z85.encode(credentials[0]).decode() if mechanism == b"CURVE" and credentials else ""
        name = self._clients.get(key, "")
        code, text = (b"200", b"OK") if name else (b"400", b"this key is not known")
        self.socket.send_multipart([version, request, code, text, name.encode(), b""])
        return f"{address.decode(errors='replace')}: {name or 'refused, its key is not known'}"


def _rows(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"key file {path}", expected="a text file", got=str(error), action="make one") from error
    rows = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or not _NAME.fullmatch(words[0]) or not _Z85.fullmatch(words[1]):
            raise ConfigError(
                f"key file {path}, line {number}", expected="a name and a key of 40 characters", got="another"
            )
        rows.append((words[0], words[1]))
    return rows
