# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel memory through a file like /proc/kcore."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from mbecguard.guest import kcore as kcore_module
from mbecguard.guest.execmap import Mapping
from mbecguard.guest.kcore import Kcore, MemoryFacts, efi_mappings, executable_mappings, memory_facts
from mbecguard.guest.live import KcoreSource
from mbecguard.guest.procfs import Kallsyms
from mbecguard.values.errors import UserError
from mbecguard.values.facts import Absent, Known, Unknown, known
from mbecguard.values.pages import PageRange
from tests.coremaker import DIRECT_MAPS, KERNEL_MAP, Core
from tests.walker import NX, P, Tables, U, W

DIRECT_MAP = DIRECT_MAPS[4]
TEXT, BLOB, THUNK, INT3, EMPTY = KERNEL_MAP + 0x1000, 0x99000, 0x120000, 0x121000, 0x122000
EFI_PA, EFI_VA = 0x140000, 0xFFFFFFFEFF000000
EFI_ROOT = 0x130000
EFI_MM, HEADER, HYPERCALL = KERNEL_MAP + 0x6000, KERNEL_MAP + 0x7000, KERNEL_MAP + 0x7008
PGD = 0x78


def guest(levels: int = 4) -> Core:
    """A kernel with text, three module pages, a trampoline, and an efi_mm with two mappings of one page."""
    core, direct = Core(levels=levels), DIRECT_MAPS[levels]
    init = Tables(levels, core.phys_base + core.swapper, 0x100000)
    init.map(TEXT, core.phys_base + 0x1000)
    for index, page in enumerate((THUNK, INT3, EMPTY)):
        init.map(0xFFFFFFFFC0000000 + (index << 13), page)
    init.map(direct + BLOB, BLOB, P | W)
    init.map(direct + 0x100000, 0x100000, P | W | NX)
    init.map(0x400000, 0x9000, P | U)  # a user page: not the kernel's half
    efi = Tables(levels, EFI_ROOT, 0x131000, init.entries)
    efi.map(EFI_PA, EFI_PA)
    efi.map(EFI_VA, EFI_PA)
    slot = direct >> 12 + 9 * (levels - 1) & 511
    efi.set(EFI_ROOT, slot, init.entries[init.root][slot])
    for table, content in init.memory().items():
        core.write(table, content)
    core.write(THUNK, b"\x41\xff\xe1\xcc".ljust(64, b"\xcc") + b"\xff\xe2\xcc".ljust(4032, b"\xcc"))
    core.write(INT3, b"\xcc" * 4096)
    core.write(core.phys_base + 0x6000, random.Random(3).randbytes(512))
    core.write(core.phys_base + 0x6000 + PGD, struct.pack("<Q", direct + EFI_ROOT))
    core.write(core.phys_base + 0x7000, struct.pack("<QQ", direct + 0x9D000, 0xFFFFC90000001000))
    core.write(0x9D000, struct.pack("<II", BLOB, BLOB + 0x118E))
    return core


def saved(folder: Path, core: Core | bytes) -> Path:
    file = folder / "kcore"
    file.write_bytes(core if isinstance(core, bytes) else core.file())
    return file


INIT = (
    Mapping(DIRECT_MAP + BLOB, BLOB, 4096, writable=True),
    Mapping(TEXT, 0x201000, 4096),
    Mapping(0xFFFFFFFFC0000000, THUNK, 4096),
    Mapping(0xFFFFFFFFC0002000, INT3, 4096),
    Mapping(0xFFFFFFFFC0004000, EMPTY, 4096),
)
EFI = (Mapping(EFI_PA, EFI_PA, 4096), Mapping(EFI_VA, EFI_PA, 4096))


@pytest.mark.parametrize("levels", [4, 5])
def test_mappings_of_init_and_efi(tmp_path: Path, levels: int) -> None:
    with Kcore(saved(tmp_path, guest(levels))) as kcore:
        blob = Mapping(DIRECT_MAPS[levels] + BLOB, BLOB, 4096, writable=True)
        assert executable_mappings(kcore) == (blob, *INIT[1:])
        assert efi_mappings(kcore, EFI_MM) == Known(EFI)
        assert efi_mappings(kcore, None) == Absent()
        assert kcore.page_offset == DIRECT_MAPS[levels]


