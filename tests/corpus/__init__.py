# SPDX-License-Identifier: GPL-2.0-or-later
"""Captured guests: real boots of stock Debian kernels, thinned for the checkout. See docs/DESIGN.md, section 5.

`python -m tests.corpus make` records them anew; tests use `names`, `unpack` and `witness`.
"""

from __future__ import annotations

import json
import lzma
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

from .cache import cache_dir

STORED = Path(__file__).parent / "guests"


def names() -> list[str]:
    """The guests stored in the checkout."""
    return sorted(path.parent.name for path in STORED.glob("*/guest.json"))


def about(name: str) -> dict[str, Any]:
    """How the guest was booted: release, cpu, uefi, memory_mib, seconds."""
    return dict(json.loads((STORED / name / "guest.json").read_text()))


def witness(name: str) -> dict[str, Any]:
    """The host's own walk of the paused guest (mbecguard.oracle/1): tables, int3_pages (PFNs), memory."""
    return dict(json.loads(_read(STORED / name / "oracle.json")))


def unpack(name: str, into: Path) -> Path:
    """Lay the captured guest out as the plain folder `into`/NAME; texts over 8 KiB and modules stay .xz."""
    folder = into / name
    packed = shutil.ignore_patterns("*.tar.xz", "oracle.json*", "guest.json")
    shutil.copytree(STORED / name, folder, ignore=packed)
    for archive in (STORED / name).glob("*.tar.xz"):
        _extract(archive, folder)
    return folder


def linked(guest: Path, target: Path) -> Path:
    """A copy of a guest by links: a file in it may be replaced, and not changed in place."""
    shutil.copytree(guest, target, copy_function=os.link)
    return target


def _extract(archive: Path, folder: Path) -> None:
    """Thousands of tiny files: TarFile.extractall takes twice the time."""
    with tarfile.open(archive) as tar:
        for member in tar:
            content, path = tar.extractfile(member), folder / member.name
            assert content
            data = content.read()
            if path.suffix == ".ko":
                path, data = path.with_name(path.name + ".xz"), lzma.compress(data, preset=0)
            if not path.parent.exists():
                path.parent.mkdir(parents=True)
            path.write_bytes(data)


def full_image(name: str) -> Path | None:
    """Debian's own vmlinuz of that guest, when the cache has it."""
    release = about(name)["release"]
    path = cache_dir() / "kernels" / release / "boot" / f"vmlinuz-{release}"
    return path if path.is_file() else None


def full_modules(name: str) -> Path | None:
    """Debian's own module folder of that guest's release, when the cache has it."""
    release = about(name)["release"]
    path = cache_dir() / "kernels" / release / "lib" / "modules" / release
    return path if path.is_dir() else None


def _read(path: Path) -> bytes:
    packed = path.with_name(path.name + ".xz")
    return lzma.decompress(packed.read_bytes()) if packed.exists() else path.read_bytes()
