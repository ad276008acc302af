"""Documents: what a terminal posts, JSON or XML, as one tree that a dotted path can ask.

XML is read without document types, and so without entities of any kind; sizes and depths have
limits. Namespaces are dropped, attributes are children named `@name`.
"""

from __future__ import annotations

from typing import Any, Final
from xml.parsers import expat

import msgspec

from engine.errors import BodyInvalid

SIZE_MAX: Final = 65_536  # bytes of a document
DEPTH_MAX: Final = 32
NODES_MAX: Final = 4_000  # elements and attributes of an XML document
_TEXT: Final = "#text"


def read_document(data: bytes) -> Any:
    """The tree: dicts, lists, and text or numbers. Raises BodyInvalid, without quoting anything."""
    if len(data) > SIZE_MAX:
        raise BodyInvalid(f"a document of more than {SIZE_MAX} bytes")
    if data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"["):
        try:
            return msgspec.json.decode(data.removeprefix(b"\xef\xbb\xbf"))
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise BodyInvalid("the body is not JSON") from None
    return _XmlReader().read(data)


def find(tree: Any, path: str) -> str | float | int | None:
    """The text or number at a path like `Event.Reading.0.temp`; None where there is none."""
    if not path:
        return None
    for name in path.split("."):
        if isinstance(tree, list):
            if not name.isdecimal() or int(name) >= len(tree):
                return None
            tree = tree[int(name)]
        elif isinstance(tree, dict):
            tree = tree.get(name)
        else:
            return None
    if isinstance(tree, dict):
        tree = tree.get(_TEXT)
    return tree if isinstance(tree, str | int | float) and not isinstance(tree, bool) else None


class _XmlReader:
    """One XML document to a tree."""

    def __init__(self) -> None:
        self._root: dict[str, Any] = {}
        self._open: list[dict[str, Any]] = [self._root]
        self._names: list[str] = []
        self._nodes = 0
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartDoctypeDeclHandler = self._refuse
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text

    def read(self, data: bytes) -> dict[str, Any]:
        """Raises BodyInvalid."""
        try:
            self._parser.Parse(data, True)
        except (expat.ExpatError, ValueError, LookupError):
            raise BodyInvalid("the body is neither JSON nor XML") from None
        return self._root

    def _refuse(self, *_: object) -> None:
        raise BodyInvalid("XML with a document type is not taken")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._nodes += 1 + len(attributes)
        if len(self._open) > DEPTH_MAX or self._nodes > NODES_MAX:
            raise BodyInvalid("XML that is too deep or too large")
        self._names.append(_local(name))
        self._open.append({f"@{_local(key)}": value for key, value in attributes.items()})

    def _text(self, text: str) -> None:
        node = self._open[-1]
        node[_TEXT] = node.get(_TEXT, "") + text

    def _end(self, _: str) -> None:
        node, name = self._open.pop(), self._names.pop()
        text = node.pop(_TEXT, "").strip()
        if node:
            value: Any = {**node, _TEXT: text} if text else node
        else:
            value = text
        parent = self._open[-1]
        if name not in parent:
            parent[name] = value
        elif isinstance(parent[name], list):
            parent[name].append(value)
        else:
            parent[name] = [parent[name], value]


def _local(name: str) -> str:
    return name.rpartition(":")[2]
