# SPDX-License-Identifier: GPL-2.0-or-later
"""The interface of a guest: where its facts come from, the same for a running and a recorded one."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from mbecguard.errors import die
from mbecguard.guest.execmap import Mapping
from mbecguard.guest.kcore import MemoryFacts
from mbecguard.guest.procfs import Kallsyms
from mbecguard.guest.tree import Tree, present

# It becomes part of a path: no slash, and not "..". include/uapi/linux/utsname.h: 64 bytes.
_RELEASE = re.compile(r"\w[\w.+~:@-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class KernelMemory:
    """One look at the guest's page tables and memory."""

    mappings: tuple[Mapping, ...]
    facts: MemoryFacts


class MemorySource(Protocol):
    """Where the page tables are read: /proc/kcore, a recorded file, or the shim."""

    def read(self, symbols: Kallsyms) -> KernelMemory:
        """Executable mappings and memory facts as they are now."""
        ...


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest: its files, its memory, and where the images of its kernel and modules are."""

    tree: Tree
    memory: MemorySource
    kernel_image: Path | None
    modules_dir: Path | None
    live: bool

    @property
    def release(self) -> str:
        """Kernel release, as `uname -r` prints it."""
        release = self.tree.text("proc/sys/kernel/osrelease") or ""
        words = release.split() or (self.tree.text("proc/version") or "").split()[2:]
        if not words:
            die("the kernel's release is unknown", "proc/version or proc/sys/kernel/osrelease is needed")
        if not _RELEASE.fullmatch(words[0]):
            die(f"{words[0][:80]!r} is no kernel release", "the recording is damaged: record the guest again")
        return words[0]

    @property
    def boot_id(self) -> str:
        """What tells one boot from the next; empty if that was not recorded."""
        return (self.tree.text("proc/sys/kernel/random/boot_id") or "").strip()

    def with_images(self, kernel_image: Path | None, modules_dir: Path | None) -> Guest:
        """The same guest with image files given by the user; they must exist."""
        if kernel_image and not present(kernel_image.is_file):
            die(
                f"no kernel image at {kernel_image}",
                "give the vmlinuz, vmlinux or unified kernel image that runs",
            )
        if modules_dir and not present(modules_dir.is_dir):
            die(
                f"no modules folder at {modules_dir}",
                "give the folder of one release, as /lib/modules/RELEASE",
            )
        return replace(
            self,
            kernel_image=kernel_image or self.kernel_image,
            modules_dir=modules_dir or self.modules_dir,
        )
