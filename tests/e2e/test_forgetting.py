"""Forgetting on real processes: holds, retention, erasure, backup and restore, corrections.

Persons are planted; afterwards the files are searched for them, sealed groups opened with the keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.cli.story import MARKET, Person
from engine.client import admin
from engine.clock import DAY_MS, HOUR_MS, ManualClock, day_to_date, day_to_ms, ms_to_day, ms_to_iso
from engine.faults import ENGINE_STEPS
from engine.identity.keys import DeskKeys, FileKeyRing
from engine.keeping.knowledge import Keeping
from engine.keeping.verify import verify_store
from engine.scans.records import Credential, encode_checkin
from engine.scans.rows import Direction
from engine.storage.control_lmdb import ControlLog
from engine.storage.group import split_details
from engine.storage.journal_lmdb import LmdbJournal
from engine.wire import frames as wire
from tests.e2e.rig import (
    BACK_END,
    KEPT_FOR_EVER,
    ROOT,
    EngineProcess,
    RawLink,
    enrolment,
    fresh_person,
    hello,
    person_scan,
    scans,
    until,
)
from tests.reference.batches import read_groups

OFFICER = "thanh-tra"
NOW_MS = time.time_ns() // 1_000_000
REQUEST = ("--case", "YC-17/2026")
CASE = ("--case", "BN-1234")


def token_of(engine: EngineProcess, name: str) -> str:
    async def issue() -> str:
        async with admin.connect(engine.data) as owner:
            return await admin.issue_token(owner, name)

    return asyncio.run(issue())


def chot(*arguments: str, stdin: str = "", token: str = "", kill_at: str = "") -> Any:
    """JSON of the command, or what it said when it failed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment |= {"CHOT_TOKEN": token} if token else {}
    environment |= {"CHOT_KILL_AT": kill_at} if kill_at else {}
    done = subprocess.run(
        [sys.executable, "-m", "engine", *arguments],
        env=environment, input=stdin, capture_output=True, text=True, timeout=120, check=False,
        cwd=tempfile.gettempdir(),
    )  # fmt: skip
    return json.loads(done.stdout) if done.returncode == 0 else done.stderr or done.returncode


class Town:
    """An engine with a post and a venue's back end, and links to it."""

    def __init__(self, folder: Path, **settings: object) -> None:
        # One scan in memory: everything that is forgotten has to go from the index's files as well.
        changes = {**KEPT_FOR_EVER, "index_memory_scans": 1, **settings}
        self.engine = EngineProcess(enrolment().copy_to(folder), settings=changes)
        self.seq = 0

    @property
    def data(self) -> Path:
        return self.engine.data

    def send(self, name: str, *records: bytes) -> list[wire.Message]:
        self.seq += 1
        with RawLink(self.engine.port) as link:
            link.send(hello(name, epoch=1000 + self.seq, next=(2, 1)))
            assert isinstance(link.next(), wire.Welcome)
            link.send(scans(1, *records))
            return link.settled(0, 1)

    def pass_post(self, person: Person, at_ms: int) -> list[wire.Message]:
        return self.send("vl-1a-1", person_scan(person, at_ms=at_ms))

    def check_in(self, person: Person, at_ms: int, direction: Direction = Direction.IN) -> None:
        who = Credential("cccd", person.cccd)
        self.send(BACK_END, encode_checkin(at_ms, direction, who, MARKET))

    def ask(self, *arguments: str, stdin: str = "", token: str = "") -> Any:
        where = ("--url", self.engine.api, "--format", "json")
        token = token or enrolment().token
        return chot(*arguments, *where, stdin=stdin, token=token)

    def history(self, person: Person, to_ms: int = NOW_MS + DAY_MS) -> Any:
        span = ("--from", ms_to_iso(NOW_MS - 60 * DAY_MS), "--to", ms_to_iso(to_ms))
        return self.ask("trace", "person", *span, *CASE, stdin=f"cccd {person.cccd}\n")


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    made = Town(tmp_path)
    with made.engine:
        yield made


