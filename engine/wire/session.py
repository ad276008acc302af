"""The session: CKP/1's rules for what a server takes, drops, acknowledges and grants. No I/O.

A Stream is what the engine knows of one (gateway, epoch); it outlives the links that carry it. Each
of its two classes has a Window: what was received (volatile), what is settled (durable, or nothing
to make durable), and the absolute limits that follow. Rules and numbers: docs/protocol.md.
"""

from __future__ import annotations

from bisect import insort

from engine.errors import WireGap, WireOverCredit

DURABLE = 0  # class 0: scans, check-ins, events
VOLATILE = 1  # class 1: camera frames


class Window:
    """One class of one stream.

    Invariant: acked <= received, and every sequence number in (acked, received] that was taken is
    in `_open` or settled behind an open one. Limits are absolute and never fall (as in AMQP 1.0 and
    QUIC), so that a lost or repeated grant is harmless.
    """

    def __init__(self, acked: int, *, credit: int, credit_bytes: int, is_gapless: bool) -> None:
        self.received = acked
        self.acked = acked
        self.limit = acked + credit
        self.byte_limit = credit_bytes
        self._credit = credit
        self._credit_bytes = credit_bytes
        self._is_gapless = is_gapless
        self._open: list[int] = []
        self._open_bytes: dict[int, int] = {}
        self._bytes_received = 0
        self._bytes_open = 0

    def open_link(self) -> None:
        """A new link starts its byte count at zero; what is still open keeps weighing."""
        self._bytes_received = 0
        self.byte_limit = self._credit_bytes

    def take(self, seq: int, size: int, *, first: int | None = None) -> bool:
        """True to work on the message, False when it was received before.

        first: where a range (LOST) begins. Raises WireGap (class 0) and WireOverCredit.
        """
        first = seq if first is None else first
        self._bytes_received += size
        if self._bytes_received > self.byte_limit:
            raise WireOverCredit(f"byte {self._bytes_received} is beyond {self.byte_limit}")
        if seq <= self.received:
            self._grant_bytes()
            return False
        if seq > self.limit:
            raise WireOverCredit(f"sequence number {seq} is beyond {self.limit}")
        if self._is_gapless and first > self.received + 1:
            raise WireGap(f"got sequence number {first} after {self.received}")
        self.received = seq
        insort(self._open, seq)
        self._open_bytes[seq] = size
        self._bytes_open += size
        return True

    def settle(self, seq: int) -> bool:
        """The message is durable or had nothing to keep. True when `acked` moved.

        A message that `forget` dropped meanwhile changes nothing.
        """
        if seq not in self._open_bytes:
            return False
        self._open.remove(seq)
        self._bytes_open -= self._open_bytes.pop(seq)
        acked = self._open[0] - 1 if self._open else self.received
        moved = acked > self.acked
        self.acked = max(self.acked, acked)
        self.limit = max(self.limit, self.acked + self._credit)
        self._grant_bytes()
        return moved

    def _grant_bytes(self) -> None:
        grant = self._bytes_received - self._bytes_open + self._credit_bytes
        self.byte_limit = max(self.byte_limit, grant)

    def is_open(self, seq: int) -> bool:
        """Taken, not settled and not forgotten."""
        return seq in self._open_bytes

    def catch_up(self, durable: int) -> None:
        """What the log holds was received. Only while nothing is open."""
        assert not self._open
        self.received = max(self.received, durable)
        self.acked = max(self.acked, durable)
        self.limit = max(self.limit, self.acked + self._credit)

    def forget(self, durable: int) -> None:
        """Back to what is durable: the store refused what was open."""
        self._open.clear()
        self._open_bytes.clear()
        self._bytes_open = 0
        self.received = self.acked = durable

    @property
    def is_settled(self) -> bool:
        return not self._open

    @property
    def bytes_open(self) -> int:
        """Of messages that were taken and are not settled."""
        return self._bytes_open

    @property
    def waiting(self) -> int:
        return len(self._open)


class Stream:
    """Both classes of one (gateway number, epoch)."""

    def __init__(
        self,
        acked: tuple[int, int],
        *,
        scan_credit: int,
        frame_credit: int,
        credit_bytes: int,
    ) -> None:
        self.windows = (
            Window(acked[0], credit=scan_credit, credit_bytes=credit_bytes, is_gapless=True),
            Window(acked[1], credit=frame_credit, credit_bytes=credit_bytes, is_gapless=False),
        )

    def open_link(self) -> None:
        for window in self.windows:
            window.open_link()

    @property
    def is_settled(self) -> bool:
        return all(window.is_settled for window in self.windows)

    @property
    def waiting(self) -> int:
        """Messages of both classes that were taken and are not settled."""
        return sum(window.waiting for window in self.windows)

    @property
    def bytes_open(self) -> int:
        """Their bytes."""
        return sum(window.bytes_open for window in self.windows)
