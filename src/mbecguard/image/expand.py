# SPDX-License-Identifier: GPL-2.0-or-later
"""Decompression of kernels and modules, by magic number, bounded in memory.

Formats: Documentation/arch/x86/boot.rst ("payload_offset") and lib/decompress_*.c for kernels, kmod for modules.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import NoReturn, Protocol
from zlib import adler32, crc32

from mbecguard.values.errors import UserError, die

LIMIT = 512 << 20  #: bytes; no kernel or module is larger uncompressed

_CHUNK = 1 << 20
_LZ4_BLOCK = 8 << 20  # LEGACY_BLOCKSIZE of the lz4 tool, which lib/decompress_unlz4.c expects
_LZO_BLOCK = 256 << 10  # LZO_BLOCK_SIZE of lib/decompress_unlzo.c
Data = bytes | memoryview
_DAMAGED = "Take the file from its package again; the copy here may be damaged or cut short."


@dataclass(frozen=True, slots=True)
class Decompressor:
    """One format: how it starts, and what yields its content in chunks of 8 MiB at most.

    `chunks` raises whatever its library raises; `package` (Debian, PyPI) names a library that is optional.
    """

    magic: bytes
    name: str
    chunks: Callable[[Data], Iterator[bytes]]
    package: tuple[str, str] = ("", "")


def expand(data: bytes, name: str, declared: int | None = None) -> bytes:
    """`data` decompressed; to exactly `declared` bytes if given, to `LIMIT` at most.

    Holds no more than the result, one chunk and the format's own window. Raises UserError.
    """
    out = BytesIO()
    for chunk in chunks(data, name, declared):
        out.write(chunk)
    return out.getvalue()


def chunks(data: Data, name: str, declared: int | None = None) -> Iterator[bytes]:
    """The same chunk by chunk: holds one, and the format's own window. What is wrong may only show at the end."""
    method = next((method for method in DECOMPRESSORS if data[: len(method.magic)] == method.magic), None)
    if method is None:
        die(
            f"{name}: neither ELF nor compressed in a known way",
            "Known are " + ", ".join(method.name for method in DECOMPRESSORS) + ".",
        )
    limit = LIMIT if declared is None else declared
    if limit > LIMIT:
        die(f"{name}: claims to hold {limit} bytes, more than any kernel", _DAMAGED)
    size = 0
    for chunk in _sound(method, data, name):
        size += len(chunk)
        if size > limit:
            die(f"{name}: holds more than {limit} bytes", _DAMAGED)
        yield chunk
    if declared is not None and size != declared:
        die(f"{name}: holds {size} bytes, not the {declared} it claims", _DAMAGED)


def _sound(method: Decompressor, data: Data, name: str) -> Iterator[bytes]:
    """What a library yields; its exceptions become ours."""
    try:
        yield from method.chunks(data)
    except UserError:
        raise
    except ImportError:
        _missing(method, name)
    except Exception as error:  # each library has exceptions of its own, some plain RuntimeError
        die(f"{name}: damaged {method.name} data ({error})", _DAMAGED)


def _missing(method: Decompressor, name: str) -> NoReturn:
    debian, pypi = method.package
    die(
        f"{name}: cannot read {method.name} without its Python library",
        f"Install it: apt install {debian}, or pip install {pypi}.",
    )


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _stream(file: _Readable) -> Iterator[bytes]:
    return iter(partial(file.read, _CHUNK), b"")


def _gzip(data: Data) -> Iterator[bytes]:
    from gzip import GzipFile

    return _stream(GzipFile(fileobj=BytesIO(data)))


def _bzip2(data: Data) -> Iterator[bytes]:
    from bz2 import BZ2File

    return _stream(BZ2File(BytesIO(data)))


def _xz_or_lzma(data: Data) -> Iterator[bytes]:
    from lzma import LZMAFile

    return _stream(LZMAFile(BytesIO(data)))


def _zstd(data: Data) -> Iterator[bytes]:
    import zstandard

    # The kernel is packed with windows of 128 MiB and more; untouched parts of a window cost no memory.
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 31)
    expected = zstandard.frame_content_size(data)
    total = 0
    for chunk in _stream(decompressor.stream_reader(data)):
        total += len(chunk)
        yield chunk
    if expected not in (-1, total):  # the reader takes a truncated frame for a short one
        raise EOFError("ends before its end")


def _lz4(data: Data) -> Iterator[bytes]:
    from lz4.block import decompress

    reader = _Reader(data, position=4)
    while reader.left:
        yield decompress(reader.take(reader.number("<I")), uncompressed_size=_LZ4_BLOCK)


class _Reader:
    """A cursor that never passes the end."""

    def __init__(self, data: Data, position: int) -> None:
        self._data, self._position = data, position

    @property
    def left(self) -> int:
        return len(self._data) - self._position

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise EOFError("ends before its end")
        self._position += size
        return bytes(self._data[self._position - size : self._position])

    def number(self, layout: str) -> int:
        value: int = struct.unpack(layout, self.take(struct.calcsize(layout)))[0]
        return value


# Flags of an lzop file: which checksums each block carries, and what else the header has.
_ADLER32_D, _ADLER32_C, _EXTRA, _CRC32_D, _CRC32_C, _FILTER = 0x1, 0x2, 0x40, 0x100, 0x200, 0x800


def _lzop(data: Data) -> Iterator[bytes]:
    import lzo

    reader = _Reader(data, position=9)
    flags = _lzop_header(reader)
    while size := reader.number(">I"):
        packed = reader.number(">I")
        sums = [reader.number(">I") for flag in (_ADLER32_D, _CRC32_D) if flags & flag]
        if packed < size:
            reader.take(4 * sum(bool(flags & flag) for flag in (_ADLER32_C, _CRC32_C)))
        if size > _LZO_BLOCK or packed > size:
            raise ValueError(f"a block of {packed} for {size} bytes")
        block = reader.take(packed)
        chunk = block if packed == size else lzo.decompress(block, False, size)
        checks = [check(chunk) for flag, check in ((_ADLER32_D, adler32), (_CRC32_D, crc32)) if flags & flag]
        if len(chunk) != size or sums != checks:
            raise ValueError("wrong checksum")
        yield chunk


def _lzop_header(reader: _Reader) -> int:
    version = reader.number(">H")
    reader.take(2)  # version of the library
    if version >= 0x0940:
        reader.take(2)  # version needed to extract
    reader.take(2 if version >= 0x0940 else 1)  # method, level
    flags = reader.number(">I")
    if flags & (_EXTRA | _FILTER):
        raise ValueError("extra fields and filters are not used for kernels")
    reader.take(12 if version >= 0x0940 else 8)  # mode, time
    reader.take(reader.number(">B"))  # file name
    reader.take(4)  # checksum of the header
    return flags


DECOMPRESSORS = (
    Decompressor(b"\x1f\x8b", "gzip", _gzip),
    Decompressor(b"BZh", "bzip2", _bzip2),
    Decompressor(b"\x5d\x00\x00", "lzma", _xz_or_lzma),
    Decompressor(b"\xfd7zXZ\x00", "xz", _xz_or_lzma),
    Decompressor(b"\x02\x21\x4c\x18", "lz4", _lz4, ("python3-lz4", "lz4")),
    Decompressor(b"\x89LZO\x00\r\n\x1a\n", "lzo", _lzop, ("python3-lzo", "python-lzo")),
    Decompressor(b"\x28\xb5\x2f\xfd", "zstd", _zstd, ("python3-zstandard", "zstandard")),
)
