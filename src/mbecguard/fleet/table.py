# SPDX-License-Identifier: GPL-2.0-or-later
"""A fleet as a table for spreadsheets and scripts: CSV (RFC 4180), a line for each guest and for each unusable file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from mbecguard.fleet.value import Fleet, Guest
from mbecguard.values.escaped import escaped

COLUMNS = (
    *("standing", "guest", "time", "verdict", "state", "failed", "unknown_ranges", "denied_fetches", "findings"),
    *("machine_id", "vm_uuid", "kernel", "build_id", "content_digest", "agent", "sealed", "host", "file"),
)
UNREAD = "unread"  #: in place of a standing, of a file
_FORMULA = ("=", "+", "-", "@")  #: what a spreadsheet would calculate


def table(fleet: Fleet) -> str:
    """The whole table, with a head."""
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, COLUMNS, restval="")
    writer.writeheader()
    for row in _rows(fleet):
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return out.getvalue()


def _rows(fleet: Fleet) -> Iterator[dict[str, object]]:
    for found in fleet.findings:
        if found.id in ("file-unreadable", "file-unfit"):
            yield {"standing": UNREAD, "file": found.facts["file"], "findings": found.id}
    for guest in fleet.guests:
        yield {
            "standing": guest.standing,
            "guest": guest.name,
            "findings": " ".join(one.id for one in guest.findings),
            "host": guest.host.agreement if guest.host else None,
            **_audit(guest),
        }


def _audit(guest: Guest) -> dict[str, object]:
    sheet = guest.audit
    if sheet is None:
        return {}
    who = sheet.subject
    return {
        "time": sheet.time,
        "verdict": sheet.verdict,
        "state": sheet.state,
        "failed": " ".join(sheet.failed),
        "unknown_ranges": sheet.unknown,
        "denied_fetches": sheet.witness.denied,
        "machine_id": who.machine_id,
        "vm_uuid": who.vm_uuid,
        "kernel": who.release,
        "build_id": who.build_id,
        "content_digest": sheet.content_digest,
        "agent": who.agent,
        "sealed": sheet.sealed,
        "file": sheet.file,
    }


def _cell(value: object) -> str:
    """One line of text; a quote keeps a spreadsheet from taking a guest's name for a formula."""
    text = "" if value is None else escaped(str(value))
    return f"'{text}" if text.startswith(_FORMULA) else text
