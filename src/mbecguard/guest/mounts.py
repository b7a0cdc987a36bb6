# SPDX-License-Identifier: GPL-2.0-or-later
"""What file system a folder lies on, and whether it is gone after a reset."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePath

from mbecguard.guest.tree import Tree

MOUNTS = "proc/self/mountinfo"
#: File systems that are nowhere but in memory (Documentation/filesystems/: tmpfs, ramfs-rootfs-initramfs).
IN_MEMORY = frozenset({"tmpfs", "ramfs", "rootfs", "devtmpfs"})
#: Disks that are: zram(4) is compressed memory, brd a plain RAM disk.
MEMORY_DISK = re.compile(r"/dev/(zram|ram)\d+")
_ESCAPED = re.compile(r"\\([0-7]{3})")
_LAYERS = 8  #: overlays on overlays


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo (proc_pid_mountinfo(5))."""

    point: str
    kind: str
    source: str
    options: dict[str, str]  #: of the file system


def mounts(text: str) -> tuple[Mount, ...]:
    """What is mounted, the newest last; lines that nobody understands are left out."""
    return tuple(mount for line in text.splitlines() if (mount := _mount(line)))


def _mount(line: str) -> Mount | None:
    place, dash, system = line.partition(" - ")
    fields, words = place.split(" "), system.split(" ")
    if not dash or len(fields) < 6 or len(words) < 3:
        return None
    options = dict(option.partition("=")[::2] for option in words[2].split(","))
    return Mount(_plain(fields[4]), words[0], _plain(words[1]), {key: _plain(value) for key, value in options.items()})


def _plain(text: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), text)


def mount_of(path: PurePath, found: tuple[Mount, ...]) -> Mount | None:
    """What a path lies on: the mount that is deepest, and newest there."""
    above = [mount for mount in found if path.is_relative_to(mount.point)]
    return max(reversed(above), key=lambda mount: len(PurePath(mount.point).parts), default=None)


def volatile(tree: Tree, folder: Path) -> str:
    """Why a folder of the running guest forgets everything at a reset; empty if it does not, or nobody can tell."""
    found = mounts(tree.text(MOUNTS) or "")
    place, said = Path(os.path.realpath(folder)), ""
    for _ in range(_LAYERS):
        mount = mount_of(place, found)
        if mount is None:
            return ""
        said = f"{said} on {mount.kind}" if said else f"{folder} is on {mount.kind}"
        if mount.kind in IN_MEMORY or MEMORY_DISK.fullmatch(mount.source):
            return f"{said} (mounted at {mount.point}), which is in memory"
        if mount.kind != "overlay" or not (upper := mount.options.get("upperdir")):
            return ""
        # Overlays of the initramfs name it by a path of then: what became of it since is most likely at the same place.
        place = Path(os.path.realpath(upper))
    return ""
