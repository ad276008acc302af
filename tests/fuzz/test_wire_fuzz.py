"""CKP/1 under fire: bytes made of bent messages, through the framer, the decoder and a real engine.

Whatever comes gives messages or an InputError, and no more memory than the limits allow. What was
once worth keeping is in tests/data/wire/hostile.jsonl.
"""

from __future__ import annotations

import json
import random
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from engine.errors import InputError, WireTooLarge
from engine.identity.keys import FileKeyRing
from engine.identity.seals import seal
from engine.scans.records import decode_scans
from engine.wire import frames as wire
from tests.e2e.rig import (
    BACK_END,
    EngineProcess,
    RawLink,
    check_no_person,
    fresh_person,
    hello,
    job,
    lane_name,
    person_scan,
    read_store,
    scans,
)

DATA = Path(__file__).resolve().parents[1] / "data" / "wire"
GOLDEN = [
    bytes.fromhex(json.loads(line)["hex"])
    for line in (DATA / "golden.jsonl").read_text(encoding="utf-8").splitlines()
]
HOSTILE = [
    json.loads(line) for line in (DATA / "hostile.jsonl").read_text(encoding="utf-8").splitlines()
]
MAX_BODY = 4096
# MessagePack heads that promise much: array, map, str, bin and ext of 2 and 4 bytes of length.
PROMISES = [bytes([tag]) + b"\xff" * size for tag, size in
            ((0xDC, 2), (0xDD, 4), (0xDE, 2), (0xDF, 4), (0xDA, 2), (0xDB, 4), (0xC5, 2), (0xC6, 4),
             (0xC8, 2), (0xC9, 4))]  # fmt: skip


# ---- bending ------------------------------------------------------------------------------------


def flip(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def lie(rng: random.Random, data: bytearray) -> None:
    """A head that promises more than follows, somewhere in the body."""
    promise = rng.choice(PROMISES)
    at = rng.randrange(min(16, len(data) - 1), len(data))
    data[at : at + rng.choice((0, 1, len(promise)))] = promise


def resize(rng: random.Random, data: bytearray) -> None:
    """Another length in the header."""
    size = rng.choice(
        (0, 1, 15, 16, 65_536, 65_537, MAX_BODY, MAX_BODY + 1, 1 << 31, (1 << 32) - 1)
    )
    data[4:8] = struct.pack(">I", size)


def renumber(rng: random.Random, data: bytearray) -> None:
    number = rng.choice((0, 1, 2, (1 << 63) - 1, 1 << 63, (1 << 64) - 1))
    data[8:16] = struct.pack(">Q", number)


def retype(rng: random.Random, data: bytearray) -> None:
    data[rng.randrange(2)] = rng.randrange(256)


def cut(rng: random.Random, data: bytearray) -> None:
    del data[rng.randrange(1, len(data)) :]


def nest(rng: random.Random, data: bytearray) -> None:
    """A tower of arrays or maps, with the length in the header made right."""
    data[16:] = rng.choice((b"\x91", b"\x81\xa1k", b"\xdd\0\0\0\x01")) * rng.randint(1, 900)
    data[4:8] = struct.pack(">I", len(data) - 16)


def stretch(rng: random.Random, data: bytearray) -> None:
    """Part of the body again and again, with the length in the header made right."""
    part = data[16 + rng.randrange(max(1, len(data) - 16)) :][: rng.randint(1, 64)]
    data.extend(part * rng.randint(1, 40))
    data[4:8] = struct.pack(">I", len(data) - 16)


BENDS: list[Callable[[random.Random, bytearray], None]] = [
    flip, lie, resize, renumber, retype, cut, nest, stretch,
]  # fmt: skip


def bent(rng: random.Random, message: bytes) -> bytes:
    data = bytearray(message)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        if len(data) > 17:
            rng.choice(BENDS)(rng, data)
    return bytes(data)


def stream(rng: random.Random, messages: list[bytes]) -> bytes:
    return b"".join(bent(rng, rng.choice(messages)) for _ in range(rng.randint(1, 6)))


# ---- framer and decoder, without sockets --------------------------------------------------------


def read(data: bytes, rng: random.Random, max_body: int = MAX_BODY) -> tuple[list[Any], int]:
    """(messages, code of the fault or 0), fed in pieces."""
    reader = wire.FrameReader(max_body)
    found: list[Any] = []
    at = 0
    try:
        while at < len(data):
            size = rng.choice((1, 7, 16, 100, len(data)))
            found += reader.feed(data[at : at + size])
            at += size
        reader.check()
    except InputError as error:
        return found, error.wire
    return found, 0


def fire(seed: int, rounds: int) -> dict[int, int]:
    """How often each code came. Raises when something else does, or when memory is not bounded."""
    rng = random.Random(seed)
    codes: dict[int, int] = {}
    tracemalloc.start()
    try:
        for _ in range(rounds):
            data = stream(rng, GOLDEN)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            messages, code = read(data, rng)
            for message in messages:
                if isinstance(message, wire.Scans) and not message.is_sealed:
                    packed, fault = decode_scans(message.body)
                    assert (packed, fault) == (message.packed, message.fault)
                assert wire.encode(message)
            peak = tracemalloc.get_traced_memory()[1] - before
            # A record of 2 bytes becomes an entry of 88; objects of messages cost a little each.
            assert peak < 64 * len(data) + 64 * 1024, (peak, data.hex())
            codes[code] = codes.get(code, 0) + 1
    finally:
        tracemalloc.stop()
    return codes


def test_bent_messages_give_messages_or_a_fault() -> None:
    codes = fire(seed=1, rounds=4000)
    assert set(codes) == {0, 5, 7}
    assert min(codes.values()) > 50  # each way out is met often


@pytest.mark.full
@pytest.mark.parametrize("seed", range(2, 8))
def test_many_bent_messages(seed: int) -> None:
    assert set(fire(seed, rounds=40_000)) == {0, 5, 7}


@pytest.mark.parametrize("case", HOSTILE, ids=lambda case: case["name"])
def test_what_was_worth_keeping(case: dict[str, Any]) -> None:
    for seed in range(4):
        messages, code = read(bytes.fromhex(case["hex"]), random.Random(seed), 65_536)
        assert [m.type.name for m in messages] == case["messages"]
        assert code == case["code"]
        assert [m.fault for m in messages if isinstance(m, wire.Scans)] == case["faults"]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda p: p.hex())
