# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel prints, and what garbage in its place does."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbecguard.guest.procfs import (
    IomemRegion,
    Kallsyms,
    LoadedModule,
    Symbol,
    VmallocArea,
    page_frames,
    parse_iomem,
    parse_max_pfn,
    parse_modules,
    parse_number,
    parse_vmallocinfo,
    source_name,
)
from mbecguard.values.errors import UserError
from mbecguard.values.pages import PageRange

KALLSYMS = b"""\
0000000000000000 A fixed_percpu_data
ffffffff81000000 T _text
ffffffff81000000 T startup_64
ffffffff81000010 t local
ffffffff81000010 t local
ffffffff82000000 T _etext
ffffffff83000000 B x_text
ffffffffc0000100 t probe\t[virtio_net]
ffffffffc0000200 t bpf_prog_1_a\t[bpf]
ffffffffc0000300 t bpf_prog_2_b\t[bpf]
ffffffffc0001000 t slot\t[__builtin__kprobes]
"""
TEXT = b"ffffffff81000000 T _text\n"


@pytest.mark.parametrize(
    ("name", "va"),
    [
        ("_text", 0xFFFFFFFF81000000),
        ("_etext", 0xFFFFFFFF82000000),
        ("x_text", 0xFFFFFFFF83000000),
        ("fixed_percpu_data", 0),
        ("text", None),
        ("_tex", None),
        ("probe", None),  # a module's
        ("\udcff", None),  # as os.fsdecode makes it of a byte that is not UTF-8
        ("", None),
    ],
)
def test_address(name: str, va: int | None) -> None:
    assert Kallsyms(KALLSYMS).address(name) == va


def test_tags() -> None:
    first, second = Kallsyms(KALLSYMS).tagged("bpf")
    assert first == Symbol(0xFFFFFFFFC0000200, "bpf_prog_1_a", "bpf")
    assert second.name == "bpf_prog_2_b"
    assert [s.name for s in Kallsyms(KALLSYMS).tagged("__builtin__kprobes")] == ["slot"]
    assert Kallsyms(KALLSYMS).tagged("virtio") == ()
    unfinished = Kallsyms(TEXT + b"ffffffffc0000200 t a\t[bpf]").tagged("bpf")
    assert [s.va for s in unfinished] == [0xFFFFFFFFC0000200]


@pytest.mark.parametrize(
    ("va", "name"),
    [
        (0xFFFFFFFF81000000, "_text+0x0"),  # the first name of an address
        (0xFFFFFFFF8100000F, "_text+0xf"),
        (0xFFFFFFFF81000010, "local+0x0"),
        (0xFFFFFFFF83000001, "x_text+0x1"),
        (0xFFFFFFFFC0001FFF, "slot+0xfff"),
        (0, "fixed_percpu_data+0x0"),
        (0xFFFF888000099000, "no symbol"),  # only per-CPU offsets lie below
        (0xFFFFFFFFFFFFFFFF, "slot+0x3fffefff"),
    ],
)
def test_nearest(va: int, name: str) -> None:
    assert Kallsyms(KALLSYMS).nearest(va) == name


def test_a_module_symbol_is_found_where_the_kernel_has_none_of_that_name() -> None:
    kernel = b"ffffffff81000000 T _text\nffffffff81000010 t both\n"
    symbols = Kallsyms(kernel + b"ffffffffc0000000 t both\t[m]\nffffffffc0000020 t one\t[m]\n")
    assert symbols.address("one") is None
    assert [(s.va, s.tag) for s in symbols.named("one")] == [(0xFFFFFFFFC0000020, "m")]
    assert [(s.va, s.tag) for s in symbols.named("both")] == [(0xFFFFFFFF81000010, ""), (0xFFFFFFFFC0000000, "m")]
    assert symbols.named("on") == ()
    assert symbols.named("") == ()


def test_of_several_symbols_of_a_name_code_is_meant() -> None:
    text = b"ffffffff81000000 T _text\nffffffff82000000 d name\nffffffff81000010 t name\nffffffff83000000 b only\n"
    assert [s.va for s in Kallsyms(text).named("name")] == [0xFFFFFFFF81000010]
    assert [s.va for s in Kallsyms(text).named("only")] == [0xFFFFFFFF83000000]


def test_nothing_lies_below_the_first_symbol() -> None:
    assert Kallsyms(TEXT).nearest(0xFFFFFFFF80FFFFFF) == "no symbol"


