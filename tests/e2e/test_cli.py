"""The command `chot` at work: streams and signals, files in and out, and an engine to speak to.

Most calls go through `engine.cli.main.main` in this process, with standard streams of their own;
what only a process can show (pipes that close, signals, servers) is one.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segno
import simplejpeg

from engine.cli import registry as cli_registry
from engine.clock import ms_to_iso
from engine.gateway import config as gateway_config
from engine.identity.keys import FileKeyRing
from tests.reference.command import (
    ROOT,
    SECRET,
    WAIT_S,
    Done,
    Rig,
    assert_mistake,
    assert_refused,
    chot,
    clean_env,
    finish,
    start,
)
from tests.reference.payload_vectors import FOLDER as VECTORS
from tests.reference.payload_vectors import Vector, load

TABLES = ROOT / "docs/examples/registry"
TRACER, STATION = "cdc-truy-vet", "tram-vinh-chap"
MARKET = 1013  # Chợ Hồ Xá
CARD = f"{SECRET}|201999001|Nguyễn Thị Hồng Ánh|05061990|Nữ|Thôn Tân Hòa, Quảng Trị|11062021"
OTHER = "044078999064|194999064|Hoàng Đình Sơn|19111978|Nam|Tiểu khu 5, Quảng Trị|11062021"
BANK = "00020101021238570010A00000072701270006970999011399900000004210208QRIBFTTA53037045802VN6304"


# ---- an engine to speak to ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    made = Rig("--registry", TABLES)
    yield made
    made.close()


def checkin(ago_min: float, who: Any, venue: Any = MARKET, **more: Any) -> str:
    line = {"kind": "checkin", "ts_ms": NOW_MS - round(ago_min * 60_000), "who": who}
    return json.dumps({**line, "venue": venue, **more}) + "\n"


NOW_MS = int(time.time() * 1000)
FROM, TO = ms_to_iso(NOW_MS - 86_400_000), ms_to_iso(NOW_MS + 3_600_000)
WHY = ("--case", "BN-1234", "--from", FROM, "--to", TO)
PERSON = f"cccd {SECRET}\n"
VENUE = ("trace", "venue", MARKET, *WHY)
TOKEN = {"CHOT_TOKEN": "chot_invented"}


@pytest.fixture(scope="module")
def asked(rig: Rig) -> Rig:
    """With three people at a market, and a token for questions in CHOT_TOKEN's file."""
    lines = [
        checkin(200, {"payload": CARD}, direction="in"),
        checkin(195, {"payload": OTHER}, direction="in"),
        checkin(190, {"kind": "cccd", "value": "046301999077"}, room=2),
        checkin(150, {"payload": OTHER}, direction="out"),
    ]
    (rig.home / "day.jsonl").write_text("".join(lines))
    done = rig.gateway("venue-app", "--records", rig.home / "day.jsonl")
    assert done.status == 0, done
    assert done.lines[-1]["stats"]["records_stored"] == 4
    rig.token(TRACER)
    rig.token(STATION)
    return rig


def trace(rig: Rig, *words: object, stdin: str = "", grant: str = TRACER, **env: str) -> Done:
    token = ["--token-file", rig.home / f"{grant}.token"]
    env = {"CHOT_URL": rig.doors["api"], **env}
    return chot("trace", *words, *token, stdin=stdin, **env)


# ---- streams, signals ---------------------------------------------------------------------------


def test_a_reader_that_leaves_ends_it_quietly(tmp_path: Path) -> None:
    lines = tmp_path / "many.jsonl"
    lines.write_text('{"payload_b64": "YQ=="}\n' * 50_000)
    with lines.open("rb") as stdin:
        process = start("parse", stdin=stdin)
        assert process.stdout.readline().startswith(b'{"verdict": "reject"')
        process.stdout.close()
        assert process.wait(WAIT_S) == 1
    assert process.stderr.read() == b""
    process.stderr.close()


def test_streams_that_are_closed_or_full() -> None:
    command = [sys.executable, "-m", "engine"]
    for words, status, needle in (
        ("settings >&-", 0, ""),
        ("settings >/dev/full", 1, "chot settings: No space left on device"),
        ("parse <&-", 2, "chot parse: standard input is closed"),
    ):
        shell = f"exec {' '.join(command)} {words}"
        done = subprocess.run(
            ["/bin/sh", "-c", shell], env=clean_env({}), capture_output=True, timeout=WAIT_S
        )
        assert done.returncode == status, words
        assert done.stderr.decode().strip().startswith(needle), words
        assert done.stderr.count(b"\n") == bool(needle)


