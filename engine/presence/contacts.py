"""Contacts: pairs of visits that share a place and a time, and what they add up to by person.

Here stand the rules and the layouts of what comes out; native.contacts carries the rules out, over
the visits that the index keeps sorted. Examples are in docs/tracing.md; tests/reference/tracing.py
is the slow twin written from them.

K1  A visit of the case and one of another person at the same venue make a pair if they overlap, or
    if the other is there within `linger_ms` after the case has left. Touching is no overlap.
K2  Two passages at one post make a pair if they overlap and either began at the same control point
    (lane) within `queue_ms` of each other, or name the same vehicle (CP-4). Such a pair is weak
    evidence, flagged QUEUE, and its time is never part of the minutes together.
K3  A person's minutes at one place count once, even where visits of several keys of the case
    overlap; minutes at two places at once count for both, because each may be the true one.
K4  A candidate has overlap and linger of the threshold or more, cumulated within some window of
    `window_ms`, or shared a vehicle with the case. Others are listed for the queue they stood in,
    or else only counted.

Ranked: candidates before those who only queued; a shared vehicle first, then overlap and linger,
different venues shared, time in the queue, and at last the person key, so that a tie is broken the
same way whatever came first.
"""

from __future__ import annotations

import enum

import numpy as np

CONTACT = np.dtype(
    [
        ("overlap_ms", "<i8"),  # at venues, cumulated
        ("linger_ms", "<i8"),  # after the case had left, beyond the overlap
        ("best_ms", "<i8"),  # most overlap and linger within any one window
        ("queue_ms", "<i8"),  # side by side at posts
        ("first_ms", "<i8"),  # first and last instant of all evidence
        ("last_ms", "<i8"),
        ("pairs", "<u4"),
        ("places", "<u4"),  # different venues shared
        ("tier", "u1"),
        ("flags", "u1"),  # those of all pairs together
        ("spare", "V6"),
    ]
)
PAIR = np.dtype(
    [
        ("contact", "<u4"),  # row of CONTACT
        ("place", "<u4"),
        ("case_start_ms", "<i8"),
        ("case_end_ms", "<i8"),
        ("other_start_ms", "<i8"),
        ("other_end_ms", "<i8"),
        ("overlap_ms", "<i8"),
        ("linger_ms", "<i8"),  # the other's presence in [case end, case end + linger)
        ("case_ref", "<u8"),
        ("other_ref", "<u8"),
        ("case_room", "<u2"),
        ("other_room", "<u2"),
        ("case_rule", "u1"),
        ("other_rule", "u1"),
        ("flags", "u1"),
        ("spare", "V1"),
    ]
)


class Tier(enum.IntEnum):
    """What a contact is proposed as; a person decides. BELOW is counted and never listed."""

    BELOW = 0
    CANDIDATE = 1
    QUEUE = 2


class PairFlag(enum.IntFlag):
    QUEUE = 1
    SAME_VEHICLE = 2
    SAME_ROOM = 4  # or the same control point of a post
    AFTER = 8  # no overlap: the other was there after the case had left
