"""Questions over a real Unix socket."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import struct
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.desk import questions
from engine.desk.question_socket import MESSAGE_SIZE_MAX, Peer, QuestionClient, QuestionServer
from engine.desk.questions import (
    AskHealth,
    AskMetrics,
    AskPerson,
    AskPlaces,
    Details,
    FetchDetails,
    Health,
    MetricsText,
    PersonRef,
    Places,
    Question,
    RegistryChange,
    RegistryTaken,
    Reply,
    error_to_failure,
    failure_to_error,
)
from engine.errors import (
    AccessDenied,
    EngineError,
    EngineUnreachable,
    QuestionInvalid,
    RegistryInvalid,
    leaves,
)
from engine.registry.registry import Category, Venue
from engine.storage.group import SealedDetails

TOKEN = "ab" * 32


@pytest.fixture
def path() -> Iterator[Path]:
    # Not pytest's folder: its paths can be longer than a socket's name may be.
    with tempfile.TemporaryDirectory(prefix="chot") as folder:
        yield Path(folder) / "ask.sock"


async def answer(question: Question, peer: Peer) -> Reply:
    """A stand-in for the engine."""
    match question:
        case AskMetrics():
            return MetricsText(b"up 1\n")
        case AskHealth():
            await asyncio.sleep(0.2)
            return Health({"uid": peer.uid})
        case AskPlaces(text="deny"):
            raise AccessDenied("no", hint="ask the controller")
        case AskPlaces(text="break"):
            raise RuntimeError("079199999123")
        case AskPlaces(text="rows"):
            raise RegistryInvalid("two faults", rows=["line 1: a", "line 2: b"])
        case AskPlaces(text="big"):
            return MetricsText(b"x" * (MESSAGE_SIZE_MAX + 1))
        case RegistryChange(changes=changes):
            return RegistryTaken(len(changes), 0)
        case FetchDetails(refs=refs):
            return Details((SealedDetails(1, 2, 3, b"sealed", b"aad"),), refs[1:])
    return Places(())


def run(
    path: Path, work: Callable[[QuestionClient], Awaitable[None]], handler: object = answer
) -> list[str]:
    """Serves while `work` runs; names of the exceptions that the handler should not have raised."""
    faults: list[str] = []

    async def main() -> None:
        server = QuestionServer(path, handler, faults.append)  # type: ignore[arg-type]
        await server.start()
        client = QuestionClient(path, timeout_s=10)
        try:
            await work(client)
        finally:
            await client.close()
            await server.close()

    asyncio.run(main())
    return faults


def test_messages_travel_as_they_are(path: Path) -> None:
    venue = Venue(number=1013, name="Chợ Hồ Xá", category=Category.MARKET)

    async def work(client: QuestionClient) -> None:
        assert await client.ask(AskMetrics()) == MetricsText(b"up 1\n")
        assert await client.ask(RegistryChange((venue, venue))) == RegistryTaken(2, 0)
        reply = await client.ask(FetchDetails(token=TOKEN, audit=1, refs=(5, 6)))
        assert reply == Details((SealedDetails(1, 2, 3, b"sealed", b"aad"),), (6,))
        assert await client.ask(AskHealth()) == Health({"uid": os.geteuid()})

    assert run(path, work) == []


def test_the_socket_is_for_its_owner_alone_and_goes_away(path: Path) -> None:
    async def work(client: QuestionClient) -> None:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert [entry.name for entry in path.parent.iterdir()] == [path.name]

    run(path, work)
    assert not path.exists()


def test_a_slow_answer_does_not_hold_up_the_others(path: Path) -> None:
    order: list[str] = []

    async def work(client: QuestionClient) -> None:
        async def ask(question: Question) -> None:
            await client.ask(question)
            order.append(type(question).__name__)

        await asyncio.gather(ask(AskHealth()), ask(AskMetrics()), ask(AskMetrics()))

    run(path, work)
    assert order == ["AskMetrics", "AskMetrics", "AskHealth"]


def test_errors_come_back_as_themselves(path: Path) -> None:
    async def work(client: QuestionClient) -> None:
        with pytest.raises(AccessDenied) as denied:
            await client.ask(AskPlaces(token=TOKEN, text="deny"))
        assert (str(denied.value), denied.value.hint) == ("no", "ask the controller")
        with pytest.raises(RegistryInvalid) as invalid:
            await client.ask(AskPlaces(token=TOKEN, text="rows"))
        assert invalid.value.rows == ["line 1: a", "line 2: b"]
        with pytest.raises(EngineError) as broken:
            await client.ask(AskPlaces(token=TOKEN, text="break"))
        assert "079199999123" not in str(broken.value)
        with pytest.raises(QuestionInvalid, match="too large"):
            await client.ask(AskPlaces(token=TOKEN, text="big"))
        assert await client.ask(AskMetrics()) == MetricsText(b"up 1\n")

    assert run(path, work) == ["RuntimeError"]


def test_every_error_code_survives_the_way() -> None:
    for cls in leaves().values():
        back = failure_to_error(error_to_failure(cls("said", hint="do")))
        assert (type(back), str(back), back.hint) == (cls, "said", "do")
    unknown = questions.Failure("of.a.newer.version", "said", 400)
    assert type(failure_to_error(unknown)) is EngineError


@given(st.binary(min_size=16, max_size=16))
def test_a_handle_is_a_key(key: bytes) -> None:
    handle = questions.key_to_handle(key)
    assert len(handle) == 26
    assert questions.handle_to_key(handle) == questions.handle_to_key(handle.upper()) == key


@given(st.text(max_size=30))
def test_any_text_is_a_handle_or_refused(text: str) -> None:
    for given_text in (text, (text + "a" * 26)[:26]):
        try:
            assert len(questions.handle_to_key(given_text)) == 16
        except QuestionInvalid as error:
            assert str(error) == "that is not the handle of a person", "it quotes nothing"


def test_a_question_that_cannot_be_read_is_refused_without_quoting_it(path: Path) -> None:
    person = PersonRef("cccd", "079199999123", "far too long" * 30)
    question = AskPerson(
        token=TOKEN,
        purpose="case",
        case="BN-1",
        from_ms=0,
        to_ms=1,
        limit=1,
        persons=(person,),
    )

    async def work(client: QuestionClient) -> None:
        with pytest.raises(QuestionInvalid) as caught:
            await client.ask(question)
        assert "079199999123" not in str(caught.value)
        assert await client.ask(AskMetrics()) == MetricsText(b"up 1\n")

    assert run(path, work) == []


def test_no_engine_and_an_engine_that_comes_back(path: Path) -> None:
    async def main() -> None:
        client = QuestionClient(path, timeout_s=5)
        with pytest.raises(EngineUnreachable):
            await client.ask(AskMetrics())
        for _ in range(2):
            server = QuestionServer(path, answer)
            await server.start()
            assert await client.ask(AskMetrics()) == MetricsText(b"up 1\n")
            waiting = asyncio.create_task(client.ask(AskHealth()))
            await asyncio.sleep(0.05)
            await server.close()
            with pytest.raises(EngineUnreachable):
                await waiting
        await client.close()

    asyncio.run(main())


def test_a_socket_left_by_a_killed_engine_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))

    async def work(client: QuestionClient) -> None:
        assert await client.ask(AskMetrics()) == MetricsText(b"up 1\n")

    run(path, work)


def test_the_name_that_a_killed_engine_left_is_free(path: Path) -> None:
    """Killed between the socket's making and its naming; in a container all are process 1."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path.with_name(f".{os.getpid()}.s")))

    async def work(client: QuestionClient) -> None:
        assert await client.ask(AskMetrics()) == MetricsText(b"up 1\n")

    run(path, work)


