"""PostgreSQL and Redis for one run: started when a case first asks, stopped at the end.

Debian's packages, or whatever is on the PATH. Each lives in a temporary folder and listens on a
Unix socket in it alone, the quickest way to both that they document. A commit is durable when it is
answered: `fsync` and `synchronous_commit` stay on, Redis syncs its append-only file before that.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from bench import peers
from bench.peers import Absent

START_S: Final = 60.0
PG_SETTINGS: Final = (
    "listen_addresses=", "fsync=on", "synchronous_commit=on", "full_page_writes=on",
    "shared_buffers=512MB", "max_wal_size=4GB", "checkpoint_timeout=1h", "wal_buffers=16MB",
    "jit=off", "max_connections=8", "effective_cache_size=1GB", "random_page_cost=1.1",
)  # fmt: skip
PG_NOTE: Final = "shared_buffers=512MB, max_wal_size=4GB, synchronous_commit=on, Unix socket"
REDIS_SETTINGS: Final = (
    "--port", "0", "--appendonly", "yes", "--appendfsync", "always", "--save", "",
    "--auto-aof-rewrite-percentage", "0", "--daemonize", "no",
)  # fmt: skip
REDIS_NOTE: Final = "appendonly, appendfsync always, hiredis, Unix socket"


class Servers:
    """with Servers(is_wanted) as servers: PostgreSQL and Redis on demand."""

    def __init__(self, is_wanted: bool = False) -> None:
        self._is_wanted = is_wanted
        self._folder: Path | None = None
        self._running: list[tuple[subprocess.Popen[bytes], int]] = []
        self._doors: dict[str, str | Absent] = {}

    def __enter__(self) -> Servers:
        if self._is_wanted:  # an end by SIGTERM stops what was started, too
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        return self

    def __exit__(self, *_: object) -> None:
        for process, stop in self._running:
            process.send_signal(stop)
        for process, _stop in self._running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(START_S)
                continue
            process.kill()
            process.wait()
        self._running.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def postgres(self) -> str:
        """What psycopg.connect takes. Raises Absent."""
        return self._door("postgres", self._start_postgres)

    def redis(self) -> str:
        """Path of the socket. Raises Absent."""
        return self._door("redis", self._start_redis)

    def _door(self, name: str, start: Callable[[], str]) -> str:
        if not self._is_wanted:
            raise Absent("runs with --servers only")
        if name not in self._doors:
            try:
                self._doors[name] = start()
            except Absent as reason:
                self._doors[name] = reason
        door = self._doors[name]
        if isinstance(door, Absent):
            raise door
        return door

    def _scratch(self, name: str) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="chot-srv-"))
            self._folder.chmod(0o755)
        made = self._folder / name
        made.mkdir(mode=0o700)
        return made

    def _start_postgres(self) -> str:
        psycopg = peers.load("psycopg")
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        on_path = shutil.which("initdb")
        if not found and not on_path:
            raise Absent("no PostgreSQL here (apt-get install postgresql)")
        tools = found[-1].parent if found else Path(str(on_path)).parent
        folder = self._scratch("pg")
        who: dict[str, Any] = {}
        if os.getuid() == 0:  # PostgreSQL will not run as root
            user = pwd.getpwnam(_first_user("postgres", "nobody"))
            os.chown(folder, user.pw_uid, user.pw_gid)
            who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        data, log = folder / "data", folder / "log"
        words = [str(tools / "initdb"), "-D", str(data), "-U", "bench", "-A", "trust",
                 "-E", "UTF8", "--locale=C", "--no-sync"]  # fmt: skip
        done = subprocess.run(words, cwd=folder, capture_output=True, check=False, **who)
        if done.returncode:
            raise Absent(f"initdb: {_last_line(done.stderr)}")
        words = [str(tools / "postgres"), "-D", str(data), "-k", str(folder)]
        words += [word for setting in PG_SETTINGS for word in ("-c", setting)]
        # SIGINT: it ends at once and in order, whoever is connected.
        self._run(words, folder, log, signal.SIGINT, who)
        door = f"host={folder} user=bench dbname=postgres"
        self._wait("PostgreSQL", log, lambda: psycopg.connect(door).close(), psycopg.Error)
        return door

    def _start_redis(self) -> str:
        redis = peers.load("redis")
        tool = shutil.which("redis-server")
        if tool is None:
            raise Absent("no Redis here (apt-get install redis-server)")
        folder = self._scratch("redis")
        door, log = folder / "s", folder / "log"
        words = [tool, *REDIS_SETTINGS, "--dir", str(folder), "--unixsocket", str(door)]
        self._run(words, folder, log, signal.SIGTERM, {})
        client = redis.Redis(unix_socket_path=str(door))
        self._wait("Redis", log, client.ping, redis.RedisError)
        client.close()
        return str(door)

    def _run(
        self, words: list[str], folder: Path, log: Path, stop: signal.Signals, who: dict[str, Any]
    ) -> None:
        with log.open("wb") as output:
            process = subprocess.Popen(
                words, cwd=folder, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, **who,
            )  # fmt: skip
        self._running.append((process, stop))

    def _wait(self, name: str, log: Path, ask: Callable[[], object], error: type) -> None:
        process, _ = self._running[-1]
        until_s = time.monotonic() + START_S
        while process.poll() is None and time.monotonic() < until_s:
            with contextlib.suppress(error):
                ask()
                return
            time.sleep(0.05)
        raise Absent(f"{name} did not start: {_last_line(log.read_bytes())}")


def _first_user(*names: str) -> str:
    known = {user.pw_name for user in pwd.getpwall()}
    return next((name for name in names if name in known), names[-1])


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no word"
