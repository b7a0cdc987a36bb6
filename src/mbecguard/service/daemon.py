# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon: the truth about this guest in one line, kept up to date, and each change of it announced once.

It sleeps in one blocking wait, until a signal or until the host has to be asked again; no threads, no other timers.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from mbecguard.host.base import HostMode, HostStatus, HostText
from mbecguard.host.wire import TEXT_VERSION
from mbecguard.records.record import State
from mbecguard.records.status import Status
from mbecguard.service.stores import Stores
from mbecguard.service.violations import Violations
from mbecguard.session import Session
from mbecguard.settings.load import Settings
from mbecguard.switches import SWITCHES
from mbecguard.values.errors import UserError
from mbecguard.values.events import Event, Tell

SECONDS = 60.0  #: between two questions to the host, without a watchdog
AGAIN_SECONDS = 5.0  #: until trouble that was just seen is looked at again
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

Notify = Callable[[str], None]


def interval(environment: Mapping[str, str]) -> float:
    """Seconds between two signs of life: half the watchdog's limit, as sd_watchdog_enabled(3) recommends."""
    usec, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", str(os.getpid()))
    wanted = usec.isascii() and usec.isdigit() and int(usec) > 0 and pid == str(os.getpid())
    return int(usec) / 2e6 if wanted else SECONDS


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


def systemd(text: str) -> None:
    """Tell the service manager, if there is one; its absence or restart must not end the daemon."""
    import systemd.daemon

    with suppress(OSError):
        systemd.daemon.notify(text)


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
    _basis: object = None
    _sealed: bool = False  #: seen sealed by this process
    _suspected: str = ""  #: what was wrong at the last look
    _trouble: str = ""  #: announced, and not over yet
    _undone: frozenset[str] = frozenset()  #: switches that were taken back, announced
    _probed: object = None  #: what changes if a lock, which has its canary denied, was at work

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
            self.violations.look(self._denied(answer), self._say, probed=probed)
            if self.stores:
                self.stores.look(self._text(answer), self._say, probed=probed)
            self._probed = key
        return self.line

    @property
    def unsure(self) -> bool:
        """Whether the last look saw trouble that is not announced yet: one should look again soon."""
        quiet = self.violations is None or not self.violations.unsure
        return not quiet or (bool(self._suspected) and self._suspected != self._trouble)

    def use(self, settings: Settings) -> None:
        """Go on with other settings."""
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
        return [
            _stamp(path)
            for path in (*self.session.store.paths(self.session.guest.boot_id), self.session.boot_file.path)
        ]

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
        """Announce something; a journal that is restarted must not end the daemon."""
        self._say(event, facts)

    def _say(self, event: Event, facts: dict[str, str]) -> None:
        with suppress(OSError):
            self.tell(event, facts)


@dataclass(slots=True)
class Daemon:
    """Runs a watch until SIGTERM or SIGINT; SIGHUP loads the settings again."""

    watch: Watch
    settings: Callable[[], Settings]
    notify: Notify = systemd
    seconds: float = field(default_factory=lambda: interval(os.environ))

    def run(self) -> None:
        """Until told to stop. Signals are blocked all the time, and taken in the one wait."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            self._report("READY=1")
            while (arrived := self._wait()) in (None, signal.SIGHUP):
                if arrived:
                    self._reload()
                self._report(*["READY=1"] if arrived else [])
            self.notify("STOPPING=1")
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _wait(self) -> int | None:
        seconds = min(self.seconds, AGAIN_SECONDS) if self.watch.unsure else self.seconds
        arrived = signal.sigtimedwait(_SIGNALS, seconds)
        return arrived.si_signo if arrived else None

    def _reload(self) -> None:
        self.notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            self.watch.use(self.settings())
        except UserError as error:
            self.watch.say(Event.RELOAD_FAILED, reason=error.message)

    def _report(self, *more: str) -> None:
        self.notify("\n".join((f"STATUS={self.watch.look()}", "WATCHDOG=1", *more)))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
