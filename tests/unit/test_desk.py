"""The desk: changes of the registry, small counts, and what a digest stands for."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from engine.colocation.alerts import ALERT
from engine.colocation.figures import PASSAGE_FIGURE, PLACE_FIGURE
from engine.desk.desk import answer_to_digest, suppress
from engine.desk.questions import (
    SUPPRESSED,
    Alarmed,
    AskAlerts,
    AskKit,
    Kit,
    Listed,
    PersonRef,
    RegistryChange,
    RegistryEntries,
    RegistryList,
    RegistryTaken,
    WatchAdd,
)
from engine.errors import NotFound, RegistryInvalid, StorageFull
from engine.identity.watch import WatchEntry, WatchKind
from engine.registry.registry import Category, Post, Registry, Venue
from engine.scans.rows import ROW, Flag, Kind
from engine.tracing.tracer import Completeness, HistoryAnswer
from tests.reference.stand import BINH, TRACER, Stand

NEW = Venue(number=2001, name="Chợ Mới", category=Category.MARKET)
ALSO = Venue(number=2002, name="Quán Mới", category=Category.CAFE, area="QT-VL-HX")


@pytest.fixture
def stand() -> Stand:
    with Stand() as made:
        yield made


def test_changes_are_one_record_and_come_back_from_the_log(stand: Stand) -> None:
    async def work() -> None:
        link = stand.link()
        assert await link.ask(RegistryChange((NEW, ALSO))) == RegistryTaken(2, 0)
        assert await link.ask(RegistryChange((NEW, ALSO))) == RegistryTaken(0, 2)
        found = await link.ask(RegistryList("venue"))
        assert isinstance(found, RegistryEntries) and found.entries[-2:] == (NEW, ALSO)
        with pytest.raises(NotFound):
            await link.ask(RegistryList("drone"))
        assert isinstance(await link.ask(AskKit()), Kit)
        await link.close()

    stand.run(work())
    ((kind, by, body, at_ms),) = stand.control.records
    assert (kind, at_ms) == ("registry.batch", stand.clock.now_ms())
    assert by.startswith("uid ")
    assert stand.registry.place(2001) == NEW

    class Record:
        lsn, by, at_ms = 1, "uid 1000", 0

    Record.kind, Record.body = kind, body  # type: ignore[attr-defined]
    again = Registry()
    again.apply(Record())  # type: ignore[arg-type]
    assert again.place(2002) == ALSO


def test_a_faulty_import_takes_nothing(stand: Stand) -> None:
    clash = Post(number=1013, code="NEW", name="Chốt mới")

    async def work() -> None:
        link = stand.link()
        with pytest.raises(RegistryInvalid) as caught:
            await link.ask(RegistryChange((NEW, clash)))
        assert caught.value.rows == ["post NEW: number 1013 belongs to venue 1013"]
        await link.close()

    stand.run(work())
    assert stand.registry.place(2001) is None and not stand.control.records


def test_what_is_not_durable_is_not_taken(stand: Stand) -> None:
    version = stand.registry.version
    stand.control.error = StorageFull("no space")
    with pytest.raises(StorageFull):
        stand.run(stand.desk.take_changes([NEW], "test"))
    assert stand.registry.version == version
    stand.control.error = None
    stand.run(stand.desk.take_changes([NEW], "test"))
    assert stand.control.records[-1][0] == "registry.venue"


def test_a_change_is_taken_in_whether_its_asker_still_lives_or_not(stand: Stand) -> None:
    """Durable and not in force until the next start: a lane would let a person in quarantine by."""
    binh = PersonRef(BINH.ref["kind"], BINH.ref["value"])
    asks = [
        RegistryChange((NEW,)),
        WatchAdd(
            token=stand.tokens[TRACER], purpose="case", case="BN-1234", persons=(binh,),
            kind="watch", reason="F1", to_ms=stand.clock.now_ms() + 1000,
        ),
    ]  # fmt: skip

    async def work() -> None:
        for ask in asks:
            stand.control.gate.clear()
            link = stand.link()
            asked = asyncio.ensure_future(link.ask(ask))
            await asyncio.sleep(0.1)
            await link.close()
            await asyncio.gather(asked, return_exceptions=True)
            await asyncio.sleep(0.1)
            stand.control.gate.set()
        while len(stand.control.records) < 3 or not len(stand.watch):  # the second has an audit
            await asyncio.sleep(0.01)

    stand.run(work())
    assert stand.registry.place(2001) == NEW
    assert [entry.case for entry in stand.watch.entries()] == ["BN-1234"]


def test_two_imports_at_once_do_not_contradict_each_other(stand: Stand) -> None:
    """The second is judged by what the first has left, however long the first one's write takes."""
    clash = Post(number=2001, code="NEW", name="Chốt mới")

    async def work() -> list[object]:
        stand.control.gate.clear()
        tasks = [
            asyncio.create_task(stand.desk.take_changes([change], "test"))
            for change in (NEW, clash)
        ]
        await asyncio.sleep(0.05)
        stand.control.gate.set()
        return list(await asyncio.gather(*tasks, return_exceptions=True))

    first, second = stand.run(work())
    assert first == RegistryTaken(1, 0) and isinstance(second, RegistryInvalid)


