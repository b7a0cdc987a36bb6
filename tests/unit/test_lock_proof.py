# SPDX-License-Identifier: GPL-2.0-or-later
"""The probes: what they run, and that a host that lies is found out by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from mbecguard.host.base import HostStatus, Outcome, Permission, Protection
from mbecguard.lock.proof import KEPT_TRIES, Prober, frames_to_try
from mbecguard.lock.request import request
from mbecguard.records.record import Probe, State
from mbecguard.values.errors import Exit
from mbecguard.values.events import Event
from tests.lockbench import OPTIONS, Bench, WrappedHost
from tests.lockchecks import (
    assert_open,
    assert_recovers,
)
from tests.plans import CANARY, kept, make_plan

pytestmark = pytest.mark.usefixtures("fast_disk")


def test_kept_text_is_proven_on_the_kernels_own_text(bench: Bench) -> None:
    evidence = {e.probe: e.pfn for e in bench.lock().evidence}
    assert evidence.pop(Probe.KEPT_TEXT) == 8
    assert set(evidence.values()) == {CANARY}


def test_frames_to_try_are_a_few_and_never_the_canary() -> None:
    assert frames_to_try(make_plan([(8, 9)]), 8) == []
    assert frames_to_try(make_plan([(8, 12)]), 8) == [9, 10, 11]
    assert frames_to_try(make_plan([]), 8) == []
    assert frames_to_try(make_plan([(0, 64)]), 70) == list(range(KEPT_TRIES))


@pytest.mark.parametrize("unsuitable", [0, 1, 2])
def test_kept_text_is_proven_on_the_first_page_that_can_be_run(bench: Bench, unsuitable: int) -> None:
    tried: list[int] = []

    class Host(WrappedHost):
        def run_kept(self, pfn: int) -> Outcome:
            tried.append(pfn)
            return Outcome.NO_VERDICT if len(tried) <= unsuitable else self.inner.run_kept(pfn)

    prober = Prober(Host(bench.host))
    prober.run_neighbours(make_plan())
    first = frames_to_try(make_plan(), CANARY)
    assert tried == first[: unsuitable + 1]
    assert [(e.outcome, e.pfn) for e in prober.found if e.probe is Probe.KEPT_TEXT] == [(Outcome.RAN, tried[-1])]


def test_kept_text_that_never_runs_is_no_proof(bench: Bench) -> None:
    class Host(WrappedHost):
        def run_kept(self, pfn: int) -> Outcome:
            return Outcome.NO_VERDICT

    error = bench.fails(Host(bench.host))
    assert error.status is Exit.NOT_ENFORCED
    assert "kept text" in error.message


class CanaryRunsAlways(WrappedHost):
    """A Heki v2 host without MBEC, seen by the canary."""

    def run_canary(self) -> Outcome:
        return Outcome.RAN


class CanaryGivesNoVerdict(WrappedHost):
    def run_canary(self) -> Outcome:
        return Outcome.NO_VERDICT if self.inner.query().restricted else Outcome.RAN


class UserDenied(WrappedHost):
    """A host that takes execution from user mode as well."""

    def run_user(self, pfn: int) -> Outcome:
        return Outcome.DENIED


class KeptDenied(WrappedHost):
    def run_kept(self, pfn: int) -> Outcome:
        return Outcome.DENIED


class PinsNothing(WrappedHost):
    def pin(self) -> tuple[str, ...]:
        return ()

    def pinned(self) -> bool:
        return False


class SealsNothing(WrappedHost):
    """Drops the immutable bit, and says yes."""

    def protect(self, request: Sequence[Protection]) -> None:
        self.inner.protect([p._replace(permissions=p.permissions & ~Permission.IMMUTABLE) for p in request])


class SealsNothingAndClaimsIt(SealsNothing):
    def query(self) -> HostStatus:
        status = self.inner.query()
        return status._replace(sealed=status.restricted)


LIARS = [
    (CanaryRunsAlways, "canary after the lock: ran"),
    (CanaryGivesNoVerdict, "canary after the lock: no-verdict"),
    (UserDenied, "user-mode fetch from a denied page: denied"),
    (KeptDenied, "supervisor fetch from kept text: denied"),
    (PinsNothing, "CR4.SMEP can still be cleared"),
    (SealsNothing, "attempt to unlock after the seal: ran"),
    (SealsNothingAndClaimsIt, "attempt to unlock after the seal: ran"),
]


@pytest.mark.parametrize(("liar", "reason"), LIARS)
def test_a_lying_host_is_found_out_and_everything_is_rolled_back(
    bench: Bench, liar: type[WrappedHost], reason: str
) -> None:
    failed = bench.fails(liar(bench.host))
    assert failed.status is Exit.NOT_ENFORCED
    assert reason in failed.message
    assert failed.message.startswith("not locked: ")
    assert_open(bench, State.DEGRADED)
    assert reason in bench.status().reasons[0].text
    record = kept(bench.store)[-1]
    assert record.state is State.DEGRADED
    assert reason in record.reasons[0].text
    assert Event.NOT_ENFORCED in bench.events()
    assert Event.SEALED not in bench.events()
    assert_recovers(bench)


def test_a_host_without_mbec_is_not_enforcing(tmp_path: Path) -> None:
    bench = Bench(tmp_path, replace(OPTIONS, mbec=False))
    failed = bench.fails()
    assert failed.status is Exit.NOT_ENFORCED
    assert kept(bench.store)[-1].state is State.DEGRADED
    assert bench.status().state is State.DEGRADED
    assert not bench.host.modules_held
    assert_recovers(Bench(tmp_path))


def test_an_attempt_to_unlock_that_succeeds_is_taken_back(bench: Bench) -> None:
    bench.host.protect(request(make_plan(), CANARY, immutable=False))
    prober = Prober(bench.host)
    prober.try_unlock()
    assert prober.unlocked
    assert bench.host.run_canary() is Outcome.DENIED
