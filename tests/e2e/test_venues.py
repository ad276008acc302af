"""`chot venue` before a running engine: a venue's life from its registration to its old posters."""

from __future__ import annotations

import csv
import http.client
import io
import itertools
import json
import re
import time
import tomllib
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
from openpyxl import load_workbook

from engine.clock import ms_to_iso
from tests.reference.command import ROOT, Done, Rig, assert_mistake, assert_refused, chot

CARD = "045190999001||Nguyễn Thị Hồng Ánh|05061990|Nữ|Thôn Tân Hòa|11062021"


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    made = Rig("--registry", ROOT / "docs/examples/registry")
    yield made
    made.close()


def venue(rig: Rig, *words: object) -> Done:
    return chot("venue", *words, "--data", rig.data)


def posted(rig: Rig, path: Path, *words: object) -> list[str]:
    """Texts that the decoder reads off posters."""
    done = venue(rig, "poster", *words, "--size", "A6", "--out", path)
    assert done.status == 0, done
    files = [Path(name) for name in done.out.strip().partition(": ")[2].split(", ")]
    return [line["codes"][0]["text"] for line in chot("decode", *files).lines]


_numbers = itertools.count(1)


def scan(rig: Rig, text: str) -> str:
    """What a venue's app is told when a visitor scans that poster now."""
    record = {
        "kind": "checkin",
        "ts_ms": int(time.time() * 1000),
        "direction": "none",
        "who": {"kind": "cccd", "value": "045190999001"},
        "venue": {"payload": text},
    }
    token = tomllib.loads(rig.enrol("venue-app").read_text())["token"]
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/json",
        "Idempotency-Key": f"venue-app:77:{next(_numbers)}",
    }
    connection = http.client.HTTPConnection(rig.doors["api"].removeprefix("http://"), timeout=20)
    connection.request("POST", "/v1/ingest", json.dumps({"records": [record]}), headers)
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    assert response.status == 200, answer
    return next((verdict["reason"] for verdict in answer["verdicts"]), "taken")


def test_the_life_of_a_venue(rig: Rig, tmp_path: Path) -> None:
    done = venue(
        rig, "add", "--name", "Bến xe Hồ Xá", "--category", "crowd", "--area", "thị trấn hồ xá",
        "--rooms", "2", "--hours", "05:00-22:00", "--by", "Huyện đoàn",
    )  # fmt: skip
    number, code = done.out.strip().split("\t")
    assert code.startswith("HTTPS://QR.CHOT.VN/V/2"), done
    assert posted(rig, tmp_path / "p.png", number) == [code]
    doors = posted(rig, tmp_path / "d.png", number, "--rooms", "--doors")
    assert len(set(doors)) == 4
    lines = [json.dumps({"payload_b64": b64encode(text.encode()).decode()}) for text in doors]
    told = chot("parse", stdin="\n".join(lines))
    assert [(line["room"], line["direction"]) for line in told.lines] == [
        (1, "in"), (1, "out"), (2, "in"), (2, "out")
    ]  # fmt: skip
    assert scan(rig, code) == "taken" and scan(rig, doors[0]) == "taken"
    stays = trace(rig, number)
    assert {visit["room"] for visit in stays} <= {0, 1} and stays
    # Revoked, a new issue, and the old one in its time of grace.
    assert venue(rig, "revoke", number).out == "1 revoked, 0 were already\n"
    assert scan(rig, code) == scan(rig, doors[3]) == "revoked"
    assert_mistake(venue(rig, "poster", number, "--out", tmp_path / "x.pdf"), "revoked")
    assert venue(rig, "rotate", number).out == f"{number}\tissue 2\tBến xe Hồ Xá\n"
    (second,) = posted(rig, tmp_path / "p.png", number)
    assert (scan(rig, code), scan(rig, second)) == ("revoked", "taken")
    until = ms_to_iso(int(time.time() * 1000) + 3_600_000)
    assert venue(rig, "rotate", number, "--until", until).status == 0
    (third,) = posted(rig, tmp_path / "p.png", number)
    assert [scan(rig, text) for text in (code, second, third)] == ["revoked", "taken", "taken"]
    # The province's key: what hangs has its time.
    done = venue(rig, "rotate", "--key", "--until", until)
    assert done.out.startswith("key 2 makes codes now"), done
    (fourth,) = posted(rig, tmp_path / "p.png", number)
    assert fourth != third and [scan(rig, text) for text in (third, fourth)] == ["taken", "taken"]
    history = venue(rig, "show", number).lines
    assert [entry["issue"] for entry in history] == [1, 1, 2, 3]
    assert [entry["is_revoked"] for entry in history] == [False, True, False, False]
    assert all(entry["by"].startswith("uid ") and entry["written"] for entry in history)


