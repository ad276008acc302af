"""The HTTP API described: its routes as data, and OpenAPI 3.1 made from the structs.

engine.api.server serves exactly these routes, so that the description cannot fall behind.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

import engine
from engine.api.alert_answers import (
    AlertsAnswer,
    AlertsBody,
    CaseBody,
    WatchAddBody,
    WatchAnswer,
    WatchListAnswer,
    WatchRemoveBody,
)
from engine.api.answers import (
    ContactsAnswer,
    ContactsBody,
    ErrorAnswer,
    FiguresAnswer,
    HealthAnswer,
    IngestAnswer,
    IngestBody,
    PersonBody,
    PlacesAnswer,
    VenueBody,
    VisitsAnswer,
    WhoamiAnswer,
)
from engine.api.count_answers import GROUPS, LIMIT_MAX, CountsAnswer
from engine.api.keeping_answers import (
    CorrectionAnswer,
    CorrectionBody,
    CorrectionListAnswer,
    ErasedAnswer,
    HoldAddBody,
    HoldAnswer,
    HoldListAnswer,
    NumberBody,
    PersonDataAnswer,
    RequestBody,
)
from engine.api.merge_answers import (
    MergeAddBody,
    MergeAnswer,
    MergeListAnswer,
    MergeUndoBody,
    ReviewCloseBody,
    ReviewListAnswer,
    ReviewListBody,
)
from engine.api.notice_answers import NoticeAnswer, NoticeBody
from engine.api.passage_answers import PassedAnswer, PassedBody, VehicleAnswer, VehicleBody
from engine.api.roll_answers import RollBody, RollTraceAnswer
from engine.api.tier_answers import TiersBody, TiersTraceAnswer
from engine.api.venue_answers import AreasAnswer, CoverageAnswer, VenueAddAnswer, VenueAddBody
from engine.errors import leaves

# Name of a gateway, its epoch, the number of the message: decimal, u64.
KEY_PATTERN: Final = r"^([A-Za-z0-9._-]{1,64}):([0-9]{1,20}):([1-9][0-9]{0,19})$"
_REF: Final = "#/components/schemas/{name}"


class Parameter(msgspec.Struct, frozen=True):
    """A parameter of the query string or a header. schema: JSON Schema of its text."""

    name: str
    about: str
    schema: dict[str, Any]
    is_required: bool = False


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One address. name: of the handler and in metrics. answer: a struct, or a media type.

    has_csv: rows as text/csv too, for who accepts that.
    """

    name: str
    method: str
    path: str
    about: str
    answer: type | str
    body: type | None = None
    parameters: tuple[Parameter, ...] = ()
    headers: tuple[Parameter, ...] = ()
    is_open: bool = False
    has_csv: bool = False


_LIMIT: Final = Parameter(
    "limit", "so many at most", {"type": "integer", "minimum": 1, "maximum": 1000}
)

