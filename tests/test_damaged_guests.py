# SPDX-License-Identifier: GPL-2.0-or-later
"""Each file of a captured guest removed and damaged in turn: the plan is the same, or it is refused with a reason."""

from __future__ import annotations

import random

import pytest

from mbecguard.values.errors import Exit
from tests.shell import GUESTS, Shell, kept

#: Removing or changing these leaves another guest, honestly described: only they say where code lies.
AUTHORITIES = ("execmap.json", "memory.json")


@pytest.mark.parametrize("name", GUESTS)
def test_each_file_removed_in_turn(shell: Shell, name: str) -> None:
    GUESTS[name].write(shell.folder)
    _, honest, _ = shell.plan()
    statuses = set()
    for path in sorted(p for p in shell.folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        path.unlink()
        status, plan, _ = shell.plan()
        statuses.add(status)
        if status == Exit.OK:
            assert kept(plan) == kept(honest), path
        path.write_bytes(data)
    assert statuses == {Exit.OK, Exit.ERROR, Exit.REFUSED}


def mangled(data: bytes, chance: random.Random) -> bytes:
    """`data` with one kind of damage."""
    at = chance.randrange(len(data) + 1)
    kind = chance.randrange(6)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + chance.randbytes(chance.randint(1, 8)) + data[at:]
    if kind == 2:
        return data[:at] + data[at + chance.randint(1, 40) :]
    if kind == 3:
        return data[:at] + chance.choice((b"\0", b"-", b"9" * 30, b"\n", b"\xff\xff", b"/", b"[", b'"')) + data[at:]
    changed = bytearray(data or b"\0")
    for _ in range(chance.randint(1, 3)):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


@pytest.mark.parametrize("name", GUESTS)
@pytest.mark.parametrize("seed", range(2))
def test_each_file_damaged_at_random(shell: Shell, name: str, seed: int) -> None:
    GUESTS[name].write(shell.folder)
    _, honest, _ = shell.plan()
    chance = random.Random(seed)
    paths = sorted(p for p in shell.folder.rglob("*") if p.is_file())
    weighty = [p for p in paths if p.parts[-2] in ("proc", "boot", "guest") or p.suffix == ".xz"]
    statuses = set()
    for path in (*paths, *weighty * 3):
        data = path.read_bytes()
        path.write_bytes(mangled(data, chance))
        status, plan, _ = shell.plan()
        statuses.add(status)
        if status == Exit.OK and path.name not in AUTHORITIES:
            assert kept(plan) == kept(honest), (path, path.read_bytes())
        path.write_bytes(data)
    assert statuses == {Exit.OK, Exit.ERROR, Exit.REFUSED}
