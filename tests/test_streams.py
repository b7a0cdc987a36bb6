# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent as a process, where its streams are closed, full, or of another encoding."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mbecguard.face import cli
from mbecguard.values.errors import Exit
from tests.guestmaker import SCATTERED


def words(tmp_path: Path, command: str) -> list[str]:
    folder = SCATTERED.write(tmp_path / "guest")
    (tmp_path / "state").mkdir(exist_ok=True)
    places = ["--guest", str(folder), "--state-dir", str(tmp_path / "state"), "--cache-dir", str(tmp_path / "cache")]
    return [command, *places]


def test_a_name_that_is_not_utf8_ends_in_no_traceback(tmp_path: Path) -> None:
    folder = SCATTERED.write(tmp_path / "guest")
    strange = os.fsencode(tmp_path) + b"/caf\xe9"
    command: list[str | bytes] = [sys.executable, "-m", "mbecguard", "capture", strange, "--guest", str(folder)]
    environment = os.environ | {"LC_ALL": "C.UTF-8", "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, env=environment, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (Exit.OK, b"")
    assert b"caf\\udce9" in done.stdout
    done = subprocess.run(command, capture_output=True, env=environment, timeout=60, check=False)
    assert (done.returncode, b"Traceback" in done.stderr) == (Exit.ERROR, False)
    assert b"is not empty" in done.stderr


CLOSED = {
    "stdout": ">&-",
    "stderr": "2>&-",
    "both": ">&- 2>&-",
    "a pipe without a reader": "",
    "a full disk": ">/dev/full",
}


def shell(tmp_path: Path, how: str, command: str) -> tuple[int, bytes]:
    """Exit status and what came on stderr of a command whose streams are not as they should be."""
    line = shlex.join([sys.executable, "-m", "mbecguard", *words(tmp_path, command)])
    read, write = os.pipe()
    os.close(read)
    try:
        out = None if CLOSED[how] else write
        script = ["sh", "-c", f"exec {line} {CLOSED[how]}"]
        done = subprocess.run(script, stdout=out, stderr=subprocess.PIPE, timeout=60, check=False)
    finally:
        os.close(write)
    return done.returncode, done.stderr


@pytest.mark.parametrize("how", CLOSED)
def test_closed_streams_decide_nothing_about_a_lock(tmp_path: Path, how: str) -> None:
    status, told = shell(tmp_path, how, "lock")
    assert (status, b"Traceback" in told, b"Exception" in told) == (Exit.OK, False, False)
    assert cli.main(words(tmp_path, "status")) == Exit.OK


@pytest.mark.parametrize("how", CLOSED)
def test_an_answer_that_nobody_gets_is_an_error_without_a_traceback(tmp_path: Path, how: str) -> None:
    status, told = shell(tmp_path, how, "plan")
    assert status == (Exit.OK if how == "stderr" else Exit.ERROR)
    assert b"Traceback" not in told
    assert b"Exception" not in told
    if how in ("stdout", "a full disk"):
        assert b"cannot be shown" in told
