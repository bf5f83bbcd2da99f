"""The HTTP interface: what it tells, what it takes in, what it refuses and how it says so."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Iterator, MutableMapping
from dataclasses import replace

import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.requests import Request

from integration.console import pulse
from integration.console.access import Right
from integration.console.app import Console
from integration.console.exams import grouped
from integration.console.models import AnswerBody, PlanBody
from integration.console.replies import RefusedError, told
from integration.console.table import TABLE, Address
from integration.console.views import Views
from integration.service import Service
from tests.integration.console_samples import DEAD, PLAN, ask, console, events, job_of
from tests.integration.delivery_samples import until
from tests.integration.doors_samples import Wire, stream

MOVED = {"centre_mm": [1.0, 2.0, 30.0], "normal": [0.0, 0.0, 1.0], "in_plane": [1.0, 0.0, 0.0]}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with console(tmp_path_factory.mktemp("data"), DEAD, scans=2) as running:
        yield running


def test_exams_are_told_by_patient_and_study(service: Service) -> None:
    said = ask(service, "/api/exams").json
    newest, oldest = said["exams"]
    assert newest["patient"] == {"name": "PHANTOM^ISOCENTER", "id": "PHANTOM-0001", "birth_date": "19700101"}
    assert (newest["state"], newest["images"], newest["level"], newest["findings"]) == ("COMPLETE", 3, "FLAG", 1)
    assert newest["series"]["body_part"] == "HEAD" and newest["progress"] is None
    (group,) = said["patients"]
    assert group["exams"] == [newest["job"], oldest["job"]]
    assert ask(service, "/api/exams?patient=nobody").json["exams"] == []
    assert len(ask(service, "/api/exams?limit=1").json["exams"]) == 1
    one = ask(service, f"/api/exams/{newest['job']}").json
    same = {"job", "patient", "series", "images", "level", "state"}
    assert {name: one[name] for name in same} == {name: newest[name] for name in same}


def test_a_scan_that_runs_is_told_with_its_progress_and_its_pictures(service: Service) -> None:
    with Wire(service.mrd_port) as wire:
        messages = stream()
        wire.send(*messages[:30])
        until(lambda: (ask(service, "/api/exams").json["exams"][0]["progress"] or {}).get("images", 0) >= 1)
        row = ask(service, "/api/exams").json["exams"][0]
        assert row["state"] == "RECEIVING" and 0.3 < row["progress"]["part"] < 0.9
        until(lambda: ask(service, f"/api/exams/{row['job']}/images").json["series"])
        assert ask(service, f"/api/exams/{row['job']}/verdicts").json["verdicts"][0]["check"] == "check.ghost"
        code = ask(service, f"/api/exams/{row['job']}/answers", method="POST", body={"word": "accept", "who": "me"})
        assert code.status == 422 and "a scan that is over" in code.json["expected"]
        wire.send(*messages[30:])
        wire.until_closed()


def test_pictures_are_the_images_that_were_made(service: Service) -> None:
    base = f"/api/exams/{job_of(service)}/images"
    assert ask(service, base).json["series"][0]["slices"] == 3
    frames = ask(service, f"{base}/conventional").json["frames"]
    assert [f["at_mm"] for f in frames] == [20.0, 25.0, 30.0]
    raw = ask(service, f"{base}/conventional/1.raw")
    shape = [int(n) for n in raw.headers["X-Shape"].split(",")]
    codes = np.frombuffer(raw.body, raw.headers["X-Type"]).reshape(shape)
    assert codes.max() * float(raw.headers["X-Slope"]) == pytest.approx(frames[1]["top"], rel=0.5)
    png = ask(service, f"{base}/conventional/1.png?centre=0.4&width=0.8&size=16")
    assert png.body[:8] == b"\x89PNG\r\n\x1a\n" and png.headers["Content-Type"] == "image/png"
    assert ask(service, f"{base}/conventional?after=2").json["frames"][0]["number"] == 2


def test_findings_name_the_pictures_that_show_them(service: Service) -> None:
    (found,) = [
        v for v in ask(service, f"/api/exams/{job_of(service)}/verdicts").json["verdicts"] if v["level"] == "FLAG"
    ]
    assert found["times"] == 3 and found["value"] == 0.12
    for place in found["pictures"]:
        path = f"/api/exams/{job_of(service)}/images/{place['output']}/{place['number']}.png"
        assert ask(service, path).status == 200


def test_a_persons_word_is_kept_and_shown(service: Service) -> None:
    path = f"/api/exams/{job_of(service)}/answers"
    for word in ("repeat", "accept"):
        body = {"word": word, "who": " A. Muster ", "why": "the patient moved"}
        reply = ask(service, path, method="POST", body=body)
        assert reply.status == 201 and reply.json["who"] == "A. Muster"
    assert [a["word"] for a in ask(service, path).json["answers"]] == ["repeat", "accept"]
    assert ask(service, "/api/exams").json["exams"][0]["answer"]["word"] == "accept"
    assert service.journal.answers.last(job_of(service)).who == "A. Muster"  # type: ignore[union-attr]


def test_a_plan_is_moved_and_the_move_forgotten(service: Service) -> None:
    path = f"/api/exams/{job_of(service)}/plan"
    before = ask(service, path).json
    assert before["adjusted"] is None and before["automatic"]["centre_mm"] == list(PLAN.centre_mm)
    after = ask(service, path, method="PUT", body=MOVED).json
    assert after["adjusted"]["centre_mm"] == [1.0, 2.0, 30.0] and after["adjusted"]["n_slices"] == PLAN.n_slices
    assert after["automatic"] == before["automatic"]
    assert ask(service, path, method="DELETE").json == before


def test_deliveries_are_told_and_tried_again(service: Service) -> None:
    def dead() -> int:
        (row,) = ask(service, "/api/destinations").json["destinations"]
        return int(row["counts"].get("DEAD", 0))

    until(dead, 20)
    reply = ask(service, "/api/destinations/dead/retry", method="POST")
    assert reply.status == 202 and reply.json["resent"] >= 1
    assert ask(service, f"/api/destinations/all/retry?job={job_of(service)}", method="POST").status == 202


def test_protocols_and_load(service: Service) -> None:
    assert ask(service, "/api/protocols").json["protocols"][0]["name"] == "plain"
    assert ask(service, "/api/protocols/plain").json["steps"] == []
    load = ask(service, "/api/load").json
    assert 0 <= load["disk"] <= 1 and load["cores"] >= 1 and load["process_bytes"] > 1 << 20


def test_figures_for_prometheus_are_well_formed_and_name_nobody(service: Service) -> None:
    reply = ask(service, "/metrics")
    assert reply.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    text = reply.body.decode()
    line = re.compile(r'[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? -?[0-9.e+-]+')
    rows = [row for row in text.splitlines() if not row.startswith("#")]
    assert rows and all(line.fullmatch(row) for row in rows)
    assert "isocenter_ready 1" in rows and any(row.startswith('isocenter_exams{state="COMPLETE"}') for row in rows)
    assert "PHANTOM" not in text and job_of(service) not in text


@pytest.mark.parametrize(
    ("path", "method", "body", "code", "message"),
    [
        ("/api/exams/none", "GET", None, 404, "see /api/exams"),
        ("/api/exams/none/verdicts", "GET", None, 404, "a known exam"),
        ("/api/exams?limit=0", "GET", None, 400, "a whole number from 1 to 200"),
        ("/api/exams?limit=%C2%B2", "GET", None, 400, "a whole number"),
        ("/api/exams?limit=9999999999999999999999", "GET", None, 400, "a whole number"),
        ("/api/exams/JOB/images/none", "GET", None, 404, "a known output"),
        ("/api/exams/JOB/images/conventional/99.png", "GET", None, 404, "look into the archive"),
        ("/api/exams/JOB/images/conventional/x.png", "GET", None, 404, ""),
        ("/api/exams/JOB/images/conventional/0.png?width=0", "GET", None, 400, "above 0"),
        ("/api/exams/JOB/images/conventional/0.png?centre=nan", "GET", None, 400, "a finite number"),
        ("/api/exams/JOB/images/conventional/0.png?size=100000", "GET", None, 400, "from 16 to 4096"),
        ("/api/exams/JOB/answers", "POST", {"word": "maybe", "who": "me"}, 422, "'accept', 'repeat' or 'reject'"),
        ("/api/exams/JOB/answers", "POST", {"word": "accept", "who": "  "}, 422, "answer to"),
        ("/api/exams/JOB/answers", "POST", {"word": "accept", "who": "me", "x": 1}, 422, "x: expected"),
        ("/api/exams/JOB/answers", "POST", [1], 400, "a JSON object"),
        ("/api/exams/none/answers", "POST", {"word": "accept", "who": "me"}, 404, "a known exam"),
        ("/api/exams/JOB/plan", "PUT", MOVED | {"normal": [0, 0, 2]}, 422, "perpendicular unit vectors"),
        ("/api/exams/JOB/plan", "PUT", MOVED | {"centre_mm": [0, 0]}, 422, "centre_mm"),
        ("/api/exams/JOB/plan", "PUT", MOVED | {"n_slices": 10**9}, 422, "n_slices"),
        ("/api/protocols/none", "GET", None, 404, "a known protocol"),
        ("/api/destinations/none/retry", "POST", None, 404, "a known destination"),
        ("/api/destinations", "POST", None, 405, ""),
        ("/api/nothing", "GET", None, 404, "see /api"),
        ("/console/..%2Fapp.py", "GET", None, 404, ""),
        ("/console/app.py", "GET", None, 404, "a known file"),
    ],
)
def test_what_is_wrongly_asked_is_refused_with_what_to_do(
    service: Service, path: str, method: str, body: object, code: int, message: str
) -> None:
    reply = ask(service, path.replace("JOB", job_of(service)), method=method, body=body)
    assert reply.status == code, reply.body
    assert {"error", "where", "expected", "got", "action"} <= set(reply.json)
    assert message in reply.json["error"]


def test_no_plan_no_move(service: Service) -> None:
    job = job_of(service)
    exhibit = service.house.gallery._exhibits[job]
    exhibit.plans, kept = [], exhibit.plans
    try:
        assert ask(service, f"/api/exams/{job}/plan").json == {"automatic": None, "adjusted": None}
        assert ask(service, f"/api/exams/{job}/plan", method="PUT", body=MOVED).status == 404
    finally:
        exhibit.plans = kept


def test_bodies_have_a_type_and_a_limit(service: Service) -> None:
    path = f"/api/exams/{job_of(service)}/answers"
    assert ask(service, path, method="POST", raw=b"{}", Content_Type="text/plain").status == 415
    assert ask(service, path, method="POST", raw=b"{", Content_Type="application/json").status == 400
    assert ask(service, path, method="POST", raw=b"[" * 40000).status == 400
    large = ask(service, path, method="POST", raw=b" " * (65 << 10))
    assert large.status == 413 and "65536 bytes" in large.json["expected"]


def test_a_page_from_elsewhere_can_change_nothing(service: Service) -> None:
    path, evil = f"/api/exams/{job_of(service)}", {"Origin": "http://evil.example"}
    body = {"word": "reject", "who": "evil"}
    assert ask(service, f"{path}/answers", method="POST", body=body, **evil).status == 403
    assert ask(service, f"{path}/plan", method="PUT", body=MOVED, **evil).status == 403
    assert ask(service, "/api/destinations/dead/retry", method="POST", **evil).status == 403
    assert ask(service, "/api/exams", Host="evil.example").status == 400
    assert not [a for a in service.journal.answers.of(job_of(service)) if a.who == "evil"]


def test_all_requests_pass_the_one_guard_with_the_right_they_need(service: Service) -> None:
    asked: list[tuple[str, str]] = []

    def nobody(request: Request, right: Right) -> None:
        asked.append((request.method, right.value))
        raise RefusedError("guard", status=403, expected="somebody", got="nobody", action="sign in")

    routes = Console(service, guard=nobody).routes()
    app = Starlette(routes=routes, exception_handlers={RefusedError: told})  # type: ignore[dict-item]
    for row in [*TABLE, Address(path="/api/events", view="exams")]:
        status: list[int] = []
        scope = {"type": "http", "method": row.method, "path": re.sub(r"{\w+(:int)?}", "1", row.path), "headers": []}

        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: MutableMapping[str, object], found: list[int] = status) -> None:
            if message["type"] == "http.response.start":
                found.append(int(str(message["status"])))

        asyncio.run(app(scope | {"query_string": b"", "root_path": ""}, receive, send))
        assert status == [403], row.path
        assert asked[-1] == (row.method, row.right.value)


def test_every_address_that_changes_something_needs_a_right() -> None:
    assert {row.right == "look" for row in TABLE if row.method == "GET"} == {True}
    assert not [row.path for row in TABLE if row.method != "GET" and row.right == "look"]


def test_the_documentation_lists_every_address_and_model(service: Service) -> None:
    document = ask(service, "/api/openapi.json").json
    assert document["openapi"].startswith("3.1")
    listed = {(path, method.upper()) for path, methods in document["paths"].items() for method in methods}
    assert {(re.sub(r":int", "", row.path), row.method) for row in TABLE} < listed
    assert {AnswerBody.__name__, PlanBody.__name__, "Word", "Error"} <= set(document["components"]["schemas"])
    references = re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document))
    assert set(references) <= set(document["components"]["schemas"])
    page = ask(service, "/api").body.decode()
    assert all(re.sub(r":int", "", row.path) in page for row in TABLE)
    assert all(getattr(Views, row.view).__doc__ for row in TABLE)


def test_events_tell_everything_first_and_then_what_changes(service: Service) -> None:
    found = events(service, 6)
    assert {"exam", "images", "plan", "load", "ready", "destination"} & {name for name, _ in found}
    exam = next(said for name, said in events(service, 12) if name == "exam")
    assert exam["value"]["job"] == exam["key"]
    with socket.create_connection(("127.0.0.1", service.http_port or 0), timeout=20) as listener:
        listener.sendall(b"GET /api/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        stream = listener.makefile("rb")
        while b"event: ready" not in stream.readline():
            pass
        ask(
            service, f"/api/exams/{job_of(service)}/answers", method="POST", body={"word": "repeat", "who": "B. Muster"}
        )
        while b"B. Muster" not in stream.readline():
            pass


def test_too_many_listeners_are_refused_and_those_that_go_make_room(service: Service) -> None:
    request = b"GET /api/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    sockets = []
    for _ in range(pulse.MOST_LISTENERS + 1):
        sockets.append(socket.create_connection(("127.0.0.1", service.http_port or 0), timeout=20))
        sockets[-1].sendall(request)
        first = sockets[-1].recv(1 << 12)
    assert b"503" in first.split(b"\r\n")[0]
    for s in sockets:
        s.close()
    until(lambda: events(service, 1), 20)


def test_the_console_is_off_unless_it_is_asked_for(tmp_path: pytest.TempPathFactory) -> None:
    with console(tmp_path, picture_bytes=0) as plain:  # type: ignore[arg-type]
        assert ask(plain, "/api/exams").status == 404
        assert b"Exams" in ask(plain, "/").body
        assert not plain.house.gallery.used_bytes


def test_a_restarted_service_tells_exams_without_patients_or_pictures(tmp_path: pytest.TempPathFactory) -> None:
    with console(tmp_path) as first:  # type: ignore[arg-type]
        job = job_of(first)
        ask(first, f"/api/exams/{job}/answers", method="POST", body={"word": "accept", "who": "A"})
    with console(tmp_path, scans=0) as second:  # type: ignore[arg-type]
        row = ask(second, f"/api/exams/{job}").json
        assert row["patient"] == {} and row["images"] == 3 and row["answer"]["who"] == "A"
        assert ask(second, f"/api/exams/{job}/images").json == {"series": []}
        assert replace(PLAN) == PLAN


def test_two_people_with_one_id_are_not_put_together() -> None:
    row = {"job": "a", "patient": {"id": "1", "name": "A", "birth_date": None}, "series": {"study_uid": None}}
    other = row | {"job": "b", "patient": {"id": "1", "name": "B", "birth_date": None}}
    assert [[e["job"] for e in group["exams"]] for group in grouped([row, other, row])] == [["a", "a"], ["b"]]
