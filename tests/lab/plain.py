# SPDX-License-Identifier: GPL-2.0-or-later
"""The same guests in a QEMU on this machine. Under TCG: no MBEC, and nobody behind the hypercalls."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tests.corpus.cache import say

from .bochs import Run
from .bootloader import loaded
from .guestimage import cmdline, direct, qemu_command
from .installed import LOADER
from .layers import Stack
from .parts import HERE
from .scenarios import Scenario, Setting, by_setting

LOGS = ("verdict.log", "qemu.log", "l2.log")


@dataclass(frozen=True, slots=True)
class Local:
    """How a guest is started on this machine."""

    machine: Callable[[Setting], str]  #: QEMU with its machine and processor
    bus: Callable[[Setting], str]  #: of its virtio devices
    patience: int  #: times the stack's silence: a busy machine's clock is not that of Bochs
    first: str = ""  #: what the verdict port says before the first guest


#: Debian 12's QEMU 7.2 leaves junk in EFLAGS after cmpxchg16b (see tests/corpus/boot.py). With a thread for each
#: processor it goes on running an int3 that another one has overwritten: a kernel that patches itself hangs.
_QEMU = "qemu-system-x86_64 -M q35 -accel tcg,thread=single -cpu Skylake-Client-v1,-cx16"
TCG = Local(lambda _: _QEMU, lambda _: "pci", 5)


def boot(
    stack: Stack,
    scenarios: list[Scenario],
    initrd: bytes,
    disk: Path | None,
    logs: Path,
    limit: float,
    progress: Callable[[str], None],
    local: Local = TCG,
) -> Run:
    """Boot one guest for each setting; `limit` in seconds, for all. The agent that answers them is L1's own."""
    logs.mkdir(parents=True, exist_ok=True)
    port = logs / "verdict.log"
    for log in LOGS:
        (logs / log).write_text("")
    port.write_text(local.first)
    started, ended = time.monotonic(), True
    for setting, rows in by_setting(scenarios).items():
        with tempfile.TemporaryDirectory() as scratch:
            work = Path(scratch)
            (work / "initrd").write_bytes(initrd)
            (work / "queue").write_text("".join(f"{scenario.name}\n" for scenario in rows))
            command = command_line(stack, setting, local, disk, work, logs)
            ended = ended and _run(command, logs / "qemu.log", port, started + limit, progress)
    say(f"logs: {logs}")
    return Run(port.read_text(errors="replace"), time.monotonic() - started, 0, ended, logs)


def command_line(stack: Stack, setting: Setting, local: Local, disk: Path | None, work: Path, logs: Path) -> list[str]:
    """The agent with the QEMU that it starts, in the folder `work`."""
    stack = replace(stack, memory_mib=setting.memory_mib or stack.memory_mib)
    words, kernel = cmdline(stack, setting.cmdline), stack.guest().image
    if setting.counts_boots and disk:
        start = loaded(disk.parent / LOADER, kernel, work, words)
    else:
        start = direct(str(kernel), f"{work}/initrd", words)
    qemu = qemu_command(
        stack,
        local.machine(setting),
        start,
        bus=local.bus(setting),
        folder=str(work),
        console=f"file,append=on,path={logs / 'l2.log'}",
        disk=str(disk) if disk else None,
    )
    agent = [HERE / "host/agent", work / "guest", logs / "verdict.log", work / "queue", stack.silence * local.patience]
    # L1 has busybox. Like bash, and unlike dash, its `read` has a time limit.
    return ["bash", *map(str, agent), *qemu]


def _run(command: list[str], log: Path, port: Path, deadline: float, progress: Callable[[str], None]) -> bool:
    """Whether the agent came to an end before the deadline, of the monotonic clock."""
    with log.open("ab") as errors:
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
