# SPDX-License-Identifier: GPL-2.0-or-later
"""The state folder: what a crash, a full disk or a meddler can do to it."""

from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mbecguard.audit.record import Journal, State, Step
from mbecguard.audit.store import Store
from mbecguard.errors import UserError
from tests.plans import make_evidence, make_plan, make_record

RECORDS = [make_record(boot_id=f"boot {number}", generation=number) for number in range(3)]
JOURNAL = Journal("boot", Step.SEAL, make_evidence(), {"kernel.ftrace_enabled": "1"}, make_plan())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "a/state")


def fill(store: Store, count: int = 3) -> Path:
    for record in RECORDS[:count]:
        store.append(record)
    return store.folder / "records.jsonl"


def test_an_empty_store_has_nothing_and_is_not_made_by_reading(store: Store) -> None:
    assert (store.records(), store.last("boot"), store.journal("boot")) == ((), None, None)
    assert not store.folder.exists()


def test_records_come_back_in_order(store: Store) -> None:
    file = fill(store)
    assert list(store.records()) == RECORDS
    assert store.folder.stat().st_mode & 0o777 == 0o700
    assert file.read_bytes().count(b"\n") == 3
    assert json.loads(file.read_bytes().splitlines()[0])["previous"] == "0" * 64


def test_last_is_the_newest_of_a_boot(store: Store) -> None:
    fill(store)
    store.append(replace(RECORDS[1], generation=7))
    assert store.last("boot 2") == RECORDS[2]
    assert store.last("boot 1") == replace(RECORDS[1], generation=7)
    assert store.last("boot 3") is None


@given(cut=st.integers(0, 10_000), tail=st.binary(max_size=8).filter(lambda b: b"\n" not in b))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_torn_last_line_is_no_record_and_is_cut_by_the_next_append(store: Store, cut: int, tail: bytes) -> None:
    fill(store, 0).unlink(missing_ok=True)
    file = fill(store, 2)
    whole = file.read_bytes()
    first = whole.index(b"\n") + 1
    file.write_bytes(whole[: first + cut % (len(whole) - first)] + tail)
    assert list(store.records()) == RECORDS[:1]
    store.append(RECORDS[1])
    assert file.read_bytes() == whole


Meddle = Callable[[list[bytes]], list[bytes]]
MEDDLERS: dict[str, Meddle] = {
    "first removed": lambda lines: lines[1:],
    "middle removed": lambda lines: [lines[0], lines[2]],
    "reordered": lambda lines: [lines[1], lines[0], lines[2]],
    "repeated": lambda lines: [*lines, lines[2]],
    "record altered": lambda lines: [lines[0], lines[1].replace(b'"sealed"', b'"open"'), lines[2]],
    "last altered": lambda lines: [*lines[:2], lines[2].replace(b'"pinned":true', b'"pinned":false')],
    "white space": lambda lines: [lines[0].replace(b":", b": ", 1), *lines[1:]],
    "key added": lambda lines: [b'{"x":1,' + lines[0][1:], *lines[1:]],
    "previous altered": lambda lines: [lines[0].replace(b"0" * 64, b"1" * 64), *lines[1:]],
    "empty line": lambda lines: [*lines, b""],
    "not JSON": lambda lines: [b"\x00\xff", *lines],
    "no object": lambda lines: [b"[1]", *lines],
    "no record": lambda lines: [b"{}", *lines],
    "deep": lambda lines: [b"[" * 100_000, *lines],
}


@pytest.mark.parametrize("meddle", MEDDLERS.values(), ids=MEDDLERS)
def test_a_changed_past_is_an_error_for_reading_and_appending(store: Store, meddle: Meddle) -> None:
    file = fill(store)
    file.write_bytes(b"".join(line + b"\n" for line in meddle(file.read_bytes().splitlines())))
    changed = file.read_bytes()
    with pytest.raises(UserError, match="not as it was written") as caught:
        store.records()
    assert caught.value.hint
    with pytest.raises(UserError, match="not as it was written"):
        store.append(RECORDS[0])
    assert file.read_bytes() == changed


def test_a_record_of_another_schema_is_an_error(store: Store) -> None:
    with pytest.raises(ValueError, match="schema"):
        replace(RECORDS[0], schema="mbecguard.record/9")
    with pytest.raises(ValueError, match="schema"):
        replace(JOURNAL, schema="mbecguard.journal/9")


