# SPDX-License-Identifier: GPL-2.0-or-later
"""What stops a lock before anything is changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mbecguard.host.base import Host, HostMode, HostStatus, Outcome, Permission
from mbecguard.host.simulated.hypervisor import Options
from mbecguard.host.wire import LEAST_RANGES, Limits
from mbecguard.lock.check import misfit
from mbecguard.lock.request import too_long
from mbecguard.plan.value import Plan
from mbecguard.records.record import State, Step
from mbecguard.values.errors import Exit, UserError
from mbecguard.values.events import Event
from tests.lockbench import BEFORE, OPTIONS, Bench, WrappedHost
from tests.lockchecks import (
    Trouble,
    assert_open,
    assert_recovers,
)
from tests.plans import BLOCKER, CANARY, PFNS, make_plan

pytestmark = pytest.mark.usefixtures("fast_disk")


class CanaryDeniedBefore(WrappedHost):
    def run_canary(self) -> Outcome:
        return Outcome.DENIED


def test_a_canary_that_does_not_run_before_the_lock_is_refused(bench: Bench) -> None:
    failed = bench.fails(CanaryDeniedBefore(bench.host))
    assert (failed.status, "does not run before" in failed.message) == (Exit.REFUSED, True)
    assert bench.host.query().generation == 0
    assert_open(bench)
    assert_recovers(bench)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (replace(OPTIONS, mbec=False, honest=True), "NOT_SUPPORTED"),
        (replace(OPTIONS, mode=HostMode.OFF), "NO_HYPERCALL"),
        (replace(OPTIONS, mode=HostMode.AUDIT), "mode is audit"),
    ],
)
def test_an_unfit_host_is_refused_before_anything_changes(tmp_path: Path, options: Options, text: str) -> None:
    bench = Bench(tmp_path, options)
    failed = bench.fails()
    assert (failed.status, text in failed.message) == (Exit.REFUSED, True)
    assert (bench.host.hypervisor.ept.generation, bench.values()) == (0, BEFORE)
    assert bench.status().state is State.OPEN
    assert bench.events() == [Event.LOCK_STARTED, Event.REFUSED]
    assert_recovers(Bench(tmp_path))


@pytest.mark.parametrize(("list_pages", "long"), [(32, True), (33, False)])
def test_a_request_that_is_too_long_is_refused_before_anything_changes(
    tmp_path: Path, list_pages: int, long: bool
) -> None:
    plan = make_plan([(page, page + 1) for page in range(PFNS, PFNS + 2 * LEAST_RANGES, 2)], max_pfn=PFNS << 10)
    bench = Bench(tmp_path, replace(OPTIONS, limits=Limits(plan.max_pfn, list_pages)), plans=[plan], roomy=plan)
    assert [f.facts for f in too_long(bench.host, plan)] == [{"count": 5409, "most": 5408}] * long
    if not long:
        assert bench.lock().state is State.SEALED
        return
    failed = bench.fails()
    assert (failed.status, "5409 ranges" in failed.message) == (Exit.REFUSED, True)
    assert bench.host.query().generation == 0
    assert_open(bench)


def test_a_host_is_asked_how_much_it_takes_only_if_that_matters(bench: Bench) -> None:
    calls: list[str] = []
    bench.lock(WrappedHost(bench.host, calls.append))
    assert "protect" in calls
    assert "most_ranges" not in calls


class SaysOff(WrappedHost):
    def query(self) -> HostStatus:
        return self.inner.query()._replace(mode=HostMode.OFF)


class NoCanary(WrappedHost):
    def __init__(self, inner: Host) -> None:
        super().__init__(inner)
        self.canary_pfn = None


@pytest.mark.parametrize(("kind", "text"), [(SaysOff, "switched off"), (NoCanary, "no canary")])
def test_a_host_that_cannot_prove_anything_is_refused(bench: Bench, kind: type[WrappedHost], text: str) -> None:
    failed = bench.fails(kind(bench.host))
    assert (failed.status, text in failed.message) == (Exit.REFUSED, True)
    assert_open(bench)


def test_a_guest_that_can_write_its_smm_handler_is_refused(tmp_path: Path) -> None:
    bench = Bench(tmp_path, replace(OPTIONS, smm_open=True))
    failed = bench.fails()
    assert failed.status is Exit.REFUSED
    assert "system management mode is open" in failed.message
    assert all(word in failed.hint for word in ("smm=off", "<smm state='off'/>", "<loader secure='yes'>"))
    assert_open(bench)


def test_open_smm_stops_no_audit_and_is_no_matter_after_the_seal() -> None:
    answer = HostStatus(HostMode.AUDIT, Permission.EXEC, 0, False, False, smm_open=True)
    assert misfit(answer, "audit") is None
    assert misfit(answer._replace(mode=HostMode.ENFORCE, sealed=True), "enforce") is None
    assert misfit(answer._replace(mode=HostMode.ENFORCE), "enforce") is not None


def test_audit_on_a_host_that_enforces_or_has_no_modes_is_refused(tmp_path: Path) -> None:
    for number, options in enumerate((OPTIONS, replace(OPTIONS, no_query=True))):
        bench = Bench(tmp_path / str(number), options, mode="audit")
        failed = bench.fails()
        assert (failed.status, failed.hint) == (Exit.REFUSED, "use --mode enforce")
        assert_open(bench)


def test_a_refusal_of_the_mode_leaves_a_half_done_lock_reported(bench: Bench) -> None:
    held = WrappedHost(bench.host, Trouble(3, UserError("no host"), lasting=True))
    bench.fails(held)
    assert bench.status().interrupted is Step.APPLY
    later = bench.again()
    later.mode = "audit"
    assert later.fails().status is Exit.REFUSED
    assert later.status().interrupted is Step.APPLY
    assert later.host.modules_held
    assert_recovers(bench)


@pytest.mark.parametrize(
    ("plan", "text"),
    [
        (make_plan(findings=(BLOCKER,)), "1 blockers: module nft is Loading"),
        (make_plan(max_pfn=PFNS * 2), "covers 0x80 page frames, the host has 0x40"),
        (make_plan(max_pfn=PFNS - 1), "covers 0x3f page frames, the host has 0x40"),
        (make_plan([]), "keeps no code"),
        (make_plan([(CANARY, CANARY + 1)]), "keeps no code"),
    ],
)
def test_an_unfit_plan_is_refused_before_anything_changes(bench: Bench, plan: Plan, text: str) -> None:
    bench.plans = [plan]
    failed = bench.fails()
    assert (failed.status, text in failed.message) == (Exit.REFUSED, True)
    assert (bench.host.query().generation, bench.host.modules_held) == (0, False)
    assert_open(bench)
