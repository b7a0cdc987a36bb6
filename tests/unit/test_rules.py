# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may own an executable page: each rule alone, on both sides of its edges."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from mbecguard.guest.efi import NO_EFI, Efi, is_efi_address
from mbecguard.guest.execmap import Mapping
from mbecguard.guest.kcore import MemoryFacts
from mbecguard.guest.procfs import Symbol, VmallocArea
from mbecguard.guest.survey import KernelFacts, ModuleFacts, Survey
from mbecguard.image.kernel import KernelImage
from mbecguard.image.module import ModuleImage
from mbecguard.image.sections import Section, SectionKind
from mbecguard.plan.findings import CATALOGUE, finding, passing
from mbecguard.plan.layout import ModuleText
from mbecguard.plan.policy import DROPPABLE, CodeKind
from mbecguard.plan.rules import AREA_CALLERS, PACK_CALLERS, REASONS, RULES, Ground, is_block
from mbecguard.values.codec import decode, encode
from mbecguard.values.facts import Absent, Fact, Known, Unknown
from mbecguard.values.findings import Finding, Severity
from mbecguard.values.pages import PageRange

R = SectionKind.RESIDENT
ZONE, DIRECT = 0xFFFFFFFFC0000000, 0xFFFF888000000000
ID = "cd" * 20
KERNEL = KernelFacts("6.12", ID, 0xFFFFFFFF81000000, 0xFFFFFFFF81002000, None, 1 << 30, None)
NOTHING = Survey(KERNEL, (), (), MemoryFacts(page_offset=DIRECT), (), (), Known(()), NO_EFI, (), Known(0))
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
    assert set(DROPPABLE) < set(CodeKind)


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
    assert ModuleText.of(facts).base == base
    assert bool(claims(modules=(facts,))) == (base is not None)


def test_module_sections_are_claimed_to_the_page() -> None:
    toy = module((".text", 0xFFF), (".exit", 0x11), text=ZONE)
    assert claims(modules=(toy,)) == [
        (ZONE, 1, CodeKind.MODULE_TEXT, ".text"),
        (ZONE + 0x1000, 1, CodeKind.MODULE_TEXT, ".exit"),
    ]


def test_thunks_only_in_the_kernel_s_own_part() -> None:
    thunks = (PageRange(6, 7), PageRange(9, 10), PageRange(0x40, 0x41))
    facts = MemoryFacts(page_offset=DIRECT, thunk_pages=Known(thunks))
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
    ]


@pytest.mark.parametrize(
    ("start", "end", "block"), [(0, 512, True), (512, 1536, True), (1, 512, False), (0, 511, False), (5, 6, False)]
)
def test_blocks(start: int, end: int, block: bool) -> None:
    assert is_block(PageRange(start, end)) == block


def test_of_a_block_only_what_is_int3_is_free_space() -> None:
    toy = module((".text", 5), text=BLOCK.va + 0x8000)
    first = BLOCK.pa >> 12
    facts = MemoryFacts(
        page_offset=DIRECT, int3_pages=Known((PageRange(first, first + 8), PageRange(first + 9, first + 512)))
    )
    found = claims(CodeKind.EXECMEM, mappings=(BLOCK,), modules=(toy,), memory=facts)
    assert found == [(BLOCK.va, 8, CodeKind.EXECMEM, "free"), (BLOCK.va + 0x9000, 503, CodeKind.EXECMEM, "free")]
    assert not claims(CodeKind.EXECMEM, mappings=(BLOCK,), modules=(toy,))
    short = replace(BLOCK, bytes=BLOCK.bytes - 4096)
    assert not claims(CodeKind.EXECMEM, mappings=(short,), modules=(toy,), memory=facts)


