# SPDX-License-Identifier: GPL-2.0-or-later
"""Page ranges, maps and sets against plain Python sets and dicts."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbecguard.values.pages import PageMap, PageRange, PageSet

TOP = 40
RANGES = st.tuples(st.integers(0, TOP), st.integers(0, TOP)).map(lambda pair: PageRange(min(pair), max(pair)))
SOME = st.lists(RANGES, max_size=12)


def members(ranges: object) -> set[int]:
    assert isinstance(ranges, PageSet | list)
    return {page for item in ranges for page in range(item.start, item.end)}


def is_normal(pages: PageSet) -> bool:
    edges = [edge for item in pages for edge in (item.start, item.end)]
    return all(low < high for low, high in pairwise(edges))


@pytest.mark.parametrize(("start", "end"), [(1, 0), (-1, 0), (-2, -1)])
def test_inverted_or_negative_range_is_refused(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="not a page range"):
        PageRange(start, end)


@pytest.mark.parametrize(
    ("address", "size", "start", "end"),
    [
        (0, 0, 0, 0),
        (0, 1, 0, 1),
        (0, 4096, 0, 1),
        (0, 4097, 0, 2),
        (0xFFF, 1, 0, 1),
        (0xFFF, 2, 0, 2),
        (0x1000, 0x1000, 1, 2),
        (0x1001, 0x1000, 1, 3),
        (0x1FFF, 0, 1, 1),
        (0x1FFF, -1, 1, 1),
    ],
)
def test_covering_rounds_outwards(address: int, size: int, start: int, end: int) -> None:
    assert PageRange.covering(address, size) == PageRange(start, end)


def test_covering_a_negative_address_is_refused() -> None:
    with pytest.raises(ValueError):
        PageRange.covering(-1, 1)


@pytest.mark.parametrize(("page", "inside"), [(2, False), (3, True), (4, True), (5, False)])
def test_membership_is_half_open(page: int, inside: bool) -> None:
    assert (page in PageRange(3, 5)) is inside


def test_empty_range_has_no_pages() -> None:
    assert len(PageRange(3, 3)) == 0
    assert 3 not in PageRange(3, 3)


@given(RANGES, RANGES)
def test_intersection(one: PageRange, other: PageRange) -> None:
    assert members([one & other]) == members([one]) & members([other])


@pytest.mark.parametrize(("page", "below", "above"), [(3, (3, 3), (3, 6)), (4, (3, 4), (4, 6)), (6, (3, 6), (6, 6))])
def test_split(page: int, below: tuple[int, int], above: tuple[int, int]) -> None:
    assert PageRange(3, 6).until(page) == PageRange(*below)
    assert PageRange(3, 6).since(page) == PageRange(*above)


def test_split_beside_the_range() -> None:
    assert PageRange(3, 6).until(9) == PageRange(3, 6)
    assert PageRange(3, 6).since(1) == PageRange(3, 6)


def test_shift() -> None:
    assert PageRange(3, 6).shift(-3) == PageRange(0, 3)
    with pytest.raises(ValueError):
        PageRange(3, 6).shift(-4)


@given(st.lists(st.tuples(RANGES, st.integers(0, 2)), max_size=25), RANGES)
def test_map_is_a_dict_of_pages(puts: list[tuple[PageRange, int]], window: PageRange) -> None:
    pages: PageMap[int] = PageMap()
    naive: dict[int, int] = {}
    for where, value in puts:
        pages.put(where, value)
        naive.update(dict.fromkeys(range(where.start, where.end), value))
    assert [pages.at(page) for page in range(-1, TOP + 1)] == [naive.get(page) for page in range(-1, TOP + 1)]
    runs = list(pages)
    assert len(pages) == len(runs)
    assert all(len(run) for run, _ in runs)
    for (left, value), (right, following) in pairwise(runs):
        assert left.end < right.start or (left.end == right.start and value != following)
    tiles = list(pages.within(window))
    assert [(p, v) for tile, v in tiles for p in range(tile.start, tile.end)] == [
        (page, naive.get(page)) for page in range(window.start, window.end)
    ]
    assert all(len(tile) for tile, _ in tiles)


def test_nothing_within_an_empty_window() -> None:
    pages: PageMap[str] = PageMap()
    pages.put(PageRange(0, 10), "x")
    assert list(pages.within(PageRange(5, 5))) == []


def test_copy_is_independent_and_equality_goes_by_runs() -> None:
    pages: PageMap[str] = PageMap()
    pages.put(PageRange(0, 4), "x")
    other = pages.copy()
    assert other == pages
    other.put(PageRange(4, 5), "y")
    assert other != pages
    assert list(pages) == [(PageRange(0, 4), "x")]
    other.put(PageRange(4, 5), "x")
    pages.put(PageRange(0, 5), "x")
    assert other == pages
    assert pages != "something else"


@given(SOME, SOME)
def test_set_algebra(one: list[PageRange], other: list[PageRange]) -> None:
    left, right = PageSet(one), PageSet(other)
    results = [
        (left, members(one)),
        (left | right, members(one) | members(other)),
        (left & right, members(one) & members(other)),
        (left - right, members(one) - members(other)),
    ]
    for result, naive in results:
        assert members(result) == naive
        assert result.pages == len(naive)
        assert bool(result) is bool(naive)
        assert is_normal(result)


@given(SOME)
def test_set_membership_and_equality(ranges: list[PageRange]) -> None:
    pages = PageSet(ranges)
    assert [page in pages for page in range(-1, TOP + 1)] == [page in members(ranges) for page in range(-1, TOP + 1)]
    same = PageSet(PageRange(page, page + 1) for page in members(ranges))
    assert pages == same
    assert hash(pages) == hash(same)
    assert pages != PageSet([*ranges, PageRange(TOP + 1, TOP + 2)])
    assert pages != members(ranges)


@given(SOME, RANGES)
def test_touching_and_gaps(ranges: list[PageRange], window: PageRange) -> None:
    pages = PageSet(ranges)
    touched = [item for item in pages if members([item]) & members([window])]
    assert list(pages.touching(window)) == touched
    gaps = list(pages.gaps(window))
    assert members(gaps) == members([window]) - members(ranges)
    assert all(len(gap) for gap in gaps)


def test_nothing_touches_an_empty_window() -> None:
    assert list(PageSet([PageRange(0, 10)]).touching(PageRange(5, 5))) == []


def test_set_shows_its_ranges() -> None:
    assert repr(PageSet([PageRange(0x20, 0x30), PageRange(1, 2)])) == "PageSet([0x1,0x2) [0x20,0x30))"


@given(SOME, st.sampled_from([1, 2, 4, 8]))
def test_mixed_regions(ranges: list[PageRange], region: int) -> None:
    pages = members(ranges)
    filled = [len(pages & set(range(at, at + region))) for at in range(0, TOP + region, region)]
    assert PageSet(ranges).mixed_regions(region) == sum(0 < count < region for count in filled)


@pytest.mark.parametrize(
    ("ranges", "mixed"),
    [
        ([], 0),
        ([PageRange(0, 512)], 0),
        ([PageRange(0, 511)], 1),
        ([PageRange(511, 512)], 1),
        ([PageRange(0, 513)], 1),
        ([PageRange(511, 1025)], 2),
        ([PageRange(0, 256), PageRange(256, 512)], 0),
        ([PageRange(0, 100), PageRange(101, 512)], 1),
    ],
)
def test_mixed_large_pages(ranges: list[PageRange], mixed: int) -> None:
    assert PageSet(ranges).mixed_regions() == mixed
