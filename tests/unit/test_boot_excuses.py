# SPDX-License-Identifier: GPL-2.0-or-later
"""Boots that nobody confirmed, and that say nothing against the next: shut down in order, or another machine's."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from mbecguard.guest.names import MACHINE_ID, VM_UUID
from mbecguard.service.boot import orderly
from mbecguard.service.decision import EXCUSES
from mbecguard.values.errors import Exit
from mbecguard.values.events import Event
from tests.servicebench import BOOTS, BenchSession, Boot, fails, locked, untouched


def leave(boot: Boot, *, in_order: bool = True) -> bool:
    return replace(boot.service, orderly=lambda: in_order).leave()


def machine(boot: Boot, machine_id: str, uuid: str = "") -> Boot:
    for path, text in ((MACHINE_ID, machine_id * 32), (VM_UUID, uuid)):
        file = boot.bench.folder / "root" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    return boot


def test_a_boot_that_was_shut_down_in_order_stops_no_later_one(tmp_path: Path) -> None:
    Boot(tmp_path, 0).service.lock()
    assert leave(Boot(tmp_path, 0))
    boot = Boot(tmp_path, 1)
    boot.service.lock()
    assert locked(boot)
    assert boot.told[0][0] is Event.BOOT_EXCUSED
    assert boot.told[0][1]["boot"] == BOOTS[0]
    assert "shut down in order" in boot.told[0][1]["excuse"]
    assert boot.service.confirm()


def test_a_crash_still_counts_and_so_does_a_shutdown_with_a_failed_unit(tmp_path: Path) -> None:
    Boot(tmp_path, 0).service.lock()
    assert not leave(Boot(tmp_path, 0), in_order=False)
    boot = Boot(tmp_path, 1)
    assert fails(boot.service.lock).status is Exit.REFUSED
    assert untouched(boot)


def test_nothing_is_noted_of_a_boot_that_was_confirmed_or_is_another(tmp_path: Path) -> None:
    assert not leave(Boot(tmp_path, 0))
    Boot(tmp_path, 0).service.lock()
    before = Boot(tmp_path).file.path.read_bytes()
    assert not leave(Boot(tmp_path, 1))
    assert Boot(tmp_path).file.path.read_bytes() == before
    Boot(tmp_path, 0).service.confirm()
    confirmed = Boot(tmp_path).file.path.read_bytes()
    assert not leave(Boot(tmp_path, 0))
    assert Boot(tmp_path).file.path.read_bytes() == confirmed


def test_excuses_come_to_an_end_and_a_good_boot_renews_them(tmp_path: Path) -> None:
    """As with a service that the lock broke, and that has the machine restarted (FailureAction=reboot)."""
    for number in range(EXCUSES + 1):
        Boot(tmp_path, number).service.lock()
        assert leave(Boot(tmp_path, number))
    error = fails(Boot(tmp_path, EXCUSES + 1).service.lock)
    assert (error.status, f"nor were the {EXCUSES} before it" in error.message) == (Exit.REFUSED, True)
    Boot(tmp_path, 5).service.rearm()
    Boot(tmp_path, 5).service.lock()
    leave(Boot(tmp_path, 5))
    Boot(tmp_path, 6).service.lock()
    assert Boot(tmp_path, 6).service.confirm()
    Boot(tmp_path, 7).service.lock()
    attempt = Boot(tmp_path, 7).attempt
    assert attempt
    assert attempt.excused == 0


def test_after_a_soft_reboot_the_boot_goes_on_and_its_crash_counts(tmp_path: Path) -> None:
    Boot(tmp_path, 0).service.lock()
    assert leave(Boot(tmp_path, 0))
    Boot(tmp_path, 0).service.lock()  # the unit is started again, in the same boot of the kernel
    attempt = Boot(tmp_path, 0).attempt
    assert attempt
    assert (attempt.left, attempt.counts) == (None, True)
    assert fails(Boot(tmp_path, 1).service.lock).status is Exit.REFUSED


UUIDS = ("11111111-2222-3333-4444-555555555555", "99999999-2222-3333-4444-555555555555")


@pytest.mark.parametrize(
    ("before", "after", "excused"),
    [
        (("a",), ("b",), True),
        (("a", UUIDS[0]), ("a", UUIDS[1]), True),  # an image that was not cleaned
        (("a", UUIDS[0]), ("a", UUIDS[0]), False),
        (("a",), ("",), False),  # nobody knows
    ],
)
def test_what_another_machine_noted_is_ignored_and_said(
    tmp_path: Path, before: tuple[str, ...], after: tuple[str, ...], excused: bool
) -> None:
    machine(Boot(tmp_path, 0), *before).service.lock()
    boot = machine(Boot(tmp_path, 1), *after)
    if not excused:
        assert fails(boot.service.lock).status is Exit.REFUSED
        return
    boot.service.lock()
    assert locked(boot)
    assert boot.told[0][0] is Event.BOOT_EXCUSED
    assert "another machine" in boot.told[0][1]["excuse"]


def test_a_machine_that_is_another_at_every_boot_does_not_go_on_for_ever(tmp_path: Path) -> None:
    """No /etc/machine-id that stays, and a lock that kills: each boot would excuse the one before."""
    for number in range(EXCUSES + 1):
        machine(Boot(tmp_path, number), f"{number}").service.lock()
    assert fails(machine(Boot(tmp_path, 8), "8").service.lock).status is Exit.REFUSED


@pytest.mark.parametrize(("kind", "may"), [("tmpfs", False), ("ext4", True)])
def test_where_the_count_is_lost_nothing_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, may: bool
) -> None:
    boot = Boot(tmp_path)
    mounts = boot.session.guest.tree.root / "proc/self/mountinfo"
    mounts.parent.mkdir()
    mounts.write_text(f"22 1 0:30 / / rw - {kind} /dev/root rw\n")
    monkeypatch.setattr(BenchSession, "real", True)
    if may:
        boot.service.lock()
        assert locked(boot)
        return
    error = fails(boot.service.lock)
    assert (error.status, "no place for the count of boots" in error.message) == (Exit.REFUSED, True)
    assert untouched(boot)
    assert boot.attempt is None


#: What it says of: itself, the end of timers.target, and when each failed unit failed.
@pytest.mark.parametrize(
    ("state", "began", "failures", "answer"),
    [
        ("stopping", "700", "", True),
        ("stopping", "700", "800\\n\\n700", True),  # told to end while they were starting
        ("stopping", "700", "800\\n\\n600", False),
        ("running", "700", "", False),  # the unit alone was stopped
        ("maintenance", "700", "", False),
        ("stopping", "0", "", False),
        ("stopping", "", "", False),
        ("stopping", "odd", "", False),
    ],
)
def test_systemd_is_asked_whether_it_is_a_shutdown(
    state: str, began: str, failures: str, answer: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "systemctl"
    cases = f"*failed*) printf '{failures}' ;; *timers*) echo '{began}' ;; *SystemState*) echo {state} ;;"
    program.write_text(f'#!/bin/sh\ncase "$*" in {cases} esac\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert orderly() is answer


def test_without_systemd_nothing_is_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("systemctl", 1)

    with monkeypatch.context() as patch:
        patch.setenv("PATH", "/nonexistent")
        assert not orderly()
    monkeypatch.setattr(subprocess, "run", late)
    assert not orderly()
