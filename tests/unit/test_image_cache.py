# SPDX-License-Identifier: GPL-2.0-or-later
"""The section cache: what it remembers, and what it refuses to believe."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mbecguard.image import cache as cache_module
from mbecguard.image.cache import SCHEMA, SectionCache
from mbecguard.image.kernel import read_kernel
from mbecguard.image.module import read_module
from mbecguard.values import codec
from mbecguard.values.errors import UserError
from tests.elfmaker import BUILD_ID, bzimage, module, payload, vmlinux

KERNEL = bzimage(payload("xz", vmlinux()))
KO = module()
ID = BUILD_ID.hex()


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were really parsed."""
    seen: list[str] = []

    def counting(read: Callable[..., Any]) -> Callable[..., Any]:
        def counted(data: bytes, name: str) -> Any:
            seen.append(name)
            return read(data, name)

        return counted

    for name in ("_KERNEL", "_MODULE"):
        kind = getattr(cache_module, name)
        monkeypatch.setattr(cache_module, name, replace(kind, read=counting(kind.read)))
    return seen


def filled(folder: Path) -> Path:
    """A saved cache of one kernel and one module; the path of its file."""
    cache = SectionCache(folder, ID)
    cache.kernel(KERNEL, "vmlinuz")
    cache.module(KO, "toy.ko")
    cache.save()
    return folder / f"{ID}.json"


def test_second_run_parses_nothing(tmp_path: Path, parses: list[str]) -> None:
    path = filled(tmp_path / "new" / "folder")
    assert parses == ["vmlinuz", "toy.ko"]
    warm = SectionCache(path.parent, ID)
    assert warm.kernel(KERNEL, "vmlinuz") == read_kernel(KERNEL)
    assert warm.module(KO, "toy.ko") == read_module(KO, "toy.ko")
    assert parses == ["vmlinuz", "toy.ko"]
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.stat().st_mtime_ns, path.stat().st_ino
    warm.save()  # nothing new was learnt
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before


def test_other_content_misses(tmp_path: Path, parses: list[str]) -> None:
    filled(tmp_path)
    parses.clear()
    cache = SectionCache(tmp_path, ID)
    assert cache.module(module(name="other"), "toy.ko").name == "other"
    assert cache.kernel(bzimage(payload("gzip", vmlinux())), "vmlinuz") == read_kernel(KERNEL)
    assert parses == ["toy.ko", "vmlinuz"]
    cache.save()
    again = SectionCache(tmp_path, ID)  # old and new are both remembered
    assert again.module(KO, "toy.ko").name == "toy_net"
    assert again.module(module(name="other"), "toy.ko").name == "other"
    assert len(parses) == 2


def test_nameless_module_is_named_after_each_file(tmp_path: Path) -> None:
    cache = SectionCache(tmp_path, ID)
    nameless = module(name="")
    assert [cache.module(nameless, file).name for file in ("a.ko", "b.ko", "a.ko")] == ["a", "b", "a"]


def test_a_module_is_never_taken_for_a_kernel(tmp_path: Path) -> None:
    filled(tmp_path)
    with pytest.raises(UserError):
        SectionCache(tmp_path, ID).kernel(KO, "toy.ko")


def test_without_folder_or_build_id(tmp_path: Path, parses: list[str]) -> None:
    for cache in (SectionCache(None, ID), SectionCache(tmp_path, "")):
        cache.module(KO, "toy.ko")
        cache.module(KO, "toy.ko")
        cache.save()
    assert parses == ["toy.ko", "toy.ko"]
    assert list(tmp_path.iterdir()) == []


def test_kernels_do_not_share(tmp_path: Path, parses: list[str]) -> None:
    filled(tmp_path)
    SectionCache(tmp_path, "ab" * 20).module(KO, "toy.ko")
    assert parses == ["vmlinuz", "toy.ko", "toy.ko"]


def test_a_build_id_is_hex() -> None:
    with pytest.raises(ValueError):
        SectionCache(Path("cache"), "../../etc/passwd")


def rewritten(change: Callable[[dict[str, Any]], object], *, sign: bool = True) -> Callable[[Path], object]:
    def apply(path: Path) -> None:
        head, content = map(json.loads, path.read_bytes().split(b"\n"))
        document = {**head, **content}
        change(document)
        content = codec.canonical({key: document.pop(key) for key in content})
        if sign:
            document["digest"] = hashlib.sha256(content).hexdigest()
        path.write_bytes(codec.canonical(document) + b"\n" + content)

    return apply


def damage_entries(document: dict[str, Any]) -> None:
    document["entries"] = {key: {"build_id": 7} for key in document["entries"]}


def replaced(by: Callable[[Path], object]) -> Callable[[Path], object]:
    def apply(path: Path) -> None:
        path.rename(path.with_suffix(".aside"))
        by(path)

    return apply


