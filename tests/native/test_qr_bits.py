"""native.qr.bits against the slow twin and against zxing-cpp: bytes and segments of bit streams."""

from __future__ import annotations

import numpy as np
import pytest
import zxingcpp
from hypothesis import given, settings
from hypothesis import strategies as st

from native.qr.bits import read_bits
from tests.reference import qr

GOOD = {
    "digits": ["numeric:01234567"],
    "one digit": ["numeric:7"],
    "two digits": ["numeric:42"],
    "letters": ["alphanumeric:AC-42"],
    "one letter": ["alphanumeric::"],
    "bytes": ["byte:\x00\xffhi"],
    "modes in turn": ["numeric:1", "byte:a", "alphanumeric:B", "kanji", "byte:c"],
    "eci": [qr.eci(26), "byte:\xc3\xa9"],
    "eci of two bytes": [qr.eci(899), "byte:x"],
    "eci of three bytes": [qr.eci(999_999), "byte:x"],
    "eci changes": [qr.eci(3), "byte:x", qr.eci(26), "byte:y"],
    "fnc1 first": [qr.FNC1_FIRST, "alphanumeric:A%B%%C%%%D%"],
    "fnc1 late": ["alphanumeric:%A", qr.FNC1_FIRST, "alphanumeric:%A"],
    "fnc1 and bytes": [qr.FNC1_FIRST, "byte:a%b"],
    "fnc1 over two segments": [qr.FNC1_FIRST, "alphanumeric:A%", "alphanumeric:%B"],
    "fnc1 second, digits": [qr.fnc1_second("07"), "alphanumeric:A%"],
    "fnc1 second, letter": [qr.fnc1_second("q"), "alphanumeric:A%%"],
    "fnc1 twice": [qr.FNC1_FIRST, qr.fnc1_second("Z"), "alphanumeric:A%"],
    "fnc1 after nothing": ["byte:", qr.fnc1_second("Z"), "alphanumeric:A%"],
    "structured append": [qr.append(1, 3, 77), "byte:x"],
    "kanji": ["kanji"],
    "kanji, highest": ["1000" + "00000001" + "1" * 13],
    "hanzi": ["hanzi"],
    "hanzi, second area": ["1101" + "0001" + "00000001" + f"{0x60 * 10:013b}"],
    "hanzi, highest": ["1101" + "0001" + "00000001" + "1" * 13],
    "segments of nothing": ["numeric:", "byte:", "alphanumeric:X", "byte:"],
}
BAD = {
    "nothing": [],
    "only nothing": ["byte:"],
    "only an eci": [qr.eci(26)],
    "1000": ["0001" + "0000000011" + "1111101000"],
    "100": ["0001" + "0000000010" + "1100100"],
    "10": ["0001" + "0000000001" + "1010"],
    "2025": ["0010" + "000000010" + "11111101001"],
    "45": ["0010" + "000000001" + "101101"],
    "more than there is": ["0100" + "11001000"],
    "mode 6": ["0110"],
    "mode 10": ["byte:a", "1010"],
    "mode 15": ["1111"],
    "hanzi of another subset": ["1101" + "0010" + "00000001" + "0" * 13],
    "eci 111": ["0111" + "11100000", "byte:x"],
    "application 100": ["1001" + "01100100", "byte:x"],
    "application 255": ["1001" + "11111111", "byte:x"],
    "application after content": ["byte:a", qr.fnc1_second("07")],
}


def stream_of(parts: list[str], version: int) -> str:
    bits = ""
    for part in parts:
        mode, colon, text = part.partition(":")
        if mode == "kanji":
            bits += qr.kanji("点茗漢字".encode("shift-jis"), version)
        elif mode == "hanzi":
            bits += qr.hanzi("汉字".encode("gb2312"), version)
        elif not colon:
            bits += part
        else:
            content = text.encode("latin-1") if mode == "byte" else text
            bits += getattr(qr, mode)(content, version)
    return bits


def zxing_bytes(bits: str, version: int) -> bytes | None:
    grid = np.array(qr.encode(bits, version, "L", 2), np.uint8)
    picture = np.pad((1 - grid) * 255, 4, constant_values=255).repeat(4, 0).repeat(4, 1)
    found = zxingcpp.read_barcodes(picture, formats=zxingcpp.BarcodeFormat.QRCode)
    return found[0].bytes if found else None


