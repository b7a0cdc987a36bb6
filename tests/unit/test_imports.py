# SPDX-License-Identifier: GPL-2.0-or-later
"""What starts often, or stays in memory for good, imports what it needs: these lists are closed.

A module that has to be added here is paid at each start of that command, or by each guest for ever: `python -m
tools.bench start` tells how much.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools.bench.sealed import seal

SHOWN = "import sys\nfrom mbecguard.face.cli import main\n"
#: Of the standard library: each is a tenth or more of what `--help` may cost.
DEAR = {"dataclasses", "inspect", "json", "hashlib", "pathlib", "datetime", "tomllib", "logging", "ctypes", "shutil"}
HELP = {"", "face", "face.cli", "face.options", "face.table", "face.usage", "values", "values.errors"}
STATUS = HELP | {
    *("face.commands", "face.look", "face.output", "face.run", "face.tell", "face.text"),
    *("session", "switches", "settings", "settings.declared", "settings.load"),
    *("records", "records.boots", "records.chain", "records.damage", "records.history", "records.identity"),
    *("records.ledger", "records.mend", "records.plans", "records.reasons", "records.record", "records.status"),
    *("records.store", "plan", "plan.policy", "plan.value"),
    *("guest", "guest.live", "guest.names", "guest.places", "guest.source", "guest.tree"),
    *("device", "host", "host.base", "host.patch", "host.shim", "host.text", "host.wire"),
    *("values.clock", "values.codec", "values.cpus", "values.escaped", "values.events", "values.facts"),
    *("values.files", "values.findings", "values.note", "values.pages"),
}
DAEMON = HELP | {"settings", "settings.declared", "face.stay", "service", "service.daemon", "service.pulse", "device"}
#: More that has told something, on stderr or to the journal.
TOLD = {"face.tell", "face.look", "values.events", "values.escaped"}
ROOT = "from mbecguard.face import run\nrun.require_root = lambda: None\n"
#: The same, for the children that look.
ROOT_LOOKS = f"""\
from mbecguard.face import stay
look = stay._look
def as_root(*of):
    {ROOT.replace(chr(10), "; ")}return look(*of)
stay._look = as_root
"""
#: The first look is behind it when it waits for the first time.
IDLE = "from mbecguard.service.daemon import Daemon\nDaemon._wait = lambda _self: show() or 15\n"
SHOW = "def show(): print('', *sys.modules, file=sys.stderr)\n"


def imported(code: str, *words: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stderr.splitlines()[-1].split())


def ours(modules: set[str]) -> set[str]:
    return {name.removeprefix("mbecguard").removeprefix(".") for name in modules if name.startswith("mbecguard")}


@pytest.fixture
def sealed(tmp_path: Path) -> str:
    """A program's beginning: this system is sealed, as far as the agent can see."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{SHOWN}{SHOW}{seal(tmp_path, boot_id)}"


def test_help_imports_the_table_and_no_more() -> None:
    found = imported(f"{SHOWN}{SHOW}try: main(['--help'])\nfinally: show()")
    assert ours(found) == HELP
    assert not found & DEAR - imported(f"import sys\n{SHOW}show()")  # what this interpreter brings along


def test_status_of_a_sealed_guest_imports_neither_survey_nor_planner(sealed: str, tmp_path: Path) -> None:
    found = imported(
        f"{sealed}{ROOT}assert not main(sys.argv[1:])\nshow()", "status", "--state-dir", str(tmp_path / "state")
    )
    assert ours(found) <= STATUS
    assert {"records.status", "host.shim"} <= ours(found)
    assert "tomllib" not in found or Path("/etc/mbecguard").exists()


def test_a_daemon_that_waits_holds_neither_a_session_nor_what_looks(sealed: str, tmp_path: Path) -> None:
    found = imported(f"{sealed}{ROOT_LOOKS}{IDLE}main(sys.argv[1:])", "daemon", "--state-dir", str(tmp_path / "state"))
    assert DAEMON <= ours(found) <= DAEMON | TOLD
    assert not found & {"dataclasses", "inspect", "hashlib", "datetime", "tomllib", "ctypes", "pickle"}
