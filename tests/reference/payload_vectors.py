"""Vectors: the payloads under tests/data/payloads with the outcome that each must have."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine.ingest.trust import TrustList, add_file
from engine.payloads import NoTrust, Trust

FOLDER = Path(__file__).resolve().parents[1] / "data" / "payloads"
PERSONS = ("vn.cccd", "vn.qr1405", "vn.bhyt", "dcc", "shc", "vdsnc")


@dataclass(frozen=True)
class Vector:
    """now_s: Unix time of the check, None where the vector has none. keys: its own, as in JSON."""

    id: str
    payload: bytes
    expect: dict[str, Any]
    now_s: float | None = None
    keys: tuple[Any, ...] = ()

    @property
    def is_person(self) -> bool:
        return self.expect.get("type") in PERSONS and "name_nfc" in self.expect

    def trust(self) -> Trust:
        trust = TrustList()
        if self.keys:
            trust.add_json(list(self.keys))
        elif self.id.startswith("shc.dev"):
            return NoTrust()
        else:
            add_file(trust, FOLDER / "keys.json")
        return trust


def load() -> list[Vector]:
    vectors = []
    for path in sorted(FOLDER.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            item = json.loads(line)
            payload = base64.b64decode(item["payload_b64"], validate=True)
            context = item.get("context", {})
            now_s = clock_to_seconds(context.get("validation_clock"))
            keys = tuple(context.get("trust", ()))
            vectors.append(Vector(item["id"], payload, item["expect"], now_s, keys))
    return vectors


def clock_to_seconds(clock: str | None) -> float | None:
    if clock is None:
        return None
    when = datetime.fromisoformat(clock)
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
