# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest against its seal: what is new, what nobody explains, what is gone, and what cannot be compared."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mbecguard.audit.compare import Comparison, Sight
from mbecguard.audit.compare import compare as compare_sight
from mbecguard.guest.execmap import Mapping
from mbecguard.plan.findings import finding
from mbecguard.plan.planner import Attribution, Unexplained
from mbecguard.plan.policy import CodeKind, Policy
from mbecguard.plan.value import Plan
from mbecguard.values.errors import UserError
from mbecguard.values.pages import PageRange
from tests.plans import SPANS, TEXT_VA, keep_range, make_plan

SEAL = make_plan()
PAGE = TEXT_VA >> 12
HEAP = 0xFFFFC90000123
GONE = finding("module-image-unusable", module="nft", problem="no file of it was found", advice="install it")


def compare(plan: Plan = SEAL, *strange: Unexplained, seal: Plan = SEAL, writable: int | None = None) -> Comparison:
    mappings = tuple(Mapping(k.va, k.start << 12, len(k.pages) << 12) for k in plan.keep)
    runs = ((run.virtual, run.offset) for run in strange)
    mappings += tuple(
        Mapping(virtual.start << 12, (virtual.start - offset) << 12, len(virtual) << 12, writable == virtual.start)
        for virtual, offset in runs
    )
    found = Attribution(Policy(), plan, plan, strange)
    return compare_sight(seal, Sight(found, mappings, lambda va: f"near {va:#x}"))


def run(virtual: int, frame: int, pages: int = 1) -> Unexplained:
    return Unexplained(PageRange(virtual, virtual + pages), virtual - frame)


def test_a_guest_as_it_was_sealed() -> None:
    found = compare()
    assert (found.ok, found.writable) == (True, 0)
    assert (found.new, found.unexplained, found.stale) == ((), (), ())
    assert [reason.id for reason in found.reasons] == ["audit-clean"]


def test_new_code_has_its_owner_its_place_and_its_rights() -> None:
    now = SEAL._replace(keep=(*SEAL.keep, keep_range(50, 52, CodeKind.BPF)))
    found = compare(now)
    (code,) = found.new
    assert (code.pfn_start, code.pfn_end, code.pa, code.va, code.pages) == (50, 52, 50 << 12, TEXT_VA + (50 << 12), 2)
    assert (code.kind, code.owner, code.section) == (CodeKind.BPF, "owner50", ".text")
    assert (code.symbol, code.writable, code.denied) == (f"near {code.va:#x}", False, True)
    assert not found.ok
    assert [reason.id for reason in found.reasons] == ["audit-new"]


def test_code_that_nobody_explains() -> None:
    found = compare(SEAL, run(HEAP, 30, 2), writable=HEAP)
    (code,) = found.unexplained
    assert (code.pfn_start, code.pages, code.va, code.kind, code.owner) == (30, 2, HEAP << 12, None, "")
    assert (code.writable, code.denied) == (True, True)
    (reason,) = found.reasons
    assert reason.id == "audit-unexplained"
    assert "--deny-unexplained" not in reason.hint  # that is for who plans a lock
    assert "capture" in reason.hint


def test_who_allocated_it_is_told_and_which_source_could_not_be_read() -> None:
    untold = finding("source-unknown", what="JIT packs", problem="it is hidden", meaning="x", remedy="show it")
    found = compare(SEAL._replace(findings=(untold,)), replace(run(HEAP, 30), owner="evil_init() of module evil"))
    assert found.unexplained[0].owner == "evil_init() of module evil"
    assert [reason.id for reason in found.reasons] == ["audit-unexplained", "audit-incomplete"]
    assert ("JIT packs" in found.reasons[1].text, found.reasons[1].hint) == (True, "show it")
    assert compare(SEAL._replace(findings=(untold,))).reasons[0].id == "audit-clean"


def test_a_second_mapping_of_kept_frames_is_told_and_not_called_denied() -> None:
    found = compare(SEAL, run(HEAP, 10, 4))  # frames 8 to 12 are kept
    assert [(code.pfn_start, code.pfn_end, code.denied) for code in found.unexplained] == [
        (10, 12, False),
        (12, 14, True),
    ]
    assert [code.va >> 12 for code in found.unexplained] == [HEAP, HEAP + 2]
    assert "denies 1 of them" in found.reasons[0].text


def test_what_the_seal_denied_as_unexplained_is_known() -> None:
    va, pa = HEAP << 12, 30 << 12
    denied = finding("unexplained-denied", pages=2, va=va, pa=pa, whose="near x", owner="", symbol="x")
    seal = SEAL._replace(findings=(denied,))
    assert compare(SEAL, run(HEAP, 30, 2), seal=seal).ok
    grown = compare(SEAL, run(HEAP, 30, 3), seal=seal)
    assert [(code.pfn_start, code.pages) for code in grown.unexplained] == [(32, 1)]
    assert not compare(SEAL, run(HEAP, 31, 2), seal=seal).ok


def without_the_last(*findings: object) -> Plan:
    plan = make_plan(SPANS[:-1])
    return plan._replace(findings=(GONE,)) if findings else plan


def test_what_is_gone_is_no_drift() -> None:
    found = compare(without_the_last())
    assert found.ok
    assert [(code.pfn_start, code.writable, code.denied) for code in found.stale] == [(40, None, False)]


def test_a_missing_file_alone_makes_a_comparison_impossible() -> None:
    with pytest.raises(UserError, match="cannot be compared with its seal: module nft") as caught:
        compare(without_the_last(GONE), run(PAGE + 40, 40, 4))
    assert caught.value.hint == GONE.hint


def test_a_missing_file_does_not_hide_what_is_found_elsewhere() -> None:
    found = compare(without_the_last(GONE), run(PAGE + 40, 40, 4), run(HEAP, 30))
    assert [code.pfn_start for code in found.unexplained] == [30]
    assert found.stale == ()  # it is code still, whoever owns it
    assert [reason.id for reason in found.reasons] == ["audit-unexplained", "audit-incomplete"]
    assert not found.ok


def test_the_code_of_a_missing_file_at_another_place_is_not_known() -> None:
    found = compare(without_the_last(GONE), run(PAGE + 44, 40, 4))
    assert [(code.pfn_start, code.denied) for code in found.unexplained] == [(40, False)]
