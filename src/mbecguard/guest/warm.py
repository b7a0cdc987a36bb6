# SPDX-License-Identifier: GPL-2.0-or-later
"""A cache that knows the installed kernels before the first of them boots: what a package's trigger makes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mbecguard.guest import places
from mbecguard.guest.images import contents
from mbecguard.guest.tree import Tree
from mbecguard.image.cache import SectionCache, remembered
from mbecguard.image.module import ModuleIndex
from mbecguard.image.sections import notes_build_id
from mbecguard.values.errors import UserError
from mbecguard.values.note import Note, unnoted

SCHEMA = "mbecguard.cache/1"


@dataclass(frozen=True, slots=True)
class WarmKernel:
    """What the cache knows of one release: the build-id of its image, and how many files of modules."""

    release: str
    build_id: str
    modules: int


@dataclass(frozen=True, slots=True)
class Warmed:
    """What the cache knows now; `dropped` are build-ids of kernels that are gone."""

    kernels: tuple[WarmKernel, ...]
    dropped: tuple[str, ...] = ()
    schema: str = SCHEMA


def warm(folder: Path, root: Path = Path("/"), note: Note = unnoted) -> Warmed:
    """Have the cache in `folder` know each installed kernel with all its modules, and no other but the running one."""
    kernels = tuple(kernel for release in _releases(root) if (kernel := _kernel(folder, root, release, note)))
    running = notes_build_id(Tree(root).data("sys/kernel/notes") or b"")
    gone = remembered(folder) - {kernel.build_id for kernel in kernels} - {running}
    for build_id in gone:
        SectionCache(folder, build_id).remove()
    return Warmed(kernels, tuple(sorted(gone)))


def _releases(root: Path) -> list[str]:
    """Those that have a folder of modules."""
    try:
        return sorted(folder.name for folder in (root / "lib/modules").iterdir() if folder.is_dir())
    except OSError:
        return []


def _kernel(folder: Path, root: Path, release: str, note: Note) -> WarmKernel | None:
    """None if its image cannot be told, or read."""
    with suppress(UserError):
        for image in places.own_images(root, release)[:1]:
            cache = _cache(folder, image, note)
            count = sum(_modules(cache, places.modules(root, release)))
            cache.forget_others()
            cache.save()
            return WarmKernel(release, cache.build_id, count)
    return None


def _cache(folder: Path, image: Path, note: Note) -> SectionCache:
    """The one that knows an image, or a new one that does."""
    for build_id in remembered(folder):
        known = SectionCache(folder, build_id, note)
        if known.has(image) and known.kernel_file(image, contents).build_id == build_id:
            return known
    learnt = SectionCache(None, "", note)
    cache = SectionCache(folder, learnt.kernel_file(image, contents).build_id, note)
    cache.adopt(learnt)
    return cache


def _modules(cache: SectionCache, folders: tuple[Path, ...]) -> Iterator[bool]:
    """Have a cache know all files; whether each could be read."""
    for file in ModuleIndex(folders).files:
        try:
            cache.module_file(file, contents)
            yield True
        except UserError:
            yield False
