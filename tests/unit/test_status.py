# SPDX-License-Identifier: GPL-2.0-or-later
"""What `status` says for every combination of the host's answer, the newest record and the journal; and drift."""

from __future__ import annotations

from pathlib import Path

import pytest

from mbecguard.host.base import HostErrno, HostMode, HostRefusedError, HostStatus, Outcome, Permission
from mbecguard.host.simulated.host import SimulatedHost
from mbecguard.host.simulated.hypervisor import Options
from mbecguard.host.wire import Limits
from mbecguard.records.drift import drift
from mbecguard.records.reasons import Reason, reason
from mbecguard.records.record import PROOF, Journal, Probe, Record, State, Step
from mbecguard.records.status import Status, status
from mbecguard.records.store import Store
from mbecguard.values.codec import decode, encode
from mbecguard.values.errors import UserError
from tests.lockbench import WrappedHost
from tests.plans import CANARY, PFNS, TEXT_VA, keep, make_evidence, make_plan, make_record

OPEN = HostStatus(HostMode.ENFORCE, Permission.EXEC | Permission.IMMUTABLE, 0, restricted=False, sealed=False)
RESTRICTED = OPEN._replace(restricted=True, generation=1)
SEALED = RESTRICTED._replace(sealed=True)
UNKNOWN = HostStatus(HostMode.UNKNOWN, Permission(0), 0, restricted=False, sealed=False)
BAD = make_evidence(CANARY_AFTER=Outcome.RAN)
DEGRADED = make_record(State.DEGRADED, reasons=(Reason("bad", "it is bad"),))
AUDITED = make_record(State.APPLIED, reasons=(reason("audit-mode"),), mode="audit")


class Answers(WrappedHost):
    """A host with a fixed answer to every question."""

    def __init__(
        self, answer: HostStatus | Exception, pinned: bool | Exception = True, canary: Outcome = Outcome.DENIED
    ) -> None:
        super().__init__(SimulatedHost(Options(limits=Limits(max_pfn=PFNS)), CANARY))
        self._answer, self._pinned, self._canary = answer, pinned, canary

    def query(self) -> HostStatus:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    def pinned(self) -> bool:
        if isinstance(self._pinned, Exception):
            raise self._pinned
        return self._pinned

    def run_canary(self) -> Outcome:
        return self._canary


def journal(step: Step, *probes: Probe) -> Journal:
    return Journal("boot", step, make_evidence(*probes) if probes else ())


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def ask(tmp_path: Path, host: Answers, record: Record | None = None, under_way: Journal | None = None) -> Status:
    store = Store(tmp_path)
    if record:
        keep(store, record)
    store.note(under_way)
    before = content(tmp_path)
    found = status(host, store, "boot")
    assert content(tmp_path) == before
    return found


PROVING = journal(Step.FREEZE, *PROOF)
TABLE: list[tuple[HostStatus, Record | None, Journal | None, State, str]] = [
    (OPEN, None, None, State.OPEN, ""),
    (OPEN, make_record(boot_id="before"), None, State.OPEN, ""),
    (OPEN, make_record(), None, State.DEGRADED, "lost the map"),
    (OPEN, DEGRADED, None, State.DEGRADED, "it is bad"),
    (OPEN, AUDITED, None, State.OPEN, "is gone"),
    (OPEN, None, journal(Step.HOLD), State.OPEN, "stopped at step hold"),
    (OPEN, None, Journal("before", Step.PIN), State.OPEN, ""),
    (RESTRICTED, None, None, State.APPLIED, "can still be undone"),
    (RESTRICTED, None, journal(Step.APPLY), State.APPLIED, "can still be undone"),
    (RESTRICTED, None, PROVING, State.PROVEN, "can still be undone"),
    (RESTRICTED, None, Journal("boot", Step.PROVE, BAD), State.APPLIED, "can still be undone"),
    (RESTRICTED, AUDITED, None, State.APPLIED, "audit mode"),
    (RESTRICTED, AUDITED, PROVING, State.PROVEN, "can still be undone"),
    (RESTRICTED, DEGRADED, None, State.DEGRADED, "it is bad"),
    (RESTRICTED, DEGRADED, PROVING, State.PROVEN, "can still be undone"),
    (RESTRICTED, make_record(), None, State.DEGRADED, "lost the seal"),
    (SEALED, make_record(), None, State.SEALED, ""),
    (SEALED, make_record(reasons=(Reason("note", "a note"),)), None, State.SEALED, "a note"),
    (SEALED, make_record(generation=9), None, State.DEGRADED, "not the recorded one"),
    (SEALED, None, journal(Step.RECORD, *Probe), State.SEALED, "not recorded yet"),
    (SEALED, DEGRADED, journal(Step.RECORD, *Probe), State.SEALED, "not recorded yet"),
    (SEALED, DEGRADED, None, State.DEGRADED, "it is bad"),
    (SEALED, None, None, State.DEGRADED, "nobody here saw a proof"),
    (SEALED, AUDITED, None, State.DEGRADED, "nobody here saw a proof"),
    (SEALED, None, Journal("boot", Step.SEAL, BAD), State.DEGRADED, "nobody here saw a proof"),
    (SEALED._replace(mode=HostMode.AUDIT), make_record(), None, State.DEGRADED, "mode is audit now"),
    (SEALED._replace(mode=HostMode.OFF), make_record(), None, State.DEGRADED, "mode is off now"),
]


