# SPDX-License-Identifier: GPL-2.0-or-later
"""The walk over page tables against a naive one, tables that are garbage, and the file of mappings."""

from __future__ import annotations

import json
import random
import struct
import time
from contextlib import suppress
from dataclasses import astuple
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbecguard.guest import execmap
from mbecguard.guest.execmap import Mapping, PageTables
from mbecguard.values.errors import UserError
from mbecguard.values.pages import PageRange
from tests.walker import NX, PAT, PS, Memory, P, Tables, U, W, canonical, executable_pages, spread

TOP = 2**64
KERNEL = 0xFFFFFFFF81000000
GLOBAL, DIRTY, PROTECTION_KEY = 1 << 8, 1 << 6, 5 << 59


def walk(tables: Tables, half: bool = False, mask: int = 0) -> tuple[Mapping, ...]:
    walker = PageTables(tables.memory().get, encryption_mask=mask)
    return walker.executable(tables.root, tables.levels, kernel_half_only=half)


@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize(("level", "size"), [(1, 1 << 12), (2, 1 << 21), (3, 1 << 30)])
@pytest.mark.parametrize("index", [0, 255, 256, 511])
def test_one_leaf_of_each_size_at_each_end(levels: int, level: int, size: int, index: int) -> None:
    va = canonical(index << 12 + 9 * (levels - 1), levels)
    tables = Tables(levels)
    tables.map(va, 1 << 30, P | W, level)
    assert walk(tables) == (Mapping(va, 1 << 30, size, writable=True),)
    assert walk(tables, half=True) == (walk(tables) if index >= 256 else ())


@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize("where", range(6))
@pytest.mark.parametrize(("bit", "found"), [(NX, None), (W, (False, True)), (U, (True, False)), (0, (True, True))])
def test_rights_hold_only_if_every_level_grants_them(
    levels: int, where: int, bit: int, found: tuple[bool, bool] | None
) -> None:
    tables = Tables(levels)
    tables.map(KERNEL, 0x5000, P | W | U)
    tables.map(KERNEL + 0x1000, 0x9000, P | W | U | NX)
    table, level = tables.root, levels
    while level > max(levels - where, 1):
        table, level = tables.entries[table][KERNEL >> 12 + 9 * (level - 1) & 511] & ~0xFFF, level - 1
    index = KERNEL >> 12 + 9 * (level - 1) & 511
    tables.entries[table][index] ^= bit  # NX is clear and W, U are set before
    assert walk(tables) == ((Mapping(KERNEL, 0x5000, 4096, *found),) if found else ())


@pytest.mark.parametrize(
    ("entry", "level", "pa"),
    [
        (0x200000 | P | PS | PAT, 2, 0x200000),  # bit 12 of a large leaf
        (0x40000000 | P | PS | PAT, 3, 0x40000000),
        (0x3000 | P | PS, 1, 0x3000),  # bit 7 of a small one
        (0x3000 | P | GLOBAL | DIRTY | PROTECTION_KEY | 7 << 9 | 1 << 58, 1, 0x3000),
        ((1 << 52) - 4096 | P, 1, (1 << 52) - 4096),
        (1 << 52 | 0x3000 | P, 1, 0x3000),  # ignored bits
        (1 << 51 | 0x3000 | P, 1, 1 << 51 | 0x3000),
    ],
)
def test_bits_that_are_no_address(entry: int, level: int, pa: int) -> None:
    tables = Tables()
    tables.map(KERNEL, 0, P, level)
    table = next(pa for pa, entries in tables.entries.items() if P in entries.values() or P | PS in entries.values())
    index = next(iter(tables.entries[table]))
    tables.set(table, index, entry)
    (mapping,) = walk(tables)
    assert (mapping.pa, mapping.bytes) == (pa, 4096 << 9 * (level - 1))


