# SPDX-License-Identifier: GPL-2.0-or-later
"""The interface of a guest: where its facts come from, the same for a running and a captured one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from mbecguard.guest.tree import Tree, present
from mbecguard.values.errors import die

if TYPE_CHECKING:  # who only asks what a guest is reads no memory
    from mbecguard.guest.kcore import KernelMemory
    from mbecguard.guest.procfs import Kallsyms


def module_build_id(tree: Tree, name: str) -> str:
    """The build-id of a loaded module, as the kernel tells it; "" if it does not. The note's file may have any name."""
    from mbecguard.image.sections import notes_build_id

    folder = f"sys/module/{name}/notes"
    notes = (notes_build_id(tree.data(f"{folder}/{note}") or b"") for note in tree.names(folder))
    return next(filter(None, notes), "")


# It becomes part of a path: no slash, and not "..". include/uapi/linux/utsname.h: 64 bytes.
_RELEASE = re.compile(r"\w[\w.+~:@-]{0,63}", re.ASCII)


class Contents(Protocol):
    """Kernel memory by virtual address."""

    def virtual(self, va: int, size: int) -> bytes | None:
        """So many bytes there; None if they cannot be read."""
        ...


class MemorySource(Protocol):
    """Where the page tables are read: /proc/kcore, a captured file, or the shim."""

    def read(self, symbols: Kallsyms) -> KernelMemory:
        """Executable mappings and memory facts as they are now."""
        ...

    def contents(self) -> AbstractContextManager[Contents]:
        """What is in memory. Dies where nobody can look."""
        ...


class Guest(NamedTuple):
    """A guest: its files, its memory, and where the images of its kernel and modules may be, likely places first."""

    tree: Tree
    memory: MemorySource
    kernel_images: tuple[Path, ...]
    modules_dirs: tuple[Path, ...]
    live: bool

    @property
    def release(self) -> str:
        """Kernel release, as `uname -r` prints it."""
        release = self.tree.text("proc/sys/kernel/osrelease") or ""
        words = release.split() or (self.tree.text("proc/version") or "").split()[2:]
        if not words:
            die("the kernel's release is unknown", "proc/version or proc/sys/kernel/osrelease is needed")
        if not _RELEASE.fullmatch(words[0]):
            die(f"{words[0][:80]!r} is no kernel release", "the capture is damaged: capture the guest again")
        return words[0]

    @property
    def boot_id(self) -> str:
        """What tells one boot from the next; empty if that was not recorded."""
        return (self.tree.text("proc/sys/kernel/random/boot_id") or "").strip()

    def with_images(self, kernel_image: Path | None, modules_dirs: Sequence[Path] = ()) -> Guest:
        """The same guest with what the user gave: that image alone, those folders first. They must exist."""
        if kernel_image and not present(kernel_image.is_file):
            die(f"no kernel image at {kernel_image}", "give the vmlinuz, vmlinux or unified kernel image that runs")
        for folder in modules_dirs:
            if not present(folder.is_dir):
                die(f"no modules folder at {folder}", "give the folder of one release, as /lib/modules/RELEASE")
        others = (folder for folder in self.modules_dirs if folder not in modules_dirs)
        return self._replace(
            kernel_images=(kernel_image,) if kernel_image else self.kernel_images,
            modules_dirs=(*modules_dirs, *others),
        )
