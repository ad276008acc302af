"""The engine's socket: questions and replies as messages over a Unix socket.

A message is a u32 big-endian length and that many bytes of msgpack: [id, ask] one way, [id, reply]
the other; many may be under way at once and answers come as they are ready. The socket file has
mode 0600 and each peer's user id is checked, so that whoever reaches it is the owner of the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from engine.desk.questions import Failure, Question, Reply, error_to_failure, failure_to_error
from engine.errors import EngineError, EngineUnreachable, QuestionInvalid

MESSAGE_SIZE_MAX: Final = 32 << 20
_HEAD: Final = struct.Struct(">I")
_PEER: Final = struct.Struct("3i")  # struct ucred of SO_PEERCRED: pid, uid, gid
# Questions of one connection at work at once; more wait unread in the socket.
_ASKS_MAX: Final = 64
_CONNECTIONS_MAX: Final = 32
_CLOSE_S: Final = 1.0  # for the last answers to leave
_PATH_SIZE_MAX: Final = 107  # sun_path of Linux, less the closing NUL
_ID_MAX: Final = (1 << 32) - 1

_Id = Annotated[int, Meta(ge=0, le=_ID_MAX)]
_decode_question = msgspec.msgpack.Decoder(Question).decode
_decode_reply = msgspec.msgpack.Decoder(tuple[_Id, Reply]).decode
_encode = msgspec.msgpack.Encoder().encode


@dataclass(slots=True)
class Peer:
    """One connection as the handler sees it. memory: what the handler keeps for it."""

    uid: int
    pid: int
    memory: dict[str, Any] = field(default_factory=dict)


Handler = Callable[[Question, Peer], Awaitable[Reply]]

_decode_envelope = msgspec.msgpack.Decoder(tuple[_Id, msgspec.Raw]).decode
_UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class QuestionServer:
    """The engine's end. The handler may raise EngineErrors; they travel as Failures.

    Whatever bytes come in: a question that cannot be read gets a Failure, an envelope that cannot
    be read ends the connection, and neither disturbs the other connections.
    on_fault: told the class name of an exception that the handler should not have raised.
    """

    def __init__(
        self, path: str | Path, handler: Handler, on_fault: Callable[[str], None] | None = None
    ) -> None:
        self._path = Path(path)
        self._handler = handler
        self._on_fault = on_fault or (lambda name: None)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Opens the socket; replaces the one a killed engine left. Raises EngineUnreachable."""
        # The socket gets its mode before it gets its name, so that it is never open to others.
        temporary = self._path.with_name(f".{os.getpid()}.s")
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            temporary.unlink(missing_ok=True)  # in a container the next process has the same number
            if len(os.fsencode(self._path)) > _PATH_SIZE_MAX:
                raise OSError("its path is too long")
            sock.bind(str(temporary))
            temporary.chmod(0o600)
            sock.listen(_CONNECTIONS_MAX)
            temporary.rename(self._path)
        except OSError as error:
            sock.close()
            temporary.unlink(missing_ok=True)
            raise EngineUnreachable(
                f"cannot open the socket {self._path}: {error.strerror or error}",
                hint=f"its folder must exist, its path have at most {_PATH_SIZE_MAX} bytes",
            ) from None
        self._server = await asyncio.start_unix_server(self._connect, sock=sock)

    async def close(self) -> None:
        """Ends every connection and takes the socket away."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(OSError):  # on a disk that is read-only by now it stays
            self._path.unlink(missing_ok=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            peer = _writer_to_peer(writer)
            if peer.uid in (0, os.geteuid()) and len(self._tasks) <= _CONNECTIONS_MAX:
                await self._serve(reader, writer, peer)
        except asyncio.CancelledError:
            # Only `close` cancels this task, and it has nobody above it to tell.
            pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(OSError, TimeoutError, asyncio.CancelledError):
                async with asyncio.timeout(_CLOSE_S):
                    await writer.wait_closed()
            writer.transport.abort()  # whoever reads no more must not hold up an engine that ends

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Peer
    ) -> None:
        room = asyncio.Semaphore(_ASKS_MAX)
        lock = asyncio.Lock()
        asks: set[asyncio.Task[None]] = set()
        try:
            while True:
                message = await _read_message(reader)
                if message is None:
                    await _write(writer, lock, 0, _unreadable("the message is too large"))
                    return
                try:
                    number, raw = _decode_envelope(message)
                except _UNDECODABLE:
                    await _write(writer, lock, 0, _unreadable("the message cannot be read"))
                    return
                await room.acquire()
                ask = asyncio.create_task(self._answer(number, bytes(raw), peer, writer, lock))
                asks.add(ask)
                ask.add_done_callback(asks.discard)
                ask.add_done_callback(lambda _: room.release())
        finally:
            # Nobody is left to take the answers.
            for ask in asks:
                ask.cancel()

    async def _answer(
        self,
        number: int,
        raw: bytes,
        peer: Peer,
        writer: asyncio.StreamWriter,
        lock: asyncio.Lock,
    ) -> None:
        try:
            reply: Reply = await self._handler(_decode_question(raw), peer)
        except _UNDECODABLE:
            # The decoder's words may quote what was asked, and with it a person's number.
            reply = _unreadable("the question cannot be read")
        except EngineError as error:
            reply = error_to_failure(error)
        except Exception as error:
            self._on_fault(type(error).__name__)
            reply = Failure("engine", "the engine failed to answer", 500)
        with contextlib.suppress(ConnectionError):
            await _write(writer, lock, number, reply)


class QuestionClient:
    """The asking end; reconnects by itself. One instance belongs to one event loop."""

    def __init__(self, path: str | Path, timeout_s: float = 30.0) -> None:
        self._path = Path(path)
        self._timeout_s = timeout_s
        self._numbers = itertools.count(1)
        self._opening = asyncio.Lock()
        self._writing = asyncio.Lock()
        self._link: _Link | None = None

    async def ask(self, question: Question) -> Reply:
        """The reply, never a Failure.

        Raises EngineUnreachable when there is no engine, the link broke or no answer came in time,
        and whatever EngineError the engine answered with.
        """
        number = next(self._numbers) % _ID_MAX + 1
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        link: _Link | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                link = await self._connected()
                link.waiting[number] = future
                await _write(link.writer, self._writing, number, question)
                reply = await future
        except TimeoutError:
            raise EngineUnreachable(
                f"the engine did not answer within {self._timeout_s:g} s"
            ) from None
        except ConnectionError:
            raise EngineUnreachable("the link to the engine broke") from None
        finally:
            if link is not None:
                link.waiting.pop(number, None)
            if not future.cancel() and not future.cancelled():
                future.exception()  # Looked at, so that nobody warns of an error nobody saw.
        if isinstance(reply, Failure):
            raise failure_to_error(reply)
        return reply

    async def close(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.reading.cancel()
            await asyncio.gather(link.reading, return_exceptions=True)
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await link.writer.wait_closed()
            link.writer.transport.abort()  # an engine that stands still takes no more

    async def _connected(self) -> _Link:
        async with self._opening:
            if self._link is None or self._link.reading.done():
                try:
                    reader, writer = await asyncio.open_unix_connection(str(self._path))
                except OSError as error:
                    raise EngineUnreachable(
                        f"no engine answers at {self._path}: {error.strerror or error}",
                        hint="start it with: chot serve",
                    ) from None
                waiting: dict[int, asyncio.Future[Reply]] = {}
                reading = asyncio.create_task(_read_replies(reader, writer, waiting))
                self._link = _Link(writer, waiting, reading)
            return self._link


@dataclass(slots=True)
class _Link:
    """One connection of a client with the questions that wait on it."""

    writer: asyncio.StreamWriter
    waiting: dict[int, asyncio.Future[Reply]]
    reading: asyncio.Task[None]


async def _read_replies(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    waiting: dict[int, asyncio.Future[Reply]],
) -> None:
    """Hands replies to those who wait until the link ends, and then tells the rest why."""
    fault: EngineError = EngineUnreachable("the engine closed the link")
    try:
        while True:
            message = await _read_message(reader)
            if message is None:
                break
            number, reply = _decode_reply(message)
            future = waiting.get(number)
            if future is not None and not future.done():
                future.set_result(reply)
            elif number == 0 and isinstance(reply, Failure):
                fault = failure_to_error(reply)
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    except _UNDECODABLE:
        fault = EngineUnreachable("the engine's answer cannot be read")
    finally:
        writer.close()
        for future in waiting.values():
            if not future.done():
                future.set_exception(fault)


def _unreadable(text: str) -> Failure:
    return error_to_failure(QuestionInvalid(text))


def _writer_to_peer(writer: asyncio.StreamWriter) -> Peer:
    """Who is at the other end, as the kernel says it."""
    # A copy of the descriptor, because other event loops hide the socket itself.
    with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as sock:
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    pid, uid, _ = _PEER.unpack(raw)
    return Peer(uid, pid)


async def _read_message(reader: asyncio.StreamReader) -> bytes | None:
    """None for one that is larger than allowed. Raises IncompleteReadError at the end."""
    (size,) = _HEAD.unpack(await reader.readexactly(_HEAD.size))
    return await reader.readexactly(size) if size <= MESSAGE_SIZE_MAX else None


async def _write(
    writer: asyncio.StreamWriter, lock: asyncio.Lock, number: int, content: Question | Reply
) -> None:
    message = _encode((number, content))
    if len(message) > MESSAGE_SIZE_MAX:
        if not isinstance(content, Reply):
            raise QuestionInvalid("the question is too large")
        failure = _unreadable("the answer is too large for one message; ask for fewer rows")
        message = _encode((number, failure))
    async with lock:
        if writer.is_closing():  # meanwhile; uvloop would raise RuntimeError
            raise ConnectionResetError
        writer.write(_HEAD.pack(len(message)) + message)
        await writer.drain()