def test_the_encryption_bit_is_no_address() -> None:
    c_bit = 1 << 47
    tables = Tables()
    tables.map(KERNEL, 0x5000)
    for table in tables.entries.values():
        table.update({index: entry | c_bit for index, entry in table.items()})
    assert walk(tables, mask=c_bit) == (Mapping(KERNEL, 0x5000, 4096),)
    with pytest.raises(UserError, match="outside memory"):
        walk(tables)


def test_extents_merge_only_where_everything_goes_on() -> None:
    tables = Tables()
    for page, pa, flags in [(0, 8, P), (1, 9, P), (2, 10, P | W), (3, 11, P | W), (4, 13, P), (6, 15, P), (7, 14, P)]:
        tables.map(KERNEL + page * 4096, pa * 4096, flags)
    tables.map(KERNEL + (2 << 20), 16 << 21, P, 2)
    tables.map(KERNEL + (4 << 20), 17 << 21, P, 2)
    found = [((m.va - KERNEL) >> 12, m.pa >> 12, m.bytes >> 12, m.writable) for m in walk(tables)]
    assert found == [
        (0, 8, 2, False),
        (2, 10, 2, True),
        (4, 13, 1, False),
        (6, 15, 1, False),
        (7, 14, 1, False),
        (512, 8192, 1024, False),
    ]


@pytest.mark.parametrize("levels", [4, 5])
def test_no_extent_spans_the_hole_or_the_end(levels: int) -> None:
    half = 1 << 11 + 9 * levels
    tables = Tables(levels)
    tables.map(half - 4096, 0x5000)
    tables.map(TOP - half, 0x6000)
    tables.map(TOP - 4096, 0x4000)
    tables.map(0, 0x5000)
    found = [(m.va, m.bytes) for m in walk(tables)]
    assert found == [(0, 4096), (half - 4096, 4096), (TOP - half, 4096), (TOP - 4096, 4096)]


def test_the_other_half_may_be_garbage() -> None:
    tables = Tables()
    tables.map(KERNEL, 0x5000)
    tables.set(tables.root, 0, 0xDEAD000 | P)
    assert walk(tables, half=True) == (Mapping(KERNEL, 0x5000, 4096),)
    with pytest.raises(UserError, match="outside memory"):
        walk(tables)


def test_what_is_not_executable_is_not_even_read() -> None:
    tables = Tables()
    tables.map(KERNEL, 0x5000)
    tables.set(tables.root, 300, 0xDEAD000 | P | NX)
    tables.set(tables.root, 301, 0xDEAD000)
    assert len(walk(tables)) == 1


def test_one_walker_serves_twice() -> None:
    tables = Tables()
    tables.map(0x400000, 0x7000)
    tables.map(KERNEL, 0x5000)
    walker = PageTables(tables.memory().get)
    assert len(walker.executable(tables.root, 4)) == 1
    assert len(walker.executable(tables.root, 4, kernel_half_only=False)) == 2


leaf = st.tuples(
    st.integers(0, 3), st.integers(0, 2), st.integers(0, 3), st.integers(1, 3), st.integers(0, 5), st.integers(0, 15)
)
FLAGS = [P | w | u | nx for w in (0, W) for u in (0, U) for nx in (0, NX)] + [0] * 8


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([4, 5]), st.lists(leaf, max_size=12), st.lists(st.sampled_from(FLAGS[:8]), min_size=4, max_size=4)
)
def test_the_naive_walk_agrees(levels: int, leaves: list[tuple[int, ...]], above: list[int]) -> None:
    tables, probes = Tables(levels), set()
    for top, middle, page, level, frame, flags in leaves:
        va = canonical((0, 255, 256, 511)[top] << 12 + 9 * (levels - 1) | middle << 21 | page << 12, levels)
        va &= -(4096 << 9 * (level - 1))
        with suppress(KeyError):  # below a large leaf that is there already
            tables.map(va, frame << 12 + 9 * (level - 1), FLAGS[flags], level, above[top])
        probes |= {va + at for at in range(0, 6 << 12, 1 << 12)} | {va + (at << 21) for at in range(512)}
    memory = tables.memory() | {tables.root: tables.memory().get(tables.root, bytes(4096))}
    walker = PageTables(memory.get)
    found = walker.executable(tables.root, levels, kernel_half_only=False)
    assert list(found) == sorted(found, key=lambda m: m.va)
    naive = executable_pages(memory, tables.root, levels, probes)
    ours = {at for m in found for at in covered(m, probes)}
    assert ours == naive
    for slot in (0, 255, 256, 511):
        start, size = canonical(slot << 12 + 9 * (levels - 1), levels), 1 << 12 + 9 * (levels - 1)
        part = PageTables(memory.get).within(tables.root, levels, range(start, start + size))
        assert part == tuple(m for m in found if m.va in range(start, start + size))
    for m in found:  # extents are maximal, and nothing outside the probes was made up
        first, last = canonical(m.va, levels), m.va + m.bytes - 4096
        assert m.va == first
        assert executable_pages(memory, tables.root, levels, (m.va, last)) == set(
            spread([(m.va, m.pa, 4096, m.writable, m.user), (last, m.pa + m.bytes - 4096, 4096, m.writable, m.user)])
        )


