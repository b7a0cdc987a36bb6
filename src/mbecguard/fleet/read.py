# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that guests sent, read so that none of them can do harm, and none is dropped in silence.

Of an audit only what matters among many is taken, and fields that later versions add are ignored. Whoever sends a file
decides what is in it: it may be anything, and is only ever data.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from mbecguard.audit import value as audit
from mbecguard.fleet import hosts
from mbecguard.fleet.data import known, part, time, whole
from mbecguard.fleet.findings import finding
from mbecguard.fleet.value import Sheet
from mbecguard.plan.policy import CodeKind
from mbecguard.records.chain import ENTRY_SCHEMA
from mbecguard.records.identity import Identity
from mbecguard.records.record import State
from mbecguard.values.codec import decode
from mbecguard.values.errors import die, plainly
from mbecguard.values.escaped import escaped
from mbecguard.values.files import read_sent, verified
from mbecguard.values.findings import Finding
from mbecguard.witness.look import SCHEMA as WITNESS
from mbecguard.witness.look import HostWitness

LIMIT = 8 << 20  #: bytes of a file; an audit has some ten thousand

Modules = frozenset[tuple[str, str]]  #: name and build-id


@dataclass(slots=True)
class Track:
    """The audits of one guest: the newest, and of all when they were made, and in which boot."""

    newest: Sheet
    seen: list[tuple[float, str]]


@dataclass(slots=True)
class Collected:
    """What was found in a folder."""

    guests: dict[tuple[str | None, str], Track] = field(default_factory=dict)
    modules: dict[str, Modules] = field(default_factory=dict)  #: by content digest
    findings: list[Finding] = field(default_factory=list)
    witnesses: list[HostWitness] = field(default_factory=list)
    files: int = 0
    ignored: int = 0

    def add(self, name: str, data: dict[str, Any]) -> None:
        """An audit. Raises ValueError."""
        sheet = _sheet(name, data)
        digest, moment = sheet.content_digest, (_stamp(sheet), sys.intern(sheet.boot_id))
        if digest and digest not in self.modules:
            self.modules[digest] = frozenset(_modules(data["locked"]))
        track = self.guests.setdefault((sheet.subject.machine_id, _machine(sheet)), Track(sheet, []))
        if moment[0] > _stamp(track.newest):
            track.newest = sheet
        track.seen.append(moment)

    def saw(self, _name: str, data: dict[str, Any]) -> None:
        """What a host saw of its guests. Raises ValueError."""
        self.witnesses.append(hosts.read(data))


def _machine(sheet: Sheet) -> str:
    """What tells one machine from another of the same machine-id; what has no name at all is a guest of its own."""
    who = sheet.subject
    return (who.vm_uuid or "").lower() or who.hostname or ("" if who.machine_id else sheet.file)


def _stamp(sheet: Sheet) -> float:
    return datetime.fromisoformat(sheet.time).timestamp()


#: What reads a file of a schema.
READERS: dict[str, Callable[[Collected, str, dict[str, Any]], None]] = {
    audit.SCHEMA: Collected.add,
    WITNESS: Collected.saw,
}


def collect(folder: Path) -> Collected:
    """Read each *.json below a folder, in order of their names. Dies if there is no such folder."""
    if not folder.is_dir():
        die(f"there is no folder {folder}", "give the one into which audits are collected")
    found = Collected()
    for path in _files(folder, found):
        name = escaped(str(path.relative_to(folder)))
        if path.suffix != ".json":
            found.ignored += 1
            continue
        found.files += 1
        try:
            _read(found, name, read_sent(path, LIMIT))
        except OSError as error:
            found.findings.append(finding("file-unreadable", file=name, problem=plainly(error)))
        except (ValueError, RecursionError) as error:
            found.findings.append(finding("file-unfit", file=name, problem=_short(error)))
    return found


def inventory(file: Path) -> tuple[str, ...]:
    """Which guests there should be: a host name, machine-id or UUID in each line. Dies if nobody can tell."""
    try:
        lines = file.read_text(errors="surrogateescape").splitlines()
    except OSError as error:
        die(f"{file} cannot be read: {error.strerror}", "give a file with a host name, machine-id or UUID in each line")
    names = tuple(word for line in lines if (word := line.partition("#")[0].strip()))
    return names or die(f"{file} names no guest", "give a host name, machine-id or UUID in each line")


def _files(folder: Path, found: Collected) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        name = os.path.relpath(str(error.filename), folder)
        found.findings.append(finding("file-unreadable", file=name, problem=plainly(error)))

    for place, folders, names in os.walk(folder, onerror=unreadable):
        folders.sort()
        yield from (Path(place, name) for name in sorted(names))


def _read(found: Collected, name: str, text: bytes) -> None:
    data = whole(json.loads(text))
    if data.get("schema") == ENTRY_SCHEMA:  # as a guest keeps it
        data = whole(verified(text).get("record"))
    schema = data.get("schema")
    reader = READERS.get(schema) if isinstance(schema, str) else None
    if reader is None:
        raise ValueError(f"its schema is {str(schema)[:40]!r}, not {' or '.join(map(repr, READERS))}")
    reader(found, name, data)


def _sheet(name: str, data: dict[str, Any]) -> Sheet:
    locked = data.get("locked")
    return Sheet(
        file=name,
        time=time(part(str, data, "time")),
        verdict=decode(audit.Verdict, data.get("verdict")),
        ok=part(bool, data, "ok"),
        state=decode(State, data.get("state")),
        subject=known(Identity, data.get("subject")),
        boot_id=part(str, data, "boot_id"),
        failed=tuple(_failed(part(list, data, "claims"))),
        unknown=len(part(list, data, "new")) + len(part(list, data, "unexplained")),
        sealed=part(str, data, "sealed"),
        simulated=part(bool, data, "simulated"),
        content_digest=None if locked is None else part(str, whole(locked), "content_digest"),
        witness=known(audit.Witness, data.get("witness")),
        record_digest=part(str, data, "record_digest"),
        plan_digest=part(str, data, "plan_digest"),
    )


def _failed(claims: list[Any]) -> Iterator[str]:
    for claim in claims:
        result = decode(audit.Result, whole(claim).get("result"))
        if result is audit.Result.FAIL:
            yield part(str, claim, "id")


def _modules(locked: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for owner in map(whole, part(list, locked, "owners")):
        if owner.get("kind") == CodeKind.MODULE_TEXT:
            yield part(str, owner, "owner"), str(owner.get("build_id") or "")


def _short(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return "it is not JSON, or cut off"
    return str(error)[:200]
