# SPDX-License-Identifier: GPL-2.0-or-later
"""JSON and back: exactly, or a ValueError that names the place."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from enum import STRICT, Enum, IntEnum, IntFlag
from typing import Annotated, Any, NamedTuple, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbecguard.values import codec


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Bits(IntFlag, boundary=STRICT):
    A = 1
    B = 2


@dataclass(frozen=True, slots=True)
class Leaf:
    number: int
    name: str = "leaf"

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ValueError("negative")


@dataclass(frozen=True, slots=True)
class Nothing:
    pass


@dataclass(frozen=True, slots=True)
class Odd:
    flag: bool
    ratio: float
    colour: Colour
    level: Level
    bits: Bits
    many: tuple[Leaf, ...]
    pair: tuple[int, str]
    table: dict[str, tuple[Leaf | None, ...]]
    nothing: Nothing
    old_style: Optional[int]  # noqa: UP045  (typing.Union is another origin than X | None)
    either: dict[str, int | str] = field(default_factory=dict)
    child: Odd | None = None
    tags: dict[str, int] = field(default_factory=dict)


LEAVES = st.builds(Leaf, st.integers(0), st.text())
FLAT = st.builds(
    Odd,
    flag=st.booleans(),
    ratio=st.floats(allow_nan=False, allow_infinity=False) | st.integers(),
    colour=st.sampled_from(Colour),
    level=st.sampled_from(Level),
    bits=st.sampled_from([Bits(0), Bits.A, Bits.B, Bits.A | Bits.B]),
    many=st.lists(LEAVES, max_size=3).map(tuple),
    pair=st.tuples(st.integers(), st.text()),
    table=st.dictionaries(st.text(), st.lists(st.none() | LEAVES, max_size=2).map(tuple), max_size=2),
    nothing=st.just(Nothing()),
    old_style=st.none() | st.integers(),
    either=st.dictionaries(st.text(), st.integers() | st.text(), max_size=2),
    child=st.none(),
    tags=st.dictionaries(st.text(), st.integers(), max_size=2),
)
ODD = st.builds(lambda odd, child: Odd(**{**_fields(odd), "child": child}), FLAT, st.none() | FLAT)
SAMPLE = Odd(
    flag=True,
    ratio=0.5,
    colour=Colour.RED,
    level=Level.HIGH,
    bits=Bits.A | Bits.B,
    many=(Leaf(1), Leaf(2, "two")),
    pair=(3, "three"),
    table={"k": (None, Leaf(4))},
    nothing=Nothing(),
    old_style=None,
)


def _fields(value: Odd) -> dict[str, Any]:
    return {name: getattr(value, name) for name in Odd.__slots__}


@given(ODD)
def test_round_trip_through_bytes(value: Odd) -> None:
    assert codec.decode(Odd, json.loads(codec.canonical(codec.encode(value)))) == value


def test_encoding_written_by_hand() -> None:
    assert codec.encode(SAMPLE) == {
        "flag": True,
        "ratio": 0.5,
        "colour": "red",
        "level": 2,
        "bits": 3,
        "many": [{"number": 1, "name": "leaf"}, {"number": 2, "name": "two"}],
        "pair": [3, "three"],
        "table": {"k": [None, {"number": 4, "name": "leaf"}]},
        "nothing": {},
        "old_style": None,
        "either": {},
        "child": None,
        "tags": {},
    }


def test_defaults_may_be_absent() -> None:
    assert codec.decode(Leaf, {"number": 1}) == Leaf(1)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"flag": 1}, "Odd.flag"),
        ({"ratio": "0.5"}, "Odd.ratio"),
        ({"ratio": True}, "Odd.ratio"),
        ({"colour": "green"}, "Odd.colour"),
        ({"colour": ["red"]}, "Odd.colour"),
        ({"level": 3}, "Odd.level"),
        ({"level": True}, "Odd.level"),
        ({"level": 1.0}, "Odd.level"),
        ({"bits": 4}, "Odd.bits"),
        ({"bits": -1}, "Odd.bits"),
        ({"bits": "1"}, "Odd.bits"),
        ({"many": {}}, "Odd.many"),
        ({"many": [{"number": 1}, {"number": "1"}]}, r"Odd.many\[1\].number"),
        ({"many": [{"number": True}]}, r"Odd.many\[0\].number"),
        ({"many": [{"number": -1}]}, r"Odd.many\[0\]: negative"),
        ({"pair": [1]}, "Odd.pair: 1 items, not 2"),
        ({"pair": [1, 2]}, r"Odd.pair\[1\]"),
        ({"table": []}, "Odd.table"),
        ({"table": {"k": [3]}}, r"Odd.table.k\[0\]"),
        ({"table": {1: []}}, "Odd.table"),
        ({"nothing": None}, "Odd.nothing"),
        ({"nothing": {"x": 1}}, r"Odd.nothing: wrong keys \['x'\]"),
        ({"old_style": "1"}, "Odd.old_style"),
        ({"either": {"k": None}}, "Odd.either.k"),
        ({"either": {"k": True}}, "Odd.either.k"),
        ({"either": {"k": []}}, "Odd.either.k"),
        ({"child": {}}, "Odd.child: wrong keys"),
        ({"unheard_of": 1}, r"Odd: wrong keys \['unheard_of'\]"),
    ],
)
def test_wrong_shapes_name_the_place(change: dict[str, object], place: str) -> None:
    with pytest.raises(ValueError, match=f"^{place}"):
        codec.decode(Odd, codec.encode(SAMPLE) | change)


def test_only_the_missing_keys_are_named() -> None:
    data = codec.encode(SAMPLE)
    del data["pair"], data["tags"]
    with pytest.raises(ValueError, match=r"^Odd: wrong keys \['pair'\]$"):
        codec.decode(Odd, data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(Odd.__slots__)), JSON)
def test_any_json_is_decoded_or_a_value_error(name: str, junk: object) -> None:
    data = codec.encode(SAMPLE) | {name: junk}
    try:
        value = codec.decode(Odd, data)
    except ValueError as error:
        complaint = str(error)
    else:
        assert codec.decode(Odd, codec.encode(value)) == value
        return
    assert complaint.startswith(f"Odd.{name}")


@pytest.mark.parametrize("value", [{1, 2}, b"bytes", object(), Leaf, {1: "x"}, {Colour.RED: 1}, {None: 1}])
def test_what_cannot_come_back_is_a_bug(value: object) -> None:
    with pytest.raises(TypeError, match="cannot serialise"):
        codec.encode(value)


@dataclass(frozen=True, slots=True)
class Span:
    first: int
    last: int
    name: str = ""
    more: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Places:
    one: codec.Hex
    several: tuple[codec.Hex, ...]
    pair: tuple[codec.Hex, int]
    named: dict[str, codec.Hex]
    maybe: codec.Hex | None
    span: Annotated[Span, codec.Notation.HEX]
    spans: tuple[Annotated[Span, codec.Notation.HEX], ...]
    plain: Span
    count: int = 0


U64 = st.integers(0, 2**64 - 1)
SPANS = st.builds(Span, U64, U64, st.text(max_size=3), st.lists(st.integers(), max_size=2).map(tuple))
PLACES = st.builds(
    Places,
    one=U64,
    several=st.lists(U64, max_size=3).map(tuple),
    pair=st.tuples(U64, st.integers()),
    named=st.dictionaries(st.text(), U64, max_size=2),
    maybe=st.none() | U64,
    span=SPANS,
    spans=st.lists(SPANS, max_size=2).map(tuple),
    plain=SPANS,
)
TOP = 2**64 - 1
PLACE = Places(TOP, (0, 16), (10, 10), {"a": 1}, None, Span(1, 255, "x", (7,)), (Span(0, 1),), Span(1, 2), 9)


@given(PLACES)
def test_hexadecimal_comes_back(value: Places) -> None:
    assert codec.decode(Places, json.loads(codec.canonical(codec.encode(value)))) == value


def test_hexadecimal_as_written_by_hand() -> None:
    assert codec.encode(PLACE) == {
        "one": "0xffffffffffffffff",
        "several": ["0x0", "0x10"],
        "pair": ["0xa", 10],
        "named": {"a": "0x1"},
        "maybe": None,
        "span": {"first": "0x1", "last": "0xff", "name": "x", "more": [7]},
        "spans": [{"first": "0x0", "last": "0x1", "name": "", "more": []}],
        "plain": {"first": 1, "last": 2, "name": "", "more": []},
        "count": 9,
    }


@pytest.mark.parametrize(
    "text",
    [1, -1, 1.0, True, None, "", "1", "0x", "0X1", "0xA", "0x01", "-0x1", " 0x1", "0x1\n", "0x1_0", "0x" + "1" * 17],
)
def test_hexadecimal_has_one_notation(text: object) -> None:
    for change, place in (
        ({"one": text}, "Places.one"),
        ({"several": [text]}, r"Places.several\[0\]"),
        ({"pair": [text, 1]}, r"Places.pair\[0\]"),
        ({"named": {"k": text}}, "Places.named.k"),
        ({"span": {"first": text, "last": "0x1"}}, "Places.span.first"),
        ({"spans": [{"first": "0x1", "last": text}]}, r"Places.spans\[0\].last"),
    ):
        with pytest.raises(ValueError, match=f"^{place}: "):
            codec.decode(Places, codec.encode(PLACE) | change)


@pytest.mark.parametrize("number", [-1, 2**64])
def test_what_has_no_64_bits_is_not_written(number: int) -> None:
    with pytest.raises(ValueError, match="64 bits"):
        codec.encode(replace(PLACE, one=number))


@dataclass(frozen=True)
class Undecodable:
    choice: int | Leaf


@dataclass(frozen=True)
class Unwritable:
    choice: codec.Hex | str


@dataclass(frozen=True)
class Unknown:
    raw: bytes


def test_kinds_that_json_does_not_know_are_a_bug() -> None:
    with pytest.raises(TypeError, match="cannot deserialise"):
        codec.decode(Undecodable, {"choice": 1})
    with pytest.raises(TypeError, match="cannot deserialise"):
        codec.decode(Unknown, {"raw": ""})
    with pytest.raises(TypeError, match="cannot serialise a choice"):
        codec.encode(Unwritable(1))


def test_canonical_bytes() -> None:
    assert codec.canonical({"b": [1, 2.5, None], "a": "ü", "A": {}}) == b'{"A":{},"a":"\\u00fc","b":[1,2.5,null]}'


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_canonical_has_no_numbers_outside_json(value: float) -> None:
    with pytest.raises(ValueError):
        codec.canonical(value)


@given(JSON)
def test_laid_out_as_the_standard_library_does(data: object) -> None:
    assert codec.laid_out(data) == json.dumps(data, indent=1)


def test_digest_does_not_depend_on_the_order_of_keys() -> None:
    expected = hashlib.sha256(b'{"a":1,"b":2}').hexdigest()
    assert codec.digest({"b": 2, "a": 1}) == expected == codec.digest({"a": 1, "b": 2})


class Point(NamedTuple):
    x: codec.Hex
    leaf: Leaf
    more: tuple[Point, ...] = ()
    schema: str = "point/1"


POINT = Point(16, Leaf(1), (Point(1 << 60, Leaf(2)),))
WRITTEN = {
    "x": "0x10",
    "leaf": {"number": 1, "name": "leaf"},
    "more": [
        {"x": "0x1000000000000000", "leaf": {"number": 2, "name": "leaf"}, "more": [], "schema": "point/1"},
    ],
    "schema": "point/1",
}


def test_a_named_tuple_keeps_its_names() -> None:
    assert codec.encode(POINT) == WRITTEN
    assert codec.encode((POINT, 1)) == [WRITTEN, 1]
    again = codec.decode(Point, WRITTEN)
    assert again == POINT
    assert isinstance(again.more[0], Point)
    assert codec.encode((1,)) == [1]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"leaf": WRITTEN["leaf"]}, r"Point: wrong keys \['x'\]"),
        ({**WRITTEN, "y": 1}, r"Point: wrong keys \['y'\]"),
        ({**WRITTEN, "schema": "point/2"}, "schema 'point/2' is not 'point/1'"),
        ({**WRITTEN, "x": 16}, r"Point\.x: expected str"),
        ({**WRITTEN, "leaf": {"number": -1}}, r"Point\.leaf: negative"),
        (["0x10", {"number": 1}], "expected dict, found list"),
    ],
)
def test_a_named_tuple_is_as_strict(data: object, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        codec.decode(Point, data)


class Other(NamedTuple):
    y: int


@dataclass(frozen=True)
class Choice:
    one: Point | Other | Leaf


@pytest.mark.parametrize("value", [POINT, Other(3), Leaf(4)])
def test_fields_tell_named_tuples_and_dataclasses_apart(value: Point | Other | Leaf) -> None:
    assert codec.decode(Choice, codec.encode(Choice(value))) == Choice(value)
