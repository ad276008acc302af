"""Bodies that do not come: how long they are awaited, and what an API that ends does about them."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from engine.api import http_shape
from engine.api.answers import PersonBody
from engine.api.http_shape import BodyReader
from engine.errors import EngineUnreachable


async def _never() -> bytes:
    await asyncio.Event().wait()
    return b""


def test_an_api_that_ends_in_the_turn_in_which_a_body_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A timeout that has just expired cannot be moved, and trying must not stop the stopping."""
    monkeypatch.setattr(http_shape, "BODY_TIMEOUT_S", 0.01)
    faults: list[object] = []

    async def work() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: faults.append(context.get("exception")))
        bodies = BodyReader([PersonBody])
        request: Any = SimpleNamespace(headers={"Authorization": "Bearer x"}, read=_never)
        given_up = asyncio.create_task(bodies.read(cast(Any, request), PersonBody))
        await asyncio.sleep(0)
        loop.call_later(0.02, bodies.close)
        time.sleep(0.05)  # both timers come in the loop's next turn, one after the other
        with pytest.raises(EngineUnreachable):
            await given_up
        with pytest.raises(EngineUnreachable):
            await bodies.read(cast(Any, request), PersonBody)

    asyncio.run(work())
    assert faults == []
