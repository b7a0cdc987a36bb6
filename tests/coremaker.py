# SPDX-License-Identifier: GPL-2.0-or-later
"""A file like /proc/kcore: notes, and physical memory as the direct map and the kernel's own mapping show it."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from tests.elfmaker import note

PT_LOAD, PT_NOTE, NOWHERE = 1, 4, 2**64 - 1
DIRECT_MAPS = {4: 0xFFFF888000000000, 5: 0xFF11000000000000}  # Documentation/arch/x86/x86_64/mm.rst
KERNEL_MAP = 0xFFFFFFFF80000000


@dataclass
class Core:
    """Physical memory page by page. The kernel's image is `[phys_base, phys_base + image_bytes)`."""

    pages: dict[int, bytes] = field(default_factory=dict)
    phys_base: int = 0x200000
    image_bytes: int = 0x10000
    ram: tuple[tuple[int, int], ...] = ((0x1000, 0x9F000), (0x100000, 0x300000))  #: bytes [start, end)
    swapper: int = 0x4000  #: of the top table, from the start of the image
    levels: int = 4
    more: str = ""  #: lines of VMCOREINFO
    note_name: bytes = b"VMCOREINFO"

    def write(self, pa: int, data: bytes) -> None:
        """Put bytes at a physical address."""
        while data:
            start, at = pa & ~0xFFF, pa & 0xFFF
            page = bytearray(self.pages.get(start, bytes(4096)))
            piece = data[: 4096 - at]
            page[at : at + len(piece)] = piece
            self.pages[start] = bytes(page)
            pa, data = pa + len(piece), data[len(piece) :]

    def info(self) -> str:
        """The text of VMCOREINFO."""
        return (
            f"OSRELEASE=6.12\nSYMBOL(swapper_pg_dir)={KERNEL_MAP + self.swapper:x}\n"
            f"NUMBER(phys_base)={self.phys_base}\nNUMBER(pgtable_l5_enabled)={int(self.levels == 5)}\n{self.more}"
        )

    def segments(self) -> list[tuple[int, int, int, int]]:
        """(va, pa, bytes, physical start of the content) of each PT_LOAD, in the kernel's order."""
        ram = [(DIRECT_MAPS[self.levels] + start, start, end - start, start) for start, end in self.ram]
        text = (KERNEL_MAP, self.phys_base, self.image_bytes, self.phys_base)
        return [text, (0xFFFFC90000000000, NOWHERE, 0x1000, 0), *ram]

    def file(self) -> bytes:
        """The whole file; memory that was never written is a hole at its end, or zero."""
        notes = note(b"CORE", 1, bytes(336)) + note(self.note_name, 0, self.info().encode())
        segments = self.segments()
        offset = 64 + 56 * (len(segments) + 1)
        headers = [struct.pack("<IIQQQQQQ", PT_NOTE, 0, offset, 0, 0, len(notes), 0, 4)]
        body = bytearray(notes)
        for va, pa, size, start in segments:
            at = offset + len(body)
            headers.append(struct.pack("<IIQQQQQQ", PT_LOAD, 7, at, va, pa, size, size, 4096))
            pages = range(start, start + size, 4096)
            last = max((index for index, page in enumerate(pages) if page in self.pages), default=-1)
            body += b"".join(self.pages.get(page, bytes(4096)) for page in pages[: last + 1])
            body += bytes(min(size, 4096))
        ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
        head = struct.pack("<16sHHIQQQIHHHHHH", ident, 4, 62, 1, 0, 64, 0, 0, 64, 56, len(headers), 0, 0, 0)
        return head + b"".join(headers) + bytes(body)
