"""Contact profiles: what counts as a contact by the paper in force, and how far it looks back.

Dated data, because medicine and law change faster than code. docs/tracing.md has the sources.
"""

from __future__ import annotations

import enum
from typing import Final

import msgspec

from engine.clock import date_to_day, day_to_ms, ms_to_day
from engine.errors import QuestionInvalid


class ProfileKind(enum.StrEnum):
    """How a profile counts."""

    MINUTES = "minutes"  # engine.presence.contacts
    CWA = "cwa"  # engine.tracing.cwa, of which min_minutes are weighted


class ContactProfile(msgspec.Struct, frozen=True, kw_only=True):
    """What counts as a contact by one paper, as far as scans can show it.

    since: date from which it holds. min_minutes: least time together, cumulated within any
    cumulated_hours. distance_m is shown and not applied: scans know places, not distances.
    days_before_*: civil days before onset or sampling from which a case counts as infectious;
    days_after_*: the last such day after it, None where only isolation ends the span.
    """

    name: str
    since: str
    source: str
    is_national: bool = True
    kind: ProfileKind = ProfileKind.MINUTES
    min_minutes: int = 15
    cumulated_hours: int = 24
    linger_minutes: int = 0
    distance_m: float = 2.0
    days_before_onset: int
    days_before_sample: int
    days_after_onset: int | None = None
    days_after_sample: int | None = None

    def with_minutes(self, least: int | None, linger: int | None) -> ContactProfile:
        """The profile with other minutes in place of its own, where any are given."""
        return msgspec.structs.replace(
            self,
            min_minutes=self.min_minutes if least is None else least,
            linger_minutes=self.linger_minutes if linger is None else linger,
        )


PROFILES: Final = {
    profile.name: profile
    for profile in (
        # The handbook names no days for cases without symptoms: its incubation time stands in.
        ContactProfile(
            name="VN-2020-12",
            since="2020-12-03",
            source="5053/QĐ-BYT",
            days_before_onset=3,
            days_before_sample=14,
        ),
        # "The same closed space or vehicle compartment", whatever the time.
        ContactProfile(
            name="VN-2021-07",
            since="2021-07-30",
            source="3638/QĐ-BYT",
            min_minutes=0,
            days_before_onset=3,
            days_before_sample=14,
        ),
        ContactProfile(
            name="VN-2021-12-29",
            since="2021-12-29",
            source="11042/BYT-DP",
            days_before_onset=2,
            days_before_sample=2,
        ),
        ContactProfile(
            name="VN-2022-04-15",
            since="2022-04-15",
            source="1909/BYT-DP",
            distance_m=1.0,
            days_before_onset=2,
            days_before_sample=2,
        ),
        # 10 days after onset and 3 days without symptoms: the 13th day is the last.
        ContactProfile(
            name="WHO",
            since="2021-01-01",
            source="WHO, contact tracing in the context of COVID-19",
            is_national=False,
            distance_m=1.0,
            days_before_onset=2,
            days_before_sample=2,
            days_after_onset=13,
            days_after_sample=10,
        ),
        # Check-ins of the last 10 days; the app asked no one for more.
        ContactProfile(
            name="CWA",
            since="2021-04-21",
            source="Corona-Warn-App, event registration",
            is_national=False,
            kind=ProfileKind.CWA,
            min_minutes=10,
            distance_m=0.0,
            days_before_onset=10,
            days_before_sample=10,
        ),
    )
}


def profile_of(name: str) -> ContactProfile:
    """Raises QuestionInvalid for a name that no profile has."""
    profile = PROFILES.get(name)
    if profile is None:
        raise QuestionInvalid(
            "profile: there is no such contact profile", hint="one of " + ", ".join(PROFILES)
        )
    return profile


def profile_at(instant_ms: int) -> ContactProfile:
    """The national profile in force at an instant; before all of them the earliest."""
    day = ms_to_day(instant_ms)
    national = sorted((p for p in PROFILES.values() if p.is_national), key=lambda p: p.since)
    in_force = [profile for profile in national if date_to_day(profile.since) <= day]
    return (in_force or national[:1])[-1]


def case_window(
    profile: ContactProfile,
    *,
    onset_ms: int | None = None,
    sample_ms: int | None = None,
    isolated_ms: int | None = None,
) -> tuple[int, int]:
    """[from, to) in which a case is taken to be infectious.

    Counted in civil days of Asia/Ho_Chi_Minh from the day of onset, or of sampling for a case
    without symptoms: it begins with the first instant of the day so many days earlier. It ends with
    isolation, and with the last day the profile names, if that is sooner. Raises QuestionInvalid
    unless exactly one of onset and sample is given, when nothing ends the span, or when isolation
    comes before its begin.
    """
    if onset_ms is not None and sample_ms is None:
        zero_ms, before, after = onset_ms, profile.days_before_onset, profile.days_after_onset
    elif sample_ms is not None and onset_ms is None:
        zero_ms, before, after = sample_ms, profile.days_before_sample, profile.days_after_sample
    else:
        raise QuestionInvalid("give either the onset or, without symptoms, the sampling")
    day = ms_to_day(zero_ms)
    from_ms = day_to_ms(day - before)
    ends = [] if isolated_ms is None else [isolated_ms]
    if after is not None:
        ends.append(day_to_ms(day + after + 1))
    if not ends:
        raise QuestionInvalid(f"profile {profile.name} needs the time of isolation")
    if min(ends) <= from_ms:
        raise QuestionInvalid("isolation comes before the case can have been infectious")
    return from_ms, min(ends)
