# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's log of this boot and our own events, as the journal has them in their order.

Not /dev/kmsg: the daemon may not read it, and what the kernel wrote before it started may be gone from there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from mbecguard.guest.oops import Line
from mbecguard.values.events import journal_field

MOST = 20000  #: lines at once; the rest comes the next time
KERNEL = {"_TRANSPORT": "kernel", "SYSLOG_FACILITY": "0"}  #: not what root writes to /dev/kmsg
OURS = {"SYSLOG_IDENTIFIER": "mbecguard", "_UID": "0"}


class Log(Protocol):
    """What was logged since it was asked last."""

    def lines(self) -> Iterator[Line]:
        """In their order; nothing if the log cannot be read."""
        ...


@dataclass(slots=True)
class Journal:
    """That of systemd. It remembers how far it was read, and keeps no file open."""

    cursor: str = ""  #: of the last entry that was read

    def lines(self) -> Iterator[Line]:
        """What came since, oldest first."""
        import systemd.journal

        with suppress(OSError), systemd.journal.Reader(systemd.journal.LOCAL_ONLY) as reader:
            reader.this_boot()
            reader.add_conjunction()
            reader.add_match(**KERNEL)
            reader.add_disjunction()
            reader.add_match(**OURS)
            self._seek(reader)
            for _ in range(MOST):
                entry = reader.get_next()
                if not entry:
                    return
                self.cursor = entry["__CURSOR"]
                yield _line(entry)

    def _seek(self, reader: Any) -> None:
        if not self.cursor:
            reader.seek_head()
            return
        reader.seek_cursor(self.cursor)
        reader.get_next()  # the last that was read


def _line(entry: dict[str, Any]) -> Line:
    text, when = entry.get("MESSAGE", ""), entry.get("_SOURCE_MONOTONIC_TIMESTAMP") or entry["__MONOTONIC_TIMESTAMP"][0]
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    told = str(entry.get(journal_field("at"), ""))
    at = when // timedelta(microseconds=1) if isinstance(when, timedelta) else int(when)
    return Line(at, str(text), int(told) if told.isascii() and told.isdecimal() else None)
