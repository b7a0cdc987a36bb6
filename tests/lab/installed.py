# SPDX-License-Identifier: GPL-2.0-or-later
"""The disk of a guest on which our packages were installed by apt, and its shim built by DKMS."""

from __future__ import annotations

import shutil
from pathlib import Path

from mbecguard.values.errors import die
from tests.corpus import guests
from tests.corpus.archive import Kernel, source_line
from tests.corpus.cache import built, cache_dir, digest, run
from tests.corpus.roots import make_image, userland
from tests.packages import build

LOADER = "systemd-bootx64.efi"  #: beside the disk's image
PACKAGES = ("mbecguard", "mbecguard-report", "mbecguard-shim-dkms")
#: DKMS and objtool want /proc; the mount goes away with the shell's namespace. Nothing may be started in a root.
INSTALL = """
mount -t proc proc "$1/proc"
printf '#!/bin/sh\\nexit 101\\n' >"$1/usr/sbin/policy-rc.d"
chmod 755 "$1/usr/sbin/policy-rc.d"
chroot "$1" sh -ec '
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update
    apt-get -qq install -y --no-install-recommends systemd-container systemd-boot systemd-boot-efi
    apt-get -qq install -y --no-install-recommends linux-headers-$0 /packages/*.deb
    apt-get -qq clean
    modinfo -k $0 mbecguard_shim
' "$2"
rm "$1/usr/sbin/policy-rc.d"
"""


def image(of: Kernel) -> Path:
    """The disk's image. The user space is of one suite, whose kernel alone has its headers there."""
    debs = packages()
    key = digest(userland().parent.name, of.release, INSTALL, *guests.MASKED_UNITS, *(deb.read_bytes() for deb in debs))
    folder = cache_dir() / f"lab-installed-{key}"
    return built(folder, lambda scratch: make_image(of, scratch, lambda tree: _install(of, debs, tree))) / "root.img"


def packages() -> list[Path]:
    """The guest's packages, built from this checkout."""
    out = cache_dir() / "lab-packages"
    shutil.rmtree(out, ignore_errors=True)
    found = [
        file for file in build("debs", out) if file.name.endswith("_all.deb") and file.name.split("_")[0] in PACKAGES
    ]
    if len(found) != len(PACKAGES):
        die(f"packaging/build-debs.sh left {len(found)} of {len(PACKAGES)} packages", hint=f"see {out}")
    return found


def _install(of: Kernel, debs: list[Path], tree: Path) -> None:
    (tree / "packages").mkdir()
    for deb in debs:
        shutil.copy(deb, tree / "packages")
    (tree / "etc/apt/sources.list").write_text(source_line(guests.USERLAND_SUITE) + "\n")
    shutil.copy(of.image, tree / "boot" / of.image.name)
    run(["unshare", "--mount", "sh", "-ec", INSTALL, "sh", tree, of.release], limit=900)
    shutil.copy(tree / "usr/lib/systemd/boot/efi" / LOADER, tree.parent)
