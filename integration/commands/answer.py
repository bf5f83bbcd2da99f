"""Say the last word on a scan: accept what the gate holds, have it repeated, or reject it; or list what waits.

accept sends what was held back. repeat only says so. reject tells the archives that want to know (rejections:
key_object in their settings) by a Key Object; they may hide the images at once. Every answer is kept with who, when and
why; the last one counts.

Exit codes: 0 the answer is written down; 1 something failed; 2 no such scan, or no name given.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

from acquisition.errors import ConfigError
from acquisition.verdict import Level
from integration.answers import Counter, Outcome
from integration.cli import OK
from integration.commands.settings_arguments import add_settings, settings_of
from integration.delivery.answers import Answer, Word
from integration.delivery.journal import Journal
from integration.delivery.rows import Job
from integration.delivery.spool import Spool
from integration.settings import GIB, Settings

EXAMPLES = """
  isocenter answer
  isocenter answer 20260304-050607-1a2b3c4d accept --who "A. Muster"
  isocenter answer 20260304-050607-1a2b3c4d repeat --who "A. Muster" --why "the patient moved"
  isocenter answer 20260304-050607-1a2b3c4d reject --who "A. Muster" --why "wrong patient position" --json
"""

_LISTED = 100


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("job", nargs="?", metavar="JOB", help="the scan's job (default: list the scans that ask)")
    parser.add_argument("word", nargs="?", choices=[w.value for w in Word], help="the answer")
    parser.add_argument("--who", default="", metavar="NAME", help="who says so")
    parser.add_argument("--why", default="", metavar="TEXT", help="the reason, in your words")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_settings(parser)


def run(options: argparse.Namespace) -> int:
    """Answer, or list.

    Raises
    ------
    ConfigError
        There is no journal, no such scan, no name, or no answer.
    """
    settings = settings_of(options)
    path = settings.data / "journal.sqlite"
    if not path.exists():
        raise ConfigError("--data", expected="the data folder of a service", got=f"{settings.data}: no journal in it")
    with Journal(path) as journal:
        if options.job is None:
            _list(journal, as_json=options.json)
            return OK
        if options.word is None:
            raise ConfigError(f"answer to {options.job}", expected=" or ".join(Word), got="none")
        answer = Answer(job=options.job, word=Word(options.word), who=options.who, why=options.why)
        outcome = _counter(settings, journal).give(answer)
    _tell(outcome, as_json=options.json)
    return OK


def _counter(settings: Settings, journal: Journal) -> Counter:
    spool = Spool(settings.data / "spool", reserve_bytes=int(settings.reserve_gib * GIB))
    return Counter(Path(settings.data), journal, spool, destinations=settings.destinations)


def _list(journal: Journal, *, as_json: bool) -> None:
    rows = [_row(journal, job) for job in journal.jobs(_LISTED) if _asks(journal, job)]
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        print("{job}  {modality} {protocol}, {waiting} images wait".format(**row))
        for reason in row["reasons"]:  # type: ignore[attr-defined]
            print(f"    {reason}")
    if not rows:
        print("no scan waits for an answer")


def _asks(journal: Journal, job: Job) -> bool:
    held = any(verdict.get("level") == Level.HOLD for verdict in job.verdicts)
    waits = job.finished_at is not None and (held or bool(journal.answers.held(job.job)))
    return waits and journal.answers.last(job.job) is None


def _row(journal: Journal, job: Job) -> dict[str, object]:
    severe = [v for v in job.verdicts if v.get("level") != Level.PASS]
    return {
        "job": job.job,
        "modality": job.modality,
        "protocol": job.protocol,
        "opened": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job.opened_at)),
        "waiting": len(journal.answers.held(job.job)),
        "reasons": [f"{v['level']} {v['check']}: {v['advice']}" for v in severe],
    }


def _tell(outcome: Outcome, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(outcome)))
        return
    answer = outcome.answer
    print(f"{answer.job}: {answer.word} by {answer.who}" + (f": {answer.why}" if answer.why else ""))
    if outcome.sent:
        print(f"{outcome.sent} images that waited are sent")
    if outcome.told:
        print(f"told of the rejection: {', '.join(outcome.told)}")
    if outcome.note:
        print(outcome.note)
