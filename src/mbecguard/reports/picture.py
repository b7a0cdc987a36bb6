# SPDX-License-Identifier: GPL-2.0-or-later
"""A picture of guest-physical memory: which regions of 2 MiB the seal keeps, wholly or in part, and for whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from mbecguard.plan.policy import CodeKind
from mbecguard.plan.value import KeepRange, Plan
from mbecguard.values.pages import LARGE_PAGES, PAGE_SHIFT, PageRange

COLUMNS = 64  #: regions in a row
CELLS = 64 * COLUMNS  #: at most; regions of larger guests are larger
SIDE, GAP, MARGIN = 10, 14, 92  #: of a cell, of rows that are left out, of the addresses; in units of the picture
UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")
NAMED = 4  #: owners of a region that are named


@dataclass(frozen=True, slots=True)
class Cell:
    """A region of which pages are kept."""

    x: int
    y: int
    address: str
    pages: int
    whole: bool  #: every page of it is kept
    kind: CodeKind  #: most of it
    owners: str
    text: str


@dataclass(frozen=True, slots=True)
class Row:
    """A row of regions, or rows that are left out because nothing of them is kept."""

    y: int
    label: str
    gap: bool


@dataclass(frozen=True, slots=True)
class Picture:
    """Cells and rows, and how large all is."""

    rows: tuple[Row, ...]
    cells: tuple[Cell, ...]
    kinds: tuple[CodeKind, ...]
    region: str  #: bytes of a cell
    width: int
    height: int

    @property
    def mixed(self) -> int:
        """How many cells are kept in part."""
        return sum(not cell.whole for cell in self.cells)


def picture(plan: Plan) -> Picture:
    """Draw the kept pages of a plan; what lies above the last is denied, and not drawn."""
    unit = _unit(plan)
    regions: dict[int, list[KeepRange]] = {}
    for kept in plan.keep:
        for number in range(kept.start // unit, -(-kept.end // unit)):
            regions.setdefault(number, []).append(kept)
    rows, places, height = _rows(sorted(regions))
    cells = tuple(_cell(number, regions[number], unit, places) for number in sorted(regions))
    kinds = tuple(kind for kind in CodeKind if any(cell.kind is kind for cell in cells))
    return Picture(
        tuple(_row(*row, unit) for row in rows), cells, kinds, size(unit), MARGIN + COLUMNS * SIDE, max(height, SIDE)
    )


def _unit(plan: Plan) -> int:
    """Pages of a region: 2 MiB, or more if there were too many."""
    end, unit = max((k.end for k in plan.keep), default=1), LARGE_PAGES
    while -(-end // unit) > CELLS:
        unit *= 2
    return unit


def _rows(numbers: list[int]) -> tuple[list[tuple[int, int, int]], dict[int, int], int]:
    """Rows as (y, first row, rows left out), the place of each that is drawn, and the height."""
    rows: list[tuple[int, int, int]] = []
    places: dict[int, int] = {}
    y, following = 0, 0
    for number in (row for row, _ in groupby(one // COLUMNS for one in numbers)):
        if number > following:
            rows.append((y, following, number - following))
            y += GAP
        rows.append((y, number, 0))
        places[number] = y
        y, following = y + SIDE, number + 1
    return rows, places, y


def _row(y: int, number: int, left_out: int, unit: int) -> Row:
    if left_out:
        return Row(y, f"{size(left_out * COLUMNS * unit)} denied", gap=True)
    return Row(y, f"{number * COLUMNS * unit << PAGE_SHIFT:#x}", gap=False)


def _cell(number: int, kept: list[KeepRange], unit: int, places: dict[int, int]) -> Cell:
    region = PageRange(number * unit, (number + 1) * unit)
    kinds: Counter[CodeKind] = Counter()
    owners: Counter[str] = Counter()
    for one in kept:
        pages = len(one.pages & region)
        kinds[one.kind] += pages
        owners[one.owner] += pages
    total, address, names = kinds.total(), f"{region.start << PAGE_SHIFT:#x}", ", ".join(_names(owners))
    return Cell(
        x=MARGIN + number % COLUMNS * SIDE,
        y=places[number // COLUMNS],
        address=address,
        pages=total,
        whole=total == unit,
        kind=kinds.most_common(1)[0][0],
        owners=names,
        text=f"{address}: {total} of {unit} pages kept, {', '.join(kinds)}: {names}",
    )


def _names(owners: Counter[str]) -> Iterator[str]:
    yield from (owner for owner, _ in owners.most_common(NAMED))
    if len(owners) > NAMED:
        yield f"{len(owners) - NAMED} more"


def size(pages: int) -> str:
    """So many pages in bytes, for people."""
    kib = pages << PAGE_SHIFT - 10
    power = max(0, kib.bit_length() - 1) // 10
    amount = kib / 1024**power
    return f"{amount:.{0 if amount >= 10 or amount == int(amount) else 1}f} {UNITS[power]}"
