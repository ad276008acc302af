"""Group bytes, packing and the checks at the door: no disk, no loop."""

from __future__ import annotations

import hashlib
import os
import re
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clock import day_to_ms, ms_to_day
from engine.errors import JournalCorrupt, KeyDestroyed, KeyMissing
from engine.identity.keys import DeskKeys, FileKeyRing
from engine.scans.rows import ROW
from engine.storage import group as group_bytes
from engine.storage.group import (
    GROUP_LIMIT_BYTES,
    HEADER_SIZE,
    RUN,
    TALLY,
    bytes_to_group,
    bytes_to_raw,
    expire_bytes,
    genesis,
    open_group,
    pack_details,
    raw_to_details,
    seal_group,
    split_details,
)
from engine.storage.journal import (
    Marks,
    Packer,
    Part,
    RecordBatch,
    Run,
    check_batch,
    check_overlap,
    is_day_over,
)
from tests.reference.batches import DAY, NOON_MS, identities, make_batch, make_rows

CHAIN = genesis(b"s" * 16)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("ring") / "keys"


@pytest.fixture(scope="module")
def ring(root):
    return FileKeyRing(root, create=True)


def pack(ring, *batches):
    packer = Packer(ring)
    for batch in batches:
        packer.add(batch, NOON_MS)
    return packer


def sealed(ring, *batches, lsn=1):
    (draft,) = pack(ring, *batches).drafts
    return seal_group(draft, lsn, CHAIN, ring)


def test_layouts_are_those_of_the_documentation():
    assert group_bytes.HEADER.size == HEADER_SIZE == 128
    assert (RUN.itemsize, TALLY.itemsize) == (32, 24)
    assert [RUN.fields[name][1] for name in RUN.names] == [0, 4, 5, 6, 8, 16, 24]
    packed = group_bytes.pack_run(1, 2, 9, 3, 4, 5, 6)
    (run,) = np.frombuffer(packed, RUN)
    assert (run["gateway"], run["cls"], run["rows"], run["epoch"]) == (1, 2, 3, 4)
    assert (run["first"], run["last"], run["piece"]) == (5, 6, 9)


def test_a_group_gives_back_what_went_in(ring, root):
    data, group, link = sealed(
        ring, make_batch(4, 1, 3, details=b"ten", tallies=2), make_batch(5, 9)
    )
    again = bytes_to_group(data, ring)
    for one in (group, again):
        assert (one.lsn, one.day, one.first_arrival_ms) == (1, DAY, NOON_MS)
        assert identities(one.rows) == [(4, s, n) for s in (1, 2, 3) for n in (0, 1)] + [
            (5, 9, 0),
            (5, 9, 1),
        ]
        assert one.runs["rows"].tolist() == [6, 2]
        assert len(one.tallies) == 2
        assert not one.is_expired
    raw = bytes_to_raw(data)
    assert (raw.chain, raw.link) == (CHAIN, link)
    details = raw_to_details(raw, ring)
    plain = DeskKeys(root / "desk").open_details(details.day, details.sealed, details.aad)
    assert split_details(plain, details.count) == [b"ten"] * 6 + [b""] * 2


def test_no_details_seal_nothing(ring):
    data, group, _ = sealed(ring, make_batch(4, 1), make_batch(4, 2, details=b""))
    assert group.details_sealed == b""
    assert len(data) == HEADER_SIZE + 2 * 32 + 4 * 48 + 16


def test_persons_do_not_stand_in_the_bytes(ring):
    data, _, _ = sealed(ring, make_batch(4, 1, details="Nguyễn Thị Hồng".encode()))
    assert "Nguyễn".encode() not in data
    assert make_rows(4, 1, 1) not in data


def test_every_flipped_bit_is_found(ring):
    data, _, _ = sealed(ring, make_batch(4, 1, rows_per_seq=1, details=b"x", tallies=1))
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(JournalCorrupt):
            bytes_to_group(bytes(changed), ring)


