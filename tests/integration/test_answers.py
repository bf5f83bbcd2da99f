"""The last word: written down, kept over a restart, and followed by what it says."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from acquisition.errors import ConfigError
from acquisition.items import Image
from acquisition.verdict import Level, Verdict
from integration.answers import REPORTS, Counter, tidy
from integration.cli import OK, WRONG, run
from integration.delivery.answers import Answer, Word
from integration.delivery.destination import Destination
from integration.delivery.journal import Journal
from integration.delivery.rows import Job
from integration.delivery.spool import Spool
from integration.delivery.states import JobState
from integration.dicom.rejection import KEY_OBJECTS
from integration.dicom.report import COMPREHENSIVE_3D_SR
from integration.export import SpoolExporter
from tests.integration.dicom_samples import full_scan, grid_of, parsed

HOLD = Verdict(
    check="check.motion", level=Level.HOLD, advice="The patient moved: repeat.", value=3.0, limit=1.0, unit="mm"
)
JOB = "20260304-050607-1a2b3c4d"


def archive(name: str, **changes: str) -> Destination:
    return Destination.model_validate({"name": name, "host": "127.0.0.1", "port": 104, "ae_title": "X"} | changes)


PACS = archive("pacs")
TOLD = archive("told", verdicts="report", rejections="key_object")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal.sqlite") as opened:
        yield opened


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", reserve_bytes=0)


def exported(tmp_path: Path, journal: Journal, spool: Spool, *destinations: Destination) -> None:
    """A scan with a conventional image and a map that a check holds."""
    scan = full_scan()
    journal.open_job(Job(job=JOB, scan_uid=scan.uid, modality="MR", protocol="p"))
    exporter = SpoolExporter(spool, journal, destinations=destinations, scan=scan, job=JOB, reports=tmp_path / REPORTS)
    image = Image(data=np.arange(192, dtype=np.float32).reshape(4, 6, 8) + 1, grid=grid_of()).with_verdicts(HOLD)
    exporter.send(image)
    exporter.send(replace(image, output="map"))
    exporter.finish([HOLD])
    journal.finish_job(JOB, JobState.COMPLETE, verdicts=[HOLD])


def queued(journal: Journal, destination: str) -> list[str]:
    return [d.sop_class for d in journal.deliveries(JOB) if d.destination == destination]


def test_an_answer_survives_a_restart_and_the_last_one_counts(tmp_path: Path, journal: Journal, spool: Spool) -> None:
    exported(tmp_path, journal, spool, PACS)
    counter = Counter(tmp_path, journal, spool, destinations=[PACS])
    counter.give(Answer(job=JOB, word=Word.REPEAT, who=" A.  Muster ", why="moved"))
    counter.give(Answer(job=JOB, word=Word.ACCEPT, who="B. Muster"))
    with Journal(tmp_path / "journal.sqlite") as again:
        first, last = again.answers.of(JOB)
        assert (first.word, first.who, first.why) == (Word.REPEAT, "A. Muster", "moved")
        assert first.at > 1.7e9
        assert again.answers.last(JOB) == last
        assert last.word is Word.ACCEPT


def test_what_is_held_goes_nowhere_until_it_is_accepted(tmp_path: Path, journal: Journal, spool: Spool) -> None:
    exported(tmp_path, journal, spool, PACS)
    counter = Counter(tmp_path, journal, spool, destinations=[PACS])
    assert len(queued(journal, "pacs")) == 4
    assert len(journal.answers.held(JOB)) == 4
    assert counter.give(Answer(job=JOB, word=Word.REPEAT, who="A")).sent == 0
    assert len(queued(journal, "pacs")) == 4
    assert counter.give(Answer(job=JOB, word=Word.ACCEPT, who="A")).sent == 4
    assert len(queued(journal, "pacs")) == 8
    assert journal.answers.held(JOB) == []
    assert counter.give(Answer(job=JOB, word=Word.ACCEPT, who="A")).sent == 0
    assert spool.sweep(journal.spooled()) == []


def test_without_an_archive_what_waits_goes_on_waiting(tmp_path: Path, journal: Journal, spool: Spool) -> None:
    exported(tmp_path, journal, spool)
    outcome = Counter(tmp_path, journal, spool, destinations=[]).give(Answer(job=JOB, word=Word.ACCEPT, who="A"))
    assert "no archive" in outcome.note
    assert len(journal.answers.held(JOB)) == 4


def test_only_archives_that_asked_get_the_report_and_only_a_person_rejects(
    tmp_path: Path, journal: Journal, spool: Spool
) -> None:
    exported(tmp_path, journal, spool, PACS, TOLD)
    assert COMPREHENSIVE_3D_SR not in queued(journal, "pacs")
    assert queued(journal, "told").count(COMPREHENSIVE_3D_SR) == 1
    assert KEY_OBJECTS not in queued(journal, "told")  # a HOLD alone rejects nothing
    counter = Counter(tmp_path, journal, spool, destinations=[PACS, TOLD])
    assert counter.give(Answer(job=JOB, word=Word.REPEAT, who="A")).told == ()
    assert KEY_OBJECTS not in queued(journal, "told")
    assert counter.give(Answer(job=JOB, word=Word.REJECT, who="Muster^A", why="moved")).told == ("told",)
    assert queued(journal, "told").count(KEY_OBJECTS) == 1
    assert KEY_OBJECTS not in queued(journal, "pacs")
    (path,) = [d.path for d in journal.deliveries(JOB) if d.sop_class == KEY_OBJECTS]
    ds = parsed(Path(path).read_bytes())
    assert (ds.PatientID, ds.StudyInstanceUID, ds.Modality) == ("P-77", "1.2.3.4", "KO")


def test_who_rejects_too_late_or_to_nobody_is_told(tmp_path: Path, journal: Journal, spool: Spool) -> None:
    exported(tmp_path, journal, spool, PACS, TOLD)
    no = Answer(job=JOB, word=Word.REJECT, who="A")
    assert "rejections: key_object" in Counter(tmp_path, journal, spool, destinations=[PACS]).give(no).note
    assert tidy(tmp_path, retention_s=3600.0) == 0
    assert tidy(tmp_path, retention_s=-1.0) == 1
    assert "too long ago" in Counter(tmp_path, journal, spool, destinations=[TOLD]).give(no).note


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"job": "unknown"}, "expected a scan that is over, got none"),
        ({"job": "open"}, "got a scan that still runs"),
        ({"who": "  "}, "expected who says so"),
        ({"why": "x" * 501}, "at most 500 characters"),
    ],
)
def test_an_answer_needs_a_scan_and_a_name(
    tmp_path: Path, journal: Journal, spool: Spool, changes: dict[str, str], message: str
) -> None:
    exported(tmp_path, journal, spool, PACS)
    journal.open_job(Job(job="open", scan_uid="s", modality="MR", protocol="p"))
    answer = replace(Answer(job=JOB, word=Word.ACCEPT, who="A"), **changes)
    with pytest.raises(ConfigError, match=message):
        journal.answers.note(answer)
    assert journal.answers.of(answer.job) == []


def test_a_journal_from_before_there_were_answers_gets_them(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    Journal(path).close()
    with sqlite3.connect(path) as raw:
        raw.execute("DROP TABLE answers")
        raw.execute("DROP TABLE held")
    raw.close()
    with Journal(path) as journal:
        journal.open_job(Job(job="j", scan_uid="s", modality="MR", protocol="p"))
        journal.finish_job("j", JobState.COMPLETE)
        journal.answers.note(Answer(job="j", word=Word.ACCEPT, who="A"))
        assert journal.answers.last("j").word is Word.ACCEPT


# The command


def test_the_command_lists_and_answers(
    tmp_path: Path, journal: Journal, spool: Spool, capsys: pytest.CaptureFixture[str]
) -> None:
    exported(tmp_path, journal, spool, PACS)
    data = ["--data", str(tmp_path), "--archive", "127.0.0.1:104:PACS"]
    assert run(["answer", *data]) == OK
    told = capsys.readouterr().out
    assert JOB in told
    assert "4 images wait" in told
    assert "The patient moved" in told
    assert run(["answer", JOB, "accept", "--who", "A. Muster", *data, "--json"]) == OK
    outcome = json.loads(capsys.readouterr().out)
    assert (outcome["sent"], outcome["answer"]["word"]) == (4, "accept")
    assert run(["answer", *data, "--json"]) == OK
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([JOB], "expected accept or repeat or reject"),
        (["nothing", "accept", "--who", "A"], "expected a scan that is over, got none"),
        ([JOB, "accept"], "give a name"),
        ([JOB, "perhaps", "--who", "A"], "invalid choice"),
    ],
)
def test_a_wrong_answer_is_refused(
    tmp_path: Path,
    journal: Journal,
    spool: Spool,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    exported(tmp_path, journal, spool, PACS)
    assert run(["answer", *arguments, "--data", str(tmp_path)]) == WRONG
    assert message in capsys.readouterr().err
    assert run(["answer", "--data", str(tmp_path / "nowhere")]) == WRONG
    assert "no journal in it" in capsys.readouterr().err
