# SPDX-License-Identifier: GPL-2.0-or-later
"""Remembers what image files say, so that a warm run parses none of them.

One JSON file per kernel build-id: `{"schema", "agent", "digest", "entries"}`, where `entries` maps the SHA-256 of
a file's content to its facts. A cache is never trusted further than its owner, its digest and the version of the
agent that parsed, never an error and never needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from mbecguard import __version__
from mbecguard.image.kernel import KernelImage, read_kernel
from mbecguard.image.module import ModuleImage, module_name, read_module
from mbecguard.values import codec

T = TypeVar("T", KernelImage, ModuleImage)

SCHEMA = "mbecguard.sections/2"
_HEADER = {"schema": SCHEMA, "agent": __version__}
SIZE_LIMIT = 8 << 20  #: bytes of one cache file; 1121 modules of Debian's cloud kernel take 0.45 MiB


Note = Callable[[str], None]  #: told what is read, where that takes time


def unnoted(_what: str) -> None:
    """For those who need not know what takes time."""


class SectionCache:
    """Facts of the image files of the kernel `build_id` (hex); remembers nothing if `folder` is None.

    `note` is told each file that has to be parsed.
    """

    def __init__(self, folder: Path | None, build_id: str, note: Note = unnoted) -> None:
        bytes.fromhex(build_id)  # it becomes a file name
        self._note = note
        self._path = folder / f"{build_id}.json" if folder and build_id else None
        self._entries = _load(self._path) if self._path else {}
        self._asked: set[str] = set()
        self._learnt = False

    def kernel(self, data: bytes, name: str = "kernel image") -> KernelImage:
        """As `read_kernel`, from memory if possible."""
        return self._get(KernelImage, f"kernel:{_sha256(data)}", name, lambda: read_kernel(data, name))

    def module(self, data: bytes, name: str) -> ModuleImage:
        """As `read_module`, from memory if possible."""
        # A module without .modinfo is named after its file, so the name belongs to the key.
        key = f"module:{module_name(name)}:{_sha256(data)}"
        return self._get(ModuleImage, key, name, lambda: read_module(data, name))

    def save(self) -> None:
        """Write what was learnt, atomically; a folder that cannot be written is no fault."""
        if self._path is None or not self._learnt:
            return
        content = _packed(self._entries)
        if len(content) > SIZE_LIMIT:
            content = _packed({key: self._entries[key] for key in self._asked})
        if len(content) > SIZE_LIMIT:
            return
        with contextlib.suppress(OSError):
            replace_own(self._path, content)
            self._learnt = False

    def _get(self, kind: type[T], key: str, name: str, read: Callable[[], T]) -> T:
        self._asked.add(key)
        if key in self._entries:
            with contextlib.suppress(ValueError):
                return codec.decode(kind, self._entries[key])
        self._note(name)
        image = read()
        self._entries[key] = codec.encode(image)
        self._learnt = True
        return image


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _packed(entries: dict[str, Any]) -> bytes:
    return codec.canonical({**_HEADER, "digest": codec.digest(entries), "entries": entries})


def _load(path: Path) -> dict[str, Any]:
    """The entries of a cache file; none if it is absent, damaged, or could be someone else's work."""
    try:
        document = json.loads(read_own(path, SIZE_LIMIT))
        known = all(document[key] == value for key, value in _HEADER.items())
        if known and document["digest"] == codec.digest(document["entries"]):
            return dict(document["entries"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        pass
    return {}


def read_own(path: Path, limit: int) -> bytes:
    """A cache file; raises OSError or ValueError if it could be someone else's work, or is too large."""
    with open(path, "rb", opener=_open_plain) as file:
        status = os.fstat(file.fileno())
        shared = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if not stat.S_ISREG(status.st_mode) or shared or status.st_uid != os.geteuid():
            raise PermissionError("not this user's own file")
        if status.st_size > limit:
            raise ValueError("too large")
        return file.read(limit)


def _open_plain(path: str, flags: int) -> int:
    # O_NONBLOCK: opening a FIFO must not wait for a writer.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def replace_own(path: Path, content: bytes) -> None:
    """Write a cache file, and the folder that it is in; raises OSError."""
    from tempfile import NamedTemporaryFile

    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:  # mode 0600
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except OSError:
            Path(file.name).unlink()
            raise