def trace(rig: Rig, number: str) -> list[dict[str, object]]:
    now_ms = int(time.time() * 1000)
    span = ("--from", ms_to_iso(now_ms - 3_600_000), "--to", ms_to_iso(now_ms + 3_600_000))
    why = ("--purpose", "case", "--case", "BN-1234", "--url", rig.doors["api"], "--format", "json")
    token = ("--token-file", rig.token("cdc-truy-vet"))
    done = chot("trace", "venue", number, *span, *why, *token)
    assert done.status == 0, done
    visits: list[dict[str, object]] = json.loads(done.out)["visits"]
    return visits


def test_lists_of_a_commune_come_in_whole_or_not_at_all(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "danh sách.csv"
    head = "name;category;area;hours\n"
    path.write_text(head + "Quán A;quán ăn;QT-HL-DS;\nQuán B;pub;QT-HL-DS;\nQuán C;cafe;XX;\n"
                    "Quán D;cafe;QT-HL-DS;morning\n", encoding="utf-8")  # fmt: skip
    done = venue(rig, "import", path)
    assert done.status == 1
    *faults, last = done.err.splitlines()
    # What only the engine knows is told together with what is wrong in itself.
    assert [re.findall(r"line (\d+)", fault) for fault in faults] == [["3"], ["4"], ["5"]], faults
    assert "nothing was taken: 3 faults" in last
    path.write_text(head + "Quán A;quán ăn;QT-HL-DS;\nQuán C;cafe;QT-HL-DS;\n", encoding="utf-8")
    assert venue(rig, "import", path).out == "2 records written, 0 were there already\n"
    assert venue(rig, "import", path).out == "0 records written, 2 were there already\n"
    assert_mistake(venue(rig, "import", tmp_path / "none.csv"), "no file")


def test_coverage_and_the_list_of_venues(rig: Rig, tmp_path: Path) -> None:
    assert scan(rig, dict(codes(rig))["1013"]) == "taken"
    done = venue(rig, "coverage", "--area", "huyện vĩnh linh", "--out", tmp_path / "c.json")
    assert done.status == 0, done
    answer = json.loads((tmp_path / "c.json").read_text())
    (row,) = [r for r in answer["rows"] if (r["area"], r["category"]) == ("QT-VL-HX", "market")]
    assert (row["known"], row["registered"], row["active"]) == (1, 1, 1)
    shown = venue(rig, "coverage", "--area", "QT-VL-HX")
    assert re.search(r"^market +1 +1 +100\.0% +1 +100\.0%$", shown.out, re.M), shown
    assert venue(rig, "coverage", "--out", tmp_path / "c.xlsx").status == 0
    sheet = load_workbook(tmp_path / "c.xlsx")["coverage"]
    assert [cell.value for cell in sheet[1]][:3] == ["area", "area_name", "category"]
    done = venue(rig, "export", "--area", "QT-VL", "--out", tmp_path / "v.csv")
    listed = list(csv.DictReader(io.StringIO((tmp_path / "v.csv").read_text("utf-8-sig"))))
    assert done.out.endswith(f": {len(listed)} venues\n") and len(listed) > 10
    assert answer["all"]["registered"] == len(listed)
    market = next(row for row in listed if row["number"] == "1013")
    assert (market["unit_name"], market["area_name"]) == ("Sở Công Thương", "Thị trấn Hồ Xá")
    # Registered today: a list as of last year has none of them.
    done = venue(rig, "export", "--day", "2021-06-15", "--out", tmp_path / "v.xlsx")
    assert done.out.endswith(": 0 venues\n")
    assert_refused(venue(rig, "coverage", "--area", "nowhere"), "registry.not_found")
    assert_mistake(venue(rig, "coverage", "--out", tmp_path / "c.pdf"), "--out")
    assert_mistake(venue(rig, "coverage", "--day", "2021"), "--day")


def codes(rig: Rig) -> Iterator[tuple[str, str]]:
    for line in rig.registry("codes").out.splitlines():
        number, _, text = line.partition("\t")
        yield number, text


def test_mistakes(rig: Rig) -> None:
    assert_mistake(venue(rig, "rotate"), "--key")
    assert_mistake(venue(rig, "rotate", "1013", "--key"), "--key")
    assert_mistake(venue(rig, "rotate", "--key"), "--until")
    assert_mistake(venue(rig, "add", "--name", "X", "--category", "pub", "--area", "QT"), "one of")
    assert_refused(venue(rig, "revoke", "7"), "registry.not_found")
    assert_refused(venue(rig, "show", "7"), "registry.not_found")
    done = venue(rig, "add", "--name", "X", "--category", "cafe", "--area", "QT", "--hours", "x")
    assert done.status == 1 and "hours" in done.err
