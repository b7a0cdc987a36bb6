# SPDX-License-Identifier: GPL-2.0-or-later
"""What the host's map costs in a lock's two requests, as the compiler makes it for user space.

The rest of a request, which `python -m tests.lab.costs memory` counts, grows with the memory that is mapped.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

from .figure import Figure
from .product import Product, instructions

TESTS = Path(__file__).parents[2] / "kvm-host/tests"
M = "M instructions"
#: Ranges -> goal: those of a guest just booted, of one in fragmented memory, and the most.
GOALS = {424: 0.1, 3000: 0.5, 43264: None}


def figures(product: Product) -> Iterator[Figure]:
    """The figures."""
    program = product.scratch / "mapcost"
    subprocess.run(["make", "-s", "-C", TESTS, f"OUT={product.scratch}", program], check=True)
    for ranges, goal in GOALS.items():
        none, first, both = (instructions((str(program), str(ranges), str(requests))) for requests in range(3))
        yield Figure(f"host's map: a first request of {ranges} ranges", first - none, M, goal)
        yield Figure(f"host's map: the seal of these {ranges}", both - first, M, goal)
