# SPDX-License-Identifier: GPL-2.0-or-later
"""A compressed kernel is read without its code and data; what is told is what the whole file tells."""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Sequence
from itertools import pairwise

import pytest

from mbecguard.image.kernel import KernelImage, read_kernel
from mbecguard.image.outline import HEAD, NotHeldError, Outline
from mbecguard.values.errors import UserError
from tests.elfmaker import NOTE, TEXT_VA, A, Sec, X, bzimage, elf64, notes, payload, zstd

LOAD, NOTES = 1, 4
Segment = tuple[int, int, int]  # type, offset, bytes


def kernel(text: bytes = bytes(50_000), note_type: int = NOTE) -> bytes:
    """A kernel whose first section makes room for program headers."""
    return elf64(
        [
            Sec(".head", bytes(HEAD), 0),
            Sec(".text", text, A | X, TEXT_VA, 16),
            Sec(".notes", notes(), A, TEXT_VA + 0x2000000, 4, note_type),
            Sec(".data", bytes(10_000), A, TEXT_VA + 0x3000000),
        ]
    )


def with_segments(elf: bytes, segments: Sequence[Segment]) -> bytes:
    """The same with program headers at byte 64."""
    rows = b"".join(struct.pack("<IIQQQQQQ", kind, 0, at, 0, 0, size, size, 1) for kind, at, size in segments)
    head = bytearray(elf)
    head[64 : 64 + len(rows)] = rows
    struct.pack_into("<Q", head, 32, 64)
    struct.pack_into("<HH", head, 54, 56, len(segments))
    return bytes(head)


def where(elf: bytes, content: bytes) -> tuple[int, int]:
    return elf.index(content), len(content)


def booted(elf: bytes) -> KernelImage:
    return read_kernel(bzimage(payload("gzip", elf)))


PLAIN = kernel()
NOTE_AT, NOTE_BYTES = where(PLAIN, notes())
LOADED = (LOAD, HEAD, len(PLAIN) - HEAD - 1000)  # .text, .notes and .data; not the section table


@pytest.mark.parametrize(
    "segments",
    [
        pytest.param([], id="none"),
        pytest.param([LOADED, (NOTES, NOTE_AT, NOTE_BYTES)], id="as a kernel's"),
        pytest.param([LOADED], id="notes that nobody tells of"),
        pytest.param([LOADED, (NOTES, NOTE_AT, NOTE_BYTES - 8)], id="notes cut short"),
        pytest.param([LOADED, (NOTES, 0, 16)], id="notes elsewhere"),
        pytest.param([(LOAD, 0, 1 << 63)], id="all is loaded"),
        pytest.param([(LOAD, (1 << 64) - 1, (1 << 64) - 1)], id="behind the end"),
        pytest.param([(LOAD, 0, 0)] * 70, id="many"),
        pytest.param([(LOAD, 0, 0)] * 73, id="more than the head holds"),
    ],
)
def test_whatever_the_program_headers_say_the_facts_are_the_files(segments: list[Segment]) -> None:
    elf = with_segments(PLAIN, segments)
    assert booted(elf) == read_kernel(elf) == read_kernel(PLAIN)


def test_a_build_id_is_found_in_notes_that_look_like_data() -> None:
    elf = with_segments(kernel(note_type=1), [LOADED])
    assert booted(elf) == read_kernel(PLAIN)


def test_faults_behind_what_was_let_go_are_found() -> None:
    elf = with_segments(PLAIN, [LOADED, (NOTES, NOTE_AT, NOTE_BYTES)])
    with pytest.raises(UserError, match="cut short"):
        booted(elf[:-64])
    packed = bytearray(payload("gzip", elf))
    packed[-6] ^= 1  # the checksum of all that was expanded
    with pytest.raises(UserError, match="damaged gzip data"):
        read_kernel(bzimage(bytes(packed)))


def test_code_is_not_held() -> None:
    text = random.Random(17).randbytes(1 << 20) * 48
    plain = kernel(text)
    at, size = where(plain, notes())
    loaded = with_segments(plain, [(LOAD, HEAD, len(plain) - HEAD - 1000), (NOTES, at, size)])
    peaks = []
    for elf in (loaded, plain):
        image = bzimage(zstd(elf) + struct.pack("<I", len(elf)))
        tracemalloc.start()
        read_kernel(image)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[0] < 8 << 20  # some chunks
    assert peaks[1] > 48 << 20


def test_a_part_is_the_files_or_an_error() -> None:
    rng = random.Random(17)
    content = rng.randbytes(3 * HEAD)
    let_go = 0
    for _ in range(200):
        segments = [(rng.choice([LOAD, NOTES]), rng.randrange(len(content)), rng.randrange(HEAD)) for _ in range(6)]
        file = with_segments(content, segments)
        cuts = [0, *sorted(rng.choices(range(len(file)), k=5)), len(file)]
        outline = Outline(iter([file[a:b] for a, b in pairwise(cuts)]))
        assert len(outline) == len(file)
        for _ in range(50):
            start, end = rng.randrange(len(file) + 99), rng.randrange(len(file) + 99)
            gone = {*range(start, min(end, len(file)))} & lost(segments)
            try:
                assert outline[start:end] == file[start:end]
                assert not gone
            except NotHeldError:
                assert gone
                let_go += 1
    assert let_go > 1000


def lost(segments: list[Segment]) -> set[int]:
    """Each byte that may be let go, one by one."""
    loaded, needed = set[int](), set(range(HEAD))
    for kind, at, size in segments:
        (loaded if kind == LOAD else needed).update(range(at, at + size))
    return loaded - needed
