# SPDX-License-Identifier: GPL-2.0-or-later
"""A lock of a guest that is sealed already: it completes the lock, by the plan of the seal."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mbecguard.host.base import HostStatus, Protection
from mbecguard.lock.request import equal_request
from mbecguard.records.record import State
from mbecguard.values.errors import Exit
from tests.lockbench import BEFORE, Bench, WrappedHost
from tests.lockchecks import (
    MORE,
    assert_recovers,
    assert_sealed,
)
from tests.plans import CANARY, SPANS, kept, make_plan

pytestmark = pytest.mark.usefixtures("fast_disk")


class ClaimsSealed(WrappedHost):
    def query(self) -> HostStatus:
        return self.inner.query()._replace(sealed=True, restricted=True)


def test_a_seal_that_nobody_saw_proven_is_degraded_and_nothing_is_touched(bench: Bench) -> None:
    for _ in range(2):
        failed = bench.fails(ClaimsSealed(bench.host))
        assert failed.status is Exit.NOT_ENFORCED
        assert "nobody here saw a proof" in failed.message
        assert bench.status(ClaimsSealed(bench.host)).state is State.DEGRADED
    assert bench.host.query().generation == 0
    assert bench.values() == BEFORE
    assert_recovers(bench)


def test_locking_twice_is_locking_once(bench: Bench) -> None:
    first = bench.lock()
    generation = bench.host.query().generation
    later = bench.again()
    second = later.lock()
    assert_sealed(later, second)
    assert (second.plan_digest, second.generation) == (first.plan_digest, generation)
    assert len(kept(later.store)) == 2


def test_a_rerun_of_many_ranges_comes_in_parts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.lock()
    sizes: list[int] = []

    class Host(WrappedHost):
        def protect(self, request: Sequence[Protection]) -> None:
            sizes.append(len(request))
            self.inner.protect(request)

    monkeypatch.setattr("mbecguard.lock.request.PART", 2)
    again = bench.again()
    assert again.lock(Host(again.host)).state is State.SEALED
    tiles = len(equal_request(make_plan(), CANARY))
    assert tiles > 2
    assert sizes == [2] * (tiles // 2) + [1] * (tiles % 2) + [1]  # the last is the attempt to unlock


def test_a_rerun_freezes_again_what_was_thawed(bench: Bench) -> None:
    bench.lock()
    bench.knobs.put("kernel.ftrace_enabled", "1")
    bench.host.hold_modules(False)
    assert_recovers(bench)


def test_another_plan_on_a_sealed_host_is_refused_and_changes_nothing(bench: Bench) -> None:
    bench.lock()
    regions = bench.host.hypervisor.ept.regions
    other = bench.again()
    other.plans = [MORE]
    failed = other.fails()
    assert failed.status is Exit.REFUSED
    assert "sealed by another plan" in failed.message
    assert other.host.hypervisor.ept.regions == regions
    status = other.status()
    assert status.state is State.DEGRADED
    assert "sealed by another plan" in status.reasons[0].text
    assert kept(other.store)[-1].plan_digest == make_plan().digest  # the one that is in force
    assert_recovers(bench)


def test_code_that_went_away_does_not_break_the_seal(bench: Bench) -> None:
    bench.lock()
    later = bench.again()
    later.plans = [make_plan(SPANS[:-1])]
    record = later.lock()
    assert record.plan_digest == make_plan().digest
    assert "keeps 1 ranges" in record.reasons[0].text
    assert later.status().state is State.SEALED
