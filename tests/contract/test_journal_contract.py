"""What every Journal keeps, run over every implementation; the numbers are those of the seam."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clock import DAY_MS, ManualClock, day_to_ms
from engine.errors import KeyDestroyed, KeyMissing, NotFound, StorageUnavailable
from engine.identity.keys import DeskKeys, FileKeyRing
from engine.scans.rows import ROW, Kind
from engine.storage.group import (
    amend_bytes,
    details_aad,
    expire_bytes,
    open_group,
    pack_details,
    split_details,
)
from engine.storage.journal import MemoryJournal, Part, RecordBatch, Run
from engine.storage.journal_lmdb import LmdbJournal
from tests.reference.batches import DAY, count_identities, identities, make_batch, make_rows

AFTER_DAY_MS = day_to_ms(DAY + 1)


class Ring(FileKeyRing):
    """A key ring whose disk can fail."""

    is_broken = False

    def log_key(self, day: int, *, make: bool = True) -> bytes:
        if self.is_broken and make:
            raise KeyMissing("the test broke the ring")
        return super().log_key(day, make=make)


class Bench:
    """One implementation: how it is opened, and opened again after a stop."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ring = Ring(path / "keys", create=True)
        self.desk = DeskKeys(path / "keys" / "desk")
        self.clock = ManualClock()
        self.journal = self.open()

    async def reopen(self):
        await self.journal.close()
        self.journal = self.open()
        return self.journal

    async def next_day(self):
        """A civil day begins; what comes from here on may go on its own."""
        self.clock.advance(DAY_MS)


class MemoryBench(Bench):
    def open(self):
        return MemoryJournal(self.ring, self.clock, generation_groups=2)

    async def reopen(self):
        return self.journal  # it has no place to come back from


class LmdbBench(Bench):
    def open(self):
        return LmdbJournal(
            self.path / "journal",
            self.ring,
            self.clock,
            floor_bytes=0,
            limit_bytes=1 << 28,
            pending_limit_bytes=200_000,
            commit_limit_bytes=100_000,
        )

    async def next_day(self):
        self.journal._log._wake()  # the next generation is made ahead, in its own time
        while self.journal._log._ready is None:
            await asyncio.sleep(0.002)
        await super().next_day()


@pytest.fixture(params=[MemoryBench, LmdbBench], ids=["memory", "lmdb"])
def bench(request, tmp_path):
    return request.param(tmp_path)


def run(bench, scenario):
    """Run an async scenario(journal) and close the journal whatever happens."""

    async def main():
        try:
            return await asyncio.wait_for(scenario(bench.journal), 20)
        finally:
            await bench.journal.close()

    return asyncio.run(main())


async def read_all(journal, after=0):
    groups = []
    if after < journal.last_lsn():
        async for group in journal.read(after):
            groups.append(group)
            if group.lsn >= journal.last_lsn():
                break
    return groups


# ---- 1: a returned receipt lasts ----------------------------------------------------------------


def test_a_receipt_means_readable_now_and_after_a_stop(bench):
    async def scenario(journal):
        receipts = [await journal.append(make_batch(4, seq)) for seq in (1, 2, 3)]
        assert [r.is_duplicate for r in receipts] == [False] * 3
        assert [r.run.first for r in receipts] == [1, 2, 3]
        for _ in range(2):
            found = await read_all(journal)
            for receipt in receipts:
                upto = [g for g in found if g.lsn <= receipt.lsn]
                assert count_identities(upto)[4, receipt.run.first, 1] == 1
            journal = await bench.reopen()
        assert journal.watermarks() == {(4, 7, 0): 3}
        assert journal.last_lsn() == receipts[-1].lsn

    run(bench, scenario)


def test_a_run_over_several_days_is_stored_as_a_whole(bench):
    async def scenario(journal):
        parts = [Part(DAY + n, make_rows(4, 1, 2, DAY + n)) for n in range(3)]
        receipt = await journal.append(RecordBatch(Run(4, 7, 0, 1, 1), parts))
        groups = await read_all(journal)
        assert receipt.lsn == 3
        assert [g.day for g in groups] == [DAY, DAY + 1, DAY + 2]
        assert all(len(g.rows) == 2 and len(g.runs) == 1 for g in groups)

    run(bench, scenario)


