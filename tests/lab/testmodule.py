# SPDX-License-Identifier: GPL-2.0-or-later
"""Modules built against stock headers: the guest's with its helpers in user mode, and L1's that looks at a VMCS."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.corpus.cache import built, cache_dir, digest, run, say

from .layers import GUEST_SUITES, HOST_SUITES, Stack
from .parts import HERE
from .roots import builder

PRODUCTS = ("mbectest.ko", "usertool", "tempest")
PROBE = ("vmcs.ko",)
#: objtool of 7.x reads /proc/self/limits. The mount goes away with the shell's namespace.
BUILD = (
    'mount -t proc proc "$1/proc" && exec chroot "$1" sh -ec '
    '"make -s -C /module KDIR=/usr/src/linux-headers-$2 modules $3 && strip -d /module/*.ko"'
)


def products(stack: Stack) -> Path:
    """Folder with `mbectest.ko` and the static programs `usertool`, and `tempest` for L1."""
    return _compiled(HERE / "module", PRODUCTS, GUEST_SUITES[stack.kernel], stack.guest().release)


def probe(series: str, release: str) -> Path:
    """`vmcs.ko` for a host's kernel."""
    return _compiled(HERE / "vmcs", PROBE, HOST_SUITES[series], release) / PROBE[0]


def _compiled(sources: Path, wanted: tuple[str, ...], suite: str, release: str) -> Path:
    files = sorted(sources.iterdir())
    key = digest(release, *(part for path in files for part in (path.name, path.read_bytes())))
    return built(cache_dir() / f"lab-module-{key}", lambda scratch: _build(files, wanted, suite, release, scratch))


def _build(files: list[Path], wanted: tuple[str, ...], suite: str, release: str, into: Path) -> None:
    root = builder(suite, release)
    say(f"{wanted[0]} for {release}")
    work = root / "module"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        for path in files:
            shutil.copy(path, work)
        programs = " ".join(name for name in wanted if not name.endswith(".ko"))
        run(["unshare", "--mount", "sh", "-ec", BUILD, "sh", root, release, programs])
        for name in wanted:
            shutil.copy(work / name, into)
    finally:
        shutil.rmtree(work)