def test_a_symbol_says_nothing_about_what_lies_far_behind_it() -> None:
    symbols = Kallsyms(b"ffffffff80000000 T _text\n")
    assert symbols.nearest(0xFFFFFFFFBFFFFFFF) == "_text+0x3fffffff"
    assert symbols.nearest(0xFFFFFFFFC0000000) == "no symbol"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty or absent"),
        (KALLSYMS.replace(b" _text", b" _other"), "lack _text"),
        (b"0000000000000000 T _text\n", "hidden"),
        (b"0000000000001000 T _text\n", "no kernel address"),
        (b"zzz T _text\n", "malformed line"),
        (b"\xff\0\n" * 9, "lack _text"),
        (b" _text\n", "malformed line"),
    ],
    ids=range(7),
)
def test_unusable_symbols(data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Kallsyms(data)
    assert caught.value.hint


def test_a_damaged_tag() -> None:
    with pytest.raises(UserError, match="malformed"):
        Kallsyms(TEXT + b"rubbish\t[bpf]\n").tagged("bpf")


@given(st.binary(max_size=80))
def test_garbage_among_the_symbols(garbage: bytes) -> None:
    try:
        symbols = Kallsyms(KALLSYMS + garbage + b"\n")
        symbols.tagged("bpf")
    except UserError:
        return
    assert symbols.address("_text") == 0xFFFFFFFF81000000
    assert symbols.nearest(0xFFFFFFFF81000001) == "_text+0x1"


def test_iomem() -> None:
    text = """\
00000000-00000fff : Reserved
00100000-afffffff : System RAM
  6a400000-6b3fffff : Kernel code
  73000000-7affffff : Crash kernel
not a line
fffffffffffffffff-10000000000000000 : seventeen digits
80000000-7fffffff : empty
"""
    regions = parse_iomem(text)
    assert [r.name for r in regions] == ["Reserved", "System RAM", "Kernel code", "Crash kernel"]
    assert regions[2] == IomemRegion(0x6A400000, 0x6B400000, "Kernel code")
    assert page_frames(regions[2]) == PageRange(0x6A400, 0x6B400)
    assert page_frames(IomemRegion(0xFFF, 0x1001, "")) == PageRange(0, 2)


def test_iomem_hidden_or_empty() -> None:
    with pytest.raises(UserError, match="hidden") as caught:
        parse_iomem("00000000-00000000 : Reserved\n  00000000-00000000 : Kernel code\n")
    assert "CAP_SYS_ADMIN" in caught.value.hint
    assert parse_iomem("") == ()
    assert parse_iomem("00000000-00000000 : a\n00000000-00000001 : b\n")[1].name == "b"


def test_modules() -> None:
    text = "nf_tables 360448 2 nft_ct,nft_nat, Live 0xffffffffc0a4b000 (OE)\nxfs 8 0 - Loading 0x0000000000000000\n"
    assert parse_modules(text) == (
        LoadedModule("nf_tables", 360448, "Live", text_va=0xFFFFFFFFC0A4B000),
        LoadedModule("xfs", 8, "Loading"),
    )
    assert parse_modules("xfs 8 - - Live 0x0\n") == (LoadedModule("xfs", 8, "Live", unload=False),)
    assert parse_modules("") == ()


@pytest.mark.parametrize(
    "line",
    [
        "xfs 8 0 - Live",
        "xfs eight 0 - Live 0x0",
        "xfs ² 0 - Live 0x0",
        f"xfs {'9' * 5000} 0 - Live 0x0",
        "../../etc 8 0 - Live 0x0",
        "a/b 8 0 - Live 0x0",
        ".. 8 0 - Live 0x0",
        "x\0fs 8 0 - Live 0x0",
        "",
        "\ufffd\ufffd",
    ],
)
def test_malformed_module_lines(line: str) -> None:
    with pytest.raises(UserError, match="malformed line") as caught:
        parse_modules(f"ok 8 0 - Live 0x0\n{line}\n")
    assert caught.value.hint


def test_vmallocinfo_tells_who_asked_and_where_if_addresses_are_shown() -> None:
    text = """\
0x00000000d6283122-0x00000000ee6714e2   20480 irq_init_percpu_irqstack+0xf8/0x130 vmap
0xffffffffc0520000-0xffffffffc0522000    8192 apply_retpolines+0x39f/0x640 pages=1 vmalloc
0xffffffffc0530000-0xffffffffc0530000       0 empty+0x1/0x2
0xffffffffc0540000-0xffffffffc0542000    8192 unpurged vm_area
0xffffffffc0550000-0xffffffffc0552000    8192 create_trampoline.isra.0+0x1/0x2 pages=1 vmalloc
0xffffffffc0560000-0xffffffffc0562000   12288 wrong+0x1/0x2 pages=2 vmalloc
0xffffffffc3000000-0xffffffffc3003000   12288 rtR0MemAllocEx+0x12a/0x3e0 [vboxguest] pages=2 vmalloc N0=2
0x0000000000000000-0x0000000000000000 2101248 alloc_new_pack.llvm.4242424242+0x1f/0x90 pages=512 vmalloc
"""
    assert parse_vmallocinfo(text) == (
        VmallocArea(None, 20480, "irq_init_percpu_irqstack"),
        VmallocArea(0xFFFFFFFFC0520000, 8192, "apply_retpolines"),
        VmallocArea(0xFFFFFFFFC0550000, 8192, "create_trampoline"),
        VmallocArea(None, 12288, "wrong"),
        VmallocArea(0xFFFFFFFFC3000000, 12288, "rtR0MemAllocEx", "vboxguest"),
        VmallocArea(None, 2101248, "alloc_new_pack"),
    )
    assert parse_vmallocinfo("garbage\n0x-0x 1 a+0x") == ()


@pytest.mark.parametrize(
    ("bits", "pfns"), [("32", 1 << 20), ("39", 1 << 27), ("46", 1 << 34), ("52", 1 << 40), ("999999999999", 1 << 40)]
)
def test_physical_width(bits: str, pfns: int) -> None:
    assert parse_max_pfn(f"flags\t: x\naddress sizes\t: {bits} bits physical, 48 bits virtual\n") == pfns


def test_physical_width_absent_or_impossible() -> None:
    assert parse_max_pfn("") == parse_max_pfn("address sizes: none") == 1 << 40
    for bits in (0, 31, 53, 999999999):
        with pytest.raises(UserError, match=f"{bits} physical address bits"):
            parse_max_pfn(f"address sizes\t: {bits} bits physical, 48 bits virtual\n")


@pytest.mark.parametrize(
    ("text", "value"), [("0\n", 0), ("12", 12), ("0x10\n", 16), ("0xffffffffffffffff", 2**64 - 1), ("010", 10)]
)
def test_numbers(text: str, value: int) -> None:
    assert parse_number(text, "/x") == value


@pytest.mark.parametrize("text", ["", "-5", "0x", "1_0", "²", "0x10000000000000000", "9" * 5000, "(null)", "1 2"])
def test_no_numbers(text: str) -> None:
    with pytest.raises(UserError, match="/x does not hold a number"):
        parse_number(text, "/x")


@pytest.mark.parametrize("parse", [parse_iomem, parse_modules, parse_vmallocinfo, parse_max_pfn])
@given(text=st.text(alphabet="0123456789abcdefx-: +\n\0²Live", max_size=60))
def test_garbage_is_a_user_error_at_worst(parse: Callable[[str], object], text: str) -> None:
    with suppress(UserError):
        parse(text)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("alloc_new_pack", "alloc_new_pack"),
        ("alloc_new_pack.llvm.4242424242424242424", "alloc_new_pack"),
        ("f.isra.0", "f"),
        ("f.constprop.0.isra.3", "f"),
        ("f.part.0.cold", "f"),
        ("f.cold", "f"),
        ("__pfx_f.lto_priv.7", "__pfx_f"),
        ("coldstart", "coldstart"),
        ("f.of.cold.things", "f.of.cold.things"),
        (".cold", ".cold"),
    ],
)
def test_names_as_the_source_has_them(name: str, source: str) -> None:
    assert source_name(name) == source


