# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may own an executable page: each rule alone, on both sides of its edges."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mbecguard.guest.execmap import Mapping
from mbecguard.guest.kcore import MemoryFacts
from mbecguard.guest.procfs import Symbol, VmallocArea
from mbecguard.guest.survey import KernelFacts, ModuleFacts, Survey
from mbecguard.image.kernel import KernelImage
from mbecguard.image.module import ModuleImage
from mbecguard.image.sections import Section, SectionKind
from mbecguard.pages import PageRange
from mbecguard.plan.findings import CATALOGUE, Finding, Severity, finding
from mbecguard.plan.policy import CHOICES, CodeKind
from mbecguard.plan.rules import AREA_CALLERS, REASONS, RULES, Ground, is_block, is_efi_address, module_base

R = SectionKind.RESIDENT
ZONE, DIRECT = 0xFFFFFFFFC0000000, 0xFFFF888000000000
ID = "cd" * 20
KERNEL = KernelFacts("6.12", ID, 0xFFFFFFFF81000000, 0xFFFFFFFF81002000, None, 1 << 30, None)
NOTHING = Survey(KERNEL, (), (), MemoryFacts(page_offset=DIRECT), (), (), (), (), False)
BLOCK = Mapping(ZONE + 0x200000, 0x11C00000, 2 << 20)


def code(va: int, pa: int, pages: int = 1, user: bool = False) -> Mapping:
    return Mapping(va, pa, pages << 12, user=user)


def claims(kind: CodeKind | None = None, **changes: Any) -> list[tuple[int, int, CodeKind, str]]:
    """(first byte, pages, kind, section) of what the rules claim in a survey with these changes."""
    ground = Ground(replace(NOTHING, **changes))
    found = [claim for rule in RULES for claim in rule.claims(ground)]
    return [
        (c.pages.start << 12, len(c.pages), c.kind, c.section) for c in found if len(c.pages) and kind in (None, c.kind)
    ]


def module(*sections: tuple[str, int], **addresses: int) -> ModuleFacts:
    image = ModuleImage("toy", ID, tuple(Section(name, 0, size, 16, R) for name, size in sections))
    return ModuleFacts("toy", "Live", ID, {f".{name}": va for name, va in addresses.items()}, image)


def test_the_table_is_complete() -> None:
    assert set(REASONS) == set(CodeKind)
    assert all(rule.reason and rule.source for rule in RULES)
    assert set(AREA_CALLERS.values()) <= set(CodeKind)
    assert set(CHOICES) < set(CodeKind)


def test_nothing_claims_nothing() -> None:
    assert claims() == []
    assert claims(mappings=(code(ZONE, 0x5000), code(DIRECT + (4 << 20), 4 << 20))) == []


@pytest.mark.parametrize(
    ("section_va", "expected"),
    [(0xFFFFFFFF82000000, 0xFFFFFFFF82000000), (0xFFFFFFFF80FFF000, 0xFFFFFFFF80FFF000), (0, 0)],
)
def test_kernel_sections_move_with_the_text(section_va: int, expected: int) -> None:
    sections = (
        Section(".text", 0xFFFFFFFF81000000, 0x1001, 4096, R),
        Section(".other", section_va, 1, 1, R),
        Section(".init.text", 0xFFFFFFFF83000000, 99, 1, SectionKind.INIT),
    )
    for shift in (0, 0x20000000):
        kernel = replace(KERNEL, image=KernelImage(ID, sections), text_va=KERNEL.text_va + shift)
        assert claims(kernel=kernel) == [
            (kernel.text_va, 2, CodeKind.KERNEL_TEXT, ".text"),
            (expected + shift, 1, CodeKind.KERNEL_TEXT, ".other"),
        ]
    assert claims(kernel=replace(KERNEL, image=KernelImage("ef" * 20, sections))) == []
    wrapped = replace(KERNEL, image=KernelImage(ID, sections), text_va=1 << 63)
    assert all(0 <= va < 1 << 64 for va, *_ in claims(kernel=wrapped))


@pytest.mark.parametrize(
    ("facts", "base"),
    [
        (module((".text", 0x1234), text=ZONE), ZONE),
        (module((".text", 16), (".exit", 5), exit=ZONE + 16), ZONE),  # .text is not told
        (module((".text", 0), (".exit", 5), exit=ZONE), ZONE),
        (module((".text", 16), text=0, exit=0), None),
        (module((".text", 16), text=0x400000), None),
        (module((".text", 16), (".exit", 5), exit=4), None),
        (module((".text", 16)), None),
        (module(text=ZONE), None),
        (replace(module((".text", 16), text=ZONE), image=None), None),
    ],
    ids=range(9),
)
def test_module_base(facts: ModuleFacts, base: int | None) -> None:
    assert module_base(facts) == base
    assert bool(claims(modules=(facts,))) == (base is not None)


