# SPDX-License-Identifier: GPL-2.0-or-later
"""The closed vocabulary of events, each with its journal MESSAGE_ID.

People and SIEMs search for these ids: never change or reuse one.
"""

from __future__ import annotations

import os
import sys
import syslog
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from string import Formatter
from typing import NamedTuple

from mbecguard.values.escaped import escaped


class EventKind(NamedTuple):
    """Journal MESSAGE_ID (128 bits, hex), syslog priority, and the one line that is logged."""

    message_id: str
    priority: int
    text: str
    more: tuple[str, ...] = ()  #: facts that are fields of the journal, and not in the text

    @property
    def facts(self) -> tuple[str, ...]:
        """The names of what is told with it."""
        named = (name for _, name, _, _ in Formatter().parse(self.text) if name)
        return (*dict.fromkeys(named), *self.more)


class Event(Enum):
    """Everything that the agent ever announces."""

    LOCK_STARTED = EventKind("6d1f1f0c0c5d4b0f9a3e7a0f5f0e1a01", syslog.LOG_INFO, "locking kernel code on {host}")
    STEP = EventKind("6d1f1f0c0c5d4b0f9a3e7a0f5f0e1a02", syslog.LOG_DEBUG, "step {step}")
    REFUSED = EventKind("6d1f1f0c0c5d4b0f9a3e7a0f5f0e1a03", syslog.LOG_WARNING, "not locked, refused: {reason}")
    APPLIED = EventKind("6d1f1f0c0c5d4b0f9a3e7a0f5f0e1a04", syslog.LOG_INFO, "host applied {ranges} ranges")
    PROVEN = EventKind("6d1f1f0c0c5d4b0f9a3e7a0f5f0e1a05", syslog.LOG_INFO, "proven: {evidence}")
    NOT_ENFORCED = EventKind("6d1f1f0c0c5d4b0f9a3e7a0f5f0e1a06", syslog.LOG_ALERT, "NOT ENFORCED: {reason}")
    SEALED = EventKind(
        "6d1f1f0c0c5d4b0f9a3e7a0f5f0e1a07",
        syslog.LOG_NOTICE,
        "sealed: {pages} pages stay executable, record {record}",
        more=("plan",),
    )
    ROLLED_BACK = EventKind(
        "6d1f1f0c0c5d4b0f9a3e7a0f5f0e1a08", syslog.LOG_WARNING, "rolled back after {step}: {reason}"
    )
    ROLLBACK_FAILED = EventKind("6d1f1f0c0c5d4b0f9a3e7a0f5f0e1a09", syslog.LOG_ERR, "could not undo {what}: {reason}")
    INTERRUPTED = EventKind(
        "6d1f1f0c0c5d4b0f9a3e7a0f5f0e1a0a", syslog.LOG_WARNING, "an earlier attempt stopped at step {step}"
    )
    RETRY = EventKind("6d1f1f0c0c5d4b0f9a3e7a0f5f0e1a0b", syslog.LOG_INFO, "guest still changing, attempt {attempt}")
    DRIFT = EventKind("6d1f1f0c0c5d4b0f9a3e7a0f5f0e1a0c", syslog.LOG_ALERT, "drift: {reason}")
    DEGRADED = EventKind("6d1f1f0c0c5d4b0f9a3e7a0f5f0e1a0d", syslog.LOG_ALERT, "degraded: {reason}")
    RESTORED = EventKind("6d1f1f0c0c5d4b0f9a3e7a0f5f0e1a0e", syslog.LOG_NOTICE, "{state}, no longer: {reason}")
    BOOT_NOT_LOCKED = EventKind("6d1f1f0c0c5d4b0f9a3e7a0f5f0e1a0f", syslog.LOG_WARNING, "boot not locked: {reason}")
    BOOT_CONFIRMED = EventKind(
        "6d1f1f0c0c5d4b0f9a3e7a0f5f0e1a10", syslog.LOG_INFO, "boot confirmed: the next one locks again"
    )
    BOOT_UNCONFIRMED = EventKind("6d1f1f0c0c5d4b0f9a3e7a0f5f0e1a11", syslog.LOG_ERR, "boot NOT confirmed: {reason}")
    REARMED = EventKind("6d1f1f0c0c5d4b0f9a3e7a0f5f0e1a12", syslog.LOG_NOTICE, "rearmed: the next boot locks again")
    RELOAD_FAILED = EventKind("6d1f1f0c0c5d4b0f9a3e7a0f5f0e1a13", syslog.LOG_ERR, "settings not reloaded: {reason}")
    HISTORY_DAMAGED = EventKind(
        "6d1f1f0c0c5d4b0f9a3e7a0f5f0e1a14", syslog.LOG_ERR, "the history of {part} is damaged: {what}"
    )
    SWITCH_UNDONE = EventKind("6d1f1f0c0c5d4b0f9a3e7a0f5f0e1a15", syslog.LOG_WARNING, "sealed, but {reason}")
    BOOT_EXCUSED = EventKind(
        "6d1f1f0c0c5d4b0f9a3e7a0f5f0e1a16",
        syslog.LOG_NOTICE,
        "boot {boot} was locked and never confirmed, but {excuse}: this one may lock",
    )
    AUDIT_PASSED = EventKind(
        "6d1f1f0c0c5d4b0f9a3e7a0f5f0e1a17",
        syslog.LOG_INFO,
        "audit passed: {pages} pages are executable, as sealed; audit {audit}",
        more=("record", "content"),
    )
    AUDIT_FAILED = EventKind(
        "6d1f1f0c0c5d4b0f9a3e7a0f5f0e1a18",
        syslog.LOG_ALERT,
        "audit FAILED: {reason}; audit {audit}",
        more=("verdict",),
    )
    FETCH_DENIED = EventKind(
        "6d1f1f0c0c5d4b0f9a3e7a0f5f0e1a19",
        syslog.LOG_ALERT,
        "{task} was to execute {address} in the kernel, {where}, and was stopped; {denied} of them since the reset",
        more=("by", "symbol", "module", "pid", "uid", "process", "before", "at"),
    )
    FETCHES_DENIED = EventKind(
        "6d1f1f0c0c5d4b0f9a3e7a0f5f0e1a1a",
        syslog.LOG_ALERT,
        "{count} more denied fetches, {unlogged} of them without a word in the kernel's log; {denied} since the reset",
        more=("at",),
    )
    TEXT_HELD = EventKind(
        "6d1f1f0c0c5d4b0f9a3e7a0f5f0e1a1b",
        syslog.LOG_NOTICE,
        "the host holds {pages} pages of kernel text, level {level}",
        more=("digest",),
    )
    STORES_DENIED = EventKind(
        "6d1f1f0c0c5d4b0f9a3e7a0f5f0e1a1c",
        syslog.LOG_ALERT,
        "{count} stores to kernel text that are no patches of its own, {what}, the last to {address}, {where}; {bad} "
        "since the reset",
        more=("symbol",),
    )


