"""CKP/1 codec: golden bytes, round trips, and that hostile bytes end in InputError only."""

from __future__ import annotations

import json
import re
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import errors
from engine.errors import InputError, WireMalformed, WireTooLarge
from engine.wire import frames as wire
from engine.wire.frames import FrameReader, FrameType, LossReason, Message, encode
from tests.reference.ckp import frame, pack

GOLDEN = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "data/wire/golden.jsonl").read_text().splitlines()
]
CLASSES = {
    cls.type: cls
    for cls in (
        wire.Hello, wire.Welcome, wire.Scans, wire.FrameImage, wire.Event, wire.Lost, wire.Ack,
        wire.Credit, wire.Nack, wire.Result, wire.Ping, wire.Pong, wire.Goaway, wire.Error,
        wire.Bye,
    )
}  # fmt: skip


def only(data: bytes) -> Message:
    (message,) = FrameReader().feed(data)
    return message


def plain(value: object) -> Any:
    """A message as golden.jsonl writes it: bytes as {"hex"}, defaults of maps left out."""
    if isinstance(value, msgspec.Struct):
        fields = {f: plain(getattr(value, f)) for f in value.__struct_fields__}
        if isinstance(value, wire.Verdict | wire.Report):
            defaults = {f.name: f.default for f in msgspec.structs.fields(type(value))}
            fields = {f: v for f, v in fields.items() if v != defaults[f]}
        return fields
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


# ---- golden -------------------------------------------------------------------------------------


def test_every_type_has_a_golden_vector() -> None:
    assert {v["message"]["type"] for v in GOLDEN} == {t.name for t in FrameType}
    assert set(CLASSES) == set(FrameType)


@pytest.mark.parametrize("vector", GOLDEN, ids=lambda v: v["name"])
def test_golden_bytes(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["hex"])
    message = only(data)
    found = {"type": message.type.name, **plain(message)}
    expected = dict(vector["message"])
    if expected.get("packed", 0) is None:
        expected["packed"] = found["packed"]
    assert found == expected
    assert encode(message) == data
    assert data[0] == message.type
    assert int.from_bytes(data[4:8], "big") == len(data) - 16


def test_examples_in_the_docs_are_golden() -> None:
    text = (Path(__file__).parents[2] / "docs/protocol.md").read_text()
    lines = [line.partition("#")[0].replace(" ", "") for line in text.splitlines()]
    joined = "\n".join(lines)
    blocks = [b.replace("\n", "") for b in joined.split("```")[1::2]]
    examples = [b for b in blocks if re.fullmatch("([0-9a-f]{2})+", b)]
    assert len(examples) == 3
    assert set(examples) <= {v["hex"] for v in GOLDEN}
    for kind in FrameType:
        assert f"| {kind:02X} {kind.name} |" in text.replace(f"{kind:02x}", f"{kind:02X}")


def test_golden_records_point_at_their_bytes() -> None:
    vectors = {v["name"]: only(bytes.fromhex(v["hex"])) for v in GOLDEN}
    scans = vectors["scans_checkin_manual"]
    assert isinstance(scans, wire.Scans)
    first, second, third = scans.entries
    body = scans.body
    assert body[first["who_off"] :][: first["who_len"]] == b"VN|PERSON"
    assert body[first["venue_off"] :][: first["venue_len"]] == b"HTTPS://QR.CHOT.VN/V/1"
    assert (first["who_form"], first["venue_form"], first["source"]) == (1, 1, 2)
    assert (second["who_form"], second["venue_form"], second["venue_id"]) == (2, 3, 70001)
    assert (third["kind"], third["lane"], third["time_ms"]) == (3, 2, 1625097603000)
    fault = vectors["scans_fault"]
    assert isinstance(fault, wire.Scans)
    assert (len(fault.entries), fault.fault) == (1, 1)
    sealed = vectors["scans_sealed"]
    assert isinstance(sealed, wire.Scans)
    assert sealed.is_sealed
    assert len(sealed.entries) == 0
    opened = sealed.opened(scans.body)
    assert not opened.is_sealed
    assert opened.flags == wire.FLAG_RESEND
    assert len(opened.entries) == 3
    assert opened.seq == sealed.seq


