"""The index with days in files against the one in memory: any order, restarts, damage, crashes."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import pytest

from engine import faults
from engine.clock import DAY_MS, HOUR_MS, MINUTE_MS, day_to_ms, ms_to_day
from engine.colocation.index import CoLocationIndex, Snapshot
from engine.colocation.segmented import SegmentedIndex
from engine.colocation.segments_lmdb import LmdbSegments, check_folder
from engine.errors import StorageFull, StorageUnavailable
from engine.identity.aliases import Aliases
from engine.identity.keys import FileKeyRing
from engine.presence.visits import PlaceRule, PlaceRules, VisitRules
from engine.scans.rows import ROW, Kind
from engine.tracing.counts import DayCells, count
from engine.tracing.tiers import LINK, TIERED
from native.links import find_links
from native.tiers import find_tiers
from native.walks import visits_in
from tests.unit.test_index import Group

DAY = 18_800
PERSONS = 12
RULES = VisitRules()
PLACES = PlaceRules({n: PlaceRule(n < 3, n * 20 * MINUTE_MS) for n in range(1, 8)})
OTHER_PLACES = PlaceRules({n: PlaceRule(n < 4, n * 11 * MINUTE_MS) for n in range(1, 8)})
NEW_VENUE = PlaceRules({**PLACES.rules, 99: PlaceRule(False, MINUTE_MS)})
SPAN = day_to_ms(DAY - 3), day_to_ms(DAY + 9)
VEHICLE = 5
CELLS: WeakKeyDictionary[CoLocationIndex, DayCells] = WeakKeyDictionary()  # kept over its states


def key_of(person: int) -> bytes:
    return person.to_bytes(2, "big") * 8


def make_groups(rng: random.Random, count: int, days: int = 4) -> list[Group]:
    """Scans of some days, most of them in order, a part days late; some again."""
    scans = []
    for at in range(count):
        day = at * days // count - (rng.randrange(3) if rng.random() < 0.2 else 0)
        time = day_to_ms(DAY + max(day, 0)) + rng.randrange(DAY_MS)
        scans.append((time, rng.randrange(PERSONS)))
    groups, lsn, at = [], 0, 0
    while at < count:
        size = rng.choice([1, 3, 10, 30])
        lsn += rng.randrange(1, 4)
        rows = np.zeros(len(scans[at : at + size]), ROW)
        for row, (time, person) in zip(rows, scans[at : at + size], strict=True):
            row["person"] = np.frombuffer(key_of(person), "V16")[0]
            row["time_ms"], row["place"] = time, rng.randrange(1, 9)
            row["direction"] = rng.choice([0, 1, 1, 2])
            row["kind"] = rng.choice([Kind.SCAN, Kind.CHECKIN, Kind.CHECKIN, Kind.READING])
            row["stay_ms"] = rng.choice([0, 0, 30 * MINUTE_MS, 3 * HOUR_MS])
            row["lane"], row["vehicle"] = rng.randrange(3), rng.choice([0, 0, 0, VEHICLE])
        groups.append(Group(lsn, rows))
        at += size
    return groups


def answers(index: CoLocationIndex) -> list[object]:
    """All that can be asked, in a form that does not tell how an index numbers persons."""
    snapshot = index.snapshot()
    found: list[object] = [snapshot.lsn]
    for place in range(1, 9):
        venue = snapshot.venue(place, *SPAN)
        found += [venue.visits.tolist(), venue.persons.tolist(), venue.newest.tolist()]
        found.append(sorted(snapshot.people_at(place, SPAN[0], SPAN[0] + 4 * DAY_MS)))
    for person in range(PERSONS):
        key = key_of(person)
        history = snapshot.history([key], *SPAN)
        found += [history.visits.tolist(), history.newest.tolist()]
        found.append(sorted(snapshot.times_of(key, *SPAN)))
        found.append(snapshot.time_together(key, *SPAN))
        met = snapshot.contacts([key], *SPAN, linger_ms=MINUTE_MS, min_overlap_ms=5 * MINUTE_MS)
        found += [met.contacts.tolist(), met.pairs.tolist(), met.persons.tolist(), met.below]
        found.append(snapshot.last_details_ref(key))
        found += tiers_of(snapshot, key)
    for day in range(DAY, DAY + 5):
        figures = snapshot.figures(day)
        found += [figures.places.tolist(), figures.passages.tolist(), figures.persons]
    riding = visits_in(snapshot.tables, VEHICLE, *SPAN, snapshot.epoch)
    riders = snapshot.found(riding, None)
    found += [riders.visits.tolist(), riders.persons.tolist()]
    cells = CELLS.setdefault(index, DayCells())
    for span in (SPAN, (day_to_ms(DAY + 1) + 1, day_to_ms(DAY + 2))):
        counted = [
            count(
                snapshot, *span, by="day", limit=1 << 20, group=lambda places: places,
                has_lanes=True, days=days,
            ).rows.tolist()
            for days in (None, cells)
        ]  # fmt: skip
        assert counted[0] == counted[1]
        found += counted[0]
    return found


def tiers_of(snapshot: Snapshot, key: bytes) -> list[object]:
    """Tiers and links of a case, by keys, found in both ways."""
    case = np.array(snapshot.persons_of([key]), "<u4").data
    span = {"from_ms": SPAN[0] + DAY_MS, "to_ms": SPAN[1] - 8 * DAY_MS, "linger_ms": MINUTE_MS}
    more = {"latent_ms": HOUR_MS, "depth": 3, "most": 1 << 20}
    found: list[object] = []
    for way in (1, 2):
        packed, _ = find_tiers(
            snapshot.tables, case, snapshot.count, snapshot.epoch, **span, **more,
            min_ms=5 * MINUTE_MS, window_ms=DAY_MS, way=way,
        )  # fmt: skip
        keys = [snapshot.keys[row["person"]].tobytes() for row in np.frombuffer(packed, TIERED)]
        rows = np.frombuffer(packed, TIERED)
        found.append(sorted(
            (key, int(row["tier"]), int(row["infected_ms"]), int(row["earliest_ms"]))
            for key, row in zip(keys, rows, strict=True)
        ))  # fmt: skip
    made, is_whole = find_links(
        snapshot.tables, packed, snapshot.count, snapshot.epoch, **span, latent_ms=HOUR_MS,
        most=1 << 20,
    )  # fmt: skip
    people = keys[max(len(snapshot.persons_of([key])), 1) - 1 :]
    found.append(sorted(
        (people[link["source"]], people[link["target"]], *link.tolist()[:3], *link.tolist()[7:10])
        for link in np.frombuffer(made, LINK)
    ))  # fmt: skip
    return [*found, is_whole]


class Stand:
    """A segmented index over a folder, and the log it is made from."""

    def __init__(self, path: Path, places: PlaceRules = PLACES, **options: int) -> None:
        self.path = path
        self.places = places
        self.options = options
        self.ring = FileKeyRing(path / "keys", create=True)
        self.log: list[Group] = []
        self.mends = True
        self.open()

    def open(self) -> None:
        self.store = LmdbSegments(self.path / "index", self.ring)
        self.index = SegmentedIndex(self.places, RULES, self.store, **self.options)
        self.read: set[int] = set()  # days
        self.index.load(self._read_days if self.mends else None)
        self.replayed = 0
        for group in self.log:
            if group.lsn > self.index.applied_lsn:
                self.index.apply(group)
                self.replayed += 1

    def _read_days(self, days: Collection[int], last: int) -> Iterator[Group]:
        """A log has groups of one day; these have several, of which the others are no scans."""
        self.read.update(days)
        for group in self.log:
            rows = group.rows.copy()
            rows["kind"][~np.isin((rows["time_ms"] - day_to_ms(0)) // DAY_MS, list(days))] = (
                Kind.READING
            )
            if group.lsn <= last:
                yield Group(group.lsn, rows)

    def restart(self) -> None:
        self.store.close()
        self.open()

    def apply(self, group: Group) -> None:
        self.log.append(group)
        self.index.apply(group)

    def files(self) -> list[Path]:
        return sorted(p for p in (self.path / "index").iterdir() if p.name[:4].isdigit())


def test_answers_are_those_of_an_index_in_memory(tmp_path: Path) -> None:
    for seed in range(12):
        rng = random.Random(seed)
        plain = CoLocationIndex(PLACES, RULES)
        stand = Stand(tmp_path / str(seed), memory_scans=rng.choice([30, 100, 1 << 20]))
        aliases, places = Aliases(), PLACES
        did: list[str] = []
        for group in make_groups(rng, 250):
            plain.apply(group)
            stand.apply(group)
            step = rng.choice(["", "", "", "ask", "catch_up", "write", "restart", "alias", "rules"])
            did.append(step)
            if step == "ask":
                stand.index.snapshot()
            elif step == "catch_up":
                stand.index.catch_up()
            elif step == "write":
                stand.index.write_down()
                assert stand.index.memory_scans == 0
            elif step == "restart":
                stand.places = places
                stand.restart()
                stand.index.set_aliases(aliases)
            elif step == "alias" and rng.random() < 0.5:
                pairs = [rng.sample(range(PERSONS), 2) for _ in range(rng.randrange(3))]
                aliases = Aliases([[key_of(one), key_of(other)] for one, other in pairs])
                plain.set_aliases(aliases)
                stand.index.set_aliases(aliases)
            elif step == "rules" and rng.random() < 0.3:
                places = rng.choice([PLACES, OTHER_PLACES, NEW_VENUE])
                plain.set_place_rules(places)
                stand.index.set_place_rules(places)
            if step and rng.random() < 0.4:
                assert answers(stand.index) == answers(plain), (seed, did)
        stand.index.compact()
        assert answers(stand.index) == answers(plain), (seed, did)
        stand.index.write_down()
        assert answers(stand.index) == answers(plain), (seed, did)
        stand.places = places
        stand.restart()
        stand.index.set_aliases(aliases)
        assert stand.replayed == 0
        assert answers(stand.index) == answers(plain), (seed, did)
        # Whatever was replaced is gone, and what is there is named.
        assert len(stand.files()) == stand.index.segment_count >= stand.index.day_count
        assert stand.index.segment_count < 20
        stand.store.close()
        assert check_folder(tmp_path / str(seed) / "index") == []


def test_forgetting_is_as_if_nothing_had_come(tmp_path: Path) -> None:
    """Of scans before the day nothing is left, not even what they made of later visits."""
    for seed in range(8):
        rng = random.Random(seed)
        groups = make_groups(rng, 200)
        stand = Stand(tmp_path / str(seed), memory_scans=rng.choice([40, 1 << 20]))
        plain, kept = CoLocationIndex(PLACES, RULES), CoLocationIndex(PLACES, RULES)
        before_ms = day_to_ms(DAY + 2)
        aliases = Aliases([[key_of(0), key_of(1)]] if seed % 2 else [])
        for group in groups:
            for index in (stand, plain):
                index.apply(group)
            rows = group.rows.copy()
            rows["kind"][rows["time_ms"] < before_ms] = Kind.READING  # no scan
            kept.apply(Group(group.lsn, rows))
            if rng.random() < 0.3:
                stand.index.catch_up()
        for index in (stand.index, plain, kept):
            index.set_aliases(aliases)
        count = plain.expire(before_ms)
        assert stand.index.expire(before_ms) == count > 0
        assert answers(stand.index) == answers(plain) == answers(kept)
        assert stand.index.expire(before_ms) == plain.expire(before_ms) == 0
        assert min(int(path.name[:5]) for path in stand.files()) >= DAY + 2
        for day in (DAY, DAY + 1):
            stand.ring.destroy_day(day)
        stand.restart()
        stand.index.set_aliases(aliases)
        assert stand.replayed == 0
        assert answers(stand.index) == answers(kept)
        late = Group(groups[-1].lsn + 1, groups[-1].rows)
        for index in (stand, kept):
            index.apply(late)
        stand.index.write_down()
        assert answers(stand.index) == answers(kept)
        # Everything goes, and something comes again.
        assert stand.index.expire(day_to_ms(DAY + 9)) > 0
        assert stand.files() == []
        assert stand.index.snapshot().history([key_of(2)], *SPAN).total == 0
        stand.restart()
        assert stand.replayed == 0
        stand.store.close()


def test_files_hold_no_person(tmp_path: Path) -> None:
    rng = random.Random(5)
    stand = Stand(tmp_path)
    rows = np.zeros(4000, ROW)
    keys = [rng.randbytes(16) for _ in range(1000)]
    for at, row in enumerate(rows):
        row["person"] = np.frombuffer(keys[at % 1000], "V16")[0]
    rows["time_ms"] = [day_to_ms(DAY) + 20_000 * at for at in range(4000)]
    rows["place"], rows["direction"], rows["kind"] = 5, 1, Kind.CHECKIN
    rows["stay_ms"] = 9 * MINUTE_MS
    rows["vehicle"][::100] = 0xABCDEF12
    stand.apply(Group(1, rows))
    stand.index.write_down()
    stand.store.close()
    paths = list((tmp_path / "index").iterdir())
    assert len(paths) == 3  # the manifest, its lock, one day
    for path in paths:
        data = path.read_bytes()
        assert not any(key in data or key[:8] in data for key in keys)
        assert b"\x12\xef\xcd\xab" not in data
    # With the day's key they are gone, in a copy as well.
    stand.ring.destroy_day(DAY)
    stand.log = []
    stand.open()
    assert stand.index.snapshot().layers == ()
    assert stand.files() == []


HELD = {DAY, DAY + 2}
BEFORE_MS = day_to_ms(DAY + 3)
ERASED, ERASED_UNTIL_MS = 3, day_to_ms(DAY + 3) + 7 * HOUR_MS


def index_without(groups: list[Group], is_gone: Callable[[int, bytes], bool]) -> CoLocationIndex:
    """One that the scans never came to of which that is so: (time, person key)."""
    index = CoLocationIndex(PLACES, RULES)
    for group in groups:
        rows = group.rows.copy()
        for row in rows:
            if is_gone(int(row["time_ms"]), row["person"].tobytes()):
                row["kind"] = Kind.READING  # no scan
        index.apply(Group(group.lsn, rows))
    return index


def is_past(time_ms: int, held: Collection[int]) -> bool:
    return time_ms < BEFORE_MS and ms_to_day(time_ms) not in held


def is_erased(time_ms: int, person: bytes) -> bool:
    return person == key_of(ERASED) and time_ms < ERASED_UNTIL_MS


def index_kept(groups: list[Group], held: Collection[int]) -> CoLocationIndex:
    """After both: days are forgotten but for those held, and a person is."""
    return index_without(groups, lambda time, key: is_past(time, held) or is_erased(time, key))


def test_held_days_stay_until_their_hold_ends(tmp_path: Path) -> None:
    """In files as in memory; a person erased meanwhile is gone from the held days as well."""
    for seed in range(6):
        rng = random.Random(100 + seed)
        groups = make_groups(rng, 220, days=5)
        stand = Stand(tmp_path / str(seed), memory_scans=rng.choice([40, 1 << 20]))
        plain = CoLocationIndex(PLACES, RULES)
        for group in groups:
            for one in (stand, plain):
                one.apply(group)
            if rng.random() < 0.3:
                stand.index.catch_up()
        if seed % 2:
            stand.index.write_down()
        held = index_without(groups, lambda time, _: is_past(time, HELD))
        assert stand.index.expire(BEFORE_MS, HELD) == plain.expire(BEFORE_MS, HELD) > 0
        assert answers(stand.index) == answers(plain) == answers(held)
        assert stand.index.expire(BEFORE_MS, HELD) == 0
        stand.ring.destroy_day(DAY + 1)
        stand.restart()
        assert stand.replayed == 0
        assert answers(stand.index) == answers(held)

        held = index_kept(groups, HELD)
        assert stand.index.erase([key_of(ERASED)], ERASED_UNTIL_MS) > 0
        assert answers(stand.index) == answers(held)
        stand.restart()
        assert stand.replayed == 0
        assert answers(stand.index) == answers(held)

        if seed % 3:  # one hold after the other, else both at once
            still = {rng.choice(sorted(HELD))}
            assert stand.index.expire(BEFORE_MS, still) > 0
            assert answers(stand.index) == answers(index_kept(groups, still))
        assert stand.index.expire(BEFORE_MS) > 0
        ended = index_kept(groups, ())
        assert answers(stand.index) == answers(ended)
        for day in HELD:
            stand.ring.destroy_day(day)
        stand.restart()
        assert stand.replayed == 0
        assert answers(stand.index) == answers(ended)
        assert min(int(path.name[:5]) for path in stand.files()) >= DAY + 3
        stand.store.close()


def test_files_that_no_manifest_names(tmp_path: Path) -> None:
    """What bears the name of a day's file is ours and goes; anything else is left alone."""
    stand = Stand(tmp_path, memory_scans=50)
    for group in make_groups(random.Random(6), 100):
        stand.apply(group)
        stand.index.catch_up()
    stand.index.write_down()
    named = stand.files()
    folder = tmp_path / "index"
    ours = folder / f"{DAY}.{16 * 'a'}.mdb", folder / f"{DAY}.{16 * 'b'}.mdb.tmp"
    others = folder / "notes.txt", folder / f"{DAY}.mdb"
    for path in (*ours, *others):
        path.write_bytes(named[0].read_bytes())
    stand.restart()
    assert (stand.replayed, stand.store.problem) == (0, "")
    assert not any(path.exists() for path in ours)
    assert all(path.exists() for path in (*others, *named))


