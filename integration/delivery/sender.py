"""The service's hold on the sender process: start it, wake it, start it again when it dies.

The sender is a process of its own, so that sending never waits for a reconstruction and a crash of one leaves
the other at work. It is woken through a pipe; the pipe's end, too, is news: the service is gone.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from acquisition.errors import SetupError
from integration.delivery.destination import Destination, write_destinations

LOG = logging.getLogger(__name__)

MODULE = "integration.dicom.send"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _HEALTHY_S = 0.1, 5.0, 10.0
_WAKE, _PROBE, _EXPECT = b"w", b"p", b"e"


class SenderProcess:
    """The sender of one data folder, kept alive.

    Parameters
    ----------
    data
        Folder with the journal and the spool.
    destinations
        Where to send; written to ``destinations.json`` in `data`.
    options
        More arguments for ``python -m integration.dicom.send``, e.g. ``["--commit-port", "11113"]``.
    """

    def __init__(self, data: Path, destinations: Iterable[Destination], options: Sequence[str] = ()) -> None:
        self.data, self.restarts = data, 0
        self._config, self._options = data / "destinations.json", list(options)
        data.mkdir(parents=True, exist_ok=True)
        write_destinations(self._config, destinations)
        self._process: subprocess.Popen[bytes] | None = None
        self._wake_fd: int | None = None
        self._stopping, self._lock = threading.Event(), threading.Lock()
        self._keeper = threading.Thread(target=self._keep, name="sender-keeper", daemon=True)

    @property
    def pid(self) -> int | None:
        """Process id of the sender that runs now."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    @property
    def alive(self) -> bool:
        """Whether a sender runs."""
        return self.pid is not None

    def start(self) -> None:
        """Start the sender and keep it alive until `stop`."""
        if self._keeper.is_alive():
            raise SetupError("sender", expected="one start", got="a second")
        self._spawn()
        self._keeper.start()

    def wake(self) -> None:
        """Say that images were queued; takes microseconds, never waits."""
        self._write(_WAKE)

    def expect(self) -> None:
        """Say that a scan has begun: its first image shall find an open association."""
        self._write(_EXPECT)

    def probe(self) -> None:
        """Ask for another try at destinations that are down, now (after `Journal.resend`, say)."""
        self._write(_PROBE)

    def stop(self, timeout_s: float = 10.0) -> None:
        """Let the sender finish the image in hand and end; kill it if it does not within `timeout_s`."""
        with self._lock:
            self._stopping.set()
            process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                LOG.error("sender %d does not end; killed (what it was sending is sent again)", process.pid)
                process.kill()
                process.wait()
        if self._keeper.is_alive():
            self._keeper.join(timeout_s)
        with self._lock:
            self._close_pipe()

    def __enter__(self) -> SenderProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _spawn(self) -> None:
        with self._lock:  # so that `stop` sees either no new sender or all of it
            if self._stopping.is_set():
                return
            self._close_pipe()
            read_fd, self._wake_fd = os.pipe()
            os.set_blocking(self._wake_fd, False)
            command = [sys.executable, "-m", MODULE, "--data", str(self.data), "--config", str(self._config)]
            command += ["--wake-fd", str(read_fd), *self._options]
            try:
                self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[read_fd])
            except OSError as error:
                raise SetupError("sender", expected="a new process", got=str(error)) from error
            finally:
                os.close(read_fd)

    def _keep(self) -> None:
        """Start the sender again whenever it ends; pause longer when it ends at once."""
        pause_s = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            process, began = self._process, time.monotonic()
            if process is None:
                return
            code = process.wait()
            if self._stopping.is_set():
                return
            pause_s = _FIRST_PAUSE_S if time.monotonic() - began > _HEALTHY_S else min(2 * pause_s, _LONGEST_PAUSE_S)
            LOG.error("sender %d ended with %d; a new one in %.1f s", process.pid, code, pause_s)
            if self._stopping.wait(pause_s):
                return
            self.restarts += 1
            try:
                self._spawn()
            except SetupError:
                LOG.exception("sender: cannot be started")

    def _write(self, message: bytes) -> None:
        with self._lock, suppress(OSError):  # full: it is awake already; broken: its successor looks by itself
            if self._wake_fd is not None:
                os.write(self._wake_fd, message)

    def _close_pipe(self) -> None:
        if self._wake_fd is not None:
            os.close(self._wake_fd)
            self._wake_fd = None
