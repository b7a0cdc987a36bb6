# SPDX-License-Identifier: GPL-2.0-or-later
"""In which state a guest is: the host's own answer first, then what the agent remembers of this boot."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mbecguard.audit.record import Journal, Record, State, Step, is_proof
from mbecguard.audit.store import Store
from mbecguard.host.base import Host, HostMode, HostRefusedError, HostStatus
from mbecguard.pages import PAGE_SHIFT, PageSet
from mbecguard.plan.planner import KeepRange, Plan

SCHEMA = "mbecguard.status/1"


@dataclass(frozen=True, slots=True)
class Status:
    """The state, why it is not better, and the record that it rests on."""

    state: State
    reasons: tuple[str, ...]
    host: str
    simulated: bool
    mode: HostMode
    generation: int
    record: Record | None
    interrupted: Step | None
    schema: str = SCHEMA


def status(host: Host, store: Store, boot_id: str) -> Status:
    """Ask the host and the store. Changes nothing; the host's refusal to answer is a degraded or open state."""
    record, journal = store.last(boot_id), store.journal()
    if journal and journal.boot_id != boot_id:
        journal = None
    try:
        answer = host.query()
    except HostRefusedError as error:
        state = State.DEGRADED if record and record.state is State.SEALED else State.OPEN
        return _status(host, state, (str(error),), None, record, journal)
    state, reasons = _judge(answer, host, record, journal)
    if journal:
        unfinished = f"an attempt stopped at step {journal.step}; run `mbecguard lock` to complete or repeat it"
        reasons = (*reasons, unfinished)
    return _status(host, state, reasons, answer, record, journal)


def _status(
    host: Host,
    state: State,
    reasons: tuple[str, ...],
    answer: HostStatus | None,
    record: Record | None,
    journal: Journal | None,
) -> Status:
    return Status(
        state=state,
        reasons=reasons,
        host=host.name,
        simulated=host.simulated,
        mode=answer.mode if answer else HostMode.UNKNOWN,
        generation=answer.generation if answer else 0,
        record=record,
        interrupted=journal.step if journal else None,
    )


Verdict = tuple[State, tuple[str, ...]]


def _judge(answer: HostStatus, host: Host, record: Record | None, journal: Journal | None) -> Verdict:
    proof = journal is not None and is_proof(journal.evidence)
    if not answer.restricted:
        return _judge_unrestricted(record)
    if answer.sealed:
        return _judge_sealed(host, record, proof)
    if record and record.state is State.APPLIED and not proof:
        return State.APPLIED, record.reasons
    return (State.PROVEN if proof else State.APPLIED), ("the map can still be undone",)


def _judge_unrestricted(record: Record | None) -> Verdict:
    if record is None:
        return State.OPEN, ()
    if record.state is State.DEGRADED:
        return State.DEGRADED, record.reasons
    return State.DEGRADED, ("the host lost the map: the guest was reset, or moved without it",)


def _judge_sealed(host: Host, record: Record | None, proof: bool) -> Verdict:
    recorded = record is not None and record.state is State.SEALED
    if not recorded and not proof:
        return State.DEGRADED, ("the host is sealed, but nobody here saw a proof",)
    if not host.pinned():
        return State.DEGRADED, ("CR4.SMEP can be cleared",)
    return State.SEALED, () if recorded else ("the seal is proven, but not recorded yet",)


@dataclass(frozen=True, slots=True)
class Drift:
    """How a guest differs from its sealed plan, in kept ranges. An audit fails for `new`."""

    new: tuple[KeepRange, ...]  #: executable now, unknown to the seal: it faults when it runs
    stale: tuple[KeepRange, ...]  #: kept by the seal, but no code any more


def drift(sealed: Plan, now: Plan) -> Drift:
    """Compare the kept pages of two plans."""
    return Drift(new=_only_in(now, sealed), stale=_only_in(sealed, now))


def _only_in(one: Plan, other: Plan) -> tuple[KeepRange, ...]:
    known = PageSet(k.pages for k in other.keep)
    return tuple(
        replace(k, start=gap.start, end=gap.end, va=k.va + (gap.start - k.start << PAGE_SHIFT))
        for k in one.keep
        for gap in known.gaps(k.pages)
    )
