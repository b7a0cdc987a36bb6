# SPDX-License-Identifier: GPL-2.0-or-later
"""Records on disk: append-only, hash-chained; and the journal of the transaction under way.

Each line of `records.jsonl` holds the digest of the line before. A line that a crash cut off is no record and is
cut away by the next append; any other break of the chain is an error, because somebody changed the past.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TextIO

from mbecguard.audit.record import Journal, Record
from mbecguard.errors import Exit, die
from mbecguard.serial import canonical, decode, digest, encode

ORIGIN = "0" * 64  #: "previous" of the first record


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that a crash leaves the old or the new content, never a mixture. One writer. Raises OSError."""
    fresh = path.with_name(path.name + ".new")
    with fresh.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def _chained(previous: str, record: object) -> tuple[bytes, str]:
    """The line of a record, and its digest, which the next line takes up."""
    body = {"previous": previous, "record": record}
    link = digest(body)
    return canonical({**body, "digest": link}), link


def sync_folder(folder: Path) -> None:
    """Make new names in a folder durable. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def unwritable(path: Path, error: OSError, status: Exit = Exit.ERROR) -> NoReturn:
    """Die because the state folder, or a file in it, cannot be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    hint = "make room on its disk" if full else "run as root, or give --state-dir"
    die(f"{path} cannot be written: {error.strerror}", hint, status)


@dataclass(frozen=True, slots=True)
class Store:
    """The agent's state folder; made on first use, mode 0700."""

    folder: Path

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the folder's lock; dies if another agent has it."""
        self.made()
        with self._failing():
            file = (self.folder / "lock").open("a+")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                die(f"another mbecguard is at work on this guest{_holder(file)}", "wait until it has finished")
            with self._failing():
                file.truncate(0)
                file.write(str(os.getpid()))
                file.flush()
            yield

    def records(self) -> tuple[Record, ...]:
        """All records, oldest first. Dies if the chain is broken."""
        return tuple(record for record, _ in self._entries())

    def last(self, boot_id: str) -> Record | None:
        """The newest record of this boot."""
        return next((record for record in reversed(self.records()) if record.boot_id == boot_id), None)

    def append(self, record: Record) -> None:
        """Add one record and sync it to disk."""
        self.made()
        previous = [ORIGIN, *(link for _, link in self._entries())][-1]
        line, _ = _chained(previous, encode(record))
        with self._failing(), self._file.open("ab") as file:
            file.truncate(sum(len(whole) + 1 for whole in self._lines()))
            file.write(line + b"\n")
            file.flush()
            os.fsync(file.fileno())
            sync_folder(self.folder)

    def journal(self, boot_id: str) -> Journal | None:
        """How far the last transaction of this boot came, None if it ended or there was none."""
        try:
            journal = decode(Journal, json.loads((self.folder / "journal.json").read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            die(f"{self.folder / 'journal.json'} is damaged: {error}", "remove it; the host's own answer still counts")
        return journal if journal.boot_id == boot_id else None

    def note(self, journal: Journal | None) -> None:
        """Remember how far the transaction is; None when it has ended."""
        self.made()
        with self._failing():
            if journal is None:
                (self.folder / "journal.json").unlink(missing_ok=True)
            else:
                replace_file(self.folder / "journal.json", canonical(encode(journal)))

    @property
    def paths(self) -> tuple[Path, Path]:
        """The files; a change of what is known shows in their stamps."""
        return self._file, self.folder / "journal.json"

    @property
    def _file(self) -> Path:
        return self.folder / "records.jsonl"

    def _entries(self) -> Iterator[tuple[Record, str]]:
        previous = ORIGIN
        for number, line in enumerate(self._lines(), 1):
            try:
                data = json.loads(line)["record"]
                expected, previous = _chained(previous, data)
                if line != expected:
                    raise ValueError("the chain of digests is broken")
                record = decode(Record, data)
            except (ValueError, LookupError, TypeError, RecursionError) as error:
                die(
                    f"{self._file}: record {number} is not as it was written: {error}",
                    "compare with the system's journal, then move the file away",
                )
            yield record, previous

    def _lines(self) -> list[bytes]:
        try:
            *lines, _torn = self._file.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            die(f"{self._file} cannot be read: {error.strerror}", "run as root, or give --state-dir")
        return lines

    def made(self) -> Path:
        """The folder, which is there now. Dies if it cannot be made."""
        with self._failing():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.folder

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            unwritable(self.folder, error)


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
