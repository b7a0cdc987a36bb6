# SPDX-License-Identifier: GPL-2.0-or-later
"""One look at a guest: its state in one line, and what changed of it, each change announced once."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields, replace

from mbecguard.guest.kernellog import Journal
from mbecguard.host.base import HostMode, HostStatus, HostText
from mbecguard.host.wire import TEXT_VERSION, Word
from mbecguard.records.record import State
from mbecguard.records.status import Status
from mbecguard.service.daemon import Seen
from mbecguard.service.pulse import Rests, stamp
from mbecguard.service.stores import Stores
from mbecguard.service.violations import Violations
from mbecguard.session import Session
from mbecguard.settings.load import Settings
from mbecguard.switches import FILES, SWITCHES
from mbecguard.values.errors import UserError
from mbecguard.values.events import Event, Tell


def look(begin: Callable[[], Session], memory: str, load: Callable[[], Settings] | None = None) -> Seen:
    """One look, after what the last one left in memory; the first begins with a session. `load`: other settings."""
    told: list[tuple[str, dict[str, str]]] = []

    def tell(event: Event, facts: dict[str, str]) -> None:
        told.append((event.name, facts))

    watch = Watch.recalled(memory, tell) if memory else Watch.begun(begin(), tell)
    if load:
        watch.reload(load)
    found = watch.look()
    real = watch.session.guest.live and not watch.session.simulated
    return Seen(found, tuple(told), real, watch.unsure, watch.rests, watch.memory)


def line(status: Status) -> str:
    """A status in one line."""
    why = "; ".join(map(str, status.reasons))
    simulated = " (simulated)" if status.simulated else ""
    if status.state is State.SEALED and status.record:
        pages = f"{status.record.totals.keep_pages} pages stay executable"
        why = "; ".join((f"{pages}, since {status.record.time}", *map(str, status.reasons)))
    return _one_line(f"{status.state}{simulated}: {why or 'not locked'}")


def _one_line(text: str) -> str:
    return " ".join(text.split())


@dataclass(slots=True)
class Watch:
    """What is known of one guest, and what was announced of it.

    The full status tries the CR pins, of which the host counts each try: it is taken only if the cheap query has
    another answer than before, or the records changed, or the last one was bad. Trouble is announced if it is there at
    two looks in a row: a look can fail by itself, as when a CPU goes offline meanwhile.
    """

    session: Session
    tell: Tell
    violations: Violations | None = None  #: None: the host is simulated, and no log tells of it
    stores: Stores | None = None  #: the same
    line: str = ""
    rests: Rests | None = None  #: what the last look rests on; None: another one may find something else in any case
    _basis: object = None
    _sealed: bool = False  #: seen sealed by this process
    _suspected: str = ""  #: what was wrong at the last look
    _trouble: str = ""  #: announced, and not over yet
    _undone: frozenset[str] = frozenset()  #: switches that were taken back, announced
    _probed: object = None  #: what changes if a lock, which has its canary denied, was at work

    @classmethod
    def begun(cls, session: Session, tell: Tell) -> Watch:
        """Of a guest that was never looked at."""
        return cls(session, tell) if session.simulated else cls(session, tell, Violations(Journal()), Stores())

    @classmethod
    def recalled(cls, memory: str, tell: Tell) -> Watch:
        """As an earlier process left it; `memory` has to be from a process of ours."""
        return cls(tell=tell, **pickle.loads(bytes.fromhex(memory)))

    @property
    def memory(self) -> str:
        """All of it but who is told, for the process that looks next."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "tell"}
        return pickle.dumps(values | {"session": replace(self.session)}).hex()

    def look(self) -> str:
        """Ask the host now, and announce what changed; returns the line."""
        answer = self._ask()
        stamps = self._stamps()
        basis = answer, stamps, self._switches()
        if basis != self._basis:
            self._judge(host_sealed=isinstance(answer, HostStatus) and answer.sealed)
            self._basis = None if self._suspected else basis
        if self.violations and isinstance(answer, HostStatus):  # else nothing is denied by anybody
            key = answer, stamps
            probed = key != self._probed
            self.violations.look(self._denied(answer), self.tell, probed=probed)
            if self.stores:
                self.stores.look(self._text(answer), self.tell, self.session.symbol_at, probed=probed)
            self._probed = key
        self.rests = self._rests(answer)
        return self.line

    def _rests(self, answer: HostStatus | str) -> Rests | None:
        if self.session.simulated or self.unsure or self._suspected:
            return None
        words = [Word.STATUS]
        if isinstance(answer, HostStatus):
            if not self.violations or self.violations.pending or not self.stores or self.stores.pending:
                return None
            words += [Word.DENIED, *[Word.BAD_STORES] * self.stores.held]
        return Rests(tuple(words), FILES, self._files())

    @property
    def unsure(self) -> bool:
        """Whether the last look saw trouble that is not announced yet: one should look again soon."""
        quiet = self.violations is None or not self.violations.unsure
        return not quiet or (bool(self._suspected) and self._suspected != self._trouble)

    def reload(self, load: Callable[[], Settings]) -> None:
        """Go on with other settings, if they can be loaded."""
        try:
            settings = load()
        except UserError as error:
            self.say(Event.RELOAD_FAILED, reason=error.message)
            return
        if settings != self.session.settings:
            self.session = replace(self.session, settings=settings)
        self._basis = None

    def _ask(self) -> HostStatus | str:
        if self.session.simulated:  # it reads its state once
            self.session = replace(self.session)
        try:
            return self.session.host.query()
        except UserError as error:
            return error.message

    def _denied(self, answer: HostStatus | str) -> int | None:
        """The host's count of denied fetches, if it tells."""
        if isinstance(answer, str) or answer.mode is HostMode.UNKNOWN:
            return None
        with suppress(UserError):
            details = self.session.host.details()
            return details.denied if details else None
        return None

    def _text(self, answer: HostStatus) -> HostText | None:
        """What the host holds of kernel text; None: nothing, or it does not tell."""
        if (answer.abi or 0) < TEXT_VERSION:
            return None
        with suppress(UserError):
            return self.session.host.text()
        return None

    def _switches(self) -> tuple[str | None, ...] | str:
        try:
            return tuple(self.session.knobs.get(switch.knob) for switch in SWITCHES)
        except UserError as error:
            return error.message

    def _stamps(self) -> list[tuple[int, int, int] | None]:
        return [stamp(path) for path in self._files()]

    def _files(self) -> tuple[str, ...]:
        paths = (*self.session.store.paths(self.session.guest.boot_id), self.session.boot_file.path)
        return tuple(map(str, paths))

    def _judge(self, *, host_sealed: bool) -> None:
        try:
            status = self.session.status()
        except UserError as error:
            self.line = _one_line(f"unknown: {error.message}")
            self._announce("unknown", error.message, bad=self._sealed or host_sealed)
            return
        self.line = line(status)
        self._sealed = self._sealed or status.state is State.SEALED
        bad = status.state is State.DEGRADED or (self._sealed and status.state is not State.SEALED)
        self._announce(status.state, "; ".join(map(str, status.reasons)) or f"the guest is {status.state}", bad=bad)
        self._tell_of_switches(status)

    def _tell_of_switches(self, status: Status) -> None:
        undone = frozenset(reason.text for reason in status.reasons if reason.id == "switch-undone")
        for text in sorted(undone - self._undone):
            self.say(Event.SWITCH_UNDONE, reason=text)
        for text in sorted(self._undone - undone):
            self.say(Event.RESTORED, state=status.state, reason=text)
        self._undone = undone

    def _announce(self, state: str, reason: str, *, bad: bool) -> None:
        suspected, self._suspected = self._suspected, reason if bad else ""
        lasts = reason == suspected or bool(suspected and not self._trouble)
        if bad and lasts and reason != self._trouble:
            self._trouble = reason
            self.say(Event.DEGRADED, reason=reason)
        elif self._trouble and not bad:
            self.say(Event.RESTORED, state=state, reason=self._trouble)
            self._trouble = ""

    def say(self, event: Event, **facts: str) -> None:
        """Announce something."""
        self.tell(event, facts)
