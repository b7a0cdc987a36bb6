# SPDX-License-Identifier: GPL-2.0-or-later
"""Where distributions put kernel images and modules. What is found there is told apart by build-id, not by order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mbecguard.guest.tree import present

IMAGES_AT_MOST = 64  #: candidates; a boot partition holds a handful

#: Glob patterns below the root for release R, likely ones first, with who has it there.
IMAGES: tuple[tuple[str, str], ...] = (
    ("boot/vmlinuz-{release}", "Debian, Ubuntu, Fedora, openSUSE"),
    ("usr/lib/modules/{release}/vmlinuz*", "Fedora, openSUSE, Arch, ostree; kernel-uki-virt"),
    ("lib/modules/{release}/vmlinuz*", "the same, without a merged /usr"),
    ("boot/kernel-{release}", "Gentoo"),
    ("boot/*/{release}/linux", "systemd's kernel-install, type 1"),
    ("efi/*/{release}/linux", "the same, ESP at /efi"),
    ("boot/efi/*/{release}/linux", "the same, ESP at /boot/efi"),
    ("boot/efi/EFI/Linux/*{release}*.efi", "unified kernel images"),
    ("efi/EFI/Linux/*{release}*.efi", "unified kernel images"),
    ("boot/EFI/Linux/*{release}*.efi", "unified kernel images"),
    ("boot/ostree/*/vmlinuz-{release}", "ostree"),
    ("run/booted-system/kernel", "NixOS"),
    ("run/current-system/kernel", "NixOS"),
    ("boot/vmlinuz*", "Alpine, Arch"),
    ("boot/vmlinux*", "images without compression"),
    ("boot/kernel*", "Gentoo, Ubuntu Core"),
    ("boot/bzImage*", "by hand"),
    ("boot/flatcar/vmlinuz*", "Flatcar"),
    ("boot/grub/kernel.efi", "Ubuntu Core"),
    ("boot/efi/EFI/Linux/*.efi", "unified kernel images by other names"),
    ("efi/EFI/Linux/*.efi", "unified kernel images by other names"),
    ("boot/EFI/Linux/*.efi", "unified kernel images by other names"),
)
#: The same for folders of modules.
MODULES: tuple[tuple[str, str], ...] = (
    ("lib/modules/{release}", "everybody"),
    ("usr/lib/modules/{release}", "without the link /lib"),
    ("run/booted-system/kernel-modules/lib/modules/{release}", "NixOS"),
    ("usr/lib/kpatch/{release}", "livepatches of RHEL"),
    ("var/lib/kpatch/{release}", "livepatches of RHEL, installed by hand"),
    ("usr/lib/livepatch/{release}", "livepatches"),
)


def images(root: Path, release: str) -> tuple[Path, ...]:
    """Files that may be the image of the kernel that runs, each once, likely ones first."""
    return _distinct(path for path in _found(root, IMAGES, release) if present(path.is_file))[:IMAGES_AT_MOST]


def own_images(root: Path, release: str) -> tuple[Path, ...]:
    """Of these, the ones that are named after the release."""
    named = tuple(place for place in IMAGES if "{release}" in place[0])
    return _distinct(path for path in _found(root, named, release) if present(path.is_file))


def modules(root: Path, release: str) -> tuple[Path, ...]:
    """Folders that may hold module files of that release, each once."""
    return _distinct(path for path in _found(root, MODULES, release) if present(path.is_dir))


def _found(root: Path, places: tuple[tuple[str, str], ...], release: str) -> Iterator[Path]:
    for pattern, _ in places:
        try:
            yield from sorted(root.glob(pattern.format(release=release)))
        except OSError:  # what may not be looked into is no place
            continue


def _distinct(paths: Iterator[Path]) -> tuple[Path, ...]:
    found: dict[Path, Path] = {}
    for path in paths:
        found.setdefault(path.resolve(), path)
    return tuple(found.values())
