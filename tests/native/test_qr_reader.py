"""native.qr.reader on pictures of symbols: what is read, where, and what must not matter."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
import segno

from native import cpu
from native.qr.reader import Reader
from tests.reference import qr
from tests.reference.photo import Look, Photo, apply, map_of, moved, photo, symbol, through

if TYPE_CHECKING:
    from native.qr.reader import _Reading as Reading

SOME = {1, 2, 6, 7, 14, 22, 32, 40}  # all shapes of alignment, the smallest and the largest
VERSIONS = [v if v in SOME else pytest.param(v, marks=pytest.mark.full) for v in qr.VERSIONS]
INVERSE = {"dark": 215, "light": 40, "ground": 90}


@cache
def seen(
    content: bytes, version: int, level: str, mask: int, look: Look
) -> tuple[np.ndarray, np.ndarray]:
    """A picture and its corners; the levels of the CPU share them."""
    plane, corners = photo(symbol(content, version, level, mask), look)
    plane.flags.writeable = False
    return plane, corners


def off_by(reading: Reading, corners: np.ndarray, look: Look) -> float:
    """Modules that the corners are off at most."""
    found = np.array(reading[1]).reshape(4, 2)
    return float(np.abs(found - corners).max()) / look.module


def check(
    look: Look, content: bytes = b"chot 1|2", version: int = 3, level: str = "M", mask: int = 5
) -> Reading:
    plane, corners = seen(content, version, level, mask, look)
    found = Reader().read(plane)
    assert [code[0] for code in found] == [content], look
    assert found[0][2:5] == (version, level, mask)
    assert found[0][5:7] == (look.mirrored, look.dark > look.light)
    assert off_by(found[0], corners, look) <= 0.5, look
    assert found[0][10][-1][2] + found[0][10][-1][3] == len(content)
    assert found[0][11] is None
    return found[0]


# ---- all versions and sizes ---------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("look", [Look(2.2), Look(2.6, angle=17), Look(3, tilt=(0.05, 0.05))])
def test_versions(version: int, look: Look) -> None:
    level = qr.LEVELS[version % 4]
    room = qr.DATA_CODEWORDS[level][version - 1] - (2 if version < 10 else 3)
    content = random.Random(version).randbytes(room)
    read = check(look, content, version, level, (version * 3) % 8)
    assert read[7] == 1


def test_a_corner_that_was_another_square_is_put_right() -> None:
    """The first rows miss a finder here, and a square of the content fits the other two: alignment
    patterns lead from there to the finder. Read across the wrong map it had 151 wrong codewords."""
    read = check(Look(2.2), random.Random(24).randbytes(1171), 24, "L", 0)
    assert read[8] == 0


@pytest.mark.parametrize("module", [2.2, 2.5, 3, 3.7, 5, 8, 13, 20, 30])
@pytest.mark.parametrize("angle", [0, 22, 45])
def test_sizes_of_modules(module: float, angle: float) -> None:
    for version in (1, 4) if module < 20 else (2,):
        check(Look(module, angle, shift=(0.3, 0.7)), b"size", version)


@pytest.mark.parametrize("angle", range(0, 360, 15))
def test_any_angle(angle: int) -> None:
    check(Look(3.3, angle + 4.5))


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("mirrored", [False, True])
def test_mirrored_and_inverse(inverse: bool, mirrored: bool) -> None:
    for angle in (0, 90, 137):
        for version in (1, 3, 8):
            look = Look(3.4, angle, tilt=(0.08, -0.05), mirrored=mirrored)
            look = look.but(**INVERSE) if inverse else look
            check(look, b"A|1", version, "L", 2)


def test_all_masks_and_levels() -> None:
    for mask in range(8):
        for level in qr.LEVELS:
            check(Look(3, 30), b"mask %d" % mask, 2, level, mask)


@pytest.mark.parametrize(
    "look",
    [
        Look(5, 20, tilt=(0.25, 0.1)),
        Look(5, 100, tilt=(-0.2, 0.2)),
        Look(6, 10, squeeze=0.5),
        Look(4, 30, blur=2),
        Look(4, 0, smear=5),
        Look(4, 30, noise=30),
        Look(4, 30, slope=0.8),
        Look(5, 20, bend=1.2),
        Look(4, 0, dark=100, light=118, ground=109),
        Look(4, 30, dark=100, light=130, noise=4),
        Look(4, 30, quiet=1, ground=40),
        Look(4, 0, quiet=0, margin=0),
        Look(3, 70, tilt=(0.1, 0.1), blur=1.2, noise=12),
    ],
    ids=lambda look: "-".join(f"{k}" for k, v in vars(look).items() if v != vars(Look())[k]),
)
def test_what_a_camera_does(look: Look) -> None:
    check(look)


def test_damage_is_corrected_and_said() -> None:
    plane, _ = seen(b"chot 1|2", 3, "H", 5, Look(4))
    spoiled = plane.copy()
    spoiled[70:82, 84:96] = 255 - spoiled[70:82, 84:96]
    (read,) = Reader().read(spoiled)
    assert read[0] == b"chot 1|2" and read[8] + read[9] > 0


def test_what_cannot_be_read_is_counted() -> None:
    reader = Reader()
    plane, _ = seen(b"chot 1|2", 3, "L", 5, Look(4))
    spoiled = plane.copy()
    spoiled[80:124, 84:124] = np.random.default_rng(1).choice([40, 215], (44, 40))
    assert reader.read(spoiled) == []
    finders, placed, fine, sure = reader.unread
    assert finders >= max(3, fine) and placed >= max(1, sure)
    left, top, right, bottom = reader.region
    if fine or sure:
        assert left < 62 < right and top < 62 < bottom
    assert all(count > 0 for count in reader.effort_spent)
    reader.read(plane)
    assert reader.unread[1] == 0
    reader.read(np.zeros((50, 50), np.uint8))
    assert reader.effort_spent == (0, 0, 0)


def test_a_sequence_and_its_segments() -> None:
    parts = segno.make_sequence("chot " * 30, version=3, error="M")
    for number, part in enumerate(parts):
        plane, _ = photo(np.array(part.matrix, np.uint8), Look(3))
        (read,) = Reader().read(plane)
        assert read[11] is not None and read[11][:2] == (number, len(parts))


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("look", [Look(2.3, 10), Look(4, 45), Look(9, 70, tilt=(0.1, 0.1))])
def test_finders_are_where_they_were_painted(look: Look, inverse: bool) -> None:
    look = look.but(**INVERSE) if inverse else look
    plane, corners = seen(b"find", 2, "M", 1, look)
    found = Reader(row_step=2).finders(plane)
    matrix = through(25, corners)
    for column, row in ((3.5, 3.5), (21.5, 3.5), (3.5, 21.5)):
        near = apply(matrix, np.array([column, row]))
        x, y, size, sign, agreeing, fault = min(
            found, key=lambda f: np.hypot(f[0] - near[0], f[1] - near[1])
        )
        assert np.hypot(x - near[0], y - near[1]) < 0.5 * look.module, (column, row)
        assert abs(size / look.module - 1) < 0.3
        assert sign == (-1 if inverse else 1) and agreeing >= 6 and fault < 0.2


@pytest.mark.parametrize("version", [1, 3, 8, 14])
@pytest.mark.parametrize("look", [Look(3, 25), Look(4, 200, tilt=(0.1, 0.05), blur=1)])
def test_what_is_placed_lies_where_it_was_painted(version: int, look: Look) -> None:
    plane, corners = seen(b"placed", version, "M", 5, look)
    reader = Reader(row_step=2)
    placed = [place for place in reader.placed(plane) if place["agreement"] > 80]
    assert placed
    dim = 17 + 4 * version
    assert (placed[0]["dim"], placed[0]["sign"], placed[0]["outside"]) == (dim, 1, 0)
    grid = np.frombuffer(placed[0]["soft"], np.int16) > 0
    expected = symbol(b"placed", version, "M", 5).astype(bool).ravel()
    assert (grid != expected).mean() < 0.03
    own = apply(np.array(placed[0]["map"]).reshape(3, 3), np.array([[0, 0], [dim, dim]], float))
    assert np.abs(own - corners[[0, 2]]).max() < 0.5 * look.module
    assert len(reader.rays(plane)) == len(reader.finders(plane)) >= 3
    assert all(len(rays) == 8 for rays in reader.rays(plane))


# ---- several codes ------------------------------------------------------------------------------


@cache
def sheet(columns: int, rows: int, pitch: int) -> tuple[np.ndarray, dict[bytes, np.ndarray]]:
    """A picture of different codes, each turned and tilted in its own way."""
    picture = Photo(columns * pitch, rows * pitch)
    corners = {}
    for number in range(columns * rows):
        content = b"code %d" % number
        grid = symbol(content, 1 + number % 3, "L", number % 8)
        look = Look(pitch * 0.55 / grid.shape[0], 40 * number, tilt=(0.06, 0.03 * (number % 3)))
        look = look.but(mirrored=number % 4 == 3, **(INVERSE if number % 5 == 4 else {}))
        at = moved((number % columns + 0.5) * pitch, (number // columns + 0.5) * pitch)
        corners[content] = picture.paint(grid, at @ map_of(grid.shape[0], look), look)
    return picture.take(Look(noise=3)), corners


@pytest.mark.parametrize(("columns", "rows", "pitch"), [(2, 1, 100), (3, 3, 130), (5, 4, 110)])
def test_several_codes(columns: int, rows: int, pitch: int) -> None:
    plane, corners = sheet(columns, rows, pitch)
    found = {code[0]: code for code in Reader(attempts=64, triples=128).read(plane)}
    assert found.keys() == corners.keys()
    for content, code in found.items():
        assert np.abs(np.array(code[1]).reshape(4, 2) - corners[content]).max() < 2


def test_the_same_code_twice_is_two_codes() -> None:
    plane, _ = seen(b"twice", 2, "M", 1, Look(3))
    found = Reader().read(np.hstack([plane, plane]))
    assert [code[0] for code in found] == [b"twice"] * 2
    xs = sorted(code[1][0] for code in found)
    assert xs[1] - xs[0] == pytest.approx(plane.shape[1], abs=0.5)


# ---- what must not matter -----------------------------------------------------------------------


LOOKS = [
    Look(3, 0),
    Look(2.4, 33, blur=0.8, noise=8, seed=1),
    Look(5, 20, tilt=(0.15, 0.1), blur=1.8, seed=2),
    Look(4, 70, bend=1.0, noise=10, seed=3),
]


@pytest.mark.parametrize("look", LOOKS)
def test_sixteen_shifts_each_way(look: Look) -> None:
    content = b"shifted"
    plane, corners = seen(content, 2, "M", 6, look)
    height, width = plane.shape
    reader = Reader()
    wide = np.full((height + 15, width + 15), 170, np.uint8)
    for dy in range(16):
        for dx in range(16):
            wide[...] = 170
            wide[dy : dy + height, dx : dx + width] = plane
            (read,) = reader.read(wide)
            assert read[0] == content
            assert off_by(read, corners + np.array([dx, dy]), look) < 0.5


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("flip", [False, True])
def test_four_rotations_and_their_mirrors(look: Look, flip: bool) -> None:
    plane, corners = seen(b"rotated", 2, "M", 6, look)
    for turns in range(4):
        width = plane.shape[1]
        (read,) = Reader().read(np.fliplr(plane).copy() if flip else plane)
        assert (read[0], read[5]) == (b"rotated", flip)
        expected = np.stack([width - corners[:, 0], corners[:, 1]], 1) if flip else corners
        assert off_by(read, expected, look) < 0.5, turns
        plane = np.ascontiguousarray(np.rot90(plane))
        corners = np.stack([corners[:, 1], width - corners[:, 0]], 1)


@pytest.mark.parametrize("look", [*LOOKS, Look(17, 5)])
def test_any_stride(look: Look) -> None:
    plane, _ = seen(b"stride", 2, "M", 6, look)
    height, width = plane.shape
    expected = Reader().read(plane)
    assert expected
    for pad in (1, 3, 64):
        wide = np.full((height, width + pad), 255 * (pad & 1), np.uint8)
        wide[:, :width] = plane
        assert Reader().read(wide[:, :width]) == expected
        wide = np.roll(wide, pad, axis=1)
        # The last row ends with the memory, so that a sanitizer sees what is read behind it.
        assert Reader().read(wide[:, pad:]) == expected
    tall = np.zeros((2 * height - 1, width), np.uint8)
    tall[::2] = plane
    assert Reader().read(tall[::2]) == expected
    assert Reader().read(np.ascontiguousarray(plane[::-1])[::-1]) == expected
    thrice = np.zeros((3 * height, width + 5), np.uint8)
    thrice[::-3, 5:] = plane
    assert Reader().read(thrice[::-3, 5:]) == expected
    assert Reader().read(memoryview(plane)) == expected


def test_every_level_of_the_cpu_gives_the_same() -> None:
    here = cpu.active()
    planes = [seen(b"level", 2, "M", 6, look)[0] for look in LOOKS]
    planes += [sheet(3, 3, 130)[0], np.random.default_rng(3).integers(0, 256, (200, 333), np.uint8)]
    planes += [seen(b"level", 14, "M", 6, Look(2.3, 10))[0]]
    try:
        answers = []
        for level in cpu.available():
            cpu.use(level)
            reader = Reader()
            answers.append(
                [(reader.read(p), reader.unread, reader.effort_spent) for p in planes]
                + [(reader.finders(p), (0, 0), (0, 0, 0)) for p in planes]
            )
    finally:
        cpu.use(here)
    assert all(answer == answers[0] for answer in answers)


def test_a_reader_forgets_the_planes_before() -> None:
    """Planes that grow and shrink, and come in any order, give what each gives alone."""
    planes = [seen(b"level", 2, "M", 6, look)[0] for look in (*LOOKS, Look(17, 5))]
    planes += [np.zeros((1, 1), np.uint8), np.zeros((700, 21), np.uint8)]
    planes += [sheet(3, 3, 130)[0], seen(b"level", 22, "M", 6, Look(2.3, 10))[0]]
    alone = [Reader().read(plane) for plane in planes]
    reader = Reader()
    rng = random.Random(2)
    for number in [
        *range(len(planes)),
        *reversed(range(len(planes))),
        *rng.choices(range(9), k=40),
    ]:
        assert reader.read(planes[number]) == alone[number]


def test_two_threads_with_a_reader_each() -> None:
    planes = [seen(b"level", 2, "M", 6, look)[0] for look in LOOKS] + [sheet(3, 3, 130)[0]]
    expected = [Reader().read(plane) for plane in planes]

    def read_all(_: int) -> bool:
        reader = Reader()
        return all([reader.read(plane) for plane in planes] == expected for _ in range(15))

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(read_all, range(2)))


def test_one_reader_for_two_threads_is_refused_or_right() -> None:
    plane, _ = sheet(3, 3, 130)
    expected = Reader().read(plane)
    reader = Reader()

    def read(_: int) -> bool:
        try:
            return reader.read(plane) == expected
        except RuntimeError:
            return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(200)))
    assert reader.read(plane) == expected


# ---- planes that are none -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape",
    [
        (0, 0),
        (0, 50),
        (50, 0),
        (1, 1),
        (1, 500),
        (500, 1),
        (20, 300),
        (300, 20),
        (21, 21),
        (22, 83),
    ],
)
def test_small_planes_hold_nothing(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    for plane in (np.zeros(shape, np.uint8), rng.integers(0, 256, shape, np.uint8)):
        assert Reader().read(plane) == []
        assert Reader().finders(plane) == [] or min(shape) > 20


@pytest.mark.parametrize("width", [64_999, 65_000, 65_001, 65_536, 65_537, 70_000, 200_000])
def test_planes_too_wide_hold_nothing(width: int) -> None:
    row = np.arange(width, dtype=np.uint32) // 3 % 2 * 200
    plane = np.repeat(row.astype(np.uint8)[None], 24, axis=0)
    assert Reader().read(plane) == []
    assert Reader().read(np.ascontiguousarray(plane.T)) == []


def test_a_code_at_the_far_end_of_the_widest_plane() -> None:
    plane, corners = seen(b"far", 1, "L", 0, Look(4, 8))
    height, width = plane.shape
    for turned in (False, True):
        wide = np.full((height, 65_000), 170, np.uint8)
        wide[:, -width:] = plane
        (read,) = Reader().read(np.ascontiguousarray(wide.T) if turned else wide)
        assert (read[0], read[5]) == (b"far", turned)
        expected = corners + np.array([65_000 - width, 0])
        assert off_by(read, expected[:, ::-1] if turned else expected, Look(4)) < 0.5


@pytest.mark.parametrize(
    "plane",
    [
        np.zeros(900, np.uint8),
        np.zeros((30, 30, 1), np.uint8),
        np.zeros((30, 30), np.uint16),
        np.zeros((30, 30), np.float32),
        np.zeros((30, 60), np.uint8)[:, ::2],
        np.zeros((30, 30), np.uint8)[:, ::-1],
        np.zeros((30, 40), np.uint8).T,
        np.zeros((30, 30, 3), np.uint8)[..., 1],
        bytes(900),
    ],
)
def test_what_is_no_plane_is_refused(plane: object) -> None:
    with pytest.raises(ValueError, match="two-dimensional"):
        Reader().read(plane)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="two-dimensional"):
        Reader().finders(plane)  # type: ignore[arg-type]


def test_what_has_no_buffer_is_refused() -> None:
    for thing in (None, 5, [[1]], "text"):
        with pytest.raises(TypeError):
            Reader().read(thing)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="large"):
        Reader().read(np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (1 << 25, 30), (0, 1)))


@pytest.mark.parametrize(
    "wrong",
    [
        *[{"row_step": n} for n in (0, 9, -1)],
        *[{"levels": n} for n in (0, 4)],
        *[{"triples": n} for n in (0, 129)],
        *[{"attempts": n} for n in (0, 129)],
    ],
)
def test_efforts_out_of_range(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="out of range"):
        Reader(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("row_step", range(1, 9))
@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("thorough", [False, True])
def test_every_effort_reads_what_is_easy(row_step: int, levels: int, thorough: bool) -> None:
    plane, _ = seen(b"easy", 2, "M", 6, Look(5, 10))
    reader = Reader(row_step=row_step, levels=levels, thorough=thorough)
    assert [code[0] for code in reader.read(plane)] == [b"easy"]
