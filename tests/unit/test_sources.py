"""Sources: clips split whatever they hold, JSON lines become records or are refused by name."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engine.clock import ManualClock, SystemClock
from engine.errors import InputError, LineInvalid, SettingInvalid
from engine.gateway.sources import (
    FrameSource,
    JpegSplitter,
    Picture,
    Records,
    RecordSource,
    Source,
)
from engine.scans.record_lines import line_to_record
from engine.scans.records import ENTRY, Extras, decode_credential, decode_extras, decode_scans
from engine.scans.rows import Source as Issuer
from engine.wire.frames import Codec

ROOT = Path(__file__).resolve().parents[2]
START_MS = 1_625_097_600_000


def jpeg(seed: int, *, progressive: bool = False) -> bytes:
    """A noisy image, so that stuffed FF bytes occur."""
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 64), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=95, progressive=progressive)
    return out.getvalue()


def with_thumbnail(image: bytes, thumbnail: bytes) -> bytes:
    """The image with another one in an APP1 segment."""
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    return image[:2] + segment + image[2:]


IMAGES = [
    jpeg(1),
    jpeg(2, progressive=True),
    with_thumbnail(jpeg(3), jpeg(4)),
    jpeg(5),
]
assert all(b"\xff\x00" in image for image in IMAGES)


def split(chunks: Iterable[bytes], size_max: int = 1 << 20) -> tuple[list[bytes], int]:
    splitter = JpegSplitter(size_max)
    found = [image for chunk in chunks for image in splitter.feed(chunk)]
    splitter.finish()
    return found, splitter.damaged


@given(st.lists(st.integers(1, 3000), min_size=1))
@settings(max_examples=40, deadline=None)
def test_a_clip_is_split_the_same_in_any_chunks(sizes: list[int]) -> None:
    data = b"--boundary\r\n\r\n".join(IMAGES) + b"\r\n"
    chunks, at = [], 0
    while at < len(data):
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(data[at : at + size])
        at += size
    assert split(chunks) == (IMAGES, 0)


def test_one_byte_at_a_time() -> None:
    data = b"".join(IMAGES)
    assert split(data[i : i + 1] for i in range(len(data))) == (IMAGES, 0)


@pytest.mark.parametrize("cut", [2, 3, 20, 300, 5000, -1, -2])
def test_an_image_cut_short_costs_little_more_than_itself(cut: int) -> None:
    found, damaged = split([IMAGES[0], IMAGES[2][:cut], IMAGES[1] + IMAGES[3] * 4])
    assert found[0] == IMAGES[0]
    assert found[-1] == IMAGES[3]
    assert damaged >= 1
    if cut in (5000, -1, -2):  # in the data of the image, not in a segment that spans others
        assert found[1:] == [IMAGES[1], *[IMAGES[3]] * 4]
    assert set(found) <= set(IMAGES), "no thumbnail and no mixture passes for an image"


def test_the_end_of_a_clip_cut_short() -> None:
    assert split([IMAGES[0] + IMAGES[1][:-5]]) == ([IMAGES[0]], 1)


def test_an_image_too_large_is_skipped() -> None:
    size = max(len(IMAGES[0]), len(IMAGES[3]))
    huge = IMAGES[0][:-2] + b"\x11" * 50_000 + b"\xff\xd9"
    data = IMAGES[0] + huge + IMAGES[3]
    found, damaged = split([data[i : i + 512] for i in range(0, len(data), 512)], size)
    assert found == [IMAGES[0], IMAGES[3]]
    assert damaged >= 1


@given(st.lists(st.binary(max_size=200) | st.sampled_from([b"\xff\xd8\xff", b"\xff\xd9", b"\xff"])))
@settings(max_examples=200, deadline=None)
def test_any_bytes_keep_memory_bounded(chunks: list[bytes]) -> None:
    splitter = JpegSplitter(300)
    for chunk in chunks:
        for image in splitter.feed(chunk):
            assert len(image) <= 300
            assert image.startswith(b"\xff\xd8\xff") or image == b"\xff\xd8\xff\xd9"
        assert len(splitter._kept) <= 300


# ---- frames -------------------------------------------------------------------------------------


class Sleeper:
    """Sleeping moves a manual clock."""

    def __init__(self) -> None:
        self.clock = ManualClock(START_MS + 7)
        self.slept: list[float] = []

    async def sleep(self, span_s: float) -> None:
        self.slept.append(span_s)
        self.clock.advance(round(span_s * 1000))


def collect(source: Source) -> list[Picture | Records]:
    async def run() -> list[Picture | Records]:
        return [item async for item in source.items()]

    return asyncio.run(run())


def test_a_clip_at_its_rate_with_reproducible_times(tmp_path: Path) -> None:
    clip = tmp_path / "lane.mjpeg"
    clip.write_bytes(b"".join(IMAGES) + IMAGES[0][:500])
    sleeper = Sleeper()
    source = FrameSource(
        str(clip), fps=8, lane=1, clock=sleeper.clock, start_ms=START_MS, sleep=sleeper.sleep
    )
    pictures = collect(source)
    assert [p.image for p in pictures if isinstance(p, Picture)] == IMAGES
    assert [p.ts_ns for p in pictures if isinstance(p, Picture)] == [
        START_MS * 1_000_000 + n * 125_000_000 for n in range(4)
    ]
    assert [p.frame_no for p in pictures if isinstance(p, Picture)] == [0, 1, 2, 3]
    assert sleeper.slept == [0.125] * 3
    assert source.skipped == 1


def test_without_a_start_the_clock_tells_it(tmp_path: Path) -> None:
    clip = tmp_path / "lane.mjpeg"
    clip.write_bytes(IMAGES[0])
    sleeper = Sleeper()
    (picture,) = collect(
        FrameSource(str(clip), fps=10, lane=1, clock=sleeper.clock, sleep=sleeper.sleep)
    )
    assert isinstance(picture, Picture)
    assert picture.ts_ns == (START_MS + 7) * 1_000_000


def test_a_folder_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"png bytes")
    (tmp_path / "a.JPG").write_bytes(IMAGES[0])
    (tmp_path / "notes.txt").write_bytes(b"not an image")
    (tmp_path / "c.jpeg").mkdir()
    sleeper = Sleeper()
    pictures = collect(
        FrameSource(str(tmp_path), fps=10, lane=1, clock=sleeper.clock, sleep=sleeper.sleep)
    )
    assert [(p.codec, p.image) for p in pictures if isinstance(p, Picture)] == [
        (Codec.JPEG, IMAGES[0]),
        (Codec.PNG, b"png bytes"),
    ]


@pytest.mark.parametrize("fps", [0, -1, 1001])
def test_rates_that_make_no_sense(tmp_path: Path, fps: float) -> None:
    with pytest.raises(SettingInvalid, match="fps"):
        FrameSource(str(tmp_path), fps=fps, lane=1, clock=ManualClock())


def test_paths_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingInvalid):
        FrameSource(str(tmp_path / "no"), fps=1, lane=1, clock=ManualClock())
    with pytest.raises(SettingInvalid):
        RecordSource(str(tmp_path), rate=1, lane=1, clock=ManualClock())
    with pytest.raises(SettingInvalid):
        RecordSource(str(tmp_path / "no"), rate=1, lane=1, clock=ManualClock())


def test_a_named_pipe_is_refused_and_nobody_waits_for_its_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "clip")
    with pytest.raises(SettingInvalid) as caught:
        FrameSource(str(tmp_path / "clip"), fps=1, lane=1, clock=ManualClock())
    assert "redirect" in caught.value.hint


def test_an_image_that_goes_away_costs_itself_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n, image in enumerate(IMAGES):
        (tmp_path / f"{n}.jpg").write_bytes(image)
    source = FrameSource(str(tmp_path), fps=1000, lane=1, clock=SystemClock())
    read = Path.read_bytes

    def read_late(path: Path) -> bytes:
        if path.name == "1.jpg":
            path.unlink()
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", read_late)

    async def play() -> list[Any]:
        return [item.image async for item in source.items() if isinstance(item, Picture)]

    assert asyncio.run(play()) == [IMAGES[0], *IMAGES[2:]]
    assert source.skipped == 1


CHILD = """
import asyncio, sys
from engine.clock import SystemClock
from engine.gateway.sources import FrameSource, Picture, RecordSource
kind = sys.argv[1]
source = (FrameSource("-", fps=1000, lane=1, clock=SystemClock()) if kind == "frames"
          else RecordSource("-", rate=0, clock=SystemClock(), lane=1))
