"""POST /v1/ingest on real processes: a key is stored once and answered alike, whatever dies."""

from __future__ import annotations

import base64
import http.client
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from engine.api.http_shape import BODY_TIMEOUT_S
from engine.cli.story import Person
from engine.errors import WireReplaced
from engine.wire import frames as wire
from tests.e2e.rig import (
    BACK_END,
    KEPT_FOR_EVER,
    WAIT_S,
    EngineProcess,
    RawLink,
    enrolment,
    fresh_person,
    person_scan,
    read_store,
    run_chot,
    scans,
)

LANE = "vl-1a-1"
MARKET = 1013


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[EngineProcess]:
    with EngineProcess(enrolment().copy_to(tmp_path), settings=dict(KEPT_FOR_EVER)) as started:
        yield started


def post(
    engine: EngineProcess,
    key: str,
    body: Any,
    *,
    token: str = "",
    timeout_s: float = WAIT_S,
) -> tuple[int, dict[str, Any], str]:
    """(status, answer, Idempotency-Replayed). Raises OSError or HTTPException as links do."""
    name = key.partition(":")[0].strip('"')
    known = name in enrolment().gateways
    token = token or (enrolment().gateway_token(name) if known else "nobody")
    connection = http.client.HTTPConnection(urlsplit(engine.api).netloc, timeout=timeout_s)
    try:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": key}
        connection.request("POST", "/v1/ingest", body=data, headers=headers)
        response = connection.getresponse()
        replayed = response.headers.get("Idempotency-Replayed", "")
        return response.status, json.loads(response.read()), replayed
    finally:
        connection.close()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def checkin(person: Person, at_ms: int | None = None) -> dict[str, Any]:
    who = {"kind": "cccd", "value": person.cccd}
    return {"kind": "checkin", "ts_ms": at_ms or now_ms(), "who": who, "venue": MARKET}


def scan(person: Person, at_ms: int, lane: int = 1) -> dict[str, Any]:
    code = base64.b64encode(person.payload.encode()).decode()
    return {"kind": "scan", "ts_ms": at_ms, "lane": lane, "payload_b64": code}


def code_of(found: tuple[int, dict[str, Any], str]) -> tuple[int, str]:
    return found[0], found[1]["error"]["code"]


def test_a_key_is_stored_once_and_answered_alike(engine: EngineProcess) -> None:
    anh, binh, at_ms = fresh_person(), fresh_person(), now_ms() - 60_000
    wifi = {"kind": "scan", "ts_ms": at_ms, "lane": 1, "payload": "WIFI:S:x;T:WPA;P:y;;"}
    ahead = scan(binh, at_ms + 10**9)
    first = {"records": [scan(anh, at_ms), wifi, ahead, scan(anh, at_ms + 30_000)]}
    taken = post(engine, f"{LANE}:77:1", first)
    assert (taken[0], taken[2]) == (200, "false")
    answer = taken[1]
    assert answer["key"] == f"{LANE}:77:1"
    lights = [(v["n"], v["lane"], v["verdict"], v["reason"]) for v in answer["verdicts"]]
    assert lights == [
        (0, 1, "accepted", ""), (1, 1, "refused", "wifi"), (3, 1, "seen", "")
    ]  # fmt: skip
    assert [(f["n"], f["code"]) for f in answer["faults"]] == [(2, "wire.clock")]
    assert anh.cccd not in json.dumps(answer) and anh.name not in json.dumps(answer)

    copy = {"records": [scan(anh, at_ms + 31_000, lane=1)]}
    assert post(engine, f"{LANE}:77:2", copy)[1]["verdicts"][0]["verdict"] == "seen"
    with ThreadPoolExecutor(8) as pool:
        again = list(pool.map(lambda _: post(engine, f'"{LANE}:77:1"', first), range(16)))
    assert [found[:2] for found in again] == [(200, answer)] * 16
    assert {found[2] for found in again} == {"true"}

    # Sixteen at once that are all new: one is taken, all get its receipt.
    third = {"records": [checkin(binh)]}
    with ThreadPoolExecutor(16) as pool:
        at_once = list(pool.map(lambda _: post(engine, f"{BACK_END}:5:1", third), range(16)))
    assert {found[0] for found in at_once} == {200}
    assert Counter(found[2] for found in at_once) == {"false": 1, "true": 15}

    engine.kill()
    engine.start()
    after = post(engine, f"{LANE}:77:1", first)
    assert after == (200, answer, "true"), "the same answer after kill -9"
    assert post(engine, f"{LANE}:77:3", {"records": []})[0] == 200, "nothing consumes a number"
    assert post(engine, f"{LANE}:77:4", {"records": [scan(binh, at_ms, 1)]})[0] == 200
    assert engine.stop() == 0

    stored = read_store(engine.data)
    assert len(stored.rows) == 5
    lanes = [row for row in stored.rows if row["place"] != MARKET]
    assert Counter(row["time_ms"] - at_ms for row in lanes) == {0: 2, 30_000: 1, 31_000: 1}
    assert run_chot("verify", str(engine.data)).returncode == 0