def test_a_file_that_is_cut_short_is_not_whole() -> None:
    whole = b"ffffffff81000000 T _text\nffffffff82000000 T _etext\n"
    Kallsyms(whole).require_whole()
    for cut in (whole[:-1], whole[:30], whole[:25]):
        with pytest.raises(UserError, match="cut short"):
            Kallsyms(cut).require_whole()


def test_all_tags() -> None:
    lines = b"ffffffff81000000 T _text\nffffffffc0000000 t f\t[veth]\nffffffffc0000010 t g\t[veth]\n"
    assert Kallsyms(lines + b"ffffffffc0100000 t bpf_prog_1\t[bpf]\n").tags == {"veth", "bpf"}
    assert Kallsyms(lines[:25]).tags == frozenset()


TAGS = st.sampled_from(["", "\t[a]", "\t[b]", "\t[bpf]", "\t[", "\t[a", "[c]"])


@given(st.lists(st.tuples(TAGS, st.integers(1, 300)), max_size=8))
def test_tags_of_long_files(runs: list[tuple[str, int]]) -> None:
    lines = [f"ffffffffc0100000 t name{tag}" for tag, count in runs for _ in range(count)]
    expected = {line.partition("\t[")[2][:-1] for line in lines if line.endswith("]") and "\t[" in line}
    text = "\n".join(["ffffffff81000000 T _text", *lines, ""])
    assert Kallsyms(text.encode()).tags == expected
    assert not lines or Kallsyms(text[:-1].encode()).tags == expected  # cut short


def test_one_strange_tag_among_thousands() -> None:
    """What the count of a piece is for: without it a module that is not listed could lie among another's symbols."""
    lines = ["ffffffff81000000 T _text", *["ffffffffc0100000 t name\t[a]"] * 5000]
    assert Kallsyms("\n".join(lines).encode()).tags == {"a"}
    lines[2500] = "ffffffffc0100000 t name\t[rogue]"
    assert Kallsyms("\n".join(lines).encode()).tags == {"a", "rogue"}


def test_naming_an_address_takes_little_memory() -> None:
    """12 bytes a symbol stay, however long the names are: live guests have 400 000."""
    count = 20_000
    lines = b"".join(
        b"%016x t a_function_with_quite_a_name_%d\n" % (2**63 + number * 64, number) for number in range(count)
    )
    symbols = Kallsyms(TEXT + lines)
    tracemalloc.start()
    assert symbols.nearest(2**63 + 64 * 777 + 5) == "a_function_with_quite_a_name_777+0x5"
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 16 * count
    assert peak < 80 * count
