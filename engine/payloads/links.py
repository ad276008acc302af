"""Links: our own posted codes, the national service's posters and pages, and all other addresses.

A host counts only when the whole authority equals it: no user, no port, no other ending, no
look-alike letter (an address is ASCII or unknown). An address is never opened.
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
FOREIGN_VENUE_HOSTS: Final = frozenset({"e.coronawarn.app", "app.luca-app.de", "qr.notify-me.ch"})

_OPAQUE_ID: Final = re.compile(r"[0-9A-Za-z_-]{6,64}")
_AUTHORITY: Final = re.compile(r"[^/?#]*")

_UNKNOWN: Final = Refusal("unknown_url", "a link to somewhere else")
_SERVICE: Final = Refusal("service_link", "a page of the national service, not a venue's poster")
_FOREIGN: Final = Refusal("foreign_venue", "a venue poster of another country")


def parse(reading: Reading, /) -> Outcome:
    """What begins with http:// or https://."""
    if not reading.data.isascii():
        return _UNKNOWN
    scheme, _, rest = reading.data.decode("ascii").partition("://")
    matched = _AUTHORITY.match(rest)
    assert matched is not None, "the pattern matches the empty text too"
    host, tail = matched.group().lower(), rest[matched.end() :]
    if host == reading.venue_host and scheme.lower() == "https":
        return parse_path(tail, host)
    if host in VENUE_HOSTS:
        return _national(host, tail)
    if host in SERVICE_HOSTS:
        return _SERVICE
    if host in FOREIGN_VENUE_HOSTS or "/CWA1/" in tail:
        return _FOREIGN
    return _UNKNOWN


def _national(host: str, tail: str) -> Outcome:
    opaque_id = tail[1:]
    if not tail.startswith("/") or opaque_id.lower() in SERVICE_PAGES:
        return _SERVICE
    if _OPAQUE_ID.fullmatch(opaque_id) is None:
        return _SERVICE
    return VenueLink(host, opaque_id)


PREFIXES: Final[dict[bytes, PrefixParser]] = {b"HTTP://": parse, b"HTTPS://": parse}
