# SPDX-License-Identifier: GPL-2.0-or-later
"""A compressed ELF file without what it loads: enough to tell its sections and its build-id.

The code and data of a kernel are 60 MiB, of which facts need nothing: they are let go while the file is expanded. The
program headers, which come first, tell where they are. A file whose headers tell nothing is held whole.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import chain, pairwise

HEAD = 4096  #: bytes at the beginning that are always held; a kernel's five program headers are among them

_PROGRAM_TABLE = struct.Struct("<32xQ14xHH")  # of the ELF header: offset, bytes of an entry, entries
_PROGRAM_HEADER = struct.Struct("<I4xQ16xQ16x")  # type, offset, bytes in the file
_PT_LOAD, _PT_NOTE = 1, 4
_END = 1 << 65  # behind any offset with any size


class NotHeldError(LookupError):
    """Somebody asks for what was let go; the whole file has it."""


class Outline:
    """What `file[start:end]` gives is what the whole file has there; NotHeldError if that was let go."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._size, head = 0, b""
        while len(head) < HEAD and (piece := next(pieces, b"")):
            head += piece
        self._held = [(start, end, bytearray()) for start, end in _held(head[:HEAD])]
        for piece in chain((head,), pieces):
            self._add(piece)

    def _add(self, piece: bytes) -> None:
        for start, end, content in self._held:
            content.extend(piece[max(start - self._size, 0) : max(end - self._size, 0)])
        self._size += len(piece)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, wanted: slice) -> bytes:
        start, stop, _ = wanted.indices(self._size)
        for first, _, content in self._held:
            if first <= start and stop <= first + len(content):
                return bytes(memoryview(content)[start - first : max(stop - first, 0)])
        if start < stop:
            raise NotHeldError
        return b""


def _held(head: bytes) -> Iterator[tuple[int, int]]:
    """Where what is held begins and ends: everything but what is loaded; the head and notes are, all the same."""
    segments = [*_segments(head)]
    loaded = [(start, end) for kind, start, end in segments if kind == _PT_LOAD]
    needed = [(0, HEAD), *((start, end) for kind, start, end in segments if kind == _PT_NOTE)]
    edges = sorted({0, _END, *(edge for part in (*loaded, *needed) for edge in part)})
    begin = 0
    for start, end in pairwise(edges):
        if _in(start, loaded) and not _in(start, needed):
            if begin < start:
                yield begin, start
            begin = end
    yield begin, _END


def _in(place: int, parts: list[tuple[int, int]]) -> bool:
    return any(start <= place < end for start, end in parts)


def _segments(head: bytes) -> Iterator[tuple[int, int, int]]:
    """Type, begin and end in the file of each segment, if the head tells all of them."""
    if len(head) < _PROGRAM_TABLE.size:
        return
    offset, size, count = _PROGRAM_TABLE.unpack_from(head)
    end = offset + count * _PROGRAM_HEADER.size
    if size != _PROGRAM_HEADER.size or end > len(head):
        return
    for kind, start, length in _PROGRAM_HEADER.iter_unpack(head[offset:end]):
        yield kind, start, start + length
