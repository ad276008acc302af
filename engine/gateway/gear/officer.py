"""The officer's desk: a page on the box for those whose code cannot be read, and the lanes' lights.

    GET  /            the page, in Vietnamese; works without scripts
    POST /            its form
    POST /v1/entries  the same as JSON: {"lane", "fields", "officer", "why"}; with a header
                      Idempotency-Key it can be sent again until it is answered
    GET  /v1/lights   the lights of all lanes as server-sent events, for the page and for lamps

For this machine only: plain HTTP must not carry people's numbers over a network. Other sites open
in the same browser are kept out by the names in Host and Origin.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Annotated, Any, Final, NamedTuple
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web
from msgspec import Meta

from engine.clock import Clock, ms_to_iso
from engine.errors import (
    AccessDenied,
    BodyInvalid,
    InputError,
    KeyReused,
    SettingInvalid,
    StorageUnavailable,
)
from engine.gateway.gear.http_door import HttpDoor, json_response
from engine.gateway.lights import Light
from engine.gateway.sources import Item, Records
from engine.gateway.spool_change import KEYS_MAX
from engine.payloads import Refusal
from engine.scans import people
from engine.scans.records import encode_manual, encode_scans
from engine.telemetry import Log

BODY_MAX: Final = 16_384
FORM_FIELDS_MAX: Final = 32
LISTENERS_MAX: Final = 8  # of lights; the oldest gives way
LIGHTS_WAITING_MAX: Final = 64  # for one listener; a slow one misses the oldest
BEAT_S: Final = 15.0
STORED_S: Final = 10.0
LIT_S: Final = 60.0  # a light that is older says nothing of who stands there now
KEY_LENGTH_MAX: Final = 128
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")

VERDICTS: Final = {
    "accepted": "ĐƯỢC QUA",
    "seen": "ĐÃ QUÉT, ĐƯỢC QUA",
    "refused": "KHÔNG NHẬN MÃ NÀY",
    "alert": "CẢNH BÁO: GIỮ LẠI KIỂM TRA",
}
REASONS: Final = {
    "bad_encoding": "mã hỏng, không đọc được chữ",
    "bad_signature": "chữ ký của mã không đúng",
    "bare_number": "chỉ có số, không phải mã cá nhân",
    "call_desk": "gọi về trung tâm chỉ huy",
    "clock": "đồng hồ của chốt sai giờ",
    "contact_card": "danh thiếp, không phải mã cá nhân",
    "empty": "mã trống",
    "fever": "thân nhiệt cao",
    "foreign_health": "chứng nhận y tế nước ngoài",
    "foreign_venue": "mã địa điểm của nơi khác",
    "forged": "mã giả",
    "frame": "hình của camera không đọc được",
    "incomplete": "mới đọc một phần của thẻ, đưa tiếp mã còn lại",
    "lost": "dữ liệu bị mất",
    "malformed": "mã sai định dạng",
    "malformed_id": "số giấy tờ không đúng",
    "payment_qr": "mã chuyển tiền của ngân hàng",
    "phone_link": "mã số điện thoại",
    "revoked": "mã đã bị thu hồi",
    "seal_broken": "dữ liệu không mở được",
    "service_link": "đường dẫn dịch vụ, không phải mã cá nhân",
    "too_long": "mã quá dài",
    "too_old": "lượt quét quá cũ",
    "two_lanes": "cùng một mã ở hai làn",
    "two_posts": "cùng một mã ở hai chốt",
    "unknown": "không phải mã cá nhân",
    "unknown_place": "địa điểm không có trong danh sách",
    "unknown_url": "đường dẫn lạ",
    "unsupported_context": "mã này không dùng ở chốt",
    "wifi": "mã wifi",
}
_FIELDS: Final = (
    "name", "cccd", "passport", "country", "bhyt", "birth", "sex", "phone", "address",
)  # fmt: skip
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_log = Log("gateway")


class _Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    lane: Annotated[int, Meta(ge=1, le=65_535)]
    fields: dict[str, Annotated[str, Meta(max_length=people.FIELD_SIZE_MAX)]]
    officer: Annotated[str, Meta(min_length=1, max_length=64)]
    why: Annotated[str, Meta(min_length=1, max_length=256)]

    def __repr__(self) -> str:
        return "Entry(...)"


class OfficerDesk:
    """The page and its entries. lanes: those of the box, offered in the form.

    Raises SettingInvalid for an address that is not this machine's own.
    """

    kind = "officer"
    is_live = True
    fps_max = 0.0
    skipped = 0

    def __init__(self, host: str, port: int, *, lanes: Sequence[int], clock: Clock) -> None:
        if host not in _LOOPBACK:
            raise SettingInvalid("officer: the page is for this machine only: host 127.0.0.1")
        self.lane = lanes[0] if lanes else 0
        self.problem = "not open"
        self._lanes = list(lanes)
        self._clock = clock
        self._waiting: asyncio.Queue[Records] = asyncio.Queue(16)
        # An entry that comes again, by a double press, a reload or a link that was cut, is the same
        # person. The spool remembers the keys too, for the next process.
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._lit: dict[int, _Lit] = {}
        self._listeners: deque[_Listener] = deque()
        page = files("engine.gateway.gear") / "page"
        self._page = Template((page / "entry.html").read_text(encoding="utf-8"))
        app = web.Application(client_max_size=BODY_MAX, middlewares=[self._guard])
        app.router.add_get("/", self._show_page)
        app.router.add_post("/", self._take_form)
        app.router.add_post("/v1/entries", self._take_json)
        app.router.add_get("/v1/lights", self._stream_lights)
        for name, kind in (("page.css", "text/css"), ("page.js", "text/javascript")):
            body = (page / name).read_text(encoding="utf-8")
            app.router.add_get(f"/{name}", _file(body, kind))
        self._door = HttpDoor(app, host, port, life_s=None)

    @property
    def port(self) -> int:
        return self._door.port

    async def items(self) -> AsyncGenerator[Item]:
        async with self._door:
            self.problem = ""
            _log.info("officer_open", port=self.port)
            try:
                while True:
                    yield await self._waiting.get()
            finally:
                for listener in self._listeners:
                    listener.put(None)

    def recall(self, keys: Sequence[bytes]) -> None:
        """Keys of entries that an earlier process took."""
        self._known |= dict.fromkeys(keys, _Known())

    def show(self, light: Light) -> None:
        """A light of a lane, for the page and for lamps."""
        if light.late:
            return
        self._lit[light.lane] = _Lit(light, self._clock.now_ms(), self._clock.monotonic_ns())
        data = b"data: " + msgspec.json.encode(light_to_json(light)) + b"\n\n"
        for listener in self._listeners:
            listener.put(data)

    # ---- pages ----------------------------------------------------------------------------------

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Refuses what a page of another site, or a name that was bent to this machine, sends."""
        names = {f"{name}:{self.port}" for name in ("127.0.0.1", "localhost", "[::1]")}
        origin = request.headers.get("Origin")
        if request.host not in names or (
            origin is not None and origin.removeprefix("http://") not in names
        ):
            raise AccessDenied("this page is for the box itself")
        response: web.StreamResponse = await handler(request)
        if not response.prepared:
            response.headers.update(_HEADERS)
        return response

    async def _show_page(self, _: web.Request) -> web.Response:
        return self._render({"lane": str(self.lane)})

    async def _take_form(self, request: web.Request) -> web.Response:
        form = await _read_form(request)
        kept = {name: form.get(name, "") for name in ("lane", "officer")}
        number = form.get("entry", "")[:64]
        key = _key("form", number) if number else b""
        warnings: list[str] = []
        try:
            if key in self._known:
                await self._known[key].until_stored()
                return self._render(kept, "Người này đã được ghi lại.", is_good=True)
            entry = msgspec.convert(
                {
                    "lane": int(form["lane"][:6]) if form.get("lane", "").isdecimal() else 0,
                    "fields": {name: form[name] for name in _FIELDS if form.get(name, "").strip()},
                    "officer": form.get("officer", "").strip(),
                    "why": form.get("why", "").strip(),
                },
                _Entry,
            )
            record, warnings = self._record(entry)
            await self._take(record, key)
        except (msgspec.ValidationError, InputError) as error:
            return self._render(form, _complaint(error), status=422)
        except StorageUnavailable:
            text = "Chưa ghi được vào đĩa của chốt. Xin bấm Ghi lại lần nữa."
            return self._render(form, text, status=503)
        text = "Đã ghi lại."
        if warnings:
            text += " Xin kiểm tra lại ngày sinh, giới tính và số giấy tờ."
        return self._render(kept, text, is_good=True)

    async def _take_json(self, request: web.Request) -> web.Response:
        if request.content_type != "application/json":
            raise BodyInvalid("an entry is application/json")
        try:
            entry = msgspec.json.decode(await request.read(), type=_Entry)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise BodyInvalid("not an entry: lane, fields, officer, why") from None
        record, warnings = self._record(entry)
        key = _header_key(request)
        known = self._known.get(key)
        if known is None:
            await self._take(record, key, msgspec.json.encode(entry))
        else:
            await known.until_stored(msgspec.json.encode(entry))
        response = json_response({"taken": True, "warnings": warnings}, status=201)
        if key:
            response.headers["Idempotency-Replayed"] = str(known is not None).lower()
        return response

    def _record(self, entry: _Entry) -> tuple[Records, list[str]]:
        """An entry for the spool, and warnings. Raises BodyInvalid."""
        if entry.lane not in self._lanes:
            raise BodyInvalid("lane: not of this box")
        if not entry.fields:
            raise BodyInvalid("fields: empty")
        parsed = people.fields_to_parsed(entry.fields)
        if isinstance(parsed, Refusal):
            raise BodyInvalid(f"fields: {parsed.reason}")
        record = encode_manual(
            self._clock.now_ms(), entry.lane, entry.fields, officer=entry.officer, why=entry.why
        )
        stored = asyncio.get_running_loop().create_future()
        return Records(encode_scans([record]), 1, entry.lane, stored), list(parsed.warnings)

    async def _take(self, records: Records, key: bytes = b"", body: bytes = b"") -> None:
        """Until an entry is on the box's disk. Raises StorageUnavailable; what was handed on by
        then is written all the same, once the disk takes it."""
        assert records.stored is not None
        if self._waiting.full():
            raise StorageUnavailable("too many entries wait for the disk")
        known = _Known(records.stored, _digest(body))
        records.key = key
        self._waiting.put_nowait(records)
        if key:
            self._known[key] = known
            if len(self._known) > KEYS_MAX:
                self._known.popitem(last=False)
        await known.until_stored()

    def _render(
        self,
        values: Mapping[str, str],
        message: str = "",
        *,
        is_good: bool = False,
        status: int = 200,
    ) -> web.Response:
        shown = {name: escape(values.get(name, "")) for name in (*_FIELDS, "officer", "why")}
        role = 'good" role="status' if is_good else 'bad" role="alert'
        is_new = is_good or not message
        has_more = any(values.get(name) for name in ("passport", "country", "bhyt"))
        lanes = [(str(lane), f"Làn {lane}") for lane in self._lanes]
        sexes = [("", "Chưa rõ"), ("Nam", "Nam"), ("Nữ", "Nữ"), ("Khác", "Khác")]
        text = self._page.substitute(
            shown,
            entry=secrets.token_urlsafe(12) if is_new else escape(values.get("entry", "")),
            message=f'<p class="message {role}">{escape(message)}</p>' if message else "",
            lit_ms=round(LIT_S * 1000),
            lights="".join(self._render_light(lane) for lane in self._lanes),
            lane_options=_options(lanes, values.get("lane", "")),
            sex_options=_options(sexes, values.get("sex", "")),
            details_open=" open" if has_more else "",
        )
        return web.Response(text=text, content_type="text/html", status=status)

    def _render_light(self, lane: int) -> str:
        """As the page's script does it: an alert stays until the next verdict, with its time."""
        lit = self._lit.get(lane)
        verdict, text, rest, left_ms = "idle", "đang chờ", "", 0
        if lit is not None:
            age_ms = (self._clock.monotonic_ns() - lit.shown_ns) // 1_000_000
            left_ms = max(0, round(LIT_S * 1000) - age_ms)
            if left_ms or lit.light.verdict == "alert":
                verdict, text = lit.light.verdict, VERDICTS[lit.light.verdict]
                rest = f" lúc {ms_to_iso(lit.shown_ms)[11:19]}"
        return (
            f'<div class="light {verdict}" id="lane-{lane}" data-left-ms="{left_ms}">'
            f"Làn {lane}: <b>{text}</b>{rest}</div>"
        )

    # ---- lights ---------------------------------------------------------------------------------

    async def _stream_lights(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={**_HEADERS, "Content-Type": "text/event-stream"})
        await response.prepare(request)
        listener = _Listener()
        self._listeners.append(listener)
        if len(self._listeners) > LISTENERS_MAX:
            self._listeners.popleft().put(None)
        try:
            await response.write(b": lights\n\n")
            while (data := await listener.get()) is not None:
                await response.write(data)
        except ConnectionError:
            pass
        finally:
            if listener in self._listeners:
                self._listeners.remove(listener)
        return response