ROUTES: Final = (
    Route(
        name="trace_venue",
        method="POST",
        path="/v1/trace/venue",
        about="Who was at this place between these times?",
        body=VenueBody,
        answer=VisitsAnswer,
        has_csv=True,
    ),
    Route(
        name="trace_person",
        method="POST",
        path="/v1/trace/person",
        about="Where was this person between these times?",
        body=PersonBody,
        answer=VisitsAnswer,
        has_csv=True,
    ),
    Route(
        name="trace_contacts",
        method="POST",
        path="/v1/trace/contacts",
        about="Who met this person, for how many minutes, and where?",
        body=ContactsBody,
        answer=ContactsAnswer,
    ),
    Route(
        name="trace_notice",
        method="POST",
        path="/v1/trace/notice",
        about="Who was at these places at these times, at how many of them?",
        body=NoticeBody,
        answer=NoticeAnswer,
    ),
    Route(
        name="trace_tiers",
        method="POST",
        path="/v1/trace/tiers",
        about="Whom can this person have infected, directly or through others?",
        body=TiersBody,
        answer=TiersTraceAnswer,
    ),
    Route(
        name="trace_passed",
        method="POST",
        path="/v1/trace/passed",
        about="Who passed this post between these times, and who of them came from an area?",
        body=PassedBody,
        answer=PassedAnswer,
        has_csv=True,
    ),
    Route(
        name="trace_vehicle",
        method="POST",
        path="/v1/trace/vehicle",
        about="Who was in the vehicle with this plate, or on this trip?",
        body=VehicleBody,
        answer=VehicleAnswer,
    ),
    Route(
        name="trace_roll",
        method="POST",
        path="/v1/trace/roll",
        about="Who of a list of up to 10,000 persons was scanned between these times?",
        body=RollBody,
        answer=RollTraceAnswer,
    ),
    Route(
        name="alerts",
        method="POST",
        path="/v1/alerts",
        about="Whom were lanes alarmed about between these times?",
        body=AlertsBody,
        answer=AlertsAnswer,
    ),
    Route(
        name="watch_add",
        method="POST",
        path="/v1/watch/add",
        about="Puts a person on the watch list or into quarantine until a date",
        body=WatchAddBody,
        answer=WatchAnswer,
    ),
    Route(
        name="watch_remove",
        method="POST",
        path="/v1/watch/remove",
        about="Takes an entry off the watch list",
        body=WatchRemoveBody,
        answer=WatchAnswer,
    ),
    Route(
        name="watch_list",
        method="POST",
        path="/v1/watch/list",
        about="The watch list, as far as the asker may see it",
        body=CaseBody,
        answer=WatchListAnswer,
    ),
    Route(
        name="merge_add",
        method="POST",
        path="/v1/merge/add",
        about="Says that several documents are one person's",
        body=MergeAddBody,
        answer=MergeAnswer,
    ),
    Route(
        name="merge_undo",
        method="POST",
        path="/v1/merge/undo",
        about="Takes a merge back",
        body=MergeUndoBody,
        answer=MergeAnswer,
    ),
    Route(
        name="merge_list",
        method="POST",
        path="/v1/merge/list",
        about="The merges that hold, as far as the asker may see them",
        body=CaseBody,
        answer=MergeListAnswer,
    ),
    Route(
        name="review_list",
        method="POST",
        path="/v1/review/list",
        about="Whose flagged rows has nobody looked at yet?",
        body=ReviewListBody,
        answer=ReviewListAnswer,
    ),
    Route(
        name="review_close",
        method="POST",
        path="/v1/review/close",
        about="Takes a person off the list of reviews, with rows to come",
        body=ReviewCloseBody,
        answer=MergeAnswer,
    ),
    Route(
        name="review_reopen",
        method="POST",
        path="/v1/review/reopen",
        about="Puts a person back on the list of reviews",
        body=ReviewCloseBody,
        answer=MergeAnswer,
    ),
    Route(
        name="hold_add",
        method="POST",
        path="/v1/holds/add",
        about="Keeps days beyond their time, for a case, until a date",
        body=HoldAddBody,
        answer=HoldAnswer,
    ),
    Route(
        name="hold_end",
        method="POST",
        path="/v1/holds/end",
        about="Ends a hold; what it kept is forgotten when it is due",
        body=NumberBody,
        answer=HoldAnswer,
    ),
    Route(
        name="hold_list",
        method="POST",
        path="/v1/holds/list",
        about="Holds in force and the days they keep",
        body=CaseBody,
        answer=HoldListAnswer,
    ),
    Route(
        name="correction_add",
        method="POST",
        path="/v1/corrections/add",
        about="Gives a stay another end or another begin",
        body=CorrectionBody,
        answer=CorrectionAnswer,
    ),
    Route(
        name="correction_undo",
        method="POST",
        path="/v1/corrections/undo",
        about="Takes a correction back",
        body=NumberBody,
        answer=CorrectionAnswer,
    ),
    Route(
        name="correction_list",
        method="POST",
        path="/v1/corrections/list",
        about="Corrections that were made and not taken back",
        body=CaseBody,
        answer=CorrectionListAnswer,
    ),
    Route(
        name="person_export",
        method="POST",
        path="/v1/person/export",
        about="What is held about a person, at their own request",
        body=RequestBody,
        answer=PersonDataAnswer,
    ),
    Route(
        name="person_erase",
        method="POST",
        path="/v1/person/erase",
        about="Erases a person up to now, at their own request",
        body=RequestBody,
        answer=ErasedAnswer,
    ),
    Route(
        name="ingest",
        method="POST",
        path="/v1/ingest",
        about="Records of a gateway; the answer is the receipt. The token is the gateway's",
        body=IngestBody,
        answer=IngestAnswer,
        headers=(
            Parameter(
                "Idempotency-Key",
                "gateway:epoch:seq; a number means one message for ever",
                {"type": "string", "pattern": KEY_PATTERN},
                is_required=True,
            ),
        ),
    ),
    Route(
        name="figures",
        method="GET",
        path="/v1/figures",
        about="Counts of a civil day of Viet Nam",
        answer=FiguresAnswer,
        parameters=(
            Parameter("day", "2021-07-01", {"type": "string", "format": "date"}, is_required=True),
        ),
    ),
    Route(
        name="counts",
        method="GET",
        path="/v1/counts",
        about="Visits and passages that began, by hour or day and place, lane, area or kind",
        answer=CountsAnswer,
        parameters=(
            Parameter("from", "2021-07-01T06:00", {"type": "string"}, is_required=True),
            Parameter("to", "2021-07-02", {"type": "string"}, is_required=True),
            Parameter("by", "cells of time (hour)", {"type": "string", "enum": ["hour", "day"]}),
            Parameter("group", "what is told apart (place)", {"type": "string", "enum": [*GROUPS]}),
            Parameter(
                "limit",
                "rows at most (10000)",
                {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX},
            ),
        ),
    ),
    Route(
        name="venues",
        method="GET",
        path="/v1/venues",
        about="Places of the registry: venues and posts, no persons",
        answer=PlacesAnswer,
        parameters=(
            Parameter(
                "search",
                "number, post code or part of a name, with or without accents",
                {"type": "string", "maxLength": 64},
            ),
            _LIMIT,
        ),
    ),
    Route(
        name="venue_add",
        method="POST",
        path="/v1/venues/add",
        about="Registers a venue; the answer has its number and the text of its code",
        body=VenueAddBody,
        answer=VenueAddAnswer,
    ),
    Route(
        name="areas",
        method="GET",
        path="/v1/areas",
        about="Areas by code or name, of today or of old, and what holds now in their place",
        answer=AreasAnswer,
        parameters=(
            Parameter(
                "search",
                "a code or a name, with or without accents; without one, all",
                {"type": "string", "maxLength": 64},
            ),
            _LIMIT,
        ),
    ),
    Route(
        name="coverage",
        method="GET",
        path="/v1/coverage",
        about="How many places have a code at the end of a day, and how many are scanned",
        answer=CoverageAnswer,
        parameters=(
            Parameter("day", "2021-06-15", {"type": "string", "format": "date"}, is_required=True),
            Parameter("area", "code of an area", {"type": "string", "maxLength": 32}),
        ),
    ),
    Route(
        name="whoami",
        method="GET",
        path="/v1/whoami",
        about="Whom the token belongs to, and what it may ask",
        answer=WhoamiAnswer,
    ),
    Route(
        name="healthz",
        method="GET",
        path="/healthz",
        about="Whether engine and API work",
        answer=HealthAnswer,
        is_open=True,
    ),
    Route(
        name="metrics",
        method="GET",
        path="/metrics",
        about="Metrics of engine and API for Prometheus; no personal data",
        answer="text/plain",
        is_open=True,
    ),
    Route(
        name="openapi",
        method="GET",
        path="/openapi.json",
        about="This description",
        answer="application/json",
        is_open=True,
    ),
)


