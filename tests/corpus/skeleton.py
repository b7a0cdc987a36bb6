# SPDX-License-Identifier: GPL-2.0-or-later
"""ELF files without their contents: section headers, notes and .modinfo stay, every other section is NOBITS.

Small enough for git, and still all that a planner asks of an image.
"""

from __future__ import annotations

import lzma
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import lz4.block
import zstandard

from mbecguard.values.errors import die

EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
SHDR = struct.Struct("<IIQQQQIIQQ")
ELF64_LSB = b"\x7fELF\x02\x01"
SHT_NULL, SHT_NOTE, SHT_NOBITS = 0, 7, 8
SHF_ALLOC = 2
LZ4_LEGACY = b"\x02\x21\x4c\x18"
LZ4_BLOCK = 8 << 20  #: bytes of a legacy block, unpacked
KEPT_CONTENT = frozenset({".modinfo", ".shstrtab"})


@dataclass(frozen=True, slots=True)
class Section:
    """One Elf64_Shdr; offset and size in bytes."""

    name: int
    type: int
    flags: int
    addr: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entry: int

    def pack(self) -> bytes:
        """The 64 bytes of the header."""
        return SHDR.pack(
            self.name, self.type, self.flags, self.addr, self.offset,
            self.size, self.link, self.info, self.align, self.entry,
        )  # fmt: skip


def skeleton(elf: bytes) -> bytes:
    """The skeleton of a 64-bit little-endian ELF: its SHF_ALLOC sections in order, and no program headers."""
    if elf[:6] != ELF64_LSB or len(elf) < EHDR.size:
        die("not a 64-bit little-endian ELF file", hint="is this a Linux x86-64 image?")
    head = list(EHDR.unpack_from(elf))
    table, count, names = head[6], head[12], head[13]
    sections = [Section(*SHDR.unpack_from(elf, table + SHDR.size * index)) for index in range(count)]
    kept = [index for index in range(count) if index in (0, names) or sections[index].flags & SHF_ALLOC]
    renumbered = {old: new for new, old in enumerate(kept)}
    body, headers = b"", b""
    for index in kept:
        section = sections[index]
        content = _content(elf, section, sections[names])
        headers += replace(
            section,
            type=SHT_NOBITS if content is None else section.type,
            offset=EHDR.size + len(body) if index else 0,
            link=renumbered.get(section.link, 0),
            info=0,
        ).pack()
        body += content or b""
        body += bytes(-len(body) % 8)
    head[5:7] = 0, EHDR.size + len(body)
    head[9:11] = 0, 0
    head[12:14] = len(kept), renumbered[names]
    return EHDR.pack(*head) + body + headers


def _content(elf: bytes, section: Section, names: Section) -> bytes | None:
    """What is kept of a section; None makes it NOBITS."""
    start = names.offset + section.name
    name = elf[start : elf.index(b"\0", start)].decode()
    if section.type in (SHT_NULL, SHT_NOTE) or name in KEPT_CONTENT:
        return elf[section.offset : section.offset + section.size]
    return None


def vmlinux(image: bytes) -> bytes:
    """The ELF inside a bzImage (Documentation/arch/x86/boot.rst: setup_sects, payload_offset, payload_length)."""
    if image[0x202:0x206] != b"HdrS":
        die("not a bzImage", hint="expected Debian's /boot/vmlinuz")
    start = (image[0x1F1] + 1) * 512 + int.from_bytes(image[0x248:0x24C], "little")
    return decompressed(image[start : start + int.from_bytes(image[0x24C:0x250], "little")])


def decompressed(data: bytes) -> bytes:
    """Unpack xz, zstd, gzip or lz4 by its magic; the kernel appends the size to its payload, which is ignored."""
    if data.startswith(b"\xfd7zXZ"):
        return lzma.LZMADecompressor().decompress(data)
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    if data.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(wbits=31).decompress(data)
    if data.startswith(LZ4_LEGACY):
        return b"".join(_lz4_blocks(data[len(LZ4_LEGACY) :]))
    if not data.startswith(ELF64_LSB):
        die("packed in a way that the corpus maker does not know", hint="known: xz, zstd, gzip, lz4")
    return data


def _lz4_blocks(data: bytes) -> Iterator[bytes]:
    """Blocks behind their 4-byte lengths (`lz4 -l`); the 4 bytes at the end are the kernel's size."""
    while len(data) > 4:
        end = 4 + int.from_bytes(data[:4], "little")
        yield lz4.block.decompress(data[4:end], uncompressed_size=LZ4_BLOCK)
        data = data[end:]
