# SPDX-License-Identifier: GPL-2.0-or-later
"""A fleet for a SIEM: events of the Open Cybersecurity Schema Framework, class Compliance Finding, one in a line.

https://schema.ocsf.io has the class: what it requires of its base class, `finding_info`, `compliance` and `metadata`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from mbecguard import __version__
from mbecguard.fleet.value import Fleet, Guest, Sheet, Standing
from mbecguard.values.findings import Finding, Severity

VERSION = "1.3.0"  #: of the schema
CATEGORY, CLASS, CREATE, NEW = 2, 2003, 1, 1  #: findings; compliance finding; its activity; its status
PASS, WARNING, FAIL = 1, 2, 3  #: of `compliance`; a warning is what gave no result
INFORMATIONAL, LOW, MEDIUM, HIGH = 1, 2, 3, 4  #: severities
NAMES = {
    "activity": {CREATE: "Create"},
    "status": {PASS: "Pass", WARNING: "Warning", FAIL: "Fail"},
    "severity": {INFORMATIONAL: "Informational", LOW: "Low", MEDIUM: "Medium", HIGH: "High"},
}
CONTROL = "kernel-code-sealed"
REQUIREMENT = "the host keeps the kernel from executing any page that its seal does not know"

#: What `compliance` says of a guest, and how much it matters.
STANDINGS: dict[Standing, tuple[int, int]] = {
    Standing.DEGRADED: (FAIL, HIGH),
    Standing.FAIL: (FAIL, HIGH),
    Standing.OPEN: (FAIL, MEDIUM),
    Standing.NEVER: (WARNING, MEDIUM),
    Standing.STALE: (WARNING, MEDIUM),
    Standing.PASS: (PASS, INFORMATIONAL),
}
SEVERITIES = {Severity.BLOCKER: (FAIL, HIGH), Severity.WARNING: (WARNING, LOW)}


def events(fleet: Fleet) -> str:
    """A line for each guest, and one for each finding that is of no guest, such as a file that cannot be read."""
    return "".join(json.dumps(event, separators=(",", ":")) + "\n" for event in _events(fleet))


def _events(fleet: Fleet) -> Iterator[dict[str, Any]]:
    for guest in fleet.guests:
        yield _of_guest(guest, fleet)
    told = {found for guest in fleet.guests for found in guest.findings}
    for found in fleet.findings:
        if found.severity in SEVERITIES and found not in told:
            yield _of_finding(found, fleet)


def _of_guest(guest: Guest, fleet: Fleet) -> dict[str, Any]:
    sheet = guest.audit
    title = f"Kernel code of {guest.name}: {guest.standing}"
    uid = ":".join(("mbecguard", _uid(guest), sheet.time if sheet else fleet.time))
    event = _event(title, uid, sheet.time if sheet else fleet.time, *STANDINGS[guest.standing])
    event["finding_info"]["desc"] = "; ".join(found.text for found in guest.findings) or title
    event["finding_info"]["types"] = [found.id for found in guest.findings]
    event["resources"] = [{"type": "Virtual Machine", "name": guest.name, "uid": _uid(guest)}]
    if sheet:
        event["compliance"] |= {"status_code": sheet.verdict.value, "status_detail": ", ".join(sheet.failed)}
        event["unmapped"] = _unmapped(sheet)
    return event


def _of_finding(found: Finding, fleet: Fleet) -> dict[str, Any]:
    event = _event(
        found.text, f"mbecguard:{found.id}:{fleet.time}:{found.text}", fleet.time, *SEVERITIES[found.severity]
    )
    event["finding_info"] |= {"types": [found.id], "desc": found.hint or found.text}
    return event


def _event(title: str, uid: str, time: str, status: int, severity: int) -> dict[str, Any]:
    return {
        "category_uid": CATEGORY,
        "category_name": "Findings",
        "class_uid": CLASS,
        "class_name": "Compliance Finding",
        "activity_id": CREATE,
        "activity_name": NAMES["activity"][CREATE],
        "type_uid": CLASS * 100 + CREATE,
        "type_name": "Compliance Finding: Create",
        "time": int(datetime.fromisoformat(time).timestamp() * 1000),
        "severity_id": severity,
        "severity": NAMES["severity"][severity],
        "status_id": NEW,
        "status": "New",
        "message": title,
        "metadata": {
            "version": VERSION,
            "product": {"name": "mbecguard", "vendor_name": "mbecguard", "version": __version__},
        },
        "finding_info": {"uid": uid, "title": title},
        "compliance": {
            "standards": ["mbecguard"],
            "control": CONTROL,
            "requirements": [REQUIREMENT],
            "status_id": status,
            "status": NAMES["status"][status],
        },
    }


def _uid(guest: Guest) -> str:
    who = guest.audit.subject if guest.audit else None
    return (who and (who.vm_uuid or who.machine_id)) or guest.name


def _unmapped(sheet: Sheet) -> dict[str, Any]:
    return {
        "state": sheet.state.value,
        "unknown_ranges": sheet.unknown,
        "denied_fetches": sheet.witness.denied,
        "content_digest": sheet.content_digest,
        "plan_digest": sheet.plan_digest,
        "record_digest": sheet.record_digest,
    }
