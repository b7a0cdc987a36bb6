# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of the lock share: what each ending has to look like, and hosts and steps that fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mbecguard.host.base import HostErrno, HostRefusedError, Outcome, Protection
from mbecguard.host.simulated.ept import Ept
from mbecguard.records.record import EXPECTED, Probe, Record, State, Step
from mbecguard.values.events import Event
from tests.lockbench import AFTER, BEFORE, Bench, WrappedHost
from tests.plans import CANARY, PFNS, SPANS, kept, kept_frames, make_plan

ALL = set(range(PFNS))
TEXT_PROBES = {Probe.STORE_BEFORE, Probe.STORE_DENIED, Probe.STORE_COUNTED, Probe.PATCH}  #: of levels of text
EXEC_EXPECTED = {probe: outcome for probe, outcome in EXPECTED.items() if probe not in TEXT_PROBES}
MORE = make_plan((*SPANS, (50, 51)))


def assert_sealed(bench: Bench, record: Record) -> None:
    """Everything that a lock promises, read from the host and not from the record alone."""
    assert bench.frames(Ept.XS) == kept_frames(make_plan()) - {CANARY}
    assert bench.frames(Ept.XU) == ALL
    assert bench.host.query().sealed
    assert bench.host.pinned()
    assert bench.host.modules_held
    assert bench.values() == AFTER
    assert {e.probe: e.outcome for e in record.evidence} == EXEC_EXPECTED
    assert record.state is State.SEALED
    assert (record.pinned, set(record.frozen)) == (True, set(AFTER))
    assert kept(bench.store)[-1] == record
    assert bench.store.journal(bench.boot_id) is None
    assert bench.status().state is State.SEALED
    assert bench.status().interrupted is None


def assert_open(bench: Bench, state: State = State.OPEN) -> None:
    """The state before: nothing denied, held or frozen, and no journal."""
    assert bench.frames(Ept.XS) == bench.frames(Ept.XU) == ALL
    assert not bench.host.query().sealed
    assert not bench.host.modules_held
    assert bench.values() == BEFORE
    assert Event.ROLLBACK_FAILED not in bench.events()
    assert bench.store.journal(bench.boot_id) is None
    status = bench.status()
    assert (status.state, status.interrupted) == (state, None)


def assert_recovers(bench: Bench) -> None:
    later = bench.again()
    assert_sealed(later, later.lock())


class Capture:
    """Switches that tell what is written."""

    def __init__(self, put: Callable[[str, str], None], get: Callable[[str], str | None], order: list[str]) -> None:
        self._put, self._get, self._order = put, get, order

    def get(self, name: str) -> str | None:
        return self._get(name)

    def put(self, name: str, value: str) -> None:
        self._order.append(name)
        self._put(name, value)


def refusing(step: Step, error: BaseException) -> Callable[[Step], None]:
    def reach(reached: Step) -> None:
        if reached is step:
            raise error

    return reach


class Trouble:
    """Raises `error` at the n-th host call, or from the n-th on."""

    def __init__(self, at: int, error: Exception, lasting: bool = False) -> None:
        self.at, self.error, self.lasting = at, error, lasting
        self.calls: list[str] = []

    def __call__(self, call: str) -> None:
        self.calls.append(call)
        number = len(self.calls) - 1
        if number == self.at or (self.lasting and number > self.at):
            raise self.error


class FailsAfterSeal(WrappedHost):
    """Enforces until it is sealed."""

    def run_canary(self) -> Outcome:
        return Outcome.RAN if self.inner.query().sealed else self.inner.run_canary()


class OpensNever(WrappedHost):
    """Denies, but does not allow again, a number of times."""

    left = 99

    def protect(self, request: Sequence[Protection]) -> None:
        if len(request) == 1 and self.left:
            self.left -= 1
            raise HostRefusedError(HostErrno.FAULT, "protect")
        self.inner.protect(request)

    def run_kept(self, pfn: int) -> Outcome:
        return Outcome.DENIED
