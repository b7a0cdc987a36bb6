# SPDX-License-Identifier: GPL-2.0-or-later
"""What planning costs, as ratios measured side by side in one run. See HACKING.md for how to read them.

a  decompressing the kernel image with the compression library alone
b  starting the interpreter and importing what the agent imports
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from mbecguard.guest.execmap import PageTables
from mbecguard.guest.procfs import parse_modules
from mbecguard.guest.tree import Tree
from mbecguard.image.kernel import unpack
from mbecguard.values.pages import PAGE_SIZE
from tests import corpus

GUEST = "trixie-6.12-a"
ROUNDS = 7
IMPORTS = "import elftools.elf.elffile, zstandard, lzma, json, hashlib, argparse, mbecguard.face.cli"


def main() -> int:
    """Print all figures."""
    with tempfile.TemporaryDirectory(prefix="mbecguard-bench-") as scratch:
        planning(Path(scratch))
    for leaf_bytes, name in ((1 << 30, "1 GiB"), (1 << 21, "2 MiB")):
        walk(leaf_bytes, name)
    return 0


def planning(scratch: Path) -> None:
    """Cold and warm plan of a real guest with full-size images, if `make corpus` has left them in its cache."""
    image, modules = corpus.full_image(GUEST), corpus.full_modules(GUEST)
    guest, cache = corpus.unpack(GUEST, scratch), scratch / "cache"
    options = ["--guest", str(guest), "--cache-dir", str(cache)]
    if image and modules:
        options += ["--kernel-image", str(image), "--modules-dir", str(modules)]
    else:
        print("no full-size images at hand (`make corpus` fetches them): file skeletons instead, (a) cannot be told")
    command = [sys.executable, "-m", "mbecguard", "plan", "--json", *options]

    def plan() -> None:
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)

    def cold() -> None:
        shutil.rmtree(cache, ignore_errors=True)
        plan()

    count = len(parse_modules(Tree(guest).text("proc/modules") or ""))
    print(f"{GUEST}: {corpus.about(GUEST)['release']}, {count} modules, {ROUNDS} rounds, medians")
    figures = side_by_side({"cold": cold, "warm": plan, "b": start})
    line("warm / b", figures["warm"], figures["b"], "goal < 2")
    if image:
        data = image.read_bytes()
        figures |= side_by_side({"cold": cold, "a": lambda: unpack(data)})
        line("cold / a", figures["cold"], figures["a"], "goal < 2")


def start() -> None:
    """The interpreter and the imports, nothing else."""
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)


def side_by_side(actions: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each action; they take turns, so that a busy machine slows all alike."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(ROUNDS):
        for name, action in actions.items():
            begin = time.perf_counter()
            action()
            times[name].append(time.perf_counter() - begin)
    return {name: median(values) for name, values in times.items()}


def line(name: str, one: float, other: float, goal: str) -> None:
    """One ratio."""
    print(f"  {name:<10} {one / other:5.2f}   ({one * 1000:.0f} ms / {other * 1000:.0f} ms; {goal})")


def walk(leaf_bytes: int, name: str) -> None:
    """A direct map of 1 TiB of NX leaves, with one executable page behind it."""
    tables, root = direct_map(1 << 40, leaf_bytes)
    begin = time.perf_counter()
    found = PageTables(tables.get).executable(root, 4)
    spent = time.perf_counter() - begin
    assert len(found) == 1
    print(f"walk of 1 TiB in {name} leaves: {len(tables)} tables, {spent / len(tables) * 1e6:.0f} us per table")


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


if __name__ == "__main__":
    sys.exit(main())
