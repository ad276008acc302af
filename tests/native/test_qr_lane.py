"""native.qr.lane on sequences of frames: repeats, swaps in place, fusion, tracking, new codes."""

from __future__ import annotations

import random
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest

from native.qr.lane import Lane
from native.qr.reader import Reader
from tests.reference.photo import Look, Photo, map_of, moved, photo, symbol

if TYPE_CHECKING:
    from native.qr.reader import _Reading as Reading

FUSED, REPEAT = 5, 6
SIZE = (320, 240)
EMPTY = np.full((240, 320), 170, np.uint8)


@cache
def picture(
    content: bytes, look: Look, version: int = 3, mask: int | None = 4, level: str = "M"
) -> np.ndarray:
    """One code in a frame; without noise, which `frame` adds."""
    plane, _ = photo(symbol(content, version, level, mask), look.but(noise=0, size=SIZE))
    plane.flags.writeable = False
    return plane


def noisy(plane: np.ndarray, noise: float, seed: int) -> np.ndarray:
    if not noise:
        return plane
    rng = np.random.default_rng(seed)
    return np.clip(plane + rng.normal(0, noise, plane.shape), 0, 255).astype(np.uint8)


def contents(found: Iterable[Reading]) -> list[bytes]:
    return sorted(code[0] for code in found)


# ---- the same code again ------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0, 6, 15])
@pytest.mark.parametrize("look", [Look(3.5, 10), Look(4, 45, tilt=(0.1, 0.05)), Look(3, 0, blur=1)])
def test_a_held_code_is_a_repeat_from_the_second_frame_on(look: Look, noise: float) -> None:
    lane = Lane()
    hows = []
    for number in range(20):
        frame = noisy(picture(b"held 12345", look), noise, number)
        (code,) = lane.read(frame)
        assert code[0] == b"held 12345"
        assert code[2:5] == (3, "M", 4)
        hows.append(code[7])
    assert hows[0] != REPEAT
    assert hows[1:].count(REPEAT) >= 18


def test_a_moving_code_is_followed() -> None:
    lane = Lane()
    repeats = 0
    for number in range(40):
        shift = (3.0 * number - 60, 25 * np.sin(number / 5))
        look = Look(3.2, 10 + number, shift=shift)
        (code,) = lane.read(noisy(picture(b"moving", look), 4, number))
        assert code[0] == b"moving"
        repeats += code[7] == REPEAT
        corners = np.array(code[1]).reshape(4, 2)
        _, expected = photo(symbol(b"moving", 3, "M", 4), look.but(size=SIZE))
        assert np.abs(corners - expected).max() < 0.5 * look.module
    assert repeats >= 30


@pytest.mark.parametrize("kind", ["mirrored", "inverse"])
def test_repeats_of_codes_that_are_not_upright(kind: str) -> None:
    look = Look(3.5, 20)
    look = look.but(mirrored=True) if kind == "mirrored" else look.but(dark=215, light=40)
    lane = Lane()
    for number in range(6):
        (code,) = lane.read(picture(b"not upright", look))
        assert code[0] == b"not upright"
        assert code[5:7] == (kind == "mirrored", kind == "inverse")
        assert (code[7] == REPEAT) == (number > 0)


def test_a_repeat_says_all_that_the_first_reading_said() -> None:
    lane = Lane()
    plane = picture(b"say it again 1234567", Look(3.5, 10))
    (first,), (second,) = lane.read(plane), lane.read(plane)
    assert second[7] == REPEAT
    assert first[0] == second[0] and first[2:7] == second[2:7] and first[10:] == second[10:]
    assert np.allclose(first[1], second[1], atol=1)


# ---- another code in its place ------------------------------------------------------------------

