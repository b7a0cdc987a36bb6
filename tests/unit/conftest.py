# SPDX-License-Identifier: GPL-2.0-or-later
"""For the unit tests: whoever runs them keeps the home folder as it is; a bench for the lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mbecguard.host import shim
from tests.fakeshim import Cpus, FakeShim
from tests.lockbench import Bench


@pytest.fixture(autouse=True, scope="session")
def _own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What commands without --state-dir and --cache-dir leave behind goes with the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name)))
        yield


@pytest.fixture
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is synced: what a crash would leave is not asked."""
    monkeypatch.setattr(os, "fsync", lambda _fd: None)


@pytest.fixture
def bench(tmp_path: Path, fast_disk: None) -> Bench:
    """One guest on one simulated host."""
    return Bench(tmp_path)


@pytest.fixture
def cpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cpus:
    """Two CPUs, whatever machine this is."""
    two = Cpus([0, 5])
    (tmp_path / "online").write_text("0,5\n")
    monkeypatch.setattr(shim, "ONLINE", tmp_path / "online")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: two.mask)
    monkeypatch.setattr(os, "sched_setaffinity", two.move)
    return two


@pytest.fixture
def fake() -> FakeShim:
    return FakeShim()


@pytest.fixture
def page() -> Iterator[Callable[[bytes], int]]:
    """Makes a file of one page that can be mapped to run, as the canary's can."""
    made = []

    def make(code: bytes) -> int:
        made.append(os.memfd_create("canary"))
        os.write(made[-1], code.ljust(4096, b"\xcc"))
        return made[-1]

    yield make
    for fd in made:
        os.close(fd)
