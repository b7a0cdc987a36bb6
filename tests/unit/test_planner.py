# SPDX-License-Identifier: GPL-2.0-or-later
"""Plans of synthetic surveys: what must hold of every plan, and a naive planner that goes page by page."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbecguard.guest.efi import NO_EFI, Efi
from mbecguard.guest.execmap import Mapping
from mbecguard.guest.kcore import MemoryFacts
from mbecguard.guest.processors import Processors
from mbecguard.guest.procfs import Symbol, VmallocArea
from mbecguard.guest.survey import KernelFacts, ModuleFacts, Survey
from mbecguard.image.kernel import KernelImage
from mbecguard.image.module import ModuleImage
from mbecguard.image.sections import Section, SectionKind
from mbecguard.plan.planner import attribute, build_plan
from mbecguard.plan.policy import DROPPABLE, FREE_SPACE, CodeKind, Policy
from mbecguard.plan.value import Plan, plan_from_json
from mbecguard.values.codec import digest
from mbecguard.values.errors import UserError
from mbecguard.values.facts import Known, Unknown
from mbecguard.values.findings import Severity
from mbecguard.values.pages import ADDRESS_SPACE_PAGES, PageRange

R = SectionKind.RESIDENT
TEXT, MODULES, DIRECT = 0xFFFFFFFF81000000, 0xFFFFFFFFC0000000, 0xFFFF888000000000
EFI_VA = 0xFFFFFFFEFF000000
PFNS = 1 << 20
ID = "ab" * 20


def mapping(va: int, pfn: int, pages: int = 1, *, writable: bool = False, user: bool = False) -> Mapping:
    return Mapping(va, pfn << 12, pages << 12, writable, user)


KERNEL = KernelFacts(
    release="6.12",
    build_id=ID,
    text_va=TEXT,
    text_end_va=TEXT + 0x8000,
    code_iomem=(0x1000000, 0x1008000),
    max_pfn=PFNS,
    image=KernelImage(ID, (Section(".text", TEXT, 0x8000, 4096, R), Section(".init.text", 0, 9, 1, SectionKind.INIT))),
)
MODULE = ModuleFacts(
    "toy", "Live", ID, {".text": MODULES + 0x10000}, ModuleImage("toy", ID, (Section(".text", 0, 0x2000, 16, R),))
)
#: Kernel text, a module of two pages, BPF, ftrace, kprobe, ITS, trampoline, kexec, EFI twice, hypercall page.
FULL = Survey(
    kernel=KERNEL,
    modules=(MODULE,),
    mappings=(
        mapping(0x7F000000, 0x7F000, 2),
        mapping(DIRECT + 0x99000, 0x99, 2),
        mapping(DIRECT + 0x5000000, 0x5000),
        mapping(0xFFFFC90000001000, 0x6000),
        mapping(EFI_VA, 0x7F000, 2),
        mapping(TEXT, 0x1000, 8),
        mapping(MODULES + 0x10000, 0x2000),
        mapping(MODULES + 0x11000, 0x1FF0),
        mapping(MODULES + 0x20000, 0x3000, 4),
        mapping(MODULES + 0x30000, 0x3100),
        mapping(MODULES + 0x40000, 0x3200),
        mapping(MODULES + 0x50000, 0x3300),
        mapping(MODULES + 0x60000, 0x3400),
    ),
    memory=MemoryFacts(
        page_offset=DIRECT,
        trampoline=Known(PageRange(0x99, 0x9B)),
        hypercall_page=Known(0xFFFFC90000001000),
        efi_tables=Known(4),
        int3_pages=Known((PageRange(0x3001, 0x3004), PageRange(0x1004, 0x1005))),
        thunk_pages=Known((PageRange(0x3300, 0x3301),)),
    ),
    symbols=(
        Symbol(MODULES + 0x20100, "bpf_prog_1", "bpf"),
        Symbol(MODULES + 0x30000, "ftrace_trampoline", "__builtin__ftrace"),
        Symbol(MODULES + 0x40010, "kprobe_insn_page", "__builtin__kprobes"),
    ),
    tags=("toy",),
    areas=Known((VmallocArea(MODULES + 0x60000, 0x2000, "alloc_insn_page"),)),
    efi=Efi(Known((PageRange(0x7EFF0, 0x7F010),))),
    crash_kernel=(),
    kexec_images=Known(1),
    processors=Known(Processors(4, 2)),
)
OWNERS = {
    0x7F000: CodeKind.EFI_RUNTIME,
    0x7F001: CodeKind.EFI_RUNTIME,
    0x99: CodeKind.TRAMPOLINE,
    0x9A: CodeKind.TRAMPOLINE,
    0x5000: CodeKind.KEXEC,
    0x6000: CodeKind.HYPERCALL,
    0x2000: CodeKind.MODULE_TEXT,
    0x1FF0: CodeKind.MODULE_TEXT,
    0x3100: CodeKind.FTRACE,
    0x3200: CodeKind.KPROBE,
    0x3300: CodeKind.ITS_THUNK,
    0x3400: CodeKind.KPROBE,
    **dict.fromkeys(range(0x1000, 0x1008), CodeKind.KERNEL_TEXT),
    **dict.fromkeys(range(0x3000, 0x3004), CodeKind.BPF),
}
policies = st.builds(
    Policy,
    dropped=st.lists(st.sampled_from(sorted(DROPPABLE)), unique=True).map(tuple),
    keep_crash_kernel=st.booleans(),
    tight=st.booleans(),
    deny_unexplained=st.booleans(),
    free=st.lists(st.sampled_from(sorted(FREE_SPACE)), unique=True).map(tuple),
)


def kept(plan: Plan) -> dict[int, CodeKind]:
    return {pfn: k.kind for k in plan.keep for pfn in range(k.start, k.end)}


def ids(plan: Plan) -> list[str]:
    return [f.id for f in plan.findings]


def check_form(plan: Plan, max_pfn: int) -> None:
    """What holds of every plan."""
    position = 0
    for piece in sorted((*(k.pages for k in plan.keep), *plan.deny)):
        assert piece.start == position < piece.end
        position = piece.end
    assert position == max_pfn == plan.max_pfn
    assert list(plan.keep) == sorted(plan.keep, key=lambda k: k.start)
    assert list(plan.deny) == sorted(plan.deny)
    assert all(a.end < b.start for a, b in zip(plan.deny, plan.deny[1:], strict=False))
    assert plan.totals.keep_pages == sum(len(k.pages) for k in plan.keep)
    assert plan.totals.keep_ranges == len(plan.keep)
    frames = kept(plan)
    regions = {pfn // 512 for pfn in frames}
    assert plan.totals.mixed_2m == sum(not all(512 * r + i in frames for i in range(512)) for r in regions)
    severities = [list(Severity).index(f.severity) for f in plan.findings]
    assert severities == sorted(severities, reverse=True)
    assert len(set(plan.findings)) == len(plan.findings)
    assert plan_from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert plan.digest == digest({k: v for k, v in plan.to_json().items() if k != "digest"})


def test_everything_is_explained() -> None:
    plan = build_plan(FULL, Policy(dropped=()))
    check_form(plan, PFNS)
    assert kept(plan) == OWNERS
    assert ids(plan) == ["free-space-kept", "start-page-kept"]
    assert plan.kernel.text_pa == 0x1000000
    by_frame = {k.start: k for k in plan.keep}
    assert by_frame[0x1000].va == TEXT
    assert (by_frame[0x2000].owner, by_frame[0x2000].section) == ("toy", ".text")
    assert plan.kept(0x1007) == by_frame[0x1000]
    assert plan.kept(0x1008) is None
    default = build_plan(FULL, Policy())
    assert ids(default) == ["dropped", "free-space-kept", "start-page-kept"]
    assert kept(default) == {pfn: kind for pfn, kind in OWNERS.items() if kind is not CodeKind.KEXEC}


@given(policies)
def test_policy_decides_by_kind(policy: Policy) -> None:
    plan = build_plan(FULL, policy)
    check_form(plan, PFNS)
    int3 = {p for p in (0x3001, 0x3002, 0x3003, 0x1004) if policy.drops_free(OWNERS[p])}
    assert kept(plan) == {p: kind for p, kind in OWNERS.items() if policy.keeps(kind) and p not in int3}
    dropped = [f.text for f in plan.findings if f.id == "dropped"]
    assert sorted(t.split()[4] for t in dropped) == sorted(f"{kind}" for kind in policy.dropped)
    for kind in policy.dropped:
        pages = sum(owner is kind for owner in OWNERS.values())
        assert any(t.startswith(f"{pages} pages of kind {kind} ") for t in dropped)
    assert not plan.blockers


def test_the_same_survey_gives_the_same_bytes() -> None:
    plan = build_plan(FULL, Policy())
    again = build_plan(copy.deepcopy(FULL), Policy())
    assert json.dumps(plan.to_json()) == json.dumps(again.to_json())
    shuffled = replace(FULL, mappings=FULL.mappings[::-1])
    assert kept(build_plan(shuffled, Policy())) == kept(plan)


small = st.integers(0, 30)
pieces = st.lists(
    st.tuples(
        st.sampled_from(
            [
                TEXT,
                MODULES + 0x10000,
                MODULES + 0x20000,
                MODULES + 0x50000,
                DIRECT + 0x99000,
                EFI_VA,
                MODULES + 0x900000,
            ]
        ),
        st.integers(0, 3),
        st.integers(1, 6),
        st.integers(0, 40),
        st.booleans(),
        st.sampled_from([False, False, False, True]),
    ),
    max_size=9,
)


def disjoint(drawn: list[tuple[int, int, int, int, bool, bool]]) -> tuple[Mapping, ...]:
    """Mappings as drawn, without those that overlap an earlier one."""
    seen: set[int] = set()
    mappings = []
    for base, skip, pages, pfn, writable, user in drawn:
        va = base + (skip << 12)
        virtual = set(range(va >> 12, (va >> 12) + pages))
        if not virtual & seen:
            seen |= virtual
            mappings.append(mapping(va, pfn, pages, writable=writable, user=user))
    return tuple(sorted(mappings, key=lambda m: m.va))


@settings(max_examples=150)
@given(pieces, policies, st.lists(small, max_size=4), st.lists(small, max_size=4))
def test_the_naive_planner_agrees(
    drawn: list[tuple[int, int, int, int, bool, bool]], policy: Policy, int3: list[int], thunks: list[int]
) -> None:
    """Page by page: who may own an address, does the policy keep that kind, is the frame kept by any of its pages."""
    facts = MemoryFacts(
        page_offset=DIRECT,
        trampoline=Known(PageRange(0x99, 0x9B)),
        int3_pages=Known(tuple(PageRange(p, p + 1) for p in int3)),
        thunk_pages=Known(tuple(PageRange(p, p + 1) for p in thunks)),
    )
    survey = replace(
        FULL,
        mappings=disjoint(drawn),
        memory=facts,
        areas=Known(()),
        efi=Efi(Known((PageRange(0, 20),))),
        kexec_images=Known(0),
    )
    plan = build_plan(survey, policy)
    check_form(plan, PFNS)
    supervisor = {
        (m.va >> 12) + i: (m.pa >> 12) + i for m in survey.mappings if not m.user for i in range(m.bytes >> 12)
    }
    owners = {vpn: naive_owner(vpn, supervisor, set(thunks)) for vpn in supervisor}
    allowed: dict[int, set[CodeKind]] = {}
    for vpn, kind in owners.items():
        if kind and policy.keeps(kind):
            allowed.setdefault(supervisor[vpn], set()).add(kind)
    superset = not any(kind is CodeKind.EFI_RUNTIME for kind in owners.values())
    if superset and policy.keeps(CodeKind.EFI_RUNTIME):
        for pfn in range(20):
            allowed.setdefault(pfn, set()).add(CodeKind.EFI_RUNTIME)
    found = kept(plan)
    free = {
        pfn for pfn, kind in kept(build_plan(survey, policy.roomy)).items() if pfn in int3 and policy.drops_free(kind)
    }
    assert found.keys() == allowed.keys() - free
    allowed = {pfn: kinds for pfn, kinds in allowed.items() if pfn in found}
    assert all(found[pfn] in kinds for pfn, kinds in allowed.items())
    unexplained = any(kind is None for kind in owners.values())
    names = set(ids(plan))
    assert ("unexplained-mapping" in names) == (unexplained and not policy.deny_unexplained)
    assert ("unexplained-denied" in names) == (unexplained and policy.deny_unexplained)
    dropped = {kind for kind in owners.values() if kind and not policy.keeps(kind)}
    assert ("dropped" in names) == bool(dropped or (superset and not policy.keeps(CodeKind.EFI_RUNTIME)))
    assert ("user-mapping" in names) == any(m.user for m in survey.mappings)
    missing = {(TEXT >> 12) + i for i in range(8)} | {(MODULES + 0x10000 >> 12) + i for i in range(2)}
    assert ("promised-not-executable" in names) == bool(missing - supervisor.keys())


def naive_owner(vpn: int, supervisor: dict[int, int], thunks: set[int]) -> CodeKind | None:
    va, pfn = vpn << 12, supervisor[vpn]
    if TEXT <= va < TEXT + 0x8000:
        return CodeKind.KERNEL_TEXT
    if MODULES + 0x10000 <= va < MODULES + 0x12000:
        return CodeKind.MODULE_TEXT
    if pfn in thunks and va >= 0xFFFFFFFF80000000:
        return CodeKind.ITS_THUNK
    for symbol, kind in (
        (MODULES + 0x20000, CodeKind.BPF),
        (MODULES + 0x30000, CodeKind.FTRACE),
        (MODULES + 0x40000, CodeKind.KPROBE),
    ):
        low, high = sorted((vpn, symbol >> 12))
        if all(page in supervisor for page in range(low, high + 1)):
            return kind
    if va - (pfn << 12) == DIRECT and 0x99 <= pfn < 0x9B:
        return CodeKind.TRAMPOLINE
    if 0xFFFFFFEF00000000 <= va < 0xFFFFFFFF00000000 and pfn < 20:
        return CodeKind.EFI_RUNTIME
    return None


def test_shared_frames_are_told() -> None:
    alias = mapping(MODULES + 0x21000, 0x1003)
    survey = replace(FULL, mappings=(*FULL.mappings[:8], mapping(MODULES + 0x20000, 0x3000), alias))
    plan = build_plan(survey, Policy())
    (shared,) = [f for f in plan.findings if f.id == "shared-frame"]
    assert shared.text == f"physical page 0x1003000 is executable at {TEXT + 0x3000:#x} and at {MODULES + 0x21000:#x}"
    check_form(plan, PFNS)


@pytest.mark.parametrize("deny", [True, False])
def test_an_unexplained_alias_of_kept_text_is_not_called_dropped_alone(deny: bool) -> None:
    survey = replace(FULL, mappings=(*FULL.mappings, mapping(MODULES + 0x900000, 0x1003)))
    plan = build_plan(survey, Policy(deny_unexplained=deny))
    assert "shared-frame" in ids(plan)
    assert kept(plan)[0x1003] is CodeKind.KERNEL_TEXT


def test_efi_code_shared_with_a_module_is_told() -> None:
    survey = replace(FULL, mappings=(*FULL.mappings, mapping(MODULES + 0x12000, 0x7F001)))
    longer = replace(MODULE, image=ModuleImage("toy", ID, (Section(".text", 0, 0x3000, 16, R),)))
    assert "shared-frame" in ids(build_plan(replace(survey, modules=(longer,)), Policy()))


@pytest.mark.parametrize(("name", "kept_frames"), [("mbecguard_shim", {0x4000}), ("toy", {0x4000, 0x4001})])
def test_the_shim_s_canary_is_denied_without_a_word(name: str, kept_frames: set[int]) -> None:
    sections = (Section(".text", 0, 0x10, 16, R), Section(".text.canary", 0, 0x1000, 4096, R))
    addresses = {".text": MODULES + 0x900000, ".text.canary": MODULES + 0x901000}
    shim = ModuleFacts(name, "Live", ID, addresses, ModuleImage(name, ID, sections))
    found = (*FULL.mappings, mapping(MODULES + 0x900000, 0x4000, 2))
    plan = build_plan(replace(FULL, modules=(MODULE, shim), mappings=found), Policy())
    assert kept_frames == {pfn for pfn in kept(plan) if pfn in (0x4000, 0x4001)}
    assert ids(plan) == ids(build_plan(FULL, Policy()))
    check_form(plan, PFNS)


@pytest.mark.parametrize("kind", sorted(set(OWNERS.values())))
def test_writable_code_stops_a_lock_unless_it_is_firmware_or_kexec(kind: CodeKind) -> None:
    """Firmware asks for such pages; of the kernel's own the healthy guests of the corpus have none."""
    frame = next(frame for frame, owner in OWNERS.items() if owner is kind)
    mappings = tuple(replace(m, writable=m.frames.start <= frame < m.frames.end) for m in FULL.mappings)
    plan = build_plan(replace(FULL, mappings=mappings), Policy(dropped=()))
    told = [f for f in plan.findings if f.id.startswith("writable-")]
    foreign = kind in (CodeKind.EFI_RUNTIME, CodeKind.KEXEC)
    assert {(f.id, f.severity) for f in told} == {
        ("writable-executable", Severity.WARNING) if foreign else ("writable-code", Severity.BLOCKER)
    }
    places = {m.va for m in mappings if m.writable}
    assert {int(str(f.facts["va"]), 16) for f in told} == places
    assert all(f"({kind})" in f.text for f in told)


