# SPDX-License-Identifier: GPL-2.0-or-later
"""Values to JSON and back, exactly; canonical bytes and their digest.

Understands what the agent's values are made of: frozen dataclasses and NamedTuples, enums, tuples, dicts with string
keys, unions with None, of scalars, or of values with different fields, and the JSON scalars. Anything else is a bug and
raises TypeError.

Addresses and page frames are declared `Hex` and become strings such as "0x1000": many readers of JSON take every number
for a double, which holds integers up to 2^53 only, and nearly all kernel addresses lie above.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import types
from collections.abc import Callable
from enum import Enum
from functools import cache
from operator import attrgetter
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")


class Notation(Enum):
    """How numbers are written, for `Annotated`. On a type with fields it means each of its own integers."""

    HEX = "hex"


Hex = Annotated[int, Notation.HEX]
_HEX = re.compile(r"0x(?:0|[1-9a-f][0-9a-f]{0,15})")  # one notation for each number, else digests would differ


def encode(value: object) -> Any:
    """`value` as JSON-able objects: dataclasses become objects, tuples arrays, enums their value."""
    kind: Any = type(value)
    return _encoder_of(kind)(value)


def hexadecimal(number: int) -> str:
    """The one notation of an address or a page frame; ValueError for what has no 64 bits."""
    if not 0 <= number < 1 << 64:
        raise ValueError(f"{number:#x} is not an unsigned number of 64 bits")
    return hex(number)


Encoder = Callable[[Any], Any]


def _as_it_is(value: Any) -> Any:
    return value


@cache
def _encoder_of(kind: Any) -> Encoder:
    """What writes values of exactly that class."""
    if issubclass(kind, Enum):
        return attrgetter("value")
    if issubclass(kind, bool | int | float | str | types.NoneType):
        return _as_it_is
    if has_fields(kind):
        return _fields_encoder(kind)
    if issubclass(kind, tuple | list):
        return lambda value: [encode(item) for item in value]
    if issubclass(kind, dict):
        return lambda value: {_string(key): encode(item) for key, item in value.items()}
    raise TypeError(f"cannot serialise {kind.__name__}")


def _fields_encoder(kind: type, *, all_hex: bool = False) -> Encoder:
    hints = fields_of(kind, all_hex=all_hex)
    changing = [(name, encoder) for name in hints if (encoder := _encoder(hints[name])) is not _as_it_is]
    fields: Callable[[Any], dict[str, Any]] = getattr(
        kind, "_asdict", lambda value: {name: getattr(value, name) for name in hints}
    )

    def convert(value: object) -> dict[str, Any]:
        data = fields(value)
        for name, encoder in changing:
            data[name] = encoder(data[name])
        return data

    return convert


def _encoder(hint: Any) -> Encoder:
    """What writes a value declared so; `encode` itself where the value alone says how."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint == Hex:
        return hexadecimal
    if is_hex(hint):
        return _fields_encoder(arguments[0], all_hex=True)
    if hint in (bool, int, float, str):
        return _as_it_is
    inner = [_encoder(argument) for argument in arguments if argument not in (Ellipsis, type(None))]
    if all(encoder in (encode, _as_it_is) for encoder in inner):
        return encode
    if origin is tuple and arguments[-1] is Ellipsis:
        return lambda value: [inner[0](item) for item in value]
    if origin is tuple:
        return lambda value: [encoder(item) for encoder, item in zip(inner, value, strict=True)]
    if origin is dict:
        return lambda value: {_string(key): inner[1](item) for key, item in value.items()}
    if has_fields(origin) or all(has_fields(get_origin(a) or a) for a in arguments):
        return encode  # each value knows its own class
    if len(inner) > 1:
        raise TypeError(f"cannot serialise a choice of {arguments}")
    return lambda value: None if value is None else inner[0](value)


def is_hex(hint: Any) -> bool:
    """Whether a type, or each integer of a value, is declared to be written in hexadecimal."""
    return get_origin(hint) is Annotated and Notation.HEX in hint.__metadata__


def has_fields(kind: Any) -> bool:
    """Whether values of a type have fields, which become the keys of an object."""
    return dataclasses.is_dataclass(kind) or (isinstance(kind, type) and issubclass(kind, tuple) and kind is not tuple)


def defaults(kind: Any) -> dict[str, Any]:
    """The names of the fields of a type, with their defaults; MISSING where a value is required."""
    if not dataclasses.is_dataclass(kind):
        found: dict[str, Any] = dict.fromkeys(kind._fields, dataclasses.MISSING)
        found.update(kind._field_defaults)
        return found
    made = dataclasses.MISSING
    return {f.name: f.default if f.default_factory is made else f.default_factory for f in dataclasses.fields(kind)}


def fields_of(kind: Any, *, all_hex: bool = False) -> dict[str, Any]:
    """The fields of a value and their types; with `all_hex` each integer is one that is written in hexadecimal.

    `kind` may say what a generic dataclass is of: then a field of the type variable is of that.
    """
    origin = get_origin(kind) or kind
    given = dict(zip(getattr(origin, "__parameters__", ()), get_args(kind), strict=False))
    hints = get_type_hints(origin, include_extras=True)
    types_ = {name: given.get(hints[name], hints[name]) for name in defaults(origin)}
    return {name: Hex if all_hex and hint is int else hint for name, hint in types_.items()}


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