def test_alerts_name_and_record_persons_and_not_nobody(stand: Stand) -> None:
    person = b"p" * 16
    rows = np.zeros(4, ROW)
    rows["time_ms"], rows["kind"], rows["flags"] = [1, 2, 3, 4], Kind.SCAN, Flag.COPIED
    rows["person"][:3] = np.void(person)
    rows["flags"][1], rows["flags"][3] = Flag.LISTED, Flag.FEVER
    stand.alerts.apply(SimpleNamespace(lsn=1000, rows=rows))
    stand.watch.put(
        WatchEntry(
            number=7,
            kind=WatchKind.WATCH,
            persons=(person,),
            reason="",
            case="BN-1",
            unit="CDC",
            purpose="case",
            who="an",
            role="tracer",
            from_ms=0,
            to_ms=10,
            at_ms=0,
        )
    )

    async def work() -> object:
        link = stand.link()
        ask = AskAlerts(
            token=stand.tokens[TRACER], purpose="case", case="BN-1234", from_ms=0, to_ms=10, limit=3
        )
        found = await link.ask(ask)
        await link.close()
        return found

    found = stand.run(work())
    assert isinstance(found, Alarmed) and found.total == 4
    assert np.frombuffer(found.rows, ALERT)["time_ms"].tolist() == [4, 3, 2]
    assert found.listed == (Listed(2, 7, "watch", "BN-1"),)
    audit = stand.audit()[-1]
    assert (audit.rows, audit.persons) == (3, 1), "a reading of nobody is no person"


def test_small_counts_go_with_their_whole_line() -> None:
    places = np.zeros(3, PLACE_FIGURE)
    places["place"] = [1, 2, 3]
    places["persons"] = [4, 5, 0]
    places["scans"] = [40, 50, 0]
    passages = np.zeros(2, PASSAGE_FIGURE)
    passages["count"] = [4, 5]
    suppress(places, passages)
    assert places["place"].tolist() == [1, 2, 3]
    assert places["scans"].tolist() == [SUPPRESSED, 50, SUPPRESSED]
    assert places["persons"].tolist() == [SUPPRESSED, 5, SUPPRESSED]
    assert passages["count"].tolist() == [SUPPRESSED, 5]


def test_a_digest_stands_for_persons_and_rows() -> None:
    def digest(persons: bytes, **packed: bytes) -> str:
        return answer_to_digest(
            HistoryAnswer(
                persons=persons,
                packed=packed,
                total=0,
                limit_cut=False,
                completeness=Completeness(0, 0),
                elapsed_us=0,
            )
        )

    base = digest(b"k" * 16, visits=b"v", newest=b"n")
    assert base == digest(b"k" * 16, newest=b"n", visits=b"v")
    others = {
        digest(b"j" * 16, visits=b"v", newest=b"n"),
        digest(b"k" * 16, visits=b"w", newest=b"n"),
        digest(b"k" * 16, visits=b"vn", newest=b""),
    }
    assert len(others | {base}) == 4