def test_user_mappings_are_never_kept() -> None:
    survey = replace(FULL, mappings=tuple(replace(m, user=True) for m in FULL.mappings))
    plan = build_plan(replace(survey, efi=NO_EFI), Policy())
    assert plan.keep == ()
    assert ids(plan).count("user-mapping") == len(FULL.mappings)
    assert ids(plan).count("promised-not-executable") == 2
    check_form(plan, PFNS)


def test_a_user_mapping_of_the_firmware_is_no_efi_mapping() -> None:
    survey = replace(FULL, mappings=(mapping(0x7F000000, 0x7F000, user=True), *FULL.mappings[1:4], *FULL.mappings[5:]))
    plan = build_plan(survey, Policy())
    assert "efi-superset" in ids(plan)
    assert set(range(0x7EFF0, 0x7F010)) <= kept(plan).keys()


@pytest.mark.parametrize("keep", [True, False])
def test_crash_kernel_is_kept_whole_or_not_at_all(keep: bool) -> None:
    survey = replace(
        FULL, crash_kernel=(PageRange(0x4000, 0x5800), PageRange(PFNS - 4, PFNS + 4)), kexec_images=Known(0)
    )
    plan = build_plan(survey, Policy(keep_crash_kernel=keep))
    region = {*range(0x4000, 0x5800), *range(PFNS - 4, PFNS)} - {0x5000}
    assert region <= kept(plan).keys() if keep else not region & kept(plan).keys()
    assert ("crash-kernel-lost" in ids(plan)) != keep
    check_form(plan, PFNS)


