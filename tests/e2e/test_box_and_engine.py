"""A box against a real engine: camera, terminal, officer's page, each a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.reference.command import WAIT_S, Rig, start
from tests.reference.gateway_rig import ROOT, free_port

REGISTRY = ROOT / "docs/examples/registry"


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig("--registry", REGISTRY)
    yield made
    made.close()


@pytest.fixture
def camera_url() -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.reference.camera_peer"],
        stdout=subprocess.PIPE, cwd=ROOT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    process.kill()
    process.wait()


def post(port: int, path: str, body: Any) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
        return json.loads(answer.read())


def test_a_lane_with_a_camera_a_terminal_and_an_officer(
    rig: Rig, camera_url: str, tmp_path: Path
) -> None:
    thermal, officer = free_port(), free_port()
    enrolled = rig.enrol("vl-1a-1").read_text()
    config = tmp_path / "box.toml"
    config.write_text(
        'decode = "gateway"\n' + enrolled[: enrolled.index("[[sources]]")]
        + f'[[sources]]\nkind = "mjpeg"\nlane = 1\nurl = "{camera_url}/mjpeg/lane1"\nfps = 60\n'
        + f'[[sources]]\nkind = "thermal"\nlane = 1\nport = {thermal}\ntie_s = 10\n'
        + f'[[sources]]\nkind = "officer"\nport = {officer}\n'
    )  # fmt: skip
    box = start("gateway", "run", config, cwd=ROOT)
    lines: list[dict[str, Any]] = []

    def until(is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            lines.append(json.loads(box.stdout.readline()))
            if is_so(lines[-1]) and not lines[-1].get("local"):
                return lines[-1]
        raise AssertionError(lines)

    try:
        until(lambda line: line.get("verdict") == "accepted")  # out of the camera's pixels
        assert post(thermal, "/", {"temperature": 39.2, "device": "th-1"}) == {"taken": True}
        fever = until(lambda line: line.get("reason") == "fever")
        assert (fever["verdict"], fever["lane"]) == ("alert", 1)
        entry = {"lane": 1, "fields": {"name": "Đỗ Thị Mận"}, "officer": "vl-07", "why": "không mã"}
        assert post(officer, "/v1/entries", entry)["taken"]
        assert until(lambda line: line.get("name") == "Đỗ Th***")["verdict"] == "accepted"
        box.send_signal(signal.SIGTERM)
        stats = until(lambda line: "stats" in line)["stats"]
        assert stats["is_drained"] and stats["readings_tied"] == 1 and not stats["frames_sent"]
        assert box.wait(WAIT_S) == 0
    finally:
        box.kill()
        box.communicate()
