# SPDX-License-Identifier: GPL-2.0-or-later
"""The root file system of the guests: one user space, an ext4 image and an initrd per kernel."""

from __future__ import annotations

import lzma
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from mbecguard.values.errors import die

from . import guests
from .archive import Kernel, name_of, source_line
from .cache import built, cache_dir, digest, run, say

UNIT = """[Unit]
Description=Record this guest
[Service]
Type=exec
ExecStartPre=/bin/mkdir -p /run/corpus
ExecStartPre=/bin/tar -xf /dev/vdb -C /run/corpus
ExecStart=/bin/bash /run/corpus/main.sh
StandardOutput=file:/dev/ttyS0
StandardError=inherit
[Install]
WantedBy=multi-user.target
"""
HOSTNAME = "guest\n"  #: mmdebstrap would give it the name of the machine that records
APPLETS = ("sh", "mount", "umount", "insmod", "switch_root")
INIT = """#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in %s; do insmod /$module; done
mount /dev/vda /root && umount /proc /sys && exec switch_root /root /sbin/init
"""


def userland() -> Path:
    """The unpacked user space, without a kernel."""
    key = digest(guests.USERLAND_SUITE, *guests.USERLAND)
    return built(cache_dir() / f"userland-{key}", _make_userland) / "root"


def _make_userland(into: Path) -> None:
    if os.geteuid():
        die("building a root file system needs root", hint="run the corpus maker as root")
    say(f"user space: mmdebstrap of {guests.USERLAND_SUITE}")
    suite = guests.USERLAND_SUITE
    include = f"--include={','.join(guests.USERLAND)}"
    run(["mmdebstrap", "--variant=minbase", include, suite, into / "root", source_line(suite)], limit=900)


def root_image(of: Kernel) -> Path:
    """Folder with `root.img` (ext4: user space, modules, the capture unit) and `initrd` (cpio)."""
    key = digest(str(userland().parent.name), of.release, UNIT, INIT, HOSTNAME, *guests.MASKED_UNITS)
    return built(cache_dir() / f"root-{key}", lambda scratch: make_image(of, scratch))


def make_image(of: Kernel, into: Path, furnish: Callable[[Path], None] = lambda tree: None) -> None:
    """`root.img` and `initrd` in a folder; `furnish` gets the tree before it becomes an image."""
    say(f"root image for {of.release}")
    tree = into / "tree"
    run(["cp", "-a", "--reflink=auto", userland(), tree])
    modules = tree / "lib/modules" / of.release
    shutil.copytree(of.modules, modules, symlinks=True)
    run(["chroot", tree, "depmod", of.release])
    furnish(tree)
    system = tree / "etc/systemd/system"
    (system / "corpus.service").write_text(UNIT)
    wants = system / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "corpus.service").symlink_to("../corpus.service")
    for unit in guests.MASKED_UNITS:
        (system / unit).unlink(missing_ok=True)
        (system / unit).symlink_to("/dev/null")
    (tree / "etc/machine-id").write_text("")
    (tree / "etc/fstab").write_text("")
    (tree / "etc/hostname").write_text(HOSTNAME)
    for waste in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"):
        shutil.rmtree(tree / waste, ignore_errors=True)
    run(["/sbin/mke2fs", "-q", "-t", "ext4", "-d", tree, into / "root.img", "3G"])
    (into / "initrd").write_bytes(_initrd(modules, (tree / "bin/busybox").read_bytes()))
    shutil.rmtree(tree)


def _initrd(modules: Path, busybox: bytes) -> bytes:
    """A newc archive: busybox, the modules that the root disk needs, and an init that switches to it."""
    needed = _with_dependencies(modules, ["virtio_pci", "virtio_blk", "ext4"])
    order = " ".join(path.name.removesuffix(".xz") for path in needed)
    files: list[tuple[str, int, bytes]] = [(name, 0o040755, b"") for name in ("bin", "proc", "sys", "dev", "root")]
    files += [("bin/busybox", 0o100755, busybox), ("init", 0o100755, (INIT % order).encode())]
    files += [(f"bin/{tool}", 0o120777, b"busybox") for tool in APPLETS]
    files += [(path.name.removesuffix(".xz"), 0o100644, _plain(path)) for path in needed]
    return b"".join(_newc(*entry) for entry in [*files, ("TRAILER!!!", 0, b"")])


def _newc(name: str, mode: int, data: bytes) -> bytes:
    head = b"070701" + b"".join(
        b"%08X" % field for field in (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    )
    entry = head + name.encode() + b"\0"
    entry += b"\0" * (-len(entry) % 4) + data
    return entry + b"\0" * (-len(entry) % 4)


def _plain(module: Path) -> bytes:
    return lzma.decompress(module.read_bytes()) if module.suffix == ".xz" else module.read_bytes()


def _with_dependencies(modules: Path, names: list[str]) -> list[Path]:
    """Module files in loading order; a name without a file is built in."""
    rows = (line.split(":") for line in (modules / "modules.dep").read_text().splitlines())
    table = {name_of(path): [path, *deps.split()] for path, deps in rows}
    order: list[str] = []
    for name in names:
        order += [path for path in reversed(table.get(name, [])) if path not in order]
    return [modules / path for path in order]
