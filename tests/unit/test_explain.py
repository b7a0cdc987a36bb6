# SPDX-License-Identifier: GPL-2.0-or-later
"""What an oops or a report shows is understood, and explained by the plan that is in force."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbecguard.guest.procfs import Kallsyms
from mbecguard.plan.explain import Ground, Page, Place, explain, places
from mbecguard.plan.policy import CodeKind
from mbecguard.plan.value import KeepRange, Plan
from mbecguard.values.errors import UserError
from tests.plans import PFNS, TEXT_VA, make_plan

MODULE, DIRECT = 0xFFFFFFFFC0501000, 0xFFFF888000000000
SYMBOLS = Kallsyms(
    b"""0000000000000000 A fixed
ffffffff81000000 T _stext
ffffffff81000000 T _text
ffffffff81000100 T vfs_read
ffffffff81000200 t init.constprop.0
ffffffff81001000 T _etext
ffffffff81002000 d table
ffffffff81010000 B _end
ffffffffc0501000 t init\t[nft]
ffffffffc0502000 t init\t[vfat]
ffffffffc0502100 t bpf_prog_6deef7357e7b4530_sd_fw\t[bpf]
"""
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pfn:0x74800", Place(pfn=0x74800)),
        ("pfn:0X74800", Place(pfn=0x74800)),
        ("pfn:512", Place(pfn=512)),
        ("512", Place(pfn=512)),
        ("00000000000512", Place(pfn=512)),
        ("0x74800000", Place(pfn=0x74800)),
        ("0x74800fff", Place(pfn=0x74800)),
        ("0xffffffff91000000", Place(va=0xFFFFFFFF91000000)),
        ("ffffffff91000000", Place(va=0xFFFFFFFF91000000)),
        ("FFFFFFFF91000000", Place(va=0xFFFFFFFF91000000)),
        ("0x7fffffffffffffff", Place(pfn=0x7FFFFFFFFFFFF)),
        ("0x8000000000000000", Place(va=1 << 63)),
        ("0010:0xffffc90000123000", Place(va=0xFFFFC90000123000)),
        ("RIP: 0010:vfs_read+0x12/0x70", Place(va=TEXT_VA + 0x112, name="vfs_read+0x12")),
        ("? vfs_read+0x12/0x70", Place(va=TEXT_VA + 0x112, name="vfs_read+0x12")),
        (" vfs_read\n", Place(va=TEXT_VA + 0x100, name="vfs_read+0x0")),
        ("vfs_read+9", Place(va=TEXT_VA + 0x109, name="vfs_read+0x9")),
        ("init.constprop.0+0x5", Place(va=TEXT_VA + 0x205, name="init.constprop.0+0x5")),
        ("init+0x10/0x1f [vfat]", Place(va=MODULE + 0x1010, name="init+0x10 [vfat]")),
        ("init+0x10/0x1f [vfat 6c3a9f]", Place(va=MODULE + 0x1010, name="init+0x10 [vfat]")),
        (
            "bpf_prog_6deef7357e7b4530_sd_fw+0x8/0x2c",
            Place(va=MODULE + 0x1108, name="bpf_prog_6deef7357e7b4530_sd_fw+0x8 [bpf]"),
        ),
        ("_text", Place(va=TEXT_VA, name="_text+0x0")),  # not _stext, which lies there as well
        ("table", Place(va=TEXT_VA + 0x2000, name="table+0x0")),
    ],
)
def test_a_place_in_any_notation(text: str, expected: Place) -> None:
    assert places(text, SYMBOLS) == (expected,)


def test_a_name_that_several_functions_have_means_all_of_them() -> None:
    assert [place.name for place in places("init", SYMBOLS)] == ["init+0x0 [nft]", "init+0x0 [vfat]"]
    assert [place.va for place in places("init+0x4/0x9", SYMBOLS)] == [MODULE + 4, MODULE + 0x1004]


WRONG = ["", " ", "pfn:", "pfn:0x", "pfn:x", "0x", "0xfffffffffffffffff", "nobody", "init [xfs]", "vfs_read+", "+0x4"]


@pytest.mark.parametrize("text", [*WRONG, "vfs_read+0x", "a b c", "\udcff", "vfs_read [", "ffffffff9100000"])
def test_what_is_no_place_is_an_error_with_a_hint(text: str) -> None:
    with pytest.raises(UserError, match="no kernel symbol") as caught:
        places(text, SYMBOLS)
    assert "pfn:0x" in caught.value.hint


KERNEL = KeepRange(8, 9, CodeKind.KERNEL_TEXT, "kernel", ".text", TEXT_VA)
NFT = KeepRange(40, 44, CodeKind.MODULE_TEXT, "nft", ".text", MODULE)
SEAL = make_plan()._replace(keep=(KERNEL, NFT))  # text_pa is 0x8000: the image takes page frames 8 to 24


def asked(what: str, *plans: Plan, page_offset: int | None = DIRECT) -> Page:
    (page,) = explain(what, Ground(SYMBOLS, plans or (SEAL,), page_offset)).pages
    return page


def test_the_answer_says_whose_it_is() -> None:
    sealed = explain("pfn:0x9", Ground(SYMBOLS, (SEAL, SEAL), sealed="2026-01-02", simulated=True))
    assert (sealed.what, sealed.sealed, sealed.simulated) == ("pfn:0x9", "2026-01-02", True)
    assert explain("pfn:0x9", Ground(SYMBOLS, (SEAL,))).sealed is None


def test_a_kept_page_by_frame_and_by_address() -> None:
    for what in ("pfn:0x29", "41", "0x29123", f"{MODULE + 0x1000:#x}", f"{DIRECT + 0x29000:#x}"):
        page = asked(what)
        assert (page.pfn, page.kept, page.today) == (41, NFT, None)
        assert page.reason == "text of a loaded module"
    assert (asked("pfn:0x29").va, asked("pfn:0x29").symbol) == (MODULE + 0x1000, "init+0x0")
    assert asked("vfs_read+0x12/0x70").symbol == "vfs_read+0x12"
    assert asked("vfs_read+0x12/0x70").kept == KERNEL


def test_a_denied_page_has_a_symbol_where_its_address_is_known() -> None:
    table = asked("table+0x8")  # data of the kernel's image, by its place in physical memory
    assert (table.pfn, table.kept, table.symbol) == (8 + 2, None, "table+0x8")
    denied = asked("pfn:0x10")
    assert (denied.kept, denied.va, denied.symbol) == (None, TEXT_VA + 0x8000, "table+0x6000")
    assert (asked("pfn:0x30").va, asked("pfn:0x30").symbol) == (None, "")
    heap = asked("ffffc90000123000")
    assert (heap.pfn, heap.va, heap.kept, heap.symbol) == (None, 0xFFFFC90000123000, None, "no symbol")


def test_the_image_ends_where_it_ends() -> None:
    assert asked(f"{TEXT_VA + 0xFFFF:#x}").pfn == 23
    assert asked(f"{TEXT_VA + 0x10000:#x}").pfn is None
    assert asked(f"{TEXT_VA - 1:#x}").pfn is None
    assert (asked("pfn:0x17").va, asked("pfn:0x18").va, asked("pfn:0x7").va) == (TEXT_VA + 0xF000, None, None)


def test_without_a_direct_map_only_code_and_the_image_are_found() -> None:
    assert asked(f"{DIRECT + 0x9000:#x}").pfn == 9
    assert asked(f"{DIRECT + 0x9000:#x}", page_offset=None).pfn is None


def test_beyond_the_physical_space_is_an_error() -> None:
    for what in (f"pfn:{PFNS:#x}", f"{PFNS << 12:#x}", str(PFNS), "9" * 15):
        with pytest.raises(UserError, match="beyond the guest's physical space") as caught:
            asked(what)
        assert f"pfn:{PFNS:#x}" in caught.value.hint


def test_the_seal_answers_and_says_where_today_differs() -> None:
    late = KeepRange(50, 51, CodeKind.BPF, "bpf", "", MODULE + 0x10000)
    later = SEAL._replace(keep=(KERNEL, late))
    new = asked(f"{late.va + 8:#x}", SEAL, later)  # code that was made after the lock
    assert (new.pfn, new.kept, new.today, new.differs) == (50, None, True, True)
    gone = asked("pfn:0x28", SEAL, later)
    assert (gone.kept, gone.today, gone.differs) == (NFT, False, True)
    same = asked("pfn:0x8", SEAL, later)
    assert (same.today, same.differs) == (True, False)


PIECES = ["0x", "pfn:", "+", "/", " [", "]", "RIP: ", "0010:", "? ", "init", "_text", "ff", "0", "\n", "�"]


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=8).map("".join))
def test_any_text_is_a_place_or_an_error_with_a_hint(text: str) -> None:
    found: tuple[Place, ...] = ()
    hint = ""
    try:
        found = places(text, SYMBOLS)
    except UserError as error:
        hint = error.hint
    assert bool(found) != bool(hint)
    assert all((place.pfn is None) != (place.va is None) for place in found)