def test_interrupted_without_a_traceback() -> None:
    # Where tests run in the background SIGINT is ignored, and a child would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = start("parse")
    signal.signal(signal.SIGINT, before)
    process.stdin.write(b'{"payload_b64": "YQ=="}\n')
    process.stdin.flush()
    assert process.stdout.readline(), "each line is answered at once"
    # One that comes between the last bytecode and the read that blocks is seen only after that.
    for _ in range(5):
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
            break
    assert finish(process) == Done(130, "", "")


def test_output_is_utf8_in_every_locale(tmp_path: Path) -> None:
    stdin = json.dumps({"payload_b64": base64.b64encode(CARD.encode()).decode()}).encode()
    process = start("parse", env={"PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0"})
    done = finish(process, stdin)
    assert (done.status, done.lines[0]["name_nfc"]) == (0, "Nguyễn Thị Hồng Ánh")
    name = os.fsencode(tmp_path) + b"/\xff.png"
    Path(os.fsdecode(name)).write_bytes(b"x")
    done = finish(start("decode", os.fsdecode(name)))
    assert done.status == 1 and "\\udcff.png" in done.out and done.err == ""


# ---- parse --------------------------------------------------------------------------------------


def vector_to_question(vector: Vector) -> dict[str, Any]:
    question: dict[str, Any] = {
        "id": vector.id,
        "payload_b64": base64.b64encode(vector.payload).decode(),
    }
    if vector.now_s is not None:
        question["validation_clock"] = datetime.fromtimestamp(vector.now_s, UTC).isoformat()
    if vector.keys:
        question["trust"] = list(vector.keys)
    return question


def test_every_vector_through_parse() -> None:
    vectors = load()
    assert len(vectors) > 90
    lines = [json.dumps(vector_to_question(vector)) for vector in vectors]
    done = finish(start("parse", "--trust", VECTORS / "keys.json"), "\n".join(lines).encode())
    assert (done.status, done.err) == (0, "")
    assert [answer["id"] for answer in done.lines] == [v.id for v in vectors]
    for vector, answer in zip(vectors, done.lines, strict=True):
        expected = dict(vector.expect)
        assert set(answer["warnings"]) == set(expected.pop("warnings", [])), vector.id
        assert {name: answer[name] for name in expected} == expected, vector.id


def test_bad_lines_are_answered_in_their_place() -> None:
    good = b'{"id": "a", "payload_b64": "YQ==", "note": "more is ignored"}'
    bad = [
        b"", b"x", b"[1]", b"null", b"{}", b'{"payload_b64": 5}', b'{"payload_b64": "\xc3\xa9"}',
        b'{"payload_b64": "YQ"}', b'{"payload_b64": "\xff"}', b'{"payload_b64": "Y Q=="}',
        b"[" * 100_000, b'{"id":' + b"[" * 5000 + b"]" * 5000 + b"}", b"x" * 3_000_000,
        b'{"payload_b64": "YQ==", "validation_clock": "soon"}',
        b'{"payload_b64": "YQ==", "validation_clock": 5}',
        b'{"payload_b64": "YQ==", "trust": {}}', b'{"payload_b64": "YQ==", "trust": ["AAAA"]}',
        b'{"payload_b64": "YQ==", "trust": [' + b"{}," * 100 + b"{}]}",
    ]  # fmt: skip
    done = chot("parse", stdin=b"\n".join([good, *bad, b'{"id": 7, "payload_b64": "!"}', good]))
    assert (done.status, done.err) == (1, "")
    first, *middle, named, last = done.lines
    assert first == last == {
        "id": "a", "verdict": "reject", "type": None, "reason": "unknown", "warnings": [],
        "detail": "no layout that this engine knows",
    }  # fmt: skip
    assert len(middle) == len(bad)
    assert all(set(answer) == {"error"} for answer in middle)
    assert named["id"] == 7 and named["error"]["code"] == "input"
    assert chot("parse") == Done(0, "", "")


def test_a_code_does_not_steer_the_terminal(tmp_path: Path) -> None:
    done = chot("decode", qr_image("a\u009b31m\u202eb\x1b[0mé", tmp_path / "code.png"))
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", done.out)
    assert done.lines[0]["codes"][0]["text"] == "a\u009b31m\u202eb\x1b[0mé" and "é" in done.out


