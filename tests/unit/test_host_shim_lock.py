# SPDX-License-Identifier: GPL-2.0-or-later
"""Locks over the shim's device, and the session that asks it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from errno import EINVAL, ENOENT, ENOMEM
from pathlib import Path

import pytest

from mbecguard import device
from mbecguard.device import ShimDevice
from mbecguard.host import shim
from mbecguard.host.shim import ShimHost
from mbecguard.host.simulated.ept import Ept
from mbecguard.host.simulated.hypervisor import Hypervisor
from mbecguard.records.record import State
from mbecguard.session import Places, Session
from mbecguard.settings.load import load as load_settings
from mbecguard.values.errors import Exit, UserError
from tests.fakeshim import (
    FAULTS,
    OPTIONS,
    PF,
    PFNS,
    RAN,
    RETURNS,
    RETURNS_7,
    FakeShim,
    device_of,
    fails,
    host_of,
    raising,
)
from tests.lockbench import AFTER, Bench
from tests.lockchecks import EXEC_EXPECTED
from tests.plans import CANARY, kept_frames, make_plan

pytestmark = pytest.mark.usefixtures("cpus")

PLAN = make_plan(max_pfn=PFNS)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(os, "fsync", lambda _fd: None)
    return Bench(tmp_path, plans=[PLAN])


def test_a_lock_over_the_shim_ends_sealed(bench: Bench, fake: FakeShim, page: Callable[[bytes], int]) -> None:
    fd = page(RETURNS)
    record = bench.lock(host_of(fake, fd))
    assert (record.state, record.host, record.simulated, record.pinned) == (State.SEALED, "shim", False, True)
    assert {e.probe: e.outcome for e in record.evidence} == EXEC_EXPECTED
    low = [gfn for gfn in range(64) if Ept.XS in fake.hypervisor.ept.leaf(gfn)]
    assert set(low) == kept_frames(PLAN) - {CANARY}
    assert fake.hypervisor.ept.sealed
    assert fake.held
    assert bench.values() == AFTER
    # The next agent of this boot finds it so and has nothing to do.
    again = Bench(bench.folder, plans=[PLAN])
    assert again.lock(host_of(fake, fd)).state is State.SEALED
    assert again.status(host_of(fake)).state is State.SEALED


def test_a_host_that_enforces_nothing_is_found_out(bench: Bench, page: Callable[[bytes], int]) -> None:
    fake = FakeShim(Hypervisor(replace(OPTIONS, mbec=False)))  # as Heki v2: every request is granted
    error = bench.fails(host_of(fake, page(RETURNS)))
    assert error.status is Exit.NOT_ENFORCED
    assert not fake.held


@pytest.mark.parametrize("code", [FAULTS, RETURNS_7], ids=["denied", "no verdict"])
def test_a_host_that_denies_user_code_is_found_out(bench: Bench, page: Callable[[bytes], int], code: bytes) -> None:
    fake = FakeShim()
    assert bench.fails(host_of(fake, page(code))).status is Exit.NOT_ENFORCED
    assert not fake.hypervisor.ept.restricted
    assert not fake.held


def test_a_canary_denied_on_one_cpu_alone_is_no_proof(bench: Bench, page: Callable[[bytes], int]) -> None:
    fake = FakeShim(sights=[RAN, RAN, PF, RAN])
    assert bench.fails(host_of(fake, page(RETURNS))).status is Exit.NOT_ENFORCED
    assert not fake.hypervisor.ept.restricted


@pytest.mark.parametrize("number", [ENOMEM, EINVAL])
def test_a_shim_that_fails_at_any_call_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: Callable[[bytes], int], number: int
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _fd: None)
    fd, outcomes = page(RETURNS), set()
    for at in range(1, 40, 3):
        fake = FakeShim(room=99, errors=[0] * at + [number])
        bench = Bench(tmp_path / str(at), plans=[PLAN])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ShimDevice, "call_canary", lambda _self: device.CANARY_VALUE)
            try:
                sealed = bench.lock(host_of(fake, fd)).state is State.SEALED
            except UserError:
                sealed = fake.hypervisor.ept.sealed
                assert sealed or not (fake.hypervisor.ept.restricted or fake.held)
        outcomes.add(sealed)
    assert outcomes == {True, False}


def test_the_session_asks_the_shim_for_the_running_guest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = FakeShim()
    monkeypatch.setattr(shim, "open_device", lambda _path: device_of(fake))
    places = Places(tmp_path / "state", tmp_path / "cache")
    for choice in ("auto", "shim"):
        session = Session(load_settings(overrides=[f"lock.host={choice}"]), places)
        assert isinstance(session.host, ShimHost)
    recorded = Session(load_settings(overrides=["lock.host=shim"]), places, folder=tmp_path)
    assert "simulator" in fails(lambda: recorded.host).hint
    monkeypatch.undo()
    monkeypatch.setattr(os, "open", raising(ENOENT))
    missing = fails(lambda: Session(load_settings(), places).host)
    assert (missing.status, "--host simulator" in missing.hint) == (Exit.REFUSED, True)