def test_the_walk_of_efi_reads_no_table_of_the_kernel(tmp_path: Path) -> None:
    with Kcore(saved(tmp_path, guest())) as kcore:
        read: list[int] = []
        plain = kcore.physical

        def physical(pa: int, size: int = 4096) -> bytes | None:
            read.append(pa)
            return plain(pa, size)

        kcore.physical = physical  # type: ignore[method-assign]
        assert efi_mappings(kcore, EFI_MM) == Known(EFI)
        direct = int.from_bytes(plain(EFI_ROOT + 8 * (DIRECT_MAP >> 39 & 511), 8) or b"", "little") & ~0xFFF
        assert EFI_ROOT in read
        assert direct not in read


@pytest.mark.parametrize("offset", [0, 8, 0x70, 0x1F8])
def test_pgd_is_found_wherever_it_lies(tmp_path: Path, offset: int) -> None:
    core = guest()
    core.write(core.phys_base + 0x6000, bytes(512))
    core.write(core.phys_base + 0x6000 + offset, struct.pack("<Q", DIRECT_MAP + EFI_ROOT))
    with Kcore(saved(tmp_path, core)) as kcore:
        assert efi_mappings(kcore, EFI_MM) == Known(EFI)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (0, Absent),
        (DIRECT_MAP, Absent),
        (DIRECT_MAP + EFI_ROOT + 8, Absent),
        (EFI_ROOT, Absent),
        (2**64 - 1, Absent),
        (DIRECT_MAP + THUNK, Unknown),  # there is a table, and it is not like the kernel's
    ],
)
def test_what_is_no_pgd(tmp_path: Path, value: int, kind: type) -> None:
    core = guest()
    core.write(core.phys_base + 0x6000 + PGD, struct.pack("<Q", value))
    with Kcore(saved(tmp_path, core)) as kcore:
        assert type(efi_mappings(kcore, EFI_MM)) is kind
        assert type(efi_mappings(kcore, KERNEL_MAP + 0xFF00)) is Unknown  # the struct crosses the end of the segment
        assert executable_mappings(kcore) == INIT


def test_an_empty_direct_map_entry_tells_nothing(tmp_path: Path) -> None:
    core = guest()
    core.write(core.phys_base + core.swapper + 8 * (DIRECT_MAP >> 39 & 511), bytes(8))
    with Kcore(saved(tmp_path, core)) as kcore:
        assert executable_mappings(kcore) == INIT[1:]
        assert type(efi_mappings(kcore, EFI_MM)) is Unknown


def test_facts(tmp_path: Path) -> None:
    with Kcore(saved(tmp_path, guest())) as kcore:
        mappings = executable_mappings(kcore)
        assert memory_facts(kcore, mappings, HEADER, HYPERCALL) == MemoryFacts(
            page_offset=DIRECT_MAP,
            trampoline=Known(PageRange(0x99, 0x9B)),
            hypercall_page=Known(0xFFFFC90000001000),
            int3_pages=Known((PageRange(INT3 >> 12, (INT3 >> 12) + 1),)),
            thunk_pages=Known((PageRange(THUNK >> 12, (THUNK >> 12) + 1),)),
        )
        nothing = memory_facts(kcore, (), None, None)
        assert (nothing.trampoline, nothing.hypercall_page) == (Absent(), Absent())
        assert (nothing.int3_pages, nothing.thunk_pages) == (Known(()), Known(()))
        # A frame that no RAM segment holds, and symbols that lead nowhere.
        lost = memory_facts(kcore, (Mapping(TEXT, 1 << 40, 4096),), 0x1000, 0x1000)
        assert (type(lost.trampoline), type(lost.hypercall_page)) == (Unknown, Unknown)
        assert type(memory_facts(kcore, (), EFI_MM, HEADER).trampoline) is Unknown


def test_a_guest_that_is_not_on_hyper_v_has_no_hypercall_page(tmp_path: Path) -> None:
    core = guest()
    core.write(core.phys_base + HYPERCALL - KERNEL_MAP, bytes(8))
    with Kcore(saved(tmp_path, core)) as kcore:
        assert memory_facts(kcore, (), None, HYPERCALL).hypercall_page == Absent()


