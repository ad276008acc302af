"""The status socket: a running gateway answers for itself in its spool's folder.

Whoever connects to `status.sock` gets one line of JSON (engine.gateway.status.GatewayStatus) and
the end; nothing is read. Mode 0600. Addressed through the folder's descriptor, because a path of a
Unix socket has 107 bytes at most.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from engine.errors import GatewayNotRunning
from engine.gateway.status import GatewayStatus
from engine.telemetry import Log

NAME: Final = "status.sock"
WRITE_S: Final = 2.0  # somebody who asks and does not read is left
ASK_S: Final = 5.0
ANSWER_MAX: Final = 1_048_576

_log = Log("gateway")


class StatusSocket:
    """Answers while `async with` lasts. snapshot: the state at that moment.

    The spool's lock makes its owner the only one here, so a socket that lies there is a dead one's.
    A folder that takes no socket costs the status, not the gateway.
    """

    def __init__(
        self, spool: str | os.PathLike[str], snapshot: Callable[[], GatewayStatus]
    ) -> None:
        self._folder = Path(spool)
        self._snapshot = snapshot
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> StatusSocket:
        try:
            with _folder(self._folder) as folder:
                path = f"{folder}/{NAME}"
                with suppress(FileNotFoundError):
                    Path(path).unlink()
                sock = socket.socket(socket.AF_UNIX)
                before = os.umask(0o177)
                try:
                    sock.bind(path)
                finally:
                    os.umask(before)
            self._server = await asyncio.start_unix_server(self._answer, sock=sock)
        except OSError as error:
            _log.warning("no_status", problem=error.strerror or "")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
            with suppress(OSError):
                (self._folder / NAME).unlink()

    async def _answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, TimeoutError):
            writer.write(msgspec.json.encode(self._snapshot()) + b"\n")
            async with asyncio.timeout(WRITE_S):
                await writer.drain()
        writer.close()


def ask_status(spool: Path) -> GatewayStatus:
    """What the gateway on this spool says of itself. Raises GatewayNotRunning."""
    try:
        with _folder(spool) as folder, socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(ASK_S)
            sock.connect(f"{folder}/{NAME}")
            answer = bytearray()
            while len(answer) < ANSWER_MAX and (data := sock.recv(65_536)):
                answer += data
        return msgspec.json.decode(answer, type=GatewayStatus)
    except (FileNotFoundError, ConnectionError):
        raise GatewayNotRunning(
            f"no gateway runs on {spool}", hint="start one: chot gateway run FILE"
        ) from None
    except (OSError, msgspec.DecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else None
        raise GatewayNotRunning(f"{spool} does not answer: {why or 'no status'}") from None


@contextmanager
def _folder(path: Path) -> Iterator[str]:
    """A short name of a folder, while it lasts."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}"
    finally:
        os.close(handle)
