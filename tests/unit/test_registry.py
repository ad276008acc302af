"""Dated records, what they may not contradict, and their tables."""

from __future__ import annotations

import contextlib
import itertools
import random
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clock import iso_to_ms
from engine.errors import JournalCorrupt, RegistryInvalid, StoreVersion
from engine.presence.hours import text_to_trips, text_to_week
from engine.presence.visits import PlaceRule
from engine.registry.access import Grant, Role
from engine.registry.csv_tables import TABLE_ORDER, TABLES, neutralise, read_csv, write_csv
from engine.registry.registry import (
    DEFAULT_STAY_MINUTES,
    RULES,
    TYPES,
    Area,
    Category,
    Change,
    Gateway,
    Post,
    Registry,
    Road,
    Rule,
    Venue,
    change_to_text,
    changes_to_record,
    record_to_changes,
)
from engine.scans.dedup import Spans

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "registry"
MARKET = Venue(number=1013, name="Chợ Hồ Xá", category=Category.MARKET)
POST = Post(number=1, code="VL-1A", name="Chốt Vĩnh Linh", lanes=3)


@dataclass(frozen=True)
class Record:
    lsn: int
    kind: str
    body: bytes
    by: str = "uid 1000"
    at_ms: int = 0


def make_registry(*changes: Change) -> Registry:
    registry = Registry()
    for lsn, change in enumerate(changes, 1):
        registry.apply(Record(lsn, *changes_to_record([change])))
    return registry


def example_registry() -> Registry:
    registry = Registry()
    for table in TABLE_ORDER:
        changes = read_csv(table, (EXAMPLES / f"{table}.csv").read_bytes(), registry)
        for change in registry.prepare(changes):
            registry.take(change)
    return registry


def faults(registry: Registry, *changes: Change) -> str:
    with pytest.raises(RegistryInvalid) as caught:
        registry.prepare(changes)
    return "\n".join(caught.value.rows)


# ---- dates --------------------------------------------------------------------------------------


def test_the_newest_record_that_has_begun_wins_and_history_stays() -> None:
    old = POST
    moved = Post(number=1, code="VL-1A", name="Chốt mới", lanes=4, valid_from_ms=1000)
    closed = msgspec.structs.replace(moved, name="Chốt cũ", valid_from_ms=2000, valid_to_ms=3000)
    registry = make_registry(moved, closed, old)
    assert registry.post("VL-1A", 0) == old
    assert registry.post("VL-1A", 999) == old
    assert registry.post("VL-1A", 1000) == moved
    assert registry.place(1, 2000) == closed
    assert registry.place(1, 3000) is None
    assert registry.place(1) == closed
    assert registry.place_name(1, 500) == "Chốt Vĩnh Linh"
    assert registry.place_name(1, 5000) == "Chốt cũ"
    assert registry.place_name(77) == "#77"


def test_of_two_records_from_one_instant_the_later_written_wins() -> None:
    renamed = msgspec.structs.replace(MARKET, name="Chợ Mới")
    assert make_registry(MARKET, renamed).place(1013, 5) == renamed
    assert make_registry(renamed, MARKET).place(1013, 5) == MARKET


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(1, 9)), max_size=12), st.integers(0, 9))
def test_look_ups_agree_with_the_definition(writes: list[tuple[int, int]], at_ms: int) -> None:
    """Of the records begun, the one with the latest beginning, of those the one written last."""
    changes = [Rule(name="travel_s", value=value, valid_from_ms=begin) for begin, value in writes]
    begun = [
        (c.valid_from_ms, i, c.value) for i, c in enumerate(changes) if c.valid_from_ms <= at_ms
    ]
    expected = max(begun)[2] if begun else RULES["travel_s"]
    assert make_registry(*changes).rule("travel_s", at_ms) == expected


def test_the_version_grows_with_each_record_and_other_kinds_are_skipped() -> None:
    registry = make_registry(POST, MARKET)
    assert registry.version == 2
    registry.apply(Record(3, "audit", b"anything"))
    assert registry.version == 2


