# SPDX-License-Identifier: GPL-2.0-or-later
"""The state folder: what a crash, a full disk or another user can do to it."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from mbecguard.plan.value import Plan
from mbecguard.records.damage import DamagedError
from mbecguard.records.reasons import Reason
from mbecguard.records.record import Journal, Record, State, Step
from mbecguard.records.store import Store
from mbecguard.values.codec import decode, encode
from mbecguard.values.errors import UserError
from tests.plans import PLAN, SPANS, keep, kept, make_evidence, make_plan, make_record

RECORDS = [make_record(boot_id=f"boot {number}", generation=number) for number in range(3)]
JOURNAL = Journal("boot", Step.SEAL, make_evidence(), {"kernel.ftrace_enabled": "1"}, PLAN.digest)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "a/state")


def fill(store: Store, count: int = 3) -> None:
    for record in RECORDS[:count]:
        keep(store, record)


def test_an_empty_store_has_nothing_and_is_not_made_by_reading(store: Store) -> None:
    assert (store.last("boot"), store.newest(), store.journal("boot")) == (None, None, None)
    assert (store.losses(), store.check("boot")) == ((), ())
    assert not store.folder.exists()


def test_last_is_the_newest_of_a_boot(store: Store) -> None:
    fill(store)
    keep(store, RECORDS[1]._replace(generation=7))
    found = {boot: store.last(boot) for boot in ("boot 0", "boot 1", "boot 2", "boot 3")}
    assert {boot: entry and entry.record.generation for boot, entry in found.items()} == {
        "boot 0": 0,
        "boot 1": 7,
        "boot 2": 2,
        "boot 3": None,
    }
    assert store.newest() == found["boot 1"]
    assert store.folder.stat().st_mode & 0o777 == 0o700


def test_states_survive_the_way_to_disk(store: Store) -> None:
    for state in State:
        keep(store, make_record(state, reasons=(Reason("note", "ä → b"),)))
    assert [record.state for record in kept(store)] == list(State)


@pytest.mark.parametrize("value", [RECORDS[0], JOURNAL], ids=["record", "journal"])
def test_a_record_of_another_schema_is_an_error(value: object) -> None:
    assert decode(type(value), encode(value)) == value
    with pytest.raises(ValueError, match=r"schema 'mbecguard\.other/9' is not"):
        decode(type(value), {**encode(value), "schema": "mbecguard.other/9"})


def test_the_journal_is_of_one_boot_and_goes_when_it_ended(store: Store) -> None:
    store.note(JOURNAL, PLAN)
    assert store.journal("boot") == JOURNAL
    assert store.plan(JOURNAL) == PLAN
    assert store.journal("another") is None
    store.note(None)
    store.note(None)
    assert store.journal("boot") is None


def test_the_plan_of_a_journal_goes_with_it_unless_a_record_names_it(store: Store) -> None:
    other = make_plan(SPANS[:-1])
    keep(store, RECORDS[0])
    for plan in (PLAN, other):
        store.note(replace(JOURNAL, plan_digest=plan.digest), plan)
        store.note(None)
    assert [path.name for path in store.history.plans.files()] == [f"{PLAN.digest}.json.gz"]


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[" * 100_000, b'{"boot_id":"boot","step":"nap"}', b"[1]\n"])
def test_a_damaged_journal_is_kept_aside(store: Store, content: bytes) -> None:
    store.note(JOURNAL)
    (store.folder / "journal.json").write_bytes(content)
    with pytest.raises(DamagedError, match=r"journal\.json: ") as caught:
        store.journal("boot")
    assert caught.value.hint
    (loss,) = store.mend("boot")
    assert str(loss).startswith("journal.json: ")
    assert (store.folder / "damaged/journal.json").read_bytes() == content
    assert store.journal("boot") is None


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


WRITES: dict[str, Callable[[Store], object]] = {
    "append": lambda store: keep(store, RECORDS[0]),
    "note": lambda store: store.note(JOURNAL),
    "exclusive": enter,
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_folder_that_cannot_be_made_is_an_error_with_a_hint(tmp_path: Path, write: Callable[[Store], object]) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(UserError, match="cannot be") as caught:
            write(Store(folder))
        assert "--state-dir" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "write"), [("history.json.new", WRITES["append"]), ("journal.json", WRITES["note"]), ("lock", enter)]
)
def test_a_file_that_cannot_be_written_is_an_error_with_a_hint(
    store: Store, name: str, write: Callable[[Store], object]
) -> None:
    (store.folder / name).mkdir(parents=True)
    with pytest.raises(UserError, match="cannot be") as caught:
        write(store)
    assert "--state-dir" in caught.value.hint


READS: dict[str, Callable[[Store], object]] = {
    "last": lambda store: store.last("boot 2"),
    "newest": Store.newest,
    "journal": lambda store: store.journal("boot"),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_folder_that_is_a_file_is_damage(tmp_path: Path, read: Callable[[Store], object]) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(DamagedError) as caught:
            read(Store(folder))
        assert caught.value.hint


@contextmanager
def another_user() -> Iterator[None]:
    """Be one who is not root."""
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


@needs_root
@pytest.mark.parametrize("name", ["last", "journal"])
def test_what_may_not_be_read_is_no_damage(store: Store, name: str) -> None:
    fill(store)
    with another_user(), pytest.raises(UserError, match="cannot be read") as caught:
        READS[name](store)
    assert not isinstance(caught.value, DamagedError)
    assert "root" in caught.value.hint


@needs_root
@pytest.mark.parametrize(("owner", "mode"), [(65534, 0o700), (0, 0o770), (0, 0o702), (0, 0o1777)])
def test_a_folder_that_others_can_write_is_not_believed(store: Store, owner: int, mode: int) -> None:
    fill(store)
    store.note(JOURNAL)
    os.chown(store.folder, owner, -1)
    store.folder.chmod(mode)
    for act in (READS["last"], READS["journal"], READS["newest"], enter):
        with pytest.raises(DamagedError, match="others may write there") as caught:
            act(store)
        assert "chown" in caught.value.hint
    os.chown(store.folder, 0, -1)
    store.folder.chmod(0o755)
    assert READS["last"](store)


@needs_root
@pytest.mark.parametrize("name", ["records/00000003.json", "journal.json", "history.json"])
def test_a_file_of_somebody_else_is_not_believed(store: Store, name: str) -> None:
    fill(store)
    store.note(JOURNAL)
    os.chown(store.folder / name, 65534, -1)
    read = READS[{"records/00000003.json": "last", "journal.json": "journal", "history.json": "newest"}[name]]
    with pytest.raises(DamagedError, match="it belongs to user 65534"):
        read(store)


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


ODD: dict[str, Callable[[Path], object]] = {
    "a folder": Path.mkdir,
    "a FIFO": make_fifo,
    "a link": lambda path: path.symlink_to("/etc/passwd"),
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("name", ["records/00000003.json", "journal.json", "history.json"])
@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_what_is_no_file_is_not_read_and_the_next_lock_goes_on(
    store: Store, name: str, make: Callable[[Path], object]
) -> None:
    fill(store)
    store.note(JOURNAL)
    (store.folder / name).unlink()
    make(store.folder / name)
    assert any(name.endswith(loss.what.partition(":")[0]) for loss in store.mend("boot 2"))
    assert os.path.lexists(store.folder / "damaged" / Path(name).name)
    entry = keep(store, RECORDS[0])
    assert store.newest() == entry == store.last("boot 0")


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


def fits(store: Store, record: Record, plan: Plan, at: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a record can be added on a disk that is full from the n-th sync on."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", FullDisk(at))
        try:
            store.append(record, plan)
        except UserError as error:
            return "No space left" not in error.message
    return True


@pytest.mark.parametrize("other_plan", [False, True])
def test_a_full_disk_loses_no_record(store: Store, monkeypatch: pytest.MonkeyPatch, other_plan: bool) -> None:
    plan = make_plan(SPANS[:-1]) if other_plan else PLAN
    record = RECORDS[2]._replace(plan_digest=plan.digest)
    fill(store, 2)
    at = 0
    while not fits(store, record, plan, at, monkeypatch):
        at += 1
        assert kept(store)[:2] == RECORDS[:2]
        assert store.mend("boot 2") == ()
        assert kept(store) in (RECORDS[:2], [*RECORDS[:2], *[record] * (len(kept(store)) - 2)])
    assert at > 5
    assert kept(store)[-1] == record
    assert store.plan(record) == plan


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file can grow beyond `size` bytes, as on a disk that fills up in the middle of a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [0, 1, 100, 1000])
def test_a_disk_that_fills_up_in_the_middle_of_a_record_loses_none(store: Store, room: int) -> None:
    fill(store, 2)
    with pytest.raises(UserError, match="cannot be written"), room_for(room):
        keep(store, RECORDS[2])
    assert kept(store) == RECORDS[:2]
    assert store.mend("boot 2") == ()
    keep(store, RECORDS[2])
    assert kept(store) == RECORDS


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


def test_nobody_else_reads_the_files(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = Store(tmp_path / "state")
        with store.exclusive():
            keep(store, make_record())
            store.note(Journal("boot", Step.CHECK))
    finally:
        os.umask(before)
    found = {path: path.lstat() for path in (tmp_path / "state").rglob("*") if not path.is_symlink()}
    files = [f.st_mode & 0o7777 for path, f in found.items() if path.is_file()]
    assert len(files) >= 5
    assert set(files) == {0o600}
    folders = [f.st_mode & 0o7777 for path, f in found.items() if path.is_dir()]
    assert len(folders) == 3
    assert set(folders) == {0o700}
    assert (tmp_path / "state").stat().st_mode & 0o7777 == 0o700
