"""The control log: durable before it answers, chained, read back in order, never shortened."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import lmdb
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import (
    JournalCorrupt,
    StorageFull,
    StorageUnavailable,
    StoreLocked,
    StoreVersion,
)
from engine.storage.control_lmdb import BODY_LIMIT_BYTES, ControlLog, bytes_to_record, genesis
from engine.storage.journal_lmdb import LmdbJournal
from engine.storage.store_lmdb import Store, lsn_to_key

ROOT = Path(__file__).resolve().parents[2]
AT_MS = 1_625_097_600_000


@pytest.fixture
def path(tmp_path):
    return tmp_path / "control"


def open_log(path, **options):
    return ControlLog(path, **{"floor_bytes": 0, "limit_bytes": 1 << 28, **options})


def fill(path, count=3):
    log = open_log(path)
    for n in range(count):
        log.append_sync("post", f"officer-{n}", b"body %d" % n, AT_MS + n)
    log.close()


def change(path, edit) -> None:
    env = lmdb.open(str(path), lib_version=0, map_size=1 << 30)
    with env.begin(write=True) as txn:
        edit(txn)
    env.close()


def test_what_was_appended_is_read_back_in_order(path):
    async def main():
        log = open_log(path)
        assert log.last_lsn() == 0
        assert list(log.read()) == []
        lsns = [await log.append("post", "an", b"%d" % n, AT_MS + n) for n in range(5)]
        lsns += await asyncio.gather(*(log.append("audit", "b", b"x", AT_MS) for _ in range(50)))
        assert lsns == list(range(1, 56))
        found = list(log.read())
        assert [r.lsn for r in found] == lsns
        assert (found[3].kind, found[3].by, found[3].body, found[3].at_ms) == (
            "post",
            "an",
            b"3",
            AT_MS + 3,
        )
        assert [r.lsn for r in log.read(53)] == [54, 55]
        assert log.head() == found[-1].chain
        log.close()
        again = open_log(path)
        assert list(again.read()) == found
        assert again.head() == found[-1].chain
        assert again.append_sync("post", "", b"", -1) == 56
        again.close()

    asyncio.run(main())


def test_the_chain_is_the_documented_one(path):
    fill(path, 2)
    with Store(path, kind="control", is_offline=True) as store:
        chain = hashlib.sha256(b"chot/control/1\0" + store.meta.store_id).digest()
    assert len({genesis(b"a"), genesis(b"b"), chain}) == 3
    log = open_log(path)
    for n, record in enumerate(log.read()):
        content = msgspec.msgpack.encode(["post", f"officer-{n}", AT_MS + n, b"body %d" % n])
        chain = hashlib.sha256(chain + (n + 1).to_bytes(8, "big") + content).digest()
        assert record.chain == chain
    assert log.head() == chain
    log.close()


def _edit_record(lsn, **fields):
    def edit(txn):
        values = dict(
            zip(
                ("kind", "by", "at_ms", "body", "chain"),
                msgspec.msgpack.decode(txn.get(lsn_to_key(lsn))),
                strict=True,
            )
        )
        txn.put(lsn_to_key(lsn), msgspec.msgpack.encode(list({**values, **fields}.values())))

    return edit


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        (_edit_record(2, by="somebody else"), "record 2 does not follow"),
        (_edit_record(2, body=b""), "record 2 does not follow"),
        (_edit_record(2, at_ms=0), "record 2 does not follow"),
        (_edit_record(1, chain=bytes(32)), "record 1 does not follow"),
        (lambda txn: txn.delete(lsn_to_key(2)), "record 2 is missing"),
        (lambda txn: txn.put(lsn_to_key(3), b"\xc1"), "record 3 cannot be read"),
        (lambda txn: txn.put(lsn_to_key(3), b"\x90"), "record 3 cannot be read"),
        (lambda txn: txn.put(lsn_to_key(4), txn.get(lsn_to_key(3))), "record 4 does not follow"),
    ],
)
def test_changes_behind_its_back_are_found(path, edit, word):
    fill(path)
    change(path, edit)
    with pytest.raises(JournalCorrupt, match=word):
        open_log(path)


@settings(max_examples=200)
@given(st.binary(max_size=80))
def test_any_bytes_are_a_record_or_corrupt(value):
    with contextlib.suppress(JournalCorrupt):
        assert bytes_to_record(1, value).lsn == 1


@pytest.mark.parametrize(
    "fields",
    [
        ("", "an", b"", 0),
        ("k" * 257, "an", b"", 0),
        ("k", "a" * 257, b"", 0),
        ("k", "an", bytes(BODY_LIMIT_BYTES + 1), 0),
        ("k", "an", b"", 1 << 63),
    ],
)
def test_fields_out_of_range(path, fields):
    log = open_log(path)
    with pytest.raises(ValueError, match="control record"):
        log.append_sync(*fields)
    assert log.last_lsn() == 0
    log.close()


def test_one_opener_and_the_right_kind(path, tmp_path):
    log = open_log(path)
    with pytest.raises(StoreLocked):
        open_log(path)
    log.close()
    log.close()
    with pytest.raises(StorageUnavailable):
        log.append_sync("k", "an", b"", 0)
    with pytest.raises(StoreVersion, match="control store"):
        LmdbJournal(path, None, _Clock())


class _Clock:
    def now_ms(self):
        return AT_MS

    def monotonic_ns(self):
        return 0


def test_a_full_store_goes_on_answering(path):
    log = open_log(path, limit_bytes=200_000)
    stored = 0
    with pytest.raises(StorageFull):
        for _ in range(100):
            stored = log.append_sync("k", "an", bytes(10_000), AT_MS)
    assert 5 < stored < 30
    assert len(list(log.read())) == stored
    with pytest.raises(StorageFull):
        log.append_sync("k", "an", bytes(10_000), AT_MS)
    log.close()
    log = open_log(path)
    assert log.append_sync("k", "an", bytes(10_000), AT_MS) == stored + 1
    log.close()


WORKER = """
import os, sys
from engine.storage.control_lmdb import ControlLog
log = ControlLog(sys.argv[1], floor_bytes=0)
while True:
    lsn = log.append_sync("audit", "an", b"%d" % (log.last_lsn() + 1), 0)
    os.write(1, b"%d\\n" % lsn)
"""


def test_killed_while_appending(path):
    acked = 0
    for count in (1, 7, 40):
        with subprocess.Popen(
            [sys.executable, "-c", WORKER, str(path)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        ) as worker:
            for _ in range(count):
                acked = int(worker.stdout.readline())
            worker.send_signal(signal.SIGKILL)
            rest = worker.stdout.read().decode().split("\n")[:-1]
            acked = int(rest[-1]) if rest else acked
        log = open_log(path)
        found = [int(record.body) for record in log.read()]
        assert found == list(range(1, len(found) + 1))
        assert acked <= len(found) <= acked + 1
        log.close()
