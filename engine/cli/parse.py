"""`chot parse`: what payloads of codes mean, a JSON line for each."""

from __future__ import annotations

import argparse
import base64
import binascii
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from engine import payloads
from engine import settings as settings_module
from engine.cli.parser import (
    EXIT_FAILED,
    UseError,
    print_json,
    read_lines,
    stdin,
)
from engine.clock import ms_to_day
from engine.ingest.trust import TrustList, add_file, load_trust
from engine.payloads import Signed, Trust
from engine.payloads.outcome import Signature
from engine.scans import people

LINE_MAX: Final = 1 << 20  # bytes of one line
TRUST_MAX: Final = 64  # keys that one line may bring along

# Reasons of codes that hold nothing of a person; of all others one cannot know.
_NOBODYS: Final = frozenset({"empty", "foreign_venue", "forged", "revoked", "service_link"})
_NO_LINE: Final = 'a line is a JSON object with "payload_b64"'
_NO_CLOCK: Final = '"validation_clock" is an ISO 8601 time'
_NO_TRUST: Final = '"trust" is a list of certificates (base64 of DER) or JWKs'

_MASKS: Final[dict[str, Callable[[str], str]]] = {
    **dict.fromkeys(("name_nfc", "name_fold"), people.mask_name),
    **dict.fromkeys(("phone", "phone_raw"), people.mask_phone),
    **dict.fromkeys(("doc_no", "old_doc_no", "qid", "proxy_qid", "bhyt"), people.mask_doc),
    **dict.fromkeys(("certificate_id", "uvci"), people.mask_doc),
    **dict.fromkeys(("address", "health"), lambda text: "***"),
    "dob": lambda text: f"{text[:4]}-**-**",
}


@dataclass(frozen=True, slots=True)
class _Question:
    payload: bytes
    now_s: float
    trust: Trust


class _Fault(Exception):
    """A line that is no question."""


class _LineTrust:
    """The keys of a line, then those of the command."""

    def __init__(self, line: TrustList, command: Trust) -> None:
        self._line = line
        self._command = command

    def check(self, signed: Signed, /) -> Signature:
        answer = self._line.check(signed)
        return self._command.check(signed) if answer == "unknown_key" else answer


def run(options: argparse.Namespace) -> int:
    """One line out for each line in, in order; 1 when a line was no question."""
    settings = settings_module.load()[0]
    host = options.venue_host or settings.venue_host
    trust = _command_trust(options.trust, settings.trust)
    masks = is_masked(options)
    status = 0
    for answer, question in _questions(options, trust):
        if question is not None:
            answer |= payloads.payload_to_json(
                question.payload,
                venue_host=host,
                today_day=ms_to_day(int(question.now_s * 1000)),
                now_s=question.now_s,
                trust=question.trust,
            )
        else:
            status = EXIT_FAILED
        print_json(_masked(answer) if masks else answer)
    return status


def is_masked(options: argparse.Namespace) -> bool:
    """A person at a screen is shown masks, as everywhere; a program needs what the code says."""
    return bool(options.masked or (not options.unmasked and sys.stdout.isatty()))


def hide_persons(line: dict[str, Any]) -> dict[str, Any]:
    """A line of `chot decode` that shows of codes only what surely names nobody."""
    codes = [
        code
        if _is_nobody(payloads.parse(base64.b64decode(code["bytes_b64"])))
        else {**code, "text": "***", "bytes_b64": "***"}
        for code in line.get("codes", ())
    ]
    return {**line, "codes": codes} if codes else line


def _is_nobody(outcome: payloads.Outcome) -> bool:
    if isinstance(outcome, payloads.Refusal):
        return outcome.reason in _NOBODYS
    return isinstance(outcome, payloads.VenueCode | payloads.VenueLink)


def _command_trust(path: Path | None, folder: str) -> TrustList:
    """Raises SettingInvalid."""
    if path is None or path.is_dir():
        return load_trust(str(path) if path else folder)
    trust = TrustList()
    add_file(trust, path)
    return trust


def _questions(
    options: argparse.Namespace, trust: Trust
) -> Iterator[tuple[dict[str, Any], _Question | None]]:
    """(what the answer begins with, the question or None with an error in the first)."""
    for stream in _streams(options):
        with stream:
            if options.raw:
                # One byte more than any code has, so that too long is seen to be.
                data = stream.read(payloads.PAYLOAD_MAX + 1)
                yield {}, _Question(data, time.time(), trust)
                continue
            for line in read_lines(stream, LINE_MAX):
                found = _decode(line)
                name = found.get("id")
                answer = {"id": name} if isinstance(name, str | int | float) else {}
                try:
                    yield answer, _to_question(found, trust)
                except _Fault as fault:
                    yield {**answer, "error": {"code": "input", "message": str(fault)}}, None


def _streams(options: argparse.Namespace) -> Iterator[Any]:
    """Raises UseError."""
    if not options.files:
        yield stdin("the bytes of a code" if options.raw else 'lines like {"payload_b64": "..."}')
    for path in options.files:
        try:
            yield path.open("rb")
        except OSError as error:
            raise UseError(f"cannot read {path}: {error.strerror}") from None


def _decode(line: bytes) -> dict[str, Any]:
    """Empty for what is no JSON object."""
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, ValueError, RecursionError):
        return {}


def _to_question(found: dict[str, Any], trust: Trust) -> _Question:
    """Raises _Fault."""
    text, clock, keys = (found.get(name) for name in ("payload_b64", "validation_clock", "trust"))
    if not isinstance(text, str):
        raise _Fault(_NO_LINE)
    try:
        payload = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _Fault(_NO_LINE) from None
    now_s = time.time() if clock is None else _to_seconds(clock)
    return _Question(payload, now_s, trust if keys is None else _to_trust(keys, trust))


def _to_seconds(clock: object) -> float:
    """Without an offset it is UTC. Raises _Fault."""
    try:
        when = datetime.fromisoformat(clock) if isinstance(clock, str) else None
        if when is None:
            raise _Fault(_NO_CLOCK)
        seconds = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise _Fault(_NO_CLOCK) from None
    return seconds


def _to_trust(keys: object, trust: Trust) -> Trust:
    """Raises _Fault."""
    if not isinstance(keys, list) or len(keys) > TRUST_MAX:
        raise _Fault(_NO_TRUST)
    line = TrustList()
    try:
        line.add_json(keys)
    except (ValueError, RecursionError):
        raise _Fault(_NO_TRUST) from None
    return _LineTrust(line, trust)


def _masked(answer: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _MASKS[name](value) if name in _MASKS and isinstance(value, str) else value
        for name, value in answer.items()
    }
