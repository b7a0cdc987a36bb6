# SPDX-License-Identifier: GPL-2.0-or-later
"""What `mbecguard fleet` tells, for people."""

from __future__ import annotations

from collections.abc import Iterator

from mbecguard.face.look import Look, plural, totals
from mbecguard.fleet.value import Fleet, Guest, Standing

SHOWN = 50  #: guests that do not pass and are shown one by one
_COLOUR = {Standing.PASS: "green", Standing.STALE: "yellow", Standing.OPEN: "yellow", Standing.NEVER: "yellow"}


def view(look: Look, fleet: Fleet) -> Iterator[str]:
    """The guests that do not pass, what there is to say, and the totals."""
    others = [guest for guest in fleet.guests if guest.standing is not Standing.PASS]
    for guest in others[:SHOWN]:
        label = look.paint(f"{guest.standing.upper():<8}", _COLOUR.get(guest.standing, "red"))
        yield from look.fill(f"{label}  ", _about(guest), 10)
    if len(others) > SHOWN:
        yield f"and {len(others) - SHOWN} more (--format csv has all)"
    yield from look.findings(fleet.findings)
    counts = ", ".join(f"{count} {standing}" for standing, count in fleet.totals.items() if count) or "none"
    asked = f", {plural(fleet.hosts, 'host')} asked" if fleet.hosts else ""
    yield f"{plural(len(fleet.guests), 'guest')}, {plural(fleet.files, 'file')}{asked}: {counts}"
    verdict = look.paint("passes", "green") if fleet.ok else look.paint("does NOT pass", "red")
    yield f"this fleet {verdict}: {totals(fleet.findings)}"


def _about(guest: Guest) -> str:
    sheet = guest.audit
    return (
        f"{guest.name}  {sheet.time}, kernel {sheet.subject.release or 'unknown'}"
        if sheet
        else f"{guest.name}  no audit"
    )