@pytest.mark.parametrize(
    ("start", "end", "found"),
    [(0, 0x1000, None), (0x2000, 0x2000, None), (0x3000, 0x2000, None), (0x2FFF, 0x3001, PageRange(2, 4))],
)
def test_trampoline_bounds(tmp_path: Path, start: int, end: int, found: PageRange | None) -> None:
    core = guest()
    core.write(0x9D000, struct.pack("<II", start, end))
    with Kcore(saved(tmp_path, core)) as kcore:
        trampoline = memory_facts(kcore, (), HEADER, None).trampoline
        assert trampoline == Known(found) if found else type(trampoline) is Unknown


@pytest.mark.parametrize(
    ("head", "thunk"),
    [
        (b"\xff\xe0\xcc", True),
        (b"\x41\xff\xe7\xcc\x41\xff\xe0\xcc", True),
        (b"\xff\xe0", True),  # int3 follows
        (b"\xd6\x75\xfd\xcc\xff\xe0\xcc", True),  # FineIBT, paranoid
        (b"\xd6\x75\xfe\xcc\xff\xe0\xcc", False),
        (b"\xff\xe8\xcc", False),
        (b"\x42\xff\xe0\xcc", False),
        (b"\x90", False),
        (b"\x41\xcc", False),
        (b"\xff\xe0\xff\xe0", False),
    ],
)
def test_thunks_are_jumps_and_int3_alone(tmp_path: Path, head: bytes, thunk: bool) -> None:
    core = guest()
    core.write(EMPTY, head.ljust(4096, b"\xcc"))
    with Kcore(saved(tmp_path, core)) as kcore:
        facts = memory_facts(kcore, (Mapping(TEXT, EMPTY, 4096),), None, None)
    assert bool(known(facts.thunk_pages, ())) == thunk
    assert facts.int3_pages == Known(())


def test_too_much_code(tmp_path: Path) -> None:
    with Kcore(saved(tmp_path, guest())) as kcore, pytest.raises(UserError, match="1048577 pages are exec") as caught:
        memory_facts(kcore, (Mapping(TEXT, 0, (1 << 32) + 4096),), None, None)
    assert "noexec" in caught.value.hint


def test_reads_end_with_their_segment(tmp_path: Path) -> None:
    with Kcore(saved(tmp_path, guest())) as kcore:
        assert kcore.physical(0x9E000) == bytes(4096)
        assert kcore.physical(0x9F000) is None
        assert kcore.physical(0x9E001) is None
        assert kcore.physical(0) is None
        assert kcore.virtual(KERNEL_MAP, 8) == bytes(8)
        assert kcore.virtual(KERNEL_MAP - 1, 8) is None
        assert kcore.virtual(KERNEL_MAP + 0xFFF8, 8) == bytes(8)
        assert kcore.virtual(KERNEL_MAP + 0xFFF9, 8) is None
        assert kcore.physical(0x2FF000) is None  # promised by its header, behind the end of the file
        assert kcore.word(None) is None
        assert kcore.word(HYPERCALL) == 0xFFFFC90000001000


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("NUMBER(x)=-4096", -4096),
        ("NUMBER(x)=0", 0),
        ("SYMBOL(x)=ffffffff81000000", 0xFFFFFFFF81000000),
        ("NUMBER(x)=0012", 12),
        ("NUMBER(x)=fx", None),
        ("NUMBER(x)=", None),
        ("NUMBER(x)=" + "9" * 5000, None),
        ("SYMBOL(x)=0xz", None),
        ("NUMBER(xx)=1", None),
        (" NUMBER(x)=1", None),
    ],
    ids=range(10),
)
def test_vmcoreinfo(tmp_path: Path, line: str, value: int | None) -> None:
    with Kcore(saved(tmp_path, replace(guest(), more=f"A=b\n{line}\nC=d\n"))) as kcore:
        assert kcore.number("x", 77) == (77 if value is None else value)
        with pytest.raises(UserError, match="does not tell y") as caught:
            kcore.number("y")
    assert "CONFIG_VMCORE_INFO" in caught.value.hint


