# SPDX-License-Identifier: GPL-2.0-or-later
"""In which state a guest is: the host's own answer first, then what the agent remembers of this boot."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

from mbecguard.host.base import (
    Host,
    HostDetails,
    HostMode,
    HostRefusedError,
    HostStatus,
    HostText,
    Outcome,
    Permission,
)
from mbecguard.plan.policy import Level
from mbecguard.plan.value import Plan, Totals
from mbecguard.records.chain import Entry
from mbecguard.records.damage import DamagedError, Loss
from mbecguard.records.reasons import Reason, reason
from mbecguard.records.record import HOLDS, SEALED_STEPS, Journal, Record, State, Step, exit_of, is_proof
from mbecguard.records.store import Store
from mbecguard.values.clock import now
from mbecguard.values.errors import Exit, UserError

SCHEMA = "mbecguard.status/2"

Verdict = tuple[State, tuple[Reason, ...]]
_UNANSWERED = HostStatus(HostMode.UNKNOWN, Permission(0), generation=0, restricted=False, sealed=False)


class Named(NamedTuple):
    """A record by its name, with what matters most of it."""

    digest: str  #: of its entry in the history; the event SEALED has told it
    time: str  #: UTC, ISO 8601
    state: State
    plan_digest: str
    totals: Totals
    pins: tuple[str, ...]  #: what of CR0 and CR4 cannot be cleared; empty: the record does not name it
    level: Level = Level.EXEC  #: what is protected

    @classmethod
    def of(cls, entry: Entry) -> Named:
        """The name of a record."""
        record = entry.record
        totals, pins = record.totals, record.pins
        return cls(entry.digest, record.time, record.state, record.plan_digest, totals, pins, record.level)


class Details(NamedTuple):
    """A whole record, and the plan that it names; null if that is damaged."""

    record: Record
    plan: Plan | None


class Status(NamedTuple):
    """The state, why it is not better, and the record that it rests on."""

    state: State
    reasons: tuple[Reason, ...]
    host: str
    simulated: bool
    mode: HostMode
    generation: int
    record: Named | None  #: the newest of this boot
    interrupted: Step | None
    denied: int | None = None  #: fetches, since the reset; null: the host does not tell
    refused: int | None = None  #: what a pin, a seal or the lack of SMRAM forbade, since the reset
    map_digest: str | None = None  #: of what the host enforces; null: it does not tell
    text: HostText | None = None  #: what the host holds of kernel text; null: it knows nothing of that
    details: Details | None = None  #: of the record, for --full
    time: str = ""  #: when the host was asked; UTC, ISO 8601
    schema: str = SCHEMA

    @property
    def exit(self) -> Exit:
        """How a command ends that shows it."""
        return exit_of(self.state, audit=self.mode is HostMode.AUDIT)


class _Memory(NamedTuple):
    """What the agent remembers of this boot, and what speaks against that."""

    entry: Entry | None
    journal: Journal | None
    doubts: tuple[Reason, ...]  #: evidence of this boot is damaged: nothing may be called sealed by it
    remarks: tuple[Reason, ...]

    @property
    def record(self) -> Record | None:
        """The newest record of this boot."""
        return self.entry.record if self.entry else None

    def judged(self, state: State, reasons: tuple[Reason, ...]) -> tuple[State, tuple[Reason, ...]]:
        """A state and its reasons, with what the memory itself adds to them."""
        state = State.DEGRADED if self.doubts else state
        undone = (reason("interrupted", step=self.journal.step),) if self.journal else ()
        return state, (*self.doubts, *reasons, *undone, *self.remarks)


def _recall(store: Store, boot_id: str) -> _Memory:
    entry, journal, doubts, remarks = None, None, [], []
    try:
        entry = store.last(boot_id)
        if entry:
            store.require_plan(entry.record)
    except DamagedError as error:
        id_ = "plan-damaged" if entry else "record-damaged"
        doubts.append(reason(id_, problem=error.message, advice=error.hint))
    try:
        journal = store.journal(boot_id)
    except DamagedError as error:
        remarks.append(reason("journal-damaged", problem=error.message))
    remarks += history_reasons(store)
    return _Memory(entry, journal, tuple(doubts), tuple(remarks))


def history_reasons(store: Store, found: Iterable[Loss] = ()) -> tuple[Reason, ...]:
    """What is known of damage to the history, and what was `found` just now."""
    losses = [*found]
    try:
        losses += (loss for loss in store.losses() if loss not in losses)
    except DamagedError as error:
        losses.append(Loss.of(0, error))
    more = f" and {len(losses) - 3} more" if len(losses) > 3 else ""
    what = "; ".join(map(str, losses[:3])) + more
    return (reason("history-damaged", what=what, folder=store.aside),) if losses else ()


def without_host(error: UserError, store: Store, boot_id: str) -> Status:
    """Of a guest that has no host to ask."""
    memory = _recall(store, boot_id)
    return _status(memory, _unasked(memory, error), _UNANSWERED, "none", simulated=False)


def status(host: Host, store: Store, boot_id: str) -> Status:
    """Ask the host and the store. Changes nothing; a host that does not answer makes a degraded or an open state."""
    memory = _recall(store, boot_id)
    record, journal = memory.record, memory.journal
    try:
        answer = observe(host, sealed=bool(_sealed(record) or (journal and journal.step in SEALED_STEPS)))
        told = _ask(host, answer)
        verdict = _judge(answer, told, host, record, journal)
    except (HostRefusedError, UserError) as error:
        answer, told, verdict = _UNANSWERED, _Told(), _unasked(memory, error)
    return _status(memory, verdict, answer, host.name, simulated=host.simulated, told=told)


class _Told(NamedTuple):
    """What else a host tells; None is what it knows nothing of."""

    details: HostDetails | None = None
    text: HostText | None = None


def _ask(host: Host, answer: HostStatus) -> _Told:
    return _Told(host.details(), host.text()) if answer.mode is not HostMode.UNKNOWN else _Told()


def _unasked(memory: _Memory, error: UserError) -> Verdict:
    state = State.DEGRADED if memory.entry or memory.journal else State.OPEN
    return state, (unusable(error),)


def _status(
    memory: _Memory,
    verdict: Verdict,
    answer: HostStatus,
    host: str,
    *,
    simulated: bool,
    told: _Told | None = None,
) -> Status:
    state, reasons = memory.judged(*verdict)
    details, text = (told.details, told.text) if told else (None, None)
    return Status(
        state=state,
        reasons=reasons,
        host=host,
        simulated=simulated,
        mode=answer.mode,
        generation=answer.generation,
        denied=details.denied if details else None,
        refused=details.refused if details else None,
        map_digest=details.map_digest if details else None,
        text=text,
        record=Named.of(memory.entry) if memory.entry else None,
        interrupted=memory.journal.step if memory.journal else None,
        time=now(),
    )


def detailed(status: Status, store: Store, boot_id: str) -> Status:
    """The same with the whole record, if there is one."""
    if status.record is None or (entry := store.last(boot_id)) is None:
        return status
    plan = None
    with suppress(DamagedError):
        plan = store.plan(entry.record)
    return status._replace(details=Details(entry.record, plan))


def observe(host: Host, *, sealed: bool) -> HostStatus:
    """The host's answer to the query; a Heki v2 host has none, so its canary and our memory (`sealed`) answer."""
    answer = host.query()
    if answer.mode is not HostMode.UNKNOWN:
        return answer
    denied = host.run_canary() is Outcome.DENIED
    return answer._replace(restricted=denied, sealed=denied and sealed)


