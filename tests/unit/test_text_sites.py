# SPDX-License-Identifier: GPL-2.0-or-later
"""Patch sites out of kernel and module files, made by hand; tests/test_text_tables.py has Debian's."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from random import Random

import pytest

from mbecguard.text.fixups import addresses_of, relocated
from mbecguard.text.kernel import read_kernel_text
from mbecguard.text.kinds import KINDS
from mbecguard.text.module import read_module_text
from mbecguard.text.reference import NOWHERE, Reference
from mbecguard.values.errors import UserError
from tests import textmaker as made
from tests.elfmaker import BUILD_ID, TEXT_VA

MOVED = 0x1200000


def kernel(change: Mapping[str, bytes] | None = None, symbols: Mapping[str, int] | None = None) -> Reference:
    moved = {name: va + MOVED for name, va in (symbols or made.SYMBOLS).items()}
    return read_kernel_text(made.kernel(change), "vmlinuz", moved, TEXT_VA + MOVED)


def module(change: Mapping[str, bytes] | None = None) -> Reference:
    return read_module_text(made.module(change), "toy.ko")


def by_kind(reference: Reference) -> dict[str, list[tuple[int, int]]]:
    return {s.kind: list(zip(s.where, s.length, strict=True)) for s in reference.sites}


def test_sites_of_a_kernel() -> None:
    assert by_kind(kernel()) == {
        "jump label": [(made.BRANCH, 5), (made.SHORT, 2)],
        "static call": [(made.CALL, 5), (made.TAIL, 5)],
        "static call trampoline": [(made.TRAMPOLINE, 5)],
        "function entry": [(made.ENTRY, 5)],
        "lock prefix": [(made.LOCK, 1)],
        "retpoline": [(made.RETPOLINE, 5)],
        "return": [(made.RETURN, 5)],
        "endbr": [(made.ENDBR, 4)],
        "runtime pointer": [(made.POINTER, 8)],
        "runtime shift": [(made.SHIFT, 1)],
        "alternative": [(made.ALTERNATIVE, 5), (made.MOVING, 8)],
    }


def test_what_sites_lead_to() -> None:
    columns = {s.kind: list(s.argument) for s in kernel().sites}
    assert columns["jump label"] == [made.LABEL, made.LABEL]
    assert columns["retpoline"] == [0]  # rax
    assert columns["alternative"] == [made.SIZE, made.SIZE + 3]


def test_sites_of_a_module() -> None:
    assert by_kind(module()) == {
        "jump label": [(made.MODULE_BRANCH, 5)],
        "function entry": [(made.MODULE_ENTRY, 5)],
        "return": [(made.MODULE_RETURN, 5)],
    }


def test_the_kernel_is_moved() -> None:
    found = kernel()
    blob = relocated(found, addresses_of(found.pieces, MOVED), [MOVED]).blob
    assert struct.unpack_from("<I", blob, made.ABSOLUTE)[0] == TEXT_VA + MOVED + made.FUNCTION & 0xFFFFFFFF
    usual = bytearray(made.text())
    usual[made.ENTRY : made.ENTRY + 5] = bytes.fromhex("0f1f440000")
    usual[made.RETURN : made.RETURN + 5] = bytes.fromhex("c3cccccccc")
    usual[made.ABSOLUTE : made.ABSOLUTE + 4] = blob[made.ABSOLUTE : made.ABSOLUTE + 4]
    assert blob[: made.SIZE] == usual


def test_the_module_is_bound() -> None:
    found, base, outside = module(), 0xFFFFFFFFC0001000, TEXT_VA + 0x123456
    values = {"outside": outside}
    blob = relocated(found, [base], [values.get(symbol.name) for symbol in found.symbols])
    assert struct.unpack_from("<i", blob.blob, made.OUTSIDE)[0] == outside - (base + made.OUTSIDE + 4)
    assert struct.unpack_from("<i", blob.blob, made.LOCAL)[0] == 0x70 - (made.LOCAL + 4)
    assert blob.untold == ()  # __fentry__ and the return thunk lie below usual forms


def test_an_unknown_symbol_is_told_apart() -> None:
    found = module()
    assert relocated(found, [0xFFFFFFFFC0001000], [None for _ in found.symbols]).untold == ((made.OUTSIDE, 4),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({".altinstructions": bytes(27)}, "no table of the kind 'alternative'"),
        ({".return_sites": b"\0\0\0"}, "no table of the kind 'return'"),
        ({".return_sites": struct.pack("<i", TEXT_VA + 3 - TEXT_VA - 0x10200)}, "the return at 0x3 begins"),
        ({".text": b""}, "has no code in it"),
    ],
)
def test_tables_that_make_no_sense(change: Mapping[str, bytes], message: str) -> None:
    with pytest.raises(UserError, match=message):
        kernel(change)


@pytest.mark.parametrize(
    ("symbols", "message"),
    [
        ({"__start_mcount_loc": 0}, "in no section"),
        ({"__stop_mcount_loc": made.RODATA + 0x900}, "in no section"),
        ({"__stop_mcount_loc": made.RODATA + 40}, "in no section"),
    ],
)
def test_bounds_that_make_no_sense(symbols: Mapping[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        kernel(symbols={**made.SYMBOLS, **symbols})


def test_bounds_that_nobody_tells() -> None:
    with pytest.raises(UserError, match="does not tell"):
        kernel(symbols={name: va for name, va in made.SYMBOLS.items() if name != "__stop___jump_table"})


def test_a_kernel_without_relocations() -> None:
    with pytest.raises(UserError, match="holds no relocations"):
        read_kernel_text(made.kernel()[:-16], "vmlinux", made.SYMBOLS, TEXT_VA)


@pytest.mark.parametrize("read", [kernel, module])
def test_damage_is_never_a_traceback(read: Callable[[Mapping[str, bytes]], Reference]) -> None:
    """Any section cut short, or with other bytes: sites, or a UserError."""
    random = Random(16)
    sections = [*made.module_sections(), *made.kernel_tables()]
    for _ in range(400):
        section = random.choice(sections)
        content = bytearray(section.content if isinstance(section.content, bytes) else b"")
        if not content:
            continue
        if random.random() < 0.5:
            del content[random.randrange(len(content)) :]
        for _ in range(random.randrange(4)):
            if content:
                content[random.randrange(len(content))] = random.randrange(256)
        try:
            found = read({section.name: bytes(content)})
        except UserError:
            continue
        for sites in found.sites:
            assert all(where < len(found.blob) for where in sites.where)


def test_each_kind_has_a_reason_and_a_source() -> None:
    assert len({kind.id for kind in KINDS}) == len(KINDS)
    for kind in KINDS:
        assert kind.reason, kind.id
        assert "arch/x86" in kind.source, kind.id
        assert kind.sections or kind.symbols, kind.id


def test_build_ids() -> None:
    assert kernel().build_id == module().build_id == BUILD_ID.hex()
    assert NOWHERE not in {where for sites in kernel().sites for where in sites.where}
