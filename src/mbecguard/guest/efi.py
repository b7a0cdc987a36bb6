# SPDX-License-Identifier: GPL-2.0-or-later
"""EFI runtime services, as the firmware's memory map has them.

Source: drivers/firmware/efi/runtime-map.c; UEFI specification, table "Memory Type Usage after ExitBootServices()".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from mbecguard.guest.execmap import Mapping
from mbecguard.guest.procfs import parse_number
from mbecguard.guest.tree import Tree
from mbecguard.values.errors import die
from mbecguard.values.facts import Absent, Fact, Known, Unknown, told
from mbecguard.values.pages import ADDRESS_SPACE_PAGES, PAGE_SHIFT, PAGE_SIZE, PageRange

FIRMWARE = "sys/firmware/efi"
RUNTIME_MAP = f"{FIRMWARE}/runtime-map"
EFI_WINDOW = range(0xFFFFFFEF00000000, 0xFFFFFFFF00000000)  #: EFI_VA_END..EFI_VA_START, arch/x86/platform/efi/efi_64.c


class Region(IntEnum):
    """EFI_MEMORY_TYPE of regions that the firmware uses after the start of the kernel."""

    CODE = 5
    DATA = 6
    MMIO = 11
    MMIO_PORTS = 12


_DATA = (Region.DATA, Region.MMIO, Region.MMIO_PORTS)


@dataclass(frozen=True, slots=True)
class Efi:
    """The firmware's map: page frames of code, a superset of what is mapped executable, and of everything else."""

    code: Fact[tuple[PageRange, ...]]
    data: tuple[PageRange, ...] = ()


NO_EFI = Efi(Absent())


def is_efi_address(mapping: Mapping) -> bool:
    """Whether only efi_mm maps this: its window below the kernel image, or the identity map of the lower half."""
    return mapping.va in EFI_WINDOW or mapping.va == mapping.pa


def firmware(tree: Tree, mappings: Iterable[Mapping]) -> Efi:
    """The map of a guest that was started by EFI; absent in others. `mappings` give EFI away, too."""
    regions = told(lambda: _regions(tree))
    if isinstance(regions, Unknown):
        return Efi(regions)
    if isinstance(regions, Absent):
        booted = bool(tree.names(FIRMWARE)) or any(map(is_efi_address, mappings))
        return Efi(_NO_MAP) if booted else NO_EFI
    code = tuple(sorted(frames for kind, frames in regions.value if kind == Region.CODE))
    return Efi(Known(code), tuple(sorted(frames for kind, frames in regions.value if kind in _DATA)))


_NO_MAP = Unknown(f"/{RUNTIME_MAP} is not there", "it needs a kernel with CONFIG_EFI_RUNTIME_MAP (CONFIG_KEXEC_CORE)")


def _regions(tree: Tree) -> tuple[tuple[int, PageRange], ...] | None:
    entries = [f"{RUNTIME_MAP}/{name}" for name in tree.names(RUNTIME_MAP)]
    return tuple((_number(tree, entry, "type"), _frames(tree, entry)) for entry in entries) or None


def _frames(tree: Tree, entry: str) -> PageRange:
    start, pages = _number(tree, entry, "phys_addr"), _number(tree, entry, "num_pages")
    if start % PAGE_SIZE or not 0 < pages <= ADDRESS_SPACE_PAGES - (start >> PAGE_SHIFT):
        die(f"/{entry} is not a memory region: {pages} pages at {start:#x}", "the firmware's memory map is broken")
    return PageRange(start >> PAGE_SHIFT, (start >> PAGE_SHIFT) + pages)


def _number(tree: Tree, entry: str, name: str) -> int:
    text = tree.text(f"{entry}/{name}")
    if text is None:
        die(f"/{entry}/{name} is missing", "the capture is incomplete: capture the guest again")
    return parse_number(text, f"/{entry}/{name}")