def test_parse_reads_files_and_hides_names_if_asked(tmp_path: Path) -> None:
    lines = tmp_path / "lines.jsonl"
    lines.write_text(json.dumps({"payload_b64": base64.b64encode(CARD.encode()).decode()}))
    raw = tmp_path / "card.bin"
    raw.write_bytes(CARD.encode())
    plain = chot("parse", lines).lines
    assert plain == chot("parse", "--raw", raw).lines == chot("parse", "--unmasked", lines).lines
    assert plain == chot("parse", "--raw", stdin=CARD.encode()).lines
    assert plain[0]["name_nfc"] == "Nguyễn Thị Hồng Ánh"
    (masked,) = chot("parse", "--masked", lines).lines
    assert (masked["name_nfc"], masked["doc_no"][:6]) == ("Nguyễn Th***", "******")
    assert masked["dob"].endswith("-**-**") and masked["address"] == "***"
    assert chot("parse", "--raw", stdin=b"x" * 9_000).lines[0]["reason"] == "too_long"
    assert len(chot("parse", lines, lines).lines) == 2


def test_a_person_at_a_terminal_is_shown_masks() -> None:
    line = json.dumps({"payload_b64": base64.b64encode(CARD.encode()).decode()})
    ours, theirs = os.openpty()
    process = subprocess.run(
        [sys.executable, "-m", "engine", "parse"],
        env=clean_env({}), input=line.encode(), stdout=theirs, timeout=WAIT_S, check=True,
    )  # fmt: skip
    os.close(theirs)
    shown = os.read(ours, 4_096).decode()
    os.close(ours)
    assert process.returncode == 0
    assert "Nguyễn Th***" in shown and "Ánh" not in shown and f"******{SECRET[-6:]}" in shown


def test_keys_for_parse_that_are_none(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("nothing")
    for words in (("--trust", wrong), ("--trust", tmp_path / "none"), ("none.jsonl",)):
        done = chot("parse", *words)
        assert (done.status, done.out) == (2, "")
        assert done.err.count("\n") == 1 and done.err.startswith("chot parse: ")
    done = chot("parse", stdin=b"", CHOT_TRUST=str(tmp_path))
    assert done.status == 2 and "wrong.pem" in done.err


def test_venue_host_of_parse() -> None:
    text = b"HTTPS://MA.VI.DU/V/140000Z956X19PMDRM"
    line = json.dumps({"payload_b64": base64.b64encode(text).decode()})
    assert chot("parse", stdin=line).lines[0]["reason"] == "unknown_url"
    for done in (
        chot("parse", "--venue-host", "MA.VI.DU", stdin=line),
        chot("parse", stdin=line, CHOT_VENUE_HOST="MA.VI.DU"),
    ):
        assert done.lines[0]["type"] == "venue" and done.lines[0]["host"] == "ma.vi.du"


# ---- decode -------------------------------------------------------------------------------------


def qr_image(text: str | bytes, path: Path) -> Path:
    segno.make(text, micro=False).save(str(path), scale=6, border=6)
    return path


def test_decode_hides_persons_if_asked(tmp_path: Path) -> None:
    """Of whatever names somebody; what an unknown code holds may be somebody's as well."""
    persons = {
        "card": CARD,
        "qr1405": "******999001|NGUYEN THI HONG ANH|1990-**-**|0|162999900000000001|<2<<0912999001",
        "bhyt": f"HS4459900000001|{'Nguyễn Thị Hồng Ánh'.encode().hex()}|05/06/1990|2|"
        f"{'Thôn Tân Hòa'.encode().hex()}|45 - 001|01/01/2021|31/12/2021|$",
        "unknown": "Nguyễn Thị Hồng Ánh 0912999001",
        "payment": "00020101021138990010A000000727",
        "contact": "BEGIN:VCARD\nFN:Nguyễn Thị Hồng Ánh\nEND:VCARD",
    }
    places = {"venue": "HTTPS://QR.CHOT.VN/V/140000Z956X19PMDRM", "poster": "NZCOVIDTRACER:999"}
    images = [
        qr_image(text, tmp_path / f"{label}.png") for label, text in {**persons, **places}.items()
    ]
    lines = chot("decode", "--masked", *images).lines
    shown = {Path(line["file"]).stem: line["codes"][0] for line in lines}
    assert shown.keys() == persons.keys() | places.keys()
    for label in persons:
        assert (shown[label]["text"], shown[label]["bytes_b64"]) == ("***", "***"), label
        assert len(shown[label]["corners"]) == 4
    for label, text in places.items():
        assert shown[label]["text"] == text
        assert base64.b64decode(shown[label]["bytes_b64"]) == text.encode()
    whole = chot("decode", "--unmasked", *images).lines
    assert [line["codes"][0]["text"] for line in whole] == [*persons.values(), *places.values()]
    assert chot("decode", *images).lines[0]["codes"] == whole[0]["codes"], "for a program"
    refused = chot("decode", "--masked", "--unmasked", *images)
    assert refused.status == 2 and "not allowed with" in refused.err


def test_decode_files(tmp_path: Path) -> None:
    png = qr_image(CARD, tmp_path / "card.png")
    raw = qr_image(b"\xff\xfe", tmp_path / "raw.png")
    empty = tmp_path / "empty.jpg"
    grey = np.full((80, 120, 1), 128, np.uint8)
    empty.write_bytes(simplejpeg.encode_jpeg(grey, colorspace="GRAY"))
    code = np.kron(np.array(list(segno.make(OTHER, micro=False).matrix_iter(border=6))), [[1]])
    luma = np.kron(np.where(code, 0, 255).astype(np.uint8), np.ones((6, 6), np.uint8))
    jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(luma[..., None]), colorspace="GRAY")
    clip = tmp_path / "clip.mjpeg"
    clip.write_bytes(empty.read_bytes() + jpeg + jpeg[:100])
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")

    done = chot("decode", png, raw, empty)
    assert (done.status, done.err) == (0, "")
    first, second, third = done.lines
    assert first["file"] == str(png) and first["decode_us"] > 0
    (found,) = first["codes"]
    assert found["text"] == CARD and base64.b64decode(found["bytes_b64"]) == CARD.encode()
    assert len(found["corners"]) == 4
    assert all(0 <= x <= first["width"] and 0 <= y <= first["height"] for x, y in found["corners"])
    assert second["codes"][0]["text"] is None
    assert base64.b64decode(second["codes"][0]["bytes_b64"]) == b"\xff\xfe"
    assert (third["width"], third["height"], third["codes"]) == (120, 80, [])

    done = chot("decode", clip, bad, png)
    assert (done.status, done.err) == (1, "")
    assert [line.get("frame") for line in done.lines] == [0, 1, 2, None, None]
    assert done.lines[1]["codes"][0]["text"] == OTHER
    assert [line["error"]["code"] for line in done.lines[2:4]] == ["image.invalid"] * 2
    assert done.lines[4]["codes"], "a bad file does not end the run"


