# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m tests.corpus make [NAME...]` records guests; `list` shows them."""

from __future__ import annotations

import argparse
import sys

from mbecguard.errors import Exit, UserError, die

from . import STORED, about, guests, names, witness
from .archive import kernel
from .boot import boot
from .cache import require_tools, say
from .store import store


def make(wanted: list[str], *, product: bool) -> None:
    """Boot, record and store the guests named, or all."""
    require_tools()
    if unknown := sorted(set(wanted) - {guest.name for guest in guests.GUESTS}):
        die(f"no such guest: {', '.join(unknown)}", hint="python -m tests.corpus list")
    for guest in guests.GUESTS:
        if not wanted or guest.name in wanted:
            size = store(boot(guest, product=product), kernel(guest.suite), STORED / guest.name)
            say(f"{guest.name}: {size / 1000:.0f} kB, {summary(guest.name)}")


def summary(name: str) -> str:
    """The counts that a person compares with the measured ones."""
    tables = witness(name)["tables"]
    counts = [f"{sum(leaf['bytes'] for leaf in rows) // 4096} pages in {key}" for key, rows in tables.items()]
    return f"{about(name)['release']}, {about(name)['seconds']} s, {', '.join(counts)}"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.corpus")
    parser.add_argument("action", choices=("make", "list"))
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--product", action="store_true", help="record by src/mbecguard too, checked by the oracle")
    options = parser.parse_intermixed_args()
    try:
        if options.action == "make":
            make(options.names, product=options.product)
        else:
            for guest in guests.GUESTS:
                print(f"{guest.name:18} {summary(guest.name) if guest.name in names() else 'not stored'}")
    except UserError as error:
        print(f"error: {error.message}\n  hint: {error.hint}", file=sys.stderr)
        return error.status
    return Exit.OK


if __name__ == "__main__":
    sys.exit(main())
