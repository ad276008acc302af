"""Cameras that are asked over HTTP: a snapshot again and again, or one MJPEG stream.

Only the newest frame counts: what came late is never made up for. A camera that does not answer,
stalls or sends something else is asked again after a pause that doubles, and the other lanes do
not notice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from email.message import Message
from random import Random
from typing import Final

import aiohttp

from engine.clock import Clock
from engine.decoding.images import PNG_MAGIC
from engine.errors import SettingInvalid
from engine.gateway.gear.multipart import MultipartSplitter
from engine.gateway.sources import IMAGE_MAX, Item, Picture
from engine.telemetry import Log
from engine.wire.frames import Codec

BACKOFF_FIRST_S: Final = 0.5
BACKOFF_MAX_S: Final = 15.0
_CHUNK: Final = 65_536

_log = Log("gateway")


class _Fault(Exception):
    """What a camera did that is no frame; its words are ours and hold nothing of the camera's."""


class _Camera:
    """What both kinds share: the session, the pauses, and what is told of faults.

    url: http or https, without a user in it. user: (name, password), sent as Basic or, with
    is_digest, as Digest (RFC 7616). stall_s: a camera that gives no frame for longer is left and
    asked anew. Raises SettingInvalid for a url that is none.
    """

    is_live = True
    kind = ""

    def __init__(
        self,
        url: str,
        *,
        fps: float,
        lane: int,
        clock: Clock,
        user: tuple[str, str] | None = None,
        is_digest: bool = False,
        stall_s: float = 5.0,
        random: Random | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        check_url(url)
        self.lane = lane
        self.problem = "not asked yet"
        self.fps_max = fps
        self.skipped = 0
        self._url = url
        self._fps = fps
        self._clock = clock
        self._user = user
        self._is_digest = is_digest
        self._stall_s = stall_s
        self._random = random or Random()
        self._sleep = sleep
        self._number = 0

    async def items(self) -> AsyncGenerator[Item]:
        failures = 0
        async with self._session() as session:
            while True:
                problem = "the camera ended the stream"
                try:
                    async with aclosing(self._pictures(session)) as pictures:
                        async for picture in pictures:
                            if self.problem:
                                _log.info("camera_answers", lane=self.lane, kind=self.kind)
                            self.problem, failures = "", 0
                            yield picture
                except _Fault as fault:
                    problem = str(fault)
                except TimeoutError:
                    problem = f"no frame for {self._stall_s:g} s"
                except Exception as error:
                    # Whatever a library makes of what a camera says costs this lane only. The
                    # words may quote the address or what the camera sent.
                    problem = f"no answer ({type(error).__name__})"
                if problem != self.problem:
                    _log.warning("camera_fails", lane=self.lane, kind=self.kind, problem=problem)
                self.problem = problem
                ceiling = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(failures, 16))
                failures += 1
                await self._sleep(self._random.uniform(ceiling / 2, ceiling))

    def _session(self) -> aiohttp.ClientSession:
        headers, middlewares = {}, []
        if self._user is not None and self._is_digest:
            middlewares.append(aiohttp.DigestAuthMiddleware(*self._user))
        elif self._user is not None:
            headers["Authorization"] = aiohttp.encode_basic_auth(*self._user, encoding="utf-8")
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=2),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=headers,
            middlewares=middlewares,
            # A body that unpacks to more than it weighs has no place here.
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._stall_s),
        )

    def _pictures(self, session: aiohttp.ClientSession) -> AsyncGenerator[Picture]:
        raise NotImplementedError

    def _picture(self, codec: Codec, image: bytes, ts_ms: int) -> Picture:
        self._number += 1
        return Picture(codec, image, ts_ms * 1_000_000, self._number, self.lane)


class SnapshotCamera(_Camera):
    """A camera that answers GET with one JPEG or PNG; asked `fps` times a second at most."""

    kind = "snapshot"

    async def _pictures(self, session: aiohttp.ClientSession) -> AsyncGenerator[Picture]:
        while True:
            begun_ns = self._clock.monotonic_ns()
            async with asyncio.timeout(self._stall_s):
                codec, image, ts_ms = await self._fetch(session)
            yield self._picture(codec, image, ts_ms)
            # A slow camera is asked again at once, and the questions it missed are not made up for.
            spent_s = (self._clock.monotonic_ns() - begun_ns) / 1e9
            await self._sleep(max(0.0, 1 / self._fps - spent_s))

    async def _fetch(self, session: aiohttp.ClientSession) -> tuple[Codec, bytes, int]:
        async with session.get(self._url, allow_redirects=False) as response:
            _check_status(response)
            ts_ms = self._clock.now_ms()
            image = bytearray()
            async for chunk in response.content.iter_chunked(_CHUNK):
                image += chunk
                if len(image) > IMAGE_MAX:
                    self.skipped += 1
                    raise _Fault(f"an image of more than {IMAGE_MAX} bytes")
        if image.startswith(b"\xff\xd8"):
            return Codec.JPEG, bytes(image), ts_ms
        if image.startswith(PNG_MAGIC):
            return Codec.PNG, bytes(image), ts_ms
        self.skipped += 1
        raise _Fault("the answer is neither JPEG nor PNG")


class MjpegCamera(_Camera):
    """A camera that answers GET with multipart/x-mixed-replace. More than `fps` is left out."""

    kind = "mjpeg"

    async def _pictures(self, session: aiohttp.ClientSession) -> AsyncGenerator[Picture]:
        loop = asyncio.get_running_loop()
        due = loop.time() + self._stall_s
        async with asyncio.timeout_at(due):
            response = await session.get(self._url, allow_redirects=False)
        async with response:
            _check_status(response)
            splitter = _splitter(response)
            before = self.skipped
            while True:
                async with asyncio.timeout_at(due):
                    chunk = await response.content.readany()
                if not chunk:
                    return
                images = splitter.feed(chunk)
                self.skipped = before + splitter.damaged
                if images:
                    # Bytes that trickle and never become a frame do not count as life.
                    due = loop.time() + self._stall_s
                    yield self._picture(Codec.JPEG, images[-1], self._clock.now_ms())


def check_url(url: str) -> None:
    """Raises SettingInvalid; never quotes a url that may hold a password."""
    scheme, _, rest = url.partition("://")
    host = rest.partition("/")[0]
    if scheme not in ("http", "https") or not host:
        raise SettingInvalid("a camera's url begins with http:// or https:// and a host")
    if "@" in host:
        raise SettingInvalid("a camera's url holds no user", hint="set user and password")


def _check_status(response: aiohttp.ClientResponse) -> None:
    if response.status == 401:
        raise _Fault("the camera refuses user and password (401)")
    if response.status != 200:
        raise _Fault(f"the camera answers {response.status}")


def _splitter(response: aiohttp.ClientResponse) -> MultipartSplitter:
    """Raises _Fault for an answer that is no multipart stream."""
    header = Message()
    header["Content-Type"] = response.headers.get("Content-Type", "")
    boundary = header.get_boundary("")
    if header.get_content_maintype() != "multipart":
        raise _Fault("the answer is no multipart stream")
    try:
        return MultipartSplitter(boundary.encode())
    except ValueError:
        raise _Fault("the stream has no boundary that can be one") from None
