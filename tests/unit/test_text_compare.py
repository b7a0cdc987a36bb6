# SPDX-License-Identifier: GPL-2.0-or-later
"""Live text against its reference: what is legal at each kind of site, and that anything else is found."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbecguard.text.alternatives import same
from mbecguard.text.compare import Change, Text, changes
from mbecguard.text.fixups import addresses_of, relocated
from mbecguard.text.forms import Targets
from mbecguard.text.kinds import NOPS
from tests import textmaker as made
from tests.elfmaker import TEXT_VA
from tests.textmaker import near
from tests.unit.test_text_sites import MOVED, kernel

REFERENCE = kernel()
PIECES = addresses_of(REFERENCE.pieces, MOVED)
EXPECTED = relocated(REFERENCE, PIECES, [MOVED])
BASE = TEXT_VA + MOVED
TRACERS = {BASE + made.TRACER, BASE + made.FENTRY}
ITS = BASE + 0x600
TARGETS: Targets = {
    "function": lambda va, _: va in (BASE + made.FUNCTION, BASE + made.RETHUNK),
    "target": lambda va, argument: va == argument,
    "tracer": lambda va, _: va in TRACERS,
    "return-thunk": lambda va, _: va == BASE + made.RETHUNK,
    "its": lambda va, _: va == ITS,
}
#: Places of all sites, and how long they are.
SITES = [(where, length) for s in REFERENCE.sites for where, length in zip(s.where, s.length, strict=True)]
INSIDE = {place for where, length in SITES for place in range(where, where + length)}


def live(*patches: tuple[int, bytes]) -> bytes:
    """The kernel after its boot, with patches."""
    code = bytearray(EXPECTED.blob)
    for place, part in patches:
        code[place : place + len(part)] = part
    return bytes(code)


def found(*patches: tuple[int, bytes]) -> list[Change]:
    return list(changes(Text(REFERENCE, EXPECTED, tuple(PIECES), live(*patches)), TARGETS))


def test_an_untouched_kernel_passes() -> None:
    assert found() == []


NOP5, STAND = bytes.fromhex("0f1f440000"), bytes.fromhex("2e2e2e31c0")
RET = bytes.fromhex("c3cccccccc")
VALUE = struct.pack("<Q", 0xFFFF888123456000)
MOVED_CALL = struct.pack("<Bi", 0xE8, made.FUNCTION - made.MOVING - 5)


@pytest.mark.parametrize(
    ("place", "code"),
    [
        (made.BRANCH, near("e9", made.BRANCH, made.LABEL)),
        (made.SHORT, b"\x66\x90"),
        (made.CALL, near("e8", made.CALL, made.FUNCTION)),
        (made.CALL, NOP5),
        (made.CALL, STAND),
        (made.CALL, bytes.fromhex("67480fb93a")),
        (made.TAIL, near("e9", made.TAIL, made.FUNCTION)),
        (made.TAIL, RET),
        (made.TAIL, near("e9", made.TAIL, made.RETHUNK)),
        (made.TRAMPOLINE, RET),
        (made.ENTRY, near("e8", made.ENTRY, made.FENTRY)),
        (made.ENTRY, near("e8", made.ENTRY, made.TRACER)),
        (made.ENTRY, near("e9", made.ENTRY, made.TRACER)),
        (made.LOCK, b"\x3e"),
        (made.RETURN, near("e9", made.RETURN, made.RETHUNK)),
        (made.RETPOLINE, bytes.fromhex("ffd00f1f00")),
        (made.RETPOLINE, bytes.fromhex("2e2e2effd0")),
        (made.RETPOLINE, bytes.fromhex("0faee8ffd0")),
        (made.RETPOLINE, struct.pack("<Bi", 0xE8, 0x600 - made.RETPOLINE - 5)),
        (made.ENDBR, bytes.fromhex("660f1f00")),
        (made.ENDBR, bytes.fromhex("0f1f40d6")),
        (made.POINTER, VALUE),
        (made.SHIFT, b"\x11"),
        (made.ALTERNATIVE, NOP5),
        (made.ALTERNATIVE, made.STAC + b"\x90\x90"),
        (made.ALTERNATIVE, made.STAC + b"\x66\x90"),
        (made.MOVING, MOVED_CALL + b"\x0f\x1f\x00"),
        (made.MOVING, MOVED_CALL + b"\x90" * 3),
        (made.MOVING, b"\xeb\x06" + b"\xcc" * 6),
    ],
)
def test_legal_forms(place: int, code: bytes) -> None:
    assert found((place, code)) == []


@pytest.mark.parametrize(
    ("place", "code", "site"),
    [
        (made.BRANCH, near("e9", made.BRANCH, made.LABEL + 1), "jump label"),
        (made.BRANCH, b"\xcc\x1f\x44\x00\x00", "jump label"),
        (made.BRANCH, b"\xcc" + bytes.fromhex("0f22e0c3"), "jump label"),  # mov cr4, rax; ret behind an int3
        (made.BRANCH, RET, "jump label"),
        (made.SHORT, b"\xeb\x10", "jump label"),
        (made.CALL, near("e8", made.CALL, made.FUNCTION + 1), "static call"),
        (made.CALL, near("e8", made.CALL, made.TRACER), "static call"),
        (made.TRAMPOLINE, near("e9", made.TRAMPOLINE, made.LABEL), "static call trampoline"),
        (made.ENTRY, near("e8", made.ENTRY, made.FUNCTION), "function entry"),
        (made.LOCK, b"\x90", "lock prefix"),
        (made.RETURN, b"\xc3\x90\x90\x90\x90", "return"),
        (made.RETURN, near("e9", made.RETURN, made.FUNCTION), "return"),
        (made.RETPOLINE, bytes.fromhex("ffd10f1f00"), "retpoline"),  # by rcx
        (made.RETPOLINE, bytes.fromhex("ffd0c3cccc"), "retpoline"),
        (made.ENDBR, b"\x90" * 4, "endbr"),
        (made.ALTERNATIVE, b"\x0f\x01\xca\x90\x90", "alternative"),  # clac, and not stac
        (made.ALTERNATIVE, made.STAC + b"\x0f\x05", "alternative"),
        (made.ALTERNATIVE, b"\xeb\x02" + b"\xcc" * 3, "alternative"),  # a jump that ends before its end
        (made.MOVING, struct.pack("<Bi", 0xE8, made.FUNCTION - made.MOVING - 4) + b"\x90" * 3, "alternative"),
    ],
)
def test_illegal_forms_are_found_by_name(place: int, code: bytes, site: str) -> None:
    (change,) = found((place, code))
    assert (change.place, change.found, change.site) == (place, code, site)


def test_bytes_outside_are_found_with_what_they_were() -> None:
    (change,) = found((0x180, b"\x0f\x22\xe0\xc3"))
    assert change == Change(0x180, EXPECTED.blob[0x180:0x184], b"\x0f\x22\xe0\xc3", "")


def test_changes_apart_are_told_apart() -> None:
    assert [change.place for change in found((0x180, b"\xcc"), (0x700, b"\xcc"), (made.LOCK, b"\x90"))] == [
        made.LOCK,
        0x180,
        0x700,
    ]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, made.SIZE - 1).filter(lambda place: place not in INSIDE), st.integers(1, 255))
def test_a_byte_outside_of_the_sites_is_always_found(place: int, flip: int) -> None:
    changed = bytes((EXPECTED.blob[place] ^ flip,))
    (change,) = found((place, changed))
    assert (change.place, change.found, change.site) == (place, changed, "")


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SITES), st.data())
def test_what_is_accepted_at_a_site_stays_inside(site: tuple[int, int], data: st.DataObject) -> None:
    """Whatever stands in a site, a byte right before or behind it is found."""
    where, length = site
    inside = data.draw(st.binary(min_size=length, max_size=length))
    for beside in (where - 1, where + length):
        changed = bytes((EXPECTED.blob[beside] ^ 1,))
        spots = [change.place for change in found((where, inside), (beside, changed))]
        assert beside in INSIDE or beside in spots


@given(st.lists(st.sampled_from(NOPS), min_size=1, max_size=4), st.lists(st.sampled_from(NOPS), min_size=1, max_size=4))
def test_nops_are_as_good_as_nops(wanted: list[str], given_: list[str]) -> None:
    before, after = (bytes.fromhex("".join(code)) for code in (wanted, given_))
    head = b"\x0f\x01\xcb"
    size = max(len(before), len(after))
    before, after = (code + b"\x90" * (size - len(code)) for code in (before, after))
    assert same(head + before, head + after, 0)
    assert not same(head + before + b"\xf4", head + after + b"\xf5", 0)


def test_a_jump_may_become_short() -> None:
    wanted = b"\xe9" + struct.pack("<i", 0x2000) + b"\x90" * 3
    assert same(wanted, bytes((0xEB, 0x13)) + b"\x0f\x1f\x80\0\0\0\0"[:0] + b"\x66\x0f\x1f\x44\0\0", 0x2000 - 0x10)
    assert same(wanted, bytes((0xEB, 0x13)) + b"\xcc" * 3 + b"\x0f\x1f\x00", 0x2000 - 0x10)
    assert not same(wanted, bytes((0xEB, 0x14)) + b"\xcc" * 3 + b"\x0f\x1f\x00", 0x2000 - 0x10)
    assert not same(wanted, bytes((0xEB, 0x13)) + b"\xf4" * 3 + b"\x0f\x1f\x00", 0x2000 - 0x10)


def test_templates_are_gone_after_the_boot() -> None:
    """Nothing is read there, and a site in one is none of the running kernel's."""
    assert found((made.SIZE, bytes(8))) == []