def test_details_open_at_the_desk_and_only_there(bench):
    async def scenario(journal):
        await journal.append(make_batch(4, 1, details="Trần Văn A".encode()))
        (group,) = await read_all(journal)
        assert "Trần".encode() not in group.details_sealed
        found = journal.read_details(1)
        assert found.sealed == group.details_sealed
        plain = bench.desk.open_details(found.day, found.sealed, found.aad)
        assert split_details(plain, found.count) == ["Trần Văn A".encode()] * 2
        await journal.append(make_batch(4, 2))
        assert journal.read_details(2).sealed == b""
        for lsn in (0, 3, -1):
            with pytest.raises(NotFound):
                journal.read_details(lsn)

    run(bench, scenario)


# ---- 2: sequences only grow, gaps are allowed ---------------------------------------------------


def test_gaps_are_allowed_overlaps_are_not(bench):
    async def scenario(journal):
        await journal.append(make_batch(4, 3, 5))
        await journal.append(make_batch(4, 9))
        with pytest.raises(ValueError, match="overlaps"):
            await journal.append(make_batch(4, 8, 12))
        with pytest.raises(ValueError, match="overlaps"):
            await journal.append(make_batch(4, 9, 10))
        assert journal.watermarks() == {(4, 7, 0): 9}
        await journal.append(make_batch(4, 10, 12))
        assert journal.watermarks() == {(4, 7, 0): 12}

    run(bench, scenario)


def test_gateways_epochs_and_classes_have_watermarks_of_their_own(bench):
    async def scenario(journal):
        marks = [(4, 7, 0), (5, 7, 0), (4, 8, 0), (4, 7, 1), (4, (1 << 64) - 1, 0)]
        for n, (gateway, epoch, cls) in enumerate(marks):
            batch = make_batch(gateway, 1, 10 + n, epoch=epoch, cls=cls, rows_per_seq=1)
            assert not (await journal.append(batch)).is_duplicate
        expected = {mark: 10 + n for n, mark in enumerate(marks)}
        for opened in (journal, await bench.reopen()):
            assert opened.watermarks() == expected
            assert {mark: opened.watermark(mark) for mark in marks} == expected
            assert opened.watermark((4, 9, 0)) == 0
            assert opened.epochs() == {4: 3, 5: 1}

    run(bench, scenario)


def test_a_run_without_rows_counts(bench):
    async def scenario(journal):
        await journal.append(make_batch(4, 1, 6, rows_per_seq=0, tallies=2))
        (group,) = await read_all(journal)
        assert len(group.rows) == 0
        assert len(group.tallies) == 2
        assert (await bench.reopen()).watermarks() == {(4, 7, 0): 6}

    run(bench, scenario)


# ---- 3: what was stored before is a duplicate, however late -------------------------------------


def test_a_repeat_is_a_duplicate_now_and_after_a_stop(bench):
    async def scenario(journal):
        first = await journal.append(make_batch(4, 1, 4))
        await journal.append(make_batch(4, 5))
        for _ in range(2):
            for again in (make_batch(4, 1, 4), make_batch(4, 2, 3), make_batch(4, 5)):
                receipt = await journal.append(again)
                assert receipt.is_duplicate
                assert receipt.lsn >= first.lsn
            journal = await bench.reopen()
        assert set(count_identities(await read_all(journal)).values()) == {1}

    run(bench, scenario)


def test_a_repeat_while_the_original_is_on_its_way(bench):
    async def scenario(journal):
        batch = make_batch(4, 1, 3)
        receipts = await asyncio.gather(*(journal.append(batch) for _ in range(20)))
        assert [r.is_duplicate for r in receipts] == [False] + [True] * 19
        assert len({r.lsn for r in receipts}) == 1
        assert set(count_identities(await read_all(journal)).values()) == {1}
        assert journal.counters.duplicates == 19

    run(bench, scenario)