def test_what_cannot_be_taken_says_why_and_consumes_nothing(engine: EngineProcess) -> None:
    anh, at_ms = fresh_person(), now_ms()
    good = {"records": [checkin(anh, at_ms)]}
    key = f"{BACK_END}:9:1"
    assert code_of(post(engine, f"{BACK_END}:9:2", good)) == (400, "wire.gap")
    assert code_of(post(engine, key, good, token="chot_" + "a" * 40)) == (401, "wire.auth")
    # The token of another gateway opens this one no more than a wrong one.
    other = enrolment().gateway_token(LANE)
    assert code_of(post(engine, key, good, token=other)) == (401, "wire.auth")
    assert code_of(post(engine, "nobody:9:1", good)) == (403, "wire.unknown_gateway")
    tracer = post(engine, key, good, token=enrolment().token)
    assert code_of(tracer) == (401, "wire.auth")
    for wrong in (
        "",
        "x",
        f"{BACK_END}:9",
        f"{BACK_END}:9:0",
        f"{BACK_END}:-1:1",
        f"{BACK_END}:9:{2**64}",
        f"{BACK_END}:{2**64}:1",
        "a b:9:1",
    ):
        assert code_of(post(engine, wrong, good, token=other)) == (400, "http.body"), wrong
    bad: list[tuple[Any, int, str]] = [
        (b"{", 400, "http.body"),
        ({}, 400, "http.body"),
        ({"records": [{"kind": "scan"}]}, 400, "http.body"),
        ({"records": [checkin(anh), {"kind": "robbery"}]}, 400, "http.body"),
        ({"records": [checkin(anh), {**checkin(anh), "who": {"kind": "phone", "value": "1"}}]},
         400, "source.line"),
        ({"records": [{**scan(anh, at_ms), "payload_b64": "***"}]}, 400, "source.line"),
        ({"records": [checkin(anh)] * 257}, 400, "http.body"),
        (b'{"records": [' + b" " * 70_000 + b"]}", 413, "http.too_large"),
    ]  # fmt: skip
    for body, status, code in bad:
        found = post(engine, key, body)
        assert code_of(found) == (status, code), body
        assert anh.cccd not in json.dumps(found[1])
    assert post(engine, key, good)[0] == 200, "the number was free all the time"
    other_body = {"records": [checkin(fresh_person(), at_ms)]}
    assert code_of(post(engine, key, other_body)) == (409, "ingest.key_reused")
    assert engine.metric("chot_journal_rows") == 1
    log = engine.log_text()
    assert anh.cccd not in log and "Traceback" not in log


