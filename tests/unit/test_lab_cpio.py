# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's initial RAM file systems, read back by another reader of the newc format."""

from __future__ import annotations

import stat

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tests.lab.cpio import Node, file, folder, link, packed, program

NAMES = st.from_regex(r"[a-z]{1,5}(/[a-z.]{1,5}){0,2}", fullmatch=True)


def unpacked(archive: bytes) -> list[tuple[str, int, bytes]]:
    """(path, mode, content) in order, up to the trailer."""
    data, at = zstandard.ZstdDecompressor().decompress(archive), 0
    found: list[tuple[str, int, bytes]] = []
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = data[at + 110 : at + 110 + name_size]
        assert name.endswith(b"\0")
        start = (at + 110 + name_size + 3) // 4 * 4
        if name == b"TRAILER!!!\0":
            assert start == len(data)
            return found
        found.append((name[:-1].decode(), mode, data[start : start + size]))
        at = (start + size + 3) // 4 * 4


@pytest.mark.parametrize(
    ("node", "kind", "executable", "content"),
    [
        (program(b"\x7fELF"), stat.S_ISREG, True, b"\x7fELF"),
        (file("text"), stat.S_ISREG, False, b"text"),
        (file(b""), stat.S_ISREG, False, b""),
        (link("busybox"), stat.S_ISLNK, True, b"busybox"),
        (folder(), stat.S_ISDIR, True, b""),
    ],
)
def test_kinds(node: Node, kind: object, executable: bool, content: bytes) -> None:
    ((name, mode, data),) = unpacked(packed({"x": node}))
    assert callable(kind)
    assert (name, kind(mode), bool(mode & 0o100), data) == ("x", True, executable, content)


def test_folders_come_before_what_is_in_them() -> None:
    names = [name for name, _, _ in unpacked(packed({"a/b/c": file("x"), "a/b": folder(), "d/e": file("y")}))]
    assert names == ["a", "a/b", "a/b/c", "d", "d/e"]


def test_an_empty_tree_is_an_archive() -> None:
    assert unpacked(packed({})) == []


@given(st.dictionaries(NAMES, st.binary(max_size=9)))
def test_every_file_comes_back(contents: dict[str, bytes]) -> None:
    files = {name: data for name, data in contents.items() if not any(o.startswith(name + "/") for o in contents)}
    archive = packed({name: file(data) for name, data in files.items()})
    assert {name: data for name, mode, data in unpacked(archive) if stat.S_ISREG(mode)} == files
    assert archive == packed({name: file(data) for name, data in reversed(files.items())})