class _Known(NamedTuple):
    """An entry that was taken. stored: done once it is on disk, None of an earlier process. digest:
    of its body, in memory only, for it would tell on a stolen disk what a guess is worth."""

    stored: asyncio.Future[None] | None = None
    digest: bytes = b""

    async def until_stored(self, body: bytes = b"") -> None:
        """Raises StorageUnavailable, and KeyReused for another body under the same key."""
        if body and self.digest and _digest(body) != self.digest:
            raise KeyReused("this key was used for another entry")
        if self.stored is None:
            return
        try:
            async with asyncio.timeout(STORED_S):
                await asyncio.shield(self.stored)
        except TimeoutError:
            raise StorageUnavailable("the entry is not on disk yet") from None


async def _read_form(request: web.Request) -> dict[str, str]:
    """Raises BodyInvalid. The page sends no other kind of form, and whoever does is no browser."""
    if request.content_type != "application/x-www-form-urlencoded":
        raise BodyInvalid("a form is application/x-www-form-urlencoded")
    try:
        text = (await request.read()).decode()
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=FORM_FIELDS_MAX))
    except ValueError:
        raise BodyInvalid("the form cannot be read") from None


def _key(kind: str, word: str) -> bytes:
    """What stands for a form's number or a program's key; forms and programs share no keys."""
    return hashlib.blake2b(f"{kind} {word}".encode(), digest_size=16).digest()


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest() if body else b""


