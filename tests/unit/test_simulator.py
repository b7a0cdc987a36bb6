# SPDX-License-Identifier: GPL-2.0-or-later
"""The simulated host behind the host protocol, and its state that outlives the agent."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mbecguard.host.base import Host, HostErrno, HostMode, HostRefusedError, Outcome
from mbecguard.host.simulated.host import SimulatedHost
from mbecguard.host.simulated.hypervisor import Options
from mbecguard.host.wire import Limits
from mbecguard.values import codec
from mbecguard.values.errors import UserError
from tests.guestcalls import (
    AUDIT,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_SMEP,
    DENY_ALL,
    FAIL_OPEN,
    HONEST,
    IMM,
    OFF,
    OPTIONS,
    PFNS,
    R,
    W,
    X,
    part,
)


def sealed_host(options: Options = OPTIONS, state: Path | None = None, boot_id: str = "") -> SimulatedHost:
    host = SimulatedHost(options, 20, state, boot_id)
    host.protect([DENY_ALL, part(10, 12, X)])
    host.protect([part(0, PFNS, R | W | IMM), part(10, 12, X | IMM)])
    return host


def test_protect_and_probe_through_the_protocol() -> None:
    host: Host = SimulatedHost(OPTIONS, canary_pfn=20)
    assert (host.name, host.simulated, host.max_pfn, host.canary_pfn) == ("simulator", True, PFNS, 20)
    assert [host.run_canary(), host.run_user(20), host.run_kept(10)] == [Outcome.RAN] * 3
    host.protect([DENY_ALL, part(10, 12, X)])
    assert [host.run_canary(), host.run_user(20), host.run_kept(10), host.run_kept(12)] == [
        Outcome.DENIED,
        Outcome.RAN,
        Outcome.RAN,
        Outcome.DENIED,
    ]
    status = host.query()
    assert (status.mode, status.enforced, status.generation) == (HostMode.ENFORCE, X | IMM, 1)
    assert (status.restricted, status.sealed) == (True, False)


def test_long_requests_take_several_list_pages() -> None:
    host = SimulatedHost(replace(OPTIONS, limits=Limits(max_pfn=1000)), None)
    host.protect([part(0, 1000, R), *(part(gfn, gfn + 1, X) for gfn in range(0, 1000, 2))])
    assert [gfn for gfn in range(1000) if host.run_kept(gfn) is Outcome.RAN] == list(range(0, 1000, 2))


def test_an_empty_request_asks_for_nothing() -> None:
    host = SimulatedHost(OFF, None)
    host.protect([])
    with pytest.raises(HostRefusedError):
        host.protect([DENY_ALL])


@pytest.mark.parametrize(("options", "errno"), [(OFF, HostErrno.NO_HYPERCALL), (HONEST, HostErrno.NOT_SUPPORTED)])
def test_refusals_are_raised(options: Options, errno: HostErrno) -> None:
    host = SimulatedHost(options, 20)
    for call in (host.query, lambda: host.protect([DENY_ALL])):
        with pytest.raises(HostRefusedError) as refused:
            call()
        assert refused.value.errno is errno
    assert host.run_canary() is Outcome.RAN


def test_immutable_is_a_refusal() -> None:
    with pytest.raises(HostRefusedError, match="PERM"):
        sealed_host().protect([part(0, PFNS, X)])


def test_heki_hosts_are_of_unknown_mode() -> None:
    host = SimulatedHost(FAIL_OPEN, 20)
    host.protect([DENY_ALL])
    assert host.query().mode is HostMode.UNKNOWN
    assert host.run_canary() is Outcome.RAN


def test_probes_that_cannot_be_carried_out() -> None:
    host = SimulatedHost(OPTIONS, None)
    outcomes = [host.run_canary(), host.run_user(PFNS), host.run_kept(-1), host.run_kept(PFNS - 1)]
    assert outcomes == [Outcome.NO_VERDICT] * 3 + [Outcome.RAN]


@pytest.mark.parametrize("pfn", [-1, PFNS])
def test_no_canary_beyond_the_space(pfn: int) -> None:
    with pytest.raises(ValueError, match="canary"):
        SimulatedHost(OPTIONS, pfn)


def test_pin_is_probed() -> None:
    host = SimulatedHost(OPTIONS, None)
    before = host.hypervisor.read_cr(4)
    assert not host.pinned()
    assert host.hypervisor.read_cr(4) == before
    host.pin()
    assert host.pinned()
    assert [host.hypervisor.write_cr(0, CR0_PE | CR0_WP), host.hypervisor.write_cr(0, CR0_PE | CR0_PG)] == [False] * 2


def test_a_seal_alone_pins_smep() -> None:
    assert sealed_host().pinned()


def test_modules_are_held_and_let_go() -> None:
    host = SimulatedHost(OPTIONS, None)
    states = [host.modules_held]
    for hold in (True, True, False):
        host.hold_modules(hold)
        states.append(host.modules_held)
    assert states == [False, True, True, False]


def test_the_host_outlives_the_agent(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    first = sealed_host(state=state, boot_id="one")
    first.pin()
    first.hold_modules(True)
    assert first.run_canary() is Outcome.DENIED
    second = SimulatedHost(OPTIONS, 20, state, "one")
    assert second.hypervisor.save() == first.hypervisor.save()
    assert second.modules_held
    assert (second.hypervisor.violations, len(second.hypervisor.denials)) == (1, 1)
    assert [second.run_canary(), second.run_kept(10), second.pinned()] == [Outcome.DENIED, Outcome.RAN, True]
    with pytest.raises(HostRefusedError):
        second.protect([part(0, PFNS, X)])
    assert second.query().generation == 2


def test_another_boot_is_a_reset(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    sealed_host(state=state, boot_id="one").hold_modules(True)
    host = SimulatedHost(OPTIONS, 20, state, "two")
    assert (host.run_canary(), host.modules_held, host.query().generation) == (Outcome.RAN, False, 0)
    host.hold_modules(False)
    assert SimulatedHost(OPTIONS, 20, state, "one").run_canary() is Outcome.RAN


def test_audit_grants_are_kept(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    host = SimulatedHost(AUDIT, 20, state)
    host.protect([DENY_ALL])
    assert host.run_canary() is Outcome.RAN
    again = SimulatedHost(AUDIT, 20, state)
    assert (again.hypervisor.violations, again.hypervisor.save().granted) == (1, (20,))
    assert again.run_canary() is Outcome.RAN
    assert again.hypervisor.violations == 1


def test_nothing_is_written_before_the_first_change_and_nothing_is_left_over(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    host = SimulatedHost(OPTIONS, 20, state)
    host.query()
    host.run_canary()
    assert list(tmp_path.iterdir()) == []
    host.pin()
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]
    assert json.loads(state.read_bytes())["schema"] == "mbecguard.simulator/1"


def _damaged(good: bytes) -> list[bytes]:
    def changed(**fields: object) -> bytes:
        return json.dumps(json.loads(good) | fields).encode()

    vm = json.loads(good)["vm"]
    return [
        b"",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        good[: len(good) // 2],
        changed(schema="mbecguard.simulator/2"),
        changed(modules_held=1),
        changed(vm=None),
        changed(vm=vm | {"regions": []}),
        changed(vm=vm | {"cr4": {"value": 0, "pinned": CR4_SMEP}}),
        changed(vm=vm | {"regions": [{"pages": {"start": 5, "end": 0}, "permissions": 4}]}),
        changed(vm=vm | {"regions": [{"pages": {"start": 0, "end": PFNS}, "permissions": 64}]}),
    ]


@pytest.mark.parametrize("index", range(12))
def test_a_damaged_state_is_named_with_a_hint(tmp_path: Path, index: int) -> None:
    state = tmp_path / "state.json"
    sealed_host(state=state)
    state.write_bytes(_damaged(state.read_bytes())[index])
    with pytest.raises(UserError, match="state") as error:
        SimulatedHost(OPTIONS, 20, state)
    assert "remove the file" in error.value.hint


def test_a_state_of_a_vm_of_another_size_is_refused(tmp_path: Path) -> None:
    sealed_host(state=tmp_path / "state.json")
    with pytest.raises(UserError, match="no map"):
        SimulatedHost(replace(OPTIONS, limits=Limits(max_pfn=PFNS * 2)), 20, tmp_path / "state.json")


def test_a_state_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        SimulatedHost(OPTIONS, 20, tmp_path)
    host = SimulatedHost(OPTIONS, 20, tmp_path / "missing" / "state.json")
    (tmp_path / "missing").touch()
    with pytest.raises(UserError, match="cannot be written"):
        host.pin()


def test_the_state_round_trips_as_json() -> None:
    host = sealed_host()
    host.run_canary()
    saved = host.hypervisor.save()
    assert codec.decode(type(saved), json.loads(codec.canonical(codec.encode(saved)))) == saved
