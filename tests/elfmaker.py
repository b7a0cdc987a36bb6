# SPDX-License-Identifier: GPL-2.0-or-later
"""Small ELF, bzImage and PE files for tests, written from the formats' documents, not from the code under test."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

ET_REL, ET_EXEC, ET_DYN = 1, 2, 3
PROGBITS, STRTAB, NOTE, NOBITS = 1, 3, 7, 8
SYMTAB, RELA = 2, 4
A, W, X = 2, 1, 4  # SHF_ALLOC, SHF_WRITE, SHF_EXECINSTR
BUILD_ID = bytes(range(20))
TEXT_VA = 0xFFFFFFFF81000000


@dataclass(frozen=True)
class Sec:
    """One section; an int as content makes it SHT_NOBITS of that size."""

    name: str
    content: bytes | int = b""
    flags: int = A
    va: int = 0
    align: int = 1
    type: int = PROGBITS
    link: int = 0
    info: int = 0


def elf64(sections: Sequence[Sec], kind: int = ET_EXEC, machine: int = 62) -> bytes:
    """An ELF64 little-endian file: header, contents, section names, section table."""
    table = [Sec("", type=0, flags=0, align=0), *sections]
    names = b"".join(s.name.encode() + b"\0" for s in table) + b".shstrtab\0"
    table.append(Sec(".shstrtab", names, flags=0, type=STRTAB))
    body, headers, name_at = bytearray(64), bytearray(), 0
    for s in table:
        size = s.content if isinstance(s.content, int) else len(s.content)
        kind_of = NOBITS if isinstance(s.content, int) else s.type
        body += bytes(-len(body) % min(s.align or 1, 16))
        headers += struct.pack(
            "<IIQQQQIIQQ", name_at, kind_of, s.flags, s.va, len(body), size, s.link, s.info, s.align, 0
        )
        body += b"" if isinstance(s.content, int) else s.content
        name_at += len(s.name.encode()) + 1
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    body[:64] = struct.pack(
        "<16sHHIQQQIHHHHHH",
        *(ident, kind, machine, 1, 0, 0, len(body), 0, 64, 0, 0, 64, len(table), len(table) - 1),
    )
    return bytes(body + headers)


def note(owner: bytes, kind: int, desc: bytes) -> bytes:
    """One ELF note; `owner` without its NUL."""
    name = owner + b"\0"
    padded = [part + bytes(-len(part) % 4) for part in (name, desc)]
    return struct.pack("<III", len(name), len(desc), kind) + b"".join(padded)


def notes(build_id: bytes = BUILD_ID) -> bytes:
    """Notes as a distribution kernel has them: the build-id is not the first."""
    return note(b"Xen", 6, b"linux") + note(b"Linux", 0x100, bytes(4)) + note(b"GNU", 3, build_id)


def vmlinux(build_id: bytes = BUILD_ID, kind: int = ET_EXEC, extra: Sequence[Sec] = ()) -> bytes:
    """A kernel with the sections of a distribution's, small."""
    pattern = bytes(i * 7 % 251 for i in range(9000))
    return elf64(
        [
            Sec(".text", pattern, A | X, TEXT_VA, 4096),
            Sec(".rodata", b"Linux version 6.12\0", A, TEXT_VA + 0x4000, 16),
            Sec(".notes", notes(build_id), A, TEXT_VA + 0x5000, 4, NOTE),
            Sec(".data", pattern[:999], A | W, TEXT_VA + 0x6000, 64),
            Sec(".init.text", pattern[:700], A | X, TEXT_VA + 0x8000, 16),
            Sec(".altinstr_aux", pattern[:33], A | X, TEXT_VA + 0x9000, 1),
            Sec(".altinstr_replacement", pattern[:50], A | X, TEXT_VA + 0xA000, 1),
            Sec(".exit.text", pattern[:60], A | X, TEXT_VA + 0xB000, 1),
            Sec(".bss", 0x3000, A | W, TEXT_VA + 0xC000, 4096),
            *extra,
        ],
        kind,
    )


