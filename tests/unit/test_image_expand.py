# SPDX-License-Identifier: GPL-2.0-or-later
"""Decompressors against the tools that kernel builds use."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
import sys

import pytest

from mbecguard.image import expand as module_under_test
from mbecguard.image.expand import DECOMPRESSORS, expand
from mbecguard.values.errors import UserError
from tests.elfmaker import PACKERS, zstd

# More than one block of every format, part of it incompressible.
CONTENT = bytes(9 << 20) + random.Random(1).randbytes(700_000) + b"kernel text " * 99_999

TOOLS = {
    "gzip": ["gzip", "-n", "-1"],
    "bzip2": ["bzip2", "-1"],
    "lzma": ["xz", "--format=lzma", "-1"],
    "xz": ["xz", "--check=crc32", "--x86", "--lzma2=preset=1"],
    "lz4": ["lz4", "-l", "-1", "-q"],
    "lzo": ["lzop", "-3"],
    "zstd": ["zstd", "-3", "-q"],
}


def test_table_is_complete() -> None:
    assert {method.name for method in DECOMPRESSORS} == PACKERS.keys() == TOOLS.keys()


@pytest.mark.parametrize("method", sorted(TOOLS))
def test_output_of_the_tools(method: str) -> None:
    command = TOOLS[method]
    if not shutil.which(command[0]):
        pytest.skip(f"needs {command[0]}")
    packed = subprocess.run([*command, "-c"], input=CONTENT, capture_output=True, check=True).stdout
    assert expand(packed, "toy") == CONTENT
    assert expand(packed, "toy", len(CONTENT)) == CONTENT


@pytest.mark.parametrize("flags", [[], ["--no-checksum"], ["--crc32"]])
def test_lzop_checksums(flags: list[str]) -> None:
    if not shutil.which("lzop"):
        pytest.skip("needs lzop")
    content = b"kernel text " * 50_000 + random.Random(2).randbytes(5000)
    packed = subprocess.run(["lzop", "-c", *flags], input=content, capture_output=True, check=True).stdout
    assert expand(packed, "toy") == content


@pytest.mark.parametrize("method", sorted(PACKERS))
def test_empty(method: str) -> None:
    assert expand(PACKERS[method](b""), "toy") == b""


@pytest.mark.parametrize("window_log", [20, 27, 30, 31])
def test_zstd_windows(window_log: int) -> None:
    content = b"kernel text " * 9999
    # Small inputs get small windows from the compressor; set the descriptor byte as `zstd --long` does.
    frame = bytearray(zstd(content, 20))
    assert frame[4] == 0  # neither size nor checksum: the window descriptor follows
    frame[5] = (window_log - 10) << 3
    assert expand(bytes(frame), "toy") == content


def test_zstd_that_tells_its_size_is_not_cut_short() -> None:
    import zstandard

    packed = zstandard.compress(random.Random(3).randbytes(400_000))
    with pytest.raises(UserError, match="damaged zstd data"):
        expand(packed[:-100_000], "toy")


def lzop(blocks: bytes, version: int = 0x0940, flags: int = 0) -> bytes:
    if version >= 0x0940:
        head = struct.pack(">HHHBBIIIIB", version, 0, version, 1, 5, flags, 0, 0, 0, 3) + b"abc"
    else:
        head = struct.pack(">HHBIIIB", version, 0, 1, flags, 0, 0, 3) + b"abc"
    return b"\x89LZO\x00\r\n\x1a\n" + head + bytes(4) + blocks


STORED = struct.pack(">II", 4, 4) + b"text"
END = bytes(4)


@pytest.mark.parametrize("version", [0x0900, 0x0940])
def test_lzop_headers(version: int) -> None:
    assert expand(lzop(STORED + STORED + END, version), "toy") == b"texttext"


@pytest.mark.parametrize(
    "data",
    [
        lzop(STORED),
        lzop(STORED[:-1]),
        lzop(b""),
        lzop(STORED + END, flags=0x40),
        lzop(STORED + END, flags=0x800),
        lzop(struct.pack(">II", 4, 5) + b"text!" + END),
        lzop(struct.pack(">II", (256 << 10) + 1, 4) + b"text" + END),
        lzop(struct.pack(">II", 9, 4) + b"text" + END),
        lzop(struct.pack(">III", 4, 4, 1) + b"text" + END, flags=1),
        lzop(struct.pack(">III", 4, 4, 1) + b"text" + END, flags=0x100),
        b"\x02\x21\x4c\x18" + b"\x01",
        b"\x02\x21\x4c\x18" + struct.pack("<I", 0xFFFFFFFF) + b"x",
        b"\x02\x21\x4c\x18" + struct.pack("<I", 0),
    ],
)
def test_damaged_blocks(data: bytes) -> None:
    with pytest.raises(UserError, match="damaged lz"):
        expand(data, "toy")


@pytest.mark.parametrize("method", sorted(PACKERS))
@pytest.mark.parametrize(("declared", "fits"), [(5000, True), (4999, False), (5001, False), (0, False)])
def test_declared_size_is_exact(method: str, declared: int, fits: bool) -> None:
    packed = PACKERS[method](b"12345" * 1000)
    if fits:
        assert expand(packed, "toy", declared) == b"12345" * 1000
    else:
        with pytest.raises(UserError, match="toy: holds"):
            expand(packed, "toy", declared)


@pytest.mark.parametrize("method", sorted(PACKERS))
def test_hard_limit(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_under_test, "LIMIT", 5000)
    assert len(expand(PACKERS[method](bytes(5000)), "toy")) == 5000
    with pytest.raises(UserError, match="holds more than 5000 bytes"):
        expand(PACKERS[method](bytes(5001)), "toy")


@pytest.mark.parametrize(
    ("method", "library", "packages"),
    [
        ("lz4", "lz4.block", ("apt install python3-lz4,", "pip install lz4.")),
        ("lzo", "lzo", ("apt install python3-lzo,", "pip install python-lzo.")),
    ],
)
def test_missing_library(method: str, library: str, packages: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    packed = PACKERS[method](b"kernel")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=f"cannot read {method}") as caught:
        expand(packed, "toy")
    assert all(package in caught.value.hint for package in packages)
