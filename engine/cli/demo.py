"""The demo: the main job on real input, start to end, in under a minute.

It starts an engine with its API, three lane gateways of one Highway 1A post as processes of their
own, each streaming a recorded clip over CKP/1, and a gateway that sends a seeded day of check-ins;
it shows the verdicts as they come, then asks a tracer's questions. Any step that does not do what
it should fails the demo.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from engine.cli.story import COACH, MARKET, Person, Story, make_story
from engine.client import admin
from engine.client import api_client as client
from engine.clock import HOUR_MS, day_to_date, day_to_ms, ms_to_day
from engine.errors import EngineError, ServiceError
from engine.scans.people import mask_name
from engine.settings import Settings

POST = "VL-1A"
BACK_END = "venue-app"
TRACER = "cdc-truy-vet"
CASE_NUMBER = "BN-1901"
LANES = 3
FPS = 10
RECORDS_PER_S = 120
START_S = 20  # an engine that is not up by then is not coming
ENDS = {
    "observed": "end: checked out",
    "inferred_next": "end: next seen elsewhere",
    "closing": "end: assumed, the place closed",
    "default": "end: assumed, usual stay",
    "capped": "end: cut to the longest stay",
}
VERDICTS = {
    "accepted": ("✓", "green"),
    "seen": ("=", "yellow"),
    "refused": ("✗", "red"),
    "alert": ("!", "bold red"),
}


class StepFailed(ServiceError):
    """A step of the demo did not do what it should."""

    code = "demo.step_failed"


@dataclass(slots=True)
class Child:
    """One process of ours and the JSON lines it prints."""

    name: str
    process: asyncio.subprocess.Process

    @classmethod
    async def start(cls, name: str, arguments: list[str], log: Path) -> Child:
        """`chot ARGUMENTS`; what it says on stderr goes to a file."""
        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "engine", *arguments,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=errors,
            )  # fmt: skip
        return cls(name, process)

    async def lines(self) -> AsyncIterator[dict[str, Any]]:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            yield json.loads(line)

    async def first_line(self, timeout_s: float) -> dict[str, Any]:
        """Raises StepFailed when the process ends or says nothing in time."""
        assert self.process.stdout is not None
        try:
            line = await asyncio.wait_for(self.process.stdout.readline(), timeout_s)
        except TimeoutError:
            line = b""
        if not line:
            raise StepFailed(f"{self.name} did not come up")
        found: dict[str, Any] = json.loads(line)
        return found

    async def end(self) -> int:
        """SIGTERM, and SIGKILL for one that does not go."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGTERM)
        try:
            return await asyncio.wait_for(self.process.wait(), 10)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
            raise StepFailed(f"{self.name} did not stop") from None


@dataclass(slots=True)
class Board:
    """What the terminal shows while the gateways work."""

    lanes: dict[int, deque[Text]] = field(
        default_factory=lambda: {lane: deque(maxlen=9) for lane in range(1, LANES + 1)}
    )
    counts: Counter[str] = field(default_factory=Counter)
    began_s: float = field(default_factory=time.monotonic)
    sent: int = 0
    durable: int = 0

    def add(self, lane: int, line: dict[str, Any]) -> Text:
        mark, style = VERDICTS[line["verdict"]]
        word = "seen before" if line["verdict"] == "seen" else line["verdict"]
        about = line.get("name") or line.get("reason") or ""
        text = Text(f"{time.monotonic() - self.began_s:5.1f} s  ")
        text.append(f"{mark} {word:<11} ", style=style).append(about)
        self.lanes[lane].append(text)
        self.counts[line["verdict"]] += 1
        return text

    def __rich__(self) -> RenderableType:
        table = Table.grid(expand=True, padding=(0, 1))
        for _ in self.lanes:
            table.add_column(ratio=1)
        table.add_row(
            *(
                Panel(Text("\n").join(lines), title=f"{POST} lane {lane}", height=11)
                for lane, lines in self.lanes.items()
            )
        )
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            "venue check-ins",
            ProgressBar(total=max(1, self.sent), completed=self.durable, width=40),
            f"{self.durable:,} of {self.sent:,} scans durable",
        )
        return Group(table, bar)


