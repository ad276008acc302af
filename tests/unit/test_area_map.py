"""Areas that end, are joined and change their names: what lies where, and what a name means."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from engine.clock import iso_to_ms
from engine.errors import RegistryInvalid
from engine.registry.access import Grant, Role
from engine.registry.csv_tables import read_csv
from engine.registry.registry import Area, Category, Census, PostedCode, Registry, Unit, Venue

EXAMPLE = Path(__file__).parents[2] / "docs/examples/registry-2025/areas.csv"
BEFORE, AFTER = iso_to_ms("2025-06-30T23:59"), iso_to_ms("2025-07-01")


@pytest.fixture
def registry() -> Registry:
    made = Registry()
    for change in made.prepare(read_csv("areas", EXAMPLE.read_bytes(), made)):
        made.take(change)
    return made


def test_what_holds_in_place_of_an_area(registry: Registry) -> None:
    def now(code: str, at_ms: int) -> str:
        area = registry.areas.now(code, at_ms)
        return area.code if area else ""

    assert now("QB", BEFORE) == "QB" and now("QB", AFTER) == "QT"
    assert now("QT-VL-HX", BEFORE) == "QT-VL-HX" and now("QT-VL-HX", AFTER) == "QT-XVL"
    assert now("QT-XVL", BEFORE) == "", "not there yet"
    assert now("QT-VL", AFTER) == "QT-VL", "several took it over: its own name stays"
    assert now("nowhere", AFTER) == ""


def test_places_of_old_areas_lie_in_the_new_ones(registry: Registry) -> None:
    within = registry.area_within
    assert within("QB-DH-HT", "QT", AFTER) and not within("QB-DH-HT", "QT", BEFORE)
    assert within("QB-DH-HT", "QB", BEFORE)
    assert within("QT-VL-HX", "QT-XVL", AFTER) and not within("QT-VL-HX", "QT-PDH", AFTER)
    # A district that is gone: what lay in it on its last day, and nothing that came later.
    assert within("QT-VL-HX", "QT-VL", AFTER) and within("QT-VL-HX", "QT-VL")
    assert not within("QT-XVL", "QT-VL", AFTER)
    assert within("QB-DH-HT", "QB", AFTER) and not within("QT-VL-HX", "QB", AFTER)
    for number, area in ((1001, "QT-VL-HX"), (1002, "QB-DH-HT"), (1003, "QT-XVL")):
        registry.take(Venue(number=number, name="X", category=Category.CAFE, area=area))
    assert registry.places_within("QT", AFTER) == {1001, 1002, 1003}
    assert registry.places_within("QT", BEFORE) == {1001}
    assert registry.places_within("QT-XVL", AFTER) == {1001, 1003}
    assert registry.places_within("QT-VL", AFTER) == {1001}


def test_old_names_resolve_with_and_without_accents_and_words(registry: Registry) -> None:
    def codes(text: str) -> list[str]:
        return [area.code for area in registry.areas.find(text)]

    assert codes("Quảng Bình") == codes("tinh quang binh") == codes("qb") == ["QB"]
    assert codes("huyện vĩnh linh") == ["QT-VL"]
    assert codes("vĩnh linh") == ["QT-VL", "QT-XVL"]
    assert codes("Hồ X") == ["QT-VL-HX"] and codes("không đâu") == []
    renamed = Area(number=1, code="QT", name="Tỉnh Trị Thiên", valid_from_ms=AFTER)
    registry.take(renamed)
    assert codes("Trị Thiên") == codes("tỉnh quảng trị") == ["QT"], "its name before too"
    assert codes("Quảng Trị") == ["QT", "QT-TX"], "the town of that name too"
    old = registry.areas.find("tỉnh Quảng Trị")[0]
    assert registry.areas.following(old) == renamed and registry.areas.following(renamed) is None


def test_successors_in_a_ring_end(registry: Registry) -> None:
    for number, code, successor in ((901, "A", "B"), (902, "B", "A")):
        registry.take(Area(number=number, code=code, name=code, successor=successor, valid_to_ms=1))
    assert registry.areas.now("A", 5) is not None
    assert not registry.area_within("A", "QT", 5)


def faults(registry: Registry, change: object) -> str:
    with pytest.raises(RegistryInvalid) as caught:
        registry.prepare([change])  # type: ignore[list-item]
    return caught.value.rows[0]


def test_units_and_what_refers_to_them(registry: Registry) -> None:
    unit = Unit(code="TYT", name="Trạm Y tế", area="QT-XVL")
    venue = Venue(number=7, name="Chợ", category=Category.MARKET, unit="TYT")
    assert "unit 'TYT' is not known" in faults(registry, venue)
    assert registry.prepare([venue, unit]) == [venue, unit]
    assert "area 'XX'" in faults(registry, msgspec.structs.replace(unit, area="XX"))
    assert "unit 'YY'" in faults(registry, msgspec.structs.replace(unit, parent="YY"))
    assert "area 'XX'" in faults(registry, Area(number=909, code="Z", name="Z", successor="XX"))
    assert "area 'XX'" in faults(registry, Census(area="XX", category=Category.CAFE, count=1))


def test_a_grant_names_a_unit_that_is_or_was(registry: Registry) -> None:
    grant = Grant(name="a", role=Role.TRACER, unit="TYT")
    assert "unit 'TYT' is not known" in faults(registry, grant)
    old = Unit(code="TYT", name="Trạm Y tế Hồ Xá", valid_to_ms=AFTER, successor="TYT-VL")
    new = Unit(code="TYT-VL", name="Trạm Y tế xã Vĩnh Linh", valid_from_ms=AFTER)
    for change in registry.prepare([new, old, grant]):
        registry.take(change)
    for text in ("Trạm Y tế Hồ Xá", "trạm y tế hồ xá", "tyt-vl", "Trạm Y tế xã Vĩnh Linh"):
        assert registry.prepare([Grant(name="b", role=Role.IOC, unit=text)])
    assert "not known" in faults(registry, msgspec.structs.replace(grant, unit="Trạm Y tế"))
    before, after = registry.units.now("TYT", BEFORE), registry.units.now("TYT", AFTER)
    assert (before, after) == (old, new)


def test_what_a_venue_may_say(registry: Registry) -> None:
    venue = Venue(number=7, name="Chợ", category=Category.MARKET)
    assert "hours" in faults(registry, msgspec.structs.replace(venue, hours="morning"))
    assert "degrees" in faults(registry, msgspec.structs.replace(venue, location="91,0"))
    good = msgspec.structs.replace(venue, hours="08:00-17:00", location="16.8163,-107.1003")
    assert registry.prepare([good]) == [good]


def test_no_code_of_a_person_comes_into_the_registry(registry: Registry) -> None:
    registry.take(Venue(number=7, name="Chợ", category=Category.MARKET))
    card = "045190999001||Nguyễn Thị Hồng Ánh|05061990|Nữ|Thôn Tân Hòa|11062021"
    assert "the code of a person" in faults(registry, PostedCode(text=card, venue=7))
    ours = "HTTPS://QR.CHOT.VN/V/140000Z94E9DPY1P7K"
    assert "of our own" in faults(registry, PostedCode(text=ours, venue=7))
    assert "venue 8 is not known" in faults(registry, PostedCode(text="X", venue=8))
    assert registry.prepare([PostedCode(text="X", venue=7)])
