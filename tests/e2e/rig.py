"""Real processes for the tests of the whole: an engine, its gateways, a link driven by hand, and
the store read behind the engine's back.

What a test compares is read from the stopped store and derived anew, so that no part of the engine
vouches for itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import os
import re
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from engine.cli.story import MARKET, Person, Story, make_person, make_story
from engine.client import admin
from engine.client import api_client as client
from engine.clock import HOUR_MS, SystemClock, date_to_day, day_to_date, day_to_ms, iso_to_ms
from engine.identity.keys import FileKeyRing
from engine.keeping.verify import verify_store
from engine.presence.visits import SCAN, PlaceRules, derive
from engine.registry.registry import Registry
from engine.scans.records import encode_scan, encode_scans
from engine.scans.rows import ROW, Kind
from engine.storage.control_lmdb import ControlLog
from engine.storage.group import Group
from engine.storage.journal_lmdb import LmdbJournal
from engine.wire import frames as wire
from tests.reference.batches import read_groups

ROOT = Path(__file__).resolve().parents[2]
CLIPS = ROOT / "tests/data/lanes"
TABLES = ROOT / "docs/examples/registry"
LANES = (1, 2, 3)
BACK_END = "venue-app"
TRACER = "cdc-truy-vet"
WHY = {"purpose": "case", "case": "BN-1901"}
WAIT_S = 60.0  # for anything that must happen; a busy box is no failure
FPS = 40
# One day for ever, so that the story is the same in every run; the engine keeps it that long.
DAY = date_to_day("2021-07-01")
KEPT_FOR_EVER = {"retention_days": 36_500}
CLIP_MS = day_to_ms(DAY) + round(17.5 * HOUR_MS)

M = TypeVar("M")
Visit = tuple[bytes, int, int, int, int]  # person key, place, start, end, rule


def lane_name(lane: int) -> str:
    return f"vl-1a-{lane}"


GATEWAYS = (*map(lane_name, LANES), BACK_END)


def cast() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((CLIPS / "cast.json").read_text(encoding="utf-8"))
    return found


def until(is_so: Callable[[], bool], timeout_s: float = WAIT_S, pause_s: float = 0.02) -> None:
    """Waits for something that has to come true."""
    end_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(pause_s)


def run_chot(*arguments: str, timeout_s: float = WAIT_S) -> subprocess.CompletedProcess[str]:
    """`chot ARGUMENTS` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "engine", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        cwd=tempfile.gettempdir(),
    )


# ---- the engine ---------------------------------------------------------------------------------


