"""The composition root: which parts an engine has, in which order they start and stop.

`serve` runs the engine in this process and the API as a child of it (decision D-7). The child ends
when its standard input does, so it never outlives the engine, whatever kills that.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import stat
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import uvloop

import engine
import native.cpu
from engine.api import server as api
from engine.client import admin
from engine.clock import Clock, SystemClock
from engine.colocation.segmented import SegmentedIndex
from engine.colocation.segments_lmdb import LmdbSegments
from engine.decoding.decode_pool import DecodePool
from engine.derivation import Derivation
from engine.desk.clerk import Clerk
from engine.desk.correction_desk import CorrectionDesk
from engine.desk.deliveries import GROUPS_KEPT, Deliveries, PastLights
from engine.desk.desk import Desk, infos_of
from engine.desk.hold_desk import HoldDesk
from engine.desk.person_desk import PersonDesk
from engine.desk.question_socket import Handler, QuestionServer
from engine.desk.questions import Kit, PlaceInfo, RegistryTaken
from engine.errors import EngineError, EngineUnreachable
from engine.identity.keys import DESK_DIR, FileKeyRing
from engine.ingest.card_reader import CardReader
from engine.ingest.judge import Judge
from engine.ingest.pipeline import Pipeline
from engine.ingest.server import IngestServer
from engine.ingest.trust import load_trust
from engine.keeping.eraser import Derived
from engine.keeping.holds import days_seen
from engine.keeping.knowledge import Keeping
from engine.keeping.verify import CONTROL_DIR, INDEX_DIR, JOURNAL_DIR
from engine.presence.visits import SPAN_MAX_MS, Array, PlaceRules
from engine.registry.files import read_tables
from engine.registry.registry import Registry, Venue
from engine.registry.venue_codes import VenueCodes
from engine.scans.dedup import SeenWindow
from engine.settings import Settings
from engine.storage import generation
from engine.storage.commit_thread import SWITCH_INTERVAL_S
from engine.storage.control_lmdb import ControlLog
from engine.storage.journal_lmdb import LmdbJournal
from engine.telemetry import Log, Metrics, Sample, log_faults, setup_logging
from engine.tracing.tracer import Completeness, GatewayState, Tracer
from engine.wire.address import Address, parse_address, parse_addresses

API_RESTART_S = 1.0
API_STOP_S = 2 * api.STOP_S
FORGET_S = 900  # between looks for days that are due

_log = Log("app")


class Engine:
    """Everything that runs in the engine's process. `async with Engine(settings): ...`"""

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        host = f"[{settings.ingest_host}]" if ":" in settings.ingest_host else settings.ingest_host
        self._addresses = [
            parse_address(f"tcp://{host}:{settings.ingest_port}"),
            *parse_addresses(settings.ingest_listen),
        ]
        self.settings = settings
        self.clock = clock or SystemClock()
        self.metrics = Metrics()
        self.failed = asyncio.Event()  # the engine must not go on
        self.addresses: list[Address] = []  # where gateways are heard, plain TCP first
        self._exits = contextlib.AsyncExitStack()
        self._data = Path(settings.data)

    async def __aenter__(self) -> Engine:
        try:
            await self._start()
        except BaseException:
            await self._exits.aclose()
            raise
        return self

    async def __aexit__(self, *args: object) -> None:
        await self._exits.aclose()

    async def import_tables(self, folder: Path) -> RegistryTaken:
        """CSV tables into the registry; importing them again changes nothing.

        Raises RegistryInvalid and NotFound; nothing of any table was taken then.
        """
        return await self.desk.take_changes(read_tables(folder), "serve")

    # ---- starting, in this order; stopping goes the other way --------------------------------

    async def _start(self) -> None:
        started_ns = self.clock.monotonic_ns()
        trust = load_trust(self.settings.trust)
        self.cards = CardReader(self.settings, self.clock, self.metrics, trust)
        self._open_stores()
        self.registry = Registry()
        self.merges = self.keeping.merges
        for record in self.control.read():
            self.registry.apply(record)
            self.keeping.apply(record)
        self.keeping.use_erasures()
        self.watch.set_aliases(self.merges.aliases())
        self.venue_codes = VenueCodes(self.registry, self.keyring, self.settings.venue_host)
        self.seen = SeenWindow(self.registry.spans())
        self._rules = (self.registry.place_rules(), self.registry.visit_rules())
        self._places = PlaceRules(self._rules[0])
        self.derivation = Derivation(self.journal, self.clock)
        self.index = SegmentedIndex(
            self._places,
            self._rules[1],
            self.segments,
            notes=self.derivation.notes,
            memory_scans=self.settings.index_memory_scans,
        )
        self.past_lights = PastLights()
        self.derivation.take(await asyncio.to_thread(self.index.load, self.journal.read_days))
        self.index.start()
        self._exits.push_async_callback(asyncio.to_thread, self.index.stop)
        await asyncio.to_thread(self.index.set_corrections, self.keeping.book.corrections)
        await self.derivation.replay(self.index, self.seen, self.past_lights, GROUPS_KEPT)
        self.index.set_aliases(self.merges.aliases(), self.merges.ever)
        self.eraser = self.keeping.eraser(self.journal, self.control, self._derived())
        await self.eraser.catch_up()
        self.retention = self.keeping.retention(
            self.journal, self.index, self._days_of, self.settings.retention_days
        )
        self.pool = DecodePool(
            self.settings.decode_threads,
            pixels_max=self.settings.image_pixels_max,
            bytes_max=self.settings.frame_size_max,
            clock=self.clock,
            prepare=self.cards.prepare,
        )
        self._exits.callback(self.pool.close)
        follower = asyncio.create_task(self._follow())
        self._exits.push_async_callback(_cancel, follower)
        await self._open_doors()
        forgetter = asyncio.create_task(self._forget())
        self._exits.push_async_callback(_cancel, forgetter)
        self._opened_ns = self.clock.monotonic_ns()
        self.metrics.add_source(self._samples)
        _log.info(
            "engine open",
            version=engine.__version__,
            cpu=native.cpu.active(),
            port=self.addresses[0].port,
            groups=self.journal.last_lsn(),
            ms=(self._opened_ns - started_ns) // 1_000_000,
        )

    def _open_stores(self) -> None:
        settings = self.settings
        self._data.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Beside a log that exists, a new province key would make everybody a stranger.
        is_new = not generation.is_there(self._data / JOURNAL_DIR)
        self.keyring = FileKeyRing(self._data / "keys", create=is_new)
        self.keyring.retire(self.clock.now_ms())
        self.keeping = Keeping(self.keyring, self._data / "keys", self.clock)
        self.watch = self.keeping.watch
        self.control = ControlLog(self._data / CONTROL_DIR, now_ms=self.clock.now_ms())
        self._exits.callback(self.control.close)
        self.journal = LmdbJournal(
            self._data / JOURNAL_DIR,
            self.keyring,
            self.clock,
            limit_bytes=settings.map_size,
            floor_bytes=settings.free_space_min,
            generation_bytes=settings.generation_size,
            pending_limit_bytes=settings.commit_pending_max,
            strip=self.keeping.erasures.strip,
        )
        self._exits.push_async_callback(self.journal.close)
        self.segments = LmdbSegments(
            self._data / INDEX_DIR, self.keyring, floor_bytes=settings.free_space_min
        )
        self._exits.callback(self.segments.close)

    async def _open_doors(self) -> None:
        judge = Judge(self.seen, self.watch, self.registry.rule)
        pipeline = Pipeline(
            self.settings, self.clock, self.registry, self.keyring, judge, self.metrics, self.cards
        )
        self.ingest = IngestServer(
            self.settings, self.clock, self.registry, self.keyring, pipeline, self.pool,
            self.journal, self.metrics,
        )  # fmt: skip
        self.desk = Desk(
            registry=self.registry,
            tracer=Tracer(self.index, self.clock, self.registry.place, self._completeness),
            figures=self.index.figures,
            tallies=self.derivation.tallies.of_day,
            alarms=self.derivation.alerts,
            watch=self.watch,
            merges=self.merges,
            reviews=self.derivation.reviews,
            keyring=self.keyring,
            control=self.control,
            journal=self.journal,
            clock=self.clock,
            metrics=self.metrics,
            health=self._health,
            kit=self._kit,
            deliver=Deliveries(self.ingest, self.past_lights).take,
            codes=self.venue_codes,
            retention_days=self.settings.retention_days,
            rows_max=self.settings.answer_rows_max,
            on_registry=self._registry_changed,
            on_merges=self._merges_changed,
            further=self._further(),
        )
        self._exits.callback(self.desk.close)
        self.addresses = await self.ingest.start(self._addresses)
        self._exits.push_async_callback(self.ingest.stop)
        questions = QuestionServer(
            self._data / admin.SOCKET_NAME,
            self.desk.answer,
            lambda name: _log.error("question failed", name=name),
        )
        await questions.start()
        self._exits.push_async_callback(questions.close)

    # ---- what is derived from the log --------------------------------------------------------

    async def _forget(self) -> None:
        while True:
            try:
                oldest_ms = self.retention.before_ms()
                held = await self.retention.held()
                self.derivation.alerts.expire(oldest_ms, held)
                self.derivation.reviews.expire(oldest_ms, held)
                self.keeping.erasures.drop_before(oldest_ms)
                self.keyring.retire(self.clock.now_ms())
                await self.retention.run()
                over = self.keeping.drop_over(oldest_ms, held)
                await self.eraser.drop_records(over)
            except Exception as error:
                # A full disk now, or a fault, is no reason to keep people for ever.
                _log.error("days not forgotten", code=_fault_code(error))
            await asyncio.sleep(FORGET_S)

    def _derived(self) -> Derived:
        return Derived(
            persons=self.index.find_persons,
            index=self.index.erase,
            seen=self.seen.forget,
            alerts=self._erase_alerts,
            applied=lambda: self.index.applied_lsn,
            renamed=self._renamed,
        )

    def _erase_alerts(self, find: Callable[[Array], Array]) -> None:
        self.derivation.alerts.erase(find)
        self.derivation.reviews.erase(find)

    async def _renamed(self) -> None:
        await self._merges_changed()
        await asyncio.to_thread(self.index.set_corrections, self.keeping.book.corrections)

    def _days_of(self, persons: Collection[bytes]) -> set[int]:
        found = self.index.history(persons, -SPAN_MAX_MS, SPAN_MAX_MS)
        return days_seen(found.visits)

    def _further(self) -> dict[type, Handler]:
        """The desks of what is kept, corrected, exported and erased."""
        clerk = Clerk(self.registry, self.keyring, self.control.append, self.clock)
        holds = HoldDesk(
            clerk, self.keeping.holds, self.retention, self._days_of,
            retention_days=self.settings.retention_days, days_max=self.settings.hold_days_max,
        )  # fmt: skip
        corrections = CorrectionDesk(
            clerk, self.keeping.book, self.registry, self.index.snapshot,
            lambda found: asyncio.to_thread(self.index.set_corrections, found), self._infos,
        )  # fmt: skip
        persons = PersonDesk(
            clerk, self.journal, self.eraser, self.keeping.book, self.index.snapshot,
            lambda key: self.merges.aliases().all_of(key), self.control.read, self._infos,
        )  # fmt: skip
        return {**holds.handlers(), **corrections.handlers(), **persons.handlers()}

    def _infos(self, numbers: Sequence[int]) -> tuple[PlaceInfo, ...]:
        return infos_of(numbers, self.registry)

    async def _follow(self) -> None:
        try:
            async for group in self.journal.read(self.index.applied_lsn):
                self.derivation.derive(group, self.index)
        except Exception as error:
            # Answers from an index that stands still would be silently short, whatever stopped it.
            _log.error("the log cannot be followed", code=_fault_code(error))
            self.failed.set()

    async def _registry_changed(self) -> None:
        self.ingest.registry_changed()
        self.seen.set_spans(self.registry.spans())
        rules = (self.registry.place_rules(), self.registry.visit_rules())
        old, self._rules = self._rules, rules
        if rules[1] == old[1] and rules[0].items() >= old[0].items():
            # Before anything else can happen: no scan of a new place was taken yet.
            self._places.extend(rules[0])
        else:
            self._places = PlaceRules(rules[0])
            # Everything is derived anew, and the lanes do not wait for that.
            await asyncio.to_thread(self.index.set_place_rules, self._places, rules[1])

    async def _merges_changed(self) -> None:
        aliases = self.merges.aliases()
        self.watch.set_aliases(aliases)
        await asyncio.to_thread(self.index.set_aliases, aliases)

    # ---- what is told ------------------------------------------------------------------------

    def _completeness(self) -> Completeness:
        states = tuple(GatewayState(*state) for state in self.ingest.states())
        now_ms = self.clock.now_ms()
        kept_from_ms, holds = self.retention.before_ms(), self.keeping.holds.in_force(now_ms)
        return Completeness(self.index.applied_lsn, now_ms, states, kept_from_ms, bool(holds))

    def _health(self) -> dict[str, Any]:
        return {
            "version": engine.__version__,
            "durable_group": self.journal.last_lsn(),
            "applied_group": self.index.applied_lsn,
            "is_full": self.ingest.is_full,
            "sessions": len(self.ingest.links),
        }

    def _kit(self) -> Kit:
        codes = {
            venue.number: self.venue_codes.make(venue)
            for venue in self.registry.entries("venue")
            if isinstance(venue, Venue) and not venue.is_revoked
        }
        return Kit(str(self.addresses[0]), self.keyring.ingest_public(), codes)

    def _samples(self) -> Iterator[Sample]:
        counters, pool = self.journal.counters, self.pool
        yield "chot_build_info", (engine.__version__, native.cpu.active()), 1
        yield "chot_up_seconds", (), (self.clock.monotonic_ns() - self._opened_ns) / 1e9
        yield "chot_frames_decoded", (), pool.frames
        yield "chot_frame_codes", (), pool.codes
        yield "chot_decode_seconds", (), pool.decode_ns / 1e9
        yield "chot_journal_commits", (), counters.commits
        yield "chot_journal_groups", (), counters.groups
        yield "chot_journal_rows", (), counters.rows
        yield "chot_journal_bytes", (), counters.bytes
        yield "chot_journal_generations", (), self.journal.file_count()
        yield "chot_journal_disk_bytes", (), self.journal.disk_bytes()
        yield "chot_journal_commit_seconds", (), counters.commit_ns_total / 1e9
        yield "chot_journal_pending_bytes", (), self.journal.pending_bytes
        yield "chot_journal_duplicates", (), counters.duplicates
        yield "chot_journal_full", (), self.ingest.is_full
        yield "chot_expired_groups", (), counters.groups_expired
        yield "chot_seen_entries", (), len(self.seen)
        yield "chot_watch_entries", (), len(self.watch)
        yield "chot_merges", (), len(self.merges)
        yield "chot_holds", (), len(self.keeping.holds)
        yield "chot_corrections", (), len(self.keeping.book.corrections)
        yield "chot_persons_erased", (), len(self.keeping.amended.begun)
        yield "chot_rows_erased_late", (), self.keeping.erasures.late_rows
        yield from self.derivation.samples(self.index, self.segments.bytes)


