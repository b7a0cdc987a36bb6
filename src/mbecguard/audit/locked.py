# SPDX-License-Identifier: GPL-2.0-or-later
"""What a seal keeps, by kind and by owner; and a digest of it that has no addresses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mbecguard.audit.value import Locked, Owner, Share
from mbecguard.guest.survey import Survey
from mbecguard.plan.policy import CodeKind
from mbecguard.plan.value import Plan
from mbecguard.values.codec import digest


@dataclass(slots=True)
class _Sum:
    pages: int = 0
    ranges: int = 0

    def add(self, pages: int) -> None:
        self.pages += pages
        self.ranges += 1


def build_ids(facts: Survey) -> dict[str, str]:
    """Of each module that is loaded, by its name."""
    return {module.name: module.build_id for module in facts.modules}


def locked(seal: Plan, modules: Mapping[str, str]) -> Locked:
    """The plan of a seal in short; `modules` has the build-ids of what is loaded."""
    kinds: dict[CodeKind, _Sum] = {}
    owners: dict[tuple[str, CodeKind], _Sum] = {}
    for kept in seal.keep:
        kinds.setdefault(kept.kind, _Sum()).add(len(kept.pages))
        owners.setdefault((kept.owner, kept.kind), _Sum()).add(len(kept.pages))
    files = {CodeKind.KERNEL_TEXT: {"kernel": seal.kernel.build_id}, CodeKind.MODULE_TEXT: modules}
    told = [
        Owner(owner, kind, total.pages, total.ranges, files.get(kind, {}).get(owner) or None)
        for (owner, kind), total in sorted(owners.items(), key=lambda item: (-item[1].pages, item[0]))
    ]
    shares = sorted(kinds.items(), key=lambda item: (-item[1].pages, item[0]))
    return Locked(
        totals=seal.totals,
        deny_pages=sum(map(len, seal.deny)),
        kinds=tuple(Share(kind, total.pages, total.ranges) for kind, total in shares),
        owners=tuple(told),
        content_digest=_content(seal, told),
    )


def _content(seal: Plan, owners: list[Owner]) -> str:
    """Of the files that the code came from: where it lies, and what the kernel makes of it, differs at each boot."""
    modules = sorted([one.owner, one.build_id or ""] for one in owners if one.kind is CodeKind.MODULE_TEXT)
    return digest({"kernel": seal.kernel.build_id, "modules": modules})