def test_records_that_cannot_be_read() -> None:
    registry = Registry()
    with pytest.raises(StoreVersion):
        registry.apply(Record(1, "registry.drone", b"\x80"))
    with pytest.raises(JournalCorrupt):
        registry.apply(Record(1, "registry.post", changes_to_record([MARKET])[1]))
    with pytest.raises(KeyError):
        registry.rule("unknown")


@given(st.sampled_from([*TYPES, "batch", "drone"]), st.binary(max_size=80))
def test_any_body_is_a_change_or_a_storage_error(kind: str, body: bytes) -> None:
    try:
        changes = record_to_changes(f"registry.{kind}", body)
    except (StoreVersion, JournalCorrupt):
        return
    assert kind == "batch" or [type(change) for change in changes] == [TYPES[kind]]


@pytest.mark.parametrize(
    "change", [POST, MARKET, Rule(name="travel_s", value=3)], ids=change_to_text
)
def test_a_record_comes_back_as_it_was(change: Change) -> None:
    assert record_to_changes(*changes_to_record([change])) == [change]


def test_several_changes_are_one_record() -> None:
    kind, body = changes_to_record([POST, MARKET])
    assert kind == "registry.batch"
    registry = Registry()
    registry.apply(Record(1, kind, body))
    assert (registry.place(1), registry.place(1013)) == (POST, MARKET)


# ---- what is refused ----------------------------------------------------------------------------


def test_posts_and_venues_share_one_space_of_numbers() -> None:
    registry = make_registry(POST)
    taken = Venue(number=1, name="Chợ", category=Category.MARKET)
    assert "number 1 belongs to post VL-1A" in faults(registry, taken)
    assert "number 1013 belongs to venue 1013" in faults(
        registry, MARKET, Post(number=1013, code="X", name="X")
    )


def test_a_number_stays_with_its_owner() -> None:
    registry = make_registry(POST, Area(number=5, code="QT", name="Quảng Trị"))
    assert "its number is 1 and stays so" in faults(
        registry, msgspec.structs.replace(POST, number=9)
    )
    assert "number 5 belongs to QT" in faults(
        registry, Area(number=5, code="QB", name="Quảng Bình")
    )


def test_references_must_be_known_here_or_in_the_same_table() -> None:
    registry = make_registry(POST)
    area = Area(number=1, code="QT", name="Quảng Trị")
    venue = msgspec.structs.replace(MARKET, area="QT")
    assert "area 'QT' is not known" in faults(registry, venue)
    assert registry.prepare([venue, area]) == [venue, area]
    assert "post 'HL-1A' is not known" in faults(
        registry, Gateway(number=1, name="g", post="HL-1A", lanes=(1,))
    )
    assert "area 'ZZ' is not known" in faults(
        registry, Grant(name="g", role=Role.TRACER, unit="CDC", area="ZZ")
    )


@pytest.mark.parametrize(
    ("gateway", "text"),
    [
        (Gateway(number=1, name="g", post="VL-1A", lanes=(4,)), "from 1 to 3"),
        (Gateway(number=1, name="g", post="VL-1A", lanes=(1, 1)), "different numbers"),
        (Gateway(number=1, name="g", post="VL-1A"), "serves no lane"),
        (Gateway(number=1, name="g", lanes=(1,)), "without a post has no lanes"),
    ],
)
def test_lanes_of_a_gateway_are_those_of_its_post(gateway: Gateway, text: str) -> None:
    assert text in faults(make_registry(POST), gateway)


def test_areas_do_not_lie_in_themselves() -> None:
    first = Area(number=1, code="A", name="A", parent="B")
    second = Area(number=2, code="B", name="B", parent="A")
    assert "lies in itself" in faults(Registry(), first, second)


def test_other_faults() -> None:
    registry = make_registry(POST)
    digest = "ab" * 32
    one = Gateway(number=1, name="one", token_sha256=digest)
    assert "ends before it begins" in faults(
        registry, msgspec.structs.replace(MARKET, valid_from_ms=5, valid_to_ms=5)
    )
    assert "is given twice" in faults(registry, MARKET, MARKET)
    assert "there is no rule" in faults(registry, Rule(name="speed", value=1))
    assert "token belongs to somebody else" in faults(
        registry, one, Grant(name="two", role=Role.TRACER, unit="CDC", token_sha256=digest)
    )
    assert "needs an area" in faults(registry, Grant(name="c", role=Role.CENTRE, unit="TTYT"))
    assert "NFC" in faults(
        registry, msgspec.structs.replace(MARKET, name=unicodedata.normalize("NFD", "Chợ"))
    )