def module(name: str = "toy_net", build_id: bytes = BUILD_ID, extra: Sequence[Sec] = ()) -> bytes:
    """A relocatable module with core and init text."""
    return elf64(
        [
            Sec(".note.gnu.build-id", note(b"GNU", 3, build_id), A, align=4, type=NOTE),
            Sec(".text", bytes(101), A | X, align=16),
            Sec(".text.unlikely", bytes(7), A | X),
            Sec(".init.text", bytes(55), A | X, align=8),
            Sec(".exit.text", bytes(9), A | X, align=4),
            Sec(".altinstr_replacement", bytes(12), A | X),
            Sec(".modinfo", b"license=GPL\0name=" + name.encode() + b"\0" if name else b"license=GPL\0"),
            Sec(".data", bytes(64), A | W, align=32),
            *extra,
        ],
        ET_REL,
    )


def _lz4_legacy(data: bytes, block: int = 8 << 20) -> bytes:
    from lz4.block import compress

    pieces = [compress(data[i : i + block], store_size=False) for i in range(0, len(data), block)]
    return b"\x02\x21\x4c\x18" + b"".join(struct.pack("<I", len(piece)) + piece for piece in pieces)


def _lzop(data: bytes, block: int = 256 << 10) -> bytes:
    import lzo

    # version, library, needed, method LZO1X_999, level 9, flags ADLER32_D | ADLER32_C, mode, time x2, name
    head = struct.pack(">HHHBBIIIIB", 0x1030, 0x20A0, 0x0940, 3, 9, 0x3, 0o100644, 0, 0, 0)
    out = b"\x89LZO\x00\r\n\x1a\n" + head + struct.pack(">I", zlib.adler32(head))
    for start in range(0, len(data), block):
        plain = data[start : start + block]
        packed = min(lzo.compress(plain, 9, False), plain, key=len)
        out += struct.pack(">III", len(plain), len(packed), zlib.adler32(plain))
        out += struct.pack(">I", zlib.adler32(packed)) if len(packed) < len(plain) else b""
        out += packed
    return out + bytes(4)


def zstd(data: bytes, window_log: int = 27, checksum: bool = False) -> bytes:
    """A zstd frame that does not tell its size, as a pipe makes it, with a window of 2**window_log bytes."""
    import zstandard

    params = zstandard.ZstdCompressionParameters(
        compression_level=3, window_log=window_log, write_content_size=False, write_checksum=checksum
    )
    packer = zstandard.ZstdCompressor(compression_params=params).compressobj()
    return packer.compress(data) + packer.flush()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32),
    "lz4": _lz4_legacy,
    "lzo": _lzop,
    "zstd": zstd,
}


def payload(method: str, data: bytes, size: int | None = None) -> bytes:
    """`data` packed as in a kernel build: with its size appended, which gzip has already."""
    packed = PACKERS[method](data)
    claim = struct.pack("<I", len(data) if size is None else size)
    if method == "gzip":
        return packed if size is None else packed[:-4] + claim
    return packed + claim


def bzimage(body: bytes, setup_sects: int = 3, version: int = 0x20F, offset: int = 0x2C0) -> bytes:
    """A bzImage around a payload: setup sectors, a stub of `offset` bytes, the payload, a tail."""
    setup = bytearray(((setup_sects or 4) + 1) * 512)
    setup[0:2] = b"MZ"  # the EFI stub makes a bzImage a PE file, too
    setup[0x1F1] = setup_sects
    struct.pack_into("<H", setup, 0x1FE, 0xAA55)
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, version)
    struct.pack_into("<II", setup, 0x248, offset, len(body))
    return bytes(setup) + b"\x90" * offset + body + b"\0" * 77


def pe(sections: Sequence[tuple[bytes, bytes]]) -> bytes:
    """A PE file with raw sections, as ukify lays out a unified kernel image (payload padded to 512)."""
    head = bytearray(b"MZ".ljust(0x80, b"\0"))
    struct.pack_into("<I", head, 0x3C, 0x80)
    head += struct.pack("<4sHHIIIHH", b"PE\0\0", 0x8664, len(sections), 0, 0, 0, 240, 0x22) + bytes(240)
    start = len(head) + 40 * len(sections)
    table, raw = b"", b""
    for name, content in sections:
        padded = content + bytes(-len(content) % 512)
        numbers = (len(content), 0x1000, len(padded), start + len(raw), 0, 0, 0, 0, 0)
        table += struct.pack("<8sIIIIIIHHI", name, *numbers)
        raw += padded
    return bytes(head) + table + raw
