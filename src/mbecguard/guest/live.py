# SPDX-License-Identifier: GPL-2.0-or-later
"""The running guest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from mbecguard.guest import places
from mbecguard.guest.kcore import Kcore, KernelMemory, by_kcore
from mbecguard.guest.procfs import Kallsyms
from mbecguard.guest.shimsource import ShimSource
from mbecguard.guest.source import Guest, MemorySource
from mbecguard.guest.tree import Tree, present


@dataclass(frozen=True, slots=True)
class KcoreSource:
    """Page tables and memory by /proc/kcore."""

    path: Path = Path("/proc/kcore")

    def read(self, symbols: Kallsyms) -> KernelMemory:
        """Walk init_mm and efi_mm and read the facts about what they map."""
        with Kcore(self.path) as kcore:
            return by_kcore(kcore, symbols)

    def contents(self) -> Kcore:
        """Memory itself."""
        return Kcore(self.path)


def live_guest(root: Path = Path("/")) -> Guest:
    """The guest this runs in."""
    guest = Guest(Tree(root), _memory(root), (), (), live=True)
    release = guest.release
    return replace(guest, kernel_images=places.images(root, release), modules_dirs=places.modules(root, release))


def _memory(root: Path) -> MemorySource:
    device, kcore = root / "dev/mbecguard", root / "proc/kcore"
    return ShimSource(device, kcore) if present(device.exists) else KcoreSource(kcore)
