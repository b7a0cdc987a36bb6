# SPDX-License-Identifier: GPL-2.0-or-later
"""The running guest."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mbecguard.guest import places
from mbecguard.guest.source import Contents, Guest, MemorySource
from mbecguard.guest.tree import Tree, present

if TYPE_CHECKING:  # who reads no memory needs none of it
    from mbecguard.guest.kcore import Kcore, KernelMemory
    from mbecguard.guest.procfs import Kallsyms


class KcoreSource(NamedTuple):
    """Page tables and memory by /proc/kcore."""

    path: Path = Path("/proc/kcore")

    def read(self, symbols: Kallsyms) -> KernelMemory:
        """Walk init_mm and efi_mm and read the facts about what they map."""
        from mbecguard.guest.kcore import Kcore, by_kcore

        with Kcore(self.path) as kcore:
            return by_kcore(kcore, symbols)

    def contents(self) -> Kcore:
        """Memory itself."""
        from mbecguard.guest.kcore import Kcore

        return Kcore(self.path)


class LiveSource(NamedTuple):
    """By the shim if it is there when somebody looks, else by /proc/kcore."""

    root: Path

    def read(self, symbols: Kallsyms) -> KernelMemory:
        """Executable mappings and memory facts as they are now."""
        return self._best().read(symbols)

    def contents(self) -> AbstractContextManager[Contents]:
        """Memory itself."""
        return self._best().contents()

    def _best(self) -> MemorySource:
        device, kcore = self.root / "dev/mbecguard", self.root / "proc/kcore"
        if not present(device.exists):
            return KcoreSource(kcore)
        from mbecguard.guest.shimsource import ShimSource

        return ShimSource(device, kcore)


def live_guest(root: Path = Path("/")) -> Guest:
    """The guest this runs in."""
    guest = Guest(Tree(root), LiveSource(root), (), (), live=True)
    release = guest.release
    return guest._replace(kernel_images=places.images(root, release), modules_dirs=places.modules(root, release))
