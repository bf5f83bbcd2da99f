"""The console page in a real browser: what a person sees and does, by mouse and by keyboard, in both languages."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acquisition.scan import Scan
from integration.console.app import STATIC
from integration.delivery.journal import Journal
from integration.delivery.spool import Spool
from integration.doors.request import Request
from integration.house import Hooks
from integration.service import Plan, Service
from integration.session import Prepared
from tests.browser import Browser
from tests.conftest import ROOT
from tests.integration.console_samples import DEAD, PLAN, ask, console_rooms, job_of
from tests.integration.delivery_samples import until
from tests.integration.doors_samples import Wire, as_bytes, plan, stream, talk

pytestmark = pytest.mark.peer("chromium")
DRAWN = "document.querySelector('#canvas').dataset.drawn"


def doubled_rooms(plan: Plan, journal: Journal, spool: Spool) -> Hooks:
    """As the console's samples, with a second, darker result."""
    hooks = console_rooms(plan, journal, spool)

    def prepare(request: Request, scan: Scan, job: str) -> Prepared:
        made = hooks.prepare(request, scan, job)
        feed = made.run.feed

        def twice(item: Any) -> Iterator[Any]:
            for image in feed(item):
                yield image
                yield replace(image, data=image.data / 4, output="denoised")

        made.run.feed = twice  # type: ignore[method-assign]
        return made

    return replace(hooks, prepare=prepare)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    data = tmp_path_factory.mktemp("data")
    with Service(plan(data, DEAD, http_port=0, picture_bytes=64 << 20), doubled_rooms) as running:
        talk(running.mrd_port, as_bytes(stream()))
        yield running


@pytest.fixture(scope="module")
def browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    with Browser() as started:
        yield started


@pytest.fixture
def page(service: Service, browser: Browser) -> Browser:
    """The page, freshly opened in English, its picture drawn."""
    browser.console.clear()
    browser.requests.clear()
    browser.goto(f"http://127.0.0.1:{service.http_port}/?lang=en")
    browser.until("!!globalThis.isocenter")
    browser.until(DRAWN)
    return browser


def text(page: Browser, selector: str) -> str:
    return str(page.run(f"document.querySelector('{selector}').innerText"))


def brightness(page: Browser) -> float:
    """Mean grey of the canvas."""
    return float(
        page.run(
            """(() => { const c = document.querySelector('#canvas'), d = c.getContext('2d')
            .getImageData(0, 0, c.width, c.height).data; let s = 0; for (let i = 0; i < d.length; i += 4) s += d[i];
            return s / d.length * 4; })()"""
        )
    )


def centre(page: Browser, selector: str = "#canvas") -> tuple[float, float]:
    box = page.run(
        f"(b => [b.x, b.y, b.width, b.height])(document.querySelector('{selector}').getBoundingClientRect())"
    )
    return box[0] + box[2] / 2, box[1] + box[3] / 2


def settle(page: Browser) -> None:
    page.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")


def test_everything_comes_from_the_service_and_nothing_fails(service: Service, page: Browser) -> None:
    assert page.console == []
    assert {url.split("/")[2] for url in page.requests if url.startswith("http")} == {f"127.0.0.1:{service.http_port}"}
    assert "PHANTOM, ISOCENTER" in text(page, "#exams") and "virtual_gre" in text(page, "#exams")
    assert text(page, "#ready") == "Ready for scans"
    assert "CPU" in text(page, "#load") or "Memory" in text(page, "#load")


def test_slices_window_and_zoom_by_mouse(page: Browser) -> None:
    page.key("p")  # the plan's handles are not in the way
    page.key("c")
    page.key("c")
    assert page.run("isocenter.viewer.mode") == "single"
    x, y = centre(page)
    before, first = brightness(page), page.run(DRAWN)
    page.drag((x + 40, y - 60), (x + 40, y - 140))
    settle(page)
    assert brightness(page) > 1.1 * before  # dragged up: the window's centre falls, the picture is brighter
    page.drag((x + 40, y), (x + 40, y + 160))
    settle(page)
    assert brightness(page) < before
    page.mouse("mouseWheel", x, y, deltaX=0, deltaY=100)
    page.until(f"{DRAWN} && {DRAWN} !== {json.dumps(first)}")
    page.mouse("mouseWheel", x, y, deltaX=0, deltaY=-100, modifiers=2)
    assert page.run("isocenter.viewer.zoom") > 1.2
    page.run("document.querySelector('#canvas').dispatchEvent(new MouseEvent('dblclick'))")
    settle(page)
    assert page.run("isocenter.viewer.zoom") == 1


