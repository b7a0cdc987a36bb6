# SPDX-License-Identifier: GPL-2.0-or-later
"""What the service does at boot: decide whether to lock, note the attempt durably, lock.

An attempt that nobody confirmed means that the guest may not have survived its lock: no boot locks from then on, until
an administrator rearms. Therefore the attempt is on the disk before anything is changed, and before the shim is loaded.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

from mbecguard.device import DEVICE
from mbecguard.guest.tree import present
from mbecguard.learn.files import MODULES, listed_for
from mbecguard.lock.ending import NOT_LOCKED
from mbecguard.lock.stop import Stop, StoppedError
from mbecguard.records.boots import REASON_LIMIT, Attempt, BootFile, Boots, Omission
from mbecguard.records.identity import identify
from mbecguard.records.record import State
from mbecguard.records.status import Status
from mbecguard.service.decision import Facts, excuse, objection
from mbecguard.session import Session
from mbecguard.values.clock import now
from mbecguard.values.errors import Exit, UserError, die
from mbecguard.values.events import Event, Tell

CONTAINER = Path("/run/systemd/container")  #: written by the systemd of a container
SHIM = "mbecguard_shim"
HEALTH_SECONDS = 120.0
SYSTEMD_SECONDS = 10.0
STDERR = 2


def _lacks_a_switch(sealed: Status) -> bool:
    """Whether the kernel refused one that nobody can take back, when the seal held already."""
    return any(reason.id == "switch-refused" for reason in sealed.reasons)


def prepare(settings_wait: int) -> None:
    """Wait until udev has loaded what it will, then load the shim; a lock without it is refused with a hint."""
    _try(["udevadm", "settle", f"--timeout={settings_wait}"])
    if not present(DEVICE.exists):
        _try(["modprobe", "--quiet", SHIM])


def _try(command: list[str]) -> None:
    with suppress(OSError):  # the lock tells what is missing
        subprocess.run(command, check=False, stdin=subprocess.DEVNULL)


def orderly() -> bool:
    """Whether systemd shuts this machine down, and no unit had failed when it began to.

    A failed unit may be what the lock broke, and the reason for the reboot (FailureAction=, greenboot). What fails
    later was told to end while it was starting.
    """
    try:
        if _shown("SystemState") != ["stopping"]:
            return False
        # No process belongs to it, and nothing is ordered after it: it ends at once.
        began = max(map(int, _shown("ActiveExitTimestampMonotonic", "timers.target")), default=0)
        failures = map(int, _shown("InactiveEnterTimestampMonotonic", "--state=failed", "*"))
        return began > 0 and all(time >= began for time in failures)
    except (OSError, ValueError, subprocess.SubprocessError):
        return False


def _shown(what: str, *units: str) -> list[str]:
    """A property of systemd's, or of each of these units."""
    command = ["systemctl", "show", "--value", f"--property={what}", *units]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=SYSTEMD_SECONDS).stdout.split()


