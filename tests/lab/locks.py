# SPDX-License-Identifier: GPL-2.0-or-later
"""One at a time on this machine, or a few: whoever holds a lock file."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from mbecguard.values.errors import die
from tests.corpus.cache import cache_dir, say


@contextmanager
def alone(name: str, limit: float) -> Iterator[None]:
    """Hold `name`.lock of the cache for the block; wait for it at most `limit` seconds."""
    with one_of([name], limit):
        yield


@contextmanager
def one_of(names: Sequence[str], limit: float) -> Iterator[str]:
    """Hold the first of several locks that is free, and tell its name; wait for one at most `limit` seconds."""
    folder = cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + limit
    with ExitStack() as files:
        locks = {name: files.enter_context((folder / f"{name}.lock").open("w")).fileno() for name in names}
        free = _first_taken(locks)
        if free is None:
            say(f"waiting for {folder}/{names[0]}.lock")
        while free is None:
            if time.monotonic() > deadline:
                die(f"{names[0]}.lock was held for {limit:.0f} s", hint=f"fuser {folder}/*.lock tells by whom")
            time.sleep(1)
            free = _first_taken(locks)
        yield free


def _first_taken(locks: dict[str, int]) -> str | None:
    return next((name for name, descriptor in locks.items() if _taken(descriptor)), None)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
