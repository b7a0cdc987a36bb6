# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest-side test module, built against the stock headers of the guest's kernel, and helpers in user mode."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.corpus.cache import built, cache_dir, digest, run, say

from .layers import GUEST_SUITES, Stack
from .roots import builder

SOURCES = Path(__file__).parent / "module"
PRODUCTS = ("mbectest.ko", "usertool", "tempest")
#: objtool of 7.x reads /proc/self/limits. The mount goes away with the shell's namespace.
BUILD = (
    'mount -t proc proc "$1/proc" && exec chroot "$1" sh -ec '
    '"make -s -C /mbectest KDIR=/usr/src/linux-headers-$2 modules usertool tempest && strip -d /mbectest/mbectest.ko"'
)


def products(stack: Stack) -> Path:
    """Folder with `mbectest.ko` and the static programs `usertool`, and `tempest` for L1."""
    release = stack.guest().release
    sources = sorted(SOURCES.iterdir())
    key = digest(release, *(part for path in sources for part in (path.name, path.read_bytes())))
    return built(cache_dir() / f"lab-module-{key}", lambda scratch: _build(stack, release, sources, scratch))


def _build(stack: Stack, release: str, sources: list[Path], into: Path) -> None:
    root = builder(GUEST_SUITES[stack.kernel], release)
    say(f"test module for {release}")
    work = root / "mbectest"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        for path in sources:
            shutil.copy(path, work)
        run(["unshare", "--mount", "sh", "-ec", BUILD, "sh", root, release])
        for name in PRODUCTS:
            shutil.copy(work / name, into)
    finally:
        shutil.rmtree(work)
