# SPDX-License-Identifier: GPL-2.0-or-later
"""Denied fetches: what the host counts, set against what the kernel's log tells; each incident is announced once.

A burst is told by its first few incidents and by sums: whoever can have code denied must not be able to fill a journal.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mbecguard.guest.kernellog import Log
from mbecguard.guest.oops import Attempt, By, Reader
from mbecguard.guest.process import process
from mbecguard.values.escaped import escaped
from mbecguard.values.events import Event

SINGLE, SINGLE_SECONDS = 5, 600.0  #: incidents that are told by themselves at once; until there is one more
SUM_SECONDS = 600.0  #: between two sums
UNKNOWN = "an unknown number of"

Say = Callable[[Event, dict[str, str]], None]


@dataclass(slots=True)
class Bound:
    """So many at once, and one more each so many seconds."""

    size: int
    seconds: float
    clock: Callable[[], float]
    _left: float = -1.0
    _at: float = 0.0

    def take(self) -> bool:
        """Whether there is one left, which is then gone."""
        now = self.clock()
        self._left = self.size if self._left < 0 else min(self.size, self._left + (now - self._at) / self.seconds)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


@dataclass(slots=True)
class Violations:
    """What is known of denied fetches in this boot."""

    log: Log
    clock: Callable[[], float] = time.monotonic
    _reader: Reader = field(default_factory=Reader)
    _single: Bound = field(init=False)
    _sums: Bound = field(init=False)
    _told: int = -1  #: microseconds since boot: what happened until then is announced
    _denied: int | None = None  #: as the host counted at the last look
    _read: bool = False
    _balance: int = 0  #: counted by the host, and not in the log yet
    _suspected: int = 0  #: the same at the look before: the log may come later than the count
    _untold: int = 0
    _unlogged: int = 0

    def __post_init__(self) -> None:
        self._single = Bound(SINGLE, SINGLE_SECONDS, self.clock)
        self._sums = Bound(1, SUM_SECONDS, self.clock)

    @property
    def unsure(self) -> bool:
        """Whether one should look again soon: the log may still have to say something."""
        return self._suspected > 0 or self._reader.unfinished

    @property
    def pending(self) -> bool:
        """Whether another look may find something though the host counts no more."""
        return self._denied is None or self.unsure or bool(self._untold or self._unlogged)

    def look(self, denied: int | None, say: Say, *, probed: bool) -> None:
        """Announce what is new. `denied`: the host's count, if it tells; `probed`: the agent may have added to it."""
        new = self._counted(denied)
        if not self._read or new or denied is None or self.unsure:
            self._take(self._attempts(), denied, say)
        if probed:
            self._balance = self._suspected = 0
        self._weigh()
        if (self._untold or self._unlogged) and self._sums.take():
            self._say_sum(denied, say)

    def _counted(self, denied: int | None) -> int:
        before, self._denied = self._denied, denied
        if denied is None or before is None or denied < before:
            self._balance = self._suspected = 0
            return 0
        self._balance += denied - before
        return denied - before

    def _attempts(self) -> list[Attempt]:
        """What the log has of them, without those that were announced before this daemon started."""
        found, lines = [], 0
        for line in self.log.lines():
            lines += 1
            self._told = max(self._told, -1 if line.told is None else line.told)
            if line.told is None and (attempt := self._reader.feed(line)):
                found.append(attempt)
        if not lines and (cut := self._reader.flush()):  # it had its time to end
            found.append(cut)
        self._read = True
        self._balance -= sum(one.by is not By.GUEST for one in found)
        return [one for one in found if one.at > self._told]

    def _take(self, attempts: list[Attempt], denied: int | None, say: Say) -> None:
        for attempt in attempts:
            self._told = max(self._told, attempt.at)
            if self._single.take():
                say(Event.FETCH_DENIED, facts(attempt, denied))
            else:
                self._untold += 1

    def _weigh(self) -> None:
        """What the host counted, and the log does not have at a second look, happened without a word."""
        silent = max(0, min(self._balance, self._suspected))
        self._unlogged += silent
        self._balance -= silent
        self._suspected = max(0, self._balance)

    def _say_sum(self, denied: int | None, say: Say) -> None:
        told = {"count": str(self._untold + self._unlogged), "unlogged": str(self._unlogged)}
        say(Event.FETCHES_DENIED, {**told, "denied": _number(denied), "at": str(max(0, self._told))})
        self._untold = self._unlogged = 0


def facts(attempt: Attempt, denied: int | None) -> dict[str, str]:
    """What is told of one incident."""
    task = f"{escaped(attempt.task)}[{attempt.pid}]" if attempt.pid is not None else "an unknown task"
    alive = process(attempt.pid, attempt.task) if attempt.pid is not None else "unknown"
    where = f"at or called from {attempt.symbol}" if attempt.symbol else "nobody knows from where"
    of = f" of module {attempt.module}" if attempt.module else ""
    return {
        "task": task,
        "address": f"{attempt.address:#x}",
        "where": where + of,
        "denied": _number(denied),
        "by": attempt.by,
        "symbol": attempt.symbol,
        "module": attempt.module,
        "pid": "" if attempt.pid is None else str(attempt.pid),
        "uid": "" if attempt.uid is None else str(attempt.uid),
        "process": escaped(alive),
        "before": "; ".join(map(escaped, attempt.before)),
        "at": str(attempt.at),
    }


def _number(denied: int | None) -> str:
    return UNKNOWN if denied is None else str(denied)
