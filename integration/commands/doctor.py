"""Check this computer before a patient lies on the table: packages, device, disk, ports, protocols, archives."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from integration.commands.settings_arguments import add_settings, settings_of
from integration.doctor import Health, examine

EXAMPLES = """
  isocenter doctor
  isocenter doctor --config /etc/isocenter.yaml --json
  isocenter doctor --archive 127.0.0.1:4242:ORTHANC
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_settings(parser)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(options: argparse.Namespace) -> int:
    """Examine; return 1 when something is at fault."""
    findings = []
    for finding in examine(settings_of(options)):
        findings.append(finding)
        if not options.json:
            print(f"{finding.health.upper():<6}{finding.check:<16}{finding.text}", flush=True)
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings]))
    return 1 if any(finding.health is Health.FAULT for finding in findings) else 0
