"""Reconstruct a raw data file with the same engine as the service; write DICOM, an array, or what was found."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from acquisition.errors import ConfigError, ReconError
from acquisition.items import Events, Image, Projections, Readouts
from acquisition.sources import RawFile, open_raw
from acquisition.verdict import Level, Verdict
from integration import router
from integration.commands.arguments import add_changes, changes_of
from integration.companion import fingerprint
from integration.doors.request import AUTO
from integration.export import FolderExporter
from integration.gate import holds
from integration.protocol import Library, Protocol
from integration.runner import Run
from integration.volume import Volumes
from kernels.memory import keep_memory

EXAMPLES = """
  isocenter reconstruct raw.h5 -o dicom/
  isocenter reconstruct raw.h5 -p mri_cartesian --set mri.grappa.kernel=2,5 -o dicom/ --npy volume.npy
  isocenter reconstruct ksp.cfl --npy volume.npy
  isocenter reconstruct views/ -p ct_helical --set ct.helical.kernel=soft -o dicom/
  isocenter reconstruct listmode.l.hdr --normalisation norm.n.hdr --attenuation mumap.hv -o dicom/
  isocenter reconstruct raw.h5 --json | jq .verdicts
"""

_RAW = "ISMRMRD/MRD file, recording, BART .cfl, folder of DICOM-CT-PD views, PETSIRD file, or list-mode's header"
_PROGRESS_S = 0.5
_FILES = ("path", "hardware")
_WITH_FILE = ("pet.normalisation", "pet.attenuation")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("raw", type=Path, metavar="RAW", help=_RAW)
    parser.add_argument("-p", "--protocol", default=AUTO, help="protocol (default: chosen by the header)")
    add_changes(parser)
    parser.add_argument(
        "--normalisation", type=Path, metavar="FILE", help="PET: the scanner's normalisation (Siemens mMR .n.hdr)"
    )
    parser.add_argument(
        "--attenuation",
        type=Path,
        metavar="PATH",
        help="PET: map of attenuation (Interfile .hv, NIfTI) or CT (DICOM folder, NIfTI with unit=HU)",
    )
    parser.add_argument("-o", "--out", type=Path, metavar="DIR", help="folder for the DICOM files")
    parser.add_argument(
        "--npy", type=Path, metavar="FILE", help="write the magnitude as float32 (z, y, x), or (frame, z, y, x)"
    )
    parser.add_argument("--protocols", type=Path, action="append", default=[], metavar="DIR", help="more protocols")
    parser.add_argument("--json", action="store_true", help="print what was done as one JSON object")


def run(options: argparse.Namespace) -> int:
    """Reconstruct; return 0 when there are images.

    Raises
    ------
    ConfigError
        Nothing is to be written.
    """
    if not (options.out or options.npy or options.json):
        raise ConfigError("what to write", expected="-o DIR, --npy FILE or --json", got="none of them")
    keep_memory()
    raw = open_raw(options.raw)
    protocol = router.choose(Library(options.protocols), raw.scan, options.protocol)
    protocol = protocol.with_changes(changes_of(options.set) | _files_of(options))
    job = job_of(raw, protocol)
    exporter = FolderExporter(options.out, raw.scan, job=job) if options.out else None
    work, volumes, paths, seen = Run(raw.scan, protocol), Volumes(), list[str](), dict[Verdict, None]()
    started, n_images = time.perf_counter(), 0
    for image in _passed(reconstructed(work, _watched(raw, quiet=options.json)), seen):
        n_images += 1
        if exporter is not None:
            receipt = exporter.send(image)
            paths += map(str, receipt.paths)
            seen |= dict.fromkeys(receipt.verdicts)
        if options.npy:
            volumes.add(image)
    seconds = time.perf_counter() - started
    if not n_images:
        raise _nothing(options.raw, protocol.name)
    found = dict.fromkeys([*seen, *work.verdicts])  # what the header says is in every image and of the scan
    report = {
        "protocol": protocol.name,
        "job": job,
        "modality": raw.scan.modality,
        **asdict(work.summary),
        "dicom_dir": str(options.out) if options.out else None,
        "files": len(paths),
        "seconds": round(seconds, 3),
        "verdicts": [v.as_dict() for v in found],
    }
    if options.npy:
        report["npy"] = volumes.write(options.npy)
    _tell(report, found, as_json=options.json)
    return 0


def _passed(images: Iterable[Image], seen: dict[Verdict, None]) -> Iterator[Image]:
    """Yield what the gate lets through; note what was found of all."""
    for image in images:
        seen.update(dict.fromkeys(image.verdicts))
        if not holds(image):
            yield image


def _nothing(raw: Path, protocol: str) -> ReconError:
    return ReconError(
        f"{raw}",
        expected=f"images from protocol {protocol}",
        got="none",
        action="is it a noise or adjustment scan? `isocenter protocols explain RAW` tells what would fit",
    )


def _files_of(options: argparse.Namespace) -> dict[str, object]:
    named = {f"{step}.path": getattr(options, step.removeprefix("pet.")) for step in _WITH_FILE}
    return {key: str(path) for key, path in named.items() if path}


def reconstructed(work: Run, items: Iterable[object]) -> Iterator[Image]:
    """Yield the images of a run from its items."""
    work.open()
    for item in items:
        yield from work.feed(item)
    yield from work.close()


def job_of(raw: RawFile, protocol: Protocol) -> str:
    """Return an identifier that the same files and the same protocol have again: the same UIDs, the same files."""
    size = raw.path.stat().st_size if raw.path.is_file() else 0  # of a folder it says nothing of what is in it
    digest = hashlib.sha256(f"{raw.scan.uid}\n{raw.scan.header}\n{size}\n".encode())
    digest.update("\n".join((protocol.name, *protocol.summary())).encode())
    named = [Path(str(v[key])) for step, v in protocol.steps if step in _WITH_FILE for key in _FILES if v.get(key)]
    if files := [path for path in named if path.exists()]:
        digest.update(fingerprint(files).encode())
    return f"offline-{digest.hexdigest()[:24]}"


def _watched(raw: RawFile, *, quiet: bool) -> Iterator[object]:
    """Yield the items; tell a person at a terminal how far it is."""
    told, n = time.monotonic(), 0
    show = not quiet and sys.stderr.isatty()
    for item in raw.items():
        yield item
        n += len(item) if isinstance(item, Readouts | Projections | Events) else 0
        if show and time.monotonic() - told > _PROGRESS_S:
            told = time.monotonic()
            print(f"\r{n} {_noun(raw.scan.modality)}", end="", file=sys.stderr, flush=True)
    if show:
        print(f"\r{n} {_noun(raw.scan.modality)}", file=sys.stderr)


def _noun(modality: object) -> str:
    return {"CT": "views", "PT": "coincidences"}.get(str(modality), "readouts")


def _tell(report: dict[str, object], verdicts: Iterable[Verdict], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(report))
        return
    images = ", ".join(f"{n} {name}" for name, n in report["images"].items())  # type: ignore[attr-defined]
    taken = f"{report['prompts'] or report['readouts']} {_noun(report['modality'])}"
    print(f"{report['protocol']}: {taken} -> {images} in {report['seconds']:.2f} s")
    if report["dicom_dir"]:
        print(f"{report['files']} DICOM files in {report['dicom_dir']}")
    for verdict in dict.fromkeys((v.level, v.check, v.advice) for v in verdicts if v.level is not Level.PASS):
        print("{}  {}: {}".format(*verdict))
    if "npy" in report:
        print("volume {shape} in {file}".format(**report["npy"]))  # type: ignore[arg-type]
