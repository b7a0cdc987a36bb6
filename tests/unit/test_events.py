# SPDX-License-Identifier: GPL-2.0-or-later
"""The vocabulary of events, and the exit statuses: contracts with scripts, units and SIEMs."""

from __future__ import annotations

import os
import re
import string
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import mbecguard
from mbecguard.values import events
from mbecguard.values.errors import Exit, UserError, die
from mbecguard.values.events import Event, message, stderr_is_journal, to_journal

ROOT = Path(__file__).parents[2]
SOURCES = "\n".join(
    path.read_text() for path in Path(mbecguard.__file__).parent.rglob("*.py") if path.name != "events.py"
)


def fields(event: Event) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(event.value.text) if name}


def test_message_ids_are_128_bits_and_unique() -> None:
    ids = [event.value.message_id for event in Event]
    assert all(re.fullmatch("[0-9a-f]{32}", id_) for id_ in ids)
    assert len(set(ids)) == len(ids)
    assert len(Event.__members__) == len(list(Event))  # equal kinds would be aliases


def test_message_ids_are_one_series_that_only_grows() -> None:
    first = int(Event.LOCK_STARTED.value.message_id, 16)
    assert [int(event.value.message_id, 16) - first for event in Event] == list(range(len(Event)))
    assert Event.LOCK_STARTED.value.message_id == "6d1f1f0c0c5d4b0f9a3e7a0f5f0e1a01"
    assert Event.DEGRADED.value.message_id == "6d1f1f0c0c5d4b0f9a3e7a0f5f0e1a0d"


@pytest.mark.parametrize("event", Event)
def test_every_event_is_told_somewhere_and_its_text_can_be_filled(event: Event) -> None:
    assert 0 <= event.value.priority <= 7
    assert message(event, dict.fromkeys(fields(event), "X{y}")).count("X{y}") == len(fields(event))
    assert re.search(rf"\bEvent\.{event.name}\b", SOURCES)


def test_events_go_to_the_journal_if_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, dict[str, Any]]] = []
    systemd, journal = ModuleType("systemd"), ModuleType("systemd.journal")
    journal.send = lambda text, **fields: sent.append((text, fields))  # type: ignore[attr-defined]
    systemd.journal = journal  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "systemd", systemd)
    monkeypatch.setitem(sys.modules, "systemd.journal", journal)
    monkeypatch.setattr(events, "JOURNAL_SOCKET", tmp_path / "socket")
    to_journal(Event.RETRY, {"attempt": "2"})
    assert not sent
    (tmp_path / "socket").touch()
    to_journal(Event.RETRY, {"attempt": "2"})
    text, extra = sent.pop()
    assert text == "guest still changing, attempt 2"
    assert extra == {
        "MESSAGE_ID": Event.RETRY.value.message_id,
        "PRIORITY": 6,
        "SYSLOG_IDENTIFIER": "mbecguard",
        "MBECGUARD_EVENT": "RETRY",
        "MBECGUARD_ATTEMPT": "2",
    }


def test_what_systemd_writes_to_the_journal_anyway_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "stderr").open("w") as file:
        monkeypatch.setattr(sys, "stderr", file)
        stat = os.fstat(file.fileno())
        for stream, same in ((None, False), (f"{stat.st_dev}:{stat.st_ino}", True), (f"{stat.st_dev}:1", False)):
            if stream:
                monkeypatch.setenv("JOURNAL_STREAM", stream)
            else:
                monkeypatch.delenv("JOURNAL_STREAM", raising=False)
            assert stderr_is_journal() is same
    assert not stderr_is_journal()  # it is closed


def test_exit_statuses_are_the_contract() -> None:
    assert {status.name: status.value for status in Exit} == {
        "OK": 0,
        "ERROR": 1,
        "USAGE": 2,
        "REFUSED": 3,
        "NOT_ENFORCED": 4,
        "DRIFT": 5,
        "OPEN": 6,
        "NOTHING": 7,
        "AUDIT_MODE": 8,
    }


def test_dying_carries_message_hint_and_status() -> None:
    with pytest.raises(UserError, match="gone") as caught:
        die("gone", "bring it back", Exit.REFUSED)
    assert (caught.value.message, caught.value.hint, caught.value.status) == ("gone", "bring it back", 3)
    assert (UserError("gone").hint, UserError("gone").status) == ("", Exit.ERROR)


def test_docs_name_message_ids_of_real_events() -> None:
    found = re.findall("[0-9a-f]{32}", (ROOT / "docs/INSTALL.md").read_text())
    assert found == [kind.value.message_id for kind in (Event.BOOT_NOT_LOCKED, Event.BOOT_UNCONFIRMED)]
