# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel images in every wrapping, whole and damaged."""

from __future__ import annotations

import gzip
import random
import struct
import time
import tracemalloc
import zlib
from functools import cache

import pytest

from mbecguard.image.kernel import KernelImage, read_kernel, unpack
from mbecguard.image.sections import Section, SectionKind
from mbecguard.values.errors import UserError
from tests import elfmaker
from tests.elfmaker import BUILD_ID, PACKERS, TEXT_VA, A, Sec, X, bzimage, elf64, payload, pe, vmlinux

ELF = vmlinux()
RELOCS = b"\x00\x10\x20\x30" * 50
METHODS = sorted(PACKERS)
EXPECTED = KernelImage(
    BUILD_ID.hex(),
    (
        Section(".text", TEXT_VA, 9000, 4096, SectionKind.RESIDENT),
        Section(".init.text", TEXT_VA + 0x8000, 700, 16, SectionKind.INIT),
        Section(".altinstr_aux", TEXT_VA + 0x9000, 33, 1, SectionKind.ALTERNATIVES),
        Section(".altinstr_replacement", TEXT_VA + 0xA000, 50, 1, SectionKind.ALTERNATIVES),
        Section(".exit.text", TEXT_VA + 0xB000, 60, 1, SectionKind.EXIT),
    ),
)


@cache
def boot_image(method: str) -> bytes:
    return bzimage(payload(method, ELF + RELOCS))


def refusal(data: bytes) -> str:
    with pytest.raises(UserError) as caught:
        read_kernel(data, "vmlinuz-toy")
    assert caught.value.hint
    assert caught.value.message.startswith("vmlinuz-toy: ")
    return caught.value.message


@pytest.mark.parametrize("method", METHODS)
def test_every_wrapping_gives_the_same(method: str) -> None:
    image = boot_image(method)
    assert unpack(image) == ELF + RELOCS
    assert read_kernel(image) == EXPECTED
    assert read_kernel(pe([(b".osrel", b"ID=toy"), (b".linux", image), (b".initrd", bytes(999))])) == EXPECTED
    assert read_kernel(PACKERS[method](ELF)) == EXPECTED


def test_plain_elf() -> None:
    assert read_kernel(ELF) == EXPECTED
    assert read_kernel(vmlinux(kind=elfmaker.ET_DYN)) == EXPECTED


@pytest.mark.parametrize("setup_sects", [0, 1, 4, 27, 255])
@pytest.mark.parametrize("offset", [0, 1, 0x2C0])
def test_payload_is_found(setup_sects: int, offset: int) -> None:
    # 1 sector is too small for a real header, but it is where the offset says.
    body = payload("gzip", ELF)
    assert unpack(bzimage(body, setup_sects, offset=offset)) == ELF


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "neither ELF nor compressed"),
        (b"\x7fEL", "neither ELF nor compressed"),
        (b"#!/bin/sh\n" * 999, "neither ELF nor compressed"),
        (gzip.compress(b"#!/bin/sh\n"), "not an ELF file"),
        (gzip.compress(gzip.compress(ELF)), "not an ELF file"),
        (bzimage(payload("xz", b"initrd")), "not an ELF file"),
        (bzimage(b"\x1f\x9e" + ELF), "neither ELF nor compressed"),
        (bzimage(ELF), "neither ELF nor compressed"),
        (bzimage(payload("gzip", ELF), version=0x207), "boot protocol 2.07"),
        (bzimage(b""), "cut short"),
        (bzimage(b"abcd"), "cut short"),
        (bzimage(payload("gzip", elfmaker.module())), "not an x86-64 ELF file of type ET_DYN or ET_EXEC"),
        (elfmaker.module(), "not an x86-64 ELF file of type ET_DYN or ET_EXEC"),
        (vmlinux(build_id=bytes(21)), "no build-id"),
        (elf64([Sec(".notes", elfmaker.notes(), A, align=4, type=elfmaker.NOTE)]), "no .text"),
        (vmlinux(extra=[Sec(".more", b"\x90" * 9, A | X, TEXT_VA + 8999)]), "overlap"),
        (pe([(b".text", b"stub")]), "holds no Linux kernel"),
        (pe([]), "holds no Linux kernel"),
        (pe([(b".linux", ELF[:4] + b"?")]), "64-bit little-endian"),
        (pe([(b".linux", b"MZ" + bytes(600))]), "neither ELF nor compressed"),
        (pe([(b".linux", pe([(b".linux", b"")]))]), "neither ELF nor compressed"),
        (pe([(b".linux", boot_image("xz"))])[:-513], "cut short inside the .linux section"),
        (b"MZ", "cut short inside the PE header"),
        (b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0xFFFFFFFF), "cut short inside the PE header"),
        (b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0) + bytes(99), "not a kernel image"),
    ],
)
def test_refusals(data: bytes, message: str) -> None:
    assert message in refusal(data)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("wrong", [-len(ELF), -len(ELF) + 1, -1, 1, 1 << 20, (1 << 29) - len(ELF)])
