"""MRD image attributes: names and values as a small XML (``ismrmrdMeta``).

A value may be a list; in our mappings its parts are joined by a backslash, as DICOM does.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from acquisition.errors import DataError, MessageError

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_meta(attributes: Mapping[str, str]) -> bytes:
    """Return the attribute XML of a mapping, with its declaration.

    Raises
    ------
    DataError
        A name or value holds a character that XML cannot carry.
    """
    root = ET.Element("ismrmrdMeta")
    for name, value in attributes.items():
        meta = ET.SubElement(root, "meta")
        ET.SubElement(meta, "name").text = xml_text(f"image attribute {name!r}", name)
        for part in value.split("\\"):
            ET.SubElement(meta, "value").text = xml_text(f"image attribute {name!r}", part)
    return ET.tostring(root, encoding="UTF-8", xml_declaration=True)


def read_meta(xml: bytes) -> dict[str, str]:
    """Return the attributes of an image, lists joined by backslashes; an empty text has none.

    Raises
    ------
    MessageError
        It is not an ``ismrmrdMeta`` document, or it defines entities.
    """
    text = xml.split(b"\0", 1)[0].strip()
    if not text:
        return {}
    try:
        root = fromstring(text, forbid_dtd=True)
    except (ET.ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise _broken(str(error) or type(error).__name__) from error
    if root.tag.rpartition("}")[2] != "ismrmrdMeta":
        raise _broken(f"<{root.tag[:60]}>")
    values: dict[str, list[str]] = {}
    for meta in root.iter():
        if meta.tag.rpartition("}")[2] == "meta":
            children = [(child.tag.rpartition("}")[2], child.text or "") for child in meta]
            name = next((text for tag, text in children if tag == "name"), None)
            if name is None:
                raise _broken("<meta> without <name>")
            values.setdefault(name, []).extend(text for tag, text in children if tag == "value")
    return {name: "\\".join(parts) for name, parts in values.items()}


def xml_text(where: str, text: str) -> str:
    """Return `text` if XML can carry it.

    Raises
    ------
    DataError
        It holds a control character or a lone surrogate.
    """
    found = _NOT_XML.search(text)
    if found:
        raise DataError(
            where, expected="text that XML can carry", got=f"character U+{ord(found[0]):04X}", action="remove it"
        )
    return text


def _broken(got: str) -> MessageError:
    return MessageError(
        "image attributes", expected="an ismrmrdMeta document without DTD", got=got, action="check the sender"
    )
