# SPDX-License-Identifier: GPL-2.0-or-later
"""How costs grow: what a module, an extent or a boot costs where there are many, by what it costs where there are few.

1 is linear. The guests are made up (tests/guestmaker.py); plans are warm, and their processes count as a whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from unittest import mock

from mbecguard.records.store import Store
from mbecguard.session import SIMULATED
from tests.guestmaker import MODULE_ZONE, SCATTERED, Code, Description, Mod
from tests.plans import make_plan, make_record

from .figure import Figure
from .product import Product, side_by_side

LINEAR = 2.0  #: a processor's caches hold few items, not many; what is quadratic shows as 10 or more
FLAT = 1.05
ROUNDS = 3
BOOTS = 3000
VMALLOC = 0xFFFFC90000000000
FRAMES = 0x100000  #: page frames from here on are those of items
ITEMS, SCATTER = 1 << 18, 99991


def figures(product: Product) -> Iterator[Figure]:
    """The figures."""
    yield _growth(product, "module", modules, 100, 4096)
    yield _growth(product, "extent", extents, 10_000, 100_000)
    yield _growth(product, "unexplained extent", strangers, 2_000, 20_000)
    narrow, wide = _seconds(*(_plan(product, space(bits)) for bits in (34, 52)))
    yield Figure("plan: 52 bits of physical space / 34 bits", wide / narrow, goal=FLAT)
    yield from _history(product)


def modules(count: int) -> Description:
    """A guest with so many modules more, each of two pages that do not lie side by side."""
    return _with(*(_module(number, 2) for number in range(count)))


def extents(count: int) -> Description:
    """A guest with so many executable extents more, in ten large modules."""
    return _with(*(_module(number, count // 10) for number in range(10 if count else 0)))


def strangers(count: int) -> Description:
    """A guest with so many extents more that no rule knows; who allocated each, the kernel tells."""
    places = [VMALLOC + (number << 13) for number in range(count)]
    code = (Code(va, _frame(number) << 12) for number, va in enumerate(places))
    areas = (f"0x{va:016x}-0x{va + 8192:016x}    8192 stranger+0x10/0x20 pages=1 vmalloc\n" for va in places)
    return replace(SCATTERED.with_code(*code), areas="".join(areas))


def space(bits: int) -> Description:
    """A guest whose physical addresses have so many bits."""
    return replace(modules(100), bits=bits)


def _module(number: int, pages: int) -> Mod:
    room = pages + 1  # a guard page behind each
    va, build_id = MODULE_ZONE + (1 << 24) + (number * room << 12), number.to_bytes(20, "big")
    frames = tuple(_frame(number * room + page) for page in range(pages))
    return Mod(f"toy{number}", va, frames, ((".text", pages << 12, 16),), build_id)


def _frame(item: int) -> int:
    """Where an item lies: all over the memory, as it is handed out, and beside no other one."""
    return FRAMES + 2 * (item * SCATTER % ITEMS)


def _with(*more: Mod) -> Description:
    return replace(SCATTERED, modules=(*SCATTERED.modules, *more))


def _growth(product: Product, item: str, make: Callable[[int], Description], few: int, many: int) -> Figure:
    none, less, more = _seconds(*(_plan(product, make(count)) for count in (0, few, many)))
    growth = (more - none) / many / ((less - none) / few)
    return Figure(f"plan, cost of one {item}: {many} / {few}", growth, goal=LINEAR)


def _seconds(*actions: Callable[[], object]) -> list[float]:
    for action in actions:
        action()  # from now on all is warm
    return side_by_side(*actions, rounds=ROUNDS)


def _plan(product: Product, guest: Description) -> Callable[[], None]:
    folder = guest.write(_fresh(product, "guest"))
    cache = ("--cache-dir", str(_fresh(product, "cache")))
    return lambda: product.run("plan", "--json", "--deny-unexplained", "--guest", str(folder), *cache)


def _fresh(product: Product, name: str) -> Path:
    return Path(mkdtemp(prefix=f"{name}-", dir=product.scratch))


def _history(product: Product) -> Iterator[Figure]:
    """Of guests that were locked so many times before."""
    guest = ("--guest", str(modules(10).write(_fresh(product, "guest"))))
    product.run("plan", *guest, *product.cache)
    folders = [_remembering(_fresh(product, "state"), boots) for boots in (1, BOOTS)]
    for command in ("lock", "status", "report"):
        cache = product.cache if command == "lock" else ()
        words = ((command, *guest, *cache, "--host", "simulator", "--state-dir", str(folder)) for folder in folders)
        few, many = (product.instructions(*each) for each in words)
        yield Figure(f"{command}: after {BOOTS} boots / after 1", many / few, goal=FLAT)


def _remembering(state: Path, boots: int) -> Path:
    store = Store(state / SIMULATED)
    with mock.patch.object(os, "fsync"):  # of so many files it takes minutes
        for number in range(boots):
            plan = make_plan(((2, 3), (8 + number % 10, 20)))
            boot_id = f"{number:08}-2222-3333-4444-555555555555"
            store.append(make_record(boot_id=boot_id, plan_digest=plan.digest)._replace(generation=number), plan)
    return state
