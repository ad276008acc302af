"""Who may ask what: roles, the purpose of a question, and the record that is kept of it. Pure.

A token belongs to a grant; a grant has one role, one unit and, where it is not for the whole
province, one area. What a role may ask stands in one table. A question about persons needs a
purpose of disease control and the number of a case or notice (SEC-1, SEC-2), and every such
question leaves an AuditEntry in the control log before its answer leaves (SEC-4). There is no role
for criminal inquiries: such a request goes to the controller by another way.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from engine.errors import AccessDenied, JournalCorrupt, TokenInvalid

AUDIT_KIND: Final = "audit"
# Names the purpose of the seal, so that a list of persons opens as nothing else.
_AUDIT_AAD: Final = b"chot/audit/1\0"
_TOKEN_PREFIX: Final = "chot_"


class Role(enum.StrEnum):
    """The roles of a grant; what each may ask stands in ALLOWED."""

    TRACER = "tracer"  # disease control centre of the province (AC-2)
    CENTRE = "centre"  # district or regional health centre: its own area (AC-3)
    STATION = "station"  # commune health station: persons in its own area (AC-3)
    POLICE = "police"  # commune police: "declared or not" only, never a history (AC-4)
    VOLUNTEER = "volunteer"  # may see and register venues, never scans (AC-9)
    IOC = "ioc"  # monitoring centre: counts, no names (DF-4)
    AUDITOR = "auditor"  # data protection officer: oversight, persons' own requests, no tracing
    OPERATOR = "operator"  # keeps the system running, without access to names (AC-1)
    GATEWAY = "gateway"  # writes scans over CKP/1; asks nothing here


class Question(enum.StrEnum):
    """Kinds of question, as they stand in the table of roles and in the audit."""

    VENUE = "venue"
    PERSON = "person"
    CONTACTS = "contacts"
    NOTICE = "notice"
    TIERS = "tiers"
    PASSED = "passed"
    VEHICLE = "vehicle"
    ROLL = "roll"
    DETAILS = "details"
    ALERTS = "alerts"
    WATCH = "watch"
    MERGE = "merge"
    REVIEW = "review"
    HOLD = "hold"
    EXPORT = "export"
    ERASE = "erase"
    CORRECT = "correct"
    FIGURES = "figures"
    COUNTS = "counts"
    PLACES = "places"
    COVERAGE = "coverage"
    REGISTER = "register"
    WHOAMI = "whoami"


PERSONAL: Final = frozenset(
    {
        *(Question.VENUE, Question.PERSON, Question.CONTACTS, Question.NOTICE),
        *(Question.TIERS, Question.PASSED, Question.VEHICLE, Question.ROLL),
        *(Question.DETAILS, Question.ALERTS, Question.WATCH, Question.MERGE, Question.REVIEW),
        *(Question.HOLD, Question.EXPORT, Question.ERASE, Question.CORRECT),
    }
)
_OWN: Final = frozenset({Question.EXPORT, Question.ERASE})  # what a person may ask for
_TRACING: Final = PERSONAL - _OWN
_PUBLIC: Final = frozenset({Question.PLACES, Question.WHOAMI})
_COUNTS: Final = _PUBLIC | {Question.FIGURES, Question.COUNTS, Question.COVERAGE}
_VENUES: Final = frozenset({Question.COVERAGE, Question.REGISTER})

ALLOWED: Final[Mapping[Role, frozenset[Question]]] = {
    Role.TRACER: _COUNTS | _TRACING,
    Role.CENTRE: _COUNTS | _VENUES | _TRACING - {Question.HOLD, Question.CORRECT},
    Role.STATION: _COUNTS | _VENUES | {Question.PERSON, Question.DETAILS},
    Role.POLICE: _PUBLIC,
    Role.VOLUNTEER: _PUBLIC | _VENUES,
    Role.IOC: _COUNTS,
    Role.AUDITOR: _COUNTS | _OWN | {Question.HOLD},
    Role.OPERATOR: _COUNTS,
    Role.GATEWAY: frozenset(),
}
# These roles see their own area only; a grant of theirs without an area opens nothing.
AREA_BOUND: Final = frozenset({Role.CENTRE, Role.STATION})
# Full names and phones, instead of masked ones, for those who must call people.
UNMASKED: Final = frozenset({Role.TRACER, Role.CENTRE})


class Purpose(enum.StrEnum):
    """Why persons are looked at; disease control only (SEC-2), and their own rights."""

    CASE = "case"  # tracing around a confirmed or suspected case
    NOTICE = "notice"  # people at the places of an emergency notice (NO-1)
    REQUEST = "request"  # the person's own: what is held about them, or its erasure


# A case or notice number: "BN-1234", "16/TB-BYT". It stands in the audit for ever, so that what
# looks like a name, an ID card, passport or phone number is refused.
_CASE = re.compile(r"(?=.*[0-9])[0-9A-Za-zĐđ][0-9A-Za-zĐđ./_-]{1,39}")
_PERSONAL_NUMBER = re.compile(r".*\d{9}.*|[A-Za-z]\d{7,8}")
_PERSONAL_DIGITS = 9  # of a number that has no letter
_SEPARATORS = str.maketrans("", "", "./_-")


class Grant(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="grant"):
    """A person's or program's right to ask, bound to a unit and perhaps to an area.

    A dated record of the registry, hence its tag. token_sha256: hex digest of the bearer token; the
    token itself is stored nowhere. Empty while no token was handed out. valid_to_ms: first instant
    at which it no longer holds, None for open.
    """

    name: Annotated[str, Meta(pattern=r"^[0-9A-Za-z._-]{1,32}\Z")]
    role: Role
    unit: Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{1,120}\Z")]
    area: Annotated[str, Meta(pattern=r"^[0-9A-Za-z._-]{0,32}\Z")] = ""
    token_sha256: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")] = ""
    valid_from_ms: Annotated[int, Meta(ge=0, le=1 << 62)] = 0
    valid_to_ms: Annotated[int, Meta(ge=0, le=1 << 62)] | None = None


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One question about persons, as it stands in the control log (kind "audit").

    parameters: place numbers, instants, profile and the like, never an identifier. rows, persons:
    how many of each the answer shows. digest: SHA-256 hex of the encoded answer. sealed_persons:
    the person keys asked about and shown, 16 bytes each, sealed to the audit key, so that "who saw
    P?" can be answered by whoever holds its private half and by nobody else.
    outcome: "answered", or the code of the refusal.
    """

    who: str
    role: str
    unit: str
    purpose: str
    case: str
    question: str
    parameters: dict[str, str | int]
    rows: int = 0
    persons: int = 0
    digest: str = ""
    sealed_persons: bytes = b""
    is_unmasked: bool = False
    outcome: str = "answered"


