# SPDX-License-Identifier: GPL-2.0-or-later
"""Remembers what image files say, so that a warm run parses none of them.

One file per kernel build-id: a line of JSON, `{"schema", "agent", "digest"}`, and what the digest is of,
`{"entries", "files"}`. `entries` maps the SHA-256 of a file's content to its facts, `files` a path to the stamp of the
file that was read there, and to its entry: one that still has that stamp is not read again. A cache is never trusted
further than its owner, its digest and the version of the agent that parsed, never an error and never needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from mbecguard import __version__
from mbecguard.image.kernel import KernelImage, read_kernel
from mbecguard.image.module import ModuleImage, module_name, read_module
from mbecguard.image.stamp import stamp
from mbecguard.values import codec
from mbecguard.values.note import Note, unnoted

T = TypeVar("T", KernelImage, ModuleImage)

SCHEMA = "mbecguard.sections/3"
_HEADER = {"schema": SCHEMA, "agent": __version__}
_BUILD_ID = re.compile("(?:[0-9a-f]{2}){1,20}")
SIZE_LIMIT = 8 << 20  #: bytes of one cache file; 1121 modules of Debian's cloud kernel take 0.7 MiB


Contents = Callable[[Path], bytes]
_Entries = dict[str, Any]
_Files = dict[str, tuple[str, str]]


@dataclass(frozen=True, slots=True)
class _Kind(Generic[T]):
    """Kernels or modules: how their content is read, and under which key the outcome is kept."""

    type: type[T]
    key: Callable[[bytes, str], str]
    read: Callable[[bytes, str], T]


_KERNEL = _Kind(KernelImage, lambda data, _: f"kernel:{_sha256(data)}", read_kernel)
_MODULE = _Kind(
    ModuleImage,
    # A module without .modinfo is named after its file, so the name belongs to the key.
    lambda data, name: f"module:{module_name(name)}:{_sha256(data)}",
    read_module,
)


class SectionCache:
    """Facts of the image files of the kernel `build_id` (hex); remembers nothing if `folder` is None.

    `note` is told each file that has to be parsed.
    """

    def __init__(self, folder: Path | None, build_id: str, note: Note = unnoted) -> None:
        bytes.fromhex(build_id)  # it becomes a file name
        self.build_id = build_id
        self._note = note
        self._path = folder / f"{build_id}.json" if folder and build_id else None
        self._entries, self._files = _load(self._path) if self._path else ({}, {})
        self._images: dict[str, KernelImage | ModuleImage] = {}  # of the entries, those that were needed
        self._asked: set[str] = set()
        self._learnt = False

    def kernel(self, data: bytes, name: str = "kernel image") -> KernelImage:
        """As `read_kernel`, from memory if possible."""
        return self._content(_KERNEL, data, name)[1]

    def module(self, data: bytes, name: str) -> ModuleImage:
        """As `read_module`, from memory if possible."""
        return self._content(_MODULE, data, name)[1]

    def kernel_file(self, file: Path, contents: Contents) -> KernelImage:
        """The same of a file. What is in it is only asked for if it can have changed since it was last read."""
        return self._file(_KERNEL, file, contents)

    def module_file(self, file: Path, contents: Contents) -> ModuleImage:
        """The same of a file. What is in it is only asked for if it can have changed since it was last read."""
        return self._file(_MODULE, file, contents)

    def has(self, file: Path) -> bool:
        """Whether something was once read there."""
        return str(file) in self._files

    def module_files(self, name: str, build_id: str) -> list[Path]:
        """Paths where such a module was once read; `module_file` knows what is there now."""
        return self._places.get((name, build_id), [])

    def adopt(self, other: SectionCache) -> None:
        """Know what another has learnt, before anybody could tell which kernel it was of."""
        self._entries |= other._entries
        self._files |= other._files
        self._images |= other._images
        self._asked |= other._asked
        self._learnt = True

    def forget_others(self) -> None:
        """Drop what was not asked for."""
        kept = {key: entry for key, entry in self._entries.items() if key in self._asked}
        self._learnt = self._learnt or kept.keys() != self._entries.keys()
        self._entries = kept
        self._files = {path: row for path, row in self._files.items() if row[1] in kept}

    def save(self) -> None:
        """Write what was learnt, atomically; a folder that cannot be written is no fault."""
        if self._path is None or not self._learnt:
            return
        content = _packed(self._entries, self._files)
        if len(content) > SIZE_LIMIT:
            self.forget_others()
            content = _packed(self._entries, self._files)
        if len(content) > SIZE_LIMIT:
            return
        with contextlib.suppress(OSError):
            replace_own(self._path, content)
            self._learnt = False

    def remove(self) -> None:
        """Have its file gone; one that cannot be removed is no fault."""
        if self._path:
            with contextlib.suppress(OSError):
                self._path.unlink()

    @cached_property
    def _places(self) -> dict[tuple[str, str], list[Path]]:
        """By name and build-id."""
        found: dict[tuple[str, str], list[Path]] = {}
        for path, (_, key) in self._files.items():
            with contextlib.suppress(LookupError, TypeError):  # a kernel has no name
                entry = self._entries[key]
                found.setdefault((entry["name"], entry["build_id"]), []).append(Path(path))
        return found

    def _file(self, kind: _Kind[T], file: Path, contents: Contents) -> T:
        path, before = str(file), stamp(file)
        seen, key = self._files.get(path, ("", ""))
        if before and before == seen and (image := self._known(kind, key)):
            return image
        key, image = self._content(kind, contents(file), file.name)
        if before and before == stamp(file):
            self._files[path], self._learnt = (before, key), True
        return image

    def _content(self, kind: _Kind[T], data: bytes, name: str) -> tuple[str, T]:
        key = kind.key(data, name)
        image = self._known(kind, key)
        if image is None:
            self._note(name)
            image = self._images[key] = kind.read(data, name)
            self._entries[key], self._learnt = codec.encode(image), True
        return key, image

    def _known(self, kind: _Kind[T], key: str) -> T | None:
        """What an entry says; each is decoded once."""
        self._asked.add(key)
        if key in self._entries and key not in self._images:
            with contextlib.suppress(ValueError):
                self._images[key] = codec.decode(kind.type, self._entries[key])
        return cast("T | None", self._images.get(key))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _packed(entries: _Entries, files: _Files) -> bytes:
    content = codec.canonical({"entries": entries, "files": files})
    return codec.canonical({**_HEADER, "digest": _sha256(content)}) + b"\n" + content


def _load(path: Path) -> tuple[_Entries, _Files]:
    """What a cache file holds; nothing if it is absent, damaged, or could be someone else's work."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        head, _, content = read_own(path, SIZE_LIMIT).partition(b"\n")
        if json.loads(head) == {**_HEADER, "digest": _sha256(content)}:
            document = json.loads(content)
            files = {path: (stamped, key) for path, (stamped, key) in document["files"].items()}
            return dict(document["entries"]), {
                path: row for path, row in files.items() if row[1] in document["entries"]
            }
    return {}, {}


def remembered(folder: Path) -> set[str]:
    """The build-ids of the kernels that a folder has a cache of."""
    return {file.stem for file in folder.glob("*.json") if _BUILD_ID.fullmatch(file.stem)}


def read_own(path: Path, limit: int) -> bytes:
    """A cache file; raises OSError or ValueError if it could be someone else's work, or is too large.

    Who can write to its folder can put an older one of this user's files in its place.
    """
    with open(path, "rb", opener=_open_plain) as file:
        status = os.fstat(file.fileno())
        if not (stat.S_ISREG(status.st_mode) and _own(status) and _own(path.parent.stat())):
            raise PermissionError("not this user's own file")
        if status.st_size > limit:
            raise ValueError("too large")
        return file.read(limit)


def _own(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


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
