# SPDX-License-Identifier: GPL-2.0-or-later
"""The record of this boot as mbecguard 0.1 kept it: an upgrade must not make a sealed guest an unproven one.

`records.jsonl` held whole plans, in which addresses and page frames were numbers. The newest record is read from its
end; the first one of ours retires the file. The next boot makes all of this superfluous.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from mbecguard.plan.findings import UNEXPLAINED
from mbecguard.plan.value import Plan
from mbecguard.records.chain import Entry
from mbecguard.records.damage import reading
from mbecguard.records.identity import Identity
from mbecguard.records.reasons import reason
from mbecguard.records.record import Record
from mbecguard.records.store import OLD
from mbecguard.values.codec import canonical, decode, digest, encode, hexadecimal
from mbecguard.values.files import CHANGED, read_own

_LIMIT = 16 << 20  #: bytes of one record
_NUMBERS = frozenset({"start", "end", "va", "pfn", "text_va", "text_pa"})  #: which are hexadecimal strings now
_PLACE = re.compile(r"(?P<pages>\d+) pages at (?P<va>0x[0-9a-f]+) \(physical (?P<pa>0x[0-9a-f]+)\)")


def read(folder: Path, boot_id: str) -> tuple[Entry, Plan] | None:
    """The newest record and its plan, if they are of this boot. Raises DamagedError."""
    with reading(folder / OLD):
        try:
            lines = read_own(folder / OLD, last=_LIMIT).split(b"\n")
        except FileNotFoundError:
            return None
        return _newest(lines[-2], boot_id) if len(lines) > 1 else None  # the last line has no end: a crash cut it off


def retire(folder: Path) -> None:
    """Have the file out of the way, and keep it."""
    names = (folder / f"{OLD}.old{f'.{number}' if number else ''}" for number in count())
    with suppress(OSError):
        (folder / OLD).rename(next(name for name in names if not os.path.lexists(name)))


def _newest(line: bytes, boot_id: str) -> tuple[Entry, Plan] | None:
    found = json.loads(line)
    if not isinstance(found, dict) or found.keys() != {"previous", "record", "digest"}:
        raise ValueError(CHANGED)
    link = found.pop("digest")
    if link != digest(found) or line != canonical({**found, "digest": link}):
        raise ValueError(CHANGED)
    record = found["record"]
    if record.get("boot_id") != boot_id:
        return None
    plan = _plan(record.pop("plan"))
    return Entry(0, found["previous"], _record(record, plan), link), plan


def _record(data: dict[str, Any], plan: Plan) -> Record:
    boot_id, agent = data.pop("boot_id"), data.pop("agent")
    kernel = plan.kernel
    identity = Identity(boot_id, release=kernel.release, build_id=kernel.build_id or None, agent=agent)
    told = (why if isinstance(why, dict) else encode(reason("of-earlier-version", text=why)) for why in data["reasons"])
    named = {"identity": encode(identity), "plan_digest": plan.digest, "totals": encode(plan.totals)}
    return decode(Record, {**_in_hex(data), **named, "reasons": list(told), "schema": "mbecguard.record/2"})


def _plan(data: dict[str, Any]) -> Plan:
    """A plan under the digest that it has today."""
    link = data.pop("digest")
    if link != digest(data):
        raise ValueError(CHANGED)
    findings = [{"facts": _facts(finding), **finding} for finding in data["findings"]]
    now = {**_in_hex(data), "findings": findings, "schema": "mbecguard.plan/2"}
    return decode(Plan, {**now, "digest": digest(now)})


def _facts(finding: dict[str, Any]) -> dict[str, str | int]:
    """What an audit wants to know of executable pages that nobody explained; their text tells it."""
    place = _PLACE.match(finding["text"]) if finding["id"] in UNEXPLAINED else None
    return {**place.groupdict(), "pages": int(place["pages"])} if place else {}


def _in_hex(value: Any) -> Any:
    if isinstance(value, list):
        return [_in_hex(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: hexadecimal(item) if key in _NUMBERS and isinstance(item, int) else _in_hex(item)
        for key, item in value.items()
    }
