# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's own record of who asks for modules: a tracefs instance with two events, and its text as values.

Module names that are asked for come from unprivileged programs (AF_ALG: "crypto-" and any bytes). A filter in the
kernel keeps out those with control characters, and of a line the first match counts: nobody can forge an event.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from mbecguard.guest.tree import Tree
from mbecguard.values.errors import die

INSTANCE = "sys/kernel/tracing/instances/mbecguard"
MARK = "mbecguard: watching"


class TraceEvent(StrEnum):
    """The events that are watched, and one that the journal alone has."""

    LOAD = "module_load"
    REQUEST = "module_request"
    REFUSED = "modprobe"


@dataclass(frozen=True, slots=True, order=True)
class Traced:
    """One event. `time` in seconds of CLOCK_MONOTONIC; `name` is a module's, or the alias that was asked for.

    The kernel notes only pids; `comm` is what the process was last called, "<...>" if that is forgotten.
    """

    time: float
    kind: TraceEvent
    name: str
    comm: str
    pid: int
    site: str = ""  #: kernel function that asked


@dataclass(frozen=True, slots=True)
class Trace:
    """What an instance recorded. `watched`: since when; `lost`: events that are known to be missing."""

    events: tuple[Traced, ...]
    watched: float | None
    lost: int
    strange: int  #: lines that nobody understands


# In this order. 64 KiB for each CPU hold more than a thousand events.
_SETUP = (
    ("trace_clock", "mono"),  # systemd's clock
    ("buffer_size_kb", "64"),
    # Not "[!...]": up to 6.1 lib/glob.c takes the end of the text for a letter outside the class.
    ("events/module/module_request/filter", '!(name ~ "*[\x01-\x1f]*")'),
    ("trace_marker", MARK),
    ("events/module/module_load/enable", "1"),
    ("events/module/module_request/enable", "1"),
)


def start(root: Path) -> bool:
    """Begin to watch; False if that was done before. Dies where the kernel has no tracefs instances or forbids it."""
    folder = root / INSTANCE
    with _failing(folder):
        folder.mkdir(exist_ok=True)
        # The last of the setup: a second round would empty the buffer.
        if (folder / _SETUP[-1][0]).read_text().strip() == "1":
            return False
        for file, value in _SETUP:
            (folder / file).write_text(value)
    return True


@contextmanager
def _failing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hints = {
            errno.ENOENT: "tracefs has to be mounted at /sys/kernel/tracing, with CONFIG_MODULES and CONFIG_TRACING",
            errno.EPERM: "run as root; lockdown=confidentiality forbids tracing: learn without it",
        }
        reason = error.strerror or str(error)
        die(f"module events cannot be traced in {folder}: {reason}", hints.get(error.errno or 0, "run as root"))


def read(tree: Tree) -> Trace:
    """What was recorded so far; nothing is consumed."""
    text = tree.text(f"{INSTANCE}/trace")
    if text is None:
        die("this boot is not watched", "`mbecguard learn start` begins it")
    return parse_trace(text)


_LINE = re.compile(
    r" *(?P<comm>.*?)-(?P<pid>[0-9]{1,10}) +\[[0-9]{3,}\] \S{4,5} +"
    r"(?P<time>[0-9]{1,12}\.[0-9]{6}): (?P<event>\w+): (?P<rest>.*)"
)
# struct module's name is at most 55 bytes; taints follow.
_LOADED = re.compile(r"(?P<name>[\w-]{1,64}) [A-Z]*", re.ASCII)
_ASKED = re.compile(r"(?P<name>.*) wait=[01] call_site=(?P<site>\S+)(?: \[\S+\])?")
_WRITTEN = re.compile(r"# entries-in-buffer/entries-written: ([0-9]{1,18})/([0-9]{1,18}) ")
_LOST = re.compile(r"CPU:[0-9]+ \[LOST (?:([0-9]{1,18}) )?EVENTS\]")


def parse_trace(text: str) -> Trace:
    """The text of a `trace` file. Whatever is missing or odd is counted, nothing is dropped in silence."""
    events, watched, overwritten, lost, strange = [], None, 0, 0, 0
    for line in text.split("\n"):
        if event := _event(line):
            events.append(event)
        elif (match := _LINE.fullmatch(line)) and match["event"] == "tracing_mark_write":
            watched = float(match["time"]) if watched is None and match["rest"] == MARK else watched
        elif match := _WRITTEN.match(line):
            overwritten = max(0, int(match[2]) - int(match[1]))
        elif match := _LOST.fullmatch(line):
            lost += int(match[1] or 1)
        elif line and not line.startswith("#"):
            strange += 1
    return Trace(tuple(events), watched, max(overwritten, lost), strange)


def _event(line: str) -> Traced | None:
    match = _LINE.fullmatch(line)
    if not match or match["event"] not in (TraceEvent.LOAD, TraceEvent.REQUEST):
        return None
    kind = TraceEvent(match["event"])
    detail = (_LOADED if kind is TraceEvent.LOAD else _ASKED).fullmatch(match["rest"])
    if not detail:
        return None
    site = "" if kind is TraceEvent.LOAD else detail["site"]
    return Traced(
        time=float(match["time"]),
        kind=kind,
        name=printable(detail["name"]),
        comm=printable(match["comm"]),
        pid=int(match["pid"]),
        site=printable(site),
    )


def printable(text: str) -> str:
    """Text of others, fit for a terminal and for a comment in a file."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
