# SPDX-License-Identifier: GPL-2.0-or-later
"""From module files to names, build-ids and the layout of their code."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from mbecguard.image.elf import MAGIC, SHT_PROGBITS, Elf, ElfType, read_elf
from mbecguard.image.expand import expand
from mbecguard.image.sections import CODE_LIMIT, Section, SectionKind, build_id, code_sections
from mbecguard.values.errors import die

_FILE = re.compile(r"(?P<stem>.+)\.ko(\.(gz|xz|zst))?")
# depmod.d(5) as distributions set it up; folders not named here (weak-updates) come last.
_SEARCH_ORDER = ("updates", "extra", "kernel")


@dataclass(frozen=True, slots=True)
class ModuleImage:
    """What one module file says. `build_id` is hex or "", `sections` are core and init text in header order."""

    name: str
    build_id: str
    sections: tuple[Section, ...]


def read_module(data: bytes, name: str) -> ModuleImage:
    """Parse a .ko, compressed or not (told by content, not by suffix), signed or not. Raises UserError."""

    def facts(elf: Elf) -> ModuleImage:
        sections = code_sections(elf)
        _check_layout(sections)
        return ModuleImage(_own_name(elf) or module_name(name), build_id(elf), sections)

    plain = data if data.startswith(MAGIC) else expand(data, name)
    return read_elf(plain, name, frozenset({ElfType.REL}), facts)


def module_name(file: str) -> str:
    """The module's name by its file name: `snd-hda-intel.ko.xz` is `snd_hda_intel`."""
    base = file.rpartition("/")[2]
    match = _FILE.fullmatch(base)
    return (match["stem"] if match else base).replace("-", "_")


def core_text(image: ModuleImage, *, unload: bool = True) -> tuple[tuple[Section, int], ...]:
    """Each core text section with its byte offset inside the module's text allocation.

    kernel/module/main.c layout_sections(): executable sections come first (core_layout up to 6.3) or alone
    (MOD_TEXT from 6.4), in header order, each aligned to its sh_addralign. `unload`: whether the kernel can unload
    modules (CONFIG_MODULE_UNLOAD); else .exit* is not among them. Two sections may have one name.
    """
    return tuple(_placed(image.sections, unload))


def init_sections(image: ModuleImage, *, unload: bool = True) -> tuple[str, ...]:
    """Names of the code sections that run once, in the init allocation."""
    kinds = (SectionKind.INIT,) if unload else (SectionKind.INIT, SectionKind.EXIT)
    return tuple(section.name for section in image.sections if section.kind in kinds and section.bytes)


def text_bytes(image: ModuleImage) -> int:
    """Bytes from the first core text section to the end of the last, not rounded up to pages."""
    return max((start + section.bytes for section, start in core_text(image)), default=0)


class ModuleIndex:
    """The module files below some folders, by the name that each file says; nothing is read yet.

    In a folder updates/ beats extra/ beats kernel/, as in depmod, and the folders come in the order given. Linked
    folders are entered, but for build and source. Raises UserError if a folder cannot be read.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        self._named: dict[str, list[str]] = {}
        self._foreign: list[str] = []
        for folder in folders:
            for rank, root, file in sorted(_module_files(folder)):
                self._named.setdefault(module_name(file), []).append(f"{root}/{file}")
                if rank != _SEARCH_ORDER.index("kernel"):
                    self._foreign.append(f"{root}/{file}")

    @property
    def first(self) -> dict[str, Path]:
        """The file that depmod would take for each name."""
        return {name: Path(files[0]) for name, files in self._named.items()}

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them."""
        return tuple(Path(file) for files in self._named.values() for file in files)

    def named(self, name: str) -> tuple[Path, ...]:
        """All files of that name, best first."""
        return tuple(map(Path, self._named.get(name, ())))

    def unclaimed(self, loaded: Collection[str]) -> tuple[Path, ...]:
        """Files that are not the kernel's own and bear no name of a loaded module: .modinfo may say another name.

        In kernel/ a file and its module always have one name (scripts/Makefile.lib, KBUILD_MODNAME).
        """
        return tuple(Path(file) for file in self._foreign if module_name(file) not in loaded)


def _placed(sections: tuple[Section, ...], unload: bool) -> Iterator[tuple[Section, int]]:
    kinds = (SectionKind.RESIDENT, SectionKind.EXIT) if unload else (SectionKind.RESIDENT,)
    offset = 0
    for section in sections:
        if section.kind in kinds:
            offset = -(-offset // section.align) * section.align
            if section.bytes:  # empty ones count for alignment only; sysfs.c sect_empty() leaves them out
                yield section, offset
            offset += section.bytes


def _check_layout(sections: tuple[Section, ...]) -> None:
    placed = list(_placed(sections, unload=True))
    if placed and placed[-1][1] > CODE_LIMIT:
        die("its code sections are aligned too far apart")


def _own_name(elf: Elf) -> str:
    """`name=` of .modinfo (scripts/mod/modpost.c writes it, KBUILD_MODNAME); "" in a NOBITS skeleton."""
    for section in elf.sections:
        if section.name == ".modinfo" and section.type == SHT_PROGBITS:
            for entry in bytes(section.content).split(b"\0"):
                if entry.startswith(b"name="):
                    return str(entry[5:], "ascii")
    return ""


def _module_files(folder: Path) -> Iterator[tuple[int, str, str]]:
    """Rank in the search order (low wins), folder and name of each module file."""
    seen = set()
    for root, folders, files in os.walk(str(folder), onerror=_unreadable, followlinks=True):
        here = _identity(root)
        if here in seen:  # a link that leads up, or twice to one place
            folders.clear()
            continue
        seen.add(here)
        top = root.removeprefix(str(folder)).strip("/").partition("/")[0]
        if not top:
            folders[:] = [name for name in folders if name not in ("build", "source")]
        rank = _SEARCH_ORDER.index(top) if top in _SEARCH_ORDER else len(_SEARCH_ORDER)
        yield from ((rank, root, file) for file in files if _FILE.fullmatch(file))


def _identity(folder: str) -> tuple[int, int]:
    try:
        found = Path(folder).stat()
    except OSError as error:
        _unreadable(error)
    return found.st_dev, found.st_ino


def _unreadable(error: OSError) -> NoReturn:
    die(
        f"cannot read the modules folder {error.filename}: {error.strerror}",
        "Name the folder of one release, for example /lib/modules/$(uname -r).",
    )
