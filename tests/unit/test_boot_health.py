# SPDX-License-Identifier: GPL-2.0-or-later
"""A boot is good when its health check says so, and what prepares a guest for the lock."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mbecguard.records.boots import Attempt
from mbecguard.service import boot as boot_room
from mbecguard.service.boot import Service
from mbecguard.values.errors import Exit
from mbecguard.values.events import Event
from tests.servicebench import Boot, fails, locked, untouched


def test_what_a_health_check_says_is_no_answer_of_ours(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Boot(tmp_path).service.lock()
    assert Boot(tmp_path, options=("boot.health_check=echo all is well",)).service.confirm()
    assert capfd.readouterr() == ("", "all is well\n")


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
            return super().guest._replace(live=True)

    fields = {name: getattr(boot.session, name) for name in ("settings", "places", "bench")}
    service = boot.service
    service.session = Live(**fields)
    service.prepare = lambda seconds: seen.append((seconds, boot.attempt))
    service.lock()
    assert [seconds for seconds, _ in seen] == [10]
    assert seen[0][1]
    assert seen[0][1].counts
    assert locked(boot)


def live(boot: Boot, prepare: Callable[[int], None]) -> Service:
    """The service of a guest that runs."""

    class Live(type(boot.session)):  # type: ignore[misc]
        @property
        def guest(self) -> object:
            return super().guest._replace(live=True)

    fields = {name: getattr(boot.session, name) for name in ("settings", "places", "bench")}
    return Service(Live(**fields), boot.tell, prepare)


def test_sigterm_while_the_guest_is_prepared_ends_the_attempt(tmp_path: Path) -> None:
    boot = Boot(tmp_path)

    def prepare(_seconds: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal has to end it here")

    error = fails(live(boot, prepare).lock)
    assert error.message == "stopped by SIGTERM"
    assert boot.attempt
    assert boot.attempt.ended
    assert untouched(boot)
    assert any("stopped by SIGTERM" in why.text for why in boot.session.status().reasons)


def test_programs_that_cannot_be_run_end_no_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (FileNotFoundError, PermissionError, MemoryError):
        told: list[object] = []

        def run(command: object, told: list[object] = told, error: type[Exception] = error, **_: object) -> None:
            told.append(command)
            raise OSError(errno.ENOMEM, "x") if error is MemoryError else error

        monkeypatch.setattr("subprocess.run", run)
        monkeypatch.setattr(boot_room, "present", lambda _exists: False)
        boot_room.prepare(1)
        assert len(told) == 2


def test_a_health_check_that_takes_too_long_goes_with_all_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boot_room, "HEALTH_SECONDS", 0.5)
    Boot(tmp_path).service.lock()
    command = f"/bin/sh -c 'sleep 60 & echo $! > {tmp_path}/child; wait'"
    assert "took more than" in fails(Boot(tmp_path, options=(f"boot.health_check={command}",)).service.confirm).message
    child = Path("/proc") / (tmp_path / "child").read_text().strip() / "stat"
    for _ in range(100):
        if not child.exists() or child.read_text().split()[2] == "Z":
            break
        time.sleep(0.02)
    else:
        raise AssertionError("still there")
