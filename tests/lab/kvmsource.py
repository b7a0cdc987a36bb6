# SPDX-License-Identifier: GPL-2.0-or-later
"""The sources of kvm-host, and a KVM that is built from them with a patch of the lab's."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.corpus.cache import built, cache_dir, digest, run, say

from . import debugkernel
from .parts import HERE

KVM_HOST = HERE.parents[1] / "kvm-host"
SUFFIXES = (".c", ".h", ".sh", ".patch")
BUILD_LIMIT = 1200.0


def content(*more: Path) -> list[str | bytes]:
    """Names and bytes of all that goes into a build, and of `more` files: for its digest."""
    sources = [path for path in sorted(KVM_HOST.rglob("*")) if path.suffix in SUFFIXES]
    return [part for path in (*more, *sources) for part in (path.name, path.read_bytes())]


def patched(patch: Path, into: Path) -> None:
    """A copy of kvm-host with a patch of the lab's; without fuzz, so that none goes stale."""
    shutil.copytree(KVM_HOST, into)
    run(["sh", "-ec", 'patch -s -p0 -F0 -d "$1" <"$2"', "sh", into, patch])


def modules(patch: Path | None, series: str, debug_suite: str = "") -> Path:
    """Folder with the modules of a patched KVM, for the stock kernel of a series or, by its suite, the debug kernel."""
    inputs = [path for path in (patch, debugkernel.CONFIG if debug_suite else None) if path]
    key = digest(series, debug_suite, *content(*inputs))
    name = "-".join(("lab", *(["debug"] if debug_suite else []), patch.stem if patch else "kvm", key))
    return built(cache_dir() / name, lambda scratch: _build(patch, series, debug_suite, scratch))


def _build(patch: Path | None, series: str, debug_suite: str, into: Path) -> None:
    say(f"KVM for {series}{' with debug.config' * bool(debug_suite)}{f' with {patch.name}' if patch else ''}")
    source = into / "kvm-host"
    if patch:
        patched(patch, source)
    else:
        shutil.copytree(KVM_HOST, source)
    if debug_suite:
        debugkernel.modules(debug_suite, series, source, into)
    else:
        run([source / "build-in-root.sh", series, "2", into], limit=BUILD_LIMIT)
    shutil.rmtree(source)
