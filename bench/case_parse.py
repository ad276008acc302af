"""Parse: payloads of codes to persons or refusals, beside one json.loads of the same bytes.

Ours is engine.payloads.parse and the identity that a person key is made of. The peer reads nothing:
json.loads of the payload as a JSON text finds its end, and a list of its fields is what it answers
with, outside of the time. So a ratio below 1 says how many json.loads one code costs.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Final

from bench import texts
from bench.harness import SEED, Case, Contender, Params, Place, Round
from engine import payloads
from engine.clock import date_to_day
from engine.scans import people

TODAY: Final = date_to_day("2021-07-01")

PARAMS: Final[dict[str, Params]] = {
    "smoke": {"codes": 200, "repetitions": 2},
    "small": {"codes": 2_000, "repetitions": 11},
    "large": {"codes": 20_000, "repetitions": 25},
}


class Ours(Contender):
    name = "chot"
    note = "engine.payloads.parse, then engine.scans.people.identify; Python, one thread"

    def __init__(self, codes: list[bytes]) -> None:
        self._codes = codes
        self._found: list[str] = []

    def work(self, repetition: int) -> None:
        self._found = [read(code) for code in self._codes]

    def answer(self) -> bytes:
        return "\n".join(self._found).encode()


class ParseAlone(Contender):
    """Without the identity, which is found outside of the time."""

    name = "chot"
    note = "engine.payloads.parse without engine.scans.people.identify"

    def __init__(self, codes: list[bytes]) -> None:
        self._codes = codes
        self._found: list[payloads.Outcome] = []

    def work(self, repetition: int) -> None:
        self._found = [payloads.parse(code, today_day=TODAY) for code in self._codes]

    def answer(self) -> bytes:
        return "\n".join(map(outcome_to_text, self._found)).encode()


class JsonLoads(Contender):
    name = "json.loads"
    note = "of the same bytes as one JSON text; says nothing about them"

    def __init__(self, codes: list[bytes], find: Callable[[str], str]) -> None:
        self._lines = [json.dumps(code.decode(), ensure_ascii=False).encode() for code in codes]
        self._texts: list[str] = []
        self._find = find

    def work(self, repetition: int) -> None:
        self._texts = [json.loads(line) for line in self._lines]

    def answer(self) -> bytes:
        return "\n".join(map(self._find, self._texts)).encode()


def read(code: bytes) -> str:
    """What a lane does with a code, as a text: who it is, or why it is refused."""
    return outcome_to_text(payloads.parse(code, today_day=TODAY))


def outcome_to_text(outcome: payloads.Outcome) -> str:
    if isinstance(outcome, payloads.Refusal):
        return outcome.reason
    assert isinstance(outcome, payloads.Parsed)
    identity = people.identify(outcome)
    assert identity is not None
    return identity.canonical


def make_case(
    name: str,
    what: str,
    make: Callable[[random.Random], str],
    field: int | None,
    ours: type[Ours | ParseAlone] = Ours,
) -> Case:
    """field: of the payload, where its identity stands; None for codes that are refused."""

    def find(text: str) -> str:
        return "unknown" if field is None else text.split("|")[field]

    def set_up(params: Params, place: Place) -> Round:
        r = random.Random(SEED)
        codes = [make(r).encode() for _ in range(params["codes"])]
        expected = "\n".join(find(code.decode()) for code in codes).encode()
        facts: dict[str, int | str] = {"bytes_per_code": sum(map(len, codes)) // len(codes)}
        return Round([ours(codes), JsonLoads(codes, find)], len(codes), expected, facts)

    return Case(name, what, "code", PARAMS, set_up)


CASES: Final = (
    make_case("parse", "an ID card to who it is, against json.loads", texts.card, 0),
    make_case("parse_1405", "a national personal code, the same", texts.personal, 4),
    make_case("parse_alone", "the same without the identity", texts.personal, 4, ParseAlone),
    make_case("parse_unknown", "a code of no known layout, refused", texts.token, None),
)
