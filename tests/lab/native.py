# SPDX-License-Identifier: GPL-2.0-or-later
"""The same guests on this machine's own KVM, where it is ours and the processor has MBEC: the real thing, in seconds.

It has to be a machine for tests: scenarios read and clear its kernel's log, and change parameters of KVM for a while.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path

from mbecguard.readiness.check import check
from mbecguard.readiness.source import Source
from mbecguard.values.codec import encode
from mbecguard.values.errors import die
from mbecguard.values.findings import Severity
from tests.corpus.cache import cache_dir, say

from . import plain
from .bochs import Run
from .guestimage import on_kvm
from .layers import Stack
from .scenarios import Scenario

COMPLAINT = re.compile(r"BUG:|WARNING:|Oops|INFO: (?:task|rcu)")  #: as L1 counts them
#: The mode is known: `require` has seen it.
LOCAL = plain.Local(
    lambda setting: on_kvm(setting, setting.cpu),
    lambda setting: setting.machine.bus,
    1,
    first='{"fact":"mbec","value":"Y"}\n',
)
#: For whoever reads a report: the commands whose words go with the logs.
TOLD = {
    "kernel.txt": "uname -srv; cat /proc/cmdline",
    "processor.txt": "sed /^$/q /proc/cpuinfo; cat /sys/devices/system/cpu/online",
    "kvm.txt": "grep -r . /sys/module/kvm/parameters /sys/module/kvm_intel/parameters; cat /sys/module/kvm/srcversion",
    "qemu.txt": "qemu-system-x86_64 --version",
    "dmesg.txt": "dmesg | grep -i -e kvm -e mbec -e WARNING -e BUG: -A 20 | tail -n 2000",
}


def obstacle(scenario: Scenario) -> str:
    """Why a scenario cannot run on a KVM that stays loaded as it is; empty if it can."""
    setting = scenario.setting
    if setting.stock or setting.liar:
        return "needs another KVM"
    if setting.machine.ovmf is not None:
        return "needs the lab's UEFI firmware"
    if setting.hugetlb:
        return "needs the lab's huge pages"
    if setting.kvm or setting.kvm_intel:
        return f"needs KVM loaded with {setting.kvm or setting.kvm_intel}"
    return ""


def possible(scenarios: list[Scenario], *, named: bool) -> list[Scenario]:
    """Those that can run here. Of scenarios that somebody has named each has to."""
    if named and (wrong := [f"{row.name}: {why}" for row in scenarios if (why := obstacle(row))]):
        die("; ".join(wrong), hint="run them without --native")
    return [row for row in scenarios if not obstacle(row)]


def require(root: Path = Path("/")) -> None:
    """Dies unless this host is ready, enforces, and has no other machine. It is asked before /dev/kvm is opened."""
    answer = check(Source(root))
    blockers = [one for one in answer.findings if one.severity is Severity.BLOCKER]
    if blockers:
        todo = "; ".join(one.hint for one in blockers)
        die(f"this host is not ready: {'; '.join(one.text for one in blockers)}", hint=todo)
    if answer.kvm.mode != "enforce":
        die(f"kvm.mbecguard is {answer.kvm.mode}", hint="load KVM with mbecguard=enforce: docs/HOST.md, Install")
    if answer.machines:
        names = ", ".join(one.name for one in answer.machines)
        die(
            f"other machines run here: {names}",
            hint="stop them: scenarios clear the kernel's log and change KVM's parameters",
        )
    if os.geteuid() != 0 and root == Path("/"):
        die("only root sees what KVM says of a guest", hint="run it as root")


def boot(
    stack: Stack,
    scenarios: list[Scenario],
    initrd: bytes,
    disk: Path | None,
    logs: Path,
    limit: float,
    progress: Callable[[str], None],
) -> Run:
    """Boot one guest for each setting, and pack all that a report needs."""
    with kernel_log() as log:
        done = plain.boot(stack, scenarios, initrd, disk, logs, limit, progress, LOCAL)
        said = log()
    (logs / "host.log").write_text(said)
    told = json.dumps({"fact": "complaints", "value": str(len(COMPLAINT.findall(said)))}) + "\n"
    with (logs / "verdict.log").open("a") as port:
        port.write(told)
    say(f"for a report: {packed(stack, logs, cache_dir())}")
    return replace(done, verdict=done.verdict + told)


@contextmanager
def kernel_log(device: Path = Path("/dev/kmsg")) -> Iterator[Callable[[], str]]:
    """What the kernel says from now on; scenarios clear what dmesg shows."""
    descriptor = os.open(device, os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.lseek(descriptor, 0, os.SEEK_END)
        yield lambda: b"".join(_records(descriptor)).decode(errors="replace")
    finally:
        os.close(descriptor)


def _records(descriptor: int) -> Iterator[bytes]:
    while True:
        try:
            record = os.read(descriptor, 1 << 14)
        except BrokenPipeError:  # some were overwritten before they were read
            continue
        except BlockingIOError:
            return
        if not record:
            return
        yield record


def packed(stack: Stack, logs: Path, into: Path) -> Path:
    """One archive: the logs, what this host is, and what `mbecguard-host check` says of it."""
    name = f"mbecguard-{stack}-{time.strftime('%Y%m%d-%H%M%S')}"
    told = {"host-check.json": json.dumps(encode(check(Source(), alone=True)), indent=1), "stack.txt": str(stack)}
    told |= {file: _said(command) for file, command in TOLD.items()}
    archive = into / f"{name}.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for path in sorted(logs.iterdir()):
            tar.add(path, f"{name}/{path.name}")
        for file, text in told.items():
            member = tarfile.TarInfo(f"{name}/{file}")
            member.size, member.mtime = len(text.encode()), int(time.time())
            tar.addfile(member, BytesIO(text.encode()))
    return archive


def _said(command: str) -> str:
    done = subprocess.run(["sh", "-c", command], check=False, capture_output=True, timeout=60)
    return (done.stdout + done.stderr).decode(errors="replace")
