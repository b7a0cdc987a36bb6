# SPDX-License-Identifier: GPL-2.0-or-later
"""What the daemon tells of stores to kernel text: once each, then sums, and never of the agent's own."""

from __future__ import annotations

from dataclasses import dataclass, field

from mbecguard.host.base import HostText, TextMode
from mbecguard.service.stores import AT_ONCE, SUM_SECONDS, Stores
from mbecguard.values.events import Event, message


@dataclass
class Bench:
    """A daemon's stores, a clock, and what was told."""

    now: float = 0.0
    told: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stores = Stores(lambda: self.now)

    def say(self, event: Event, facts: dict[str, str]) -> None:
        assert event is Event.STORES_DENIED
        assert message(event, facts)
        assert set(facts) == set(event.value.facts)
        self.told.append(facts)

    def look(
        self, bad: int | None, *, probed: bool = False, at: int = 0x1003, holds: TextMode = TextMode.ENFORCE
    ) -> int:
        text = None if bad is None else HostText(TextMode.ENFORCE, holds, 5, "", 3, bad, at)
        before = len(self.told)
        self.stores.look(text, self.say, lambda pa: "vfs_read+0x3" if pa == 0x1003 else "", probed=probed)
        return len(self.told) - before


def test_a_store_is_told_once() -> None:
    bench = Bench()
    assert [bench.look(1), bench.look(1), bench.look(3), bench.look(3)] == [0, 0, 1, 0]
    told = bench.told[0]
    assert (told["count"], told["bad"], told["what"]) == ("2", "3", "refused")
    assert (told["where"], told["symbol"]) == ("in vfs_read+0x3", "vfs_read+0x3")


def test_what_is_only_logged_is_said_to_be_done() -> None:
    bench = Bench()
    bench.look(0)
    assert bench.look(1, holds=TextMode.LOG, at=0x5000) == 1
    assert bench.told[0]["what"] == "logged, and done"
    assert bench.told[0]["where"] == "whose symbol nobody knows"


def test_the_agent_s_own_probes_are_no_news() -> None:
    bench = Bench()
    assert [bench.look(0), bench.look(1, probed=True), bench.look(1)] == [0, 0, 0]
    assert bench.look(2) == 1


def test_a_reset_starts_anew() -> None:
    bench = Bench()
    assert [bench.look(7), bench.look(0), bench.look(None), bench.look(4), bench.look(5)] == [0, 0, 0, 0, 1]


def test_a_burst_becomes_sums() -> None:
    bench = Bench()
    bench.look(0)
    for bad in range(1, 1001):
        bench.look(bad)
    assert len(bench.told) == AT_ONCE
    bench.now += SUM_SECONDS
    assert bench.look(1001) == 1
    assert bench.told[-1]["count"] == str(1001 - AT_ONCE)