@pytest.mark.parametrize(("answer", "record", "under_way", "state", "why"), TABLE)
def test_the_state_is_the_truth(
    tmp_path: Path, answer: HostStatus, record: Record | None, under_way: Journal | None, state: State, why: str
) -> None:
    found = ask(tmp_path, Answers(answer), record, under_way)
    assert found.state is state
    assert why in "; ".join(map(str, found.reasons))
    assert bool(found.reasons) == bool(why)
    ours = record if record and record.boot_id == "boot" else None
    step = under_way.step if under_way and under_way.boot_id == "boot" else None
    assert found.interrupted is step
    assert (found.record and (found.record.state, found.record.time)) == (ours and (ours.state, ours.time))
    assert (found.host, found.simulated, found.mode) == ("simulator", True, answer.mode)
    assert found.generation == answer.generation
    assert decode(Status, encode(found)) == found


def test_without_the_pin_nothing_is_sealed(tmp_path: Path) -> None:
    found = ask(tmp_path, Answers(SEALED, pinned=False), make_record())
    assert (found.state, found.reasons) == (State.DEGRADED, (reason("unpinned"),))


@pytest.mark.parametrize("error", [HostRefusedError(HostErrno.FAULT, "trouble"), UserError("trouble")])
def test_a_host_that_does_not_answer_is_open_only_if_nothing_was_done(tmp_path: Path, error: Exception) -> None:
    assert ask(tmp_path, Answers(error)).state is State.OPEN
    for step in (Step.HOLD, Step.RECORD):
        found = ask(tmp_path, Answers(error), None, journal(step))
        assert (found.state, found.interrupted, found.mode) == (State.DEGRADED, step, HostMode.UNKNOWN)
        assert "trouble" in found.reasons[0].text
        assert f"step {step}" in found.reasons[1].text
    assert ask(tmp_path, Answers(error), make_record()).state is State.DEGRADED


def test_pins_that_the_host_does_not_judge_are_degraded(tmp_path: Path) -> None:
    refused = HostRefusedError(HostErrno.FAULT, "trouble")
    assert ask(tmp_path, Answers(SEALED, pinned=refused), make_record()).state is State.DEGRADED


def test_a_probe_that_could_not_be_made_is_no_degraded_guest(tmp_path: Path) -> None:
    found = ask(tmp_path, Answers(SEALED, pinned=UserError("no CPU 3", "lift cpusets")), make_record())
    assert found.state is State.SEALED
    assert found.reasons == (reason("pins-untried", problem="no CPU 3", advice="lift cpusets"),)
    moved = make_record(generation=99)
    assert ask(tmp_path, Answers(SEALED, pinned=UserError("no CPU 3")), moved).state is State.DEGRADED


@pytest.mark.parametrize(
    ("canary", "record", "under_way", "state"),
    [
        (Outcome.RAN, None, None, State.OPEN),
        (Outcome.NO_VERDICT, None, None, State.OPEN),
        (Outcome.RAN, make_record(generation=0), None, State.DEGRADED),
        (Outcome.DENIED, None, None, State.APPLIED),
        (Outcome.DENIED, make_record(generation=0), None, State.SEALED),
        (Outcome.DENIED, None, journal(Step.RECORD, *Probe), State.SEALED),
        (Outcome.DENIED, None, journal(Step.SEAL, *PROOF), State.PROVEN),
    ],
)
def test_a_host_without_a_query_is_judged_by_its_canary(
    tmp_path: Path, canary: Outcome, record: Record | None, under_way: Journal | None, state: State
) -> None:
    assert ask(tmp_path, Answers(UNKNOWN, canary=canary), record, under_way).state is state


def test_no_drift_between_equal_plans() -> None:
    found = drift(make_plan(), make_plan())
    assert (found.new, found.stale) == ((), ())


def test_drift_is_clipped_to_what_differs_with_its_own_addresses() -> None:
    found = drift(make_plan([(10, 20), (30, 40)]), make_plan([(8, 12), (18, 33), (39, 41)]))
    assert [(k.start, k.end) for k in found.new] == [(8, 10), (20, 30), (40, 41)]
    assert [(k.start, k.end) for k in found.stale] == [(12, 18), (33, 39)]
    for k in (*found.new, *found.stale):
        assert k.va == TEXT_VA + k.start * 4096
    assert [k.owner for k in found.new] == ["owner8", "owner18", "owner39"]


def test_drift_to_and_from_nothing() -> None:
    nothing, all_ = make_plan([]), make_plan([(0, PFNS)])
    assert [k.pages for k in drift(nothing, all_).new] == [k.pages for k in all_.keep]
    assert [k.pages for k in drift(all_, nothing).stale] == [k.pages for k in all_.keep]
    assert drift(all_, nothing).new == ()
