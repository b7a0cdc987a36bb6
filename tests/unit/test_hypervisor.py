# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may call, what kind of host answers, pins, violations, reset."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mbecguard.host.base import HostMode, Permission, Protection
from mbecguard.host.simulated.hypervisor import ControlRegister, Hypervisor, Options
from tests.guestcalls import (
    AUDIT,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_SMEP,
    CR4_VMXE,
    DENY_ALL,
    FAIL_OPEN,
    HONEST,
    IMM,
    LIST,
    MAGIC,
    OFF,
    OPTIONS,
    PFNS,
    PIN,
    PROTECT,
    SUPERVISOR,
    USER,
    R,
    X,
    ask,
    part,
    runs,
)

CALLS = [(PROTECT, LIST, 0), (PROTECT, 0, MAGIC), (PROTECT, 0, 0), (PIN, 4, CR4_SMEP)]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("cpl", [1, 3])
def test_only_ring_0_may_call(call: tuple[int, int, int], cpl: int) -> None:
    host = Hypervisor(OPTIONS)
    ask(host, part(1, 2, R))
    assert host.hypercall(*call, cpl=cpl) == -1
    assert host.hypercall(*call) >= 0


@pytest.mark.parametrize("call", CALLS)
def test_only_long_mode_may_call(call: tuple[int, int, int]) -> None:
    host = Hypervisor(OPTIONS)
    assert host.hypercall(*call, long_mode=False) == -95


@pytest.mark.parametrize("call", CALLS)
def test_a_host_that_is_off_knows_no_call(call: tuple[int, int, int]) -> None:
    assert Hypervisor(OFF).hypercall(*call) == -1000


@pytest.mark.parametrize("nr", [0, 12, 15, -1])
def test_other_hypercalls_are_unknown(nr: int) -> None:
    assert Hypervisor(OPTIONS).hypercall(nr, 0, 0) == -1000


@pytest.mark.parametrize("magic", [0, MAGIC - 1, MAGIC + 28, MAGIC & 0xFFFFFFFF])
def test_an_empty_list_is_no_change(magic: int) -> None:
    host = Hypervisor(OPTIONS)
    before = host.save()
    assert host.hypercall(PROTECT, 0, magic) == 0
    assert host.save() == before


def test_the_query_tells_the_state() -> None:
    host = Hypervisor(OPTIONS)
    assert host.hypercall(PROTECT, 0, MAGIC) == 0x31C
    ask(host, part(1, 2, R))
    assert host.hypercall(PROTECT, 0, MAGIC) == 0x1_035C
    ask(host, part(1, 2, X | IMM))
    assert host.hypercall(PROTECT, 0, MAGIC) == 0x2_039C
    assert Hypervisor(AUDIT).hypercall(PROTECT, 0, MAGIC) == 0x32C


def test_a_heki_host_has_no_query_but_enforces() -> None:
    host = Hypervisor(replace(OPTIONS, no_query=True))
    assert host.hypercall(PROTECT, 0, MAGIC) == 0
    assert ask(host, part(1, 2, R)) == 0
    assert not runs(host, 1)


def test_heki_without_mbec_says_yes_and_does_nothing() -> None:
    host = Hypervisor(FAIL_OPEN)
    before = host.save()
    assert ask(host, DENY_ALL) == 0
    assert host.hypercall(PROTECT, 0, MAGIC) == 0
    assert host.save() == before
    assert runs(host, 10)


def test_an_honest_host_without_mbec_refuses() -> None:
    host = Hypervisor(HONEST)
    assert ask(host, DENY_ALL) == -95
    assert host.hypercall(PROTECT, 0, MAGIC) == -95
    assert runs(host, 10)


@pytest.mark.parametrize(("set_", "clear"), [(0, CR4_SMEP), (CR4_VMXE, 0)])
def test_without_smep_or_with_vmx_nothing_can_be_enforced(set_: int, clear: int) -> None:
    host = Hypervisor(OPTIONS)
    assert host.write_cr(4, (host.read_cr(4) | set_) & ~clear)
    assert ask(host, DENY_ALL) == -95
    assert host.write_cr(4, (host.read_cr(4) | clear) & ~set_)
    assert ask(host, DENY_ALL) == 0


def test_smep_matters_only_with_paging() -> None:
    host = Hypervisor(OPTIONS)
    host.write_cr(4, host.read_cr(4) & ~CR4_SMEP)
    host.write_cr(0, CR0_PE)
    assert ask(host, DENY_ALL) == 0


def test_no_host_is_unknown_to_itself() -> None:
    with pytest.raises(ValueError):
        Options(mode=HostMode.UNKNOWN)


@pytest.mark.parametrize(("number", "bit"), [(0, CR0_WP), (0, CR0_PG), (4, CR4_SMEP)])
def test_pinned_bits_stay(number: int, bit: int) -> None:
    free, pinned = Hypervisor(OPTIONS), Hypervisor(OPTIONS)
    before = free.read_cr(number)
    assert pinned.hypercall(PIN, number, bit) == 0
    assert free.write_cr(number, before & ~bit)
    assert not pinned.write_cr(number, before & ~bit)
    assert (free.read_cr(number), pinned.read_cr(number)) == (before & ~bit, before)
    assert pinned.write_cr(number, before | 1 << 3)


