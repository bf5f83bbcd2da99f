"""The status page: what it tells, and to whom."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from integration.delivery.destination import Destination
from integration.delivery.states import DeliveryState
from integration.doors.page import PAGE
from integration.service import Service
from tests.integration.delivery_samples import until
from tests.integration.doors_samples import Wire, as_bytes, serving, stream, talk

DEAD = Destination(
    name="dead", host="127.0.0.1", port=1, ae_title="NOBODY", backoff_first_s=0.05, max_outage_s=0.05, timeout_s=1
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with one exam that was delivered nowhere."""
    with serving(tmp_path_factory.mktemp("data"), DEAD, http_port=0) as running:
        talk(running.mrd_port, as_bytes(stream()))
        yield running


def ask(service: Service, path: str, *, method: str = "GET", **headers: str) -> tuple[int, Any]:
    request = urllib.request.Request(f"http://127.0.0.1:{service.http_port}{path}", method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            body, code = answer.read(), answer.status
    except urllib.error.HTTPError as error:
        body, code = error.read(), error.code
    try:
        return code, json.loads(body)
    except ValueError:
        return code, body.decode()


def test_it_is_alive_and_ready(service: Service) -> None:
    assert ask(service, "/healthz")[1]["status"] == "ok"
    assert ask(service, "/readyz") == (200, {"ready": True, "troubles": []})


def test_it_is_not_ready_without_room_and_says_why(service: Service) -> None:
    reserve = service.spool.reserve_bytes
    service.spool.reserve_bytes = service.spool.free_bytes + (1 << 30)
    try:
        code, said = ask(service, "/readyz")
    finally:
        service.spool.reserve_bytes = reserve
    assert code == 503
    assert "free" in said["troubles"][0]


def test_exams_are_told_with_states_and_findings(service: Service) -> None:
    code, said = ask(service, "/exams")
    assert code == 200
    (exam,) = said["exams"]
    assert (exam["state"], exam["images"], exam["protocol"]) == ("COMPLETE", 3, "plain")
    assert "dead" in said["destinations"]
    assert said["free_bytes"] > 0
    detail = ask(service, f"/exams/{exam['job']}")[1]
    assert len(detail["timeline"]) == len(detail["deliveries"]) == 3
    assert set(detail["latency_ms"]) == {"made", "wire", "spool"}


def test_a_scan_that_runs_is_told_with_its_progress(service: Service) -> None:
    with Wire(service.mrd_port) as wire:
        wire.send(*stream()[:30])
        until(lambda: [e for e in ask(service, "/exams")[1]["exams"] if e.get("readouts", 0) > 20])
        wire.send(*stream()[30:])
        wire.until_closed()


def test_no_patient_data_are_shown(service: Service) -> None:
    for path in ("/exams", "/deliveries", "/"):
        assert "PHANTOM" not in json.dumps(ask(service, path)[1])


def test_dead_letters_are_listed_and_sent_again(service: Service) -> None:
    until(lambda: ask(service, "/deliveries?state=DEAD")[1], 20)
    code, said = ask(service, "/deliveries/dead/resend", method="POST")
    assert code == 200
    assert said["resent"] >= 3
    until(lambda: len(ask(service, "/deliveries?state=DEAD")[1]) >= 3, 20)
    assert ask(service, "/deliveries/all/resend", method="POST")[0] == 200
    assert all(d["state"] in tuple(DeliveryState) for d in ask(service, "/deliveries")[1])


@pytest.mark.parametrize(
    ("path", "method", "headers", "code", "message"),
    [
        ("/exams/none", "GET", {}, 404, "see /exams"),
        ("/exams?limit=0", "GET", {}, 400, "from 1 to"),
        ("/exams?limit=x", "GET", {}, 400, "a whole number"),
        ("/deliveries?state=LOST", "GET", {}, 400, "QUEUED"),
        ("/deliveries/nobody/resend", "POST", {}, 404, "no destination nobody"),
        ("/deliveries/dead/resend", "GET", {}, 405, ""),
        ("/deliveries/dead/resend", "POST", {"Origin": "http://evil.example"}, 403, "another site"),
        ("/exams", "GET", {"Host": "evil.example"}, 400, "nvalid host"),
        ("/nothing", "GET", {}, 404, ""),
    ],
)
def test_what_is_wrongly_asked_is_refused(
    service: Service, path: str, method: str, headers: dict[str, str], code: int, message: str
) -> None:
    answer = ask(service, path, method=method, **headers)
    assert answer[0] == code
    assert message in json.dumps(answer[1])


def test_the_page_needs_nothing_from_elsewhere(service: Service) -> None:
    assert ask(service, "/")[1] == PAGE
    assert not re.search(r"https?://|src=|@import", PAGE)