def test_a_promise_takes_no_memory(promise: bytes) -> None:
    """4 GiB promised in ten bytes: nothing is set aside for what has not come."""
    body = b"\x91\x95\x01\x00\x01" + promise
    tracemalloc.start()
    try:
        packed, fault = decode_scans(body)
        assert (packed, fault) == (b"", 0)
        packed, fault = decode_scans(promise)
        assert (packed, fault) == (b"", 0)
        header = struct.pack(">BBHIQ", 2, 0, 1, (1 << 32) - 1, 1)
        reader = wire.FrameReader()
        with pytest.raises(WireTooLarge):
            reader.feed(header + body)
            reader.check()
        assert tracemalloc.get_traced_memory()[1] < 256 * 1024
    finally:
        tracemalloc.stop()


# ---- a real engine ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    settings = {"credit_bytes": 1_000_000, "frame_size_max": 500_000, "heartbeat_s": 60}
    with job(tmp_path_factory.mktemp("fuzz") / "job", settings=settings, with_api=False) as made:
        yield made.engine
        assert made.engine.stop() == 0
        log = made.engine.log_text()
        assert "Traceback" not in log and " fault " not in log
        check_no_person(log)
        read_store(made.engine.data)  # it is sound


def session_messages(engine: EngineProcess, epoch: int, rng: random.Random) -> list[bytes]:
    """What a gateway may say, sealed bodies too: bent ones get as far as the pipeline."""
    public = FileKeyRing(engine.data / "keys").ingest_public()
    body = wire.encode_scans([person_scan(fresh_person()), person_scan(fresh_person())])
    sealed = seal(public, body, wire.seal_aad(lane_name(1), epoch, 1))
    image = b"\xff\xd8" + rng.randbytes(300)
    return [
        wire.encode(scans(1, person_scan(fresh_person()))),
        wire.encode(scans(2, *(person_scan(fresh_person()) for _ in range(5)))),
        wire.encode(wire.Scans(seq=1, flags=wire.FLAG_SEALED, body=sealed)),
        wire.encode(wire.FrameImage(seq=1, channel=1, codec=1, ts_ns=0, frame_no=1, image=image)),
        wire.encode(wire.Lost(seq=1, first=1, reason="overflow")),
        wire.encode(wire.Ping(7)),
        *GOLDEN,
    ]


def fire_at(engine: EngineProcess, seed: int, links: int) -> None:
    """Links that each end with an answer: a receipt, an ERROR, or the end."""
    rng = random.Random(seed)
    for n in range(links):
        epoch = rng.getrandbits(63)
        with RawLink(engine.port, timeout_s=60) as link:
            if rng.random() < 0.9:
                welcome = link.hello(lane_name(1), epoch=epoch)
                if isinstance(welcome, wire.Error):
                    assert welcome.code == 6  # links of before are not all gone yet
                    continue
                link.send_bytes(stream(rng, session_messages(engine, epoch, rng)))
            else:
                first = wire.encode(hello(lane_name(1), epoch=epoch))
                link.send_bytes(stream(rng, [first]))
            link.socket.shutdown(1)
            assert link.error_code() in range(10), n


def witness(engine: EngineProcess) -> None:
    with RawLink(engine.port, timeout_s=60) as link:
        assert isinstance(link.hello(lane_name(2)), wire.Welcome)
        link.send(scans(1, person_scan(fresh_person(), lane=2)))
        link.settled(0, 1)


def test_bent_sessions_leave_the_engine_whole(engine: EngineProcess) -> None:
    witness(engine)
    fire_at(engine, seed=1, links=150)
    before = engine.rss_bytes()
    fire_at(engine, seed=2, links=150)
    witness(engine)
    assert engine.rss_bytes() < before + (24 << 20)
    opened = engine.log_text().count("link ended")
    assert opened > 100  # most are met with an ERROR, each with its line


def test_promises_of_many_links_take_no_memory(engine: EngineProcess) -> None:
    """Each promises the largest message allowed and sends a part of it; the engine sets aside what
    came, not what was promised, which is 10 MB."""
    before = engine.rss_bytes()
    links: list[RawLink] = []
    header = struct.pack(">BBHIQ", 2, 0, 1, 499_000, 1)
    for name in [lane_name(1), lane_name(3), BACK_END] * 7:  # a gateway has eight links at most
        links.append(RawLink(engine.port, timeout_s=60))
        assert isinstance(links[-1].hello(name), wire.Welcome)
        links[-1].send_bytes(header + bytes(20_000))
    witness(engine)
    assert engine.rss_bytes() < before + (6 << 20)
    for link in links:
        link.socket.close()


@pytest.mark.full
def test_many_bent_sessions(engine: EngineProcess) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda seed: fire_at(engine, seed, 300), (3, 4)))
    witness(engine)