# ---- registry -----------------------------------------------------------------------------------


def test_import_again_changes_nothing(rig: Rig) -> None:
    done = rig.registry("import", TABLES)
    assert (done.status, done.err) == (0, "")
    assert re.fullmatch(r"0 records written, \d+ were there already\n", done.out)


def test_what_list_prints_can_be_imported(rig: Rig, tmp_path: Path) -> None:
    for table in cli_registry.TABLES:
        done = rig.registry("list", table)
        assert (done.status, done.err) == (0, "")
        source = list(csv.DictReader(io.StringIO((TABLES / f"{table}.csv").read_text())))
        listed = list(csv.DictReader(io.StringIO(done.out, newline="")))
        (key, *_) = [name for name in ("name", "other", "text", "count") if name in source[0]]
        assert [row[key] for row in listed][: len(source)] == [row[key] for row in source]
        path = tmp_path / f"{table}.csv"
        path.write_text(done.out, encoding="utf-8", newline="")
        assert rig.registry("import", path).out.startswith("0 records written"), table


def test_a_workbook_of_all_tables_goes_out_and_in(rig: Rig, tmp_path: Path) -> None:
    done = rig.registry("export", "--out", tmp_path / "registry.xlsx")
    count = re.fullmatch(r".*registry\.xlsx: (\d+) records\n", done.out)
    assert count, done
    done = rig.registry("import", tmp_path / "registry.xlsx")
    assert done.out == f"0 records written, {count[1]} were there already\n"
    done = rig.registry("export", "venues", "--out", tmp_path / "venues.csv", "--at", "2021-06-01")
    text = (tmp_path / "venues.csv").read_bytes()
    assert text.startswith(b"\xef\xbb\xbfnumber,name,") and done.status == 0
    assert rig.registry("import", tmp_path / "venues.csv").out.startswith("0 records written")
    assert_mistake(rig.registry("export", "--out", tmp_path / "all.csv"), "--out")
    (tmp_path / "bad.xlsx").write_bytes(b"PK")
    assert_refused(rig.registry("import", tmp_path / "bad.xlsx"), "registry.invalid")


def test_areas_are_found_by_their_names(rig: Rig) -> None:
    assert rig.registry("find", "vinh linh").out == "QT-VL\tHuyện Vĩnh Linh\n"
    assert_refused(rig.registry("find", "nowhere"), "registry.not_found")


