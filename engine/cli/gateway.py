"""`chot gateway`: run the program of a roadside box, and ask one how it is."""

from __future__ import annotations

import argparse
import math
import select
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from engine.cli.parser import (
    EXIT_FAILED,
    UseError,
    add_command,
    drop_output,
    number,
    print_json,
    whole,
)

if TYPE_CHECKING:
    from engine.gateway.config import AnySource, GatewayConfig
    from engine.gateway.status import GatewayStats, GatewayStatus

LINES_WAITING_MAX: Final = 1024
LAST_LINE_S: Final = 2.0
POLL_MS: Final = 200


def add_gateway(commands: Any) -> None:
    group = commands.add_parser(
        "gateway",
        help="carry what lanes capture to the engine",
        description="The program of a roadside box: docs/gateway.md.",
    )
    actions = group.add_subparsers(
        dest="action", metavar="COMMAND", required=True, title="commands"
    )
    parser = add_command(
        actions,
        "run",
        run_gateway,
        "carry camera frames or records to the engine",
        "Carries sources to the engine until they end and all of it is durable there. What is\n"
        "not durable waits in the spool for the next run. Verdicts are JSON lines on stdout;\n"
        "the last line is what the run did. Exit status 1 when not all became durable.",
        "example:\n"
        "  chot registry enrol vl-1a-1 --out lane1.toml\n"
        "  chot gateway run lane1.toml --frames tests/data/lanes/lane1.mjpeg --fps 15",
    )
    parser.add_argument(
        "config", type=Path, metavar="CONFIG", help="TOML file; chot registry enrol writes one"
    )
    group = parser.add_argument_group(
        "source, in place of those in CONFIG (lane: of the first there)"
    )
    source = group.add_mutually_exclusive_group()
    source.add_argument(
        "--frames", metavar="PATH", help="clip (.mjpeg), folder of JPEG and PNG images, - is stdin"
    )
    source.add_argument("--records", metavar="PATH", help="file of JSON lines, - is stdin")
    group.add_argument(
        "--fps",
        type=number("a number above 0, at most 1000", lambda n: 0 < n <= 1000),
        metavar="N",
        help="frames a second (10)",
    )
    group.add_argument(
        "--start-ms",
        type=whole(0, 2**53),
        metavar="MS",
        help="time of the first frame, ms since 1970 (now)",
    )
    group.add_argument(
        "--rate",
        type=number("a number from 0 up", lambda n: n >= 0),
        metavar="N",
        help="records a second, 0 for as fast as they are taken (0)",
    )
    parser.add_argument("--spool", metavar="DIR", help="folder of the spool, in place of CONFIG's")
    parser.add_argument(
        "--resend", action="store_true", help="send again what the engine lost after a receipt"
    )
    _add_status(actions)


def _add_status(actions: Any) -> None:
    parser = add_command(
        actions,
        "status",
        run_status,
        "how a running gateway is",
        "Asks the gateway that runs on a spool: its link, what waits and since when, lights,\n"
        "clock, and each piece of gear. Exit status 1 when none runs there.",
        "example:\n  chot gateway status lane1.toml",
    )
    parser.add_argument(
        "config", type=Path, metavar="CONFIG", help="its TOML file, or the folder of its spool"
    )
    parser.add_argument("--json", action="store_true", help="all of it as one JSON object")


def run_status(options: argparse.Namespace) -> int:
    """0 when a gateway answered."""
    from engine.gateway import config as gateway_config
    from engine.gateway.status_socket import ask_status

    path = options.config
    if not path.is_dir():
        path = Path(gateway_config.load_config(path).spool)
    status = ask_status(path)
    if options.json:
        print_json(msgspec.to_builtins(status))
    else:
        print("\n".join(status_to_lines(status)))
    return 0


