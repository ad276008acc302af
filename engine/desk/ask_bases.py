"""What questions have in common: whom they name, and what every one of them carries."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Instant = Annotated[int, Meta(ge=-(1 << 60), le=1 << 60)]
Token = Annotated[str, Meta(min_length=1, max_length=256)]
Word = Annotated[str, Meta(max_length=64)]


class PersonRef(msgspec.Struct, frozen=True):
    """A person as a document names them, or by the handle that an answer gave.

    issuer: country of a passport (three letters); of a health pass its issuer, as the pass has it:
    a country or an address. value: the number; of a pass its holder's name, and birth theirs.
    """

    kind: Literal["qid", "cccd", "passport", "bhyt", "pass", "certificate", "handle"]
    value: Annotated[str, Meta(min_length=1, max_length=256)]
    issuer: Annotated[str, Meta(max_length=256)] = ""
    birth: Annotated[str, Meta(max_length=10)] = ""


class Ask(msgspec.Struct, frozen=True, kw_only=True, tag_field="ask"):
    """What every question of a token's owner carries.

    The token itself and not its hash, which the registry holds: knowing that must open nothing.
    """

    token: Token


class AskCase(Ask, frozen=True, kw_only=True):
    """What everything about persons carries: why, and for which case."""

    purpose: Word
    case: Word


class AskRows(AskCase, frozen=True, kw_only=True):
    """What every question about persons carries besides: how many rows, whether masked."""

    limit: Annotated[int, Meta(ge=1)]
    is_unmasked: bool = False


class AskPersons(AskRows, frozen=True, kw_only=True):
    """Those about one span."""

    from_ms: Instant
    to_ms: Instant


# Number of a venue or post, or a post's code.
PlaceRef = Annotated[int, Meta(ge=1, le=0xFFFF_FFFF)] | Annotated[str, Meta(max_length=32)]


# Where the rows of an earlier answer ended (engine.tracing.pages).
After = Annotated[str, Meta(max_length=64)]
