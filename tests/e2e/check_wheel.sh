#!/usr/bin/env bash
# sdist -> wheel from the sdist -> clean environment -> used from another folder.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$root"
.venv/bin/python -m build --outdir "$work/dist" . >"$work/build.log" 2>&1 || { tail -30 "$work/build.log"; exit 1; }
if grep -n "performance hint" "$work/build.log"; then echo "Cython gives performance hints"; exit 1; fi
python3 -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check -q install "$work"/dist/*.whl
cd "$work"
"$work/venv/bin/chot" version
"$work/venv/bin/chot" decode "$root/tests/data/lanes/lane1.mjpeg" >decoded.jsonl
test "$(wc -l <decoded.jsonl)" = 200
grep -q '"text": "045190999001|' decoded.jsonl
"$work/venv/bin/python" - <<'PY'
import pathlib
import engine, native, native.cpu
assert ".venv" not in engine.__file__ and "site-packages" in engine.__file__, engine.__file__
assert pathlib.Path(native.__file__).parent.parent == pathlib.Path(engine.__file__).parent.parent
from engine.registry.poster import FONT_FILES
assert all(path.is_file() for path in FONT_FILES.values())
print("wheel imports from", "site-packages", "cpu", native.cpu.active())
PY
echo "wheel ok: $(basename "$work"/dist/*.whl)"