def run_gateway(options: argparse.Namespace) -> int:
    """0 when everything captured is durable at the engine."""
    import asyncio

    from engine.gateway import config as gateway_config
    from engine.telemetry import setup_logging

    config = gateway_config.load_config(options.config)
    config = msgspec.structs.replace(config, sources=_options_to_sources(options, config.sources))
    if options.spool is not None:
        config = msgspec.structs.replace(config, spool=options.spool)
    setup_logging()
    lines = _Lines()
    try:
        stats = asyncio.run(_carry(config, lines, resend=options.resend))
        lines.put({"stats": msgspec.to_builtins(stats)})
    finally:
        lines.close()
    if stats.is_drained and not stats.turned_away:
        return 0
    text = f"not all is durable; {config.spool} keeps the rest for the next run"
    if stats.turned_away:
        text = (
            f"{stats.turned_away}: the engine turns this gateway away (name, token or version); "
            f"{config.spool} keeps what was captured for the next run"
        )
    print(f"{options.prog}: {text}", file=sys.stderr)
    return EXIT_FAILED


def _options_to_sources(options: argparse.Namespace, sources: list[AnySource]) -> list[AnySource]:
    """What CONFIG says, changed by the options. Raises UseError for one that does not belong."""
    from engine.gateway.config import FrameConfig, RecordConfig

    first = sources[0]
    for kind, path in ((FrameConfig, options.frames), (RecordConfig, options.records)):
        if path is not None:
            is_same = isinstance(first, kind)
            first = (
                msgspec.structs.replace(first, path=path)
                if is_same
                else kind(path, lane=first.lane)
            )
            sources = [first]
    changes = {
        name: getattr(options, name)
        for name in ("fps", "start_ms", "rate")
        if getattr(options, name) is not None
    }
    if not changes:
        return sources
    if len(sources) > 1:
        raise UseError("options are for one source; CONFIG has several")
    for name in changes:
        if name not in first.__struct_fields__:
            kind_name = msgspec.to_builtins(first)["kind"]
            raise UseError(f"--{name.replace('_', '-')} is not for {kind_name}")
    return [msgspec.structs.replace(first, **changes)]


class _Lines:
    """JSON lines on standard output, by a thread: who stops reading them must not stop the lanes.

    What is not read in time gives way, the oldest first; the last line is tried for LAST_LINE_S.
    on_gone: called in that thread when the reader has left.
    """

    def __init__(self) -> None:
        self.on_gone: Callable[[], object] = lambda: None
        self._waiting: deque[object] = deque(maxlen=LINES_WAITING_MAX)
        self._more = threading.Event()
        self._is_file = False
        self._closing_s = math.inf
        self._thread = threading.Thread(target=self._run, name="lines", daemon=True)
        self._thread.start()

    def put(self, line: object) -> None:
        self._waiting.append(line)
        self._more.set()

    def close(self) -> None:
        """What waits is written, if somebody reads it."""
        self._closing_s = time.monotonic() + LAST_LINE_S
        self._more.set()
        self._thread.join()

    def _run(self) -> None:
        output = select.poll()
        with suppress(AttributeError, OSError, ValueError):  # closed, or of a test: never stalls
            output.register(sys.stdout.fileno(), select.POLLOUT)
            self._is_file = True
        while self._has_more():
            # Ready means that a line's worth can be written without waiting.
            if not self._is_file or output.poll(POLL_MS):
                if not self._print_next():
                    return
            elif time.monotonic() > self._closing_s:
                return

    def _has_more(self) -> bool:
        """Waits for a line; False at the end."""
        while not self._waiting and self._closing_s == math.inf:
            self._more.wait()
            self._more.clear()
        return bool(self._waiting)

    def _print_next(self) -> bool:
        try:
            print_json(self._waiting.popleft())
        except BrokenPipeError:
            # Nobody reads the verdicts any more: what was captured still goes out.
            drop_output()
            self.on_gone()
            return False
        return True


