"""A reader for small XML headers that come from anywhere: tolerant of what it does not know, strict in numbers.

Namespaces are ignored, documents that define entities are refused, every question names its path, and what
nobody asked for is counted.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from acquisition.errors import HeaderError
from acquisition.verdict import Level, Verdict

Number = int | float


class Node:
    """One element; remembers which of its children were asked for."""

    def __init__(self, element: ET.Element, *, path: str) -> None:
        self.path = path
        self._text = (element.text or "").strip()
        self._asked: set[str] = set()
        self._children: dict[str, list[Node]] = {}
        for child in element:
            name = local_name(child.tag)
            self._children.setdefault(name, []).append(Node(child, path=f"{path}/{name}"))

    @classmethod
    def empty(cls, name: str) -> Node:
        """Return an element without content, for one that is absent."""
        return cls(ET.Element(name), path=name)

    def all(self, name: str) -> list[Node]:
        """Return every child of this name."""
        self._asked.add(name)
        return self._children.get(name, [])

    def get(self, name: str) -> Node | None:
        """Return the first child of this name, None where there is none."""
        return next(iter(self.all(name)), None)

    def need(self, name: str) -> Node:
        """Return the first child of this name.

        Raises
        ------
        HeaderError
            There is none.
        """
        child = self.get(name)
        if child is None:
            raise HeaderError(f"{self.path}/{name}", expected="this element", got="nothing", action=_ACTION)
        return child

    def text(self, name: str) -> str | None:
        """Return the text of a child; None where it is absent or empty."""
        child = self.get(name)
        return child.value or None if child else None

    @property
    def value(self) -> str:
        """Own text without surrounding space."""
        return self._text

    def number(self, *, low: Number, high: Number) -> float:
        """Return the own text as a number in [low, high].

        Raises
        ------
        HeaderError
            It is none, not finite or outside.
        """
        try:
            value = float(self._text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise HeaderError(
                self.path, expected=f"a number {low} ... {high}", got=repr(self._text[:60]), action=_ACTION
            )
        return value

    def integer(self, *, low: int, high: int) -> int:
        """Return the own text as a whole number in [low, high]; ``64.0`` is whole.

        Raises
        ------
        HeaderError
            It is none or outside.
        """
        value = self.number(low=low, high=high)
        if not value.is_integer():
            raise HeaderError(self.path, expected="a whole number", got=repr(self._text[:60]), action=_ACTION)
        return int(value)

    def skip(self, *names: str) -> None:
        """Mark children as known though nothing is read from them."""
        self._asked.update(names)

    def unasked(self) -> Iterator[str]:
        """Yield the path of every element that nobody asked for, below the elements that were."""
        for name, nodes in self._children.items():
            for node in nodes:
                if name not in self._asked:
                    yield node.path
                elif node._asked:
                    yield from node.unasked()


_ACTION = "correct the header where it is written"
_MAX_DEPTH, _MAX_ELEMENTS = 32, 200_000


def read_document(xml: str, *, root: str) -> Node:
    """Parse a document whose root element is called `root`.

    Raises
    ------
    HeaderError
        It is not XML, has another root, declares a DTD or entities, or is nested absurdly.
    """
    try:
        element = fromstring(xml, forbid_dtd=True)
    except (ET.ParseError, DefusedXmlException, ValueError, LookupError) as error:
        got = f"{type(error).__name__}: {error}"[:200]
        raise HeaderError("header", expected="XML without DTD and entities", got=got, action=_ACTION) from error
    if local_name(element.tag) != root:
        raise HeaderError("header", expected=f"<{root}>", got=f"<{local_name(element.tag)[:60]}>", action=_ACTION)
    _check_size(element)
    return Node(element, path=root)


def local_name(tag: str) -> str:
    """Return a tag without its namespace."""
    return tag.rpartition("}")[2]


def _check_size(root: ET.Element) -> None:
    """Walk without recursion, so that no nesting can exhaust the stack."""
    pending, count = [(root, 1)], 0
    while pending:
        element, depth = pending.pop()
        count += 1
        if depth > _MAX_DEPTH or count > _MAX_ELEMENTS:
            raise HeaderError(
                "header",
                expected=f"at most {_MAX_ELEMENTS} elements, {_MAX_DEPTH} deep",
                got=f"element {count} at depth {depth}",
                action=_ACTION,
            )
        pending.extend((child, depth + 1) for child in element)


class Notes:
    """Collects what was repaired or assumed while a header was read."""

    def __init__(self, check: str) -> None:
        self.check = check
        self.verdicts: list[Verdict] = []

    def flag(self, path: str, *, got: str, taken: str) -> None:
        """Note a repair: at `path` came `got`, `taken` was used instead."""
        self.verdicts.append(
            Verdict(
                check=self.check,
                level=Level.FLAG,
                advice=f"The scanner's header is wrong or silent at {path.rpartition('/')[2]}: {taken}. Please check.",
                evidence=f"{path}: {got}",
            )
        )

    def unknown(self, paths: Iterable[str]) -> None:
        """Note the elements that nobody knows, with their number; no reason to mark an image."""
        found = sorted(paths)
        if found:
            self.verdicts.append(
                Verdict(
                    check=f"{self.check}.unknown_elements",
                    level=Level.PASS,
                    advice=f"The header has {len(found)} elements that this software does not know; they were ignored.",
                    value=float(len(found)),
                    evidence=", ".join(dict.fromkeys(found))[:500],
                )
            )