def key_of(data: Path, person: Person) -> bytes:
    return FileKeyRing(data / "keys").person_key("cccd", "VNM", person.cccd)


def opened_bytes(data: Path) -> bytes:
    """Everything the keys open: rows, details, and whom the control log names."""
    ring, desk = FileKeyRing(data / "keys"), DeskKeys(data / "keys/desk")

    async def groups() -> bytes:
        journal = LmdbJournal(data / "journal", ring, ManualClock(), floor_bytes=0)
        found = b""
        for group in await read_groups(journal):
            found += group.rows.tobytes()
            if group.details_sealed and not group.is_expired:
                sealed = journal.read_details(group.lsn)
                plain = desk.open_details(group.day, sealed.sealed, sealed.aad)
                found += b"".join(split_details(plain, sealed.count))
        await journal.close()
        return found

    keeping = Keeping(ring, data / "keys", ManualClock())
    control = ControlLog(data / "control", floor_bytes=0)
    named = b"".join(key for r in control.read() for key in keeping._persons_named(r))
    bodies = b"".join(record.body for record in control.read() if record.kind != "audit")
    control.close()
    return asyncio.run(groups()) + named + bodies


def check_gone(data: Path, *persons: Person) -> None:
    """Of a stopped store: no key, number, name or phone of them is left, and it is sound."""
    ring, desk = FileKeyRing(data / "keys"), DeskKeys(data / "keys/desk")
    report = verify_store(data, ring, desk)
    assert report.problems == []
    opened = opened_bytes(data)
    files = b"".join(path.read_bytes() for path in data.rglob("*") if path.is_file())
    for person in persons:
        for word in (key_of(data, person), person.cccd.encode(), person.name.encode()):
            assert word not in opened
            assert word not in files


def is_there(data: Path, person: Person) -> bool:
    return key_of(data, person) in opened_bytes(data)


# ---- erasure ------------------------------------------------------------------------------------


def plant(town: Town, anh: Person, binh: Person) -> None:
    """Both at a post and at a market; Anh on the watch list, under a hold, with a correction."""
    for n, person in enumerate((anh, binh)):
        town.pass_post(person, NOW_MS - 3 * HOUR_MS + n * 1000)
        town.check_in(person, NOW_MS - 2 * HOUR_MS + n * 1000)
    stdin = f"cccd {anh.cccd}\n"
    later = ms_to_iso(NOW_MS + 20 * DAY_MS)
    put = town.ask("watch", "add", "--list", "watch", "--to", later, *CASE, stdin=stdin)
    assert put["number"]
    held = town.ask("retention", "hold", "add", "--person", "--until", later, *CASE, stdin=stdin)
    stays = town.history(anh)["visits"]
    assert [v["start_ms"] for v in stays] == [NOW_MS - 3 * HOUR_MS, NOW_MS - 2 * HOUR_MS]
    spans = [(ms_to_day(v["start_ms"]), ms_to_day(v["end_ms"])) for v in stays]
    seen = {day for first, last in spans for day in range(first, last + 1)}  # one may pass midnight
    assert held["days"] == sorted(map(day_to_date, seen))
    fixed = town.ask(
        "correction", "add", str(MARKET), "--at", ms_to_iso(NOW_MS - 2 * HOUR_MS + 60_000),
        "--to", ms_to_iso(NOW_MS - HOUR_MS), "--reason", "told by telephone", *CASE, stdin=stdin,
    )  # fmt: skip
    assert fixed["reason"] == "told by telephone"


