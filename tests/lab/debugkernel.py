# SPDX-License-Identifier: GPL-2.0-or-later
"""A host's kernel with checks that no distribution ships: KASAN, lockdep, UBSAN, sleeping where it must not."""

from __future__ import annotations

from pathlib import Path

from mbecguard.values.errors import die
from tests.corpus.archive import Kernel
from tests.corpus.cache import built, cache_dir, digest, run, say

from .parts import HERE
from .roots import kernel_builder

CONFIG = HERE / "debug.config"
#: In a root with the source; what the configuration leaves out without a word is printed.
CONFIGURE = """
tar -xf /usr/src/linux-source-{series}.tar.xz -C /linux --strip-components=1
make -s -C /linux KCONFIG_ALLCONFIG=/debug.config allnoconfig >&2
grep '^CONFIG' /debug.config | grep -vxFf /linux/.config || :
"""
BUILD = (
    "make -s -j$(nproc) -C /linux bzImage modules && "
    "make -s -C /linux INSTALL_MOD_PATH=/linux/installed modules_install"
)
KVM = "/kvm-host/build.sh --headers /linux --source /linux-source.tar.xz --output /out"
LIMIT = 5400.0


def kernel(suite: str, series: str) -> Kernel:
    """The newest source of a Debian series, built once by `debug.config`."""
    key = digest(suite, series, CONFIG.read_bytes(), CONFIGURE, BUILD)
    folder = built(cache_dir() / f"lab-debug-kernel-{key}", lambda scratch: _build(suite, series, scratch))
    return Kernel((folder / "RELEASE").read_text().strip(), folder)


def modules(suite: str, series: str, source: Path, into: Path) -> None:
    """KVM from a copy of kvm-host, for that kernel."""
    linux = kernel(suite, series).folder / "linux"
    root = kernel_builder(suite, series)
    archive = root / "linux-source.tar.xz"  # by a name of no package: the headers are of none
    archive.unlink(missing_ok=True)
    archive.hardlink_to(root / f"usr/src/linux-source-{series}.tar.xz")
    _mounted(root, {"linux": linux, "kvm-host": source, "out": into}, KVM)


def _build(suite: str, series: str, into: Path) -> None:
    say(f"a {series} kernel with {CONFIG.name}: this takes long, once")
    root, linux = kernel_builder(suite, series), into / "linux"
    linux.mkdir()
    (root / CONFIG.name).write_bytes(CONFIG.read_bytes())
    missing = _mounted(root, {"linux": linux}, CONFIGURE.format(series=series))
    if missing.strip():
        die(
            f"{CONFIG.name} asks for what {series} does not give: {', '.join(missing.split())}", hint="read its Kconfig"
        )
    _mounted(root, {"linux": linux}, BUILD)
    release = (linux / "include/config/kernel.release").read_text()
    (into / "RELEASE").write_text(release)
    (into / "boot").mkdir()
    (linux / "arch/x86/boot/bzImage").rename(into / f"boot/vmlinuz-{release.strip()}")
    (linux / "installed/lib").rename(into / "lib")


def _mounted(root: Path, folders: dict[str, Path], command: str) -> str:
    """Output of a shell command in the root, with folders of this machine, which nobody else sees mounted."""
    binds = "".join(f'mkdir -p "$1/{name}" && mount --bind "{path}" "$1/{name}"\n' for name, path in folders.items())
    script = f'mount -t proc proc "$1/proc"\n{binds}exec chroot "$1" sh -ec "$2"'
    return run(["unshare", "--mount", "sh", "-ec", script, "sh", root, command], limit=LIMIT)
