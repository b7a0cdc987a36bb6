# SPDX-License-Identifier: GPL-2.0-or-later
"""The skeleton maker of the corpus, judged by binutils."""

from __future__ import annotations

import gzip
import lzma
import re
import shutil
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lz4.block
import pytest
import zstandard

from mbecguard.values.errors import UserError
from tests.corpus.skeleton import decompressed, skeleton, vmlinux

A, W, X, LINK_ORDER = 2, 1, 4, 0x80
PROGBITS, SYMTAB, STRTAB, RELA, NOTE, NOBITS = 1, 2, 3, 4, 7, 8
BUILD_ID = bytes(range(20))
NOTE_BYTES = struct.pack("<III4s", 4, 20, 3, b"GNU\0") + BUILD_ID
MODINFO = b"license=GPL\0name=sample\0"

needs_readelf = pytest.mark.skipif(not shutil.which("readelf"), reason="binutils is not installed")


@dataclass(frozen=True, slots=True)
class Spec:
    """One section to synthesise."""

    name: str
    type: int
    flags: int
    addr: int = 0
    data: bytes = b""
    align: int = 1
    link: int = 0


SPECS = (
    Spec(".symtab", SYMTAB, 0, data=bytes(48), align=8, link=9),
    Spec(".text", PROGBITS, A | X, 0xFFFFFFFF81000000, b"\x90" * 5000, 4096),
    Spec(".rela.text", RELA, 0, data=bytes(24), align=8, link=1),
    Spec(".note.gnu.build-id", NOTE, A, 0xFFFFFFFF81002000, NOTE_BYTES, 4),
    Spec(".modinfo", PROGBITS, A, 0, MODINFO),
    Spec("__patchable_function_entries", PROGBITS, A | W | LINK_ORDER, 0x2C10, bytes(16), 8, link=2),
    Spec(".debug_info", PROGBITS, 0, data=b"d" * 900),
    Spec(".bss", NOBITS, A | W, 0xFFFFFFFF81004000, b"", 32),
    Spec(".strtab", STRTAB, 0, data=b"\0symbol\0"),
    Spec(".comment", PROGBITS, 0, data=b"GCC"),
)


def elf(specs: tuple[Spec, ...], kind: int = 1) -> bytes:
    """A small ELF of the given sections (.shstrtab last)."""
    names = b"\0" + b"".join(spec.name.encode() + b"\0" for spec in specs) + b".shstrtab\0"
    body, table = b"", bytes(64)
    for spec in (*specs, Spec(".shstrtab", STRTAB, 0, data=names)):
        body += bytes(-len(body) % 16)
        name = names.index(b"\0" + spec.name.encode() + b"\0") + 1
        size = len(spec.data) or 0x777
        table += struct.pack(
            "<IIQQQQIIQQ", name, spec.type, spec.flags, spec.addr, 64 + len(body), size, spec.link, 0,
            spec.align, 0,
        )  # fmt: skip
        body += spec.data
    body += bytes(-len(body) % 8)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    count = len(specs) + 2
    head = struct.pack("<16sHHIQQQIHHHHHH", ident, kind, 62, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, count, count - 1)
    return head + body + table


def sections(path: Path) -> dict[str, tuple[str, str, str, str, str, str]]:
    """What readelf says: name -> (type, address, size, flags, link, alignment), in order."""
    text = subprocess.run(["readelf", "-SW", path], capture_output=True, text=True, check=True).stdout
    row = re.compile(
        r"\[ *\d+\] (\S+) +([A-Z]+) +([0-9a-f]{16}) [0-9a-f]+ ([0-9a-f]+) \d\d +([A-Z]*) +(\d+) +\d+ +(\d+)"
    )
    return {m[1]: (m[2], m[3], m[4], m[5], m[6], m[7]) for m in row.finditer(text)}


@needs_readelf
@pytest.mark.parametrize("kind", [1, 2], ids=["module", "kernel"])
def test_allocated_sections_survive_without_their_content(tmp_path: Path, kind: int) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.write_bytes(elf(SPECS, kind))
    after.write_bytes(skeleton(before.read_bytes()))
    old, new = sections(before), sections(after)
    assert list(new) == [spec.name for spec in SPECS if spec.flags & A] + [".shstrtab"]
    for name in list(new)[:-1]:
        kept = name.startswith(".note") or name == ".modinfo"
        assert new[name][0] == (old[name][0] if kept else "NOBITS"), name
        assert new[name][1:4] == old[name][1:4], name
        assert new[name][5] == old[name][5], name
    assert new["__patchable_function_entries"][4] == "1", "the link follows .text to its new number"
    notes = subprocess.run(["readelf", "-nW", after], capture_output=True, text=True, check=True)
    assert f"Build ID: {BUILD_ID.hex()}" in notes.stdout
    assert not notes.stderr


@needs_readelf
def test_modinfo_keeps_its_content(tmp_path: Path) -> None:
    path = tmp_path / "skeleton"
    path.write_bytes(skeleton(elf(SPECS)))
    shown = subprocess.run(["readelf", "-p", ".modinfo", path], capture_output=True, text=True, check=True)
    assert "license=GPL" in shown.stdout
    assert "name=sample" in shown.stdout


def test_the_skeleton_is_small_and_its_own_skeleton() -> None:
    once = skeleton(elf(SPECS))
    assert len(once) < 1200
    assert b"\x90" * 8 not in once
    assert skeleton(once) == once


@pytest.mark.parametrize("data", [b"", b"\x7fELF\x01\x01" + bytes(80), b"MZ" + bytes(100), b"\x7fELF\x02\x01"])
def test_what_is_no_elf64_is_refused(data: bytes) -> None:
    with pytest.raises(UserError):
        skeleton(data)


def lz4_legacy(plain: bytes) -> bytes:
    blocks = [lz4.block.compress(plain, store_size=False)]
    return b"\x02\x21\x4c\x18" + b"".join(struct.pack("<I", len(block)) + block for block in blocks)


@pytest.mark.parametrize("pack", [lzma.compress, zstandard.compress, gzip.compress, lz4_legacy, bytes])
def test_a_bzimage_gives_its_elf(pack: Callable[[bytes], bytes]) -> None:
    plain = elf(SPECS, 2)
    payload = pack(plain) + len(plain).to_bytes(4, "little") * (pack is not bytes)
    image = bytearray(5 * 512)
    image[0x1F1] = 4
    image[0x202:0x206] = b"HdrS"
    image[0x248:0x250] = struct.pack("<II", 48, len(payload))
    assert vmlinux(bytes(image) + bytes(48) + payload + b"signature") == plain


@pytest.mark.parametrize("unpack", [vmlinux, decompressed])
def test_an_unknown_packing_is_refused(unpack: Callable[[bytes], bytes]) -> None:
    with pytest.raises(UserError):
        unpack(b"BZh9" + bytes(2000))
