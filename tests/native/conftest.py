"""Every native test runs once for each CPU level this machine has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from native import cpu


# Of module scope, because Hypothesis refuses fixtures that are made anew for each test function.
@pytest.fixture(scope="module", autouse=True, params=cpu.available())
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    before = cpu.active()
    cpu.use(request.param)
    yield request.param
    cpu.use(before)