def test_slices_and_pictures_by_keyboard(page: Browser) -> None:
    page.key("p")
    assert page.run("isocenter.place") == 1
    page.key("ArrowDown")
    page.until(f"{DRAWN} === 'conventional 2'")
    page.key("ArrowDown")
    assert page.run("isocenter.place") == 2  # the last one stays
    page.key("ArrowUp")
    page.until(f"{DRAWN} === 'conventional 1'")
    dark = brightness(page)
    page.key("i")
    settle(page)
    assert brightness(page) > dark
    page.key("?")
    assert page.run("document.querySelector('#help').open")
    page.key("Escape")
    page.until("!document.querySelector('#help').open")


def test_two_results_are_held_side_by_side(page: Browser) -> None:
    page.key("p")
    assert page.run("[isocenter.left, isocenter.right, isocenter.viewer.mode]") == ["conventional", "denoised", "wipe"]
    page.until("isocenter.viewer.right")
    settle(page)
    half = brightness(page)
    for _ in range(24):
        page.key("ArrowRight")
    settle(page)
    assert page.run("isocenter.viewer.wipe") == 1
    whole = brightness(page)
    assert whole > 1.1 * half  # the darker result is wiped away
    x, y = centre(page)
    edge = page.run("document.querySelector('#canvas').getBoundingClientRect().right")
    page.drag((edge - 3, y), (x - 200, y))
    settle(page)
    assert brightness(page) < half
    page.key("c")
    settle(page)
    assert page.run("isocenter.viewer.mode") == "side"


def test_findings_are_told_in_words_with_their_picture(page: Browser) -> None:
    page.until("document.querySelectorAll('#findings .flag').length")
    assert text(page, "#banner b") == "Usable, but look first"
    assert "Ghosts" in text(page, "#findings") and "A ghost was seen." in text(page, "#findings")
    assert "0.12 (limit 0.05)" in re.sub(r"\s+", " ", text(page, "#findings"))
    page.until("document.querySelector('.evidence img').naturalWidth > 0")
    page.key("PageDown")
    page.click(".evidence")
    page.until("!isocenter.following")
    assert page.console == []


def test_an_answer_is_given_by_keyboard(service: Service, page: Browser) -> None:
    page.run("localStorage.removeItem('who')")
    page.key("r")
    page.until("document.querySelector('#ask').open")
    assert "Repeat – PHANTOM, ISOCENTER" in text(page, "#ask-title")
    page.key("Enter")
    assert page.run("document.querySelector('#ask').open")  # nobody signed
    for letter in "mc":
        page.key(letter)
    page.click("#reasons button")
    page.run("document.querySelector('#ask-who').focus()")
    page.key("Enter")
    until(lambda: service.journal.answers.last(job_of(service)))
    answer = service.journal.answers.last(job_of(service))
    assert answer is not None and (answer.word, answer.who, answer.why) == ("repeat", "mc", "The patient moved")
    page.until("document.querySelector('#banner b').innerText === 'To be repeated'")
    page.key("a")
    page.until("document.querySelector('#ask').open")
    assert page.run("document.querySelector('#ask-who').value") == "mc"  # the name is remembered
    page.click("#ask-cancel")
    page.until("!document.querySelector('#ask').open")
    assert len(service.journal.answers.of(job_of(service))) == 1


