"""Links: our own posted codes, the national service's posters and pages, and all other addresses.

A host counts only when the whole authority equals it: no user, no port, no other ending, no
look-alike letter. An address is never opened, and one that nearly is the service's is never
repaired: whoever hung it may want the people that it leads astray, so the refusal says so (SY-7).
"""

from __future__ import annotations

import re
from typing import Final

from engine.payloads.outcome import Outcome, PrefixParser, Reading, Refusal, VenueLink
from engine.payloads.venue import parse_path

# Hosts whose posters hang at venues. The path of a poster is not published; one segment that is
# not a known page is taken as its opaque id.
VENUE_HOSTS: Final = frozenset({"tokhaiyte.vn", "qr.tokhaiyte.vn", "qr.pccovid.gov.vn"})
SERVICE_HOSTS: Final = frozenset({"moh.ncovi.vn"})
SERVICE_PAGES: Final = frozenset({"dkdd", "ksvrbm"})  # register a point; gate control
FOREIGN_VENUE_HOSTS: Final = frozenset(
    {
        *("e.coronawarn.app", "app.luca-app.de", "qr.notify-me.ch", "notify-me.ch"),
        *("temperaturepass.ndi-api.gov.sg", "www.safeentry-qr.gov.sg"),  # SafeEntry, Singapore
        *("www.service.nsw.gov.au", "tracing.covid19.govt.nz"),
    }
)
# What the names of the service and of its apps are told apart by; a host that holds one of these,
# or one with a letter or two wrong, and is not on the list above imitates it.
KNOWN_WORDS: Final = ("tokhaiyte", "pccovid", "ncovi", "bluezone")

_OPAQUE_ID: Final = re.compile(r"[0-9A-Za-z_-]{6,64}")
_AUTHORITY: Final = re.compile(r"[^/?#]*")
_LABELS: Final = re.compile(r"[^.@:\-_]+")
_HOST_SIZE_MAX: Final = 253

_UNKNOWN: Final = Refusal("unknown_url", "a link to somewhere else")
_LOOKALIKE: Final = Refusal(
    "unknown_url", "a link that imitates the national service's or ours", is_lookalike=True
)
_SERVICE: Final = Refusal("service_link", "a page of the national service, not a venue's poster")
_FOREIGN: Final = Refusal("foreign_venue", "a venue poster of another country")


def parse(reading: Reading, /) -> Outcome:
    """What begins with http:// or https://."""
    scheme, _, rest = reading.data.decode(errors="replace").partition("://")
    matched = _AUTHORITY.match(rest)
    assert matched is not None, "the pattern matches the empty text too"
    host, tail = matched.group().lower(), rest[matched.end() :]
    if not reading.data.isascii():  # before any comparison: some letters become ASCII in lower case
        return _LOOKALIKE if is_lookalike(host) else _UNKNOWN
    if host == reading.venue_host and scheme.lower() == "https":
        return parse_path(tail, host)
    if host in VENUE_HOSTS:
        return _national(host, tail)
    if host in SERVICE_HOSTS:
        return _SERVICE
    if host in FOREIGN_VENUE_HOSTS or "/CWA1/" in tail:
        return _FOREIGN
    is_ours_nearly = host.partition(":")[0] == reading.venue_host.partition(":")[0]
    return _LOOKALIKE if is_ours_nearly or is_lookalike(host) else _UNKNOWN


def is_lookalike(authority: str) -> bool:
    """Whether a part of it is a word of the service, or is one but for a letter or two.

    Letters of other scripts count as wrong letters, and so do two that changed places.
    """
    if len(authority) > _HOST_SIZE_MAX:
        return False
    parts = _LABELS.findall(authority)
    return any(_is_nearly(part, word) for part in parts for word in KNOWN_WORDS)


def _is_nearly(part: str, word: str) -> bool:
    if word in part:
        return True
    if sum(letter in part for letter in word) < len(word) - 2:
        return False  # too few of its letters for the slips allowed: spares the walk below
    if len(word) > 6:
        return abs(len(part) - len(word)) <= 2 and _distance(part, word) <= 2
    return len(part) == len(word) and _distance(part, word) == 1  # ncov is no slip of ncovi


def _distance(one: str, other: str) -> int:
    """Letters to add, drop, change or swap with their neighbour (optimal string alignment)."""
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        row = [i]
        for j, wanted in enumerate(other, 1):
            steps = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                steps = min(steps, before[j - 2] + 1)
            row.append(steps)
        before, last = last, row
    return last[-1]


def _national(host: str, tail: str) -> Outcome:
    opaque_id = tail[1:]
    if not tail.startswith("/") or opaque_id.lower() in SERVICE_PAGES:
        return _SERVICE
    if _OPAQUE_ID.fullmatch(opaque_id) is None:
        return _SERVICE
    return VenueLink(host, opaque_id)


PREFIXES: Final[dict[bytes, PrefixParser]] = {b"HTTP://": parse, b"HTTPS://": parse}
