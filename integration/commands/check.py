"""Is this series usable? Checks raw data (reconstructed on the way, nothing is exported), DICOM images, or NIfTI.

PASS: use it. FLAG: use it, but look first. HOLD: a person decides, perhaps to repeat. With a reference protocol it is
also said what was measured otherwise; --make-reference writes one from a good exam.

Exit codes: 0 PASS; 3 FLAG; 4 HOLD; 1 it could not be checked; 2 wrongly asked for. Of several series the gravest.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

from acquisition.errors import ConfigError
from acquisition.scan import Scan
from acquisition.verdict import Level, worst
from integration import router
from integration.checker import Checked, check
from integration.cli import OK
from integration.commands.arguments import add_changes, changes_of
from integration.conformity import read_reference, written_reference
from integration.doors.request import AUTO
from integration.protocol import Library, Protocol
from kernels.memory import keep_memory

EXAMPLES = """
  isocenter check raw.h5
  isocenter check views/ -p ct_helical --set ct.helical.kernel=soft
  isocenter check dicom/ --json | jq .decision
  isocenter check t1.nii.gz --modality MR
  isocenter check good_exam/ --make-reference brain_t1.yaml
  isocenter check follow_up/ --protocol-reference brain_t1.yaml
"""

CODES = {Level.PASS: OK, Level.FLAG: 3, Level.HOLD: 4}
"""Exit codes."""
_WHAT = "raw data (ISMRMRD/MRD, folder of DICOM-CT-PD views, list-mode), DICOM file or folder, or NIfTI file"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("path", type=Path, metavar="PATH", help=_WHAT)
    parser.add_argument("-p", "--protocol", default=AUTO, help="protocol for raw data (default: chosen by the header)")
    add_changes(parser)
    parser.add_argument("--protocols", type=Path, action="append", default=[], metavar="DIR", help="more protocols")
    parser.add_argument("--modality", choices=("MR", "CT", "PT"), help="of a NIfTI file (default: CT if it is in HU)")
    parser.add_argument(
        "--protocol-reference", type=Path, metavar="FILE", help="reference protocol (YAML) to hold the series against"
    )
    parser.add_argument("--make-reference", type=Path, metavar="FILE", help="write a reference protocol of this series")
    parser.add_argument("--json", action="store_true", help="print what was found as one JSON object")


def run(options: argparse.Namespace) -> int:
    """Check; return the exit code of the gravest finding.

    Raises
    ------
    ConfigError
        There is no such file, or a reference is to be written of several series.
    """
    if not options.path.exists():
        raise ConfigError("PATH", expected=_WHAT, got=f"{options.path}: there is none")
    keep_memory()
    reference = read_reference(options.protocol_reference) if options.protocol_reference else None
    library, changes = Library(options.protocols), changes_of(options.set)

    def choose(scan: Scan) -> Protocol:
        return router.choose(library, scan, options.protocol).with_changes(changes)

    found = check(options.path, choose=choose, modality=options.modality, reference=reference)
    if options.make_reference:
        _make_reference(options.make_reference, found)
    level = worst(v for series in found for v in series.verdicts)
    if options.json:
        print(json.dumps({"path": str(options.path), "decision": level.value, "series": [_row(s) for s in found]}))
    else:
        _tell(found, made=options.make_reference)
    return CODES[level]


def _make_reference(path: Path, found: Sequence[Checked]) -> None:
    if len(found) != 1:
        names = ", ".join(series.name for series in found)
        raise ConfigError("--make-reference", expected="one series", got=f"{len(found)}: {names}"[:200])
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", found[0].name)[:64] or "reference"
    written_reference(path, name=name, modality=found[0].modality, facts=found[0].facts)


def _row(series: Checked) -> dict[str, object]:
    return {
        "name": series.name,
        "modality": series.modality,
        "protocol": series.protocol,
        "decision": series.decision.as_dict(),
        "verdicts": [verdict.as_dict() for verdict in series.verdicts],
        "facts": series.facts,
        "seconds": series.seconds,
    }


def _tell(found: Sequence[Checked], *, made: Path | None) -> None:
    for series in found:
        how = f", protocol {series.protocol}" if series.protocol else ""
        print(f"{series.decision.level}  {series.name} ({series.modality}{how})")
        for verdict in sorted(series.verdicts, key=lambda v: (v.level is Level.PASS, v.level is Level.FLAG)):
            print(f"  {verdict.level:<5} {verdict.check:<22} {_measured(verdict.value, verdict.limit, verdict.unit)}")
            if verdict.level is not Level.PASS:
                print(f"        {verdict.advice}")
    if made:
        print(f"reference protocol in {made}")


def _measured(value: float | None, limit: float | None, unit: str) -> str:
    if value is None:
        return ""
    return f"{value:.4g} {unit}".rstrip() + ("" if limit is None else f" (limit {limit:.4g})")
