"""The sending side of DICOM: one association, driven by the thread that uses it.

What follows the negotiation is plain request and answer on a quick socket: a reactor that polls costs more
than the transfer, and an association that broke must end at once. PS3.4 annexes B (storage) and J (storage
commitment), PS3.7.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from collections import deque
from collections.abc import Iterable, Sequence

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from integration.delivery.destination import Destination
from integration.delivery.link import BrokenLinkError, CommitmentReport, PermanentError, TransientError
from integration.delivery.rows import Delivery
from integration.dicom.commit import PUSH_INSTANCE, PUSH_MODEL, decode_report, encode_request
from integration.dicom.dimse import (
    HAS_DATA_SET,
    NO_DATA_SET,
    Command,
    Field,
    Message,
    Pdu,
    Tag,
    broken,
    encode_command,
    frame,
    read_message,
    read_pdu,
)
from integration.dicom.negotiate import STORAGE_CLASSES, VERIFICATION, Agreement, negotiate
from integration.dicom.part10 import load, to_implicit, transfer_syntax

SUCCESS = 0x0000
_TAKEN = {0x0107: "attribute list error", 0x0111: "duplicate SOP instance", 0x0116: "attribute value out of range"}
"""Taken, with a remark; 0111: the archive has this UID already, as after a crash between its answer and our note."""
_PERMANENT = {0x0117: "invalid SOP instance", 0x0122: "SOP class not supported", 0x0124: "not authorised"}
_CHUNK = 1 << 18


def connect(destination: Destination, deliveries: Iterable[Delivery] = ()) -> Association:
    """Open an association with an archive.

    Parameters
    ----------
    destination
        Where to, and how long to wait.
    deliveries
        Images that it must carry beyond the usual kinds.

    Raises
    ------
    UnreachableError
        Nobody listens, nobody answers, or the association was rejected.
    """
    return Association(*negotiate(destination, {(d.sop_class, transfer_syntax(d.path)) for d in deliveries}))


class Association:
    """One open association; made by `connect`."""

    def __init__(self, sock: socket.socket, agreement: Agreement) -> None:
        self._sock, self._message_id, self._timeout_s = sock, 0, sock.gettimeout()
        self._max_pdu, self._offered, self._accepted = agreement.max_pdu, agreement.offered, agreement.accepted
        self._reports: deque[CommitmentReport] = deque()
        self._broken = False

    @property
    def offers_commitment(self) -> bool:
        """Whether the archive accepted the storage commitment service."""
        return self._context(PUSH_MODEL) is not None

    @property
    def alive(self) -> bool:
        """Whether the peer has neither closed, released nor aborted, as far as has arrived here."""
        if self._broken:
            return False
        try:
            self._sock.setblocking(False)
            head = self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            self._sock.settimeout(self._timeout_s)
        return head[:1] == bytes([Pdu.P_DATA])

    def carries(self, delivery: Delivery) -> bool:
        """Whether the image's kind was offered when the association was made."""
        syntax = transfer_syntax(delivery.path)
        return not syntax or (delivery.sop_class, syntax) in self._offered

    def echo(self) -> None:
        """C-ECHO."""
        status, _ = self._ask(VERIFICATION, {Tag.FIELD: Field.C_ECHO, Tag.AFFECTED_CLASS: VERIFICATION})
        if status:
            raise TransientError("C-ECHO", expected="status 0x0000", got=f"0x{status:04X}")

    def store(self, delivery: Delivery) -> str:
        """C-STORE one spool file in the transfer syntax it has; return the status as evidence.

        Raises
        ------
        PermanentError
            The archive refuses this image for good, or the file is not what was spooled.
        TransientError
            It cannot take it now; `BrokenLinkError`: the association is gone.
        """
        stored = load(delivery)
        context = self._accepted.get((stored.sop_class, stored.transfer_syntax))
        if context is None and stored.transfer_syntax == ExplicitVRLittleEndian:
            context = self._accepted.get((stored.sop_class, str(ImplicitVRLittleEndian)))
            stored = to_implicit(stored) if context else stored
        if context is None:
            name = STORAGE_CLASSES.get(stored.sop_class, stored.sop_class)
            raise PermanentError(
                f"image {delivery.sop_uid}",
                expected=f"a destination that takes {name} in transfer syntax {stored.transfer_syntax}",
                got=f"{delivery.destination} refuses it",
                action="Enable this SOP class at the archive, then resend",
            )
        command: Command = {
            Tag.FIELD: Field.C_STORE,
            Tag.AFFECTED_CLASS: stored.sop_class,
            Tag.AFFECTED_INSTANCE: delivery.sop_uid,
            Tag.PRIORITY: 0,
        }
        status, comment = self._request(context, command, stored.data)
        return judge(delivery, status, comment)

    def request_commitment(self, transaction_uid: str, deliveries: Sequence[Delivery]) -> None:
        """N-ACTION: ask the archive to vouch for images (PS3.4 J.3.2)."""
        command: Command = {
            Tag.FIELD: Field.N_ACTION,
            Tag.REQUESTED_CLASS: PUSH_MODEL,
            Tag.REQUESTED_INSTANCE: PUSH_INSTANCE,
            Tag.ACTION_TYPE: 1,
        }
        status, comment = self._ask(PUSH_MODEL, command, encode_request(transaction_uid, deliveries))
        if status:
            got = f"0x{status:04X} {comment}".rstrip()
            raise TransientError("storage commitment request", expected="status 0x0000", got=got)

    def await_report(self, timeout_s: float) -> CommitmentReport | None:
        """Wait for an N-EVENT-REPORT on this association; None if none came.

        Raises
        ------
        BrokenLinkError
            The association ended instead.
        """
        if not self._reports and self._readable(timeout_s):
            self._take_event(self._receive())
        return self._reports.popleft() if self._reports else None

    def close(self) -> None:
        """Release; where the peer does not answer, just close."""
        with contextlib.suppress(BrokenLinkError):
            self._send(struct.pack(">BxL4x", Pdu.RELEASE_RQ, 4))
            self._sock.settimeout(min(1.0, self._timeout_s or 1.0))
            while read_pdu(self._sock)[0] == Pdu.P_DATA:
                pass
        self._sock.close()

    def abort(self) -> None:
        """A-ABORT, and close without waiting."""
        with contextlib.suppress(BrokenLinkError):
            self._sock.settimeout(0.2)
            self._send(struct.pack(">BxL4x", Pdu.ABORT, 4))
        self._sock.close()

    def _context(self, abstract_syntax: str) -> int | None:
        return self._accepted.get((abstract_syntax, str(ImplicitVRLittleEndian)))

    def _ask(self, abstract_syntax: str, command: Command, data: bytes = b"") -> tuple[int, str]:
        if (context := self._context(abstract_syntax)) is None:
            raise TransientError("association", expected=f"service {abstract_syntax}", got="not accepted")
        return self._request(context, command, data)

    def _request(self, context: int, command: Command, data: bytes | memoryview) -> tuple[int, str]:
        """Send a request, wait for its response; return status and error comment. Events in between are kept."""
        self._message_id = self._message_id % 0xFFFF + 1
        command |= {Tag.MESSAGE_ID: self._message_id, Tag.DATA_SET_TYPE: HAS_DATA_SET if len(data) else NO_DATA_SET}
        self._send(frame(context, encode_command(command), data, max_pdu=self._max_pdu))
        while True:
            message = self._receive()
            if message.command.get(Tag.FIELD) == Field.N_EVENT_REPORT:
                self._take_event(message)
                continue
            status = message.command.get(Tag.STATUS)
            if message.command.get(Tag.RESPONSE_TO) != self._message_id or not isinstance(status, int):
                raise broken(f"the response to message {self._message_id}", str(message.command))
            return status, str(message.command.get(Tag.ERROR_COMMENT, ""))

    def _take_event(self, message: Message) -> None:
        if message.command.get(Tag.FIELD) != Field.N_EVENT_REPORT:
            raise broken("an event report", str(message.command))
        self._reports.append(decode_report(message.data))
        answer: Command = {
            Tag.FIELD: Field.N_EVENT_REPORT | Field.RESPONSE,
            Tag.AFFECTED_CLASS: PUSH_MODEL,
            Tag.AFFECTED_INSTANCE: PUSH_INSTANCE,
            Tag.RESPONSE_TO: int(message.command.get(Tag.MESSAGE_ID, 0)),
            Tag.EVENT_TYPE: int(message.command.get(Tag.EVENT_TYPE, 1)),
            Tag.DATA_SET_TYPE: NO_DATA_SET,
            Tag.STATUS: 0,
        }
        self._send(frame(message.context_id, encode_command(answer), max_pdu=self._max_pdu))

    def _receive(self) -> Message:
        try:
            return read_message(self._sock)
        except BrokenLinkError:
            self._broken = True
            raise

    def _readable(self, timeout_s: float) -> bool:
        try:
            return bool(select.select([self._sock], [], [], timeout_s)[0])
        except (OSError, ValueError) as error:
            raise broken("an open association", str(error)) from error

    def _send(self, data: bytes) -> None:
        """Send all; the timeout runs anew with each piece that the peer took."""
        view = memoryview(data)
        try:
            while view:
                view = view[self._sock.send(view[:_CHUNK]) :]
        except OSError as error:
            self._broken = True
            raise broken("a peer that reads", str(error) or "silence") from error


def judge(delivery: Delivery, status: int, comment: str) -> str:
    """Return a C-STORE status as evidence that the image was taken, or raise what it means (PS3.4 B.2.3).

    Raises
    ------
    PermanentError, TransientError
    """
    if status == SUCCESS:
        return "store-status"
    if status in _TAKEN or status >> 12 == 0xB:
        return f"store-status 0x{status:04X}"
    got = f"status 0x{status:04X} {comment}".rstrip()
    if status in _PERMANENT or status >> 8 == 0xA9 or status >> 12 == 0xC:
        raise PermanentError(f"image {delivery.sop_uid}", got=f"{got} from {delivery.destination}")
    raise TransientError(f"image {delivery.sop_uid}", got=f"{got} from {delivery.destination}")
