"""A generation of the scan log: one file of it, and what it knows of those before it.

The log is a series of LMDB environments, each in a folder that bears its number. Only the newest
is appended to. The first record of each but the first is its header: which LSN it begins with, the
link of the group before that, and every watermark up to there. So the files before it may go when
all their days are forgotten, and nothing that was consumed is taken again.

    magic 4 | version u8 | 3 bytes 0 | number u32 | marks u32 | store id 16 | first LSN u64 |
    begun ms i64 | chain 32 | CRC-32 u32 | marks 24 each                          (docs/storage.md)

The first group of the generation follows the header, as a group follows the one before it: whoever
has noted a later link can tell whether a watermark was changed.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Final

import msgspec

from engine.errors import JournalCorrupt
from engine.storage.journal import Mark

DATA_NAME: Final = "data.mdb"
UNFINISHED: Final = ".tmp"  # suffix of a folder that is being made
_NAME: Final = re.compile(r"[0-9]{6,}")
_MAGIC: Final = b"CHJH"
_VERSION: Final = 1
_HEAD: Final = struct.Struct("<4sB3xII16sQq32s")
_CRC: Final = struct.Struct("<I")
_MARK: Final = struct.Struct("<IB3xQQ")


class Header(msgspec.Struct, frozen=True):
    """What a generation begins with. chain: link of the group before its first one, 32 bytes.

    marks: last sequence number per mark before it. link: what its first group's chain must be.
    """

    number: int
    store_id: bytes
    first_lsn: int
    begun_ms: int
    chain: bytes
    marks: Mapping[Mark, int]
    link: bytes


def pack_header(
    number: int,
    store_id: bytes,
    first_lsn: int,
    begun_ms: int,
    chain: bytes,
    marks: Mapping[Mark, int],
) -> bytes:
    """The bytes of a header."""
    head = _HEAD.pack(_MAGIC, _VERSION, number, len(marks), store_id, first_lsn, begun_ms, chain)
    body = b"".join(
        _MARK.pack(gateway, cls, epoch, last)
        for (gateway, epoch, cls), last in sorted(marks.items())
    )
    return head + _CRC.pack(zlib.crc32(body, zlib.crc32(head))) + body


def bytes_to_header(data: bytes) -> Header:
    """Any bytes give a header or JournalCorrupt."""
    if len(data) < _HEAD.size + _CRC.size:
        raise JournalCorrupt("a generation has no whole header")
    magic, version, number, count, store_id, first_lsn, begun_ms, chain = _HEAD.unpack_from(data)
    if magic != _MAGIC or version != _VERSION:
        raise JournalCorrupt("a generation has no header of this version")
    body = data[_HEAD.size + _CRC.size :]
    (crc,) = _CRC.unpack_from(data, _HEAD.size)
    if len(body) != count * _MARK.size or zlib.crc32(body, zlib.crc32(data[: _HEAD.size])) != crc:
        raise JournalCorrupt(f"generation {number}: checksum of the header is wrong")
    marks = {(gateway, epoch, cls): last for gateway, cls, epoch, last in _MARK.iter_unpack(body)}
    return Header(
        number, store_id, first_lsn, begun_ms, chain, marks, hashlib.sha256(data).digest()
    )


def name_of(number: int) -> str:
    """The folder of a generation, below that of the log."""
    return f"{number:06}"


def folders(path: Path, *, is_whole: bool = True) -> list[tuple[int, Path]]:
    """(number, folder) of the generations there are, ascending; begun ones and one made ahead.

    A log of one file that no engine has opened since there are generations is its own first one.
    is_whole: raises JournalCorrupt when one is missing between others.
    """
    found = [(number, folder) for number, folder in numbered_folders(path) if _has_data(folder)]
    if _has_data(path):
        if found:
            raise JournalCorrupt(f"{path} holds a log of one file, and generations beside it")
        return [(1, path)]
    for (number, _), (following, _) in pairwise(found):
        if following != number + 1 and is_whole:
            raise JournalCorrupt(
                f"{path}: generation {number + 1} is missing; {following} is there"
            )
    return found


def is_there(path: Path) -> bool:
    """Whether the folder holds a log."""
    return _has_data(path) or any(_has_data(folder) for _, folder in numbered_folders(path))


def unfinished(path: Path) -> list[Path]:
    """Folders that were being made when an engine ended."""
    return [entry for entry in path.iterdir() if entry.name.endswith(UNFINISHED)]


def numbered_folders(path: Path) -> list[tuple[int, Path]]:
    """(number, folder) ascending, of all that bear a number, whatever is in them."""
    if not path.is_dir():
        return []
    return sorted((int(p.name), p) for p in path.iterdir() if _NAME.fullmatch(p.name))


def _has_data(folder: Path) -> bool:
    """One without a file is not yet made, or half removed."""
    return (folder / DATA_NAME).exists()
