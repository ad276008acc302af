"""Opening hours as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.presence.hours import CLOSED, text_to_trips, text_to_week


def spans(text: str) -> list[str]:
    """Of a week each day as "07:00-17:00", "" for one without a closing time."""
    week = text_to_week(text)
    assert week is not None and len(week) == 7
    return [
        "" if span == CLOSED else "-".join(f"{m // 60:02}:{m % 60:02}" for m in span)
        for span in week
    ]


def test_what_people_write() -> None:
    assert spans("07:00-22:00") == ["07:00-22:00"] * 7
    office = spans("Mo-Fr 07:00-11:30,13:30-17:00; Sa 07:00-11:30")
    assert office == ["07:00-17:00"] * 5 + ["07:00-11:30", ""]
    assert spans("T2-T6 7h-17h30; T7 7:00 - 11:30; CN off") == [
        *["07:00-17:30"] * 5, "07:00-11:30", ""
    ]  # fmt: skip
    assert spans("18:00-02:00") == ["18:00-26:00"] * 7
    assert spans("Sa-Mo 08:00-09:00") == ["08:00-09:00", "", "", "", "", *["08:00-09:00"] * 2]
    assert spans("08:00-20:00; Su 08:00-12:00")[5:] == ["08:00-20:00", "08:00-12:00"]
    assert spans("Mo,We 08:00-10:00")[:3] == ["08:00-10:00", "", "08:00-10:00"]


@pytest.mark.parametrize("text", ["", " ", "24/7", "00:00-24:00", "Mo-Su off"])
def test_hours_that_end_no_stay(text: str) -> None:
    assert text_to_week(text) is None


@pytest.mark.parametrize(
    "text",
    ["x", ";", "Mo", "Mo 25:00-26:00", "08:00", "08:00-10:00,09:00-11:00", "Mo-Xx 08:00-09:00",
     "24:00-25:00", "08:61-09:00", "8-9", "Mo 08:00-09:00 " * 20],
)  # fmt: skip
def test_what_is_no_hours(text: str) -> None:
    with pytest.raises(ValueError, match="hours"):
        text_to_week(text)


@given(st.text("0123456789:-,; hMoFrSaSuT27/CN", max_size=60))
def test_any_text_is_a_week_or_refused(text: str) -> None:
    try:
        week = text_to_week(text)
    except ValueError:
        return
    for opening, closing in week or ():
        assert 0 <= opening <= closing < opening + 1440


def test_trips_of_a_vehicle() -> None:
    two = text_to_trips("T2-T6 06:00-11:30,13:00-18:30; T7 20:00-05:00")
    assert two == (
        (*((360, 690),) * 5, (1200, 1740), CLOSED),
        (*((780, 1110),) * 5, CLOSED, CLOSED),
    )
    assert text_to_trips("") == text_to_trips("24/7") == text_to_trips("off") == ()
