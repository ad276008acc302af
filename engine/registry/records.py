"""Records of the registry: areas, units, posts, roads, venues and their codes, gateways, rules, and
their bytes.

Each says from when it holds and perhaps until when; what a set of them comes to is
engine.registry.registry.
"""

from __future__ import annotations

import enum
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from engine.errors import JournalCorrupt, StoreVersion
from engine.payloads import Outcome, VenueLink, parse
from engine.payloads.venue import ISSUE_MAX, KEY_MAX
from engine.registry.access import Grant, is_same_hash

# Above any instant a clock can show: "the newest record, whenever it begins".
LATEST_MS: Final = 1 << 62
KIND_PREFIX: Final = "registry."
BATCH_KIND: Final = "registry.batch"
_SHOWN_MAX: Final = 60

Number = Annotated[int, Meta(ge=1, le=0xFFFF_FFFF)]
Code = Annotated[str, Meta(pattern=r"^[0-9A-Za-z._-]{1,32}\Z")]
CodeOrNone = Annotated[str, Meta(pattern=r"^[0-9A-Za-z._-]{0,32}\Z")]
Name = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{1,120}\Z")]
Text = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{0,200}\Z")]
Digest = Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")]
Instant = Annotated[int, Meta(ge=0, le=LATEST_MS)]
Lane = Annotated[int, Meta(ge=1, le=0xFFFF)]
Room = Annotated[int, Meta(ge=0, le=0xFFFF)]
# "16.8163,107.1003": degrees north and east, WGS 84.
Location = Annotated[str, Meta(pattern=r"^(-?\d{1,2}(\.\d{1,6})?,-?\d{1,3}(\.\d{1,6})?)?\Z")]
# What a symbol holds; of codes of other issuers.
PayloadText = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{1,512}\Z")]
AreaKind = Literal["", "province", "district", "commune"]


class PostKind(enum.StrEnum):
    """Kinds of checkpoint (AC-12)."""

    ROAD = "road"
    BORDER = "border"
    PORT = "port"
    STATION = "station"


class Risk(enum.StrEnum):
    """Of a place, as its unit judges it (VE-5)."""

    UNKNOWN = ""
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


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
# A lodging's guest stays until noon of the next day and a passenger for the whole trip
# (engine.registry.default_stays): their minutes stand in where that cannot be applied.
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

    successor: code of the area that took it over when it ended, "" where several did or none.
    As in all records: valid_from_ms is the first instant at which it holds, 0 for "since ever";
    valid_to_ms the first at which it holds no longer, None for open.
    """

    number: Number
    code: Code
    name: Name
    parent: CodeOrNone = ""
    kind: AreaKind = ""
    successor: CodeOrNone = ""
    valid_from_ms: Instant = 0
    valid_to_ms: Instant | None = None


class Unit(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="unit"):
    """An office or organisation that answers for venues. area, parent, successor: codes, as in an
    area."""

    code: Code
    name: Name
    area: CodeOrNone = ""
    parent: CodeOrNone = ""
    successor: CodeOrNone = ""
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
    location: Location = ""
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
    number of its posted code; a code of another issue is revoked (VE-7), but one of the issue
    before it counts until old_valid_to_ms. is_revoked: no code of ours counts there. unit: code of
    who answers for it. hours: engine.presence.hours. created_by: who registered it, for people to
    read.
    """

    number: Number
    name: Name
    category: Category
    area: CodeOrNone = ""
    address: Text = ""
    default_stay_minutes: Annotated[int, Meta(ge=0, le=1440)] = 0
    rooms: Room = 0
    issue: Annotated[int, Meta(ge=0, le=ISSUE_MAX)] = 1
    old_valid_to_ms: Instant = 0
    is_revoked: bool = False
    unit: CodeOrNone = ""
    hours: Text = ""
    risk: Risk = Risk.UNKNOWN
    location: Location = ""
    created_by: Text = ""
    valid_from_ms: Instant = 0
    valid_to_ms: Instant | None = None


