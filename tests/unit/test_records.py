"""Records of a SCANS body: what is encoded is what the native reader and the structs give back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InputError, WireMalformed
from engine.scans.records import (
    ENTRY,
    FORM_BIN,
    FORM_ID,
    FORM_RAW,
    RECORDS_MAX,
    Credential,
    Extras,
    decode_credential,
    decode_extras,
    decode_manual,
    decode_scans,
    encode_checkin,
    encode_manual,
    encode_scan,
    encode_scans,
    newest_ms,
)
from engine.scans.rows import Direction, Kind
from tests.reference.ckp import pack

times = st.integers(0, 2**63 - 1)
u16 = st.integers(0, 0xFFFF)
payloads = st.binary(max_size=60)
credentials = st.builds(
    Credential,
    st.sampled_from(["qid", "cccd", "passport", "bhyt"]),
    st.text(min_size=1, max_size=64),
    st.none() | st.text(max_size=3),
)
extras = st.builds(
    Extras,
    room=u16,
    plate=st.none() | st.text(max_size=16),
    trip=st.none() | st.text(max_size=32),
    seat=st.none() | st.text(max_size=8),
    stay_s=st.integers(0, 86_400),
)


def one(record: bytes) -> tuple[np.void, bytes]:
    body = encode_scans([record])
    packed, fault = decode_scans(body)
    assert fault == -1
    (entry,) = np.frombuffer(packed, ENTRY)
    return entry, body


def part(entry: np.void, body: bytes, name: str) -> bytes:
    start = int(entry[f"{name}_off"])
    return body[start : start + int(entry[f"{name}_len"])]


@given(times, u16, payloads, st.integers(0, 2**32 - 1))
def test_scan(ts_ms: int, lane: int, payload: bytes, flags: int) -> None:
    record = encode_scan(ts_ms, lane, payload, flags=flags)
    assert record == pack([1, ts_ms, lane, payload, flags])
    entry, body = one(record)
    assert (entry["kind"], entry["time_ms"], entry["lane"]) == (Kind.SCAN, ts_ms, lane)
    assert (entry["who_form"], entry["flags"]) == (FORM_BIN, flags)
    assert part(entry, body, "who") == payload


@given(
    times,
    st.sampled_from(list(Direction)),
    payloads | credentials,
    payloads | st.integers(0, 2**32 - 1),
    st.integers(0, 255),
    st.none() | extras,
)
def test_checkin(
    ts_ms: int,
    direction: Direction,
    who: bytes | Credential,
    venue: bytes | int,
    source: int,
    extra: Extras | None,
) -> None:
    entry, body = one(encode_checkin(ts_ms, direction, who, venue, source=source, extras=extra))
    assert (entry["kind"], entry["time_ms"]) == (Kind.CHECKIN, ts_ms)
    assert (entry["direction"], entry["source"]) == (direction, source)
    if isinstance(who, bytes):
        assert entry["who_form"] == FORM_BIN
        assert part(entry, body, "who") == who
    else:
        assert entry["who_form"] == FORM_RAW
        assert decode_credential(part(entry, body, "who")) == who
    if isinstance(venue, bytes):
        assert entry["venue_form"] == FORM_BIN
        assert part(entry, body, "venue") == venue
    else:
        assert (entry["venue_form"], entry["venue_id"]) == (FORM_ID, venue)
    assert decode_extras(part(entry, body, "aux")) == (extra or Extras())


@given(times, u16, st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=5))
def test_manual(ts_ms: int, lane: int, fields: dict[str, str]) -> None:
    record = encode_manual(ts_ms, lane, fields, officer="cb-07", why="thẻ hỏng")
    assert record == pack([3, ts_ms, lane, fields, "cb-07", "thẻ hỏng"])
    entry, body = one(record)
    assert (entry["kind"], entry["lane"]) == (Kind.MANUAL, lane)
    assert decode_manual(part(entry, body, "who"), part(entry, body, "aux")) == (
        fields,
        "cb-07",
        "thẻ hỏng",
    )


@pytest.mark.parametrize("count", [0, 1, 15, 16, 255, 256, RECORDS_MAX])
def test_bodies_of_all_sizes(count: int) -> None:
    record = encode_scan(1, 1, b"x")
    body = encode_scans([record] * count)
    assert body == pack([[1, 1, 1, b"x", 0]] * count)
    packed, fault = decode_scans(body)
    assert fault == -1
    assert np.frombuffer(packed, ENTRY)["n"].tolist() == list(range(count))


@given(st.lists(st.integers(0, (1 << 63) - 1), min_size=1, max_size=20))
def test_the_newest_record(times_ms: list[int]) -> None:
    packed, _ = decode_scans(encode_scans([encode_scan(at, 1, b"x") for at in times_ms]))
    assert newest_ms(packed) == max(times_ms)


def test_too_many_records() -> None:
    with pytest.raises(ValueError, match="4096"):
        encode_scans([b"\x90"] * (RECORDS_MAX + 1))


def test_credentials_as_other_encoders_write_them() -> None:
    assert decode_credential(pack(["cccd", "045099999001"])).country is None
    assert decode_credential(pack(["cccd", "045099999001", None])).country is None
    assert decode_credential(pack(["passport", "C9999001", "VNM"])).country == "VNM"


@pytest.mark.parametrize(
    "raw",
    [
        pack(["phone", "0900999001"]),  # DE-2: a phone is nobody's identity
        pack(["cccd", ""]),
        pack(["cccd", "9" * 65]),
        pack(["cccd"]),
        pack({"kind": "cccd", "value": "045099999001"}),
        b"",
        b"\x92\xa4cccd\xa1\xff",
    ],
)
def test_credentials_refused(raw: bytes) -> None:
    with pytest.raises(WireMalformed) as caught:
        decode_credential(raw)
    assert "0900999001" not in str(caught.value)


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_raw_slices_give_structs_or_input_error(who: bytes, aux: bytes) -> None:
    for decode in (decode_credential, decode_extras, lambda raw: decode_manual(raw, aux)):
        try:
            decode(who)
        except InputError as error:
            assert error.wire == 7