def test_after_an_erasure_nothing_brings_the_person_back(town: Town, tmp_path: Path) -> None:
    anh, binh = fresh_person(), fresh_person()
    officer = token_of(town.engine, OFFICER)
    plant(town, anh, binh)
    stays = town.history(anh)["visits"]
    assert [v["end_rule"] for v in stays if not v["is_passage"]] == ["corrected"]

    stdin = f"cccd {anh.cccd}\n"
    held = town.ask("person", "export", *REQUEST, stdin=stdin, token=officer)
    assert [(s["kind"], s["place"]) for s in held["scans"]] == [("scan", 1), ("checkin", MARKET)]
    assert held["scans"][0]["details"]["name"] == anh.name
    assert held["stays"][-1]["end_rule"] == "corrected"
    assert {asked["question"] for asked in held["asked"]} >= {"person", "watch", "hold", "correct"}
    assert "watch" not in {key for key in held if key != "asked"}
    refused = town.ask("person", "export", *REQUEST, stdin=stdin)
    assert "access.denied" in refused
    assert "--yes" in town.ask("person", "erase", *REQUEST, stdin=stdin, token=officer)

    done = town.ask("person", "erase", "--yes", *REQUEST, stdin=stdin, token=officer)
    assert (done["rows"], done["groups"], done["records"]) == (2, 2, 3)
    assert town.history(anh)["visits"] == []
    assert len(town.history(binh)["visits"]) == 2
    assert town.ask("retention", "hold", "list", *CASE)["holds"] == []
    assert town.ask("watch", "list", *CASE)["entries"] == []
    assert town.ask("correction", "list", *CASE)["corrections"] == []
    empty = town.ask("person", "export", *REQUEST, stdin=stdin, token=officer)
    assert (empty["scans"], empty["stays"]) == ([], [])

    # What still lay in a spool is of the past; what comes from now on is kept.
    town.pass_post(anh, NOW_MS - 4 * HOUR_MS)
    assert town.history(anh)["visits"] == []
    assert town.engine.metric("chot_rows_erased_late") == 1
    assert town.engine.stop() == 0
    check_gone(town.data, anh)
    assert is_there(town.data, binh)
    town.engine.start()
    assert town.history(anh)["visits"] == []
    town.pass_post(anh, time.time_ns() // 1_000_000)
    assert len(town.history(anh)["visits"]) == 1


ERASURE_STEPS = ["journal.amended", *(s for s in ENGINE_STEPS if s.startswith("erasure."))]


@pytest.mark.parametrize("step", ERASURE_STEPS)
def test_an_erasure_cut_short_is_finished_at_the_next_start(tmp_path: Path, step: str) -> None:
    town = Town(tmp_path)
    anh, binh = fresh_person(), fresh_person()
    town.engine.env = {"CHOT_KILL_AT": step}
    with town.engine:
        officer = token_of(town.engine, OFFICER)
        for person in (anh, binh):
            town.pass_post(person, NOW_MS - HOUR_MS)
        stdin = f"cccd {anh.cccd}\n"
        assert isinstance(
            town.ask("person", "erase", "--yes", *REQUEST, stdin=stdin, token=officer), str
        )
        assert town.engine.process is not None
        assert town.engine.process.wait(60) == -9
        town.engine.env = {}
        town.engine.start()
        assert town.history(anh)["visits"] == []
        assert len(town.history(binh)["visits"]) == 1
        assert town.engine.stop() == 0
    check_gone(town.data, anh)
    assert is_there(town.data, binh)


# ---- backup and restore -------------------------------------------------------------------------


def test_a_backup_brings_back_nobody_who_was_forgotten_since(town: Town, tmp_path: Path) -> None:
    anh, binh, chi = fresh_person(), fresh_person(), fresh_person()
    officer = token_of(town.engine, OFFICER)
    old_ms = NOW_MS - 20 * DAY_MS
    town.pass_post(chi, old_ms)
    plant(town, anh, binh)
    backup, escrow = tmp_path / "backup", tmp_path / "escrow"
    made = chot(
        "backup", str(backup), "--keys", str(escrow), "--json", "--data", str(town.data)
    )  # beside the running engine
    assert made["scan"]["last"] == 5
    assert not list(backup.rglob("*.key"))
    stdin = f"cccd {anh.cccd}\n"
    assert town.ask("person", "erase", "--yes", *REQUEST, stdin=stdin, token=officer)["rows"] == 2
    assert town.engine.stop() == 0
    days = ("--set", "retention_days=10")
    done = chot("retention", "run", "--json", "--data", str(town.data), *days)
    assert done["days"] == [day_to_date(ms_to_day(old_ms))]

    # With the keys of today: they know what was forgotten.
    today = tmp_path / "today"
    found = chot(
        "restore", str(backup), "--keys", str(town.data / "keys"), "--json", "--data", str(today)
    )
    assert found["erased"] == 1
    check_gone(today, anh, chi)
    assert is_there(today, binh)

    # With keys as old as the backup the list has to come from elsewhere.
    aged = tmp_path / "aged"
    found = chot(
        "restore", str(backup), "--keys", str(escrow), "--json", "--data", str(aged),
        "--forgotten", str(town.data / "keys/forgotten.jsonl"), "--set", "retention_days=36500",
    )  # fmt: skip
    assert (found["erased"], found["days"]) == (1, [day_to_date(ms_to_day(old_ms))])
    check_gone(aged, anh, chi)
    assert is_there(aged, binh)

    # Somebody copies the old files over: the engine itself looks at the list before it serves.
    for name in ("journal", "control"):
        shutil.rmtree(town.data / name)
        shutil.copytree(backup / name, town.data / name)
    town.engine.start()
    assert town.history(anh)["visits"] == town.history(chi)["visits"] == []
    assert len(town.history(binh)["visits"]) == 2
    assert town.engine.stop() == 0
    check_gone(town.data, anh, chi)


BACKUP_STEPS = ["backup.scans", "backup.copied"]
RESTORE_STEPS = ["restore.copied", "restore.erased", "restore.applied"]


def test_a_backup_that_is_not_whole_is_refused(town: Town, tmp_path: Path) -> None:
    town.pass_post(fresh_person(), NOW_MS)
    assert town.engine.stop() == 0
    data, keys = str(town.data), str(town.data / "keys")
    for step in BACKUP_STEPS:
        assert chot("backup", str(tmp_path / step), "--data", data, kill_at=step) == -9
        assert not (tmp_path / step).exists()
    good = tmp_path / "good"
    assert chot("backup", str(good), "--json", "--data", data)["version"] == 1
    assert "storage.backup" in chot("backup", str(good), "--data", data)
    assert "lie in each other" in chot("backup", str(town.data / "b"), "--data", data)

    for step in RESTORE_STEPS:
        to = tmp_path / step
        arguments = ("restore", str(good), "--keys", keys, "--json", "--data", str(to))
        assert chot(*arguments, kill_at=step) == -9
        assert not to.exists()
        assert chot(*arguments)["erased"] == 0
    assert "in use" in chot("restore", str(good), "--keys", keys, "--data", data)
    for break_it in (
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "control/data.mdb").unlink(),
        lambda folder: (folder / "more").write_text("x"),
        lambda folder: (folder / "journal/000001/data.mdb").open("r+b").write(b"\xff" * 9),
    ):
        bad = tmp_path / "bad"
        shutil.copytree(good, bad)
        break_it(bad)
        to = tmp_path / "none"
        said = chot("restore", str(bad), "--keys", keys, "--data", str(to))
        assert "storage.backup" in said
        assert not to.exists()
        shutil.rmtree(bad)


