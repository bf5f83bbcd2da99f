"""Storage commitment: the request, the report, and the door at which reports arrive (PS3.4 annex J)."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterable, Mapping

from pydicom import Dataset
from pydicom.filereader import read_dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from integration.delivery.link import CommitmentReport
from integration.delivery.rows import Delivery
from integration.dicom.dimse import broken
from integration.dicom.fastsocket import serve
from integration.dicom.part10 import encode

LOG = logging.getLogger(__name__)

PUSH_MODEL = "1.2.840.10008.1.20.1"
"""Storage Commitment Push Model SOP class."""
PUSH_INSTANCE = "1.2.840.10008.1.20.1.1"
"""Its well-known SOP instance."""
NO_SUCH_OBJECT = 0x0112
PROCESSING_FAILURE = 0x0110
_OK = 0x0000
_UNREADABLE = (ValueError, KeyError, AttributeError, TypeError, EOFError, NotImplementedError)


def encode_request(transaction_uid: str, deliveries: Iterable[Delivery]) -> bytes:
    """Encode the action information that asks an archive to vouch for images (implicit little endian)."""
    return encode(_references(transaction_uid, ((d.sop_class, d.sop_uid, None) for d in deliveries)))


def make_report(transaction_uid: str, kept: Mapping[str, str], failed: Mapping[str, tuple[str, int]]) -> Dataset:
    """Build an archive's report.

    Parameters
    ----------
    transaction_uid
        Of the request.
    kept
        SOP class by SOP instance UID, for what the archive vouches for.
    failed
        SOP class and failure reason by SOP instance UID.
    """
    report = _references(transaction_uid, ((cls, uid, None) for uid, cls in kept.items()))
    if failed:
        items = ((cls, uid, reason) for uid, (cls, reason) in failed.items())
        report.FailedSOPSequence = _references(transaction_uid, items).ReferencedSOPSequence
    if not kept:
        del report.ReferencedSOPSequence
    return report


def decode_report(data: bytes) -> CommitmentReport:
    """Decode the event information of a report.

    Raises
    ------
    BrokenLinkError
        It is none.
    """
    try:
        return read_report(read_dataset(io.BytesIO(data), True, True))
    except _UNREADABLE as error:
        raise broken("a storage commitment report", repr(error)) from error


def read_report(dataset: Dataset) -> CommitmentReport:
    """Read a report's data set."""
    failed = {str(i.ReferencedSOPInstanceUID): int(i.FailureReason) for i in dataset.get("FailedSOPSequence") or ()}
    kept = {str(i.ReferencedSOPInstanceUID) for i in dataset.get("ReferencedSOPSequence") or ()}
    return CommitmentReport(
        transaction_uid=str(dataset.TransactionUID), kept=frozenset(kept - failed.keys()), failed=failed
    )


def listen(address: tuple[str, int], ae_title: str, on_report: Callable[[CommitmentReport], None]) -> tuple[AE, int]:
    """Open the door for archives that report on an association of their own; ``shutdown()`` of the AE closes it.

    Parameters
    ----------
    address
        Host and port to listen at; port 0 takes a free one.
    ae_title
        Our AE title.
    on_report
        Called with each report, in the thread of its association.

    Returns
    -------
    AE, int
        The application entity and the port it listens at.
    """

    def take(event: evt.Event) -> tuple[int, None]:
        try:
            report = read_report(event.event_information)
        except _UNREADABLE as error:
            LOG.warning("unreadable storage commitment report: %r", error)
            return PROCESSING_FAILURE, None
        on_report(report)
        return _OK, None

    ae = AE(ae_title=ae_title)
    ae.add_supported_context(PUSH_MODEL, scu_role=False, scp_role=True)
    ae.add_supported_context(Verification)
    server = serve(ae, address, [(evt.EVT_N_EVENT_REPORT, take)])
    return ae, int(server.server_address[1])


def _references(transaction_uid: str, items: Iterable[tuple[str, str, int | None]]) -> Dataset:
    dataset = Dataset()
    dataset.TransactionUID = UID(transaction_uid)
    dataset.ReferencedSOPSequence = Sequence([_reference(*item) for item in items])
    return dataset


def _reference(sop_class: str, sop_uid: str, reason: int | None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = UID(sop_class), UID(sop_uid)
    if reason is not None:
        item.FailureReason = reason
    return item
