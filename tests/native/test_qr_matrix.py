"""native.qr.matrix: grids of modules as codes, whole and damaged, and never a wrong content."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import pytest
import segno
from hypothesis import given, settings
from hypothesis import strategies as st

from native.qr.matrix import decode, look, take
from tests.reference import qr

CONTENTS = {
    "numeric": "0123456789" * 2,
    "alphanumeric": "HTTP://A.VN/%1",
    "byte": "Nguyễn 1|2",
    "kanji": "点茗漢字",
}
ENCODINGS = {"numeric": "ascii", "alphanumeric": "ascii", "byte": "utf-8", "kanji": "shift-jis"}


def read(grid: np.ndarray) -> Any:
    return decode(np.ascontiguousarray(grid).data.cast("B"), grid.shape[0])


def twin(content: bytes, version: int, level: str, mask: int = 3) -> np.ndarray:
    return np.array(qr.encode(qr.byte(content, version), version, level, mask), np.uint8)


def soft(grid: np.ndarray, contrast: int = 300) -> np.ndarray:
    return np.where(grid > 0, contrast, -contrast).astype(np.int16)


def modules_of(version: int, codeword: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of a codeword's modules, by its place in the symbol."""
    places = qr.data_modules(version)[8 * codeword : 8 * codeword + 8]
    return np.array([y for _, y in places]), np.array([x for x, _ in places])


def spoil(grid: np.ndarray, version: int, codeword: int, rng: random.Random) -> None:
    """Another value for a codeword of a grid of 0 and 1."""
    rows, columns = modules_of(version, codeword)
    bits = [int(bit) for bit in f"{rng.randint(1, 255):08b}"]
    grid[rows, columns] ^= np.array(bits, np.uint8)


def codewords_by_block(version: int, level: str) -> list[list[int]]:
    """Places in the symbol of each block's codewords."""
    order = qr.sending_order(version, level)
    blocks: dict[int, list[int]] = {}
    for place, (block, _) in enumerate(order):
        blocks.setdefault(block, []).append(place)
    return [blocks[block] for block in sorted(blocks)]


# ---- whole symbols ------------------------------------------------------------------------------


@cache
def made_by_segno(version: int, level: str, mask: int, mode: str, content: str) -> bytes:
    """The modules of segno's symbol, packed: the levels of the CPU share them."""
    made = segno.make(
        content, version=version, error=level, mask=mask, mode=mode, boost_error=False, micro=False,
        encoding=None if mode in ("numeric", "alphanumeric") else ENCODINGS[mode],
    )  # fmt: skip
    return np.packbits(np.array(made.matrix, np.uint8)).tobytes()


def check_segno(version: int, level: str, mask: int, mode: str) -> None:
    content = CONTENTS[mode] if version > 1 else CONTENTS[mode][:3]
    dim = qr.side(version)
    packed = made_by_segno(version, level, mask, mode, content)
    modules = np.unpackbits(np.frombuffer(packed, np.uint8), count=dim * dim)
    found = read(modules.reshape(dim, dim))
    assert found["data"] == content.encode(ENCODINGS[mode])
    assert (found["version"], found["level"]) == (version, qr.LEVELS.index(level))
    assert (found["mask"], found["mirrored"]) == (mask, 0)
    assert (found["corrected"], found["erased"]) == (0, 0)
    assert found["sent"] == found["raw"]
    last = found["segments"][-1]
    assert last[0] == qr.MODES[mode] and last[2] + last[3] == len(found["data"])


@pytest.mark.parametrize("version", range(1, 41))
def test_symbols_of_segno_are_read(version: int) -> None:
    """All versions and levels with masks and modes in turn; the full suite has all of each."""
    for number, level in enumerate(qr.LEVELS if version < 20 else qr.LEVELS[version % 4]):
        mode = list(CONTENTS)[(version + number) % 4]
        check_segno(version, level, (version + 3 * number) % 8, mode)


@pytest.mark.full
@pytest.mark.parametrize("version", range(1, 41))
@pytest.mark.parametrize("mode", CONTENTS)
def test_all_symbols_of_segno_are_read(version: int, mode: str) -> None:
    for level in qr.LEVELS:
        for mask in range(8):
            check_segno(version, level, mask, mode)


