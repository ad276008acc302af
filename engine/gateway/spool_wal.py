"""The spool's write-ahead log: what was captured and acknowledged since its tables were written.

One file of fixed size that holds zeros before it holds entries, so that an entry costs one write
and one sync of a file that does not grow; a commit of the tables writes six pages, and twice. Who
writes the tables puts the entries into them and begins a new run, which voids what stands here:

    size u32 | CRC-32 u32 | run 8 | written at, ms since 1970, u64 | MessagePack array, `size` bytes

The CRC is of all behind it, the run a random name that stands in the tables as well. Entries of a
run lie side by side from the start of the file; what follows the last is of older runs.
"""

from __future__ import annotations

import os
import secrets
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from engine.errors import StorageUnavailable, StoreVersion
from engine.gateway.imprint import Imprint, take_imprint

SIZE: Final = 256 << 10  # bytes: about a thousand captures between two commits of the tables

_HEAD: Final = struct.Struct(">II8sQ")
_CRC: Final = struct.Struct(">I")
_CRC_AT: Final = 4  # in the head
_RUN_AT: Final = 8


class Appended(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Records as the table holds them, numbered from `first` on. keys: of entries by hand."""

    order: int
    first: int
    values: list[bytes]
    keys: list[bytes]


class Acked(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """at_s: when the receipt for all up to `seq` came."""

    order: int
    seq: int
    at_s: int


Entry = Appended | Acked
_decoder: Final = msgspec.msgpack.Decoder(Entry)


class Wal:
    """The file and the entries of its run. Raises StorageUnavailable.

    imprint: of the file when it was last written. entries: what the tables do not hold.
    """

    imprint: Imprint

    def __init__(self, path: Path) -> None:
        self.entries: list[Entry] = []
        self._path = path
        self._file = -1
        self._run = b""
        self._end = 0
        self._is_sound = False

    def open(self) -> None:
        """Makes it at first use. Who opens it closes it, also when this raises."""
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if (size := os.fstat(self._file).st_size) < SIZE:
                os.pwrite(self._file, bytes(SIZE - size), size)
                os.fsync(self._file)
            self.imprint = take_imprint(self._path)
        except OSError as error:
            raise StorageUnavailable(f"no log of the spool: {error.strerror}") from None

    def resume(self, run: bytes) -> tuple[int, str | None]:
        """The tables are those of `run`. When its last entry was written, ms, 0 for none; and why
        it may have had more entries than are here, None: it surely had not. Entries behind one
        that is damaged are here all the same.

        Nothing is written behind what was found, before `begin`: a file that was read says nothing
        about the disk. Raises StoreVersion.
        """
        self._is_sound = False
        if self._run:  # what is in memory was synced, what lies in the file may be a failed write
            if self._run != run:
                self.entries = []
            self._run = run
            return 0, None
        self._run = run
        try:
            data = os.pread(self._file, SIZE, 0)
        except OSError as error:
            raise StorageUnavailable(f"the log cannot be read: {error.strerror}") from None
        end = last_ms = 0
        problem = None
        try:
            for at in _entries_of(data, run):
                if at > end:
                    problem = "its log has an entry that is damaged"
                size, _, _, last_ms = _HEAD.unpack_from(data, at)
                body, end = at + _HEAD.size, at + _HEAD.size + size
                self.entries.append(_decoder.decode(data[body:end]))
        except msgspec.DecodeError:
            raise StoreVersion("the log of the spool has an entry that cannot be read") from None
        if run and run in data[end:]:
            problem = "its log ends with an entry that is torn or damaged"
        return last_ms, problem

    def begin(self, run: bytes) -> None:
        """The tables hold all entries, durably, and name `run`."""
        self.entries = []
        self._run = run
        self._end = 0
        self._is_sound = True

    def doubt(self) -> None:
        """A commit of the tables failed: until one succeeds, nobody knows which run they name."""
        self._is_sound = False

    def write(self, entry: Entry) -> bool:
        """Durable when it returns True. False: there is no room, or the file is not to be trusted
        until the tables are written."""
        if not self._is_sound:
            return False
        body = msgspec.msgpack.encode(entry)
        size = _HEAD.size + len(body)
        if self._end + size > SIZE:
            return False
        self.imprint = self.imprint.renewed()
        data = bytearray(_HEAD.pack(len(body), 0, self._run, self.imprint.written_ms) + body)
        _CRC.pack_into(data, _CRC_AT, _crc(data))
        try:
            written = os.pwrite(self._file, data, self._end)
            os.fdatasync(self._file)
        except OSError:
            written = 0
        if written != size:
            self._is_sound = False
            return False
        self._end += size
        self.entries.append(entry)
        return True

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def new_run() -> bytes:
    return secrets.token_bytes(8)


def _entries_of(data: bytes, run: bytes) -> Iterator[int]:
    """Where entries of a run begin that are as they were written. By chance bytes are taken for one
    once in 2**96 places: run and CRC are right."""
    at = 0
    while run and (found := data.find(run, at + _RUN_AT)) >= 0:
        at = found - _RUN_AT
        body = at + _HEAD.size
        size, crc = _HEAD.unpack(data[at:body])[:2] if body <= len(data) else (len(data), 0)
        if body + size <= len(data) and _crc(data[at : body + size]) == crc:
            yield at
            at = body + size
        else:
            at += 1


def _crc(entry: bytes | bytearray) -> int:
    return zlib.crc32(memoryview(entry)[_CRC_AT + _CRC.size :])