DAMAGE: dict[str, Callable[[Path], object]] = {
    "absent": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "no JSON": lambda path: path.write_bytes(b"\xff\xfe{}"),
    "deep JSON": lambda path: path.write_bytes(b"[" * 100_000),
    "a list": lambda path: path.write_bytes(b"[]"),
    "a number": lambda path: path.write_bytes(b"7"),
    "no digest": rewritten(lambda document: document.pop("digest"), sign=False),
    "files are a list": rewritten(lambda document: document.update(files=[["a", "b"]])),
    "rows are numbers": rewritten(lambda document: document.update(files={"a": 7})),
    "digest": rewritten(lambda document: document.update(digest="0" * 64), sign=False),
    "content": rewritten(damage_entries, sign=False),
    "signed nonsense": rewritten(damage_entries),
    "entries are a list": rewritten(lambda document: document.update(entries=[1, 2])),
    "schema": rewritten(lambda document: document.update(schema=SCHEMA + "0")),
    "another agent's": rewritten(lambda document: document.update(agent="0.0")),
    "group-writable": lambda path: path.chmod(0o620),
    "world-writable": lambda path: path.chmod(0o602),
    "a folder": replaced(Path.mkdir),
    "a FIFO": replaced(os.mkfifo),
    "a link": replaced(lambda path: path.symlink_to(path.with_suffix(".aside"))),
    "too large": lambda path: path.write_bytes(path.read_bytes() + b" " * cache_module.SIZE_LIMIT),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_file_is_ignored_and_rebuilt(kind: str, tmp_path: Path, parses: list[str]) -> None:
    path = filled(tmp_path)
    DAMAGE[kind](path)
    parses.clear()
    cache = SectionCache(tmp_path, ID)
    assert cache.module(KO, "toy.ko") == read_module(KO, "toy.ko")
    assert parses == ["toy.ko"]
    cache.save()
    if kind != "a folder":  # which cannot be replaced, and that is no fault
        assert SectionCache(tmp_path, ID).module(KO, "toy.ko").name == "toy_net"
        assert parses == ["toy.ko"]
    assert not list(tmp_path.glob(".*"))


def test_file_of_another_user_is_ignored(tmp_path: Path, parses: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path)
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    SectionCache(tmp_path, ID).module(KO, "toy.ko")
    assert parses == ["vmlinuz", "toy.ko", "toy.ko"]


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = SectionCache(tmp_path / "file" / "cache", ID)
    cache.module(KO, "toy.ko")
    cache.save()
    assert (tmp_path / "file").read_bytes() == b""


def test_failure_before_the_rename_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = filled(tmp_path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    cache = SectionCache(tmp_path, ID)
    cache.module(module(name="other"), "other.ko")
    cache.save()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parses: list[str]) -> None:
    path = filled(tmp_path)
    monkeypatch.setattr(cache_module, "SIZE_LIMIT", path.stat().st_size + 10)
    cache = SectionCache(tmp_path, ID)
    cache.module(module(name="new"), "new.ko")
    cache.save()  # only what this run asked for fits
    assert path.stat().st_size < cache_module.SIZE_LIMIT
    parses.clear()
    fresh = SectionCache(tmp_path, ID)
    fresh.module(module(name="new"), "new.ko")
    fresh.module(KO, "toy.ko")
    assert parses == ["toy.ko"]
    before = path.read_bytes()
    monkeypatch.setattr(cache_module, "SIZE_LIMIT", 10)
    fresh.save()  # nothing fits
    assert path.read_bytes() == before


def test_refused_files_are_not_remembered(tmp_path: Path) -> None:
    cache = SectionCache(tmp_path, ID)
    for _ in range(2):
        with pytest.raises(UserError):
            cache.module(b"no module", "toy.ko")
    cache.save()
    assert list(tmp_path.iterdir()) == []


def test_concurrent_saves_never_show_half_a_file(tmp_path: Path, parses: list[str]) -> None:
    filled(tmp_path)

    def writer(number: int) -> None:
        for turn in range(15):
            cache = SectionCache(tmp_path, ID)
            cache.module(KO, "toy.ko")
            cache.module(module(name=f"m{number}_{turn}"), "m.ko")
            cache.save()

    writers = [threading.Thread(target=writer, args=(number,)) for number in range(3)]
    parses.clear()
    for thread in writers:
        thread.start()
    while any(thread.is_alive() for thread in writers):
        SectionCache(tmp_path, ID).module(KO, "toy.ko")
    assert "toy.ko" not in parses  # every reader and every writer found a whole file
    assert [path.name for path in tmp_path.iterdir()] == [f"{ID}.json"]


def test_warm_run_imports_no_parser(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / "toy.ko").write_bytes(KO)
    script = (
        "import sys; from pathlib import Path; from mbecguard.image.cache import SectionCache\n"
        f"folder = Path({str(tmp_path)!r})\n"
        f"SectionCache(folder, {ID!r}).module((folder / 'toy.ko').read_bytes(), 'toy.ko')\n"
        "print(sorted({'lzma', 'bz2', 'gzip', 'zstandard', 'elftools', 'lz4', 'lzo', 'tempfile'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