def test_module_sections_are_claimed_to_the_page() -> None:
    toy = module((".text", 0xFFF), (".exit", 0x11), text=ZONE)
    assert claims(modules=(toy,)) == [
        (ZONE, 1, CodeKind.MODULE_TEXT, ".text"),
        (ZONE + 0x1000, 1, CodeKind.MODULE_TEXT, ".exit"),
    ]


def test_thunks_only_in_the_kernel_s_own_part() -> None:
    facts = MemoryFacts(page_offset=DIRECT, thunk_pages=(PageRange(6, 7), PageRange(9, 10), PageRange(0x40, 0x41)))
    found = claims(mappings=(code(ZONE, 0x5000, 5), code(DIRECT + 0x40000, 0x40000)), memory=facts)
    assert [c for c in found if c[2] is CodeKind.ITS_THUNK] == [
        (ZONE + 0x1000, 1, CodeKind.ITS_THUNK, "its_pages"),
        (ZONE + 0x4000, 1, CodeKind.ITS_THUNK, "its_pages"),
    ]


@pytest.mark.parametrize(("at", "claimed"), [(0, True), (0x2FFF, True), (-1, False), (0x3000, False)])
def test_a_symbol_claims_the_run_it_lies_in(at: int, claimed: bool) -> None:
    run = (code(ZONE, 0x5000), code(ZONE + 0x1000, 0x9000, 2))
    for tag, kind in (
        ("bpf", CodeKind.BPF),
        ("__builtin__ftrace", CodeKind.FTRACE),
        ("__builtin__kprobes", CodeKind.KPROBE),
    ):
        found = claims(mappings=run, symbols=(Symbol(ZONE + at, "s", tag), Symbol(ZONE + at, "t", tag)))
        assert {c[:3] for c in found} == ({(ZONE, 3, kind)} if claimed else set())
    assert claims(mappings=run, symbols=(Symbol(ZONE, "s", "toy"),)) == []


def test_in_a_shared_block_a_symbol_claims_its_page_alone() -> None:
    slot = Symbol(BLOCK.va + 0x3008, "kprobe_insn_page", "__builtin__kprobes")
    assert claims(mappings=(BLOCK,), symbols=(slot,)) == [
        (BLOCK.va + 0x3000, 1, CodeKind.KPROBE, "kprobe_insn_page"),
        (BLOCK.va, 512, CodeKind.EXECMEM, ""),
    ]


@pytest.mark.parametrize(
    ("start", "end", "block"), [(0, 512, True), (512, 1536, True), (1, 512, False), (0, 511, False), (5, 6, False)]
)
def test_blocks(start: int, end: int, block: bool) -> None:
    assert is_block(PageRange(start, end)) == block


def test_a_module_in_a_block_claims_the_rest_as_execmem() -> None:
    toy = module((".text", 5), text=BLOCK.va + 0x8000)
    assert (BLOCK.va, 512, CodeKind.EXECMEM, "") in claims(mappings=(BLOCK,), modules=(toy,))
    short = replace(BLOCK, bytes=BLOCK.bytes - 4096)
    assert not claims(CodeKind.EXECMEM, mappings=(short,), modules=(toy,))


@pytest.mark.parametrize("caller", [*AREA_CALLERS, "load_module"])
def test_areas_by_caller(caller: str) -> None:
    found = claims(areas=(VmallocArea(ZONE, ZONE + 0x3000, caller),))
    assert found == ([(ZONE, 3, AREA_CALLERS[caller], caller)] if caller in AREA_CALLERS else [])


def test_hypercall_page() -> None:
    facts = MemoryFacts(hypercall_page=ZONE + 0x1000)
    assert claims(memory=facts) == [(ZONE + 0x1000, 1, CodeKind.HYPERCALL, "hv_hypercall_pg")]


