# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests against their hosts, if files of `mbecguard-host witness` were collected as well: the claim host-agrees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mbecguard.fleet.data import items, known, time, whole
from mbecguard.fleet.findings import finding
from mbecguard.fleet.value import Sheet
from mbecguard.records.record import State
from mbecguard.values.findings import Finding
from mbecguard.witness.agree import Agreed, Agreement, Said, agreements
from mbecguard.witness.look import HostWitness, Seen
from mbecguard.witness.told import Told

FINDINGS = {
    Agreement.DIFFERS: "host-differs",
    Agreement.UNSEEN: "host-unseen",
    Agreement.TWICE: "host-twice",
}


def read(data: dict[str, Any]) -> HostWitness:
    """The witness of a host; of denied fetches the count will do. Raises ValueError."""
    machines = tuple(_machine(whole(one)) for one in items(data, "machines"))
    found = replace(known(HostWitness, {**data, "machines": []}), machines=machines)
    time(found.time)
    return found


def _machine(data: dict[str, Any]) -> Seen:
    told = data.get("told")
    seen = known(Seen, {**data, "told": None})
    return seen if told is None else replace(seen, told=known(Told, {**whole(told), "last": []}))


def ask(guests: Sequence[tuple[str, Sheet]], witnesses: Sequence[HostWitness]) -> list[Agreed]:
    """What the hosts say to the newest audit of each guest, by its name."""
    return agreements([_said(name, sheet) for name, sheet in guests], witnesses)


def _said(name: str, sheet: Sheet) -> Said:
    told = sheet.witness
    sealed = sheet.state is State.SEALED and not sheet.simulated
    return Said(name, sheet.subject.vm_uuid, sealed, told.generation, told.map_digest, told.denied, sheet.time)


def disagreement(guest: str, agreed: Agreed) -> Finding | None:
    """What has to be told of it; None if nothing stands against the guest."""
    id_ = FINDINGS.get(agreed.agreement)
    return finding(id_, guest=guest, evidence=agreed.evidence, action=agreed.action) if id_ else None