def test_wrong_size_field(method: str, wrong: int) -> None:
    assert refusal(bzimage(payload(method, ELF, size=len(ELF) + wrong)))


def test_size_field_beyond_any_kernel() -> None:
    started = time.process_time()
    assert "more than any kernel" in refusal(bzimage(payload("xz", ELF, size=(512 << 20) + 1)))
    assert "more than any kernel" in refusal(bzimage(payload("zstd", ELF, size=0xFFFFFFFF)))
    assert time.process_time() - started < 1


@pytest.mark.parametrize("method", METHODS)
def test_truncated_anywhere(method: str) -> None:
    image = boot_image(method)
    body = 4 * 512 + 0x2C0
    end = len(image) - 77  # the tail that bzimage() adds
    fields = (
        0,
        2,
        0x1F1,
        0x1FE,
        0x202,
        0x206,
        0x248,
        0x24C,
        0x250,
        4 * 512,
        body,
        body + 6,
        body + 40,
        end - 8,
        end - 4,
    )
    places = {place + delta for place in (*fields, *range(body, end, 211)) for delta in (-1, 0, 1)}
    for place in places:
        assert refusal(image[: max(place, 0)])
    assert refusal(image[: end - 1])
    assert read_kernel(image[:end]) == EXPECTED


@pytest.mark.parametrize("method", METHODS)
def test_bombs_take_no_more_than_they_declare(method: str) -> None:
    declared = 3 << 20
    image = bzimage(payload(method, ELF + bytes(40 << 20), size=declared))
    tracemalloc.start()
    try:
        assert refusal(image)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The result, one chunk, the decoder's window (8 MiB for xz -6, twice a block for bzip2), the payload itself.
    assert peak < declared + (8 << 20) + (9 << 20) + len(image)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """One bit flipped, a cut, or a splice of bytes from elsewhere, at a random place."""
    changed, place = bytearray(data), rng.randrange(len(data))
    match rng.randrange(3):
        case 0:
            changed[place] ^= 1 << rng.randrange(8)
        case 1:
            del changed[place:]
        case _:
            source, size = rng.randrange(len(data)), rng.randrange(1, 64)
            changed[place : place + size] = data[source : source + size]
    return bytes(changed)


@pytest.mark.parametrize("method", METHODS)
def test_corruption(method: str) -> None:
    """A damaged image is refused or read, nothing else, and in bounded time.

    It cannot be promised that what is read is what was there: lz4 and lzma have no checksum, the zstd of a
    kernel build has none, and a flip may change a section's size and leave the build-id as it is. That is why
    callers compare the sections with the live kernel (symbols, iomem, page tables). Where a format does have a
    checksum over all of its content, the promise can be kept, and is tested.
    """
    image, rng = boot_image(method), random.Random(f"mbecguard {method}")
    outcomes = {"refused": 0, "same": 0, "other": 0}
    started = time.process_time()
    for _ in range(200):
        try:
            outcome = "same" if read_kernel(damaged(image, rng)) == EXPECTED else "other"
        except UserError:
            outcome = "refused"
        outcomes[outcome] += 1
    assert outcomes["refused"]
    assert outcomes["same"]  # a flip in the setup code or the tail does not matter
    if method in ("gzip", "bzip2", "xz", "lzo"):
        assert not outcomes["other"]
    assert time.process_time() - started < 5


def test_a_flip_that_only_the_live_kernel_can_disprove() -> None:
    # The honest limit of the file alone: same build-id, other size of .text, every check of the format passed.
    forged = bytearray(ELF)
    table = struct.unpack_from("<Q", ELF, 0x28)[0]
    struct.pack_into("<Q", forged, table + 64 + 0x20, 8000)
    image = read_kernel(bzimage(payload("lz4", bytes(forged))))
    assert image.build_id == EXPECTED.build_id
    assert image.sections[0].bytes == 8000


def test_gzip_checksum_is_checked() -> None:
    packed = bytearray(gzip.compress(ELF))
    packed[-8:-4] = struct.pack("<I", zlib.crc32(ELF) ^ 1)
    assert "damaged gzip data" in refusal(bzimage(bytes(packed)))
