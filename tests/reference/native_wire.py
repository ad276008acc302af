"""Slow twin of native.wire, written from docs/protocol.md and the MessagePack specification.

Reads a value into a tree of nodes first and judges its shape afterwards; the kernel does both in
one pass.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

ENTRY = struct.Struct("<BBBBHHqIIIIIIIII12x")
HEAD = struct.Struct("<BBHIQQQ")
FRAME_TYPES = {1, 2, 3, 4, 5, 6, 7, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88}


class Malformed(Exception):
    pass


def check(is_right: bool) -> None:
    if not is_right:
        raise Malformed


def split_frames(buffer: bytes, max_body: int) -> tuple[bytes, int, int]:
    heads = b""
    at = 0
    while len(buffer) - at >= 16:
        kind, flags, channel, length, seq = struct.unpack_from(">BBHIQ", buffer, at)
        if kind not in FRAME_TYPES:
            return heads, at, 7
        if length > max_body:
            return heads, at, 5
        if len(buffer) - at - 16 < length:
            break
        heads += HEAD.pack(kind, flags, channel, length, seq, at + 16, 0)
        at += 16 + length
    return heads, at, 0


# ---- MessagePack --------------------------------------------------------------------------------


@dataclass
class Node:
    family: str
    start: int
    end: int = 0
    value: int = 0
    content: int = 0  # where the bytes of a str or bin begin
    children: list[Node] = field(default_factory=list)


# First byte -> (family, size of the number that follows); fixed forms are handled apart.
FORMS = {
    0xC0: ("nil", 0), 0xC2: ("bool", 0), 0xC3: ("bool", 0),
    0xC4: ("bin", 1), 0xC5: ("bin", 2), 0xC6: ("bin", 4),
    0xCA: ("float", 4), 0xCB: ("float", 8),
    0xCC: ("uint", 1), 0xCD: ("uint", 2), 0xCE: ("uint", 4), 0xCF: ("uint", 8),
    0xD0: ("int", 1), 0xD1: ("int", 2), 0xD2: ("int", 4), 0xD3: ("int", 8),
    0xD9: ("str", 1), 0xDA: ("str", 2), 0xDB: ("str", 4),
    0xDC: ("array", 2), 0xDD: ("array", 4), 0xDE: ("map", 2), 0xDF: ("map", 4),
}  # fmt: skip


def read_head(data: bytes, at: int) -> Node:
    check(at < len(data))
    first = data[at]
    node = Node("", at, at + 1)
    if first <= 0x7F:
        node.family, node.value = "int", first
    elif first <= 0x8F:
        node.family, node.value = "map", first - 0x80
    elif first <= 0x9F:
        node.family, node.value = "array", first - 0x90
    elif first <= 0xBF:
        node.family, node.value = "str", first - 0xA0
    elif first >= 0xE0:
        node.family, node.value = "int", first - 0x100
    else:
        check(first in FORMS)
        node.family, width = FORMS[first]
        check(node.end + width <= len(data))
        number = data[node.end : node.end + width]
        node.value = int.from_bytes(number, "big", signed=node.family == "int")
        node.family = "int" if node.family == "uint" else node.family
        node.end += width
    return node


def read_value(data: bytes, at: int, depth: int) -> Node:
    """The value at `at`; depth: arrays and maps open around it."""
    node = read_head(data, at)
    if node.family in ("str", "bin"):
        node.content = node.end
        node.end += node.value
        check(node.end <= len(data))
        if node.family == "str":
            try:
                data[node.content : node.end].decode("utf-8")
            except UnicodeDecodeError:
                raise Malformed from None
    elif node.family in ("array", "map"):
        check(depth < 8)
        is_map = node.family == "map"
        count = node.value * 2 if is_map else node.value
        check(count <= len(data) - node.end)
        for i in range(count):
            child = read_value(data, node.end, depth + 1)
            check(not is_map or i % 2 == 1 or child.family == "str")
            node.children.append(child)
            node.end = child.end
    return node


# ---- records ------------------------------------------------------------------------------------


def number(node: Node, max_value: int) -> int:
    check(node.family == "int" and 0 <= node.value <= max_value)
    return node.value


def span(node: Node, family: str) -> tuple[int, int]:
    """(off, len): the content of a bin, the whole of anything else."""
    check(node.family == family)
    start = node.content if family == "bin" else node.start
    return start, node.end - start


def read_record(record: Node, n: int) -> bytes:
    check(record.family == "array" and len(record.children) >= 2)
    kind = number(record.children[0], 3)
    time_ms = number(record.children[1], 2**63 - 1)
    rest = record.children[2:]
    direction = who_form = venue_form = lane = flags = source = venue_id = 0
    who = venue = aux = (0, 0)
    check(kind != 0)
    if kind == 1:
        check(len(rest) in (3, 4))
        lane = number(rest[0], 0xFFFF)
        who_form, who = 1, span(rest[1], "bin")
        flags = number(rest[2], 2**32 - 1)
        extra = rest[3:]
    elif kind == 2:
        check(len(rest) in (4, 5))
        direction = number(rest[0], 2)
        if rest[1].family == "bin":
            who_form, who = 1, span(rest[1], "bin")
        else:
            who_form, who = 2, span(rest[1], "array")
            families = [child.family for child in rest[1].children]
            check(families[:2] == ["str", "str"] and families[2:] in ([], ["str"], ["nil"]))
        if rest[2].family == "bin":
            venue_form, venue = 1, span(rest[2], "bin")
        else:
            venue_form, venue_id = 3, number(rest[2], 2**32 - 1)
        source = number(rest[3], 0xFF)
        extra = rest[4:]
    else:
        check(len(rest) == 4)
        lane = number(rest[0], 0xFFFF)
        who_form, who = 2, span(rest[1], "map")
        check(rest[2].family == rest[3].family == "str")
        aux = (rest[2].start, rest[3].end - rest[2].start)
        extra = []
    for node in extra:
        if node.family != "nil":
            aux = span(node, "map")
    return ENTRY.pack(
        kind, direction, who_form, venue_form, lane, n, time_ms,
        *who, *venue, *aux, flags, source, venue_id,
    )  # fmt: skip


def read_records(body: bytes) -> tuple[bytes, int, int]:
    entries = b""
    n = 0
    try:
        head = read_head(body, 0)
        check(head.family == "array" and head.value <= min(4096, len(body) - head.end))
        at = head.end
        for n in range(head.value):
            record = read_value(body, at, 1)
            entries += read_record(record, n)
            at = record.end
        n = head.value
        check(at == len(body))
    except Malformed:
        return entries, 7, n
    return entries, 0, 0
