# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU TCG as the hardware with SVM and nested paging: no MBEC, but processors that really run at once."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.corpus.cache import say

from .bochs import Run
from .layers import HOST_MIB

MACHINE = "qemu-system-x86_64 -M q35 -cpu EPYC,+svm,+npt -nodefaults -display none -no-reboot"
CMDLINE = "console=ttyS0 mitigations=off panic=-1 quiet"
#: Time is instructions, whatever else this machine does; one processor after the other.
BY_INSTRUCTIONS = ("-accel", "tcg", "-icount", "shift=2,sleep=off")
#: Each processor is a thread.
AT_ONCE = ("-accel", "tcg,thread=multi", "-smp", "2")
LOGS = ("l1.log", "verdict.log", "l2.log")  #: of L1's serial ports


def boot(
    image: Path,
    initrd: bytes,
    clock: Sequence[str],
    logs: Path,
    limit: float,
    progress: Callable[[str], None],
    words: str = "",
    disk: Path | None = None,
) -> Run:
    """Boot a kernel with its initrd and a disk, if any, and `words` beside `CMDLINE`; `limit` in seconds.

    `progress` gets the verdict port's text as it grows.
    """
    logs.mkdir(parents=True, exist_ok=True)
    (logs / "initrd").write_bytes(initrd)
    command = [*MACHINE.split(), "-m", str(HOST_MIB), *clock, "-append", f"{CMDLINE} {words}"]
    command += ["-kernel", str(image), "-initrd", str(logs / "initrd")]
    if disk:
        command += ["-drive", f"id=l2,file={disk},format=raw,if=none,snapshot=on", "-device", "ide-hd,drive=l2"]
    for name in LOGS:
        (logs / name).write_text("")
        command += ["-serial", f"file:{logs / name}"]
    started = time.monotonic()
    ended = _run(command, logs, started + limit, progress)
    say(f"logs: {logs}")
    return Run(_verdict(logs), time.monotonic() - started, 0, ended, logs)


def _verdict(logs: Path) -> str:
    return (logs / "verdict.log").read_text(errors="replace")


def _run(command: list[str], logs: Path, deadline: float, progress: Callable[[str], None]) -> bool:
    """Whether the machine powered off before the deadline, of the monotonic clock."""
    with (logs / "qemu.log").open("wb") as errors:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
    try:
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.5)
            progress(_verdict(logs))
        return process.poll() is not None
    finally:
        process.kill()
        process.wait()
        progress(_verdict(logs))
