# SPDX-License-Identifier: GPL-2.0-or-later
"""Code sections and build-ids of kernel and module ELF files."""

from __future__ import annotations

import struct
from enum import Enum
from itertools import pairwise
from typing import NamedTuple

from mbecguard.image.elf import SHF_EXECINSTR, SHF_WRITE, SHT_NOTE, SHT_PROGBITS, Elf, ElfType, RawSection
from mbecguard.values.errors import die

CODE_LIMIT = 256 << 20  #: bytes of code in one file; the kernel's own text mapping is 1 GiB at most

_NOTE = struct.Struct("<III")
_NT_GNU_BUILD_ID = 3
_BUILD_ID_SIZE_MAX = 20  # include/linux/buildid.h: longer ones are none to the kernel


class SectionKind(Enum):
    """How long the code of a section stays executable."""

    RESIDENT = "resident"  #: as long as the kernel or the module
    INIT = "init"  #: until its initialisation is over
    EXIT = "exit"  #: in a built-in kernel freed with the init code; in a module core text, if modules can be unloaded
    ALTERNATIVES = "alternatives"  #: templates that are copied over the text at boot; freed with the init code
    DATA = "data"  #: writable: one odd input section gave the flag to all of it (.data of Linux 7.2 is WAX)


# arch/x86/kernel/vmlinux.lds.S places these between __init_begin and __init_end: free_initmem() frees them.
_KERNEL_KINDS = (
    (".init.text", SectionKind.INIT),
    (".exit.text", SectionKind.EXIT),
    (".altinstr_replacement", SectionKind.ALTERNATIVES),
    (".altinstr_aux", SectionKind.ALTERNATIVES),
)
# kernel/module/main.c module_init_section(), module_exit_section(): everything else, also .altinstr_replacement, is
# core text and stays until the module goes.
_MODULE_KINDS = ((".init", SectionKind.INIT), (".exit", SectionKind.EXIT))


class Section(NamedTuple):
    """One executable section as linked. `va` is sh_addr (0 in a module); `align` is a power of two."""

    name: str
    va: int
    bytes: int
    align: int
    kind: SectionKind


def code_sections(elf: Elf) -> tuple[Section, ...]:
    """The SHF_ALLOC|SHF_EXECINSTR sections in header order, empty ones too: they count in a module's layout.

    Raises UserError if sizes, alignments or addresses are not those of a kernel.
    """
    kinds = _MODULE_KINDS if elf.type is ElfType.REL else _KERNEL_KINDS
    code = (section for section in elf.sections if section.flags & SHF_EXECINSTR)
    sections = tuple(_section(item, kinds) for item in code)
    if sum(section.bytes for section in sections) > CODE_LIMIT:
        die(f"more than {CODE_LIMIT >> 20} MiB of code")
    if elf.type is not ElfType.REL:
        _check_disjoint(sections)
    return sections


def _section(item: RawSection, kinds: tuple[tuple[str, SectionKind], ...]) -> Section:
    name, align = item.name, item.align or 1
    if align & (align - 1) or align > CODE_LIMIT:
        die(f"section {name} is aligned to {align:#x}")
    # A writable one cannot be code: mark_rodata_ro() makes it NX, and module_enforce_rwx_sections() refuses modules.
    fallback = SectionKind.DATA if item.flags & SHF_WRITE else SectionKind.RESIDENT
    kind = next((kind for prefix, kind in kinds if name.startswith(prefix)), fallback)
    return Section(name, item.address, item.bytes, align, kind)


def _check_disjoint(sections: tuple[Section, ...]) -> None:
    ordered = sorted((section for section in sections if section.bytes), key=lambda section: section.va)
    for low, high in pairwise(ordered):
        if low.va + low.bytes > high.va:
            die(f"sections {low.name} and {high.name} overlap")
    if ordered and ordered[-1].va + ordered[-1].bytes > 1 << 64:
        die(f"section {ordered[-1].name} wraps around the address space")


def build_id(elf: Elf) -> str:
    """The GNU build-id in hex, "" if the file has none. Some linker scripts make PROGBITS of notes."""
    notes = (bytes(section.content) for section in elf.sections if _holds_notes(section))
    return next(filter(None, map(notes_build_id, notes)), "")


def _holds_notes(section: RawSection) -> bool:
    return section.type == SHT_NOTE or (section.type == SHT_PROGBITS and section.name.startswith(".note"))


def notes_build_id(data: bytes) -> str:
    """The GNU build-id in hex out of raw notes: /sys/kernel/notes, a module's notes/.note.gnu.build-id.

    "" if there is none, also if a note before it runs over the end. Notes are 4-byte aligned here.
    """
    offset = 0
    while offset + _NOTE.size <= len(data):
        name_bytes, desc_bytes, note_type = _NOTE.unpack_from(data, offset)
        name = offset + _NOTE.size
        desc = name + (name_bytes + 3 & ~3)
        if desc + desc_bytes > len(data):
            return ""
        owner = data[name : name + name_bytes]
        if (note_type, owner) == (_NT_GNU_BUILD_ID, b"GNU\0") and 0 < desc_bytes <= _BUILD_ID_SIZE_MAX:
            return data[desc : desc + desc_bytes].hex()
        offset = desc + (desc_bytes + 3 & ~3)
    return ""
