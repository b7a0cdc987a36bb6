# SPDX-License-Identifier: GPL-2.0-or-later
"""Findings: what a person must know of a guest or of a host. Each catalogue of them is closed.

A finding is data: an id that scripts can match, a severity, one sentence that names the thing, and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from functools import cache
from string import Formatter
from typing import NamedTuple

from mbecguard.values.codec import hexadecimal


class Severity(StrEnum):
    """How much a finding matters. Only blockers stop a lock."""

    INFO = "info"
    WARNING = "warning"
    BLOCKER = "blocker"

    @property
    def rank(self) -> int:
        """The worst is 0: findings are told in this order."""
        return -list(Severity).index(self) + len(Severity) - 1


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One finding, as it stands in the JSON of an answer.

    `facts` are the values that the text names: addresses as hexadecimal strings, other numbers as numbers.
    """

    id: str
    severity: Severity
    text: str
    hint: str
    facts: dict[str, str | int] = field(default_factory=dict, compare=False)  # the text tells them apart already


class Template(NamedTuple):
    """What findings of one id have in common; `text` and `hint` are format strings.

    `passing`: it can go away by itself, as what is seen of a module that is just being loaded. `apart`: facts that the
    text has only as part of a phrase.
    """

    severity: Severity
    text: str
    hint: str
    passing: bool = False
    apart: tuple[str, ...] = ()


def made(catalogue: Mapping[str, Template], id_: str, facts: Mapping[str, object]) -> Finding:
    """A finding of a catalogue with its texts filled in; an id or fact that is missing is a bug."""
    kind = catalogue[id_]
    named = {name: _fact(facts[name], form) for name, form in _named(kind.text)}
    named |= {name: _fact(facts[name], "") for name in kind.apart}
    return Finding(id_, kind.severity, kind.text.format(**facts), kind.hint.format(**facts), named)


@cache
def _named(text: str) -> tuple[tuple[str, str], ...]:
    """The names in a format string, and how each is written."""
    return tuple((name, form or "") for _, name, form, _ in Formatter().parse(text) if name)


def _fact(value: object, form: str) -> str | int:
    if isinstance(value, int) and not isinstance(value, bool | Enum):
        return hexadecimal(value) if form == "#x" else value
    return str(value)