def _header_key(request: web.Request) -> bytes:
    """b"" without the header. Raises BodyInvalid for one that cannot be a key."""
    word = request.headers.get("Idempotency-Key")
    if word is None:
        return b""
    if not (0 < len(word) <= KEY_LENGTH_MAX and word.isascii() and word.isprintable()):
        raise BodyInvalid(f"Idempotency-Key has 1 to {KEY_LENGTH_MAX} characters of ASCII")
    return _key("key", word)


class _Lit(NamedTuple):
    """What a lane was shown last, and when."""

    light: Light
    shown_ms: int
    shown_ns: int  # monotonic: an age must not jump with the clock


class _Listener:
    """Somebody who reads lights: what waits for them, bounded."""

    def __init__(self) -> None:
        self._lights: deque[bytes | None] = deque(maxlen=LIGHTS_WAITING_MAX)
        self._more = asyncio.Event()

    def put(self, data: bytes | None) -> None:
        self._lights.append(data)
        self._more.set()

    async def get(self) -> bytes | None:
        """The next light, or a comment after BEAT_S; None at the end."""
        if not self._lights:
            self._more.clear()
            try:
                async with asyncio.timeout(BEAT_S):
                    await self._more.wait()
            except TimeoutError:
                return b": beat\n\n"
        return self._lights.popleft()


def light_to_json(light: Light) -> dict[str, Any]:
    """A light with the words for people: text is the verdict, why the reason."""
    words = {"text": VERDICTS[light.verdict]}
    if light.reason:
        words["why"] = REASONS.get(light.reason, light.reason)
    return {**msgspec.to_builtins(light), **words}


def _complaint(error: Exception) -> str:
    """What is wrong with a form, for an officer."""
    text = str(error)
    if "$.officer" in text or "$.why" in text:
        return "Xin điền mã cán bộ và lý do nhập tay."
    if "lane" in text:
        return "Xin chọn làn."
    if "empty" in text:
        return "Xin điền ít nhất họ tên hoặc một số giấy tờ."
    if "malformed_id" in text:
        return "Số giấy tờ không đúng. Xin kiểm tra lại."
    return "Thông tin không hợp lệ. Xin kiểm tra lại."


def _options(choices: Sequence[tuple[str, str]], chosen: str) -> str:
    return "".join(
        f'<option value="{escape(value)}"{" selected" if value == chosen else ""}>{text}</option>'
        for value, text in choices
    )


def _file(body: str, kind: str) -> Any:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=body, content_type=kind)

    return answer
