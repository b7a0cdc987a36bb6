# SPDX-License-Identifier: GPL-2.0-or-later
"""Frozen dataclasses to JSON and back, exactly; canonical bytes and their digest.

Understands what the agent's values are made of: dataclasses, enums, tuples, dicts with string keys,
unions with None, and the JSON scalars. Anything else is a bug and raises TypeError.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
from collections.abc import Callable
from enum import Enum
from functools import cache
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")


def encode(value: object) -> Any:
    """`value` as JSON-able objects: dataclasses become objects, tuples arrays, enums their value."""
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {_string(key): encode(item) for key, item in value.items()}
    raise TypeError(f"cannot serialise {type(value).__name__}")


def _string(key: object) -> str:
    # json.dumps would quietly turn 1 into "1", and the way back would not be the same.
    if type(key) is not str:
        raise TypeError(f"cannot serialise a {type(key).__name__} as a key")
    return key


def decode(kind: type[T], data: object) -> T:
    """The inverse of `encode`. Raises ValueError naming the place if `data` is not of that shape."""
    return cast(T, _decoder(cast(Any, kind))(data, kind.__name__))


def canonical(data: object) -> bytes:
    """Canonical JSON bytes of JSON-able objects: sorted keys, no white space, ASCII."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest(data: object) -> str:
    """SHA-256 (hex) over the canonical JSON of `data`."""
    return hashlib.sha256(canonical(data)).hexdigest()


Decoder = Callable[[object, str], Any]


@cache
def _decoder(kind: Any) -> Decoder:
    origin, arguments = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _dataclass_decoder(kind)
    if origin is tuple:
        return _tuple_decoder(arguments)
    if origin is dict:
        return _dict_decoder(_decoder(arguments[1]))
    if origin in (Union, types.UnionType):
        return _optional_decoder(arguments)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _enum_decoder(kind)
    if kind in (bool, int, float, str):
        return _scalar_decoder(kind)
    raise TypeError(f"cannot deserialise {kind}")


def _dataclass_decoder(kind: Any) -> Decoder:
    hints = get_type_hints(kind)
    fields = dataclasses.fields(kind)
    names = {field.name for field in fields}
    required = {f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING}

    def convert(data: object, where: str) -> Any:
        table = _expect(dict, data, where)
        if wrong := (required - table.keys()) | (table.keys() - names):
            raise ValueError(f"{where}: wrong keys {sorted(wrong)}")
        values = {key: _decoder(hints[key])(item, f"{where}.{key}") for key, item in table.items()}
        return _construct(kind, where, **values)

    return convert


def _tuple_decoder(arguments: tuple[Any, ...]) -> Decoder:
    def convert(data: object, where: str) -> Any:
        items = _expect(list, data, where)
        kinds = [arguments[0]] * len(items) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) != len(items):
            raise ValueError(f"{where}: {len(items)} items, not {len(kinds)}")
        pairs = enumerate(zip(kinds, items, strict=True))
        return tuple(_decoder(kind)(item, f"{where}[{i}]") for i, (kind, item) in pairs)

    return convert


def _dict_decoder(item: Decoder) -> Decoder:
    return lambda data, where: {
        _expect(str, key, where): item(value, f"{where}.{key}") for key, value in _expect(dict, data, where).items()
    }


def _optional_decoder(arguments: tuple[Any, ...]) -> Decoder:
    kinds = [argument for argument in arguments if argument is not type(None)]
    if len(kinds) != 1:
        raise TypeError(f"cannot deserialise a choice of {kinds}")
    return lambda data, where: None if data is None else _decoder(kinds[0])(data, where)


def _enum_decoder(kind: type[Enum]) -> Decoder:
    def convert(data: object, where: str) -> Any:
        member = _construct(kind, where, data)
        # Python takes True and 1.0 for 1, and -1 for all flags at once.
        if type(member.value) is not type(data) or member.value != data:
            raise ValueError(f"{where}: {data!r} is not a valid {kind.__name__}")
        return member

    return convert


def _construct(kind: Callable[..., Any], where: str, /, *values: Any, **fields: Any) -> Any:
    try:
        return kind(*values, **fields)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _scalar_decoder(kind: type) -> Decoder:
    return lambda data, where: _expect(kind, data, where)


def _expect(kind: type[T], data: object, where: str) -> T:
    # bool is an int to Python, but never in our files; an int is a float to both.
    fits = isinstance(data, kind) or (kind is float and isinstance(data, int))
    if not fits or (kind is not bool and isinstance(data, bool)):
        raise ValueError(f"{where}: expected {kind.__name__}, found {type(data).__name__}")
    return cast(T, data)
