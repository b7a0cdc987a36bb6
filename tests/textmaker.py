# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel and a module with one patch site of each kind, small, put together by hand from the kernel's headers."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from tests.elfmaker import ET_REL, NOTE, RELA, STRTAB, SYMTAB, TEXT_VA, A, Sec, W, X, elf64, note, notes

SIZE = 0x800
BRANCH, SHORT, CALL, ENTRY, LOCK, RETURN, RETPOLINE = 0x10, 0x20, 0x50, 0x60, 0x70, 0x80, 0x90
ENDBR, ALTERNATIVE, POINTER, SHIFT, ABSOLUTE, TAIL, MOVING = 0xA0, 0xB0, 0xC0, 0xCC, 0xD0, 0xE0, 0xF0
LABEL, TRAMPOLINE, FENTRY, THUNK, RETHUNK, FUNCTION, TRACER = 0x40, 0x200, 0x2F0, 0x300, 0x340, 0x400, 0x440
RODATA, REPLACEMENT = TEXT_VA + 0x4000, TEXT_VA + 0xA000
#: What the alternatives are replaced by: stac; call FUNCTION.
STAC = b"\x0f\x01\xcb"

SYMBOLS: dict[str, int] = {
    "_text": TEXT_VA,
    "__start___jump_table": RODATA,
    "__stop___jump_table": RODATA + 32,
    "__start_static_call_sites": RODATA + 32,
    "__stop_static_call_sites": RODATA + 48,
    "__start_mcount_loc": RODATA + 48,
    "__stop_mcount_loc": RODATA + 56,
    "__SCT__one": TEXT_VA + TRAMPOLINE,
    "__x86_indirect_thunk_rax": TEXT_VA + THUNK,
    "__x86_indirect_thunk_r11": TEXT_VA + THUNK + 32,
    "__x86_return_thunk": TEXT_VA + RETHUNK,
    "__fentry__": TEXT_VA + FENTRY,
    "ftrace_caller": TEXT_VA + TRACER,
    "function": TEXT_VA + FUNCTION,
}


def near(code: str, place: int, target: int, length: int = 5) -> bytes:
    """A branch from one offset to another, with its distance of 32 bits at its end."""
    return bytes.fromhex(code) + struct.pack("<i", target - place - length)


