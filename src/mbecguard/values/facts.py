# SPDX-License-Identifier: GPL-2.0-or-later
"""What is known of a thing: its value, that there is none, or why nobody can tell.

What cannot be seen is not absent: each of the three is a type of its own, so that nobody takes one for another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from mbecguard.values.errors import UserError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
D = TypeVar("D")


@dataclass(frozen=True, slots=True)
class Known(Generic[T_co]):
    """This is the value."""

    value: T_co


@dataclass(frozen=True, slots=True)
class Absent:
    """There is no such thing here."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nobody can tell: why, as a clause that follows "because", and what would help."""

    reason: str
    remedy: str = ""


Fact = Known[T] | Absent | Unknown


def known(fact: Known[T] | Absent | Unknown, otherwise: D) -> T | D:
    """The value if it is known, else `otherwise`, be it that there is none or that nobody can tell."""
    return fact.value if isinstance(fact, Known) else otherwise


def told(read: Callable[[], T | None]) -> Known[T] | Absent | Unknown:
    """What `read` returns: None is absent, and what it dies of says why nobody can tell."""
    try:
        value = read()
    except UserError as error:
        return Unknown(error.message, error.hint)
    return Absent() if value is None else Known(value)
