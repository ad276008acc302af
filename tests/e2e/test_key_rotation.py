"""Rotated keys on a real store: persons stay the same, old spools open until their date."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.clock import ms_to_iso
from engine.identity.keys import FileKeyRing
from engine.identity.seals import seal
from engine.scans.records import encode_scan, encode_scans
from engine.storage.control_lmdb import ControlLog
from engine.wire import frames as wire
from tests.e2e.rig import (
    KEPT_FOR_EVER,
    EngineProcess,
    RawLink,
    enrolment,
    fresh_person,
    hello,
    read_store,
    run_chot,
)
from tests.e2e.test_merges import show, trace
from tests.e2e.test_watch import chot, now_ms


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[EngineProcess]:
    with EngineProcess(enrolment().copy_to(tmp_path), settings=dict(KEPT_FOR_EVER)) as started:
        yield started


def rotate(engine: EngineProcess, kind: str, *more: str) -> subprocess.CompletedProcess[str]:
    assert engine.stop() == 0
    done = run_chot("keys", "rotate", kind, "--data", str(engine.data), *more)
    engine.start()
    return done


def test_a_person_is_the_same_across_new_province_keys(engine: EngineProcess) -> None:
    anh, card, plain = fresh_person(), fresh_person(), fresh_person()
    at_ms = now_ms() - 3_000_000
    show(
        engine, *[encode_scan(at_ms + i, 1, p.payload.encode()) for i, p in enumerate((anh, card))],
        encode_scan(at_ms, 1, plain.payload.encode()), epoch=1,
    )  # fmt: skip
    until = ms_to_iso(now_ms() + 86_400_000)
    chot(engine, "watch", "add", "--list", "watch", "--to", until, stdin=f"cccd {anh.cccd}\n")
    both = f"cccd {anh.cccd}\ncccd {card.cccd}\n"
    merge = chot(engine, "merge", "add", "--why", "hai thẻ", stdin=both)
    before = trace(engine, f"cccd {plain.cccd}")["persons"][0]["person"]
    for round_ in (2, 3):
        assert rotate(engine, "province").returncode == 0
        found = trace(engine, f"cccd {plain.cccd}")
        assert len(found["visits"]) == round_ - 1, "what was stored before is still theirs"
        assert found["persons"][0]["person"] != before, "and their pseudonym is another"
        lights = show(
            engine, encode_scan(at_ms + round_ * 900_000, 1, plain.payload.encode()),
            encode_scan(now_ms(), 1, card.payload.encode()), epoch=round_,
        )  # fmt: skip
        assert lights[1].reason == "call_desk", "the list and the merge name the same persons"
        found = trace(engine, f"cccd {plain.cccd}")
        assert len(found["visits"]) == round_ and len(found["persons"]) == 1
        assert len(trace(engine, f"cccd {anh.cccd}")["persons"]) == 1
    chot(engine, "merge", "undo", str(merge["number"]), "--why", "nhầm")
    assert len(trace(engine, f"cccd {anh.cccd}")["visits"]) == 1
    assert engine.stop() == 0
    check_store(engine.data, plain.cccd)


def check_store(data: Path, number: str) -> None:
    """Readers see one key for all rows, whenever they were written."""
    ring = FileKeyRing(data / "keys")
    today = ring.person_key("cccd", "VNM", number)
    stored = read_store(data)
    assert [row["person"].tobytes() for row in stored.rows].count(today) == 3
    control = ControlLog(data / "control")
    kinds = [record.body for record in control.read() if record.kind == "keys.rotate"]
    control.close()
    assert kinds == [b"province 2", b"province 3"]
    assert run_chot("verify", str(data)).returncode == 0


def test_a_running_engine_keeps_its_keys(engine: EngineProcess) -> None:
    done = run_chot("keys", "rotate", "province", "--data", str(engine.data))
    assert done.returncode == 1 and "storage.locked" in done.stderr
    assert not (engine.data / "keys" / "rotations.json").exists()


def sealed_scans(engine: EngineProcess, public: bytes, seq: int, payload: bytes) -> wire.Scans:
    body = encode_scans([encode_scan(now_ms(), 1, payload)])
    sealed = seal(public, body, wire.seal_aad("vl-1a-1", 7, seq))
    return wire.Scans(seq=seq, body=sealed, flags=wire.FLAG_SEALED)


def test_a_spool_sealed_to_the_old_key_opens_until_its_date(engine: EngineProcess) -> None:
    anh = fresh_person()
    old = FileKeyRing(engine.data / "keys").ingest_public()
    assert rotate(engine, "ingest").returncode == 0
    new = FileKeyRing(engine.data / "keys").ingest_public()
    assert new != old

    def send(first: int, *publics: bytes) -> list[wire.Message]:
        with RawLink(engine.port) as link:
            token = enrolment().gateway_token("vl-1a-1")
            link.send(hello("vl-1a-1", token=token, epoch=7, next=(first, 1)))
            assert isinstance(link.next(), wire.Welcome)
            answers: list[wire.Message] = []
            for seq, public in enumerate(publics, first):
                link.send(sealed_scans(engine, public, seq, anh.payload.encode()))
                while not isinstance(answer := link.next(), wire.Result | wire.Nack):
                    pass
                answers.append(answer)
            link.settled(0, first + len(publics) - 1)
        return answers

    assert all(isinstance(answer, wire.Result) for answer in send(1, old, new))
    # A second rotation whose old key opens nothing any more: what was sealed to it is a NACK.
    done = rotate(engine, "ingest", "--old-until", "2021-01-01")
    assert done.returncode == 0
    newest = FileKeyRing(engine.data / "keys").ingest_public()
    kinds = [type(answer) for answer in send(3, old, new, newest)]
    assert kinds == [wire.Result, wire.Nack, wire.Result]
    listed = run_chot("keys", "list", "--data", str(engine.data)).stdout.splitlines()
    assert [line.split()[:2] for line in listed[1:]] == [
        ["province", "1"], ["ingest", "2"], ["ingest", "3"], ["audit", "1"],
    ]  # fmt: skip


def test_a_token_may_work_on_beside_its_successor(engine: EngineProcess, tmp_path: Path) -> None:
    """Until the new file has reached the box."""
    old = enrolment().gateway_token("vl-1a-1")

    def opens(token: str) -> bool:
        with RawLink(engine.port) as link:
            link.send(hello("vl-1a-1", token=token, epoch=9))
            return isinstance(link.next(), wire.Welcome)

    def enrol(name: str, *more: str) -> str:
        out = tmp_path / name
        data = ("--data", str(engine.data))
        done = run_chot("registry", "enrol", "vl-1a-1", "--out", str(out), *data, *more)
        assert done.returncode == 0
        (line,) = [one for one in out.read_text().splitlines() if one.startswith("token")]
        return str(json.loads(line.partition("=")[2]))

    second = enrol("second.toml", "--keep-old", "24")
    assert opens(old) and opens(second)
    third = enrol("third.toml")
    assert opens(third) and not opens(second) and not opens(old)
