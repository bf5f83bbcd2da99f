"""Structured documents (PS3.3 C.17): content items as a tree, evidence, and how they become a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from integration.dicom.common import DicomInstance
from integration.dicom.template import EXPLICIT_LITTLE_ENDIAN, Layer
from integration.dicom.text import Elements, cleaned

PRIVATE = "99ISOCENTER"
"""Our own coding scheme: names of checks and levels of verdicts, which no public scheme has."""
_SHORT = 16


class Code(NamedTuple):
    """A coded concept (PS3.3 8)."""

    value: str
    """Its code."""
    scheme: str
    """Whose code."""
    meaning: str
    """In words."""


@dataclass(frozen=True, slots=True)
class Reference:
    """An object that a document speaks of."""

    sop_class: str
    """SOPClassUID."""
    sop_uid: str
    """SOPInstanceUID."""
    series_uid: str
    """SeriesInstanceUID."""


def own(value: str, meaning: str) -> Code:
    """Return a code of our own scheme."""
    return Code(value, PRIVATE, meaning[:64])


def coded(code: Code) -> list[Elements]:
    """Return the code sequence of one code; codes of more than 16 characters stand in the attribute made for them."""
    key = "CodeValue" if len(code.value) <= _SHORT else "LongCodeValue"
    return [{key: code.value, "CodingSchemeDesignator": code.scheme, "CodeMeaning": code.meaning}]


def item(relation: str, kind: str, name: Code | None, **value: object) -> Elements:
    """Return one content item.

    Parameters
    ----------
    relation
        How it belongs to the item above, e.g. CONTAINS.
    kind
        Its value type, e.g. TEXT.
    name
        What it says; None where the standard lets it go without.
    value
        The attributes of its value.
    """
    head: Elements = {"RelationshipType": relation, "ValueType": kind}
    named: Elements = {"ConceptNameCodeSequence": coded(name)} if name else {}
    return head | named | value  # type: ignore[return-value]


def text(relation: str, name: Code, words: str) -> Elements:
    """Return a text item."""
    return item(relation, "TEXT", name, TextValue=words)


def code(relation: str, name: Code, value: Code) -> Elements:
    """Return a coded item."""
    return item(relation, "CODE", name, ConceptCodeSequence=coded(value))


def uid(relation: str, name: Code, value: str) -> Elements:
    """Return an item that is a UID."""
    return item(relation, "UIDREF", name, UID=value)


def container(relation: str, name: Code, content: Sequence[Elements]) -> Elements:
    """Return a heading with what stands below it."""
    return item(relation, "CONTAINER", name, ContinuityOfContent="SEPARATE", ContentSequence=list(content))


def image(relation: str, reference: Reference) -> Elements:
    """Return an item that points to an image."""
    return item(relation, "IMAGE", None, ReferencedSOPSequence=[_pointer(reference)])


def evidence(study_uid: str, references: Iterable[Reference]) -> list[Elements]:
    """Return the list of everything that a document refers to, by study and series (PS3.3 C.17.2.1)."""
    series: dict[str, list[Elements]] = {}
    for reference in dict.fromkeys(references):
        series.setdefault(reference.series_uid, []).append(_pointer(reference))
    rows: list[Elements] = [
        {"ReferencedSOPSequence": objects, "SeriesInstanceUID": series_uid} for series_uid, objects in series.items()
    ]
    return [{"ReferencedSeriesSequence": rows, "StudyInstanceUID": study_uid}]


def written(elements: Elements, pixels: bytes | None = None) -> DicomInstance:
    """Return the object that `elements` are; what does not fit its attribute is mended or left out."""
    fine, _ = cleaned(elements)
    return DicomInstance(
        sop_class_uid=str(fine["SOPClassUID"]),
        sop_instance_uid=str(fine["SOPInstanceUID"]),
        series_uid=str(fine["SeriesInstanceUID"]),
        study_uid=str(fine["StudyInstanceUID"]),
        transfer_syntax_uid=EXPLICIT_LITTLE_ENDIAN,
        index=int(str(fine["InstanceNumber"])),
        description=str(fine["SeriesDescription"]),
        data=Layer.of({}).part10(fine, pixels),
    )


def _pointer(reference: Reference) -> Elements:
    return {"ReferencedSOPClassUID": reference.sop_class, "ReferencedSOPInstanceUID": reference.sop_uid}
