# SPDX-License-Identifier: GPL-2.0-or-later
"""Which files belong to the running kernel and its modules: those with the build-id that runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

from mbecguard.guest.source import Guest
from mbecguard.guest.tree import FILE_LIMIT
from mbecguard.image.cache import Contents, SectionCache
from mbecguard.image.kernel import KernelImage
from mbecguard.image.module import ModuleImage, ModuleIndex
from mbecguard.values.errors import UserError, die

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """A file and what it says; or what is wrong, and what to do."""

    file: Path | None
    image: T | None
    problem: str = ""
    hint: str = ""


class Images:
    """The files of one guest; `loaded` are the names of its modules."""

    def __init__(self, guest: Guest, cache: SectionCache, loaded: Collection[str]) -> None:
        self._guest, self._cache, self._loaded = guest, cache, loaded

    @cached_property
    def _folders(self) -> tuple[str, ...]:
        return tuple(f"{folder}/" for folder in self._guest.modules_dirs)

    @cached_property
    def _index(self) -> ModuleIndex:
        return ModuleIndex(self._guest.modules_dirs)

    def kernel(self, build_id: str) -> Found[KernelImage]:
        """The image of the kernel with that build-id; if none has it, the first that can be read."""
        found = []
        for file in self._guest.kernel_images:
            found.append(_read(file, self._cache.kernel_file))
            image = found[-1].image
            if image and image.build_id == build_id:
                return found[-1]
        if len(found) > 1:
            return _no_kernel(found, build_id)
        nothing: Found[KernelImage] = Found(None, None, "no kernel image was found", _GIVE_IMAGE)
        return found[0] if found else nothing

    def module(self, name: str, build_id: str) -> Found[ModuleImage]:
        """The file of a loaded module: with its build-id, whatever the file is called; else the first of its name."""
        if build_id and (found := self._seen(name, build_id)):
            return found
        first: Found[ModuleImage] | None = None
        for file in self._index.named(name):
            found = self._module(file)
            if found.image and _fits(found.image, build_id):
                return found
            first = first or found
        nothing: Found[ModuleImage] = Found(None, None, "no file of it was found", _GIVE_FOLDER)
        return self._by_content(name, build_id) or first or nothing

    def _seen(self, name: str, build_id: str) -> Found[ModuleImage] | None:
        """A file that an earlier run read, if it is there and still that build: what others of it say is the same."""
        for file in self._cache.module_files(name, build_id):
            found = self._module(file) if str(file).startswith(self._folders) else None
            if found and found.image and (found.image.name, found.image.build_id) == (name, build_id):
                return found
        return None

    def _module(self, file: Path) -> Found[ModuleImage]:
        return _read(file, self._cache.module_file)

    def _by_content(self, name: str, build_id: str) -> Found[ModuleImage] | None:
        for found in self._unclaimed:
            image = found.image
            if image and image.name == name and (image.build_id == build_id or not build_id):
                return found
        return None

    @cached_property
    def _unclaimed(self) -> tuple[Found[ModuleImage], ...]:
        return tuple(map(self._module, self._index.unclaimed(self._loaded)))


_GIVE_IMAGE = "give one with --kernel-image FILE, or by the setting guest.kernel_image"
_GIVE_FOLDER = "install the file that was loaded, name its folder with --modules-dir, or unload the module"


def _fits(image: ModuleImage, build_id: str) -> bool:
    """A file that was stripped of its build-id, or a kernel that tells none, contradicts nobody."""
    return not build_id or not image.build_id or image.build_id == build_id


def _read(file: Path, parse: Callable[[Path, Contents], T]) -> Found[T]:
    try:
        return Found(file, parse(file, contents))
    except UserError as error:
        return Found(file, None, error.message, error.hint)


def _no_kernel(found: Iterable[Found[KernelImage]], build_id: str) -> Found[KernelImage]:
    told = (f"{f.file} ({f.image.build_id if f.image else f.problem})" for f in found)
    return Found(
        None, None, f"no file has the build-id of the running kernel, {build_id}: {', '.join(told)}", _GIVE_IMAGE
    )


def contents(file: Path) -> bytes:
    """The content of an image file. Dies if it is too large, or cannot be read."""
    try:
        if file.stat().st_size > FILE_LIMIT:
            die(f"{file} is larger than {FILE_LIMIT >> 20} MiB", "no kernel is")
        return file.read_bytes()
    except OSError as error:
        die(f"{file} cannot be read: {error.strerror}", "run as root, or give a copy that may be read")
