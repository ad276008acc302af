"""The house rules that a machine can hold: ranks of imports, sizes, words, one owner a library."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# ARCHITECTURE.md, "Rooms": a module imports only from a lower rank, or from an earlier module of
# its own rank.
RANKS = [
    ["errors", "clock", "settings", "telemetry", "faults", "machine"],
    [
        *[
            "control",
            "hours",
            "address",
            "rows",
            "records",
            "record_lines",
            "wire",
            "session",
            "payloads",
            "people",
        ],
        *["visits", "contacts", "profiles", "story", "offsets"],
    ],
    [
        *["images", "decode", "decode_pool", "held", "dedup", "rotations", "key_files"],
        *["keys", "aliases", "watch", "merges", "readings", "judge", "trust", "card_reader"],
        *["group", "journal", "tallies", "alerts", "reviews", "figures", "corrections"],
        *["found", "access", "layers", "forgetting", "index", "segmented", "holds", "erasure"],
        *["forget_list"],
    ],
    [
        *["zero_fill", "store_lock", "store_lmdb", "commit_thread"],
        *["generation", "generations", "journal_jobs", "journal_lmdb", "control_lmdb"],
        *["segments_lmdb"],
        *["registry_records", "area_map", "default_stays", "registry"],
        *["registry_tables", "registry_csv", "registry_xlsx", "registry_files"],
    ],
    [
        *["notice", "cwa", "pages", "tracing", "tiers", "passed", "riders", "roll", "counts"],
        *["venue_codes", "coverage", "candidates", "pipeline", "retention"],
        *["eraser", "keeping", "verify_report", "verify", "stopped", "backup", "retention_plan"],
    ],
    [
        *["tls", "websocket", "venue_questions", "ask_bases", "trace_questions", "ask_parts"],
        *["keeping_questions", "questions", "question_socket", "audits"],
        *["watch_desk", "merge_desk", "venue_desk", "asks", "count_desk", "clerk"],
        *["hold_desk", "correction_desk", "desk", "person_desk", "streams", "doors"],
        *["gateways", "ingest_link", "ingest", "deliveries"],
        *["answers", "alert_answers", "merge_answers", "notice_answers", "venue_answers"],
        *["tier_answers", "passage_answers", "roll_answers", "count_answers"],
        *["keeping_answers", "csv_rows", "csv_stream"],
        *["openapi", "http_shape"],
        *["opened_details", "keeping_api", "api", "client", "keeping_client", "admin"],
        *["venue_admin"],
        *["poster", "poster_files"],
        *["gateway.imprint", "gateway.spool_epoch", "gateway.spool_lmdb", "gateway.sources"],
        *["gateway.status", "gateway.lights", "gateway.gear", "gateway.config"],
        *["gateway.frame_buffer", "gateway.carriers", "gateway.link", "gateway.ties"],
        *["gateway.status_socket", "gateway.lane_decoder", "gateway.capture", "gateway.uplink"],
        *["gateway.program"],
    ],
    [
        "derivation",
        "app",
        "demo",
        "doctor_machine",
        "doctor",
        "cli_parser",
        "cli_roll",
        "cli_parse",
        "cli_gateway",
        "cli_registry",
        "cli_trace",
        "cli_poster",
        "cli_venue",
        "cli_watch",
        "cli_merge",
        "cli_keys",
        "cli_keep",
        "cli_person",
        "cli",
        "__main__",
    ],
]
PLACE = {name: (rank, i) for rank, names in enumerate(RANKS) for i, name in enumerate(names)}

# Libraries with one owner each.
OWNERS = {
    "lmdb": {"store_lmdb", "segments_lmdb", "gateway.spool_epoch", "gateway.spool_lmdb"},
    "zxingcpp": {"decode"},
    "simplejpeg": {"images"},
    "PIL": {"images", "poster", "poster_files"},
    "segno": {"poster"},
    "reportlab": {"poster_files"},
    "openpyxl": {"registry_xlsx"},
    "uvloop": {"app"},
    "aiohttp": {
        *{"api", "keeping_api", "csv_stream", "http_shape", "doors"},
        *{"gateway.gear", "gateway.carriers"},
    },
    "rich": {"demo"},
    "cryptography": {"keys", "tls", "trust"},
    "cbor2": {"payloads"},
    "prometheus_client": {"telemetry"},
}


def modules() -> list[tuple[str, Path]]:
    """(name in RANKS, path): a module each, but of payloads and gear the package."""
    found = []
    for path in sorted((ROOT / "engine").rglob("*.py")):
        parts = path.relative_to(ROOT / "engine").with_suffix("").parts
        if parts[-1] != "__init__" or parts[0] == "payloads" or "gear" in parts:
            found.append((room_of(parts), path))
    return found


def room_of(parts: tuple[str, ...]) -> str:
    """The name in RANKS of a module of engine, or of something in it."""
    return ".".join(parts[:2] if parts[0] == "gateway" else parts[:1])


def imports(path: Path) -> set[str]:
    """Dotted names a file imports, at any depth of the code."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def engine_modules_of(names: set[str]) -> set[str]:
    found = {room_of(tuple(name.split(".")[1:])) for name in names if name.startswith("engine.")}
    return found - {"__version__"}