def test_many_unexplained_are_listed_up_to_a_limit() -> None:
    extra = tuple(mapping(MODULES + 0x900000 + (i << 13), 0x8000 + i * 2) for i in range(260))
    survey = replace(FULL, mappings=(*FULL.mappings, *extra))
    asked = []
    plan = build_plan(survey, Policy(), lambda va: asked.append(va) or "toy+0x1")  # type: ignore[func-returns-value]
    assert ids(plan).count("unexplained-mapping") == 256 == len(asked)
    assert [f.text for f in plan.findings if f.id == "unexplained-more"] == [
        "4 more unexplained mappings are not listed"
    ]
    denied = build_plan(survey, Policy(deny_unexplained=True))
    assert ids(denied).count("unexplained-denied") == 256
    assert "unexplained-denied-more" in ids(denied)
    assert not denied.blockers
    check_form(plan, PFNS)


def test_outside_the_physical_space() -> None:
    def build(pfn: int) -> Plan:
        return build_plan(replace(FULL, mappings=(*FULL.mappings, mapping(MODULES + 0x900000, pfn, 2))), Policy())

    assert build(PFNS - 2).blockers
    with pytest.raises(UserError, match="outside the guest's physical space") as caught:
        build(PFNS - 1)
    assert caught.value.hint


