# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's KVM selftests, built from Debian's source, and the initrd that runs them with both KVMs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path, PurePath

from mbecguard.values.errors import die
from tests.corpus.archive import Kernel
from tests.corpus.cache import built, cache_dir, digest, run, say

from .cpio import Node, file, link, packed, program
from .layers import Host, Stack, kvm
from .parts import busybox, modules, script, stripped
from .testmodule import probe

GUEST = "7.2"  #: of a stack that has none
APPLETS = ("rmmod", "timeout", "whoami", "dirname")
FOLDER = "tools/testing/selftests/kvm"
SOURCES = ("tools/testing/selftests", "tools/include", "tools/arch/x86", "tools/build", "tools/lib")
MORE_SOURCES = ("scripts/subarch.include",)
BUILD = f"make -s -j$(nproc) -C /selftests/{FOLDER} ARCH=x86 OUTPUT=/selftests/out USERLDFLAGS=-static"
LIMIT = 200  #: of the emulated machine's seconds, for each test


def initrd(series: str, of: Kernel, vendor: str, commands: Mapping[str, str], paths: list[str]) -> bytes:
    """L1's initrd: tests by name with the command that runs each; `paths` of all tests that may be asked for."""
    lines = "".join(f"{name} {LIMIT} {command}\n" for name, command in commands.items())
    tree = busybox() | {f"bin/{applet}": link("busybox") for applet in APPLETS}
    tree |= {"init": script("host/selftests"), "lab/selftests": file(lines)}
    tree["etc/passwd"] = file("root:x:0:0::/:/bin/sh\n")
    if vendor == "intel":
        tree["lab/vmcs.ko"] = file(probe(series, of.release).read_bytes())
    for host in (Host.STOCK, Host.OURS):
        tree |= _kvm(series, of, f"kvm_{vendor}", host)
    folder = _programs(series, paths)
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return packed(tree | {f"selftests/{path.relative_to(folder)}": program(path.read_bytes()) for path in found})


def _kvm(series: str, of: Kernel, vendor: str, host: Host) -> dict[str, Node]:
    """The modules of one KVM, and in which order they are loaded and unloaded."""
    chosen = kvm(Stack(GUEST, host, 1, host_kernel=series), of.release)
    loaded = modules(of, ("irqbypass", "kvm", vendor))
    if host is Host.OURS:
        folder = chosen.files["kvm"].parent
        loaded |= {name: stripped(folder / f"{name.replace('_', '-')}.ko") for name in ("kvm", vendor)}
    load = "".join(f"{name} {chosen.options.get(name, '')}\n" for name in loaded)
    unload = "".join(f"{name}\n" for name in reversed(loaded))
    tree = {f"{name}.ko": file(data) for name, data in loaded.items()}
    tree |= {"load": file(load), "unload": file(unload)}
    return {f"kvm/{host.value}/{name}": node for name, node in tree.items()}


def _programs(series: str, paths: list[str]) -> Path:
    """Folder with the tests, linked statically, in the folders that the kernel's source has."""
    root = cache_dir() / f"kvm-build-root-{series}"
    source = root / f"usr/src/linux-source-{series}.tar.xz"
    if not source.is_file():
        die(f"no {source}", hint=f"kvm-host/build-in-root.sh {series} makes it")
    key = digest(source.read_bytes(), BUILD, *paths)
    return built(cache_dir() / f"lab-selftests-{key}", lambda scratch: _build(root, source, paths, scratch))


def _build(root: Path, source: Path, paths: list[str], into: Path) -> None:
    say(f"KVM selftests of {source.name}")
    work = root / "selftests"
    shutil.rmtree(work, ignore_errors=True)
    (work / "out").mkdir(parents=True)
    try:
        members = [f"{source.name.removesuffix('.tar.xz')}/{path}" for path in (*SOURCES, *MORE_SOURCES)]
        run(["tar", "-xf", source, "-C", work, "--strip-components=1", *members])
        # A test's script lies next to the program that it runs.
        targets = " ".join(f"/selftests/out/{path.removesuffix('.sh')}" for path in paths)
        run(["chroot", root, "sh", "-ec", f"{BUILD} {targets} && strip {targets}"])
        for path in map(PurePath, paths):
            (into / path.parent).mkdir(exist_ok=True)
            shutil.copy(work / "out" / path.with_suffix(""), into / path.with_suffix(""))
            if path.suffix:
                shutil.copy(work / FOLDER / path, into / path)
    finally:
        shutil.rmtree(work)