@pytest.mark.parametrize("run_loop", [asyncio.run, uvloop.run])
def test_who_reads_no_answers_does_not_hold_up_an_engine_that_ends(
    path: Path, run_loop: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    async def much(question: Question, peer: Peer) -> Reply:
        return MetricsText(bytes(8 << 20))

    async def main() -> None:
        server = QuestionServer(path, much)
        await server.start()
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(path))
            ask = msgspec.msgpack.encode((1, AskMetrics()))
            peer.sendall(struct.pack(">I", len(ask)) + ask)
            assert await asyncio.to_thread(peer.recv, 4, socket.MSG_PEEK), "more is on its way"
            async with asyncio.timeout(20):
                await server.close()

    run_loop(main())


def test_an_engine_that_stands_still_does_not_hold_up_an_api_that_ends(path: Path) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as engine:
            engine.bind(str(path))
            engine.listen()
            client = QuestionClient(path, timeout_s=0.2)
            places = tuple(
                Venue(number=n, name="x" * 60, category=Category.MARKET) for n in range(100_000)
            )
            with pytest.raises(EngineUnreachable):
                await client.ask(RegistryChange(places))
            async with asyncio.timeout(20):
                await client.close()

    asyncio.run(main())


def test_an_engine_that_does_not_answer_in_time(path: Path) -> None:
    async def never(question: Question, peer: Peer) -> Reply:
        await asyncio.sleep(60)
        raise AssertionError

    async def work(client: QuestionClient) -> None:
        hasty = QuestionClient(path, timeout_s=0.05)
        with pytest.raises(EngineUnreachable, match="did not answer"):
            await hasty.ask(AskMetrics())
        await hasty.close()

    assert run(path, work, never) == []


def test_a_path_that_is_no_place_for_a_socket(tmp_path: Path) -> None:
    for bad in (tmp_path / "missing" / "s", tmp_path / ("x" * 120)):
        with pytest.raises(EngineUnreachable):
            asyncio.run(QuestionServer(bad, answer).start())


def talk(path: Path, data: bytes) -> bytes:
    """Sends bytes, closes the sending side, and reads until the other end closes."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(path))
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError, OSError):
            pass
        received = b""
        try:
            while chunk := sock.recv(65536):
                received += chunk
        except ConnectionResetError:
            pass
        return received


def frame(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


FRAMES = st.one_of(
    st.binary(max_size=64),
    st.binary(max_size=64).map(frame),
    st.builds(
        lambda number, ask: frame(msgspec.msgpack.encode((number, ask))),
        st.integers(-5, 1 << 40),
        st.dictionaries(
            st.sampled_from(["ask", "text", "limit", "token", "changes", "x"]),
            st.one_of(
                st.sampled_from(["places", "metrics", "registry_change", TOKEN]),
                st.integers(-1, 3),
                st.lists(st.integers(0, 9), max_size=2),
            ),
        ),
    ),
)


def test_any_bytes_end_in_an_answer_or_a_closed_connection(path: Path) -> None:
    ready = struct.pack(">I", MESSAGE_SIZE_MAX + 1)

    async def work(client: QuestionClient) -> None:
        @settings(max_examples=60, deadline=None)
        @given(st.lists(FRAMES, max_size=4).map(b"".join))
        def attack(data: bytes) -> None:
            talk(path, data)

        await asyncio.to_thread(attack)
        assert b"too large" in await asyncio.to_thread(talk, path, ready)
        assert b"cannot be read" in await asyncio.to_thread(talk, path, frame(b"\xc1"))
        assert await client.ask(AskMetrics()) == MetricsText(b"up 1\n")

    assert run(path, work) == []
