"""A series that lies on disk, checked: raw data reconstructed without being exported, images as they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from acquisition.errors import FileFormatError
from acquisition.items import Image
from acquisition.scan import Scan
from acquisition.sources import RawFile, open_raw
from acquisition.sources.ctpd import is_ctpd
from acquisition.sources.nifti import is_nifti, read_nifti
from acquisition.stream import Chain
from acquisition.verdict import Verdict
from integration import steps
from integration.conformity import Facts, Places, Reference, compare, facts_of, known, require_modality
from integration.dicom.exam import read_exams
from integration.gate import Decision, Findings, decide
from integration.protocol import Protocol
from integration.runner import Run

IMAGE_CHECKS: dict[str, tuple[str, ...]] = {
    "MR": ("check.mri_quality", "check.mri_series", "check.centre", "check.plausible"),
    "CT": ("check.ct_quality", "check.centre", "check.plausible"),
    "PT": ("check.pet_quality", "check.centre", "check.plausible"),
}
"""Steps that judge finished images, by modality."""
_IMAGE = "check.image"
_DICOM = b"DICM"
_CT_AIR = -500.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What was found of one series."""

    name: str
    """Its description, or the file's name."""
    modality: str
    """MR, CT or PT."""
    protocol: str
    """Protocol that reconstructed it; empty for images."""
    verdicts: tuple[Verdict, ...]
    """The gravest finding of each check."""
    facts: Facts
    """How it was measured."""
    seconds: float
    """How long checking took, reconstruction and reading included [s]."""

    @property
    def decision(self) -> Decision:
        """Return what it comes to."""
        return decide(self.verdicts)


def check(
    path: Path,
    *,
    choose: Callable[[Scan], Protocol],
    modality: str | None = None,
    reference: Reference | None = None,
) -> list[Checked]:
    """Check whatever lies at `path`; one result per series.

    Parameters
    ----------
    path
        Raw data, a DICOM file, a folder of either, or a NIfTI file.
    choose
        Returns the protocol by which raw data are reconstructed.
    modality
        Of a NIfTI file, which does not say; None: CT if its air is that of HU, else MR.
    reference
        Protocol that the series is held against.

    Raises
    ------
    InputError
        It is of no kind that we read, or damaged.
    ConfigError
        No such protocol, or a reference for another modality.
    """
    started = time.perf_counter()
    if not _is_image(path):
        raw = open_raw(path)
        return [_of_raw(raw, choose(raw.scan), reference=reference, started=started)]
    found = []
    for name, scan, images, facts in _images(path, modality):
        found.append(_of_images(name, scan, images=images, facts=facts, reference=reference))
    return found


def _is_image(path: Path) -> bool:
    if path.is_dir():
        return not is_ctpd(path)
    if not path.exists():
        raise FileFormatError(
            f"{path}", expected="raw data, DICOM or NIfTI", got="no such file", action="check the name"
        )
    with path.open("rb") as file:
        return is_nifti(path) or file.read(132)[128:] == _DICOM


def _images(path: Path, modality: str | None) -> Iterator[tuple[str, Scan, Sequence[Image], Facts]]:
    if is_nifti(path) and path.is_file():
        image = read_nifti(path)
        kind = modality or ("CT" if float(np.percentile(image.data, 1)) < _CT_AIR else "MR")
        yield path.name, Scan(uid=path.name, modality=kind), [image], {}
        return
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for exam in read_exams(files):
        yield exam.name, exam.scan, exam.images, known(exam.told)


def _of_images(name: str, scan: Scan, images: Sequence[Image], facts: Facts, reference: Reference | None) -> Checked:
    started = time.perf_counter()
    if reference is not None:
        require_modality(reference, scan.modality)
    names = (_IMAGE, *IMAGE_CHECKS[scan.modality])
    chain = Chain([steps.make(step, _values(step, scan.modality)) for step in names])
    found, places = Findings(), Places()
    chain.open(scan)
    for image in images:
        places.add(image)
        _note(found, chain.feed(image))
    _note(found, chain.close())
    facts = facts | places.facts()
    if reference is not None:
        found.add(compare(reference, facts))
    return Checked(
        name=name,
        modality=scan.modality,
        protocol="",
        verdicts=tuple(found.worst()),
        facts=facts,
        seconds=round(time.perf_counter() - started, 3),
    )


def _of_raw(raw: RawFile, protocol: Protocol, *, reference: Reference | None, started: float) -> Checked:
    if reference is not None:
        require_modality(reference, raw.scan.modality)
    work, found, places = Run(raw.scan, with_image_checks(protocol)), Findings(), Places()
    work.open()
    for item in raw.items():
        _take(found, places, work.feed(item))
    _take(found, places, work.close())
    found.add(work.verdicts)
    facts = facts_of(raw.scan) | places.facts()
    if reference is not None:
        found.add(compare(reference, facts))
    return Checked(
        name=raw.scan.protocol_name or raw.path.name,
        modality=raw.scan.modality,
        protocol=protocol.name,
        verdicts=tuple(found.worst()),
        facts=facts,
        seconds=round(time.perf_counter() - started, 3),
    )


def with_image_checks(protocol: Protocol) -> Protocol:
    """Return `protocol` with the checks of finished images behind it that it does not have itself."""
    there = {name for name, _ in protocol.steps}
    lacking = [name for name in IMAGE_CHECKS[protocol.modality] if name not in there]
    return protocol.model_copy(update={"steps": (*protocol.steps, *((name, {}) for name in lacking))})


def _values(step: str, modality: str) -> dict[str, object]:
    """Many pixels of CT and PET share the largest value by right: HU end at one, PET in air at zero."""
    return {"saturated_above": 1.0} if step == _IMAGE and modality != "MR" else {}


def _take(found: Findings, places: Places, images: Iterator[Image]) -> None:
    for image in images:
        places.add(image)
        found.add(image.verdicts)


def _note(found: Findings, items: Iterator[object]) -> None:
    for item in items:
        found.add(item.verdicts if isinstance(item, Image) else [item] if isinstance(item, Verdict) else [])
