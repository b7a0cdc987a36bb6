# SPDX-License-Identifier: GPL-2.0-or-later
"""Modules that programs asked for by modprobe, and that a locked guest refused: as far as the journal has it.

kernel/module/main.c may_init_module() answers EPERM before the kernel has looked at the module: no event of the trace,
no line in its log, no record of audit names it (audit_log_kern_module() comes later). What is left is what modprobe
says. Anybody can write to the journal: only lines of root's processes count, which begin as modprobe's do, since a
daemon of root's quotes what strangers send it.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress

from mbecguard.learn.trace import Traced, TraceEvent, printable

#: tools/modprobe.c of kmod. dockerd quotes it in a line of its own, whose beginning it writes itself.
_MODPROBE = re.compile(
    r"(?:modprobe: )?(?:ERROR: |WARNING: )?could not insert '([\w-]{1,64})': Operation not permitted"
)
_QUOTED = {
    "dockerd": re.compile(
        r'time="[^"]*" level=\w+ msg="Running modprobe [\w ]+ failed with message: `?'
        r"modprobe: (?:ERROR|WARNING): could not insert '([\w-]{1,64})': Operation not permitted"
    )
}
_FIELDS = "MESSAGE,_COMM,_PID,_SYSTEMD_UNIT"
_SECONDS = 20


def journal() -> str:
    """What root's processes said of this boot about modules, a JSON object a line; empty where there is no journal."""
    with suppress(OSError, subprocess.SubprocessError):
        command = ["journalctl", "-qb", "-ojson", f"--output-fields={_FIELDS}", "-g", "could not insert", "_UID=0"]
        done = subprocess.run(command, check=False, capture_output=True, timeout=_SECONDS)
        return done.stdout.decode(errors="replace")
    return ""


def refusals(said: str) -> Iterator[Traced]:
    """Each refusal as an event; `comm` is the unit, as modprobe itself tells nothing."""
    for line in said.splitlines():
        with suppress(ValueError, TypeError, KeyError, AttributeError):  # a line that nobody understands is none
            row = json.loads(line)
            comm, text = str(row.get("_COMM", "")), str(row["MESSAGE"])
            if match := _MODPROBE.match(text) or (_QUOTED[comm].match(text) if comm in _QUOTED else None):
                unit = printable(str(row.get("_SYSTEMD_UNIT") or comm or "modprobe"))
                time = int(row["__MONOTONIC_TIMESTAMP"]) / 1e6
                yield Traced(time, TraceEvent.REFUSED, match[1].replace("-", "_"), unit, int(row.get("_PID", 0)))
