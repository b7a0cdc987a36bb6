# SPDX-License-Identifier: GPL-2.0-or-later
"""What two plans of one guest keep, and the other does not."""

from __future__ import annotations

from dataclasses import dataclass

from mbecguard.plan.value import KeepRange, Plan
from mbecguard.values.pages import PAGE_SHIFT, PageRange, PageSet


@dataclass(frozen=True, slots=True)
class Drift:
    """What two plans of one guest keep, and the other does not."""

    new: tuple[KeepRange, ...]  #: code now, unknown to the seal: it faults when it runs
    stale: tuple[KeepRange, ...]  #: kept by the seal, but no code any more


def drift(sealed: Plan, now: Plan) -> Drift:
    """Compare two plans of one policy."""
    return Drift(new=_only_in(now, sealed), stale=_only_in(sealed, now))


def _only_in(one: Plan, other: Plan) -> tuple[KeepRange, ...]:
    known = PageSet(k.pages for k in other.keep)
    return tuple(piece(k, gap) for k in one.keep for gap in known.gaps(k.pages))


def piece(kept: KeepRange, frames: PageRange) -> KeepRange:
    """Some frames of a kept range."""
    va = kept.va + (frames.start - kept.start << PAGE_SHIFT)
    return kept._replace(start=frames.start, end=frames.end, va=va)
