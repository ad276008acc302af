"""native.plain beside engine.ingest.candidates: the same messages come to the same, byte for byte.

Two pipelines get the same messages one after the other; one of them has a key ring that keeps its
key to itself, so that it reads everything in Python.
"""

from __future__ import annotations

import pickle
import unicodedata
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clock import DAY_MS, day_to_ms, ms_to_day
from engine.identity.watch import WatchEntry, WatchKind
from engine.ingest.candidates import CandidateReader, Origin
from engine.ingest.pipeline import STEP_PLAIN, STEP_RECORDS, Outcome
from engine.scans.records import (
    ENTRY,
    Credential,
    Extras,
    decode_scans,
    encode_checkin,
    encode_manual,
    encode_scan,
    encode_scans,
)
from engine.scans.rows import NO_TEMPERATURE, ROW, Direction, Flag
from engine.wire.frames import Report
from native.hmac import Hmac
from native.plain import PlainReader, PlainRules
from tests.reference.payload_vectors import load
from tests.reference.pipeline import (
    APP,
    BACK_END,
    BANK,
    CARD,
    LANE_GATEWAY,
    MARKET,
    NOON_MS,
    Bench,
)

SEEDED = settings(derandomize=True, database=None, deadline=None, max_examples=200)
MIDNIGHT_MS = day_to_ms(ms_to_day(NOON_MS))
VECTORS = [vector.payload for vector in load()]


def told(outcome: Outcome) -> tuple[Any, ...]:
    """All that an outcome says, as values."""
    faults = [(f.n, f.error.code, str(f.error)) for f in outcome.faults]
    return outcome.batch, outcome.verdicts, faults


class Twins:
    """Both pipelines. take: says that they agree, and gives what they say."""

    def __init__(self) -> None:
        self.both = Bench(is_native=True), Bench(is_native=False)
        for bench in self.both:
            # Sightings of long ago are forgotten between batches, and theirs are not the same.
            bench.pipeline._judge._seen._swept_ms = 1 << 62

    def take(self, *records: bytes, origin: Origin = LANE_GATEWAY) -> Outcome:
        ours, theirs = (bench.take(*records, origin=origin) for bench in self.both)
        assert told(ours) == told(theirs)
        assert self.both[0].metrics.samples() == self.both[1].metrics.samples()
        return ours

    def report(self, lane: int, report: Report) -> None:
        ours, theirs = (b.pipeline.take_report(LANE_GATEWAY, lane, report) for b in self.both)
        assert told(ours) == told(theirs)

    def watch(self, person: bytes) -> None:
        for bench in self.both:
            bench.watch.put(
                WatchEntry(
                    number=1, kind=WatchKind.WATCH, persons=(person,), reason="", case="BN-1",
                    purpose="case", who="cdc", role="tracer", unit="CDC",
                    from_ms=NOON_MS - DAY_MS, to_ms=NOON_MS + 500, at_ms=NOON_MS,
                )
            )  # fmt: skip


@pytest.fixture
def twins() -> Twins:
    return Twins()