STEPS = 16  # from a clear picture to one that shows nothing
PAIRS = [
    (b"A1234567", b"A1234568"),
    (b"00000000000000", b"00000000000001"),
    (b"https://chot.vn/c/7Yh2", b"https://chot.vn/c/7Yh3"),
    (b"0|NGUYEN VAN A|1", b"1|NGUYEN VAN A|1"),
]
SOME_PAIRS = [PAIRS[0], PAIRS[2], *(pytest.param(p, marks=pytest.mark.full) for p in PAIRS[1::2])]


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("level", ["L", "H"])
@pytest.mark.parametrize("same_mask", [True, False])
def test_a_swap_in_place_is_seen_at_once(
    pair: tuple[bytes, bytes], level: str, same_mask: bool
) -> None:
    """Sharp frames: each gives what it shows, and nothing else, in whatever order."""
    look = Look(3.2, 12, tilt=(0.05, 0.03))
    planes = [picture(c, look, 4, 4 if same_mask else 2 + 3 * i, level) for i, c in enumerate(pair)]
    order = [0, 0, 0, 1, 1, 0, 1, 0, 0, 1, 1, 1, 1, 1, 0, *random.Random(1).choices((0, 1), k=12)]
    lane = Lane()
    for number, which in enumerate(order):
        found = lane.read(noisy(planes[which], 3, number))
        assert contents(found) == [pair[which]], number
        if number and order[number - 1] != which:
            assert found[0][7] not in (FUSED, REPEAT)


@pytest.mark.parametrize("pair", SOME_PAIRS)
@pytest.mark.parametrize("level", ["L", "Q"])
@pytest.mark.parametrize("spoil", range(4))
def test_an_unclear_swap_never_gives_the_old_content(
    pair: tuple[bytes, bytes], level: str, spoil: int
) -> None:
    """Noise and blur up to where nothing can be read: the new content, or none."""
    look = Look(3.2, 12)
    old = picture(pair[0], look, 4, 4, level)
    lane = Lane()
    given = 0
    for number in range(STEPS):
        for frame in range(2):
            assert contents(lane.read(noisy(old, 3, number + frame))) == [pair[0]]
        strength = number / (STEPS - 1)
        if spoil == 0:
            new = noisy(picture(pair[1], look, 4, 4, level), 120 * strength, number)
        elif spoil == 1:
            blurred = look.but(blur=0.1 + round(3.2 * strength, 2))
            new = noisy(picture(pair[1], blurred, 4, 4, level), 3, number)
        elif spoil == 2:
            dim = look.but(light=215 - round(170 * strength), ground=120)
            new = noisy(picture(pair[1], dim, 4, 4, level), 6, number)
        else:
            blurred = look.but(blur=1 + round(strength, 2), shift=(2 * strength, -strength))
            new = noisy(picture(pair[1], blurred, 4, 4, level), 60 * strength, number)
        for _ in range(2):
            found = contents(lane.read(new))
            assert found in ([], [pair[1]]), number
            given += bool(found)
    assert given >= 5


def test_half_a_symbol_of_each_gives_neither_wrongly() -> None:
    """Torn frames, the upper part of one and the lower of the other."""
    look = Look(3.2, 0)
    pair = PAIRS[2]
    planes = [picture(content, look, 4, 4, "L") for content in pair]
    lane = Lane()
    for row in range(60, 180, 2):
        assert contents(lane.read(planes[0])) == [pair[0]]
        torn = np.vstack([planes[0][:row], planes[1][row:]])
        alone = contents(Reader().read(torn))
        found = contents(lane.read(torn))
        assert found in ([], [pair[0]], [pair[1]])
        if alone and found:
            assert found == alone


def test_a_text_is_not_given_when_its_code_has_gone() -> None:
    rng = np.random.default_rng(1)
    look = Look(3.5, 10)
    after = [
        EMPTY,
        noisy(EMPTY, 20, 1),
        rng.integers(0, 256, EMPTY.shape, np.uint8),
        np.repeat(np.repeat(rng.choice([40, 215], (60, 80)), 4, 0), 4, 1).astype(np.uint8),
    ]
    lane = Lane()
    for plane in after:
        for _ in range(3):
            assert contents(lane.read(picture(b"gone", look))) == [b"gone"]
        for number in range(8):
            assert lane.read(np.roll(plane, number, axis=1)) == []


def test_finders_without_a_code_between_them_give_nothing() -> None:
    """A symbol whose data was wiped, or replaced by noise, where the lane knows one."""
    rng = np.random.default_rng(2)
    grid = symbol(b"wiped out", 3, "H", 4)
    look = Look(3.5, 10, size=SIZE)
    for kind in range(3):
        bare = grid.copy()
        if kind == 0:
            bare[9:, 9:] = 0
        else:
            bare[9:, 9:] = rng.integers(0, 2, bare[9:, 9:].shape)
            bare[9:21, :9], bare[:9, 9:21] = (bare[9:21, :9], bare[:9, 9:21])
        if kind == 2:
            bare[7:-8, :] = rng.integers(0, 2, bare[7:-8, :].shape)
        lane = Lane()
        for number in range(6):
            assert contents(lane.read(photo(grid, look)[0])) == [b"wiped out"]
            for _ in range(4):
                assert lane.read(noisy(photo(bare, look)[0], 5, number)) == []