def test_every_cut_and_lengthening_is_found(ring):
    data, _, _ = sealed(ring, make_batch(4, 1, rows_per_seq=1, tallies=1))
    for size in range(len(data)):
        with pytest.raises(JournalCorrupt):
            bytes_to_raw(data[:size])
    with pytest.raises(JournalCorrupt):
        bytes_to_raw(data + b"\0")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_are_a_group_or_corrupt(body, has_magic):
    data = (b"CHJG\x01\0\0\0" if has_magic else b"") + body
    with pytest.raises(JournalCorrupt):
        bytes_to_raw(data)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_change_of_a_group_is_found(ring, data):
    whole, _, _ = sealed(ring, make_batch(4, 1, details=b"abc", tallies=2))
    start = data.draw(st.integers(0, len(whole) - 1))
    patch = data.draw(st.binary(min_size=1, max_size=24))
    changed = whole[:start] + patch + whole[start + len(patch) :]
    if changed == whole:
        return
    with pytest.raises(JournalCorrupt):
        bytes_to_group(changed, ring)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.integers(0, 5), st.binary(max_size=20), st.integers(0, 2)),
        min_size=1,
        max_size=8,
    )
)
def test_any_batches_round_trip(ring, plan):
    batches = [
        make_batch(gateway, 10 * n + 1, rows_per_seq=count, details=text or None, tallies=tallies)
        for n, (gateway, count, text, tallies) in enumerate(plan)
    ]
    packer = pack(ring, *batches)
    groups = [
        bytes_to_group(seal_group(draft, n + 1, CHAIN, ring)[0], ring)
        for n, draft in enumerate(packer.drafts)
    ]
    rows = [identity for group in groups for identity in identities(group.rows)]
    expected = [
        identity
        for batch in batches
        for part in batch.parts
        for identity in identities(np.frombuffer(part.rows, ROW))
    ]
    assert sorted(rows) == sorted(expected)
    runs = [int(first) for group in groups for first in group.runs["first"]]
    assert sorted(set(runs)) == [batch.run.first for batch in batches]
    assert sum(len(group.tallies) for group in groups) == sum(each[3] for each in plan)


def test_a_group_is_bound_to_its_head(ring):
    """Sealed rows cannot be carried to another group, even with its checksums made anew."""
    (draft,) = pack(ring, make_batch(4, 1)).drafts
    one = bytes_to_raw(seal_group(draft, 1, CHAIN, ring)[0])
    other = bytes_to_raw(seal_group(draft, 2, CHAIN, ring)[0])
    other.sealed_rows, other.nonce = one.sealed_rows, one.nonce
    with pytest.raises(JournalCorrupt, match="does not open"):
        open_group(other, ring)


def test_expired_bytes_keep_runs_and_link(ring):
    data, _, link = sealed(ring, make_batch(4, 1, 5, details=b"x", tallies=1))
    short = expire_bytes(bytes_to_raw(data))
    raw = bytes_to_raw(short)
    assert raw.is_expired
    assert raw.link == link
    assert len(short) == HEADER_SIZE + 32 + 24
    assert expire_bytes(raw) == short
    group = open_group(raw, ring)
    assert group.is_expired
    assert len(group.rows) == 0
    assert (group.runs["first"][0], group.runs["last"][0]) == (1, 5)
    with pytest.raises(KeyDestroyed):
        raw_to_details(raw, ring)


def test_a_group_of_a_destroyed_day_is_expired_before_it_is_marked(ring):
    day = DAY - 100
    data, _, _ = sealed(ring, make_batch(4, 1, day=day, details=b"x"))
    ring.destroy_day(day)
    group = bytes_to_group(data, ring)
    assert group.is_expired
    assert len(group.rows) == 0
    assert group.details_sealed == b""


def test_a_lost_key_is_not_forgetting(ring, tmp_path):
    data, _, _ = sealed(ring, make_batch(4, 1))
    with pytest.raises(KeyMissing):
        bytes_to_group(data, FileKeyRing(tmp_path / "other", create=True))


