# SPDX-License-Identifier: GPL-2.0-or-later
"""JSON that others sent, taken apart: each part is of the kind that it has to be, or a ValueError says which is not."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import Any, TypeVar, cast

from mbecguard.values.codec import decode, fields_of

T = TypeVar("T")


def known(kind: type[T], data: object) -> T:
    """A dataclass from an object that may have more than that."""
    given = whole(data)
    return decode(kind, {name: given[name] for name in _names(cast(Any, kind)) if name in given})


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(fields_of(kind))


def whole(data: object) -> dict[str, Any]:
    """An object."""
    if not isinstance(data, dict):
        raise ValueError(f"there is a {type(data).__name__} where an object belongs")
    return data


def part(kind: type[T], data: dict[str, Any], name: str) -> T:
    """A field of an object."""
    found = data.get(name)
    if type(found) is not kind:
        raise ValueError(f"{name} is missing, or not as it has to be")
    return found


def items(data: dict[str, Any], name: str) -> list[Any]:
    """A field that is a list."""
    return part(list, data, name)


def time(text: str) -> str:
    """A time that says in which zone."""
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("its time has no time zone")
    return text