def _fault_code(error: Exception) -> str:
    """Of a fault of the program its class: its words may hold anything."""
    return error.code if isinstance(error, EngineError) else type(error).__name__


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


# ---- processes ---------------------------------------------------------------------------------


def serve(settings: Settings, *, registry_dir: Path | None, with_api: bool, is_json: bool) -> int:
    """The engine, and the API as its child, until SIGTERM or SIGINT. Exit status."""
    setup_logging()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    return uvloop.run(_serve(settings, registry_dir, with_api, is_json))


async def _serve(
    settings: Settings, registry_dir: Path | None, with_api: bool, is_json: bool
) -> int:
    log_faults(asyncio.get_running_loop())
    stop = _stop_event()
    async with Engine(settings) as running:
        if registry_dir is not None:
            await running.import_tables(registry_dir)
        doors = {
            "ingest": str(running.addresses[0]),
            "data": str(settings.data),
        }
        if running.addresses[1:]:
            doors["listen"] = " ".join(map(str, running.addresses[1:]))
        ends = [asyncio.create_task(event.wait()) for event in (stop, running.failed)]
        child: asyncio.Task[None] | None = None
        if with_api:
            ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            child = asyncio.create_task(_keep_api(settings, ready))
            waiting: set[asyncio.Future[Any]] = {ready, child, *ends}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                doors["api"] = ready.result()
                doors["metrics"] = doors["api"] + "/metrics"
        # What the start leaves is no garbage, and looking through it takes tens of milliseconds in
        # which no lane has its verdict.
        gc.collect()
        gc.freeze()
        if is_json:
            print(json.dumps(doors), flush=True)
        else:
            print("".join(f"{name:8} {where}\n" for name, where in doors.items()), flush=True)
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for task in [*ends, *([child] if child is not None else [])]:
            await _cancel(task)
        return 1 if running.failed.is_set() else 0


