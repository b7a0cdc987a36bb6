# SPDX-License-Identifier: GPL-2.0-or-later
"""The service at boot: when it locks, when it must not, and what a crash, a full disk or a damaged file changes."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from mbecguard.face import cli
from mbecguard.host.base import HostMode
from mbecguard.host.simulated.host import SimulatedHost
from mbecguard.learn.catalog import Catalog
from mbecguard.learn.files import MODULES, files
from mbecguard.learn.lessons import lessons
from mbecguard.records.boots import Attempt
from mbecguard.records.reasons import reason
from mbecguard.records.record import State
from mbecguard.records.store import Store
from mbecguard.service.boot import Service
from mbecguard.service.decision import EXCUSES, Facts, objection
from mbecguard.settings.load import Problem
from mbecguard.values.errors import Exit, UserError
from mbecguard.values.events import Event
from tests.lockbench import AFTER
from tests.plans import BLOCKER, kept, make_plan
from tests.servicebench import BOOTS, KERNEL, NOTHING, Boot, fails, locked, untouched
from tests.unit.test_lock_ending import NoOneWay

ATTEMPT = Attempt("last", "2026-01-02T03:04:05+00:00", "6.12.0-old", "enforce")
FACTS = Facts("enforce", "default", container=False, boot_id="this", attempt=None)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (FACTS, None),
        (replace(FACTS, mode="audit"), None),
        (replace(FACTS, attempt=ATTEMPT._replace(confirmed="2026")), None),
        (replace(FACTS, attempt=ATTEMPT._replace(ended=True)), None),
        (replace(FACTS, attempt=ATTEMPT._replace(boot_id="this")), None),
        (replace(FACTS, attempt=ATTEMPT), "boot last was locked at 2026-01-02T03:04:05"),
        (replace(FACTS, attempt=ATTEMPT._replace(time="2099-01-01T00:00:00+00:00")), "never confirmed"),
        (replace(FACTS, mode="off", origin="kernel command line"), "switched off (lock.mode, by kernel command line)"),
        (replace(FACTS, container=True), "container"),
        (replace(FACTS, boot_id=""), "no id"),
        (replace(FACTS, unlisted=True), "does not say what this guest needs before an early lock"),
        (replace(FACTS, volatile="/x is on tmpfs"), "no place for the count of boots: /x is on tmpfs"),
        (replace(FACTS, attempt=ATTEMPT._replace(left="2026")), None),
        (replace(FACTS, attempt=ATTEMPT._replace(left="2026", excused=EXCUSES)), "nor were the 3 before it"),
        (replace(FACTS, attempt=ATTEMPT._replace(machine_id="a"), machine_id="b"), None),
        (replace(FACTS, attempt=ATTEMPT._replace(machine_id="a"), machine_id="a"), "never confirmed"),
        (replace(FACTS, attempt=ATTEMPT, machine_id="a", vm_uuid="u"), "never confirmed"),
        (replace(FACTS, attempt=ATTEMPT._replace(machine_id="a", vm_uuid="U")), "never confirmed"),
        (replace(FACTS, attempt=ATTEMPT._replace(machine_id="a", vm_uuid="u"), machine_id="a", vm_uuid="v"), None),
        (replace(FACTS, attempt=ATTEMPT._replace(vm_uuid="U"), vm_uuid="u"), "never confirmed"),
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
        assert confirmed._replace(confirmed=None) == attempt


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
        assert any(BOOTS[0] in reason.text and "did not lock this boot" in reason.text for reason in status.reasons)
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
    assert any(MODULES in reason.text for reason in boot.session.status().reasons)
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
    assert len(kept(Store(tmp_path / "state"))) == 1
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
    assert any("blockers" in reason.text and "not locked: " not in reason.text for reason in reasons)
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
    answers = [
        UserError("may not be opened", "run as root"),
        *[UserError("no host interface", "load", Exit.REFUSED)] * 9,
    ]

    def absent(_self: object) -> SimulatedHost:
        raise answers.pop(0)

    monkeypatch.setattr(type(boot.session), "_simulator", absent)
    assert fails(boot.session.status).message == "may not be opened"  # nothing is known, then
    status = boot.session.status()
    assert (status.state, status.host, status.exit) == (State.OPEN, "none", Exit.OPEN)
    assert [(reason.id, reason.text, reason.hint) for reason in status.reasons] == [
        ("host-unusable", "no host interface", "load")
    ]
    assert fails(boot.service.lock).status is Exit.REFUSED
    assert boot.attempt
    assert boot.attempt.ended
    status = boot.session.status()
    assert (status.state, status.host) == (State.OPEN, "none")
    assert [str(reason) for reason in status.reasons] == ["the service did not lock this boot: no host interface"]


def test_switched_off_is_noted_and_counts_for_nothing(tmp_path: Path) -> None:
    boot = Boot(tmp_path, 0, options=("lock.mode=off",))
    error = fails(boot.service.lock)
    assert (error.status, boot.attempt, untouched(boot)) == (Exit.REFUSED, None, True)
    assert any("switched off" in reason.text for reason in boot.session.status().reasons)
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
    assert any("cannot be read" in reason.text for reason in boot.session.status().reasons)
    assert fails(boot.service.confirm).status is Exit.REFUSED
    boot.service.rearm()
    boot.service.lock()
    assert locked(boot)


def test_without_a_state_folder_nothing_is_locked(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    boot = Boot(tmp_path)
    error = fails(boot.service.lock)
    assert (error.status, untouched(boot)) == (Exit.ERROR, True)
    assert "--state-dir" in error.hint


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


def test_the_unit_started_again_sets_a_switch_that_was_refused(tmp_path: Path) -> None:
    boot = Boot(tmp_path)
    boot.bench.knobs = NoOneWay(boot.bench.knobs.root)
    boot.service.lock()
    assert {why.id for why in boot.session.status().reasons} == {"switch-refused"}
    again = Boot(tmp_path)
    again.service.lock()
    assert not again.session.status().reasons
    assert again.bench.values() == AFTER


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
    assert (status, "the service did not lock this boot" in said) == (Exit.OPEN, True)
    status, said, told = run("rearm", "--json")
    assert (status, json.loads(said)) == (Exit.OK, {"attempt": None, "omission": None, "schema": "mbecguard.boot/1"})
    assert told == "mbecguard: rearmed: the next boot locks again\n"


def test_wrong_settings_are_no_lock_and_no_confirmation(tmp_path: Path) -> None:
    """The line that cannot be read may be the policy, or the health check."""
    first, wrong = Boot(tmp_path), (Problem("50.toml is not TOML", "mend it"),)

    def service() -> Service:
        session = first.session
        return Service(replace(session, settings=session.settings._replace(problems=wrong)), first.tell)

    error = fails(service().lock)
    assert (error.status, error.message, error.hint) == (Exit.ERROR, "50.toml is not TOML", "mend it")
    assert untouched(first)
    assert (first.attempt, first.events()) == (None, [Event.BOOT_NOT_LOCKED])
    first.service.lock()
    error = fails(service().confirm)
    assert (error.status, error.hint, first.events()[-1]) == (Exit.ERROR, "mend it", Event.BOOT_UNCONFIRMED)
    assert first.attempt
    assert first.attempt.counts
    assert first.service.confirm()


def test_a_sealed_guest_with_wrong_settings_is_sealed(tmp_path: Path) -> None:
    boot = Boot(tmp_path)
    boot.service.lock()
    session = boot.session
    wrong = replace(session, settings=session.settings._replace(problems=(Problem("50.toml is not TOML", "mend it"),)))
    status = wrong.status()
    assert status.state is State.SEALED
    assert status.reasons[-1] == reason("settings-wrong", problem="50.toml is not TOML", advice="mend it")
    assert kept(wrong.store)[-1].state is State.SEALED


def test_status_says_who_switched_locking_off(tmp_path: Path) -> None:
    assert not Boot(tmp_path).session.status().reasons
    (reason,) = Boot(tmp_path, options=("lock.mode=off",)).session.status().reasons
    assert str(reason) == "locking is switched off: lock.mode is off (--set)"
