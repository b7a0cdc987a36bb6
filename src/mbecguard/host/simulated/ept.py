# SPDX-License-Identifier: GPL-2.0-or-later
"""EPT permission bits and EPT-violation exit qualifications with mode-based execute control.

Source: Intel SDM volume 3C, section "Extended Page Table Mechanism" (permission bits 0, 1, 2, 10) and table
"Exit Qualification for EPT Violations" (bits 0-9).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import STRICT, Enum, IntFlag


class Ept(IntFlag, boundary=STRICT):
    """Permission bits of an EPT leaf entry."""

    R = 1 << 0  #: data reads
    W = 1 << 1  #: data writes
    XS = 1 << 2  #: fetches from supervisor-mode linear addresses (all fetches when MBEC is off)
    XU = 1 << 10  #: fetches from user-mode linear addresses (ignored when MBEC is off)


RWX = Ept.R | Ept.W | Ept.XS | Ept.XU


class Access(IntFlag, boundary=STRICT):
    """The kind of access that caused a violation: exit qualification bits 0-2."""

    READ = 1 << 0
    WRITE = 1 << 1
    FETCH = 1 << 2


class Mode(Enum):
    """Mode of the *linear address*: the U/S bits of the guest's paging structures, not the CPL."""

    SUPERVISOR = "supervisor"
    USER = "user"


@dataclass(frozen=True, slots=True)
class Violation:
    """One EPT violation, as its exit qualification tells it."""

    access: Access
    permissions: Ept
    mode: Mode
    linear_valid: bool = True
    translated: bool = True

    def qualification(self) -> int:
        """The 64-bit exit qualification; bit 9 is defined only if bits 7 and 8 are set."""
        bits = int(self.access) | int(self.permissions & (Ept.R | Ept.W | Ept.XS)) << 3
        bits |= bool(self.permissions & Ept.XU) << 6
        bits |= self.linear_valid << 7 | (self.linear_valid and self.translated) << 8
        if self.linear_valid and self.translated:
            bits |= (self.mode is Mode.USER) << 9
        return bits

    @classmethod
    def from_qualification(cls, bits: int) -> Violation:
        """Decode bits 0-9; higher bits are ignored. Where bit 9 is undefined the mode reads as supervisor."""
        user = bits >> 7 & 0b111 == 0b111
        permissions = Ept(bits >> 3 & 0b111) | (Ept.XU if bits >> 6 & 1 else Ept(0))
        return cls(
            access=Access(bits & 0b111),
            permissions=permissions,
            mode=Mode.USER if user else Mode.SUPERVISOR,
            linear_valid=bool(bits >> 7 & 1),
            translated=bits >> 7 & 0b11 == 0b11,
        )
