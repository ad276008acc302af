"""Answers: an outcome as the JSON object that `chot parse` prints."""

from __future__ import annotations

from typing import Any, Final

from engine.payloads.outcome import (
    Chunk,
    Outcome,
    Refusal,
    Type,
    VenueCode,
    VenueLink,
)
from engine.payloads.venue import venue_code_to_text

_NAME: Final = ("name_nfc", "name_fold")
_PASS: Final = (*_NAME, "dob", "birth_year", "issuer", "group", "health", "signature", "expired")

# Fields of each type, in the order in which they are printed.
FIELDS: Final[dict[Type, tuple[str, ...]]] = {
    "vn.cccd": (
        "doc_no", "old_doc_no", *_NAME, "dob", "sex", "address", "issue_date",
    ),
    "vn.qr1405": (
        "doc_no", "doc_masked", "doc_suffix", *_NAME, "dob", "dob_masked", "birth_year", "proxy",
        "qid", "proxy_qid", "sex", "bhyt", "phone", "phone_raw",
    ),
    "vn.bhyt": ("bhyt", *_NAME, "dob", "birth_year", "sex", "address", "expired"),
    "dcc": _PASS,
    "shc": (*_PASS, "certificate_id"),
    "vdsnc": ("doc_no", "sex", "certificate_id", *_PASS),
}  # fmt: skip


def outcome_to_json(outcome: Outcome) -> dict[str, Any]:
    """Verdict, type, reason, warnings and the fields of the type, in full; a refusal has a detail.

    A venue code is taken at its word: whoever has the key asks is_venue_tag before.
    """
    if isinstance(outcome, Refusal):
        answer = _answer("reject", None, [], {})
        return {**answer, "reason": outcome.reason, "detail": outcome.detail}
    if isinstance(outcome, VenueCode):
        text = venue_code_to_text(outcome)
        where: dict[str, Any] = {"host": outcome.host, "opaque_id": text.rpartition("/")[2]}
        if outcome.room:
            where["room"] = outcome.room
        if outcome.direction:
            where["direction"] = "in" if outcome.direction == 1 else "out"
        return _answer("accept", "venue", [], where)
    if isinstance(outcome, VenueLink):
        fields = {"host": outcome.host, "opaque_id": outcome.opaque_id}
        return _answer("accept", "venue.url", ["unverified_layout"], fields)
    if isinstance(outcome, Chunk):
        return _answer("review", "shc", [f"chunk_{outcome.index}_of_{outcome.total}"], {})
    person = {name: getattr(outcome, name) for name in FIELDS[outcome.type]}
    if outcome.type == "dcc":
        person["uvci"] = outcome.certificate_id
    return _answer(outcome.verdict, outcome.type, list(outcome.warnings), person)


def _answer(
    verdict: str, kind: str | None, warnings: list[str], fields: dict[str, Any]
) -> dict[str, Any]:
    return {"verdict": verdict, "type": kind, "reason": None, "warnings": warnings, **fields}
