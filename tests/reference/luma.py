"""Slow twins of native.qr.luma and native.qr.threshold: one pixel, one block, one edge at a time.

Written from what src/luma.h and threshold.pyx say each does, with Python's integers, which neither
wrap nor saturate. Planes are two-dimensional arrays of uint8 here, never padded.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BLOCK = 16
SPAN_MAX = 4600


def block_ranges(plane: np.ndarray) -> tuple[bytes, bytes]:
    """Lowest and highest value of each block of 16 columns over all rows of the plane."""
    blocks = [plane[:, x : x + BLOCK] for x in range(0, plane.shape[1], BLOCK)]
    return bytes(int(b.min()) for b in blocks), bytes(int(b.max()) for b in blocks)


def smooth(lows: bytes, highs: bytes, columns: int, cut: int) -> bytes:
    """Half the mean of low + high over those blocks of nine that range over `cut`, rounded up.

    The multiplication by a rounded reciprocal is the header's definition of the mean. A row beyond
    the upper or the lower border is the border's own again; beyond the sides there is nothing.
    """
    rows = len(lows) // columns
    values = bytearray()
    for y in range(rows):
        for x in range(columns):
            total = count = 0
            for near in (max(y - 1, 0), y, min(y + 1, rows - 1)):
                for at in range(max(x - 1, 0), min(x + 2, columns)):
                    low, high = lows[near * columns + at], highs[near * columns + at]
                    if high - low >= cut:
                        total += low + high
                        count += 1
            values.append((total * (65536 // (2 * count)) >> 16) + 1 if count else 0)
    return bytes(values)


def expand(values: bytes) -> bytes:
    return b"".join(bytes([value]) * BLOCK for value in values)


def row_edges(row: Sequence[int], thresholds: Sequence[int]) -> list[int]:
    """Where dark begins and ends; light lies before the first pixel and behind the last."""
    dark = [False, *(v < t for v, t in zip(row, thresholds, strict=True)), False]
    return [x for x in range(len(dark) - 1) if dark[x + 1] != dark[x]]


def is_finder(edges: Sequence[int]) -> bool:
    """Whether five runs are 1:1:3:1:1: pairs of neighbours within half a module and 8/7 pixels of
    2, 4, 4 and 2 modules, and the core the widest."""
    first, second, core, fourth, fifth = np.diff(edges).tolist()
    span = first + second + core + fourth + fifth
    if span > SPAN_MAX:
        return False
    slack = span // 2 + 8  # of seven times a length
    pairs = [(first + second, 2), (second + core, 4), (core + fourth, 4), (fourth + fifth, 2)]
    near = all(abs(7 * length - modules * span) <= slack for length, modules in pairs)
    return near and core >= second and core >= fourth


def finder_runs(edges: Sequence[int]) -> list[int]:
    return [i for i in range(len(edges) - 5) if is_finder(edges[i : i + 6])]


def shrink(plane: np.ndarray, factor: int) -> np.ndarray:
    """Means of 2 x 2 pixels, or of 4 columns over the middle two of 4 rows; halves go up."""
    height, width = plane.shape[0] // factor, plane.shape[1] // factor
    wide = plane[: height * factor, : width * factor].astype(int)
    cells = wide.reshape(height, factor, width, factor)
    if factor == 4:
        cells = cells[:, 1:3]
    count = cells.shape[1] * factor
    return ((cells.sum(axis=(1, 3)) + count // 2) // count).astype(np.uint8)


def contrast_cut(lows: bytes, highs: bytes) -> int:
    """1.5 times the 25th percentile of the ranges of every third block, from 12 to 48."""
    count = len(lows)
    ranges = [highs[i] - lows[i] for i in range(0, count, 3)]
    for least in range(256):
        if 12 * sum(r <= least for r in ranges) > count:
            break
    return min(max(least * 3 // 2, 12), 48)


def thresholds(plane: np.ndarray, row_step: int) -> tuple[int, int, int, bytes]:
    """(columns, rows, cut, values) of a plane from every row_step-th row."""
    height = plane.shape[0]
    columns = -(-plane.shape[1] // BLOCK)
    block_rows = row_step * max(4, -(-BLOCK // row_step))
    lows, highs = b"", b""
    for top in range(0, height, block_rows):
        first = min(top + row_step // 2, height - 1)
        low, high = block_ranges(plane[first : min(top + block_rows, height) : row_step])
        lows, highs = lows + low, highs + high
    cut = contrast_cut(lows, highs)
    return columns, len(lows) // columns, cut, smooth(lows, highs, columns, cut)