async def _keep_api(settings: Settings, ready: asyncio.Future[str]) -> None:
    """Runs the API process and starts it again when it dies."""
    values = {**msgspec.to_builtins(settings), "data": str(Path(settings.data).resolve())}
    while True:
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "engine", "serve", "--part", "api",
                *(f"--set={name}={value}" for name, value in values.items()),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
        except OSError as error:  # no memory or descriptors now
            _log.error("api not started", problem=error.strerror or "")
            if not ready.done():
                ready.set_exception(EngineUnreachable("the API did not start"))
                return
            await asyncio.sleep(API_RESTART_S)
            continue
        try:
            assert process.stdout is not None
            line = await process.stdout.readline()
            if line.endswith(b"\n") and not ready.done():
                ready.set_result(json.loads(line)["api"])
                # From now on it is found at the same port again.
                values["api_port"] = int(ready.result().rpartition(":")[2])
            await process.wait()
            if not ready.done():
                ready.set_exception(
                    EngineUnreachable("the API did not start", hint="see the lines above")
                )
                return
            _log.warning("api ended, starting it again", code=process.returncode)
            await asyncio.sleep(API_RESTART_S)
        finally:
            if process.returncode is None:
                await _end_api(process)


async def _end_api(process: asyncio.subprocess.Process) -> None:
    """One that hangs, or stands still, is killed: it keeps nothing, and receipts wait for us."""
    for end, limit_s in ((process.terminate, API_STOP_S), (process.kill, None)):
        with contextlib.suppress(TimeoutError, ProcessLookupError):
            end()
            async with asyncio.timeout(limit_s):
                await process.wait()
            return
        _log.warning("api does not end", pid=process.pid)


def serve_api(settings: Settings) -> int:
    """The API alone, until SIGTERM, SIGINT or the end of standard input. Exit status."""
    setup_logging()
    return uvloop.run(_serve_api(settings))


async def _serve_api(settings: Settings) -> int:
    log_faults(asyncio.get_running_loop())
    stop = _stop_event()
    mode = os.fstat(sys.stdin.fileno()).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        # Our parent holds the other end; it closes when the parent dies, whatever kills it.
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), _on_stdin, stop)
    data = Path(settings.data)

    def tell(port: int) -> None:
        print(json.dumps({"api": f"http://{settings.api_host}:{port}"}), flush=True)

    await api.run_api(
        socket_path=data / admin.SOCKET_NAME,
        desk_path=data / "keys" / DESK_DIR,
        host=settings.api_host,
        port=settings.api_port,
        stop=stop,
        on_ready=tell,
    )
    return 0


def _on_stdin(stop: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        stop.set()


def _stop_event() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop
