"""The demonstration with the console page: one service in this process takes all exams, so that one page shows them.

Figures of latency are those of `demo`, where scanner and service do not share a process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from integration.commands.serve import warm_up
from integration.delivery.destination import Destination
from integration.demo import ARCHIVE, House, archive
from integration.demo_feed import NAME
from integration.protocol import Library
from integration.rooms import rooms
from integration.service import Plan, Service
from integration.settings import Settings
from kernels.memory import keep_memory

PROTOCOL = "mri_cartesian_nlm"
"""Protocol of the MRI exam: two results, to be held side by side."""


@contextmanager
def console_house(folder: Path, *, http_port: int = 0) -> Iterator[House]:
    """Start an archive, and a service with the console page in this process; stop both at the end.

    Parameters
    ----------
    folder
        To work in.
    http_port
        Port of the page; 0: a free one.

    Raises
    ------
    SetupError
        The archive does not start, or the port is taken.
    """
    settings = Settings(console=True)
    keep_memory()
    warm_up(settings)
    with archive(folder) as port:
        destination = Destination(name=NAME, host="127.0.0.1", port=port, ae_title=ARCHIVE)
        plan = Plan(
            data=folder / "service",
            mrd_port=0,
            http_port=http_port,
            destinations=(destination,),
            picture_bytes=settings.plan().picture_bytes,
        )
        with Service(plan, rooms(Library())) as service:
            yield House(
                mrd_port=service.mrd_port,
                http_port=service.http_port or 0,
                archive=folder / "archive",
                archive_port=port,
                service=service,
                mri_protocol=PROTOCOL,
            )
