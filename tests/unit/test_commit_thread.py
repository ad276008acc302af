"""The commit thread: what becomes of those who wait when the work itself is at fault."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from engine.errors import StorageUnavailable
from engine.storage.commit_thread import CommitThread, Job


def test_a_fault_of_the_writer_is_told_without_its_words() -> None:
    """They may hold anything, and this text goes to whoever sent the records."""

    def work(jobs: list[Job]) -> Sequence[Job]:
        raise KeyError("Nguyễn Thị Hoa 045191999002")

    async def run() -> None:
        with pytest.raises(StorageUnavailable) as caught:
            await thread.run(Job())
        assert str(caught.value) == "the writer failed: KeyError"

    thread = CommitThread("test", work, pending_limit_bytes=1000, commit_limit_bytes=1000)
    try:
        asyncio.run(run())
    finally:
        thread.close()


def test_what_is_called_in_a_loop_comes_before_those_who_wait() -> None:
    came: list[tuple[str, int]] = []
    loop = asyncio.new_event_loop()
    here = threading.get_ident()

    def work(jobs: list[Job]) -> list[Job]:
        for _ in jobs:
            thread.notify(loop, lambda: came.append(("call", threading.get_ident())))
        raise RuntimeError  # whoever waits hears of it; what was to be called is called

    thread: CommitThread[Job] = CommitThread(
        "test", work, pending_limit_bytes=1, commit_limit_bytes=1
    )

    async def wait() -> None:
        with pytest.raises(StorageUnavailable):
            await thread.run(Job())
        came.append(("done", threading.get_ident()))

    loop.run_until_complete(wait())
    assert came == [("call", here), ("done", here)]
    # A loop that has ended keeps nobody else from their outcome.
    loop.close()
    with pytest.raises(StorageUnavailable):
        thread.run_sync(Job())
    thread.close()
