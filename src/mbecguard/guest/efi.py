# SPDX-License-Identifier: GPL-2.0-or-later
"""EFI runtime services code, as the firmware's memory map has it.

Source: drivers/firmware/efi/runtime-map.c; UEFI specification, EFI_MEMORY_TYPE 5 = EfiRuntimeServicesCode.
"""

from __future__ import annotations

from mbecguard.errors import die
from mbecguard.guest.procfs import parse_number
from mbecguard.guest.tree import Tree
from mbecguard.pages import ADDRESS_SPACE_PAGES, PAGE_SHIFT, PAGE_SIZE, PageRange

RUNTIME_MAP = "sys/firmware/efi/runtime-map"
RUNTIME_SERVICES_CODE = 5


def runtime_code(tree: Tree) -> tuple[PageRange, ...]:
    """Page frames of all type-5 regions, sorted; a superset of what efi_mm really maps executable."""
    entries = (f"{RUNTIME_MAP}/{name}" for name in tree.names(RUNTIME_MAP))
    return tuple(sorted(_frames(tree, e) for e in entries if _number(tree, e, "type") == RUNTIME_SERVICES_CODE))


def _frames(tree: Tree, entry: str) -> PageRange:
    start, pages = _number(tree, entry, "phys_addr"), _number(tree, entry, "num_pages")
    if start % PAGE_SIZE or not 0 < pages <= ADDRESS_SPACE_PAGES - (start >> PAGE_SHIFT):
        die(f"/{entry} is not a memory region: {pages} pages at {start:#x}", "the firmware's memory map is broken")
    return PageRange(start >> PAGE_SHIFT, (start >> PAGE_SHIFT) + pages)


def _number(tree: Tree, entry: str, name: str) -> int:
    text = tree.text(f"{entry}/{name}")
    if text is None:
        die(f"/{entry}/{name} is missing", "the recording is incomplete: record the guest again")
    return parse_number(text, f"/{entry}/{name}")
