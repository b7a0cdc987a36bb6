# SPDX-License-Identifier: GPL-2.0-or-later
"""What initial RAM file systems are put together from."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from mbecguard.values.errors import die
from tests.corpus.archive import Kernel, name_of
from tests.corpus.cache import run
from tests.corpus.skeleton import decompressed

from .cpio import Node, file, folder, link, program
from .roots import machine

#: This package: the scripts of the layers lie in its folders `host` and `guest`.
HERE = Path(__file__).parent
APPLETS = (
    *("sh", "mount", "umount", "mkdir", "insmod", "cat", "cp", "ln", "sleep", "reboot", "poweroff", "stty", "dmesg"),
    *("mkfifo", "kill", "rm", "rmmod", "tr", "grep", "tail", "head", "cut", "mv", "uname", "switch_root"),
    *("taskset", "tee", "seq", "sort", "sed", "fallocate", "du"),
)
MOUNT_POINTS = ("proc", "sys", "dev", "run", "tmp", "var/tmp", "root")


def script(name: str) -> Node:
    """A script of this package."""
    return program((HERE / name).read_bytes())


def busybox() -> dict[str, Node]:
    """A shell and its tools."""
    tree = {f"bin/{applet}": link("busybox") for applet in APPLETS} | {name: folder() for name in MOUNT_POINTS}
    return tree | {"bin/busybox": program((machine() / "usr/bin/busybox").read_bytes())}


def modules(of: Kernel, names: Iterable[str]) -> dict[str, bytes]:
    """Module files in the order given; a name without a file is built in."""
    files: Mapping[str, Path] = {name_of(path): path for path in of.modules.rglob("*.ko*")}
    found = {name: decompressed(files[name].read_bytes()) for name in names if name in files}
    if not found:
        die(f"{of.release} has none of {', '.join(names)}", hint=f"remove {of.folder} and try again")
    return found


def module_tree(modules: Mapping[str, bytes], loaded: Iterable[str]) -> dict[str, Node]:
    """The modules, and `lab/modules`: what to load at once, in order."""
    lines = "".join(f"{name}\n" for name in loaded)
    return {f"modules/{name}.ko": file(data) for name, data in modules.items()} | {"lab/modules": file(lines)}


def stripped(module: Path) -> bytes:
    """Without debug information, which is nine tenths of a module built by hand."""
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / module.name
        run(["strip", "--strip-debug", "-o", target, module])
        return target.read_bytes()
