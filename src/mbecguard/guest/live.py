# SPDX-License-Identifier: GPL-2.0-or-later
"""The running guest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from mbecguard.guest.kcore import Kcore, executable_mappings, memory_facts
from mbecguard.guest.procfs import Kallsyms
from mbecguard.guest.shimsource import ShimSource
from mbecguard.guest.source import Guest, KernelMemory, MemorySource
from mbecguard.guest.tree import Tree, present

#: Where distributions put the image of release R; the first that exists is taken.
IMAGE_PLACES = (
    "boot/vmlinuz-{release}",
    "usr/lib/modules/{release}/vmlinuz",
    "lib/modules/{release}/vmlinuz",
    "boot/vmlinuz-linux",  # Arch before mkinitcpio 39
)
IMAGE_GLOBS = (
    "boot/efi/EFI/Linux/*{release}*.efi",
    "efi/EFI/Linux/*{release}*.efi",
    "boot/EFI/Linux/*{release}*.efi",
)


@dataclass(frozen=True, slots=True)
class KcoreSource:
    """Page tables and memory by /proc/kcore."""

    path: Path = Path("/proc/kcore")

    def read(self, symbols: Kallsyms) -> KernelMemory:
        """Walk init_mm and efi_mm and read the facts about what they map."""
        with Kcore(self.path) as kcore:
            mappings = executable_mappings(kcore, symbols.address("efi_mm"))
            facts = memory_facts(
                kcore,
                mappings,
                real_mode_header=symbols.address("real_mode_header"),
                hypercall_pointer=symbols.address("hv_hypercall_pg"),
            )
        return KernelMemory(mappings, facts)


def live_guest(root: Path = Path("/")) -> Guest:
    """The guest this runs in."""
    guest = Guest(Tree(root), _memory(root), None, None, live=True)
    release = guest.release
    modules = root / "lib/modules" / release
    return replace(guest, kernel_image=_image(root, release), modules_dir=modules if present(modules.is_dir) else None)


def _memory(root: Path) -> MemorySource:
    device, kcore = root / "dev/mbecguard", root / "proc/kcore"
    return ShimSource(device, kcore) if present(device.exists) else KcoreSource(kcore)


def _image(root: Path, release: str) -> Path | None:
    fixed = (root / place.format(release=release) for place in IMAGE_PLACES)
    unified = (path for pattern in IMAGE_GLOBS for path in sorted(root.glob(pattern.format(release=release))))
    return next((path for path in (*fixed, *unified) if present(path.is_file)), None)
