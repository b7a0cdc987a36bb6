# SPDX-License-Identifier: GPL-2.0-or-later
"""The transaction against the simulated host: what a lock does, and that every way to fail leaves the truth behind."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbecguard.audit.record import EXPECTED, Probe, Record, State, Step
from mbecguard.ept import Ept
from mbecguard.errors import Exit, UserError
from mbecguard.events import Event
from mbecguard.host.base import Host, HostErrno, HostMode, HostRefusedError, HostStatus, Outcome, Permission, Protection
from mbecguard.host.hypervisor import Options
from mbecguard.lock import ATTEMPTS, SETTLE_SECONDS, equal_request, request
from mbecguard.plan.planner import Plan
from mbecguard.proof import KEPT_TRIES, Prober, frames_to_try
from tests.lockbench import AFTER, BEFORE, ONE_WAY, OPTIONS, Bench, WrappedHost
from tests.plans import BLOCKER, CANARY, PFNS, SPANS, kept_frames, make_plan

ALL = set(range(PFNS))
MORE = make_plan((*SPANS, (50, 51)))


@pytest.fixture(autouse=True)
def _fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _fd: None)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def assert_sealed(bench: Bench, record: Record) -> None:
    """Everything that a lock promises, read from the host and not from the record alone."""
    assert bench.frames(Ept.XS) == kept_frames(make_plan()) - {CANARY}
    assert bench.frames(Ept.XU) == ALL
    assert bench.host.query().sealed
    assert bench.host.pinned()
    assert bench.host.modules_held
    assert bench.values() == AFTER
    assert {e.probe: e.outcome for e in record.evidence} == EXPECTED
    assert record.state is State.SEALED
    assert (record.pinned, set(record.frozen)) == (True, set(AFTER))
    assert bench.store.records()[-1] == record
    assert bench.store.journal(bench.boot_id) is None
    assert bench.status().state is State.SEALED
    assert bench.status().interrupted is None


def assert_open(bench: Bench, state: State = State.OPEN) -> None:
    """The state before: nothing denied, held or frozen but what goes one way only, and no journal."""
    assert bench.frames(Ept.XS) == bench.frames(Ept.XU) == ALL
    assert not bench.host.query().sealed
    assert not bench.host.modules_held
    values = bench.values()
    assert {k: v for k, v in values.items() if k not in ONE_WAY} == {
        k: v for k, v in BEFORE.items() if k not in ONE_WAY
    }
    stuck = {facts["what"] for event, facts in bench.told if event is Event.ROLLBACK_FAILED}
    assert stuck == {k for k in ONE_WAY if values[k] != BEFORE[k]}
    assert bench.store.journal(bench.boot_id) is None
    status = bench.status()
    assert (status.state, status.interrupted) == (state, None)


def assert_recovers(bench: Bench) -> None:
    later = bench.again()
    assert_sealed(later, later.lock())


def test_a_lock_ends_sealed_and_proven(bench: Bench) -> None:
    steps: list[Step] = []
    record = bench.lock(reach=steps.append)
    assert steps == list(Step)
    assert_sealed(bench, record)
    assert (record.reasons, record.simulated, record.mode) == ((), True, "enforce")
    assert record.generation == bench.host.query().generation
    assert record.plan == make_plan()
    assert bench.events()[0] is Event.LOCK_STARTED
    assert [e for e in bench.events() if e is not Event.STEP][1:] == [Event.APPLIED, Event.PROVEN, Event.SEALED]
    assert not bench.slept


def test_kept_text_is_proven_on_the_kernels_own_text(bench: Bench) -> None:
    evidence = {e.probe: e.pfn for e in bench.lock().evidence}
    assert evidence.pop(Probe.KEPT_TEXT) == 8
    assert set(evidence.values()) == {CANARY}


def test_frames_to_try_are_a_few_and_never_the_canary() -> None:
    assert frames_to_try(make_plan([(8, 9)]), 8) == []
    assert frames_to_try(make_plan([(8, 12)]), 8) == [9, 10, 11]
    assert frames_to_try(make_plan([]), 8) == []
    assert frames_to_try(make_plan([(0, 64)]), 70) == list(range(KEPT_TRIES))


@pytest.mark.parametrize("unsuitable", [0, 1, 2])
def test_kept_text_is_proven_on_the_first_page_that_can_be_run(bench: Bench, unsuitable: int) -> None:
    tried: list[int] = []

    class Host(WrappedHost):
        def run_kept(self, pfn: int) -> Outcome:
            tried.append(pfn)
            return Outcome.NO_VERDICT if len(tried) <= unsuitable else self.inner.run_kept(pfn)

    prober = Prober(Host(bench.host))
    prober.run_neighbours(make_plan())
    first = frames_to_try(make_plan(), CANARY)
    assert tried == first[: unsuitable + 1]
    assert [(e.outcome, e.pfn) for e in prober.found if e.probe is Probe.KEPT_TEXT] == [(Outcome.RAN, tried[-1])]


def test_kept_text_that_never_runs_is_no_proof(bench: Bench) -> None:
    class Host(WrappedHost):
        def run_kept(self, pfn: int) -> Outcome:
            return Outcome.NO_VERDICT

    error = bench.fails(Host(bench.host))
    assert error.status is Exit.NOT_ENFORCED
    assert "kept text" in error.message


def test_one_way_switches_come_last(bench: Bench) -> None:
    order: list[str] = []
    put = bench.knobs.put
    transaction = bench.transaction()
    transaction.knobs = Recording(put, bench.knobs.get, order)
    transaction.run()
    assert set(order) == set(AFTER)
    assert set(order[-len(ONE_WAY) :]) == ONE_WAY


class Recording:
    """Switches that tell what is written."""

    def __init__(self, put: Callable[[str, str], None], get: Callable[[str], str | None], order: list[str]) -> None:
        self._put, self._get, self._order = put, get, order

    def get(self, name: str) -> str | None:
        return self._get(name)

    def put(self, name: str, value: str) -> None:
        self._order.append(name)
        self._put(name, value)


def test_a_switch_that_this_kernel_lacks_or_has_set_is_left_alone(bench: Bench) -> None:
    missing, given_ = "net.core.bpf_jit_enable", "kernel.ftrace_enabled"
    bench.knob_file(missing).unlink()
    bench.knobs.put(given_, AFTER[given_])
    assert set(bench.lock().frozen) == set(AFTER) - {missing}
    assert bench.knobs.get(missing) is None


def refusing(step: Step, error: BaseException) -> Callable[[Step], None]:
    def reach(reached: Step) -> None:
        if reached is step:
            raise error

    return reach


BEFORE_SEAL = [step for step in Step if step is not Step.RECORD]


@pytest.mark.parametrize("step", BEFORE_SEAL)
@pytest.mark.parametrize(
    ("error", "status"),
    [(UserError("boom", "mend it"), Exit.ERROR), (HostRefusedError(HostErrno.FAULT, "boom"), Exit.REFUSED)],
)
def test_a_failing_step_is_rolled_back(bench: Bench, step: Step, error: Exception, status: Exit) -> None:
    failed = bench.fails(reach=refusing(step, error))
    assert failed.status == status
    assert failed.message.startswith("not locked: ")
    assert "boom" in failed.message
    assert_open(bench)
    assert (Event.ROLLED_BACK in bench.events()) == (step is not Step.CHECK and step is not Step.HOLD)
    assert_recovers(bench)


@pytest.mark.parametrize("step", BEFORE_SEAL)
@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyboardInterrupt()])
def test_a_bug_or_an_interrupt_is_rolled_back_and_shown(bench: Bench, step: Step, error: BaseException) -> None:
    with pytest.raises(type(error)):
        bench.lock(reach=refusing(step, error))
    assert_open(bench)
    assert_recovers(bench)


@pytest.mark.parametrize(
    "error", [UserError("disk full"), HostRefusedError(HostErrno.FAULT, "query"), RuntimeError("bug")]
)
def test_a_failure_after_the_seal_leaves_it_sealed_and_a_rerun_completes(bench: Bench, error: Exception) -> None:
    with pytest.raises((UserError, RuntimeError)) as caught:
        bench.lock(reach=refusing(Step.RECORD, error))
    if isinstance(caught.value, UserError):
        assert caught.value.status is Exit.ERROR
        assert caught.value.message.startswith("the guest is sealed, but")
        assert "lock` again" in caught.value.hint
    status = bench.status()
    assert (status.state, status.interrupted, status.record) == (State.SEALED, Step.RECORD, None)
    assert "not recorded" in status.reasons[0]
    assert Event.ROLLED_BACK not in bench.events()
    assert bench.host.modules_held
    assert_recovers(bench)


def test_a_record_that_cannot_be_written_is_made_good_by_a_rerun(bench: Bench) -> None:
    (bench.folder / "state").mkdir()
    (bench.folder / "state/records.jsonl").symlink_to(bench.folder / "gone/records.jsonl")
    assert bench.fails().status is Exit.ERROR
    assert bench.status().state is State.SEALED
    assert bench.status().interrupted is Step.RECORD
    (bench.folder / "state/records.jsonl").unlink()
    assert_recovers(bench)


class Trouble:
    """Raises `error` at the n-th host call, or from the n-th on."""

    def __init__(self, at: int, error: Exception, lasting: bool = False) -> None:
        self.at, self.error, self.lasting = at, error, lasting
        self.calls: list[str] = []

    def __call__(self, call: str) -> None:
        self.calls.append(call)
        number = len(self.calls) - 1
        if number == self.at or (self.lasting and number > self.at):
            raise self.error


def host_calls(tmp_path: Path) -> list[str]:
    """The host calls of a whole lock."""
    trouble = Trouble(-1, UserError("never"))
    bench = Bench(tmp_path / "calls")
    bench.lock(WrappedHost(bench.host, trouble))
    return trouble.calls


def assert_survives(bench: Bench, at: int, error: Exception) -> bool:
    """Whether the lock failed at all when one host call did."""
    try:
        assert_sealed(bench, bench.lock(WrappedHost(bench.host, Trouble(at, error))))
    except UserError as failed:
        assert_told_truly(bench, failed, refused=isinstance(error, HostRefusedError))
        assert_recovers(bench)
        return False
    return True


@pytest.mark.parametrize("error", [HostRefusedError(HostErrno.FAULT, "trouble"), UserError("no host")], ids=str)
def test_any_one_failing_host_call_is_rolled_back_or_reported(tmp_path: Path, error: Exception) -> None:
    for at, _call in enumerate(host_calls(tmp_path)):
        assert not assert_survives(Bench(tmp_path / str(at)), at, error)


@pytest.mark.parametrize("errno", HostErrno)
def test_a_refused_request_is_rolled_back_or_reported(tmp_path: Path, errno: HostErrno) -> None:
    requests = [at for at, call in enumerate(host_calls(tmp_path)) if call == "protect"]
    assert len(requests) == 3  # apply, seal, and the attempt to unlock, which has to be refused
    survived = [assert_survives(Bench(tmp_path / str(at)), at, HostRefusedError(errno, "trouble")) for at in requests]
    assert survived == [False, False, errno is HostErrno.PERM]


def assert_told_truly(bench: Bench, failed: UserError, refused: bool) -> None:
    if not bench.host.query().sealed:
        assert failed.status == (Exit.REFUSED if refused else Exit.ERROR)
        assert_open(bench)
        return
    assert failed.message.startswith("the guest is sealed, but")
    degraded = failed.status is Exit.NOT_ENFORCED  # the attempt to unlock had no verdict
    assert degraded or failed.status is Exit.ERROR
    assert bench.status().state is (State.DEGRADED if degraded else State.SEALED)
    assert bench.host.modules_held


@pytest.mark.parametrize("error", [HostRefusedError(HostErrno.FAULT, "trouble"), UserError("no host")], ids=str)
def test_a_host_that_stops_answering_is_told_truly_and_a_rerun_recovers(tmp_path: Path, error: Exception) -> None:
    for at, _call in enumerate(host_calls(tmp_path)):
        bench = Bench(tmp_path / str(at))
        trouble = Trouble(at, error, lasting=True)
        silent = WrappedHost(bench.host, trouble)
        failed = bench.fails(silent)
        touched = "hold_modules" in trouble.calls  # whether the call had an effect nobody can know
        sure = failed.message.startswith("the guest is sealed")
        assert bench.host.query().sealed or not sure
        assert ("could not be undone" in failed.message) == (touched and not sure)
        assert bench.status(silent).state is (State.DEGRADED if touched else State.OPEN)
        assert (bench.status().interrupted is not None) == touched
        assert (Event.ROLLBACK_FAILED in bench.events()) == ("could not be undone" in failed.message)
        assert_recovers(bench)


class CanaryRunsAlways(WrappedHost):
    """A Heki v2 host without MBEC, seen by the canary."""

    def run_canary(self) -> Outcome:
        return Outcome.RAN


class CanaryGivesNoVerdict(WrappedHost):
    def run_canary(self) -> Outcome:
        return Outcome.NO_VERDICT if self.inner.query().restricted else Outcome.RAN


class UserDenied(WrappedHost):
    """A host that takes execution from user mode as well."""

    def run_user(self, pfn: int) -> Outcome:
        return Outcome.DENIED


class KeptDenied(WrappedHost):
    def run_kept(self, pfn: int) -> Outcome:
        return Outcome.DENIED


class PinsNothing(WrappedHost):
    def pin(self) -> None:
        pass

    def pinned(self) -> bool:
        return False


class SealsNothing(WrappedHost):
    """Drops the immutable bit, and says yes."""

    def protect(self, request: Sequence[Protection]) -> None:
        self.inner.protect([replace(p, permissions=p.permissions & ~Permission.IMMUTABLE) for p in request])


class SealsNothingAndClaimsIt(SealsNothing):
    def query(self) -> HostStatus:
        status = self.inner.query()
        return replace(status, sealed=status.restricted)


LIARS = [
    (CanaryRunsAlways, "canary after the lock: ran"),
    (CanaryGivesNoVerdict, "canary after the lock: no-verdict"),
    (UserDenied, "user-mode fetch from a denied page: denied"),
    (KeptDenied, "supervisor fetch from kept text: denied"),
    (PinsNothing, "CR4.SMEP can still be cleared"),
    (SealsNothing, "attempt to unlock after the seal: ran"),
    (SealsNothingAndClaimsIt, "attempt to unlock after the seal: ran"),
]


@pytest.mark.parametrize(("liar", "reason"), LIARS)
def test_a_lying_host_is_found_out_and_everything_is_rolled_back(
    bench: Bench, liar: type[WrappedHost], reason: str
) -> None:
    failed = bench.fails(liar(bench.host))
    assert failed.status is Exit.NOT_ENFORCED
    assert reason in failed.message
    assert failed.message.startswith("not locked: ")
    assert_open(bench, State.DEGRADED)
    assert reason in bench.status().reasons[0]
    record = bench.store.records()[-1]
    assert record.state is State.DEGRADED
    assert reason in record.reasons[0]
    assert Event.NOT_ENFORCED in bench.events()
    assert Event.SEALED not in bench.events()
    assert_recovers(bench)


class CanaryDeniedBefore(WrappedHost):
    def run_canary(self) -> Outcome:
        return Outcome.DENIED


def test_a_canary_that_does_not_run_before_the_lock_is_refused(bench: Bench) -> None:
    failed = bench.fails(CanaryDeniedBefore(bench.host))
    assert (failed.status, "does not run before" in failed.message) == (Exit.REFUSED, True)
    assert bench.host.query().generation == 0
    assert_open(bench)
    assert_recovers(bench)


class ClaimsSealed(WrappedHost):
    def query(self) -> HostStatus:
        return replace(self.inner.query(), sealed=True, restricted=True)


def test_a_seal_that_nobody_saw_proven_is_degraded_and_nothing_is_touched(bench: Bench) -> None:
    for _ in range(2):
        failed = bench.fails(ClaimsSealed(bench.host))
        assert failed.status is Exit.NOT_ENFORCED
        assert "nobody here saw a proof" in failed.message
        assert bench.status(ClaimsSealed(bench.host)).state is State.DEGRADED
    assert bench.host.query().generation == 0
    assert bench.values() == BEFORE
    assert_recovers(bench)


class FailsAfterSeal(WrappedHost):
    """Enforces until it is sealed."""

    def run_canary(self) -> Outcome:
        return Outcome.RAN if self.inner.query().sealed else self.inner.run_canary()


def test_a_sealed_host_that_fails_the_proof_is_degraded_until_it_passes(bench: Bench) -> None:
    for _ in range(2):
        failed = bench.fails(FailsAfterSeal(bench.host))
        assert failed.status is Exit.NOT_ENFORCED
        assert failed.message.startswith("the guest is sealed, but: the host does not enforce: canary after the seal")
        assert "nothing is protected" not in failed.hint
        status = bench.status()
        assert (status.state, status.interrupted) == (State.DEGRADED, None)
        assert "canary after the seal: ran" in status.reasons[0]
        assert bench.host.modules_held
        assert bench.values() == AFTER
    assert Event.ROLLED_BACK not in bench.events()
    assert_recovers(bench)


def test_a_degraded_guest_without_a_record_keeps_the_evidence_against_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_store: object, _record: Record) -> None:
        raise UserError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("mbecguard.audit.store.Store.append", full)
        assert bench.fails(FailsAfterSeal(bench.host)).status is Exit.NOT_ENFORCED
    assert bench.status().state is State.DEGRADED
    assert bench.status().interrupted is Step.SEAL
    assert_recovers(bench)


def test_a_host_without_mbec_is_not_enforcing(tmp_path: Path) -> None:
    bench = Bench(tmp_path, replace(OPTIONS, mbec=False))
    failed = bench.fails()
    assert failed.status is Exit.NOT_ENFORCED
    assert bench.store.records()[-1].state is State.DEGRADED
    assert bench.status().state is State.DEGRADED
    assert not bench.host.modules_held
    assert_recovers(Bench(tmp_path))


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


class SaysOff(WrappedHost):
    def query(self) -> HostStatus:
        return replace(self.inner.query(), mode=HostMode.OFF)


class NoCanary(WrappedHost):
    def __init__(self, inner: Host) -> None:
        super().__init__(inner)
        self.canary_pfn = None


@pytest.mark.parametrize(("kind", "text"), [(SaysOff, "switched off"), (NoCanary, "no canary")])
def test_a_host_that_cannot_prove_anything_is_refused(bench: Bench, kind: type[WrappedHost], text: str) -> None:
    failed = bench.fails(kind(bench.host))
    assert (failed.status, text in failed.message) == (Exit.REFUSED, True)
    assert_open(bench)


def test_audit_mode_is_applied_but_never_sealed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, replace(OPTIONS, mode=HostMode.AUDIT), mode="audit")
    for _ in range(2):
        record = bench.lock()
        assert (record.state, record.pinned, record.frozen) == (State.APPLIED, False, ())
        assert "not stopped" in record.reasons[0]
        assert bench.frames(Ept.XS) == kept_frames(make_plan()) - {CANARY}
        assert not bench.host.query().sealed
        assert not bench.host.modules_held
        assert bench.values() == BEFORE
        assert (bench.status().state, bench.status().interrupted) == (State.APPLIED, None)
    bench.fails(reach=refusing(Step.APPLY, UserError("boom")))
    assert bench.status().state is State.OPEN


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


def test_a_blocker_that_turns_up_after_the_map_is_rolled_back(bench: Bench) -> None:
    bench.plans = [make_plan(), make_plan(), make_plan(findings=(BLOCKER,))]
    assert bench.fails().status is Exit.REFUSED
    assert_open(bench)


def test_a_guest_that_changes_once_is_surveyed_again(bench: Bench) -> None:
    bench.plans = [make_plan(), MORE, make_plan()]
    assert_sealed(bench, bench.lock())
    assert bench.slept == [SETTLE_SECONDS]
    assert [facts["attempt"] for event, facts in bench.told if event is Event.RETRY] == ["2"]


def test_a_guest_that_keeps_changing_is_not_locked(bench: Bench) -> None:
    bench.plans = [make_plan(), *[make_plan(), MORE] * ATTEMPTS]
    failed = bench.fails()
    assert (failed.status, "kept changing" in failed.message) == (Exit.REFUSED, True)
    assert bench.slept == [SETTLE_SECONDS] * (ATTEMPTS - 1)
    assert bench.events().count(Event.RETRY) == ATTEMPTS - 1
    assert_open(bench)
    assert_recovers(bench)


def test_the_map_is_open_while_a_changing_guest_is_waited_for(bench: Bench) -> None:
    bench.plans = [make_plan(), MORE, make_plan()]
    transaction = bench.transaction()
    seen: list[bool] = []
    transaction.sleep = lambda _seconds: seen.append(bench.frames(Ept.XS) == ALL)
    transaction.run()
    assert seen == [True]


def test_locking_twice_is_locking_once(bench: Bench) -> None:
    first = bench.lock()
    generation = bench.host.query().generation
    later = bench.again()
    second = later.lock()
    assert_sealed(later, second)
    assert (second.plan, second.generation) == (first.plan, generation)
    assert len(later.store.records()) == 2


def test_a_rerun_of_many_ranges_comes_in_parts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.lock()
    sizes: list[int] = []

    class Host(WrappedHost):
        def protect(self, request: Sequence[Protection]) -> None:
            sizes.append(len(request))
            self.inner.protect(request)

    monkeypatch.setattr("mbecguard.lock.PART", 2)
    again = bench.again()
    assert again.lock(Host(again.host)).state is State.SEALED
    tiles = len(equal_request(make_plan(), CANARY))
    assert tiles > 2
    assert sizes == [2] * (tiles // 2) + [1] * (tiles % 2) + [1]  # the last is the attempt to unlock


def test_a_rerun_freezes_again_what_was_thawed(bench: Bench) -> None:
    bench.lock()
    bench.knobs.put("kernel.ftrace_enabled", "1")
    bench.host.hold_modules(False)
    assert_recovers(bench)


def test_another_plan_on_a_sealed_host_is_refused_and_changes_nothing(bench: Bench) -> None:
    bench.lock()
    regions = bench.host.hypervisor.ept.regions
    other = bench.again()
    other.plans = [MORE]
    failed = other.fails()
    assert failed.status is Exit.REFUSED
    assert "sealed by another plan" in failed.message
    assert other.host.hypervisor.ept.regions == regions
    status = other.status()
    assert status.state is State.DEGRADED
    assert "sealed by another plan" in status.reasons[0]
    assert other.store.records()[-1].plan == make_plan()  # the one that is in force
    assert_recovers(bench)


def test_code_that_went_away_does_not_break_the_seal(bench: Bench) -> None:
    bench.lock()
    later = bench.again()
    later.plans = [make_plan(SPANS[:-1])]
    record = later.lock()
    assert record.plan == make_plan()
    assert "keeps 1 ranges" in record.reasons[0]
    assert later.status().state is State.SEALED


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
        assert {e.probe: e.outcome for e in record.evidence} == EXPECTED
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


class OpensNever(WrappedHost):
    """Denies, but does not allow again, a number of times."""

    left = 99

    def protect(self, request: Sequence[Protection]) -> None:
        if len(request) == 1 and self.left:
            self.left -= 1
            raise HostRefusedError(HostErrno.FAULT, "protect")
        self.inner.protect(request)

    def run_kept(self, pfn: int) -> Outcome:
        return Outcome.DENIED


def test_a_degraded_guest_that_cannot_be_opened_stays_reported(bench: Bench) -> None:
    failed = bench.fails(OpensNever(bench.host))
    assert failed.status is Exit.NOT_ENFORCED
    assert failed.message.endswith("could not be undone: map")
    assert bench.store.records()[-1].state is State.DEGRADED
    assert (bench.status().state, bench.status().interrupted) == (State.APPLIED, Step.PROVE)
    assert_recovers(bench)


@pytest.mark.parametrize("errno", [HostErrno.PERM, HostErrno.INVALID, HostErrno.NO_HYPERCALL])
def test_a_host_that_refuses_everything_leaves_nothing_to_undo(bench: Bench, errno: HostErrno) -> None:
    class Refuses(WrappedHost):
        def protect(self, request: Sequence[Protection]) -> None:
            raise HostRefusedError(errno, "protect")

    failed = bench.fails(Refuses(bench.host))
    assert failed.status is Exit.REFUSED
    assert "could not be undone" not in failed.message
    assert Event.ROLLBACK_FAILED not in bench.events()
    assert bench.status().interrupted is None
    assert bench.lock().state is State.SEALED


def test_what_is_undone_at_the_second_try_is_undone(bench: Bench) -> None:
    bench.plans = [make_plan(), make_plan(), MORE, make_plan()]
    host = OpensNever(bench.host)
    host.left = 1
    failed = bench.fails(host)
    assert failed.status is Exit.NOT_ENFORCED
    assert bench.events().count(Event.ROLLBACK_FAILED) == 1
    assert "could not be undone" not in failed.message
    assert bench.frames(Ept.XS) == ALL
    assert bench.status().interrupted is None


def test_a_switch_that_never_was_set_is_not_told_as_stuck(bench: Bench) -> None:
    def put(name: str, value: str) -> None:
        if name in ONE_WAY:
            raise UserError("Operation not permitted")
        bench.knobs.put(name, value)

    transaction = bench.transaction()
    transaction.knobs = Recording(put, bench.knobs.get, [])
    with pytest.raises(UserError, match="not permitted"):
        transaction.run()
    assert bench.values() == BEFORE
    assert_open(bench)


def test_an_attempt_to_unlock_that_succeeds_is_taken_back(bench: Bench) -> None:
    bench.host.protect(request(make_plan(), CANARY, immutable=False))
    prober = Prober(bench.host)
    prober.try_unlock()
    assert prober.unlocked
    assert bench.host.run_canary() is Outcome.DENIED


def test_a_bug_in_one_undo_does_not_stop_the_others(bench: Bench) -> None:
    class Breaks(WrappedHost):
        def protect(self, request: Sequence[Protection]) -> None:
            if len(request) == 1:
                raise RuntimeError("bug")
            self.inner.protect(request)

    failed = bench.fails(Breaks(bench.host), refusing(Step.PROVE, UserError("boom")))
    assert "boom; could not be undone: map" in failed.message
    assert not bench.host.modules_held
    assert (bench.status().state, bench.status().interrupted) == (State.APPLIED, Step.PROVE)
    failed = bench.again().fails(Breaks(bench.host))
    assert "an earlier attempt could not be undone" in failed.message
    assert bench.again().status().interrupted is Step.CHECK
    assert_recovers(bench)


spans = st.lists(st.integers(0, PFNS), unique=True, max_size=20).map(lambda e: sorted(e)[: len(e) // 2 * 2])


def naive(entries: list[Protection]) -> dict[int, Permission]:
    """Page by page, the later entry wins."""
    return {pfn: entry.permissions for entry in entries for pfn in range(entry.pages.start, entry.pages.end)}


@given(edges=spans, canary=st.none() | st.integers(0, PFNS - 1), immutable=st.booleans())
def test_a_request_gives_exactly_the_kept_pages_without_the_canary(
    edges: list[int], canary: int | None, immutable: bool
) -> None:
    plan = make_plan(zip(edges[::2], edges[1::2], strict=True))
    pages = naive(request(plan, canary, immutable=immutable))
    assert pages.keys() == ALL
    assert {pfn for pfn, p in pages.items() if p & Permission.EXEC} == kept_frames(plan) - {canary}
    assert all(bool(p & Permission.IMMUTABLE) == immutable for p in pages.values())


@given(edges=spans, canary=st.none() | st.integers(0, PFNS - 1))
def test_the_equal_request_says_each_page_once_and_the_same(edges: list[int], canary: int | None) -> None:
    plan = make_plan(zip(edges[::2], edges[1::2], strict=True))
    tiles = equal_request(plan, canary)
    assert naive(tiles) == naive(request(plan, canary, immutable=True))
    assert sum(len(tile.pages) for tile in tiles) == PFNS
