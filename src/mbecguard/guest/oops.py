# SPDX-License-Identifier: GPL-2.0-or-later
"""Attempts to execute what is no code, as the kernel's log tells them: arch/x86/mm/fault.c, show_fault_oops().

The text is the same from Linux 6.1 to 7.2 in all that is read here. It may be cut off anywhere, mixed with lines of
other processors, and have names in it that were made up to mislead: nothing is taken from a name but the name.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

BEFORE = 5  #: lines that are kept of what came before
LONGEST = 150  #: lines of one report; what is longer has lost its end
WIDTH = 160  #: characters of a line that is kept

_START = re.compile(
    r"BUG: (?:unable to handle page fault for|kernel NULL pointer dereference,) address: ([0-9a-f]{1,16})$"
)
_UID = re.compile(
    r"(?:kernel tried to execute NX-protected page|unable to execute userspace code).*\(uid: (\d{1,10})\)$"
)
_FETCH = re.compile(r"#PF: supervisor instruction fetch in kernel mode$")
_OTHER = re.compile(r"#PF: \w+ [\w ]+ in \w+ mode$")
_CODE = re.compile(r"#PF: error_code\(0x([0-9a-f]{1,8})\)")
_TABLES = re.compile(r"PGD [0-9a-f]+(?: .*)?$")
_ENTRY = re.compile(r"\b(P[GU4M]D|PTE) ([0-9a-f]{1,16})\b")
_TASK = re.compile(r"CPU: (\d+) (?:UID: (\d+) )?PID: (\d+) Comm: (.{0,40}?) (?:Not tainted|Tainted: )", re.DOTALL)
_RIP = re.compile(r"RIP: 0010:(?:0x[0-9a-f]+|([\w.]{1,128})\+0x[0-9a-f]+/0x[0-9a-f]+(?: \[([\w-]{1,64})\])?)")
#: Who reports a fault stands before who made it.
_HANDLERS = r"(?:__die|page_fault_oops|search_|fixup_|kernelmode_fixup|_*bad_area|do_|exc_|asm_exc_|spurious_|show_)"
_CALLER = re.compile(
    rf"\s*(?:\? )?(?!{_HANDLERS})([\w.]{{1,128}})\+0x[0-9a-f]+/0x[0-9a-f]+(?: \[([\w-]{{1,64}})\S*\])?"
)
_END = re.compile(r"---\[ end trace ")

_PRESENT, _LARGE = 1, 1 << 7


class By(StrEnum):
    """Who denied it."""

    HOST = "host"  #: the guest's own page tables allow it
    GUEST = "guest"  #: its page tables do not: NX, or user memory under SMEP
    UNTOLD = "untold"  #: the report is cut off


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a log. `told`: of ours, up to which time it has told what happened."""

    at: int  #: microseconds since boot
    text: str
    told: int | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """The kernel was to execute what it may not. What its report does not tell, or is cut off, is empty or None."""

    at: int  #: microseconds since boot
    address: int
    by: By
    symbol: str = ""  #: where it happened, else who led there
    module: str = ""  #: whose symbol that is; empty: the kernel's
    task: str = ""
    pid: int | None = None
    uid: int | None = None
    cpu: int | None = None
    before: tuple[str, ...] = ()  #: what the log had last before it


_Found = dict[str, re.Match[str]]


@dataclass(slots=True)
class _Report:
    at: int
    address: int
    uid: int | None
    before: tuple[str, ...]
    lines: list[str] = field(default_factory=list)

    def attempt(self) -> Attempt | None:
        """None: it was no fetch, or one from where nothing is."""
        found: _Found = {}
        for text in self.lines:
            for name, pattern in _PARTS.items():
                if name not in found and (match := pattern.match(text)):
                    found[name] = match
        by = _by(found)
        if by is None:
            return None
        task = found.get("task")
        symbol, module = _place(found)
        uid = int(task[2]) if task and task[2] else self.uid
        return Attempt(
            *(self.at, self.address, by, symbol, module),
            task=task[4] if task else "",
            pid=int(task[3]) if task else None,
            uid=uid,
            cpu=int(task[1]) if task else None,
            before=self.before,
        )


def _by(found: _Found) -> By | None:
    if "fetch" not in found:
        return None
    code, tables = found.get("code"), found.get("tables")
    if code and int(code[1], 16) & _PRESENT:
        return By.GUEST
    if not code or not tables:
        return By.UNTOLD
    entries = _ENTRY.findall(tables.string)
    name, last = entries[-1][0], int(entries[-1][1], 16)
    return By.HOST if last & _PRESENT and (name == "PTE" or last & _LARGE) else None


def _place(found: _Found) -> tuple[str, str]:
    for name in ("rip", "caller"):
        if (match := found.get(name)) and match[1]:
            return match[1], match[2] or ""
    return "", ""


_PARTS = {"fetch": _FETCH, "code": _CODE, "tables": _TABLES, "task": _TASK, "rip": _RIP, "caller": _CALLER}


@dataclass(slots=True)
class Reader:
    """Takes a log line by line, and gives each attempt once, when its report has ended."""

    _open: _Report | None = None
    _uid: int | None = None
    _before: deque[str] = field(default_factory=lambda: deque(maxlen=BEFORE))

    def feed(self, line: Line) -> Attempt | None:
        """The next line; returns the attempt whose report it ends."""
        if start := _START.match(line.text):
            ended = self.flush()
            self._open = _Report(line.at, int(start[1], 16), self._uid, tuple(self._before))
            self._uid = None
            return ended
        if self._open is None:
            self._remember(line.text)
            return None
        self._open.lines.append(line.text)
        return self.flush() if _END.match(line.text) or len(self._open.lines) > LONGEST else None

    def _remember(self, text: str) -> None:
        if uid := _UID.match(text):
            self._uid = int(uid[1])
        else:
            self._before.append(text[:WIDTH])

    @property
    def unfinished(self) -> bool:
        """Whether a report has begun and not ended."""
        return self._open is not None

    def flush(self) -> Attempt | None:
        """Take the report that is open for ended."""
        report, self._open = self._open, None
        return report.attempt() if report else None
