"""Peers that may be absent: who can take part in a run, and why the others cannot.

Peers beyond the project's own dependencies come with `pip install .[bench]`; none of them is
imported before a case asks for it, so that a machine without them measures the rest.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class Absent(Exception):
    """A peer cannot take part; the text is the reason that the line states."""


def load(module: str) -> Any:
    """A module of the extra. Raises Absent."""
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or package).partition(".")[0]
        raise Absent(f"{missing} is not installed (pip install .[bench])") from error
    except ImportError as error:  # its shared library is not there
        raise Absent(f"{package}: {' '.join(str(error).split())}") from error


def invite(asked: Mapping[str, Callable[[], T]]) -> tuple[list[T], dict[str, str]]:
    """Those who came, in order, and the reason of each who did not."""
    came: list[T] = []
    skipped: dict[str, str] = {}
    for name, make in asked.items():
        try:
            came.append(make())
        except Absent as reason:
            skipped[name] = str(reason)
    return came, skipped