@pytest.mark.parametrize("version", [2, 9, 10, 26, 27, 40])
@pytest.mark.parametrize("name", [*GOOD, *BAD])
def test_streams_are_read_as_by_the_twin(name: str, version: int) -> None:
    parts = {**GOOD, **BAD}[name]
    bits = stream_of(parts, version)
    data = qr.fill(bits, len(bits) // 8 + 8)
    assert read_bits(data, version) == qr.read(data, version)
    if version < 10:
        assert (read_bits(data, version) is not None) == (name in GOOD)


@pytest.mark.parametrize("name", [*GOOD, *BAD])
def test_bytes_are_those_of_zxing(name: str) -> None:
    bits = stream_of({**GOOD, **BAD}[name], 2)
    found = read_bits(qr.fill(bits, qr.DATA_CODEWORDS["L"][1]), 2)
    assert (found and found["data"]) == zxing_bytes(bits, 2)


def test_an_assignment_beyond_the_last_is_refused_though_zxing_reads_it() -> None:
    bits = "0111" + "110" + f"{1_000_000:021b}" + qr.byte(b"x", 2)
    assert read_bits(qr.fill(bits, 34), 2) is None
    assert zxing_bytes(bits, 2) == b"x"


def test_fields() -> None:
    parts = [qr.append(4, 9, 200), qr.eci(26), "byte:ab", "numeric:123", qr.eci(20), "kanji"]
    assert read_bits(qr.fill(stream_of(parts, 5), 60), 5) == {
        "fnc1": 0,
        "application": 0,
        "sequence": (4, 9, 200),
        "segments": [(4, 26, 0, 2), (1, 26, 2, 3), (8, 20, 5, 8)],
        "data": b"ab123" + "点茗漢字".encode("shift-jis"),
    }


@pytest.mark.parametrize(
    ("letters", "digits", "spare"), [(0, 2, 0), (1, 0, 1), (0, 1, 2), (3, 0, 3)]
)
def test_a_terminator_may_be_cut_short_or_missing(letters: int, digits: int, spare: int) -> None:
    bits = qr.byte(b"abc", 1) + qr.alphanumeric("A", 1) * letters + qr.numeric("1", 1) * digits
    data = qr.fill(bits, -(-len(bits) // 8))
    assert 8 * len(data) - len(bits) == spare
    found = read_bits(data, 1)
    assert found == qr.read(data, 1) is not None
    assert found["data"] == b"abc" + b"A" * letters + b"1" * digits
    # What is too short for a mode indicator must be the beginning of a terminator.
    if spare:
        assert read_bits(data[:-1] + bytes([data[-1] | 1]), 1) is None


def test_segments_beyond_the_table_join_its_last_entry() -> None:
    bits = "".join(qr.numeric("1", 9) + qr.byte(b"ab", 9) for _ in range(40))
    data = qr.fill(bits, 232)
    found = read_bits(data, 9)
    assert found == qr.read(data, 9) is not None
    assert found["data"] == b"1ab" * 40
    assert len(found["segments"]) == 64
    assert found["segments"][63] == (4, -1, 94, 26)


def test_the_longest_contents() -> None:
    for bits in (
        qr.numeric("9" * 7089, 40),
        qr.alphanumeric("Z" * 4296, 40),
        qr.byte(bytes(range(256)) * 11 + bytes(137), 40),
        qr.kanji(b"\xeb\xbf" * 1817, 40),
    ):
        data = qr.fill(bits, 2956)
        found = read_bits(data, 40)
        assert found == qr.read(data, 40) is not None


@pytest.mark.parametrize("shift", range(8))
@pytest.mark.parametrize("size", [1, 7, 8, 9, 31, 200])
def test_bytes_at_every_bit_offset(shift: int, size: int) -> None:
    content = bytes((i * 37 + shift) & 0xFF for i in range(size))
    # Each digit takes 18 bits in all, an application indicator 12, FNC1 4: all offsets come up.
    parts = [qr.numeric("1", 9)] * (shift // 2) + [qr.numeric("12", 9)] * (shift % 2)
    bits = "".join(parts) + qr.byte(content, 9)
    found = read_bits(qr.fill(bits, 232), 9)
    assert found is not None and found["data"][len(parts) + shift % 2 :] == content


@given(st.binary(min_size=1, max_size=80), st.sampled_from([1, 9, 10, 26, 27, 40]))
@settings(max_examples=400)
def test_any_bytes_are_read_as_by_the_twin(data: bytes, version: int) -> None:
    assert read_bits(data, version) == qr.read(data, version)


def segments(version: int) -> st.SearchStrategy[str]:
    digits = st.text("0123456789", max_size=12).map(lambda text: qr.numeric(text, version))
    letters = st.text(qr.ALPHABET, max_size=9).map(lambda text: qr.alphanumeric(text, version))
    octets = st.binary(max_size=20).map(lambda data: qr.byte(data, version))
    numbers = st.integers(0, 2**21 - 1).map(qr.eci)
    rests = st.text("01", max_size=24)
    fixed = st.sampled_from([qr.FNC1_FIRST, qr.fnc1_second("a"), qr.append(0, 2, 1), "11010001"])
    return st.one_of(digits, letters, octets, numbers, fixed, rests)


@given(st.data(), st.sampled_from([1, 12, 30]))
@settings(max_examples=400)
def test_bent_streams_are_read_as_by_the_twin(data: st.DataObject, version: int) -> None:
    bits = "".join(data.draw(st.lists(segments(version), max_size=6)))
    packed = qr.fill(bits, len(bits) // 8 + data.draw(st.integers(1, 4)))
    cut = data.draw(st.integers(1, len(packed)))
    assert read_bits(packed[:cut], version) == qr.read(packed[:cut], version)
    # A block of just its size: a read behind it would be seen by the address sanitizer.
    assert read_bits(np.array(memoryview(packed)).data, version) == qr.read(packed, version)


def test_arguments_that_make_no_sense() -> None:
    for version in (0, 41):
        with pytest.raises(ValueError, match="version"):
            read_bits(b"x", version)
    for size in (0, 2957):
        with pytest.raises(ValueError, match="2956"):
            read_bits(bytes(size), 40)