def test_a_sealed_event_opens_to_its_report_or_is_refused() -> None:
    report = wire.Report(kind="thermal", ts_ms=5, device="th-1", value=37.0, unit="C")
    sealed = only(
        encode(wire.Event(seq=3, channel=2, flags=wire.FLAG_SEALED | wire.FLAG_RESEND, body=b"x"))
    )
    assert isinstance(sealed, wire.Event)
    assert sealed.is_sealed and sealed.report is None and sealed.body == b"x"
    opened = sealed.opened(wire.report_to_body(report))
    assert opened == wire.Event(seq=3, channel=2, flags=wire.FLAG_RESEND, report=report)
    with pytest.raises(WireMalformed):
        sealed.opened(pack({"kind": "x", "ts_ms": 1, "device": "d"}))


def test_what_weighs_against_the_byte_limit() -> None:
    for vector in GOLDEN:
        message = only(bytes.fromhex(vector["hex"]))
        if isinstance(message, wire.Scans | wire.FrameImage):
            assert message.size == len(bytes.fromhex(vector["hex"]))
        elif isinstance(message, wire.Lost | wire.Event):
            assert message.size == 0


# ---- strict -------------------------------------------------------------------------------------

HELLO = {
    "v": 1, "gw": "g-1", "epoch": 7, "inst": bytes(8), "lanes": [1], "next": [1, 1], "oldest": 1,
    "max_frame": 100, "t0": 1,
}  # fmt: skip
NESTED = b"\x91" * 5000 + b"\x00"
BAD = {
    "unknown type": b"\x55" + bytes(15),
    "type 0": bytes(16),
    "hello without gw": frame("HELLO", pack({k: v for k, v in HELLO.items() if k != "gw"})),
    "hello gw with blank": frame("HELLO", pack({**HELLO, "gw": "a b"})),
    "hello gw ends in newline": frame("HELLO", pack({**HELLO, "gw": "a\n"})),
    "hello gw empty": frame("HELLO", pack({**HELLO, "gw": ""})),
    "hello epoch negative": frame("HELLO", pack({**HELLO, "epoch": -1})),
    "hello epoch text": frame("HELLO", pack({**HELLO, "epoch": "7"})),
    "hello epoch true": frame("HELLO", pack({**HELLO, "epoch": True})),
    "hello epoch float": frame("HELLO", pack({**HELLO, "epoch": 7.0})),
    "hello inst as text": frame("HELLO", pack({**HELLO, "inst": "12345678"})),
    "hello inst of 7": frame("HELLO", pack({**HELLO, "inst": bytes(7)})),
    "hello next of 3": frame("HELLO", pack({**HELLO, "next": [1, 1, 1]})),
    "hello 65 lanes": frame("HELLO", pack({**HELLO, "lanes": [1] * 65})),
    "hello token too long": frame("HELLO", pack({**HELLO, "token": "x" * 257})),
    "hello no utf-8": frame("HELLO", pack({**HELLO, "gw": "x"}).replace(b"\xa1x", b"\xa1\xff")),
    "hello trailing byte": frame("HELLO", pack(HELLO) + b"\x00"),
    "hello truncated map": frame("HELLO", pack(HELLO)[:-1]),
    "hello empty": frame("HELLO"),
    "hello nested deep": frame("HELLO", b"\x8a" + pack(HELLO)[1:] + pack("x") + NESTED),
    "hello with a channel": frame("HELLO", pack(HELLO), channel=1),
    "hello with flags": frame("HELLO", pack(HELLO), flags=1),
    "scans number 0": frame("SCANS", b"\x90", seq=0),
    "scans of class 1": frame("SCANS", b"\x90", seq=1, flags=1),
    "scans unknown flag": frame("SCANS", b"\x90", seq=1, flags=0x10),
    "frame of class 0": frame("FRAME", bytes(24), seq=1),
    "frame sealed": frame("FRAME", bytes(24), seq=1, flags=9),
    "frame of 23": frame("FRAME", bytes(23), seq=1, flags=1),
    "event unknown kind": frame("EVENT", pack({"kind": "x", "ts_ms": 1, "device": "d"}), seq=1),
    "lost from 0": frame("LOST", pack({"from": 0, "reason": "overflow"}), seq=5),
    "lost backwards": frame("LOST", pack({"from": 6, "reason": "overflow"}), seq=5),
    "lost for no reason": frame("LOST", pack({"from": 1, "reason": "bored"}), seq=5),
    "welcome two marks": frame("WELCOME", bytes.fromhex(GOLDEN[1]["hex"])[16:], seq=5),
    "ack of 15": frame("ACK", bytes(15), seq=1),
    "ack of 17": frame("ACK", bytes(17), seq=1),
    "ack resend": frame("ACK", bytes(16), seq=1, flags=2),
    "credit empty": frame("CREDIT", seq=1),
    "nack number 0": frame("NACK", pack({"code": 7, "index": 0, "text": ""})),
    "nack code too big": frame("NACK", pack({"code": 65536, "index": 0, "text": ""}), seq=1),
    "result unknown verdict": frame("RESULT", pack({"verdict": "maybe", "lane": 0}), seq=1),
    "result two lanes": frame("RESULT", pack({"verdict": "seen", "lane": 1}), seq=1, channel=2),
    "ping with body": frame("PING", b"\x00", seq=1),
    "pong of 8": frame("PONG", bytes(8), seq=1),
    "goaway is a list": frame("GOAWAY", pack([10])),
    "error text is bytes": frame("ERROR", pack({"code": 1, "text": b"x"})),
    "bye with body": frame("BYE", b"x", seq=1),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_malformed(data: bytes) -> None:
    with pytest.raises(WireMalformed):
        FrameReader().feed(data)


def test_unknown_keys_are_stepped_over() -> None:
    hello = only(frame("HELLO", pack({**HELLO, "of the future": [1, {"a": b"x"}]})))
    assert isinstance(hello, wire.Hello)
    assert hello.gateway == "g-1"


def test_errors_never_quote_what_came() -> None:
    secret = "Nguyen Van Bi Mat"
    for data in (
        frame("HELLO", pack({**HELLO, "gw": secret})),
        frame("RESULT", pack({"verdict": secret, "lane": 0}), seq=1),
        frame("GOAWAY", pack({"code": 1, secret: secret, "retry_ms": secret})),
        frame("GOAWAY", pack({secret: 1})),
        frame("GOAWAY", pack(secret)),
    ):
        with pytest.raises(WireMalformed) as caught:
            FrameReader().feed(data)
        assert secret not in str(caught.value)
        assert secret not in repr(caught.value.__cause__)


def test_a_body_beyond_the_limit_is_refused_from_its_header_alone() -> None:
    reader = FrameReader(100)
    assert reader.feed(frame("SCANS", bytes(100), seq=1)[:16]) == []
    reader = FrameReader(100)
    with pytest.raises(WireTooLarge, match="101"):
        reader.feed(frame("SCANS", bytes(101), seq=1)[:16])
    with pytest.raises(WireTooLarge):
        FrameReader().feed(frame("GOAWAY", bytes(wire.CONTROL_MAX + 1)))


def test_messages_before_a_fault_arrive_and_every_later_feed_raises_the_same() -> None:
    reader = FrameReader()
    good, bad = encode(wire.Bye(3)), b"\x55" + bytes(15)
    assert reader.feed(good + bad + good) == [wire.Bye(3)]
    with pytest.raises(WireMalformed) as first:
        reader.check()
    for _ in range(3):
        with pytest.raises(WireMalformed) as later:
            reader.feed(good)
        assert later.value is first.value
    depth, at = 0, first.value.__traceback__
    while at is not None:
        depth, at = depth + 1, at.tb_next
    assert depth < 6, "the traceback of the kept error grows"
    assert len(reader) == 0


def test_texts_for_people_are_cut_and_not_refused() -> None:
    long = "ơ" * 2000
    error = only(encode(wire.Error(code=7, text=long)))
    nack = only(encode(wire.Nack(cls=0, seq=1, code=7, index=0, text=long)))
    assert isinstance(error, wire.Error)
    assert isinstance(nack, wire.Nack)
    assert error.text == nack.text == "ơ" * wire.TEXT_MAX


def test_error_numbers_have_classes() -> None:
    for code in range(1, 13):
        if code == 9:
            continue  # never given out
        error = wire.error_from_code(code, "why")
        assert error.wire == code
        assert str(error) == "why"
    assert isinstance(wire.error_from_code(999, "?"), WireMalformed)
    assert isinstance(wire.error_from_code(3, ""), errors.WireReplaced)


def test_a_seal_is_bound_to_all_of_the_identity() -> None:
    made = {
        wire.seal_aad(gateway, epoch, seq)
        for gateway in ("a", "ab")
        for epoch in (1, 2)
        for seq in (1, 2)
    }
    assert len(made) == 8
    assert wire.seal_aad("g", 1, 2) == b"chot/scans/1\0g\0" + struct.pack(">QQ", 1, 2)


# ---- properties ---------------------------------------------------------------------------------

u16 = st.integers(0, 0xFFFF)
u32 = st.integers(0, 0xFFFFFFFF)
u64 = st.integers(0, 2**64 - 1)
seqs = st.integers(1, 2**64 - 1)
words = st.text(max_size=64)
cls = st.sampled_from([0, 1])
captured = st.sampled_from([0, 2, 4, 6])
gateways = st.from_regex(r"\A[A-Za-z0-9._-]{1,64}\Z")


@st.composite
def lost(draw: st.DrawFn) -> wire.Lost:
    first, last = sorted((draw(seqs), draw(seqs)))
    reason = draw(st.sampled_from(get_args(LossReason)))
    return wire.Lost(seq=last, first=first, reason=reason, flags=draw(st.sampled_from([0, 2])))  # type: ignore[arg-type]


@st.composite
def scans(draw: st.DrawFn) -> wire.Scans:
    flags = draw(captured) | draw(st.sampled_from([0, wire.FLAG_SEALED]))
    body = draw(st.binary(max_size=200))
    packed, fault = (b"", -1) if flags & wire.FLAG_SEALED else wire.decode_scans(body)
    return wire.Scans(
        seq=draw(seqs), channel=draw(u16), flags=flags, body=body, packed=packed, fault=fault
    )


verdicts = st.builds(
    wire.Verdict,
    verdict=st.sampled_from(["accepted", "seen", "refused", "alert"]),
    lane=u16,
    n=u16,
    reason=st.none() | words,
    name=st.none() | words,
)
reports = st.builds(
    wire.Report,
    kind=st.sampled_from(["thermal", "health", "note"]),
    ts_ms=u64,
    device=words,
    value=st.none() | st.floats(allow_nan=False),
    unit=st.none() | words,
    calibration=st.none() | words,
    scan=st.none() | st.tuples(u64, u16),
    text=st.none() | st.text(max_size=512),
)
texts = st.text(max_size=512)
policies = st.builds(
    wire.Policy, fps=st.integers(0, 1000), decode=st.sampled_from(["engine", "gateway"])
)
hellos = st.builds(
    wire.Hello,
    version=u32,
    gateway=gateways,
    epoch=u64,
    inst=st.binary(min_size=8, max_size=8),
    lanes=st.lists(u16, max_size=64),
    next=st.tuples(u64, u64),
    oldest=u64,
    max_frame=u32,
    t0=u64,
    token=st.none() | st.text(max_size=256),
)
pairs = st.tuples(u64, u64)
welcomes = st.builds(
    wire.Welcome,
    sid=st.binary(min_size=16, max_size=16),
    acked=pairs,
    limit=pairs,
    byte_limit=pairs,
    max_frame=u32,
    hb_s=st.floats(0.001, 3600),
    t1=u64,
    t2=u64,
    policy=policies,
)
images = st.builds(
    wire.FrameImage,
    seq=seqs,
    channel=u16,
    flags=captured.map(lambda f: f | 1),
    codec=st.integers(0, 255),
    rotation=st.integers(0, 255),
    width=u16,
    height=u16,
    stride=u16,
    ts_ns=u64,
    frame_no=u64,
    image=st.binary(max_size=100),
)
messages: st.SearchStrategy[Message] = st.one_of(
    hellos,
    welcomes,
    scans(),
    images,
    st.builds(wire.Event, seq=seqs, channel=u16, flags=captured, report=reports),
    lost(),
    st.builds(wire.Ack, cls=cls, seq=u64, limit=u64, byte_limit=u64),
    st.builds(wire.Credit, cls=cls, seq=u64, limit=u64, byte_limit=u64),
    st.builds(wire.Nack, cls=cls, seq=seqs, code=u16, index=u16, text=texts),
    st.builds(wire.Result, cls=cls, seq=seqs, verdict=verdicts),
    st.builds(wire.Ping, u64),
    st.builds(wire.Pong, t0=u64, t1=u64, t2=u64),
    st.builds(wire.Goaway, code=u16, retry_ms=u32, alternates=st.lists(words, max_size=8)),
    st.builds(wire.Error, seq=u64, code=u16, text=texts),
    st.builds(wire.Bye, u64),
)


@given(messages)
@settings(max_examples=400)
def test_round_trip(message: Message) -> None:
    data = encode(message)
    assert only(data) == message
    assert data[0] == message.type


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    marks = sorted({0, len(data), *(c % (len(data) + 1) for c in cuts)})
    return [data[a:b] for a, b in pairwise(marks)]


def read_all(chunks: list[bytes], body_max: int) -> tuple[list[Message], str]:
    """All messages and the code of the error that ended them."""
    reader = FrameReader(body_max)
    found: list[Message] = []
    for chunk in chunks:
        try:
            found += reader.feed(chunk)
            reader.check()
        except InputError as error:
            assert len(reader) == 0
            return found, f"{error.code}: {error}"
        assert len(reader) < 16 + body_max
    return found, ""


@given(st.lists(messages, max_size=6), st.binary(max_size=40), st.lists(st.integers(0, 9999)))
@settings(max_examples=150, deadline=None)
def test_chunking_never_changes_the_messages(
    sent: list[Message], tail: bytes, cuts: list[int]
) -> None:
    data = b"".join(map(encode, sent)) + tail
    whole = read_all([data], 4096)
    assert read_all(split(data, cuts), 4096) == whole
    assert read_all([data[i : i + 1] for i in range(len(data))], 4096) == whole
    assert whole[0][: len(sent)] == sent


HEADERS = st.builds(
    lambda kind, flags, channel, size, seq, body: (
        struct.pack(">BBHIQ", kind, flags, channel, size if size is not None else len(body), seq)
        + body
    ),
    st.sampled_from(list(FrameType)) | st.integers(0, 255),
    st.integers(0, 15),
    st.sampled_from([0, 0, 1, 65535]),
    st.none() | st.integers(0, 300) | st.just(2**32 - 1),
    st.sampled_from([0, 1, 2, 2**64 - 1]),
    st.binary(max_size=80),
)
MUTATED = st.builds(
    lambda vector, at, byte: (
        vector[: at % len(vector)] + bytes([byte]) + vector[at % len(vector) + 1 :]
    ),
    st.sampled_from([bytes.fromhex(v["hex"]) for v in GOLDEN]),
    st.integers(0, 9999),
    st.integers(0, 255),
)


@given(
    st.lists(st.binary(max_size=120) | HEADERS | MUTATED, max_size=8).map(b"".join),
    st.lists(st.integers(0, 9999), max_size=20),
)
@settings(max_examples=600, deadline=None)
def test_any_bytes_give_messages_or_input_error(data: bytes, cuts: list[int]) -> None:
    whole = read_all([data], 256)
    assert read_all(split(data, cuts), 256) == whole
    for message in whole[0]:
        again = encode(message)  # bytes are compared: a value may be NaN
        assert encode(only(again)) == again


@given(scans())
def test_entries_never_point_outside_the_body(message: wire.Scans) -> None:
    for entry in message.entries:
        for part in ("who", "venue", "aux"):
            assert int(entry[f"{part}_off"]) + int(entry[f"{part}_len"]) <= len(message.body)


def test_a_welcome_without_a_heartbeat_means_ten_seconds_and_encodes_as_it_decodes() -> None:
    """Once found by mutation: the default was an integer, eight bytes shorter than its meaning."""
    golden = next(v for v in GOLDEN if "welcome" in v["name"].lower())
    data = bytes.fromhex(golden["hex"])
    at = data.index(b"hb_s")
    again = encode(only(data[:at] + b"hb\x00s" + data[at + 4 :]))
    assert encode(only(again)) == again
