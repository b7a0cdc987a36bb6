# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel memory through /proc/kcore: page tables, and the few variables that no other file tells.

Source: fs/proc/kcore.c (layout, VMCOREINFO note), arch/x86/kernel/machine_kexec_64.c (what VMCOREINFO holds).
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path

from mbecguard.guest.efi import EFI_WINDOW
from mbecguard.guest.execmap import Mapping, PageTables
from mbecguard.guest.procfs import KERNEL_HALF, Kallsyms
from mbecguard.values.errors import UserError, die, plainly
from mbecguard.values.facts import Fact, Known, Unknown, known, told
from mbecguard.values.pages import ADDRESS_SPACE_PAGES, PAGE_SHIFT, PAGE_SIZE, PageRange, PageSet

START_KERNEL_MAP = 0xFFFFFFFF80000000  #: __START_KERNEL_map, arch/x86/include/asm/page_64_types.h
MM_STRUCT_HEAD = 512  #: bytes of mm_struct in which `pgd` lies (0x78 on 6.12)

CODE_PAGES = 1 << 20  #: executable pages whose content is read at most: 4 GiB
NOTES_LIMIT = 1 << 20  #: bytes of notes; they hold one task_struct and VMCOREINFO

_ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_PT_LOAD, _PT_NOTE = 1, 4
_NO_ADDRESS = 2**64 - 1  #: p_paddr of what lies nowhere in particular

MOST_MEMORY = 1 << 46  #: bytes; __PHYSICAL_MASK_SHIFT of 4 levels: what lies higher is no pointer into the direct map

_NO_EFI_MM = "the firmware's own map, /sys/firmware/efi/runtime-map, has to do"
_NO_CORE = "load the mbecguard shim, which reads the page tables itself"
_INT3_PAGE = b"\xcc" * PAGE_SIZE
# its_init_thunk() in arch/x86/kernel/alternative.c writes `jmp *%reg` and int3; the rest of the page is int3.
# Paranoid FineIBT has an invalid instruction and `jne` to it before each: UDB (d6),
# or ea before 6.18 ("x86,ibt: Use UDB instead of 0xEA").
_THUNKS = re.compile(rb"(?:\xcc|[\xd6\xea]\x75\xfd|\x41?\xff[\xe0-\xe7]\xcc)+")


UNTOLD = Unknown("memory.json does not tell", "capture the guest again")


@dataclass(frozen=True, slots=True)
class MemoryFacts:
    """What only kernel memory tells. Ranges are page frames; addresses are bytes."""

    page_offset: int | None = None  #: virtual address of physical 0 in the direct map
    trampoline: Fact[PageRange] = UNTOLD  #: real-mode blob that runs with paging on: text_start..ro_end
    hypercall_page: Fact[int] = UNTOLD  #: Hyper-V's, by virtual address
    efi_tables: Fact[int] = UNTOLD  #: executable pages that only efi_mm maps
    int3_pages: Fact[tuple[PageRange, ...]] = UNTOLD  #: executable pages that hold nothing but int3
    thunk_pages: Fact[tuple[PageRange, ...]] = UNTOLD  #: those that hold nothing but int3 and `jmp *%reg`

    def __post_init__(self) -> None:
        for address in (self.page_offset, known(self.hypercall_page, None)):
            if address is not None and not KERNEL_HALF <= address < 1 << 64:
                raise ValueError(f"{address:#x} is no kernel address")
        for frames in (known(self.trampoline, None), *known(self.int3_pages, ()), *known(self.thunk_pages, ())):
            if frames is not None and frames.end > ADDRESS_SPACE_PAGES:
                raise ValueError(f"page frame {frames.end - 1:#x} lies beyond any memory")


@dataclass(frozen=True, slots=True)
class KernelMemory:
    """One look at the guest's page tables and memory."""

    mappings: tuple[Mapping, ...]
    facts: MemoryFacts


@dataclass(frozen=True, slots=True)
class _Segment:
    va: int
    pa: int | None
    offset: int
    bytes: int