def test_import_with_faults_takes_nothing_and_names_the_lines(rig: Rig, tmp_path: Path) -> None:
    before = rig.registry("list", "venues").out
    path = tmp_path / "venues.csv"
    head = "number,name,category,area\n"
    path.write_text(head + "5001,A,market,QT-VL\n5002,B,pub,QT-VL\nx,C,market,QT-VL\n")
    done = rig.registry("import", path)
    assert (done.status, done.out) == (1, "")
    *faults, last = done.err.splitlines()
    assert [re.findall(r"line (\d+)", fault) for fault in faults] == [["3"], ["4"]]
    assert last.startswith("chot registry import: registry.invalid: nothing was taken")
    path.write_text(head + "5001,A,market,QT-VL\n5003,D,market,NOWHERE\n")  # only the engine knows
    done = rig.registry("import", path)
    assert done.status == 1 and "5003" in done.err and "NOWHERE" in done.err
    assert rig.registry("list", "venues").out == before
    path.rename(tmp_path / "people.csv")
    assert_refused(rig.registry("import", tmp_path / "people.csv"), "registry.not_found")
    path.write_text(head + "5001,Chợ Cầu,market,QT-VL\n")
    assert rig.registry("import", path).out == "1 records written, 0 were there already\n"


def test_posted_codes_are_read_back(rig: Rig, tmp_path: Path) -> None:
    done = rig.registry("codes")
    assert (done.status, done.err) == (0, "")
    codes = dict(line.split("\t") for line in done.out.splitlines())
    listed = csv.DictReader(io.StringIO(rig.registry("list", "venues").out))
    assert set(codes) == {row["number"] for row in listed}
    some = {number: codes[number] for number in ("1001", "1013", "1038")}
    for text in some.values():
        assert segno.make(text, micro=False).mode == "alphanumeric"
    images = [qr_image(text, tmp_path / f"{number}.png") for number, text in some.items()]
    decoded = chot("decode", *images).lines
    questions = [
        json.dumps({"id": i, "payload_b64": line["codes"][0]["bytes_b64"]})
        for i, line in enumerate(decoded)
    ]
    for text, answer in zip(
        some.values(), chot("parse", stdin="\n".join(questions)).lines, strict=True
    ):
        assert (answer["verdict"], answer["type"]) == ("accept", "venue")
        assert answer["warnings"] == ["unknown_key"] and text.endswith(answer["opaque_id"])


def test_posters_hold_the_posted_codes(rig: Rig, tmp_path: Path) -> None:
    codes = dict(line.split("\t") for line in rig.registry("codes").out.splitlines())

    def poster(*words: object) -> Done:
        return chot("venue", "poster", "--data", rig.data, *words)

    done = poster("1013", "1014", "--size", "A6", "--out", tmp_path / "p.png")
    files = [tmp_path / "p-1013.png", tmp_path / "p-1014.png"]
    assert (done.status, done.out) == (0, f"2 pages: {files[0]}, {files[1]}\n"), done
    read = [line["codes"][0]["text"] for line in chot("decode", *files).lines]
    assert read == [codes["1013"], codes["1014"]]
    done = poster("--area", "QT-VL", "--size", "A6", "--sheet", "--out", tmp_path / "p.pdf")
    within = re.fullmatch(r"(\d+) pages: .*p\.pdf\n", done.out)
    assert within and 1 < int(within[1]) < len(codes) / 4 + 1
    assert poster("1013", "--out", tmp_path / "p.svg").out == f"1 page: {tmp_path / 'p.svg'}\n"
    for words, needle in (
        (("1013", "--out", "p.doc"), "the name ends with .pdf, .svg or .png"),
        (("7", "1013", "8", "--out", "p.pdf"), "there is no venue 7, 8"),
        (("1013", "--sheet", "--out", "p.pdf"), "--sheet takes four posters of --size A6"),
        (("1013", "--area", "QT-HL", "--out", "p.pdf"), "there is no such venue"),
    ):
        done = poster(*words)
        assert done.status == 2 and needle in done.err, done


