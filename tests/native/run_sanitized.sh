#!/usr/bin/env bash
# The native tests under AddressSanitizer and UBSan: builds kind `sanitize` and runs it in its own
# folder. Further arguments go to pytest; without any, what takes longer runs as well.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
python=${PYTHON:-$root/.venv/bin/python}
[ -x "$python" ] || python=$(command -v "$python")
cc=${CC:-gcc}
tree=build/sanitize

mkdir -p build
NATIVE_KIND=sanitize "$python" setup.py -q build --build-base build/sanitize-tmp --build-lib "$tree" \
    >build/sanitize.log 2>&1 || { tail -40 build/sanitize.log; exit 1; }

# The interpreter itself is not sanitized, so the runtimes come first by LD_PRELOAD. PYTHONMALLOC
# lets ASan see the bounds of bytes objects; leaks are off because the interpreter keeps its blocks.
export LD_PRELOAD="$("$cc" -print-file-name=libasan.so) $("$cc" -print-file-name=libubsan.so)"
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONMALLOC=malloc
cd "$tree"
"$python" -c "import native, sys; sys.exit('$tree' not in native.__file__)"
# --capture=sys: capturing file descriptors would swallow the report of an aborted run.
"$python" -m pytest -c "$root/pyproject.toml" --rootdir "$root" \
    --capture=sys -o pythonpath="$root/$tree $root" "$root/tests/native" "$@"
