# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon: it waits, and has child processes look at the guest.

It sleeps in one blocking wait, until a signal or until it has to say that it is alive; no threads, no other timers.
It stays in memory for good, so it holds next to nothing: what a look imports goes with the child, and what the next
look has to know comes back as text that is opaque here. No look is taken if nothing has moved that the last rests on.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple, NoReturn

from mbecguard.service.pulse import Ask, Rests
from mbecguard.values.errors import Exit, UserError

SECONDS = 60.0  #: between two questions to the host, without a watchdog
AGAIN_SECONDS = 5.0  #: until trouble that was just seen is looked at again
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Seen(NamedTuple):
    """What one look tells."""

    line: str  #: the state of the guest
    told: tuple[tuple[str, dict[str, str]], ...]  #: what is to be announced: names of events, and their facts
    real: bool  #: whether that is news for the journal
    unsure: bool  #: one should look again soon
    rests: Rests | None  #: None: look again in any case
    memory: str  #: for the next look

    @classmethod
    def of(cls, text: str) -> Seen:
        """As a child has written it. Raises the error that it died of."""
        fields = json.loads(text)
        if "status" in fields:
            raise UserError(fields["message"], fields["hint"], Exit(fields["status"]))
        told = tuple((str(name), dict(facts)) for name, facts in fields.pop("told"))
        rests = fields.pop("rests")
        return cls(told=told, rests=Rests.of(rests) if rests else None, **fields)


#: Looks at the guest, given what the last look left in memory, and whether the settings are to be loaded again.
Look = Callable[[str, bool], Seen]
#: Announces an event by its name; the last is `Seen.real`.
Announce = Callable[[str, dict[str, str], bool], None]
Notify = Callable[[str], None]


def interval(environment: Mapping[str, str]) -> float:
    """Seconds between two signs of life: half the watchdog's limit, as sd_watchdog_enabled(3) recommends."""
    usec, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", str(os.getpid()))
    wanted = usec.isascii() and usec.isdigit() and int(usec) > 0 and pid == str(os.getpid())
    return int(usec) / 2e6 if wanted else SECONDS


def systemd(text: str) -> None:
    """Tell the service manager, if there is one; its absence or restart must not end the daemon."""
    import systemd.daemon

    with suppress(OSError):
        systemd.daemon.notify(text)


def apart(look: Look, memory: str, reload: bool) -> Seen:
    """A look by a child process. Raises the UserError that it died of; RuntimeError if it did not come to an end.

    While it lasts there is no sign of life: of a child that hangs the service manager's watchdog is told so.
    """
    readable, writable = os.pipe()
    child = os.fork()
    if not child:
        os.close(readable)
        _answer(writable, look, memory, reload)
    os.close(writable)
    try:
        with os.fdopen(readable) as answer:
            text = answer.read()
    finally:
        _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError(f"a look at the guest ended with status {os.waitstatus_to_exitcode(status)}")
    return Seen.of(text)


def _answer(writable: int, look: Look, memory: str, reload: bool) -> NoReturn:
    try:
        try:
            fields = look(memory, reload)._asdict()
        except UserError as error:
            fields = {"message": error.message, "hint": error.hint, "status": error.status}
        with os.fdopen(writable, "w") as out:
            json.dump(fields, out)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


class Daemon:
    """Runs until SIGTERM or SIGINT; SIGHUP loads the settings again."""

    def __init__(
        self, look: Look, announce: Announce, ask: Ask, notify: Notify = systemd, seconds: float | None = None
    ) -> None:
        self.look, self.announce, self.ask, self.notify = look, announce, ask, notify
        self.seconds = interval(os.environ) if seconds is None else seconds
        self._seen: Seen | None = None
        self._before: tuple[object, ...] | None = None  #: what the last look rests on, as it was before that look

    def run(self) -> None:
        """Until told to stop. Signals are blocked all the time, and taken in the one wait."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            self._report("READY=1")
            while (arrived := self._wait()) in (None, signal.SIGHUP):
                if arrived:
                    self.notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
                    self._before = None
                self._report(*["READY=1"] if arrived else [], reload=bool(arrived))
            self.notify("STOPPING=1")
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _wait(self) -> int | None:
        unsure = self._seen is not None and self._seen.unsure
        arrived = signal.sigtimedwait(_SIGNALS, min(self.seconds, AGAIN_SECONDS) if unsure else self.seconds)
        return arrived.si_signo if arrived else None

    def _report(self, *more: str, reload: bool = False) -> None:
        self.notify("\n".join((f"STATUS={self._line(reload)}", "WATCHDOG=1", *more)))

    def _line(self, reload: bool) -> str:
        """The state of the guest, by a look if it may have changed."""
        last = self._seen
        rests = last.rests if last else None
        now = rests.now(self.ask) if rests else None
        if last and now is not None and now == self._before:
            return last.line
        self._seen = seen = apart(self.look, last.memory if last else "", reload)
        # What a look has just begun to rest on was not seen before it: then the next one is taken in any case.
        self._before = now if seen.rests == rests else None
        for name, facts in seen.told:
            with suppress(OSError):  # a journal that is restarted must not end the daemon
                self.announce(name, facts, seen.real)
        return seen.line