def laid_out(data: object, margin: str = "\n") -> str:
    """What `encode` made, as JSON with one value a line: as `json.dumps(data, indent=1)`, in half the time."""
    inner = f"{margin} "
    if isinstance(data, dict) and data:
        items = [f"{_scalar(key)}: {laid_out(value, inner)}" for key, value in data.items()]
        return f"{{{inner}{f',{inner}'.join(items)}{margin}}}"
    if isinstance(data, list) and data:
        return f"[{inner}{f',{inner}'.join([laid_out(item, inner) for item in data])}{margin}]"
    return _scalar(data)


_scalar = json.JSONEncoder().encode


def digest(data: object) -> str:
    """SHA-256 (hex) over the canonical JSON of `data`."""
    return hashlib.sha256(canonical(data)).hexdigest()


Decoder = Callable[[object, str], Any]


@cache
def _decoder(kind: Any) -> Decoder:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind == Hex:
        return _decode_hex
    if is_hex(kind):
        return _fields_decoder(arguments[0], all_hex=True)
    if has_fields(origin or kind):
        return _fields_decoder(kind)
    if origin is tuple:
        return _tuple_decoder(arguments)
    if origin is dict:
        return _dict_decoder(_decoder(arguments[1]))
    if origin in (Union, types.UnionType):
        return _choice_decoder(arguments)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _enum_decoder(kind)
    if kind in (bool, int, float, str):
        return _scalar_decoder(kind)
    raise TypeError(f"cannot deserialise {kind}")


def _fields_decoder(kind: Any, *, all_hex: bool = False) -> Decoder:
    hints = fields_of(kind, all_hex=all_hex)
    names = hints.keys()
    required = _required(kind)
    ours = defaults(get_origin(kind) or kind).get("schema")

    @cache  # not before a value comes: a type may hold values of itself
    def decoders_of() -> dict[str, Decoder]:
        return {name: _decoder(hint) for name, hint in hints.items()}

    def convert(data: object, where: str) -> Any:
        table = _expect(dict, data, where)
        if (
            isinstance(ours, str) and table.get("schema", ours) != ours
        ):  # said first: the keys of another one are others
            raise ValueError(f"{where}: schema {table['schema']!r} is not {ours!r}")
        if not required <= table.keys() <= names:
            wrong = (required - table.keys()) | (table.keys() - names)
            raise ValueError(f"{where}: wrong keys {sorted(wrong)}")
        decoders = decoders_of()
        values = {key: decoders[key](item, f"{where}.{key}") for key, item in table.items()}
        return _construct(get_origin(kind) or kind, where, **values)

    return convert


def _required(kind: Any) -> set[str]:
    return {name for name, value in defaults(get_origin(kind) or kind).items() if value is dataclasses.MISSING}


def _tuple_decoder(arguments: tuple[Any, ...]) -> Decoder:
    def convert(data: object, where: str) -> Any:
        items = _expect(list, data, where)
        if arguments[-1] is Ellipsis:
            decoders = [_decoder(arguments[0])] * len(items)
        else:
            decoders = [_decoder(kind) for kind in arguments]
        if len(decoders) != len(items):
            raise ValueError(f"{where}: {len(items)} items, not {len(decoders)}")
        pairs = enumerate(zip(decoders, items, strict=True))
        return tuple([decoder(item, f"{where}[{i}]") for i, (decoder, item) in pairs])

    return convert


def _dict_decoder(item: Decoder) -> Decoder:
    return lambda data, where: {
        _expect(str, key, where): item(value, f"{where}.{key}") for key, value in _expect(dict, data, where).items()
    }


def _choice_decoder(arguments: tuple[Any, ...]) -> Decoder:
    kinds: list[Any] = [argument for argument in arguments if argument is not type(None)]
    nullable = len(kinds) < len(arguments)
    if all(has_fields(get_origin(kind) or kind) for kind in kinds) and len(kinds) > 1:
        return _shape_decoder(kinds)
    if len(kinds) > 1 and not set(kinds) <= {int, str, bool}:
        raise TypeError(f"cannot deserialise a choice of {kinds}")

    def convert(data: object, where: str) -> Any:
        if data is None and nullable:
            return None
        found: Any = type(data)
        return _decoder(found if found in kinds else kinds[0])(data, where)

    return convert


def _shape_decoder(kinds: list[Any]) -> Decoder:
    """Values that their fields tell apart."""

    def convert(data: object, where: str) -> Any:
        keys = _expect(dict, data, where).keys()
        fitting = (kind for kind in kinds if _required(kind) <= keys <= fields_of(kind).keys())
        kind = next(fitting, None)
        if kind is None:
            raise ValueError(f"{where}: wrong keys {sorted(keys)}")
        return _decoder(kind)(data, where)

    return convert


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


def _decode_hex(data: object, where: str) -> int:
    text = _expect(str, data, where)
    if not _HEX.fullmatch(text):
        raise ValueError(f"{where}: {text[:40]!r} is not a number as 0x1f")
    return int(text, 16)


def _scalar_decoder(kind: type) -> Decoder:
    return lambda data, where: _expect(kind, data, where)


def _expect(kind: type[T], data: object, where: str) -> T:
    # bool is an int to Python, but never in our files; an int is a float to both.
    fits = isinstance(data, kind) or (kind is float and isinstance(data, int))
    if not fits or (kind is not bool and isinstance(data, bool)):
        raise ValueError(f"{where}: expected {kind.__name__}, found {type(data).__name__}")
    return cast(T, data)
