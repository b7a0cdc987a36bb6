# SPDX-License-Identifier: GPL-2.0-or-later
"""A fresh lock against the simulated host: what it does, and what it waits for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mbecguard.host.base import HostMode
from mbecguard.host.simulated.ept import Ept
from mbecguard.lock.request import request
from mbecguard.lock.transaction import AGAIN_SECONDS, ATTEMPTS, SETTLE_SECONDS
from mbecguard.records.record import State, Step
from mbecguard.switches import SWITCHES, Use
from mbecguard.switches.decisions import Decision
from mbecguard.values.errors import Exit, UserError
from mbecguard.values.events import Event
from tests.lockbench import AFTER, BEFORE, FROZEN, ONE_WAY, OPTIONS, STEPS, Bench
from tests.lockchecks import (
    ALL,
    EXEC_EXPECTED,
    MORE,
    Capture,
    assert_open,
    assert_recovers,
    assert_sealed,
    refusing,
)
from tests.plans import BLOCKER, CANARY, FREE, LASTING, SPANS, kept_frames, make_plan, with_free_space

pytestmark = pytest.mark.usefixtures("fast_disk")


def test_a_lock_ends_sealed_and_proven(bench: Bench) -> None:
    steps: list[Step] = []
    record = bench.lock(reach=steps.append)
    assert tuple(steps) == STEPS
    assert_sealed(bench, record)
    assert (record.reasons, record.simulated, record.mode) == ((), True, "enforce")
    assert record.generation == bench.host.query().generation
    assert bench.store.plan(record) == make_plan()
    assert (record.plan_digest, record.totals) == (make_plan().digest, make_plan().totals)
    assert bench.events()[0] is Event.LOCK_STARTED
    assert [e for e in bench.events() if e is not Event.STEP][1:] == [
        *[Event.APPLIED, Event.PROVEN] * 2,
        Event.SEALED,
    ]
    assert bench.slept == [SETTLE_SECONDS]


def test_free_space_is_dropped_when_the_freeze_has_left_nobody_to_use_it(bench: Bench) -> None:
    seen: dict[Step, set[int]] = {}
    bench.lock(reach=lambda step: seen.update({step: bench.frames(Ept.XS)}))
    kept, free = kept_frames(make_plan()) - {CANARY}, set(range(*FREE))
    assert {step for step, frames in seen.items() if frames == kept | free} == {
        *(Step.RESURVEY, Step.PROVE, Step.FREEZE, Step.SETTLE, Step.LAST_SURVEY, Step.TIGHTEN)
    }
    assert all(seen[step] == kept for step in (Step.PIN, Step.SEAL, Step.RECORD))


def test_what_took_free_space_before_the_freeze_is_sealed_as_kept(tmp_path: Path) -> None:
    first, roomy = make_plan(), with_free_space(make_plan())
    taken = make_plan((*SPANS, (FREE[0], FREE[0] + 1)))
    bench = Bench(tmp_path, plans=[first, first, first, taken], roomy=roomy)
    record = bench.lock()
    assert bench.store.plan(record) == taken
    assert bench.frames(Ept.XS) & set(range(*FREE)) == {FREE[0]}


def test_one_way_switches_come_last(bench: Bench) -> None:
    order: list[str] = []
    put = bench.knobs.put
    transaction = bench.transaction()
    transaction.knobs = Capture(put, bench.knobs.get, order)
    transaction.run()
    assert set(order) == set(AFTER)
    assert set(order[-len(ONE_WAY) :]) == ONE_WAY


def test_one_way_switches_are_set_when_the_seal_holds(bench: Bench) -> None:
    seen: dict[Step, dict[str, str | None]] = {}
    bench.lock(reach=lambda step: seen.update({step: bench.values()}))
    assert all(seen[step] == BEFORE for step in seen if list(Step).index(step) <= list(Step).index(Step.FREEZE))
    assert all(seen[step] == FROZEN for step in (Step.SETTLE, Step.LAST_SURVEY, Step.PIN, Step.SEAL, Step.ONE_WAY))
    assert seen[Step.RECORD] == AFTER


def test_a_switch_that_this_kernel_lacks_or_has_set_is_left_alone(bench: Bench) -> None:
    missing, given_ = "net.core.bpf_jit_enable", "kernel.ftrace_enabled"
    bench.knob_file(missing).unlink()
    bench.knobs.put(given_, AFTER[given_])
    assert set(bench.lock().frozen) == set(AFTER) - {missing}
    assert bench.knobs.get(missing) is None


def test_audit_mode_is_applied_but_never_sealed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, replace(OPTIONS, mode=HostMode.AUDIT), mode="audit")
    for _ in range(2):
        record = bench.lock()
        assert (record.state, record.pinned, record.frozen) == (State.APPLIED, False, ())
        assert "not stopped" in record.reasons[0].text
        assert bench.frames(Ept.XS) == kept_frames(make_plan()) - {CANARY}
        assert not bench.host.query().sealed
        assert not bench.host.modules_held
        assert bench.values() == BEFORE
        assert (bench.status().state, bench.status().interrupted) == (State.APPLIED, None)
    bench.fails(reach=refusing(Step.APPLY, UserError("boom")))
    assert bench.status().state is State.OPEN


def test_a_blocker_that_turns_up_after_the_map_is_rolled_back(bench: Bench) -> None:
    for blocker in (BLOCKER, LASTING):
        bench.plans = [make_plan(), make_plan(), make_plan(findings=(blocker,))]
        assert bench.fails().status is Exit.REFUSED
        assert_open(bench)


def test_a_guest_with_a_busy_module_is_looked_at_again(bench: Bench) -> None:
    busy = make_plan(findings=(BLOCKER,))
    bench.plans = [busy, make_plan()]
    held: list[bool] = []
    transaction = bench.transaction()
    transaction.sleep = lambda _seconds: held.append(bench.host.modules_held)
    assert_sealed(bench, transaction.run())
    assert held == [False, True]  # what the module asks for in its init still comes


@pytest.mark.parametrize("looks", [1, 2, 3])
def test_a_module_that_turns_up_later_is_waited_for_as_well(bench: Bench, looks: int) -> None:
    bench.plans = [*[make_plan()] * looks, make_plan(findings=(BLOCKER,)), make_plan()]
    assert_sealed(bench, bench.lock())
    assert bench.slept.count(AGAIN_SECONDS) == 1
    assert bench.events().count(Event.RETRY) == 1


def test_a_module_that_stays_busy_is_refused_in_the_end(bench: Bench) -> None:
    bench.plans = [make_plan(findings=(BLOCKER,))]
    failed = bench.fails()
    assert (failed.status, "1 blockers: module nft is Loading" in failed.message) == (Exit.REFUSED, True)
    assert bench.slept == [AGAIN_SECONDS] * (ATTEMPTS - 1)
    assert len(bench.policies) == ATTEMPTS
    assert_open(bench)


def test_a_blocker_that_lasts_is_refused_at_the_first_look(bench: Bench) -> None:
    bench.plans = [make_plan(findings=(BLOCKER, LASTING)), make_plan()]
    failed = bench.fails()
    assert (failed.status, "2 blockers" in failed.message) == (Exit.REFUSED, True)
    assert (bench.slept, len(bench.policies)) == ([], 1)
    assert_open(bench)


def test_code_that_comes_before_the_freeze_is_never_sealed_as_denied(bench: Bench) -> None:
    def reach(step: Step) -> None:
        if step is Step.FREEZE:
            bench.plans = [MORE]

    record = bench.lock(reach=reach)
    assert (record.state, record.plan_digest) == (State.SEALED, MORE.digest)
    assert bench.frames(Ept.XS) == kept_frames(MORE) - {CANARY}
    assert bench.events().count(Event.RETRY) == 1


def test_code_that_comes_and_goes_between_freeze_and_seal_is_not_sealed_either(bench: Bench) -> None:
    bench.plans = [make_plan(), make_plan(), make_plan(), MORE, make_plan()]
    assert_sealed(bench, bench.lock())
    assert bench.slept == [SETTLE_SECONDS, AGAIN_SECONDS, SETTLE_SECONDS]


def test_code_that_comes_at_each_freeze_is_refused_and_all_is_undone(bench: Bench) -> None:
    frozen: list[bool] = []
    transaction = bench.transaction()

    def reach(step: Step) -> None:
        frozen.append(bench.values() == FROZEN)
        bench.plans = [MORE if step in (Step.FREEZE, Step.LAST_SURVEY) else make_plan()]

    def sleep(seconds: float) -> None:
        opened = bench.frames(Ept.XS) == ALL
        assert (bench.values() == BEFORE, opened) == (seconds == AGAIN_SECONDS, seconds == AGAIN_SECONDS)

    transaction.reach, transaction.sleep = reach, sleep
    with pytest.raises(UserError, match=f"kept changing over {ATTEMPTS} surveys") as caught:
        transaction.run()
    assert caught.value.status is Exit.REFUSED
    assert any(frozen)
    assert_open(bench)
    assert_recovers(bench)


HOOKED = Use("BPF hooks on kernel functions (1)")


def hooked(use: Use | None) -> tuple[Decision, ...]:
    """What is decided by `auto` on a guest where somebody uses ftrace."""
    return tuple(Decision(s, "auto", use if s.setting == "freeze.ftrace" else None) for s in SWITCHES)


@pytest.mark.parametrize("step", [Step.HOLD, Step.APPLY, Step.FREEZE, Step.SETTLE])
def test_what_is_used_since_the_check_is_not_frozen_in_silence(bench: Bench, step: Step) -> None:
    def reach(reached: Step) -> None:
        if reached is step:
            bench.decisions = hooked(HOOKED)

    record = bench.lock(reach=reach)
    assert record.state is State.SEALED
    assert bench.values() == {**AFTER, "kernel.ftrace_enabled": BEFORE["kernel.ftrace_enabled"]}
    assert [why.id for why in record.reasons] == ["freeze-left-open"]


def test_a_guest_whose_use_keeps_changing_is_not_locked(bench: Bench) -> None:
    def reach(step: Step) -> None:
        bench.decisions = hooked(HOOKED if step is Step.LAST_SURVEY else None)

    failed = bench.fails(reach=reach)
    assert (failed.status, "what the guest uses kept changing" in failed.message) == (Exit.REFUSED, True)
    assert_open(bench)


def test_a_guest_that_changes_once_is_surveyed_again(bench: Bench) -> None:
    bench.plans = [make_plan(), MORE, make_plan()]
    assert_sealed(bench, bench.lock())
    assert bench.slept == [AGAIN_SECONDS, SETTLE_SECONDS]
    assert [facts["attempt"] for event, facts in bench.told if event is Event.RETRY] == ["2"]


def test_a_guest_that_keeps_changing_is_not_locked(bench: Bench) -> None:
    bench.plans = [make_plan(), *[make_plan(), MORE] * ATTEMPTS]
    failed = bench.fails()
    assert (failed.status, "kept changing" in failed.message) == (Exit.REFUSED, True)
    assert bench.slept == [AGAIN_SECONDS] * (ATTEMPTS - 1)
    assert bench.events().count(Event.RETRY) == ATTEMPTS - 1
    assert_open(bench)
    assert_recovers(bench)


def test_the_map_is_open_while_a_changing_guest_is_waited_for(bench: Bench) -> None:
    bench.plans = [make_plan(), MORE, make_plan()]
    transaction = bench.transaction()
    seen: list[bool] = []
    transaction.sleep = lambda _seconds: seen.append(bench.frames(Ept.XS) == ALL)
    transaction.run()
    assert seen == [True, False]  # the second time it settles, mapped


def test_a_host_sealed_by_somebody_else_meanwhile_is_left_alone(bench: Bench) -> None:
    def somebody(step: Step) -> None:
        if step is Step.SEAL:
            bench.host.protect(request(MORE, CANARY, immutable=True))

    failed = bench.fails(reach=somebody)
    assert (failed.status, "sealed by another plan" in failed.message) == (Exit.REFUSED, True)
    assert bench.frames(Ept.XS) == kept_frames(MORE) - {CANARY}
    assert bench.status().state is State.DEGRADED


def test_a_heki_host_without_a_query_is_judged_by_its_canary(tmp_path: Path) -> None:
    def heki() -> Bench:
        return Bench(tmp_path, replace(OPTIONS, no_query=True))

    assert heki().status().state is State.OPEN
    failed = heki().fails(reach=refusing(Step.RECORD, UserError("disk full")))
    assert failed.message == "the guest is sealed, but: disk full"
    assert heki().host.modules_held
    assert (heki().status().state, heki().status().interrupted) == (State.SEALED, Step.RECORD)
    for _ in range(2):
        record = heki().lock()
        assert {e.probe: e.outcome for e in record.evidence} == EXEC_EXPECTED
        assert heki().status().state is State.SEALED
    assert heki().frames(Ept.XS) == kept_frames(make_plan()) - {CANARY}


def test_a_second_agent_dies_and_disturbs_nothing(bench: Bench) -> None:
    second = Bench(bench.folder)

    def reach(step: Step) -> None:
        failed = second.fails()
        assert "another mbecguard" in failed.message
        assert bench.store.journal(bench.boot_id) is not None
        assert step in Step

    assert_sealed(bench, bench.lock(reach=reach))
    assert not second.told


def test_a_dead_terminal_decides_nothing(bench: Bench) -> None:
    def broken(event: Event, _facts: dict[str, str]) -> None:
        raise BrokenPipeError

    transaction = bench.transaction()
    transaction.tell = broken
    assert_sealed(bench, transaction.run())


def test_the_announcement_of_a_seal_can_witness_it(bench: Bench) -> None:
    bench.lock()
    (facts,) = (facts for event, facts in bench.told if event is Event.SEALED)
    entry = bench.store.last(bench.boot_id)
    assert entry
    assert facts == {"record": entry.digest, "plan": entry.record.plan_digest, "pages": "10"}
    assert facts["plan"] == make_plan().digest
    later = bench.again()
    later.lock()  # has a record of its own, which follows the first
    (again,) = (facts for event, facts in later.told if event is Event.SEALED)
    assert again["record"] != facts["record"]
    newest = bench.store.newest()
    assert newest
    assert (newest.digest, newest.previous) == (again["record"], facts["record"])


@pytest.mark.parametrize("step", [Step.ONE_WAY, Step.RECORD])
def test_a_seal_that_cannot_be_recorded_is_announced_all_the_same(bench: Bench, step: Step) -> None:
    assert bench.fails(reach=refusing(step, UserError("disk full"))).status is Exit.ERROR
    (facts,) = (facts for event, facts in bench.told if event is Event.SEALED)
    assert facts == {"record": "none", "plan": make_plan().digest, "pages": "10"}
