"""Records: the body of a SCANS message taken apart, against msgspec decoding it into structs.

Ours leaves entries of 64 bytes that point into the body, which is all that the stages behind want.
The peer has the best that msgspec knows for this: arrays as tagged structs, one decoder made ahead.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np

from bench.case_ingest import NOW_MS, card, checkin
from bench.harness import Case, Contender, Params, Place, Round
from engine.scans.records import ENTRY, Credential, Extras, decode_scans, encode_scans


class Scan(msgspec.Struct, array_like=True, tag=1):
    ts_ms: int
    lane: int
    payload: bytes
    flags: int
    extras: dict[str, object] | None = None


class Checkin(msgspec.Struct, array_like=True, tag=2):
    ts_ms: int
    direction: int
    who: bytes | Credential
    venue: bytes | int
    source: int
    extras: Extras | None = None


class Ours(Contender):
    name = "chot"
    note = "native.wire.read_records"

    def __init__(self, bodies: list[bytes], rounds: int) -> None:
        self._bodies = bodies
        self._rounds = rounds

    def work(self, repetition: int) -> None:
        for _ in range(self._rounds):
            for body in self._bodies:
                decode_scans(body)

    def answer(self) -> bytes:
        entries = [np.frombuffer(decode_scans(body)[0], ENTRY) for body in self._bodies]
        return to_answer([(int(e["kind"]), int(e["time_ms"])) for some in entries for e in some])


class Msgspec(Ours):
    name = "msgspec"
    note = "one Decoder of array_like tagged structs"

    def __init__(self, bodies: list[bytes], rounds: int) -> None:
        super().__init__(bodies, rounds)
        self._decode = msgspec.msgpack.Decoder(list[Scan | Checkin]).decode

    def work(self, repetition: int) -> None:
        for _ in range(self._rounds):
            for body in self._bodies:
                self._decode(body)

    def answer(self) -> bytes:
        records = [record for body in self._bodies for record in self._decode(body)]
        return to_answer([(1 if isinstance(r, Scan) else 2, r.ts_ms) for r in records])


def to_answer(records: list[tuple[int, int]]) -> bytes:
    """Kind and time of every record."""
    return np.array(records, "<i8").tobytes()


def set_up(params: Params, place: Place) -> Round:
    """Bodies of check-ins and of ID cards in turn."""
    count = params["records"]
    bodies = [
        encode_scans([record(i, NOW_MS + i) for i in range(m * count, (m + 1) * count)])
        for m in range(params["bodies"] // 2)
        for record in (checkin, card)
    ]
    contenders: list[Contender] = [kind(bodies, params["rounds"]) for kind in (Ours, Msgspec)]
    facts: dict[str, int | str] = {"bytes_a_body": sum(map(len, bodies)) // len(bodies)}
    return Round(contenders, count * len(bodies) * params["rounds"], facts=facts)


CASE: Final = Case(
    name="records",
    what="SCANS bodies of check-ins and ID cards to records",
    unit="record",
    params={
        "smoke": {"bodies": 4, "records": 64, "rounds": 2, "repetitions": 2},
        "small": {"bodies": 64, "records": 64, "rounds": 20, "repetitions": 7},
        "large": {"bodies": 64, "records": 64, "rounds": 200, "repetitions": 15},
    },
    set_up=set_up,
)
