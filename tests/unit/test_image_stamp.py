# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that are not read again: only those that cannot have changed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mbecguard.image import stamp as stamp_module
from mbecguard.image.cache import SectionCache
from mbecguard.image.stamp import stamp
from tests.elfmaker import BUILD_ID, module

ID = BUILD_ID.hex()
OLD, NEW = module(name="oldest"), module(name="newest")  # of one size


def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have files settle faster than a test ends; the clock that stamps them ticks every 10 ms at most."""
    monkeypatch.setattr(stamp_module, "SETTLED", 10**7)
    time.sleep(0.03)


def never(_: Path) -> bytes:
    raise AssertionError("it was read again")


def warm(folder: Path, file: Path) -> SectionCache:
    """A cache that another run has filled."""
    cache = SectionCache(folder, ID)
    assert cache.module_file(file, Path.read_bytes).name == "oldest"
    cache.save()
    return SectionCache(folder, ID)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that nobody has changed for long enough."""
    path = tmp_path / "toy.ko"
    path.write_bytes(OLD)
    at_once(monkeypatch)
    return path


def test_a_file_that_stays_is_read_once(tmp_path: Path, file: Path) -> None:
    cache = warm(tmp_path / "cache", file)
    assert cache.module_file(file, never).name == "oldest"
    assert cache.module_files("oldest", ID) == [file]


def overwrite(file: Path) -> None:
    file.write_bytes(NEW)


def swap(file: Path) -> None:
    fresh = file.with_name("fresh")
    fresh.write_bytes(NEW)
    fresh.replace(file)


def swap_link(file: Path) -> None:
    swap(other := file.with_name("other.ko"))
    file.unlink()
    file.symlink_to(other)


@pytest.mark.parametrize("change", [overwrite, swap, swap_link])
def test_same_size_and_modification_time_hide_no_change(
    change: Callable[[Path], None], tmp_path: Path, file: Path
) -> None:
    cache, before = warm(tmp_path / "cache", file), file.stat()
    if change is swap_link:
        file.with_name("fresh").touch()
    change(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert cache.module_file(file, Path.read_bytes).name == "newest"
    cache.save()
    assert SectionCache(tmp_path / "cache", ID).module_file(file, Path.read_bytes).name == "newest"


def test_a_file_that_was_changed_a_moment_ago_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "toy.ko"
    file.write_bytes(OLD)
    assert stamp(file) == "" == stamp(tmp_path / "none")
    cache = warm(tmp_path / "cache", file)
    file.write_bytes(NEW)  # perhaps within the same tick
    assert cache.module_file(file, Path.read_bytes).name == "newest"


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, file: Path) -> None:
    def torn(path: Path) -> bytes:
        data = path.read_bytes()
        path.write_bytes(NEW)
        return data

    cache = SectionCache(tmp_path / "cache", ID)
    cache.module_file(file, torn)
    time.sleep(0.03)
    assert cache.module_file(file, Path.read_bytes).name == "newest"


def test_a_file_that_is_gone(tmp_path: Path, file: Path) -> None:
    cache = warm(tmp_path / "cache", file)
    file.unlink()
    with pytest.raises(FileNotFoundError):
        cache.module_file(file, Path.read_bytes)