def text() -> bytes:
    """The code of the kernel, as compiled."""
    code = bytearray((i * 37 + i // 256) % 127 + 1 for i in range(SIZE))  # neither 90 nor cc anywhere
    parts = {
        BRANCH: bytes.fromhex("0f1f440000"),
        SHORT: bytes((0xEB, LABEL - SHORT - 2)),
        CALL: near("e8", CALL, TRAMPOLINE),
        TAIL: near("e9", TAIL, TRAMPOLINE),
        ENTRY: near("e8", ENTRY, FENTRY),
        LOCK: b"\xf0",
        RETURN: near("e9", RETURN, RETHUNK),
        RETPOLINE: near("e8", RETPOLINE, THUNK),
        ENDBR: bytes.fromhex("f30f1efa"),
        ALTERNATIVE: b"\x90" * 5,
        MOVING: b"\x90" * 8,
        POINTER: bytes.fromhex("efcdab8967452301"),
        SHIFT: b"\x0c",
        ABSOLUTE: struct.pack("<I", TEXT_VA + FUNCTION & 0xFFFFFFFF),
        TRAMPOLINE: near("e9", TRAMPOLINE, FUNCTION) + bytes.fromhex("0fb9cc"),
    }
    for place, part in parts.items():
        code[place : place + len(part)] = part
    return bytes(code)


@dataclass
class Tables:
    """Sections behind one another, with entries that count from where they are."""

    at: int

    def relative(self, name: str, *places: int) -> Sec:
        """A table of distances of 32 bits."""
        where = self.at
        content = b"".join(struct.pack("<i", TEXT_VA + place - where - 4 * n) for n, place in enumerate(places))
        return self.section(name, content)

    def section(self, name: str, content: bytes) -> Sec:
        """A section, and room for it."""
        va, self.at = self.at, self.at + 0x100
        return Sec(name, content, A, va)


def kernel_tables() -> list[Sec]:
    """The tables that have sections of their own."""
    tables = Tables(TEXT_VA + 0x10000)
    alternatives = tables.at
    entries = b"".join(
        struct.pack("<iiIBB", TEXT_VA + site - at, REPLACEMENT + source - at - 4, 0x10000 | 9 * 32, length, size)
        for at, (site, source, length, size) in (
            (alternatives, (ALTERNATIVE, 0, 5, 3)),
            (alternatives + 14, (MOVING, 3, 8, 5)),
        )
    )
    return [
        tables.section(".altinstructions", entries),
        tables.relative(".retpoline_sites", RETPOLINE),
        tables.relative(".return_sites", RETURN),
        tables.relative(".ibt_endbr_seal", ENDBR),
        tables.relative(".smp_locks", LOCK),
        tables.relative("runtime_ptr_table", POINTER),
        tables.relative("runtime_shift_table", SHIFT),
    ]


def rodata() -> bytes:
    """Jump table, static call sites and mcount table, one after the other as the symbols say."""
    code = b""
    for place in (BRANCH, SHORT):
        here = RODATA + len(code)
        code += struct.pack("<iiq", TEXT_VA + place - here, TEXT_VA + LABEL - here - 4, 0x5000)
    for place, flag in ((CALL, 0), (TAIL, 1)):
        code += struct.pack("<ii", TEXT_VA + place - RODATA - len(code), 0x6000 | flag)
    return code + struct.pack("<Q", TEXT_VA + ENTRY)


def kernel(change: Mapping[str, bytes] | None = None) -> bytes:
    """The image, with its relocations behind it; `change` has other content for sections."""
    replacement = STAC + struct.pack("<Bi", 0xE8, TEXT_VA + FUNCTION - REPLACEMENT - 3 - 5)
    sections = [
        Sec(".text", text(), A | X, TEXT_VA, 4096),
        Sec(".rodata", rodata(), A, RODATA, 16),
        Sec(".notes", notes(), A, TEXT_VA + 0x5000, 4, NOTE),
        Sec(".data", bytes(64), A | W, TEXT_VA + 0x6000, 64),
        *kernel_tables(),
        Sec(".altinstr_replacement", replacement, A | X, REPLACEMENT),
    ]
    changed = [Sec(s.name, (change or {}).get(s.name, s.content), s.flags, s.va, s.align, s.type) for s in sections]
    places = struct.pack("<iiii", 0, 0, 0, TEXT_VA + ABSOLUTE - 2**64)
    return elf64(changed) + places


def symbol(name: int, section: int, value: int, info: int = 0x12) -> bytes:
    """One entry of a symbol table; `name` is an offset in the strings."""
    return struct.pack("<IBBHQQ", name, info, 0, section, value, 0)


def rela(offset: int, kind: int, number: int, addend: int) -> bytes:
    """One relocation."""
    return struct.pack("<QIIq", offset, kind, number, addend)


#: In the module: where it calls an outside function, its entry, a static key's branch, and a return.
OUTSIDE, MODULE_ENTRY, MODULE_BRANCH, MODULE_RETURN, LOCAL = 0x11, 0x00, 0x20, 0x30, 0x41


def module_sections() -> list[Sec]:
    """A module; sections count from 1."""
    code = bytearray((i * 41) % 113 + 1 for i in range(0x80))
    code[MODULE_ENTRY : MODULE_ENTRY + 5] = b"\xe8" + bytes(4)
    code[OUTSIDE - 1 : OUTSIDE + 4] = b"\xe8" + bytes(4)
    code[MODULE_BRANCH : MODULE_BRANCH + 5] = bytes.fromhex("0f1f440000")
    code[MODULE_RETURN : MODULE_RETURN + 5] = b"\xe9" + bytes(4)
    code[LOCAL - 1 : LOCAL + 4] = b"\xe8" + bytes(4)
    names = b"\0outside\0__fentry__\0__x86_return_thunk\0local\0"
    symbols = [
        symbol(0, 0, 0, 0),
        symbol(0, 2, 0, 3),  # .text
        symbol(names.index(b"outside"), 0, 0),
        symbol(names.index(b"__fentry__"), 0, 0),
        symbol(names.index(b"__x86_return_thunk"), 0, 0),
        symbol(names.index(b"local"), 2, 0x70),
    ]
    relocations = [
        rela(MODULE_ENTRY + 1, 4, 3, -4),
        rela(OUTSIDE, 4, 2, -4),
        rela(MODULE_RETURN + 1, 4, 4, -4),
        rela(LOCAL, 2, 5, -4),
        rela(0x50, 0, 0, 0),
    ]
    jump = [rela(0, 2, 1, MODULE_BRANCH), rela(4, 2, 1, 0x60), rela(8, 24, 2, 0)]
    return [
        Sec(".note.gnu.build-id", note(b"GNU", 3, bytes(range(20))), A, align=4, type=NOTE),
        Sec(".text", bytes(code), A | X, align=16),
        Sec(".init.text", bytes(16), A | X),
        Sec("__jump_table", bytes(16), A | W),
        Sec("__mcount_loc", bytes(8), A | W),
        Sec(".return_sites", bytes(4), A),
        Sec(".modinfo", b"name=toy_net\0"),
        Sec(".symtab", b"".join(symbols), 0, type=SYMTAB, link=9),
        Sec(".strtab", names, 0, type=STRTAB),
        Sec(".rela.text", b"".join(relocations), 0, type=RELA, link=8, info=2),
        Sec(".rela__jump_table", b"".join(jump), 0, type=RELA, link=8, info=4),
        Sec(".rela__mcount_loc", rela(0, 1, 1, MODULE_ENTRY), 0, type=RELA, link=8, info=5),
        Sec(".rela.return_sites", rela(0, 2, 1, MODULE_RETURN), 0, type=RELA, link=8, info=6),
    ]


def module(change: Mapping[str, bytes] | None = None) -> bytes:
    """The .ko file; `change` has other content for sections."""
    sections = module_sections()
    changed = [
        Sec(s.name, (change or {}).get(s.name, s.content), s.flags, s.va, s.align, s.type, s.link, s.info)
        for s in sections
    ]
    return elf64(changed, ET_REL)
