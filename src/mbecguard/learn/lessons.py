# SPDX-License-Identifier: GPL-2.0-or-later
"""The lessons of the watched boots: data in, data out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mbecguard.guest.uses import Uses
from mbecguard.learn.boots import Boot
from mbecguard.learn.catalog import Catalog
from mbecguard.learn.trace import Traced, TraceEvent
from mbecguard.switches import SWITCHES

SCHEMA = "mbecguard.lessons/1"


@dataclass(frozen=True, slots=True)
class Sighting:
    """That a module was wanted after the lock point of one boot: how many seconds after it, and by whom."""

    module: str
    after: float
    asker: str
    refused: bool  #: wanted in a locked guest, and not there


@dataclass(frozen=True, slots=True)
class Late:
    """A module to load before the lock, and its earliest sight."""

    module: str
    boots: int
    first: Sighting
    loadable: bool  #: by its name: the modules folder has it


@dataclass(frozen=True, slots=True)
class Need:
    """A setting that this guest needs to be otherwise than it is by default."""

    setting: str
    value: str
    reason: str
    risk: str


@dataclass(frozen=True, slots=True)
class Lessons:
    """What the boots teach for a lock by one profile. `remarks`: why that may be incomplete."""

    profile: str
    boots: int
    late: tuple[Late, ...]
    needs: tuple[Need, ...]
    remarks: tuple[str, ...]
    schema: str = SCHEMA


def lessons(boots: tuple[Boot, ...], catalog: Catalog, profile: str) -> Lessons:
    """What to load before a lock by this profile, and which settings to change."""
    found: dict[str, list[Sighting]] = {}
    for boot in boots:
        firsts: dict[str, Sighting] = {}
        for sight in sorted(_sights(boot, catalog, profile), key=lambda sight: sight.after):
            firsts.setdefault(sight.module, sight)
        for module, sight in firsts.items():
            found.setdefault(module, []).append(sight)
    late = (
        Late(module, len(sights), min(sights, key=lambda sight: sight.after), module in catalog.needs)
        for module, sights in sorted(found.items())
    )
    return Lessons(profile, len(boots), tuple(late), tuple(_needs(boots, profile)), tuple(_remarks(boots, profile)))


def _point(boot: Boot, profile: str) -> float:
    # Whatever is seen where the point is unknown counts as late.
    return boot.points.get(profile, 0.0)


def _sights(boot: Boot, catalog: Catalog, profile: str) -> Iterator[Sighting]:
    point = _point(boot, profile)
    requests = [event for event in boot.events if event.kind is TraceEvent.REQUEST]
    for event in boot.events:
        if event.time < point:
            continue
        if event.kind is TraceEvent.LOAD:
            yield Sighting(event.name, round(event.time - point, 6), _loader(event, requests, catalog), refused=False)
        elif event.kind is TraceEvent.REFUSED:
            if event.name not in boot.loaded:
                yield Sighting(event.name, round(event.time - point, 6), _modprobe(event), refused=True)
        elif boot.locked:
            for module in catalog.modules(event.name) - set(boot.loaded):
                yield Sighting(module, round(event.time - point, 6), _asker(event), refused=True)
    if boot.locked and boot.at_lock:
        for alias in boot.now.waiting.keys() - boot.at_lock.waiting.keys():
            for module in catalog.modules(alias) - set(boot.loaded):
                # Nothing tells when it came.
                yield Sighting(module, 0.0, f"{boot.now.waiting[alias]} ({alias})", refused=True)


def _loader(load: Traced, requests: Iterable[Traced], catalog: Catalog) -> str:
    """Who is behind a load: for the kernel's helper modprobe whoever made the kernel ask."""
    if load.comm == "modprobe":
        before = [r for r in requests if r.time <= load.time and load.name in catalog.loads(r.name)]
        if before:
            return _asker(max(before))
    return f"{load.comm} (pid {load.pid})"


def _asker(request: Traced) -> str:
    return f"{request.comm} (pid {request.pid}) by {request.name}, {request.site}()"


def _modprobe(refused: Traced) -> str:
    return f"{refused.comm} by modprobe (pid {refused.pid})"


def _needs(boots: tuple[Boot, ...], profile: str) -> Iterator[Need]:
    """Switches that `auto` sets, because their use begins only after the lock."""
    for switch in SWITCHES:
        pairs = (
            (switch.use(before), switch.use(boot.now.uses)) for boot in boots for before in _at_lock(boot, profile)
        )
        uses = [later for before, later in pairs if later and not before]
        # What the kernel refuses to switch off needs no setting, and new livepatches are modules.
        if uses and not uses[-1].bar:
            when = "not yet at the lock" if profile == "late" else "maybe not yet at the early lock"
            reason = f"{uses[-1].what}: in use in {len(uses)} of {len(boots)} boots, and {when}"
            yield Need(switch.setting, "off", reason, switch.risk)


def _at_lock(boot: Boot, profile: str) -> Iterator[Uses]:
    """What was used at the lock, if that is known; nobody looks before the early lock."""
    if profile == "early":
        yield Uses()
    elif boot.at_lock:
        yield boot.at_lock.uses


def _remarks(boots: tuple[Boot, ...], profile: str) -> Iterator[str]:
    if boots and all(boot.locked for boot in boots):
        yield (
            "each of these boots was locked: what programs ask for by modprobe themselves (dockerd, VPNs) is refused "
            "before the kernel notes it, and is here only if modprobe's words reached the journal; one boot with "
            "mbecguard=off, watched while the guest does its work, shows all"
        )
    for boot in boots:
        where = f"boot {boot.boot_id}"
        if boot.lost:
            yield f"{where}: {boot.lost} events were lost; modules may be missing here"
        if boot.strange:
            yield f"{where}: {boot.strange} lines of the trace are not understood"
        if profile not in boot.points:
            yield f"{where}: when a lock would have run is unknown; everything that was seen counts as after it"
        elif boot.watched is None or boot.watched > boot.points[profile]:
            yield f"{where}: it was not watched from before the lock on"
        if profile == "late" and not boot.at_lock:
            yield f"{where}: mbecguard-learn-mark.service did not look at it just before the lock"