def test_the_plan_is_moved_and_turned_with_the_mouse(service: Service, page: Browser) -> None:
    job = job_of(service)
    page.until("isocenter.planning && isocenter.viewer.left")
    settle(page)
    where = "isocenter.plan(), isocenter.viewer.left.frame, isocenter.viewer.map()"
    find = f"import('/console/hand.js').then(h => h.handles({where}))"
    box = page.run("(b => [b.x, b.y])(document.querySelector('#canvas').getBoundingClientRect())")
    at = page.run(find)
    scale = page.run("(m => m.perPixel[0] / isocenter.viewer.left.frame.spacing_mm[1])(isocenter.viewer.map())")
    start = (box[0] + at["centre"][0], box[1] + at["centre"][1])
    page.drag(start, (start[0] + 20 * scale, start[1] - 10 * scale))
    until(lambda: ask(service, f"/api/exams/{job}/plan").json["adjusted"])
    moved = ask(service, f"/api/exams/{job}/plan").json["adjusted"]
    np.testing.assert_allclose(np.subtract(moved["centre_mm"], PLAN.centre_mm), (20, -10, 0), atol=1.0)
    at = page.run(find)
    middle, end = np.add(box, at["centre"]), np.add(box, at["ends"][0])
    angle = np.deg2rad(20)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    page.drag(tuple(end), tuple(middle + turn @ (end - middle)), steps=10)
    until(lambda: abs(ask(service, f"/api/exams/{job}/plan").json["adjusted"]["in_plane"][1]) > 0.3)
    turned = ask(service, f"/api/exams/{job}/plan").json["adjusted"]
    np.testing.assert_allclose(turned["in_plane"], (np.cos(angle), np.sin(angle), 0), atol=0.02)
    np.testing.assert_allclose(turned["centre_mm"], moved["centre_mm"], atol=1e-6)
    page.click("#unplan")
    until(lambda: ask(service, f"/api/exams/{job}/plan").json["adjusted"] is None)


def test_the_plan_is_moved_and_turned_from_the_keyboard(service: Service, page: Browser) -> None:
    job = job_of(service)
    page.until("isocenter.planning && isocenter.viewer.left")
    for _ in range(3):
        page.key("ArrowRight")
    page.key("ArrowDown", shift=True)
    until(lambda: ask(service, f"/api/exams/{job}/plan").json["adjusted"])
    moved = ask(service, f"/api/exams/{job}/plan").json["adjusted"]
    np.testing.assert_allclose(np.subtract(moved["centre_mm"], PLAN.centre_mm), (3, 0, 0), atol=1e-6)
    assert np.rad2deg(np.arctan2(moved["in_plane"][1], moved["in_plane"][0])) == pytest.approx(1.0, abs=1e-6)
    ask(service, f"/api/exams/{job}/plan", method="DELETE")


def test_lines_of_the_plan_are_where_its_slices_meet_the_picture(page: Browser) -> None:
    frame = {"origin_mm": [5.0, -80, 90], "x_dir": [0, 1, 0], "y_dir": [0, 0, -1], "spacing_mm": [2.0, 1.5]}
    tilt = np.deg2rad(20)
    plan = PLAN.as_dict() | {"normal": [0.0, -np.sin(tilt), np.cos(tilt)]}
    script = f"import('/console/plan.js').then(p => p.lines({json.dumps(plan)}, {json.dumps(frame)}))"
    found = page.run(script)
    assert [row["index"] for row in found] == list(range(PLAN.n_slices))
    for row in found:
        for px, py in row["ends"]:
            place = np.array([5.0, -80 + 1.5 * px, 90 - 2.0 * py])
            height = (place - PLAN.centre_mm) @ plan["normal"]
            assert height == pytest.approx((row["index"] - 2) * PLAN.slice_distance_mm, abs=1e-6)
        ends = np.array(row["ends"]) * (1.5, 2.0)
        assert np.linalg.norm(ends[0] - ends[1]) == pytest.approx(PLAN.fov_mm[0], abs=1e-6)
    away = PLAN.as_dict() | {"centre_mm": [500.0, 0, 0]}
    assert page.run(f"import('/console/plan.js').then(p => p.lines({json.dumps(away)}, {json.dumps(frame)}))") == []


def test_dead_letters_are_sent_again(service: Service, page: Browser) -> None:
    page.until("!!document.querySelector('.destination.bad button')", 30)
    page.click(".destination button")
    page.until("!document.querySelector('#toast').hidden")
    assert "sent again to dead" in text(page, "#toast")


