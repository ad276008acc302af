"""Slow twin of native.rows: one row through numpy, field by field."""

from __future__ import annotations

import numpy as np

from engine.scans.rows import ROW

FIELDS = list(ROW.names or ())


def row_bytes(**fields: int | bytes) -> bytes:
    """One row of 48 bytes. Raises ValueError when a value does not fit its field."""
    row = np.zeros(1, ROW)
    for name, value in fields.items():
        if isinstance(value, bytes):
            if len(value) != 16:
                raise ValueError(name)
            row[name] = np.frombuffer(value, "V16")[0]
        else:
            info = np.iinfo(ROW[name])
            if not info.min <= value <= info.max:
                raise ValueError(name)
            row[name] = value
    return row.tobytes()
