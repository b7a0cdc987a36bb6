# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent's state folder: the history of locks, and the journal of the transaction under way.

Reading makes nothing, not even the folder, and believes nothing that others could have written.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TextIO, TypeVar

from mbecguard.plan.value import Plan
from mbecguard.records.chain import Entry, Link
from mbecguard.records.damage import ASIDE, DamagedError, ForeignError, Loss, reading
from mbecguard.records.history import History
from mbecguard.records.ledger import Bounds, Ledger, Timed
from mbecguard.records.mend import Mender, faults, known
from mbecguard.records.record import Journal, Record
from mbecguard.values.codec import decode, encode
from mbecguard.values.errors import UserError, die
from mbecguard.values.files import read_own, replace_file, signed, unwritable, verified

OLD = "records.jsonl"  #: of mbecguard 0.1, see old.py

T = TypeVar("T", bound=Timed)


class Store(NamedTuple):
    """A state folder; made when something is written, mode 0700."""

    folder: Path
    bounds: Bounds = Bounds()

    @property
    def history(self) -> History:
        """What is kept of the locks that ended."""
        return History(self.folder)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the folder's lock; dies if another agent has it, or somebody else could write here."""
        with self.writing():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._require_trust()
        with self.writing():
            file = os.fdopen(_private(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_APPEND), "a+")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                die(f"another mbecguard is at work on this guest{_holder(file)}", "wait until it has finished")
            with self.writing():
                file.truncate(0)
                # Not buffered: on a full disk closing the file would try once more to write it, and fail.
                os.write(file.fileno(), str(os.getpid()).encode())
            yield

    def ledger(self, name: str, kind: type[Link[T]]) -> Ledger[T]:
        """A chain of other records in a folder of this one. Raises DamagedError if others could have written it."""
        self._require_trust()
        return Ledger(self.folder / name, kind)

    def last(self, boot_id: str) -> Entry | None:
        """The newest record of this boot; no other is read. Raises DamagedError if it cannot be believed."""
        self._require_trust()
        entry = self.history.newest_of(boot_id)
        if entry or not (found := self._old(boot_id)):
            return entry
        return found[0]

    def newest(self) -> Entry | None:
        """The newest record of any boot. Raises DamagedError if it cannot be believed."""
        self._require_trust()
        return self.history.newest()

    def plan(self, known: Record | Journal) -> Plan:
        """The plan that was noted or recorded. Raises DamagedError if it is gone or cannot be believed."""
        try:
            return self.history.plans.read(known.plan_digest)
        except DamagedError:
            found = self._old(known.boot_id)
            if found and found[1].digest == known.plan_digest:
                return found[1]
            raise

    def require_plan(self, record: Record) -> None:
        """Raises DamagedError if the plan that a record names is gone or cannot be believed."""
        try:
            self.history.plans.check(record.plan_digest)
        except DamagedError:
            self.plan(record)

    def append(self, record: Record, plan: Plan) -> Entry:
        """Add one record with the plan that it names, durably; what the bounds do not allow goes."""
        with self.writing():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            entry = self.history.append(record, plan, self.bounds)
            if self._may_have_old:
                from mbecguard.records.old import retire

                retire(self.folder)
        return entry

    def mend(self, boot_id: str) -> tuple[Loss, ...]:
        """Keep aside what a lock of this boot would stumble over; returns what was found. Under `exclusive`."""
        damaged = []
        for read in (self.journal, self._old):
            try:
                read(boot_id)
            except DamagedError as error:
                damaged.append(error)
        with self.writing():
            return Mender(self.history).mend(boot_id, damaged)

    def check(self, boot_id: str) -> tuple[Loss, ...]:
        """Look at the whole history, and keep aside what is damaged if that can be done. Returns what was found."""
        if not self.folder.exists():
            return ()
        self._require_trust()
        found = tuple(faults(self.history))
        with suppress(UserError):  # another one is at work, or nothing can be written: then it is only told
            if found:
                with self.exclusive(), self.writing():
                    return Mender(self.history).mend(boot_id, everything=True)
        return found

    def losses(self) -> tuple[Loss, ...]:
        """What was found damaged, and no person has looked at yet. Raises DamagedError."""
        return known(self.history)

    @property
    def aside(self) -> Path:
        """Where damaged things are kept."""
        return self.folder / ASIDE

    def journal(self, boot_id: str) -> Journal | None:
        """How far the last transaction of this boot came, None if it ended or there was none. Raises DamagedError."""
        self._require_trust()
        with reading(self._journal):
            try:
                data = verified(read_own(self._journal))
            except FileNotFoundError:
                return None
            del data["digest"]
            journal = decode(Journal, data)
        return journal if journal.boot_id == boot_id else None

    def note(self, journal: Journal | None, plan: Plan | None = None) -> None:
        """Remember how far the transaction is, with the plan that the journal names; None when it has ended."""
        with self.writing():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if journal:
                if plan:
                    self.history.keep(plan)
                replace_file(self._journal, signed(encode(journal)))
            else:
                self._forget()

    def _forget(self) -> None:
        """Remove the journal, and its plan if no record names it."""
        named = ""
        with suppress(FileNotFoundError, ValueError):
            named = verified(read_own(self._journal)).get("plan_digest") or ""
        self._journal.unlink(missing_ok=True)
        if named and self.history.plans.namer(named) is None:
            self.history.plans.drop(named)

    def paths(self, boot_id: str) -> tuple[Path, ...]:
        """The files on which the state of a boot rests; a change of what is known shows in their stamps."""
        return self.history.pointer(boot_id), self.history.chain.head_file, self._journal

    @property
    def _journal(self) -> Path:
        return self.folder / "journal.json"

    def _old(self, boot_id: str) -> tuple[Entry, Plan] | None:
        if not self._may_have_old:
            return None
        from mbecguard.records.old import read

        return read(self.folder, boot_id)

    @property
    def _may_have_old(self) -> bool:
        """Whether an earlier agent may have left something: no only if its file is known not to be there."""
        try:
            (self.folder / OLD).lstat()
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return True

    def _require_trust(self) -> None:
        """Raises DamagedError if the folder is none, or others than its user and root could write into it."""
        try:
            found = self.folder.stat()
        except FileNotFoundError:
            return
        except OSError as error:
            with reading(self.folder):
                raise error
        if not stat.S_ISDIR(found.st_mode):
            raise DamagedError(self.folder, "it is no folder")
        writers = stat.S_IWOTH | (0 if os.geteuid() else stat.S_IWGRP)  # a user's group may be the user's own
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & writers:
            raise ForeignError(self.folder, found)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """What goes wrong on the disk is told in words: dies."""
        try:
            yield
        except OSError as error:
            unwritable(self.folder, error)


def _private(path: Path, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _holder(lock: TextIO) -> str:
    """The process that holds the lock, for people; empty if it does not say."""
    import psutil

    lock.seek(0)
    text = lock.read(20)
    try:
        process = psutil.Process(int(text))
        age = time.time() - process.create_time()
    except (ValueError, psutil.Error):
        return ""
    return f": process {process.pid}, started {age:.0f} s ago"
