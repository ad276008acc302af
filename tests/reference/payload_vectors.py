"""Vectors: the payloads under tests/data/payloads with the outcome that each must have."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "data" / "payloads"


@dataclass(frozen=True)
class Vector:
    id: str
    payload: bytes
    expect: dict[str, Any]

    @property
    def is_person(self) -> bool:
        return self.expect.get("type") in ("vn.cccd", "vn.qr1405")


def load() -> list[Vector]:
    vectors = []
    for path in sorted(FOLDER.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            item = json.loads(line)
            payload = base64.b64decode(item["payload_b64"], validate=True)
            vectors.append(Vector(item["id"], payload, item["expect"]))
    return vectors
