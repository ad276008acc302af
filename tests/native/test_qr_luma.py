"""native.qr.luma and native.qr.threshold against their slow twins, at every CPU level."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native.qr import luma
from native.qr.threshold import thresholds
from tests.reference import luma as twin

LONG = [255, 256, 257, 511, 1000, 1023, 1024, 1025, 4099]
WIDTHS = [*range(1, 131), *LONG]


def stripes(width: int, period: int) -> np.ndarray:
    return np.where(np.arange(width) // period % 2 == 0, 40, 200).astype(np.uint8)


def finders(width: int, module: float) -> np.ndarray:
    """Rows of 1:1:3:1:1, a module of light between one and the next."""
    at = (np.arange(width) / module).astype(int) % 8
    return np.where(np.isin(at, (0, 2, 3, 4, 6)), 30, 220).astype(np.uint8)


def rows_of(width: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Rows of every kind the kernels may fail on."""
    yield np.zeros(width, np.uint8)
    yield np.full(width, 255, np.uint8)
    yield rng.integers(0, 256, width, np.uint8)
    yield rng.choice(np.array([0, 127, 128, 255], np.uint8), width)
    yield stripes(width, 1 + width % 7)
    yield finders(width, 1 + width % 5)
    one = np.full(width, 128, np.uint8)
    one[width - 1 - width % 3 if width > 3 else 0] = rng.choice([0, 255])
    yield one


