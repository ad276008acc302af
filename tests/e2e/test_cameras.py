"""Camera adapters against a camera that is another process: honest ones, and hostile ones."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import pytest

from engine.clock import SystemClock
from engine.errors import SettingInvalid
from engine.gateway.gear.cameras import MjpegCamera, SnapshotCamera
from engine.gateway.sources import Picture
from engine.wire.frames import Codec
from tests.reference.camera_peer import PASSWORD, USER, image
from tests.reference.gateway_rig import ROOT


@pytest.fixture(scope="module")
def camera_url() -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.reference.camera_peer"],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()


async def brief(span_s: float) -> None:
    await asyncio.sleep(min(span_s, 0.02))


def make(url: str, **options: Any) -> SnapshotCamera | MjpegCamera:
    kind = MjpegCamera if "/mjpeg/" in url else SnapshotCamera
    defaults = {"fps": 50, "lane": 2, "clock": SystemClock(), "stall_s": 5, "sleep": brief}
    return kind(url, **{**defaults, **options})


def take(camera: SnapshotCamera | MjpegCamera, count: int) -> list[Picture]:
    async def run() -> list[Picture]:
        found: list[Picture] = []
        async with asyncio.timeout(30), aclosing(camera.items()) as items:
            async for picture in items:
                found.append(picture)
                if len(found) == count:
                    break
        return found

    return asyncio.run(run())


def problem_of(camera: SnapshotCamera | MjpegCamera) -> str:
    """What the camera's lane is told while it gives no frame."""

    async def run() -> str:
        async def drain() -> None:
            async for _ in camera.items():
                pass

        task = asyncio.create_task(drain())
        async with asyncio.timeout(30):
            while camera.problem in ("", "not asked yet"):
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return camera.problem

    return asyncio.run(run())


def test_snapshots_one_after_the_other(camera_url: str) -> None:
    before = SystemClock().now_ms()
    camera = make(f"{camera_url}/snap/plain")
    pictures = take(camera, 5)
    assert [p.frame_no for p in pictures] == [1, 2, 3, 4, 5]
    assert {p.lane for p in pictures} == {2} and {p.codec for p in pictures} == {Codec.JPEG}
    assert len({p.image for p in pictures}) == 5, "a frame was given twice"
    times = [p.ts_ns for p in pictures]
    assert times == sorted(times) and times[0] >= before * 1_000_000
    assert camera.problem == ""
    assert take(make(f"{camera_url}/snap/png"), 1)[0].codec is Codec.PNG


class SlowClock(SystemClock):
    """Two seconds pass between one look and the next."""

    looks = 0

    def monotonic_ns(self) -> int:
        self.looks += 1
        return self.looks * 2_000_000_000


@pytest.mark.parametrize("clock", [SystemClock(), SlowClock()], ids=["quick", "slow"])
def test_the_pause_is_what_is_left_of_a_frames_time(camera_url: str, clock: SystemClock) -> None:
    """A camera that needs longer is asked again at once, and nothing is made up for."""
    pauses: list[float] = []

    async def sleep(span_s: float) -> None:
        pauses.append(span_s)

    take(make(f"{camera_url}/snap/plain", fps=1, sleep=sleep, clock=clock), 4)
    assert len(pauses) == 3 and all(0 <= pause < 1 for pause in pauses)
    if isinstance(clock, SlowClock):
        assert pauses == [0.0] * 3


@pytest.mark.parametrize("way", ["basic", "digest"])
def test_user_and_password(camera_url: str, way: str) -> None:
    url = f"{camera_url}/snap/{way}"
    options = {"is_digest": way == "digest"}
    assert len(take(make(url, user=(USER, PASSWORD), **options), 2)) == 2
    assert "401" in problem_of(make(url, user=(USER, "wrong"), **options))
    assert "401" in problem_of(make(url))


def test_a_challenge_that_breaks_the_library_costs_its_own_lane_only(camera_url: str) -> None:
    problems: list[str] = []

    async def sleep(span_s: float) -> None:
        problems.append(camera.problem)
        if len(problems) == 3:
            raise asyncio.CancelledError

    url = f"{camera_url}/snap/challenge"
    camera = make(url, user=(USER, PASSWORD), is_digest=True, sleep=sleep)
    with pytest.raises(asyncio.CancelledError):
        take(camera, 1)
    assert "401" in problems[0] and "no answer" in problems[1]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("snap/html", "neither JPEG nor PNG"),
        ("snap/gzip", "neither JPEG nor PNG"),
        ("snap/redirect", "302"),
        ("snap/broken", "500"),
        ("snap/endless", "more than"),
        ("snap/hang", "no frame for 0.3 s"),
        ("mjpeg/none", "no multipart"),
        ("mjpeg/huge", "no boundary"),
        ("mjpeg/flood", "no frame for 0.3 s"),
        ("snap/plain/nowhere", "no answer"),
    ],
)
def test_what_is_wrong_is_told(camera_url: str, name: str, problem: str) -> None:
    stall_s = 0.3 if "0.3" in problem else 5
    assert problem in problem_of(make(f"{camera_url}/{name}", stall_s=stall_s))


@pytest.mark.parametrize("name", ["plain", "lf", "dashes", "quoted", "long", "text"])
def test_streams_of_every_make(camera_url: str, name: str) -> None:
    camera = make(f"{camera_url}/mjpeg/{name}")
    images = [p.image for p in take(camera, 6)]
    numbers = [int.from_bytes(i[6:10], "big") for i in images]
    assert images == [image(n) for n in numbers]
    assert numbers == sorted(set(numbers)), "in order, and none twice"
    assert camera.skipped == 0


@pytest.mark.parametrize("name", ["short", "damaged"])
def test_broken_parts_cost_themselves_only(camera_url: str, name: str) -> None:
    camera = make(f"{camera_url}/mjpeg/{name}")
    images = [p.image for p in take(camera, 4)]
    assert images == [image(int.from_bytes(i[6:10], "big")) for i in images]
    assert camera.skipped >= 3


@pytest.mark.parametrize(("name", "first"), [("cut", 2), ("stall", 3), ("trickle", 1)])
def test_a_stream_that_ends_or_stalls_is_asked_anew(camera_url: str, name: str, first: int) -> None:
    camera = make(f"{camera_url}/mjpeg/{name}", stall_s=0.5)
    numbers = [int.from_bytes(p.image[6:10], "big") for p in take(camera, 2 * first)]
    # Frames of one read count once, so a slow machine may see fewer of each round.
    assert numbers.count(0) >= 1 and numbers != sorted(set(numbers))


def test_a_camera_that_is_not_there_is_asked_with_growing_pauses() -> None:
    slept: list[float] = []

    async def sleep(span_s: float) -> None:
        slept.append(span_s)
        await asyncio.sleep(0 if len(slept) < 9 else 60)

    class Highest:
        def uniform(self, low: float, high: float) -> float:
            assert low == high / 2
            return high

    camera = make("http://127.0.0.1:1/snap/x", sleep=sleep, random=Highest())

    async def run() -> None:
        task = asyncio.create_task(anext(camera.items()))
        async with asyncio.timeout(20):
            while len(slept) < 9:
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    assert slept == [0.5, 1, 2, 4, 8, 15, 15, 15, 15]


@pytest.mark.parametrize(
    "url", ["", "camera", "ftp://camera/x", "http://", "http://admin:secret@camera/x"]
)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(SettingInvalid) as refused:
        make(url)
    assert "secret" not in str(refused.value)
