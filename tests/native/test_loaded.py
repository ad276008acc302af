"""The native core that is tested is the compiled one, at the level that was asked for."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import native
from native import (
    cards,
    contacts,
    cpu,
    dedup,
    hmac,
    index,
    numbers,
    people,
    places,
    plain,
    rows,
    scans,
    together,
    visits,
    wire,
)  # fmt: skip
from native.jpeg import luma

ROOT = Path(__file__).resolve().parents[2]


def python(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(folder), **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def package_root() -> Path:
    return Path(native.__file__).parents[1]


@pytest.mark.parametrize(
    "module",
    [
        cards,
        contacts,
        cpu,
        dedup,
        hmac,
        index,
        luma,
        numbers,
        people,
        places,
        plain,
        rows,
        scans,
        together,
        visits,
        wire,
    ],
    ids=lambda m: m.__name__,
)
def test_the_extension_is_loaded(module: ModuleType) -> None:
    assert Path(str(module.__file__)).suffix in (".so", ".pyd")
    assert Path(native.__file__).parent in Path(str(module.__file__)).parents


def test_level_is_the_one_forced(level: str) -> None:
    assert cpu.active() == level
    assert cpu.available()[0] == "scalar"


def test_unknown_level_changes_nothing(level: str) -> None:
    with pytest.raises(ValueError, match="no CPU level 'mmx' here; there is scalar"):
        cpu.use("mmx")
    assert cpu.active() == level


def test_environment_names_the_level(level: str) -> None:
    code = "from native import cpu; print(cpu.active())"
    assert python(code, package_root(), NATIVE_CPU=level).stdout.strip() == level
    assert python(code, package_root(), NATIVE_CPU="").stdout.strip() == cpu.available()[-1]


def test_environment_with_an_unknown_level_is_refused() -> None:
    done = python("import native", package_root(), NATIVE_CPU="mmx")
    assert done.returncode == 1
    assert "ValueError: NATIVE_CPU=mmx: no CPU level 'mmx' here" in done.stderr


def test_without_the_extensions_the_command_is_named(tmp_path: Path) -> None:
    (tmp_path / "native").mkdir()
    shutil.copy(native.__file__, tmp_path / "native")
    done = python("import native", tmp_path)
    assert done.returncode == 1
    assert "ImportError: the native core is not built" in done.stderr
    assert "run `make build` in a checkout, or install chot again" in done.stderr


# ---- the freshness check of tests/conftest.py ---------------------------------------------------


NAMES = ["a.pyx", "a.pxd", "b.pyx", "alone.pxd", "src/b.c", "src/b.h"]


def stale_source(folder: Path) -> str | None:
    spec = importlib.util.spec_from_file_location("suite_conftest", ROOT / "tests/conftest.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    answer: str | None = module.stale_source(folder)
    return answer


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder like native/ with sources of time 1000 and extensions of time 2000."""
    suffix = Path(str(cpu.__file__)).name.removeprefix("cpu")
    folder = tmp_path / "native"
    (folder / "src").mkdir(parents=True)
    for name in NAMES:
        (folder / name).touch()
        os.utime(folder / name, (1000, 1000))
    for name in ("a", "b"):
        (folder / (name + suffix)).touch()
        os.utime(folder / (name + suffix), (2000, 2000))
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_an_edit_after_the_build_is_noticed(checkout: Path, name: str) -> None:
    assert stale_source(checkout) is None
    os.utime(checkout / name, (3000, 3000))
    assert stale_source(checkout) == f"native is older than native/{name}: run `make build`"


def test_a_missing_build_is_noticed(checkout: Path) -> None:
    next(checkout.glob("b*.so")).unlink()
    assert stale_source(checkout) == "native/b.pyx is not built: run `make build`"


def test_an_installed_package_is_never_stale(checkout: Path) -> None:
    for pyx in checkout.glob("*.pyx"):
        pyx.unlink()
    os.utime(checkout / "src/b.h", (3000, 3000))
    assert stale_source(checkout) is None
