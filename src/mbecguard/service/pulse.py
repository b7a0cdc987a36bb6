# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether anything has moved since the last look. What it means is not known here: it is only compared."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from mbecguard.values.errors import UserError

Ask = Callable[[int], int]  #: a word of the host's; dies if there is no host to ask
Stamp = tuple[int, int, int] | None
_MOST = 4096  #: bytes of a file


class Rests(NamedTuple):
    """What a look rests on: if all of it stays the same, another look would find the same."""

    words: tuple[int, ...]  #: of the host
    contents: tuple[str, ...]  #: small files that are read
    stamps: tuple[str, ...]  #: files of which inode, time and size are looked at

    @classmethod
    def of(cls, data: list[list[int | str]]) -> Rests:
        """As JSON has it."""
        words, contents, stamps = data
        return cls(tuple(map(int, words)), tuple(map(str, contents)), tuple(map(str, stamps)))

    def now(self, ask: Ask) -> tuple[object, ...]:
        """All of it, as it is now; what cannot be read is told by why."""
        return (
            *(_answer(ask, word) for word in self.words),
            *map(_content, self.contents),
            *map(stamp, self.stamps),
        )


def stamp(path: str) -> Stamp:
    """Inode, time and size of a file; None: it cannot be seen."""
    try:
        found = os.stat(path)  # noqa: PTH116 - pathlib would stay in memory for good
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _answer(ask: Ask, word: int) -> int | str:
    try:
        return ask(word)
    except UserError as error:
        return error.message


def _content(path: str) -> bytes | int | None:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        return error.errno
    try:
        return os.read(file, _MOST)
    except OSError as error:
        return error.errno
    finally:
        os.close(file)
