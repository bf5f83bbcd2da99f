"""What people answered when the gate asked, beside the scan in the journal; every answer is kept, the last one counts.

Images that wait for the answer are noted here, too: they lie in the spool and go nowhere until somebody accepts them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from acquisition.errors import ConfigError
from integration.delivery.database import Database

_MOST_CHARACTERS = 500


class Word(StrEnum):
    """What a person says of a scan."""

    ACCEPT = "accept"
    """It is good enough; what was held back goes out."""
    REPEAT = "repeat"
    """It is measured again; what was sent stays."""
    REJECT = "reject"
    """It is not to be looked at: marked as rejected for its quality."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One person's word on one scan."""

    job: str
    """The scan's job."""
    word: Word
    """What they said."""
    who: str
    """Their name, as the site wants to read it."""
    why: str = ""
    """Their reason, in their words."""
    at: float = 0.0
    """When [s since 1970]; set by the journal."""

    def as_dict(self) -> dict[str, str | float]:
        """Return a JSON-ready mapping."""
        return {"job": self.job, "word": self.word.value, "who": self.who, "why": self.why, "at": self.at}


class Answers:
    """The answers and the waiting images of a journal.

    Parameters
    ----------
    database
        The journal's file.
    clock
        Returns the time [s since 1970].
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._db, self._clock = database, clock

    def note(self, answer: Answer) -> Answer:
        """Write an answer down; return it with its time.

        Raises
        ------
        ConfigError
            There is no such scan, it is not over, or nobody signs.
        """
        who, why = " ".join(answer.who.split()), " ".join(answer.why.split())
        if not who or len(who) > _MOST_CHARACTERS or len(why) > _MOST_CHARACTERS:
            raise ConfigError(
                f"answer to {answer.job}",
                expected=f"who says so, and why, in at most {_MOST_CHARACTERS} characters each",
                got=f"{len(who)} and {len(why)} characters",
                action="give a name",
            )
        now = self._clock()
        with self._db.transaction():
            found = self._db.rows("SELECT finished_at FROM jobs WHERE job = :job", {"job": answer.job})
            if not found or found[0]["finished_at"] is None:
                got = "a scan that still runs" if found else "none"
                raise ConfigError(f"answer to {answer.job}", expected="a scan that is over", got=got)
            self._db.change(
                "INSERT INTO answers (job, word, who, why, at) VALUES (:job, :word, :who, :why, :at)",
                {"job": answer.job, "word": answer.word.value, "who": who, "why": why, "at": now},
            )
        return Answer(job=answer.job, word=answer.word, who=who, why=why, at=now)

    def of(self, job: str) -> list[Answer]:
        """Return all answers to one scan, the first one first."""
        rows = self._db.rows("SELECT job, word, who, why, at FROM answers WHERE job = :job ORDER BY id", {"job": job})
        return [Answer(**dict(row) | {"word": Word(row["word"])}) for row in rows]

    def last(self, job: str) -> Answer | None:
        """Return the answer that counts, or None when nobody has answered."""
        found = self.of(job)
        return found[-1] if found else None

    def hold(self, sop_uid: str, job: str) -> None:
        """Note that an image waits for an answer."""
        self._db.change("INSERT OR IGNORE INTO held (sop_uid, job) VALUES (:u, :job)", {"u": sop_uid, "job": job})

    def held(self, job: str) -> list[str]:
        """Return the UIDs of the images of one scan that wait."""
        return [r["sop_uid"] for r in self._db.rows("SELECT sop_uid FROM held WHERE job = :job", {"job": job})]

    def release(self, job: str) -> None:
        """Note that the images of one scan wait no more."""
        self._db.change("DELETE FROM held WHERE job = :job", {"job": job})