def test_the_journal_is_of_one_boot_and_goes_when_it_ended(store: Store) -> None:
    store.note(JOURNAL)
    assert store.journal("boot") == JOURNAL
    assert store.journal("another") is None
    store.note(None)
    store.note(None)
    assert store.journal("boot") is None


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[" * 100_000, b'{"boot_id":"boot","step":"nap"}'])
def test_a_damaged_journal_is_an_error_with_a_hint(store: Store, content: bytes) -> None:
    store.note(JOURNAL)
    (store.folder / "journal.json").write_bytes(content)
    with pytest.raises(UserError, match="damaged") as caught:
        store.journal("boot")
    assert "remove it" in caught.value.hint


def test_two_agents_at_once_is_one_too_many(store: Store) -> None:
    with store.exclusive():
        with pytest.raises(UserError, match="another mbecguard") as caught, Store(store.folder).exclusive():
            pass
        assert "wait" in caught.value.hint
        assert f"process {os.getpid()}, started" in caught.value.message
    with store.exclusive():
        pass


def test_a_lock_file_that_names_no_process_is_still_a_lock(store: Store) -> None:
    with store.exclusive():
        (store.folder / "lock").write_text("nobody")
        with pytest.raises(UserError, match=r"at work on this guest$"), Store(store.folder).exclusive():
            pass


def enter(store: Store) -> None:
    with store.exclusive():
        pass


WRITES: dict[str, Callable[[Store], None]] = {
    "append": lambda store: store.append(RECORDS[0]),
    "note": lambda store: store.note(JOURNAL),
    "exclusive": enter,
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_folder_that_cannot_be_made_is_an_error_with_a_hint(tmp_path: Path, write: Callable[[Store], None]) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(UserError, match="cannot be") as caught:
            write(Store(folder))
        assert "--state-dir" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "write"), [("records.jsonl", WRITES["append"]), ("journal.json", WRITES["note"]), ("lock", enter)]
)
def test_a_file_that_cannot_be_written_is_an_error_with_a_hint(
    store: Store, name: str, write: Callable[[Store], None]
) -> None:
    (store.folder / name).mkdir(parents=True)
    with pytest.raises(UserError, match="cannot be") as caught:
        write(store)
    assert "--state-dir" in caught.value.hint


def test_files_that_cannot_be_read_are_errors(store: Store) -> None:
    for name in ("records.jsonl", "journal.json"):
        (store.folder / name).mkdir(parents=True)
    for read in (store.records, lambda: store.journal("boot")):
        with pytest.raises(UserError) as caught:
            read()
        assert caught.value.hint


def test_an_error_under_the_lock_is_not_taken_for_one_of_the_folder(store: Store) -> None:
    with pytest.raises(OSError, match="other"), store.exclusive():
        raise OSError(errno.ENOSPC, "other")


class FullDisk:
    """Fails at the n-th fsync of the store."""

    def __init__(self, at: int) -> None:
        self.left, self.real = at, os.fsync

    def __call__(self, fd: int) -> None:
        if self.left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.left -= 1
        self.real(fd)


@pytest.mark.parametrize("at", [0, 1])
def test_a_full_disk_loses_no_record(store: Store, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    fill(store, 2)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", FullDisk(at))
        with pytest.raises(UserError, match="No space left"):
            store.append(RECORDS[2])
    assert list(store.records())[:2] == RECORDS[:2]
    store.append(RECORDS[2])
    assert list(store.records())[-1] == RECORDS[2]


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file can grow beyond `size` bytes, as on a disk that fills up in the middle of a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("more", [0, 1, 100])
def test_a_disk_that_fills_up_in_the_middle_of_a_line_loses_no_record(store: Store, more: int) -> None:
    file = fill(store, 2)
    size = file.stat().st_size
    with pytest.raises(UserError, match="cannot be written"), room_for(size + more):
        store.append(RECORDS[2])
    assert file.stat().st_size == size + more
    assert list(store.records()) == RECORDS[:2]
    store.append(RECORDS[2])
    assert list(store.records()) == RECORDS


def test_a_disk_that_fills_up_in_the_middle_of_the_journal_keeps_the_old_one(store: Store) -> None:
    store.note(JOURNAL)
    with pytest.raises(UserError, match="cannot be written"), room_for(100):
        store.note(replace(JOURNAL, step=Step.RECORD))
    assert store.journal("boot") == JOURNAL


def test_a_full_disk_keeps_the_old_journal(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.note(JOURNAL)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", FullDisk(0))
        with pytest.raises(UserError, match="No space left"):
            store.note(replace(JOURNAL, step=Step.RECORD))
        assert store.journal("boot") == JOURNAL
        store.note(None)  # needs no space
    store.note(replace(JOURNAL, step=Step.PIN))
    assert sorted(path.name for path in store.folder.iterdir()) == ["journal.json"]


def test_states_survive_the_way_to_disk(store: Store) -> None:
    for state in State:
        store.append(make_record(state, reasons=("ä → b",)))
    assert [record.state for record in store.records()] == list(State)