def test_nothing_is_lost_or_doubled_while_the_engine_dies(engine: EngineProcess) -> None:
    """Four clients, each with an epoch of its own, repeat until they have a receipt."""
    receipts: Counter[tuple[int, int]] = Counter()
    repeats = Counter[str]()
    people = [[[fresh_person() for _ in range(3)] for _ in range(30)] for _ in range(4)]
    ending = threading.Event()

    def client(epoch: int) -> None:
        draw = random.Random(epoch)
        for seq, group in enumerate(people[epoch], 1):
            body = {"records": [checkin(person) for person in group]}
            while not ending.is_set():
                try:
                    status, answer, replayed = post(engine, f"{BACK_END}:{epoch}:{seq}", body)
                except (OSError, http.client.HTTPException, ValueError):
                    time.sleep(0.02)
                    continue
                if status == 200:
                    receipts[epoch, seq] += 1
                    repeats[replayed] += 1
                    if draw.random() < 0.2:  # its answer was lost on the way: asks again
                        continue
                    break
                assert status in (503, 507), answer
                time.sleep(0.02)

    threads = [threading.Thread(target=client, args=(epoch,)) for epoch in range(4)]
    for thread in threads:
        thread.start()
    try:
        for share in (0.25, 0.5, 0.75):
            end_s = time.monotonic() + WAIT_S
            while len(receipts) < share * 120 and time.monotonic() < end_s:
                time.sleep(0.01)
            engine.kill()
            engine.start()
        for thread in threads:
            thread.join(WAIT_S)
    finally:
        ending.set()
    assert len(receipts) == 120 and repeats["true"] > 0
    assert engine.stop() == 0
    stored = read_store(engine.data)
    found = Counter(row["person"].tobytes() for row in stored.rows)
    assert len(stored.rows) == len(found) == 360 and np.all(stored.rows["place"] == MARKET)
    assert run_chot("verify", str(engine.data)).returncode == 0


def test_a_body_on_its_way_when_the_engine_goes_is_to_be_sent_again(engine: EngineProcess) -> None:
    """The API of a killed engine ends as well, and reads no more: nobody waits for a timeout."""
    head = (
        "POST /v1/ingest HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
        f"Authorization: Bearer {enrolment().gateway_token(BACK_END)}\r\n"
        f"Idempotency-Key: {BACK_END}:1:1\r\n\r\n"
    )
    address = urlsplit(engine.api)
    with socket.create_connection((address.hostname, address.port), WAIT_S) as link:
        link.sendall(head.encode())
        time.sleep(0.2)
        begun_s = time.monotonic()
        engine.kill()
        answer = link.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 503 ") and b'"engine.unreachable"' in answer
    assert time.monotonic() - begun_s < BODY_TIMEOUT_S


def test_a_full_store_gives_no_receipt_and_takes_the_key_later(tmp_path: Path) -> None:
    data = enrolment().copy_to(tmp_path)
    anh, key = fresh_person(), f"{BACK_END}:3:1"
    body = {"records": [checkin(anh)]}
    with EngineProcess(data, settings=KEPT_FOR_EVER | {"free_space_min": 1 << 60}) as full:
        for _ in range(2):
            status, answer, _ = post(full, key, body)
            assert (status, answer["error"]["code"]) == (507, "wire.store_full")
        assert full.stop() == 0
    with EngineProcess(data, settings=dict(KEPT_FOR_EVER)) as engine:
        assert post(engine, key, body)[::2] == (200, "false")
        assert post(engine, key, body)[::2] == (200, "true")
        assert engine.stop() == 0
    assert len(read_store(data).rows) == 1


def test_links_and_requests_of_one_epoch_replace_each_other(engine: EngineProcess) -> None:
    """Both are senders of the same numbers; none of them is taken twice."""
    anh, binh, cuong = fresh_person(), fresh_person(), fresh_person()
    with RawLink(engine.port) as link:
        assert isinstance(link.hello(LANE, epoch=21), wire.Welcome)
        link.send(scans(1, person_scan(anh)))
        link.settled(0, 1)
        assert post(engine, f"{LANE}:21:2", {"records": [scan(binh, now_ms())]})[0] == 200
        assert link.error_code() == WireReplaced.wire
    with RawLink(engine.port) as link:
        welcome = link.hello(LANE, epoch=21, next=(3, 1))
        assert isinstance(welcome, wire.Welcome) and welcome.acked[0] == 2
        link.send(scans(3, person_scan(cuong)))
        link.settled(0, 3)
    assert post(engine, f"{LANE}:21:3", {"records": []})[2] == "true"
    assert code_of(post(engine, f"{LANE}:21:5", {"records": []})) == (400, "wire.gap")
    assert engine.metric("chot_journal_rows") == 3
