"""A record of the control log, as whoever applies one reads it; engine.storage.control_lmdb has
them."""

from __future__ import annotations

from typing import Annotated, Protocol

from msgspec import Meta

PersonKey = Annotated[bytes, Meta(min_length=16, max_length=16)]


class Record(Protocol):
    """What is read of a record of the control log."""

    @property
    def lsn(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def by(self) -> str: ...
    @property
    def at_ms(self) -> int: ...
    @property
    def body(self) -> bytes: ...
