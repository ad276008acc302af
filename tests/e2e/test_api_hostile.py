"""The HTTP API under bad input, and what of it must never be written down."""

from __future__ import annotations

import gzip
import json
import logging
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.api.http_shape import BODY_SIZE_MAX
from engine.client import api_client as client
from engine.errors import EngineError
from engine.registry import access
from tests.reference.stand import (
    BINH,
    BODIES,
    EVERYBODY,
    HOA,
    TRACER,
    Stand,
    check_shape,
    send,
    trace,
)


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    with Stand() as made:
        yield made


# ---- what does not fit --------------------------------------------------------------------------

BAD_BODIES: list[tuple[bytes, int]] = [
    (b"", 400),
    (b"{", 400),
    (b"[]", 400),
    (b"\xff\xfe", 400),
    (b"[" * 50_000, 400),
    (b"1e999", 400),
    (json.dumps({**BODIES["venue"], "unmaskd": True}).encode(), 400),
    (json.dumps({**BODIES["venue"], "limit": 0}).encode(), 400),
    (json.dumps({**BODIES["venue"], "limit": 10_001}).encode(), 400),
    (json.dumps({**BODIES["venue"], "place": -1}).encode(), 422),
    (json.dumps({**BODIES["venue"], "place": "x" * 1000}).encode(), 400),
    (json.dumps({**BODIES["venue"], "case": "x" * 1000}).encode(), 400),
    (gzip.compress(json.dumps(BODIES["venue"]).encode()), 400),
    (b"x" * (BODY_SIZE_MAX + 1), 413),
]


@pytest.mark.parametrize(("body", "status"), BAD_BODIES, ids=range(len(BAD_BODIES)))
def test_bad_bodies_fail_in_the_one_shape(stand: Stand, body: bytes, status: int) -> None:
    encoding = {"Content-Encoding": "gzip"} if body[:2] == b"\x1f\x8b" else {}
    got, headers, data = send(stand, "POST", "/v1/trace/venue", body, encoding)
    assert got == status, data
    check_shape(data)
    assert headers["Content-Type"].startswith("application/json")
    assert headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "http.not_found"),
        ("GET", "/v1/trace/venue", 405, "http.method"),
        ("HEAD", "/v1/figures", 405, "http.method"),
        ("DELETE", "/healthz", 405, "http.method"),
        ("POST", f"/v1/trace/person?cccd={BINH.number}", 400, "http.body"),
        ("GET", "/v1/venues?name=x", 400, "http.body"),
        ("GET", "/v1/venues?search=a&search=b", 400, "http.body"),
        ("GET", "/v1/venues?limit=x", 422, "question.invalid"),
        ("GET", "/v1/figures", 422, "question.invalid"),
        ("GET", "/v1/figures?day=1969-12-31", 422, "question.invalid"),
        ("GET", "/v1/figures?day=9999-12-31", 422, "question.invalid"),
        ("GET", "/../etc/passwd", 404, "http.not_found"),
    ],
)
def test_bad_addresses_fail_in_the_one_shape(
    stand: Stand, method: str, path: str, status: int, code: str
) -> None:
    got, _, data = send(stand, method, path)
    assert got == status, data
    if method != "HEAD":
        assert check_shape(data) == code


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02 nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/trace/venue HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 10 + b"Bad header\r\n\r\n",
    ],
    ids=range(5),
)
def test_what_is_no_http_fails_in_the_one_shape(stand: Stand, data: bytes) -> None:
    host, port = stand.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(data)
        received = b""
        while chunk := sock.recv(65536):
            received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400")), head
    assert check_shape(body) == "http.body"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=5,
)


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.sampled_from(list(BODIES)),
    st.dictionaries(
        st.sampled_from(
            ["purpose", "case", "from", "to", "limit", "unmasked", "place", "person", "x"]
        ),
        JSON,
        max_size=4,
    ),
    st.binary(max_size=6),
)
def test_any_body_is_answered_or_refused_in_the_one_shape(
    stand: Stand, question: str, changes: dict[str, Any], junk: bytes
) -> None:
    for body in (json.dumps(BODIES[question] | changes).encode(), junk):
        status, _, data = send(stand, "POST", f"/v1/trace/{question}", body)
        assert status == 200 or 400 <= status < 500, data
        if status != 200:
            check_shape(data)


# ---- nothing personal where it does not belong --------------------------------------------------


def test_nothing_personal_is_logged_counted_or_put_in_addresses(
    stand: Stand, caplog: pytest.LogCaptureFixture
) -> None:
    chot = logging.getLogger("chot")
    propagates, chot.propagate = chot.propagate, True
    token = stand.tokens[TRACER]
    planted = [token, access.token_to_hash(token), "BN-1234"]
    for person in EVERYBODY:
        planted += [person.number, person.name, person.phone, person.phone[3:], person.address]
        planted += [stand.key(person).hex(), str(stand.key(person))]
    try:
        with caplog.at_level(logging.DEBUG):
            for question in BODIES:
                # A roll says who of a list was seen, and no more of them than was asked.
                trace(stand, question, **({} if question == "roll" else {"unmasked": True}))
                send(stand, "POST", f"/v1/trace/{question}?cccd={BINH.number}", b"{}")
                send(stand, "POST", f"/v1/trace/{question}", BINH.number.encode())
            send(stand, "GET", f"/v1/persons/{BINH.number}")
            send(stand, "GET", f"/{BINH.number}", headers={"X-Person": BINH.number})
            with socket.create_connection(("127.0.0.1", int(stand.url.split(":")[2]))) as sock:
                sock.sendall(f"{BINH.number} {HOA.number}\r\n\r\n".encode())
                sock.recv(4096)
            for bad in (
                {"person": {"kind": BINH.number, "value": HOA.number}},
                {"case": BINH.number},
            ):
                with pytest.raises(EngineError) as caught:
                    trace(stand, "person", **bad)
                assert BINH.number not in repr(caught.value), caught.value
    finally:
        chot.propagate = propagates
    assert "route=/v1/trace/contacts" in caplog.text and "route=unknown" in caplog.text
    text = client.get_text(stand.url + "/metrics")
    for secret in planted:
        assert secret not in caplog.text
        assert secret not in text
