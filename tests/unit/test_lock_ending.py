# SPDX-License-Identifier: GPL-2.0-or-later
"""Every way to fail leaves the truth behind: rolled back, or sealed and said so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from mbecguard.host.base import HostErrno, HostRefusedError, Permission, Protection
from mbecguard.host.simulated.ept import Ept
from mbecguard.plan.value import Plan
from mbecguard.records.record import SEALED_STEPS, Journal, Record, State, Step
from mbecguard.records.store import Store
from mbecguard.values.errors import Exit, UserError, die
from mbecguard.values.events import Event
from tests.lockbench import AFTER, FROZEN, ONE_WAY, STEPS, Bench, GuestKnobs, WrappedHost
from tests.lockchecks import (
    ALL,
    MORE,
    FailsAfterSeal,
    OpensNever,
    Trouble,
    assert_open,
    assert_recovers,
    assert_sealed,
    refusing,
)
from tests.plans import kept, make_plan

pytestmark = pytest.mark.usefixtures("fast_disk")

BEFORE_SEAL = [step for step in STEPS if step not in SEALED_STEPS]


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


@pytest.mark.parametrize("step", sorted(SEALED_STEPS.intersection(STEPS)))
@pytest.mark.parametrize(
    "error", [UserError("disk full"), HostRefusedError(HostErrno.FAULT, "query"), RuntimeError("bug")]
)
def test_a_failure_after_the_seal_leaves_it_sealed_and_a_rerun_completes(
    bench: Bench, step: Step, error: Exception
) -> None:
    with pytest.raises((UserError, RuntimeError)) as caught:
        bench.lock(reach=refusing(step, error))
    if isinstance(caught.value, UserError):
        assert caught.value.status is Exit.ERROR
        assert caught.value.message.startswith("the guest is sealed, but")
        assert "lock` again" in caught.value.hint
    status = bench.status()
    assert (status.state, status.interrupted, status.record) == (State.SEALED, step, None)
    assert bench.values() == (AFTER if step is Step.RECORD else FROZEN)
    assert "not recorded" in status.reasons[0].text
    assert Event.ROLLED_BACK not in bench.events()
    assert bench.host.modules_held
    assert_recovers(bench)


def test_a_record_that_cannot_be_written_is_made_good_by_a_rerun(bench: Bench) -> None:
    in_the_way = bench.folder / "state/history.json.new"
    in_the_way.mkdir(parents=True)
    assert bench.fails().status is Exit.ERROR
    assert bench.status().state is State.SEALED
    assert bench.status().interrupted is Step.RECORD
    in_the_way.rmdir()
    assert_recovers(bench)


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
    assert len(requests) == 4  # apply, tighten, seal, and the attempt to unlock, which has to be refused
    survived = [assert_survives(Bench(tmp_path / str(at)), at, HostRefusedError(errno, "trouble")) for at in requests]
    assert survived == [False, False, False, errno is HostErrno.PERM]


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


def test_a_sealed_host_that_fails_the_proof_is_degraded_until_it_passes(bench: Bench) -> None:
    for _ in range(2):
        failed = bench.fails(FailsAfterSeal(bench.host))
        assert failed.status is Exit.NOT_ENFORCED
        assert failed.message.startswith("the guest is sealed, but: the host does not enforce: canary after the seal")
        assert "nothing is protected" not in failed.hint
        status = bench.status()
        assert (status.state, status.interrupted) == (State.DEGRADED, None)
        assert "canary after the seal: ran" in status.reasons[0].text
        assert bench.host.modules_held
        assert bench.values() == FROZEN
    assert Event.ROLLED_BACK not in bench.events()
    assert_recovers(bench)


def test_a_degraded_guest_without_a_record_keeps_the_evidence_against_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_store: object, _record: Record, _plan: Plan) -> None:
        raise UserError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("mbecguard.records.store.Store.append", full)
        assert bench.fails(FailsAfterSeal(bench.host)).status is Exit.NOT_ENFORCED
    assert bench.status().state is State.DEGRADED
    assert bench.status().interrupted is Step.SEAL
    assert_recovers(bench)


def test_a_degraded_guest_that_cannot_be_opened_stays_reported(bench: Bench) -> None:
    failed = bench.fails(OpensNever(bench.host))
    assert failed.status is Exit.NOT_ENFORCED
    assert failed.message.endswith("could not be undone: map")
    assert kept(bench.store)[-1].state is State.DEGRADED
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


class Full(Store):
    """A state folder on a disk that is full when a step wants to be noted."""

    at: Step

    def note(self, journal: Journal | None, plan: Plan | None = None) -> None:
        if journal and journal.step is self.at:
            raise UserError("No space left on device")
        Store.note(self, journal, plan)


@pytest.mark.parametrize("step", BEFORE_SEAL)
def test_a_full_disk_leaves_an_open_guest_as_it_was(bench: Bench, step: Step) -> None:
    bench.store = Full(bench.store.folder)
    object.__setattr__(bench.store, "at", step)
    failed = bench.fails()
    assert failed.message == "not locked: No space left on device"
    assert_open(bench)
    assert_recovers(bench)


class RefusesSeal(WrappedHost):
    def protect(self, request: Sequence[Protection]) -> None:
        if any(entry.permissions & Permission.IMMUTABLE for entry in request):
            raise HostRefusedError(HostErrno.FAULT, "protect")
        self.inner.protect(request)


def test_a_refused_seal_leaves_an_open_guest_as_it_was(bench: Bench) -> None:
    assert bench.fails(RefusesSeal(bench.host)).status is Exit.REFUSED
    assert_open(bench)
    assert_recovers(bench)


class NoOneWay(GuestKnobs):
    """Refuses some of the switches that nobody can take back."""

    refused: frozenset[str] = frozenset(ONE_WAY)

    def put(self, name: str, value: str) -> None:
        if name in self.refused:
            die(f"{name} cannot be set to {value}: Operation not permitted")
        GuestKnobs.put(self, name, value)


def test_a_one_way_switch_that_is_refused_leaves_a_sealed_guest_with_a_reason(bench: Bench) -> None:
    good = bench.knobs
    bench.knobs = NoOneWay(good.root)
    for _ in range(2):
        record = bench.lock()
        assert (record.state, record.exit) == (State.SEALED, Exit.OK)
        assert {why.id for why in record.reasons} == {"switch-refused"}
        assert all(any(knob in why.text for why in record.reasons) for knob in ONE_WAY)
        assert bench.values() == FROZEN
        assert set(record.frozen) == set(AFTER) - ONE_WAY
        assert (bench.status().state, bench.status().reasons) == (State.SEALED, record.reasons)
    bench.knobs = good
    assert_sealed(bench, bench.lock())


def test_a_one_way_switch_does_not_keep_another_from_being_set(bench: Bench) -> None:
    bench.knobs = NoOneWay(bench.knobs.root)
    object.__setattr__(bench.knobs, "refused", {"kernel.kexec_load_disabled"})
    assert [why.text for why in bench.lock().reasons] == [
        "kernel.kexec_load_disabled is not frozen: "
        "kernel.kexec_load_disabled cannot be set to 1: Operation not permitted"
    ]
    assert bench.values() == {**AFTER, "kernel.kexec_load_disabled": "0"}


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