async def _carry(config: GatewayConfig, lines: _Lines, *, resend: bool) -> GatewayStats:
    """A gateway from start to end with its verdicts on stdout."""
    import asyncio

    from engine.gateway import program as gateway
    from engine.gateway.lights import Light
    from engine.telemetry import log_faults

    log_faults(asyncio.get_running_loop())
    stop = asyncio.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)

    loop = asyncio.get_running_loop()
    lines.on_gone = lambda: loop.call_soon_threadsafe(stop.set)

    def show(light: Light) -> None:
        lines.put(msgspec.to_builtins(light))

    return await gateway.run_gateway(config, on_light=show, stop=stop, resend=resend)


# ---- status as a table --------------------------------------------------------------------------


def status_to_lines(status: GatewayStatus) -> Iterator[str]:
    """A status for people, Vietnamese first."""
    from engine.clock import ms_to_iso

    def ago(at_ms: int) -> str:
        return _span(max(0, status.now_ms - at_ms)) if at_ms else "–"

    stats = status.stats
    link = "đã nối / linked" if status.is_linked else "MẤT LIÊN LẠC / not linked"
    if stats.turned_away and not status.is_linked:
        link = f"BỊ TRUNG TÂM TỪ CHỐI / turned away ({stats.turned_away})"
    waiting = sum(epoch.waiting for epoch in status.epochs)
    oldest = min((e.oldest_ms for e in status.epochs if e.waiting), default=0)
    rows = [
        ("Chốt / gateway", f"{status.gateway}, pid {status.pid}, {ago(status.started_ms)}"),
        ("Trung tâm / engine", status.url),
        ("Liên lạc / link", f"{link}, {ago(status.since_ms)}"),
        ("Chờ gửi / waiting", f"{waiting:,}, cũ nhất / oldest {ago(oldest)}"),
        ("Bộ nhớ / spool", f"{status.spool_size:,} / {status.spool_size_max:,} bytes"),
        ("Đã mất / lost", f"{status.lost_count:,}, "
         f"trung tâm không nhận / not taken {stats.nacks:,}"),
        ("Hình / frames", f"{stats.frames_captured:,}, chờ / waiting {status.frames_waiting:,}, "
         f"bỏ / dropped {stats.frames_dropped:,}"),
        ("Đèn / verdicts", ", ".join(f"{k} {n:,}" for k, n in sorted(stats.verdicts.items()))
         or "–"),
        ("Chốt tự kiểm / local", f"{stats.lights_local:,}"),
        ("Lệch giờ / clock", f"{stats.clock_offset_ms:+.0f} ms"),
        ("Lỗi cuối / last error", f"{stats.last_error}, {ago(stats.last_error_ms)}"
         if stats.last_error else "–"),
    ]  # fmt: skip
    width = max(len(name) for name, _ in rows)
    yield from (f"{name:<{width}}  {text}" for name, text in rows)
    for epoch in status.epochs:
        if epoch.waiting or epoch.is_live:
            words = [
                w for w, is_so in (("live", epoch.is_live), ("linked", epoch.is_linked)) if is_so
            ]
            yield (
                f"  epoch {epoch.epoch}  {epoch.waiting:,} chờ / waiting, "
                f"{ago(epoch.oldest_ms)}  {' '.join(words)}".rstrip()
            )
    yield f"Thiết bị / gear ({ms_to_iso(status.now_ms)})"
    for source in status.sources:
        state = "xong / over" if source.is_over else source.problem or "tốt / well"
        if source.skipped:
            state += f", bỏ / skipped {source.skipped:,}"
        yield (
            f"  làn {source.lane} {source.kind:<9} {source.items:>9,}  "
            f"{ago(source.last_ms):>8}  {state}"
        )


def _span(span_ms: int) -> str:
    """`42 s`, `7 min`, `3 h 5 min`, `2 d 4 h`."""
    seconds = span_ms // 1000
    minutes, hours = seconds // 60, seconds // 3600
    if minutes < 2:
        return f"{seconds} s"
    if hours < 2:
        return f"{minutes} min"
    if hours < 48:
        return f"{hours} h {minutes % 60} min"
    return f"{hours // 24} d {hours % 24} h"