# ---- holds and retention ------------------------------------------------------------------------


def test_a_hold_keeps_its_days_until_it_ends(tmp_path: Path) -> None:
    town = Town(tmp_path)
    anh, binh, chi = fresh_person(), fresh_person(), fresh_person()
    first, second, third = (ms_to_day(NOW_MS) - n for n in (12, 11, 10))
    with town.engine:
        for person, day in ((anh, first), (binh, second), (chi, third)):
            town.pass_post(person, day_to_ms(day) + 12 * HOUR_MS)
        later = ms_to_iso(NOW_MS + 30 * DAY_MS)
        span = ("--first-day", day_to_date(first), "--last-day", day_to_date(first))
        one = town.ask("retention", "hold", "add", *span, "--until", later, *CASE)
        two = town.ask(
            "retention", "hold", "add", "--person", "--until", later, *CASE,
            stdin=f"cccd {binh.cccd}\n",
        )  # fmt: skip
        assert (one["days"], two["days"]) == ([day_to_date(first)], [day_to_date(second)])
        too_long = ms_to_iso(NOW_MS + 400 * DAY_MS)
        for wrong in (
            (*span, "--until", too_long),
            (*span, "--until", ms_to_iso(NOW_MS - DAY_MS)),
            ("--first-day", day_to_date(first), "--until", later),
            ("--until", later),
        ):
            said = town.ask("retention", "hold", "add", *wrong, *CASE)
            assert "question.invalid" in said, wrong
        assert town.engine.stop() == 0

    town.engine._settings["retention_days"] = 5
    with town.engine:
        town.engine.start()
        data = ("--json", "--data", str(town.data))
        until(lambda: town.engine.metric("chot_expired_groups") >= 1)
        plan = chot("retention", "plan", *data)
        assert [(d["day"], d["state"], d["holds"]) for d in plan["days"]] == [
            (day_to_date(first), "held", [one["number"]]),
            (day_to_date(second), "held", [two["number"]]),
        ]
        assert [d["goes"][:10] for d in plan["days"]] == [later[:10]] * 2
        assert [len(town.history(p)["visits"]) for p in (anh, binh, chi)] == [1, 1, 0]
        # A hold keeps what is there and takes nothing in.
        late = town.pass_post(chi, day_to_ms(first) + 13 * HOUR_MS)
        assert any(isinstance(m, wire.Result) and m.verdict.reason == "too_old" for m in late)
        assert town.ask("retention", "hold", "end", str(one["number"]), *CASE)["days"]
        done = chot("retention", "run", *data)
        assert (done["days"], done["held"]) == ([day_to_date(first)], [day_to_date(second)])
        assert [len(town.history(p)["visits"]) for p in (anh, binh, chi)] == [0, 1, 0]
        # While anything older is held, a question about old days is one; without, it is none.
        assert town.history(anh, to_ms=day_to_ms(third))["visits"] == []
        assert town.ask("retention", "hold", "end", str(two["number"]), *CASE)["days"]
        said = town.history(binh, to_ms=day_to_ms(third))
        kept_from = ms_to_day(NOW_MS) - 5
        assert f"to: nothing is kept of before {day_to_date(kept_from)}" in said
        answer = town.history(binh)
        assert (len(answer["visits"]), answer["complete"]["kept_from"][:10]) == (
            1, day_to_date(kept_from),
        )  # fmt: skip
        assert town.engine.stop() == 0
    check_gone(town.data, anh, chi)
    plan = chot("retention", "plan", *data, "--set", "retention_days=5")
    assert [(d["day"], d["state"]) for d in plan["days"]] == [(day_to_date(second), "due")]


