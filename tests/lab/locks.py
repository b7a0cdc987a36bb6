# SPDX-License-Identifier: GPL-2.0-or-later
"""One at a time on this machine: whoever holds the lock file."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mbecguard.errors import die
from tests.corpus.cache import cache_dir, say


@contextmanager
def alone(name: str, limit: float) -> Iterator[None]:
    """Hold `name`.lock of the cache for the block; wait for it at most `limit` seconds."""
    path = cache_dir() / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + limit
    with path.open("w") as lock:
        if not _taken(lock.fileno()):
            say(f"waiting for {path}")
        while not _taken(lock.fileno()):
            if time.monotonic() > deadline:
                die(f"{path} was held for {limit:.0f} s", hint=f"fuser {path} tells by whom")
            time.sleep(1)
        yield


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
