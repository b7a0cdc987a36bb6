# SPDX-License-Identifier: GPL-2.0-or-later
"""The product as a guest gets it: the agent's sources, its start script, the shim built for the guest's kernel."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import prometheus_client

import mbecguard
from tests.corpus import oracle
from tests.corpus.cache import built, cache_dir, digest, run, say

from .cpio import Node, file, program
from .layers import GUEST_SUITES, Stack
from .parts import HERE, script
from .roots import builder

AGENT = Path(mbecguard.__file__).parent
PROJECT = HERE.parents[1]
PRODUCTS = ("hypercall-shim/mbecguard_shim.ko", "next_shim.ko", "tests/shim/shimtest", "tests/shim/shimfuzz")
SOURCES = ("hypercall-shim", "tests/shim")
SUFFIXES = ("", ".c", ".h", ".S", ".conf")  #: "": the Makefiles; .conf: of DKMS, which has the version
#: objtool of 7.x reads /proc/self/limits. The mount goes away with the shell's namespace.
BUILD = (
    'mount -t proc proc "$1/proc" && exec chroot "$1" sh -ec "cd /mbecguard-shim && '
    "make -s -C hypercall-shim KDIR=/usr/src/linux-headers-$2 modules && strip -d hypercall-shim/*.ko && "
    # Of the interface's next version, for an agent of this one.
    "cp -r hypercall-shim next && sed -i '/define MBECGUARD_ABI/s/3$/4/' next/mbecguard.h && "
    "make -s -C next KDIR=/usr/src/linux-headers-$2 modules && strip -d -o next_shim.ko next/mbecguard_shim.ko && "
    'make -s -C tests/shim all"'
)


def tree(stack: Stack) -> dict[str, Node]:
    """The files, below `lab/`; the kernel's image is one of them, for no boot loader has left it in /boot."""
    tools = products(stack)
    sources = {f"lab/agent/mbecguard/{path.relative_to(AGENT)}": path for path in sorted(AGENT.rglob("*.py"))}
    return {
        **{name: file(path.read_bytes()) for name, path in sources.items()},
        **_library(prometheus_client),
        "lab/bin/mbecguard": script("guest/mbecguard"),
        "lab/product": script("guest/product"),
        "lab/agent/tests/corpus/oracle.py": file(Path(oracle.__file__).read_bytes()),
        "lab/mbecguard_shim.ko": file((tools / "mbecguard_shim.ko").read_bytes()),
        "lab/next/mbecguard_shim.ko": file((tools / "next_shim.ko").read_bytes()),
        **{f"lab/bin/{name}": program((tools / name).read_bytes()) for name in ("shimtest", "shimfuzz")},
        "lab/vmlinuz": file(stack.guest().image.read_bytes()),
    }


def _library(package: ModuleType) -> dict[str, Node]:
    """One that no package of the guest has, beside the agent; in Python alone."""
    folder = Path(str(package.__file__)).parent
    sources = (path for path in sorted(folder.rglob("*.py")) if "__pycache__" not in path.parts)
    return {f"lab/agent/{path.relative_to(folder.parent)}": file(path.read_bytes()) for path in sources}


def products(stack: Stack) -> Path:
    """Folder with `mbecguard_shim.ko`, the next version's `next_shim.ko`, the static `shimtest` and `shimfuzz`."""
    release = stack.guest().release
    sources = [path for folder in SOURCES for path in sorted((PROJECT / folder).iterdir()) if path.suffix in SUFFIXES]
    key = digest(release, BUILD, *(part for path in sources for part in (path.name, path.read_bytes())))
    return built(cache_dir() / f"lab-shim-{key}", lambda scratch: _build(stack, release, sources, scratch))


def _build(stack: Stack, release: str, sources: list[Path], into: Path) -> None:
    root = builder(GUEST_SUITES[stack.kernel], release)
    say(f"shim for {release}")
    work = root / "mbecguard-shim"
    shutil.rmtree(work, ignore_errors=True)
    try:
        for path in sources:
            copy = work / path.relative_to(PROJECT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
        run(["unshare", "--mount", "sh", "-ec", BUILD, "sh", root, release])
        for name in PRODUCTS:
            shutil.copy(work / name, into)
    finally:
        shutil.rmtree(work)
