# SPDX-License-Identifier: GPL-2.0-or-later
"""A host that lies: our KVM with `liar.patch`. What it says has to be found out by agent and shim."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.corpus.cache import built, cache_dir, digest, run, say

from .parts import HERE, stripped

KVM_HOST = HERE.parents[1] / "kvm-host"
PATCH = HERE / "liar.patch"
BUILD_LIMIT = 1200.0


def modules(series: str) -> dict[str, bytes]:
    """Kernel names of the KVM modules -> their files."""
    sources = [path for path in sorted(KVM_HOST.rglob("*")) if path.suffix in (".c", ".h", ".sh", ".patch")]
    key = digest(series, PATCH.read_bytes(), *(part for path in sources for part in (path.name, path.read_bytes())))
    folder = built(cache_dir() / f"lab-liar-{key}", lambda scratch: _build(series, scratch))
    return {"kvm": stripped(folder / "kvm.ko"), "kvm_intel": stripped(folder / "kvm-intel.ko")}


def _build(series: str, into: Path) -> None:
    say("KVM that lies")
    source = into / "kvm-host"
    shutil.copytree(KVM_HOST, source)
    run(["sh", "-ec", 'patch -s -p0 -F0 -d "$1" <"$2"', "sh", source, PATCH])
    run([source / "build-in-root.sh", series, "2", into], limit=BUILD_LIMIT)
    shutil.rmtree(source)
