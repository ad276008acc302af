"""Outcomes: what can become of the bytes of a code, as values.

The words (types, reasons, warnings, field names) are a closed vocabulary: docs/payloads.md. No
`repr` here shows what a code said, because reprs end up in logs and tracebacks.
"""

from __future__ import annotations

from typing import Any, Final, Literal, Protocol, TypeAlias

import msgspec

Verdict: TypeAlias = Literal["accept", "review"]
Sex: TypeAlias = Literal["M", "F"]
Group: TypeAlias = Literal["v", "t", "r"]  # vaccination, test, recovery
Signature: TypeAlias = Literal["valid", "unknown_key", "bad"]
Type: TypeAlias = Literal["vn.cccd", "vn.qr1405", "vn.bhyt", "dcc", "shc", "vdsnc", "manual"]
DocKind: TypeAlias = Literal["", "cccd", "cmnd", "passport"]
Reason: TypeAlias = Literal[
    "bad_encoding",
    "bad_signature",
    "bare_number",
    "contact_card",
    "empty",
    "foreign_health",
    "foreign_venue",
    "forged",
    "incomplete",
    "malformed",
    "malformed_id",
    "payment_qr",
    "phone_link",
    "revoked",
    "service_link",
    "too_long",
    "unknown",
    "unknown_url",
    "unsupported_context",
    "wifi",
]

# A person must look at a payload with one of these; it is kept all the same, because a person
# whom tracing misses costs more than one whom an officer checks.
REVIEW_WARNINGS: Final = frozenset(
    {"bad_dob", "control_chars", "id_sex_century_mismatch", "suspicious_name"}
)


class Refusal(msgspec.Struct, frozen=True):
    """A payload that is not taken. detail: a fixed sentence of ours, never text of the payload.

    is_lookalike: it imitates a code that we would take, so somebody should look where it hangs.
    """

    reason: Reason
    detail: str = ""
    is_lookalike: bool = False


class Parsed(msgspec.Struct, frozen=True, kw_only=True):
    """A person's card or health pass, or an officer's entry with the fields of one.

    Numbers are normalised, names NFC, phones E.164 and dates
    ISO 8601; None where the card does not say or what it says cannot be read (then warnings tell).

    doc_kind says what doc_no is: cccd (12 digits), cmnd (the old 9 digits), passport; of a masked
    number, what its length suggests. doc_suffix is what a masked number shows of itself. dob is a
    full date, birth_year may stand without it.
    proxy_qid is the QID of the one who declared for this person (DE-2).

    Of a health pass: issuer as it names itself (a country, or a URL), certificate_id of this
    certificate and not of its holder, group, health in a few words (`v 2/2 2021-11-20`), signature
    as far as we could check it, expired by its own words, None where it has none.
    """

    type: Type
    verdict: Verdict
    warnings: tuple[str, ...] = ()
    doc_kind: DocKind = ""
    doc_no: str | None = None
    doc_masked: bool = False
    doc_suffix: str | None = None
    old_doc_no: str | None = None
    country: str | None = None
    qid: str | None = None
    proxy: bool = False
    proxy_qid: str | None = None
    bhyt: str | None = None
    name_nfc: str = ""
    name_fold: str = ""
    dob: str | None = None
    dob_masked: bool = False
    birth_year: int | None = None
    sex: Sex | None = None
    phone: str | None = None
    phone_raw: str | None = None
    address: str | None = None
    issue_date: str | None = None
    issuer: str | None = None
    certificate_id: str | None = None
    group: Group | None = None
    health: str | None = None
    signature: Signature | None = None
    expired: bool | None = None

    def __repr__(self) -> str:
        return f"Parsed(type={self.type!r}, verdict={self.verdict!r}, warnings={self.warnings!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("type", self.type), ("verdict", self.verdict), ("warnings", self.warnings)]


class VenueCode(msgspec.Struct, frozen=True):
    """One of our own posted codes, readable but not yet proven.

    number: the venue's place number, u32. issue: counts reprints (VE-7). tag: 5 bytes that only the
    holder of the province's key can make or check (is_venue_tag). room: 0 for the whole venue.
    direction: engine.scans.rows.Direction, 0 where one code hangs for coming and going. key: number
    of the province's key that made the tag.
    """

    number: int
    issue: int
    tag: bytes
    host: str
    room: int = 0
    direction: int = 0
    key: int = 1
    version: int = 1


class VenueLink(msgspec.Struct, frozen=True):
    """A poster of the national service. Its layout is not public: the path stays an opaque id."""

    host: str
    opaque_id: str


class Chunk(msgspec.Struct, frozen=True):
    """One of several codes that are a card only together (engine.payloads.shc.join).

    index: from 1. text: its part of the card; nothing in it names anybody yet.
    """

    index: int
    total: int
    text: str

    def __repr__(self) -> str:
        return f"Chunk(index={self.index}, total={self.total})"


Outcome: TypeAlias = Parsed | VenueCode | VenueLink | Chunk | Refusal


class Signed(msgspec.Struct, frozen=True):
    """What a signature is to be checked by. data: the bytes that were signed.

    alg: ES256, PS256, ES384 or ES512. signature: r and s, of PS256 the number; VDS-NC also has DER.
    kid: names the key. issuer: whose key it must be, empty where the key alone says so. group: what
    the certificate is about, since a key may be for tests only. certificate: of the signer, DER,
    where the code brings it along.
    """

    alg: str
    kid: bytes
    data: bytes
    signature: bytes
    issuer: str = ""
    group: Group | None = None
    certificate: bytes = b""

    def __repr__(self) -> str:
        return f"Signed(alg={self.alg!r})"


class Trust(Protocol):
    """Whose signatures count (engine.ingest.trust)."""

    def check(self, signed: Signed, /) -> Signature: ...


class NoTrust:
    """Knows no key: every signature stays unchecked."""

    def check(self, signed: Signed, /) -> Signature:
        return "unknown_key"


class Reading:
    """The bytes of one code on their way through the issuers, and what was noticed so far.

    data: without byte order mark and outer blanks. fields: the text between
    `|`, filled in before a field issuer sees it. venue_host: lower case. today: ISO date, or empty
    when unknown. now_s: Unix time at which a certificate is checked, None when unknown.
    """

    __slots__ = ("data", "fields", "now_s", "today", "trust", "venue_host", "warnings")

    def __init__(
        self,
        data: bytes,
        warnings: list[str],
        venue_host: str,
        today: str,
        now_s: float | None,
        trust: Trust,
    ) -> None:
        self.data = data
        self.warnings = warnings
        self.venue_host = venue_host
        self.today = today
        self.now_s = now_s
        self.trust = trust
        self.fields: list[str] = []


class PrefixParser(Protocol):
    """Takes a code that its first bytes gave away."""

    def __call__(self, reading: Reading, /) -> Outcome: ...


class FieldIssuer(Protocol):
    """A module that knows one layout of fields parted by `|`."""

    def is_mine(self, fields: list[str], /) -> bool: ...

    def parse(self, reading: Reading, /) -> Outcome: ...


def warnings_to_verdict(warnings: list[str]) -> Verdict:
    return "accept" if REVIEW_WARNINGS.isdisjoint(warnings) else "review"