def covered(m: Mapping, probes: set[int]) -> set[tuple[int, int, bool, bool]]:
    return {(va, m.pa + va - m.va, m.writable, m.user) for va in probes if m.va <= va < m.va + m.bytes}


def test_loops_and_tables_at_two_levels() -> None:
    for make in (self_map, loop_below, shared_across_levels):
        tables = Tables()
        tables.map(0xFFFF800000000000, 0x5000)
        make(tables)
        with pytest.raises(UserError, match="used at levels") as caught:
            walk(tables)
        assert caught.value.hint


def self_map(tables: Tables) -> None:
    tables.set(tables.root, 300, tables.root | P)


def loop_below(tables: Tables) -> None:
    second = tables.entries[tables.root][256] & ~0xFFF
    tables.set(second, 1, second | P)


def shared_across_levels(tables: Tables) -> None:
    second = tables.entries[tables.root][256] & ~0xFFF
    third = tables.entries[second][0] & ~0xFFF
    tables.set(tables.root, 400, third | P)


@pytest.mark.parametrize(("levels", "level"), [(4, 4), (5, 5), (5, 4)])
def test_there_are_no_leaves_that_large(levels: int, level: int) -> None:
    tables = Tables(levels)
    tables.map(KERNEL, 0, P, level)
    with pytest.raises(UserError, match=f"level {level} has a reserved bit"):
        walk(tables)


@pytest.mark.parametrize("short", [b"", bytes(4095), None])
def test_tables_that_cannot_be_read(short: bytes | None) -> None:
    with pytest.raises(UserError, match="outside memory"):
        PageTables(lambda pa: short).executable(0, 4)
    assert PageTables(lambda pa: bytes(4096)).executable(0, 4) == ()


def fan(levels: int, leaf_of: Any, flags: list[int]) -> Memory:
    """One table a level, all of whose entries lead to the one below: 512**levels leaves in a few pages."""
    memory = {0x1000: struct.pack("<512Q", *(leaf_of(i) | P for i in range(512)))}
    for level in range(2, levels + 1):
        below = (level - 1) << 12
        memory[level << 12] = struct.pack("<512Q", *[below | flags[level % len(flags)]] * 512)
    return memory


@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize(
    "leaf_of",
    [lambda i: i << 13, lambda i: i << 12, lambda i: 0, lambda i: i << 12 | (W if i % 2 else 0)],
    ids=["scattered", "contiguous", "same", "alternating"],
)
def test_shared_tables_do_not_explode(levels: int, leaf_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execmap, "LEAF_LIMIT", 1 << 16)
    start = time.process_time()
    with pytest.raises(UserError, match="executable leaves"):
        PageTables(fan(levels, leaf_of, [P]).get).executable(levels << 12, levels)
    assert time.process_time() - start < 2


