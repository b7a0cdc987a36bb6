# SPDX-License-Identifier: GPL-2.0-or-later
"""What a folder lies on: disks stay, memory does not, whatever lies over it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mbecguard.guest.mounts import mount_of, mounts, volatile
from mbecguard.guest.tree import Tree

ROOT = "22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro"
RUN = "25 22 0:24 / /run rw,nosuid,nodev shared:5 - tmpfs tmpfs rw,size=400k,mode=755"
VAR = "30 22 0:40 / /var rw,relatime - tmpfs var rw,size=1g"
#: As overlayroot, systemd.volatile=overlay (its tmpfs is gone from the tree) and live-boot make it.
OVERLAYROOT = (
    "22 1 0:30 / / rw - overlay overlayroot rw,lowerdir=/media/root-ro,upperdir=/media/root-rw/overlay,workdir=/w",
    "23 22 0:29 / /media/root-rw rw - tmpfs tmpfs-root rw",
)
SYSTEMD = (
    "22 1 0:30 / / rw - overlay overlay rw,lowerdir=/s,upperdir=/run/systemd/overlay-sysroot/upper,workdir=/w",
    RUN,
)
PERSISTENT = (
    "22 1 0:30 / / rw - overlay overlay rw,lowerdir=/l,upperdir=/disk/rw,workdir=/disk/w",
    "23 22 254:2 / /disk rw - ext4 /dev/vdb rw",
)
STATE = Path("/var/lib/mbecguard")


def said(folder: Path, *lines: str, state: Path = STATE) -> str:
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/self/mountinfo").write_text("".join(f"{line}\n" for line in lines))
    return volatile(Tree(folder), state)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ((ROOT,), ""),
        ((ROOT, VAR), "is on tmpfs (mounted at /var)"),
        ((ROOT, VAR, "31 30 254:3 / /var/lib/mbecguard rw - ext4 /dev/vdc rw"), ""),
        ((ROOT, VAR, "32 22 254:4 / /var rw - xfs /dev/vdd rw"), ""),  # mounted over it
        ((ROOT, RUN), ""),
        (("1 1 0:2 / / rw - rootfs none rw",), "is on rootfs (mounted at /)"),
        ((ROOT, "33 22 252:0 / /var rw - ext4 /dev/zram0 rw"), "is on ext4 (mounted at /var)"),
        (OVERLAYROOT, "is on overlay on tmpfs (mounted at /media/root-rw)"),
        (SYSTEMD, "is on overlay on tmpfs (mounted at /run)"),
        (PERSISTENT, ""),
        (("22 1 0:30 / / rw - overlay overlay rw,lowerdir=/l,upperdir=/gone,workdir=/w",), ""),
        (("22 1 0:30 / / ro - overlay overlay ro,lowerdir=/a:/b",), ""),
        (("no mountinfo",), ""),
    ],
)
def test_what_the_state_folder_is_on(tmp_path: Path, lines: tuple[str, ...], why: str) -> None:
    found = said(tmp_path, *lines)
    assert (why in found, bool(found)) == (True, bool(why))


def test_blanks_in_names(tmp_path: Path) -> None:
    blank = f"{ROOT}\n34 22 0:50 / /my\\040state rw - tmpfs a\\040b rw"
    assert [mount.point for mount in mounts(blank)] == ["/", "/my state"]
    found = mount_of(Path("/my state/x"), mounts(blank))
    assert found
    assert (found.source, found.kind) == ("a b", "tmpfs")


def test_without_mountinfo_nobody_can_tell(tmp_path: Path) -> None:
    assert volatile(Tree(tmp_path), STATE) == ""


MAY_MOUNT = subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode == 0


@pytest.mark.skipif(not MAY_MOUNT or os.geteuid() != 0, reason="needs a mount namespace")
def test_this_kernel_tells_it(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from mbecguard.guest.mounts import volatile; from mbecguard.guest.tree import Tree; "
        f"print(volatile(Tree(Path('/')), Path('{tmp_path}/state/deeper')))"
    )
    (tmp_path / "state").mkdir()
    script = f'mount -t tmpfs none {tmp_path}/state && exec {sys.executable} -c "{code}"'
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], check=True, capture_output=True, text=True)
    assert f"tmpfs (mounted at {tmp_path}/state), which is in memory" in done.stdout
