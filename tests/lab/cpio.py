# SPDX-License-Identifier: GPL-2.0-or-later
"""Initial RAM file systems: files by path, packed as a newc cpio archive (Linux Documentation, early-userspace)."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

import zstandard

FOLDER, FILE, LINK = 0o040755, 0o100644, 0o120777
PROGRAM = FILE | 0o111
TRAILER = "TRAILER!!!"


@dataclass(frozen=True, slots=True)
class Node:
    """A file's mode (with its type) and content; of a symbolic link, the target."""

    mode: int
    data: bytes = b""


def program(data: bytes) -> Node:
    """An executable file."""
    return Node(PROGRAM, data)


def file(data: bytes | str) -> Node:
    """A plain file."""
    return Node(FILE, data.encode() if isinstance(data, str) else data)


def link(target: str) -> Node:
    """A symbolic link."""
    return Node(LINK, target.encode())


def folder() -> Node:
    """An empty folder; those above files need not be named."""
    return Node(FOLDER)


def packed(tree: Mapping[str, Node]) -> bytes:
    """The archive, compressed by what the emulated CPU unpacks fast."""
    parents = {str(parent): folder() for path in tree for parent in PurePosixPath(path).parents}
    parents.pop(".", None)
    nodes = sorted({**parents, **tree}.items())
    entries = [_entry(number, path, node) for number, (path, node) in enumerate(nodes, 1)]
    return zstandard.ZstdCompressor(level=6).compress(b"".join([*entries, _entry(0, TRAILER, Node(0))]))


def _entry(inode: int, path: str, node: Node) -> bytes:
    links = 2 if stat.S_ISDIR(node.mode) else 1
    fields = (inode, node.mode, 0, 0, links, 0, len(node.data), 0, 0, 0, 0, len(path) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + path.encode() + b"\0"
    return _padded(head) + _padded(node.data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
