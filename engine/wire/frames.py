"""CKP/1 on the wire: bytes to messages and back. No I/O, no clock, no rules of a session.

A frame is a 16-byte big-endian header (type, flags, channel, length, seq) and a body. Bodies that
hold numbers only are packed (ACK, CREDIT, PONG, the head of FRAME); SCANS is the MessagePack array
that `native.wire.read_records` reads; all others are MessagePack maps decoded into the structs
below: wrong types are refused, unknown keys are stepped over so that old and new can talk.
docs/protocol.md has every byte; tests/data/wire/golden.jsonl has one vector or more a type.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable
from typing import Annotated, ClassVar, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta

from engine.errors import EngineError, InputError, WireMalformed, WireTooLarge, leaves
from engine.scans.records import ENTRY as ENTRY
from engine.scans.records import FORM_ABSENT as FORM_ABSENT
from engine.scans.records import FORM_BIN as FORM_BIN
from engine.scans.records import FORM_ID as FORM_ID
from engine.scans.records import FORM_RAW as FORM_RAW
from engine.scans.records import decode_map
from engine.scans.records import decode_scans as decode_scans
from engine.scans.records import encode_scans as encode_scans
from native.wire import split_frames

VERSION: Final = 1
HEADER_SIZE: Final = 16
BODY_MAX: Final = 4_194_304  # what a reader takes unless told otherwise, bytes
CONTROL_MAX: Final = 65_536  # body of anything but SCANS and FRAME, bytes
TEXT_MAX: Final = 512  # characters of a text for people in NACK and ERROR

CLASS_DURABLE: Final = 0  # scans, check-ins, events: no gaps, receipts after the commit
CLASS_VOLATILE: Final = 1  # camera frames: gaps are legal

FLAG_VOLATILE: Final = 1  # the class of the message
FLAG_RESEND: Final = 2  # may have been sent before
FLAG_BURST_END: Final = 4  # nothing more is waiting behind this one
FLAG_SEALED: Final = 8  # the body of SCANS or EVENT is sealed to the engine's ingest key

_HEADER = struct.Struct(">BBHIQ")
_HEAD = struct.Struct("<BBHIQQQ")  # what native.wire.split_frames returns for each frame
_PAIR = struct.Struct(">QQ")
_FRAME_HEAD = struct.Struct(">BBHHHQQ")
FRAME_HEAD_SIZE: Final = _FRAME_HEAD.size
_STATUS_TOO_LARGE: Final = 5


class FrameType(enum.IntEnum):
    """Client to server below 0x80, server to client above; PING goes both ways."""

    HELLO = 0x01
    SCANS = 0x02
    FRAME = 0x03
    EVENT = 0x04
    PING = 0x05
    BYE = 0x06
    LOST = 0x07
    WELCOME = 0x81
    ACK = 0x82
    CREDIT = 0x83
    NACK = 0x84
    RESULT = 0x85
    PONG = 0x86
    GOAWAY = 0x87
    ERROR = 0x88


class Codec(enum.IntEnum):
    """What the image of a FRAME is. Other numbers are refused by the decoder, not here."""

    JPEG = 1
    GRAY8 = 2
    PNG = 3


U16 = Annotated[int, Meta(ge=0, le=0xFFFF)]
U32 = Annotated[int, Meta(ge=0, le=0xFFFFFFFF)]
U64 = Annotated[int, Meta(ge=0)]  # MessagePack knows no integer above 2**64-1
GatewayName = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9._-]{1,64}\Z")]
Word = Annotated[str, Meta(max_length=64)]
Text = Annotated[str, Meta(max_length=TEXT_MAX)]


# ---- messages -----------------------------------------------------------------------------------
# `seq`, `channel`, `flags` and `cls` come from the header, all else from the body. `size` is what a
# message weighs against byte_limit: header and body of SCANS and FRAME, nothing for the others.


class Hello(msgspec.Struct, frozen=True, kw_only=True, rename={"version": "v", "gateway": "gw"}):
    """First message of a client. next, oldest: class 0 and 1 sequence numbers of its spool."""

    type: ClassVar[FrameType] = FrameType.HELLO
    version: U32 = VERSION
    gateway: GatewayName
    epoch: U64
    inst: Annotated[bytes, Meta(min_length=8, max_length=8)]  # random for each process
    lanes: Annotated[list[U16], Meta(max_length=64)]
    next: tuple[U64, U64]  # first number never used, for each class
    oldest: U64  # oldest class 0 number that can still be resent; next[0] when none
    max_frame: U32  # largest body the client takes, bytes
    t0: U64  # client's clock, ns since 1970
    token: Annotated[str, Meta(max_length=256)] | None = None


class Policy(msgspec.Struct, frozen=True):
    """fps: camera frames a second wanted from a lane, 0 for all. decode: who reads the codes."""

    fps: Annotated[int, Meta(ge=0, le=1000)] = 0
    decode: Literal["engine", "gateway"] = "engine"


class Welcome(
    msgspec.Struct, frozen=True, kw_only=True, rename={"version": "v", "byte_limit": "bytes"}
):
    """Answer to HELLO. acked: durable watermarks; the client goes on at acked + 1."""

    type: ClassVar[FrameType] = FrameType.WELCOME
    version: U32 = VERSION
    sid: Annotated[bytes, Meta(min_length=16, max_length=16)]
    acked: tuple[U64, U64]
    limit: tuple[U64, U64]
    byte_limit: tuple[U64, U64]
    max_frame: U32
    hb_s: Annotated[float, Meta(gt=0, le=3600)] = 10.0
    t1: U64  # server's clock when HELLO came, ns
    t2: U64  # server's clock when WELCOME left, ns
    policy: Policy = Policy()


class Scans(msgspec.Struct, frozen=True, kw_only=True):
    """Records. While sealed, `packed` is empty; `opened` gives the message with its records.

    fault: -1, or the index of the first record that cannot be read: it and what follows are not in
    `entries`. Such a message is consumed and answered with NACK; the link lives on.
    """

    type: ClassVar[FrameType] = FrameType.SCANS
    seq: int
    channel: int = 0
    flags: int = 0
    body: bytes
    packed: bytes = b""
    fault: int = -1

    @property
    def entries(self) -> np.ndarray[tuple[int], np.dtype[np.void]]:
        """Records as ENTRY; offsets point into `body`."""
        return np.frombuffer(self.packed, ENTRY)

    @property
    def is_sealed(self) -> bool:
        return bool(self.flags & FLAG_SEALED)

    @property
    def size(self) -> int:
        return HEADER_SIZE + len(self.body)

    def opened(self, plaintext: bytes) -> Scans:
        """The same message with the unsealed body."""
        packed, fault = decode_scans(plaintext)
        flags = self.flags & ~FLAG_SEALED
        return msgspec.structs.replace(
            self, flags=flags, body=plaintext, packed=packed, fault=fault
        )


class FrameImage(msgspec.Struct, frozen=True, kw_only=True):
    """A camera frame. width, height, stride: of GRAY8; 0 for codecs that carry them inside.

    rotation: quarter turns clockwise that set the image upright.
    """

    type: ClassVar[FrameType] = FrameType.FRAME
    seq: int
    channel: int = 0
    flags: int = FLAG_VOLATILE
    codec: int
    rotation: int = 0
    width: int = 0
    height: int = 0
    stride: int = 0
    ts_ns: int
    frame_no: int
    image: bytes

    @property
    def size(self) -> int:
        return HEADER_SIZE + FRAME_HEAD_SIZE + len(self.image)


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an EVENT says. scan: (seq, n) of the record a thermal reading belongs to (SY-4)."""

    kind: Literal["thermal", "health", "note"]
    ts_ms: U64
    device: Word
    value: float | None = None  # as the device gave it, in `unit`
    unit: Word | None = None
    calibration: Word | None = None
    scan: tuple[U64, U16] | None = None
    text: Text | None = None


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """report: None while sealed, in `body`; `opened` gives the message with its report."""

    type: ClassVar[FrameType] = FrameType.EVENT
    size: ClassVar[int] = 0
    seq: int
    channel: int = 0
    flags: int = 0
    report: Report | None = None
    body: bytes = b""

    @property
    def is_sealed(self) -> bool:
        return bool(self.flags & FLAG_SEALED)

    def opened(self, plaintext: bytes) -> Event:
        """The same message with the unsealed report. Raises WireMalformed."""
        flags = self.flags & ~FLAG_SEALED
        report = decode_map(Report, plaintext)
        return msgspec.structs.replace(self, flags=flags, report=report, body=b"")