@pytest.mark.parametrize(
    ("known", "mapping", "expected"),
    [
        (PageRange(0x99, 0x9B), code(DIRECT + 0x99000, 0x99000, 2), (0x99, 2)),
        (PageRange(0x99, 0x9B), code(DIRECT + 0x98000, 0x98000, 4), (0x99, 2)),  # the rest stays unexplained
        (PageRange(0x99, 0x9B), code(DIRECT + 0x9B000, 0x9B000), None),
        (PageRange(0x200, 0x202), code(DIRECT + 0x200000, 0x200000, 2), (0x200, 2)),  # above 1 MiB
        (None, code(DIRECT + 0xFF000, 0xFF000), (0xFF, 1)),
        (None, code(DIRECT + 0x100000, 0x100000), None),
        (None, code(DIRECT + 0xFF000, 0xFF000, 2), (0xFF, 1)),
        (PageRange(0x99, 0x9B), code(DIRECT + 0x1000, 0x99000), None),  # no direct map
        (PageRange(0x99, 0x9B), code(DIRECT + 0x99000, 0x99000, 2, user=True), None),
    ],
    ids=range(9),
)
def test_trampoline(known: PageRange | None, mapping: Mapping, expected: tuple[int, int] | None) -> None:
    found = claims(mappings=(mapping,), memory=MemoryFacts(page_offset=DIRECT, trampoline=known))
    wanted = expected and (DIRECT + (expected[0] << 12), expected[1], CodeKind.TRAMPOLINE, "real_mode_header")
    assert found == ([wanted] if wanted else [])


@pytest.mark.parametrize(
    ("va", "pa", "inside"),
    [
        (DIRECT + 0x99000, 0x99000, True),
        (0xFFFF9A8000000000 + 0x99000, 0x99000, True),
        (DIRECT + 0x9A000, 0x99000, False),
        (0x99000, 0x99000, False),
        (0xFFFFFFFF80099000, 0x99000, False),
    ],
)
def test_the_direct_map_is_guessed_if_nobody_tells(va: int, pa: int, inside: bool) -> None:
    ground = Ground(replace(NOTHING, memory=MemoryFacts()))
    assert ground.in_direct_map(code(va, pa)) == inside
    assert Ground(NOTHING).in_direct_map(code(va, pa)) == (va == DIRECT + pa)


@pytest.mark.parametrize(
    ("va", "pa", "efi"),
    [
        (0x7F000000, 0x7F000000, True),
        (0x7F000000, 0x7F001000, False),
        (0xFFFFFFEF00000000, 0x1000, True),
        (0xFFFFFFEEFFFFF000, 0x1000, False),
        (0xFFFFFFFEFFFFF000, 0x1000, True),
        (0xFFFFFFFF00000000, 0x1000, False),
    ],
)
def test_efi_addresses(va: int, pa: int, efi: bool) -> None:
    assert is_efi_address(code(va, pa)) == efi
    frames = PageRange(pa >> 12, (pa >> 12) + 1)
    assert bool(claims(CodeKind.EFI_RUNTIME, mappings=(code(va, pa),), efi_runtime=(frames,))) == efi


def test_efi_code_ends_with_the_firmware_s_region() -> None:
    found = claims(mappings=(code(0x5000, 0x5000, 4),), efi_runtime=(PageRange(6, 8), PageRange(8, 9), PageRange(1, 2)))
    assert found == [(0x6000, 3, CodeKind.EFI_RUNTIME, "runtime-services-code")]


@pytest.mark.parametrize(
    ("loaded", "mapping", "claimed"),
    [
        (True, code(DIRECT + 0x100000, 0x100000), True),
        (False, code(DIRECT + 0x100000, 0x100000), False),
        (True, code(DIRECT + 0x100000, 0x100000, 2), False),
        (True, code(ZONE, 0x100000), False),
    ],
)
def test_kexec(loaded: bool, mapping: Mapping, claimed: bool) -> None:
    assert bool(claims(CodeKind.KEXEC, mappings=(mapping,), kexec_loaded=loaded)) == claimed


WORDS = "problem advice pages symbol count release image running section owner module state kind loss key knob use risk"
FACTS: dict[str, object] = dict.fromkeys(WORDS.split(" "), "x") | dict.fromkeys(
    ("va", "pa", "iomem", "tables", "first", "second"), 16
)


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_finding_has_a_text_and_a_hint(name: str) -> None:
    facts = FACTS | ({"running": 16, "image": 16} if name in ("module-layout", "kernel-text-size") else {})
    item = finding(name, **facts)
    assert item == Finding(name, CATALOGUE[name].severity, item.text, item.hint)
    assert item.text
    assert item.hint
    assert "{" not in item.text + item.hint


def test_unknown_findings_and_facts_are_bugs() -> None:
    with pytest.raises(KeyError):
        finding("nonsense")
    with pytest.raises(KeyError):
        finding("module-busy", module="x")
    assert list(Severity) == ["info", "warning", "blocker"]