class PostedCode(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="code"):
    """A code of another issuer that hangs at a venue and stands for it (VE-8).

    text: what the symbol holds. room, direction: where the code says one room or door.
    """

    text: PayloadText
    venue: Number
    issuer: Text = ""
    room: Room = 0
    direction: Literal["", "in", "out"] = ""
    valid_from_ms: Instant = 0
    valid_to_ms: Instant | None = None


class VenueKey(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="venue_key"):
    """A key that tags venue codes. Key 1 is there from the beginning; the newest makes codes, an
    older one's codes count until it ends."""

    number: Annotated[int, Meta(ge=1, le=KEY_MAX)]
    valid_from_ms: Instant = 0
    valid_to_ms: Instant | None = None


class Census(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="census"):
    """How many places of a category there are in an area, registered or not (VE-3)."""

    area: Code
    category: Category
    count: Annotated[int, Meta(ge=0, le=10_000_000)]
    valid_from_ms: Instant = 0
    valid_to_ms: Instant | None = None


class Gateway(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="gateway"):
    """A program that may send scans.

    post: code of its post, "" for the back end of an app. lanes: the control points it serves, none
    for a back end. decode: who reads the codes in its camera frames. token_sha256: as in a grant;
    old_token_sha256 of the token before it, which opens until old_token_until_ms.
    """

    number: Number
    name: Code
    post: CodeOrNone = ""
    lanes: tuple[Lane, ...] = ()
    decode: Literal["engine", "gateway"] = "engine"
    token_sha256: Digest = ""
    valid_from_ms: Instant = 0
    valid_to_ms: Instant | None = None
    old_token_sha256: Digest = ""
    old_token_until_ms: Instant = 0

    def opens(self, token_sha256: str, at_ms: int) -> bool:
        """Whether a token with this digest is one of its own then."""
        if is_same_hash(self.token_sha256, token_sha256):
            return True
        return at_ms < self.old_token_until_ms and is_same_hash(self.old_token_sha256, token_sha256)


class Rule(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="rule"):
    """A dated value; its name stands in RULES."""

    name: Code
    value: Annotated[int, Meta(ge=0, le=1 << 40)]
    valid_from_ms: Instant = 0
    valid_to_ms: Instant | None = None


Change = Area | Unit | Post | Road | Venue | PostedCode | VenueKey | Census | Gateway | Rule | Grant
Place = Post | Venue
Key = str | int

TYPES: Final[Mapping[str, type[Change]]] = {
    "area": Area,
    "unit": Unit,
    "post": Post,
    "road": Road,
    "venue": Venue,
    "code": PostedCode,
    "venue_key": VenueKey,
    "census": Census,
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
    if isinstance(change, Area | Unit | Post):
        return kind, change.code
    if isinstance(change, Venue | VenueKey):
        return kind, change.number
    if isinstance(change, PostedCode):
        payload = change.text.encode()
        return kind, issuers_text(payload, parse(payload))
    if isinstance(change, Census):
        return kind, f"{change.area} {change.category}"
    if isinstance(change, Road):
        return kind, " ".join(sorted((change.post, change.other)))
    return kind, change.name


def change_to_text(change: Change) -> str:
    """For messages: "venue 1001"."""
    kind, key = change_to_key(change)
    return f"{kind} {str(key)[:_SHOWN_MAX]}"


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


def is_in_force(change: Change, at_ms: int) -> bool:
    began = change.valid_from_ms <= at_ms
    return began and (change.valid_to_ms is None or at_ms < change.valid_to_ms)


def fold(text: str) -> str:
    """Lower case without accents, for searching: "Chợ Hồ Xá" -> "cho ho xa"."""
    spread = unicodedata.normalize("NFD", text.casefold().replace("đ", "d"))
    return "".join(c for c in spread if not unicodedata.combining(c))


def issuers_text(payload: bytes, code: Outcome) -> str:
    """What names a code of another issuer: of a link that is known to be a poster, one spelling; of
    all else what the symbol holds. code: what the payload was parsed as."""
    if isinstance(code, VenueLink):
        return f"https://{code.host}/{code.opaque_id}"
    return unicodedata.normalize("NFC", payload.decode("utf-8", "replace").strip())