async def main():
    async for item in source.items():
        print(len(item.image) if isinstance(item, Picture) else item.count, flush=True)
asyncio.run(main())
"""


@pytest.mark.parametrize("way", ["pipe", "file"])
def test_frames_on_standard_input(tmp_path: Path, way: str) -> None:
    data = b"".join(IMAGES)
    command = [sys.executable, "-c", CHILD, "frames"]
    if way == "pipe":
        done = subprocess.run(command, input=data, capture_output=True, cwd=ROOT, check=True)
    else:
        (tmp_path / "clip").write_bytes(data)
        with (tmp_path / "clip").open("rb") as file:
            done = subprocess.run(command, stdin=file, capture_output=True, cwd=ROOT, check=True)
    assert done.stdout.split() == [b"%d" % len(image) for image in IMAGES]


@pytest.mark.parametrize("kind", ["frames", "records"])
def test_no_standard_input_is_an_end_or_told(kind: str) -> None:
    """What a service has: /dev/null, which never says that there is something to read."""
    command = [sys.executable, "-c", CHILD, kind]
    options: dict[str, Any] = {"capture_output": True, "cwd": ROOT, "timeout": 60}
    done = subprocess.run(command, stdin=subprocess.DEVNULL, check=True, **options)
    assert not done.stdout and not done.stderr
    done = subprocess.run(["sh", "-c", '"$@" <&-', "sh", *command], **options)
    assert done.returncode == 1 and b"there is no standard input" in done.stderr


def test_a_live_feed_is_not_held_back_until_a_body_is_full() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, "records"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    for _ in range(2):
        child.stdin.write(b'{"kind":"scan","ts_ms":1,"payload":"x"}\n')
        child.stdin.flush()
        assert child.stdout.readline() == b"1\n"
    child.stdin.close()
    assert child.wait() == 0
    child.stdout.close()


# ---- records ------------------------------------------------------------------------------------


def entry(line: dict[str, object], lane: int = 4) -> tuple[np.void, bytes]:
    body = b"\x91" + line_to_record(json.dumps(line).encode(), lane)
    packed, fault = decode_scans(body)
    assert fault == -1
    return np.frombuffer(packed, ENTRY)[0], body


def part(found: np.void, body: bytes, name: str) -> bytes:
    start = int(found[f"{name}_off"])
    return body[start : start + int(found[f"{name}_len"])]


def test_scan_lines() -> None:
    found, body = entry({"kind": "scan", "ts_ms": 5, "payload": "Trần"})
    assert (found["kind"], found["lane"], found["time_ms"]) == (1, 4, 5)
    assert part(found, body, "who") == "Trần".encode()
    raw = bytes(range(256))
    found, body = entry(
        {"kind": "scan", "ts_ms": 5, "lane": 0, "flags": 1,
         "payload_b64": base64.b64encode(raw).decode()}
    )  # fmt: skip
    assert (found["lane"], found["flags"]) == (0, 1)
    assert part(found, body, "who") == raw


def test_checkin_lines() -> None:
    found, body = entry(
        {"kind": "checkin", "ts_ms": 9, "who": {"payload": "VN|1"}, "venue": {"payload": "V"},
         "direction": "in", "source": "qr1405", "room": 3, "plate": "74A-99901", "seat": "1A",
         "stay_s": 1800}
    )  # fmt: skip
    assert (found["kind"], found["direction"], found["source"]) == (2, 1, Issuer.QR1405)
    assert (part(found, body, "who"), part(found, body, "venue")) == (b"VN|1", b"V")
    extras = Extras(room=3, plate="74A-99901", seat="1A", stay_s=1800)
    assert decode_extras(part(found, body, "aux")) == extras
    found, body = entry(
        {"kind": "checkin", "ts_ms": 9, "venue": 70001, "source": 7, "direction": "out",
         "who": {"kind": "passport", "value": "C9999001", "country": "VNM"}}
    )  # fmt: skip
    assert (found["direction"], found["source"], found["venue_id"]) == (2, 7, 70001)
    credential = decode_credential(part(found, body, "who"))
    assert (credential.kind, credential.value, credential.country) == (
        "passport",
        "C9999001",
        "VNM",
    )
    found, _ = entry(
        {
            "kind": "checkin",
            "ts_ms": 9,
            "venue": 1,
            "who": {"kind": "cccd", "value": "045099999001"},
        }
    )
    assert (found["direction"], found["source"], found["aux_len"]) == (0, 0, 0)


def test_manual_lines() -> None:
    found, _ = entry(
        {"kind": "manual", "ts_ms": 9, "lane": 2, "fields": {"name": "A"}, "officer": "cb-07",
         "why": "thẻ hỏng"}
    )  # fmt: skip
    assert (found["kind"], found["lane"], found["who_form"]) == (3, 2, 2)


SECRET = "045099999777"
BAD_LINES = [
    b"",
    b"{",
    b"[]",
    b"\xff\xfe",
    b"[" * 5000,
    json.dumps({"kind": SECRET, "ts_ms": 1}).encode(),
    json.dumps({"kind": "scan", "ts_ms": SECRET, "payload": "x"}).encode(),
    json.dumps({"kind": "scan", "ts_ms": -1, "payload": SECRET}).encode(),
    json.dumps({"kind": "scan", "ts_ms": 1}).encode(),
    json.dumps({"kind": "scan", "ts_ms": 1, "payload": "x", "payload_b64": "eA=="}).encode(),
    json.dumps({"kind": "scan", "ts_ms": 1, "payload_b64": SECRET + "!"}).encode(),
    json.dumps({"kind": "scan", "ts_ms": 1, "payload_b64": "ünïcode"}).encode(),
    json.dumps({"kind": "scan", "ts_ms": 1, "payload": SECRET * 300}).encode(),
    json.dumps({"kind": "scan", "ts_ms": 1, "payload": "x", "lane": 65536}).encode(),
    b'{"kind":"scan","ts_ms":1,"payload":"\\ud800"}',
    json.dumps({"kind": "checkin", "ts_ms": 1, "who": {}, "venue": 1}).encode(),
    json.dumps({"kind": "checkin", "ts_ms": 1, "who": {SECRET: "x"}, "venue": 1}).encode(),
    json.dumps({"kind": "checkin", "ts_ms": 1, "who": {"payload": "x"}, "venue": -1}).encode(),
    json.dumps({"kind": "checkin", "ts_ms": 1, "who": {"payload": "x"}, "venue": {}}).encode(),
    json.dumps(
        {"kind": "checkin", "ts_ms": 1, "who": {"kind": "phone", "value": SECRET}, "venue": 1}
    ).encode(),
    json.dumps(
        {"kind": "checkin", "ts_ms": 1, "who": {"payload": "x"}, "venue": 1, "source": SECRET}
    ).encode(),
    json.dumps(
        {"kind": "checkin", "ts_ms": 1, "who": {"payload": "x"}, "venue": 1, "direction": SECRET}
    ).encode(),
    json.dumps({"kind": "manual", "ts_ms": 1, "fields": {"a": 1}, "officer": "x"}).encode(),
]


@pytest.mark.parametrize("line", BAD_LINES, ids=range(len(BAD_LINES)))
def test_lines_refused_without_being_quoted(line: bytes) -> None:
    with pytest.raises(LineInvalid) as caught:
        line_to_record(line, 1)
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value.__cause__)


@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["kind", "ts_ms", "payload", "who", "venue", "value", "room"])
                | st.text(max_size=5),
                inner,
                max_size=5,
            )
        ),
    ).map(lambda value: json.dumps(value).encode())
)
@settings(max_examples=300)
def test_any_line_is_a_record_or_input_error(line: bytes) -> None:
    try:
        record = line_to_record(line, 1)
    except InputError:
        return
    assert decode_scans(b"\x91" + record)[1] == -1


def write_lines(path: Path, count: int) -> Path:
    lines = [
        json.dumps({"kind": "scan", "ts_ms": START_MS + i, "payload": f"p{i}"})
        for i in range(count)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_records_in_bodies_as_fast_as_they_are_taken(tmp_path: Path) -> None:
    sleeper = Sleeper()
    source = RecordSource(
        str(write_lines(tmp_path / "f", 150)),
        rate=0,
        lane=1,
        clock=sleeper.clock,
        sleep=sleeper.sleep,
    )
    items = collect(source)
    assert [i.count for i in items if isinstance(i, Records)] == [64, 64, 22]
    assert sleeper.slept == []
    times = [
        int(t)
        for item in items
        if isinstance(item, Records)
        for t in np.frombuffer(decode_scans(item.body)[0], ENTRY)["time_ms"]
    ]
    assert times == [START_MS + i for i in range(150)]
    assert not source.is_live


def test_records_at_a_rate(tmp_path: Path) -> None:
    sleeper = Sleeper()
    source = RecordSource(
        str(write_lines(tmp_path / "f", 100)),
        rate=50,
        lane=1,
        clock=sleeper.clock,
        sleep=sleeper.sleep,
    )
    items = collect(source)
    assert [i.count for i in items if isinstance(i, Records)] == [10] * 10
    assert sum(sleeper.slept) == pytest.approx(1.8)  # the last of 10 bodies is due after 9/5 s


def test_a_slow_rate_sends_each_record_when_it_is_due(tmp_path: Path) -> None:
    sleeper = Sleeper()
    source = RecordSource(
        str(write_lines(tmp_path / "f", 3)),
        rate=2,
        lane=1,
        clock=sleeper.clock,
        sleep=sleeper.sleep,
    )
    assert [i.count for i in collect(source) if isinstance(i, Records)] == [1, 1, 1]
    assert sleeper.slept == [0.5, 0.5]


def test_bad_lines_are_counted_and_logged_by_number(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_lines(tmp_path / "f", 2)
    with path.open("ab") as file:
        file.write(b"\n" + BAD_LINES[5] + b"\n" + b"x" * 100_000 + b"\n")
        file.write(b'{"kind":"scan","ts_ms":1,"payload":"no newline at the end"}')
    source = RecordSource(str(path), rate=0, lane=1, clock=ManualClock())
    logger = logging.getLogger("chot")
    propagates, logger.propagate = logger.propagate, True
    try:
        items = collect(source)
    finally:
        logger.propagate = propagates
    assert sum(i.count for i in items if isinstance(i, Records)) == 3
    assert source.skipped == 2
    assert [r.getMessage().split()[:2] for r in caplog.records] == [
        ["line_refused", "seq=4"],
        ["line_refused", "seq=5"],
    ]
    assert SECRET not in caplog.text