class EngineProcess:
    """`chot serve --json` on one data folder; may be killed and started again on the same port.

    settings: as for --set. preexec: called in the child before it becomes the engine.
    """

    def __init__(
        self,
        data: Path,
        *,
        settings: dict[str, object] | None = None,
        with_api: bool = True,
        preexec: Callable[[], None] | None = None,
    ) -> None:
        self.data = data
        self.log = data.with_name(data.name + ".engine.log")
        self.port = 0
        self.api = ""
        self.listen: dict[str, str] = {}  # URLs by scheme of what `ingest_listen` opened
        self.env: dict[str, str] = {}  # of the next start
        self.process: subprocess.Popen[bytes] | None = None
        self._settings = settings or {}
        self._with_api = with_api
        self._preexec = preexec

    def __enter__(self) -> EngineProcess:
        if self.process is None:
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def start(self) -> float:
        """Until its doors are open; seconds from the command to there."""
        begun_s = time.monotonic()
        command = [sys.executable, "-m", "engine", "serve", "--json", "--data", str(self.data)]
        command += ["--registry", str(TABLES), "--set", f"ingest_port={self.port}"]
        command += ["--set", "api_port=0"]
        command += [f"--set={name}={value}" for name, value in self._settings.items()]
        if not self._with_api:
            command += ["--part", "engine"]
        with self.log.open("ab") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": str(ROOT), **self.env},
                preexec_fn=self._preexec,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log_text()
        doors = json.loads(line)
        self.port = int(doors["ingest"].rpartition(":")[2])
        self.api = doors.get("api", "")
        self.listen = {url.partition(":")[0]: url for url in doors.get("listen", "").split()}
        return time.monotonic() - begun_s

    def kill(self) -> None:
        """kill -9: no last word, no flush."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(WAIT_S)
        self._close()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(WAIT_S)
        self._close()
        return status

    def _close(self) -> None:
        assert self.process is not None and self.process.stdout is not None
        self.process.stdout.close()

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def opened_ms(self) -> list[int]:
        """How long each start took the engine itself, from its log."""
        return [int(ms) for ms in re.findall(r"engine open .* ms=(\d+)", self.log_text())]

    def metrics_text(self) -> str:
        return client.get_text(self.api + "/metrics")

    def metric(self, name: str, **labels: str) -> float:
        """A sample of /metrics, 0 when it is not there. Counters go by their catalogue name."""
        inside = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
        head = f"{name}{{{inside}}}" if inside else name
        for line in self.metrics_text().splitlines():
            found, _, value = line.rpartition(" ")
            if found in (head, head.replace(name, name + "_total", 1)):
                return float(value)
        return 0.0

    def rss_bytes(self) -> int:
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        match = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert match is not None
        return int(match[1]) * 1024


# ---- enrolled folders ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Enrolment:
    """A data folder with registry, keys, gateway files and a tracer's token; no engine runs.

    Copies of it share keys and tokens, so that runs on them can be compared byte for byte.
    """

    folder: Path
    token: str
    codes: dict[int, str]
    gateways: dict[str, str]  # text of the TOML files

    def copy_to(self, folder: Path) -> Path:
        """The data folder of a copy."""
        data = folder / "data"
        shutil.copytree(self.folder, data)
        return data

    def gateway_token(self, name: str) -> str:
        match = re.search(r'^token = "(.*)"$', self.gateways[name], re.M)
        assert match is not None
        return match[1]

    def gateway_file(self, name: str, folder: Path, port: int) -> Path:
        """A gateway's TOML file with its spool in `folder`."""
        text = re.sub(r"^(url = .*:)\d+", rf"\g<1>{port}", self.gateways[name], flags=re.M)
        spool = json.dumps(str(folder / f"spool-{name}"))
        text = re.sub(r"^spool = .*$", f"spool = {spool}", text, flags=re.M)
        path = folder / f"{name}.toml"
        admin.write_secret(path, text)
        return path


