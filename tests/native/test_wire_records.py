"""native.wire.read_records against its slow twin: right bodies, bent bodies, hostile bodies."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.scans.records import ENTRY
from native.wire import read_records
from tests.reference import native_wire as twin

encode = msgspec.msgpack.encode
TIME_MS = 1_623_400_000_000


def body_of(*records: bytes) -> bytes:
    return b"\xdc" + len(records).to_bytes(2, "big") + b"".join(records)


def exact(data: bytes | bytearray) -> memoryview:
    """The same bytes in a block of just their size: bytes and bytearray keep a zero behind theirs,
    which would hide a read one too far from ASan."""
    return np.array(memoryview(data)).data


def entries_of(body: bytes) -> np.ndarray:
    packed, status, index = read_records(body)
    assert (status, index) == (0, 0)
    return np.frombuffer(packed, ENTRY)


# ---- bodies as they should be -------------------------------------------------------------------

texts = st.text(max_size=12)
bins = st.binary(max_size=40)
times = st.integers(0, 2**63 - 1)
maps = st.dictionaries(
    texts,
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | texts | bins,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)
u16 = st.integers(0, 2**16 - 1)
u32 = st.integers(0, 2**32 - 1)
scans = st.tuples(st.just(1), times, u16, bins, u32) | st.tuples(
    st.just(1), times, u16, bins, u32, st.none() | maps
)
typed = st.tuples(st.sampled_from(["qid", "cccd", "passport", "bhyt"]), texts)
who = bins | typed | st.tuples(texts, texts, st.none() | texts)
checkin = (st.just(2), times, st.integers(0, 2), who, bins | u32, st.integers(0, 255))
checkins = st.tuples(*checkin) | st.tuples(*checkin, st.none() | maps)
manuals = st.tuples(st.just(3), times, u16, maps, texts, texts)
records = scans | checkins | manuals


@given(st.lists(records, max_size=6))
def test_right_bodies_equal_the_twin(batch: list[Any]) -> None:
    body = encode(batch)
    assert read_records(exact(body)) == twin.read_records(body)


@given(st.lists(scans | checkins | manuals, max_size=4))
def test_what_is_read_is_what_was_written(batch: list[Any]) -> None:
    body = encode(batch)
    packed, status, _ = read_records(body)
    depth = max((depth_of(record) for record in batch), default=0) + 1
    assert status == (0 if depth <= 8 else 7)
    for entry in np.frombuffer(packed, ENTRY):
        record = batch[entry["n"]]
        assert (entry["kind"], entry["time_ms"]) == record[:2]
        whole = body[entry["who_off"] :][: entry["who_len"]]
        aux = body[entry["aux_off"] :][: entry["aux_len"]]
        if entry["kind"] == 1:
            assert (entry["lane"], whole, entry["flags"]) == record[2:5]
            assert_aux(aux, record[5:])
        elif entry["kind"] == 2:
            assert (entry["direction"], entry["source"]) == (record[2], record[5])
            assert_same(whole if entry["who_form"] == 1 else decode(whole), record[3])
            venue = body[entry["venue_off"] :][: entry["venue_len"]]
            assert (venue if entry["venue_form"] == 1 else entry["venue_id"]) == record[4]
            assert_aux(aux, record[6:])
        else:
            assert entry["lane"] == record[2]
            assert_same(decode(whole), record[3])
            assert decode(b"\x92" + aux) == list(record[4:])


def depth_of(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list | tuple):
        return 1 + max(map(depth_of, value), default=0)
    return 0


def decode(raw: bytes) -> object:
    return msgspec.msgpack.decode(raw)


def assert_same(found: object, expected: object) -> None:
    assert encode(found) == encode(expected)  # NaN equals itself as bytes


def assert_aux(aux: bytes, expected: tuple[Any, ...]) -> None:
    if expected and expected[0] is not None:
        assert_same(decode(aux), expected[0])
    else:
        assert aux == b""


@pytest.mark.parametrize("size", [*range(131), 70_000])
def test_every_length_of_payload(size: int) -> None:
    payload = bytes(i % 251 for i in range(size))
    body = encode([[1, TIME_MS, 3, payload, 0], [2, TIME_MS, 1, payload, payload, 2]])
    assert read_records(exact(body)) == twin.read_records(body)
    scan, checkin = entries_of(body)
    assert body[scan["who_off"] :][: scan["who_len"]] == payload
    assert body[checkin["venue_off"] :][: checkin["venue_len"]] == payload


@pytest.mark.parametrize("count", [*range(131), 4096])
def test_every_number_of_records(count: int) -> None:
    body = encode([[1, TIME_MS + i, i, b"code", i] for i in range(count)])
    found = entries_of(body)
    assert np.array_equal(found["n"], np.arange(count))
    assert np.array_equal(found["time_ms"], TIME_MS + np.arange(count))


def test_a_long_body_equals_the_twin() -> None:
    kinds = [
        [1, TIME_MS, 3, b"code" * 20, 1, {"temperature": 36.6}],
        [2, TIME_MS, 1, ["passport", "C9990001", "LA"], 4711, 3, {"room": 2}],
        [3, TIME_MS, 1, {"name": "Trần Văn Mẫu"}, "cb-17", "thẻ hỏng"],
    ]
    body = encode([kinds[i % 3] for i in range(4000)])
    assert read_records(exact(body)) == twin.read_records(body)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_is_taken(kind: type) -> None:
    body = encode([[1, TIME_MS, 3, b"code", 0]])
    assert read_records(kind(body)) == twin.read_records(body)
    assert read_records(memoryview(b"x" + body)[1:]) == twin.read_records(body)


# ---- numbers in all their forms -----------------------------------------------------------------


def wide(value: int, tag: int) -> bytes:
    """A number in a form wider than it needs."""
    width = 1 << (tag - 0xCC) if tag <= 0xCF else 1 << (tag - 0xD0)
    return bytes([tag]) + value.to_bytes(width, "big", signed=tag >= 0xD0)


@pytest.mark.parametrize("tag", range(0xCC, 0xD4))
def test_numbers_may_be_wider_than_they_need(tag: int) -> None:
    record = b"\x95\x01" + wide(100, tag) + wide(3, tag) + b"\xc4\x01x" + wide(9, tag)
    entry = entries_of(body_of(record))[0]
    assert (entry["time_ms"], entry["lane"], entry["flags"]) == (100, 3, 9)


@pytest.mark.parametrize("tag", range(0xD0, 0xD4))
def test_numbers_below_zero_are_refused(tag: int) -> None:
    record = b"\x95\x01" + wide(-1, tag) + b"\x03\xc4\x01x\x09"
    assert read_records(body_of(record)) == (b"", 7, 0)


def scan(**change: Any) -> list[Any]:
    return list({"k": 1, "ts": 1, "lane": 1, "payload": b"x", "flags": 0, **change}.values())


def checkin_with(**change: Any) -> list[Any]:
    right = {"k": 2, "ts": 1, "direction": 0, "who": b"x", "venue": 1, "source": 0}
    return list({**right, **change}.values())


def manual(**change: Any) -> list[Any]:
    right = {"k": 3, "ts": 1, "lane": 1, "fields": {}, "officer": "o", "why": "w"}
    return list({**right, **change}.values())


@pytest.mark.parametrize(
    "record",
    [
        scan(ts=2**63 - 1), scan(lane=2**16 - 1), scan(flags=2**32 - 1), scan(payload=b""),
        scan(aux=None), scan(aux={}), scan(aux={"a": 1}),
        checkin_with(direction=2), checkin_with(source=255), checkin_with(venue=2**32 - 1),
        checkin_with(who=["qid", "1"]), checkin_with(who=["passport", "1", "LA"]),
        checkin_with(who=["qid", "1", None]), checkin_with(aux=None), checkin_with(aux={"a": []}),
        manual(fields={"name": "Mẫu"}), manual(lane=2**16 - 1), manual(officer="", why=""),
    ],
    ids=repr,
)  # fmt: skip
def test_the_last_right_value_is_taken(record: list[Any]) -> None:
    assert len(entries_of(encode([record]))) == 1


@pytest.mark.parametrize(
    "record",
    [
        None, 1, {}, [], [1], [1, 1], [0, 1], [4, 1], [-1, 1], ["1", 1], [1.0, 1],
        scan(k=0), scan(k=4), scan(k=257), scan(k=2**64 - 1), scan(k=None), scan(k=True),
        scan(ts=-1), scan(ts=2**63), scan(ts=2**64 - 1), scan(ts=1.0), scan(ts="1"), scan(ts=None),
        scan(lane=2**16), scan(lane=-1), scan(payload="x"), scan(payload=None), scan(payload=[1]),
        scan(flags=2**32), scan(flags=-1), scan(flags=None), scan()[:4], [*scan(), {}, {}],
        scan(aux=[]), scan(aux=1), scan(aux="x"), scan(aux=b"x"), scan(aux={1: 1}),
        scan(aux={"a": {1: 1}}), scan(aux={"a": {None: 1}}), scan(aux=False),
        checkin_with(direction=3), checkin_with(direction=-1), checkin_with(who="x"),
        checkin_with(who=1), checkin_with(who=None), checkin_with(who={}), checkin_with(who=[]),
        checkin_with(who=["qid"]), checkin_with(who=["qid", 1]), checkin_with(who=[1, "1"]),
        checkin_with(who=["qid", "1", 1]), checkin_with(who=["qid", "1", None, None]),
        checkin_with(who=[b"qid", "1"]), checkin_with(venue=2**32), checkin_with(venue=-1),
        checkin_with(venue="x"), checkin_with(venue=None), checkin_with(venue=[]),
        checkin_with(source=256), checkin_with(source=-1), checkin_with(source=None),
        checkin_with()[:5], [*checkin_with(), {}, {}], checkin_with(aux=[]), checkin_with(aux=1),
        manual(lane=2**16), manual(fields=[]), manual(fields=None), manual(fields={1: "x"}),
        manual(fields=b"x"), manual(officer=1), manual(officer=None), manual(officer=b"o"),
        manual(why=None), manual(why={}), manual()[:5], [*manual(), None],
    ],
    ids=repr,
)  # fmt: skip
def test_the_first_wrong_value_is_refused(record: object) -> None:
    good = scan()
    packed, status, index = read_records(encode([good, good, record, good]))
    assert (status, index) == (7, 2)
    assert np.frombuffer(packed, ENTRY)["n"].tolist() == [0, 1]


# ---- bent and hostile bodies --------------------------------------------------------------------


@settings(max_examples=500)
@given(st.binary(max_size=120))
def test_any_bytes_equal_the_twin(body: bytes) -> None:
    assert read_records(exact(body)) == twin.read_records(body)


# Bytes that mean something to the reader, so that random bodies get past its first step.
tags = st.sampled_from(
    [b"\x91", b"\x92", b"\x95", b"\x96", b"\x97", b"\xdc\x00\x01", b"\x81", b"\x80", b"\x01",
     b"\x02", b"\x03", b"\xc0", b"\xc3", b"\xc4\x01x", b"\xa1x", b"\xa0", b"\xcc\x80", b"\xd0\x80",
     b"\xcf" + bytes(8), b"\xc7", b"\xc1", b"\xca" + bytes(4), b"\xdf\xff\xff\xff\xff"]
)  # fmt: skip


@settings(max_examples=500)
@given(st.lists(tags, max_size=24))
def test_any_tokens_equal_the_twin(tokens: list[bytes]) -> None:
    body = b"".join(tokens)
    assert read_records(exact(body)) == twin.read_records(body)


@settings(max_examples=250)
@given(st.lists(records, min_size=1, max_size=3), st.data())
def test_bent_bodies_equal_the_twin(batch: list[Any], draw: st.DataObject) -> None:
    body = bytearray(encode(batch))
    at = draw.draw(st.integers(0, len(body) - 1))
    bend = draw.draw(st.sampled_from(["cut", "set", "insert", "remove", "append"]))
    if bend == "cut":
        del body[at:]
    elif bend == "remove":
        del body[at]
    elif bend == "append":
        body += draw.draw(st.binary(min_size=1, max_size=4))
    else:
        value = draw.draw(st.integers(0, 255))
        body[at : at + (bend == "set")] = bytes([value])
    assert read_records(exact(body)) == twin.read_records(bytes(body))


@given(st.lists(records, max_size=3), st.data())
def test_raw_slices_always_decode(batch: list[Any], draw: st.DataObject) -> None:
    body = bytearray(encode(batch))
    at = draw.draw(st.integers(0, len(body) - 1))
    body[at] = draw.draw(st.integers(0, 255))
    packed, _, _ = read_records(body)
    for entry in np.frombuffer(packed, ENTRY):
        aux = bytes(body[entry["aux_off"] :][: entry["aux_len"]])
        if entry["kind"] == 3:
            decode(b"\x92" + aux)
        elif aux:
            decode(aux)
        if entry["who_form"] == 2:
            decode(bytes(body[entry["who_off"] :][: entry["who_len"]]))


def test_every_cut_of_a_body_is_refused() -> None:
    body = encode([scan(aux={"a": [1, {"b": 2.5}]}), checkin_with(), manual(fields={"x": "y"})])
    for size in range(len(body)):
        packed, status, index = read_records(exact(body[:size]))
        assert (packed, status, index) == twin.read_records(body[:size])
        assert status == 7
        assert len(packed) == 64 * index


def test_bytes_behind_the_array_are_refused() -> None:
    packed, status, index = read_records(encode([scan(), scan()]) + b"\xc0")
    assert (len(packed), status, index) == (128, 7, 2)


def test_more_than_4096_records_are_refused() -> None:
    assert read_records(encode([scan()] * 4097)) == (b"", 7, 0)


def nested(depth: int, kind: str) -> bytes:
    """A SCAN whose aux holds `depth` containers, itself included; two more are open around it."""
    inner = {"map": b"\x81\xa1x", "array": b"\x91"}[kind] * (depth - 1)
    return b"\x91\x96\x01\x01\x01\xc4\x01x\x00" + b"\x81\xa1x" + inner + b"\xc0"


@pytest.mark.parametrize("kind", ["map", "array"])
def test_nesting_ends_at_8(kind: str) -> None:
    for depth in (1, 5, 6):
        assert read_records(nested(depth, kind))[1:] == (0, 0)
    for depth in (7, 8, 9, 200, 500_000):
        assert read_records(nested(depth, kind)) == (b"", 7, 0)


@pytest.mark.parametrize("first", [b"\x91", b"\x81", b"\x81\xa1x", b"\xdd\xff\xff\xff\xff"])
def test_nesting_bombs_are_refused(first: bytes) -> None:
    assert read_records(first * 300_000) == (b"", 7, 0)


@pytest.mark.parametrize("tag", [0xC6, 0xDB, 0xDD, 0xDF], ids=["bin", "str", "array", "map"])
@pytest.mark.parametrize("count", [5, 2**16, 2**31 - 1, 2**31, 2**32 - 1])
def test_lying_counts_are_refused_wherever_they_stand(tag: int, count: int) -> None:
    lie = struct.pack(">BI", tag, count) + b"abcd"
    places = [b"", b"\x91", b"\x91\x95", b"\x91\x95\x01", b"\x91\x95\x01\x01"]
    places += [b"\x91\x95\x01\x01\x01", b"\x91\x96\x01\x01\x01\xc4\x01x\x00"]
    places += [b"\x91\x97\x02\x01\x01" + who for who in (b"", b"\x92", b"\xc4\x00")]
    places += [b"\x91\x96\x03\x01\x01", b"\x91\x96\x03\x01\x01\x81", b"\x91\x96\x03\x01\x01\x80"]
    places += [b"\x91\x96\x01\x01\x01\xc4\x01x\x00\x82\xa1a\xc0\xa1b"]
    for before in places:
        assert read_records(exact(before + lie)) == (b"", 7, 0)


@pytest.mark.parametrize(
    "ext", [b"\xd4\x01x", b"\xd6\xff" + bytes(4), b"\xd8\x01" + bytes(16), b"\xc7\x01\x01x",
            b"\xc8\x00\x01\x01x", b"\xc9\x00\x00\x00\x01\x01x", b"\xc1"]
)  # fmt: skip
def test_ext_is_refused(ext: bytes) -> None:
    head = b"\x91\x96\x01\x01\x01\xc4\x01x\x00\x81\xa1x"
    assert read_records(head + b"\xc0")[1] == 0
    assert read_records(head + ext) == (b"", 7, 0)


def check_text(text: bytes) -> None:
    """The kernel takes these bytes as a string iff Python's strict decoder does."""
    try:
        text.decode("utf-8")
        is_text = True
    except UnicodeDecodeError:
        is_text = False
    body = b"\x91\x96\x03\x01\x01\x80" + bytes([0xA0 + len(text)]) + text + b"\xa1w"
    assert read_records(exact(body))[1] == (0 if is_text else 7)


@given(st.binary(max_size=8))
def test_strings_are_utf_8(text: bytes) -> None:
    check_text(text)


def test_the_borders_of_utf_8() -> None:
    """All first bytes above ASCII, with every second byte and the tails that may follow."""
    heads = [bytes([a, b]) for a in range(0xC0, 0x100) for b in (0, 0x7F, *range(0x80, 0xC0), 0xC0)]
    for head in heads:
        for tail in (b"", b"\x80", b"\xbf\xbf", b"\x80\x41", b"\xc0", b"\x80\x80\x80"):
            check_text(head + tail)


def test_work_is_linear() -> None:
    """Four million values in one map: work that grew with the square would not come to an end."""
    head = b"\x91\x96\x01\x01\x01\xc4\x01x\x00\x81\xa1x\xdd"
    count = 4_000_000
    assert read_records(head + count.to_bytes(4, "big") + b"\xc0" * count)[1:] == (0, 0)
