"""Send a raw data file to an MRD server, ours or any other, as a scanner does, and keep the images that come back."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from acquisition.sources import open_raw
from acquisition.sources.mrd_file import write_images
from integration.commands.arguments import add_changes, address, changes_of
from integration.doors.mrd_client import Answer, Arrival, MrdClient
from integration.timeline import percentiles

EXAMPLES = """
  isocenter send raw.h5 --to 127.0.0.1:9002 --pace scanner -o images.h5
  isocenter send raw.h5 --to 127.0.0.1:9002 -p mri_cartesian --set mri.grappa.kernel=2,5
  isocenter send raw.h5 --to gadgetron:9002 -p default.xml --json
"""

_SPEED = {"scanner": 1.0, "max": float("inf")}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("raw", type=Path, metavar="RAW", help="ISMRMRD/MRD file or recording")
    parser.add_argument("--to", type=address, required=True, metavar="HOST:PORT", help="the server")
    parser.add_argument("-p", "--protocol", default="auto", help="config to ask for (default: %(default)s)")
    add_changes(parser)
    parser.add_argument(
        "--pace", choices=tuple(_SPEED), default="max", help="as the scanner measured, or as fast as it goes (default)"
    )
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="write the images to this MRD file")
    parser.add_argument("--json", action="store_true", help="print what came back as one JSON object")


def run(options: argparse.Namespace) -> int:
    """Send; return 1 when the server reported an error or no image came back."""
    raw, changes = open_raw(options.raw), changes_of(options.set)
    config = {"protocol": options.protocol, "set": changes} if changes else options.protocol
    with MrdClient(*options.to, on_event=None if options.json else _tell) as client:
        answer = client.send(raw.scan, raw.items(), config=config, speed=_SPEED[options.pace])
    if options.out is not None and answer.images:
        write_images(options.out, answer.images, scan=raw.scan)
    report = _report(answer, options.out)
    if options.json:
        print(json.dumps(report))
    else:
        for line in _lines(report):
            print(line)
    return 1 if report["troubles"] else 0


def _report(answer: Answer, out: Path | None) -> dict[str, object]:
    latencies = [a.latency_ms for a in answer.arrivals if a.latency_ms is not None]
    return {
        "readouts": answer.sent,
        "images": len(answer.images),
        "latency_ms": percentiles(latencies),
        "texts": answer.texts,
        "troubles": answer.troubles(),
        "file": str(out) if out is not None and answer.images else None,
    }


def _lines(report: dict[str, object]) -> list[str]:
    latency = report["latency_ms"]
    times = "{p50:.0f} ms (p99 {p99:.0f} ms) after their last readout".format(**latency) if latency else ""  # type: ignore[arg-type]
    lines = [f"sent {report['readouts']} readouts, got {report['images']} images {times}".rstrip()]
    if report["file"]:
        lines.append(f"images in {report['file']}")
    return lines + [f"trouble: {text}" for text in report["troubles"]]  # type: ignore[attr-defined]


def _tell(event: str | Arrival) -> None:
    if isinstance(event, str):
        print(event, file=sys.stderr)
    elif event.latency_ms is not None:
        image = event.image
        where = f"slice {image.position.slice}, contrast {image.position.contrast}, {image.output}"
        print(f"image {where}: {event.latency_ms:.0f} ms after its last readout", file=sys.stderr)
