"""What all tests share: a fresh native core, and the same Hypothesis examples each time."""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path

import pytest
from hypothesis import settings

# A suite that fails once in fifty runs teaches people to run it again: examples are derived from
# the test itself, and a busy machine is no failure.
settings.register_profile("suite", derandomize=True, deadline=None, database=None)
settings.load_profile("suite")


def stale_source(native: Path) -> str | None:
    """Why the extensions in folder `native` must be built again, or None.

    A folder without .pyx files (an installed wheel, a sanitizer build) is never stale.
    """
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    headers = sorted(native.glob("src/*.h"))
    newest = 0.0
    for pyx in sorted(native.rglob("*.pyx")):
        built = pyx.with_name(pyx.stem + suffix)
        if not built.exists():
            return f"{name_of(pyx, native)} is not built: run `make build`"
        built_at = built.stat().st_mtime
        newest = max(newest, built_at)
        for source in [pyx, pyx.with_suffix(".pxd"), *headers]:
            if source.exists() and source.stat().st_mtime > built_at:
                return f"native is older than {name_of(source, native)}: run `make build`"
    # A C file or a lone .pxd belongs to some of the extensions; after a build these are newest.
    alone = [pxd for pxd in native.rglob("*.pxd") if not pxd.with_suffix(".pyx").exists()]
    for source in sorted([*native.glob("src/*.c"), *alone]) if newest else []:
        if source.stat().st_mtime > newest:
            return f"native is older than {name_of(source, native)}: run `make build`"
    return None


def name_of(path: Path, native: Path) -> str:
    return path.relative_to(native.parent).as_posix()


def pytest_configure() -> None:
    spec = importlib.util.find_spec("native")
    for folder in (spec and spec.submodule_search_locations) or []:
        reason = stale_source(Path(folder))
        if reason:
            raise pytest.UsageError(reason)
