# SPDX-License-Identifier: GPL-2.0-or-later
"""A plan as the host is asked for it."""

from __future__ import annotations

from collections.abc import Iterator

from mbecguard.host.base import Host, Permission, Protection
from mbecguard.host.wire import LEAST_RANGES
from mbecguard.lock.proof import DENIED, KEPT
from mbecguard.plan.findings import finding
from mbecguard.plan.value import Plan
from mbecguard.values.findings import Finding
from mbecguard.values.pages import PageRange, PageSet

PART = 4096  #: ranges; every host takes more


def request(plan: Plan, canary_pfn: int | None, *, immutable: bool) -> list[Protection]:
    """The whole lock as one request: deny everything, then allow what is kept, but never the canary."""
    extra = Permission.IMMUTABLE if immutable else Permission(0)
    canary = PageSet([PageRange(canary_pfn, canary_pfn + 1)] if canary_pfn is not None else ())
    kept = PageSet(k.pages for k in plan.keep) - canary
    everything = Protection(PageRange(0, plan.max_pfn), DENIED | extra)
    return [everything, *(Protection(pages, KEPT | extra) for pages in kept)]


def equal_request(plan: Plan, canary_pfn: int | None) -> list[Protection]:
    """The sealed map, tile by tile: a host compares every entry with what is immutable, so none may deny it first."""
    everything, *kept = request(plan, canary_pfn, immutable=True)
    gaps = PageSet(p.pages for p in kept).gaps(everything.pages)
    return [*(Protection(gap, everything.permissions) for gap in gaps), *kept]


def too_long(host: Host, *plans: Plan) -> Iterator[Finding]:
    """A request that the host would refuse, told before anything is done. Most are short enough for any host."""
    if max(len(plan.keep) for plan in plans) < LEAST_RANGES - 2:
        return
    longest = max(len(request(plan, host.canary_pfn, immutable=True)) for plan in plans)
    if longest > (most := host.most_ranges()):
        yield finding("request-too-long", count=longest, most=most)


def in_parts(tiles: list[Protection]) -> Iterator[list[Protection]]:
    """The tiles of a sealed map are twice as many as the ranges that made it, and change nothing: in any parts."""
    return (tiles[start : start + PART] for start in range(0, len(tiles), PART))
