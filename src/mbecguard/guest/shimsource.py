# SPDX-License-Identifier: GPL-2.0-or-later
"""The running guest's page tables by the shim, which also works where lockdown forbids /proc/kcore."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from mbecguard.device import DEVICE, MapFlag, ShimDevice, ShimMapping, open_device
from mbecguard.guest.execmap import LEAF_LIMIT, Mapping, append
from mbecguard.guest.kcore import Kcore, KernelMemory, MemoryFacts, with_facts
from mbecguard.guest.procfs import Kallsyms
from mbecguard.values.errors import UserError, die
from mbecguard.values.facts import Known, Unknown, known
from mbecguard.values.pages import PageRange, PageSet


@dataclass(frozen=True, slots=True)
class ShimSource:
    """init_mm by the shim; efi_mm, the trampoline and the hypercall page by /proc/kcore if that can be read."""

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
        facts = replace(
            rest.facts,
            page_offset=page_offset,
            int3_pages=Known(tuple(PageSet((*int3, *known(rest.facts.int3_pages, ()))))),
            thunk_pages=Known(tuple(PageSet((*thunks, *known(rest.facts.thunk_pages, ()))))),
        )
        return KernelMemory(tuple(sorted((*_joined(found), *rest.mappings), key=lambda m: m.va)), facts)

    def contents(self) -> Kcore:
        """Memory itself, which the shim hands out to nobody."""
        return Kcore(self.kcore)

    def _rest(self, symbols: Kallsyms) -> KernelMemory:
        """What only efi_mm maps, and what variables of the kernel tell; or why nobody can tell."""
        try:
            with Kcore(self.kcore) as kcore:
                return with_facts(kcore, symbols, ())
        except UserError as error:
            why = Unknown(error.message, error.hint)
            return KernelMemory((), MemoryFacts(trampoline=why, hypercall_page=why, efi_tables=why))


def _frames(m: ShimMapping) -> PageRange:
    return PageRange.covering(m.pa, m.bytes)


def _joined(found: Iterable[ShimMapping]) -> list[Mapping]:
    """The extents as page tables alone would tell them, without the borders between different content."""
    joined: list[Mapping] = []
    for m in found:
        append(joined, Mapping(m.va, m.pa, m.bytes, bool(m.flags & MapFlag.WRITABLE), bool(m.flags & MapFlag.USER)))
    return joined