def test_under_another_province_key_the_log_is_replayed(tmp_path: Path) -> None:
    """Person keys are others then, and so are those of a log that is read anew."""
    stand = Stand(tmp_path)
    for group in make_groups(random.Random(12), 60):
        stand.apply(group)
    stand.index.write_down()
    path = tmp_path / "keys" / "province.key"
    path.write_bytes(os.urandom(32))
    stand.ring = FileKeyRing(tmp_path / "keys")
    stand.restart()
    assert stand.store.problem == "the province key is another one"
    assert stand.replayed == len(stand.log)


def test_a_full_disk_costs_nothing_but_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(7)
    stand = Stand(tmp_path)
    plain = CoLocationIndex(PLACES, RULES)
    groups = make_groups(rng, 200)
    for group in groups[:-5]:
        plain.apply(group)
        stand.apply(group)
    real = LmdbSegments.write, LmdbSegments.commit
    for name in ("write", "commit"):

        def fail(*args: object) -> None:
            raise StorageUnavailable("no room")

        monkeypatch.setattr(LmdbSegments, name, fail)
        with pytest.raises(StorageUnavailable):
            stand.index.write_down()
        assert answers(stand.index) == answers(plain)
        assert stand.files() == []
        monkeypatch.setattr(LmdbSegments, "write", real[0])
    monkeypatch.setattr(LmdbSegments, "commit", real[1])
    stand.store._floor_bytes = 1 << 60
    with pytest.raises(StorageFull):
        stand.index.write_down()
    stand.store._floor_bytes = 0
    stand.index.write_down()
    for group in groups[-5:]:
        plain.apply(group)
        stand.apply(group)
    assert answers(stand.index) == answers(plain)
    stand.restart()
    assert stand.replayed == 5
    assert answers(stand.index) == answers(plain)