@pytest.fixture
def slow_ones(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the records that Python reads from here on."""
    found: list[int] = []
    read = CandidateReader.read

    def note(self: CandidateReader, origin: Origin, entry: Any, body: bytes) -> Any:
        found.append(entry.n)
        return read(self, origin, entry, body)

    monkeypatch.setattr(CandidateReader, "read", note)
    return found


# ---- what is taken ------------------------------------------------------------------------------


PLAIN = [
    CARD,
    APP,
    CARD.replace(b"201999001", b""),
    CARD.replace("Thôn Tân Hòa".encode(), b""),
    "001099999002||Ước|28021999|Nam|Đường 3/2, P.5|29022020".encode(),
    "096204999003||Ỷ Lan|01012004|Nam|x|01012024".encode(),
    "045190999001||Trần Thị B.|31121990|Nữ|Xã Vĩnh Chấp|11062021".encode(),
    b"045190999001|NGUYEN THI ANH|1990-06-05|0|162999310000000031|<2<<",
    b"***001|O'BRIEN|1984-02-29|0|QID_999-31|<0<4459990031<",
]


@pytest.mark.parametrize("payload", PLAIN, ids=range(len(PLAIN)))
def test_the_common_forms_are_plain(payload: bytes) -> None:
    reader = PlainReader(Hmac(b"key"), Hmac(b"key"), {MARKET})
    for record, post in (
        (encode_scan(NOON_MS, 1, payload), 1),
        (encode_checkin(NOON_MS, Direction.IN, payload, MARKET), 0),
    ):
        body = encode_scans([record])
        packed, _ = decode_scans(body)
        rules = PlainRules(post, [1], 0, NOON_MS, 0, 0, 20210701)
        assert reader.take(packed, body, 0, 1, rules)[0] == 1


def test_a_message_of_common_records_never_comes_to_python(slow_ones: list[int]) -> None:
    outcome = Bench().take(
        *(encode_scan(NOON_MS + n, 1 + n % 2, card) for n, card in enumerate(PLAIN))
    )
    assert len(outcome.verdicts) == len(PLAIN)
    who = [
        Credential("cccd", "045190999001"), Credential("qid", "162999310000000031"),
        Credential("bhyt", "DN4459990000031"), Credential("bhyt", "4459990031"),
        Credential("passport", "B1234567", "LAO"), CARD, APP,
    ]  # fmt: skip
    more = Extras(room=700, plate="74A-999.99", trip="T1", seat="12", stay_s=3600)
    Bench().take(
        *(encode_checkin(NOON_MS, Direction.IN, one, MARKET) for one in who),
        encode_checkin(NOON_MS, Direction.OUT, who[0], MARKET, extras=more),
        origin=BACK_END,
    )
    Bench().pipeline.take_codes(Origin(1, 7, 1, 5, 5, 1, (1,)), 1, NOON_MS, [CARD, APP])
    assert not slow_ones
    Bench().take(encode_scan(NOON_MS, 1, CARD), encode_scan(NOON_MS, 1, BANK))
    assert slow_ones == [1]


def test_letters_that_are_taken_are_composed_in_any_company() -> None:
    """What native.cards takes as letters cannot be part of text that normalising would change."""
    letters = {*range(0xC0, 0x250), *range(0x1E00, 0x1F00)} - {0xD7, 0xF7}
    for letter in letters:
        assert unicodedata.is_normalized("NFC", chr(letter))
        assert not unicodedata.combining(chr(letter))
    taken = letters | set(range(0x20, 0x7F))
    for code in range(0x110000):
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            assert int(parts[1], 16) not in taken


# ---- side by side -------------------------------------------------------------------------------


def test_vectors(twins: Twins) -> None:
    """Each in a message of its own, then all in one."""
    for n, payload in enumerate(VECTORS):
        twins.take(encode_scan(NOON_MS + n, 1 + n % 2, payload))
        twins.take(encode_checkin(NOON_MS, Direction.OUT, payload, MARKET), origin=BACK_END)
    twins.take(*(encode_scan(NOON_MS - n, 1, payload) for n, payload in enumerate(VECTORS)))


NUMBERS = ["045190999001", "045090999001", "001304999002", "097190999001", "000190999001"]
NUMBERS += ["45190999001"]
NAMES = ["Nguyễn Thị Hồng Ánh", "Ý Lan", "Ỷ", "Lê  Na", " An", "Y Bih-Êban", "Abcd-ef-gh", "A B"]
NAMES += ["NGUYEN AN", "=1+1", "Đỗ Ö", "Ho\u0301a", "An\u00a0B", "×", "Na·Va", "O'Neil Th."]
NAMES += ["x" * 101, "ỳ" * 100, "Nguyễn T", "Nguyễn Ti", "Nguyễn Tia", "Quốcquốcquốcquốc Thị"]
DATES = ["05061990", "29022000", "29021999", "05062035", "1990-06-05", "05/06/1990", "1984-**-**"]
DATES += ["2035-**-**", "1984-1*-01", "1984-13-01", "1990", "", "**/**/1990", "31121899"]
SEXES = ["Nam", "Nữ", "nam", "NỮ", "Nu", "0", "1", ""]
PLACES = ["Thôn Tân Hòa, Xã Vĩnh Chấp", "", "P. 5 ", "Số 3/2 – đường Hùng", "a\tb", "\u200bx"]
QIDS = ["162999310000000031", "QID_-9", "short", "x" * 40, "x" * 41, "a b"]
EXTS = ["<1<DN4459990000031<0912000031", "<2<<", "<0<4459990031<", "", "<<<", "Q99999<1<<", "<3<<"]
EXTS += ["<1<x<", "<1<<84912000031", "<1<<0112000031", "<1<< 0912000031", "<1<<0912000031<"]
EXTS += ["<1<<0912000031<x", "<1", "<12<<"]
DOCS = [*NUMBERS, "******999031", "***031", "****", "******99903x", "*9*031", "B1234567", ""]
DOCS += ["123456789"]
OLDS = ["201999001", "", "20199900", "20199900x", "2019990010"]


@st.composite
def cards(draw: st.DrawFn) -> bytes:
    """Mostly right, with a field or two that are odd."""

    def field(choices: list[str]) -> str:
        return draw(st.sampled_from(choices)) if draw(st.integers(0, 3)) == 0 else choices[0]

    if draw(st.booleans()):
        fields = [field(NUMBERS), field(OLDS), draw(st.sampled_from(NAMES)), field(DATES)]
        fields += [field(["Nữ", *SEXES]), field(PLACES), field(["11062021", *DATES])]
        fields += ["x"] * (draw(st.integers(0, 9)) == 0)
    else:
        birth = draw(st.sampled_from(["1984-**-**", "1990-06-05", *DATES]))
        fields = [draw(st.sampled_from(DOCS)), field(["PHAM QUOC HUNG", *NAMES]), birth]
        fields += [field(["0", "1", "2"]), field(QIDS), draw(st.sampled_from(EXTS))]
    if draw(st.integers(0, 9)) == 0:
        del fields[draw(st.integers(0, len(fields) - 1))]
    text = "|".join(fields)
    if draw(st.integers(0, 9)) == 0:
        text = unicodedata.normalize("NFD", text)
    data = text.encode("cp1258", "replace") if draw(st.integers(0, 19)) == 0 else text.encode()
    if draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=2)) + data[at + 1 :]
    return draw(st.sampled_from([b"", b"", b"", b" ", b"\xef\xbb\xbf"])) + data


TIMES = st.one_of(
    st.integers(NOON_MS - 1000, NOON_MS + 1000),
    st.sampled_from([MIDNIGHT_MS, MIDNIGHT_MS - 1, NOON_MS + 300_000, NOON_MS + 300_001, 0]),
    st.sampled_from([NOON_MS - 30 * DAY_MS, NOON_MS - 31 * DAY_MS, (1 << 63) - 1]),
)
VALUES = [*NUMBERS, *QIDS[:4], "045.190.999001", "b1234567", "B1234567", "DN4459990000031"]
VALUES += ["4459990031", "Ỷ" * 64, "x" * 65]
CREDENTIALS = st.one_of(
    st.builds(
        Credential,
        st.sampled_from(["qid", "cccd", "passport", "bhyt"]),
        st.sampled_from(VALUES),
        st.sampled_from([None, None, "", "VNM", "LAO", "D", "la"]),
    ),
    st.sampled_from([["cccd", NUMBERS[0], None], ["phone", "0912000031"], ["cccd", ""]]),
)
NUMERALS = [0, 127, 128, 255, 256, 65_535, 65_536, 86_400, 86_401, -1, 1.5, None]
WORDS = [
    "",
    "74A-999.99",
    " .-",
    "74a 99999",
    "A" * 8,
    "A" * 9,
    "Ỷ" * 8,
    "A" * 16,
    "A" * 17,
    "A" * 32,
    "A" * 33,
]
EXTRAS = st.one_of(
    st.none(),
    st.dictionaries(
        st.sampled_from(["room", "plate", "trip", "seat", "stay_s", "x"]),
        st.sampled_from([*NUMERALS, *WORDS]),
    ),
)
RECORDS = st.one_of(
    st.builds(
        encode_scan,
        TIMES,
        st.integers(0, 3),
        cards(),
        flags=st.integers(0, 3),
        extras=EXTRAS,
    ),
    st.builds(
        encode_checkin,
        TIMES,
        st.sampled_from(Direction),
        st.one_of(CREDENTIALS, CREDENTIALS, cards()),
        st.sampled_from([MARKET, MARKET, 1001, 1, 999_999, b"x"]),
        source=st.integers(0, 9),
        extras=EXTRAS,
    ),
    st.builds(
        encode_manual,
        TIMES,
        st.integers(0, 3),
        st.just({"name": "Hồ Văn Lai"}),
        officer=st.just("x"),
        why=st.just("y"),
    ),
    st.sampled_from([b"\xc0", encode_scan(NOON_MS, 1, BANK)]),
)
ORIGINS = st.builds(
    Origin,
    gateway=st.just(1), epoch=st.just(7), cls=st.just(0), seq=st.just(1), first=st.just(1),
    post=st.just(1), lanes=st.just((1, 2)),
    correction_ms=st.sampled_from([0, 0, 5000, -5000, 400_000, DAY_MS, -DAY_MS]),
    flags=st.sampled_from([0, Flag.CLOCK_CORRECTED, Flag.CLOCK_UNSURE]),
    is_repeat=st.booleans(),
)  # fmt: skip


@SEEDED
@given(st.lists(RECORDS, max_size=12), ORIGINS, st.booleans(), st.integers(0, 3))
def test_any_records(records: list[bytes], origin: Origin, is_lane: bool, what: int) -> None:
    twins = Twins()
    if what == 1:
        twins.watch(twins.both[0].ring.person_key("cccd", "VNM", NUMBERS[0]))
    if what == 2:
        report = Report(kind="thermal", ts_ms=NOON_MS, device="t1", value=38.2, unit="C")
        twins.report(1, report)
    if not is_lane:
        origin = Origin(8, 7, 0, 1, 1, 0, (), origin.correction_ms, origin.flags, origin.is_repeat)
    twins.take(*records, origin=origin)
    twins.take(*records, origin=origin)


@SEEDED
@given(cards())
def test_any_card(payload: bytes) -> None:
    twins = Twins()
    twins.take(encode_scan(NOON_MS, 1, payload))
    twins.take(encode_checkin(NOON_MS, Direction.IN, payload, MARKET), origin=BACK_END)


BITS = [b"|", b"*", b"<", b" ", b"-", b"0", b"9", b"A", b"\xc3", b"\x7f", b"\x00"]


@SEEDED
@given(st.sampled_from(PLAIN), st.data())
def test_plain_cards_with_other_bytes(payload: bytes, data: st.DataObject) -> None:
    changed = bytearray(payload)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed)))
        changed[at : at + data.draw(st.integers(0, 2))] = data.draw(st.sampled_from(BITS))
    Twins().take(encode_scan(NOON_MS, 1, bytes(changed)))


def test_readings_of_a_lane_and_its_scans(twins: Twins) -> None:
    """In both orders; of the scans of a message the one nearest in time carries what waits."""
    report = Report(kind="thermal", ts_ms=NOON_MS + 500, device="t1", value=38.2, unit="C")
    twins.take(encode_scan(NOON_MS, 1, CARD), encode_scan(NOON_MS, 2, APP))
    twins.report(1, report)
    twins.report(2, msgspec.structs.replace(report, ts_ms=NOON_MS - 60_000))
    twins.report(2, msgspec.structs.replace(report, ts_ms=NOON_MS - 50_000, value=36.6))
    outcome = twins.take(
        encode_scan(NOON_MS + 600, 1, APP),
        encode_scan(NOON_MS - 59_000, 2, CARD),
        encode_scan(NOON_MS - 49_000, 2, APP),
        encode_scan(NOON_MS - 48_000, 2, APP),
    )
    assert [(v.verdict, v.reason) for v in outcome.verdicts][1] == ("alert", "fever")
    assert outcome.batch is not None
    rows = np.frombuffer(outcome.batch.parts[0].rows, ROW)
    assert rows["temperature_cc"].tolist() == [NO_TEMPERATURE, 3820, 3660, NO_TEMPERATURE]
    assert bool(rows["flags"][1] & Flag.FEVER)


def test_records_of_two_days_are_parted(twins: Twins) -> None:
    times = [MIDNIGHT_MS - 1, MIDNIGHT_MS, MIDNIGHT_MS - 2, MIDNIGHT_MS + 1]
    outcome = twins.take(*(encode_scan(at, 1, CARD) for at in times))
    assert outcome.batch is not None
    assert [len(part.rows) // 48 for part in outcome.batch.parts] == [2, 2]


def test_a_large_message_gives_way_by_what_it_costs(twins: Twins) -> None:
    for record, count, steps in (
        (encode_scan(NOON_MS, 1, CARD), 4 * STEP_PLAIN, 4),
        (encode_scan(NOON_MS, 1, BANK), 4 * STEP_RECORDS, 4),
    ):
        body = encode_scans([record] * count)
        packed, _ = decode_scans(body)
        ours, theirs = (
            list(b.pipeline.record_steps(LANE_GATEWAY, packed, body)) for b in twins.both
        )
        assert len(ours) == steps
        assert isinstance(ours[-1], Outcome) and isinstance(theirs[-1], Outcome)
        assert len(theirs) == count // STEP_RECORDS
        assert told(ours[-1]) == told(theirs[-1])


# ---- bounds -------------------------------------------------------------------------------------


RULES = PlainRules(1, [1], 0, NOON_MS, 0, 0, 20210701)


def test_entries_and_ranges_that_lie() -> None:
    reader = PlainReader(Hmac(b"key"), Hmac(b"key"), {MARKET})
    body = encode_scans([encode_scan(NOON_MS, 1, CARD)])
    packed, _ = decode_scans(body)
    assert reader.take(packed, body, 0, 1, RULES)[0] == 1
    assert reader.take(packed, body, 1, 1, RULES)[0] == 0
    for first, last in ((0, 2), (1, 0), (2, 2)):
        with pytest.raises(IndexError):
            reader.take(packed, body, first, last, RULES)
    with pytest.raises(ValueError, match="range"):
        reader.take(packed, body, -1, 1, RULES)
    with pytest.raises(ValueError, match="whole"):
        reader.take(packed[:-1], body, 0, 0, RULES)
    for name in ("who_off", "who_len", "aux_off", "aux_len"):
        entries = np.frombuffer(packed, ENTRY).copy()
        entries[name] = 0xFFFF_FFFF
        with pytest.raises(ValueError, match="beyond the body"):
            reader.take(entries.tobytes(), body, 0, 1, RULES)
    with pytest.raises(ValueError, match="beyond the body"):
        reader.take(packed, body[:-2], 0, 1, RULES)


@SEEDED
@given(st.binary(min_size=64, max_size=64 * 3), st.binary(max_size=60))
def test_any_entries(packed: bytes, body: bytes) -> None:
    """Made by nobody: what they point at may be anything, and is read within the body."""
    reader = PlainReader(Hmac(b"key"), Hmac(b"key"), {MARKET})
    entries = np.frombuffer(packed[: len(packed) // 64 * 64], ENTRY).copy()
    for name in ("who_off", "who_len", "aux_off", "aux_len"):
        entries[name] %= len(body) // 2 + 1
    entries["time_ms"] = NOON_MS
    entries["kind"] = 1 + entries["kind"] % 2
    entries["who_form"] = 1 + entries["who_form"] % 2
    entries["venue_form"] = 3
    for post in (0, 1):
        rules = PlainRules(post, [1], 0, NOON_MS, 0, 0, 20210701)
        count, _, rows, _, _ = reader.take(entries.tobytes(), body, 0, len(entries), rules)
        assert len(rows) == 48 * count <= 48 * len(entries)


def test_rules_that_do_not_fit() -> None:
    good: list[Any] = [1, [1], 0, NOON_MS, 0, 0, 20210701]
    for i, bad in ((0, -1), (1, [65_536]), (2, 1 << 62), (3, 1 << 63), (4, 1 << 62), (5, 256)):
        with pytest.raises(ValueError, match="range"):
            PlainRules(*good[:i], bad, *good[i + 1 :])
    with pytest.raises(TypeError):
        pickle.dumps(PlainReader(Hmac(b"key"), Hmac(b"key"), set()))
