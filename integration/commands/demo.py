"""See it work: an archive, the service and virtual scanners start here, exams become DICOM before your eyes."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path

from acquisition.errors import ConfigError
from integration.cli import FAILED, OK
from integration.demo import House, Outcome, house, mri_exam
from integration.demo_ct import LAST_SLICE, ct_exam
from integration.demo_pet import FINAL_IMAGE, FIRST_PREVIEW, pet_exam
from integration.steps import one_of

EXAMPLES = """
  isocenter demo
  isocenter demo --once --json
  isocenter demo --once --json --exam ct
  isocenter demo --exam pet
  isocenter demo --console --exam mri
  isocenter demo --speed 4 --data ./demo
"""

_STATIONS = {
    "made": "pixels ready",
    "wire": "back on the wire to the scanner",
    "spool": "safe on disk",
    "archive archive": "archive has answered",
    LAST_SLICE: "last slice there, after the gantry's last view",
    FIRST_PREVIEW: "first preview there, after the begin of the scan",
    FINAL_IMAGE: "final image there, after the last event",
}
_LAST_DATA = {
    "MR": "after the last readout of the image",
    "CT": "after the last view of the slice",
    "PT": "after the last event of the image",
}

EXAMS: Mapping[str, Callable[..., Outcome]] = {"mri": mri_exam, "ct": ct_exam, "pet": pet_exam}
"""By the name for --exam, in the order in which they run."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--exam", metavar="NAME", help=f"only this one of {', '.join(EXAMS)} (default: all)")
    parser.add_argument("--once", action="store_true", help="end after the exams, even at a terminal")
    parser.add_argument("--json", action="store_true", help="print the outcomes as JSON: {exams: [one per exam]}")
    parser.add_argument("--speed", type=float, default=1.0, metavar="N", help="times the scanner's pace (default: 1)")
    parser.add_argument("--console", action="store_true", help="serve the console page, and go on until Ctrl-C")
    parser.add_argument("--http-port", type=int, default=0, metavar="N", help="its port (default: a free one)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder to work in (default: a new one)")


def run(options: argparse.Namespace) -> int:
    """Run the exams; at a terminal, stay until Ctrl-C so that the status page can be looked at.

    Raises
    ------
    ConfigError
        There is no such exam.
    """
    exams = chosen(options.exam)
    folder = options.data or Path(tempfile.mkdtemp(prefix="isocenter-demo-"))
    started = time.monotonic()

    def tell(line: str) -> None:
        print(f"{time.monotonic() - started:6.1f} s  {line}", file=sys.stderr, flush=True)

    tell("starting archive and service")
    with place_of(options, folder) as place:
        what = "console" if options.console else "status page"
        tell(f"scanners are heard at 127.0.0.1:{place.mrd_port}, {what} {place.page}")
        outcomes = [exam(place, speed=options.speed, tell=tell) for exam in exams]
        _show(outcomes, as_json=options.json)
        if not options.once and not options.json and (options.console or sys.stdout.isatty()):
            _stay(place)
    return FAILED if any(outcome.troubles for outcome in outcomes) else OK


def place_of(options: argparse.Namespace, folder: Path) -> AbstractContextManager[House]:
    """Return what starts archive and service, with the console page if it is asked for."""
    if not options.console:
        return house(folder)
    from integration.demo_console import console_house

    return console_house(folder, http_port=options.http_port)


def chosen(name: str | None) -> list[Callable[..., Outcome]]:
    """Return the exam `name`, or all.

    Raises
    ------
    ConfigError
        There is no such exam.
    """
    if name is None:
        return list(EXAMS.values())
    if name not in EXAMS:
        raise ConfigError(
            f"--exam {name}",
            expected=one_of(name, EXAMS),
            got=repr(name),
            action="leave --exam out to see all",
        )
    return [EXAMS[name]]


def _show(outcomes: list[Outcome], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"exams": [asdict(outcome) for outcome in outcomes]}), flush=True)
        return
    for outcome in outcomes:
        print(f"\n{outcome.modality} {outcome.series}: {outcome.images} images in the archive")
        print(f"  {_LAST_DATA[outcome.modality]:<48}{'median':>10}{'p99':>10}")
        for station, text in _STATIONS.items():
            if values := outcome.latency_ms.get(station):
                print(f"  {text:<48}{values['p50']:>7.0f} ms{values['p99']:>7.0f} ms")
        for verdict in outcome.verdicts:
            if verdict["level"] != "PASS":
                print(f"  {verdict['level']} {verdict['check']}: {verdict['advice']}")
        for trouble in outcome.troubles:
            print(f"  trouble: {trouble}")
        print(f"  DICOM files: {outcome.dicom_dir}")


def _stay(place: House) -> None:
    print(f"\nThe service goes on: {place.page}  (Ctrl-C ends it)", flush=True)
    try:
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        print()
