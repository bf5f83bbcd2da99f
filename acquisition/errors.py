"""Everything that can go wrong, as one tree of exceptions.

::

    IsocenterError
    ├── ConfigError             a protocol, a setting or a parameter is wrong
    │   └── UnknownProtocolError    the named protocol does not exist
    ├── InputError              what arrived cannot be used
    │   ├── HeaderError             the scan's header is missing, broken or contradictory
    │   ├── MessageError            a message on the wire is broken or unknown
    │   ├── LimitError              a message or header claims more than is allowed
    │   ├── FileFormatError         a file is not what its name or first bytes say
    │   ├── DataError               readouts contradict the header
    │   └── ScanAbortedError             the scanner went away before it said close
    ├── ReconError              an image could not be made, or is not an image (all zero, NaN)
    ├── DeliveryError           an image could not be handed over
    │   └── StorageFullError        too little disk to take another scan safely
    └── SetupError              the environment is unfit (name clash, missing program, busy port)

Every message says where, what was expected, what came and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class IsocenterError(Exception):
    """Base of all our errors: ``where: expected E, got G. Action.``

    Parameters
    ----------
    where
        The file, field, message or step in which it happened.
    expected, got
        What would have been right, and what came instead.
    action
        What the person or program at the other end can do about it.
    """

    def __init__(self, where: str, *, expected: str = "", got: str = "", action: str = "") -> None:
        self.where, self.expected, self.got, self.action = where, expected, got, action
        what = ", ".join(part for part in (expected and f"expected {expected}", got and f"got {got}") if part)
        message = f"{where}: {what}" if what else where
        super().__init__(f"{message}. {action}" if action else message)


class ConfigError(IsocenterError):
    """A protocol, a setting or a parameter is wrong."""


class UnknownProtocolError(ConfigError):
    """The named protocol does not exist."""


class InputError(IsocenterError):
    """What arrived cannot be used."""


class HeaderError(InputError):
    """The scan's header is missing, broken or contradictory."""


class MessageError(InputError):
    """A message on the wire is broken or unknown."""


class LimitError(InputError):
    """A message or header claims more than is allowed."""


class FileFormatError(InputError):
    """A file is not what its name or first bytes say."""


class DataError(InputError):
    """Readouts contradict the header."""


class ScanAbortedError(InputError):
    """The scanner went away before it said close."""


class ReconError(IsocenterError):
    """An image could not be made, or what was made is not an image."""


class DeliveryError(IsocenterError):
    """An image could not be handed over."""


class StorageFullError(DeliveryError):
    """Too little disk is left to take another scan safely."""


class SetupError(IsocenterError):
    """The environment is unfit: a name clash, a missing program, a busy port."""


def one_of(got: str, known: Iterable[str]) -> str:
    """Return the known names in words, the one most like `got` first, for ``expected``."""
    names = sorted(known)
    close = difflib.get_close_matches(got, names, n=1)
    listed = f"one of {', '.join(names)}" if names else "none"
    return f"{listed} (did you mean {close[0]}?)" if close else listed