RETENTION_STEPS = ["retention.noted", "journal.destroyed", "journal.emptied", "retention.emptied"]


@pytest.mark.parametrize("step", RETENTION_STEPS)
def test_forgetting_cut_short_is_finished_later(tmp_path: Path, step: str) -> None:
    town = Town(tmp_path)
    anh, binh = fresh_person(), fresh_person()
    with town.engine:
        town.pass_post(anh, NOW_MS - 20 * DAY_MS)
        town.pass_post(binh, NOW_MS - HOUR_MS)
        assert town.engine.stop() == 0
    run = ("retention", "run", "--json", "--data", str(town.data), "--set", "retention_days=10")
    assert chot(*run, kill_at=step) == -9
    assert isinstance(chot(*run), dict)
    check_gone(town.data, anh)
    assert is_there(town.data, binh)


RECORD_STEPS = ["retention.records"]


@pytest.mark.parametrize("step", RECORD_STEPS)
def test_records_that_lost_their_bodies_before_a_crash_are_named_after_it(
    tmp_path: Path, step: str
) -> None:
    """A hold is over: its record is emptied, and who verifies must find out why."""
    town = Town(tmp_path)
    anh = fresh_person()
    with town.engine:
        town.pass_post(anh, NOW_MS)
        until_ms = time.time_ns() // 1_000_000 + 3_000
        held = town.ask(
            "retention", "hold", "add", "--person", "--until", ms_to_iso(until_ms), *CASE,
            stdin=f"cccd {anh.cccd}\n",
        )  # fmt: skip
        assert held["number"]
        assert town.engine.stop() == 0
        time.sleep(max(0.0, (until_ms + 1_000) / 1000 - time.time()))
        town.engine.env = {"CHOT_KILL_AT": step}
        with contextlib.suppress(AssertionError):
            town.engine.start()  # it may end before its doors are open
        assert town.engine.process is not None
        assert town.engine.process.wait(60) == -9
        town.engine.env = {}
        town.engine.start()
        assert town.ask("retention", "hold", "list", *CASE)["holds"] == []
        assert len(town.history(anh)["visits"]) == 1
        assert town.engine.stop() == 0
    ring, desk = FileKeyRing(town.data / "keys"), DeskKeys(town.data / "keys/desk")
    assert verify_store(town.data, ring, desk).problems == []