def test_what_is_known_is_not_written_again_and_a_token_is_kept() -> None:
    digest = "cd" * 32
    gateway = Gateway(number=1, name="g", token_sha256=digest)
    registry = make_registry(POST, MARKET, gateway)
    bare = Gateway(number=1, name="g")
    assert registry.prepare([POST, MARKET, bare]) == []
    later = Gateway(number=1, name="g", valid_from_ms=10)
    (kept,) = registry.prepare([later])
    assert isinstance(kept, Gateway) and kept.token_sha256 == digest
    # What held once and was replaced is new again when it comes back.
    renamed = msgspec.structs.replace(MARKET, name="Chợ Mới")
    assert make_registry(MARKET, renamed).prepare([MARKET]) == [MARKET]


# ---- questions ----------------------------------------------------------------------------------


def test_a_grant_is_found_by_the_hash_of_the_token_in_force() -> None:
    old, new = "11" * 32, "22" * 32
    grant = Grant(name="cdc", role=Role.TRACER, unit="CDC", token_sha256=old)
    rotated = msgspec.structs.replace(grant, token_sha256=new, valid_from_ms=100)
    registry = make_registry(grant, rotated, Grant(name="x", role=Role.IOC, unit="IOC"))
    assert registry.grant_by_token(old, 99) == grant
    assert registry.grant_by_token(old, 100) is None
    assert registry.grant_by_token(new, 100) == rotated
    assert registry.grant_by_token("", 100) is None
    assert registry.grant_by_token("é", 100) is None


def test_areas_lie_in_areas() -> None:
    registry = example_registry()
    assert registry.area_within("QT-VL-HX", "QT-VL")
    assert registry.area_within("QT-VL-HX", "QT")
    assert registry.area_within("QT-VL", "QT-VL")
    assert registry.area_within("anything", "")
    assert not registry.area_within("QT-VL", "QT-VL-HX")
    assert not registry.area_within("QT-HL", "QT-VL")
    assert not registry.area_within("", "QT-VL")
    within = registry.places_within("QT-HL")
    assert within and all(
        registry.area_within(place.area, "QT-HL")
        for number in within
        if (place := registry.place(number))
    )


def test_searching_places() -> None:
    registry = example_registry()
    assert [p.number for p in registry.find_places("cho ho xa")] == [1013]
    assert [p.number for p in registry.find_places("CHỢ HỒ XÁ")] == [1013]
    assert [p.number for p in registry.find_places("1024")] == [1024]
    assert [p.number for p in registry.find_places("vl-1a")] == [1]
    assert len(registry.find_places("", limit=7)) == 7
    assert registry.find_places("không có gì như thế") == []


