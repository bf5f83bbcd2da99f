"""What the courier asks of a connection to an archive, and the ways in which it can fail.

The courier knows no DICOM: `integration.dicom.scu` gives it links, tests give it others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from acquisition.errors import DeliveryError
from integration.delivery.destination import Destination
from integration.delivery.rows import Delivery


class UnreachableError(DeliveryError):
    """The destination does not answer, or not with an association. It is not the image's fault."""


class TransientError(DeliveryError):
    """This image was not taken now; the association is fine (e.g. A7xx, out of resources)."""


class BrokenLinkError(TransientError):
    """The association died under this image: aborted, timed out, closed, nonsense."""


class PermanentError(DeliveryError):
    """This image will never be taken as it is (A9xx, Cxxx, SOP class refused, spool file damaged)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitmentReport:
    """What an archive answered to one storage commitment request."""

    transaction_uid: str
    """The request's identifier."""
    kept: frozenset[str]
    """SOP instance UIDs that it vouches for."""
    failed: dict[str, int]
    """SOP instance UIDs that it does not, with the failure reason (0008,1197)."""


class Link(Protocol):
    """One open association."""

    @property
    def offers_commitment(self) -> bool:
        """Whether the archive accepted the storage commitment service."""

    @property
    def alive(self) -> bool:
        """Whether the association is still open, as far as one can see without asking."""

    def carries(self, delivery: Delivery) -> bool:
        """Whether the image's kind was asked for when the association was made."""

    def echo(self) -> None:
        """Ask for a sign of life."""

    def store(self, delivery: Delivery) -> str:
        """Hand over one image from the spool; return the evidence (the status it was taken with)."""

    def request_commitment(self, transaction_uid: str, deliveries: Sequence[Delivery]) -> None:
        """Ask the archive to vouch for images."""

    def await_report(self, timeout_s: float) -> CommitmentReport | None:
        """Wait for an answer to such a request on this association; None if none came."""

    def close(self) -> None:
        """Part in good order."""

    def abort(self) -> None:
        """Part at once."""


class Connector(Protocol):
    """Opens links."""

    def __call__(self, destination: Destination, deliveries: Iterable[Delivery] = ()) -> Link:
        """Open an association that carries the usual kinds of image and those of `deliveries`."""


def describe(failed: Collection[int]) -> str:
    """Name failure reasons of a commitment report, as hexadecimal."""
    return ", ".join(f"0x{reason:04X}" for reason in sorted(set(failed)))
