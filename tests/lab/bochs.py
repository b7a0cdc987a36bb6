# SPDX-License-Identifier: GPL-2.0-or-later
"""Bochs as the hardware with MBEC: on a pty, until it powers off or its time is up. Each machine takes a whole core."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.corpus.cache import say

from .layers import HOST_MIB
from .locks import one_of
from .roots import machine

#: Models `corei7_icelake_u` and `tigerlake` hang with Debian kernels. The action `fatal` ends the process at power-off.
CONFIG = f"""display_library: term
megs: {HOST_MIB}
cpu: model=corei7_skylake_x, count=1, ips=300000000, reset_on_triple_fault=0
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
ata0: enabled=1
ata0-master: type=cdrom, path=l1.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=l1.log
com2: enabled=1, mode=file, dev=verdict.log
com3: enabled=1, mode=file, dev=l2.log
log: bochs.log
panic: action=fatal
error: action=report
info: action=ignore
clock: sync=none, time0=utc
"""
DISK = "ata0-slave: type=disk, path=l2.img, mode=flat\n"
LOGS = ("l1.log", "l2.log", "verdict.log", "bochs.log")
LOCK_LIMIT = 3600.0  #: seconds to wait for another Bochs
LANES = ("bochs", "bochs-2")[: os.cpu_count() or 1]  #: each takes a whole core
ENTRY_POINT = "cd {folder} && exec bochs-bin -q -f bochsrc -rc rc"


@dataclass(frozen=True, slots=True)
class Run:
    """One finished run of the machine."""

    verdict: str
    seconds: float
    instructions: int  #: emulated, from power-on; 0 when Bochs did not say
    ended: bool  #: powered off before its time was up
    logs: Path


def boot(cd: Path, disk: Path | None, logs: Path, limit: float, progress: Callable[[str], None]) -> Run:
    """Boot the CD, with a disk or without; `progress` gets the verdict port's text as it grows.

    Logs go to `logs`, whatever happens.
    """
    with one_of(LANES, LOCK_LIMIT) as lane, _work_folder(lane, cd, disk) as work:
        started = time.monotonic()
        try:
            ended = _run(work, limit, progress)
        finally:
            seconds = time.monotonic() - started
            _keep(work, logs)
    return Run(_text(logs / "verdict.log"), seconds, instructions(_text(logs / "bochs.log")), ended, logs)


@contextmanager
def _work_folder(lane: str, cd: Path, disk: Path | None) -> Iterator[Path]:
    """A fresh folder inside the root: a killed Bochs leaves lock files that the next one trips over."""
    work = machine() / lane
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        os.link(cd, work / "l1.iso")
        if disk:
            os.link(disk, work / "l2.img")
        (work / "bochsrc").write_text(CONFIG + DISK * bool(disk))
        # Debian's Bochs has the debugger built in, and waits for its command to continue.
        (work / "rc").write_text("c\n")
        yield work
    finally:
        shutil.rmtree(work)


def _run(work: Path, limit: float, progress: Callable[[str], None]) -> bool:
    """Whether the machine powered off within `limit` seconds."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
    command = ["chroot", str(machine()), "sh", "-c", ENTRY_POINT.format(folder="/" + work.name)]
    environment = dict(os.environ, TERM="xterm")
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
    )
    os.close(slave)
    try:
        return _watch(process, master, work / "verdict.log", time.monotonic() + limit, progress)
    finally:
        process.kill()
        process.wait()
        os.close(master)


def _watch(
    process: subprocess.Popen[bytes], screen: int, port: Path, deadline: float, progress: Callable[[str], None]
) -> bool:
    while process.poll() is None:
        if time.monotonic() > deadline:
            return False
        if select.select([screen], [], [], 0.5)[0]:
            _discard(screen)
        progress(_text(port))
    progress(_text(port))
    return True


def _discard(screen: int) -> None:
    try:
        os.read(screen, 1 << 16)
    except OSError:
        time.sleep(0.1)  # EIO: the other side is gone


def _keep(work: Path, logs: Path) -> None:
    logs.mkdir(parents=True, exist_ok=True)
    for name in LOGS:
        (logs / name).write_text(_text(work / name))
    say(f"logs: {logs}")


def instructions(log: str) -> int:
    """Bochs begins its lines with its tick count."""
    ticks = re.findall(r"^(\d{11,})[a-z]", log, re.MULTILINE)
    return int(ticks[-1]) if ticks else 0


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
