"""Settings: one frozen struct whose fields carry default, unit and help.

Origin of a value, strongest first: command line, environment (`CHOT_` + upper-case name), the TOML
file, the default. `chot settings`, docs/settings.md and the running engine read the same table.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import msgspec
from msgspec import Meta

from engine.errors import SettingInvalid

ENV_PREFIX = "CHOT_"
# Read by the tracer's client, not settings of the engine.
ENV_OTHERS = frozenset({"CHOT_TOKEN", "CHOT_URL", "CHOT_KILL_AT"})

Port = Annotated[int, Meta(ge=0, le=65535)]
Count = Annotated[int, Meta(ge=1)]


def _help(text: str) -> Meta:
    return Meta(description=text)


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be set. Raises SettingInvalid through `load` only."""

    data: Annotated[
        str, Meta(min_length=1), _help("folder of the store: scans, control log, keys, sockets")
    ] = "var/chot"
    ingest_host: Annotated[str, _help("address for CKP/1 in plain; loopback only")] = "127.0.0.1"
    ingest_port: Annotated[Port, _help("TCP port for CKP/1; 0 takes a free one")] = 7401
    ingest_listen: Annotated[
        str, _help("further addresses for CKP/1, with blanks between: tls://HOST:PORT wss://…")
    ] = ""
    tls_cert: Annotated[str, _help("PEM file of the server's certificate chain, for tls, wss")] = ""
    tls_key: Annotated[str, _help("PEM file of its key, not locked")] = ""
    tls_client_ca: Annotated[str, _help("PEM file of CAs that sign gateways' certificates")] = ""
    api_host: Annotated[str, _help("address of the HTTP API")] = "127.0.0.1"
    api_port: Annotated[Port, _help("TCP port of the HTTP API; 0 takes a free one")] = 7480
    venue_host: Annotated[str, _help("host name in our own venue codes")] = "QR.CHOT.VN"
    trust: Annotated[str, _help("folder of keys that sign health passes")] = ""

    frame_size_max: Annotated[Count, _help("largest body of one CKP/1 message, bytes")] = 4_194_304
    image_pixels_max: Annotated[Count, _help("largest camera frame, pixels")] = 16_777_216
    decode_threads: Annotated[Count, _help("threads that decode frames, GIL released")] = 2
    held_gap_ms: Annotated[Count, _help("a code unseen this long counts as shown anew")] = 2_000
    scan_credit: Annotated[Count, _help("SCANS messages a gateway may have unacknowledged")] = 256
    frame_credit: Annotated[Count, _help("camera frames a gateway may have unacknowledged")] = 32
    credit_bytes: Annotated[Count, _help("bytes a gateway may have unacknowledged")] = 33_554_432
    heartbeat_s: Annotated[Count, _help("pause between PINGs; a link silent for three is dead")] = (
        10
    )
    sessions_max: Annotated[Count, _help("links at once; a backlog has its own")] = 512

    clock_ahead_max_s: Annotated[Count, _help("an event later than now by more is refused")] = 300
    clock_offset_max_ms: Annotated[
        Count, _help("a gateway's clock further off has its event times corrected")
    ] = 2_000
    retention_days: Annotated[Count, _help("days scans are kept; older ones are refused")] = 30
    hold_days_max: Annotated[Count, _help("days a hold may last; a new one takes over")] = 90
    commit_pending_max: Annotated[
        Count, _help("bytes waiting for the disk before append waits")
    ] = 67_108_864
    free_space_min: Annotated[Count, _help("bytes the disk must keep free to take scans")] = (
        134_217_728
    )
    map_size: Annotated[Count, _help("the most the scan log may grow to, bytes")] = (
        1_099_511_627_776
    )
    generation_size: Annotated[
        int, Meta(ge=1 << 20), _help("bytes of one file of the scan log, then another is begun")
    ] = 536_870_912
    index_memory_scans: Annotated[
        Count, _help("scans the index keeps in memory before it writes them into files")
    ] = 1_048_576
    answer_rows_max: Annotated[Count, _help("rows of one answer; beyond it limit_cut is set")] = (
        10_000
    )


class Origin(msgspec.Struct, frozen=True):
    """One line of `chot settings`."""

    name: str
    value: Any
    default: Any
    origin: str
    help: str


def fields() -> dict[str, tuple[type, Any, str]]:
    """name -> (plain type, default, help)."""
    hints = get_type_hints(Settings, include_extras=True)
    table: dict[str, tuple[type, Any, str]] = {}
    for field in msgspec.structs.fields(Settings):
        hint = hints[field.name]
        text = next(m.description for m in hint.__metadata__ if m.description)
        table[field.name] = (hint.__origin__, field.default, text)
    return table


def load(
    *,
    file: Path | None = None,
    env: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> tuple[Settings, list[Origin]]:
    """The settings and where each came from.

    Raises SettingInvalid for an unknown name, a value of the wrong type or out of range.
    """
    env = os.environ if env is None else env
    table = fields()
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}

    def put(name: str, value: Any, origin: str) -> None:
        if name not in table:
            raise SettingInvalid(
                f"{origin}: there is no setting {name!r}", hint="see: chot settings"
            )
        if isinstance(value, str) and table[name][0] is int:
            try:
                value = int(value)
            except ValueError:
                raise SettingInvalid(f"{origin}: {name} takes a whole number") from None
        values[name] = value
        origins[name] = origin

    if file is not None:
        for name, value in _read_toml(file).items():
            put(name, value, str(file))
    for key, text in env.items():
        if key.startswith(ENV_PREFIX) and key not in ENV_OTHERS:
            put(key.removeprefix(ENV_PREFIX).lower(), text, f"environment {key}")
    for name, value in (overrides or {}).items():
        if value is not None:
            put(name, value, "command line")
    try:
        settings = msgspec.convert(values, Settings)
    except msgspec.ValidationError as error:
        what, _, path = str(error).rpartition(" - at `$.")
        name = path.rstrip("`")
        what = what.replace("Expected `int`", "a whole number").replace("Expected `str`", "a text")
        raise SettingInvalid(f"{origins.get(name, name)}: {name} takes {what}") from None
    lines = [
        Origin(name, getattr(settings, name), default, origins.get(name, "default"), text)
        for name, (_, default, text) in table.items()
    ]
    return settings, lines


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingInvalid(f"cannot read {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingInvalid(f"{file}: {error}") from None
