"""The client of the HTTP API: what `chot trace` and the demo call, and answers as table or CSV.

One request a call over the standard library, no redirects, no proxies. The token goes in a header
and persons go in the body, so that neither ever stands in an address. Plain HTTP is for this
machine only.
"""

from __future__ import annotations

import contextlib
import csv
import http.client
import io
import json
import re
import ssl
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Final
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from engine.api.answers import ErrorAnswer
from engine.api.csv_rows import COLUMNS, VISIT_COLUMNS
from engine.desk.questions import Failure, failure_to_error
from engine.errors import EngineUnreachable, QuestionInvalid, SettingInvalid
from engine.registry.csv_tables import neutralise

TIMEOUT_S: Final = 60.0
ANSWER_SIZE_MAX: Final = 256 << 20
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
# Controls, formats, lone surrogates, code points without a letter; ends of lines and paragraphs.
_UNSHOWN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# What JSON may hold as it is and a terminal obeys: C1 controls, marks of direction.
_STEERING: Final = re.compile(r"[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
_decode_error = msgspec.json.Decoder(ErrorAnswer).decode

# Columns of tables and CSV by question; stable, new ones come last. A row of contacts is one
# meeting, so that each line is evidence by itself.
_COLUMNS: Final = {
    **COLUMNS,
    "notice": (
        *("person", "name", "phone", "doc", "marks", "mark", *VISIT_COLUMNS),
        *("direction", "scans", "is_new"),
    ),
    "tiers": (
        *("person", "name", "phone", "doc", "tier", "infected", "earliest", "via", "via_name"),
        *("minutes", "place", "place_name"),
    ),
    "vehicle": (
        *("person", "name", "phone", "doc", "seat", "rows_apart", "plate", "trip"),
        *(*VISIT_COLUMNS, "direction", "scans"),
    ),
    "roll": (*("row", "state", "why", "person", "visits", "first", "last", "place", "place_name"),),
    "counts": ("start", "group", "name", "lane", "direction", "visits", "passages"),
    "contacts": (
        *("person", "name", "phone", "doc", "tier", "total_minutes", "place", "place_name"),
        *("minutes", "linger_minutes", "case_start", "case_end", "case_end_rule"),
        *("other_start", "other_end", "other_end_rule", "case_room", "other_room", "flags"),
    ),
}
_TABLE_COLUMNS: Final = {
    "venue": ("name", "phone", "start", "end", "minutes", "end_rule", "person"),
    "person": ("start", "end", "minutes", "place_name", "room", "direction", "end_rule"),
    "notice": ("name", "phone", "marks", "mark", "place_name", "start", "end", "is_new", "person"),
    "tiers": ("tier", "name", "phone", "infected", "via_name", "minutes", "place_name", "person"),
    "passed": ("name", "phone", "start", "direction", "room", "person"),
    "vehicle": ("name", "phone", "seat", "rows_apart", "trip", "place_name", "start", "person"),
    "roll": ("row", "state", "why", "visits", "first", "last", "place_name", "person"),
    "counts": ("start", "name", "lane", "direction", "visits", "passages"),
    "contacts": (
        "name",
        "phone",
        "tier",
        "minutes",
        "best_minutes",
        "venues",
        "last",
        "where",
        "person",
    ),
}
# Which column of a trace a cell of the watch list looks like.
_WATCH_CELLS: Final = {"from": "start", "to": "end"}
_FORMATS: Final = ("table", "json", "csv", "graph")
# Where the rows of an answer stand.
_ROWS: Final = {"contacts": "contacts", "tiers": "people", "roll": "rows", "counts": "rows"}
# Questions whose rows come as a stream of CSV.
STREAMED: Final = ("venue", "person", "passed")
_CHUNK_SIZE: Final = 1 << 16


# ---- requests -----------------------------------------------------------------------------------


def trace(url: str, token: str, question: str, body: dict[str, Any]) -> dict[str, Any]:
    """Answer to a question of `chot trace`; bodies and answers are those of docs/api.md.

    Raises the EngineError that the API answered with, EngineUnreachable, SettingInvalid.
    """
    if question not in _COLUMNS:
        raise QuestionInvalid(f"there is no question {question!r}", hint=", ".join(_COLUMNS))
    data = json.dumps(body).encode()
    return _to_object(_request(url, "POST", f"/v1/trace/{question}", token, data))


def ask(url: str, token: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Answer of an address that takes a body, such as /v1/alerts. Raises as `trace`."""
    return _to_object(_request(url, "POST", path, token, json.dumps(body).encode()))


def stream(
    url: str, token: str, question: str, body: dict[str, Any], out: BinaryIO
) -> dict[str, str]:
    """Writes the answer as CSV to `out`, as it comes; the headers that say what it is.

    question: of STREAMED. Raises as `trace`; EngineUnreachable too when the answer broke off.
    """
    data = json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Accept": "text/csv"}
    with _send(url, "POST", f"/v1/trace/{question}", token, data, headers) as response:
        while chunk := _read(url, response, _CHUNK_SIZE):
            out.write(chunk)
        return dict(response.getheaders())


def counts(url: str, token: str, query: dict[str, Any]) -> dict[str, Any]:
    """Counts by time and group. Raises as `trace`."""
    return _to_object(_request(url, "GET", f"/v1/counts?{urlencode(query)}", token))


def figures(url: str, token: str, day: str) -> dict[str, Any]:
    """Counts of a day such as 2021-07-01. Raises as `trace`."""
    return _to_object(_request(url, "GET", f"/v1/figures?day={quote(day)}", token))


def venues(url: str, token: str, search: str) -> dict[str, Any]:
    """Places of the registry. Raises as `trace`."""
    return _to_object(_request(url, "GET", f"/v1/venues?search={quote(search)}", token))


def whoami(url: str, token: str) -> dict[str, Any]:
    """Whom the token belongs to. Raises as `trace`."""
    return _to_object(_request(url, "GET", "/v1/whoami", token))


def get_text(url: str) -> str:
    """An open address such as http://127.0.0.1:7480/metrics. Raises as `trace`."""
    parts = urlsplit(url)
    base = f"{parts.scheme}://{parts.netloc}"
    return _request(base, "GET", parts.path or "/").decode("utf-8", "replace")


def _request(url: str, method: str, path: str, token: str = "", body: bytes = b"") -> bytes:
    headers = {"Accept": "application/json"}
    if body:
        headers["Content-Type"] = "application/json"
    with _send(url, method, path, token, body, headers) as response:
        data = _read(url, response, ANSWER_SIZE_MAX + 1)
    if len(data) > ANSWER_SIZE_MAX:
        raise EngineUnreachable("the answer is larger than any the API gives")
    return data


@contextlib.contextmanager
def _send(
    url: str, method: str, path: str, token: str, body: bytes, headers: dict[str, str]
) -> Iterator[http.client.HTTPResponse]:
    """The answer, which is none of a failure: that is raised."""
    connection, prefix = _connect(url)
    if token:
        if not token.isascii() or not token.isprintable():
            raise SettingInvalid("the token has letters that no token has")
        headers["Authorization"] = f"Bearer {token}"
    try:
        with _as_unreachable(url):
            connection.request(method, prefix + path, body=body or None, headers=headers)
            response = connection.getresponse()
        if response.status != 200:
            _raise(response.status, _read(url, response, ANSWER_SIZE_MAX))
        yield response
    finally:
        connection.close()


def _read(url: str, response: http.client.HTTPResponse, size: int) -> bytes:
    with _as_unreachable(url):
        return response.read(size)


@contextlib.contextmanager
def _as_unreachable(url: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise EngineUnreachable(f"{_shown(url)} did not answer in time") from None
    except http.client.IncompleteRead:
        raise EngineUnreachable(
            "the answer broke off", hint="what came of it is not all; ask again"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise EngineUnreachable(
            f"no API answers at {_shown(url)}: {why}", hint="start it with: chot serve"
        ) from None


def _connect(url: str) -> tuple[http.client.HTTPConnection, str]:
    """(connection, path before ours). Raises SettingInvalid."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise SettingInvalid("the address of the API is no URL") from None
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.username:
        raise SettingInvalid("the address of the API is like http://127.0.0.1:7480")
    prefix = parts.path.rstrip("/")
    if parts.scheme == "https":
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context), prefix
    if host not in _LOOPBACK:
        raise SettingInvalid(
            "plain HTTP is for this machine only: a token would travel open", hint="use https://"
        )
    return http.client.HTTPConnection(host, port, timeout=TIMEOUT_S), prefix


def _shown(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{parts.port or ''}".rstrip(":")


def _raise(status: int, data: bytes) -> None:
    try:
        error = _decode_error(data).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise EngineUnreachable(f"something else than the API answered ({status})") from None
    raise failure_to_error(Failure(error.code, error.message, status, error.hint))


def _to_object(data: bytes) -> dict[str, Any]:
    try:
        found: dict[str, Any] = msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise EngineUnreachable("something else than the API answered") from None
    return found


# ---- rendering ----------------------------------------------------------------------------------


def render(question: str, answer: dict[str, Any], form: str) -> str:
    """The answer as text with a newline at its end. form: "table", "json", "csv"; of tiers "graph".

    CSV has a byte order mark, so that spreadsheets see Vietnamese, and no cell is a formula.
    """
    assert form in _FORMATS, form
    if form == "json":
        return to_json(answer)
    if form == "graph":
        return to_json(_to_graph(answer))
    if form == "csv":
        return to_csv(_COLUMNS[question], _evidence(question, answer))
    return _to_table(question, answer)


def to_json(answer: dict[str, Any]) -> str:
    """With what a terminal would obey written as escapes."""
    text = json.dumps(answer, ensure_ascii=False, indent=2) + "\n"
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _evidence(question: str, answer: dict[str, Any]) -> list[dict[str, Any]]:
    """One object a line of CSV, with what is known of its person."""
    persons = {person["person"]: person for person in answer.get("persons", [])}
    if question != "contacts":
        return [{**persons.get(row.get("person"), {}), **row} for row in _rows(question, answer)]
    return [
        {
            **persons[contact["person"]],
            "tier": contact["tier"],
            "total_minutes": contact["minutes"],
            **meeting,
        }
        for contact in answer["contacts"]
        for meeting in contact["meetings"]
    ]


def _rows(question: str, answer: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = answer[_ROWS.get(question, "visits")]
    return found


def _to_graph(answer: dict[str, Any]) -> dict[str, Any]:
    """Nodes and links as programs for graphs read them (networkx: node_link_graph)."""
    known = ("profile", "counts", "reached", "links_cut", "limit_cut", "area", "complete", "audit")
    persons = {person["person"]: person for person in answer["persons"]}
    return {
        "directed": True,
        "multigraph": False,
        "graph": {name: answer[name] for name in known},
        "nodes": [
            {"id": row["person"], **persons[row["person"]], **row} for row in answer["people"]
        ],
        "links": answer["links"],
    }


def to_csv(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    """With a byte order mark, and no cell a formula."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows(
        [neutralise(_visible(_text(row.get(column)))) for column in columns] for row in rows
    )
    return "\ufeff" + out.getvalue()


def _to_table(question: str, answer: dict[str, Any]) -> str:
    columns = _TABLE_COLUMNS[question]
    lines: list[tuple[str, ...]] = [tuple(column.replace("_", " ") for column in columns)]
    persons = {person["person"]: person for person in answer.get("persons", [])}
    for row in _rows(question, answer):
        merged = {**persons.get(row.get("person"), {}), **row}
        if question == "contacts":
            where = dict.fromkeys(meeting["place_name"] for meeting in row["meetings"])
            merged["where"] = ", ".join(where)
        lines.append(tuple(to_cell(column, merged.get(column)) for column in columns))
    return to_lines(lines) + "\n" + _footer(question, answer)


def to_lines(lines: Sequence[tuple[str, ...]]) -> str:
    """Cells in columns, the first line is the head."""
    widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
    return "".join(
        "  ".join(_pad(cell, width) for cell, width in zip(line, widths, strict=True)).rstrip()
        + "\n"
        for line in lines
    )


def render_watch(answer: dict[str, Any], form: str) -> str:
    """Entries of the watch list, or one that was added or removed. form: "table" or "json"."""
    if form == "json":
        return to_json(answer)
    lines: list[tuple[str, ...]] = [
        ("number", "list", "from", "to", "case", "unit", "reason", "person")
    ]
    for entry in answer.get("entries", [answer]):
        cells = ("number", "list", "from", "to", "case", "unit", "reason")
        shown = tuple(to_cell(_WATCH_CELLS.get(name, name), entry[name]) for name in cells)
        lines.append((*shown, " ".join(entry["persons"])))
    return to_lines(lines)


def render_merges(answer: dict[str, Any], form: str) -> str:
    """Merges, or one that was added or undone, or a closed review. form: "table" or "json"."""
    if form == "json":
        return to_json(answer)
    cells = ("number", "at", "case", "unit", "documents", "why", "persons")
    lines: list[tuple[str, ...]] = [cells]
    for entry in answer.get("merges", [answer]):
        row = {**entry, "at": to_cell("start", entry["at"])}
        row |= {name: " ".join(entry[name]) for name in ("documents", "persons")}
        lines.append(tuple(to_cell("", row[name]) for name in cells))
    return to_lines(lines)


def render_reviews(answer: dict[str, Any], form: str) -> str:
    """form: "table" or "json"."""
    if form == "json":
        return to_json(answer)
    persons = {person["person"]: person for person in answer["persons"]}
    lines: list[tuple[str, ...]] = []
    lines += [
        ("last", "place", "kind", "rows", "name", "birth", "doc", "unclear", "person", "alike")
    ]
    for row in answer["reviews"]:
        person = persons[row["person"]]
        cells = [row["place_name"], row["kind"], row["rows"], row["name"], person["birth"]]
        cells += [person["doc"], row["warnings"], row["person"], row["alike"]]
        lines.append((to_cell("start", row["last"]), *(to_cell("", cell) for cell in cells)))
    cut = f" of {answer['total']}, cut by the limit" if answer["limit_cut"] else ""
    area = f"; area {answer['area']} only" if answer["area"] else ""
    count = len(answer["reviews"])
    return f"{to_lines(lines)}\n{count} persons{cut}; audit record {answer['audit']}{area}\n"


def render_alerts(answer: dict[str, Any], form: str) -> str:
    """form: "table" or "json"."""
    if form == "json":
        return to_json(answer)
    cases = {entry["number"]: f"{entry['list']} {entry['case']}" for entry in answer["entries"]}
    lines: list[tuple[str, ...]] = []
    lines += [("time", "place", "lane", "flags", "temperature", "list and case", "name", "person")]
    for row in answer["alerts"]:
        listed = ", ".join(cases[number] for number in row["entries"])
        cells = (row["place_name"], row["lane"], row["flags"], row["temperature"], listed)
        lines.append(
            (
                to_cell("start", row["time"]),
                *(to_cell("", cell) for cell in cells),
                *(to_cell("", row[name]) for name in ("name", "person")),
            )
        )
    cut = f" of {answer['total']}, cut by the limit" if answer["limit_cut"] else ""
    area = f"; area {answer['area']} only" if answer["area"] else ""
    count = len(answer["alerts"])
    return f"{to_lines(lines)}\n{count} rows{cut}; audit record {answer['audit']}{area}\n"


def _footer(question: str, answer: dict[str, Any]) -> str:
    """What a reader must know of the answer before trusting it."""
    if question == "counts":
        return _counts_footer(answer)
    # The case heads the list of tiers and is none of those found.
    shown = sum(row.get("tier") != 0 for row in _rows(question, answer))
    cut = f" of {answer['total']}, cut by the limit" if answer["limit_cut"] else ""
    complete = answer["complete"]
    words = [
        f"{shown} rows{cut}",
        f"complete up to {complete['up_to']}",
        *(f"{name} behind by {lag:g} s" for name, lag in complete["behind"].items()),
        f"{answer['elapsed_us'] / 1000:.1f} ms",
        f"audit record {answer['audit']}",
    ]
    if question == "notice":
        words.insert(1, f"group {complete['group']}")
        outside = [str(mark["mark"]) for mark in answer["marks"] if mark["is_outside"]]
        words += [f"places {', '.join(outside)} lie outside"] if outside else []
    words[1:1] = _further_words(question, answer)
    if question == "contacts":
        words.insert(1, f"profile {answer['profile']['name']}")
        words.insert(2, f"{answer['below']} below its threshold")
    if answer["area"]:
        words.append(f"area {answer['area']} only")
    if answer.get("next"):
        words.append(f"the rest: --after {answer['next']}")
    return "; ".join(words) + "\n"


def _further_words(question: str, answer: dict[str, Any]) -> list[str]:
    if question == "tiers":
        words = [f"F{tier} {count}" for tier, count in enumerate(answer["counts"]) if tier]
        words += [f"profile {answer['profile']['name']}", f"{len(answer['links'])} links"]
        return words + (["not all links"] if answer["links_cut"] else [])
    if question == "roll":
        return [f"{count} {state}" for state, count in answer["counts"].items()]
    if question == "passed" and answer["unknown_address"]:
        return [f"{answer['unknown_address']} more told no address"]
    return []


def _counts_footer(answer: dict[str, Any]) -> str:
    words = [f"{len(answer['rows'])} rows", f"complete up to group {answer['log_group']}"]
    if answer["limit_cut"]:
        words.insert(1, f"cut by the limit: the rest --from {answer['next']}")
    if answer["rounded"] > 1:
        words.append(f"rounded to {answer['rounded']}")
    if answer["area"]:
        words.append(f"area {answer['area']} only")
    return "; ".join(words) + "\n"


def stream_footer(headers: dict[str, str]) -> str:
    """What a reader must know of a stream of CSV before trusting it."""
    is_cut = headers.get("Chot-Limit-Cut") == "true"
    rows = f"{headers['Chot-Rows']} rows{', not all shown: cut by the limit' if is_cut else ''}"
    words = [rows, f"complete up to {headers['Chot-Complete-Up-To']}"]
    for behind in filter(None, headers["Chot-Behind"].split("; ")):
        name, _, lag = behind.partition("=")
        words.append(f"{name} behind by {lag} s")
    words.append(f"audit record {headers['Chot-Audit']}")
    if headers["Chot-Area"]:
        words.append(f"area {headers['Chot-Area']} only")
    return "; ".join(words) + "\n"


def to_cell(column: str, value: Any) -> str:
    """Of a table; column: "start", "end" or "last" for a time."""
    text = _text(value)
    if column in ("start", "end", "first", "last", "infected", "earliest"):
        return text[:19].replace("T", " ")
    return _visible(text)


def _visible(text: str) -> str:
    """A name may hold anything; nothing in it may move the cursor of a terminal."""
    return "".join("·" if unicodedata.category(c) in _UNSHOWN else c for c in text)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(map(str, value))
    return str(value)


def _width(text: str) -> int:
    """Columns on a terminal; combining marks take none, wide letters two."""
    return sum(
        0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )


def _pad(text: str, width: int) -> str:
    return text + " " * (width - _width(text))
