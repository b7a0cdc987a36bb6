# SPDX-License-Identifier: GPL-2.0-or-later
"""Remembers what files say of text, by build-id, so that a warm look parses and expands none of them.

One file for each: a checksum, a line of JSON, the bytes, the columns; not packed, since unpacking takes longer than all
the rest. As with `image/cache.py`, a file is believed no further
than its owner, its checksum (zlib's) and the version of the agent that made it; it is never an error and never needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import zlib
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mbecguard import __version__
from mbecguard.image.cache import read_own, replace_own
from mbecguard.text.reference import Fixups, Piece, Reference, Sites, Symbol

SCHEMA = "mbecguard.text/2"
SIZE_LIMIT = 64 << 20  #: bytes of one file; Debian's 7.2 takes 26 MiB
FOLDER_LIMIT = 192 << 20  #: bytes of all; the oldest go first
_FOLDER = "text"
_CHECKSUM = 4  #: bytes
_BUILD_ID = re.compile("[0-9a-f]{8,40}")
_COLUMNS = {"fixups": "IIq", "sites": "IBII"}


class TextCache:
    """References by build-id; remembers nothing if `folder` is None."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder / _FOLDER if folder else None

    def get(self, build_id: str, read: Callable[[], Reference]) -> Reference:
        """That of a build-id, as remembered, or else as `read` makes it."""
        path = self._folder / build_id if self._folder and _BUILD_ID.fullmatch(build_id) else None
        if path and (found := load(path)) and found.build_id == build_id:
            return found
        reference = read()
        if path and reference.build_id == build_id:
            with contextlib.suppress(OSError):
                replace_own(path, packed(reference))
                _prune(path.parent)
        return reference


class Accepted:
    """Digests of text that was as it may be, and where: the same bytes in the same boot need no second look."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, str] = {}
        self._learnt = False
        with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):
            self._known = dict(json.loads(read_own(path, SIZE_LIMIT))) if path else {}

    @classmethod
    def at(cls, folder: Path | None) -> Accepted:
        """Those of a cache; none are remembered if `folder` is None."""
        return cls(folder / "accepted.json" if folder else None)

    def has(self, owner: str, digest: str) -> bool:
        """Whether the text of an owner was accepted with what has that digest, see `digest_of`."""
        return self._known.get(owner) == digest

    def add(self, owner: str, digest: str) -> None:
        """It is accepted."""
        if self._path:
            self._known[owner], self._learnt = digest, True

    def save(self) -> None:
        """Keep what was learnt; a folder that cannot be written is no fault."""
        if self._path and self._learnt:
            with contextlib.suppress(OSError):
                replace_own(self._path, json.dumps(self._known).encode())


def digest_of(place: str, found: bytes) -> str:
    """Of text, and of where it is."""
    sha = hashlib.sha256(f"{SCHEMA} {__version__} {place}\n".encode())
    sha.update(found)
    return sha.hexdigest()


def load(path: Path) -> Reference | None:
    """A remembered reference; None if it is absent, damaged, or could be someone else's work."""
    try:
        data = read_own(path, SIZE_LIMIT)
        whole = zlib.crc32(memoryview(data)[_CHECKSUM:]) == int.from_bytes(data[:_CHECKSUM], "little")
        return _unpacked(data) if whole else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def packed(reference: Reference) -> bytes:
    """The content of a file."""
    head = {
        "schema": SCHEMA,
        "agent": __version__,
        "build_id": reference.build_id,
        "bytes": len(reference.blob),
        "pieces": [[p.name, p.va, p.start, p.bytes, p.kept] for p in reference.pieces],
        "symbols": [[s.name, s.section, s.value] for s in reference.symbols],
        "fixups": [[f.form, f.piece, len(f.where)] for f in reference.fixups],
        "sites": [[s.kind, len(s.where)] for s in reference.sites],
    }
    rows: tuple[Fixups | Sites, ...] = (*reference.fixups, *reference.sites)
    columns = [column.tobytes() for row in rows for column in _columns_of(row)]
    content = b"".join((json.dumps(head).encode(), b"\n", reference.blob, *columns))
    return zlib.crc32(content).to_bytes(_CHECKSUM, "little") + content


def _columns_of(row: Fixups | Sites) -> tuple[array[int], ...]:
    if isinstance(row, Fixups):
        return row.where, row.symbol, row.addend
    return row.where, row.length, row.argument, row.extra


def _unpacked(data: bytes) -> Reference:
    start = data.index(b"\n", _CHECKSUM) + 1
    head: dict[str, Any] = json.loads(data[_CHECKSUM:start])
    if (head["schema"], head["agent"]) != (SCHEMA, __version__):
        raise ValueError("of another version")
    end = start + head["bytes"]
    columns = _cut(memoryview(data)[end:], head)
    return Reference(
        build_id=head["build_id"],
        blob=data[start:end],
        pieces=tuple(Piece(*row) for row in head["pieces"]),
        symbols=tuple(Symbol(*row) for row in head["symbols"]),
        fixups=tuple(Fixups(form, piece, *next(columns)) for form, piece, _ in head["fixups"]),
        sites=tuple(Sites(kind, *next(columns)) for kind, _ in head["sites"]),
    )


def _cut(rest: memoryview, head: dict[str, Any]) -> Iterator[tuple[array[int], ...]]:
    """The columns of each table, one table after the other."""
    at = 0
    for name, codes in _COLUMNS.items():
        for row in head[name]:
            columns = []
            for code in codes:
                column = array(code)
                end = at + row[-1] * column.itemsize
                column.frombytes(rest[at:end])
                if len(column) != row[-1]:
                    raise ValueError("cut short")
                columns.append(column)
                at = end
            yield tuple(columns)


def _prune(folder: Path) -> None:
    """Keep the newest files; those of kernels that are gone would pile up."""
    found = sorted(((file.stat(), file) for file in folder.iterdir()), key=lambda row: -row[0].st_mtime_ns)
    total = 0
    for status, file in found:
        total += status.st_size
        if total > FOLDER_LIMIT:
            file.unlink(missing_ok=True)