@pytest.mark.parametrize(
    ("at", "pages", "claimed"),
    [(0, 1, True), (0x1FF000, 1, True), (0x1FF000, 2, False), (-0x1000, 1, False), (0x200000, 1, False)],
)
def test_freed_init_text_lies_inside_one_block(at: int, pages: int, claimed: bool) -> None:
    image = ModuleImage("toy", ID, (Section(".init.text", 0, pages << 12, 16, SectionKind.INIT),))
    toy = ModuleFacts("toy", "Live", ID, {}, image, init={".init.text": BLOCK.va + at})
    found = claims(CodeKind.EXECMEM, mappings=(BLOCK,), modules=(toy,))
    assert found == ([(BLOCK.va + at, pages, CodeKind.EXECMEM, ".init.text (freed)")] if claimed else [])


PACK = code(ZONE + 0x401000, 0x8000000, 512)
HASHED = VmallocArea(None, (2 << 20) + 4096, "bpf_prog_pack_alloc")


@pytest.mark.parametrize("caller", sorted(PACK_CALLERS))
def test_packs_are_known_by_their_area_even_if_nothing_in_them_is_named(caller: str) -> None:
    area = HASHED._replace(caller=caller)
    assert claims(mappings=(PACK,), areas=Known((area,))) == [(PACK.va, 512, CodeKind.BPF, "")]
    assert claims(mappings=(PACK,), areas=Known((area._replace(module="rogue"),))) == []
    assert claims(mappings=(PACK,), areas=Known((area._replace(bytes=area.bytes * 2),))) == []
    assert claims(mappings=(PACK,), areas=Known((area._replace(caller="rogue"),))) == []
    assert claims(mappings=(PACK,), areas=Unknown("hidden")) == claims(mappings=(PACK,), areas=Absent()) == []


def test_no_more_runs_are_packs_than_there_are_areas_of_packs() -> None:
    other = code(PACK.va + 0x400000, 0x9000000, 512)
    both = [(PACK.va, 512, CodeKind.BPF, ""), (other.va, 512, CodeKind.BPF, "")]
    assert claims(mappings=(PACK, other), areas=Known((HASHED, HASHED))) == both
    assert claims(mappings=(PACK, other), areas=Known((HASHED,))) == []
    named = Symbol(other.va + 16, "bpf_prog_1", "bpf")
    assert claims(mappings=(PACK, other), areas=Known((HASHED,)), symbols=(named,)) == both[1:]
    assert claims(mappings=(PACK, other), areas=Known((HASHED, HASHED)), symbols=(named,)) == both


def test_a_block_of_modules_is_no_pack() -> None:
    toy = module((".text", 5), text=BLOCK.va)
    found = claims(CodeKind.BPF, mappings=(BLOCK, PACK), modules=(toy,), areas=Known((HASHED,)))
    assert found == [(PACK.va, 512, CodeKind.BPF, "")]


@pytest.mark.parametrize("caller", [*AREA_CALLERS, "load_module"])
def test_areas_by_caller(caller: str) -> None:
    area = VmallocArea(ZONE, 0x3000, caller)
    found = claims(areas=Known((area,)))
    assert found == ([(ZONE, 3, AREA_CALLERS[caller], caller)] if caller in AREA_CALLERS else [])
    assert claims(areas=Known((area._replace(module="rogue"), area._replace(start=None)))) == []


def test_hypercall_page() -> None:
    facts = MemoryFacts(hypercall_page=Known(ZONE + 0x1000))
    assert claims(memory=facts) == [(ZONE + 0x1000, 1, CodeKind.HYPERCALL, "hv_hypercall_pg")]


