# SPDX-License-Identifier: GPL-2.0-or-later
"""An audit of a session's guest."""

from __future__ import annotations

from mbecguard.audit.claims import NOT_WANTED, Grounds, Knob
from mbecguard.audit.compare import Comparison, Sight, compare
from mbecguard.audit.conclude import announce, conclude
from mbecguard.audit.kept import Audits, keep
from mbecguard.audit.locked import build_ids, locked
from mbecguard.audit.value import Audit, Locked
from mbecguard.plan.planner import attribute
from mbecguard.records.chain import Entry
from mbecguard.records.identity import Identity, identify
from mbecguard.records.reasons import Reason
from mbecguard.records.record import State
from mbecguard.records.status import history_reasons
from mbecguard.session import Session
from mbecguard.switches import SWITCHES
from mbecguard.text.look import TextLook, look
from mbecguard.values.errors import UserError, die
from mbecguard.values.events import Event, Tell
from mbecguard.values.facts import Absent, Fact, told


def audit(session: Session, tell: Tell) -> Audit:
    """Survey again, compare with the seal, and keep the outcome; what is found is announced.

    Dies if the guest could not be compared; that is kept, too. The histories are looked at as a whole, whatever
    the state.
    """
    damage = _damage(session, tell)
    status = session.status()
    entry = session.store.last(session.guest.boot_id) if status.state in (State.SEALED, State.DEGRADED) else None
    entry = entry if entry and entry.record.state is State.SEALED else None
    found: tuple[Comparison, Locked] | None = None
    error: UserError | None = None
    if status.state is State.SEALED:
        try:
            found = _compared(session, entry)
        except UserError as problem:
            error = problem
    comparison, kept = found or (None, None)
    seal = entry.record if entry else None
    foreign = session.host.foreign() if seal and seal.text_digest else 0
    grounds = Grounds(status, seal, comparison, _knobs(session), bool(damage), _text(session), foreign)
    undone_now = session.undone(status) if found else ()
    result = conclude(grounds, _subject(session, entry), entry, kept, error=error, reasons=(*undone_now, *damage))
    result = announce(keep(result, Audits(session.store)), tell)
    if error:
        raise error
    return result


def _text(session: Session) -> Fact[TextLook]:
    """The text of the running kernel and of its modules, against their files."""
    if not session.guest.live:
        return Absent()
    if not session.settings.enabled("audit.text"):
        return NOT_WANTED
    return told(lambda: look(session.guest, session.symbols, session.places.cache, session.note))


def _compared(session: Session, entry: Entry | None) -> tuple[Comparison, Locked]:
    if entry is None:
        die("nothing to compare with: the seal is not recorded yet", "`mbecguard lock` completes it")
    seal = session.store.plan(entry.record)
    facts, symbols = session.surveyor.look()
    found = attribute(facts, entry.record.policy, symbols.nearest)
    return compare(seal, Sight(found, facts.mappings, symbols.nearest)), locked(seal, build_ids(facts))


def _damage(session: Session, tell: Tell) -> tuple[Reason, ...]:
    """Look at everything that is kept; damage is announced once, and told until a person has looked at it."""
    losses, audits = session.store.check(session.guest.boot_id), Audits(session.store).check()
    for part, found in (("locks", losses), ("audits", audits)):
        for loss in found:
            tell(Event.HISTORY_DAMAGED, {"part": part, "what": str(loss)})
    return (*history_reasons(session.store, losses), *Audits(session.store).reasons(audits))


def _knobs(session: Session) -> tuple[Knob, ...]:
    choices = ((switch, session.settings.text(switch.setting)) for switch in SWITCHES)
    return tuple(Knob(switch, choice, session.knobs.get(switch.knob)) for switch, choice in choices)


def _subject(session: Session, entry: Entry | None) -> Identity:
    """Whose audit it is; what the lock has learnt of kernel and host holds for the whole boot."""
    found = identify(session.guest)
    learnt = entry.record.identity if entry else found._replace(release=session.guest.release)
    return found._replace(release=learnt.release, build_id=learnt.build_id, host_abi=learnt.host_abi)
