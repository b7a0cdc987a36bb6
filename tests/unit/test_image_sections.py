# SPDX-License-Identifier: GPL-2.0-or-later
"""Code sections and build-ids; binutils is the oracle."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbecguard.image.elf import ElfType, read_elf
from mbecguard.image.kernel import KernelImage, read_kernel
from mbecguard.image.sections import CODE_LIMIT, Section, SectionKind, build_id, code_sections, notes_build_id
from mbecguard.values.errors import UserError
from tests import elfmaker
from tests.elfmaker import BUILD_ID, NOTE, TEXT_VA, A, Sec, W, X, elf64, note, notes

KERNEL_TYPES = frozenset({ElfType.EXEC, ElfType.DYN})
SMALL = elf64([Sec(".text", bytes(64), A | X, TEXT_VA, 16), Sec(".notes", notes(), A, 0, 4, NOTE)])


def sections_of(data: bytes) -> tuple[Section, ...]:
    return read_elf(data, "toy", frozenset(ElfType), code_sections)


def refusal(data: bytes) -> str:
    with pytest.raises(UserError) as caught:
        sections_of(data)
    assert caught.value.hint
    return caught.value.message


def kernel_or_none(data: bytes) -> KernelImage | None:
    try:
        return read_kernel(data)
    except UserError:
        return None


def patched(data: bytes, offset: int, layout: str, value: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into(layout, changed, offset, value)
    return bytes(changed)


def section_table(data: bytes) -> int:
    offset: int = struct.unpack_from("<Q", data, 0x28)[0]
    return offset


R, N, E, T = SectionKind.RESIDENT, SectionKind.INIT, SectionKind.EXIT, SectionKind.ALTERNATIVES


@pytest.mark.parametrize(
    ("name", "in_kernel", "in_module"),
    [
        (".text", R, R),
        (".init.text", N, N),
        (".init.text.unlikely", N, N),
        (".init", R, N),
        (".initcall", R, N),  # the kernel compares the prefix only
        (".exit.text", E, E),
        (".altinstr_replacement", T, R),
        (".altinstr_aux", T, R),
        (".noinstr.text", R, R),
        ("init.text", R, R),
        ("", R, R),
    ],
)
def test_kinds(name: str, in_kernel: SectionKind, in_module: SectionKind) -> None:
    section = [Sec(name, b"\xcc" * 16, A | X)]
    assert [s.kind for s in sections_of(elf64(section, elfmaker.ET_EXEC))] == [in_kernel]
    assert [s.kind for s in sections_of(elf64(section, elfmaker.ET_DYN))] == [in_kernel]
    assert [s.kind for s in sections_of(elf64(section, elfmaker.ET_REL))] == [in_module]


@pytest.mark.parametrize(("flags", "is_code"), [(A | X, True), (A | W | X, True), (A, False), (X, False), (0, False)])
def test_code_is_loadable_and_executable(flags: int, is_code: bool) -> None:
    assert bool(sections_of(elf64([Sec("s", b"\xcc", flags)]))) is is_code


def test_writable_sections_are_data_even_if_flagged_executable() -> None:
    twins = [Sec(".text", bytes(64), A | X, TEXT_VA), Sec(".data", bytes(64), A | W | X, TEXT_VA + 0x1000)]
    assert [s.kind for s in sections_of(elf64(twins))] == [R, SectionKind.DATA]


def test_skeleton_has_the_same_sections() -> None:
    whole = [Sec(".text", bytes(4097), A | X, TEXT_VA, 4096), Sec(".init.text", bytes(5), A | X, TEXT_VA + 0x2000)]
    hollow = [Sec(s.name, len(bytes(s.content)), s.flags, s.va, s.align) for s in whole]
    assert sections_of(elf64(hollow)) == sections_of(elf64(whole))


READELF = re.compile(
    r"^ +\[ *\d+\] (?P<name>\S*) +(PROGBITS|NOBITS) +(?P<va>[0-9a-f]{16}) [0-9a-f]{6,} (?P<size>[0-9a-f]{6,}) "
    r"[0-9a-f]{2} +(?P<flags>[WAXMSILOGTCxoEDlp]*) +\d+ +\d+ +(?P<align>\d+)$",
    re.MULTILINE,
)
names = st.from_regex(r"\.[a-z._]{1,20}", fullmatch=True)
generated = st.lists(
    st.builds(
        Sec,
        names,
        st.one_of(st.binary(max_size=80), st.integers(0, 1 << 20)),
        st.sampled_from([A, A | W, A | X, A | W | X, X]),
        st.integers(0, 1 << 62),
        st.sampled_from([0, 1, 2, 16, 4096]),
    ),
    max_size=8,
)


@pytest.mark.skipif(not shutil.which("readelf"), reason="needs binutils")
@settings(max_examples=15, deadline=None)
@given(sections=generated)
def test_agrees_with_readelf(sections: list[Sec], tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("elf") / "toy"
    file.write_bytes(elf64([*sections, Sec(".note", notes(), A, align=4, type=NOTE)], elfmaker.ET_REL))
    text = subprocess.run(["readelf", "-SWn", file], capture_output=True, text=True, check=True).stdout
    expected = [
        (m["name"], int(m["va"], 16), int(m["size"], 16), int(m["align"]) or 1)
        for m in READELF.finditer(text)
        if {"A", "X"} <= set(m["flags"])
    ]
    assert [(s.name, s.va, s.bytes, s.align) for s in sections_of(file.read_bytes())] == expected
    assert len(expected) == sum(s.flags & (A | X) == A | X for s in sections)
    identity = read_elf(file.read_bytes(), "toy", frozenset(ElfType), build_id)
    assert f"Build ID: {identity}\n" in text


@pytest.mark.skipif(not shutil.which("objcopy"), reason="needs binutils")
def test_debug_file_of_objcopy_reads_as_the_kernel(tmp_path: Path) -> None:
    whole, debug = tmp_path / "vmlinux", tmp_path / "vmlinux.debug"
    whole.write_bytes(elfmaker.vmlinux())
    subprocess.run(["objcopy", "--only-keep-debug", whole, debug], check=True)
    assert debug.stat().st_size < whole.stat().st_size / 2
    assert read_kernel(debug.read_bytes()) == read_kernel(whole.read_bytes())


GNU = note(b"GNU", 3, BUILD_ID)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", ""),
        (GNU, BUILD_ID.hex()),
        (note(b"GNU", 3, b"\xab"), "ab"),
        (note(b"GNU", 3, b""), ""),
        (note(b"GNU", 3, bytes(21)), ""),
        (note(b"GNU", 1, BUILD_ID), ""),
        (note(b"Linux", 3, BUILD_ID), ""),
        (note(b"Xen", 6, b"odd") + GNU, BUILD_ID.hex()),
        (note(b"", 0, b"") + GNU, BUILD_ID.hex()),
        (GNU + b"\xff" * 5, BUILD_ID.hex()),
        (struct.pack("<III", 4, 0xFFFFFFFF, 3) + b"GNU\0" + BUILD_ID, ""),
        (struct.pack("<III", 0xFFFFFFFF, 20, 3) + b"GNU\0" + BUILD_ID, ""),
        *[(GNU[:end], "") for end in range(len(GNU))],
    ],
)
def test_notes(data: bytes, expected: str) -> None:
    assert notes_build_id(data) == expected


@given(st.binary(max_size=200))
def test_any_notes_are_survived(data: bytes) -> None:
    found = bytes.fromhex(notes_build_id(data + notes()))
    assert len(found) <= 20
    assert found in data + notes()


def test_only_notes_sections_give_a_build_id() -> None:
    data = elf64([Sec(".fake", GNU, A), Sec(".notes", note(b"GNU", 3, b"\x01\x02"), A, align=4, type=NOTE)])
    assert read_elf(data, "toy", KERNEL_TYPES, build_id) == "0102"
    assert read_elf(elf64([Sec(".fake", GNU, A)]), "toy", KERNEL_TYPES, build_id) == ""


def code(*spans: tuple[int, int]) -> bytes:
    return elf64([Sec(f".t{va:x}.{size:x}", size, A | X, va) for va, size in spans])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (code((0, CODE_LIMIT)), ""),
        (code((0, CODE_LIMIT), (CODE_LIMIT, 1)), "more than 256 MiB"),
        (code((0, (1 << 64) - 1)), "more than 256 MiB"),
        (code((0x1000, 0x1000), (0x2000, 1)), ""),
        (code((0x2000, 1), (0x1000, 0x1001)), "overlap"),
        (code((0x1000, 0x10), (0x1000, 0)), ""),
        (code((0x1000, 0x10), (0x1000, 0x10)), "overlap"),
        (code(((1 << 64) - 0x10, 0x10)), ""),
        (code(((1 << 64) - 0x10, 0x11)), "wraps"),
        (elf64([Sec("s", b"", A | X, align=3)]), "aligned to 0x3"),
        (elf64([Sec("s", b"", A | X, align=1 << 63)]), "aligned to 0x8000000000000000"),
        (elf64([Sec("s", bytes(24), A | X | 0x800)]), "code in a section of type 0x1, flags 0x806"),
        (elf64([Sec("s", bytes(24), A | X, type=2)]), "code in a section of type 0x2"),
        (elf64([Sec("s", bytes(24), A, type=14)]), ""),
        (elf64([Sec("s" * 511, b"", A | X)]), ""),
        (elf64([], machine=3), "type ET_EXEC, machine EM_386"),
        (elf64([], 4), "type ET_CORE, machine EM_X86_64"),
        (b"", "64-bit little-endian"),
        (b"\x7fELF\x01" + SMALL[5:], "64-bit little-endian"),
        (b"\x7fELF\x02\x02" + SMALL[6:], "64-bit little-endian"),
        (patched(SMALL, 0x3A, "<H", 63), "no usable section table"),
        (patched(SMALL, 0x3C, "<H", 0), "no usable section table"),
        (patched(SMALL, 0x3C, "<H", 0xFFFF), "cut short"),
        (patched(SMALL, 0x28, "<Q", (1 << 64) - 1), "cut short"),
        (patched(SMALL, 0x3E, "<H", 0), "no usable section table"),
        (patched(SMALL, 0x3E, "<H", 4), "no usable section table"),
        (patched(SMALL, 0x3E, "<H", 1), "not in a string table"),
        (patched(SMALL, section_table(SMALL) + 64, "<I", 0x7FFFFFFF), "name does not end"),
        (patched(SMALL, section_table(SMALL) + 64 + 0x18, "<Q", len(SMALL) - 63), "cut short"),
        (patched(SMALL, section_table(SMALL) + 128 + 0x20, "<Q", 1 << 62), "cut short"),
    ],
)
def test_limits(data: bytes, message: str) -> None:
    if message:
        assert message in refusal(data)
        assert refusal(data).startswith("toy: ")
    else:
        sections_of(data)


@pytest.mark.parametrize("end", range(0, len(SMALL), 7))
def test_truncated(end: int) -> None:
    assert refusal(SMALL[:end])


def test_appended_data_is_ignored() -> None:
    assert sections_of(SMALL + b"~Module signature appended~\n") == sections_of(SMALL)


def test_parser_faults_become_user_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("unexpected")

    monkeypatch.setattr("elftools.construct.Struct.parse", fail)
    assert "not a usable ELF file (AssertionError" in refusal(SMALL)


def test_forged_tables_take_no_time() -> None:
    # Symbol tables that link to each other and long names make a naive reader quadratic and worse.
    chain = [Sec("", b"", 0, type=2) for _ in range(40000)]
    data = bytearray(elf64([Sec(".text", b"\xcc", A | X), *chain]))
    table = section_table(bytes(data))
    for index in range(2, 40000):
        struct.pack_into("<I", data, table + index * 64 + 0x28, index + 1)
    started = time.process_time()
    assert len(sections_of(bytes(data))) == 1
    assert time.process_time() - started < 2


@settings(max_examples=400, deadline=2000)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.integers(0, 63), st.integers(section_table(SMALL), len(SMALL) - 1)),
            st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"\xff" * 8, bytes(8), b"\x01"])),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_forged_headers_give_a_sane_table_or_a_user_error(patches: list[tuple[int, bytes]]) -> None:
    data = bytearray(SMALL)
    for offset, content in patches:
        data[offset : offset + len(content)] = content
    image = kernel_or_none(bytes(data[: len(SMALL)]))
    if image is None:
        return
    spans = sorted((s.va, s.va + s.bytes) for s in image.sections if s.bytes)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert all(s.align & (s.align - 1) == 0 and 0 < s.align <= CODE_LIMIT for s in image.sections)
    assert sum(s.bytes for s in image.sections) <= CODE_LIMIT
    assert ".text" in {s.name for s in image.sections}