# ---- 4: each receipt stands alone ---------------------------------------------------------------


def test_a_fault_in_one_batch_does_not_touch_the_others(bench):
    async def scenario(journal):
        await journal.append(make_batch(4, 1, 5))
        outcomes = await asyncio.gather(
            journal.append(make_batch(5, 1)),
            journal.append(make_batch(4, 5, 6)),
            journal.append(RecordBatch(Run(6, 7, 0, 1, 1), [Part(DAY, b"odd")])),
            journal.append(make_batch(6, 2)),
            return_exceptions=True,
        )
        assert [type(outcome).__name__ for outcome in outcomes] == [
            "Receipt",
            "ValueError",
            "ValueError",
            "Receipt",
        ]
        assert journal.watermarks() == {(4, 7, 0): 5, (5, 7, 0): 1, (6, 7, 0): 2}

    run(bench, scenario)


# ---- 5: readers see one order -------------------------------------------------------------------


def test_readers_see_the_same_order_whenever_they_begin(bench):
    async def scenario(journal):
        async def collect(after, until):
            found = []
            async for group in journal.read(after):
                found.append((group.lsn, identities(group.rows)))
                if journal.watermarks().get((4, 7, 0)) == until and group.lsn >= journal.last_lsn():
                    break
            return found

        early = asyncio.create_task(collect(0, 40))
        for seq in range(1, 21):
            await journal.append(make_batch(4, seq))
        middle = journal.last_lsn()
        live = asyncio.create_task(collect(middle, 40))
        await asyncio.gather(*(journal.append(make_batch(4, seq)) for seq in range(21, 41)))
        late = await collect(0, 40)
        assert await early == late
        assert [lsn for lsn, _ in late] == list(range(1, journal.last_lsn() + 1))
        assert await live == [entry for entry in late if entry[0] > middle]

    run(bench, scenario)


def test_a_reader_waits_for_more_and_ends_with_the_journal(bench):
    async def scenario(journal):
        found = []

        async def collect():
            async for group in journal.read(0):
                found.append(group.lsn)

        reader = asyncio.create_task(collect())
        await asyncio.sleep(0.01)
        assert not found
        await journal.append(make_batch(4, 1))
        for _ in range(200):
            if found:
                break
            await asyncio.sleep(0.005)
        assert found == [1]
        assert not reader.done()
        await journal.close()
        await asyncio.wait_for(reader, 5)

    run(bench, scenario)


# ---- 6: expire removes for good and may be repeated ---------------------------------------------


def test_expire_forgets_whole_days_and_nothing_else(bench):
    async def scenario(journal):
        for n in range(3):
            await journal.append(make_batch(4, n + 1, day=DAY + n, details=b"name"))
        sealed = journal.read_details(1)
        assert await journal.expire(AFTER_DAY_MS - 1) == 0
        assert await journal.expire(AFTER_DAY_MS) == 1
        assert await journal.expire(AFTER_DAY_MS) == 0
        for _ in range(2):
            groups = await read_all(journal)
            assert [g.is_expired for g in groups] == [True, False, False]
            assert [len(g.rows) for g in groups] == [0, 2, 2]
            assert groups[0].details_sealed == b""
            assert journal.watermarks() == {(4, 7, 0): 3}
            assert (await journal.append(make_batch(4, 1, details=b"name"))).is_duplicate
            with pytest.raises(KeyDestroyed):
                journal.read_details(1)
            journal = await bench.reopen()
        with pytest.raises(KeyDestroyed):
            bench.desk.open_details(sealed.day, sealed.sealed, sealed.aad)
        assert bench.ring.days() == [DAY + 1, DAY + 2]

    run(bench, scenario)


