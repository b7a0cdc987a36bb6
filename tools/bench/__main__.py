# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure, and show it in one table: `python -m tools.bench [--json] [--against FILE] [GROUP ...]`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from . import figure, growth, host, plans, start
from .figure import Figure
from .product import Product

GROUPS: dict[str, Callable[[Product], Iterator[Figure]]] = {
    "start": start.figures,
    "plans": plans.figures,
    "host": host.figures,
    "growth": growth.figures,
}


def main() -> int:
    """Measure what is asked for; 1 if something costs more than in the run that it is compared with."""
    options = _options()
    before = figure.saved(json.loads(options.against.read_text())) if options.against else {}
    taken: list[Figure] = []
    for line in figure.rows(_measured(options.group or [*GROUPS], taken), before):
        print(line, flush=True, file=sys.stderr if options.json else sys.stdout)
    if options.json:
        print(json.dumps({"figures": [asdict(one) for one in taken]}, indent=1))
    grown = figure.worse(taken, before)
    if grown:
        print(f"more than in {options.against}: {'; '.join(grown)}", file=sys.stderr)
    return 1 if grown else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description="What mbecguard costs.")
    parser.add_argument("group", nargs="*", choices=[*GROUPS, []], help=f"{', '.join(GROUPS)}; without: all")
    parser.add_argument("--json", action="store_true", help="JSON on stdout, to be saved; the table goes to stderr")
    parser.add_argument("--against", type=Path, metavar="FILE", help="a saved run to compare with")
    return parser.parse_args()


def _measured(groups: list[str], taken: list[Figure]) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="mbecguard-bench-") as scratch:
        product = Product(Path(scratch))
        for group in groups:
            for one in GROUPS[group](product):
                taken.append(one)
                yield one


if __name__ == "__main__":
    sys.exit(main())
