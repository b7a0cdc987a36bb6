# SPDX-License-Identifier: GPL-2.0-or-later
"""The service at boot, killed at every step and with a disk that fills up at every write."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from mbecguard.host.base import Outcome
from mbecguard.host.simulated.host import SimulatedHost
from mbecguard.records.boots import BootFile, Boots
from mbecguard.records.history import History
from mbecguard.records.plans import Plans
from mbecguard.records.record import State
from mbecguard.records.store import Store
from mbecguard.values.errors import Exit, UserError
from tests.lockbench import BEFORE, ONE_WAY, Bench, GuestKnobs, WrappedHost
from tests.servicebench import Boot, fails, locked, untouched
from tests.unit.test_lock_kill import FORK, die_now

CHANGES: tuple[tuple[type, str], ...] = (
    (BootFile, "write"),
    (Store, "note"),
    (Store, "append"),
    (Plans, "keep"),
    (Plans, "name"),
    (History, "tie"),
    (History, "write"),
    (SimulatedHost, "hold_modules"),
    (SimulatedHost, "protect"),
    (SimulatedHost, "pin"),
    (GuestKnobs, "put"),
)


class Points:
    """Fault points: before everything that changes the disk, the host or the guest."""

    def __init__(self, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = at
        for owner, name in CHANGES:
            monkeypatch.setattr(owner, name, self._wrapped(getattr(owner, name)))

    def pass_by(self) -> None:
        if self.left == 0:
            die_now()
        self.left -= 1

    def _wrapped(self, inner: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            self.pass_by()
            return inner(*arguments)

        return call


def killed_at(folder: Path, point: int) -> bool:
    """An agent that is killed at a fault point; False if it came to its end before."""

    def agent() -> None:
        with pytest.MonkeyPatch.context() as patch:
            points = Points(point, patch)
            Boot(folder).service.lock()
            points.pass_by()

    process = FORK.Process(target=agent)
    process.start()
    process.join(timeout=20)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def test_killed_anywhere(tmp_path: Path) -> None:
    outcomes = set()
    for point in range(100):
        folder = tmp_path / str(point)
        folder.mkdir()
        if not killed_at(folder, point):
            break
        shutil.copytree(folder, tmp_path / f"{point}-reset", symlinks=True)
        outcomes.add(next_boot(tmp_path / f"{point}-reset"))
        same_boot(folder)
    assert point > 20
    assert outcomes == {(False, False), (False, True), (True, True)}


def next_boot(folder: Path) -> tuple[bool, bool]:
    """The guest is reset: its next boot locks only if it was never touched."""
    touched, noted = not untouched(Boot(folder, 0)), Boot(folder, 0).attempt is not None
    assert noted or not touched
    following = Boot(folder, 1)
    if noted:
        assert fails(following.service.lock).status is Exit.REFUSED
        assert untouched(following)
    else:
        following.service.lock()
        assert locked(following)
    return touched, noted


def same_boot(folder: Path) -> None:
    """The unit is started again in the same boot: it completes the lock, which has to be confirmed."""
    Boot(folder).service.lock()
    status = Boot(folder).session.status()
    assert (status.state, status.interrupted) == (State.SEALED, None)
    attempt = Boot(folder).attempt
    assert attempt
    assert attempt.counts
    assert Boot(folder).service.confirm()


def full_from(monkeypatch: pytest.MonkeyPatch, left: int) -> None:
    """From the n-th sync of a file on, the disk is full: only what overwrites a file in place succeeds."""
    fsync, before = os.fsync, [left]

    def sync(fd: int) -> None:
        if Path(f"/proc/self/fd/{fd}").readlink().name != "boot.json":
            before[0] -= 1
            if before[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", sync)


def test_a_disk_that_fills_up_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seals = []
    for left in range(100):
        folder = tmp_path / str(left)
        Boot(folder).service.rearm()  # the file is there
        boot = Boot(folder)
        with monkeypatch.context() as patch:
            full_from(patch, left)
            try:
                boot.service.lock()
                break
            except UserError as caught:
                error = caught
            sealed = boot.host.query().sealed
            status = boot.session.status()
        assert "No space left" in error.message
        assert "make room" in error.hint
        seals.append(sealed)
        attempt = boot.attempt
        assert attempt
        if sealed:
            assert error.message.startswith("the guest is sealed, but: ")
            assert "mbecguard lock" in error.hint
            assert status.state is State.SEALED
            assert attempt.counts
        else:
            assert error.message.startswith("not locked: ")
            assert status.state is State.OPEN
            assert attempt.ended
            assert not boot.host.query().restricted
            assert not boot.host.modules_held
            values = boot.bench.values()
            assert all(values[knob] == BEFORE[knob] for knob in BEFORE if knob not in ONE_WAY)
        Boot(folder).service.lock()  # there is room again
        status = Boot(folder).session.status()
        assert (status.state, status.interrupted) == (State.SEALED, None)
    else:
        raise AssertionError("the lock never came to its end")
    assert seals == sorted(seals)
    assert set(seals) == {False, True}


class Unenforced(WrappedHost):
    """A host that stops to enforce when it has sealed."""

    def run_canary(self) -> Outcome:
        return Outcome.RAN if self.inner.query().sealed else self.inner.run_canary()


def test_a_full_disk_hides_no_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seals = 0
    for left in range(30):
        bench = Bench(tmp_path / str(left))
        with monkeypatch.context() as patch:
            full_from(patch, left)
            error = bench.fails(Unenforced(bench.host))
        if bench.host.query().sealed:
            seals += 1
            assert error.status is Exit.NOT_ENFORCED
    assert 0 < seals < 30


def test_a_full_disk_and_no_file_yet_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boot = Boot(tmp_path)
    full_from(monkeypatch, 0)
    error = fails(boot.service.lock)
    assert (error.status, untouched(boot)) == (Exit.ERROR, True)
    assert "make room" in error.hint
    assert Boots() == boot.file.read()