def test_rows_of_a_forgotten_day_are_counted_not_stored(ring):
    day = DAY - 200
    ring.destroy_day(day)
    batch = RecordBatch(
        Run(4, 7, 0, 1, 2), [Part(day, make_rows(4, 1, 3, day)), Part(DAY, make_rows(4, 2, 1))]
    )
    packer = pack(ring, batch, make_batch(4, 3, day=day))
    assert packer.rows_forgotten == 5
    (draft,) = packer.drafts
    assert draft.day == ms_to_day(NOON_MS)
    group = seal_group(draft, 1, CHAIN, ring)[1]
    assert identities(group.rows) == [(4, 2, 0)]
    assert [(int(r["first"]), int(r["last"]), int(r["rows"])) for r in group.runs] == [
        (1, 2, 1),
        (3, 3, 0),
    ]


def test_batches_merge_by_day(ring):
    batch = RecordBatch(
        Run(4, 7, 0, 1, 1), [Part(DAY, make_rows(4, 1, 2)), Part(DAY + 1, make_rows(4, 1, 1))]
    )
    packer = pack(ring, batch, make_batch(5, 1), make_batch(5, 2, day=DAY + 1))
    assert [(draft.day, len(draft.runs)) for draft in packer.drafts] == [(DAY, 2), (DAY + 1, 2)]


def test_a_run_without_rows_is_kept(ring):
    (draft,) = pack(ring, make_batch(4, 1, 9, rows_per_seq=0, tallies=3)).drafts
    group = bytes_to_group(seal_group(draft, 1, CHAIN, ring)[0], ring)
    assert (group.runs["first"][0], group.runs["last"][0]) == (1, 9)
    assert (len(group.rows), len(group.tallies)) == (0, 3)


@pytest.mark.parametrize("details", [None, b"d" * 500])
def test_large_parts_are_split_and_nothing_is_lost(ring, details, root):
    batch = make_batch(4, 1, 30, rows_per_seq=1000, details=details)
    packer = pack(ring, batch, make_batch(4, 31))
    assert len(packer.drafts) > 1
    rows, entries, pieces = [], [], []
    for n, draft in enumerate(packer.drafts):
        assert draft.size <= GROUP_LIMIT_BYTES
        data, group, _ = seal_group(draft, n + 1, CHAIN, ring)
        assert group.runs["rows"].sum() == len(group.rows)
        pieces += group.runs["piece"].tolist()
        rows += identities(group.rows)
        opened = raw_to_details(bytes_to_raw(data), ring)
        if opened.sealed:
            plain = DeskKeys(root / "desk").open_details(DAY, opened.sealed, opened.aad)
            entries += split_details(plain, opened.count)
        else:
            entries += [b""] * opened.count
    assert rows == [(4, s, n) for s in range(1, 31) for n in range(1000)] + [(4, 31, 0), (4, 31, 1)]
    assert pieces == [*range(len(pieces) - 1), 0]
    assert entries == [details or b""] * 30_000 + [b""] * 2


@pytest.mark.parametrize(
    "batch",
    [
        make_batch(4, 0),
        make_batch(4, 5, 4),
        RecordBatch(Run(1 << 32, 7, 0, 1, 1), []),
        make_batch(4, 1, epoch=1 << 64),
        make_batch(4, 1, cls=256),
        RecordBatch(Run(4, 7, 0, 1, 1), [Part(DAY, b"x" * 47)]),
        RecordBatch(Run(4, 7, 0, 1, 1), [Part(1 << 31, b"x" * 48)]),
        RecordBatch(Run(4, 7, 0, 1, 1), [], b"x" * 23),
        RecordBatch(Run(4, 7, 0, 1, 1), [], bytes(24 * 20_000)),
        RecordBatch(Run(4, 7, 0, 1, 1), [Part(DAY, b"x" * 48, pack_details([b"x", b"y"]))]),
        RecordBatch(Run(4, 7, 0, 1, 1), [Part(DAY, b"x" * 96, pack_details([b"x"]))]),
        RecordBatch(Run(4, 7, 0, 1, 1), [Part(DAY, b"x" * 48, struct.pack("<I", 9) + b"x")]),
        RecordBatch(Run(4, 7, 0, 1, 1), [Part(DAY, b"x" * 48, pack_details([b"x" * 70_000]))]),
    ],
)
def test_malformed_batches_are_refused_at_the_door(batch):
    with pytest.raises(ValueError, match=r".+"):
        check_batch(batch)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=30), max_size=12), st.binary(max_size=6))