class Demo:
    """One run. data: folder for the store, made and left; clips: folder of the lane clips."""

    def __init__(self, clips: Path, registry: Path, data: Path, console: Console) -> None:
        self._clips = clips
        self._registry = registry
        self._data = data
        self._console = console
        self._children: list[Child] = []
        self._api = ""
        self._token = ""
        # Yesterday, so that the whole day lies behind us whatever the hour is.
        self._day = ms_to_day(time.time_ns() // 1_000_000) - 1

    async def run(self) -> None:
        """Raises EngineError when a step fails."""
        began_s = time.monotonic()
        try:
            doors = await self._start_engine()
            story = await self._prepare()
            await self._stream(story)
            await self._figures()
            await self._questions(story)
        finally:
            for child in reversed(self._children):
                await child.end()
        if self._children[0].process.returncode:
            raise StepFailed("the engine did not stop cleanly")
        self._say(
            f"\n[bold]Done[/] in {time.monotonic() - began_s:.0f} s;"
            f" the metrics were at {doors['metrics']}.\n"
            f"Ask the demo's store more:    chot serve --data {self._data}\n"
            f"An engine that keeps running: make serve"
            f"   (metrics at http://127.0.0.1:{Settings().api_port}/metrics)"
        )

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)

    def _head(self, text: str) -> None:
        self._say(f"\n[bold cyan]── {text}[/]")

    # ---- starting ---------------------------------------------------------------------------

    async def _start_engine(self) -> dict[str, Any]:
        self._head("1. engine and API")
        self._data.mkdir(parents=True, exist_ok=True)
        arguments = [
            "serve",
            "--data",
            str(self._data),
            "--registry",
            str(self._registry),
            "--json",
        ]
        arguments += ["--set", "ingest_port=0", "--set", "api_port=0"]
        engine = await Child.start("the engine", arguments, self._data / "engine.log")
        self._children.append(engine)
        doors = await engine.first_line(START_S)
        self._api = doors["api"]
        self._say(f"store    {self._data}")
        self._say(f"gateways {doors['ingest']} (CKP/1)   API {doors['api']}")
        return doors

    async def _prepare(self) -> Story:
        """Gateway files, a tracer's token, and the day of check-ins with posted venue codes."""
        async with admin.connect(self._data) as owner:
            for lane in range(1, LANES + 1):
                await self._enrol(owner, f"{POST.lower()}-{lane}")
            await self._enrol(owner, BACK_END)
            self._token = await admin.issue_token(owner, TRACER)
            codes = await admin.venue_codes(owner)
        cast = json.loads((self._clips / "cast.json").read_text(encoding="utf-8"))
        shown = cast["codes"]["anh"]
        case = Person(shown["holder"], shown["payload"].split("|")[0], shown["payload"])
        story = make_story(self._day, case=case, codes=codes)
        story.write(self._data / "checkins.jsonl")
        return story

    async def _enrol(self, owner: admin.Owner, name: str) -> None:
        text = await admin.enrol_gateway(owner, name, spool=self._data / "spools" / name)
        file = self._data / f"{name}.toml"
        admin.write_secret(file, text)

    # ---- streaming --------------------------------------------------------------------------

    async def _stream(self, story: Story) -> None:
        self._head(
            f"2. three lanes of {POST} and a day of check-ins ({day_to_date(self._day)}),"
            " each gateway a process of its own"
        )
        board = Board(sent=len(story.lines))
        # The clips play as if recorded in the afternoon of that day.
        start_ms = day_to_ms(self._day) + round(17.5 * HOUR_MS)
        feeds = []
        for lane in range(1, LANES + 1):
            clip = self._clips / f"lane{lane}.mjpeg"
            source = ["--frames", str(clip), "--fps", str(FPS), "--start-ms", str(start_ms)]
            feeds.append((lane, await self._gateway(f"{POST.lower()}-{lane}", source)))
        source = ["--records", str(self._data / "checkins.jsonl"), "--rate", str(RECORDS_PER_S)]
        feeds.append((0, await self._gateway(BACK_END, source)))
        watch = asyncio.create_task(self._watch(board))
        try:
            if self._console.is_terminal:
                with Live(board, console=self._console, refresh_per_second=8):
                    stats = await asyncio.gather(*(self._feed(board, *f) for f in feeds))
            else:
                stats = await asyncio.gather(*(self._feed(board, *f) for f in feeds))
        finally:
            watch.cancel()
        frames = sum(s["frames_sent"] for s in stats)
        total = sum(board.counts.values())
        words = ", ".join(f"{n} {v}" for v, n in sorted(board.counts.items()))
        self._say(f"{frames} frames sent, {total} verdicts: {words}; {board.sent:,} check-ins sent")
        for needed in ("accepted", "seen", "refused"):
            if not board.counts[needed]:
                raise StepFailed(f"no lane showed the verdict {needed}")

    async def _gateway(self, name: str, source: list[str]) -> Child:
        arguments = ["gateway", "run", str(self._data / f"{name}.toml"), *source]
        child = await Child.start(name, arguments, self._data / f"{name}.log")
        self._children.append(child)
        return child

    async def _feed(self, board: Board, lane: int, child: Child) -> dict[str, Any]:
        """A gateway's lines until it ends; its statistics. Raises StepFailed."""
        stats: dict[str, Any] = {}
        async for line in child.lines():
            if "stats" in line:
                stats = line["stats"]
            elif lane:
                text = board.add(lane, line)
                if not self._console.is_terminal:
                    self._say(f"  lane {lane}  {escape(text.plain)}")
        if await child.process.wait() or not stats.get("is_drained"):
            raise StepFailed(f"gateway {child.name} ended before all it sent was durable")
        return stats

    async def _watch(self, board: Board) -> None:
        """Durable rows, from the engine's own metrics."""
        while True:
            with contextlib.suppress(EngineError):
                text = await asyncio.to_thread(client.get_text, self._api + "/metrics")
                found = re.search(r"^chot_journal_rows_total ([0-9.e+]+)", text, re.M)
                board.durable = int(float(found[1])) if found else 0
            await asyncio.sleep(0.4)

    # ---- asking -----------------------------------------------------------------------------

    async def _ask(self, call: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
        return await asyncio.to_thread(call, self._api, self._token, *arguments)

    async def _figures(self) -> None:
        self._head(f"3. figures of {day_to_date(self._day)}")
        figures = await self._ask(client.figures, day_to_date(self._day))
        table = Table(box=None, header_style="dim")
        for column in ("place", "scans", "check-ins", "persons", "visits"):
            table.add_column(column, justify="left" if column == "place" else "right")
        busiest = sorted(figures["places"], key=lambda p: -(p["persons"] or 0))
        posts = [place for place in busiest if place["passages"]]
        for place in posts + [p for p in busiest if p not in posts][:6]:
            seen = place["passages"] if place in posts else place["visits"]
            cells = (place["scans"], place["checkins"], place["persons"], seen)
            table.add_row(place["place_name"], *("–" if c is None else str(c) for c in cells))
        self._console.print(table)
        refused = Counter[str]()
        for tally in figures["refused"]:
            refused[tally["reason"]] += tally["count"]
        words = ", ".join(f"{reason} {count}" for reason, count in sorted(refused.items()))
        self._say(f"{figures['persons']} persons in all; refused: {words or 'none'}")
        if not figures["persons"]:
            raise StepFailed("the day has no figures")

    async def _questions(self, story: Story) -> None:
        day = day_to_date(self._day)
        why = {"purpose": "case", "case": CASE_NUMBER}
        span = {"from": story.from_ms, "to": story.to_ms}
        person = {"kind": "cccd", "value": story.case.cccd}
        self._head(f"4. case {CASE_NUMBER}: a tracer asks (grant {TRACER}, each question audited)")

        hours = {"from": f"{day}T06:30", "to": f"{day}T07:00"}
        answer = await self._ask(client.trace, "venue", {**why, **hours, "place": MARKET})
        self._show_visits("who was at Chợ Hồ Xá between 06:30 and 07:00?", answer, most=6)

        answer = await self._ask(client.trace, "person", {**why, **span, "person": person})
        masked = mask_name(story.case.name)
        asked = f"where was this person ({masked}, of lanes 1 and 2)?"
        self._show_visits(asked, answer, most=12, is_place=True)

        body = {**why, **span, "person": person, "profile": "VN-2021-12-29"}
        answer = await self._ask(client.trace, "contacts", body)
        self._show_contacts(answer)
        places = {m["place"] for c in answer["contacts"] for m in c["meetings"]}
        if COACH not in places:
            raise StepFailed("the fellow passengers of the coach are missing")

    def _timing(self, answer: dict[str, Any]) -> str:
        behind = answer["complete"]["behind"]
        late = f"; {len(behind)} gateways have finished and left" if behind else ""
        cut = " (cut by the limit)" if answer["limit_cut"] else ""
        return (
            f"[dim]{answer['total']} rows{cut} in {answer['elapsed_us'] / 1000:.2f} ms,"
            f" audit record {answer['audit']}, complete up to"
            f" {answer['complete']['up_to'][:19].replace('T', ' ')}{late}[/]"
        )

    def _show_visits(
        self, question: str, answer: dict[str, Any], *, most: int, is_place: bool = False
    ) -> None:
        self._say(f"\n[bold]{question}[/]")
        for visit in answer["visits"][:most]:
            what = visit["place_name"] if is_place else visit["name"] or visit["person"][:8]
            span = f"{visit['start'][11:19]} – {visit['end'][11:19]}"
            self._say(f"  {span}  {escape(f'{what:<38}')} [dim]{ENDS[visit['end_rule']]}[/]")
        if len(answer["visits"]) > most:
            self._say(f"  … and {len(answer['visits']) - most} more")
        self._say("  " + self._timing(answer))
        if not answer["visits"]:
            raise StepFailed("a question that has an answer got none")

    def _show_contacts(self, answer: dict[str, Any], most: int = 10) -> None:
        profile = answer["profile"]["name"]
        self._say(f"\n[bold]who met this person, how long, where?[/] (profile {profile})")
        for contact in answer["contacts"][:most]:
            where = ", ".join(dict.fromkeys(m["place_name"] for m in contact["meetings"]))
            name = contact["name"] or contact["person"][:8]
            self._say(f"  {contact['minutes']:5.0f} min  {escape(f'{name:<18} {where}')}")
        if len(answer["contacts"]) > most:
            self._say(f"  … and {len(answer['contacts']) - most} more")
        self._say(f"  {answer['below']} more met for less than the profile asks")
        self._say("  " + self._timing(answer))


def run_demo(clips: Path, registry: Path, data: Path | None) -> int:
    """Exit status. data: a new folder under the system's temporary one when not given."""
    console = Console()
    folder = data or Path(tempfile.mkdtemp(prefix="chot-demo-"))
    try:
        asyncio.run(Demo(clips, registry, folder, console).run())
    except EngineError as error:
        console.print(f"[bold red]the demo failed:[/] {error.code}: {error}", soft_wrap=True)
        console.print(f"logs are in {folder}", highlight=False)
        return 1
    return 0
