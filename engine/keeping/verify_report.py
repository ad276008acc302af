"""What a check of a store found: counts, heads and faults; persons are in none of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from engine.clock import day_to_date
from engine.keeping.erasure import Amended
from engine.storage.journal import Mark

PROBLEM_LIMIT = 1000  # a store damaged throughout still gives a report one can read

# Code of a fault -> what it means. docs/operations.md says what to do; a test compares.
FAULTS: Final = {
    "store.damaged": "the file cannot be read as a store, or not all of it",
    "generation.missing": "a whole file of the scan log is not there",
    "generation.header": "a file of the scan log does not say what those before it ended with",
    "group.missing": "numbers of groups are left out",
    "group.damaged": "layout, checksum or content hash of a group is wrong",
    "group.misplaced": "a group stands under another's number",
    "group.sealed": "the day's key does not open the rows of a group",
    "group.amended": "rows of a group were taken out otherwise than erasures say",
    "chain.broken": "a group or record does not follow the one before it",
    "chain.noted": "the log is not the one whose head was noted, or it was cut since",
    "key.missing": "a day has rows and no key",
    "run.invalid": "a run is not a range of sequence numbers",
    "run.twice": "a sequence number was stored twice",
    "run.incomplete": "a run in several groups lacks a part",
    "run.gap": "sequence numbers of class 0 below the watermark are in no run",
    "rows.count": "runs and rows of a group do not agree in number",
    "rows.twice": "two rows of one message have the same place in it",
    "rows.day": "a row stands in the group of another day",
    "details.damaged": "sealed names of a group do not open, or do not belong to its rows",
    "record.missing": "numbers of control records are left out",
    "record.amended": "a control record lost its body otherwise than erasures say",
    "record.damaged": "a control record cannot be read",
    "index.damaged": "a file of the index, which is derived from the scan log, is damaged",
}


class Fault(msgspec.Struct, frozen=True):
    """One thing that is wrong. code: of FAULTS. log: "scan", "control", "index". lsn: 0 if none."""

    code: str
    log: str
    lsn: int
    text: str


@dataclass(slots=True)
class VerifyReport:
    """What was found. A store is sound when `faults` is empty.

    rows: rows stored, expired ones included; rows_opened: those a key ring opened; details_opened:
    groups whose sealed details opened and belong to their rows. watermarks: (gateway, epoch, class)
    to last sequence number. generations: files of the scan log. first_lsn: of the oldest group
    there is; what was before was forgotten. days: civil day to rows. chain_head, control_head: 32
    bytes each, to compare with what was noted elsewhere. is_live: read beside a running engine.
    """

    generations: int = 0
    groups: int = 0
    groups_expired: int = 0
    rows: int = 0
    rows_opened: int = 0
    details_opened: int = 0
    runs: int = 0
    first_lsn: int = 1
    last_lsn: int = 0
    chain_head: bytes = b""
    control_records: int = 0
    control_last: int = 0
    control_head: bytes = b""
    is_live: bool = False
    watermarks: dict[Mark, int] = field(default_factory=dict)
    days: Counter[int] = field(default_factory=Counter)
    faults: list[Fault] = field(default_factory=list)
    amended: dict[int, bytes] = field(default_factory=dict)
    bodiless: dict[int, bytes] = field(default_factory=dict)
    said: Amended = field(default_factory=Amended)

    @property
    def is_sound(self) -> bool:
        return not self.faults

    @property
    def problems(self) -> list[str]:
        return [fault.text for fault in self.faults]

    def add(self, code: str, text: str, lsn: int = 0, log: str = "scan") -> None:
        if len(self.faults) < PROBLEM_LIMIT:
            self.faults.append(Fault(code, log, lsn, text))


def report_to_json(report: VerifyReport) -> dict[str, Any]:
    """The report for programs; docs/operations.md names the fields."""
    return {
        "is_sound": report.is_sound,
        "is_live": report.is_live,
        "generations": report.generations,
        "groups": report.groups,
        "groups_expired": report.groups_expired,
        "rows": report.rows,
        "rows_opened": report.rows_opened,
        "details_opened": report.details_opened,
        "runs": report.runs,
        "first_lsn": report.first_lsn,
        "head": f"{report.last_lsn}:{report.chain_head.hex()}",
        "control_records": report.control_records,
        "control_head": f"{report.control_last}:{report.control_head.hex()}",
        "watermarks": [
            {"gateway": gateway, "epoch": f"{epoch:016x}", "class": cls, "last": last}
            for (gateway, epoch, cls), last in sorted(report.watermarks.items())
        ],
        "days": {day_to_date(day): rows for day, rows in sorted(report.days.items())},
        "faults": [msgspec.to_builtins(fault) for fault in report.faults],
    }