@pytest.mark.parametrize("level", qr.LEVELS)
@pytest.mark.parametrize("version", [1, 2, 7, 12])
def test_full_symbols_are_read(version: int, level: str) -> None:
    room = qr.DATA_CODEWORDS[level][version - 1] - (2 if version < 10 else 3)
    content = bytes((7 * i + version) & 0xFF for i in range(room))
    for mask in range(8):
        found = read(twin(content, version, level, mask))
        assert (found["data"], found["mask"]) == (content, mask)


def test_the_example_of_the_standard() -> None:
    """ISO/IEC 18004:2015, annex I: 01234567 as version 1-M, mask 010."""
    grid = np.array(qr.encode(qr.numeric("01234567", 1), 1, "M", 2), np.uint8)
    found = read(grid)
    assert (found["data"], found["level"], found["mask"]) == (b"01234567", 1, 2)
    unmasked = bytes(byte ^ flip for byte, flip in zip(found["sent"], flips_of(1, 2), strict=True))
    assert unmasked.hex() == "10200c566180ec11ec11ec11ec11ec11a524d4c1ed36c7872c55"


def flips_of(version: int, mask: int) -> bytes:
    return np.packbits([qr.is_masked(mask, x, y) for x, y in qr.data_modules(version)]).tobytes()


@pytest.mark.parametrize("version", [1, 3, 7, 10])
@pytest.mark.parametrize("mask", range(8))
def test_mirrored_symbols_are_read_and_said_to_be(version: int, mask: int) -> None:
    grid = twin(b"mirror", version, "LMQH"[mask % 4] if version > 1 else "M", mask)
    upright, mirrored = read(grid), read(grid.T)
    assert (upright["mirrored"], mirrored["mirrored"]) == (0, 1)
    for name in ("data", "level", "mask", "version", "raw", "sent"):
        assert upright[name] == mirrored[name]


def test_a_mirrored_symbol_may_be_damaged_too() -> None:
    rng = random.Random(5)
    for mask in range(8):
        grid = twin(b"mirror", 4, "Q", mask)
        for places in codewords_by_block(4, "Q"):
            for place in rng.sample(places, 13):
                spoil(grid, 4, place, rng)
        (x, y), (u, v) = rng.sample(qr.format_places(4)[0], 2)
        grid[y, x] ^= 1
        grid[v, u] ^= 1
        found = read(grid.T)
        assert (found["data"], found["mirrored"], found["corrected"]) == (b"mirror", 1, 26)


def test_fields_of_the_stream_come_through() -> None:
    bits = qr.append(2, 5, 99) + qr.FNC1_FIRST + qr.eci(26) + qr.alphanumeric("A%B", 3)
    found = read(np.array(qr.encode(bits, 3, "M", 1), np.uint8))
    assert found["sequence"] == (2, 5, 99)
    assert (found["fnc1"], found["application"]) == (1, 0)
    assert found["segments"] == [(2, 26, 0, 3)]
    assert found["data"] == b"A\x1dB"


@pytest.mark.parametrize("level", qr.LEVELS)
def test_codewords_are_taken_with_their_weakest_module(level: str) -> None:
    rng = np.random.default_rng(1)
    for version in (1, 7, 10):
        grid = twin(b"weak", version, level, 5)
        values = soft(grid) // 300 * rng.integers(1, 32767, grid.shape).astype(np.int16)
        values[rng.random(grid.shape) < 0.01] = 0
        values[rng.random(grid.shape) < 0.01] = -32768
        for mirrored in (False, True):
            raw, reliability = take(
                np.ascontiguousarray(values.T if mirrored else values).data.cast("B"),
                grid.shape[0],
                mirrored,
            )
            for i in range(qr.codeword_count(version)):
                found = values[modules_of(version, i)].astype(int)
                assert raw[i] == int("".join(str(int(v > 0)) for v in found), 2)
                assert reliability[i] == min(abs(found))


# ---- damage -------------------------------------------------------------------------------------

SIZES = [(1, "L"), (1, "M"), (1, "Q"), (1, "H"), (2, "L"), (3, "L"), (3, "H"), (4, "M"), (5, "Q"),
         (7, "M"), (10, "H"), (16, "Q")]  # fmt: skip