LossReason = Literal["overflow", "forgotten", "too_large", "copied", "damaged"]


class _LostBody(msgspec.Struct, frozen=True, kw_only=True, rename={"first": "from"}):
    first: U64
    reason: LossReason


class Lost(_LostBody, frozen=True, kw_only=True):
    """Class 0 numbers first..seq will never come: the spool could not keep them."""

    type: ClassVar[FrameType] = FrameType.LOST
    size: ClassVar[int] = 0
    seq: int
    flags: int = 0


class Ack(msgspec.Struct, frozen=True, kw_only=True):
    """All numbers up to seq of the class are durable. Limits are absolute and never fall."""

    type: ClassVar[FrameType] = FrameType.ACK
    cls: int
    seq: int
    limit: int
    byte_limit: int


class Credit(msgspec.Struct, frozen=True, kw_only=True):
    """Higher limits without progress; seq as in the last ACK."""

    type: ClassVar[FrameType] = FrameType.CREDIT
    cls: int
    seq: int
    limit: int
    byte_limit: int


class _NackBody(msgspec.Struct, frozen=True, kw_only=True):
    code: U16
    index: U16
    text: Text


class Nack(_NackBody, frozen=True, kw_only=True):
    """Record `index` of message seq was refused; the number counts as consumed."""

    type: ClassVar[FrameType] = FrameType.NACK
    cls: int
    seq: int


