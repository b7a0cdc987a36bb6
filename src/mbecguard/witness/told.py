# SPDX-License-Identifier: GPL-2.0-or-later
"""What kvm-host tells of one machine: kvm/PID-FD/mbecguard in debugfs, see docs/HOST-ABI.md.

The kernel writes nothing but numbers. What cannot be read as a whole is not told at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from mbecguard.host.base import HostMode, Permission, Protection, TextMode
from mbecguard.host.wire import PINS, PINS_IF_ON, map_digest
from mbecguard.values.codec import Hex
from mbecguard.values.pages import PageRange

MODES = {1: HostMode.ENFORCE, 2: HostMode.AUDIT}
BY_SEAL = ("CR0.PG", "CR4.SMEP")  #: held at 1 in a sealed machine, asked for or not
_RANGE = re.compile(r"^range ([0-9a-f]{1,16}) ([0-9a-f]{1,16}) (\d{1,2})$", re.ASCII | re.MULTILINE)
_FETCH = re.compile(r"^violation vcpu (\d+) gpa ([0-9a-f]+) va ([0-9a-f]+) error ([0-9a-f]+)$", re.ASCII | re.MULTILINE)
_NUMBERS = re.compile(
    r"^(mode|generation|granted|refused|violations|boundaries|sealed) (\d{1,20})$", re.ASCII | re.MULTILINE
)
_TEXT = re.compile(r"^text ([0-9a-f]{1,16}) ([0-9a-f]{1,16}) (log|enforce) sites ", re.ASCII | re.MULTILINE)
_STORES = re.compile(r"^text-([a-z0-9-]{1,20}) (\d{1,20})$", re.ASCII | re.MULTILINE)
_STORE = re.compile(
    r"^bad-store ([a-z0-9-]{1,20}) gpa ([0-9a-f]+) va ([0-9a-f]+) rip ([0-9a-f]+) bytes ?([0-9a-f ]*)$",
    re.ASCII | re.MULTILINE,
)
PATCHES = frozenset({"int3", "tail", "form"})  #: stores that are steps of the kernel's own patches
ODD = "odd"  #: counts no store, but sites that stood in no form when their text came
_PINNED = re.compile(r"^pinned ([0-9a-f]{1,16}) ([0-9a-f]{1,16})$", re.ASCII | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Fetch:
    """A fetch that was denied; the addresses, in bytes, are the guest's."""

    vcpu: int
    gpa: Hex
    va: Hex
    error: Hex  #: as KVM has it (PFERR_*)


@dataclass(frozen=True, slots=True)
class BadStore:
    """A store to kernel text that is no patch; the addresses, in bytes, are the guest's."""

    reason: str  #: see docs/HOST-ABI.md
    gpa: Hex
    va: Hex
    rip: Hex  #: of the instruction
    bytes: str  #: hexadecimal, the first eight


@dataclass(frozen=True, slots=True)
class HeldText:
    """Kernel text that the host holds for a machine."""

    pages: int
    mode: TextMode  #: the weakest of all of it
    patches: int  #: stores that were accepted, since the reset
    bad: int  #: the others, refused or logged
    last: tuple[BadStore, ...]  #: the oldest first


@dataclass(frozen=True, slots=True)
class Told:
    """All of one moment."""

    mode: HostMode
    generation: int  #: begins at random with each reset; a guest is told the lower 32 bits of it
    map_digest: str  #: of the map that is enforced; a guest is told the same
    kept_pages: int  #: of the map, executable and sealed
    denied_pages: int
    sealed_pages: int
    pins: tuple[str, ...]  #: what the guest cannot clear
    denied: int  #: fetches, since the reset
    refused: int  #: what a pin, a seal or the lack of SMRAM forbade, since the reset
    granted: int  #: pages that mode audit lets run
    last: tuple[Fetch, ...]  #: denied fetches, the oldest first
    text: HeldText | None = None  #: null: it holds none


def parse(text: str) -> Told | None:
    """The file of one machine; None if it is no such file, or only a part of one."""
    numbers = {name: int(value) for name, value in _NUMBERS.findall(text)}
    pinned = _PINNED.search(text)
    try:
        map_ = [Protection(PageRange(int(s, 16), int(e, 16)), Permission(int(p))) for s, e, p in _RANGE.findall(text)]
        return Told(
            mode=MODES[numbers["mode"]],
            generation=numbers["generation"],
            map_digest=map_digest(map_),
            kept_pages=_pages(one for one in map_ if _KEPT in one.permissions),
            denied_pages=_pages(one for one in map_ if Permission.EXEC not in one.permissions),
            sealed_pages=_pages(one for one in map_ if Permission.IMMUTABLE in one.permissions),
            pins=_pins(*(int(bits, 16) for bits in pinned.groups()), sealed=bool(numbers["sealed"])) if pinned else (),
            denied=numbers["violations"],
            refused=numbers["refused"],
            granted=numbers["granted"],
            last=tuple(Fetch(int(v), int(g, 16), int(a, 16), int(e, 16)) for v, g, a, e in _FETCH.findall(text)),
            text=_held(text),
        )
    except (KeyError, ValueError):
        return None


def _held(text: str) -> HeldText | None:
    objects = [(PageRange(int(start, 16), int(end, 16)), mode) for start, end, mode in _TEXT.findall(text)]
    if not objects:
        return None
    stores = {reason: int(count) for reason, count in _STORES.findall(text) if reason != ODD}
    return HeldText(
        pages=sum(len(pages) for pages, _ in objects),
        mode=min(TextMode[mode.upper()] for _, mode in objects),
        patches=sum(count for reason, count in stores.items() if reason in PATCHES),
        bad=sum(count for reason, count in stores.items() if reason not in PATCHES),
        last=tuple(
            BadStore(reason, int(gpa, 16), int(va, 16), int(rip, 16), code)
            for reason, gpa, va, rip, code in _STORE.findall(text)
        ),
    )


_KEPT = Permission.EXEC | Permission.IMMUTABLE


def _pages(ranges: Iterable[Protection]) -> int:
    return sum(len(one.pages) for one in ranges)


def _pins(cr0: int, cr4: int, *, sealed: bool) -> tuple[str, ...]:
    asked = {0: cr0, 4: cr4}
    every = (PINS | PINS_IF_ON).items()
    return tuple(name for name, (register, bit) in every if asked[register] & bit or (sealed and name in BY_SEAL))