@pytest.mark.parametrize(("version", "level"), SIZES)
def test_as_much_damage_as_the_level_promises_is_mended_in_every_block(
    version: int, level: str
) -> None:
    rng = random.Random(version)
    content = b"x1" if version == 1 else b"0459|damage"
    clean = twin(content, version, level)
    blocks = codewords_by_block(version, level)
    limit = qr.limit(version, level)
    for _ in range(4):
        grid = clean.copy()
        for places in blocks:
            for place in rng.sample(places, limit):
                spoil(grid, version, place, rng)
        found = read(grid)
        assert found["data"] == content
        assert (found["corrected"], found["erased"]) == (limit * len(blocks), 0)
        assert found["sent"] == read(clean)["sent"]
        assert found["raw"] == take(grid.data.cast("B"), grid.shape[0])[0] != found["sent"]


@pytest.mark.parametrize(("version", "level"), SIZES)
def test_one_wrong_codeword_more_never_gives_a_wrong_content(version: int, level: str) -> None:
    """With no p a word at t + 1 from its own codeword may lie at t from another, in one case of
    256**t / C(n, t) and more: of these samples none does. All modules are equally sure here, so
    what comes first in a block is erased; where that hits the damage, the content is right."""
    rng = random.Random(version)
    content = b"x1" if version == 1 else b"0459|damage"
    clean = twin(content, version, level)
    refused = 0
    for _ in range(12):
        grid = clean.copy()
        places = rng.choice(codewords_by_block(version, level))
        for place in rng.sample(places, qr.limit(version, level) + 1):
            spoil(grid, version, place, rng)
        found = read(grid)
        refused += found == "QR_DAMAGED"
        assert found == "QR_DAMAGED" or found["data"] == content
    assert refused >= 9


def weak_block(version: int, level: str, weak: int, strong: int, seed: int) -> np.ndarray:
    """A soft grid with wrong codewords in each block: `weak` look unsure, `strong` do not."""
    rng = random.Random(seed)
    grid = twin(b"0459|weak", version, level)
    faint = np.zeros(grid.shape, bool)
    for places in codewords_by_block(version, level):
        for i, place in enumerate(rng.sample(places, weak + strong)):
            spoil(grid, version, place, rng)
            if i < weak:
                rows, columns = modules_of(version, place)
                at = rng.randrange(8)
                faint[rows[at], columns[at]] = True
    values = soft(grid)
    values[faint] //= 100
    return values