# ---- fusion -------------------------------------------------------------------------------------


@cache
def unreadable(content: bytes, hard: Hard, count: int = 16) -> list[np.ndarray]:
    """Frames of a code that no single look reads, each with its own noise."""
    look, noise, version = hard
    reader, frames = Reader(), []
    clean = picture(content, look, version, 4, "L")
    for seed in range(4 * count):
        frame = noisy(clean, noise, seed)
        if len(frames) < count and not reader.read(frame):
            frames.append(frame)
    return frames


Hard = tuple[Look, float, int]  # look, noise, version
HARD: list[Hard] = [
    (Look(3.2, 8, blur=1.6), 20, 3),
    (Look(3, 8, smear=5), 30, 3),
    (Look(3.2, 8, blur=1.6), 20, 7),
]


@pytest.mark.parametrize("hard", HARD)
def test_frames_joined_read_what_none_of_them_does(hard: Hard) -> None:
    fused = 0
    for number in range(4):
        content = b"fused %d" % number
        frames = unreadable(content, hard)
        assert len(frames) == 16
        lane = Lane()
        answers = [lane.read(frame) for frame in frames]
        for found in answers:
            assert contents(found) in ([], [content])
        fused += FUSED in [code[7] for found in answers for code in found]
    assert fused >= 3