@functools.cache
def scratch() -> Path:
    """A folder for what several tests share; it goes with the test process."""
    folder = tempfile.TemporaryDirectory(prefix="chot-rig-")
    _kept.append(folder)
    return Path(folder.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []


@functools.cache
def enrolment() -> Enrolment:
    """Made once a test process by a real engine."""
    data = scratch() / "enrolled"

    async def enrol() -> Enrolment:
        async with admin.connect(data) as owner:
            texts = {name: await admin.enrol_gateway(owner, name, spool=data) for name in GATEWAYS}
            token = await admin.issue_token(owner, TRACER)
            return Enrolment(data, token, await admin.venue_codes(owner), texts)

    with EngineProcess(data, with_api=False) as engine:
        made = asyncio.run(enrol())
        assert engine.stop() == 0
    return made


@functools.cache
def story() -> Story:
    """A small day around the first person of the clips."""
    shown = cast()["codes"]["anh"]
    case = Person(shown["holder"], shown["payload"].split("|")[0], shown["payload"])
    return make_story(DAY, people=60, case=case, codes=enrolment().codes)


# ---- gateways -----------------------------------------------------------------------------------


class GatewayProcess:
    """`chot gateway`; its lines are read as they come."""

    def __init__(self, config: Path, *source: str) -> None:
        self.log = config.with_suffix(".log")
        self.lines: list[dict[str, Any]] = []
        with self.log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "engine", "gateway", "run", str(config), *source],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @classmethod
    def of_lane(cls, config: Path, lane: int, fps: float = FPS) -> GatewayProcess:
        """A lane's clip, played as if recorded in the afternoon of DAY."""
        clip = str(CLIPS / f"lane{lane}.mjpeg")
        return cls(config, "--frames", clip, "--fps", str(fps), "--start-ms", str(CLIP_MS))

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):  # a line cut by kill -9
                self.lines.append(json.loads(line))

    @property
    def verdicts(self) -> list[tuple[str, str | None]]:
        """(verdict, reason) in order."""
        return [(x["verdict"], x.get("reason")) for x in list(self.lines) if "verdict" in x]

    @property
    def stats(self) -> dict[str, Any]:
        found: dict[str, Any] = self.lines[-1]["stats"]
        return found

    def wait(self) -> int:
        status = self.process.wait(WAIT_S)
        self._thread.join(WAIT_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status

    def kill(self) -> None:
        self.process.kill()
        self.wait()


@dataclass
class Job:
    """One run of the main job in a folder of its own: an engine and four gateways."""

    folder: Path
    engine: EngineProcess
    port: int = 0  # where gateways connect; the engine's own when 0
    gateways: dict[str, GatewayProcess] = field(default_factory=dict)
    old_logs: list[str] = field(default_factory=list)

    def open(self, name: str) -> GatewayProcess:
        """Starts a gateway with its source from the beginning, on the spool it has."""
        port = self.port or self.engine.port
        config = enrolment().gateway_file(name, self.folder, port)
        if name == BACK_END:
            records = self.folder / "checkins.jsonl"
            story().write(records)
            gateway = GatewayProcess(config, "--records", str(records), "--rate", "60")
        else:
            gateway = GatewayProcess.of_lane(config, int(name[-1]))
        self.gateways[name] = gateway
        return gateway

    def open_all(self) -> None:
        """Lane 1 leads by one verdict: who shows a code first decides which lane sees it again."""
        self.open(BACK_END)
        first = self.open(lane_name(1))
        until(lambda: bool(first.verdicts) or first.process.poll() is not None)
        for lane in LANES[1:]:
            self.open(lane_name(lane))

    def finish(self) -> None:
        """Until all gateways are drained."""
        for name, gateway in self.gateways.items():
            assert gateway.wait() == 0, (name, gateway.log.read_text(encoding="utf-8"))
            assert gateway.stats["is_drained"], name

    def end(self) -> None:
        for gateway in self.gateways.values():
            if gateway.process.poll() is None:
                gateway.kill()


@contextlib.contextmanager
def job(folder: Path, *, data: Path | None = None, **options: Any) -> Iterator[Job]:
    """A started engine, on a copy of the enrolment or on a data folder that lies elsewhere; ends
    everything that still runs. The log and the gateways' files are in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    options["settings"] = KEPT_FOR_EVER | options.get("settings", {})
    data = data or enrolment().copy_to(folder)
    engine = EngineProcess(data, **options)
    engine.log = folder / f"{data.name}.engine.log"
    made = Job(folder, engine)
    with engine:
        try:
            yield made
        finally:
            made.end()


# ---- a link driven by hand ----------------------------------------------------------------------


class RawLink:
    """One CKP/1 connection that says what its test says, whether an engine likes it or not."""

    def __init__(
        self, port: int, *, timeout_s: float = 20, context: ssl.SSLContext | None = None
    ) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_hostname="127.0.0.1")
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.inbox: list[wire.Message] = []
        self.is_closed = False
        self._reader = wire.FrameReader()

    def __enter__(self) -> RawLink:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *messages: wire.Message) -> None:
        self.send_bytes(b"".join(map(wire.encode, messages)))

    def send_bytes(self, data: bytes) -> None:
        """What the engine does not take any more is its right."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
            self.send_whole(data)

    def send_whole(self, data: bytes) -> None:
        """Raises OSError when the engine does not take it."""
        self.socket.sendall(data)

    def receive_bytes(self) -> bytes:
        return self.socket.recv(1 << 16)

    def hello(self, name: str, **changes: Any) -> wire.Message:
        """HELLO; the first answer."""
        self.send(hello(name, **changes))
        return self.next()

    def next(self) -> wire.Message:
        """The next message. Raises EOFError when the engine closed the link."""
        while not self.inbox:
            try:
                data = self.receive_bytes()
            except (ConnectionResetError, ssl.SSLEOFError):
                data = b""
            if not data:
                self.is_closed = True
                raise EOFError
            self.inbox += self._reader.feed(data)
        return self.inbox.pop(0)

    def wait_for(self, kind: type[M]) -> M:
        """The next message of a type; what comes before it is dropped."""
        while True:
            message = self.next()
            if isinstance(message, kind):
                return message

    def rest(self) -> list[wire.Message]:
        """Everything until the engine closes the link."""
        found: list[wire.Message] = []
        with contextlib.suppress(EOFError):
            while True:
                found.append(self.next())
        return found

    def error_code(self) -> int:
        """Code of the ERROR that ends this link; 0 when it ended without one."""
        errors = [m for m in self.rest() if isinstance(m, wire.Error)]
        assert len(errors) <= 1
        return errors[0].code if errors else 0

    def settled(self, cls: int, seq: int) -> list[wire.Message]:
        """What came until the receipt for seq, which is the last of it."""
        found: list[wire.Message] = []
        while True:
            found.append(self.next())
            match found[-1]:
                case wire.Ack(cls=of, seq=at) if of == cls and at >= seq:
                    return found
                case wire.Error() as error:
                    raise AssertionError(f"{error.code}: {error.text}")


def hello(name: str, **changes: Any) -> wire.Hello:
    """The HELLO of an enrolled gateway with an epoch of its own."""
    fields: dict[str, Any] = {
        "gateway": name,
        "epoch": secrets.randbits(63),
        "inst": bytes(8),
        "lanes": [],
        "next": (1, 1),
        "oldest": 1,
        "max_frame": wire.BODY_MAX,
        "t0": time.time_ns(),
        "token": enrolment().gateway_token(name),
    }
    return wire.Hello(**{**fields, **changes})


def scans(seq: int, *records: bytes, flags: int = 0) -> wire.Scans:
    return wire.Scans(seq=seq, body=encode_scans(records), flags=flags)


_numbers = itertools.count(5000)
_names: deque[str] = deque(maxlen=16)  # of the last ones: who is looked for is not who stayed


def fresh_person() -> Person:
    """Somebody whom no test has shown before, with a name that nobody had lately."""
    import random

    while True:
        number = next(_numbers)
        person = make_person(random.Random(number), number)
        if person.name not in _names:
            _names.append(person.name)
            return person


def person_scan(person: Person, lane: int = 1, at_ms: int | None = None) -> bytes:
    at_ms = SystemClock().now_ms() if at_ms is None else at_ms
    return encode_scan(at_ms, lane, person.payload.encode())


class Proxy:
    """Carries TCP to a port and, when told, aborts every connection (RST both ways)."""

    def __init__(self, target: Callable[[], int]) -> None:
        self.cuts = 0
        self._target = target
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Aborts every connection that is open now."""
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            self.cuts += 1
            for end in pair:
                _abort(end)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                inner, _ = self._listener.accept()
                try:
                    outer = socket.create_connection(("127.0.0.1", self._target()), timeout=5)
                except OSError:
                    inner.close()
                    continue
                outer.settimeout(None)
                with self._lock:
                    self._pairs.add((inner, outer))
                for one, other in ((inner, outer), (outer, inner)):
                    threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            # One end is gone; the other must not wait for it in silence.
            _abort(source)
            _abort(target)


def _abort(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        # Linger 0 makes close() send RST instead of FIN, as a cut cable looks.
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        end.shutdown(socket.SHUT_RDWR)
    end.close()


# ---- the store behind the engine's back ---------------------------------------------------------


@dataclass
class Stored:
    """What a stopped store holds. rows: ROW in the order of the log."""

    groups: list[Group]
    rows: np.ndarray[Any, Any]
    tallies: Counter[tuple[int, int, int]]  # (place, lane, reason) -> count
    registry: Registry

    def visits(self) -> set[Visit]:
        """Derived anew from nothing but the rows and the rules of the registry."""
        keys = sorted({row.tobytes() for row in self.rows["person"]})
        numbers = {key: n for n, key in enumerate(keys)}
        found = np.zeros(len(self.rows), SCAN)
        for name in ("time_ms", "place", "vehicle", "stay_ms", "lane", "direction", "kind"):
            found[name] = self.rows[name]
        found["ref"] = np.arange(len(found)) + 1
        found["person"] = [numbers[row.tobytes()] for row in self.rows["person"]]
        rules = PlaceRules(self.registry.place_rules())
        visits = derive(found, rules, self.registry.visit_rules())
        made = [
            (keys[v["person"]], *(int(v[name]) for name in ("place", "start_ms", "end_ms", "rule")))
            for v in visits
        ]
        assert len(set(made)) == len(made)
        return set(made)

    def checkins(self) -> Counter[bytes]:
        """Every check-in row as it is stored, but for its place within a message."""
        rows = self.rows[self.rows["kind"] == Kind.CHECKIN].copy()
        rows["n"] = 0
        return Counter(row.tobytes() for row in rows)


def read_store(data: Path) -> Stored:
    """A stopped store, opened with its keys; it must be sound. Changes nothing that counts."""
    ring = FileKeyRing(data / "keys")
    report = verify_store(data, ring)
    assert report.problems == []
    assert report.rows_opened == report.rows
    registry = Registry()
    control = ControlLog(data / "control", now_ms=0)
    for record in control.read():
        registry.apply(record)
    control.close()
    groups = asyncio.run(_read_groups(data, ring))
    rows = np.concatenate([group.rows for group in groups]) if groups else np.zeros(0, ROW)
    tallies: Counter[tuple[int, int, int]] = Counter()
    for group in groups:
        for tally in group.tallies:
            key = (int(tally["place"]), int(tally["lane"]), int(tally["reason"]))
            tallies[key] += int(tally["count"])
    return Stored(groups, rows, tallies, registry)


async def _read_groups(data: Path, ring: FileKeyRing) -> list[Group]:
    journal = LmdbJournal(data / "journal", ring, SystemClock(), floor_bytes=0)
    groups = await read_groups(journal)
    await journal.close()
    return groups


class Done:
    """A finished run of the main job: what was seen while it ran, and the store it left.

    market_hours: the span of the venue question, ms.
    """

    def __init__(self, made: Job) -> None:
        self.data = made.engine.data
        self.gateways = dict(made.gateways)
        self.market_hours = (iso_to_ms(f"{day_text()}T06:30"), iso_to_ms(f"{day_text()}T07:00"))
        self.answers = self._ask(made.engine.api)
        self.figures = client.figures(made.engine.api, enrolment().token, day_text())
        self.metrics = made.engine.metrics_text()
        self.status = made.engine.stop()
        self.engine_log = made.engine.log_text()
        self.stored = read_store(self.data)

    def _ask(self, url: str) -> dict[str, dict[str, Any]]:
        hours = dict(zip(("from", "to"), self.market_hours, strict=True))
        span = {"from": story().from_ms, "to": story().to_ms}
        person = {"kind": "cccd", "value": story().case.cccd}
        bodies = {
            "venue": {**hours, "place": MARKET},
            "person": {**span, "person": person},
            "contacts": {**span, "person": person, "profile": "WHO", "linger_minutes": 0},
        }
        return {
            question: client.trace(url, enrolment().token, question, {**WHY, **body})
            for question, body in bodies.items()
        }

    @property
    def metric(self) -> dict[str, float]:
        """Samples of /metrics just before the end."""
        lines = [x.rpartition(" ") for x in self.metrics.splitlines() if not x.startswith("#")]
        return {name: float(value) for name, _, value in lines}


@functools.cache
def undisturbed() -> Done:
    """The main job without any trouble, run once a test process."""
    with job(scratch() / "undisturbed") as made:
        made.open_all()
        made.finish()
        until(lambda: made.engine.metric("chot_index_lag_groups") == 0)
        return Done(made)


# ---- persons must not show ----------------------------------------------------------------------


def secrets_of(person: Person) -> list[str]:
    """Words that only this person's code could have put somewhere."""
    words = [word for word in re.split(r"[|<,]", person.payload) if len(word.strip()) > 3]
    return [person.name, person.cccd, *map(str.strip, words)]


def check_no_person(text: str) -> None:
    """No name, number or address of anybody of the clips or the story."""
    people = [Person(c["holder"], "", c["payload"]) for c in cast()["codes"].values()]
    words = {word for person in people for word in secrets_of(person) if word}
    for line in story().lines:
        words |= set(secrets_of(Person("", "", json.loads(line)["who"]["payload"])))
    words -= {"Nam", "Nữ", ""}
    for word in words:
        assert word not in text, "a person's data shows"
    assert not re.search(r"\b\d{6}999\d{3}\b", text)


def day_text() -> str:
    return day_to_date(DAY)
