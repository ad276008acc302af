"""native.qr.symbol against the slow twin, and both against the tables of segno."""

from __future__ import annotations

import numpy as np
import pytest
from segno import consts

from native.qr import symbol
from tests.reference import qr

KINDS = {"data": 0, "light": 1, "dark": 2, "words": 3}
SOME = {1, 2, 6, 7, 14, 22, 32}  # all shapes of alignment; 40 is left to the full suite
VERSIONS = [v if v in SOME else pytest.param(v, marks=pytest.mark.full) for v in qr.VERSIONS]
SEGNO_LEVELS = {
    "L": consts.ERROR_LEVEL_L,
    "M": consts.ERROR_LEVEL_M,
    "Q": consts.ERROR_LEVEL_Q,
    "H": consts.ERROR_LEVEL_H,
}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_module_is_of_the_right_kind(version: int) -> None:
    dim = qr.side(version)
    kinds = bytes(KINDS[qr.kind(version, x, y)] for y in range(dim) for x in range(dim))
    assert symbol.layout(version)["dim"] == dim
    assert symbol.layout(version)["kinds"] == kinds


@pytest.mark.parametrize("version", VERSIONS)
def test_bits_and_masks_lie_where_the_clauses_say(version: int) -> None:
    layout = symbol.layout(version)
    places = qr.data_modules(version)[: 8 * qr.codeword_count(version)]
    assert layout["order"] == [y * qr.side(version) + x for x, y in places]
    for mask in range(8):
        flips = [qr.is_masked(mask, x, y) for x, y in places]
        assert layout["masks"][mask] == np.packbits(flips).tobytes()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("level", qr.LEVELS)
def test_blocks_and_their_order_equal_the_twin(version: int, level: str) -> None:
    sizes, check = qr.block_sizes(version, level)
    assert symbol.blocks(version, qr.LEVELS.index(level)) == {
        "count": len(sizes),
        "short_count": sizes.count(min(sizes)),
        "short_size": min(sizes),
        "check": check,
        "limit": qr.limit(version, level),
        "data": sum(sizes),
        "owners": bytes(block for block, _ in qr.sending_order(version, level)),
    }


@pytest.mark.parametrize("version", qr.VERSIONS)
def test_centres_are_those_of_the_twin_and_of_segno(version: int) -> None:
    found = symbol.layout(version)["centres"]
    assert found == qr.centres(version)
    assert found == list(consts.ALIGNMENT_POS[version - 2] if version > 1 else [])


@pytest.mark.parametrize("version", qr.VERSIONS)
def test_blocks_are_those_of_segno(version: int) -> None:
    for strength, level in enumerate(qr.LEVELS):
        table = consts.ECC[version][SEGNO_LEVELS[level]]
        blocks = symbol.blocks(version, strength)
        assert blocks["count"] == sum(part.num_blocks for part in table)
        assert blocks["data"] == sum(part.num_blocks * part.num_data for part in table)
        assert {blocks["check"]} == {part.num_total - part.num_data for part in table}
        assert blocks["short_size"] == table[0].num_data
        assert blocks["short_count"] == table[0].num_blocks
        assert blocks["data"] == qr.DATA_CODEWORDS[level][version - 1]


def test_words_are_those_of_the_twin_and_of_segno() -> None:
    forms, numbers = symbol.words()
    assert forms == [qr.format_word(level, mask) for level in qr.LEVELS for mask in range(8)]
    assert sorted(forms) == sorted(consts.FORMAT_INFO)
    assert numbers == [qr.version_word(version) for version in range(7, 41)]
    assert numbers == list(consts.VERSION_INFO)


@pytest.mark.parametrize("wrong", [0, 41, -1, 2**40])
def test_other_versions_and_levels_do_not_exist(wrong: int) -> None:
    with pytest.raises(ValueError, match="version"):
        symbol.layout(wrong)
    with pytest.raises(ValueError, match="version"):
        symbol.blocks(wrong, 0)
    with pytest.raises(ValueError, match="level"):
        symbol.blocks(1, wrong or 4)