def test_tokens_and_gateway_files(rig: Rig, tmp_path: Path) -> None:
    def may_ask(token: str) -> bool:
        url = rig.doors["api"]
        done = chot("trace", "venue", "1014", *WHY, "--url", url, CHOT_TOKEN=token)
        return done.status == 0

    first = rig.registry("token", "ttyt-vinh-linh")
    assert re.fullmatch(r"chot_\S{20,}\n", first.out) and first.err == ""
    for out in (tmp_path, tmp_path / "file/x"):
        (tmp_path / "file").touch()
        assert_mistake(rig.registry("token", "ttyt-vinh-linh", "--out", out), "--out")
    done = chot("trace", "venue", "1013", *WHY, "--url", rig.doors["api"], CHOT_TOKEN=first.out)
    assert done.status == 0, "the old token was lost to a file that cannot be written"
    path = tmp_path / "new/token"
    assert rig.registry("token", "ttyt-vinh-linh", "--out", path).status == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not may_ask(first.out)
    assert_refused(rig.registry("token", "nobody"), "registry.not_found")

    config = tmp_path / "lane.toml"
    done = rig.registry("enrol", "hl-1a-2", "--out", config)
    assert done.status == 0 and str(config) in done.out
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    made = gateway_config.load_config(config)
    assert (made.name, made.lanes, made.url) == (
        "hl-1a-2", [2], rig.doors["ingest"],
    )  # fmt: skip
    assert made.spool == str(tmp_path / "lane.spool"), "found from every folder"
    assert_refused(rig.registry("enrol", "nobody", "--out", config), "registry.not_found")
    assert gateway_config.load_config(config) == made


# ---- gateway ------------------------------------------------------------------------------------


