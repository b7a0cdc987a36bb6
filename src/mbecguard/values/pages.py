# SPDX-License-Identifier: GPL-2.0-or-later
"""Half-open ranges of page frames, `[start, end)`, and what can be done with them.

One type serves guest-physical page frames (GFN/PFN) and virtual page numbers alike; bytes never appear
except in the two constructors that say so. A page is 4 KiB.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Generic, TypeVar

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
LARGE_PAGES = 512  #: pages in a 2 MiB region
ADDRESS_SPACE_PAGES = 1 << (52 - PAGE_SHIFT)  #: the architectural limit of physical addresses (MAXPHYADDR 52)

T = TypeVar("T")
_START = attrgetter("start")


@dataclass(frozen=True, slots=True, order=True)
class PageRange:
    """Pages `start <= n < end`; empty if start == end. Raises ValueError if inverted or negative."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end:
            raise ValueError(f"not a page range: [{self.start:#x}, {self.end:#x})")

    @classmethod
    def covering(cls, address: int, size: int) -> PageRange:
        """The pages touched by `size` bytes at byte address `address` (rounded outwards; empty for 0)."""
        if size <= 0:
            return cls(address >> PAGE_SHIFT, address >> PAGE_SHIFT)
        return cls(address >> PAGE_SHIFT, (address + size + PAGE_SIZE - 1) >> PAGE_SHIFT)

    def __len__(self) -> int:
        return self.end - self.start

    def __contains__(self, page: int) -> bool:
        return self.start <= page < self.end

    def __and__(self, other: PageRange) -> PageRange:
        start = max(self.start, other.start)
        return PageRange(start, max(start, min(self.end, other.end)))

    def until(self, page: int) -> PageRange:
        """The part below `page`; `page` must not lie below the range."""
        return PageRange(self.start, min(self.end, page))

    def since(self, page: int) -> PageRange:
        """The part from `page` on; `page` must not lie above the range."""
        return PageRange(max(self.start, page), self.end)

    def shift(self, pages: int) -> PageRange:
        """The same range moved by `pages` pages."""
        return PageRange(self.start + pages, self.end + pages)


class PageMap(Generic[T]):
    """A map from pages to values, kept as sorted disjoint runs; the later `put` wins.

    Cost grows with the number of runs, never with the number of pages. Equal neighbours coalesce.
    """

    def __init__(self) -> None:
        # Start, end and value of each run. Pages as numbers: a map is put together from thousands of ranges.
        self._runs: list[tuple[int, int, T]] = []

    def put(self, pages: PageRange, value: T) -> None:
        """Give all of `pages` the value; what was there before is cut away."""
        start, end = pages.start, pages.end
        if start == end:
            return
        # From the first run that ends here or behind, to the last that begins before the end or there.
        first, last = self._index(start), self._index(end + 1)
        if first and self._runs[first - 1][1] >= start:
            first -= 1
        old = self._runs[first:last]
        left = [(low, start, was) for low, _, was in old[:1] if low < start]
        right = [(end, high, was) for _, high, was in old[-1:] if high > end]
        if left and left[0][2] == value:
            start = left.pop()[0]
        if right and right[0][2] == value:
            end = right.pop()[1]
        self._runs[first:last] = (*left, (start, end, value), *right)

    def _index(self, page: int) -> int:
        """That of the first run that begins at a page or behind it."""
        return bisect_left(self._runs, (page,))

    def at(self, page: int) -> T | None:
        """The value of one page, None if it has none."""
        return next((value for _, value in self.within(PageRange(page, page + 1))), None) if page >= 0 else None

    def within(self, pages: PageRange) -> Iterator[tuple[PageRange, T | None]]:
        """Tile `pages` exactly: runs clipped to it, with None for the gaps between them."""
        position, end = pages.start, pages.end
        if position == end:
            return
        first = max(self._index(position + 1) - 1, 0)
        for low, high, value in self._runs[first : self._index(end)]:
            if low > position:
                yield PageRange(position, low), None
                position = low
            if high > position:
                yield PageRange(position, min(high, end)), value
                position = high
        if position < end:
            yield PageRange(position, end), None

    def __iter__(self) -> Iterator[tuple[PageRange, T]]:
        return ((PageRange(start, end), value) for start, end, value in self._runs)

    def __len__(self) -> int:
        return len(self._runs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PageMap) and self._runs == other._runs

    __hash__ = None  # type: ignore[assignment]

    def copy(self) -> PageMap[T]:
        """An independent map with the same runs."""
        other: PageMap[T] = PageMap()
        other._runs = self._runs.copy()
        return other


class PageSet:
    """An immutable set of pages as sorted, disjoint, non-adjacent ranges."""

    __slots__ = ("_ends", "_ranges")

    def __init__(self, ranges: Iterable[PageRange] = ()) -> None:
        merged: list[PageRange] = []
        for item in sorted((r for r in ranges if r.start < r.end), key=_START):
            if merged and item.start <= merged[-1].end:
                merged[-1] = PageRange(merged[-1].start, max(merged[-1].end, item.end))
            else:
                merged.append(item)
        self._ranges = tuple(merged)
        self._ends = [r.end for r in merged]

    def __iter__(self) -> Iterator[PageRange]:
        return iter(self._ranges)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PageSet) and self._ranges == other._ranges

    def __hash__(self) -> int:
        return hash(self._ranges)

    def __repr__(self) -> str:
        return "PageSet(" + " ".join(f"[{r.start:#x},{r.end:#x})" for r in self) + ")"

    def __bool__(self) -> bool:
        return bool(self._ranges)

    def __contains__(self, page: int) -> bool:
        index = bisect_right(self._ends, page)
        return index < len(self._ranges) and page in self._ranges[index]

    def __or__(self, other: PageSet) -> PageSet:
        return PageSet((*self, *other))

    def __sub__(self, other: PageSet) -> PageSet:
        return PageSet(gap for mine in self for gap in other.gaps(mine))

    def __and__(self, other: PageSet) -> PageSet:
        return PageSet(part & mine for mine in self for part in other.touching(mine))

    @property
    def pages(self) -> int:
        """Number of pages in the set."""
        return sum(map(len, self._ranges))

    def touching(self, pages: PageRange) -> Iterator[PageRange]:
        """The ranges of this set, whole, that share a page with `pages`."""
        if not len(pages):
            return
        index = bisect_right(self._ends, pages.start)
        while index < len(self._ranges) and self._ranges[index].start < pages.end:
            yield self._ranges[index]
            index += 1

    def gaps(self, within: PageRange) -> Iterator[PageRange]:
        """What of `within` is not in the set."""
        position = within.start
        for item in self.touching(within):
            if item.start > position:
                yield PageRange(position, item.start)
            position = item.end
        if position < within.end:
            yield PageRange(position, within.end)

    def mixed_regions(self, region: int = LARGE_PAGES) -> int:
        """Number of `region`-page aligned regions that are partly, not wholly, in the set."""
        # Only the first and last region of a range can be partial; whole ones cancel out by page count.
        filled: dict[int, int] = {}
        for item in self:
            for index in {item.start // region, (item.end - 1) // region}:
                overlap = min(item.end, (index + 1) * region) - max(item.start, index * region)
                filled[index] = filled.get(index, 0) + overlap
        return sum(count < region for count in filled.values())
