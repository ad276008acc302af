"""Anything at the door: each fault gives its code and a metric, and the engine goes on.

One engine takes all of it. Beside every test a well-behaved gateway gets its receipts, and at the
end the store is sound and holds every one of that gateway's scans.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import random
import resource
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from engine.client import api_client as client
from engine.clock import DAY_MS, SystemClock
from engine.decoding.images import split_mjpeg
from engine.identity.keys import FileKeyRing
from engine.identity.seals import seal
from engine.ingest.link import LINKS_MAX
from engine.scans.records import encode_checkin, encode_manual, encode_scan, encode_scans
from engine.scans.rows import Direction
from engine.wire import frames as wire
from engine.wire.frames import Codec, FrameType
from tests.e2e.rig import (
    BACK_END,
    CLIPS,
    TABLES,
    EngineProcess,
    GatewayProcess,
    Job,
    RawLink,
    Stored,
    check_no_person,
    enrolment,
    fresh_person,
    hello,
    job,
    lane_name,
    person_scan,
    read_store,
    run_chot,
    scans,
    story,
    until,
)

LANE_1, LANE_2 = "vl-1a-1", "vl-1a-2"
HELD_S = 10  # how long the engine waits for a HELLO
CREDIT_BYTES = 1_000_000
POST = 1


def now_ms() -> int:
    return SystemClock().now_ms()


class Witness:
    """A gateway that behaves, on a link that stays open all along."""

    def __init__(self, engine: EngineProcess) -> None:
        self.link = RawLink(engine.port)
        assert isinstance(self.link.hello(LANE_2), wire.Welcome)
        self.seq = 0

    def check(self) -> None:
        """A new scan gets its light and its receipt."""
        self.seq += 1
        self.link.send(scans(self.seq, person_scan(fresh_person(), lane=2)))
        came = self.link.settled(0, self.seq)
        lights = [m.verdict.verdict for m in came if isinstance(m, wire.Result)]
        assert lights == ["accepted"]


class Stand:
    """The engine, its witness, and sockets that were opened first and never say HELLO."""

    def __init__(self, made: Job) -> None:
        self.job = made
        self.engine = made.engine
        self.witness = Witness(made.engine)
        self.silent = [RawLink(made.engine.port, timeout_s=3 * HELD_S) for _ in range(3)]
        self.silent[1].send_bytes(wire.encode(hello(LANE_1))[:-1])
        self.silent_since_s = time.monotonic()

    def session(self, name: str = LANE_1, **changes: Any) -> RawLink:
        link = RawLink(self.engine.port)
        assert isinstance(link.hello(name, **changes), wire.Welcome)
        return link


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    folder = tmp_path_factory.mktemp("hostile") / "job"
    changes = {"credit_bytes": CREDIT_BYTES, "retention_days": 30, "heartbeat_s": 60}
    with job(folder, settings=changes) as made:
        stand = Stand(made)
        yield stand
        assert made.engine.stop() == 0
    log = made.engine.log_text()
    assert "Traceback" not in log
    check_no_person(log)
    stored = read_store(made.engine.data)
    at_lane_2 = stored.rows[stored.rows["lane"] == 2]
    assert len(at_lane_2) == stand.witness.seq


@pytest.fixture(autouse=True)
def others_are_served(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "stand" in request.fixturenames:
        request.getfixturevalue("stand").witness.check()


@contextlib.contextmanager
def counted(stand: Stand, name: str, by: float = 1, **labels: str) -> Iterator[None]:
    """What happens inside is counted by this metric."""
    before = stand.engine.metric(name, **labels)
    yield
    until(lambda: stand.engine.metric(name, **labels) >= before + by, timeout_s=10)


# ---- before WELCOME -----------------------------------------------------------------------------

HEADER = struct.Struct(">BBHIQ")
HELLO_BYTES = wire.encode(wire.Hello(gateway=LANE_1, epoch=1, inst=bytes(8), lanes=[], next=(1, 1),
                                     oldest=1, max_frame=1, t0=0))  # fmt: skip


@pytest.mark.parametrize(
    ("data", "code", "name"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 7, "wire.malformed"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(20), 7, "wire.malformed"),
        (bytes(4096), 7, "wire.malformed"),
        (b"\xff" * 4096, 7, "wire.malformed"),
        (HEADER.pack(FrameType.HELLO, 0, 0, 0xFFFF_FFFF, 0), 5, "wire.too_large"),
        (HEADER.pack(FrameType.HELLO, 0, 0, 65_537, 0), 5, "wire.too_large"),
        (HEADER.pack(FrameType.SCANS, 0, 1, 4_000_000, 1), 5, "wire.too_large"),
        (HEADER.pack(FrameType.HELLO, 0, 0, 0, 0), 7, "wire.malformed"),
        (HEADER.pack(FrameType.HELLO, 4, 0, 0, 0), 7, "wire.malformed"),
        (HEADER.pack(FrameType.WELCOME, 0, 0, 0, 0), 7, "wire.malformed"),
        (wire.encode(wire.Ack(cls=0, seq=1, limit=1, byte_limit=1)), 7, "wire.malformed"),
        (wire.encode(wire.Ping(1)), 7, "wire.malformed"),
        (wire.encode(wire.Bye(0)), 7, "wire.malformed"),
        (wire.encode(wire.Scans(seq=1, body=b"\x90")), 7, "wire.malformed"),
        (HELLO_BYTES[:16] + b"\xc1" + HELLO_BYTES[17:], 7, "wire.malformed"),
        (HELLO_BYTES[:16] + b"\xdd\xff\xff\xff\xff" + HELLO_BYTES[21:], 7, "wire.malformed"),
    ],
)
def test_whoever_is_no_gateway_hears_why_and_is_cut(
    stand: Stand, data: bytes, code: int, name: str
) -> None:
    with counted(stand, "chot_sessions_refused", code=name), RawLink(stand.engine.port) as link:
        link.send_bytes(data)
        assert link.error_code() == code


@pytest.mark.parametrize(
    ("changes", "code", "name"),
    [
        ({"version": 2}, 1, "wire.version"),
        ({"version": 0}, 1, "wire.version"),
        ({"token": "x"}, 2, "wire.auth"),
        ({"token": None}, 2, "wire.auth"),
        ({"token": "Nguyễn"}, 2, "wire.auth"),
        ({"gateway": "nobody"}, 8, "wire.unknown_gateway"),
        ({"gateway": LANE_2}, 2, "wire.auth"),  # with the token of another
        ({"gateway": "hl-1a-1", "token": None}, 2, "wire.auth"),  # never enrolled
        ({"next": (0, 0)}, 9, "wire.epoch_used"),
    ],
)
def test_a_hello_that_opens_nothing(
    stand: Stand, changes: dict[str, Any], code: int, name: str
) -> None:
    with counted(stand, "chot_sessions_refused", code=name), RawLink(stand.engine.port) as link:
        link.send(hello(LANE_1, **changes))
        assert link.error_code() == code


def test_two_hellos_at_once(stand: Stand) -> None:
    with RawLink(stand.engine.port) as link:
        link.send(hello(LANE_1), hello(LANE_1))
        assert link.error_code() == 7


def test_a_hello_in_a_session(stand: Stand) -> None:
    with stand.session() as link:
        link.send(hello(LANE_1))
        assert link.error_code() == 7


def test_a_message_right_behind_hello(stand: Stand) -> None:
    with RawLink(stand.engine.port) as link:
        link.send(hello(LANE_1), scans(1, person_scan(fresh_person())))
        assert link.error_code() == 7


def test_a_hello_byte_by_byte_is_a_hello(stand: Stand) -> None:
    with RawLink(stand.engine.port) as link:
        for byte in wire.encode(hello(LANE_1)):
            link.send_bytes(bytes([byte]))
        assert isinstance(link.next(), wire.Welcome)


# ---- in a session: the link ends ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "code", "name"),
    [
        (wire.encode(scans(2, b"\xc0")), 4, "wire.gap"),
        (wire.encode(wire.Lost(seq=9, first=5, reason="overflow")), 4, "wire.gap"),
        (wire.encode(scans(1_000_000, b"\xc0")), 6, "wire.over_credit"),
        (wire.encode(wire.Lost(seq=(1 << 64) - 1, first=1, reason="overflow")), 6,
         "wire.over_credit"),
        (wire.encode(scans((1 << 64) - 1, b"\xc0")), 6, "wire.over_credit"),
        (wire.encode(wire.FrameImage(seq=1_000_000, channel=1, codec=1, ts_ns=0, frame_no=0,
                                     image=b"")), 6, "wire.over_credit"),
        (wire.encode(wire.FrameImage(seq=1, channel=1, codec=1, ts_ns=0, frame_no=0,
                                     image=bytes(CREDIT_BYTES))), 6, "wire.over_credit"),
        (wire.encode(wire.Scans(seq=1, body=bytes(CREDIT_BYTES))), 6, "wire.over_credit"),
        (HEADER.pack(FrameType.SCANS, 0, 1, 0xFFFF_FFFF, 1), 5, "wire.too_large"),
        (HEADER.pack(FrameType.EVENT, 0, 1, 65_537, 1) + bytes(65_537), 5, "wire.too_large"),
        (HEADER.pack(FrameType.SCANS, 0, 1, 0, 0), 7, "wire.malformed"),
        (HEADER.pack(FrameType.SCANS, 1, 1, 0, 1), 7, "wire.malformed"),
        (HEADER.pack(FrameType.FRAME, 0, 1, 0, 1), 7, "wire.malformed"),
        (HEADER.pack(FrameType.FRAME, 1, 1, 23, 1) + bytes(23), 7, "wire.malformed"),
        (HEADER.pack(FrameType.LOST, 0, 0, 0, 1), 7, "wire.malformed"),
        (HEADER.pack(0x99, 0, 0, 0, 0), 7, "wire.malformed"),
        *[(HEADER.pack(kind, 0, 0, 0, 0), 7, "wire.malformed")
          for kind in FrameType if kind >= 0x80],
        (wire.encode(wire.Ack(cls=0, seq=9, limit=9, byte_limit=9)), 7, "wire.malformed"),
        (wire.encode(wire.Goaway(code=10)), 7, "wire.malformed"),
        (wire.encode(wire.Error(code=2, text="Nguyễn Văn Bình")), 7, "wire.malformed"),
    ],
)  # fmt: skip
def test_a_breach_of_the_rules_ends_the_link(
    stand: Stand, data: bytes, code: int, name: str
) -> None:
    with counted(stand, "chot_sessions_refused", code=name), stand.session() as link:
        link.send_bytes(data)
        assert link.error_code() == code


def test_a_gateway_has_at_most_eight_links(stand: Stand) -> None:
    """One box cannot take the places of others; a newer link of an epoch needs none."""
    with contextlib.ExitStack() as exits:
        links = [exits.enter_context(RawLink(stand.engine.port)) for _ in range(LINKS_MAX + 2)]
        for epoch, link in enumerate(links[:LINKS_MAX]):
            assert isinstance(link.hello(lane_name(3), epoch=9000 + epoch), wire.Welcome)
        links[LINKS_MAX].send(hello(lane_name(3), epoch=9999))
        assert links[LINKS_MAX].error_code() == 6
        assert isinstance(links[-1].hello(lane_name(3), epoch=9000), wire.Welcome)
        assert links[0].error_code() == 3
        with RawLink(stand.engine.port) as other:
            assert isinstance(other.hello(lane_name(1)), wire.Welcome)


def test_a_newer_link_replaces_the_older_one(stand: Stand) -> None:
    with stand.session(epoch=77) as older:
        older.send(scans(1, person_scan(fresh_person())))
        older.settled(0, 1)
        with RawLink(stand.engine.port) as newer:
            welcome = newer.hello(LANE_1, epoch=77, next=(2, 1))
            assert isinstance(welcome, wire.Welcome)
            assert welcome.acked == (1, 0)
            assert older.error_code() == 3


# ---- in a session: the message is refused and consumed ------------------------------------------


def refused(link: RawLink, message: wire.Message, cls: int) -> list[tuple[int, int, str]]:
    """(code, index, first word) of each NACK; the message was consumed and the link lives on."""
    link.send(message)
    found = [m for m in link.settled(cls, message.seq) if isinstance(m, wire.Nack)]  # type: ignore[union-attr]
    link.send(wire.Ping(5))
    assert link.wait_for(wire.Pong).t0 == 5
    return [(m.code, m.index, m.text.split(":")[0]) for m in found]


@pytest.mark.parametrize(
    ("records", "faults", "lights", "reason"),
    [
        ([b"\xc0"], [(7, 0)], [], "malformed"),
        (["good", b"\x93\x01\x02", "good"], [(7, 1)], ["accepted"], "malformed"),
        ([b"\x95\x09\x01\x01\xc4\x00\x00"], [(7, 0)], [], "malformed"),
        (["future"], [(12, 0)], [], "clock"),
        (["far future"], [(12, 0)], [], "clock"),
        (["ancient"], [], ["refused"], "too_old"),
        (["year 0"], [], ["refused"], "too_old"),
        (["other lane"], [(7, 0)], [], "malformed"),
        (["manual elsewhere"], [(7, 0)], [], "malformed"),
        (["bank"], [], ["refused"], "payment_qr"),
        (["empty"], [], ["refused"], "empty"),
        (["venue"], [], ["refused"], "unsupported_context"),
        (["lane's check-in"], [], ["refused"], "unsupported_context"),
        (["unknown venue"], [], ["refused"], "unknown_place"),
        (["forged venue"], [], ["refused"], "forged"),
        (["bad credential"], [(7, 0)], [], "malformed"),
        (["deep"], [(7, 0)], [], "malformed"),
        (["giant field"], [], ["refused"], "malformed"),
    ],
)
def test_records_that_cannot_be_taken(
    stand: Stand,
    records: list[bytes | str],
    faults: list[tuple[int, int]],
    lights: list[str],
    reason: str,
) -> None:
    made = [make_record(r) if isinstance(r, str) else r for r in records]
    name = BACK_END if records[0] in BACK_END_RECORDS else LANE_1
    with counted(stand, "chot_refused", reason=reason), stand.session(name) as link:
        link.send(scans(1, *made))
        came = link.settled(0, 1)
        assert [(m.code, m.index) for m in came if isinstance(m, wire.Nack)] == faults
        assert [m.verdict.verdict for m in came if isinstance(m, wire.Result)] == lights
        link.send(scans(2, person_scan(fresh_person())))
        link.settled(0, 2)


BACK_END_RECORDS = ("unknown venue", "forged venue", "bad credential")


def make_record(kind: str) -> bytes:
    payload = fresh_person().payload.encode()
    code = enrolment().codes[1013]
    forged = code[:-12] + ("0" if code[-12] != "0" else "1") + code[-11:]
    match kind:
        case "good":
            return encode_scan(now_ms(), 1, payload)
        case "future":
            return encode_scan(now_ms() + 3_600_000, 1, payload)
        case "far future":
            return encode_scan((1 << 63) - 1, 1, payload)
        case "ancient":
            return encode_scan(now_ms() - 32 * DAY_MS, 1, payload)
        case "year 0":
            return encode_scan(0, 1, payload)
        case "other lane":
            return encode_scan(now_ms(), 2, payload)
        case "manual elsewhere":
            return encode_manual(now_ms(), 9, {"name": "Võ Thị Sáu"}, officer="7", why="-")
        case "bank":
            return encode_scan(now_ms(), 1, b"00020101021238570010A0000007270127")
        case "empty":
            return encode_scan(now_ms(), 1, b"")
        case "venue":
            return encode_scan(now_ms(), 1, code.encode())
        case "lane's check-in":
            return encode_checkin(now_ms(), Direction.IN, payload, code.encode())
        case "unknown venue":
            return encode_checkin(now_ms(), Direction.IN, payload, 4_000_000_000)
        case "forged venue":
            return encode_checkin(now_ms(), Direction.IN, payload, recheck(forged).encode())
        case "bad credential":
            who = b"\x92\xa5phone\xa50912\x30"
            head = b"\x96\x02\xcf" + now_ms().to_bytes(8, "big") + b"\x01"
            return head + who + b"\xcd\x03\xf5\x00"
        case "deep":
            head = b"\x96\x01\xcf" + now_ms().to_bytes(8, "big") + b"\x01\xc4\x01x\x00"
            return head + b"\x81\xa1a" * 60 + b"\xc0"
        case "giant field":
            fields = {"name": "Võ " * 20_000}
            return encode_manual(now_ms(), 1, fields, officer="7", why="-")
    raise AssertionError(kind)


def recheck(code: str) -> str:
    """A venue code with check characters that fit, so that its tag alone is wrong."""
    from engine.payloads.venue import check_characters

    head, _, body = code.rpartition("/")
    return f"{head}/{body[:-2]}{check_characters(body[:-2])}"


def test_sealed_bodies_that_do_not_open(stand: Stand) -> None:
    public = FileKeyRing(stand.engine.data / "keys").ingest_public()
    body = encode_scans([person_scan(fresh_person())])
    epoch = 4711
    sealed = seal(public, body, wire.seal_aad(LANE_1, epoch, 1))
    flags = wire.FLAG_SEALED
    with (
        counted(stand, "chot_refused", by=5, reason="seal_broken"),
        stand.session(epoch=epoch) as link,
    ):
        link.send(wire.Scans(seq=1, body=sealed, flags=flags))
        came = link.settled(0, 1)
        assert [m.verdict.verdict for m in came if isinstance(m, wire.Result)] == ["accepted"]
        broken = [
            sealed,  # the same body under another number
            sealed[:-1],
            sealed[:-1] + bytes([sealed[-1] ^ 1]),
            b"",
            b"\x01" + bytes(80),  # a public key of low order
        ]
        for seq, data in enumerate(broken, 2):
            message = wire.Scans(seq=seq, body=data, flags=flags)
            assert refused(link, message, 0) == [(7, 0, "keys.seal_broken")]


def test_an_event_that_is_none_is_refused_and_consumed(stand: Stand) -> None:
    report = wire.Report(kind="thermal", ts_ms=now_ms(), device="x", text="Nguyễn Văn Bình")
    sealed = wire.Event(seq=2, flags=wire.FLAG_SEALED, body=b"not sealed at all")
    with stand.session() as link:
        assert refused(link, wire.Event(seq=1, report=report), 0) == [(7, 0, "wire.malformed")]
        assert refused(link, sealed, 0) == [(7, 0, "keys.seal_broken")]


def test_lost_numbers_are_recorded_with_their_count(stand: Stand) -> None:
    with counted(stand, "chot_lost_scans", by=40), stand.session() as link:
        link.send(wire.Lost(seq=40, first=1, reason="overflow"))
        link.settled(0, 40)
        link.send(scans(41, person_scan(fresh_person())))
        link.settled(0, 41)


# ---- frames -------------------------------------------------------------------------------------


def jpeg() -> bytes:
    return next(split_mjpeg((CLIPS / "lane1.mjpeg").read_bytes()))


def resized(image: bytes, width: int, height: int) -> bytes:
    """A JPEG that claims another size."""
    at = image.index(b"\xff\xc0")
    return image[: at + 5] + struct.pack(">HH", height, width) + image[at + 9 :]


def png(width: int, height: int, data: bytes) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        tail = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + tail

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


FRAMES: dict[str, tuple[int, Callable[[], bytes], tuple[int, int, int], str]] = {
    "nothing": (Codec.JPEG, lambda: b"", (0, 0, 0), "image.invalid"),
    "cut in its head": (Codec.JPEG, lambda: jpeg()[:100], (0, 0, 0), "image.invalid"),
    "noise": (Codec.JPEG, lambda: random.Random(1).randbytes(5000), (0, 0, 0), "image.invalid"),
    "0 x 0": (Codec.JPEG, lambda: resized(jpeg(), 0, 0), (0, 0, 0), "image.invalid"),
    "30000 x 30000": (Codec.JPEG, lambda: resized(jpeg(), 30000, 30000), (0, 0, 0),
                      "image.too_large"),
    "beyond JPEG": (Codec.JPEG, lambda: resized(jpeg(), 65535, 65535), (0, 0, 0), "image.invalid"),
    "png bomb": (Codec.PNG, lambda: png(30000, 30000, bytes(20_000_000)), (0, 0, 0),
                 "image.too_large"),
    "png 0 x 0": (Codec.PNG, lambda: png(0, 0, b""), (0, 0, 0), "image.invalid"),
    "png that lies": (Codec.PNG, lambda: png(4, 4, b""), (0, 0, 0), "image.invalid"),
    "gif in a png": (Codec.PNG, lambda: gif(), (0, 0, 0), "image.invalid"),
    "luma of nothing": (Codec.GRAY8, lambda: b"", (0, 0, 0), "image.invalid"),
    "luma 30000 x 30000": (Codec.GRAY8, lambda: bytes(100), (30000, 30000, 30000),
                           "image.too_large"),
    "luma too short": (Codec.GRAY8, lambda: bytes(99), (10, 10, 10), "image.invalid"),
    "luma with a short stride": (Codec.GRAY8, lambda: bytes(100), (10, 10, 5), "image.invalid"),
    "codec 0": (0, jpeg, (0, 0, 0), "image.invalid"),
    "codec 255": (255, jpeg, (0, 0, 0), "image.invalid"),
}  # fmt: skip


def gif() -> bytes:
    out = io.BytesIO()
    Image.new("L", (8, 8)).save(out, "GIF")
    return out.getvalue()


def frame(seq: int, image: bytes, **changes: Any) -> wire.FrameImage:
    fields: dict[str, Any] = {"channel": 1, "codec": Codec.JPEG, "ts_ns": time.time_ns()}
    return wire.FrameImage(seq=seq, frame_no=seq, image=image, **{**fields, **changes})


@pytest.mark.parametrize("name", FRAMES)
def test_frames_that_are_no_image(stand: Stand, name: str) -> None:
    codec, make, (width, height, stride), code = FRAMES[name]
    with counted(stand, "chot_frames_invalid", code=code), stand.session() as link:
        message = frame(1, make(), codec=codec, width=width, height=height, stride=stride)
        assert refused(link, message, 1) == [(7, 0, code)]
        link.send(frame(2, jpeg()))
        link.settled(1, 2)


def test_a_frame_of_another_lane(stand: Stand) -> None:
    with counted(stand, "chot_frames_invalid", code="wire.malformed"), stand.session() as link:
        for seq, lane in enumerate((0, 2, 65535), 1):
            assert refused(link, frame(seq, jpeg(), channel=lane), 1) == [(7, 0, "wire.malformed")]


@pytest.mark.parametrize(
    ("ts_ns", "faults", "lights"),
    [((1 << 64) - 1, [12], []), (0, [], ["refused"])],
)
def test_a_code_in_a_frame_of_a_wrong_clock(
    stand: Stand, ts_ns: int, faults: list[int], lights: list[str]
) -> None:
    shown = list(split_mjpeg((CLIPS / "lane1.mjpeg").read_bytes()))[25]
    with stand.session() as link:
        link.send(frame(1, shown, ts_ns=ts_ns))
        came = link.settled(1, 1)
        assert [m.code for m in came if isinstance(m, wire.Nack)] == faults
        assert [m.verdict.verdict for m in came if isinstance(m, wire.Result)] == lights


# ---- peers that hold on -------------------------------------------------------------------------


def test_a_peer_that_never_reads_is_cut_and_memory_stays(stand: Stand) -> None:
    before = stand.engine.rss_bytes()
    with stand.session() as link:
        link.socket.settimeout(0.5)
        ping = wire.encode(wire.Ping(1)) * 4096
        sent = 0
        with contextlib.suppress(OSError):
            while sent < 200 << 20:
                link.socket.sendall(ping)
                sent += len(ping)
        assert sent < 100 << 20
    assert stand.engine.rss_bytes() < before + (64 << 20)


def test_a_flood_of_garbage_does_not_grow_memory(stand: Stand) -> None:
    before = stand.engine.rss_bytes()
    for seed in range(100):
        with RawLink(stand.engine.port) as link:
            link.send_bytes(random.Random(seed).randbytes(65_536))
            link.rest()
    assert stand.engine.rss_bytes() < before + (32 << 20)


VALID = [
    lambda person, seq: scans(seq, person_scan(person)),
    lambda person, seq: scans(seq, person_scan(person), b"\xc0"),
    lambda person, seq: frame(seq, jpeg()[:400]),
    lambda person, seq: wire.Lost(seq=seq, first=seq, reason="too_large"),
    lambda person, seq: wire.Ping(seq),
]


_epochs = itertools.count(1000)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    picks=st.lists(st.integers(0, len(VALID) - 1), min_size=1, max_size=6),
    cut=st.integers(0, 1 << 16),
    flips=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=8),
)
def test_any_bytes_in_a_session(
    stand: Stand, picks: list[int], cut: int, flips: list[tuple[int, int]]
) -> None:
    """Valid messages with bytes changed and the end cut off: an answer or an ERROR, never silence
    that lasts, never a hang of the stream."""
    person = fresh_person()
    data = bytearray().join(
        wire.encode(VALID[pick](person, seq)) for seq, pick in enumerate(picks, 1)
    )
    for at, value in flips:
        data[at % len(data)] = value
    epoch = next(_epochs)
    with stand.session(epoch=epoch) as link:
        link.send_bytes(bytes(data[: len(data) - cut % len(data)]))
        link.socket.shutdown(socket.SHUT_WR)
        assert link.error_code() in (0, 4, 5, 6, 7)
    with RawLink(stand.engine.port) as again:  # what it took is settled: the stream is not stuck
        assert isinstance(again.hello(LANE_1, epoch=epoch, next=(9999, 9999)), wire.Welcome)


def test_whoever_says_nothing_is_cut_after_a_while(stand: Stand) -> None:
    """Opened before all other tests, so that nobody waits for it."""
    with counted(stand, "chot_sessions_refused", by=0, code="wire.malformed"):
        for link in stand.silent:
            assert link.error_code() == 7
            link.socket.close()
    assert time.monotonic() - stand.silent_since_s >= HELD_S


# Behind the test above: its silent links are the oldest, and would be the first to give way.
def test_600_silent_connections_leave_room_for_gateways(stand: Stand) -> None:
    before = stand.engine.rss_bytes()
    with counted(stand, "chot_sessions_refused", by=50, code="sessions_max"):
        many = [RawLink(stand.engine.port) for _ in range(600)]
        try:
            stand.witness.check()
            with stand.session() as link:  # and one that comes only now
                link.send(scans(1, person_scan(fresh_person())))
                link.settled(0, 1)
        finally:
            for link in many:
                link.socket.close()
    assert stand.engine.rss_bytes() < before + (64 << 20)
    with stand.session() as link:  # room again
        link.send(scans(1, person_scan(fresh_person())))
        link.settled(0, 1)


def test_no_person_shows_in_metrics(stand: Stand) -> None:
    check_no_person(stand.engine.metrics_text())


# ---- the disk -----------------------------------------------------------------------------------


def limit_files(engine: EngineProcess, size: int) -> None:
    """No file of the engine's process may grow beyond size: what a full disk does to LMDB."""
    assert engine.process is not None
    hard = resource.prlimit(engine.process.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(engine.process.pid, resource.RLIMIT_FSIZE, (size, hard))


def fill(link: RawLink, first: int, most: int = 400) -> tuple[int, int]:
    """Scans one by one until the engine takes no more: (last with a receipt, code of the ERROR)."""
    for seq in range(first, first + most):
        link.send(scans(seq, *(person_scan(fresh_person()) for _ in range(20))))
        try:
            link.settled(0, seq)
        except AssertionError as error:
            return seq - 1, int(str(error).partition(":")[0])
    return first + most - 1, 0


def test_a_full_disk_and_room_again(tmp_path: Path) -> None:
    epoch = 99
    with job(tmp_path / "job") as made:
        engine = made.engine
        journal = engine.data / "journal" / "000001" / "data.mdb"
        with RawLink(engine.port) as link:
            link.hello(LANE_1, epoch=epoch)
            link.send(scans(1, person_scan(fresh_person())))
            link.settled(0, 1)
            limit_files(engine, journal.stat().st_size + 65_536)
            last, code = fill(link, 2)
        assert code == 11
        assert last >= 1
        assert engine.metric("chot_journal_full") == 1
        assert engine.metric("chot_sessions_refused", code="wire.store_full") >= 1
        person = {"kind": "cccd", "value": story().case.cccd}
        body = {"purpose": "case", "case": "BN-1", "from": "2021-07-01", "to": "2021-07-02"}
        answer = client.trace(engine.api, enrolment().token, "person", {**body, "person": person})
        assert answer["visits"] == []
        with RawLink(engine.port) as link:  # still full: the same word again, nothing worse
            welcome = link.hello(LANE_1, epoch=epoch, next=(last + 2, 1))
            assert isinstance(welcome, wire.Welcome)
            assert welcome.acked[0] == last
            last, code = fill(link, last + 1)
            assert code == 11
        limit_files(engine, resource.RLIM_INFINITY)
        with RawLink(engine.port) as link:
            link.hello(LANE_1, epoch=epoch, next=(last + 2, 1))
            link.send(scans(last + 1, person_scan(fresh_person())))
            link.settled(0, last + 1)
        assert engine.metric("chot_journal_full") == 0
        assert engine.stop() == 0
        assert "Traceback" not in engine.log_text()
    assert len(read_store(engine.data).rows) == 1 + 20 * (last - 1) + 1


def test_a_code_held_up_while_the_disk_was_full_is_not_lost(tmp_path: Path) -> None:
    """A light was shown, the store refused, the gateway sends the frame again: it must count."""
    shown = list(split_mjpeg((CLIPS / "lane1.mjpeg").read_bytes()))[20:30]
    begun_ns = time.time_ns()
    frames = [frame(n, x, ts_ns=begun_ns + n * 100_000_000) for n, x in enumerate(shown, 1)]
    epoch = 98
    with job(tmp_path / "job", with_api=False) as made:
        engine = made.engine
        with RawLink(engine.port) as link:
            link.hello(LANE_1, epoch=epoch)
            limit_files(engine, (engine.data / "journal" / "000001" / "data.mdb").stat().st_size)
            link.send(*frames)
            came = link.rest()
        assert [m.code for m in came if isinstance(m, wire.Error)] == [11]
        assert any(isinstance(m, wire.Result) for m in came)
        limit_files(engine, resource.RLIM_INFINITY)
        with RawLink(engine.port) as link:
            welcome = link.hello(LANE_1, epoch=epoch, next=(1, 11))
            assert isinstance(welcome, wire.Welcome)
            link.send(*frames[welcome.acked[1] :])
            link.settled(1, len(frames))
        assert engine.stop() == 0
    stored = read_store(engine.data)
    assert len({row.tobytes() for row in stored.rows["person"]}) == 1
    assert len({visit for visit in stored.visits() if visit[1] == POST}) == 1


def test_gateways_wait_out_a_full_disk(tmp_path: Path) -> None:
    """The real gateway keeps everything meanwhile and drains by itself afterwards."""
    with job(tmp_path / "job", with_api=False) as made:
        limit_files(
            made.engine, (made.engine.data / "journal" / "000001" / "data.mdb").stat().st_size
        )
        gateway: GatewayProcess = made.open(BACK_END)
        until(lambda: "wire.store_full" in gateway.log.read_text())
        limit_files(made.engine, resource.RLIM_INFINITY)
        assert gateway.wait() == 0
        assert made.engine.stop() == 0
    stored: Stored = read_store(made.engine.data)
    assert stored.checkins().total() == len(story().lines)
    check_no_person(gateway.log.read_text(encoding="utf-8"))


# ---- starts that must not happen ----------------------------------------------------------------


def refused_start(*arguments: str, lines: int = 1) -> tuple[int, str]:
    """Exit status and stderr of a serve that must end by itself, in words for people."""
    done = run_chot("serve", "--json", "--set", "api_port=0", *arguments)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    said = [line for line in done.stderr.splitlines() if line.startswith("chot serve: ")]
    assert len(said) == lines
    return done.returncode, said[0]


def test_a_store_of_another_version_is_left_alone(tmp_path: Path) -> None:
    import lmdb
    import msgspec

    data = enrolment().copy_to(tmp_path)
    for name in ("journal/000001", "control"):
        with lmdb.open(str(data / name), lib_version=0) as env, env.begin(write=True) as txn:
            meta = msgspec.msgpack.decode(txn.get(bytes(8)))
            txn.put(bytes(8), msgspec.msgpack.encode({**meta, "schema": 2}))
        before = (data / name / "data.mdb").read_bytes()
        status, line = refused_start("--data", str(data), "--set", "ingest_port=0")
        assert status == 1
        assert "storage.version" in line
        assert (data / name / "data.mdb").read_bytes() == before
        assert run_chot("verify", str(data)).returncode == 1
        with lmdb.open(str(data / name), lib_version=0) as env, env.begin(write=True) as txn:
            txn.put(bytes(8), msgspec.msgpack.encode(meta))
    assert run_chot("verify", str(data)).returncode == 0


def test_a_second_engine_and_a_port_that_is_taken(tmp_path: Path) -> None:
    with job(tmp_path / "job") as made:
        status, line = refused_start("--data", str(made.engine.data), "--set", "ingest_port=0")
        assert status == 1
        assert "storage.locked" in line
        other = ["--data", str(tmp_path / "other"), "--registry", str(TABLES)]
        status, line = refused_start(*other, "--set", f"ingest_port={made.engine.port}")
        assert status != 0
        assert f"{made.engine.port}" in line
        api_port = made.engine.api.rpartition(":")[2]
        taken = ["--set", "ingest_port=0", "--set", f"api_port={api_port}"]
        # Two processes, a line each: the API's says why.
        status, line = refused_start(*other, *taken, lines=2)
        assert status != 0
        assert api_port in line
        assert run_chot("verify", str(made.engine.data)).returncode == 0  # beside the engine
        assert made.engine.stop() == 0


def test_a_data_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    status, line = refused_start("--data", str(tmp_path / "file" / "data"))
    assert status != 0
    assert "data" in line


def test_keys_that_others_may_read(tmp_path: Path) -> None:
    data = enrolment().copy_to(tmp_path)
    (data / "keys" / "province.key").chmod(0o644)
    status, line = refused_start("--data", str(data), "--set", "ingest_port=0")
    assert status == 1
    assert "keys.missing" in line
    (data / "keys" / "province.key").unlink()
    status, line = refused_start("--data", str(data), "--set", "ingest_port=0")
    assert status == 1
    assert "keys.missing" in line
