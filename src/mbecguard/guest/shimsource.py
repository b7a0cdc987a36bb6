# SPDX-License-Identifier: GPL-2.0-or-later
"""The running guest's page tables by the shim, which also works where lockdown forbids /proc/kcore."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from mbecguard.errors import UserError, die
from mbecguard.guest.execmap import LEAF_LIMIT, Mapping, append
from mbecguard.guest.kcore import EFI_WINDOW, Kcore, MemoryFacts, executable_mappings, memory_facts
from mbecguard.guest.procfs import KERNEL_HALF, Kallsyms
from mbecguard.guest.source import KernelMemory
from mbecguard.host.ioctl import DEVICE, MapFlag, ShimDevice, ShimMapping, open_device
from mbecguard.pages import PageRange, PageSet


@dataclass(frozen=True, slots=True)
class ShimSource:
    """init_mm by the shim; efi_mm, the trampoline and the hypercall page by /proc/kcore if that can be read.

    Without them the planner falls back to supersets, or does not explain a page: never to less than is needed.
    """

    device: Path = DEVICE
    kcore: Path = Path("/proc/kcore")
    open: Callable[[Path], ShimDevice] = open_device

    def read(self, symbols: Kallsyms) -> KernelMemory:
        """Executable mappings and memory facts as they are now."""
        with self.open(self.device) as device:
            page_offset = device.info().page_offset
            found = list(islice(device.mappings(content=True), LEAF_LIMIT + 1))
        if len(found) > LEAF_LIMIT:
            die(f"more than {LEAF_LIMIT} executable mappings", "does the kernel run without NX (noexec=off)?")
        rest = self._rest(symbols)
        int3 = [_frames(m) for m in found if MapFlag.INT3 in m.flags]
        thunks = [_frames(m) for m in found if MapFlag.THUNKS in m.flags and MapFlag.INT3 not in m.flags]
        facts = MemoryFacts(
            page_offset=page_offset,
            trampoline=rest.facts.trampoline,
            hypercall_page=rest.facts.hypercall_page,
            int3_pages=tuple(PageSet((*int3, *rest.facts.int3_pages))),
            thunk_pages=tuple(PageSet((*thunks, *rest.facts.thunk_pages))),
        )
        return KernelMemory(tuple(sorted((*_joined(found), *rest.mappings), key=lambda m: m.va)), facts)

    def _rest(self, symbols: Kallsyms) -> KernelMemory:
        """What only efi_mm maps, and what variables of the kernel tell; nothing if it cannot be read."""
        with suppress(UserError), Kcore(self.kcore) as kcore:
            efi_mm = symbols.address("efi_mm")
            everything = executable_mappings(kcore, efi_mm) if efi_mm else ()
            mappings = tuple(m for m in everything if m.va < KERNEL_HALF or m.va in EFI_WINDOW)
            facts = memory_facts(
                kcore,
                mappings,
                real_mode_header=symbols.address("real_mode_header"),
                hypercall_pointer=symbols.address("hv_hypercall_pg"),
            )
            return KernelMemory(mappings, facts)
        return KernelMemory((), MemoryFacts())


def _frames(m: ShimMapping) -> PageRange:
    return PageRange.covering(m.pa, m.bytes)


def _joined(found: Iterable[ShimMapping]) -> list[Mapping]:
    """The extents as page tables alone would tell them, without the borders between different content."""
    joined: list[Mapping] = []
    for m in found:
        append(joined, Mapping(m.va, m.pa, m.bytes, bool(m.flags & MapFlag.WRITABLE), bool(m.flags & MapFlag.USER)))
    return joined
