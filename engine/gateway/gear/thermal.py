"""Thermal terminals: devices that measure a person and POST what they saw as JSON or XML.

A vendor's fields are named in the configuration (Fields). Value and calibration are kept as the
device gave them, in its unit (SY-4); what they mean is for the engine's dated rules to say.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Final

import msgspec
from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError
from msgspec import Meta

from engine.clock import Clock, iso_to_ms
from engine.errors import BodyInvalid, StorageUnavailable
from engine.gateway.gear.documents import SIZE_MAX, find, read_document
from engine.gateway.gear.http_door import HttpDoor, json_response
from engine.gateway.sources import Item, Reading
from engine.scans.records import PAYLOAD_MAX
from engine.telemetry import Log

BODY_MAX: Final = 2_097_152  # a terminal may add a picture, which is stepped over
PARTS_MAX: Final = 8
WAITING_MAX: Final = 32
STORED_S: Final = 15.0  # how long a terminal waits until its reading is on the box's disk
WORD_MAX: Final = 64
_UNITS: Final = {"c": "C", "celsius": "C", "℃": "C", "f": "F", "fahrenheit": "F", "℉": "F"}

_log = Log("gateway")
_Path = Annotated[str, Meta(max_length=256)]


class Fields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where in a terminal's document each field stands: names joined by dots.

    Defaults fit the plainest JSON there is. payload: the code that the terminal read with the
    temperature, where it has a reader of its own.
    """

    value: _Path = "temperature"
    device: _Path = "device"
    time: _Path = "time"
    unit: _Path = "unit"
    calibration: _Path = "calibration"
    payload: _Path = "payload"


class ThermalTerminals:
    """Listens for the terminals of one lane.

    device, unit, calibration: of a terminal whose documents do not say. tie_s: how far apart a
    reading and its scan may be.
    """

    kind = "thermal"
    is_live = True
    fps_max = 0.0

    def __init__(
        self,
        host: str,
        port: int,
        *,
        lane: int,
        clock: Clock,
        fields: Fields | None = None,
        device: str = "",
        unit: str = "C",
        calibration: str = "",
        tie_s: float = 3.0,
    ) -> None:
        self.lane = lane
        self.skipped = 0
        self.problem = "not open"
        self._clock = clock
        self._fields = fields or Fields()
        self._tie_ms = round(tie_s * 1000)
        self._defaults = {"device": device, "unit": unit, "calibration": calibration}
        self._waiting: asyncio.Queue[Reading] = asyncio.Queue(WAITING_MAX)
        app = web.Application(client_max_size=BODY_MAX)
        app.router.add_post("/{path:.*}", self._answer)
        self._door = HttpDoor(app, host, port)

    @property
    def port(self) -> int:
        return self._door.port

    async def items(self) -> AsyncGenerator[Item]:
        async with self._door:
            self.problem = ""
            _log.info("thermal_open", lane=self.lane, port=self.port)
            while True:
                yield await self._waiting.get()

    async def _answer(self, request: web.Request) -> web.Response:
        """200 when the reading is on the box's disk; also for documents that hold no reading."""
        try:
            reading = self._reading(await _read_body(request))
        except BodyInvalid:
            self.skipped += 1
            raise
        if reading is None:
            return json_response({"taken": False})
        reading.stored = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(STORED_S):
                await self._waiting.put(reading)
                await reading.stored
        except TimeoutError:
            raise StorageUnavailable("the reading is not on disk yet") from None
        return json_response({"taken": True})

    def _reading(self, tree: Any) -> Reading | None:
        """None for a document without a temperature: a heartbeat. Raises BodyInvalid."""
        found = find(tree, self._fields.value)
        if found is None or found == "":
            return None
        now_ms = self._clock.now_ms()
        payload = _word(find(tree, self._fields.payload), PAYLOAD_MAX, "payload").encode()
        if len(payload) > PAYLOAD_MAX:
            raise BodyInvalid("payload is longer than a QR code can hold")
        return Reading(
            lane=self.lane,
            # A clock ahead of ours is wrong; one behind may be a reading that was kept.
            ts_ms=min(_time(find(tree, self._fields.time), now_ms), now_ms),
            device=self._said(tree, "device"),
            value=_value(found),
            unit=_unit(self._said(tree, "unit")),
            calibration=self._said(tree, "calibration"),
            tie_ms=self._tie_ms,
            payload=payload,
        )

    def _said(self, tree: Any, name: str) -> str:
        """What the document says, or the configuration for it."""
        found = find(tree, getattr(self._fields, name))
        return _word(found, WORD_MAX, name) or self._defaults[name]


async def _read_body(request: web.Request) -> Any:
    """The document of a request, or of the first part that is one. Raises BodyInvalid."""
    if not request.content_type.startswith("multipart/"):
        data = bytearray()
        async for chunk in request.content.iter_chunked(16_384):
            data += chunk
            if len(data) > SIZE_MAX:
                raise BodyInvalid(f"a document of more than {SIZE_MAX} bytes")
        return read_document(bytes(data))
    try:
        parts = await request.multipart()
        for _ in range(PARTS_MAX):
            part = await parts.next()
            if part is None:
                break
            if not isinstance(part, BodyPartReader):
                break
            data = bytearray()
            while len(data) <= SIZE_MAX and (chunk := await part.read_chunk(16_384)):
                data += chunk
            if bytes(data).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[", b"<"):
                return read_document(bytes(data))
    except (ValueError, AssertionError, HttpProcessingError, web.HTTPException) as error:
        if isinstance(error, web.HTTPRequestEntityTooLarge):
            raise
        raise BodyInvalid("the parts of the body cannot be read") from None
    raise BodyInvalid("no part of the body is JSON or XML")


def _word(value: str | float | int | None, size_max: int, name: str) -> str:
    text = "" if value is None else str(value).strip()
    if len(text) > size_max:
        raise BodyInvalid(f"{name} is too long")
    return text


def _value(found: str | float | int) -> float:
    """36.7 of a number, "36.7" or "36,7". Raises BodyInvalid."""
    try:
        value = float(found.strip().replace(",", ".") if isinstance(found, str) else found)
    except (ValueError, OverflowError):
        raise BodyInvalid("the temperature is no number") from None
    if not math.isfinite(value):
        raise BodyInvalid("the temperature is no number")
    return value


def _unit(word: str) -> str:
    """C or F, however a vendor spells it. Raises BodyInvalid."""
    letters = word.casefold().strip("°º ").removeprefix("deg").strip(". ")
    found = _UNITS.get(letters)
    if found is None:
        raise BodyInvalid("the unit is neither Celsius nor Fahrenheit")
    return found


def _time(found: str | float | int | None, now_ms: int) -> int:
    """Milliseconds or seconds since 1970, or ISO 8601 (local time where no zone is named)."""
    if found is None or found == "":
        return now_ms
    try:
        number = float(found)
    except (ValueError, OverflowError):
        try:
            ms = iso_to_ms(str(found).strip())
        except (ValueError, OverflowError):
            raise BodyInvalid("the time is neither a number nor ISO 8601") from None
    else:
        if not 0 <= number < 1e14:
            raise BodyInvalid("the time is out of range")
        ms = round(number if number >= 1e11 else number * 1000)
    if ms < 0:
        raise BodyInvalid("the time is out of range")
    return ms
