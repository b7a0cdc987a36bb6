# SPDX-License-Identifier: GPL-2.0-or-later
"""EPT permission bits and exit qualifications, against the SDM's numbers."""

from __future__ import annotations

from itertools import product

import pytest

from mbecguard.host.simulated.ept import RWX, Access, Ept, Mode, Violation


def test_permission_bits_are_those_of_the_sdm() -> None:
    assert [bit.value for bit in (Ept.R, Ept.W, Ept.XS, Ept.XU)] == [1, 2, 4, 0x400]
    assert int(RWX) == 0x407


def test_unknown_permission_bits_are_refused() -> None:
    with pytest.raises(ValueError):
        Ept(8)


# Read off the SDM's table of bits 0-9 by hand.
KNOWN = [
    (0x1DC, Violation(Access.FETCH, Ept.R | Ept.W | Ept.XU, Mode.SUPERVISOR)),
    (0x3BC, Violation(Access.FETCH, Ept.R | Ept.W | Ept.XS, Mode.USER)),
    (0x1EA, Violation(Access.WRITE, Ept.R | Ept.XS | Ept.XU, Mode.SUPERVISOR)),
    (0x181, Violation(Access.READ, Ept(0), Mode.SUPERVISOR)),
    (0x0AB, Violation(Access.READ | Access.WRITE, Ept.R | Ept.XS, Mode.SUPERVISOR, translated=False)),
    (0x044, Violation(Access.FETCH, Ept.XU, Mode.SUPERVISOR, linear_valid=False, translated=False)),
]


@pytest.mark.parametrize(("bits", "violation"), KNOWN, ids=lambda value: hex(value) if isinstance(value, int) else "")
def test_known_qualifications(bits: int, violation: Violation) -> None:
    assert violation.qualification() == bits
    assert Violation.from_qualification(bits) == violation


def test_every_defined_qualification_comes_back() -> None:
    # Bit 8 is defined only if bit 7 is set, bit 9 only if both are.
    upper = [0b000, 0b001, 0b011, 0b111]
    for access, permissions, linear in product(range(8), range(16), upper):
        bits = access | permissions << 3 | linear << 7
        assert Violation.from_qualification(bits).qualification() == bits


@pytest.mark.parametrize("bits", [0x200, 0x280, 0x300])
def test_bit_9_means_nothing_without_bits_7_and_8(bits: int) -> None:
    assert Violation.from_qualification(bits | 0x1C).mode is Mode.SUPERVISOR


def test_bit_9_is_not_set_without_bits_7_and_8() -> None:
    for linear_valid, translated in [(False, False), (False, True), (True, False)]:
        violation = Violation(Access.FETCH, RWX, Mode.USER, linear_valid, translated)
        assert not violation.qualification() & 0x200


def test_bits_above_9_are_ignored() -> None:
    assert Violation.from_qualification(0x1DC | ~0x3FF & (1 << 64) - 1) == Violation.from_qualification(0x1DC)
