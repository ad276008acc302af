"""Gateway: what a lane shows, sealed and durable in the box's spool before it is sent.

Ours is the spool: a number and a sealed body, committed one capture at a time, as a lane brings
them; then all is read as a link reads it, and acknowledged. The peers hold the same sealed bodies
in SQLite and in a plain file and do the same with them. Opened, every body must be as captured.
"""

from __future__ import annotations

import os
import sqlite3
import struct
from pathlib import Path
from typing import Final

from bench.case_ingest import NOW_MS, card
from bench.harness import Case, Contender, Params, Place, Round
from engine.clock import ManualClock
from engine.gateway.spool_epoch import Draft
from engine.gateway.spool_lmdb import Spool
from engine.identity.keys import FileKeyRing
from engine.identity.seals import Sealer
from engine.scans.records import encode_scans
from engine.wire.frames import FrameType, seal_aad

GATEWAY: Final = "bench"
EPOCH: Final = 7
READ: Final = 64  # bodies read at once, as a link does
_SIZE: Final = struct.Struct("<I")


class Keeper(Contender):
    """Captures of one repetition: each durable by itself, then read, sent and acknowledged."""

    def __init__(self, captures: list[list[bytes]], ring: FileKeyRing) -> None:
        self._captures = captures
        self._ring = ring
        self._read: list[tuple[int, int, bytes]] = []  # epoch, number, sealed body
        self._sealer = Sealer(self._ring.ingest_public())  # as the spool has one

    def work(self, repetition: int) -> None:
        for body in self._captures[repetition]:
            self.append(body)
        self._read += self.drain()

    def append(self, body: bytes) -> None:
        """Durable when it returns."""
        raise NotImplementedError

    def drain(self) -> list[tuple[int, int, bytes]]:
        """All that waits, in order; acknowledged when it returns."""
        raise NotImplementedError

    def answer(self) -> bytes:
        opened = [
            self._ring.open_ingest(body, self.aad(epoch, seq)) for epoch, seq, body in self._read
        ]
        return b"".join(opened)

    def aad(self, epoch: int, seq: int) -> bytes:
        return seal_aad(GATEWAY, epoch, seq)

    def sealed(self, seq: int, body: bytes) -> bytes:
        return self._sealer.seal(body, self.aad(EPOCH, seq))


class Ours(Keeper):
    name = "chot"
    note = "Spool.append of one capture each, Epoch.read by 64, Spool.ack once"

    def __init__(self, captures: list[list[bytes]], ring: FileKeyRing, folder: Path) -> None:
        super().__init__(captures, ring)
        self._spool = Spool(
            folder, gateway=GATEWAY, ingest_public=ring.ingest_public(), clock=ManualClock(NOW_MS)
        )

    def append(self, body: bytes) -> None:
        self._spool.append([Draft(FrameType.SCANS, 0, 0, body)])

    def drain(self) -> list[tuple[int, int, bytes]]:
        epoch, found = self._spool.current, []
        at = epoch.acked
        while at + 1 < epoch.next_seq:
            some = epoch.read(at, count=READ)
            found += [(epoch.number, record.seq, record.body) for record in some]
            at = some[-1].seq
        self._spool.ack(epoch, at)
        return found

    def close(self) -> None:
        self._spool.close()


class Sqlite(Keeper):
    name = "sqlite"
    note = "WAL, synchronous=FULL, a row a capture, sealed the same; acknowledged rows are marked"

    def __init__(self, captures: list[list[bytes]], ring: FileKeyRing, folder: Path) -> None:
        super().__init__(captures, ring)
        folder.mkdir()
        self._db = sqlite3.connect(folder / "spool.db", isolation_level=None)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "cache_size=-65536"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.execute("CREATE TABLE spool(seq INTEGER PRIMARY KEY, body BLOB)")
        self._db.execute("CREATE TABLE acked(seq INT)")
        self._db.execute("INSERT INTO acked VALUES (0)")
        self._next, self._acked = 1, 0

    def append(self, body: bytes) -> None:
        sealed = self.sealed(self._next, body)
        self._db.execute("INSERT INTO spool VALUES (?, ?)", (self._next, sealed))
        self._next += 1

    def drain(self) -> list[tuple[int, int, bytes]]:
        found: list[tuple[int, int, bytes]] = []
        at = self._acked
        while at + 1 < self._next:
            some = self._db.execute(
                "SELECT seq, body FROM spool WHERE seq > ? ORDER BY seq LIMIT ?", (at, READ)
            ).fetchall()
            found += [(EPOCH, seq, body) for seq, body in some]
            at = some[-1][0]
        self._db.execute("UPDATE acked SET seq = ?", (at,))
        self._acked = at
        return found

    def close(self) -> None:
        self._db.close()


class File(Keeper):
    name = "file+fdatasync"
    note = "sealed the same, appended to a file, fdatasync each; nothing is ever found by number"

    def __init__(self, captures: list[list[bytes]], ring: FileKeyRing, folder: Path) -> None:
        super().__init__(captures, ring)
        self._fd = os.open(folder, os.O_RDWR | os.O_CREAT, 0o600)
        self._mark = os.open(folder.with_suffix(".acked"), os.O_RDWR | os.O_CREAT, 0o600)
        self._next, self._at, self._sent = 1, 0, (1, 0)

    def append(self, body: bytes) -> None:
        sealed = self.sealed(self._next, body)
        self._at += os.pwrite(self._fd, _SIZE.pack(len(sealed)) + sealed, self._at)
        os.fdatasync(self._fd)
        self._next += 1

    def drain(self) -> list[tuple[int, int, bytes]]:
        found = []
        seq, at = self._sent
        data = os.pread(self._fd, self._at - at, at)
        spot = 0
        while spot < len(data):
            (size,) = _SIZE.unpack_from(data, spot)
            spot += _SIZE.size + size
            found.append((EPOCH, seq, data[spot - size : spot]))
            seq += 1
        os.pwrite(self._mark, seq.to_bytes(8, "little"), 0)
        os.fdatasync(self._mark)
        self._sent = (seq, self._at)
        return found

    def close(self) -> None:
        os.close(self._fd)
        os.close(self._mark)


def set_up(params: Params, place: Place) -> Round:
    count = params["captures"]
    bodies = [
        encode_scans([card(i, NOW_MS + i)]) for i in range((params["repetitions"] + 1) * count)
    ]
    captures = [bodies[at : at + count] for at in range(0, len(bodies), count)]
    (place.scratch / "keys").mkdir(mode=0o700)
    ring = FileKeyRing(place.scratch / "keys", create=True)
    contenders: list[Contender] = [
        kind(captures, ring, place.scratch / kind.name) for kind in (Ours, Sqlite, File)
    ]
    facts: dict[str, int | str] = {"bytes_a_capture": sum(map(len, bodies)) // len(bodies)}
    return Round(contenders, count, b"".join(bodies), facts)


CASE: Final = Case(
    name="gateway",
    what="captures of a lane sealed and durable in the spool, one by one, then read and settled",
    unit="capture",
    params={
        "smoke": {"captures": 20, "repetitions": 2},
        "small": {"captures": 200, "repetitions": 7},
        "large": {"captures": 1_000, "repetitions": 15},
    },
    set_up=set_up,
)