def test_rules_for_visits() -> None:
    override = Venue(number=5, name="X", category=Category.LODGING, default_stay_minutes=61)
    registry = make_registry(POST, MARKET, override, Rule(name="visit_gap_s", value=60))
    assert registry.place_rules() == {
        1: PlaceRule(True, 600_000),
        1013: PlaceRule(False, 45 * 60_000),
        5: PlaceRule(False, 61 * 60_000),
    }
    inn = Venue(number=6, name="Nhà trọ", category=Category.LODGING, hours="06:00-23:00")
    bus = Venue(
        number=7, name="Xe", category=Category.PUBLIC_TRANSPORT, hours="06:00-11:30,13:00-18:30"
    )
    found = make_registry(inn, bus).place_rules()
    assert found[6] == PlaceRule(False, 1080 * 60_000, is_until_noon=True)
    assert found[7] == PlaceRule(False, 240 * 60_000, trips=text_to_trips(bus.hours))
    plain = make_registry(msgspec.structs.replace(bus, default_stay_minutes=40)).place_rules()
    assert plain[7] == PlaceRule(False, 40 * 60_000, text_to_week(bus.hours))
    day = iso_to_ms("2021-07-01")
    moved = make_registry(
        MARKET,
        msgspec.structs.replace(MARKET, name="Chợ mới", valid_from_ms=day // 2),
        msgspec.structs.replace(MARKET, hours="05:00-12:00", valid_from_ms=day),
        msgspec.structs.replace(MARKET, default_stay_minutes=30, valid_from_ms=day),
    ).place_rules()
    before = PlaceRule(False, 45 * 60_000)
    assert moved == {1013: PlaceRule(False, 30 * 60_000, from_ms=day, earlier=(before,))}
    rules = registry.visit_rules()
    assert (rules.gap_ms, rules.passage_window_ms, rules.queue_ms) == (60_000, 600_000, 300_000)


# ---- the example --------------------------------------------------------------------------------


def test_the_example_is_the_post_plan_of_the_source_documents() -> None:
    """CP-2, CP-3, CP-9: two posts with three points on Highway 1A, one on the Hồ Chí Minh road."""
    registry = example_registry()
    began = iso_to_ms("2021-06-11")
    posts = {p.code: p for p in registry.entries("post", began) if isinstance(p, Post)}
    assert {code: post.lanes for code, post in posts.items()} == {
        "VL-1A": 3,
        "HL-1A": 3,
        "VL-HCM": 1,
    }
    assert list(registry.entries("post", began - 1)) == []
    assert registry.area_within(posts["HL-1A"].area, "QT-HL")
    gateways = [g for g in registry.entries("gateway") if isinstance(g, Gateway)]
    served = [(g.post, lane) for g in gateways for lane in g.lanes]
    expected = [(code, n) for code, post in posts.items() for n in range(1, post.lanes + 1)]
    assert sorted(served) == sorted(expected)
    assert all(not g.token_sha256 for g in gateways)


def test_the_example_has_venues_of_every_category() -> None:
    venues = [v for v in example_registry().entries("venue") if isinstance(v, Venue)]
    assert {v.category for v in venues} == set(Category) == set(DEFAULT_STAY_MINUTES)
    assert len(Category) == 14
    assert 35 <= len(venues) <= 50
    assert {g.role for g in example_registry().entries("grant") if isinstance(g, Grant)} == (
        set(Role) - {Role.GATEWAY}
    )


# ---- spans --------------------------------------------------------------------------------------


def test_spans_are_dated_like_what_they_are_made_of() -> None:
    registry = make_registry(
        Post(number=1, code="A", name="A"),
        Post(number=2, code="B", name="B"),
        Road(post="B", other="A", least_minutes=40, valid_from_ms=1000, valid_to_ms=5000),
        Rule(name="seen_window_s", value=60, valid_from_ms=2000),
        Rule(name="two_lanes_s", value=0, valid_from_ms=3000),
    )
    road = ((2, 1, 40 * 60_000),)
    assert registry.spans() == [
        Spans(0, 600_000, 2001, ()),
        Spans(1000, 600_000, 2001, road),
        Spans(2000, 60_000, 2001, road),
        Spans(3000, 60_000, 0, road),
        Spans(5000, 60_000, 0, ()),
    ]
    assert Registry().spans() == [Spans(0, 600_000, 2001, ())]


def test_a_road_is_one_in_both_directions() -> None:
    registry = make_registry(
        Post(number=1, code="A", name="A"),
        Post(number=2, code="B", name="B"),
        Road(post="A", other="B", least_minutes=40),
    )
    registry.take(Road(post="B", other="A", least_minutes=0))
    assert registry.spans()[0].roads == (), "no road any more"
    posts = [Post(number=10 + n, code=f"P{n}", name="P") for n in range(142)]
    pairs = list(itertools.combinations([post.code for post in posts], 2))
    roads = [Road(post=one, other=two, least_minutes=1) for one, two in pairs]
    assert "more than 10000 roads" in faults(registry, *posts, *roads)
    assert len(registry.prepare([*posts, *roads[:9999]])) == len(posts) + 9999
    road = Road(post="A", other="B", least_minutes=1)
    back = Road(post="B", other="A", least_minutes=2)
    assert "is given twice" in faults(registry, road, back)
    assert "where it begins" in faults(registry, Road(post="A", other="A", least_minutes=1))
    assert "'C' is not known" in faults(registry, Road(post="A", other="C", least_minutes=1))


# ---- tables -------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLE_ORDER)
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_a_table_written_is_read_back_the_same(table: str, delimiter: str) -> None:
    registry = example_registry()
    records = list(registry.entries(TABLES[table][0]))
    text = write_csv(table, records, delimiter)
    assert read_csv(table, text, registry) == records
    assert registry.prepare(records) == []
    shown = "\ufeff" + text.replace("\r\n", "\n")
    assert read_csv(table, shown.encode(), registry) == records


def rows_of(table: str, text: str, registry: Registry | None = None) -> Sequence[str]:
    with pytest.raises(RegistryInvalid) as caught:
        read_csv(table, text, registry)
    return caught.value.rows or [str(caught.value)]


def test_every_bad_line_is_named_and_nothing_is_taken() -> None:
    text = (
        "number,name,category,area\n"
        "10,Chợ A,market,\n"
        "0,Chợ B,market,\n"
        "11,Chợ C,pub,\n"
        "12,,market,\n"
        "13,Chợ E,market\n"
        "\n"
        "10,Chợ F,market,\n"
        "14,Chợ G,market,ZZ\n"
    )
    found = rows_of("venues", text, Registry())
    assert [row.split(":")[0] for row in found] == [f"line {n}" for n in (3, 4, 5, 6, 8, 9)]
    assert "number" in found[0] and "category" in found[1]
    assert "4 belong" in found[3] and "given twice" in found[4] and "ZZ" in found[5]


def test_columns_are_strict() -> None:
    assert "column 'value' is missing" in rows_of("rules", "name\nx\n")[0]
    assert "no column 'colour'" in rows_of("rules", "name,value,colour\n")[0]
    assert "stands twice" in rows_of("rules", "name,value,name\n")[0]
    assert "empty" in rows_of("rules", "")[0]
    assert "no table" in rows_of("drones", "x")[0]


def test_dates_bytes_and_quotes_that_are_wrong() -> None:
    assert "valid_from" in rows_of("rules", "name,value,valid_from\ntravel_s,1,gestern\n")[0]
    assert "not UTF-8" in rows_of("rules", b"name,value\n\xff,1\n")[0]  # type: ignore[arg-type]
    assert "not CSV" in rows_of("rules", 'name,value\n"travel_s"x,1\n')[0]


def test_words_of_the_source_documents_are_categories() -> None:
    head = "number;name;category;area\n"
    words = {"Chợ": "market", "khách sạn": "lodging", "TRƯỜNG HỌC": "school", "cafe": "cafe"}
    for word, code in words.items():
        (venue,) = read_csv("venues", f"{head}7;X;{word};\n")
        assert isinstance(venue, Venue) and venue.category == code


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_is_a_formula(start: str) -> None:
    name = start.strip() + "cmd|' /C calc'!A0"
    assert neutralise(start + "1").startswith("'")
    venue = Venue(number=9, name=name, category=Category.CAFE)
    text = write_csv("venues", [venue])
    cell = text.split("\r\n")[1].split(",")[1]
    assert not cell.strip('"').startswith(("=", "+", "-", "@"))
    assert read_csv("venues", text) == [venue]


@given(st.sampled_from([*TABLES]), st.text(max_size=200))
def test_any_text_is_a_table_or_refused(table: str, text: str) -> None:
    head = ",".join(TABLES[table][1])
    for given_text in (text, f"{head}\n{text}"):
        try:
            read_csv(table, given_text, Registry())
        except RegistryInvalid as error:
            assert str(error)


@given(st.binary(max_size=100))
def test_any_bytes_are_a_table_or_refused(data: bytes) -> None:
    with contextlib.suppress(RegistryInvalid):
        read_csv("rules", b"name,value\n" + data)


def test_order_of_writing_does_not_matter_where_beginnings_differ() -> None:
    changes = [msgspec.structs.replace(MARKET, rooms=n, valid_from_ms=n * 10) for n in range(8)]
    shuffled = changes[:]
    random.Random(5).shuffle(shuffled)
    for at_ms in range(0, 90, 7):
        assert make_registry(*changes).place(1013, at_ms) == make_registry(*shuffled).place(
            1013, at_ms
        )
