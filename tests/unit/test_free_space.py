# SPDX-License-Identifier: GPL-2.0-or-later
"""Free space among kept code: it stays until the freeze, and is dropped at the seal where nobody can need it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from mbecguard.guest.procfs import Symbol
from mbecguard.guest.survey import ModuleFacts
from mbecguard.image.module import ModuleImage
from mbecguard.image.sections import Section, SectionKind
from mbecguard.plan.planner import attribute, build_plan
from mbecguard.plan.policy import FREE_SPACE, CodeKind, Policy, from_settings
from mbecguard.settings.declared import SETTINGS
from mbecguard.settings.load import load
from mbecguard.values.facts import Known, Unknown, known
from mbecguard.values.pages import PageRange
from tests.unit.test_planner import FULL, ID, MODULE, MODULES, R, ids, kept, mapping, policies

BLOCK = MODULES + 0x1000000  #: virtual address of a block of execmem, 2 MiB
BLOCK_PFN = 0x8000
FROZEN = frozenset({"freeze.kprobes", "freeze.bpf_jit"})
AUTO = Policy(open=tuple(FREE_SPACE))


#: It was initialised in the second page of the block, which still holds that code.
LATE = ModuleFacts(
    "late",
    "Live",
    ID,
    {".text": BLOCK},
    ModuleImage("late", ID, (Section(".text", 0, 0x1000, 16, R), Section(".init.text", 0, 9, 1, SectionKind.INIT))),
    init={".init.text": BLOCK + 0x1000},
)
#: A block that is free but for the module's page.
SURVEY = replace(
    FULL,
    modules=(MODULE, LATE),
    mappings=(*FULL.mappings, mapping(BLOCK, BLOCK_PFN, 512)),
    memory=replace(
        FULL.memory,
        int3_pages=Known((*known(FULL.memory.int3_pages, ()), PageRange(BLOCK_PFN + 2, BLOCK_PFN + 512))),
    ),
)


@given(policies)
def test_what_is_applied_until_the_freeze_has_all_free_space(policy: Policy) -> None:
    for survey in (FULL, SURVEY):
        found = attribute(survey, policy, lambda _va: "")
        assert found.roomy.keep == build_plan(survey, policy.roomy).keep
        assert kept(found.plan).items() <= kept(found.roomy).items()
        assert found.plan.findings == found.roomy.findings


@pytest.mark.parametrize(
    ("frozen", "dropped"),
    [
        (frozenset[str](), set[CodeKind]()),
        ({"freeze.kprobes"}, {CodeKind.EXECMEM}),
        ({"freeze.bpf_jit"}, {CodeKind.BPF}),
        ({"freeze.ftrace", "freeze.modules", "freeze.kexec"}, set()),
        (FROZEN, {CodeKind.EXECMEM, CodeKind.BPF}),
    ],
)
def test_auto_drops_what_nobody_can_use_any_more(frozen: set[str], dropped: set[CodeKind]) -> None:
    found = attribute(SURVEY, AUTO, lambda _va: "", frozen)
    gone = {kind for pfn, kind in kept(found.roomy).items() if pfn not in kept(found.plan)}
    assert gone == dropped == set(found.policy.free)
    assert ids(found.plan).count("free-space-dropped") == bool(dropped)
    left = {f.facts["kind"] for f in found.plan.findings if f.id == "free-space-kept"}
    assert left == {CodeKind.EXECMEM, CodeKind.BPF} - dropped
    assert not found.policy.open, "a rerun and an audit plan as the seal was planned"
    assert build_plan(SURVEY, found.policy) == found.plan


@pytest.mark.parametrize("frozen", [frozenset[str](), {"freeze.bpf_jit"}])
def test_room_for_bpf_programs_is_never_dropped_while_they_are_compiled(frozen: set[str]) -> None:
    found = attribute(SURVEY, from_settings(load(None, ["policy.tight=on"])), lambda _va: "", frozen)
    gone = {kind for pfn, kind in kept(found.roomy).items() if pfn not in kept(found.plan)}
    assert CodeKind.EXECMEM in gone
    assert (CodeKind.BPF in gone) == bool(frozen)
    assert build_plan(SURVEY, found.policy) == found.plan


def test_cost_is_told() -> None:
    found = attribute(SURVEY, AUTO, lambda _va: "", FROZEN)
    (told,) = [f for f in found.plan.findings if f.id == "free-space-dropped"]
    pages = len(kept(found.roomy)) - len(kept(found.plan))
    regions = {"mixed": found.plan.totals.mixed_2m, "roomy": found.roomy.totals.mixed_2m}
    assert told.facts == {"pages": pages, **regions} == {"pages": 511 + 3, "mixed": regions["roomy"] + 1, **regions}


def test_what_is_free_and_cannot_be_read_is_unknown() -> None:
    hidden = replace(FULL, memory=replace(FULL.memory, int3_pages=Unknown("nobody may read it", "be root")))
    found = attribute(hidden, AUTO, lambda _va: "", FROZEN)
    (told,) = [f for f in found.plan.findings if f.id == "free-space-unknown"]
    assert (told.facts["kind"], told.facts["pages"]) == (CodeKind.BPF, 4)
    assert "nobody may read it" in told.text
    assert "be root" in told.hint


@pytest.mark.parametrize(("place", "stay"), [(0x21000, {0x3001}), (0x21800, {0x3001, 0x3002}), (0x60000, set())])
def test_what_will_call_xdp_programs_is_not_free(place: int, stay: set[int]) -> None:
    """The kernel has a page for it, wherever that begins, and writes to it when programs come and go."""
    survey = replace(FULL, symbols=(*FULL.symbols, Symbol(MODULES + place, "bpf_dispatcher_xdp", "bpf")))
    free = {0x3001, 0x3002, 0x3003}
    found = attribute(survey, AUTO, lambda _va: "", FROZEN)
    assert free & kept(found.plan).keys() == stay
    assert free & kept(attribute(FULL, AUTO, lambda _va: "", FROZEN).plan).keys() == set()


@pytest.mark.parametrize(
    ("choice", "policy"),
    [("on", Policy(tight=True, open=(CodeKind.BPF,))), ("off", Policy()), ("auto", Policy(open=tuple(FREE_SPACE)))],
)
def test_the_setting_has_three_values(choice: str, policy: Policy) -> None:
    flags = [f"policy.tight={choice}", "policy.trampoline=keep"]
    assert from_settings(load(None, flags)) == policy
    assert next(s for s in SETTINGS if s.key == "policy.tight").choices == ("auto", "on", "off")
