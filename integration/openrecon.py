"""A container for OpenRecon, Siemens' interface for reconstructions of others: its description and its recipe.

UNTESTED ON A SCANNER. The description follows what public recipes write (github.com/neurodesk/openrecon: MRD 1.4.1,
port 9002, at most 14 parameters whose names have letters and digits only); no vendor document was used. What the host
does when the container is slow or dies is not known to us.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any

from integration.dicom.common import software_version
from integration.doors.request import AUTO, Urgency
from integration.protocol import Library

MOST_PARAMETERS = 14
"""A description with more is refused by the host."""
LABEL = "com.siemens-healthineers.magneticresonance.openrecon.metadata:1.1.0"
"""The container's label that carries the description, base64."""
UNTESTED = "Research use only. Untested on a scanner."
_ID = re.compile(r"[A-Za-z0-9]+")
_DEADLINES = ("none", "1", "3", "10")


def description(library: Library) -> dict[str, Any]:
    """Return what the host is told: who we are, what we take and give, what can be set at the console."""
    version = ".".join((*software_version().split("+")[0].split("."), "0", "0")[:3])
    protocols = [AUTO, *sorted(p.name for p in library if p.modality == "MR")]
    return {
        "general": {
            "name": {"en": "Isocenter"},
            "version": version,
            "vendor": "Isocenter",
            "information": {"en": f"Reconstruction of raw data, with checks and verdicts. {UNTESTED}"},
            "id": "isocenter",
            "regulatory_information": {
                "device_trade_name": "Isocenter",
                "production_identifier": version,
                "manufacturer_address": "",
                "made_in": "",
                "manufacture_date": "",
                "material_number": f"Isocenter_{version}",
                "gtin": "",
                "udi": "",
                "safety_advices": UNTESTED,
                "special_operating_instructions": "The scanner's own reconstruction must go on beside it.",
                "additional_relevant_information": "",
            },
        },
        "reconstruction": {
            "transfer_protocol": {"protocol": "ISMRMRD", "version": "1.4.1"},
            "port": 9002,
            "emitter": "raw",
            "injector": "image",
            "can_process_adjustment_data": True,
            "can_use_gpu": False,
            "min_count_required_gpus": 0,
            "min_required_gpu_memory": 0,
            "min_required_memory": 8192,
            "min_count_required_cpu_cores": 2,
            "content_qualification_type": "RESEARCH",
        },
        "parameters": [
            _choice("config", "Protocol", protocols, "auto: by the scan's header"),
            _choice("urgency", "Urgency", [u.value for u in (Urgency.INLINE, Urgency.INTERACTIVE, Urgency.BATCH)], ""),
            _choice("networkdeadline", "Network image within (s)", _DEADLINES, "later ones are left out"),
        ],
    }


def recipe(label: dict[str, Any]) -> str:
    """Return the Dockerfile of a container with a description; build it beside the wheel and requirements.lock."""
    text = base64.b64encode(json.dumps(label).encode()).decode()
    return "\n".join(
        (
            f"# {UNTESTED} Build with Docker below 25: the host reads no newer images.",
            "FROM python:3.11-slim",
            "COPY requirements.lock *.whl /tmp/isocenter/",
            "RUN pip install --no-cache-dir -r /tmp/isocenter/requirements.lock \\",
            " && pip install --no-cache-dir --no-deps /tmp/isocenter/*.whl && rm -r /tmp/isocenter \\",
            " && useradd --create-home isocenter && mkdir /data && chown isocenter /data",
            "USER isocenter",
            "EXPOSE 9002",
            f'LABEL "{LABEL}"="{text}"',
            "# the host's own network only: MRD has no password",
            'CMD ["isocenter", "serve", "--host", "0.0.0.0", "--mrd-port", "9002", "--data", "/data"]',
            "",
        )
    )


def problems(label: dict[str, Any]) -> list[str]:
    """Return what the public rules object to in a description; empty when nothing."""
    parameters = label["parameters"]
    found = [] if len(parameters) <= MOST_PARAMETERS else [f"{len(parameters)} parameters, at most {MOST_PARAMETERS}"]
    found += [
        f"parameter id {p['id']!r} has other than letters and digits" for p in parameters if not _ID.fullmatch(p["id"])
    ]
    if [p["type"] for p in parameters if p["id"] == "config"] != ["choice"]:
        found.append("no parameter `config` that is a choice")
    found += [
        f"parameter {p['id']}: default {p['default']!r} is none of its values"
        for p in parameters
        if p["type"] == "choice" and p["default"] not in [v["id"] for v in p["values"]]
    ]
    if not re.fullmatch(r"\d+\.\d+\.\d+", label["general"]["version"]):
        found.append(f"version {label['general']['version']} is not of the form 1.2.3")
    return found


def _choice(name: str, label: str, values: Any, information: str) -> dict[str, Any]:
    return {
        "id": name,
        "label": {"en": label},
        "type": "choice",
        "values": [{"id": value, "name": {"en": value}} for value in values],
        "default": values[0],
        "information": {"en": information},
    }