def document() -> dict[str, Any]:
    """OpenAPI 3.1 of the API."""
    structs: list[type] = [ErrorAnswer]
    for route in ROUTES:
        structs += [s for s in (route.body, route.answer) if isinstance(s, type)]
    _, schemas = msgspec.json.schema_components(structs, ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    codes = ", ".join(f"`{code}` ({cls.status})" for code, cls in sorted(leaves().items()))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "chot",
            "version": engine.__version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": f"Every failure is an ErrorAnswer. Codes with their status: {codes}.",
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    if isinstance(route.answer, str):
        content: dict[str, Any] = {route.answer: {}}
    else:
        content = {"application/json": {"schema": _ref(route.answer)}}
        if route.has_csv:
            content["text/csv"] = {"schema": {"type": "string"}}
    failure = {"application/json": {"schema": _ref(ErrorAnswer)}}
    found: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.about,
        "security": [] if route.is_open else [{"token": []}],
        "responses": {
            "200": {"description": "The answer", "content": content},
            "default": {"description": "A failure", "content": failure},
        },
    }
    if route.body is not None:
        body = {"application/json": {"schema": _ref(route.body)}}
        found["requestBody"] = {"required": True, "content": body}
    places = [("query", p) for p in route.parameters] + [("header", p) for p in route.headers]
    if places:
        found["parameters"] = [
            {
                "name": parameter.name,
                "in": place,
                "required": parameter.is_required,
                "description": parameter.about,
                "schema": parameter.schema,
            }
            for place, parameter in places
        ]
    return found


def _ref(struct: type) -> dict[str, str]:
    return {"$ref": _REF.format(name=struct.__name__)}
