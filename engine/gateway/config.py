"""The configuration of a gateway process: a TOML file, what it captures and where it sends it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from engine.clock import Clock
from engine.errors import SettingInvalid
from engine.gateway.gear.cameras import MjpegCamera, SnapshotCamera
from engine.gateway.gear.officer import OfficerDesk
from engine.gateway.gear.readers import LineReaders
from engine.gateway.gear.thermal import Fields, ThermalTerminals
from engine.gateway.sources import STDIN, FrameSource, RecordSource, Source
from engine.wire.frames import GatewayName


def _help(text: str) -> Meta:
    return Meta(description=text)


class SourceConfig(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", forbid_unknown_fields=True
):
    """What every source has."""

    lane: Annotated[int, Meta(ge=0, le=65535), _help("lane of the post, 0 for a back end")] = 1


class FrameConfig(SourceConfig, frozen=True, tag="frames"):
    """Camera frames of one lane, from a file or a folder."""

    path: Annotated[str, _help("clip of JPEGs, folder of images, or - for standard input")]
    fps: Annotated[float, Meta(gt=0, le=1000), _help("frames a second")] = 10
    start_ms: Annotated[int | None, _help("time of the first frame, ms since 1970; none: now")] = (
        None
    )


class RecordConfig(SourceConfig, frozen=True, tag="records"):
    """Scans, check-ins and officers' entries as JSON lines."""

    path: Annotated[str, _help("file of JSON lines, or - for standard input")]
    rate: Annotated[float, Meta(ge=0), _help("records a second, 0 as fast as they are taken")] = 0


class CameraConfig(SourceConfig, frozen=True, kw_only=True):
    """A camera that is asked over HTTP."""

    url: Annotated[str, Meta(max_length=2048), _help("http or https, without user and password")]
    fps: Annotated[float, Meta(gt=0, le=60), _help("frames a second at most")] = 10
    user: Annotated[str, Meta(max_length=256), _help("empty: none is sent")] = ""
    password: Annotated[str, Meta(max_length=256), _help("of user")] = ""
    auth: Annotated[Literal["basic", "digest"], _help("how user and password are sent")] = "digest"
    stall_s: Annotated[
        float, Meta(gt=0, le=60), _help("without a frame for so long it is asked anew")
    ] = 5


class SnapshotConfig(CameraConfig, frozen=True, kw_only=True, tag="snapshot"):
    """A camera that answers each GET with one JPEG or PNG."""


class MjpegConfig(CameraConfig, frozen=True, kw_only=True, tag="mjpeg"):
    """A camera that answers one GET with a stream of JPEGs (multipart/x-mixed-replace)."""


class ListenConfig(SourceConfig, frozen=True, kw_only=True):
    """Gear that comes to the box."""

    host: Annotated[str, _help("address to listen on; one of the post's own network")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535), _help("TCP port to listen on")]


class ReaderConfig(ListenConfig, frozen=True, kw_only=True, tag="readers"):
    """Handheld readers of one lane that send a line a scan."""


class ThermalConfig(ListenConfig, frozen=True, kw_only=True, tag="thermal"):
    """Thermal terminals of one lane that POST JSON or XML."""

    fields: Annotated[Fields, _help("where a terminal's document has what; names and dots")] = (
        Fields()
    )
    device: Annotated[str, Meta(max_length=64), _help("where the document names none")] = ""
    unit: Annotated[Literal["C", "F"], _help("where the document names none")] = "C"
    calibration: Annotated[str, Meta(max_length=64), _help("where it names none")] = ""
    tie_s: Annotated[
        float, Meta(ge=0, le=10), _help("how far apart a reading and its scan may be")
    ] = 3


class OfficerConfig(ListenConfig, frozen=True, kw_only=True, tag="officer"):
    """The page for entries by hand and for the lights of all lanes; on this machine only."""

    lane: Annotated[
        int, Meta(ge=0, le=65535), _help("a lane without other gear; 0: those of the others")
    ] = 0
    port: Annotated[int, Meta(ge=1, le=65535), _help("TCP port of the page")] = 7441


AnySource: TypeAlias = (
    FrameConfig
    | RecordConfig
    | SnapshotConfig
    | MjpegConfig
    | ReaderConfig
    | ThermalConfig
    | OfficerConfig
)


class GatewayConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One gateway process, readable from a TOML file."""

    name: Annotated[GatewayName, _help("as in the registry")]
    token: Annotated[
        str, Meta(max_length=256), _help("opens this gateway's session; none with a certificate")
    ] = ""
    ingest_public: Annotated[
        str, Meta(pattern=r"\A[0-9a-f]{64}\Z"), _help("the engine's ingest key, 64 hex digits")
    ]
    spool: Annotated[str, _help("folder of the spool; one gateway each")]
    sources: Annotated[list[AnySource], Meta(min_length=1, max_length=64)]
    url: Annotated[str, _help("engine's address; tls or wss, and tcp or ws on loopback")] = (
        "tcp://127.0.0.1:7401"
    )
    ca: Annotated[str, _help("PEM file of CAs that sign the server; none: the system's")] = ""
    cert: Annotated[str, _help("PEM file of this gateway's certificate chain")] = ""
    key: Annotated[str, _help("PEM file of its key, not locked")] = ""
    decode: Annotated[
        Literal["auto", "engine", "gateway"],
        _help("who reads the codes in camera frames; auto is what the engine says"),
    ] = "auto"
    decode_threads: Annotated[int, Meta(ge=1, le=64), _help("threads that decode frames")] = 2
    seen_window_s: Annotated[
        int, Meta(ge=1, le=86_400), _help("of our own verdicts; as the engine's rule of this name")
    ] = 600
    spool_size_max: Annotated[int, Meta(ge=65536), _help("bytes of records kept")] = 536_870_912
    spool_keep_s: Annotated[
        int, Meta(ge=0), _help("acknowledged records stay, for an engine that lost them")
    ] = 86_400
    frames_size_max: Annotated[int, Meta(ge=65536), _help("bytes of frames kept")] = 67_108_864
    drain_timeout_s: Annotated[
        float, Meta(ge=0), _help("wait for receipts after the sources have ended")
    ] = 60

    @property
    def lanes(self) -> list[int]:
        """Lanes of the post that this gateway serves."""
        return sorted({source.lane for source in self.sources} - {0})


def load_config(path: Path) -> GatewayConfig:
    """The configuration in a TOML file. Raises SettingInvalid."""
    try:
        return msgspec.toml.decode(path.read_bytes(), type=GatewayConfig)
    except OSError as error:
        raise SettingInvalid(f"cannot read {path}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SettingInvalid(f"{path}: {error}") from None


def make_sources(config: GatewayConfig, clock: Clock) -> list[Source]:
    """The sources that the configuration names. Raises SettingInvalid."""
    if (
        sum(isinstance(s, FrameConfig | RecordConfig) and s.path == STDIN for s in config.sources)
        > 1
    ):
        raise SettingInvalid("standard input can be one source only")
    return [_make_source(source, config, clock) for source in config.sources]


def _make_source(source: AnySource, config: GatewayConfig, clock: Clock) -> Source:
    if isinstance(source, FrameConfig):
        return FrameSource(
            source.path, fps=source.fps, lane=source.lane, clock=clock, start_ms=source.start_ms
        )
    if isinstance(source, CameraConfig):
        return _make_camera(source, clock)
    if isinstance(source, ReaderConfig):
        return LineReaders(source.host, source.port, lane=source.lane, clock=clock)
    if isinstance(source, OfficerConfig):
        return OfficerDesk(source.host, source.port, lanes=config.lanes, clock=clock)
    if isinstance(source, ThermalConfig):
        return ThermalTerminals(
            source.host,
            source.port,
            lane=source.lane,
            clock=clock,
            fields=source.fields,
            device=source.device,
            unit=source.unit,
            calibration=source.calibration,
            tie_s=source.tie_s,
        )
    return RecordSource(source.path, rate=source.rate, lane=source.lane, clock=clock)


def _make_camera(config: CameraConfig, clock: Clock) -> Source:
    camera = MjpegCamera if isinstance(config, MjpegConfig) else SnapshotCamera
    return camera(
        config.url,
        fps=config.fps,
        lane=config.lane,
        clock=clock,
        user=(config.user, config.password) if config.user else None,
        is_digest=config.auth == "digest",
        stall_s=config.stall_s,
    )