@pytest.mark.parametrize(
    ("blob", "mapping", "expected"),
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
def test_trampoline(blob: PageRange | None, mapping: Mapping, expected: tuple[int, int] | None) -> None:
    told: Fact[PageRange] = Known(blob) if blob else Unknown("nobody tells")
    found = claims(mappings=(mapping,), memory=MemoryFacts(page_offset=DIRECT, trampoline=told))
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
    assert bool(claims(CodeKind.EFI_RUNTIME, mappings=(code(va, pa),), efi=Efi(Known((frames,))))) == efi
    assert bool(claims(CodeKind.EFI_RUNTIME, mappings=(code(va, pa),), efi=Efi(Unknown("no map")))) == efi
    assert bool(claims(CodeKind.EFI_DATA, mappings=(code(va, pa),), efi=Efi(Absent(), (frames,)))) == efi
    assert not claims(mappings=(code(va, pa),))


def test_efi_code_ends_with_the_firmware_s_region() -> None:
    efi = Efi(Known((PageRange(6, 8), PageRange(8, 9), PageRange(1, 2))))
    found = claims(mappings=(code(0x5000, 0x5000, 4),), efi=efi)
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
    assert bool(claims(CodeKind.KEXEC, mappings=(mapping,), kexec_images=Known(int(loaded)))) == claimed


@pytest.mark.parametrize("images", [0, 1, 2, 3])
@pytest.mark.parametrize("pages", [1, 2, 3])
def test_no_more_control_pages_than_images(images: int, pages: int) -> None:
    mappings = tuple(code(DIRECT + (i << 21), i << 21) for i in range(1, pages + 1))
    found = claims(CodeKind.KEXEC, mappings=mappings, kexec_images=Known(images))
    assert len(found) == (pages if pages <= images else 0)
    assert not claims(CodeKind.KEXEC, mappings=mappings, kexec_images=Unknown("hidden"))


WORDS = (
    "problem advice pages count release image running section owner module state kind loss key knob use risk "
    "whose what meaning remedy symbol names why mixed roomy mapped file value frozen packs who when vendor most "
    "possible"
)
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


def test_the_values_that_a_text_names_come_as_facts() -> None:
    found = finding(
        "unexplained-mapping",
        pages=3,
        va=2**64 - 4096,
        pa=0x5000,
        whose="near x+0x1",
        advice="wait",
        owner="",
        symbol="x+0x1",
    )
    assert found.facts == {
        "pages": 3,
        "va": "0xfffffffffffff000",
        "pa": "0x5000",
        "whose": "near x+0x1",
        "owner": "",
        "symbol": "x+0x1",
    }
    assert finding("kernel-code-missing").facts == {}
    dropped = finding("dropped", pages=1, kind=CodeKind.BPF, loss="x", key="policy.bpf")
    assert dropped.facts == {"pages": 1, "kind": "bpf", "loss": "x"}
    assert decode(Finding, json.loads(json.dumps(encode(found)))).facts == found.facts


def test_unknown_findings_and_facts_are_bugs() -> None:
    with pytest.raises(KeyError):
        finding("nonsense")
    with pytest.raises(KeyError):
        finding("module-busy", module="x")
    assert list(Severity) == ["info", "warning", "blocker"]


def busy(module: str) -> Finding:
    return finding("module-busy", module=module, state="Unloading")


def no_image(module: str) -> Finding:
    return finding("module-image-unusable", module=module, problem="no file", advice="install it")


@pytest.mark.parametrize(
    ("found", "can_pass"),
    [
        ([busy("xfs")], True),
        (
            [
                finding("unexplained-mapping", pages=1, va=0, pa=0, whose="x", advice="x", owner="x", symbol="x"),
                busy("xfs"),
            ],
            True,
        ),
        ([finding("kernel-code-missing")], False),
        ([busy("xfs"), finding("kernel-code-missing")], False),
        ([no_image("xfs")], False),
        ([busy("xfs"), no_image("xfs")], True),  # its folder in /sys is half gone
        ([busy("xfs"), no_image("nft")], False),
    ],
)
def test_what_can_go_away_by_itself(found: list[Finding], can_pass: bool) -> None:
    assert passing(found) is can_pass


def test_only_blockers_are_waited_for() -> None:
    assert all(kind.severity is Severity.BLOCKER for kind in CATALOGUE.values() if kind.passing)