class Kcore:
    """Reads kernel memory by virtual or physical byte address. Use as a context manager."""

    def __init__(self, path: Path = Path("/proc/kcore")) -> None:
        try:
            self._file = FileIO(path)
        except FileNotFoundError:
            die(f"{path} does not exist", "the kernel needs CONFIG_PROC_KCORE, or load the mbecguard shim")
        except PermissionError:
            die(
                f"{path} may not be read",
                "run as root; under lockdown=confidentiality only the mbecguard shim can read the page tables",
            )
        except OSError as error:
            die(f"{path} cannot be opened: {error.strerror}", _NO_CORE)
        try:
            self._segments, self.vmcoreinfo = _layout(self._file.fileno())
        except (UserError, OSError) as error:
            self._file.close()
            die(f"{path} is not a kernel core: {plainly(error)}", _NO_CORE)

    def __enter__(self) -> Kcore:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def page_offset(self) -> int:
        """Virtual address of physical address 0 in the direct map."""
        bases = (s.va - s.pa for s in self._segments if s.pa is not None and s.va < START_KERNEL_MAP)
        base = next((base for base in bases if base >= KERNEL_HALF), None)
        return base if base is not None else die("/proc/kcore has no direct map", _NO_CORE)

    def physical(self, pa: int, size: int = PAGE_SIZE) -> bytes | None:
        """`size` bytes at a physical address; None if no RAM segment holds them."""
        return self._read(pa, size, lambda s: s.pa if s.va < START_KERNEL_MAP else None)

    def virtual(self, va: int, size: int) -> bytes | None:
        """`size` bytes at a kernel virtual address; None if no segment holds them."""
        return self._read(va, size, lambda s: s.va)

    def word(self, va: int | None) -> int | None:
        """The 64-bit word at a kernel virtual address, None if there is no such address."""
        data = self.virtual(va, 8) if va is not None else None
        return int.from_bytes(data, "little") if data else None

    def number(self, name: str, default: int | None = None) -> int:
        """A VMCOREINFO entry: `NUMBER(x)`, decimal, or `SYMBOL(x)`, hexadecimal."""
        number, symbol = rf"NUMBER\({name}\)=(-?[0-9]{{1,20}})", rf"SYMBOL\({name}\)=([0-9a-f]{{1,16}})"
        match = re.search(f"^(?:{number}|{symbol})$", self.vmcoreinfo, re.MULTILINE)
        if match:
            return int(match[1]) if match[1] else int(match[2], 16)
        if default is None:
            die(f"/proc/kcore does not tell {name}", "the kernel needs CONFIG_VMCORE_INFO (CONFIG_KEXEC_CORE)")
        return default

    def _read(self, address: int, size: int, base_of: Callable[[_Segment], int | None]) -> bytes | None:
        for s in self._segments:
            base = base_of(s)
            if base is not None and base <= address and address + size <= base + s.bytes:
                with suppress(OSError, OverflowError):
                    data = os.pread(self._file.fileno(), size, s.offset + address - base)
                    return data if len(data) == size else None
        return None


def _layout(fd: int) -> tuple[tuple[_Segment, ...], str]:
    """Memory segments and VMCOREINFO, by the program headers; an import of an ELF parser would cost more."""
    segments, vmcoreinfo = [], ""
    for kind, _, offset, va, pa, size, *_ in _program_headers(fd):
        if kind == _PT_LOAD:
            segments.append(_Segment(va, None if pa == _NO_ADDRESS else pa, offset, size))
        elif kind == _PT_NOTE and offset < KERNEL_HALF:
            vmcoreinfo += _vmcoreinfo(os.pread(fd, min(size, NOTES_LIMIT), offset))
    return tuple(segments), vmcoreinfo


def _program_headers(fd: int) -> Iterator[tuple[int, ...]]:
    head = os.pread(fd, _ELF_HEADER.size, 0)
    if len(head) < _ELF_HEADER.size or not head.startswith(b"\x7fELF\x02\x01"):
        die("not a 64-bit little-endian ELF file")
    fields = _ELF_HEADER.unpack(head)
    table, entry_size, count = fields[5], fields[9], fields[10]
    size = _PROGRAM_HEADER.size * count
    data = os.pread(fd, size, table) if table < KERNEL_HALF else b""
    if entry_size != _PROGRAM_HEADER.size or len(data) != size:
        die("its program headers are cut short")
    return _PROGRAM_HEADER.iter_unpack(data)


def _vmcoreinfo(notes: bytes) -> str:
    position = 0
    while position + 12 <= len(notes):
        name_size, size, _ = struct.unpack_from("<3I", notes, position)
        name_at = position + 12
        data_at = name_at + (name_size + 3 & ~3)
        if notes[name_at : name_at + name_size].rstrip(b"\0") == b"VMCOREINFO":
            return notes[data_at : data_at + size].decode(errors="replace")
        position = data_at + (size + 3 & ~3)
    return ""


def by_kcore(kcore: Kcore, symbols: Kallsyms) -> KernelMemory:
    """Everything that kernel memory tells."""
    return with_facts(kcore, symbols, executable_mappings(kcore))


def with_facts(kcore: Kcore, symbols: Kallsyms, mappings: Sequence[Mapping]) -> KernelMemory:
    """The executable extents of init_mm as given, those of efi_mm, and the facts about both."""
    efi = efi_mappings(kcore, symbols.address("efi_mm"))
    everything = tuple(sorted((*mappings, *known(efi, ())), key=lambda m: m.va))
    facts = memory_facts(
        kcore,
        everything,
        real_mode_header=symbols.address("real_mode_header"),
        hypercall_pointer=symbols.address("hv_hypercall_pg"),
    )
    pages = Known(sum(len(m.virtual) for m in efi.value)) if isinstance(efi, Known) else efi
    return KernelMemory(everything, replace(facts, efi_tables=pages))