def test_pins_add_up() -> None:
    host = Hypervisor(OPTIONS)
    assert [host.hypercall(PIN, 0, CR0_WP), host.hypercall(PIN, 0, CR0_PG)] == [0, 0]
    assert not host.write_cr(0, host.read_cr(0) & ~CR0_WP)


@pytest.mark.parametrize(
    ("number", "mask"),
    [(3, 1), (8, CR4_SMEP), (0, 0), (4, 0), (0, CR0_WP | 1 << 1), (0, CR0_PE), (4, 1 << 62), (0, -1)],
)
def test_impossible_pins(number: int, mask: int) -> None:
    host = Hypervisor(OPTIONS)
    before = host.save()
    assert host.hypercall(PIN, number, mask) == -22
    assert host.save() == before


def test_a_bit_that_is_clear_cannot_be_pinned() -> None:
    host = Hypervisor(OPTIONS)
    host.write_cr(4, host.read_cr(4) & ~CR4_SMEP)
    assert host.hypercall(PIN, 4, CR4_SMEP) == -22


@pytest.mark.parametrize(
    ("number", "set_", "clear", "allowed"),
    [(0, 0, CR0_PG, False), (0, 0, CR0_WP, True), (4, 0, CR4_SMEP, False), (4, CR4_VMXE, 0, False)],
)
def test_a_seal_pins_what_it_needs(number: int, set_: int, clear: int, allowed: bool) -> None:
    for permissions, expected in [(R, True), (R | IMM, allowed)]:
        host = Hypervisor(OPTIONS)
        ask(host, part(10, 11, permissions))
        assert host.write_cr(number, (host.read_cr(number) | set_) & ~clear) is expected


def test_no_seal_while_system_management_mode_is_open() -> None:
    host = Hypervisor(replace(OPTIONS, smm_open=True))
    assert ask(host, part(10, 11, R)) == 0
    before = host.status()
    assert (before.smm_open, before.restricted) == (True, True)
    assert ask(host, part(10, 11, R | IMM)) == -95
    assert host.status() == before
    assert ask(host, part(10, 11, R)) == 0


@pytest.mark.parametrize(("value", "pinned"), [(-1, 0), (1 << 64, 0), (1, 2)])
def test_impossible_control_registers(value: int, pinned: int) -> None:
    with pytest.raises(ValueError):
        ControlRegister(value, pinned)


def test_violations_are_counted_and_the_last_are_kept() -> None:
    host = Hypervisor(OPTIONS)
    ask(host, DENY_ALL)
    for gfn in range(40):
        host.fetch(gfn << 12, SUPERVISOR)
    host.fetch(0, USER)
    assert host.violations == 40
    assert [denial.gpa >> 12 for denial in host.denials] == list(range(24, 40))


def test_audit_logs_once_per_page_and_grants() -> None:
    host = Hypervisor(AUDIT)
    ask(host, DENY_ALL)
    assert [runs(host, gfn) for gfn in (10, 10, 11)] == [True, True, True]
    assert host.violations == 2
    assert [denial.gpa >> 12 for denial in host.denials] == [10, 11]
    assert host.save().granted == (10, 11)


def test_audit_never_denies_when_its_memory_is_full() -> None:
    host = Hypervisor(replace(AUDIT, max_grants=1))
    ask(host, DENY_ALL)
    assert [runs(host, gfn) for gfn in (10, 11, 11, 10)] == [True] * 4
    assert host.save().granted == (10,)
    assert host.violations == 3


def test_grants_of_an_audit_mean_nothing_to_an_enforcing_host() -> None:
    audited, host = Hypervisor(AUDIT), Hypervisor(OPTIONS)
    ask(audited, DENY_ALL)
    audited.fetch(0, SUPERVISOR)
    host.restore(audited.save())
    assert not runs(host, 0)


def test_only_a_reset_undoes_a_seal() -> None:
    host = Hypervisor(OPTIONS)
    fresh = host.save()
    ask(host, part(0, PFNS, R | IMM))
    host.hypercall(PIN, 0, CR0_WP)
    assert not runs(host, 10)
    host.reset()
    assert host.save() == fresh
    assert runs(host, 10)
    assert ask(host, part(0, PFNS, X)) == 0


@pytest.mark.parametrize(
    "regions",
    [
        (),
        (part(0, PFNS - 1, X),),
        (part(1, PFNS, X),),
        (part(0, PFNS + 1, X),),
        (part(0, 5, X), part(6, PFNS, X)),
        (part(0, 6, X), part(5, PFNS, X)),
        (part(0, PFNS, Permission(0)),),
    ],
)
def test_only_a_whole_map_is_restored(regions: tuple[Protection, ...]) -> None:
    host = Hypervisor(OPTIONS)
    with pytest.raises(ValueError, match="no map"):
        host.restore(replace(host.save(), regions=regions))