def test_the_whole_architectural_space() -> None:
    plan = build_plan(replace(FULL, kernel=replace(KERNEL, max_pfn=ADDRESS_SPACE_PAGES)), Policy())
    assert "physical-space" in ids(plan)
    assert plan.deny[-1].end == ADDRESS_SPACE_PAGES


@pytest.mark.parametrize(
    ("changes", "text_pa"),
    [
        ({}, 0x1000000),
        ({"text_va": TEXT + 0x800000}, 0x1000000),
        ({"text_va": TEXT + (1 << 30), "code_iomem": None}, 0),
    ],
)
def test_where_the_text_lies(changes: dict[str, Any], text_pa: int) -> None:
    assert build_plan(replace(FULL, kernel=replace(KERNEL, **changes)), Policy()).kernel.text_pa == text_pa


def test_a_hidden_source_is_told_once_with_all_that_it_could_explain() -> None:
    stranger = mapping(MODULES + 0x900000, 0x1F000)
    hidden = Unknown("/proc/vmallocinfo cannot be read", "run as root")
    plan = build_plan(replace(FULL, mappings=(*FULL.mappings, stranger), areas=hidden), Policy())
    (told,) = [f for f in plan.findings if f.id == "source-unknown"]
    assert "JIT pack of BPF code or vmalloc area of a known caller" in told.text
    assert told.hint == "run as root"


@pytest.mark.parametrize(
    ("places", "told"),
    [((), 0), ((0x20000,), 1), ((0x20040,), 0), ((0x20FC0, 0x20000), 1), ((0x20000, 0x30000), 2)],
)
def test_hooks_that_have_a_page_each_are_told(places: tuple[int, ...], told: int) -> None:
    hooks = tuple(Symbol(MODULES + at, f"bpf_trampoline_{at}", "bpf") for at in places)
    plan = build_plan(replace(FULL, symbols=(*FULL.symbols, *hooks)), Policy())
    assert [f.facts["count"] for f in plan.findings if f.id == "hooks-alone"] == [told] * bool(told)
    frozen = attribute(replace(FULL, symbols=hooks), Policy(), lambda _va: "", {"freeze.ftrace"}).plan
    assert "hooks-alone" not in ids(frozen)