@pytest.mark.parametrize(("version", "level"), [(3, "H"), (4, "M"), (5, "Q"), (7, "M"), (16, "Q")])
def test_unsure_codewords_cost_one_check_codeword_and_not_two(version: int, level: str) -> None:
    check = qr.block_sizes(version, level)[1]
    spare = (check - max(5, check // 4)) // 2 * 2
    blocks = len(codewords_by_block(version, level))
    for weak in range(spare, 1, -4):
        strong = (spare - weak) // 2
        if weak + strong > qr.limit(version, level):
            found = read(weak_block(version, level, weak, strong, weak))
            assert found["data"] == b"0459|weak"
            assert found["corrected"] == (weak + strong) * blocks
            assert weak * blocks <= found["erased"] <= spare * blocks
    # Past the reserve: however sure the decoder were, it would guess.
    assert read(weak_block(version, level, spare + 2, 0, 1)) == "QR_DAMAGED"


def test_modules_that_nobody_saw_are_erased_first() -> None:
    """A finger on a corner of the data: value 0 there."""
    grid = soft(twin(b"0459|finger", 7, "Q"))
    grid[38:, 33:] = 0
    grid[36:38, 37:] = 0
    found = read(grid)
    assert found["data"] == b"0459|finger"


def test_noise_in_a_symbols_frame_is_never_read() -> None:
    rng = np.random.default_rng(3)
    for version, level in ((1, "L"), (1, "M"), (2, "L"), (4, "M"), (7, "L")):
        dim = qr.side(version)
        grid = twin(b"x", version, level)
        data = np.array([y * dim + x for x, y in qr.data_modules(version)])
        for _ in range(100):
            values = soft(grid)
            values.flat[data] = rng.integers(-300, 300, len(data))
            assert read(values) == "QR_DAMAGED"


@pytest.mark.full
def test_much_noise_in_a_symbols_frame_is_never_read() -> None:
    rng = np.random.default_rng(4)
    grid = soft(twin(b"x", 2, "L"))
    data = np.array([y * 25 + x for x, y in qr.data_modules(2)])
    for _ in range(200_000):
        grid.flat[data] = rng.integers(-300, 300, len(data), np.int16)
        assert read(grid) == "QR_DAMAGED"


# ---- format and version words -------------------------------------------------------------------


@pytest.mark.parametrize("mask", range(8))
@pytest.mark.parametrize("level", qr.LEVELS)
def test_three_wrong_bits_in_both_copies_of_the_format(level: str, mask: int) -> None:
    rng = random.Random(mask)
    clean = twin(b"format", 4, level, mask)
    for wrong in range(4):
        grid = clean.copy()
        for copy in qr.format_places(4):
            for x, y in rng.sample(copy, wrong):
                grid[y, x] ^= 1
        assert look(grid.data.cast("B"), 33)[:3] == (qr.LEVELS.index(level), mask, 2 * wrong)
        found = read(grid)
        assert (found["data"], found["level"], found["mask"]) == (
            b"format",
            qr.LEVELS.index(level),
            mask,
        )


@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("mask", range(8))
def test_one_copy_of_the_format_may_be_gone(lost: int, mask: int) -> None:
    rng = random.Random(mask)
    clean = twin(b"format", 4, "M", mask)
    for bits in (
        0,
        0x7FFF,
        rng.getrandbits(15),
        rng.getrandbits(15),
        qr.format_word("H", 7 - mask),
    ):
        grid = clean.copy()
        for (x, y), bit in zip(qr.format_places(4)[lost], f"{bits:015b}", strict=True):
            grid[y, x] = int(bit)
        x, y = rng.choice(qr.format_places(4)[1 - lost])
        grid[y, x] ^= 1
        assert read(grid)["data"] == b"format"


def test_no_format_at_all() -> None:
    grid = soft(twin(b"format", 4, "M"))
    # 4 wrong bits and more from every word, in both copies and both orientations.
    bits = next(
        word for word in range(1 << 15)
        if min((word ^ form).bit_count() for form in forms_of_both_orientations()) > 4
    )  # fmt: skip
    for copy in qr.format_places(4):
        for (x, y), bit in zip(copy, f"{bits:015b}", strict=True):
            grid[y, x] = 300 if bit == "1" else -300
    assert look(grid.data.cast("B"), 33)[2] == -1


def forms_of_both_orientations() -> set[int]:
    words = [qr.format_word(level, mask) for level in qr.LEVELS for mask in range(8)]
    return {*words, *(int(f"{word:015b}"[::-1], 2) for word in words)}


@pytest.mark.parametrize("version", [7, 10, 40])
def test_version_words_are_read_with_three_wrong_bits(version: int) -> None:
    rng = random.Random(version)
    clean = twin(b"version", version, "M")
    dim = qr.side(version)
    for wrong in range(4):
        grid = clean.copy()
        for copy in qr.version_places(version):
            for x, y in rng.sample(copy, wrong):
                grid[y, x] ^= 1
        assert look(grid.data.cast("B"), dim)[3] == version
        assert read(grid)["data"] == b"version"


def test_version_words_that_cannot_be_read_leave_the_side_its_word() -> None:
    grid = twin(b"version", 7, "M")
    bits = next(
        word for word in range(1 << 18)
        if min((word ^ qr.version_word(v)).bit_count() for v in range(7, 41)) > 3
    )  # fmt: skip
    write_version(grid, 7, bits, bits)
    assert look(grid.data.cast("B"), 45)[3] == 0
    assert read(grid)["data"] == b"version"


def write_version(grid: np.ndarray, version: int, first: int, second: int) -> None:
    for copy, word in zip(qr.version_places(version), (first, second), strict=True):
        for (x, y), bit in zip(copy, f"{word:018b}", strict=True):
            grid[y, x] = int(bit)


def test_version_words_that_clearly_say_another_version_win() -> None:
    clean = twin(b"version", 7, "M")
    own, other = qr.version_word(7), qr.version_word(11)
    for first, second in ((other, other), (other ^ 7, other ^ 0x700), (0, other), (other ^ 1, 0)):
        grid = clean.copy()
        write_version(grid, 7, first, second)
        assert read(grid) == "QR_NO_VERSION 11"
        assert read(grid.T) == "QR_NO_VERSION 11"
    for first, second in ((own, other), (other, own ^ 3), (own, 0), (0, other ^ 7)):
        grid = clean.copy()
        write_version(grid, 7, first, second)
        assert read(grid)["data"] == b"version"
    assert look(clean.data.cast("B"), 45, True)[3] == 7
    assert look(twin(b"none", 6, "M").data.cast("B"), 41)[3] == 0


@pytest.mark.parametrize("dim", [1, 17, 20, 22, 24, 176])
def test_sides_of_no_version(dim: int) -> None:
    assert decode(bytes(dim * dim), dim) == "QR_NO_SIZE"
    with pytest.raises(ValueError, match="dim"):
        take(bytes(dim * dim), dim)


def test_blocks_that_are_right_with_nonsense_in_them() -> None:
    """Data codewords of mode 15, and of nothing but zeros, which is a codeword of every block."""
    for first in (0xF0, 0x00):
        data = [first, *[0] * 33]
        assert read(np.array(qr.make(data, 2, "L", 0), np.uint8)) == "QR_NONSENSE"


# ---- anything at all ----------------------------------------------------------------------------


@given(st.integers(0, 2**32), st.sampled_from([21, 25, 41, 45, 57]), st.booleans())
def test_any_grid_has_an_answer(seed: int, dim: int, is_hard: bool) -> None:
    rng = np.random.default_rng(seed)
    if is_hard:
        grid = rng.integers(0, 2, (dim, dim), np.uint8)
    else:
        grid = rng.integers(-32768, 32768, (dim, dim), np.int16)
    assert isinstance(read(grid), str)


@given(st.binary(min_size=882, max_size=882))
@settings(max_examples=60)
def test_any_bytes_have_an_answer(data: bytes) -> None:
    assert isinstance(decode(data, 21), str)


DAMAGED = [twin(b"0459|fuzz", version, level) for version, level in ((2, "M"), (4, "Q"), (7, "H"))]


@given(st.sampled_from(DAMAGED), st.integers(0, 2**32), st.floats(0, 1.2), st.booleans())
def test_a_noisy_symbol_is_read_right_or_not_at_all(
    clean: np.ndarray, seed: int, noise: float, is_mirrored: bool
) -> None:
    rng = np.random.default_rng(seed)
    values = soft(clean.T if is_mirrored else clean, 1000)
    values = (values + rng.normal(0, 1000 * noise, values.shape)).clip(-32768, 32767)
    found = read(values.astype(np.int16))
    assert isinstance(found, str) or found["data"] == b"0459|fuzz"
    if noise < 0.3:
        assert not isinstance(found, str)


def test_a_washed_out_patch_is_read_where_hard_modules_are_not() -> None:
    """Glare or a crease: in one patch no module is to be trusted, and the contrast tells."""
    rng = np.random.default_rng(9)
    hard = softly = 0
    for _ in range(60):
        values = soft(DAMAGED[1], 1000) + rng.normal(0, 250, DAMAGED[1].shape)
        y, x = rng.integers(9, 25, 2)
        patch = values[y : y + 16, x : x + 16]
        patch *= rng.normal(0, 0.1, patch.shape)
        hard += not isinstance(read((values > 0).astype(np.uint8)), str)
        softly += not isinstance(read(values.astype(np.int16)), str)
    assert softly > hard * 1.3


def test_threads_share_the_tables() -> None:
    grids = [(f"thread {i}".encode(), twin(f"thread {i}".encode(), i + 2, "M")) for i in range(12)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(read, [grid for _, grid in grids] * 20))
    assert [code["data"] for code in found] == [content for content, _ in grids] * 20


def test_arguments_that_make_no_sense() -> None:
    for dim in (0, 178, -1):
        with pytest.raises(ValueError, match="dim"):
            decode(b"", dim)
    for size in (0, 440, 883, 442):
        with pytest.raises(ValueError, match="grid"):
            decode(bytes(size), 21)
