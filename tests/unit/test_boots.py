# SPDX-License-Identifier: GPL-2.0-or-later
"""The file of boot counting: durable, never half written, and on a full disk as well."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from mbecguard.records import boots as boots_room
from mbecguard.records.boots import REASON_LIMIT, SIZE, Attempt, BootFile, Boots, Omission
from mbecguard.values.errors import Exit, UserError

ATTEMPT = Attempt("11111111-2222-3333-4444-555555555555", "2026-01-02T03:04:05+00:00", "6.12.0-test", "enforce")
BOOTS = Boots(ATTEMPT, Omission("another", "2026-01-02T03:04:05+00:00", "why"))


@pytest.fixture
def file(tmp_path: Path) -> BootFile:
    (tmp_path / "state").mkdir()
    return BootFile(tmp_path / "state")


@pytest.mark.parametrize(("changes", "counts"), [({}, True), ({"confirmed": "2026"}, False), ({"ended": True}, False)])
def test_an_attempt_counts_until_its_end_is_known(changes: dict[str, object], counts: bool) -> None:
    assert ATTEMPT._replace(**changes).counts is counts  # type: ignore[arg-type]


def test_what_is_written_is_read_and_nothing_is_nothing(file: BootFile) -> None:
    assert file.read() == Boots()
    assert not file.path.exists()
    for boots in (BOOTS, Boots(), Boots(ATTEMPT._replace(confirmed="2026"))):
        file.write(boots)
        assert file.read() == boots
        assert file.path.stat().st_size == SIZE


def test_the_longest_content_fits(file: BootFile) -> None:
    longest = ATTEMPT._replace(kernel="k" * 64, confirmed="2" * 32)
    file.write(Boots(longest, Omission(ATTEMPT.boot_id, ATTEMPT.time, "\U0001f512" * REASON_LIMIT)))
    assert file.path.stat().st_size == SIZE
    assert file.read().attempt == longest


def test_a_full_disk_takes_an_attempt_if_the_file_is_there(file: BootFile, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(boots_room, "replace_file", full)
    with pytest.raises(UserError, match="No space left") as caught:
        file.write(BOOTS)
    assert (caught.value.status, caught.value.hint) == (Exit.ERROR, "make room on its disk")
    monkeypatch.undo()
    file.write(Boots())
    inode, blocks = file.path.stat().st_ino, file.path.stat().st_blocks
    monkeypatch.setattr(boots_room, "replace_file", full)
    file.write(BOOTS)
    assert (file.path.stat().st_ino, file.path.stat().st_blocks) == (inode, blocks)
    assert file.read() == BOOTS
    assert sorted(path.name for path in file.folder.iterdir()) == ["boot.json"]


def test_it_is_on_the_disk_before_anybody_goes_on(file: BootFile, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, bytes]] = []
    fsync = os.fsync

    def watched(fd: int) -> None:
        path = Path(f"/proc/self/fd/{fd}").readlink()
        synced.append((path.name, path.read_bytes() if path.is_file() else b""))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", watched)
    file.write(BOOTS)
    assert [name for name, _ in synced] == ["boot.json.new", "state"]
    assert json.loads(synced[0][1])["attempt"]["boot_id"] == ATTEMPT.boot_id
    synced.clear()
    file.write(Boots(ATTEMPT._replace(boot_id="next")))
    assert [name for name, _ in synced] == ["boot.json"]
    assert json.loads(synced[0][1])["attempt"]["boot_id"] == "next"


DAMAGED = {
    "empty": b"",
    "zeros": bytes(SIZE),
    "garbage": b"\xff\x00" * (SIZE // 2),
    "deep": b"[" * 100_000,
    "another version": b'{"schema": "mbecguard.boot/2"}',
    "a field more": b'{"schema": "mbecguard.boot/1", "more": 1}',
    "no object": b"[]",
    "wrong type": b'{"attempt": {"boot_id": 1, "time": "", "kernel": "", "mode": ""}}',
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damage_is_an_error_until_it_is_written_again(file: BootFile, content: bytes) -> None:
    file.path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read") as caught:
        file.read()
    assert caught.value.status is Exit.REFUSED
    assert "rearm" in caught.value.hint
    file.write(Boots())
    assert file.read() == Boots()
    assert file.path.stat().st_size == SIZE


@pytest.mark.parametrize("size", [0, 1, 100, 200])
def test_a_file_that_was_cut_short_is_damaged(file: BootFile, size: int) -> None:
    file.write(BOOTS)
    os.truncate(file.path, size)
    with pytest.raises(UserError, match="cannot be read"):
        file.read()


def test_what_the_system_says_is_told_without_its_number(file: BootFile) -> None:
    file.path.mkdir()
    with pytest.raises(UserError, match=r"cannot be read, .*: Is a directory$"):
        file.read()


def test_a_place_that_cannot_be_written_is_an_error_with_a_hint(file: BootFile) -> None:
    file.path.mkdir()
    with pytest.raises(UserError, match="cannot be written") as caught:
        file.write(BOOTS)
    assert (caught.value.status, bool(caught.value.hint)) == (Exit.ERROR, True)
    (file.folder / "file").touch()
    with pytest.raises(UserError, match="cannot be written"), BootFile(file.folder / "file/below").exclusive():
        pass


def test_two_at_once_is_one_too_many(file: BootFile) -> None:
    with file.exclusive():
        with pytest.raises(UserError, match="another mbecguard") as caught, BootFile(file.folder).exclusive():
            pass
        assert "wait" in caught.value.hint
    with file.exclusive():
        assert list(file.folder.iterdir()) == []  # it takes no room


def test_an_error_meanwhile_is_not_taken_for_one_of_the_lock(file: BootFile) -> None:
    with pytest.raises(BlockingIOError), file.exclusive():
        raise BlockingIOError
