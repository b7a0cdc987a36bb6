# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of a guest, plain or packed."""

from __future__ import annotations

import lzma
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from mbecguard.guest import tree as tree_module
from mbecguard.guest.tree import Tree, present
from mbecguard.values.errors import UserError

CONTENT = b"content \xff\n" * 999
PACKED = lzma.compress(CONTENT)


@pytest.mark.parametrize(
    ("name", "stored"), [("f", CONTENT), ("f.xz", PACKED), ("f.xz", lzma.compress(CONTENT, preset=9))]
)
def test_plain_and_packed(tmp_path: Path, name: str, stored: bytes) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / name).write_bytes(stored)
    assert Tree(tmp_path).data("d/f") == CONTENT
    text = Tree(tmp_path).text("d/f")
    assert text is not None
    assert text.startswith("content \ufffd\n")
    assert Tree(tmp_path).names("d") == ["f"]


def test_what_is_absent(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder.xz").mkdir()
    os.mkfifo(tmp_path / "pipe")  # must not be waited for
    tree = Tree(tmp_path)
    for path in ("none", "none/deeper", "file/below", "folder", "pipe", "nul\0"):
        assert tree.data(path) is None
        assert tree.text(path) is None
    assert tree.data("file") == b""
    assert tree.names("none") == tree.names("file") == []


def test_names_are_sorted_and_told_once(tmp_path: Path) -> None:
    for name in ("b", "a.xz", "b.xz", "c"):
        (tmp_path / name).touch()
    assert Tree(tmp_path).names("") == ["a", "b", "c"]


@pytest.mark.parametrize(
    "stored",
    [
        PACKED[:-1],
        PACKED[: len(PACKED) // 2],
        PACKED[:20],
        b"",
        PACKED + b"more",
        b"\0" + PACKED,
        PACKED[:60] + b"\xff" + PACKED[61:],
        lzma.compress(CONTENT, lzma.FORMAT_ALONE),
    ],
    ids=["last", "half", "head", "empty", "trailing", "leading", "flip", "lzma"],
)
def test_damaged_packing(tmp_path: Path, stored: bytes) -> None:
    (tmp_path / "f.xz").write_bytes(stored)
    with pytest.raises(UserError, match=re.escape("f.xz is damaged")) as caught:
        Tree(tmp_path).data("f")
    assert "capture" in caught.value.hint


def test_packing_that_would_take_all_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f.xz").write_bytes(PACKED)  # preset 6: 8 MiB of dictionary
    monkeypatch.setattr(tree_module, "_UNPACK_MEMORY", 8 << 20)
    with pytest.raises(UserError, match="limit"):
        Tree(tmp_path).data("f")


@pytest.mark.parametrize(("size", "fits"), [(4095, True), (4096, True), (4097, False), (9000, False)])
@pytest.mark.parametrize("pack", [bytes, lzma.compress], ids=["plain", "xz"])
def test_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Callable[[bytes], bytes], size: int, fits: bool
) -> None:
    monkeypatch.setattr(tree_module, "FILE_LIMIT", 4096)
    monkeypatch.setattr(tree_module, "_PIECE", 1000)
    (tmp_path / ("f" if pack is bytes else "f.xz")).write_bytes(pack(bytes(size)))
    if fits:
        assert Tree(tmp_path).data("f") == bytes(size)
        return
    with pytest.raises(UserError, match="larger than"):
        Tree(tmp_path).data("f")


def test_a_file_that_comes_a_page_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/proc/kallsyms does: a limit on reads instead of bytes once cut it at a megabyte."""
    (tmp_path / "f").write_bytes(CONTENT * 99)
    monkeypatch.setattr(tree_module, "_PIECE", 100)
    assert Tree(tmp_path).data("f") == CONTENT * 99


@pytest.mark.parametrize("fault", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_what_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: OSError) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise fault

    (tmp_path / "f").touch()
    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, "scandir", refuse)
    for read in (Tree(tmp_path).data, Tree(tmp_path).names):
        with pytest.raises(UserError, match=r"may not be read|cannot be read") as caught:
            read("f")
        assert caught.value.hint
    assert not present(refuse)
    assert present(tmp_path.is_dir)