_decode_entry = msgspec.msgpack.Decoder(AuditEntry).decode


def entry_to_body(entry: AuditEntry) -> bytes:
    """The body of the control record."""
    return msgspec.msgpack.encode(entry)


def body_to_entry(body: bytes) -> AuditEntry:
    """Raises JournalCorrupt."""
    try:
        return _decode_entry(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise JournalCorrupt("an audit record is not readable") from None


def persons_to_digest(persons: bytes) -> str:
    """SHA-256 hex of person keys, one behind the other."""
    return hashlib.sha256(persons).hexdigest()


def digest_to_aad(digest: str) -> bytes:
    """What the sealed list of persons is bound to: the answer it belongs to."""
    return _AUDIT_AAD + digest.encode()


def make_token() -> tuple[str, str]:
    """(token, SHA-256 hex): the first for its owner and shown once, the second for the registry."""
    token = _TOKEN_PREFIX + secrets.token_urlsafe(32)
    return token, token_to_hash(token)


def token_to_hash(token: str) -> str:
    """SHA-256 hex. Unsalted and fast on purpose: a token has 256 random bits, so nobody guesses."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def is_same_hash(left: str, right: str) -> bool:
    """Compares two hex digests in constant time; an empty one equals nothing."""
    same = hmac.compare_digest(left.encode("utf-8", "replace"), right.encode("utf-8", "replace"))
    return same and bool(left)


def is_case(case: str) -> bool:
    if not _CASE.fullmatch(case) or _PERSONAL_NUMBER.fullmatch(case):
        return False
    # 0912.345.678 is a phone as well.
    plain = case.translate(_SEPARATORS)
    return not (plain.isdigit() and len(plain) >= _PERSONAL_DIGITS)


def check_case(case: str) -> None:
    """Raises AccessDenied unless this can be the number of a case or notice."""
    if not case:
        raise AccessDenied(
            "a question about persons needs the number of a case or notice",
            hint='give it as "case", for example "BN-1234" or "16/TB-BYT"',
        )
    if not is_case(case):
        raise AccessDenied(
            "that is not the number of a case or notice",
            hint="2 to 40 letters, digits, dots, dashes, slashes; with a digit; never who it is",
        )


def purposes_of(question: Question) -> tuple[Purpose, ...]:
    """Why a question about persons may be asked."""
    if question in _OWN:
        return (Purpose.REQUEST,)
    return (Purpose.CASE, Purpose.NOTICE)


def check(
    grant: Grant | None,
    question: Question,
    *,
    purpose: str = "",
    case: str = "",
    is_unmasked: bool = False,
    now_ms: int,
) -> str:
    """The area that bounds the answer, "" for the whole province.

    Raises TokenInvalid (no grant, not yet or no longer valid) and AccessDenied.
    """
    if grant is None:
        raise TokenInvalid("this token is not known", hint="send Authorization: Bearer TOKEN")
    expired = grant.valid_to_ms is not None and now_ms >= grant.valid_to_ms
    if now_ms < grant.valid_from_ms or expired:
        raise TokenInvalid("this token is not valid at present")
    if question not in ALLOWED[grant.role]:
        raise AccessDenied(f"role {grant.role} may not ask for {question}")
    if grant.role in AREA_BOUND and not grant.area:
        raise AccessDenied(f"role {grant.role} needs an area, this grant has none")
    if question in PERSONAL:
        fitting = purposes_of(question)
        if purpose not in fitting:
            raise AccessDenied(
                "a question about persons needs a purpose", hint=f"one of: {', '.join(fitting)}"
            )
        check_case(case)
        if is_unmasked and grant.role not in UNMASKED:
            raise AccessDenied(f"role {grant.role} sees masked names only")
    return grant.area