def unusable(error: UserError) -> Reason:
    """Why nothing is known of a host that does not answer."""
    return reason("host-unusable", problem=error.message, advice=error.hint)


def other_map(details: HostDetails | None, wanted: str) -> Reason | None:
    """Whether the host tells another map than the wanted one; one that tells nothing, or was not asked for, is none."""
    if details is None or not wanted or details.map_digest == wanted:
        return None
    return reason("map-differs", found=details.map_digest[:16], wanted=wanted[:16])


def other_text(text: HostText | None, sealed: Record) -> Reason | None:
    """Whether the host holds less of kernel text than the lock handed over, or other text."""
    if sealed.level is Level.EXEC:
        return None
    if text is None or text.digest != sealed.text_digest:
        found = text.digest[:16] if text else "none"
        return reason("text-differs", found=found, wanted=sealed.text_digest[:16])
    if text.holds < HOLDS[sealed.level]:
        return reason("text-not-enforced", level=sealed.level)
    return None


def _judge(answer: HostStatus, told: _Told, host: Host, record: Record | None, journal: Journal | None) -> Verdict:
    proof = journal is not None and is_proof(journal.evidence)
    if answer.sealed:
        return _judge_sealed(answer, told, host, record, proof)
    if _sealed(record):
        return State.DEGRADED, (reason("seal-lost" if answer.restricted else "map-lost"),)
    if not answer.restricted:
        return _judge_unrestricted(record)
    if record and not journal:
        return record.state, record.reasons
    return (State.PROVEN if proof else State.APPLIED), (reason("undoable"),)


def _sealed(record: Record | None) -> Record | None:
    return record if record and record.state is State.SEALED else None


def _judge_unrestricted(record: Record | None) -> Verdict:
    if record is None:
        return State.OPEN, ()
    if record.state is State.DEGRADED:
        return State.DEGRADED, record.reasons
    return State.OPEN, (reason("map-gone"),)


def _judge_sealed(answer: HostStatus, told: _Told, host: Host, record: Record | None, proof: bool) -> Verdict:
    sealed = _sealed(record)
    if not sealed and not proof:
        return State.DEGRADED, record.reasons if record and record.state is State.DEGRADED else (
            reason("seal-unproven"),
        )
    if answer.mode not in (HostMode.ENFORCE, HostMode.UNKNOWN):
        return State.DEGRADED, (reason("host-mode-changed", mode=answer.mode.value),)
    if sealed and answer.generation != sealed.generation:
        return State.DEGRADED, (reason("map-changed"),)
    if sealed and (differs := other_map(told.details, sealed.map_digest) or other_text(told.text, sealed)):
        return State.DEGRADED, (differs,)
    reasons = sealed.reasons if sealed else (reason("seal-unrecorded"),)
    reasons += () if told.details else (reason("map-unseen"),)
    try:
        pinned = host.pinned()
    except HostRefusedError:
        raise
    except UserError as error:  # as where this process may not run on every CPU: that says nothing about the guest
        return State.SEALED, (*reasons, reason("pins-untried", problem=error.message, advice=error.hint))
    return (State.SEALED, reasons) if pinned else (State.DEGRADED, (reason("unpinned"),))
