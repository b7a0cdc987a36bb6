# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m tests.corpus make [NAME...]` records guests; `list` shows them; `unpack [NAME...]` lays them out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mbecguard.values.errors import Exit, UserError, die

from . import STORED, about, guests, names, unpack, witness
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


def lay_out(wanted: list[str], into: Path) -> None:
    """Unpack stored guests as plain folders, for `mbecguard --guest`."""
    for name in wanted:
        if name not in names():
            die(f"no stored guest {name}", hint=f"there are {', '.join(names())}")
        if (into / name).exists():
            die(f"{into / name} exists already", hint="remove it, or give another folder by --into")
        print(unpack(name, into))


def summary(name: str) -> str:
    """The counts that a person compares with the measured ones."""
    tables = witness(name)["tables"]
    counts = [f"{sum(leaf['bytes'] for leaf in rows) // 4096} pages in {key}" for key, rows in tables.items()]
    return f"{about(name)['release']}, {about(name)['seconds']} s, {', '.join(counts)}"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.corpus")
    parser.add_argument("action", choices=("make", "list", "unpack"))
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--into", type=Path, default=Path("recorded"), help="folder for unpack (default: recorded)")
    parser.add_argument("--product", action="store_true", help="record by src/mbecguard too, checked by the oracle")
    options = parser.parse_intermixed_args()
    try:
        if options.action == "make":
            make(options.names, product=options.product)
        elif options.action == "unpack":
            lay_out(options.names or names(), options.into)
        else:
            for guest in guests.GUESTS:
                print(f"{guest.name:18} {summary(guest.name) if guest.name in names() else 'not stored'}")
    except UserError as error:
        print(f"error: {error.message}\n  hint: {error.hint}", file=sys.stderr)
        return error.status
    return Exit.OK


if __name__ == "__main__":
    sys.exit(main())
