"""What the burst day must have left: compared row by row with the truth, by nobody of the engine.

Check-ins are compared as a multiset, answers of the tracer with plain sums over the true visits,
what lanes read with what was held up, and passages one by one.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.case_ingest import number
from bench.day_world import LANES, Checkins, Loop, identity_of, person_of
from bench.live import waits
from bench.workload import Array
from engine.client import api_client as client
from engine.clock import HOUR_MS, MINUTE_MS, SystemClock, day_to_ms, ms_to_day
from engine.errors import EngineError
from engine.identity.keys import FileKeyRing
from engine.scans.people import VIETNAM, Identity
from engine.scans.rows import ROW, Kind
from engine.storage.journal_lmdb import LmdbJournal

WHY: Final = {"purpose": "case", "case": "BN-1901"}
ASKED: Final = 20  # of each question, at the end
PAUSE_S: Final = 0.05
LEAST_MS: Final = 15 * MINUTE_MS
MARKS: Final = 3
COMPARED: Final = ("person", "time_ms", "place", "direction")
CHECKIN: Final = np.dtype([(name, ROW[name]) for name in COMPARED])


# ---- the tracer ---------------------------------------------------------------------------------


class Tracer:
    """Asks over HTTP, one question after the other, until it is stopped; then once more about
    what has settled, and compares."""

    def __init__(self, url: str, token: str, world: Checkins, seed: int) -> None:
        self.took_ns: dict[str, list[int]] = defaultdict(list)
        self.contacts: list[int] = []  # that an answer listed
        self.failed = 0
        self.wrong: list[str] = []
        self.checked = self.passages_shown = self.passages_read = 0
        self._url, self._token, self._world = url, token, world
        self._is_stopped = threading.Event()
        visits = world.visits
        r = np.random.Generator(np.random.PCG64([seed, 1 << 41]))
        self._asked = visits[r.choice(len(visits), 200)]
        day = ms_to_day(int(visits["start_ms"].min()))
        self._span = {"from": day_to_ms(day), "to": day_to_ms(day + 1)}
        places = np.bincount(visits["place"])
        busy = np.argsort(places)[::-1][:MARKS].tolist()
        self._marks = [{"place": place, **self._span_of(9, day)} for place in busy]

    def _span_of(self, hour: int, day: int) -> dict[str, int]:
        begun_ms = day_to_ms(day) + hour * HOUR_MS
        return {"from": begun_ms, "to": begun_ms + HOUR_MS}

    def run(self) -> None:
        """In a thread of its own."""
        since = 0
        for n in range(1 << 30):
            if self._is_stopped.wait(PAUSE_S):
                return
            visit = self._asked[n % len(self._asked)]
            try:
                self._ask_who_i_am()
                self._ask("venue", self._at_venue(visit))
                self._ask("person", self._of_person(visit))
                self._ask("contacts", self._of_contacts(visit))
                if n % 10 == 0:
                    answer = self._ask("notice", self._of_notice(since))
                    since = answer["complete"]["group"]
            except EngineError as error:
                if self._is_stopped.is_set():
                    return
                if error.code not in ("engine.unreachable", "internal.engine_down"):
                    self.failed += 1
                self._is_stopped.wait(0.2)

    def stop(self) -> None:
        self._is_stopped.set()

    def _ask_who_i_am(self) -> None:
        """What any answer takes: a connection, the API, the engine's loop; no record, no rows."""
        begun_ns = time.perf_counter_ns()
        client.whoami(self._url, self._token)
        self.took_ns["whoami"].append(time.perf_counter_ns() - begun_ns)

    def _ask(self, question: str, body: dict[str, Any]) -> dict[str, Any]:
        begun_ns = time.perf_counter_ns()
        answer = client.trace(self._url, self._token, question, body)
        self.took_ns[question].append(time.perf_counter_ns() - begun_ns)
        if question == "contacts":
            self.contacts.append(len(answer["contacts"]))
        return answer

    def _at_venue(self, visit: Any) -> dict[str, Any]:
        begun_ms = int(visit["start_ms"])
        span = {"from": begun_ms, "to": begun_ms + HOUR_MS}
        return {**WHY, **span, "place": int(visit["place"]), "limit": 10_000}

    def _of_person(self, visit: Any) -> dict[str, Any]:
        who = {"kind": "cccd", "value": number(int(visit["person"]))}
        return {**WHY, **self._span, "person": who, "limit": 10_000}

    def _of_contacts(self, visit: Any) -> dict[str, Any]:
        more = {"profile": "WHO", "min_minutes": LEAST_MS // MINUTE_MS, "linger_minutes": 0}
        return self._of_person(visit) | more

    def _of_notice(self, since: int) -> dict[str, Any]:
        return {"purpose": "notice", "case": "16/TB-BYT", "since": since, "marks": self._marks}

    # ---- at the end -----------------------------------------------------------------------------

    def ask_at_the_end(self) -> None:
        """Everything is durable: answers are the truth."""
        self._await_index()
        truth = Truth(self._world.visits)
        for visit in self._asked[:ASKED]:
            body = self._at_venue(visit)
            found = [(v["start_ms"], v["end_ms"]) for v in self._again("venue", body)["visits"]]
            self._compare("venue", sorted(found), truth.at(body["place"], body["from"], body["to"]))
            person = int(visit["person"])
            rows = self._again("person", self._of_person(visit))["visits"]
            of_day = sorted((v["start_ms"], v["end_ms"], v["place"]) for v in rows)
            self._compare("person", of_day, truth.of(person))
            rows = self._again("contacts", self._of_contacts(visit))["contacts"]
            met = sorted(row["minutes"] for row in rows if row["tier"] == "candidate")
            self._compare("contacts", met, truth.met(person))
        marks = self._again("notice", self._of_notice(0))["marks"]
        for mark, told in zip(self._marks, marks, strict=True):
            there = truth.persons_at(mark["place"], mark["from"], mark["to"])
            self._compare("notice", told["persons"], there)

    def _again(self, question: str, body: dict[str, Any]) -> dict[str, Any]:
        return client.trace(self._url, self._token, question, body)

    def _await_index(self) -> None:
        end_s = time.monotonic() + 60
        while time.monotonic() < end_s:
            text = client.get_text(self._url + "/metrics")
            if "\nchot_index_lag_groups 0.0" in text:
                return
            time.sleep(0.1)
        self.wrong.append("the index did not catch up in a minute")

    def _compare(self, question: str, found: Any, expected: Any) -> None:
        self.checked += 1
        if found != expected and len(self.wrong) < 10:
            self.wrong.append(
                f"{question}: {_size(found)} found, {_size(expected)} true, not the same"
            )

    def ask_of_passages(self, loops: list[Loop], frames: int) -> None:
        """Of everybody who held up a code of a person: at most one passage a post."""
        shown: dict[Identity, set[int]] = defaultdict(set)
        for loop in loops:
            for text in loop.holds(frames):
                identity = identity_of(text)
                if identity is not None:
                    shown[identity].add(LANES[loop.name][1])
        now_ms = time.time_ns() // 1_000_000
        span = {"from": now_ms - 24 * HOUR_MS, "to": now_ms + HOUR_MS}
        for identity, posts in shown.items():
            who = {"kind": identity.kind, "value": identity.canonical}
            rows = self._again("person", {**WHY, **span, "person": who})["visits"]
            found = Counter(row["place"] for row in rows if row["is_passage"])
            self.passages_shown += len(posts)
            self.passages_read += sum(post in found for post in posts)
            doubled = sum(found.values()) - len(found)
            if doubled or set(found) - posts:
                self.wrong.append(f"{doubled} passages too many, {len(set(found) - posts)} nowhere")

    def figures(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for question, took_ns in self.took_ns.items():
            found |= waits(f"{question}_question", took_ns)
        return {
            **found,
            "questions_failed": self.failed,
            "answers_checked": self.checked,
            "passages_shown": self.passages_shown,
            "passages_read": self.passages_read,
        }


def _size(found: Any) -> int:
    return found if isinstance(found, int) else len(found)


# ---- what is true -------------------------------------------------------------------------------


class Truth:
    """Sums over the true visits, the plain way."""

    def __init__(self, visits: Array) -> None:
        self._by_place: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        self._by_person: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        columns = (visits[name].tolist() for name in ("person", "place", "start_ms", "end_ms"))
        for person, place, start, end in zip(*columns, strict=True):
            self._by_place[place].append((person, start, end))
            self._by_person[person].append((start, end, place))

    def at(self, place: int, from_ms: int, to_ms: int) -> list[tuple[int, int]]:
        there = self._by_place[place]
        return sorted((start, end) for _, start, end in there if start < to_ms and end > from_ms)

    def persons_at(self, place: int, from_ms: int, to_ms: int) -> int:
        there = self._by_place[place]
        return len({who for who, start, end in there if start < to_ms and end > from_ms})

    def of(self, person: int) -> list[tuple[int, int, int]]:
        return sorted(self._by_person[person])

    def met(self, person: int) -> list[float]:
        """Minutes with each who was together with this person for long enough, to a tenth."""
        together: Counter[int] = Counter()
        for start, end, place in self._by_person[person]:
            for other, begun, ended in self._by_place[place]:
                if other != person:
                    together[other] += max(0, min(end, ended) - max(start, begun))
        return sorted(ms // 6000 / 10 for ms in together.values() if ms >= LEAST_MS)


@dataclass(frozen=True, slots=True)
class Ended:
    """A day that is over. stats: what each gateway said at its end; at_the_box: the one that read
    its codes itself; frames: of each lane."""

    data: Path
    world: Checkins
    loops: list[Loop]
    frames: int
    stats: dict[str, dict[str, Any]]
    at_the_box: str


def check(ended: Ended) -> tuple[dict[str, Any], list[str]]:
    """(figures, what is wrong) of the store of the stopped engine."""
    ring = FileKeyRing(ended.data / "keys")
    rows, refused = asyncio.run(read_store(ended.data, ring))
    lost, doubled = compare_checkins(ended.world.rows, rows[rows["kind"] == Kind.CHECKIN], ring)
    wrong = [f"{lost} check-ins lost"] * bool(lost) + [f"{doubled} doubled"] * bool(doubled)
    scans = rows[rows["kind"] == Kind.SCAN]
    shown = read = more = 0
    for loop in ended.loops:
        _, post, lane, _ = LANES[loop.name]
        here = scans[(scans["place"] == post) & (scans["lane"] == lane)]
        found = Counter(here["person"].tolist())
        nobody = 0
        for text, held in loop.holds(ended.frames).items():
            shown += held
            identity = identity_of(text)
            if identity is None:
                nobody += held
                continue
            key = ring.person_key(identity.kind, identity.issuer, identity.canonical)
            times = found.pop(key, 0)
            read += min(held, times)
            more += max(0, times - held)
        told = refused[post, lane]
        read += min(nobody, told)
        more += max(0, told - nobody)
        if found:
            wrong.append(f"{loop.name}: {len(found)} persons who were not there")
        if loop.name == ended.at_the_box:
            stored, spooled = len(here) + told, ended.stats[loop.name]["records_stored"]
            if stored != spooled:
                wrong.append(f"{loop.name}: {spooled} scans spooled, {stored} stored")
    figures = {
        "rows": len(rows), "holds_shown": shown, "holds_read": read, "holds_told_again": more,
        "lost": lost, "doubled": doubled,
    }  # fmt: skip
    return figures, wrong


async def read_store(data: Path, ring: FileKeyRing) -> tuple[Array, Counter[tuple[int, int]]]:
    """Every row, and how many codes were refused at each post and lane."""
    journal = LmdbJournal(data / "journal", ring, SystemClock(), floor_bytes=0)
    rows, refused = [np.zeros(0, ROW)], Counter[tuple[int, int]]()
    try:
        last = journal.last_lsn()
        async for group in journal.read(0):
            rows.append(group.rows)
            for tally in group.tallies:
                refused[int(tally["place"]), int(tally["lane"])] += int(tally["count"])
            if group.lsn == last:
                break
    finally:
        await journal.close()
    return np.concatenate(rows), refused


def compare_checkins(sent: Array, stored: Array, ring: FileKeyRing) -> tuple[int, int]:
    """(lost, doubled): rows of each that the other has not, as multisets."""
    expected = np.zeros(len(sent), CHECKIN)
    for name in ("time_ms", "place", "direction"):
        expected[name] = sent[name]
    keys = {
        key: ring.person_key("cccd", VIETNAM, number(person_of(key)))
        for key in set(sent["person"].tolist())
    }
    expected["person"] = [keys[key] for key in sent["person"].tolist()]
    found = np.zeros(len(stored), CHECKIN)
    for name in CHECKIN.names or ():
        found[name] = stored[name]
    before, after = (Counter(each.tobytes() for each in some) for some in (expected, found))
    return sum((before - after).values()), sum((after - before).values())
