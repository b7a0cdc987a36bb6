# SPDX-License-Identifier: GPL-2.0-or-later
"""Boot counting on disk: the newest lock that the service began, and why it did not lock the newest boot.

One file of fixed size, overwritten in place: once it exists, a full disk cannot keep an attempt from being noted.
Boot ids decide; times are for people.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from mbecguard.values.codec import canonical, decode, encode
from mbecguard.values.errors import Exit, die, plainly
from mbecguard.values.files import replace_file, sync_folder, unwritable

SCHEMA = "mbecguard.boot/1"
SIZE = 4096  #: bytes of the file
REASON_LIMIT = 300  #: characters; a character takes up to 12 bytes in JSON


class Attempt(NamedTuple):
    """A lock that the service began, noted before anything was changed."""

    boot_id: str
    time: str  #: UTC, ISO 8601
    kernel: str
    mode: str
    confirmed: str | None = None  #: when that boot was found good
    ended: bool = False  #: the guest was left as it was: says nothing against the next boot
    left: str | None = None  #: when that boot was shut down in order, and nothing of it had failed
    machine_id: str | None = None
    vm_uuid: str | None = None
    excused: int = 0  #: attempts in a row before this one that nobody confirmed, and that were excused

    @property
    def counts(self) -> bool:
        """Whether nobody has said that that boot was good, or left alone."""
        return not self.confirmed and not self.ended

    def of_another(self, machine_id: str | None, vm_uuid: str | None) -> bool:
        """Whether another machine than this made it: a clone has it from there. What is unknown tells nothing."""
        pairs = ((self.machine_id, machine_id), (self.vm_uuid, vm_uuid))
        return any(noted and here and noted.lower() != here.lower() for noted, here in pairs)


class Omission(NamedTuple):
    """Why the service did not lock a boot."""

    boot_id: str
    time: str
    reason: str


class Boots(NamedTuple):
    """All that is remembered."""

    attempt: Attempt | None = None
    omission: Omission | None = None
    schema: str = SCHEMA


class BootFile(NamedTuple):
    """`boot.json` in the state folder."""

    folder: Path

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.folder / "boot.json"

    def read(self) -> Boots:
        """What is remembered; dies if the file is not as it was written."""
        try:
            return decode(Boots, json.loads(self.path.read_bytes()))
        except FileNotFoundError:
            return Boots()
        except (OSError, ValueError, RecursionError) as error:
            die(
                f"{self.path} cannot be read, so nobody knows how the last boot ended: {plainly(error)}",
                "if this boot is good: `mbecguard rearm`",
                Exit.REFUSED,
            )

    def write(self, boots: Boots) -> None:
        """Remember, on the disk before this returns; dies if that is impossible."""
        data = canonical(encode(boots)).ljust(SIZE - 1) + b"\n"
        assert len(data) == SIZE
        try:
            if _size(self.path) == SIZE:
                _overwrite(self.path, data)
            else:
                replace_file(self.path, data)
                sync_folder(self.folder)
        except OSError as error:
            unwritable(self.path, error)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep others from deciding meanwhile. The folder itself is locked, which takes no room on its disk."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            unwritable(self.folder, error)
        try:
            _lock(fd)
            yield
        finally:
            os.close(fd)


def _lock(fd: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        die("another mbecguard is deciding about this boot", "wait until it has finished")


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _overwrite(path: Path, data: bytes) -> None:
    with path.open("r+b") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