def test_the_limit_itself_is_bearable() -> None:
    start = time.process_time()
    with pytest.raises(UserError, match="executable leaves") as caught:
        PageTables(fan(4, lambda i: i << 13, [P]).get).executable(0x4000, 4)
    assert caught.value.hint
    assert time.process_time() - start < 10


def test_work_is_bounded_where_extents_melt_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rights that differ below and not above: many leaves to look at, few extents to show for them."""
    monkeypatch.setattr(execmap, "LEAF_LIMIT", 1 << 14)
    memory = fan(2, lambda i: i << 12 | (W if i % 2 else 0), [P])
    memory[0x3000] = struct.pack("<512Q", *((0x100000 + (i << 12)) | P for i in range(512)))
    memory |= {0x100000 + (i << 12): struct.pack("<512Q", 0x1000 | P, *[0] * 511) for i in range(512)}
    memory[0x4000] = struct.pack("<512Q", *[0] * 511, 0x3000 | P)
    with pytest.raises(UserError, match="executable leaves"):
        PageTables(memory.get).executable(0x4000, 4)


def test_the_number_of_tables_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execmap, "TABLE_LIMIT", 4)
    tables = Tables()
    tables.map(KERNEL, 0x5000)
    assert len(walk(tables)) == 1
    tables.map(KERNEL + (1 << 30), 0x5000)
    with pytest.raises(UserError, match="more than 4 page tables"):
        walk(tables)


def test_a_large_direct_map_is_walked_at_once() -> None:
    tables = Tables()
    base = 0xFFFF888000000000
    for gigabyte in range(1024):
        tables.map(base + (gigabyte << 30), 0, P | W | NX, 2, above=P | W)
    memory, full = tables.memory(), struct.pack("<512Q", *[P | W | PS | NX] * 512)
    uppers = {tables.root, *(entry & ~0xFFF for entry in tables.entries[tables.root].values())}
    memory |= {pa: full for pa in memory if pa not in uppers}
    start = time.process_time()
    assert PageTables(memory.get).executable(tables.root, 4) == ()
    assert time.process_time() - start < 2


@pytest.mark.parametrize("levels", [4, 5])
def test_what_lies_outside_a_span_is_not_read(levels: int) -> None:
    tables, inside, outside = Tables(levels), 0xFFFFFFEF40000000, (0x400000, 0xFFFF888000000000, KERNEL)
    for va in (inside, inside + 0x200000, *outside):
        tables.map(va, 0x5000)
    memory, read = tables.memory(), set()

    def reading(pa: int) -> bytes | None:
        read.add(pa)
        return memory.get(pa)

    found = PageTables(reading).within(tables.root, levels, range(0xFFFFFFEF00000000, 0xFFFFFFFF00000000))
    assert [m.va for m in found] == [inside, inside + 0x200000]
    assert len(read) == levels + 1, "the way to the two, and nothing of the others"


@pytest.mark.parametrize("index", [0, 7, 255, 511])
@pytest.mark.parametrize("frame", [1, 1 << 35])
def test_one_executable_entry_among_nx(index: int, frame: int) -> None:
    tables, base = Tables(4), KERNEL & -(1 << 21)
    for other in range(512):
        tables.map(base + (other << 12), (other + 1) << 12, P | NX)
    assert walk(tables) == ()
    tables = Tables(4)
    for other in range(512):
        flags = P if other == index else P | NX
        tables.map(base + (other << 12), frame << 12 if other == index else (other + 1) << 12, flags)
    assert walk(tables) == (Mapping(base + (index << 12), frame << 12, 4096),)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([4, 5]), st.sampled_from([1, 4, 40]), st.booleans())
def test_garbage_tables(seed: int, levels: int, pages: int, half: bool) -> None:
    """A walk over random pages ends in a result or a user error."""
    chance = random.Random(seed)
    mask = (pages - 1) << 12 | 0xFFF | NX
    memory = {}
    for page in range(pages):
        words = (chance.getrandbits(64) & mask if chance.random() < 0.05 else 0 for _ in range(512))
        memory[page << 12] = struct.pack("<512Q", *words)
    try:
        found = PageTables(memory.get).executable(0, levels, kernel_half_only=half)
    except UserError as error:
        found, hint = (), error.hint
        assert hint
    assert all(m.bytes > 0 and m.va + m.bytes <= TOP for m in found)


def entry(**changes: Any) -> dict[str, Any]:
    return {"va": KERNEL, "pa": 0x5000, "bytes": 4096, "writable": False, "user": False} | changes


def document(*rows: Any) -> str:
    return json.dumps({"schema": "mbecguard.execmap/1", "mappings": list(rows)})


extents = st.builds(
    Mapping,
    va=st.integers(0, 99).map(lambda n: TOP - (100 - n << 24)),
    pa=st.integers(0, (1 << 40) - 99).map(lambda n: n << 12),
    bytes=st.integers(1, 99).map(lambda n: n << 12),
    writable=st.booleans(),
    user=st.booleans(),
)


@given(st.lists(extents, unique_by=lambda m: m.va))
def test_the_file_holds_what_was_put_into_it(mappings: list[Mapping]) -> None:
    text = execmap.dump(mappings)
    assert execmap.load(text) == tuple(sorted(mappings, key=lambda m: m.va))
    assert len(json.loads(text)["mappings"]) == len(mappings)


def test_hex_strings_and_missing_flags() -> None:
    row = {"va": "0xffffffff81000000", "pa": "0x5000", "bytes": "4096"}
    assert execmap.load(document(row)) == (Mapping(KERNEL, 0x5000, 4096),)
    assert execmap.load(document()) == ()
    assert astuple(execmap.load(document(entry(writable=True, user=True)))[0])[3:] == (True, True)


def test_ranges_in_pages() -> None:
    mapping = Mapping(KERNEL, 0x5000, 8192)
    assert mapping.virtual == PageRange(KERNEL >> 12, (KERNEL >> 12) + 2)
    assert mapping.frames == PageRange(5, 7)


@pytest.mark.parametrize(
    "text",
    [
        *("", "[", "[]", "{}", "null", "7", '"x"', "[" * 100000, '{"schema":"mbecguard.execmap/1"}', "\ufffd"),
        '{"schema":"mbecguard.execmap/2","mappings":[]}',
        '{"schema":"mbecguard.execmap/1","mappings":{"a":1}}',
        '{"schema":"mbecguard.execmap/1","mappings":7}',
        document(None),
        document("row"),
        document([1, 2, 3]),
        document({}),
        document(entry(va=None)),
        document(entry(va=1.5)),
        document(entry(va=True)),
        document(entry(va=[])),
        document(entry(va="")),
        document(entry(va="ffff")),
        document(entry(va=float("inf"))),
        document(entry(va=float("nan"))),
        document(entry(va=-4096)),
        document(entry(pa=-4096)),
        document(entry(bytes=0)),
        document(entry(bytes=-4096)),
        document(entry(va=KERNEL + 1)),
        document(entry(pa=0x5008)),
        document(entry(bytes=4095)),
        document(entry(va=TOP)),
        document(entry(va=TOP - 4096, bytes=8192)),
        document(entry(pa=1 << 52)),
        document(entry(bytes=1 << 60)),
        document(entry(bytes=1 << 4000)),
        document(entry()).replace("4096", "9" * 5000),
        document(entry(user="no")),
        document(entry(writable=1)),
        document(entry(usre=True)),
        document(entry(), entry()),
        document(entry(bytes=8192), entry(va=KERNEL + 4096)),
    ],
    ids=range(43),
)
def test_files_that_are_no_map(text: str) -> None:
    with pytest.raises(UserError, match=r"toy\.json") as caught:
        execmap.load(text, "toy.json")
    assert caught.value.hint


def test_neighbours_do_not_overlap() -> None:
    assert len(execmap.load(document(entry(va=KERNEL + 4096), entry()))) == 2
