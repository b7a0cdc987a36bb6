# SPDX-License-Identifier: GPL-2.0-or-later
"""What planning costs, as ratios measured side by side in one run."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator

from mbecguard.guest.execmap import PageTables
from mbecguard.values.pages import PAGE_SIZE

from .figure import Figure
from .product import Product, instructions, peak, side_by_side

UNPACKING = """\
import lzma
from mbecguard.image.kernel import unpack
for name in sys.argv[1:]:
    with open(name, "rb") as file:
        (lzma.decompress if name.endswith(".xz") else unpack)(file.read())
"""


def figures(product: Product) -> Iterator[Figure]:
    """The figures."""
    words = ("plan", "--json", *product.guest, *product.cache)

    def plan() -> None:
        product.run(*words)

    plan()
    imports = product.starts(product.imports(*words))
    warm, start = side_by_side(plan, lambda: subprocess.run(imports, check=True))
    yield Figure("warm plan / (interpreter + what it imports)", warm / start, goal=1.5)
    yield Figure("warm plan", product.instructions(*words), "M instructions")
    yield Figure("interpreter + what a warm plan imports", instructions(imports), "M instructions")
    lock = ("lock", *product.guest, *product.cache, "--host", "simulator", "--state-dir", str(product.scratch / "once"))
    yield Figure("lock on the simulator, warm", product.instructions(*lock), "M instructions", 3000)
    if product.image:
        yield from _cold(product, words)
    for leaf_bytes, name in ((1 << 30, "1 GiB"), (1 << 21, "2 MiB")):
        yield Figure(f"walk of 1 TiB in {name} leaves, a table", walk(leaf_bytes), "us")


def _cold(product: Product, words: tuple[str, ...]) -> Iterator[Figure]:
    """Of a plan that parses every file; the least that it can cost is what the compression libraries do for it."""
    cache = product.scratch / "cache"
    shutil.rmtree(cache)
    cold = product.instructions(*words)
    (kept,) = cache.glob("*.json")
    files = sorted(json.loads(kept.read_bytes().split(b"\n")[1])["files"])
    some, none = (instructions(product.program("unpacking", UNPACKING, *words)) for words in (files, ()))
    yield Figure("cold plan / decompression of all that it reads", cold / (some - none), goal=1.3)
    shutil.rmtree(cache)
    yield Figure("cold plan, peak", peak((*product.command, *words)), "MiB", 80)


def walk(leaf_bytes: int) -> float:
    """Microseconds per table of a direct map of 1 TiB of NX leaves, with one executable page behind it."""
    tables, root = direct_map(1 << 40, leaf_bytes)
    begin = time.perf_counter()
    found = PageTables(tables.get).executable(root, 4)
    spent = time.perf_counter() - begin
    assert len(found) == 1
    return spent / len(tables) * 1e6


def direct_map(size: int, leaf_bytes: int) -> tuple[dict[int, bytes], int]:
    """Page tables by physical address, and the top one's; `size` and `leaf_bytes` in bytes."""
    present_nx, present, large = 1 << 63 | 3, 3, 1 << 7
    tables: dict[int, list[int]] = {}

    def table() -> int:
        tables[at := (len(tables) + 1) * PAGE_SIZE] = [0] * 512
        return at

    root = table()
    gigabytes = size >> 30
    for upper in range(-(-gigabytes // 512)):
        pud = table()
        tables[root][273 + upper] = pud | present
        for index in range(512):
            base = (upper * 512 + index) << 30
            if leaf_bytes == 1 << 30:
                tables[pud][index] = base | present_nx | large
            else:
                pmd = table()
                tables[pud][index] = pmd | present
                tables[pmd] = [base + (i << 21) | present_nx | large for i in range(512)]
    text = table()
    tables[root][511], tables[text][510] = text | present, (1 << 30) | present | large
    return {at: b"".join(entry.to_bytes(8, "little") for entry in entries) for at, entries in tables.items()}, root
