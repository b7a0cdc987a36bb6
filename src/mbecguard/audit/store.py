# SPDX-License-Identifier: GPL-2.0-or-later
"""Records on disk: append-only, hash-chained; and the journal of the transaction under way.

Each line of `records.jsonl` holds the digest of the line before. A line that a crash cut off is no record and is
cut away by the next append; any other break of the chain is an error, because somebody changed the past.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mbecguard.audit.record import Journal, Record
from mbecguard.errors import die
from mbecguard.serial import canonical, decode, digest, encode

ORIGIN = "0" * 64  #: "previous" of the first record


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that a crash leaves the old or the new content, never a mixture. Raises OSError."""
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@dataclass(frozen=True, slots=True)
class Store:
    """The agent's state folder; made on first use, mode 0700."""

    folder: Path

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the folder's lock; dies if another agent has it."""
        self._make()
        with (self.folder / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                die("another mbecguard is at work on this guest", "wait until it has finished")
            yield

    def records(self) -> tuple[Record, ...]:
        """All records, oldest first. Dies if the chain is broken."""
        records, previous = [], ORIGIN
        for number, line in enumerate(self._lines(), 1):
            try:
                entry = json.loads(line)
                body = {"previous": previous, "record": entry["record"]}
                if entry["previous"] != previous or entry["digest"] != digest(body):
                    raise ValueError("the chain of digests is broken")
                records.append(decode(Record, entry["record"]))
            except (ValueError, KeyError, TypeError) as error:
                die(f"{self._file}: record {number} is not as it was written: {error}", "compare with your journal")
            previous = entry["digest"]
        return tuple(records)

    def last(self, boot_id: str) -> Record | None:
        """The newest record, if it is of this boot."""
        records = self.records()
        return records[-1] if records and records[-1].boot_id == boot_id else None

    def append(self, record: Record) -> None:
        """Add one record and sync it to disk."""
        self._make()
        lines = self._lines()
        previous = json.loads(lines[-1])["digest"] if lines else ORIGIN
        body = {"previous": previous, "record": encode(record)}
        line = canonical({**body, "digest": digest(body)}) + b"\n"
        with self._failing(), self._file.open("r+b" if self._file.exists() else "xb") as file:
            file.truncate(sum(map(len, lines)))
            file.seek(0, os.SEEK_END)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def journal(self) -> Journal | None:
        """How far the last transaction came, None if it ended or there was none."""
        try:
            return decode(Journal, json.loads((self.folder / "journal.json").read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            die(f"{self.folder / 'journal.json'} is damaged: {error}", "remove it; the host's own answer still counts")

    def note(self, journal: Journal | None) -> None:
        """Remember how far the transaction is; None when it has ended."""
        self._make()
        with self._failing():
            if journal is None:
                (self.folder / "journal.json").unlink(missing_ok=True)
            else:
                replace_file(self.folder / "journal.json", canonical(encode(journal)))

    @property
    def _file(self) -> Path:
        return self.folder / "records.jsonl"

    def _lines(self) -> list[bytes]:
        try:
            lines = self._file.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        except OSError as error:
            die(f"{self._file} cannot be read: {error.strerror}")
        return lines if not lines or lines[-1].endswith(b"\n") else lines[:-1]

    def _make(self) -> None:
        with self._failing():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            die(f"{self.folder} cannot be written: {error.strerror}", "run as root, or give --state-dir")
