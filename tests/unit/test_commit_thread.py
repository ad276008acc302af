"""The commit thread: what becomes of those who wait when the work itself is at fault."""

from __future__ import annotations

import asyncio
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
