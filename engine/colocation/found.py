"""What the co-location index finds: visits, and contacts with their evidence, as packed arrays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from engine.presence.visits import REF_ROW_BITS, Array


class GroupLike(Protocol):
    """What the index reads of a journal group: its number and its rows, an array of ROW."""

    @property
    def lsn(self) -> int: ...
    @property
    def rows(self) -> Array: ...


def ref_to_position(ref: int) -> tuple[int, int]:
    """(lsn, row within the group) of a ref."""
    return ref >> REF_ROW_BITS, ref & ((1 << REF_ROW_BITS) - 1)


def joined(parts: Iterable[bytes], dtype: np.dtype[Any]) -> Array:
    return np.frombuffer(b"".join(parts), dtype)


@dataclass(frozen=True, slots=True)
class Found:
    """Visits, complete up to `lsn`, sorted by start, end and key.

    visits: VISIT, `person` being the position in `persons`; persons: V16 keys, ascending; newest:
    ref of each person's newest row, under which the log holds sealed details; total: visits found,
    more than len(visits) where a limit cut them.
    """

    visits: Array
    persons: Array
    newest: Array
    total: int
    lsn: int


@dataclass(frozen=True, slots=True)
class Met:
    """Contacts, complete up to `lsn`, ranked.

    contacts: CONTACT, and of each the key in `persons` (V16) and the ref of the newest row in
    `newest`; pairs: PAIR, in the order of the contacts; total: contacts found, more than
    len(contacts) where a limit cut them; below: how many persons met less than the threshold.
    """

    contacts: Array
    pairs: Array
    persons: Array
    newest: Array
    total: int
    below: int
    lsn: int
