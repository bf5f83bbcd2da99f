"""The sender process: ``python -m integration.dicom.send --data DIR``.

Delivers what the journal in DIR has queued to the destinations in DIR/destinations.json, until it is told to
stop (SIGTERM) or the service that started it is gone. One courier per destination; whatever kills it, the next
sender goes on from the journal.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from acquisition.errors import IsocenterError, SetupError
from integration.delivery.courier import POLL_S, Courier
from integration.delivery.destination import Destination, read_destinations
from integration.delivery.journal import Journal
from integration.delivery.link import CommitmentReport
from integration.delivery.spool import Spool
from integration.dicom.commit import listen
from integration.dicom.scu import connect

LOG = logging.getLogger(__name__)

_LOCK_WAIT_S = 10.0
_SWEEP_S = 30.0
_STOP_S = 8.0


class Sender:
    """All couriers of one data folder, and the broom that clears the spool behind them.

    Parameters
    ----------
    data
        Folder with ``journal.sqlite`` and ``spool/``.
    destinations
        Where to send.
    """

    def __init__(self, data: Path, destinations: Sequence[Destination]) -> None:
        self.journal, self.spool = Journal(data / "journal.sqlite"), Spool(data / "spool")
        self.journal.release_claims()
        self._spent = threading.Event()
        self._spent.set()
        self._swept_at = 0.0
        self.couriers = {
            d.name: Courier(d, journal=self.journal, connect=connect, on_committed=self._spent.set)
            for d in destinations
            if d.enabled
        }
        for name in self.journal.status().keys() - self.couriers.keys():
            LOG.warning("destination %s has images in the journal but is not configured or not enabled", name)

    def start(self) -> None:
        """Begin to deliver."""
        for courier in self.couriers.values():
            courier.start()

    def wake(self) -> None:
        """Say that there may be work."""
        for courier in self.couriers.values():
            courier.wake()

    def probe(self) -> None:
        """Try destinations that are down again, now."""
        for courier in self.couriers.values():
            courier.breaker.probe_soon()
        self.wake()

    def expect(self) -> None:
        """Say that images will come soon."""
        for courier in self.couriers.values():
            courier.expect()

    def settle(self, report: CommitmentReport) -> None:
        """Take a storage commitment report that came in at our door."""
        rows = self.journal.of_transaction(report.transaction_uid)
        for name in {d.destination for d in rows} & self.couriers.keys():
            self.couriers[name].settle(report)

    def sweep(self) -> None:
        """Delete spool files that have arrived everywhere."""
        if not self._spent.is_set() and time.monotonic() - self._swept_at < _SWEEP_S:
            return
        self._spent.clear()
        self._swept_at = time.monotonic()
        for instance in self.journal.spent():
            self.spool.remove(Path(instance.path))
            self.journal.mark_removed(instance.sop_uid)
            self._spent.set()

    def stop(self) -> None:
        """Finish what is in hand and close the journal."""
        for courier in self.couriers.values():
            courier.stopping.set()
        deadline = time.monotonic() + _STOP_S
        for courier in self.couriers.values():
            courier.stop(max(0.0, deadline - time.monotonic()))
        self.sweep()
        self.journal.close()


@contextmanager
def exclusive(data: Path) -> Iterator[None]:
    """Hold the folder's lock: one sender at a time. The kernel frees it when its holder dies.

    Raises
    ------
    SetupError
        Another sender keeps it.
    """
    with (data / "sender.lock").open("a+") as file:
        deadline = time.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise SetupError(f"{data}", expected="no other sender", got="one at work") from None
                time.sleep(0.05)
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until told to stop; return the exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=options.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    threading.excepthook = _die
    stopping = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        with exclusive(options.data):
            _run(options, stopping)
    except IsocenterError as error:
        LOG.critical("%s", error)
        return 1
    return 0


def _run(options: argparse.Namespace, stopping: threading.Event) -> None:
    destinations = read_destinations(options.config or options.data / "destinations.json")
    sender, door, port = Sender(options.data, destinations), None, None
    if options.commit_port is not None:
        title = destinations[0].calling_ae if destinations else "ISOCENTER"
        try:
            door, port = listen((options.commit_host, options.commit_port), title, sender.settle)
        except OSError as error:
            raise SetupError(f"commit port {options.commit_port}", expected="a free port", got=str(error)) from error
    sender.start()
    (options.data / "sender.json").write_text(json.dumps({"pid": os.getpid(), "commit_port": port}))
    LOG.info("sender %d delivers to %s", os.getpid(), ", ".join(sender.couriers) or "nobody")
    try:
        _attend(sender, options.wake_fd, stopping)
    finally:
        if door is not None:
            door.shutdown()
        sender.stop()


def _attend(sender: Sender, wake_fd: int | None, stopping: threading.Event) -> None:
    """Pass on wake-ups and clear the spool, until stopped or orphaned."""
    parent = os.getppid()
    while not stopping.is_set():
        if wake_fd is None:
            stopping.wait(POLL_S)
        elif select.select([wake_fd], [], [], POLL_S)[0]:
            message = os.read(wake_fd, 4096)
            if not message:
                LOG.warning("the service is gone")
                return
            if b"p" in message:
                sender.probe()
            if b"e" in message:
                sender.expect()
            sender.wake()
        if wake_fd is not None and os.getppid() != parent:
            LOG.warning("the service is gone")
            return
        sender.sweep()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m integration.dicom.send", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with journal.sqlite and spool/")
    parser.add_argument("--config", type=Path, help="JSON list of destinations (default: DATA/destinations.json)")
    parser.add_argument("--commit-port", type=int, help="listen here for storage commitment reports; 0: a free port")
    parser.add_argument("--commit-host", default="127.0.0.1", help="address to listen at")
    parser.add_argument("--wake-fd", type=int, help="pipe that says when there is work; its end says stop")
    parser.add_argument("--log-level", default="INFO")
    return parser


def _die(arguments: threading.ExceptHookArgs) -> None:
    """End the process when a thread fails in a way nobody foresaw: the next sender starts clean."""
    LOG.critical("a thread died", exc_info=arguments.exc_value)
    logging.shutdown()
    os._exit(70)


if __name__ == "__main__":
    sys.exit(main())