def test_the_groups_of_some_days(bench):
    async def scenario(journal):
        for n in range(6):
            await journal.append(make_batch(4, n + 1, day=DAY + n % 3))
        await journal.append(RecordBatch(Run(5, 7, 0, 1, 1), []))  # stands under a day, has no rows
        await journal.expire(AFTER_DAY_MS)
        for _ in range(2):
            found = [(g.lsn, g.day, len(g.rows)) for g in journal.read_days({DAY, DAY + 2}, 6)]
            assert found == [(3, DAY + 2, 2), (6, DAY + 2, 2)]
            assert [g.lsn for g in journal.read_days({DAY + 1, DAY + 2}, 5)] == [2, 3, 5]
            assert list(journal.read_days({DAY + 9}, 6)) == []
            journal = await bench.reopen()

    run(bench, scenario)


def test_groups_of_forgotten_days_go_from_the_front(bench):
    """What is before the first group is not there; all that was ever consumed stays consumed."""

    async def scenario(journal):
        for n in range(3):
            for seq in (2 * n + 1, 2 * n + 2):
                await journal.append(make_batch(4, seq, day=DAY + n, details=b"name"))
            await bench.next_day()
        assert (journal.first_lsn(), journal.last_lsn()) == (1, 6)
        reader = journal.read(0)
        await anext(reader)
        await journal.expire(day_to_ms(DAY + 2))
        rest = [(await anext(reader)).lsn for _ in range(2)]
        assert rest in ([2, 3], [2, 5], [5, 6])  # what it had in hand, then what is there
        await reader.aclose()
        for _ in range(2):
            assert (journal.first_lsn(), journal.last_lsn()) == (5, 6)
            for after in (0, 1, 4):
                assert [g.lsn for g in await read_all(journal, after)] == [5, 6]
            for lsn in (1, 4, 7):
                with pytest.raises(NotFound):
                    journal.read_details(lsn)
            assert journal.read_details(5).count == 2
            assert journal.watermarks() == {(4, 7, 0): 6}
            assert journal.epochs() == {4: 1}
            assert (await journal.append(make_batch(4, 1, details=b"name"))).is_duplicate
            journal = await bench.reopen()
        # The newest groups stay, emptied: there is always a last one.
        await journal.expire(day_to_ms(DAY + 9))
        assert [(g.lsn, len(g.rows)) for g in await read_all(journal)] == [(5, 0), (6, 0)]
        assert (await journal.append(make_batch(4, 7, day=DAY + 9))).lsn == 7

    run(bench, scenario)


def test_rows_that_come_after_their_day_was_forgotten(bench):
    async def scenario(journal):
        await journal.append(make_batch(4, 1))
        await journal.expire(AFTER_DAY_MS)
        bench.clock.advance(2 * DAY_MS)
        receipt = await journal.append(make_batch(4, 2, 3))
        assert not receipt.is_duplicate
        assert journal.counters.rows_forgotten == 4
        assert sum(len(g.rows) for g in await read_all(journal)) == 0
        assert (await bench.reopen()).watermarks() == {(4, 7, 0): 3}

    run(bench, scenario)


def test_a_reader_meets_expired_groups_as_empty(bench):
    async def scenario(journal):
        await journal.append(make_batch(4, 1))
        await journal.append(make_batch(4, 2, day=DAY + 1))
        reader = journal.read(0)
        assert len((await anext(reader)).rows) == 2
        await reader.aclose()
        await journal.expire(AFTER_DAY_MS)
        found = await read_all(journal)
        assert [(g.lsn, len(g.rows), g.runs["last"].tolist()) for g in found] == [
            (1, 0, [1]),
            (2, 2, [2]),
        ]

    run(bench, scenario)


# ---- 7: failures --------------------------------------------------------------------------------


