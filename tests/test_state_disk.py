# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent on a real disk that is full, or read-only: commands as a user gives them, in a mount namespace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from mbecguard.values.errors import Exit
from tests.guestmaker import SCATTERED

MAY_MOUNT = subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode == 0
pytestmark = pytest.mark.skipif(not MAY_MOUNT or os.geteuid() != 0, reason="needs a mount namespace")

#: The size leaves room for a lock and what the simulator remembers.
BEGIN = 'mount -t tmpfs -o size=256k,mode=700 state "$1" && shift && exec "$@"'


@dataclass
class Answer:
    """What a command said."""

    status: int
    out: str
    err: str

    @property
    def reasons(self) -> list[str]:
        return [reason["id"] for reason in json.loads(self.out)["reasons"]]


class Machine:
    """A shell in a mount namespace of its own, with a small disk for the state of a captured guest."""

    def __init__(self, folder: Path) -> None:
        self.guest, self.state = SCATTERED.write(folder / "guest"), folder / "disk"
        self.state.mkdir()
        command = ["unshare", "--mount", "sh", "-c", BEGIN, "sh", str(self.state), "sh"]
        self.shell = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.said = folder / "said"

    def sh(self, line: str) -> int:
        """Run a line; its exit status."""
        assert self.shell.stdin
        assert self.shell.stdout
        self.shell.stdin.write(f"({line}) >{self.said}.out 2>{self.said}.err </dev/null; echo $?\n")
        self.shell.stdin.flush()
        return int(self.shell.stdout.readline())

    def agent(self, command: str) -> Answer:
        """Give a command."""
        places = f"--json --guest {self.guest} --state-dir {self.state} --cache-dir {self.said}.cache"
        status = self.sh(f"{sys.executable} -m mbecguard {command} {places}")
        return Answer(status, *(Path(f"{self.said}.{name}").read_text() for name in ("out", "err")))

    def fill(self) -> None:
        """Leave no room."""
        assert self.sh(f"dd if=/dev/zero of={self.state}/waste bs=1k") != 0
        assert self.sh(f"test $(df --output=avail {self.state} | tail -n 1) = 0") == 0


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def assert_in_words(answer: Answer) -> None:
    assert "Traceback" not in answer.err
    assert "Errno" not in answer.err


def test_a_full_disk(machine: Machine) -> None:
    machine.fill()
    refused = machine.agent("lock")
    assert_in_words(refused)
    assert (refused.status, json.loads(refused.out)["hint"]) == (Exit.ERROR, "make room on its disk")
    assert machine.agent("status").status == Exit.OPEN
    machine.sh(f"rm {machine.state}/waste")
    assert machine.agent("lock").status == Exit.OK
    machine.fill()
    assert machine.agent("status").status == machine.agent("audit").status == Exit.OK
    again = machine.agent("lock")
    assert_in_words(again)
    assert again.status in (Exit.OK, Exit.ERROR)
    assert machine.agent("status").status == Exit.OK
    machine.sh(f"rm {machine.state}/waste")
    assert machine.agent("lock").status == machine.agent("status").status == Exit.OK
    assert machine.agent("audit").reasons == ["audit-clean"]


def test_a_disk_that_is_read_only(machine: Machine) -> None:
    assert machine.sh(f"mount -o remount,ro {machine.state}") == 0
    refused = machine.agent("lock")
    assert_in_words(refused)
    assert (refused.status, "Read-only file system" in refused.err) == (Exit.ERROR, True)
    assert machine.agent("status").status == Exit.OPEN
    assert machine.sh(f"mount -o remount,rw {machine.state}") == 0
    for _ in range(3):
        assert machine.agent("lock").status == Exit.OK
    assert machine.sh(f"printf x >>{machine.state}/simulated/records/00000002.json") == 0
    assert machine.sh(f"mount -o remount,ro {machine.state}") == 0
    for _ in range(2):  # it cannot be kept aside, so it is found again
        audit = machine.agent("audit")
        assert (audit.status, audit.reasons) == (Exit.OK, ["audit-clean", "history-damaged", "audit-unkept"])
        assert "the history of locks is damaged" in audit.err
    assert (machine.agent("status").status, machine.agent("lock").status) == (Exit.OK, Exit.ERROR)
    assert machine.sh(f"mount -o remount,rw {machine.state}") == 0
    assert machine.agent("lock").status == Exit.OK
    assert machine.agent("audit").reasons == ["audit-clean", "history-damaged"]
    assert machine.sh(f"test -f {machine.state}/simulated/damaged/00000002.json") == 0


def test_a_disk_of_somebody_else(machine: Machine) -> None:
    assert machine.agent("lock").status == Exit.OK
    assert machine.sh(f"chown 65534 {machine.state}/simulated") == 0
    status = machine.agent("status")
    assert (status.status, status.reasons[0]) == (Exit.NOT_ENFORCED, "record-damaged")
    assert "others may write there" in machine.agent("lock").err
    assert machine.sh(f"chown -R 0 {machine.state}") == 0
    assert machine.agent("status").status == Exit.OK