def test_a_full_disk_is_not_tried_with_every_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stand = Stand(tmp_path, memory_scans=40)
    stand.store._floor_bytes = 1 << 60
    tried: list[int] = []
    write = LmdbSegments.write
    monkeypatch.setattr(LmdbSegments, "write", lambda *a: (tried.append(1), write(*a))[1])
    plain = CoLocationIndex(PLACES, RULES)
    groups = make_groups(random.Random(10), 200)
    for group in groups:
        plain.apply(group)
        stand.apply(group)
        stand.index.catch_up()
    assert 0 < len(tried) < len(groups)
    assert "days are not written down code=storage.full" in caplog.text
    assert answers(stand.index) == answers(plain)
    stand.store._floor_bytes = 0
    for group in make_groups(random.Random(11), 60):
        group.lsn += groups[-1].lsn
        plain.apply(group)
        stand.apply(group)
        stand.index.catch_up()
    assert stand.index.segment_count and stand.index.memory_scans < 40
    assert answers(stand.index) == answers(plain)


def test_asking_goes_on_while_days_are_written(tmp_path: Path) -> None:
    """What ends while files are written has ended in them."""
    rng = random.Random(8)
    stand = Stand(tmp_path)
    plain = CoLocationIndex(PLACES, RULES)
    groups = make_groups(rng, 300)
    late = iter(groups[100:])
    for group in groups[:100]:
        plain.apply(group)
        stand.apply(group)
    write = stand.store.write

    def write_and_see(day, pack):  # type: ignore[no-untyped-def]
        made = write(day, pack)
        for _ in range(3):
            group = next(late, None)
            if group is not None:
                plain.apply(group)
                stand.apply(group)
        assert answers(stand.index) == answers(plain)
        return made

    stand.store.write = write_and_see  # type: ignore[method-assign]
    for _ in range(6):
        stand.index.write_down()
        assert answers(stand.index) == answers(plain)
    stand.restart()
    assert answers(stand.index) == answers(plain)


