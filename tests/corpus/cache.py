# SPDX-License-Identifier: GPL-2.0-or-later
"""What the corpus maker keeps outside the checkout: one folder per input hash, complete or absent."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mbecguard.values.errors import die

#: Debian package that brings each tool the maker runs.
TOOLS = {
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
    "mke2fs": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "qemu-system-x86_64": "qemu-system-x86",
}


def cache_dir() -> Path:
    """The cache folder: $MBECGUARD_CACHE, else ~/.cache/mbecguard."""
    return Path(os.environ.get("MBECGUARD_CACHE") or Path.home() / ".cache" / "mbecguard")


def digest(*inputs: str | bytes) -> str:
    """Short content key of the inputs, in order."""
    sha = hashlib.sha256()
    for item in inputs:
        data = item.encode() if isinstance(item, str) else item
        sha.update(len(data).to_bytes(8, "little") + data)
    return sha.hexdigest()[:16]


def built(folder: Path, build: Callable[[Path], None]) -> Path:
    """`folder`, made by `build(scratch)` when it is not there yet; a failed build leaves nothing behind.

    Whoever wants a folder that another process is making waits for it.
    """
    if not folder.is_dir():
        locks = cache_dir() / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / folder.name).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.is_dir():
                _build(folder, build)
    return folder


def _build(folder: Path, build: Callable[[Path], None]) -> None:
    scratch = folder.with_name(folder.name + ".partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        build(scratch)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def require_tools() -> None:
    """Die naming every missing tool's package at once."""
    search = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = sorted({package for tool, package in TOOLS.items() if not shutil.which(tool, path=search)})
    if missing:
        die("the corpus maker lacks tools", hint=f"apt install {' '.join(missing)}")


def run(command: Sequence[str | Path], *, limit: float = 300, folder: Path | None = None, given: str = "") -> str:
    """Standard output of a command, `given` its input, run in `folder`, that must succeed within `limit` seconds."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=limit, check=False, cwd=folder, input=given
        )
    except subprocess.TimeoutExpired:
        die(f"{words[0]} did not finish within {limit:.0f} s", hint=" ".join(words))
    except OSError as error:
        die(f"{words[0]} cannot be run: {error.strerror}", hint="apt install " + TOOLS.get(words[0], words[0]))
    if done.returncode:
        die(f"{words[0]} failed with status {done.returncode}: {done.stderr[-2000:]}", hint=" ".join(words))
    return done.stdout


_STARTED = time.monotonic()


def say(text: str) -> None:
    """One line of progress, with the seconds since the start."""
    print(f"[{time.monotonic() - _STARTED:6.1f}] {text}", flush=True)