@pytest.mark.parametrize(("name", "path"), modules(), ids=lambda v: getattr(v, "name", v))
def test_imports_go_down_the_ranks(name: str, path: Path) -> None:
    assert name in PLACE, f"engine/{path.name} has no rank; ARCHITECTURE.md names them"
    for used in engine_modules_of(imports(path)):
        if used == name and path.parent.name == name.split(".")[-1]:
            continue
        assert PLACE[used] < PLACE[name], f"{name} imports {used}, which is not below it"


@pytest.mark.parametrize(("name", "path"), modules(), ids=lambda v: getattr(v, "name", v))
def test_libraries_have_one_owner(name: str, path: Path) -> None:
    for library in {used.split(".")[0] for used in imports(path)} & OWNERS.keys():
        assert name in OWNERS[library], f"{library} is not {name}'s to import"


def test_ranks_name_no_ghosts() -> None:
    assert set(PLACE) == {name for name, _ in modules()}


def test_native_knows_nothing_of_engine() -> None:
    for path in (ROOT / "native").rglob("*.py*"):
        if path.suffix in {".py", ".pyx", ".pxd", ".pyi"}:
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"^\s*(from|c?import)\s+engine", text, re.M), path


def sources() -> list[Path]:
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split("\n")
    names = tracked if any(tracked) else [str(p.relative_to(ROOT)) for p in ROOT.rglob("*")]
    kinds = {".py", ".pyx", ".pxd", ".pyi", ".c", ".h"}
    inside = ("engine/", "native/", "bench/", "tests/")
    paths = [ROOT / n for n in names if n.startswith(inside) and Path(n).suffix in kinds]
    return [path for path in paths if path.exists()]


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_files_can_be_read_in_one_sitting(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    is_long_kind = path.suffix == ".pyx" or "tests" in path.parts
    assert len(lines) <= (800 if is_long_kind else 620), f"{len(lines)} lines: two nouns?"
    for number, text in enumerate(lines, 1):
        line = re.sub(r"  # (type: ignore|noqa|fmt:).*", "", text)
        assert len(line) <= 100, f"line {number} has {len(line)} columns"
        assert not re.search(r"\b(TODO|FIXME|XXX)\b", line) or path.name == "test_tidy.py", number


@pytest.mark.parametrize(("name", "path"), modules(), ids=lambda v: getattr(v, "name", v))
def test_functions_are_short_and_modules_say_what_they_are(name: str, path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "a module's first line says what it is"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            size = node.end_lineno - node.lineno + 1
            assert size <= 70, f"{node.name} has {size} lines"


def test_skips_give_a_reason() -> None:
    for path in (path for path in sources() if path.suffix == ".py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                if node.func.attr not in {"skip", "skipif", "xfail"}:
                    continue
                says_why = any(keyword.arg == "reason" for keyword in node.keywords)
                says_why |= node.func.attr == "skip" and bool(node.args)
                assert says_why, f"{path}:{node.lineno}"