STEPS = [step for step in faults.ENGINE_STEPS if step.startswith("segments.")]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("step", STEPS)
def test_whatever_a_crash_leaves_answers_are_right(tmp_path: Path, step: str, count: int) -> None:
    """A process that ends at a step, as kill -9 ends it, between any two of them."""
    child = subprocess.run(
        [sys.executable, "-c", "from tests.unit.test_segmented import crash; crash()", tmp_path],
        env={**os.environ, "CHOT_KILL_AT": f"{step}:{count}"},
        cwd=Path(__file__).resolve().parents[2],
        stderr=subprocess.PIPE,
    )
    assert child.returncode in (-signal.SIGKILL, 0), child.stderr.decode()
    assert child.returncode == -signal.SIGKILL or (step, count) == ("segments.forgotten", 3)
    groups, before_ms = make_groups(random.Random(9), 250), day_to_ms(DAY + 1)
    stand = Stand(tmp_path)
    stand.log = groups
    stand.restart()
    stand.index.expire(before_ms)
    plain = CoLocationIndex(PLACES, RULES)
    for group in groups:
        plain.apply(group)
    plain.expire(before_ms)
    assert answers(stand.index) == answers(plain)
    stand.index.write_down()
    assert len(stand.files()) == stand.index.segment_count
    stand.store.close()
    assert check_folder(tmp_path / "index") == []