@dataclass(slots=True)
class Service:
    """The commands of the service, for one guest at one boot."""

    session: Session
    tell: Tell
    prepare: Callable[[int], None] = prepare
    orderly: Callable[[], bool] = orderly
    early: bool = False  #: before ordinary services: only if a list says what they will need
    _stop: Stop = field(default_factory=Stop, init=False)

    def lock(self) -> None:
        """Lock this boot, or complete its lock. Dies with the reason if that is not to be, or fails."""
        with self._stop, self._file.exclusive():
            sealed = self._sealed()
            self._goes_on()
            if not sealed:
                self._attempt()
            elif sealed.state is not State.SEALED or sealed.interrupted or _lacks_a_switch(sealed):
                self.session.transaction(self.tell).run()

    def confirm(self) -> bool:
        """Note that this boot is good; False if there is nothing to confirm. Dies if its health check fails."""
        with self._file.exclusive():
            boots = self._file.read()
            attempt = boots.attempt
            if not attempt or attempt.boot_id != self.session.guest.boot_id or not attempt.counts:
                return False
            self._check_health()
            self._file.write(boots._replace(attempt=attempt._replace(confirmed=now())))
        self._say(Event.BOOT_CONFIRMED)
        return True

    def leave(self) -> bool:
        """Note that this boot is shut down in order, if it is, and nobody has confirmed it."""
        with self._file.exclusive():
            boots = self._file.read()
            attempt = boots.attempt
            ours = attempt and attempt.counts and attempt.boot_id == self.session.guest.boot_id
            if not attempt or not ours or not self.orderly():
                return False
            self._file.write(boots._replace(attempt=attempt._replace(left=now())))
        return True

    def rearm(self) -> None:
        """Forget the newest attempt, whatever the file is like."""
        with self._file.exclusive():
            self._file.write(Boots())
        self._say(Event.REARMED)

    def _say(self, event: Event, **facts: str) -> None:
        with suppress(OSError):  # a dead journal decides nothing
            self.tell(event, facts)

    @property
    def _file(self) -> BootFile:
        return self.session.boot_file

    def _sealed(self) -> Status | None:
        """The status of a boot that is sealed already; a host that does not answer is judged by the lock."""
        with suppress(UserError):
            status = self.session.status()
            if status.state is State.SEALED or self.session.host.query().sealed:
                return status
        return None

    def _goes_on(self) -> None:
        """After a soft reboot the boot that was left is this one."""
        with suppress(UserError):  # whoever needs the file says so
            boots = self._file.read()
            attempt = boots.attempt
            if attempt and attempt.left and attempt.boot_id == self.session.guest.boot_id:
                self._file.write(boots._replace(attempt=attempt._replace(left=None)))

    def _attempt(self) -> None:
        try:
            attempt = self._note()
        except UserError as error:
            self._omit(None, error)
        try:
            self._prepare()
            transaction = self.session.transaction(self.tell)
            self._stop.check()
        except UserError as error:
            self._omit(attempt._replace(ended=True), error)
        except StoppedError as stopped:
            self._omit(attempt._replace(ended=True), stopped.error)
        try:
            transaction.run()
        except UserError as error:
            if not transaction.undone:
                raise
            self._omit(attempt._replace(ended=True), error)

    def _note(self) -> Attempt:
        guest, settings = self.session.guest, self.session.settings
        facts = self._facts()
        if no := objection(facts):
            die(f"{NOT_LOCKED}{no.reason}", no.hint, Exit.REFUSED)
        settings.clean()
        excused, last = excuse(facts), facts.attempt
        if excused and last:
            self._say(Event.BOOT_EXCUSED, boot=last.boot_id, excuse=excused)
        attempt = Attempt(
            guest.boot_id,
            now(),
            guest.release,
            facts.mode,
            machine_id=facts.machine_id,
            vm_uuid=facts.vm_uuid,
            excused=last.excused + 1 if excused and last else 0,
        )
        self._file.write(Boots(attempt))
        return attempt

    def _facts(self) -> Facts:
        guest, settings = self.session.guest, self.session.settings
        machine = identify(guest)
        return Facts(
            mode=settings.text("lock.mode"),
            origin=settings.origin("lock.mode"),
            container=guest.live and present(CONTAINER.exists),
            boot_id=guest.boot_id,
            attempt=self._file.read().attempt,
            unlisted=self.early and not listed_for("early", guest.tree.text(MODULES) or ""),
            volatile=self.session.volatile,
            machine_id=machine.machine_id,
            vm_uuid=machine.vm_uuid,
        )

    def _prepare(self) -> None:
        if self.session.guest.live:
            with self._stop.interrupted():
                self.prepare(self.session.settings.number("boot.settle"))
            self.session = replace(self.session)  # the guest is another one with the shim

    def _omit(self, ended: Attempt | None, error: UserError) -> NoReturn:
        """Note why this boot is not locked, tell it, and die of it."""
        reason = error.message.removeprefix(NOT_LOCKED)
        with suppress(UserError):  # of a file that is damaged or cannot be written, nothing is lost
            attempt = ended or self._file.read().attempt
            self._file.write(Boots(attempt, Omission(self.session.guest.boot_id, now(), reason[:REASON_LIMIT])))
        self._say(Event.BOOT_NOT_LOCKED, reason=reason)
        raise error

    def _check_health(self) -> None:
        settings = self.session.settings
        if wrong := settings.problems:  # perhaps in the line that names the check
            self._unconfirmed(wrong[0].message, wrong[0].hint, Exit.ERROR)
        command = settings.text("boot.health_check").strip()
        if command and (problem := _problem(command)):
            self._unconfirmed(f"the health check {command!r} {problem}", "the next boot will not lock", Exit.REFUSED)

    def _unconfirmed(self, reason: str, hint: str, status: Exit) -> NoReturn:
        self._say(Event.BOOT_UNCONFIRMED, reason=reason)
        die(f"this boot is not confirmed: {reason}", hint, status)


def _problem(command: str) -> str:
    """How a command failed; empty if it did not."""
    try:
        # What it says belongs on stderr: stdout is for our answer.
        process = subprocess.Popen(
            shlex.split(command), stdin=subprocess.DEVNULL, stdout=STDERR, start_new_session=True
        )
    except ValueError as error:
        return f"is no command line: {error}"
    except OSError as error:
        return f"cannot be run: {error.strerror}"
    try:
        status = process.wait(HEALTH_SECONDS)
    except BaseException as error:
        with suppress(ProcessLookupError):  # what it started goes with it
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            return f"took more than {HEALTH_SECONDS:.0f} s"
        raise
    return f"ended with status {status}" if status else ""
