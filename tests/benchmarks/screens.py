"""Screenshots of the console page: virtual scanners, the real service, a real browser; written to ``console/``.

Run as ``python -m tests.benchmarks.screens [FOLDER]``: each scene in English on a small and in French on a large screen
(with FOLDER: in both languages on both). The slice plan is the rig's own example, not a network's.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image

from acquisition.items import SlicePlan
from acquisition.scan import Scan
from acquisition.sources.phantom.exam import MriExam
from acquisition.sources.phantom.exam import demo_exam as mri_demo
from acquisition.sources.phantom.pet_exam import PetExam
from acquisition.sources.phantom.pet_faults import PetFaults, jump
from integration.commands.serve import warm_up
from integration.delivery.destination import Destination
from integration.delivery.journal import Journal
from integration.delivery.spool import Spool
from integration.demo import ARCHIVE, House, archive, mri_exam
from integration.demo_console import PROTOCOL
from integration.demo_ct import ct_exam
from integration.demo_feed import NAME
from integration.demo_pet import pet_exam
from integration.doors.request import Request
from integration.house import Hooks
from integration.protocol import Library
from integration.rooms import rooms
from integration.service import Plan, Service
from integration.session import Prepared
from integration.settings import Settings
from kernels.memory import keep_memory
from tests.browser import Browser, browser_path

FOLDER = Path(__file__).parent / "console"
SMALL, LARGE = (1280, 800), (1920, 1080)
SHOWN = (("en", SMALL), ("fr", LARGE))
ALL = (*SHOWN, ("fr", SMALL), ("en", LARGE))
LARGEST = 300_000
"""Of one picture [bytes]."""
LOCALIZER = "localizer_sag"
_PET_S = 6.0
_TILT = np.deg2rad(12.0)
EXAMPLE = SlicePlan(
    name="brain-acpc",
    centre_mm=(0.0, -6.0, 14.0),
    normal=(0.0, float(-np.sin(_TILT)), float(np.cos(_TILT))),
    in_plane=(1.0, 0.0, 0.0),
    fov_mm=(200.0, 180.0),
    n_slices=11,
    slice_distance_mm=10.0,
    confidence=0.93,
)
"""Stands in for a planner: eleven slices tilted by 12 degrees."""


def planning(plan: Plan, journal: Journal, spool: Spool) -> Hooks:
    """The service's rooms, where a localizer comes with the example's plan."""
    hooks = rooms(Library())(plan, journal, spool)

    def prepare(request: Request, scan: Scan, job: str) -> Prepared:
        prepared = hooks.prepare(request, scan, job)
        return replace(prepared, plans=[EXAMPLE]) if scan.protocol_name == LOCALIZER else prepared

    return replace(hooks, prepare=prepare)


@contextmanager
def place(folder: Path) -> Iterator[tuple[House, Service]]:
    """A service with the console, an archive that answers and one that does not."""
    keep_memory()
    warm_up(Settings())
    with archive(folder) as port:
        there = Destination(name=NAME, host="127.0.0.1", port=port, ae_title=ARCHIVE)
        gone = Destination(
            name="workstation",
            host="127.0.0.1",
            port=1,
            ae_title="GONE",
            backoff_first_s=0.1,
            max_outage_s=1,
            timeout_s=1,
        )
        plan = Plan(data=folder / "s", mrd_port=0, http_port=0, destinations=(there, gone), picture_bytes=512 << 20)
        with Service(plan, planning) as service:
            house = House(
                mrd_port=service.mrd_port,
                http_port=service.http_port or 0,
                archive=folder / "archive",
                archive_port=port,
                service=service,
                mri_protocol=PROTOCOL,
            )
            yield house, service


class Photographer:
    """Takes each scene in both languages and sizes.

    Parameters
    ----------
    browser
        The browser.
    house
        The console.
    folder
        For the pictures.
    """

    def __init__(self, browser: Browser, house: House, folder: Path) -> None:
        self.browser, self._house, self._folder = browser, house, folder
        self._wanted = SHOWN if folder == FOLDER else ALL
        self.written: list[Path] = []

    def open(self, language: str) -> None:
        """Open the page."""
        self.browser.goto(f"{self._house.page}/?lang={language}")
        self.browser.until("document.querySelectorAll('.exam').length > 0 && document.documentElement.dataset.language")

    def take(self, scene: str, prepare: Callable[[Browser], None]) -> None:
        """Open, prepare and photograph one scene."""
        for language, (width, height) in self._wanted:
            self.browser.resize(width, height)
            self.open(language)
            prepare(self.browser)
            self.shot(f"{scene}_{language}_{width}x{height}")

    def shot(self, name: str) -> None:
        """Photograph what is there."""
        time.sleep(0.6)
        path = self._folder / f"{name}.png"
        self.browser.screenshot(path)
        with PIL.Image.open(path) as picture:
            picture.convert("RGB").quantize(256).save(path, optimize=True)
        self.written.append(path)


def exam(series: str) -> Callable[[Browser], None]:
    """Return what chooses the exam of a series and waits for its picture."""

    def choose(browser: Browser) -> None:
        name = f"[...document.querySelectorAll('.exam')].find(e => e.textContent.includes('{series}'))"
        browser.until(f"!!{name}")
        browser.run(f"{name}.click()")
        drawn = "!!document.querySelector('#canvas').dataset.drawn"
        browser.until(f"document.querySelector('#series').textContent.includes('{series}') && {drawn}")

    return choose


def live(camera: Photographer, house: House) -> None:
    """An MRI exam while it runs, at a quarter of the scanner's pace: the camera is slow."""
    head = mri_demo().at(matrix=(12, 192, 192), n_coils=8)
    scan = threading.Thread(target=mri_exam, args=(house,), kwargs={"exam": head, "speed": 0.25}, daemon=True)
    scan.start()
    for language, (width, height), n in (("en", SMALL, 3), ("fr", LARGE, 7)):
        camera.browser.resize(width, height)
        camera.open(language)
        made = "Number(document.querySelector('#slice').max)"
        camera.browser.until(f"!!document.querySelector('.exam.live') && {made} >= {n}", 120)
        camera.shot(f"live_{language}_{width}x{height}")
    scan.join()


