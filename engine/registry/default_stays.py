"""Default stays: how long somebody is taken to be at a place who does not check out.

A venue's own number of minutes comes first. Without one its category decides: for most a number of
minutes, at a lodging noon of the next day, in a vehicle the end of its trip, for which its hours
are its timetable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

from engine.clock import MINUTE_MS
from engine.presence.hours import text_to_trips, text_to_week
from engine.presence.visits import PlaceRule
from engine.registry.records import DEFAULT_STAY_MINUTES, Category, Place, Post


class DefaultStay(NamedTuple):
    """minutes: where `until` is "" or cannot be applied."""

    minutes: int
    until: Literal["", "noon", "trip"] = ""


def place_to_stay(place: Place) -> DefaultStay:
    if isinstance(place, Post):
        return DefaultStay(DEFAULT_STAY_MINUTES[Category.CHECKPOINT])
    if place.default_stay_minutes:
        return DefaultStay(place.default_stay_minutes)
    minutes = DEFAULT_STAY_MINUTES[place.category]
    if place.category == Category.LODGING:
        return DefaultStay(minutes, "noon")
    if place.category == Category.PUBLIC_TRANSPORT and text_to_trips(place.hours):
        return DefaultStay(minutes, "trip")
    return DefaultStay(minutes)


def records_to_rule(records: Sequence[Place]) -> PlaceRule:
    """The rule of a place out of all its records, at least one, in the order of their beginning.

    Those of one instant replace one another. One that ended holds until the next one begins.
    """
    found: list[PlaceRule] = []
    for place in {record.valid_from_ms: record for record in records}.values():
        rule = _place_to_rule(place)
        if not found:
            found.append(rule)
        elif rule != msgspec.structs.replace(found[-1], from_ms=0):
            found.append(msgspec.structs.replace(rule, from_ms=place.valid_from_ms))
    return msgspec.structs.replace(found[-1], earlier=tuple(found[:-1]))


def _place_to_rule(place: Place) -> PlaceRule:
    stay = place_to_stay(place)
    hours = "" if isinstance(place, Post) else place.hours
    return PlaceRule(
        is_post=isinstance(place, Post),
        default_stay_ms=stay.minutes * MINUTE_MS,
        hours=None if stay.until else text_to_week(hours),
        is_until_noon=stay.until == "noon",
        trips=text_to_trips(hours) if stay.until == "trip" else (),
    )
