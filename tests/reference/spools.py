"""Spools for tests, their drafts, and disks that refuse."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb

from engine.gateway.spool_epoch import Draft
from engine.gateway.spool_lmdb import Spool
from engine.identity.keys import make_pair
from engine.wire.frames import FrameType

PRIVATE, PUBLIC = make_pair()

MakeSpool = Callable[..., Spool]


@contextlib.contextmanager
def spools_in(folder: Path) -> Iterator[MakeSpool]:
    """Makes spools in the folder; they are closed at the end."""
    made: list[Spool] = []

    def make_one(name: str = "spool", gateway: str = "gw-1", **options: object) -> Spool:
        spool = Spool(folder / name, gateway=gateway, ingest_public=PUBLIC, **options)  # type: ignore[arg-type]
        made.append(spool)
        return spool

    yield make_one
    for spool in made:
        spool.close()


def draft(body: bytes, channel: int = 1) -> Draft:
    return Draft(FrameType.SCANS, 0, channel, body)


def plain(public: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """Stands in for the seal where the size of a body must be exact."""
    return plaintext


def fill(spool: Spool) -> None:
    spool.append([draft(b"%d" % n) for n in range(5)])
    spool.ack(spool.current, 2)
    spool.close()


def put_back(path: Path, old: bytes) -> None:
    """Old bytes over the file itself, once its last write is no longer new
    (engine.gateway.imprint.WRITE_MAX_MS, which is 50 then)."""
    time.sleep(0.1)
    with path.open("r+b") as file:
        file.write(old)


def fail(*_: object) -> None:
    raise lmdb.DiskError("Input/output error")
