# SPDX-License-Identifier: GPL-2.0-or-later
"""The same guest under QEMU TCG on this machine: no MBEC, and nobody behind the hypercalls."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.corpus.cache import say

from .bochs import Run
from .guestimage import disk, qemu_command
from .layers import Stack
from .parts import HERE
from .scenarios import Scenario

#: Debian 12's QEMU 7.2 leaves junk in EFLAGS after cmpxchg16b (see tests/corpus/boot.py).
MACHINE = "qemu-system-x86_64 -M q35,accel=tcg -cpu Skylake-Client-v1,-cx16"


def boot(
    stack: Stack,
    scenarios: list[Scenario],
    initrd: bytes,
    logs: Path,
    limit: float,
    progress: Callable[[str], None],
) -> Run:
    """Boot the guest once; `limit` in seconds. The agent that answers it is L1's own."""
    logs.mkdir(parents=True, exist_ok=True)
    port = logs / "verdict.log"
    port.write_text("")
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        (work / "initrd").write_bytes(initrd)
        (work / "queue").write_text("".join(f"{scenario.name}\n" for scenario in scenarios))
        started = time.monotonic()
        ended = _run(_command(stack, work, logs), logs / "qemu.log", port, limit, progress)
    say(f"logs: {logs}")
    return Run(port.read_text(errors="replace"), time.monotonic() - started, 0, ended, logs)


def _command(stack: Stack, work: Path, logs: Path) -> list[str]:
    root = disk(stack)
    qemu = qemu_command(
        stack,
        MACHINE,
        bus="pci",
        folder=str(work),
        console=f"file,path={logs / 'l2.log'}",
        kernel=str(stack.guest().image),
        disk=str(root) if root else None,
    )
    agent = [HERE / "host/agent", work / "guest", logs / "verdict.log", work / "queue", stack.silence]
    # L1 has busybox. Like bash, and unlike dash, its `read` has a time limit.
    return ["bash", *map(str, agent), *qemu]


def _run(command: list[str], log: Path, port: Path, limit: float, progress: Callable[[str], None]) -> bool:
    """Whether the agent came to an end within `limit` seconds."""
    deadline = time.monotonic() + limit
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, start_new_session=True
        )
    try:
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
            progress(port.read_text(errors="replace"))
        return process.poll() is not None
    finally:
        _end(process)
        progress(port.read_text(errors="replace"))


def _end(process: subprocess.Popen[bytes]) -> None:
    """QEMU is the agent's child: both are in the session that was started for them."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.wait()
