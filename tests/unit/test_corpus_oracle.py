# SPDX-License-Identifier: GPL-2.0-or-later
"""The host-side page-table walk of the corpus, on tables written by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.corpus.oracle import Leaf, Ram, differences, int3_pages, survey, translate, walk

P, W, U, PS, NX = 1, 2, 4, 0x80, 1 << 63
PAGE, MIB2, GIB = 4096, 2 << 20, 1 << 30
TOP = 0xFFFF_8000_0000_0000
TOP5 = 0xFF00_0000_0000_0000


def ram(tmp_path: Path, entries: dict[tuple[int, int], int], pages: dict[int, bytes] | None = None) -> Ram:
    """RAM of 16 pages: `entries` by (table's address, index), `pages` by address."""
    data = bytearray(16 * PAGE)
    for (table, index), entry in entries.items():
        data[table + 8 * index : table + 8 * index + 8] = entry.to_bytes(8, "little")
    for address, content in (pages or {}).items():
        data[address : address + PAGE] = content
    (tmp_path / "ram").write_bytes(data)
    return Ram(tmp_path / "ram")


#: PML4 at 0x1000, PDPT 0x2000, PD 0x3000, PT 0x4000; entry 256 is the first of the kernel half.
CHAIN = {(0x1000, 256): 0x2000 | P | W, (0x2000, 0): 0x3000 | P | W, (0x3000, 0): 0x4000 | P | W}


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({(0x4000, 0): 0x5000 | P}, [Leaf(TOP, 0x5000, PAGE, False, False)]),
        ({(0x4000, 511): 0x5000 | P | W}, [Leaf(TOP + 511 * PAGE, 0x5000, PAGE, True, False)]),
        ({(0x4000, 0): 0x5000 | P | NX}, []),
        ({(0x4000, 0): 0x5000}, []),
        ({(0x4000, 0): 0x5000 | P | U}, [Leaf(TOP, 0x5000, PAGE, False, False)]),
        ({(0x3000, 0): 0x4000 | P | NX, (0x4000, 0): 0x5000 | P}, []),
        ({(0x3000, 0): 0x4000 | P, (0x4000, 0): 0x5000 | P | W}, [Leaf(TOP, 0x5000, PAGE, False, False)]),
        # Bit 12 of a large leaf is PAT, no address bit; bit 7 of a 4 KiB leaf is PAT, no size.
        ({(0x3000, 1): MIB2 | 0x1000 | P | PS}, [Leaf(TOP + MIB2, MIB2, MIB2, False, False)]),
        ({(0x2000, 3): GIB | P | PS | W}, [Leaf(TOP + 3 * GIB, GIB, GIB, True, False)]),
        ({(0x4000, 1): 0x6000 | P | PS}, [Leaf(TOP + PAGE, 0x6000, PAGE, False, False)]),
    ],
)
def test_walk_combines_rights_over_all_levels(
    tmp_path: Path, entries: dict[tuple[int, int], int], expected: list[Leaf]
) -> None:
    assert list(walk(ram(tmp_path, CHAIN | entries), 0x1000, 4)) == expected


def test_a_page_that_is_user_at_every_level_is_no_supervisor_page(tmp_path: Path) -> None:
    chain = {key: entry | U for key, entry in CHAIN.items()}
    assert not list(walk(ram(tmp_path, chain | {(0x4000, 0): 0x5000 | P | U}), 0x1000, 4))


def test_five_levels_and_the_lower_half(tmp_path: Path) -> None:
    five = {(0x8000, 256): 0x1000 | P | W, (0x8000, 0): 0x1000 | P} | CHAIN | {(0x4000, 2): 0x5000 | P | W}
    memory = ram(tmp_path, five)
    offset = 256 * 512 * GIB + 2 * PAGE
    lower = Leaf(offset, 0x5000, PAGE, False, False)
    upper = Leaf(TOP5 + offset, 0x5000, PAGE, True, False)
    assert list(walk(memory, 0x8000, 5)) == [lower, upper]
    assert list(walk(memory, 0x8000, 5, first=256)) == [upper]
    assert translate(memory, 0x8000, 5, upper.va + 0x123) == 0x5123
    assert translate(memory, 0x8000, 5, upper.va + PAGE) is None


def test_only_pages_full_of_int3_count(tmp_path: Path) -> None:
    full, almost = b"\xcc" * PAGE, b"\xcc" * (PAGE - 1) + b"\x90"
    memory = ram(tmp_path, {}, {0x5000: full, 0x6000: full, 0x7000: almost, 0x8000: full, 0x9000: full})
    leaves = [Leaf(TOP, pa, PAGE, False, False) for pa in (0x5000, 0x6000, 0x7000, 0x9000)]
    assert int3_pages(memory, leaves) == [(5, 7), (9, 10)]


def test_extents_and_leaves_of_the_same_pages_do_not_differ() -> None:
    leaves = [Leaf(TOP + n * PAGE, 0x5000 + n * PAGE, PAGE, False, False).as_json() for n in range(3)]
    extent = Leaf(TOP, 0x5000, 3 * PAGE, False, False).as_json()
    other = Leaf(TOP + 3 * PAGE, 0x5000, PAGE, False, False).as_json()
    assert differences({"init_mm": leaves[:1], "efi_mm": leaves[1:]}, [extent]) == set()
    assert differences({"init_mm": leaves[:2]}, [extent]) == {(TOP + 2 * PAGE, 0x7000)}
    assert differences({"init_mm": leaves}, [extent, other]) == {(TOP + 3 * PAGE, 0x5000)}


@pytest.mark.parametrize(("pti", "cr3"), [(1, 0x3007), (1, 0x2000), (0, 0x2018), (0, 0x2000)])
def test_the_root_is_the_kernel_half_of_the_pair(tmp_path: Path, pti: int, cr3: int) -> None:
    entries = {(0x2000, 256): 0x4000 | P, (0x4000, 0): 0x5000 | P, (0x5000, 0): MIB2 | P | PS}
    found = survey(ram(tmp_path, entries), {"CR3": cr3, "CR4": 0}, {}, {"pti": pti})
    assert [leaf["pa"] for leaf in found["tables"]["init_mm"]] == [MIB2]
    assert found["memory"]["top_table_pa"] == 0x2000


@pytest.mark.parametrize(
    ("size", "address", "offset"),
    [
        (GIB, 0, 0),
        (GIB, GIB - 8, GIB - 8),
        (GIB, GIB, None),
        (3 * GIB, 2 * GIB - 8, 2 * GIB - 8),
        (3 * GIB, 2 * GIB, None),
        (3 * GIB, 4 * GIB, 2 * GIB),
        (3 * GIB, 5 * GIB - 8, 3 * GIB - 8),
        (3 * GIB, 5 * GIB, None),
    ],
)
def test_the_pci_hole(tmp_path: Path, size: int, address: int, offset: int | None) -> None:
    path = tmp_path / "ram"
    with path.open("wb") as file:
        file.truncate(size)
        if offset is not None:
            file.seek(offset)
            file.write(b"at home!")
    assert Ram(path).read(address, 8) == (b"at home!" if offset is not None else b"")
