# SPDX-License-Identifier: GPL-2.0-or-later
"""From module files to names, build-ids and the layout of their code."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from mbecguard.errors import die
from mbecguard.image.elf import MAGIC, Elf, ElfType, read_elf
from mbecguard.image.expand import expand
from mbecguard.image.sections import CODE_LIMIT, Section, SectionKind, build_id, code_sections

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


def text_layout(image: ModuleImage) -> dict[str, int]:
    """Byte offset of each core text section inside the module's text allocation.

    kernel/module/main.c layout_sections(): executable sections come first (core_layout up to 6.3) or alone
    (MOD_TEXT from 6.4), in header order, each aligned to its sh_addralign.
    """
    return {section.name: start for section, start in _placed(image.sections)}


def text_bytes(image: ModuleImage) -> int:
    """Bytes from the first core text section to the end of the last, not rounded up to pages."""
    return max((start + section.bytes for section, start in _placed(image.sections)), default=0)


def module_index(folder: Path) -> dict[str, Path]:
    """Module name -> file for one release's modules folder; updates/ beats extra/ beats kernel/, as in depmod.

    Linked folders (build, source) are not entered. Raises UserError if a folder cannot be read.
    """
    found: dict[str, Path] = {}
    for _, root, file in sorted(_module_files(folder)):
        found.setdefault(module_name(file), Path(root, file))
    return found


def _placed(sections: tuple[Section, ...]) -> Iterator[tuple[Section, int]]:
    offset = 0
    for section in sections:
        if section.kind is SectionKind.RESIDENT:
            offset = -(-offset // section.align) * section.align
            if section.bytes:  # empty ones count for alignment only; sysfs.c sect_empty() leaves them out
                yield section, offset
            offset += section.bytes


def _check_layout(sections: tuple[Section, ...]) -> None:
    placed = list(_placed(sections))
    name, times = next(iter(Counter(section.name for section, _ in placed).most_common(1)), ("", 0))
    if times > 1:
        die(f"{times} code sections are called {name}", "They cannot be told apart in /sys/module/*/sections.")
    if placed and placed[-1][1] > CODE_LIMIT:
        die("its code sections are aligned too far apart")


def _own_name(elf: Elf) -> str:
    """`name=` of .modinfo (scripts/mod/modpost.c writes it, KBUILD_MODNAME); "" in a NOBITS skeleton."""
    for section in elf.sections:
        if section.name == ".modinfo" and section["sh_type"] == "SHT_PROGBITS":
            for entry in section.data().split(b"\0"):
                if entry.startswith(b"name="):
                    return str(entry[5:], "ascii")
    return ""


def _module_files(folder: Path) -> Iterator[tuple[int, str, str]]:
    """Rank in the search order (low wins), folder and name of each module file."""
    for root, _, files in os.walk(folder, onerror=_unreadable):
        top = Path(root).relative_to(folder).parts[:1]
        rank = _SEARCH_ORDER.index(top[0]) if top and top[0] in _SEARCH_ORDER else len(_SEARCH_ORDER)
        yield from ((rank, root, file) for file in files if _FILE.fullmatch(file))


def _unreadable(error: OSError) -> NoReturn:
    die(
        f"cannot read the modules folder {error.filename}: {error.strerror}",
        "Name the folder of one release, for example /lib/modules/$(uname -r).",
    )