def test_details_are_exactly_as_many_as_rows(entries, tail):
    packed = pack_details(entries)
    assert split_details(packed, len(entries)) == (entries if packed else [])
    assert split_details(b"", 3) == [b"", b"", b""]
    if entries:
        with pytest.raises(ValueError, match="details"):
            split_details(packed, len(entries) + 1)
    if tail:
        with pytest.raises(ValueError, match="details"):
            split_details(packed + tail, len(entries))


def test_overlap_rules():
    assert check_overlap(Run(1, 1, 0, 3, 5), 5)
    assert not check_overlap(Run(1, 1, 0, 6, 9), 5)
    assert not check_overlap(Run(1, 1, 1, 8, 9), 5)  # gaps are allowed
    with pytest.raises(ValueError, match="overlaps"):
        check_overlap(Run(1, 1, 0, 5, 6), 5)


def test_marks_never_go_back():
    marks = Marks()
    marks.set((1, 1, 0), 9, 4)
    marks.set((1, 1, 0), 5, 6)
    assert marks.find(Run(1, 1, 0, 1, 1)) == (9, 6)
    assert marks.find(Run(1, 2, 0, 1, 1)) == (0, 0)
    assert marks.values() == {(1, 1, 0): 9}


def test_a_day_is_over_at_its_end():
    assert not is_day_over(DAY, day_to_ms(DAY + 1) - 1)
    assert is_day_over(DAY, day_to_ms(DAY + 1))


def test_the_header_is_documented_byte_by_byte():
    """docs/storage.md names every byte of the header once, in order, as the struct packs it."""
    text = (Path(__file__).resolve().parents[2] / "docs/storage.md").read_text(encoding="utf-8")
    fields = [
        (int(offset), int(size))
        for offset, size in re.findall(r"^\| (\d+) \| (\d+) \| ", text, re.MULTILINE)
    ]
    # The next table that begins at 0 is another header's.
    ends = [at for at, (offset, _) in enumerate(fields) if at and not offset]
    fields = fields[: ends[0] if ends else None]
    codes = re.findall(r"\d+s|[A-Za-z]", group_bytes.HEADER.format.removeprefix("<"))
    sizes = [struct.calcsize("<" + code) for code in codes]
    assert [size for _, size in fields] == sizes
    assert [offset for offset, _ in fields] == [sum(sizes[:n]) for n in range(len(sizes))]


# ---- what seals and hashes ----------------------------------------------------------------------


def test_no_nonce_comes_twice_in_threads_or_in_a_child():
    draws = 3 * group_bytes._NONCES // 2
    with ThreadPoolExecutor(4) as pool:
        lots = pool.map(lambda _: [group_bytes._draw_nonce() for _ in range(draws)], range(4))
        drawn = [nonce for lot in lots for nonce in lot]
    assert {len(nonce) for nonce in drawn} == {12}
    ends = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(ends[1], b"".join(group_bytes._draw_nonce() for _ in range(100)))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    heard = os.read(ends[0], 1200)
    drawn += [heard[at : at + 12] for at in range(0, 1200, 12)]
    drawn += [group_bytes._draw_nonce() for _ in range(draws)]
    assert len(set(drawn)) == len(drawn) == 5 * draws + 100


@pytest.mark.parametrize("size", [0, 1, 2046, 2047, 2048, 4094, 4095, 65_536, 65_537, 200_000])
def test_hashing_in_pieces_is_hashing(size):
    data = os.urandom(size)
    assert group_bytes._digest(data) == hashlib.sha256(data).digest()
