# SPDX-License-Identifier: GPL-2.0-or-later
"""How a lock ends that did not go through: what is undone, what is kept, and what is said."""

from __future__ import annotations

from contextlib import suppress
from typing import NoReturn

from mbecguard.host.base import HostRefusedError
from mbecguard.lock.context import Context
from mbecguard.lock.proof import DegradedError
from mbecguard.lock.steps import make_record, tell_seal
from mbecguard.records.record import State
from mbecguard.values.errors import Exit, UserError, die
from mbecguard.values.events import Event

NOT_LOCKED = "not locked: "  #: how the message of a lock begins that left the guest open


def end(lock: Context, error: UserError) -> NoReturn:
    """Undo what can be undone, keep a record of a degraded guest, and die with what is true now."""
    roll_back(lock, error.message)
    if isinstance(error, DegradedError):
        _degrade(lock, error)
    else:
        forget(lock)
    if error.status is Exit.REFUSED:
        lock.say(Event.REFUSED, reason=error.message)
    tell_seal(lock)
    now = "the guest is sealed, but: " if lock.sealed else NOT_LOCKED
    left = f"; could not be undone: {', '.join(sorted(lock.undo.stuck))}" if lock.undo.stuck else ""
    die(f"{now}{error.message}{left}", _advice(lock, error), error.status)


def roll_back(lock: Context, reason: str) -> None:
    """Undo everything, unless the guest is sealed."""
    if lock.is_sealed():
        return
    if lock.undo:
        lock.say(Event.ROLLED_BACK, step=str(lock.step), reason=reason)
    lock.undo.undo_all()


def forget(lock: Context) -> None:
    """Remove the journal, unless a rerun has something to complete or to undo."""
    if lock.step and not lock.sealed and not lock.undo.stuck:
        with suppress(UserError):
            lock.store.note(None)


def _advice(lock: Context, error: UserError) -> str:
    if not lock.sealed:
        return error.hint or "nothing is protected"
    again = "`mbecguard lock` again completes it"
    if isinstance(error, DegradedError):
        return error.hint or again
    return f"{error.hint}; then {again}" if error.hint else again


def _degrade(lock: Context, error: DegradedError) -> None:
    event = Event.NOT_ENFORCED if error.status is Exit.NOT_ENFORCED else Event.DEGRADED
    lock.say(event, reason=error.message)
    # Where no record can be made the journal stays, and with it the evidence.
    with suppress(UserError, HostRefusedError):
        lock.store.append(make_record(lock, State.DEGRADED, (error.why,)), lock.plan)
        if not lock.undo.stuck:
            lock.store.note(None)