def executable_mappings(kcore: Kcore) -> tuple[Mapping, ...]:
    """Executable extents of init_mm."""
    return _tables(kcore).executable(*_init_tables(kcore))


def efi_mappings(kcore: Kcore, efi_mm: int | None) -> Fact[tuple[Mapping, ...]]:
    """What only efi_mm maps executable, given the address of that symbol; absent where no firmware is called."""
    return told(lambda: _efi_mappings(kcore, efi_mm) if efi_mm else None)


def _efi_mappings(kcore: Kcore, efi_mm: int) -> tuple[Mapping, ...] | None:
    root, levels = _init_tables(kcore)
    efi_root = _pgd_of(kcore, efi_mm, root, levels)
    if efi_root is None:
        return None
    tables = _tables(kcore)
    # Not the rest, which is init_mm's.
    lower = tables.within(efi_root, levels, range(1 << PAGE_SHIFT + 9 * levels - 1))
    return (*lower, *tables.within(efi_root, levels, EFI_WINDOW))


def _init_tables(kcore: Kcore) -> tuple[int, int]:
    """Physical address of init_mm's top table, and the number of levels."""
    levels = 5 if kcore.number("pgtable_l5_enabled", 0) else 4
    return kcore.number("swapper_pg_dir") - START_KERNEL_MAP + kcore.number("phys_base"), levels


def _tables(kcore: Kcore) -> PageTables:
    return PageTables(kcore.physical, encryption_mask=kcore.number("sme_mask", 0))


def _pgd_of(kcore: Kcore, mm: int, init_root: int, levels: int) -> int | None:
    """Physical address of an mm_struct's top table, told by content: it shares init's entry for the direct map.

    None if it has no table at all. The offset of `pgd` differs between kernels, and BTF costs more to parse than all
    the rest.
    """
    page_offset, head = kcore.page_offset, kcore.virtual(mm, MM_STRUCT_HEAD)
    slot = 8 * (page_offset >> (PAGE_SHIFT + 9 * (levels - 1)) & 511)
    shared = kcore.physical(init_root + slot, 8)
    if head is None or not shared or shared == bytes(8):
        die("efi_mm cannot be read from /proc/kcore", _NO_EFI_MM)
    words: tuple[int, ...] = struct.unpack(f"<{MM_STRUCT_HEAD // 8}Q", head)
    places = (word - page_offset for word in words)
    tables = [pa for pa in places if 0 < pa < MOST_MEMORY and not pa % PAGE_SIZE and pa != init_root]
    root = next((pa for pa in tables if kcore.physical(pa + slot, 8) == shared), None)
    if tables and root is None:
        die("no page table of efi_mm is like the kernel's own", _NO_EFI_MM)
    return root


def memory_facts(
    kcore: Kcore, mappings: Sequence[Mapping], real_mode_header: int | None, hypercall_pointer: int | None
) -> MemoryFacts:
    """Read what memory alone tells, given the addresses of the symbols `real_mode_header` and `hv_hypercall_pg`."""
    if (pages := sum(len(m.frames) for m in mappings)) > CODE_PAGES:
        die(f"{pages} pages are executable", "the page tables are garbage, or the kernel runs without NX (noexec=off)")
    int3, thunks = [], []
    for frame in (frame for m in mappings for frame in range(m.frames.start, m.frames.end)):
        content = kcore.physical(frame << PAGE_SHIFT) or b""
        if content == _INT3_PAGE:
            int3.append(PageRange(frame, frame + 1))
        elif _THUNKS.fullmatch(content):
            thunks.append(PageRange(frame, frame + 1))
    return MemoryFacts(
        page_offset=kcore.page_offset,
        trampoline=told(lambda: _trampoline(kcore, real_mode_header)),
        hypercall_page=told(lambda: _hypercall_page(kcore, hypercall_pointer)),
        int3_pages=Known(tuple(PageSet(int3))),
        thunk_pages=Known(tuple(PageSet(thunks))),
    )


def _trampoline(kcore: Kcore, real_mode_header: int | None) -> PageRange | None:
    # struct real_mode_header starts with u32 text_start, ro_end (arch/x86/include/asm/realmode.h).
    if real_mode_header is None:
        return None
    header = kcore.word(real_mode_header)
    data = kcore.virtual(header, 8) if header else None
    start, end = struct.unpack("<2I", data) if data else (0, 0)
    if not 0 < start < end:
        die("the real-mode header cannot be read from /proc/kcore", _NO_CORE)
    return PageRange.covering(start, end - start)


def _hypercall_page(kcore: Kcore, pointer: int | None) -> int | None:
    if pointer is None:
        return None
    page = kcore.word(pointer)
    if page is None or 0 < page < KERNEL_HALF:
        die("hv_hypercall_pg cannot be read from /proc/kcore", _NO_CORE)
    return page or None
