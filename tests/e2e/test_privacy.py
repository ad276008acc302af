"""Invented people through every door, good and hostile; then everything written is searched.

One engine with its API takes them over CKP/1, from a gateway's records file, in HTTP bodies, paths
and headers, on the Unix socket and from the command line. Nothing of them may stand in the store,
the spool, logs, metrics, file names, refusals or what commands say on stderr.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from engine.client.admin import SOCKET_NAME
from engine.clock import SystemClock, ms_to_iso
from engine.desk.questions import key_to_handle
from engine.identity.keys import FileKeyRing
from engine.scans.records import Credential, encode_checkin, encode_manual, encode_scan
from engine.scans.rows import Direction
from engine.wire import frames as wire
from tests.e2e.rig import BACK_END, Job, RawLink, enrolment, hello, job, scans
from tests.reference.pass_maker import (
    BUNDLE,
    HEALTH,
    SEAL,
    SHOT,
    make_certificate,
    make_hc1,
    make_jws,
    make_seal,
    to_der,
    to_digits,
    to_kid,
)

NAME, ADDRESS = "Nguyễn Thị Vô Danh", "Ngõ Không Tên 17, xã Chưa Có"
CCCD, OLD_ID, PASSPORT, PHONE = "045190999717", "197999717", "B7999717", "0912999717"
PLATE, SEAT, OFFICER, WHY = "74B-99717", "SEAT717", "Trung uý Không Ai", "quên giấy tờ 717"
CARD = f"{CCCD}|{OLD_ID}|{NAME}|17051990|Nữ|{ADDRESS}|01012021"
FOLDED, UVCI, SHOT_DAY = "NGUYEN THI VO DANH", "URN:UVCI:01:VN:TEST999717", "2021-11-17"
WORDS = (NAME, ADDRESS, CCCD, OLD_ID, PASSPORT, PHONE, PHONE[1:], PLATE, SEAT, OFFICER, WHY)
WORDS += (FOLDED, UVCI, SHOT_DAY)
KEY = ec.generate_private_key(ec.SECP256R1())
DER = to_der(make_certificate(KEY))
SHOT_717 = {**SHOT, "dt": SHOT_DAY, "ci": UVCI}
NAMES = {"fn": NAME, "fnt": FOLDED.replace(" ", "<")}
HOLDS = {**HEALTH, "nam": NAMES, "dob": "1990-05-17", "v": [SHOT_717]}
HC1 = make_hc1(KEY, to_kid(DER), HOLDS)
PATIENT = {"resourceType": "Patient", "name": [{"text": NAME}], "birthDate": "1990-05-17"}
JWS = make_jws(KEY, "no such", {**BUNDLE, "entry": [{"resource": PATIENT}]})
SHC = to_digits(JWS)
THIRD = -(-len(JWS) // 3)
PARTS = [to_digits(JWS[i * THIRD :][:THIRD], f"{i + 1}/3/") for i in range(3)]
PID = {"n": FOLDED, "dob": "1990-05-17", "sex": "F", "i": PASSPORT}
VDS = make_seal(KEY, DER, {**SEAL, "msg": {**SEAL["msg"], "uvci": UVCI, "pid": PID}})
PASSES = [HC1, SHC, VDS]
QID, BHYT = "162999900000999717", "HS4459999999717"
ISSUED = f"******{CCCD[6:]}|{FOLDED}|1990-**-**|0|{QID}|<2<{BHYT}<{PHONE}"
OPEN = f"{CCCD}|{FOLDED}|1990-05-17|1|{QID}|{QID}<2<{BHYT}<{PHONE}"
INSURANCE = "|".join(
    [BHYT, NAME.encode().hex(), "17/05/1990", "2", ADDRESS.encode().hex(), "45 - 001",
     "01/01/2021", "31/12/2021", "", "$"]
)  # fmt: skip
OTHERS = [  # not persons' codes, but persons show them
    f"BEGIN:VCARD\nFN:{NAME}\nTEL:{PHONE}\nEND:VCARD", f"MECARD:N:{NAME};TEL:{PHONE};;",
    f"tel:{PHONE}", f"sms:{PHONE}?body={NAME}", PHONE, CCCD, f"WIFI:S:{NAME};T:WPA;P:{PHONE};;",
    f"0002010102123857{PHONE}0208QRIBFTTA5303704590{len(FOLDED)}{FOLDED}6304ABCD",
    f"NZCP:/{FOLDED.replace(' ', '')}", f"HKSARG|VAC|{NAME}|{CCCD}", f"CRED:1:{NAME}:{CCCD}",
    f"https://tokhaiyte.com/{CCCD}", f"https://tokhaiyte.vn/ks?ten={quote(NAME)}&sdt={PHONE}",
]  # fmt: skip
CARDS = [CARD, f"{CARD}|{NAME}|{CCCD}", CARD.replace("|17051990|", "|99999999|"), ISSUED, OPEN,
         ISSUED.replace("NGUYEN", "NGUYỄN"), OPEN.replace("1990-05-17", "x"), INSURANCE,
         INSURANCE.replace("17/05/1990", NAME)]  # fmt: skip
WORDS += (QID, BHYT, BHYT[5:], NAME.encode().hex())


@dataclass
class Done:
    """What the doors answered, and where everything lies that was written."""

    folder: Path
    said: list[bytes] = field(default_factory=list)
    lights: list[str | None] = field(default_factory=list)
    metrics: str = ""
    inputs: set[Path] = field(default_factory=set)  # what the test itself put there
    audits: int = 0


def needles(text: str) -> list[bytes]:
    return [text.encode(), text.encode("utf-16-le"), text.encode("ascii", "backslashreplace")]


def all_needles() -> list[bytes]:
    return [needle for word in WORDS for needle in needles(word)]


def through_ckp(made: Job, done: Done) -> None:
    now_ms = SystemClock().now_ms()
    fields = {"name": NAME, "cccd": CCCD, "phone": PHONE, "address": ADDRESS, "birth": "1990"}
    who = Credential("cccd", CCCD)
    good = [
        encode_scan(now_ms, 1, CARD.encode()),
        encode_scan(now_ms, 1, CARD.encode() + b"\xff\xfe"),
        encode_scan(now_ms, 1, f"{NAME} {PHONE}".encode()),
        encode_scan(now_ms, 1, f"https://example.vn/?id={CCCD}&ten={quote(NAME)}".encode()),
        encode_scan(now_ms + 10**9, 1, CARD.encode()),
        encode_manual(now_ms, 1, fields, officer=OFFICER, why=WHY),
        encode_manual(now_ms, 1, {"name": NAME, "phone": PHONE}, officer=OFFICER, why=WHY),
        encode_manual(now_ms, 1, {NAME: CCCD}, officer=OFFICER, why=WHY),
        encode_checkin(now_ms, Direction.IN, who, 1013, extras=None),
        encode_checkin(now_ms, Direction.IN, Credential("passport", PASSPORT, "VNM"), 1013),
        encode_checkin(now_ms, Direction.IN, CARD.encode(), CARD.encode()),
        msgspec.msgpack.encode([2, now_ms, 1, ["cccd", CCCD], 1013, 0, {"plate": PLATE}]),
        msgspec.msgpack.encode([2, now_ms, 1, ["cccd", CCCD], 1013, 0, {NAME: PLATE}]),
        msgspec.msgpack.encode([2, now_ms, 1, [NAME, CCCD], 1013, 0, {"seat": SEAT * 9}]),
        msgspec.msgpack.encode([2, now_ms, 1, [CCCD, NAME, PHONE], 1013, 0]),
        *(encode_scan(now_ms, 1, one) for one in PASSES),
        *(encode_scan(now_ms, 1, one[:-9]) for one in PASSES),
        *(encode_scan(now_ms, 1, part) for part in PARTS),
        *(encode_scan(now_ms, 1, one.encode()) for one in CARDS + OTHERS),
        *(encode_scan(now_ms, 1, one.replace(b"1", b"2", 1)) for one in PASSES),
    ]
    with RawLink(made.engine.port) as link:
        link.hello("vl-1a-1")
        link.send(scans(1, *good), scans(2, msgspec.msgpack.encode([9, CCCD, NAME])))
        link.send(wire.Scans(seq=3, body=CARD.encode()))
        link.send(wire.Scans(seq=4, body=CARD.encode(), flags=wire.FLAG_SEALED))
        for message in link.settled(0, 4):
            done.said.append(wire.encode(message))
            if isinstance(message, wire.Result):
                done.lights.append(message.verdict.name)
        link.send(
            wire.FrameImage(
                seq=1, channel=1, flags=1, codec=0, ts_ns=1, frame_no=1, image=CARD.encode()
            )
        )
        link.send_bytes(CARD.encode() * 3)
        done.said += map(wire.encode, link.rest())
    strange = [
        wire.encode(hello("vl-1a-2", token=CCCD)),
        wire.encode(hello("vl-1a-2")).replace(b"vl-1a-2", b"0999717"),
        CARD.encode() * 20,
        struct.pack(">BBHIQ", 1, 0, 0, len(CARD.encode()), 0) + CARD.encode(),
    ]
    for data in strange:
        with RawLink(made.engine.port) as link:
            link.send_bytes(data)
            with contextlib.suppress(EOFError):
                done.said.append(wire.encode(link.next()))


def through_a_file(made: Job, done: Done) -> None:
    now_ms = SystemClock().now_ms()
    lines = [
        {"kind": "checkin", "ts_ms": now_ms, "who": {"payload": CARD}, "venue": 1013},
        {"kind": "checkin", "ts_ms": now_ms, "who": {"kind": "cccd", "value": CCCD}, "venue": 1015,
         "plate": PLATE, "seat": SEAT},
        {"kind": "checkin", "ts_ms": now_ms, "who": {NAME: CCCD}, "venue": 1013},
        {"kind": NAME, "ts_ms": PHONE},
        {"kind": "scan", "ts_ms": now_ms, "payload_b64": CARD},
        {"kind": "checkin", "ts_ms": now_ms, "who": {"kind": CCCD, "value": NAME}, "venue": 1013},
        {"kind": "manual", "ts_ms": now_ms, "fields": {NAME: 7}, "officer": OFFICER, "why": WHY},
        {"kind": "checkin", "ts_ms": now_ms, "who": {"payload": CARD}, "venue": 1, "source": NAME},
    ]  # fmt: skip
    records = done.folder / "records.jsonl"
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    records.write_text(text + CARD + "\n{" + CCCD + "\n", encoding="utf-8")
    done.inputs.add(records)
    config = enrolment().gateway_file(BACK_END, done.folder, made.engine.port)
    chot(done, "gateway", "run", str(config), "--records", str(records))
    assert b'"is_drained": true' in done.said[-1]


HOLDER = {"kind": "pass", "issuer": "SE", "value": NAME}


def through_http(made: Job, done: Done) -> None:
    span = {"from": ms_to_iso(SystemClock().now_ms() - 86_400_000), "to": "2100-01-01"}
    span["to"] = ms_to_iso(SystemClock().now_ms() + 1000)
    why = {"purpose": "case", "case": "BN-1234", **span}
    person = {"kind": "cccd", "value": CCCD}
    bodies: list[tuple[str, object]] = [
        ("person", {**why, "person": person}),
        ("venue", {**why, "place": 1013}),
        ("contacts", {**why, "person": person}),
        ("person", {**why, "person": {"kind": NAME, "value": CCCD}}),
        ("person", {**why, "person": {"kind": "passport", "value": CCCD, "issuer": PHONE}}),
        ("person", {**why, "person": person, CCCD: NAME}),
        ("person", {**why, "person": person, "case": CCCD}),
        ("person", {**why, "person": person, "case": NAME}),
        ("person", {**why, "person": person, "purpose": NAME}),
        ("person", {**why, "person": person, "from": NAME}),
        ("person", {**why, "person": {"kind": "handle", "value": NAME}}),
        ("contacts", {**why, "person": person, "profile": NAME}),
        ("venue", {**why, "place": PHONE}),
        ("person", {**why, "person": {**HOLDER, "birth": "1990-05-17"}}),
        ("person", {**why, "person": {**HOLDER, "birth": PHONE}}),
        ("person", {**why, "person": {**HOLDER, "issuer": ""}}),
    ]
    calls = [(f"/v1/trace/{kind}", json.dumps(body).encode()) for kind, body in bodies]
    calls += [("/v1/trace/person", CARD.encode()), (f"/v1/trace/{CCCD}", b"{}")]
    calls += [(f"/v1/trace/person?cccd={CCCD}", b"{}"), (f"/{quote(NAME)}/{PHONE}", b"")]
    host = made.engine.api.removeprefix("http://")
    for path, body in calls:
        for token in (enrolment().token, CCCD):
            connection = http.client.HTTPConnection(host, timeout=20)
            headers = {"Authorization": f"Bearer {token}", "X-Person": CCCD, "Cookie": PHONE}
            connection.request("POST" if body else "GET", path, body or None, headers)
            answer = connection.getresponse()
            done.audits += answer.status in (200, 403)
            if answer.status != 200:
                done.said.append(answer.read())
            connection.close()
    with socket.create_connection((host.split(":")[0], int(host.split(":")[1]))) as raw:
        raw.sendall(f"{CARD} HTTP/9\r\n{NAME}: {PHONE}\r\n\r\n".encode())
        raw.settimeout(5)
        done.said.append(raw.recv(4096))


def through_the_socket(done: Done) -> None:
    ask = {"ask": "person", "token": CCCD, "purpose": NAME, "case": PHONE}
    for message in (
        msgspec.msgpack.encode((1, ask)),
        msgspec.msgpack.encode((1, {"ask": NAME})),
        msgspec.msgpack.encode((1, {"ask": "registry_change", "changes": [{NAME: CCCD}]})),
        msgspec.msgpack.encode((1, {"ask": "registry_list", "kind": NAME})),
        CARD.encode(),
    ):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(str(done.folder / "data" / SOCKET_NAME))
            raw.settimeout(5)
            raw.sendall(struct.pack(">I", len(message)) + message)
            done.said.append(raw.recv(1 << 16))


def through_the_command_line(made: Job, done: Done) -> None:
    token = done.folder / "token"
    token.write_text(enrolment().token)
    now_ms = SystemClock().now_ms()
    base = ["--from", ms_to_iso(now_ms - 10**7), "--to", ms_to_iso(now_ms), "--case", "BN-1"]
    base += ["--url", made.engine.api, "--token-file", str(token)]
    holder = f"pass SE 1990-05-17 {NAME}\n"
    for stdin in (
        f"cccd {CCCD}\n",
        f"cccd {NAME}\n",
        f"{NAME}\n",
        f"{PHONE} {CCCD}\n",
        CARD,
        holder,
    ):
        chot(done, "trace", "person", *base, stdin=stdin)
    for stdin in (holder, f"pass {UVCI}\n", f"phone {PHONE}\n", f"cccd {CCCD}\n{holder}"):
        chot(done, "merge", "add", "--why", "giấy tờ", *base[4:], stdin=stdin)
    chot(done, "merge", "add", "--why", PHONE, *base[4:], stdin=f"cccd {CCCD}\n{holder}")


def chot(done: Done, *arguments: str, stdin: str = "") -> int:
    """Exit status; what it said on stderr, and of a gateway on stdout too, is kept."""
    command = [sys.executable, "-m", "engine", *arguments]
    run = subprocess.run(
        command, input=stdin.encode(), capture_output=True, timeout=60, check=False
    )
    done.said.append(run.stderr)
    if arguments[0] == "gateway":
        done.said.append(run.stdout)
    return run.returncode


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    folder = tmp_path_factory.mktemp("privacy")
    found = Done(folder)
    with job(folder) as made:
        through_ckp(made, found)
        through_a_file(made, found)
        through_http(made, found)
        through_the_socket(found)
        through_the_command_line(made, found)
        found.metrics = made.engine.metrics_text()
        found.said.append(found.metrics.encode())
        found.said.append(made.engine.log.read_bytes())
        assert made.engine.stop() == 0
    yield found


def test_the_doors_were_really_used(done: Done) -> None:
    """The test of a test: the people came in, were traced and were turned away."""
    assert done.lights.count("Nguyễn Th***") >= 2
    assert done.audits >= 6
    said = b"\n".join(done.said)
    for code in (b"wire.auth", b"line_refused", b"payload", b"input", b"link ended"):
        assert code in said, code
    assert 'chot_refused_total{reason="' in done.metrics
    assert 'chot_questions_total{question="person"}' in done.metrics
    assert 'chot_questions_total{question="merge_add"}' in done.metrics
    assert 'chot_passes_total{signature="unknown_key"} 4.0' in done.metrics


def test_nobody_shows_in_what_was_said_and_logged(done: Done) -> None:
    for number, said in enumerate(done.said):
        for needle in all_needles():
            assert needle not in said, f"a person's data in {number}: {said[:80]!r}"


def test_nobody_shows_in_what_was_stored(done: Done) -> None:
    """Store, spool, control log and every other file, with their names."""
    files = [f for f in done.folder.rglob("*") if f.is_file() and f not in done.inputs]
    assert {"data.mdb", "engine.log"} & {f.name for f in files}
    assert len([f for f in files if f.name == "data.mdb"]) == 3  # journal, control, spool
    for file in files:
        content = file.read_bytes()
        for needle in all_needles():
            assert needle not in content, f"a person's data in {file.name}"
            assert needle not in str(file.relative_to(done.folder)).encode()


def test_no_pseudonym_stands_open_either(done: Done) -> None:
    """A person key is personal data still: not in logs, and on disk under the day's key only."""
    ring = FileKeyRing(done.folder / "data" / "keys")
    key = ring.person_key("cccd", "VNM", CCCD)
    shapes = [key, key.hex().encode(), key_to_handle(key).encode()]
    written = [f.read_bytes() for f in done.folder.rglob("*") if f.is_file()]
    for content in [*written, *done.said]:
        assert not any(shape in content for shape in shapes)


def test_files_are_for_their_owner_alone(done: Done) -> None:
    for folder in (done.folder / "data" / "keys", *(done.folder / "data").glob("*/")):
        assert folder.stat().st_mode & 0o077 == 0, folder
    for file in (done.folder / "data").rglob("*"):
        if (file.is_file() and "keys" in str(file)) or file.name == "data.mdb":
            assert file.stat().st_mode & 0o077 == 0, file


def test_no_token_is_stored_or_said(done: Done) -> None:
    tokens = [enrolment().token, *(enrolment().gateway_token(n) for n in ("vl-1a-1", BACK_END))]
    kept = {done.folder / "token", done.folder / f"{BACK_END}.toml"}
    for file in done.folder.rglob("*"):
        if file.is_file() and file not in kept:
            assert not any(token.encode() in file.read_bytes() for token in tokens), file
    for said in done.said:
        assert not any(token.encode() in said for token in tokens)