def test_a_folder_of_images_becomes_verdicts_and_passages(asked: Rig, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    blank = np.full((300, 300, 1), 200, np.uint8)
    for n, text in enumerate((None, CARD, CARD, OTHER, BANK, CARD)):
        if text is None:
            data = simplejpeg.encode_jpeg(blank, colorspace="GRAY")
            (images / f"{n:03}.jpg").write_bytes(data)
        else:
            qr_image(text, images / f"{n:03}.png")
    (images / "notes.txt").write_text("no image")
    at_ms = NOW_MS - 60_000
    words = ("--frames", images, "--fps", "25", "--start-ms", at_ms)
    done = asked.gateway("vl-1a-1", *words)
    assert done.status == 0, done
    *verdicts, last = done.lines
    assert [(v["verdict"], v.get("name", v.get("reason"))) for v in verdicts] == [
        ("accepted", "Nguyễn Th***"),
        ("accepted", "Hoàng Đì***"),
        ("refused", "payment_qr"),
    ]
    assert all(v["lane"] == 1 for v in verdicts)
    stats = last["stats"]
    assert stats["is_drained"] and stats["frames_sent"] == 6
    assert stats["verdicts"] == {"accepted": 2, "refused": 1}
    found = json.loads(trace(asked, "venue", "VL-1A", *WHY, "--format", "json").out)
    starts = sorted(visit["start_ms"] for visit in found["visits"])
    assert starts == [at_ms + 40, at_ms + 120], "frame n is n/25 s after the first"
    assert all(visit["is_passage"] for visit in found["visits"])


def test_records_that_are_none_are_left_out(rig: Rig) -> None:
    lines = (
        "\n" + checkin(30, {"payload": CARD}, 1017) + f'{{"who": "{SECRET}"}}\n'
        + json.dumps({"kind": "scan", "ts_ms": NOW_MS, "lane": 0, "payload": BANK})
    )  # fmt: skip
    done = rig.gateway("venue-app", "--records", "-", "--rate", "1000", stdin=lines.encode())
    assert done.status == 0 and SECRET not in done.err
    assert "line_refused seq=3" in done.err
    assert done.lines[-1]["stats"]["records_stored"] == 2
    assert any(line.get("reason") == "unknown_place" for line in done.lines), done


def test_what_does_not_arrive_waits_in_the_spool(rig: Rig, tmp_path: Path) -> None:
    config = tmp_path / "late.toml"
    assert rig.registry("enrol", "hl-1a-3", "--out", config).status == 0
    text = config.read_text()
    config.write_text(re.sub(r":\d+\"", ':1"\ndrain_timeout_s = 0.2', text))
    other = CARD.replace(SECRET, "045190999066")  # whom no other post has seen just now
    line = json.dumps({"kind": "scan", "ts_ms": NOW_MS, "payload": other}).encode()
    done = finish(start("gateway", "run", config, "--records", "-"), line)
    assert done.status == 1 and not done.lines[-1]["stats"]["is_drained"]
    assert done.err.splitlines()[-1].startswith("chot gateway run: not all is durable; ")
    config.write_text(text)
    done = finish(start("gateway", "run", config, "--records", "-"))
    assert done.status == 0 and done.lines[-1]["stats"]["scans_sent"] == 1
    assert [v["verdict"] for v in done.lines[:-1]] == ["accepted"]
    config.write_text(text.replace("chot_", "chot_x"))
    done = finish(start("gateway", "run", config, "--records", "-"))
    assert done.status == 1 and "chot gateway run: wire.auth: " in done.err


def test_a_gateway_whose_verdicts_nobody_reads_ends(rig: Rig) -> None:
    clip = ROOT / "tests/data/lanes/lane2.mjpeg"
    words = ("--frames", clip, "--fps", "40", "--start-ms", NOW_MS - 30_000)
    process = start("gateway", "run", rig.enrol("hl-1a-1"), *words)
    assert json.loads(process.stdout.readline())["lane"] == 1
    process.stdout.close()
    # The clip is 5 s long so; the next verdict finds nobody and ends the run.
    assert process.wait(WAIT_S) == 0
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()


# ---- trace --------------------------------------------------------------------------------------


def test_who_was_at_a_venue(asked: Rig) -> None:
    done = trace(asked, "venue", MARKET, *WHY)
    assert (done.status, done.err) == (0, "")
    assert "Nguyễn Th***" in done.out and "Hồng Ánh" not in done.out
    assert SECRET not in done.out and "audit record" in done.out
    done = trace(asked, "venue", MARKET, *WHY, "--format", "json")
    answer = json.loads(done.out)
    assert answer["masked"] and answer["total"] == 3 and SECRET not in done.out
    done = trace(asked, "venue", MARKET, *WHY, "--format", "csv", "--limit", "2")
    rows = list(csv.DictReader(io.StringIO(done.out.removeprefix("\ufeff"), newline="")))
    assert len(rows) == 2 and {row["place_name"] for row in rows} == {"Chợ Hồ Xá"}
    assert "of 3, cut by the limit" in trace(asked, "venue", MARKET, *WHY, "--limit", "2").out
    assert "Nguyễn Thị Hồng Ánh" in trace(asked, "venue", MARKET, *WHY, "--unmasked").out


def test_where_a_person_was_and_whom_they_met(asked: Rig) -> None:
    done = trace(asked, "person", *WHY, "--format", "json", stdin=PERSON)
    answer = json.loads(done.out)
    assert MARKET in {visit["place"] for visit in answer["visits"]}
    handle = answer["persons"][0]["person"]
    same = trace(asked, "person", *WHY, "--format", "json", stdin=f"\nHANDLE {handle}\n{PERSON}")
    assert json.loads(same.out)["visits"] == answer["visits"]
    assert "Chợ Hồ Xá" in trace(asked, "person", *WHY, stdin=PERSON).out

    words = ("contacts", *WHY, "--profile", "VN-2021-12-29", "--min-minutes", "30")
    done = trace(asked, *words, "--format", "json", stdin=PERSON)
    answer = json.loads(done.out)
    assert answer["profile"]["name"] == "VN-2021-12-29"
    assert {c["minutes"] for c in answer["contacts"] if c["tier"] == "candidate"} == {40.0, 35.0}
    table = trace(asked, *words, stdin=PERSON)
    assert table.status == 0 and "Hoàng Đì***" in table.out and SECRET not in table.out
    done = trace(asked, *words, "--format", "csv", stdin=PERSON)
    rows = list(csv.DictReader(io.StringIO(done.out.removeprefix("\ufeff"), newline="")))
    assert {row["minutes"] for row in rows if row["place"] == str(MARKET)} == {"40.0", "35.0"}


def test_answers_of_nothing_are_answers_but_of_days_that_are_forgotten(asked: Rig) -> None:
    done = trace(asked, "person", *WHY, stdin="cccd 001099999998")
    assert done.status == 0 and "0 rows" in done.out
    done = trace(asked, "venue", "HL-1A", "--case", "BN-1", "--from", "2021-07-01",
                 "--to", "2021-07-02")  # fmt: skip
    assert done.status == 1 and "question.invalid: to: nothing is kept of before" in done.err


def test_the_engine_says_no(asked: Rig) -> None:
    url = ("--url", asked.doors["api"])
    assert_refused(chot(*VENUE, *url, **TOKEN), "access.token")
    token = (asked.home / f"{TRACER}.token").read_text()
    assert chot(*VENUE, *url, CHOT_TOKEN=token).status == 0
    assert_refused(trace(asked, "venue", MARKET, *WHY, grant=STATION), "access.denied")
    assert_refused(trace(asked, "venue", MARKET, *WHY, "--case", SECRET), "access.denied")
    assert_refused(trace(asked, "venue", "NOWHERE", *WHY), "registry.not_found")
    assert_refused(trace(asked, "venue", 77777, *WHY), "registry.not_found")
    assert_refused(trace(asked, "venue", MARKET, *WHY, "--from", "2019-01-01"), "question.invalid")
    assert_refused(trace(asked, "person", *WHY, stdin=f"cccd {SECRET}0"), "question.invalid")
    words = ("contacts", *WHY, "--profile", "none")
    assert_refused(trace(asked, *words, stdin=PERSON), "question.invalid")


# ---- serve and verify ---------------------------------------------------------------------------


def test_a_store_that_is_in_use(rig: Rig, tmp_path: Path) -> None:
    beside = chot("verify", rig.data)
    assert beside.status == 0 and ", beside a running engine\n" in beside.out
    done = finish(start("serve", "--data", rig.data, "--set=ingest_port=0"))
    assert done.status == 1 and "chot serve: storage.locked: " in done.err
    port = rig.doors["ingest"].rpartition(":")[2]
    words = ("--data", tmp_path / "store", f"--set=ingest_port={port}", "--part", "engine")
    done = finish(start("serve", *words))
    assert done.status == 2 and "Address already in use" in done.err
    assert "Traceback" not in done.err
    assert "Traceback" not in finish(start("serve", "--data", __file__)).err


def test_doctor_beside_an_engine(asked: Rig, tmp_path: Path) -> None:
    done = chot("doctor", "--data", asked.data, "--json")
    found = {line["code"]: line for line in json.loads(done.out)}
    assert "socket answers" in found["engine.state"]["text"]
    assert re.match(r"\d+ groups, .*, days with rows: [12]$", found["log.state"]["text"])
    assert found["control.state"]["level"] == found["keys.days"]["level"] == "ok"
    assert found["data.mode"]["level"] == found["keys.files"]["level"] == "ok", found
    levels = {line["level"] for line in found.values()}
    assert done.status == (2 if "error" in levels else int("warning" in levels))
    assert SECRET not in done.out and "Nguy" not in done.out
    table = chot("doctor", "--data", tmp_path / "new")
    assert re.search(r"^ok +engine.state +no engine runs here$", table.out, re.M)
    assert_mistake(chot("doctor", "--set", "data"), "NAME=VALUE")


def test_verify_a_store_sound_then_damaged() -> None:
    rig = Rig("--registry", TABLES, "--part", "engine")
    try:
        lines = "".join(
            checkin(n, {"kind": "cccd", "value": f"0{n}090999001"}) for n in range(9, 21)
        )
        done = rig.gateway("venue-app", "--records", "-", stdin=lines.encode())
        assert done.status == 0
        assert rig.stop() == 0
        sound = chot("verify", rig.data)
        assert (sound.status, sound.err) == (0, "") and sound.out.endswith("\nsound\n")
        stored = done.lines[-1]["stats"]["records_stored"] - len(done.lines[:-1])
        assert f" {stored} rows, {stored} opened with the keys" in sound.out
        assert re.search(r"^watermark    gateway 8 epoch [0-9a-f]{16} class 0: \d", sound.out, re.M)
        again = chot("verify", rig.data, "--without-keys")
        assert again.status == 0 and "opened" not in again.out

        file = rig.data / "journal/000001/data.mdb"
        data = bytearray(file.read_bytes())
        at = data.index(b"CHJG")
        while at >= 0:  # LMDB may keep older copies of a page
            data[at + 100] ^= 1
            at = data.find(b"CHJG", at + 1)
        file.write_bytes(data)
        damaged = chot("verify", rig.data)
        assert damaged.status == 1
        assert re.search(r"^PROBLEM      .*group 1", damaged.out, re.M)
        assert re.search(r"^not sound, problems: \d+$", damaged.out, re.M)
        (rig.data / "keys").rename(rig.data / "lost")
        assert_refused(chot("verify", rig.data), "keys.missing")
    finally:
        rig.close()


def test_tables_with_faults_keep_the_doors_shut(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/areas.csv").write_text("number,code,name,parent\n1,QT,Quảng Trị,NOWHERE\n")
    words = ("--data", tmp_path / "store", "--registry", tmp_path / "tables", "--part", "engine")
    done = finish(start("serve", *words, "--set=ingest_port=0"))
    assert done.status == 1 and done.out == ""
    assert "chot serve: registry.invalid: nothing was taken" in done.err
    assert "NOWHERE" in done.err and "Traceback" not in done.err


def test_one_part_alone(tmp_path: Path) -> None:
    """The API without an engine answers, and says what is missing."""
    done = finish(start("serve", "--part", "api", "--data", tmp_path, "--set=api_port=0"))
    assert_refused(done, "keys.missing")
    FileKeyRing(tmp_path / "keys", create=True)
    process = start("serve", "--part", "api", "--data", tmp_path, "--set=api_port=0")
    url = json.loads(process.stdout.readline())["api"]
    assert_refused(chot(*VENUE, "--url", url, **TOKEN), "engine.unreachable")
    assert finish(process).status == 0, "it ends when its standard input does"
