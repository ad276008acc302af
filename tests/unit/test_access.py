"""Roles, purposes and the audit record."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import AccessDenied, JournalCorrupt, TokenInvalid
from engine.registry import access
from engine.registry.access import AuditEntry, Grant, Purpose, Question, Role

NOW_MS = 1_625_097_600_000

# Written out a second time, by hand, so that a slip in the table of roles is seen here.
TRACING = "venue person contacts notice tiers passed vehicle roll details alerts watch merge review"
MAY = {
    "tracer": f"{TRACING} hold correct figures counts places whoami coverage",
    "centre": f"{TRACING} figures counts places whoami coverage register",
    "station": "person details figures counts places whoami coverage register",
    "police": "places whoami",
    "volunteer": "places whoami coverage register",
    "ioc": "figures counts places whoami coverage",
    "auditor": "figures counts places whoami coverage hold export erase",
    "operator": "figures counts places whoami coverage",
    "gateway": "",
}


def make_grant(role: str, area: str = "QT-VL", **fields: object) -> Grant:
    values: dict[str, Any] = {"name": "x", "role": Role(role), "unit": "Đơn vị", "area": area}
    return Grant(**values | fields)


def check(grant: Grant | None, question: str, **fields: object) -> str:
    values: dict[str, Any] = {"purpose": "case", "case": "BN-1234", "now_ms": NOW_MS}
    return access.check(grant, Question(question), **values | fields)


@pytest.mark.parametrize(
    ("role", "question"), list(itertools.product(Role, Question)), ids=lambda v: str(v)
)
def test_every_role_may_ask_what_the_table_says_and_nothing_else(
    role: Role, question: Question
) -> None:
    assert set(MAY) == set(Role)
    purpose = "request" if question in ("export", "erase") else "case"
    if question in MAY[role].split():
        assert check(make_grant(role), question, purpose=purpose) == "QT-VL"
    else:
        with pytest.raises(AccessDenied):
            check(make_grant(role), question, purpose=purpose)


def test_an_unknown_token_opens_nothing() -> None:
    for question in Question:
        with pytest.raises(TokenInvalid):
            check(None, question)


def test_a_grant_holds_from_its_first_instant_until_its_last() -> None:
    grant = make_grant("tracer", valid_from_ms=NOW_MS, valid_to_ms=NOW_MS + 10)
    assert check(grant, "venue", now_ms=NOW_MS) == "QT-VL"
    assert check(grant, "venue", now_ms=NOW_MS + 9) == "QT-VL"
    for outside in (NOW_MS - 1, NOW_MS + 10):
        with pytest.raises(TokenInvalid):
            check(grant, "venue", now_ms=outside)


@pytest.mark.parametrize("role", ["centre", "station"])
def test_a_role_of_an_area_without_one_sees_nothing(role: str) -> None:
    with pytest.raises(AccessDenied):
        check(make_grant(role, area=""), "person")


def test_persons_need_a_purpose_of_disease_control() -> None:
    for purpose in (Purpose.CASE, Purpose.NOTICE):
        check(make_grant("tracer"), "person", purpose=purpose)
    for purpose in ("", "criminal", "CASE", "curiosity", "request"):
        with pytest.raises(AccessDenied):
            check(make_grant("tracer"), "person", purpose=purpose)
    check(make_grant("auditor"), "erase", purpose="request")
    for purpose in ("", "case", "notice"):
        with pytest.raises(AccessDenied):
            check(make_grant("auditor"), "erase", purpose=purpose)


@pytest.mark.parametrize("case", ["BN-1234", "16/TB-BYT", "2717/UBND-VX1", "QĐ.5053"])
def test_numbers_of_cases_and_notices(case: str) -> None:
    access.check_case(case)


@pytest.mark.parametrize(
    "case",
    [
        "",
        "x",
        "045199999123",
        "0912999123",
        "B1299912",
        "GD4797999999123",
        "0912.999.123",
        "045199-999123",
        "Nguyen.Van.A",
        "BN-079199999123",
        "a b",
        "-x",
        "BN-1\n",
        "'; --",
    ],
)
def test_what_looks_like_a_document_number_is_no_case(case: str) -> None:
    with pytest.raises(AccessDenied) as caught:
        check(make_grant("tracer"), "person", case=case)
    assert len(case) < 3 or case not in str(caught.value)


def test_a_case_number_has_an_end() -> None:
    access.check_case("1" + "x" * 39)
    with pytest.raises(AccessDenied):
        access.check_case("1" + "x" * 40)


def test_counts_and_places_need_no_case() -> None:
    for question in ("figures", "places", "whoami"):
        check(make_grant("ioc"), question, purpose="", case="")


@pytest.mark.parametrize(("role", "may"), [("tracer", True), ("centre", True), ("station", False)])
def test_full_names_are_for_those_who_call_people(role: str, may: bool) -> None:
    if may:
        check(make_grant(role), "person", is_unmasked=True)
        return
    with pytest.raises(AccessDenied):
        check(make_grant(role), "person", is_unmasked=True)


def test_a_token_is_random_and_only_its_hash_is_kept() -> None:
    token, digest = access.make_token()
    assert digest == hashlib.sha256(token.encode()).hexdigest() == access.token_to_hash(token)
    assert access.make_token()[0] != token
    assert len(token) > 40 and token not in digest


def test_an_empty_hash_equals_nothing() -> None:
    digest = access.token_to_hash("a")
    assert access.is_same_hash(digest, digest)
    assert not access.is_same_hash("", "")
    assert not access.is_same_hash(digest, "")
    assert not access.is_same_hash(digest, access.token_to_hash("b"))
    assert not access.is_same_hash(digest, "é" * 64)


@given(st.text())
def test_any_text_has_a_hash(token: str) -> None:
    assert len(access.token_to_hash(token)) == 64


def test_an_audit_entry_comes_back_as_it_was() -> None:
    entry = AuditEntry(
        who="cdc",
        role="tracer",
        unit="CDC",
        purpose="case",
        case="BN-1",
        question="venue",
        parameters={"place": 1013},
        rows=3,
        persons=2,
        digest="00" * 32,
        sealed_persons=b"\x01\x02",
    )
    assert access.body_to_entry(access.entry_to_body(entry)) == entry


@given(st.binary(max_size=60))
def test_any_bytes_are_an_entry_or_corrupt(body: bytes) -> None:
    with contextlib.suppress(JournalCorrupt):
        access.body_to_entry(body)
