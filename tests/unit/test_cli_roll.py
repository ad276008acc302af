"""Lists on a command's way: rolls as CSV, vehicles as lines; nothing of them is ever quoted."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.cli.parser import UseError
from engine.cli.roll import ROWS_MAX, read_roll, read_vehicle


def roll(tmp_path: Path, text: str, encoding: str = "utf-8") -> list[dict[str, object]]:
    path = tmp_path / "list.csv"
    path.write_bytes(text.encode(encoding))
    return read_roll(str(path))


def test_a_list_as_a_spreadsheet_writes_it(tmp_path: Path) -> None:
    text = (
        "\ufeffSTT;Họ và tên;Giới tính;Quốc tịch;Ngày tháng năm sinh;Số hộ chiếu;CCCD\r\n"
        "1;Nguyễn Văn Bình;Nam;VNM;17/5/1990;;'045090999001\r\n"
        '2;"Doe; Jane";Nữ;gbr;1988-02-03;999123;\r\n'
        ";;;;;;\r\n"
        "3;Trần Thị Hoa;Nữ;Việt Nam;1991\r\n"
    )
    assert roll(tmp_path, text) == [
        {
            "documents": [{"kind": "cccd", "value": "045090999001"}],
            "name": "Nguyễn Văn Bình",
            "birth": "1990-05-17",
            "country": "VNM",
        },
        {
            "documents": [{"kind": "passport", "value": "999123", "issuer": "GBR"}],
            "name": "Doe; Jane",
            "birth": "1988-02-03",
            "country": "GBR",
        },
        {"documents": [], "name": "Trần Thị Hoa", "birth": "", "country": ""},
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no column"),
        ("a,b\n1,2\n", "no column"),
        ("cccd\n", "1 to 10000"),
        ("cccd\n" + "045090999001\n" * (ROWS_MAX + 1), "1 to 10000"),
        ("cccd\n" + "9" * 140_000 + "\n", "no CSV"),
    ],
)
def test_lists_that_are_none(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UseError, match=words) as caught:
        roll(tmp_path, text)
    assert "0450" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UseError, match="UTF-8"):
        roll(tmp_path, "cccd\nNguyễn", "utf-16")
    with pytest.raises(UseError, match="cannot read"):
        read_roll(str(tmp_path / "none.csv"))


def vehicle(monkeypatch: pytest.MonkeyPatch, text: bytes) -> dict[str, str]:
    stream = SimpleNamespace(buffer=io.BytesIO(text), isatty=lambda: False)
    monkeypatch.setattr(sys, "stdin", stream)
    return read_vehicle()


def test_a_vehicle_is_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    found = vehicle(monkeypatch, b"plate 74A-999.01\n\nseat 12 A\ntrip DH-LB 7:45\n")
    assert found == {"plate": "74A-999.01", "seat": "12 A", "trip": "DH-LB 7:45"}
    for wrong in (b"", b"seat 3\n", b"car 74A\n", b"plate\n", b"plate 1\nplate 2\n", b"\xff\n"):
        with pytest.raises(UseError) as caught:
            vehicle(monkeypatch, wrong)
        assert "74A-999.01" not in str(caught.value)