def test_the_encryption_bit_comes_from_vmcoreinfo(tmp_path: Path) -> None:
    core, c_bit = guest(), 1 << 47
    top = core.phys_base + core.swapper
    entries = struct.unpack("<512Q", core.pages[top])
    core.write(top, struct.pack("<512Q", *(entry | c_bit if entry else 0 for entry in entries)))
    with Kcore(saved(tmp_path, core)) as kcore, pytest.raises(UserError, match="outside memory"):
        executable_mappings(kcore)
    with Kcore(saved(tmp_path, replace(core, more=f"NUMBER(sme_mask)={c_bit}\n"))) as kcore:
        assert executable_mappings(kcore) == INIT


def test_no_vmcoreinfo_and_no_direct_map(tmp_path: Path) -> None:
    core = replace(guest(), note_name=b"OTHER")
    with Kcore(saved(tmp_path, core)) as kcore, pytest.raises(UserError, match="does not tell swapper_pg_dir"):
        executable_mappings(kcore)
    with Kcore(saved(tmp_path, replace(guest(), ram=()))) as kcore, pytest.raises(UserError, match="no direct map"):
        memory_facts(kcore, (), None, None)


def cut(size: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:size]


def patched(at: int, value: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data[:at] + value + data[at + len(value) :]


@pytest.mark.parametrize(
    "damage",
    [
        cut(0),
        cut(63),
        cut(64),
        cut(64 + 56 * 5 - 1),
        patched(0, b"\x7fELG"),
        patched(4, b"\1"),
        patched(5, b"\2"),
        patched(54, b"\0\0"),
        patched(56, b"\xff\xff"),
        patched(32, b"\xff" * 8),
        patched(32, b"\xff" * 7 + b"\x7f"),
    ],
    ids=range(11),
)
def test_files_that_are_no_core(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(UserError, match="is not a kernel core") as caught:
        Kcore(saved(tmp_path, damage(guest().file())))
    assert caught.value.hint


def test_files_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, message in ((tmp_path / "none", "does not exist"), (tmp_path, "cannot be opened")):
        with pytest.raises(UserError, match=message) as caught:
            Kcore(path)
        assert "shim" in caught.value.hint

    def refuse(_: Path) -> NoReturn:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(kcore_module, "FileIO", refuse)
    with pytest.raises(UserError, match="may not be read") as caught:
        Kcore(tmp_path)
    assert "lockdown=confidentiality" in caught.value.hint


def test_garbage_headers(tmp_path: Path) -> None:
    """Flipped bytes in headers, notes and tables end in a result or a user error."""
    chance, data = random.Random(11), guest().file()
    outcomes = set()
    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(1200)] = chance.choice((0, 0xFF, 0x7F, 0x80, chance.randrange(256)))
        with suppress(UserError), Kcore(saved(tmp_path, bytes(damaged))) as kcore:
            mappings = (*executable_mappings(kcore), *known(efi_mappings(kcore, EFI_MM), ()))
            memory_facts(kcore, mappings, HEADER, HYPERCALL)
            outcomes.add(len(mappings))
    assert len(INIT) + len(EFI) in outcomes


def test_a_note_that_never_ends(tmp_path: Path) -> None:
    endless = struct.pack("<III", 0xFFFFFFFF, 0xFFFFFFFF, 0)
    data = guest().file()
    with Kcore(saved(tmp_path, patched(64 + 56 * 5, endless)(data))) as kcore:
        assert kcore.vmcoreinfo == ""


def test_the_live_source_looks_its_symbols_up(tmp_path: Path) -> None:
    lines = {
        "_text": TEXT,
        "_etext": TEXT + 4096,
        "efi_mm": EFI_MM,
        "real_mode_header": HEADER,
        "hv_hypercall_pg": HYPERCALL,
    }
    symbols = Kallsyms("".join(f"{va:016x} T {name}\n" for name, va in lines.items()).encode())
    memory = KcoreSource(saved(tmp_path, guest())).read(symbols)
    assert set(memory.mappings) == {*INIT, *EFI}
    assert memory.facts.trampoline == Known(PageRange(0x99, 0x9B))
    assert memory.facts.hypercall_page == Known(0xFFFFC90000001000)
    assert memory.facts.efi_tables == Known(len(EFI))
