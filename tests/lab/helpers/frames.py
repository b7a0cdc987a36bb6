# SPDX-License-Identifier: GPL-2.0-or-later
"""Print the address of memory of one kind: of firmware, PCI, plugged memory, a balloon; text that is gone."""

from __future__ import annotations

import struct
import subprocess
import sys
from array import array
from collections.abc import Callable
from pathlib import Path

PAGE = 4096
RUNTIME_DATA = 6  #: EFI memory type
SHARED_MEMORY = ("0x1af4", "0x1110")  #: vendor and device of QEMU's ivshmem; its memory is BAR 2
FREE, BALLOONED = 10, 23  #: bits of /proc/kpageflags: KPF_BUDDY, KPF_OFFLINE
MEMORY = Path("/sys/devices/system/memory")
LIST = Path("/run/ballooned")
MODULE, TEXT = "xfs", Path("/run/unloaded")  #: one that nobody else loads; where its text was


def efi_data() -> int:
    """The last page of EFI runtime data."""
    regions = sorted(Path("/sys/firmware/efi/runtime-map").iterdir())
    region = next(region for region in regions if _number(region / "type") == RUNTIME_DATA)
    return _number(region / "phys_addr") + (_number(region / "num_pages") - 1) * PAGE


def dmi() -> int:
    """The SMBIOS table."""
    entry = Path("/sys/firmware/dmi/tables/smbios_entry_point").read_bytes()
    return int(
        struct.unpack_from("<Q", entry, 16)[0] if entry.startswith(b"_SM3_") else struct.unpack_from("<I", entry, 24)[0]
    )


def device() -> int:
    """Memory of a PCI device."""
    for found in Path("/sys/bus/pci/devices").iterdir():
        if tuple((found / name).read_text().strip() for name in ("vendor", "device")) == SHARED_MEMORY:
            return int((found / "resource").read_text().splitlines()[2].split()[0], 16)
    raise LookupError("no shared memory device")


def plugged() -> int:
    """The last page of the highest memory block."""
    return (max(_blocks()) + 1) * _block_pages() * PAGE - PAGE


def ballooned() -> int:
    """A page that the balloon has; some of them are remembered."""
    pages = next(pages for pages in map(_pages_of(BALLOONED), sorted(_blocks(), reverse=True)) if pages)
    LIST.write_text(" ".join(map(str, pages)))
    return pages[0] * PAGE


def returned() -> int:
    """A page that the balloon had, and that nobody uses now."""
    had = set(map(int, LIST.read_text().split()))
    return next(page for page in _pages_of(FREE)(min(had) // _block_pages()) if page in had) * PAGE


def kernel_init() -> int:
    """A page that held the kernel's init text, and that nobody uses now."""
    begin, end = (_init_page(name) for name in ("__init_begin", "__init_end"))
    return _free(begin, end - begin)[0] * PAGE


def unloaded() -> int:
    """A page that held the text of a module that is gone: free, or still in the block that it was cut from."""
    if not TEXT.exists():
        subprocess.run(["modprobe", MODULE], check=True)
        TEXT.write_text(" ".join(map(str, _text_pages())))
        subprocess.run(["rmmod", MODULE], check=True)
    had = list(map(int, TEXT.read_text().split()))
    return next((page for page in had if _free(page, 1)), had[-1]) * PAGE


def _text_pages() -> list[int]:
    start = _number(Path(f"/sys/module/{MODULE}/sections/.text")) // PAGE + 1
    return [_physical(virtual * PAGE) // PAGE for virtual in range(start, start + 128)]


def _physical(address: int) -> int:
    """As the test module finds it in the page tables."""
    with Path("/dev/mbectest").open("r+b", buffering=0) as device:
        device.write(f"pa {address:#x}".encode())
    return int(Path("/dev/mbectest").read_text(), 0)


def _init_page(name: str) -> int:
    lines = Path("/proc/kallsyms").read_text().splitlines()
    symbols = {words[2]: int(words[0], 16) for words in map(str.split, lines)}
    code = next(line for line in Path("/proc/iomem").read_text().splitlines() if "Kernel code" in line)
    return (int(code.split("-")[0], 16) + symbols[name] - symbols["_text"]) // PAGE


def _blocks() -> list[int]:
    return [int((block / "phys_index").read_text(), 16) for block in MEMORY.glob("memory*/")]


def _block_pages() -> int:
    return int((MEMORY / "block_size_bytes").read_text(), 16) // PAGE


def _pages_of(bit: int) -> Callable[[int], list[int]]:
    """The page frames of a block that have this bit."""

    return lambda block: _flagged(bit, block * _block_pages(), _block_pages())


def _free(first: int, pages: int) -> list[int]:
    return _flagged(FREE, first, pages)


def _flagged(bit: int, first: int, pages: int) -> list[int]:
    flags = array("Q")
    with Path("/proc/kpageflags").open("rb") as file:
        file.seek(first * flags.itemsize)
        flags.frombytes(file.read(pages * flags.itemsize))
    return [first + page for page, word in enumerate(flags) if word >> bit & 1]


def _number(file: Path) -> int:
    return int(file.read_text(), 0)


KINDS = {
    row.__name__.replace("_", "-"): row
    for row in (efi_data, dmi, device, plugged, ballooned, returned, kernel_init, unloaded)
}

if __name__ == "__main__":
    print(KINDS[sys.argv[1]]())
