"""The house rules that a machine can hold: ranks of imports, sizes, words, one owner a library."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# ARCHITECTURE.md, "Rooms": a module imports only from a room before its own, or from a module
# before it in its room. Of payloads and of the gateway's gear the package is one module.
ROOMS = {
    "": "errors clock settings telemetry faults machine control",
    "payloads": "",
    "scans": "rows records record_lines people dedup",
    "wire": "address tls websocket frames session offsets",
    "presence": "hours visits contacts profiles",
    "identity": "rotations key_files seals keys aliases watch merges",
    "storage": """zero_fill store_lock store_lmdb commit_thread group journal generation generations
        journal_jobs journal_lmdb control_lmdb""",
    "registry": """access records area_map default_stays registry tables csv_tables xlsx_tables
        files venue_codes coverage poster poster_files""",
    "colocation": """tallies alerts reviews figures corrections found layers forgetting index
        segmented segments_lmdb""",
    "decoding": "images decode decode_pool held",
    "ingest": """readings judge trust card_reader candidates pipeline streams doors gateways link
        server""",
    "tracing": "notice rows cwa pages tracer tiers passed riders roll counts",
    "keeping": """holds erasure forget_list retention eraser knowledge verify_report verify stopped
        backup retention_plan""",
    "desk": """venue_questions ask_bases trace_questions ask_parts keeping_questions questions
        question_socket audits watch_desk merge_desk venue_desk asks count_desk clerk hold_desk
        correction_desk desk person_desk deliveries""",
    "api": """answers alert_answers merge_answers notice_answers venue_answers tier_answers
        passage_answers roll_answers count_answers keeping_answers csv_rows csv_stream openapi
        http_shape opened_details keeping_api server""",
    "client": "api_client keeping_client admin venue_admin",
    "gateway": """imprint spool_epoch spool_wal spool_change spool_lmdb sources status lights gear
        config frame_buffer carriers link ties status_socket lane_decoder capture uplink program""",
    "roof": "derivation app",
    "cli": """story demo doctor_machine doctor parser roll parse gateway registry trace poster venue
        watch merge keys keep person main""",
    "door": "__main__",
}
FLAT = {"", "roof", "door"}  # rooms whose modules lie in engine/ itself
RANKED = [
    name if room in FLAT else f"{room}.{name}".rstrip(".")
    for room, names in ROOMS.items()
    for name in names.split() or [""]
]
PLACE = {name: at for at, name in enumerate(RANKED)}

# Libraries with one owner each.
OWNERS = {
    "lmdb": {
        *{"storage.store_lmdb", "colocation.segments_lmdb"},
        *{"gateway.spool_epoch", "gateway.spool_change", "gateway.spool_lmdb"},
    },
    "zxingcpp": {"decoding.decode"},
    "simplejpeg": {"decoding.images"},
    "PIL": {"decoding.images", "registry.poster", "registry.poster_files"},
    "segno": {"registry.poster"},
    "reportlab": {"registry.poster_files"},
    "openpyxl": {"registry.xlsx_tables"},
    "uvloop": {"app"},
    "aiohttp": {
        *{"api.server", "api.keeping_api", "api.csv_stream", "api.http_shape", "ingest.doors"},
        *{"gateway.gear", "gateway.carriers"},
    },
    "rich": {"cli.demo"},
    "cryptography": {"identity.keys", "identity.seals", "wire.tls", "ingest.trust"},
    "cbor2": {"payloads"},
    "prometheus_client": {"telemetry"},
}


def modules() -> list[tuple[str, Path]]:
    """(name in PLACE, path): a module each, but of payloads and gear the package."""
    found = []
    for path in sorted((ROOT / "engine").rglob("*.py")):
        parts = path.relative_to(ROOT / "engine").with_suffix("").parts
        if parts[-1] != "__init__" or parts[0] == "payloads" or "gear" in parts:
            found.append((room_of(parts), path))
    return found


def room_of(parts: tuple[str, ...]) -> str:
    """The name in PLACE of a module of engine, or of something in it."""
    if parts[0] == "payloads" or len(parts) == 1 or parts[0] not in ROOMS:
        return parts[0]
    return ".".join(parts[:2])


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
        assert not re.search(r"\b(T[O]DO|F[I]XME|X[X]X)\b", line), number


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
