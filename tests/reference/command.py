"""The command `chot` as tests call it: in this process, as a process, and an engine to speak to."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from engine.cli import main as cli

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 60.0  # for anything that must happen; a busy box is no failure
SECRET = "045190999013"  # an invented person's number; it must never come back


@dataclass(frozen=True)
class Done:
    """What a call left behind. out, err: UTF-8."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


def clean_env(env: Mapping[str, str]) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("CHOT_")}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "80", **env}


def chot(*words: object, stdin: bytes | str = b"", **env: str) -> Done:
    """A call in this process."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2))
    with (
        mock.patch.dict(os.environ, clean_env(env), clear=True),
        mock.patch("sys.stdin", io.TextIOWrapper(io.BytesIO(data))),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            status = cli.main([str(word) for word in words])
        except SystemExit as end:
            status = int(str(end.code or 0))
    texts = []
    for stream in (out, err):
        stream.flush()
        buffer = stream.buffer
        assert isinstance(buffer, io.BytesIO)
        texts.append(buffer.getvalue().decode())
    return Done(status, *texts)


def start(*words: object, env: Mapping[str, str] | None = None, **options: Any) -> Any:
    """A process of its own; what is not given of its streams is a pipe."""
    for name in ("stdin", "stdout", "stderr"):
        options.setdefault(name, subprocess.PIPE)
    command = [sys.executable, "-m", "engine", *map(str, words)]
    return subprocess.Popen(command, env=clean_env(env or {}), **options)


def finish(process: Any, stdin: bytes = b"") -> Done:
    out, err = process.communicate(stdin, timeout=WAIT_S)
    return Done(process.returncode, (out or b"").decode(), (err or b"").decode())


def assert_mistake(done: Done, *needles: str) -> None:
    """One clear line on stderr, nothing else, and no word that may be somebody's number."""
    assert (done.status, done.out) == (2, ""), done
    (line,) = done.err.splitlines()
    assert line.startswith("chot"), line
    for needle in needles:
        assert needle in line
    assert SECRET not in line and "Traceback" not in line
    assert len(line) < 250


def assert_refused(done: Done, code: str) -> None:
    """The engine or a file says no: one line with the code."""
    assert (done.status, done.out) == (1, ""), done
    (line,) = done.err.splitlines()
    assert re.match(rf"chot [a-z ]+: {re.escape(code)}: \S", line), line
    assert SECRET not in line


class Rig:
    """`chot serve` in a folder of its own."""

    def __init__(self, *words: object) -> None:
        # A socket's path has at most 107 bytes, which pytest's folders may pass.
        self.home = Path(tempfile.mkdtemp(prefix="chot-cli-"))
        self.data = self.home / "store"
        self._log = (self.home / "serve.log").open("wb")
        self._words = ("--json", "--set=ingest_port=0", "--set=api_port=0", *words)
        self.process = start(
            "serve", "--data", self.data, *self._words, stderr=self._log, stdin=subprocess.DEVNULL
        )
        line = self.process.stdout.readline()
        assert line, (self.home / "serve.log").read_text()
        self.doors: dict[str, str] = json.loads(line)

    def registry(self, action: str, *words: object, **options: Any) -> Done:
        return chot("registry", action, *words, "--data", self.data, **options)

    def token(self, grant: str) -> Path:
        path = self.home / f"{grant}.token"
        assert self.registry("token", grant, "--out", path).status == 0
        return path

    def enrol(self, name: str) -> Path:
        path = self.home / f"{name}.toml"
        if not path.exists():
            assert self.registry("enrol", name, "--out", path).status == 0
        return path

    def gateway(self, name: str, *words: object, stdin: bytes = b"") -> Done:
        return finish(start("gateway", "run", self.enrol(name), *words), stdin)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=WAIT_S)
        return int(self.process.returncode)

    def close(self) -> None:
        self.stop()
        self._log.close()
        shutil.rmtree(self.home)
