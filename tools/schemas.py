# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes docs/schema/: a JSON Schema (2020-12) of each answer of the agent, made from its dataclass.

`python -m tools.schemas`. The schemas are open: a reader ignores what it does not know.
"""

from __future__ import annotations

import inspect
import json
import re
import types
from collections.abc import Iterator
from enum import Enum, Flag
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from mbecguard.audit.report import Report
from mbecguard.audit.value import Audit
from mbecguard.face.output import Failure
from mbecguard.fleet.value import Fleet
from mbecguard.guest.captured import Captured
from mbecguard.guest.warm import Warmed
from mbecguard.learn.learner import Started, Written
from mbecguard.learn.lessons import Lessons
from mbecguard.plan.explain import Explanation
from mbecguard.plan.findings import Check
from mbecguard.plan.value import Plan
from mbecguard.readiness.check import HostCheck
from mbecguard.records.boots import Boots
from mbecguard.records.record import Record
from mbecguard.records.status import Status
from mbecguard.settings.shown import DefaultFile, Described
from mbecguard.values.codec import Hex, defaults, fields_of, has_fields, is_hex
from mbecguard.witness.look import HostWitness

FOLDER = Path(__file__).parents[1] / "docs/schema"
DIALECT = "https://json-schema.org/draft/2020-12/schema"

#: Each answer, and the commands that give it.
ANSWERS: dict[type, str] = {
    Check: "check, lock --dry-run",
    Plan: "plan",
    Record: "lock",
    Status: "status, boot",
    Audit: "audit",
    Report: "report",
    Fleet: "fleet",
    Explanation: "explain",
    Boots: "boot --confirm, rearm",
    Started: "learn start",
    Lessons: "learn show",
    Written: "learn write",
    Warmed: "cache warm",
    Described: "config",
    DefaultFile: "config --default",
    Captured: "capture",
    HostCheck: "mbecguard-host check",
    HostWitness: "mbecguard-host witness",
    Failure: "every command that fails",
}

HEX: dict[str, Any] = {
    "description": "An address in bytes, or a page frame number. A string, as many readers lose digits of numbers.",
    "type": "string",
    "pattern": "^0x(0|[1-9a-f][0-9a-f]{0,15})$",
}
SCALARS = {bool: "boolean", int: "integer", float: "number", str: "string"}


def name_of(answer: type) -> str:
    """The schema name of an answer, such as `mbecguard.plan/2`."""
    return str(defaults(answer)["schema"])


def file_of(answer: type) -> str:
    """The name of its file, such as `plan-2.json`."""
    return f"{name_of(answer).removeprefix('mbecguard.').replace('/', '-')}.json"


def schema(answer: type) -> dict[str, Any]:
    """The JSON Schema of an answer."""
    maker = _Maker()
    body = maker.object(answer, all_hex=False)
    head = {
        "$schema": DIALECT,
        "$id": f"urn:mbecguard:{file_of(answer).removesuffix('.json')}",
        "title": name_of(answer),
    }
    return {**head, **body, "$defs": dict(sorted(maker.definitions.items()))}


class _Maker:
    """Collects the definitions that one schema needs."""

    def __init__(self) -> None:
        self.definitions: dict[str, Any] = {}

    def object(self, kind: Any, *, all_hex: bool) -> dict[str, Any]:
        comments = dict(_comments(kind))
        properties: dict[str, Any] = {}
        for name, hint in fields_of(kind, all_hex=all_hex).items():
            comment = {"description": comments[name]} if name in comments else {}
            properties[name] = {"const": name_of(kind)} if name == "schema" else {**comment, **self.of(hint)}
        about = " ".join((inspect.getdoc(kind) or "").partition("\n\n")[0].split())
        return {"description": about, "type": "object", "properties": properties, "required": list(properties)}

    def of(self, hint: Any) -> dict[str, Any]:
        """The schema of a type."""
        origin, arguments = get_origin(hint), get_args(hint)
        if hint == Hex:
            return self._reference("Hex", HEX)
        if is_hex(hint):
            return self._defined(arguments[0], all_hex=True)
        if has_fields(hint):
            return self._defined(hint, all_hex=False)
        if origin is tuple:
            return self._array(arguments)
        if origin is dict:
            return {"type": "object", "additionalProperties": self.of(arguments[1])}
        if origin in (Union, types.UnionType):
            return self._choice(arguments)
        if isinstance(hint, type) and issubclass(hint, Enum):
            return _enum(hint)
        return {"type": SCALARS[hint]}

    def _defined(self, kind: Any, *, all_hex: bool) -> dict[str, Any]:
        name = kind.__name__ + "Hex" * all_hex
        if name not in self.definitions:
            self.definitions[name] = {}  # it may hold itself
            self.definitions[name] = self.object(kind, all_hex=all_hex)
        return {"$ref": f"#/$defs/{name}"}

    def _reference(self, name: str, definition: dict[str, Any]) -> dict[str, Any]:
        self.definitions[name] = definition
        return {"$ref": f"#/$defs/{name}"}

    def _array(self, arguments: tuple[Any, ...]) -> dict[str, Any]:
        if arguments[-1] is Ellipsis:
            return {"type": "array", "items": self.of(arguments[0])}
        items = [self.of(argument) for argument in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "items": False}

    def _choice(self, arguments: tuple[Any, ...]) -> dict[str, Any]:
        if set(arguments) <= {*SCALARS, type(None)}:
            return {"type": ["null" if argument is type(None) else SCALARS[argument] for argument in arguments]}
        return {"anyOf": [{"type": "null"} if argument is type(None) else self.of(argument) for argument in arguments]}


def _enum(kind: type[Enum]) -> dict[str, Any]:
    if issubclass(kind, Flag):
        return {"type": "integer", "minimum": 0, "maximum": sum(member.value for member in kind)}
    return {"enum": [member.value for member in kind]}


def _comments(kind: Any) -> Iterator[tuple[str, str]]:
    """What the source says of each field, behind `#:`."""
    for name, text in re.findall(r"^    (\w+): .*?#: (.*)$", inspect.getsource(kind), re.MULTILINE):
        yield name, text[:1].upper() + text[1:]


def texts() -> dict[str, str]:
    """The content of the folder: file name -> text."""
    return {file_of(answer): json.dumps(schema(answer), indent=1) + "\n" for answer in ANSWERS}


def main() -> None:
    """Write the folder anew."""
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.json"):
        old.unlink()
    for name, text in texts().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