@pytest.mark.parametrize("hard", HARD)
@pytest.mark.parametrize("pair", SOME_PAIRS)
def test_two_codes_in_turn_are_never_mixed(hard: Hard, pair: tuple[bytes, bytes]) -> None:
    """A and B in one place, unreadable alone: no text in a frame that does not show it."""
    frames = [unreadable(content, hard) for content in pair]
    for period in (1, 2, 5):
        lane = Lane()
        for number in range(32):
            which = number // period % 2
            shown = frames[which][number // 2 % len(frames[which])]
            assert contents(lane.read(shown)) in ([], [pair[which]]), (period, number)


def test_evidence_is_not_used_for_an_empty_frame() -> None:
    frames = unreadable(b"evidence", HARD[0])
    for count in range(1, 12):
        lane = Lane()
        for frame in frames[:count]:
            lane.read(frame)
        for number in range(5):
            assert lane.read(noisy(EMPTY, 20, number)) == []


def test_the_region_says_where_the_unread_symbol_lies() -> None:
    lane = Lane()
    assert lane.region is None
    seen = 0
    _, corners = photo(symbol(b"evidence", 3, "L", 4), HARD[0][0].but(size=SIZE))
    for frame in unreadable(b"evidence", HARD[0]):
        if not lane.read(frame) and lane.region is not None:
            left, top, right, bottom = lane.region
            assert left < corners[:, 0].min() and corners[:, 0].max() < right
            assert top < corners[:, 1].min() and corners[:, 1].max() < bottom
            seen += 1
    assert seen
    lane.read(EMPTY)
    assert lane.region is None


# ---- several codes, other sizes -----------------------------------------------------------------


@cache
def two(first: bytes | None, second: bytes | None) -> np.ndarray:
    scene = Photo(480, 240)
    for content, x in ((first, 120), (second, 360)):
        if content is not None:
            grid = symbol(content, 2, "M", 3)
            look = Look(4, 15 if x < 200 else -40)
            scene.paint(grid, moved(x, 120) @ map_of(25, look), look)
    return scene.take()


def test_two_codes_at_once_are_both_returned() -> None:
    lane = Lane()
    for number in range(25):
        found = lane.read(noisy(two(b"one", b"two"), 4, number))
        assert contents(found) == [b"one", b"two"]
        assert number == 0 or {code[7] for code in found} == {REPEAT}


def test_a_second_code_beside_a_held_one_appears_within_five_frames() -> None:
    for held in range(1, 12):
        lane = Lane()
        for _ in range(held):
            assert contents(lane.read(two(b"one", None))) == [b"one"]
        for _ in range(5):
            found = contents(lane.read(two(b"one", b"two")))
            assert found in ([b"one"], [b"one", b"two"])
            if len(found) == 2:
                break
        assert len(found) == 2, held
        # And the first may leave, and come back.
        for _ in range(6):
            assert contents(lane.read(two(None, b"two"))) == [b"two"]
        for _ in range(5):
            found = contents(lane.read(two(b"one", b"two")))
            if len(found) == 2:
                break
        assert len(found) == 2


def test_more_codes_than_are_tracked() -> None:
    scene = Photo(600, 360)
    expected = []
    for number in range(6):
        expected.append(b"many %d" % number)
        grid = symbol(expected[-1], 1 if number % 2 else 2, "L", number)
        look = Look(3.5, 12 * number)
        at = moved(100 + number % 3 * 200, 90 + number // 3 * 180)
        scene.paint(grid, at @ map_of(grid.shape[0], look), look)
    lane = Lane()
    seen: set[bytes] = set()
    for number in range(30):
        found = contents(lane.read(noisy(scene.take(), 3, number)))
        assert set(found) <= set(expected) and len(set(found)) == len(found)
        seen |= set(found)
    assert seen == set(expected)


def test_another_size_of_frame_begins_anew() -> None:
    lane = Lane()
    wide = np.full((300, 400), 170, np.uint8)
    wide[:240, :320] = picture(b"size", Look(3.5, 10))
    for number in range(12):
        plane = picture(b"size", Look(3.5, 10)) if number % 4 < 2 else wide
        (code,) = lane.read(plane)
        assert code[0] == b"size"
        assert (code[7] == REPEAT) == (number % 2 == 1)
    assert lane.read(np.zeros((100, 100), np.uint8)) == []
    (code,) = lane.read(wide)
    assert code[7] != REPEAT


@pytest.mark.parametrize(("module", "noise"), [(22, 42), (25, 40)])
def test_large_codes_are_found_and_followed(module: float, noise: float) -> None:
    """Large modules, and noise that hides them from a look at every pixel."""
    plane, corners = photo(symbol(b"large", 1, "M", 2), Look(module, 10, size=(920, 900)))
    lane = Lane()
    frames = [noisy(plane, noise, number) for number in range(10)]
    assert not any(Reader(levels=1).read(frame) for frame in frames)
    answers = [lane.read(frame) for frame in frames]
    first = next(number for number, found in enumerate(answers) if found)
    assert first < 4
    for found in answers[first:]:
        (code,) = found
        assert code[0] == b"large"
        assert np.abs(np.array(code[1]).reshape(4, 2) - corners).max() < module
    assert {found[0][7] for found in answers[first + 1 :]} == {REPEAT}


def test_strides_do_not_matter() -> None:
    lanes = Lane(), Lane(), Lane()
    for number in range(8):
        plane = noisy(picture(b"stride", Look(3.2, 10 + 2 * number)), 5, number)
        wide = np.zeros((240, 333), np.uint8)
        wide[:, 13:] = plane
        upside = np.ascontiguousarray(plane[::-1])[::-1]
        answers = [
            lane.read(p) for lane, p in zip(lanes, (plane, wide[:, 13:], upside), strict=True)
        ]
        assert answers[0] == answers[1] == answers[2] and answers[0]


def test_two_lanes_in_two_threads() -> None:
    frames = [noisy(two(b"one", b"two" if i % 3 else None), 5, i) for i in range(12)]
    alone = Lane()
    expected = [alone.read(frame) for frame in frames]

    def run(_: int) -> bool:
        return all(
            [lane.read(frame) for frame in frames] == expected
            for lane in [Lane() for _ in range(6)]
        )

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(run, range(2)))


# ---- planes that are none -----------------------------------------------------------------------


@pytest.mark.parametrize("height", [0, 1, 20, 24])
@pytest.mark.parametrize("width", [0, 20, 21, 400, 65_001, 65_537, 200_000])
@pytest.mark.parametrize("upright", [False, True])
def test_frames_of_any_size(width: int, height: int, upright: bool) -> None:
    lane = Lane()
    row = (np.arange(width) // 3 % 2 * 200).astype(np.uint8)
    plane = np.repeat(row[None], height, axis=0)
    plane = np.ascontiguousarray(plane.T) if upright else plane
    for _ in range(6):
        assert lane.read(plane) == []
        assert lane.region is None
    assert contents(lane.read(picture(b"after", Look(3.5, 10)))) == [b"after"]
    assert lane.read(plane) == []
    (code,) = lane.read(picture(b"after", Look(3.5, 10)))
    assert (code[0], code[7] == REPEAT) == (b"after", False)


def test_frames_that_change_their_shape() -> None:
    """Shapes of like area, high ones before wide ones: what a lane keeps of each has to fit."""
    shapes = [(1008, 1008), (24, 26_208), (26_208, 24), (41, 5000), (200, 200), (21, 65_000)]
    shapes += [(65_000, 21), (240, 320), (40, 1920), (41, 1920), (21, 21)]
    rng = random.Random(1)
    lane = Lane()
    for number, shape in enumerate([*shapes, *reversed(shapes), *rng.choices(shapes, k=20)]):
        plane = np.full(shape, number, np.uint8)
        plane[::3] += 30
        for _ in range(1 + number % 3):
            assert lane.read(plane) == []
        assert contents(lane.read(picture(b"after", Look(3.5, 10)))) == [b"after"]


# ---- parts of a frame ---------------------------------------------------------------------------


def test_a_part_of_the_frame_is_enough_for_what_is_held() -> None:
    lane = Lane()
    assert lane.wanted is None
    assert lane.follow(EMPTY, 0, 0) is None
    followed = 0
    for number in range(40):
        look = Look(3.2, 10 + number, shift=(2.0 * number - 40, 15 * np.sin(number / 5)))
        frame = noisy(picture(b"part", look), 4, number)
        _, expected = photo(symbol(b"part", 3, "M", 4), look.but(size=SIZE))
        wanted, found = lane.wanted, None
        if wanted is not None:
            left, top, right, bottom = wanted
            assert 0 <= left < right and 0 <= top < bottom
            found = lane.follow(frame[top:bottom, left:right], left, top)
            followed += found is not None
        if found is None:
            found = lane.read(frame)
        assert contents(found) == [b"part"]
        corners = np.array(found[0][1]).reshape(4, 2)
        assert np.abs(corners - expected).max() < 0.5 * look.module
    assert followed >= 20


@pytest.mark.parametrize("pair", PAIRS)
def test_a_swap_is_seen_in_a_part_too(pair: tuple[bytes, bytes]) -> None:
    planes = [picture(content, Look(3.2, 12), 4, 4, "L") for content in pair]
    lane = Lane()
    order = random.Random(2).choices((0, 1), k=60)
    for number, which in enumerate(order):
        frame = noisy(planes[which], 3, number)
        found = None
        if lane.wanted is not None:
            left, top, right, bottom = lane.wanted
            found = lane.follow(frame[top:bottom, left:right], left, top)
            assert found is None or contents(found) == [pair[which]]
        assert contents(lane.read(frame) if found is None else found) == [pair[which]]


def test_parts_that_show_nothing_give_none() -> None:
    held = picture(b"held", Look(3.5, 10))
    rng = np.random.default_rng(1)
    for shape in [(0, 0), (1, 1), (21, 21), (20, 400), (24, 70_000), (70_000, 24), (100, 100)]:
        for plane in (np.zeros(shape, np.uint8), rng.integers(0, 256, shape, np.uint8)):
            for x, y in ((0, 0), (60, 40), (1 << 24, 1 << 24), (300, 0), (0, 1 << 24)):
                lane = Lane()
                assert contents(lane.read(held)) == [b"held"]
                assert lane.follow(plane, x, y) is None
                assert contents(lane.read(held)) == [b"held"]
    lane = Lane()
    lane.read(held)
    for x, y in ((-1, 0), (0, -1), (1 << 25, 0), (0, 1 << 40)):
        with pytest.raises(ValueError, match="out of range"):
            lane.follow(held, x, y)
    # The right picture said to lie elsewhere: not where the code was.
    assert lane.follow(held, 200, 200) is None
    with pytest.raises(ValueError, match="two-dimensional"):
        lane.follow(held[:, ::2], 0, 0)


def test_what_is_no_plane_is_refused_and_changes_nothing() -> None:
    lane = Lane()
    plane = picture(b"refused", Look(3.5, 10))
    lane.read(plane)
    for wrong in (plane[:, ::2], plane.astype(np.uint16), plane.ravel(), plane[None], plane.T):
        with pytest.raises(ValueError, match="two-dimensional"):
            lane.read(wrong)
    with pytest.raises(TypeError):
        lane.read(None)  # type: ignore[arg-type]
    (code,) = lane.read(plane)
    assert code[7] == REPEAT
