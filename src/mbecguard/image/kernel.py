# SPDX-License-Identifier: GPL-2.0-or-later
"""From a kernel image on disk to its build-id and code sections.

Understood: vmlinux (plain, compressed, or the NOBITS skeleton of `objcopy --only-keep-debug`), bzImage, and
PE unified kernel images. Offsets: Documentation/arch/x86/boot.rst ("The Real-Mode Kernel Header").
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import TypeVar

from mbecguard.image.elf import MAGIC, Elf, ElfType, read_elf
from mbecguard.image.expand import chunks, expand
from mbecguard.image.outline import NotHeldError, Outline
from mbecguard.image.sections import Section, SectionKind, build_id, code_sections
from mbecguard.values.errors import die

_SETUP_SECTS, _BOOT_FLAG, _HEADER_MAGIC, _VERSION, _PAYLOAD = 0x1F1, 0x1FE, 0x202, 0x206, 0x248
_PAYLOAD_VERSION = 0x208  # boot protocol 2.08 (Linux 2.6.26) brought payload_offset and payload_length
_PE_HEADER = 0x3C
_COFF = struct.Struct("<4sHH12xHH")  # signature, machine, sections, (...), size of the optional header
_PE_SECTION = struct.Struct("<8sIIII16x")

T = TypeVar("T", bytes, Outline)

_TYPES = frozenset({ElfType.EXEC, ElfType.DYN})
_HINT = "Name the kernel's own file, for example /boot/vmlinuz of the running release."


@dataclass(frozen=True, slots=True)
class KernelImage:
    """What one kernel file says: build-id (hex, never empty) and code sections, `.text` among them."""

    build_id: str
    sections: tuple[Section, ...]


def read_kernel(data: bytes, name: str = "kernel image") -> KernelImage:
    """Parse a kernel image of any supported form. Raises UserError naming it."""
    if not data.startswith(MAGIC):
        with suppress(NotHeldError):  # notes that no program header tells of
            return read_elf(_elf(Outline(_pieces(data, name)), name), name, _TYPES, _facts)
    return read_elf(unpack(data, name), name, _TYPES, _facts)


def unpack(data: bytes, name: str = "kernel image") -> bytes:
    """The vmlinux ELF file inside `data`; appended relocations stay appended. Raises UserError."""
    if data.startswith(MAGIC):
        return data
    out = BytesIO()
    for piece in _pieces(data, name):
        out.write(piece)
    return _elf(out.getvalue(), name)


def _pieces(data: bytes, name: str) -> Iterator[bytes]:
    """What is inside `data`, piece by piece."""
    if data.startswith(b"MZ") and not _is_bzimage(data):
        data = _linux_section(data, name)
    if not data.startswith(MAGIC) and not _is_bzimage(data):
        data = expand(data, name)  # some ship a compressed bzImage
    return _payload(data, name) if _is_bzimage(data) else iter((data,))


def _elf(file: T, name: str) -> T:
    if file[: len(MAGIC)] != MAGIC:
        die(f"{name}: what it holds is not an ELF file", _HINT)
    return file


def _facts(elf: Elf) -> KernelImage:
    identity, sections = build_id(elf), code_sections(elf)
    if not identity:
        die("has no build-id", "Without one no file can be matched to the running kernel; link with --build-id.")
    if not any(s.name == ".text" and s.bytes and s.kind is SectionKind.RESIDENT for s in sections):
        die("has no .text section", _HINT)
    return KernelImage(identity, sections)


def _is_bzimage(data: bytes) -> bool:
    boot_flag, magic = data[_BOOT_FLAG : _BOOT_FLAG + 2], data[_HEADER_MAGIC : _HEADER_MAGIC + 4]
    return boot_flag == b"\x55\xaa" and magic == b"HdrS"


def _payload(data: bytes, name: str) -> Iterator[bytes]:
    if len(data) < _PAYLOAD + 8:
        die(f"{name}: cut short inside the boot header", _HINT)
    (version,) = struct.unpack_from("<H", data, _VERSION)
    if version < _PAYLOAD_VERSION:
        die(f"{name}: boot protocol {version >> 8}.{version & 0xFF:02} does not tell where the kernel is", _HINT)
    offset, length = struct.unpack_from("<II", data, _PAYLOAD)
    start = ((data[_SETUP_SECTS] or 4) + 1) * 512 + offset
    end = start + length
    if length <= 4 or end > len(data):
        die(f"{name}: cut short, the compressed kernel lies behind the end of the file", _HINT)
    # The build appends the uncompressed size, except to gzip, whose last field (ISIZE) it is already.
    size = int.from_bytes(data[end - 4 : end], "little")
    gzip = data.startswith(b"\x1f\x8b", start)
    return chunks(memoryview(data)[start : end if gzip else end - 4], name, declared=size)


def _linux_section(data: bytes, name: str) -> bytes:
    """The `.linux` section of a unified kernel image (the first one: the base profile)."""
    found = (section for section in _pe_sections(data, name) if section[0].rstrip(b"\0") == b".linux")
    section = next(found, None)
    if section is None:
        die(f"{name}: an EFI program that holds no Linux kernel", _HINT)
    _, size, _, raw_size, start = section
    end = start + min(size, raw_size)
    if end > len(data):
        die(f"{name}: cut short inside the .linux section", _HINT)
    return data[start:end]


def _pe_sections(data: bytes, name: str) -> list[tuple[bytes, int, int, int, int]]:
    try:
        (coff,) = struct.unpack_from("<I", data, _PE_HEADER)
        signature, _, count, optional, _ = _COFF.unpack_from(data, coff)
        table = coff + _COFF.size + optional
        sections = [_PE_SECTION.unpack_from(data, table + i * _PE_SECTION.size) for i in range(count)]
    except struct.error:
        die(f"{name}: cut short inside the PE header", _HINT)
    if signature != b"PE\0\0":
        die(f"{name}: not a kernel image", _HINT)
    return sections
