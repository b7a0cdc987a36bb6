# SPDX-License-Identifier: GPL-2.0-or-later
"""The service at boot: when it locks, when it must not, and what a crash, a full disk or a damaged file changes."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mbecguard import boot as boot_room
from mbecguard import cli
from mbecguard.audit.attempts import Attempt, BootFile, Boots
from mbecguard.audit.record import State
from mbecguard.audit.store import Store
from mbecguard.boot import Facts, objection
from mbecguard.errors import Exit, UserError
from mbecguard.events import Event
from mbecguard.host.base import HostMode, Outcome
from mbecguard.host.simulator import SimulatedHost
from mbecguard.learn.catalog import Catalog
from mbecguard.learn.files import MODULES, files
from mbecguard.learn.lessons import lessons
from tests.lockbench import BEFORE, ONE_WAY, Bench, GuestKnobs, WrappedHost
from tests.plans import BLOCKER, make_plan
from tests.servicebench import BOOTS, KERNEL, Boot
from tests.unit.test_lock_kill import FORK, die_now

NOTHING = "nothing to confirm: the service did not lock this boot, or it is confirmed already\n"
ATTEMPT = Attempt("last", "2026-01-02T03:04:05+00:00", "6.12.0-old", "enforce")
FACTS = Facts("enforce", "default", container=False, boot_id="this", attempt=None)


def fails(action: Callable[[], object]) -> UserError:
    with pytest.raises(UserError) as caught:
        action()
    return caught.value


def locked(boot: Boot) -> bool:
    return boot.session.status().state is State.SEALED


def untouched(boot: Boot) -> bool:
    answer = boot.host.query()
    return not (answer.restricted or answer.sealed or boot.host.modules_held or answer.generation)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (FACTS, None),
        (replace(FACTS, mode="audit"), None),
        (replace(FACTS, attempt=replace(ATTEMPT, confirmed="2026")), None),
        (replace(FACTS, attempt=replace(ATTEMPT, ended=True)), None),
        (replace(FACTS, attempt=replace(ATTEMPT, boot_id="this")), None),
        (replace(FACTS, attempt=ATTEMPT), "boot last was locked at 2026-01-02T03:04:05"),
        (replace(FACTS, attempt=replace(ATTEMPT, time="2099-01-01T00:00:00+00:00")), "never confirmed"),
        (replace(FACTS, mode="off", origin="kernel command line"), "switched off (lock.mode, by kernel command line)"),
        (replace(FACTS, container=True), "container"),
        (replace(FACTS, boot_id=""), "no id"),
        (replace(FACTS, unlisted=True), "does not say what this guest needs before an early lock"),
    ],
)
def test_the_decision(facts: Facts, reason: str | None) -> None:
    found = objection(facts)
    assert (found is None) == (reason is None)
    if found and reason:
        assert reason in found.reason
        assert found.hint


def test_boots_lock_one_after_the_other_if_each_is_confirmed(tmp_path: Path) -> None:
    for number in range(3):
        boot = Boot(tmp_path, number)
        boot.service.lock()
        assert locked(boot)
        attempt = boot.attempt
        assert attempt
        assert (attempt.boot_id, attempt.kernel, attempt.mode) == (BOOTS[number], KERNEL, "enforce")
        assert attempt.counts
        assert boot.service.confirm()
        assert boot.events()[-1] is Event.BOOT_CONFIRMED
        confirmed = boot.attempt
        assert confirmed
        assert not confirmed.counts
        assert replace(confirmed, confirmed=None) == attempt


def test_an_unconfirmed_boot_stops_every_later_one_until_it_is_rearmed(tmp_path: Path) -> None:
    Boot(tmp_path, 0).service.lock()
    first = Boot(tmp_path, 0).attempt
    for number in (1, 2):
        boot = Boot(tmp_path, number)
        error = fails(boot.service.lock)
        assert error.status is Exit.REFUSED
        assert BOOTS[0] in error.message
        assert first
        assert first.time in error.message
        assert "mbecguard rearm" in error.message
        assert untouched(boot)
        assert boot.events() == [Event.BOOT_NOT_LOCKED]
        status = boot.session.status()
        assert status.state is State.OPEN
        assert any(BOOTS[0] in reason and "did not lock this boot" in reason for reason in status.reasons)
        assert not boot.service.confirm()
        assert boot.attempt == first
    Boot(tmp_path, 2).service.rearm()
    boot = Boot(tmp_path, 3)
    boot.service.lock()
    assert locked(boot)


def test_an_early_lock_wants_a_list_of_what_to_load_before(tmp_path: Path) -> None:
    boot = Boot(tmp_path)
    error = fails(replace(boot.service, early=True).lock)
    assert (error.status, "--profile early" in (error.hint or "")) == (Exit.REFUSED, True)
    assert untouched(boot)
    assert any(MODULES in reason for reason in boot.session.status().reasons)
    (boot.bench.folder / "root" / MODULES).parent.mkdir(parents=True)
    (boot.bench.folder / "root" / MODULES).write_text(files(lessons((), Catalog(), "late"))[MODULES])
    assert MODULES in fails(replace(Boot(tmp_path).service, early=True).lock).message
    (boot.bench.folder / "root" / MODULES).write_text("xfs\n")
    replace(Boot(tmp_path).service, early=True).lock()
    assert locked(boot)


def test_a_reason_is_of_one_boot(tmp_path: Path) -> None:
    Boot(tmp_path, 0).service.lock()
    fails(Boot(tmp_path, 1).service.lock)
    assert Boot(tmp_path, 2).session.status().reasons == ()


def test_a_sealed_boot_says_so_and_counts_no_attempt(tmp_path: Path) -> None:
    boot = Boot(tmp_path)
    boot.bench.lock()  # by hand
    boot.service.lock()
    assert boot.attempt is None
    assert boot.events() == []
    assert len(Store(tmp_path / "state").records()) == 1
    Boot(tmp_path, 1).service.lock()
    assert locked(Boot(tmp_path, 1))


def test_a_second_start_of_the_unit_leaves_the_attempt_as_it_is(tmp_path: Path) -> None:
    Boot(tmp_path).service.lock()
    Boot(tmp_path).service.confirm()
    before = Boot(tmp_path).file.path.read_bytes()
    Boot(tmp_path).service.lock()
    assert Boot(tmp_path).file.path.read_bytes() == before


def test_a_boot_sealed_by_hand_is_no_matter_of_the_last_one(tmp_path: Path) -> None:
    Boot(tmp_path, 0).service.lock()
    boot = Boot(tmp_path, 1)
    boot.bench.lock()
    boot.service.lock()
    assert boot.attempt == Boot(tmp_path, 0).attempt
    assert fails(Boot(tmp_path, 2).service.lock).status is Exit.REFUSED


def test_a_lock_that_left_the_guest_alone_does_not_count(tmp_path: Path) -> None:
    refused = Boot(tmp_path, 0)
    refused.bench.plans = [make_plan(findings=(BLOCKER,))]
    error = fails(refused.service.lock)
    assert error.status is Exit.REFUSED
    attempt = refused.attempt
    assert attempt
    assert attempt.ended
    assert untouched(refused)
    reasons = refused.session.status().reasons
    assert any("blockers" in reason and "not locked: " not in reason for reason in reasons)
    Boot(tmp_path, 1).service.lock()
    assert locked(Boot(tmp_path, 1))


def test_a_host_without_mbec_does_not_count_but_is_no_lock_either(tmp_path: Path) -> None:
    boot = Boot(tmp_path, 0)
    boot.bench.options = replace(boot.bench.options, mbec=False)
    assert fails(boot.service.lock).status in (Exit.REFUSED, Exit.NOT_ENFORCED)
    assert boot.attempt
    assert boot.attempt.ended
    assert Event.BOOT_NOT_LOCKED in boot.events()


def test_a_host_that_cannot_be_reached_is_told_by_status_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot = Boot(tmp_path)

    def absent(_self: object) -> SimulatedHost:
        raise UserError("no host interface", "load the shim", Exit.REFUSED)

    monkeypatch.setattr(type(boot.session), "_simulator", absent)
    assert fails(boot.session.status).message == "no host interface"
    assert fails(boot.service.lock).status is Exit.REFUSED
    assert boot.attempt
    assert boot.attempt.ended
    status = boot.session.status()
    assert (status.state, status.host) == (State.OPEN, "none")
    assert status.reasons == ("the service did not lock this boot: no host interface",)


def test_switched_off_is_noted_and_counts_for_nothing(tmp_path: Path) -> None:
    boot = Boot(tmp_path, 0, options=("lock.mode=off",))
    error = fails(boot.service.lock)
    assert (error.status, boot.attempt, untouched(boot)) == (Exit.REFUSED, None, True)
    assert any("switched off" in reason for reason in boot.session.status().reasons)
    Boot(tmp_path, 1).service.lock()
    assert locked(Boot(tmp_path, 1))


def test_audit_mode_is_an_attempt_too(tmp_path: Path) -> None:
    boot = Boot(tmp_path, 0, options=("lock.mode=audit", "simulator.mode=audit"))
    boot.bench.options = replace(boot.bench.options, mode=HostMode.AUDIT)
    boot.service.lock()
    assert boot.session.status().state is State.APPLIED
    assert fails(Boot(tmp_path, 1).service.lock).status is Exit.REFUSED


@pytest.mark.parametrize("content", [b"", b"{}x", b'{"schema": "mbecguard.boot/2"}'])
def test_a_damaged_file_stops_the_lock_until_rearm_repairs_it(tmp_path: Path, content: bytes) -> None:
    Boot(tmp_path, 0).service.rearm()
    Boot(tmp_path, 0).file.path.write_bytes(content)
    boot = Boot(tmp_path, 0)
    error = fails(boot.service.lock)
    assert (error.status, untouched(boot)) == (Exit.REFUSED, True)
    assert "rearm" in error.hint
    assert boot.file.path.read_bytes() == content
    assert any("cannot be read" in reason for reason in boot.session.status().reasons)
    assert fails(boot.service.confirm).status is Exit.REFUSED
    boot.service.rearm()
    boot.service.lock()
    assert locked(boot)


def test_without_a_state_folder_nothing_is_locked(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    boot = Boot(tmp_path)
    error = fails(boot.service.lock)
    assert (error.status, untouched(boot)) == (Exit.REFUSED, True)
    assert "--state-dir" in error.hint


def test_a_health_check_of_blanks_is_none(tmp_path: Path) -> None:
    Boot(tmp_path).service.lock()
    assert Boot(tmp_path, options=("boot.health_check=  ",)).service.confirm()


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("/bin/false", "ended with status 1"),
        ("/bin/sh -c 'exit 7'", "ended with status 7"),
        ("/nonexistent/check", "cannot be run"),
        ("unbalanced '", "no command line"),
        ("sleep 5", "took more than"),
    ],
)
def test_a_health_check_that_fails_leaves_the_boot_unconfirmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, problem: str
) -> None:
    monkeypatch.setattr(boot_room, "HEALTH_SECONDS", 0.5)
    Boot(tmp_path).service.lock()
    boot = Boot(tmp_path, options=(f"boot.health_check={command}",))
    error = fails(boot.service.confirm)
    assert (error.status, boot.events()) == (Exit.REFUSED, [Event.BOOT_UNCONFIRMED])
    assert problem in error.message
    assert boot.attempt
    assert boot.attempt.counts
    assert locked(boot)


def test_a_health_check_that_succeeds(tmp_path: Path) -> None:
    Boot(tmp_path).service.lock()
    boot = Boot(tmp_path, options=(f"boot.health_check=/bin/sh -c 'test -d {tmp_path}'",))
    assert boot.service.confirm()


def test_a_relock_of_a_confirmed_boot_has_to_be_confirmed_again(tmp_path: Path) -> None:
    Boot(tmp_path).service.lock()
    Boot(tmp_path).service.confirm()
    (tmp_path / "host.json").unlink()  # the host lost the map
    Boot(tmp_path).service.lock()
    attempt = Boot(tmp_path).attempt
    assert attempt
    assert attempt.counts


def test_what_prepares_a_live_guest_comes_after_the_note(tmp_path: Path) -> None:
    boot = Boot(tmp_path)
    seen: list[tuple[int, Attempt | None]] = []

    class Live(type(boot.session)):  # type: ignore[misc]
        @property
        def guest(self) -> object:
            return replace(super().guest, live=True)

    fields = {name: getattr(boot.session, name) for name in ("settings", "places", "bench")}
    service = boot.service
    service.session = Live(**fields)
    service.prepare = lambda seconds: seen.append((seconds, boot.attempt))
    service.lock()
    assert [seconds for seconds, _ in seen] == [10]
    assert seen[0][1]
    assert seen[0][1].counts
    assert locked(boot)


def test_sigterm_ends_a_lock_as_any_failure_does(tmp_path: Path) -> None:
    boot = Boot(tmp_path)

    def tell(event: Event, _facts: dict[str, str]) -> None:
        if event is Event.APPLIED:
            os.kill(os.getpid(), signal.SIGTERM)

    service = boot.service
    service.tell = tell
    before = signal.getsignal(signal.SIGTERM)
    error = fails(service.lock)
    assert "SIGTERM" in error.message
    assert not boot.host.query().restricted
    assert boot.attempt
    assert boot.attempt.ended
    assert signal.getsignal(signal.SIGTERM) is before


CHANGES: tuple[tuple[type, str], ...] = (
    (BootFile, "write"),
    (Store, "note"),
    (Store, "append"),
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

    def _wrapped(self, inner: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: object) -> None:
            self.pass_by()
            inner(*arguments)

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
        shutil.copytree(folder, tmp_path / f"{point}-reset")
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
    assert (error.status, untouched(boot)) == (Exit.REFUSED, True)
    assert "make room" in error.hint
    assert Boots() == boot.file.read()


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Through the command line, with a guest whose facts are not even enough for a survey."""
    bare = tmp_path / "guest/proc"
    (bare / "sys/kernel/random").mkdir(parents=True)
    (bare / "sys/kernel/random/boot_id").write_text("boot 1\n")
    (bare / "sys/kernel/osrelease").write_text(KERNEL)
    (bare / "cpuinfo").write_text("address sizes\t: 40 bits physical, 48 bits virtual\n")
    places = ["--guest", str(tmp_path / "guest"), "--state-dir", str(tmp_path / "state")]

    def run(*command: str) -> tuple[int, str, str]:
        status = cli.main([*command, *places])
        return status, *capsys.readouterr()

    status, _, told = run("boot")
    assert status in (Exit.ERROR, Exit.REFUSED)
    assert "boot not locked: " in told
    assert run("boot", "--confirm")[:2] == (Exit.OK, NOTHING)
    status, said, _ = run("status")
    assert (status, "the service did not lock this boot" in said) == (Exit.REFUSED, True)
    status, said, told = run("rearm", "--json")
    assert (status, json.loads(said)) == (Exit.OK, {"attempt": None, "omission": None, "schema": "mbecguard.boot/1"})
    assert told == "mbecguard: rearmed: the next boot locks again\n"


def test_status_says_who_switched_locking_off(tmp_path: Path) -> None:
    assert not Boot(tmp_path).session.status().reasons
    (reason,) = Boot(tmp_path, options=("lock.mode=off",)).session.status().reasons
    assert reason == "locking is switched off: lock.mode is off (--set)"