ACTIONS: dict[str, Callable[[CoLocationIndex], object]] = {
    "held": lambda index: index.expire(BEFORE_MS, HELD),
    "ended": lambda index: index.expire(BEFORE_MS),
    "erased": lambda index: index.erase([key_of(ERASED)], ERASED_UNTIL_MS),
}


@pytest.mark.parametrize("action", ACTIONS)
def test_forgetting_that_a_crash_cut_short_is_done_again(tmp_path: Path, action: str) -> None:
    """Days with a hold, its end, a person: at every step, over files that have held days."""
    groups = make_groups(random.Random(13), 250, days=5)
    stand = Stand(tmp_path / "before")
    for group in groups:
        stand.apply(group)
    stand.index.write_down()
    if action != "held":
        stand.index.expire(BEFORE_MS, HELD)
    stand.store.close()
    done = index_without(
        groups,
        lambda time, key: (
            is_past(time, () if action == "ended" else HELD)
            or (action == "erased" and is_erased(time, key))
        ),
    )
    reached = set()
    for step in STEPS:
        folder = tmp_path / step
        shutil.copytree(tmp_path / "before", folder)
        if is_killed(folder, groups, action, step):
            reached.add(step)
        again = Stand(folder)
        again.log = groups
        again.restart()
        again.index.expire(BEFORE_MS, () if action == "ended" else HELD)  # as an engine does
        ACTIONS[action](again.index)
        assert answers(again.index) == answers(done), step
        again.restart()
        assert answers(again.index) == answers(done), step
        assert len(again.files()) == again.index.segment_count
        again.store.close()
    assert reached == set(STEPS) - ({"segments.forgotten"} if action == "erased" else set())


