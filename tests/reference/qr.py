"""Slow twin of native.qr behind sampling: QR codes written and read by ISO/IEC 18004:2015.

Written from the clauses and not from the kernels: modules are judged one by one, bits are strings,
polynomials are lists, highest term first. Grids are lists of rows, 1 is dark. Levels are the
letters L, M, Q, H.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

Grid = list[list[int]]
LEVELS = "LMQH"
VERSIONS = range(1, 41)

# Table 7: data codewords; table 9: blocks.
DATA_CODEWORDS = {
    "L": [
        *[19, 34, 55, 80, 108, 136, 156, 194, 232, 274, 324, 370, 428, 461, 523, 589, 647, 721],
        *[795, 861, 932, 1006, 1094, 1174, 1276, 1370, 1468, 1531, 1631, 1735, 1843, 1955, 2071],
        *[2191, 2306, 2434, 2566, 2702, 2812, 2956],
    ],
    "M": [
        *[16, 28, 44, 64, 86, 108, 124, 154, 182, 216, 254, 290, 334, 365, 415, 453, 507, 563],
        *[627, 669, 714, 782, 860, 914, 1000, 1062, 1128, 1193, 1267, 1373, 1455, 1541, 1631],
        *[1725, 1812, 1914, 1992, 2102, 2216, 2334],
    ],
    "Q": [
        *[13, 22, 34, 48, 62, 76, 88, 110, 132, 154, 180, 206, 244, 261, 295, 325, 367, 397, 445],
        *[485, 512, 568, 614, 664, 718, 754, 808, 871, 911, 985, 1033, 1115, 1171, 1231, 1286],
        *[1354, 1426, 1502, 1582, 1666],
    ],
    "H": [
        *[9, 16, 26, 36, 46, 60, 66, 86, 100, 122, 140, 158, 180, 197, 223, 253, 283, 313, 341],
        *[385, 406, 442, 464, 514, 538, 596, 628, 661, 701, 745, 793, 845, 901, 961, 986, 1054],
        *[1096, 1142, 1222, 1276],
    ],
}
BLOCK_COUNTS = {
    "L": "1 1 1 1 1 2 2 2 2 4 4 4 4 4 6 6 6 6 7 8 8 9 9 10 12 12 12 13 14 15 16 17 18 19 19 20 21 "
    "22 24 25",
    "M": "1 1 1 2 2 4 4 4 5 5 5 8 9 9 10 10 11 13 14 16 17 17 18 20 21 23 25 26 28 29 31 33 35 37 "
    "38 40 43 45 47 49",
    "Q": "1 1 2 2 4 4 6 6 8 8 8 10 12 16 12 17 16 18 21 20 23 23 25 27 29 34 34 35 38 40 43 45 48 "
    "51 53 56 59 62 65 68",
    "H": "1 1 2 4 4 4 5 6 8 8 11 11 16 16 18 16 19 21 25 25 25 34 30 32 35 37 40 42 45 48 51 54 57 "
    "60 63 66 70 74 77 81",
}
# Table 9, footnote b: the p of (c, k, r) with 2r = c - k - p, where it is not 0.
PROTECTION = {(1, "L"): 3, (1, "M"): 2, (1, "Q"): 1, (1, "H"): 1, (2, "L"): 2, (3, "L"): 1}


# ---- where everything is ------------------------------------------------------------------------


def side(version: int) -> int:
    return 17 + 4 * version


@cache
def centres(version: int) -> list[int]:
    """Annex E: the last is 7 from the end, then back in even steps, as few as reach the first."""
    if version == 1:
        return []
    gaps = version // 7 + 1
    span = side(version) - 13
    step = -(-span // gaps)
    step += step % 2
    if version == 32:
        step = 26  # the one row of the table where the steps are the smaller even number
    return [6, *reversed([side(version) - 7 - i * step for i in range(gaps)])]


def in_square(x: int, y: int, cx: int, cy: int, radius: int) -> bool:
    return max(abs(x - cx), abs(y - cy)) <= radius


def is_version_word(version: int, x: int, y: int) -> bool:
    dim = side(version)
    return version >= 7 and (
        (x < 6 and dim - 11 <= y < dim - 8) or (y < 6 and dim - 11 <= x < dim - 8)
    )


@cache
def kind(version: int, x: int, y: int) -> str:
    """ "data", "light", "dark" or "words" (format and version words)."""
    dim = side(version)
    for cx, cy in ((3, 3), (dim - 4, 3), (3, dim - 4)):
        if in_square(x, y, cx, cy, 4):
            return "light" if max(abs(x - cx), abs(y - cy)) in (2, 4) else "dark"
    if (x, y) == (8, dim - 8):
        return "dark"
    if is_version_word(version, x, y):
        return "words"
    ring = alignment_rings(version).get((x, y))
    if ring is not None:
        return "light" if ring == 1 else "dark"
    if x == 6 or y == 6:
        return "dark" if (x + y) % 2 == 0 else "light"
    if (x == 8 and (y <= 8 or y >= dim - 8)) or (y == 8 and (x <= 8 or x >= dim - 8)):
        return "words"
    return "data"


@cache
def alignment_rings(version: int) -> dict[tuple[int, int], int]:
    """Modules of alignment patterns, and how far from the centre each is: 0, 1 or 2."""
    corners = {(6, 6), (6, side(version) - 7), (side(version) - 7, 6)}
    return {
        (cx + dx, cy + dy): max(abs(dx), abs(dy))
        for cx in centres(version)
        for cy in centres(version)
        if (cx, cy) not in corners
        for dx in range(-2, 3)
        for dy in range(-2, 3)
    }


@cache
def data_modules(version: int) -> list[tuple[int, int]]:
    """(x, y) in the order of 7.7.3: strips of two columns from the right, none over the timing."""
    dim = side(version)
    found: list[tuple[int, int]] = []
    strips = [(x, x - 1) for x in range(dim - 1, 6, -2)] + [(x, x - 1) for x in (5, 3, 1)]
    for number, strip in enumerate(strips):
        rows = range(dim) if number % 2 else range(dim - 1, -1, -1)
        found += [(x, y) for y in rows for x in strip if kind(version, x, y) == "data"]
    return found


def codeword_count(version: int) -> int:
    return len(data_modules(version)) // 8


def is_masked(mask: int, x: int, y: int) -> bool:
    """Table 10, i is the row and j the column."""
    i, j = y, x
    return [
        (i + j) % 2 == 0,
        i % 2 == 0,
        j % 3 == 0,
        (i + j) % 3 == 0,
        (i // 2 + j // 3) % 2 == 0,
        (i * j) % 2 + (i * j) % 3 == 0,
        ((i * j) % 2 + (i * j) % 3) % 2 == 0,
        ((i + j) % 2 + (i * j) % 3) % 2 == 0,
    ][mask]


# ---- words and blocks ---------------------------------------------------------------------------


def with_check_bits(value: int, bits: int, generator: int) -> int:
    """Annexes C and D: value, then the remainder of its division by the generator over GF(2)."""
    degree = generator.bit_length() - 1
    rest = value << degree
    while rest.bit_length() > degree:
        rest ^= generator << (rest.bit_length() - 1 - degree)
    return value << degree | rest


def format_word(level: str, mask: int) -> int:
    bits = {"L": 0b01, "M": 0b00, "Q": 0b11, "H": 0b10}[level]
    return with_check_bits(bits << 3 | mask, 5, 0b10100110111) ^ 0b101010000010010


def version_word(version: int) -> int:
    return with_check_bits(version, 6, 0b1111100100101)


def format_places(version: int) -> list[list[tuple[int, int]]]:
    """Figure 25: (x, y) of bits 14 ... 0 of both copies."""
    dim = side(version)
    first = [(x, 8) for x in (0, 1, 2, 3, 4, 5, 7)] + [(8, y) for y in (8, 7, 5, 4, 3, 2, 1, 0)]
    second = [(8, dim - 1 - i) for i in range(7)] + [(dim - 8 + i, 8) for i in range(8)]
    return [first, second]


def version_places(version: int) -> list[list[tuple[int, int]]]:
    """Figure 28: (x, y) of bits 17 ... 0 of both copies, bottom left and top right."""
    dim = side(version)
    first = [(x, y) for x in range(5, -1, -1) for y in range(dim - 9, dim - 12, -1)]
    return [first, [(y, x) for x, y in first]]


@cache
def times(a: int, b: int) -> int:
    """In GF(256) modulo x^8 + x^4 + x^3 + x^2 + 1."""
    product = 0
    for bit in range(8):
        if b >> bit & 1:
            product ^= a << bit
    for bit in range(14, 7, -1):
        if product >> bit & 1:
            product ^= 0b100011101 << (bit - 8)
    return product


@cache
def generator(count: int) -> list[int]:
    """Annex A: the product of x - 2**i for i of 0 ... count - 1."""
    terms, root = [1], 1
    for _ in range(count):
        shifted = [*terms, 0]
        for i, term in enumerate(terms):
            shifted[i + 1] ^= times(term, root)
        terms, root = shifted, times(root, 2)
    return terms


def check_codewords(data: Sequence[int], count: int) -> list[int]:
    rest = [*data, *[0] * count]
    for i in range(len(data)):
        factor = rest[i]
        for k, term in enumerate(generator(count)):
            rest[i + k] ^= times(term, factor)
    return rest[len(data) :]


def block_sizes(version: int, level: str) -> tuple[list[int], int]:
    """Data codewords of each block, and the check codewords that each has."""
    data = DATA_CODEWORDS[level][version - 1]
    count = int(BLOCK_COUNTS[level].split()[version - 1])
    short, longer = divmod(data, count)
    sizes = [short] * (count - longer) + [short + 1] * longer
    return sizes, (codeword_count(version) - data) // count


def limit(version: int, level: str) -> int:
    return (block_sizes(version, level)[1] - PROTECTION.get((version, level), 0)) // 2


@cache
def sending_order(version: int, level: str) -> list[tuple[int, int]]:
    """7.6: (block, index in the block) of each codeword as it is sent."""
    sizes, check = block_sizes(version, level)
    order = [(b, k) for k in range(max(sizes)) for b, size in enumerate(sizes) if k < size]
    return order + [(b, sizes[b] + k) for k in range(check) for b in range(len(sizes))]


def blocks_of(data: Sequence[int], version: int, level: str) -> list[list[int]]:
    sizes, check = block_sizes(version, level)
    assert len(data) == sum(sizes)
    blocks, at = [], 0
    for size in sizes:
        part = list(data[at : at + size])
        blocks.append(part + check_codewords(part, check))
        at += size
    return blocks


def draw(sent: Sequence[int], version: int, level: str, mask: int) -> Grid:
    """A symbol of these codewords, not masked yet, in the order of sending."""
    dim = side(version)
    grid = [[int(kind(version, x, y) == "dark") for x in range(dim)] for y in range(dim)]
    bits = [byte >> (7 - i) & 1 for byte in sent for i in range(8)]
    places = data_modules(version)
    for (x, y), bit in zip(places, bits + [0] * (len(places) - len(bits)), strict=True):
        grid[y][x] = bit ^ is_masked(mask, x, y)
    write_words(grid, version, format_word(level, mask), version_word(version))
    return grid


def write_words(grid: Grid, version: int, form: int, number: int) -> None:
    for copy in format_places(version):
        for (x, y), bit in zip(copy, f"{form:015b}", strict=True):
            grid[y][x] = int(bit)
    for copy in version_places(version) if version >= 7 else []:
        for (x, y), bit in zip(copy, f"{number:018b}", strict=True):
            grid[y][x] = int(bit)


def interleave(blocks: Sequence[Sequence[int]], version: int, level: str) -> list[int]:
    return [blocks[b][k] for b, k in sending_order(version, level)]


def make(data: Sequence[int], version: int, level: str, mask: int) -> Grid:
    """The symbol with these data codewords."""
    return draw(interleave(blocks_of(data, version, level), version, level), version, level, mask)


# ---- bit streams, written -----------------------------------------------------------------------

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:"
MODES = {"numeric": 1, "alphanumeric": 2, "byte": 4, "kanji": 8, "hanzi": 13}
COUNT_BITS = {  # table 3, for versions 1-9, 10-26, 27-40; hanzi by GB/T 18284
    "numeric": (10, 12, 14),
    "alphanumeric": (9, 11, 13),
    "byte": (8, 16, 16),
    "kanji": (8, 10, 12),
    "hanzi": (8, 10, 12),
}


def count_bits(mode: str, version: int) -> int:
    return COUNT_BITS[mode][0 if version <= 9 else 1 if version <= 26 else 2]


def head(mode: str, count: int, version: int) -> str:
    subset = "0001" if mode == "hanzi" else ""
    return f"{MODES[mode]:04b}{subset}{count:0{count_bits(mode, version)}b}"


def numeric(text: str, version: int) -> str:
    groups = [text[i : i + 3] for i in range(0, len(text), 3)]
    return head("numeric", len(text), version) + "".join(
        f"{int(group):0{(0, 4, 7, 10)[len(group)]}b}" for group in groups
    )


def alphanumeric(text: str, version: int) -> str:
    values = [ALPHABET.index(letter) for letter in text]
    pairs = [values[i : i + 2] for i in range(0, len(values), 2)]
    return head("alphanumeric", len(text), version) + "".join(
        f"{pair[0] * 45 + pair[1]:011b}" if len(pair) == 2 else f"{pair[0]:06b}" for pair in pairs
    )


def byte(data: bytes, version: int) -> str:
    return head("byte", len(data), version) + "".join(f"{value:08b}" for value in data)


def kanji(data: bytes, version: int) -> str:
    """data: pairs of Shift JIS, 8140-9FFC and E040-EBBF."""
    bits = head("kanji", len(data) // 2, version)
    for i in range(0, len(data), 2):
        value = data[i] << 8 | data[i + 1]
        value -= 0x8140 if value <= 0x9FFC else 0xC140
        bits += f"{(value >> 8) * 0xC0 + (value & 0xFF):013b}"
    return bits


def hanzi(data: bytes, version: int) -> str:
    """data: pairs of GB 2312, A1A1-AAFE and B0A1-FAFE."""
    bits = head("hanzi", len(data) // 2, version)
    for i in range(0, len(data), 2):
        first, second = data[i : i + 2]
        first -= 0xA1 if first <= 0xAA else 0xA6
        bits += f"{first * 0x60 + second - 0xA1:013b}"
    return bits


def eci(number: int) -> str:
    if number < 1 << 7:
        return f"0111{number:08b}"
    if number < 1 << 14:
        return f"011110{number:014b}"
    return f"0111110{number:021b}"


def append(index: int, count: int, parity: int) -> str:
    return f"0011{index:04b}{count - 1:04b}{parity:08b}"


FNC1_FIRST = "0101"


def fnc1_second(indicator: str) -> str:
    value = int(indicator) if indicator.isdigit() else ord(indicator) + 100
    return f"1001{value:08b}"


def fill(bits: str, capacity: int) -> bytes:
    """7.4.9, 7.4.10: terminator, zeros to the byte, EC and 11 in turn; `capacity` bytes."""
    room = 8 * capacity - len(bits)
    assert room >= 0, "more bits than the symbol holds"
    bits += "0" * min(4, room)
    bits += "0" * (-len(bits) % 8)
    data = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
    return data + (b"\xec\x11" * capacity)[: capacity - len(data)]


def encode(bits: str, version: int, level: str, mask: int) -> Grid:
    return make(fill(bits, DATA_CODEWORDS[level][version - 1]), version, level, mask)


# ---- bit streams, read --------------------------------------------------------------------------


class Nonsense(Exception):
    """No encoder may write this."""


class Stream:
    def __init__(self, data: Iterable[int]) -> None:
        self.bits = "".join(f"{value:08b}" for value in data)

    def take(self, count: int) -> int:
        if count > len(self.bits):
            raise Nonsense
        taken, self.bits = self.bits[:count], self.bits[count:]
        return int(taken, 2)


def read_number(stream: Stream, bits: int, limit: int) -> int:
    value = stream.take(bits)
    if value >= limit:
        raise Nonsense
    return value


def read_characters(stream: Stream, mode: int, count: int) -> bytes:
    if mode == 1:
        text = "".join(f"{read_number(stream, 10, 1000):03d}" for _ in range(count // 3))
        if count % 3:
            digits = count % 3
            text += f"{read_number(stream, 3 * digits + 1, 10**digits):0{digits}d}"
        return text.encode()
    if mode == 2:
        pairs = [read_number(stream, 11, 45 * 45) for _ in range(count // 2)]
        text = "".join(ALPHABET[pair // 45] + ALPHABET[pair % 45] for pair in pairs)
        if count % 2:
            text += ALPHABET[read_number(stream, 6, 45)]
        return text.encode()
    if mode == 4:
        return bytes(stream.take(8) for _ in range(count))
    found = b""
    for _ in range(count):
        value = stream.take(13)
        if mode == 8:
            word = value // 0xC0 << 8 | value % 0xC0
            word += 0x8140 if word < 0x1F00 else 0xC140
        else:
            word = value // 0x60 << 8 | value % 0x60
            word += 0xA1A1 if word < 0x0A00 else 0xA6A1
        found += (word & 0xFFFF).to_bytes(2, "big")
    return found


def read_eci(stream: Stream) -> int:
    first = stream.take(8)
    if first < 0x80:
        return first
    if first < 0xC0:
        return (first & 0x3F) << 8 | stream.take(8)
    number = (first & 0x1F) << 16 | stream.take(16)
    if first >= 0xE0 or number > 999_999:
        raise Nonsense
    return number


def read_indicator(stream: Stream) -> tuple[int, bytes]:
    """FNC1 in second position: the codeword and the text it stands for."""
    value = stream.take(8)
    if value < 100:
        return value, f"{value:02d}".encode()
    if not chr(value - 100).isascii() or not chr(value - 100).isalpha():
        raise Nonsense
    return value, bytes([value - 100])


def read(data: bytes, version: int) -> dict[str, object] | None:
    """What native.qr.bits.read_bits says of the same data codewords."""
    try:
        return read_or_raise(Stream(data), version)
    except Nonsense:
        return None


def read_or_raise(stream: Stream, version: int) -> dict[str, object]:
    names = {number: name for name, number in MODES.items()}
    content, segments, assignment = b"", [], -1
    fnc1, application, sequence = 0, 0, (-1, 0, 0)
    while stream.bits[:4].strip("0"):
        mode = stream.take(4)
        if mode in names:
            if mode == 13 and stream.take(4) != 1:
                raise Nonsense
            count = stream.take(count_bits(names[mode], version))
            found = read_characters(stream, mode, count)
            if mode == 2 and fnc1:
                found = found.replace(b"%%", b"\0").replace(b"%", b"\x1d").replace(b"\0", b"%")
            segments.append((mode, assignment, len(content), len(found)))
            content += found
        elif mode == 3:
            sequence = (stream.take(4), stream.take(4) + 1, stream.take(8))
        elif mode == 5:
            fnc1 = 1
        elif mode == 7:
            assignment = read_eci(stream)
        elif mode == 9 and not content:
            application, content = read_indicator(stream)
            fnc1 = 2
        else:
            raise Nonsense
    if len(segments) > 64:
        mode, assignment, begin, _ = segments[63]
        segments[63:] = [(mode, assignment, begin, len(content) - begin)]
    if not content:
        raise Nonsense
    return {
        "fnc1": fnc1,
        "application": application,
        "sequence": sequence,
        "segments": segments,
        "data": content,
    }
