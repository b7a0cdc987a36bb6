# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that guests sent, read so that none of them can do harm, and none is dropped in silence.

Of an audit only what matters among many is taken, and fields that later versions add are ignored. Whoever sends a file
decides what is in it: it may be anything, and is only ever data.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from mbecguard.audit import value as audit
from mbecguard.fleet.findings import finding
from mbecguard.fleet.value import Sheet
from mbecguard.plan.policy import CodeKind
from mbecguard.records.chain import ENTRY_SCHEMA
from mbecguard.records.identity import Identity
from mbecguard.records.record import State
from mbecguard.values.codec import decode, fields_of
from mbecguard.values.errors import die, plainly
from mbecguard.values.escaped import escaped
from mbecguard.values.files import read_sent, verified
from mbecguard.values.findings import Finding

LIMIT = 8 << 20  #: bytes of a file; an audit has some ten thousand
T = TypeVar("T")

Modules = frozenset[tuple[str, str]]  #: name and build-id


@dataclass(slots=True)
class Collected:
    """What was found in a folder."""

    sheets: list[Sheet] = field(default_factory=list)
    modules: dict[str, Modules] = field(default_factory=dict)  #: by content digest
    findings: list[Finding] = field(default_factory=list)
    files: int = 0
    ignored: int = 0

    def add(self, name: str, data: dict[str, Any]) -> None:
        """An audit. Raises ValueError."""
        self.sheets.append(_sheet(name, data))
        digest = self.sheets[-1].content_digest
        if digest and digest not in self.modules:
            self.modules[digest] = frozenset(_modules(data["locked"]))


#: What reads a file of a schema. What a host witnesses of its guests can have a reader of its own.
READERS: dict[str, Callable[[Collected, str, dict[str, Any]], None]] = {audit.SCHEMA: Collected.add}


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
    data = _object(json.loads(text))
    if data.get("schema") == ENTRY_SCHEMA:  # as a guest keeps it
        data = _object(verified(text).get("record"))
    schema = data.get("schema")
    reader = READERS.get(schema) if isinstance(schema, str) else None
    if reader is None:
        raise ValueError(f"its schema is {str(schema)[:40]!r}, not {' or '.join(map(repr, READERS))}")
    reader(found, name, data)


def _sheet(name: str, data: dict[str, Any]) -> Sheet:
    locked = data.get("locked")
    return Sheet(
        file=name,
        time=_time(_part(str, data, "time")),
        verdict=decode(audit.Verdict, data.get("verdict")),
        ok=_part(bool, data, "ok"),
        state=decode(State, data.get("state")),
        subject=_known(Identity, data.get("subject")),
        boot_id=_part(str, data, "boot_id"),
        failed=tuple(_failed(_part(list, data, "claims"))),
        unknown=len(_part(list, data, "new")) + len(_part(list, data, "unexplained")),
        sealed=_part(str, data, "sealed"),
        simulated=_part(bool, data, "simulated"),
        content_digest=None if locked is None else _part(str, _object(locked), "content_digest"),
        witness=_known(audit.Witness, data.get("witness")),
        record_digest=_part(str, data, "record_digest"),
        plan_digest=_part(str, data, "plan_digest"),
    )


def _failed(claims: list[Any]) -> Iterator[str]:
    for claim in claims:
        result = decode(audit.Result, _object(claim).get("result"))
        if result is audit.Result.FAIL:
            yield _part(str, claim, "id")


def _modules(locked: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for owner in map(_object, _part(list, locked, "owners")):
        if owner.get("kind") == CodeKind.MODULE_TEXT:
            yield _part(str, owner, "owner"), str(owner.get("build_id") or "")


def _known(kind: type[T], data: object) -> T:
    """A dataclass from an object that may have more than that. Raises ValueError."""
    given = _object(data)
    return decode(kind, {name: given[name] for name in _names(cast(Any, kind)) if name in given})


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(fields_of(kind))


def _object(data: object) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ValueError(f"there is a {type(data).__name__} where an object belongs")
    return data


def _part(kind: type[T], data: dict[str, Any], name: str) -> T:
    found = data.get(name)
    if type(found) is not kind:
        raise ValueError(f"{name} is missing, or not as it has to be")
    return found


def _time(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("its time has no time zone")
    return text


def _short(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return "it is not JSON, or cut off"
    return str(error)[:200]
