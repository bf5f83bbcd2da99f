"""The last word: what follows when a person answers the gate's question.

accept: what waited is sent. repeat: nothing is sent, nothing is taken back. reject: archives that want to know are told
by a Key Object. All three are kept in the journal, whoever asks: the command line, or a page.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from acquisition.errors import DeliveryError
from integration.delivery.answers import Answer, Word
from integration.delivery.destination import Destination
from integration.delivery.journal import Journal
from integration.delivery.spool import Spool
from integration.dicom.rejection import rejection
from integration.export import queued

LOG = logging.getLogger(__name__)

REPORTS = "reports"
"""Name of the folder, within the service's data folder, of the scans' reports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What followed."""

    answer: Answer
    """As it was written down."""
    sent: int = 0
    """Images that waited and were queued."""
    told: tuple[str, ...] = ()
    """Archives that are told of the rejection."""
    note: str = ""
    """Why something did not follow."""


class Counter:
    """Where answers are given: journal, spool and reports of one service, which may run or not.

    Parameters
    ----------
    data
        The service's data folder.
    journal, spool
        Those of the folder.
    destinations
        The service's archives.
    """

    def __init__(self, data: Path, journal: Journal, spool: Spool, *, destinations: Sequence[Destination]) -> None:
        self._reports, self._journal, self._spool = data / REPORTS, journal, spool
        self._destinations = [d for d in destinations if d.enabled]

    def give(self, answer: Answer) -> Outcome:
        """Write an answer down and do what follows from it.

        The answer is durable before anything follows; what follows can be asked for again by the same answer.

        Raises
        ------
        ConfigError
            There is no such scan, it is not over, or nobody signs.
        StorageFullError
            The disk is nearly full.
        """
        noted = self._journal.answers.note(answer)
        LOG.info("job %s: %s", noted.job, noted.word)
        if noted.word is Word.ACCEPT:
            return self._accepted(noted)
        return self._rejected(noted) if noted.word is Word.REJECT else Outcome(answer=noted)

    def _accepted(self, answer: Answer) -> Outcome:
        names = [d.name for d in self._destinations]
        waiting = self._journal.answers.held(answer.job)
        if waiting and not names:
            return Outcome(answer=answer, note="there is no archive to send to; give one and answer again")
        with self._journal.transaction():
            for uid in waiting:
                row = self._journal.instance(uid)
                if row is None:
                    raise DeliveryError(f"journal, image {uid}", expected="the image that waits", got="none")
                self._journal.queue(row, names)
            self._journal.answers.release(answer.job)
        return Outcome(answer=answer, sent=len(waiting))

    def _rejected(self, answer: Answer) -> Outcome:
        names = tuple(d.name for d in self._destinations if d.rejections == "key_object")
        if not names:
            return Outcome(answer=answer, note="no archive is to be told (rejections: key_object in its settings)")
        path = self._reports / f"{answer.job}.dcm"
        if not path.exists():
            return Outcome(answer=answer, note="no image of this scan was sent, or too long ago: nobody is told")
        made = rejection(path.read_bytes(), answer)
        queued(made, answer.job, spool=self._spool, journal=self._journal, destinations=names)
        return Outcome(answer=answer, told=names)


def tidy(data: Path, *, retention_s: float) -> int:
    """Remove reports that are older than `retention_s`; return how many."""
    limit, gone = time.time() - retention_s, 0
    for path in (data / REPORTS).glob("*.dcm"):
        if path.stat().st_mtime < limit:
            path.unlink(missing_ok=True)
            gone += 1
    return gone