JOURNAL_SOCKET = "/run/systemd/journal/socket"

#: Where events go; the faces decide.
Tell = Callable[[Event, dict[str, str]], None]


def message(event: Event, facts: dict[str, str]) -> str:
    """The one line of an event."""
    return event.value.text.format(**facts)


def journal_field(name: str) -> str:
    """The field that a fact has in the journal, where names without a prefix belong to everybody."""
    return f"MBECGUARD_{name.upper()}"


def to_journal(event: Event, facts: dict[str, str]) -> None:
    """Send an event to the systemd journal, if there is one; its name and its facts become fields of ours."""
    if not os.path.exists(JOURNAL_SOCKET):  # noqa: PTH110 - pathlib would stay in memory for good
        return
    import systemd.journal  # not `from systemd`: mypy would take the folder of the units for it

    plain = {name: escaped(value) for name, value in facts.items()}  # they may hold names that others gave
    fields = {journal_field(name): value for name, value in (("event", event.name), *plain.items())}
    kind = event.value
    systemd.journal.send(
        message(event, plain),
        MESSAGE_ID=kind.message_id,
        PRIORITY=kind.priority,
        SYSLOG_IDENTIFIER="mbecguard",
        **fields,
    )


def stderr_is_journal() -> bool:
    """Whether systemd connected stderr to the journal; what goes there would be in it twice (systemd.exec(5))."""
    with suppress(OSError, ValueError):
        stderr = os.fstat(sys.stderr.fileno())
        return os.environ.get("JOURNAL_STREAM") == f"{stderr.st_dev}:{stderr.st_ino}"
    return False
