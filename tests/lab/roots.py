# SPDX-License-Identifier: GPL-2.0-or-later
"""The Debian roots that the lab builds in and boots from, made once by mmdebstrap."""

from __future__ import annotations

import os
from pathlib import Path

from mbecguard.values.errors import die
from tests.corpus.archive import source_line
from tests.corpus.cache import built, cache_dir, digest, run, say

#: Bochs 2.8 or newer knows mode-based execute control: Debian 13 has it, Debian 12 does not.
MACHINE_SUITE = "trixie"
MACHINE = "bochs bochs-term bochsbios vgabios grub-pc-bin grub-common xorriso mtools qemu-system-x86 busybox-static"
COMPILER = "gcc make libc6-dev"
OF_KERNELS = f"{COMPILER} libelf-dev bc bison flex kmod patch xz-utils"


def machine() -> Path:
    """The root with Bochs, the ISO tools, and what L1 is made of: busybox, QEMU."""
    return _root(MACHINE_SUITE, MACHINE.split())


def builder(suite: str, release: str) -> Path:
    """The root with the compiler and the stock headers of one kernel release."""
    return _root(suite, [*COMPILER.split(), f"linux-headers-{release}"])


def kernel_builder(suite: str, series: str) -> Path:
    """The root with what builds a whole kernel, and Debian's source of one series."""
    return _root(suite, [*OF_KERNELS.split(), f"linux-source-{series}"])


def inside(root: Path, command: str, *, limit: float = 300) -> str:
    """Standard output of a shell command run in a root."""
    return run(["chroot", root, "sh", "-ec", command], limit=limit)


def _root(suite: str, packages: list[str]) -> Path:
    folder = cache_dir() / f"lab-root-{suite}-{digest(suite, *packages)}"
    return built(folder, lambda scratch: _make_root(suite, packages, scratch)) / "root"


def _make_root(suite: str, packages: list[str], into: Path) -> None:
    if os.geteuid():
        die("building a root file system needs root", hint="run the lab as root")
    say(f"{suite} root by mmdebstrap: {' '.join(packages)}")
    include = f"--include={','.join(packages)}"
    run(["mmdebstrap", "--variant=minbase", include, suite, into / "root", source_line(suite)], limit=1200)
