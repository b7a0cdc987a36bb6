# SPDX-License-Identifier: GPL-2.0-or-later
"""The permission map of one guest, and what its EPT makes of a fetch.

Source of the rules: the host ABI; of the fetch: Intel SDM volume 3C, "Mode-Based Execute Control for EPT".
"""

from __future__ import annotations

from collections.abc import Sequence

from mbecguard.host.base import HostErrno, HostRefusedError, Permission, Protection
from mbecguard.host.simulated.ept import RWX, Access, Ept, Mode, Violation
from mbecguard.host.wire import UNLISTED, Limits, map_digest
from mbecguard.values.pages import PAGE_SHIFT, PageMap, PageRange

ENFORCED = Permission.EXEC | Permission.IMMUTABLE  #: READ and WRITE are accepted and kept, not enforced


class EptModel:
    """Requested permissions per page frame of `[0, max_pfn)`; at first every page may do everything."""

    def __init__(self, limits: Limits, generation: int = 0) -> None:
        self._limits = limits
        self.generation = generation
        everything: PageMap[Permission] = PageMap()
        everything.put(PageRange(0, limits.max_pfn), UNLISTED)
        self._publish(everything)

    @classmethod
    def restored(cls, limits: Limits, regions: Sequence[Protection], generation: int) -> EptModel:
        """A model in the state that `regions` told. Raises ValueError if they do not tile `[0, max_pfn)`."""
        model = cls(limits, generation)
        ends = [0, *(region.pages.end for region in regions)]
        starts = [*(region.pages.start for region in regions), limits.max_pfn]
        if starts != ends or not all(region.permissions for region in regions):
            raise ValueError(f"no map of [0, {limits.max_pfn:#x})")
        told: PageMap[Permission] = PageMap()
        for region in regions:
            told.put(region.pages, region.permissions)
        model._publish(told)
        return model

    def apply(self, request: Sequence[Protection], *, may_seal: bool = True) -> None:
        """Publish a decoded request, all or nothing; the later entry wins. An equal request is no change.

        Raises HostRefusedError: PERM if an immutable page would change, TOO_BIG for too many boundaries, NOT_SUPPORTED
        for a map with immutable pages that is not to be.
        """
        changed = self._map.copy()
        for entry in request:
            if self.sealed and self._forbidden(entry):
                raise HostRefusedError(HostErrno.PERM, "protect")
            changed.put(entry.pages, entry.permissions)
            if self._boundaries(changed) > self._limits.boundaries:
                raise HostRefusedError(HostErrno.TOO_BIG, "protect")
        if changed != self._map and not may_seal and _sealed(changed):
            raise HostRefusedError(HostErrno.NOT_SUPPORTED, "protect")
        if changed != self._map:
            self.generation += 1
            self._publish(changed)

    def _publish(self, map_: PageMap[Permission]) -> None:
        self._map = map_
        self._digest = ""
        self.restricted = not all(permissions & Permission.EXEC for _, permissions in map_)  #: some page is denied
        self.sealed = _sealed(map_)  #: some page is immutable

    def leaf(self, gfn: int, *, cr0_pg: bool = True) -> Ept:
        """Permission bits of the leaf entry that maps `gfn`. Raises ValueError beyond `max_pfn`.

        A processor without paging has tables of its own, in which a denied page has no bit to run by.
        """
        permissions = self._map.at(gfn)
        if permissions is None:
            raise ValueError(f"GFN {gfn:#x} is beyond the guest-physical space")
        dropped = Ept.XS if cr0_pg else Ept.XS | Ept.XU
        return RWX if permissions & Permission.EXEC else RWX & ~dropped

    def runs(self, gfn: int) -> bool:
        """Whether the kernel may execute a page frame, which has to be one of the guest-physical space."""
        permissions = self._map.at(gfn)
        return permissions is not None and Permission.EXEC in permissions

    def fetch(self, gpa: int, mode: Mode, cr0_pg: bool = True) -> Violation | None:
        """The EPT violation of a fetch from `gpa` (bytes), None if it runs.

        `mode` is that of the linear address; without paging all of them are user-mode, so that XU decides.
        """
        mode = mode if cr0_pg else Mode.USER
        leaf = self.leaf(gpa >> PAGE_SHIFT, cr0_pg=cr0_pg)
        needed = Ept.XU if mode is Mode.USER else Ept.XS
        return None if needed in leaf else Violation(Access.FETCH, leaf, mode)

    @property
    def regions(self) -> tuple[Protection, ...]:
        """The whole map, sorted; it tiles `[0, max_pfn)`."""
        return tuple(Protection(pages, permissions) for pages, permissions in self._map)

    @property
    def digest(self) -> str:
        """That of the map, as the host ABI defines it; made once for all the words that tell it."""
        if not self._digest:
            self._digest = map_digest(self.regions)
        return self._digest

    def _forbidden(self, entry: Protection) -> bool:
        # Only the published map counts: one request may set a page immutable and then change its mind.
        published = (permissions for _, permissions in self._map.within(entry.pages) if permissions)
        return any(p & Permission.IMMUTABLE and p != entry.permissions for p in published)

    def _boundaries(self, permissions: PageMap[Permission]) -> int:
        # As a host counts them: everything outside the guest-physical space is unlisted.
        first, last = permissions.at(0), permissions.at(self._limits.max_pfn - 1)
        return len(permissions) - 1 + (first != UNLISTED) + (last != UNLISTED)


def _sealed(map_: PageMap[Permission]) -> bool:
    return any(permissions & Permission.IMMUTABLE for _, permissions in map_)
