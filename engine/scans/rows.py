"""The row: one scan as 48 bytes, and the numbers its small fields take.

Layout of decision D-3 (ARCHITECTURE.md). Names, numbers, plates and payloads never stand here.
`native.rows.RowBuffer` writes rows; this module gives numpy the same layout to read them.
"""

from __future__ import annotations

import enum

import numpy as np

ROW = np.dtype(
    [
        ("person", "V16"),  # person key, see engine.identity.keys
        ("time_ms", "<i8"),  # device time, less what its gateway's clock is off by (Flag)
        ("place", "<u4"),  # number of a post or venue in the registry
        ("lane", "<u2"),  # lane of a post, room of a venue
        ("n", "<u2"),  # row within its sequence number
        ("direction", "u1"),
        ("kind", "u1"),
        ("source", "u1"),
        ("flags", "u1"),
        ("temperature_cc", "<i2"),  # 0.01 degrees Celsius, NO_TEMPERATURE where none
        ("area", "<u2"),  # residence area, 0 where unknown
        ("vehicle", "<u4"),  # vehicle or trip, 0 where none
        ("stay_ms", "<u4"),  # how long a check-in's visit lasted, where its back end told; else 0
    ]
)
ROW_SIZE = 48
assert ROW.itemsize == ROW_SIZE

NO_TEMPERATURE = -32768
NOBODY = bytes(16)  # person of a reading whose scan is not known


class Direction(enum.IntEnum):
    NONE = 0
    IN = 1
    OUT = 2


class Kind(enum.IntEnum):
    """How a row came to be; the numbers are those of the records in a SCANS frame."""

    SCAN = 1
    CHECKIN = 2
    MANUAL = 3
    READING = 4  # a temperature; never in a SCANS frame, comes from an EVENT
    ERASED = 5  # nothing is left of it but n, and as its time the first instant of its day


class Source(enum.IntEnum):
    """Which card, app or issuer a person showed (SY-2, SY-5)."""

    OTHER = 0
    CCCD = 1
    QR1405 = 2
    BHYT = 3
    DCC = 4
    SHC = 5
    VDSNC = 6
    PASSPORT = 7
    PAPER = 8


class Flag(enum.IntFlag):
    FEVER = 1
    CLOCK_CORRECTED = 2
    LOCAL_VERDICT = 4
    REVIEW = 8
    COPIED = 16  # shown in two lanes at once, or at two posts faster than the road allows
    CLOCK_UNSURE = 32  # device time as it came; that clock was set, nobody saw when
    LISTED = 64  # on the watch list at that time


# Why something was refused. The position is stored in tallies: append only, never reorder.
REASONS = (
    "bad_encoding",
    "bad_signature",
    "bare_number",
    "contact_card",
    "empty",
    "foreign_health",
    "foreign_venue",
    "forged",
    "malformed",
    "malformed_id",
    "payment_qr",
    "phone_link",
    "revoked",
    "service_link",
    "too_long",
    "unknown",
    "unknown_url",
    "unsupported_context",
    "wifi",
    "clock",
    "too_old",
    "unknown_place",
    "seal_broken",
    "lost",
    "frame",
    "incomplete",
)