class Verdict(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the lane's light shows. name: masked. n: record in SCANS, code in a frame."""

    verdict: Literal["accepted", "seen", "refused", "alert"]
    lane: U16
    n: U16 = 0
    reason: Word | None = None
    name: Word | None = None


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on what message seq of the class showed; comes before it is durable."""

    type: ClassVar[FrameType] = FrameType.RESULT
    cls: int
    seq: int
    verdict: Verdict


class Ping(msgspec.Struct, frozen=True):
    type: ClassVar[FrameType] = FrameType.PING
    t0: int  # asker's clock, ns


class Pong(msgspec.Struct, frozen=True, kw_only=True):
    type: ClassVar[FrameType] = FrameType.PONG
    t0: int  # as in the PING
    t1: int  # answerer's clock when PING came, ns
    t2: int  # answerer's clock when PONG left, ns


class Goaway(msgspec.Struct, frozen=True, kw_only=True):
    """The server closes soon. alternates: HOST:PORT to try first."""

    type: ClassVar[FrameType] = FrameType.GOAWAY
    code: U16
    retry_ms: U32 = 0
    alternates: Annotated[list[Word], Meta(max_length=8)] = []  # msgspec copies an empty list


class _ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    code: U16
    text: Text


class Error(_ErrorBody, frozen=True, kw_only=True):
    """The link ends here. seq: of the message at fault, 0 when none."""

    type: ClassVar[FrameType] = FrameType.ERROR
    seq: int = 0


class Bye(msgspec.Struct, frozen=True):
    """The client leaves; seq is the last class 0 number it sent."""

    type: ClassVar[FrameType] = FrameType.BYE
    seq: int


Message = (
    Hello | Welcome | Scans | FrameImage | Event | Lost | Ack | Credit | Nack | Result
    | Ping | Pong | Goaway | Error | Bye
)  # fmt: skip


# ---- messages to bytes --------------------------------------------------------------------------

_pack = msgspec.msgpack.Encoder().encode


def _frame(
    kind: FrameType, body: bytes, *, seq: int = 0, flags: int = 0, channel: int = 0
) -> bytes:
    return _HEADER.pack(kind, flags, channel, len(body), seq) + body


def encode_result(cls: int, seq: int, verdict: Verdict) -> bytes:
    """A RESULT frame."""
    body = _pack(verdict)
    return _HEADER.pack(FrameType.RESULT, cls, verdict.lane, len(body), seq) + body


def encode(message: Message) -> bytes:
    """One frame. Raises struct.error or OverflowError for numbers that have no room."""
    match message:
        case Scans() as m:
            return _frame(m.type, m.body, seq=m.seq, flags=m.flags, channel=m.channel)
        case FrameImage() as m:
            head = (m.codec, m.rotation, m.width, m.height, m.stride, m.ts_ns, m.frame_no)
            body = _FRAME_HEAD.pack(*head) + m.image
            return _frame(m.type, body, seq=m.seq, flags=m.flags, channel=m.channel)
        case Ack() | Credit() as m:
            return _frame(m.type, _PAIR.pack(m.limit, m.byte_limit), seq=m.seq, flags=m.cls)
        case Result() as m:
            return encode_result(m.cls, m.seq, m.verdict)
        case Nack() as m:
            nack = _NackBody(code=m.code, index=m.index, text=m.text[:TEXT_MAX])
            return _frame(m.type, _pack(nack), seq=m.seq, flags=m.cls)
        case Event() as m:
            body = m.body if m.report is None else _pack(m.report)
            return _frame(m.type, body, seq=m.seq, flags=m.flags, channel=m.channel)
        case Lost() as m:
            lost = _LostBody(first=m.first, reason=m.reason)
            return _frame(m.type, _pack(lost), seq=m.seq, flags=m.flags)
        case Ping() as m:
            return _frame(m.type, b"", seq=m.t0)
        case Pong() as m:
            return _frame(m.type, _PAIR.pack(m.t1, m.t2), seq=m.t0)
        case Welcome() as m:
            return _frame(m.type, _pack(m), seq=m.acked[CLASS_DURABLE])
        case Hello() | Goaway() as m:
            return _frame(m.type, _pack(m))
        case Error() as m:
            error = _ErrorBody(code=m.code, text=m.text[:TEXT_MAX])
            return _frame(m.type, _pack(error), seq=m.seq)
        case Bye() as m:
            return _frame(m.type, b"", seq=m.seq)


# ---- bytes to messages --------------------------------------------------------------------------

_Decode = Callable[[int, int, int, bytes], Message]  # seq, flags, channel, body


def _decode_scans(seq: int, flags: int, channel: int, body: bytes) -> Scans:
    packed, fault = (b"", -1) if flags & FLAG_SEALED else decode_scans(body)
    return Scans(seq=seq, channel=channel, flags=flags, body=body, packed=packed, fault=fault)


def _decode_image(seq: int, flags: int, channel: int, body: bytes) -> FrameImage:
    if len(body) < FRAME_HEAD_SIZE:
        raise WireMalformed("a FRAME has a head of 24 bytes")
    codec, rotation, width, height, stride, ts_ns, frame_no = _FRAME_HEAD.unpack_from(body)
    return FrameImage(
        seq=seq, channel=channel, flags=flags, codec=codec, rotation=rotation, width=width,
        height=height, stride=stride, ts_ns=ts_ns, frame_no=frame_no, image=body[FRAME_HEAD_SIZE:],
    )  # fmt: skip


def _decode_welcome(seq: int, flags: int, channel: int, body: bytes) -> Welcome:
    welcome = decode_map(Welcome, body)
    if welcome.acked[CLASS_DURABLE] != seq:
        raise WireMalformed("WELCOME names two watermarks")
    return welcome


def _decode_lost(seq: int, flags: int, channel: int, body: bytes) -> Lost:
    lost = decode_map(_LostBody, body)
    if not 1 <= lost.first <= seq:
        raise WireMalformed("LOST is a range that ends before it begins")
    return Lost(seq=seq, flags=flags, first=lost.first, reason=lost.reason)


def _decode_result(seq: int, flags: int, channel: int, body: bytes) -> Result:
    verdict = decode_map(Verdict, body)
    if verdict.lane != channel:
        raise WireMalformed("RESULT names two lanes")
    return Result(cls=flags, seq=seq, verdict=verdict)


def _decode_pair(body: bytes) -> tuple[int, int]:
    if len(body) != _PAIR.size:
        raise WireMalformed("the body is not two numbers of 8 bytes")
    first, second = _PAIR.unpack(body)
    return first, second


def _decode_grant(kind: type[Ack] | type[Credit]) -> _Decode:
    def decode(seq: int, flags: int, channel: int, body: bytes) -> Ack | Credit:
        limit, byte_limit = _decode_pair(body)
        return kind(cls=flags, seq=seq, limit=limit, byte_limit=byte_limit)

    return decode


def _decode_nack(seq: int, flags: int, channel: int, body: bytes) -> Nack:
    nack = decode_map(_NackBody, body)
    return Nack(cls=flags, seq=seq, code=nack.code, index=nack.index, text=nack.text)


def _decode_pong(seq: int, flags: int, channel: int, body: bytes) -> Pong:
    t1, t2 = _decode_pair(body)
    return Pong(t0=seq, t1=t1, t2=t2)


def _decode_error(seq: int, flags: int, channel: int, body: bytes) -> Error:
    error = decode_map(_ErrorBody, body)
    return Error(seq=seq, code=error.code, text=error.text)


def _decode_event(seq: int, flags: int, channel: int, body: bytes) -> Event:
    event = Event(seq=seq, channel=channel, flags=flags, body=body)
    return event if event.is_sealed else event.opened(body)


def _decode_empty(kind: type[Ping] | type[Bye]) -> _Decode:
    def decode(seq: int, flags: int, channel: int, body: bytes) -> Ping | Bye:
        if body:
            raise WireMalformed(f"{kind.type.name} has no body")
        return kind(seq)

    return decode


class _Rule(msgspec.Struct, frozen=True):
    """What the header of one type may say. must: flag bits that are set; may: those allowed."""

    decode: _Decode
    must: int = 0
    may: int = 0
    has_seq: bool = True  # number 0 is refused where a number of a class is needed
    has_channel: bool = False


_CAPTURED: Final = FLAG_RESEND | FLAG_BURST_END
_RULES: Final[dict[int, _Rule]] = {
    FrameType.HELLO: _Rule(lambda s, f, c, body: decode_map(Hello, body), has_seq=False),
    FrameType.SCANS: _Rule(_decode_scans, may=_CAPTURED | FLAG_SEALED, has_channel=True),
    FrameType.FRAME: _Rule(_decode_image, must=FLAG_VOLATILE, may=_CAPTURED, has_channel=True),
    FrameType.EVENT: _Rule(_decode_event, may=_CAPTURED | FLAG_SEALED, has_channel=True),
    FrameType.PING: _Rule(_decode_empty(Ping), has_seq=False),
    FrameType.BYE: _Rule(_decode_empty(Bye), has_seq=False),
    FrameType.LOST: _Rule(_decode_lost, may=FLAG_RESEND),
    FrameType.WELCOME: _Rule(_decode_welcome, has_seq=False),
    FrameType.ACK: _Rule(_decode_grant(Ack), may=FLAG_VOLATILE, has_seq=False),
    FrameType.CREDIT: _Rule(_decode_grant(Credit), may=FLAG_VOLATILE, has_seq=False),
    FrameType.NACK: _Rule(_decode_nack, may=FLAG_VOLATILE),
    FrameType.RESULT: _Rule(_decode_result, may=FLAG_VOLATILE, has_channel=True),
    FrameType.PONG: _Rule(_decode_pong, has_seq=False),
    FrameType.GOAWAY: _Rule(lambda s, f, c, body: decode_map(Goaway, body), has_seq=False),
    FrameType.ERROR: _Rule(_decode_error, has_seq=False),
}
_LARGE: Final = frozenset({FrameType.SCANS, FrameType.FRAME})


def report_to_body(report: Report) -> bytes:
    """Plain body of an EVENT."""
    return _pack(report)


def decode(kind: int, flags: int, channel: int, seq: int, body: bytes) -> Message:
    """One message from its header's fields and its body. Raises WireMalformed, WireTooLarge."""
    rule = _RULES.get(kind)
    if rule is None:
        raise WireMalformed(f"there is no type 0x{kind:02x}")
    name = FrameType(kind).name
    if len(body) > CONTROL_MAX and kind not in _LARGE:
        raise WireTooLarge(f"{name} of {len(body)} bytes, more than {CONTROL_MAX}")
    if flags & rule.must != rule.must or flags & ~(rule.must | rule.may):
        raise WireMalformed(f"{name} does not take the flags 0x{flags:02x}")
    if channel and not rule.has_channel:
        raise WireMalformed(f"{name} belongs to channel 0")
    if not seq and rule.has_seq:
        raise WireMalformed(f"{name} needs a sequence number")
    return rule.decode(seq, flags, channel, body)


class FrameReader:
    """Bytes in chunks of any size to messages.

    Between calls at most one unfinished frame is kept: less than HEADER_SIZE + body_max bytes.
    Messages before a fault are never lost: the feed that meets it returns them and sets `error`
    when there are any, else it raises; every later feed raises the same error. So

        for message in reader.feed(data): ...
        reader.check()
    """

    def __init__(self, body_max: int = BODY_MAX) -> None:
        self.error: InputError | None = None
        self._body_max = body_max
        self._kept = bytearray()

    def __len__(self) -> int:
        """Bytes of the unfinished frame."""
        return len(self._kept)

    def feed(self, data: bytes | bytearray | memoryview) -> list[Message]:
        """Messages that are complete with this chunk. Raises WireMalformed, WireTooLarge."""
        self.check()
        if self._kept:
            self._kept += data
            source: bytes | bytearray | memoryview = self._kept
        else:
            source = data
        messages: list[Message] = []
        heads, consumed, status = split_frames(source, self._body_max)
        try:
            with memoryview(source) as view:
                for kind, flags, channel, length, seq, start, _ in _HEAD.iter_unpack(heads):
                    body = bytes(view[start : start + length])
                    messages.append(decode(kind, flags, channel, seq, body))
            if status:
                raise self._fault(source, consumed, status)
        except InputError as error:
            self.error = error
            self._kept = bytearray()
            if not messages:
                raise
            return messages
        if source is self._kept:
            del self._kept[:consumed]
        else:
            self._kept += memoryview(source)[consumed:]
        return messages

    def check(self) -> None:
        """Raises the error that ended the stream, if one did."""
        if self.error is not None:
            # Without this the traceback of the one object would grow with every raise.
            raise self.error.with_traceback(None)

    def _fault(
        self, source: bytes | bytearray | memoryview, at: int, status: int
    ) -> WireMalformed | WireTooLarge:
        kind, _, _, length, _ = _HEADER.unpack_from(source, at)
        if status == _STATUS_TOO_LARGE:
            return WireTooLarge(f"a body of {length} bytes, more than {self._body_max}")
        return WireMalformed(f"there is no type 0x{kind:02x}")


# ---- names and numbers --------------------------------------------------------------------------


def seal_aad(gateway: str, epoch: int, seq: int) -> bytes:
    """What the seal of a SCANS body is bound to: nobody can replay it under another identity."""
    return b"chot/scans/1\0" + gateway.encode() + b"\0" + _PAIR.pack(epoch, seq)


_BY_CODE: Final = {
    cls.wire: cls for name, cls in leaves().items() if name.startswith("wire.") and cls.wire
}


def error_from_code(code: int, text: str) -> EngineError:
    """The error that a peer named by number; WireMalformed for a number that is not known."""
    return _BY_CODE.get(code, WireMalformed)(text)
