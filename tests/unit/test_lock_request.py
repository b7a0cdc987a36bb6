# SPDX-License-Identifier: GPL-2.0-or-later
"""The lock as one request, page by page."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mbecguard.host.base import Permission, Protection
from mbecguard.lock.request import equal_request, request
from tests.lockchecks import (
    ALL,
)
from tests.plans import PFNS, kept_frames, make_plan

spans = st.lists(st.integers(0, PFNS), unique=True, max_size=20).map(lambda e: sorted(e)[: len(e) // 2 * 2])


def naive(entries: list[Protection]) -> dict[int, Permission]:
    """Page by page, the later entry wins."""
    return {pfn: entry.permissions for entry in entries for pfn in range(entry.pages.start, entry.pages.end)}


@given(edges=spans, canary=st.none() | st.integers(0, PFNS - 1), immutable=st.booleans())
def test_a_request_gives_exactly_the_kept_pages_without_the_canary(
    edges: list[int], canary: int | None, immutable: bool
) -> None:
    plan = make_plan(zip(edges[::2], edges[1::2], strict=True))
    pages = naive(request(plan, canary, immutable=immutable))
    assert pages.keys() == ALL
    assert {pfn for pfn, p in pages.items() if p & Permission.EXEC} == kept_frames(plan) - {canary}
    assert all(bool(p & Permission.IMMUTABLE) == immutable for p in pages.values())


@given(edges=spans, canary=st.none() | st.integers(0, PFNS - 1))
def test_the_equal_request_says_each_page_once_and_the_same(edges: list[int], canary: int | None) -> None:
    plan = make_plan(zip(edges[::2], edges[1::2], strict=True))
    tiles = equal_request(plan, canary)
    assert naive(tiles) == naive(request(plan, canary, immutable=True))
    assert sum(len(tile.pages) for tile in tiles) == PFNS