def is_killed(folder: Path, groups: list[Group], action: str, step: str) -> bool:
    """Whether a process that does it comes to that step, and ends there."""
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            stand = Stand(folder)
            stand.log = groups
            faults.reach = faults.killer(step)  # type: ignore[misc]
            ACTIONS[action](stand.index)
            os._exit(0)
        os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


def test_a_change_from_tomorrow_derives_nothing_anew(tmp_path, monkeypatch):
    """What began to hold after every visit had nothing to do with any (and one before it had)."""
    stand = Stand(tmp_path, memory_scans=40)
    for group in make_groups(random.Random(9), 250):
        stand.apply(group)
    stand.index.write_down()
    anew = []
    derive_anew = stand.index._derive_anew
    monkeypatch.setattr(stand.index, "_derive_anew", lambda: (anew.append(1), derive_anew()))
    before = answers(stand.index)

    def changed(from_ms):
        rules = {
            n: PlaceRule(rule.is_post, 1, from_ms=from_ms, earlier=(rule,))
            for n, rule in PLACES.rules.items()
        }
        stand.index.set_place_rules(PlaceRules(rules))
        return answers(stand.index)

    assert changed(day_to_ms(DAY + 400)) == before and not anew
    assert changed(day_to_ms(DAY)) != before and anew
    assert changed(day_to_ms(DAY + 400)) == before
    stand.store.close()


def crash() -> None:
    """What the child does: everything that writes, in the folder it is given."""
    stand = Stand(Path(sys.argv[1]), memory_scans=40)
    for at, group in enumerate(make_groups(random.Random(9), 250)):
        stand.apply(group)
        stand.index.catch_up()
        if at == 12:
            stand.index.set_place_rules(OTHER_PLACES)
            stand.index.set_place_rules(PLACES)
    stand.index.expire(day_to_ms(DAY + 1))
