# SPDX-License-Identifier: GPL-2.0-or-later
"""Denied fetches in the journal: each incident once, with what came before; a burst by its sum."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

import psutil
import pytest

from mbecguard.guest.oops import Line
from mbecguard.guest.process import process
from mbecguard.host.simulated.host import SimulatedHost
from mbecguard.service.violations import SINGLE, Violations
from mbecguard.service.watch import Watch
from mbecguard.values.errors import die
from mbecguard.values.events import Event, message
from tests.servicebench import Boot
from tests.unit.test_oops import recorded


@dataclass
class Log:
    """What was logged since the last look."""

    new: list[Line] = field(default_factory=list)
    asked: int = 0

    def lines(self) -> Iterator[Line]:
        self.asked += 1
        given, self.new = self.new, []
        yield from given


def at(seconds: int, name: str = "6.12") -> list[Line]:
    """A report that begins at a time of its own."""
    return [replace(line, at=seconds * 1000000) for line in recorded(name)]


@dataclass
class Bench:
    log: Log = field(default_factory=Log)
    now: float = 1000.0
    told: list[tuple[Event, dict[str, str]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.violations = Violations(self.log, lambda: self.now)

    def say(self, event: Event, facts: dict[str, str]) -> None:
        assert set(facts) == set(event.value.facts)
        assert message(event, facts).isprintable()
        self.told.append((event, facts))

    def look(self, denied: int | None, new: list[Line] | None = None, *, probed: bool = False) -> list[str]:
        """The names of what is announced."""
        self.log.new = new or []
        before = len(self.told)
        self.violations.look(denied, self.say, probed=probed)
        return [event.name for event, _ in self.told[before:]]


def unsure(bench: Bench) -> bool:
    return bench.violations.unsure


def started(bench: Bench) -> Bench:
    assert bench.look(2, probed=True) == []
    return bench


def test_an_incident_is_told_once_with_all_that_is_known() -> None:
    bench = started(Bench())
    assert bench.look(2) == []
    assert bench.look(3, at(10)) == ["FETCH_DENIED"]
    told = bench.told[0][1]
    assert (told["task"], told["address"], told["denied"]) == ("mbectest-victim[628]", "0xffffccf00034f000", "3")
    assert (told["symbol"], told["module"], told["by"], told["uid"]) == ("victim", "mbectest", "host", "0")
    assert told["process"] == "gone"
    assert "sleep refused: this guest is sealed" in told["before"]
    assert [bench.look(3), bench.look(3), bench.look(3)] == [[], [], []]


def test_a_log_is_read_only_if_the_host_has_counted() -> None:
    bench = started(Bench())
    for _ in range(5):
        bench.look(2)
    assert bench.log.asked == 1
    bench.look(3, at(10))
    assert bench.log.asked == 2


def test_a_host_that_does_not_count() -> None:
    bench = Bench()
    assert bench.look(None, probed=True) == []
    assert bench.look(None, at(10, "6.1")) == ["FETCH_DENIED"]
    assert bench.told[0][1]["denied"] == "an unknown number of"
    assert bench.look(None) == []


def test_what_was_told_before_a_restart_is_not_told_again() -> None:
    first = Bench()
    assert first.look(3, at(10), probed=True) == ["FETCH_DENIED"]
    said = Line(11000000, "what the daemon said", told=int(first.told[0][1]["at"]))
    again = Bench()
    assert again.look(4, [*at(10), said, *at(20)], probed=True) == ["FETCH_DENIED"]
    assert again.told[0][1]["at"] == "20000000"


def test_what_the_log_does_not_have_is_told_at_the_second_look() -> None:
    bench = started(Bench())
    assert bench.look(5) == []
    assert unsure(bench)
    assert bench.look(5) == ["FETCHES_DENIED"]
    assert (bench.told[0][1]["count"], bench.told[0][1]["unlogged"], bench.told[0][1]["denied"]) == ("3", "3", "5")
    assert not unsure(bench)
    assert bench.look(5) == []


def test_a_log_that_comes_later_than_the_count() -> None:
    bench = started(Bench())
    assert bench.look(3) == []
    assert bench.look(3, at(10)) == ["FETCH_DENIED"]
    assert [bench.look(3), bench.look(3)] == [[], []]


def test_a_report_of_which_half_is_written() -> None:
    bench, report = started(Bench()), at(10)
    assert bench.look(3, report[:10]) == []
    assert bench.violations.unsure
    assert bench.look(3, report[10:]) == ["FETCH_DENIED"]
    assert bench.look(4, report[:12]) == []
    assert bench.look(4) == []  # the same once more: told already
    later = at(30)
    assert bench.look(5, later[:12]) == []
    assert bench.look(5) == ["FETCH_DENIED"]


def test_a_lock_at_work_has_its_own_canary_denied() -> None:
    bench = started(Bench())
    assert bench.look(10, probed=True) == []
    assert [bench.look(10), bench.look(10)] == [[], []]


def test_a_burst_floods_nothing_and_its_sum_is_right() -> None:
    bench, count = started(Bench()), 0
    for minute in range(60):
        bench.now += 60
        burst = [line for n in range(20) for line in at(100 * (minute + 1) + n)]
        count += 20
        bench.look(2 + count, burst)
    bench.now += 3600
    bench.look(2 + count)
    single = [facts for event, facts in bench.told if event is Event.FETCH_DENIED]
    sums = [int(facts["count"]) for event, facts in bench.told if event is Event.FETCHES_DENIED]
    assert len(single) + sum(sums) == count == 1200
    assert SINGLE <= len(single) <= SINGLE + 6
    assert len(sums) <= 8


def test_the_daemon_tells(tmp_path: Path) -> None:
    boot, log = Boot(tmp_path), Log()
    watch = Watch(boot.session, boot.tell, Violations(log))
    watch.look()
    boot.service.lock()
    watch.look()
    watch.look()
    assert not {Event.FETCH_DENIED, Event.FETCHES_DENIED} & set(boot.events())  # the lock's canary
    boot.host.run_canary()
    log.new = at(10)
    watch.look()
    assert boot.events().count(Event.FETCH_DENIED) == 1
    boot.host.run_canary()
    watch.look()
    watch.look()
    assert boot.events().count(Event.FETCHES_DENIED) == 1


def test_a_guest_without_a_host_to_ask_reads_no_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deaf(_host: SimulatedHost) -> NoReturn:
        die("the host does not answer", "")

    boot, log = Boot(tmp_path), Log()
    monkeypatch.setattr(SimulatedHost, "query", deaf)
    watch = Watch(boot.session, boot.tell, Violations(log))
    assert watch.look().startswith("open")
    assert log.asked == 0
    monkeypatch.undo()
    watch.look()
    assert log.asked == 1


def test_who_a_process_is() -> None:
    me = psutil.Process()
    assert process(me.pid, me.name()).startswith(f"{me.exe()}, user {os.getuid()}")
    assert process(me.pid, "another") == "gone"
    assert process(2**22 + 1, "nobody") == "gone"


def test_what_the_next_process_recalls_is_all_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look in a process of its own, as one process: also in the middle of a report."""
    lines = at(10)
    for cut in range(len(lines) + 1):
        one, many = started(Bench()), started(Bench())
        for new in (lines[:cut], lines[cut:], [], []):
            many.violations = replace(pickled(many.violations), log=many.log, clock=many.violations.clock)
            one.look(3, new)
            many.look(3, new)
        assert many.told == one.told
        assert len(one.told) == 1


def pickled(violations: Violations) -> Violations:
    still = replace(violations, log=Log(), clock=time.monotonic)
    again = pickle.loads(pickle.dumps(still))
    assert isinstance(again, Violations)
    return again


@pytest.mark.parametrize("name", ["\x1b[2Jx", "a\nb", "<b>"])
def test_names_do_no_harm(name: str) -> None:
    bench = started(Bench())
    report = [replace(line, text=line.text.replace("mbectest-victim Tai", f"{name} Tai")) for line in at(10)]
    assert bench.look(3, report) == ["FETCH_DENIED"]
    assert bench.told[0][1]["task"].isprintable()
