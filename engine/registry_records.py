"""Records of the registry: areas, posts, roads, venues, gateways, rules, and their bytes.

Each says from when it holds and perhaps until when; what a set of them comes to is engine.registry.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from engine.access import Grant
from engine.errors import JournalCorrupt, StoreVersion
from engine.payloads.venue import ISSUE_MAX

# Above any instant a clock can show: "the newest record, whenever it begins".
LATEST_MS: Final = 1 << 62
KIND_PREFIX: Final = "registry."
BATCH_KIND: Final = "registry.batch"

Number = Annotated[int, Meta(ge=1, le=0xFFFF_FFFF)]
Code = Annotated[str, Meta(pattern=r"^[0-9A-Za-z._-]{1,32}\Z")]
CodeOrNone = Annotated[str, Meta(pattern=r"^[0-9A-Za-z._-]{0,32}\Z")]
Name = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{1,120}\Z")]
Text = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{0,200}\Z")]
Digest = Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")]
Instant = Annotated[int, Meta(ge=0, le=LATEST_MS)]
Lane = Annotated[int, Meta(ge=1, le=0xFFFF)]


class PostKind(enum.StrEnum):
    """Kinds of checkpoint (AC-12)."""

    ROAD = "road"
    BORDER = "border"
    PORT = "port"
    STATION = "station"


class Category(enum.StrEnum):
    """The 14 kinds of venue (VE-1, VE-2)."""

    OFFICE = "office"
    SCHOOL = "school"
    HOSPITAL = "hospital"
    COMPANY = "company"
    MARKET = "market"
    SUPERMARKET = "supermarket"
    LODGING = "lodging"
    EATERY = "eatery"
    CAFE = "cafe"
    PUBLIC_TRANSPORT = "public_transport"
    CROWD = "crowd"
    LEISURE = "leisure"
    SPORT = "sport"
    CHECKPOINT = "checkpoint"


# Minutes a visit lasts when nobody checked out; starting values, each venue may have its own.
# A lodging's guest stays until noon of the next day and a passenger for the whole trip, which no
# number of minutes says: theirs stand in for that rule where it cannot be applied.
DEFAULT_STAY_MINUTES: Final[Mapping[Category, int]] = {
    Category.OFFICE: 480,
    Category.SCHOOL: 300,
    Category.HOSPITAL: 120,
    Category.COMPANY: 480,
    Category.MARKET: 45,
    Category.SUPERMARKET: 45,
    Category.LODGING: 1080,
    Category.EATERY: 60,
    Category.CAFE: 60,
    Category.PUBLIC_TRANSPORT: 240,
    Category.CROWD: 120,
    Category.LEISURE: 120,
    Category.SPORT: 90,
    Category.CHECKPOINT: 10,
}

# Rules that may be set, with the value that holds while no record says otherwise. Spans in
# seconds, the temperature in 0.01 degrees Celsius.
RULES: Final[Mapping[str, int]] = {
    "fever_threshold_cc": 3750,
    "passage_window_s": 600,
    "queue_window_s": 300,
    "seen_window_s": 600,
    "thermal_window_s": 10,
    "travel_s": 0,
    "two_lanes_s": 2,
    "visit_gap_s": 900,
}


class Area(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="area"):
    """A unit of the map: province, district, commune. number: what rows say; parent: a code.

    As in all records: valid_from_ms is the first instant at which it holds, 0 for "since ever";
    valid_to_ms the first at which it holds no longer, None for open.
    """

    number: Number
    code: Code
    name: Name
    parent: CodeOrNone = ""
    valid_from_ms: Instant = 0
    valid_to_ms: Instant | None = None


class Post(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="post"):
    """A checkpoint. lanes: how many control points it has, numbered from 1 (CP-3)."""

    number: Number
    code: Code
    name: Name
    road: Text = ""
    kind: PostKind = PostKind.ROAD
    lanes: Lane = 1
    area: CodeOrNone = ""
    valid_from_ms: Instant = 0
    valid_to_ms: Instant | None = None


class Road(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="road"):
    """Between two posts, the same both ways: nobody needs less than least_minutes. 0: no matter."""

    post: Code
    other: Code
    least_minutes: Annotated[int, Meta(ge=0, le=1440)]
    valid_from_ms: Instant = 0
    valid_to_ms: Instant | None = None


class Venue(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="venue"):
    """A place with a posted code.

    default_stay_minutes: 0 takes the category's. rooms: how many it tells apart. issue: issue
    number of its posted code; a code of another issue is revoked (VE-7).
    """

    number: Number
    name: Name
    category: Category
    area: CodeOrNone = ""
    address: Text = ""
    default_stay_minutes: Annotated[int, Meta(ge=0, le=1440)] = 0
    rooms: Annotated[int, Meta(ge=0, le=0xFFFF)] = 0
    issue: Annotated[int, Meta(ge=0, le=ISSUE_MAX)] = 1
    valid_from_ms: Instant = 0
    valid_to_ms: Instant | None = None


class Gateway(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="gateway"):
    """A program that may send scans.

    post: code of its post, "" for the back end of an app. lanes: the control points it serves, none
    for a back end. decode: who reads the codes in its camera frames. token_sha256: as in a grant.
    """

    number: Number
    name: Code
    post: CodeOrNone = ""
    lanes: tuple[Lane, ...] = ()
    decode: Literal["engine", "gateway"] = "engine"
    token_sha256: Digest = ""
    valid_from_ms: Instant = 0
    valid_to_ms: Instant | None = None


class Rule(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="rule"):
    """A dated value; its name stands in RULES."""

    name: Code
    value: Annotated[int, Meta(ge=0, le=1 << 40)]
    valid_from_ms: Instant = 0
    valid_to_ms: Instant | None = None


Change = Area | Post | Road | Venue | Gateway | Rule | Grant
Place = Post | Venue
Key = str | int

TYPES: Final[Mapping[str, type[Change]]] = {
    "area": Area,
    "post": Post,
    "road": Road,
    "venue": Venue,
    "gateway": Gateway,
    "rule": Rule,
    "grant": Grant,
}
_NAMES: Final = {cls: name for name, cls in TYPES.items()}
_decode_change = msgspec.msgpack.Decoder(Change).decode
_decode_batch = msgspec.msgpack.Decoder(list[Change]).decode


def change_to_key(change: Change) -> tuple[str, Key]:
    """("venue", 1001): the kind, and what names the thing for ever."""
    kind = _NAMES[type(change)]
    if isinstance(change, Area | Post):
        return kind, change.code
    if isinstance(change, Venue):
        return kind, change.number
    if isinstance(change, Road):
        return kind, " ".join(sorted((change.post, change.other)))
    return kind, change.name


def change_to_text(change: Change) -> str:
    """For messages: "venue 1001"."""
    return " ".join(map(str, change_to_key(change)))


def changes_to_record(changes: Sequence[Change]) -> tuple[str, bytes]:
    """(kind, body) of the control record that brings these changes, all together or none.

    One change is a record of its own kind ("registry.venue"), several are a "registry.batch".
    """
    if len(changes) == 1:
        return KIND_PREFIX + _NAMES[type(changes[0])], msgspec.msgpack.encode(changes[0])
    return BATCH_KIND, msgspec.msgpack.encode(list(changes))


def record_to_changes(kind: str, body: bytes) -> list[Change]:
    """Raises StoreVersion for a kind that a newer version wrote, JournalCorrupt for bad bytes."""
    name = kind.removeprefix(KIND_PREFIX)
    if kind != BATCH_KIND and name not in TYPES:
        raise StoreVersion(f"the control log holds a record of unknown kind {kind!r}")
    try:
        if kind == BATCH_KIND:
            return _decode_batch(body)
        change = _decode_change(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise JournalCorrupt(f"a record of kind {kind!r} is not readable") from None
    if type(change) is not TYPES[name]:
        raise JournalCorrupt(f"a record of kind {kind!r} holds another kind")
    return [change]