def plan_moved(browser: Browser) -> None:
    """The localizer with its plan, moved and turned by hand."""
    exam(LOCALIZER)(browser)
    browser.run("isocenter.resetPlan()")
    browser.run("document.querySelector('#canvas').focus()")
    for key, shift, times in (("ArrowDown", False, 6), ("ArrowRight", True, 5)):
        for _ in range(times):
            browser.key(key, shift=shift)
    browser.until("document.querySelector('#unplan').style.visibility === ''")
    time.sleep(0.8)


def asked(browser: Browser) -> None:
    """The question whether to repeat."""
    exam("torso_fdg")(browser)
    browser.key("r")
    browser.until("document.querySelector('#ask').open")
    browser.run("document.querySelector('#ask-who').value = 'M. Curie'")
    browser.run("document.querySelector('#reasons button').click()")


def main() -> int:
    """Make all pictures; exit code 2 without a browser, 1 when a picture is too large."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[0].endswith("screens.py") else FOLDER
    if browser_path() is None:
        print("no Chromium is installed (`make peers` installs it on Debian as root)")
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work, place(Path(work)) as (house, _), Browser() as browser:
        camera = Photographer(browser, house, folder)
        live(camera, house)
        ct_exam(house, speed=8)
        motion = PetFaults(motion=jump(_PET_S / 2, (12.0, 0.0, 0.0)))
        pet_exam(house, exam=PetExam(duration_s=_PET_S, faults=motion, seed=4), speed=8)
        localizer = MriExam(
            matrix=(7, 160, 160), orientation="sagittal", thickness_mm=6.0, gap_mm=6.0, n_coils=8, snr=60
        )
        mri_exam(replace(house, mri_protocol=""), exam=localizer.at(protocol_name=LOCALIZER), speed=20)
        camera.take("plan", plan_moved)
        camera.take("compare", exam(mri_demo().protocol_name))
        camera.take("ct", exam("chest_helical"))
        camera.take("pet", exam("torso_fdg"))
        camera.take("answer", asked)
        browser.run("document.querySelector('#ask').close(); document.querySelector('#help-button').click()")
        camera.take("keys", lambda b: b.key("?"))
    for path in camera.written:
        print(f"{path.name:40} {path.stat().st_size / 1e3:6.0f} kB")
    return 1 if any(path.stat().st_size > LARGEST for path in camera.written) else 0


if __name__ == "__main__":
    sys.exit(main())
