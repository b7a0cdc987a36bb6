# SPDX-License-Identifier: GPL-2.0-or-later
"""For all tests: names that are the same in every process (pytest-xdist), and a command line to type into."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests.shell import Shell

# No test fails because a machine is slow.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

#: Files in memory: thousands of small ones cost a disk more than the tests cost.
MEMORY = Path("/dev/shm")
ROOM = 2 << 30  #: bytes; the tests leave a tenth of that


def pytest_configure() -> None:
    if os.access(MEMORY, os.W_OK):
        there = os.statvfs(MEMORY)
        if there.f_bavail * there.f_frsize > ROOM and not there.f_flag & os.ST_NOEXEC:
            os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    # Compressed data can hold the time at which it was made.
    return argname if isinstance(val, bytes) else None


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    (tmp_path / "state").mkdir()
    return Shell(tmp_path / "guest", capsys)
