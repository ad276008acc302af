"""What replies are made of: places as answers name them."""

from __future__ import annotations

import msgspec


class PlaceInfo(msgspec.Struct, frozen=True):
    """A place as an answer names it. kind: "post", or the venue's category.

    default_stay_until: "noon" or "trip" where that, and not the minutes, ends a stay.
    """

    number: int
    name: str
    kind: str
    area: str = ""
    code: str = ""
    default_stay_minutes: int = 0
    default_stay_until: str = ""