# ---- corrections --------------------------------------------------------------------------------


def test_a_corrected_stay_is_one_until_it_is_taken_back(town: Town) -> None:
    anh, binh = fresh_person(), fresh_person()
    begin = NOW_MS - 10 * HOUR_MS
    town.check_in(anh, begin)
    town.check_in(binh, begin + 2 * HOUR_MS)
    span = ("--from", ms_to_iso(NOW_MS - DAY_MS), "--to", ms_to_iso(NOW_MS))
    asked = ("trace", "contacts", *span, *CASE)
    stdin = f"cccd {anh.cccd}\n"
    assert town.ask(*asked, stdin=stdin)["contacts"] == []
    add = ("correction", "add", str(MARKET), "--reason", "bill of 11 o'clock", *CASE)
    inside = ("--at", ms_to_iso(begin + 60_000))
    made = town.ask(*add, *inside, "--to", ms_to_iso(begin + 3 * HOUR_MS), stdin=stdin)
    (contact,) = town.ask(*asked, stdin=stdin)["contacts"]
    (meeting,) = contact["meetings"]
    assert (contact["minutes"], meeting["case_end_rule"]) == (45.0, "corrected")
    town.check_in(anh, begin + 5 * HOUR_MS, Direction.OUT)  # much later; changes nothing of it
    (stay, *_) = town.history(anh)["visits"]
    assert (stay["end_rule"], stay["end_ms"]) == ("corrected", begin + 3 * HOUR_MS)
    for wrong, code in (
        (("--at", ms_to_iso(begin - DAY_MS), "--to", ms_to_iso(begin)), "registry.not_found"),
        ((*inside, "--to", ms_to_iso(begin + 1000)), "question.invalid"),
        ((*inside, "--to", ms_to_iso(begin + 2 * DAY_MS)), "question.invalid"),
    ):
        assert code in town.ask(*add, *wrong, stdin=stdin)
    # Named by an instant that only the first correction put into the stay.
    again = ("--at", ms_to_iso(begin + 2 * HOUR_MS), "--to", ms_to_iso(begin + 4 * HOUR_MS))
    second = town.ask(*add, *again, stdin=stdin)["number"]
    assert town.history(anh)["visits"][0]["end_ms"] == begin + 4 * HOUR_MS
    assert town.ask("correction", "undo", str(second), *CASE)["number"] == second
    town.engine.kill()
    town.engine.start()
    assert town.history(anh)["visits"][0]["end_rule"] == "corrected"
    assert town.ask("correction", "undo", str(made["number"]), *CASE)["number"] == made["number"]
    assert town.history(anh)["visits"][0]["end_rule"] == "observed"
    assert town.engine.stop() == 0