def test_a_scan_appears_slice_by_slice_while_it_runs(service: Service, page: Browser) -> None:
    with Wire(service.mrd_port) as wire:
        messages = stream()
        wire.send(*messages[:30])
        page.until("!!document.querySelector('.exam.live') && document.querySelector('#banner').className === 'live'")
        page.until(f"{DRAWN} === 'conventional 0'")
        assert page.run("document.querySelector('.exam.live progress').value") > 0.3
        assert page.run("document.querySelector('#accept').disabled")
        wire.send(*messages[30:])
        page.until("isocenter.places().length === 3")
        wire.until_closed()
    page.until("!document.querySelector('#accept').disabled")
    assert page.console == []


def test_both_languages_fit_both_screens(service: Service, browser: Browser) -> None:
    for language, words in (("en", "Exams"), ("fr", "Examens")):
        for width, height in ((1280, 800), (1920, 1080)):
            browser.resize(width, height)
            browser.goto(f"http://127.0.0.1:{service.http_port}/?lang={language}")
            browser.until("!!globalThis.isocenter && document.querySelectorAll('.exam').length > 0")
            assert words in text(browser, "#exams")
            root = "document.scrollingElement"
            assert browser.run(f"{root}.scrollWidth <= innerWidth && {root}.scrollHeight <= innerHeight")
            size = "parseFloat(getComputedStyle(document.querySelector('{}')).fontSize)"
            assert browser.run(size.format("#banner b")) >= 0.0205 * width  # read from two metres
            assert browser.run(size.format("#accept")) >= 0.0175 * width
            beyond = "b.right > innerWidth + 1 || b.bottom > innerHeight + 1"
            outside = f"""[...document.querySelectorAll('button, select')].filter(e => e.offsetParent
                && !e.closest('dialog') && (b => {beyond})(e.getBoundingClientRect())).length"""
            assert browser.run(outside) == 0
    browser.resize(1280, 800)


def flat(document: dict[str, Any]) -> dict[str, str]:
    return {f"{a}.{b}": words for a, rows in document.items() if a != "sentences" for b, words in rows.items()}


def test_both_languages_have_the_same_words_and_places() -> None:
    english, french = (flat(json.loads((STATIC / f"{name}.json").read_text())) for name in ("en", "fr"))
    assert english.keys() == french.keys()
    for key in english:
        assert set(re.findall(r"{\w+}", english[key])) == set(re.findall(r"{\w+}", french[key])), key
    sentences = json.loads((STATIC / "fr.json").read_text())["sentences"]
    assert all(known.count("#") == words.count("#") for known, words in sentences.items())


def test_every_word_that_the_page_asks_for_is_there() -> None:
    english = flat(json.loads((STATIC / "en.json").read_text()))
    source = "".join(path.read_text() for path in [*STATIC.glob("*.js"), *STATIC.glob("*.html")])
    asked = set(re.findall(r"""(?:\bt\(|data-(?:t|title|label)=)["']([a-z]+\.\w+)["']""", source))
    assert len(asked) > 40 and asked <= english.keys()


def checks_in_the_code() -> set[str]:
    """Names of checks that are written out as ``Verdict(check="...")``."""
    found = set()
    for package in ("acquisition", "recon", "models", "integration"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Verdict":
                    names = [k.value for k in node.keywords if k.arg == "check"]
                    found |= {str(n.value) for n in names if isinstance(n, ast.Constant)}
    return found


def test_every_check_has_a_name_for_people() -> None:
    english = json.loads((STATIC / "en.json").read_text())["checks"]
    assert checks_in_the_code() <= set(english)


def test_files_of_the_page_are_small_and_name_no_other_host() -> None:
    for path in STATIC.iterdir():
        assert path.stat().st_size < 30_000
        assert not re.search(r"https?://", path.read_text()), path
    assert {path.suffix for path in STATIC.iterdir()} == {".html", ".css", ".js", ".json"}
    assert isinstance(STATIC, Path)