def test_a_failure_stores_nothing_and_nothing_passes_over_it(bench):
    async def scenario(journal):
        await journal.append(make_batch(4, 1, day=DAY))
        bench.ring.is_broken = True
        outcomes = await asyncio.gather(
            *(journal.append(make_batch(4, seq)) for seq in (2, 3, 4)), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [StorageUnavailable] * 3
        bench.ring.is_broken = False
        with pytest.raises(StorageUnavailable, match="2 was not stored"):
            await journal.append(make_batch(4, 5))  # would carry the watermark over 2..4
        assert (await journal.append(make_batch(4, 1))).is_duplicate
        assert not (await journal.append(make_batch(5, 1))).is_duplicate
        assert journal.watermarks() == {(4, 7, 0): 1, (5, 7, 0): 1}
        receipts = await asyncio.gather(
            *(journal.append(make_batch(4, first, last)) for first, last in ((2, 3), (4, 5)))
        )
        assert [r.is_duplicate for r in receipts] == [False, False]
        found = count_identities(await read_all(journal))
        assert sorted({seq for gateway, seq, _ in found if gateway == 4}) == [1, 2, 3, 4, 5]
        assert set(found.values()) == {1}
        assert journal.counters.failures >= 1

    run(bench, scenario)


def test_volatile_sequences_may_go_on_after_a_failure(bench):
    async def scenario(journal):
        bench.ring.is_broken = True
        with pytest.raises(StorageUnavailable):
            await journal.append(make_batch(4, 1, cls=1))
        bench.ring.is_broken = False
        await journal.append(make_batch(4, 5, cls=1))  # the gateway dropped its oldest frames
        assert journal.watermarks() == {(4, 7, 1): 5}

    run(bench, scenario)


def test_a_closed_journal_takes_nothing(bench):
    async def scenario(journal):
        await journal.append(make_batch(4, 1))
        await journal.close()
        await journal.close()
        with pytest.raises(StorageUnavailable):
            await journal.append(make_batch(4, 2))

    run(bench, scenario)


# ---- 8: append may wait, memory stays bounded ---------------------------------------------------


def test_a_flood_waits_and_all_of_it_arrives(bench):
    async def scenario(journal):
        batch_size = make_batch(4, 1, rows_per_seq=400).size()
        most = 0

        async def send(gateway):
            nonlocal most
            for seq in range(1, 9):
                await journal.append(make_batch(gateway, seq, rows_per_seq=400))
                most = max(most, journal.pending_bytes)

        tasks = [asyncio.create_task(send(gateway)) for gateway in range(1, 41)]
        while not all(task.done() for task in tasks):
            most = max(most, journal.pending_bytes)
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        assert most <= 200_000 + batch_size
        assert journal.pending_bytes == 0
        assert journal.watermarks() == {(gateway, 7, 0): 8 for gateway in range(1, 41)}
        assert journal.counters.rows == 40 * 8 * 400

    run(bench, scenario)


def test_a_cancelled_append_is_stored_once_or_not_at_all(bench):
    async def scenario(journal):
        tasks = [asyncio.create_task(journal.append(make_batch(4, seq))) for seq in range(1, 9)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await journal.settle()
        mark = journal.watermarks().get((4, 7, 0), 0)
        for seq in range(1, 9):
            assert (await journal.append(make_batch(4, seq))).is_duplicate == (seq <= mark)
        found = count_identities(await read_all(journal))
        assert found == {(4, seq, n): 1 for seq in range(1, 9) for n in (0, 1)}

    run(bench, scenario)


# ---- all together: any order of sends and repeats against a plain dictionary --------------------


@settings(max_examples=25)
@given(
    st.sampled_from([MemoryBench, LmdbBench]),
    st.lists(
        st.tuples(st.integers(1, 3), st.integers(0, 1), st.integers(1, 12), st.integers(0, 3)),
        min_size=1,
        max_size=25,
    ),
    st.lists(st.integers(0, 25), max_size=2),
)
def test_any_sends_agree_with_a_dictionary(tmp_path_factory, kind, sends, stops):
    bench = kind(tmp_path_factory.mktemp("journal"))
    marks: dict[tuple[int, int, int], int] = {}
    expected: set[tuple[int, int, int]] = set()

    async def scenario(journal):
        for n, (gateway, cls, first, more) in enumerate(sends):
            if n in stops:
                journal = await bench.reopen()
            batch = make_batch(gateway, first, first + more, cls=cls, rows_per_seq=1)
            if batch.parts:  # rows of the two classes must not look alike
                rows = np.frombuffer(batch.parts[0].rows, ROW).copy()
                rows["n"] = cls
                batch = RecordBatch(batch.run, [Part(DAY, rows.tobytes())])
            mark = (gateway, 7, cls)
            if first <= marks.get(mark, 0) < first + more:
                with pytest.raises(ValueError, match="overlaps"):
                    await journal.append(batch)
                continue
            receipt = await journal.append(batch)
            assert receipt.is_duplicate == (first + more <= marks.get(mark, 0))
            if not receipt.is_duplicate:
                marks[mark] = first + more
                expected.update((gateway, seq, cls) for seq in range(first, first + more + 1))
        assert journal.watermarks() == marks
        assert count_identities(await read_all(journal)) == dict.fromkeys(expected, 1)

    run(bench, scenario)


# ---- amending -----------------------------------------------------------------------------------


def blank_first(bench):
    """Takes the first row of a group away, and its details."""

    def change(raw):
        rows = open_group(raw, bench.ring).rows.copy()
        rows[0] = np.zeros((), ROW)
        rows["kind"][0] = Kind.ERASED
        aad = details_aad(raw.lsn, raw.day, raw.row_count)

        def without_first(plain):
            return pack_details([b"", *split_details(plain, raw.row_count)[1:]])

        details = bench.ring.change_details(raw.day, raw.details_sealed, aad, without_first)
        return amend_bytes(raw, rows.tobytes(), details, bench.ring)

    return change


def test_an_amended_group_stays_where_it_is(bench):
    async def scenario(journal):
        for seq in (1, 2, 3):
            await journal.append(make_batch(4, seq, details=b"name"))
        before = await read_all(journal)
        assert await journal.amend([2], blank_first(bench)) == 1
        assert await journal.amend([1, 3], lambda raw: None) == 0
        assert await journal.amend([], lambda raw: None) == 0
        for _ in range(2):
            groups = await read_all(journal)
            assert [g.lsn for g in groups] == [1, 2, 3]
            assert identities(groups[0].rows) == identities(before[0].rows)
            assert identities(groups[1].rows) == [(0, 0, 0), (4, 2, 1)]
            assert groups[1].runs.tolist() == before[1].runs.tolist()
            found = journal.read_details(2)
            plain = bench.desk.open_details(found.day, found.sealed, found.aad)
            assert split_details(plain, found.count) == [b"", b"name"]
            assert (await journal.append(make_batch(4, 2, details=b"name"))).is_duplicate
            journal = await bench.reopen()
        await journal.append(make_batch(4, 4))
        assert await journal.amend([2], blank_first(bench)) == 1  # again
        assert await journal.expire(AFTER_DAY_MS) == 4
        assert (await bench.reopen()).watermarks() == {(4, 7, 0): 4}

    run(bench, scenario)


def test_an_amended_group_cannot_become_another(bench):
    async def scenario(journal):
        await journal.append(make_batch(4, 1))
        await journal.append(make_batch(4, 2))
        others = {}
        await journal.amend([1, 2], lambda raw: others.update({raw.lsn: raw}))
        with pytest.raises(ValueError, match="another"):
            await journal.amend([1], lambda raw: expire_bytes(others[2]))
        assert len((await read_all(journal))[0].rows) == 2
        assert (await journal.append(make_batch(4, 3))).lsn == 3

    run(bench, scenario)


def test_days_that_are_held_are_kept_until_they_are_not(bench):
    async def scenario(journal):
        for n in range(3):
            await journal.append(make_batch(4, n + 1, day=DAY + n))
        assert await journal.expire(AFTER_DAY_MS + DAY_MS, {DAY}) == 1
        assert [g.is_expired for g in await read_all(journal)] == [False, True, False]
        assert bench.ring.days() == [DAY, DAY + 2]
        assert await (await bench.reopen()).expire(AFTER_DAY_MS + DAY_MS) == 1
        assert bench.ring.days() == [DAY + 2]

    run(bench, scenario)
