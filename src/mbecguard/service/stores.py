# SPDX-License-Identifier: GPL-2.0-or-later
"""Stores to kernel text that are no patches of its own: what the host counts, announced once, bursts as sums."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mbecguard.host.base import HostText, TextMode
from mbecguard.service.violations import Bound, Say
from mbecguard.values.events import Event

SUM_SECONDS = 600.0  #: between two messages, after the first few
AT_ONCE = 3

#: The symbol at a physical address, in bytes; empty: it is not the kernel's text.
Symbol = Callable[[int], str]


@dataclass(slots=True)
class Stores:
    """What is known of such stores in this boot."""

    clock: Callable[[], float] = time.monotonic
    _bound: Bound = field(init=False)
    _bad: int | None = None  #: as the host counted at the last look
    _untold: int = 0
    held: bool = False  #: whether the host holds any text

    def __post_init__(self) -> None:
        self._bound = Bound(AT_ONCE, SUM_SECONDS, self.clock)

    @property
    def pending(self) -> bool:
        """Whether there is something to tell that has to wait."""
        return self._untold > 0

    def look(self, text: HostText | None, say: Say, symbol: Symbol, *, probed: bool) -> None:
        """Announce what is new. `probed`: the agent may have made one itself."""
        self.held = text is not None and text.holds is not TextMode.NONE
        before, self._bad = self._bad, text.bad if text else None
        if not text or before is None or text.bad < before:
            return
        self._untold += 0 if probed else text.bad - before
        if self._untold and self._bound.take():
            say(Event.STORES_DENIED, facts(text, self._untold, symbol(text.last_bad)))
            self._untold = 0


def facts(text: HostText, count: int, symbol: str) -> dict[str, str]:
    """What is told of them."""
    return {
        "count": str(count),
        "what": "refused" if text.holds is TextMode.ENFORCE else "logged, and done",
        "address": f"{text.last_bad:#x}",
        "where": f"in {symbol}" if symbol else "whose symbol nobody knows",
        "bad": str(text.bad),
        "symbol": symbol,
    }
