# SPDX-License-Identifier: GPL-2.0-or-later
"""Requests and what they make of the EPT: every rule of the ABI and its twin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbecguard.host.base import HostErrno, Permission, Protection
from mbecguard.host.simulated.ept import Ept, Mode
from mbecguard.host.simulated.eptmodel import EptModel
from mbecguard.host.simulated.hypervisor import Hypervisor
from mbecguard.host.wire import Limits
from tests.guestcalls import (
    CR0_PE,
    DENY_ALL,
    IMM,
    LIMITS,
    OPTIONS,
    PFNS,
    PROTECT,
    SUPERVISOR,
    USER,
    R,
    W,
    X,
    ask,
    part,
    running,
    runs,
)


def test_a_denied_page_faults_for_the_supervisor_alone() -> None:
    host = Hypervisor(OPTIONS)
    assert all(runs(host, gfn, mode) for gfn in (9, 10, 11) for mode in Mode)
    assert ask(host, part(10, 11, R | W)) == 0
    violation = host.fetch(10 << 12 | 0xFFF, SUPERVISOR)
    assert violation is not None
    assert violation.qualification() == 0x1DC
    assert [runs(host, gfn) for gfn in (9, 10, 11)] == [True, False, True]
    assert all(runs(host, gfn, USER) for gfn in (9, 10, 11))


@pytest.mark.parametrize("bits", range(1, 16))
def test_only_exec_is_enforced(bits: int) -> None:
    host = Hypervisor(OPTIONS)
    assert ask(host, part(10, 11, Permission(bits))) == 0
    assert host.ept.leaf(10) == (Ept.R | Ept.W | Ept.XU | (Ept.XS if bits & 4 else Ept(0)))
    assert host.ept.leaf(11) == Ept.R | Ept.W | Ept.XU | Ept.XS


def test_mutable_permissions_come_back() -> None:
    host = Hypervisor(OPTIONS)
    ask(host, part(10, 12, R))
    assert ask(host, part(10, 11, X)) == 0
    assert [runs(host, gfn) for gfn in (10, 11)] == [True, False]


def test_without_paging_no_denied_page_runs() -> None:
    host = Hypervisor(OPTIONS)
    ask(host, DENY_ALL, part(12, 13, X))
    assert not runs(host, 10)
    assert host.write_cr(0, CR0_PE)
    assert not runs(host, 10)
    assert runs(host, 12)


@pytest.mark.parametrize("mode", list(Mode))
def test_the_model_alone_judges_unpaged_fetches_by_xu(mode: Mode) -> None:
    model = EptModel(LIMITS)
    model.apply([DENY_ALL, part(2, 3, X)])
    denied = model.fetch(0x1000, mode, cr0_pg=False)
    assert denied is not None
    assert (denied.mode, denied.permissions & (Ept.XS | Ept.XU)) == (USER, Ept(0))
    assert model.fetch(0x2000, mode, cr0_pg=False) is None
    assert (model.fetch(0x1000, mode) is None) is (mode is USER)


@pytest.mark.parametrize("gfn", [-1, PFNS])
def test_there_are_no_pages_beyond_the_space(gfn: int) -> None:
    with pytest.raises(ValueError, match="beyond"):
        Hypervisor(OPTIONS).fetch(gfn << 12, SUPERVISOR)


def test_the_later_range_wins() -> None:
    host = Hypervisor(OPTIONS)
    assert ask(host, DENY_ALL, part(10, 20, X), part(12, 13, R)) == 0
    assert running(host) == [10, 11, *range(13, 20)]


def test_the_later_range_wins_across_list_pages() -> None:
    host = Hypervisor(OPTIONS)
    assert ask(host, *[DENY_ALL] * 169, part(10, 11, X)) == 0
    assert running(host) == [10]


@pytest.mark.parametrize("change", [R, R | W, X | IMM, R | X, R | W | IMM])
def test_immutable_pages_do_not_change(change: Permission) -> None:
    host = Hypervisor(OPTIONS)
    ask(host, part(10, 12, R | IMM))
    before = host.save()
    for start, end in [(10, 12), (11, 12), (9, 11), (11, 40), (0, PFNS)]:
        assert ask(host, part(start, end, change)) == -1
    assert host.save() == before
    assert ask(host, part(9, 10, change), part(12, 13, change)) == 0


def test_an_equal_request_on_immutable_pages_is_no_change() -> None:
    host = Hypervisor(OPTIONS)
    ask(host, part(10, 12, R | IMM), part(12, 14, X | IMM))
    before = host.save()
    assert ask(host, part(10, 12, R | IMM), part(13, 14, X | IMM)) == 0
    assert host.save() == before
    assert ask(host, part(8, 12, R | IMM)) == 0
    assert ask(host, part(8, 9, R)) == -1


def test_immutability_is_that_of_the_published_map() -> None:
    host = Hypervisor(OPTIONS)
    assert ask(host, part(10, 20, R | IMM), part(12, 13, X | IMM)) == 0
    assert running(host) == [*range(10), 12, *range(20, PFNS)]
    assert ask(host, part(12, 13, R | IMM)) == -1


BAD = [
    ((part(5, 6, R), part(10, 11, X)), HostErrno.PERM),
    ((part(5, 6, R), part(PFNS, PFNS + 1, R)), HostErrno.INVALID),
    ((part(5, 6, R), part(6, 7, Permission(0))), HostErrno.INVALID),
    ((part(5, 6, R), part(6, 6, R)), HostErrno.INVALID),
    ((part(5, 6, R),) * (OPTIONS.limits.list_pages * 169 + 1), HostErrno.TOO_BIG),
]


@pytest.mark.parametrize(("request_", "errno"), BAD, ids=lambda value: "" if isinstance(value, tuple) else value.name)
def test_a_failing_request_changes_nothing(request_: Sequence[Protection], errno: HostErrno) -> None:
    host = Hypervisor(OPTIONS)
    ask(host, part(10, 11, R | IMM))
    before = host.save()
    assert ask(host, *request_) == -errno
    assert host.save() == before
    assert ask(host, request_[0]) == 0
    assert host.ept.generation == before.generation + 1


def test_an_unreadable_list_changes_nothing() -> None:
    host = Hypervisor(OPTIONS)
    before = host.save()
    assert host.hypercall(PROTECT, 0x5000, 0) == -HostErrno.FAULT
    assert host.save() == before


def test_boundaries_are_bounded() -> None:
    host = Hypervisor(replace(OPTIONS, limits=Limits(max_pfn=PFNS, boundaries=4)))
    assert ask(host, DENY_ALL, part(10, 12, X)) == 0
    before = host.save()
    assert ask(host, part(20, 22, X)) == -HostErrno.TOO_BIG
    assert host.save() == before
    assert ask(host, part(12, 14, X)) == 0
    assert ask(host, part(0, 10, X | R | W)) == 0
    assert ask(host, part(20, 22, X)) == -HostErrno.TOO_BIG
    assert ask(host, part(0, 14, X | R | W), part(20, 22, X)) == 0


REQUESTS = st.lists(
    st.builds(
        lambda start, length, bits: part(start, min(PFNS + 1, start + length), Permission(bits)),
        st.integers(0, PFNS - 1),
        st.sampled_from([1, 2, 5, PFNS]),
        # Immutable pages are rare, or soon nothing else would happen.
        st.sampled_from([1, 2, 3, 4, 5, 6, 7] * 3 + [9, 12]),
    ).filter(lambda p: p.pages.end <= PFNS),
    min_size=1,
    max_size=4,
)


@given(st.lists(REQUESTS, max_size=10))
def test_any_requests_against_a_dict_of_pages(requests: list[list[Protection]]) -> None:
    host = Hypervisor(OPTIONS)
    naive = [7] * PFNS
    for request in requests:
        wanted, forbidden = naive.copy(), False
        for entry in request:
            for gfn in range(entry.pages.start, entry.pages.end):
                forbidden |= naive[gfn] & 8 != 0 and naive[gfn] != entry.permissions
                wanted[gfn] = int(entry.permissions)
        generation = host.ept.generation
        assert ask(host, *request) == (-1 if forbidden else 0)
        changed = not forbidden and wanted != naive
        assert host.ept.generation == generation + changed
        naive = wanted if changed else naive
        assert running(host) == [gfn for gfn in range(PFNS) if naive[gfn] & 4]
        assert host.ept.restricted is any(not bits & 4 for bits in naive)
        assert host.ept.sealed is any(bits & 8 for bits in naive)