def planes_of(width: int, height: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    for row in rows_of(width, rng):
        yield np.repeat(row[None], height, axis=0)
    yield rng.integers(0, 256, (height, width), np.uint8)


def padded(plane: np.ndarray, stride: int, fill: int) -> bytes:
    """The plane's rows `stride` apart; it ends with its last pixel, as a sanitizer will see."""
    height, width = plane.shape
    out = np.full((height, stride), fill, np.uint8)
    out[:, :width] = plane
    return out.tobytes()[: stride * (height - 1) + width]


# ---- block ranges -------------------------------------------------------------------------------


@pytest.mark.parametrize("start", range(8))
def test_block_ranges(start: int) -> None:
    rng = np.random.default_rng(start)
    for width in WIDTHS[start::8]:
        count = 1 + width % 5
        for plane in planes_of(width, count, rng):
            # The padding would be found at once: darker and lighter than all of the plane.
            for stride, fill in ((width, 0), (width + 1 + 2 * start, 0), (width + 31, 255)):
                found = luma.block_ranges(padded(plane, stride, fill), width, count, stride)
                assert found == twin.block_ranges(plane), width


@pytest.mark.parametrize("width", [15, 16, 17, 31, 32, 33, 47, 48, 63, 64, 65, 96])
def test_each_pixel_counts_in_its_own_block_alone(width: int) -> None:
    for x in range(width):
        for value in (0, 255):
            plane = np.full((3, width), 128, np.uint8)
            plane[x % 3, x] = value
            found = luma.block_ranges(plane.tobytes(), width, 3, width)
            assert found == twin.block_ranges(plane)
            assert found[value > 0][x // 16] == value


# ---- smoothing ----------------------------------------------------------------------------------


def ranges_of(kind: int, count: int, rng: np.random.Generator) -> tuple[bytes, bytes]:
    lows = rng.integers(0, 256, count, np.uint8)
    if kind == 0:  # any two, high below low too
        highs = rng.integers(0, 256, count, np.uint8)
    elif kind == 1:  # about the cut
        highs = np.minimum(lows.astype(int) + rng.integers(10, 15, count), 255).astype(np.uint8)
    elif kind == 2:  # the largest sums
        lows, highs = np.full(count, 254, np.uint8), np.full(count, 255, np.uint8)
    elif kind == 3:
        lows, highs = np.zeros(count, np.uint8), np.full(count, 255, np.uint8)
    else:  # few that count
        highs = np.where(rng.random(count) < 0.1, 255, lows).astype(np.uint8)
    return lows.tobytes(), highs.tobytes()


@pytest.mark.parametrize("kind", range(5))
def test_smooth(kind: int) -> None:
    rng = np.random.default_rng(kind)
    for columns in [*range(1, 36), 47, 48, 49, 64, 130]:
        for rows in (1, 2, 3, 5):
            lows, highs = ranges_of(kind, columns * rows, rng)
            for cut in (1, 12, 255) if columns < 20 else (12,):
                expected = twin.smooth(lows, highs, columns, cut)
                assert luma.smooth(lows, highs, columns, cut) == expected, (columns, rows, cut)


@pytest.mark.parametrize("columns", [4094, 4095, 4096])
def test_smooth_at_the_widest(columns: int) -> None:
    lows, highs = ranges_of(0, columns * 2, np.random.default_rng(columns))
    assert luma.smooth(lows, highs, columns, 12) == twin.smooth(lows, highs, columns, 12)


def test_every_mean_of_every_count() -> None:
    """All sums of all numbers of blocks that can stand in the middle of 3 x 3."""
    for count in range(1, 10):
        for total in range(count, 509 * count + 1, 1 if count < 3 else 37):
            share, more = divmod(total, count)
            sums = [share + (i < more) for i in range(count)] + [0] * (9 - count)
            lows = bytes(s // 2 if s % 2 else max(s // 2 - 1, 0) for s in sums)
            highs = bytes(s - low for s, low in zip(sums, lows, strict=True))
            assert luma.smooth(lows, highs, 3, 1) == twin.smooth(lows, highs, 3, 1)


def test_expand() -> None:
    rng = random.Random(1)
    for count in [*range(1, 20), 63, 64, 65, 256, 4063]:
        values = rng.randbytes(count)
        assert luma.expand(values) == twin.expand(values)


# ---- edges of a row -----------------------------------------------------------------------------


@pytest.mark.parametrize("start", range(8))
def test_row_edges(start: int) -> None:
    rng = np.random.default_rng(start)
    for width in WIDTHS[start::8]:
        blocks = rng.choice(np.array([0, 1, 127, 128, 255], np.uint8), width // 16 + 1)
        by_block = np.repeat(blocks, 16)[:width]
        limits = [
            by_block.tobytes(), bytes(width), b"\xff" * width, b"\x80" * width,
            rng.integers(0, 256, width, np.uint8).tobytes(),
        ]  # fmt: skip
        for row in rows_of(width, rng):
            for limit in limits:
                expected = twin.row_edges(row.tobytes(), limit)
                assert luma.row_edges(row.tobytes(), limit) == expected, width


@pytest.mark.parametrize("width", [1, 31, 32, 33, 63, 64, 65, 95, 96, 97, 127, 128, 129, 192])
def test_one_run_at_every_place(width: int) -> None:
    for begin in range(width):
        for size in (1, 2, 33):
            row = bytearray(b"\xff" * width)
            end = min(begin + size, width)
            row[begin:end] = bytes(end - begin)
            assert luma.row_edges(bytes(row), b"\x80" * width) == [begin, end]


@pytest.mark.parametrize("width", [0, 64_999, 65_000])
@pytest.mark.parametrize("period", [1, 2, 40])
def test_the_longest_rows(width: int, period: int) -> None:
    row = stripes(width, period).tobytes()
    assert luma.row_edges(row, b"\x80" * width) == twin.row_edges(row, b"\x80" * width)


# ---- finders ------------------------------------------------------------------------------------


def edges_of(runs: list[int], begin: int = 0) -> list[int]:
    return np.cumsum([begin, *runs]).tolist()


@pytest.mark.parametrize("module", [1, 2, 3, 5, 8, 20, 100, 656, 657, 658])
def test_exact_proportions_are_found_at_every_place(module: int) -> None:
    """At every place of a vector, with nothing behind it and with edges behind it."""
    for before in range(34):
        for after in (0, 1, 3, 17):
            runs = [*[2] * before, *(m * module for m in (1, 1, 3, 1, 1)), *[2] * after]
            found = luma.finder_runs(edges_of(runs))
            assert found == twin.finder_runs(edges_of(runs))
            assert (before in found) == (7 * module <= twin.SPAN_MAX)


@pytest.mark.parametrize("count", range(40))
def test_every_number_of_edges(count: int) -> None:
    rng = random.Random(count)
    for _ in range(40):
        runs = [rng.choice((1, 1, 1, 2, 3, 3, 4)) for _ in range(count)]
        edges = edges_of(runs, rng.randrange(50))[:count]
        assert luma.finder_runs(edges) == twin.finder_runs(edges)


@pytest.mark.parametrize("seed", range(6))
def test_proportions_at_the_limits_of_their_slack(seed: int) -> None:
    rng = random.Random(seed)
    hits = 0
    for _ in range(250):
        runs: list[int] = []
        while sum(runs) < 3000 * (1 + 3 * seed) and len(runs) < 200:
            module = rng.choice((1, 2, 3, 7, 30, 300, 655, 700))
            ideal = [m * module for m in (1, 1, 3, 1, 1)]
            slack = module * 0.7 + 1.5
            runs += [max(1, round(run + rng.uniform(-slack, slack))) for run in ideal]
            runs.append(rng.randint(1, 4 * module))
        edges = [edge for edge in edges_of(runs) if edge < 65_536]
        found = luma.finder_runs(edges)
        assert found == twin.finder_runs(edges)
        hits += len(found)
    assert hits > 300


def test_spans_that_do_not_fit_into_sixteen_bits() -> None:
    """Sums that wrap to what looks like a finder, and the longest spans that still count."""
    for span in [*range(4590, 4612), 9362, 9363, 13107, 18724, 21845, 32767, 32768, 43690, 65535]:
        for shift in range(-2, 3):
            module = span // 7
            runs = [module, module, span - 4 * module + shift, module, module]
            edges = [edge for edge in edges_of(runs) if edge < 65_536]
            assert luma.finder_runs(edges) == twin.finder_runs(edges), span
    rng = random.Random(9)
    for _ in range(2000):
        edges = sorted(rng.sample(range(65_536), rng.randint(6, 24)))
        assert luma.finder_runs(edges) == twin.finder_runs(edges)


@given(st.lists(st.integers(1, 40), min_size=5, max_size=60), st.integers(0, 60_000))
@settings(max_examples=150)
def test_any_runs(runs: list[int], begin: int) -> None:
    assert luma.finder_runs(edges_of(runs, begin)) == twin.finder_runs(edges_of(runs, begin))


# ---- smaller planes -----------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("start", range(4))
def test_shrink(factor: int, start: int) -> None:
    rng = np.random.default_rng(start)
    for width in [w for w in WIDTHS[start::4] if w >= factor]:
        height = factor + (width + start) % (3 * factor)
        for plane in planes_of(width, height, rng):
            for stride in (width, width + 1 + 2 * start):
                found = luma.shrink(padded(plane, stride, 77), width, height, stride, factor)
                assert found == twin.shrink(plane, factor).tobytes(), width


@pytest.mark.parametrize("factor", [2, 4])
def test_means_are_rounded_alike(factor: int) -> None:
    """Every sum of a cell, at every place of a vector."""
    count = 4 if factor == 2 else 8
    sums = np.arange(255 * count + 1)
    cells = sums[:, None] // count + (np.arange(count) < sums[:, None] % count)
    flat = cells.reshape(len(sums), 2, factor).transpose(1, 0, 2).reshape(2, -1)
    plane = np.full((factor, flat.shape[1]), 9, np.uint8)
    plane[factor // 2 - 1 : factor // 2 + 1] = flat
    found = luma.shrink(plane.tobytes(), plane.shape[1], factor, plane.shape[1], factor)
    assert found == twin.shrink(plane, factor).tobytes()
    assert list(found) == [(int(total) + count // 2) // count for total in sums]


# ---- thresholds of a plane ----------------------------------------------------------------------


def scene(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Flat parts, noise and contrast beside each other."""
    plane = np.full((height, width), rng.integers(0, 256), float)
    plane += np.linspace(0, rng.integers(0, 60), width)
    plane += rng.normal(0, rng.choice([0, 2, 9]), plane.shape)
    for _ in range(rng.integers(0, 6)):
        x, y = rng.integers(0, width), rng.integers(0, height)
        part = plane[y : y + rng.integers(1, 50), x : x + rng.integers(1, 80)]
        part[...] = rng.integers(0, 256, part.shape) if rng.random() < 0.5 else 20
    return np.clip(plane, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("row_step", range(1, 9))
def test_thresholds(row_step: int) -> None:
    rng = np.random.default_rng(row_step)
    sizes = [(w, 1 + (7 * w + row_step) % 140) for w in range(row_step, 131, 8)]
    sizes += [(1, 1), (1, 300), (300, 1), (640, 30), (333, 77), (63, 21), (64, 32), (65, 33)]
    for width, height in sizes:
        plane = scene(width, height, rng)
        found = thresholds(plane.tobytes(), width, height, width, row_step)
        assert found[:3] == twin.thresholds(plane, row_step)[:3], (width, height)
        columns, rows, _, expected = twin.thresholds(plane, row_step)
        assert found[3][: columns * rows] == expected, (width, height)


@pytest.mark.parametrize("offset", [1, 3, 7, 15, 31, 33])
def test_planes_inside_larger_memory(offset: int) -> None:
    """Any alignment and any odd stride; the plane's last pixel is the memory's last byte."""
    rng = np.random.default_rng(offset)
    for width, height in ((33, 40), (64, 21), (130, 60), (255, 35)):
        plane = scene(width, height, rng)
        for stride in (width, width + offset):
            memory = rng.bytes(offset) + padded(plane, stride, 255 * (offset & 1))
            view = memoryview(memory)[offset:]
            found = thresholds(view, width, height, stride)
            columns, rows, cut, expected = twin.thresholds(plane, 4)
            assert found[:3] == (columns, rows, cut)
            assert found[3][: columns * rows] == expected


def test_what_hardly_differs_is_dark_nowhere() -> None:
    plane = np.full((100, 200), 100, np.uint8)
    plane[::2] += 3
    assert not any(thresholds(plane.tobytes(), 200, 100, 200)[3][: 13 * 7])


# ---- doors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda: luma.block_ranges(bytes(10), 11, 1, 11),
        lambda: luma.block_ranges(bytes(10), 0, 1, 1),
        lambda: luma.block_ranges(bytes(10), 5, 2, 4),
        lambda: luma.block_ranges(bytes(10), 5, 65, 5),
        lambda: luma.smooth(bytes(5), bytes(5), 2, 12),
        lambda: luma.smooth(bytes(4), bytes(5), 2, 12),
        lambda: luma.smooth(b"", b"", 1, 12),
        lambda: luma.smooth(bytes(4), bytes(4), 2, 0),
        lambda: luma.smooth(bytes(5000), bytes(5000), 5000, 12),
        lambda: luma.row_edges(bytes(4), bytes(5)),
        lambda: luma.row_edges(bytes(65_001), bytes(65_001)),
        lambda: luma.finder_runs([3, 2]),
        lambda: luma.finder_runs([3, 3]),
        lambda: luma.finder_runs([-1]),
        lambda: luma.finder_runs([65_536]),
        lambda: luma.shrink(bytes(16), 4, 4, 4, 3),
        lambda: luma.shrink(bytes(15), 4, 4, 4, 2),
        lambda: luma.shrink(bytes(16), 4, 4, 4, 5),
        lambda: luma.shrink(bytes(16), 3, 4, 4, 4),
        lambda: thresholds(bytes(15), 4, 4, 4),
        lambda: thresholds(bytes(16), 4, 4, 3),
        lambda: thresholds(bytes(16), 4, 4, 4, 9),
        lambda: thresholds(bytes(16), 4, 4, 4, 0),
        lambda: thresholds(bytes(16), 0, 4, 4),
    ],
)
def test_sizes_that_do_not_fit_are_refused(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError):
        call()
