# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests against their hosts: whether what a guest says of its seal is what its host enforces.

A guest is known to its host by the UUID of its machine. A microvm's has none: there what the host itself gave the
guest names it, the generation, which begins at random with each reset, together with the digest of the map. Nobody who
was not told both can claim them, and who repeats what another guest was told claims that guest's machine twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from mbecguard.host.base import HostMode
from mbecguard.readiness.machines import Guarded
from mbecguard.witness.look import HostWitness, Seen

TOLD_BITS = 0xFFFFFFFF  #: of the generation, that the guest is told
CLAIM = "host-agrees"
TEXT = "the host of this machine enforces what its guest says"
AGAIN = "audit the guest and ask its host anew; if they differ still, believe the host"


class Agreement(StrEnum):
    """How it ends. All but the first and the last are failures."""

    AGREES = "agrees"
    DIFFERS = "differs"  #: the host enforces something else, or nothing
    UNSEEN = "unseen"  #: no host that was asked knows the machine
    TWICE = "twice"  #: two guests claim one machine, or two machines are one by their UUID
    NOT_SEALED = "not-sealed"  #: the guest claims nothing


@dataclass(frozen=True, slots=True)
class Said:
    """What a guest says of itself, by its newest audit."""

    guest: str  #: a name for people
    uuid: str | None
    sealed: bool
    generation: int
    map_digest: str | None
    denied: int | None
    time: str  #: UTC, ISO 8601


@dataclass(frozen=True, slots=True)
class Agreed:
    """What the hosts say to that."""

    agreement: Agreement
    evidence: str
    host: str = ""
    machine: str = ""  #: as the host calls it
    action: str = ""

    @property
    def failed(self) -> bool:
        """Whether the guest must not be believed."""
        return self.agreement not in (Agreement.AGREES, Agreement.NOT_SEALED)


@dataclass(frozen=True, slots=True)
class _Known:
    """One machine of one host."""

    witness: HostWitness
    seen: Seen

    @property
    def name(self) -> str:
        return f"{self.seen.name} on {self.witness.host or 'its host'}"


def agreements(guests: Sequence[Said], witnesses: Iterable[HostWitness]) -> list[Agreed]:
    """A verdict for each guest, in their order; of each host the newest witness counts."""
    machines = [_Known(witness, seen) for witness in _newest(witnesses) for seen in witness.machines]
    found = _Found(machines)
    matches = [found.of(guest) for guest in guests]
    uuids = Counter(guest.uuid.lower() for guest in guests if guest.uuid)
    claimed = Counter(_id(one) for matching in matches for one in matching)
    verdicts = []
    for guest, matching in zip(guests, matches, strict=True):
        shared = bool(guest.uuid and uuids[guest.uuid.lower()] > 1) or any(claimed[_id(one)] > 1 for one in matching)
        verdicts.append(_verdict(guest, matching, shared=shared))
    return verdicts


def _newest(witnesses: Iterable[HostWitness]) -> list[HostWitness]:
    newest: dict[str, HostWitness] = {}
    for one in witnesses:
        name = one.host_id or one.host
        if name not in newest or newest[name].time < one.time:
            newest[name] = one
    return list(newest.values())


def _id(known: _Known) -> tuple[str, int]:
    return known.witness.host_id or known.witness.host, known.seen.pid


class _Found:
    """Machines by what a guest can know of its own."""

    def __init__(self, machines: Iterable[_Known]) -> None:
        self._by_uuid: dict[str, list[_Known]] = {}
        self._by_map: dict[tuple[int, str], list[_Known]] = {}
        for one in machines:
            if one.seen.uuid:
                self._by_uuid.setdefault(one.seen.uuid, []).append(one)
            if told := one.seen.told:
                self._by_map.setdefault((told.generation & TOLD_BITS, told.map_digest), []).append(one)

    def of(self, guest: Said) -> list[_Known]:
        if guest.uuid:
            return self._by_uuid.get(guest.uuid.lower(), [])
        named = guest.sealed and guest.map_digest is not None
        return self._by_map.get((guest.generation, guest.map_digest or ""), []) if named else []


def _verdict(guest: Said, matching: list[_Known], *, shared: bool) -> Agreed:
    names = ", ".join(one.name for one in matching)
    if shared or len(matching) > 1:
        told = f"more than one guest says that it is {names}" if matching else "another guest has the same UUID"
        told = f"{names} are one by what they are called" if len(matching) > 1 else told
        return Agreed(Agreement.TWICE, told, action="find out which of them is real, and who copied it")
    if not guest.sealed:
        return Agreed(Agreement.NOT_SEALED, "the guest does not say that it is sealed")
    if not matching:
        told = f"no host knows a machine with {f'UUID {guest.uuid}' if guest.uuid else 'its map and generation'}"
        return Agreed(Agreement.UNSEEN, told, action="collect the witness of its host as well; " + AGAIN)
    (one,) = matching
    when = f"{one.name} at {one.witness.time}"
    if difference := _difference(guest, one):
        return Agreed(Agreement.DIFFERS, f"{when}: {difference}", one.witness.host, one.seen.name, AGAIN)
    denied = one.seen.told.denied if one.seen.told else 0
    told = f"{when}: sealed, the same map and generation, {denied} denied fetches"
    return Agreed(Agreement.AGREES, told, one.witness.host, one.seen.name)


def _difference(guest: Said, one: _Known) -> str:
    """What the host has otherwise; empty: nothing."""
    told = one.seen.told
    if told is None:
        return f"{one.seen.state}, and its host tells nothing of a map"
    if one.seen.state is not Guarded.SEALED or told.mode is not HostMode.ENFORCE:
        return f"{one.seen.state}, mode {told.mode.value}"
    if told.generation & TOLD_BITS != guest.generation:
        return f"generation {told.generation & TOLD_BITS}, and not {guest.generation}: it was reset, or never this one"
    if told.map_digest != guest.map_digest:
        return f"the map is {told.map_digest[:16]}, and not {(guest.map_digest or 'none')[:16]}"
    if guest.denied is not None and one.witness.time > guest.time and told.denied < guest.denied:
        return f"{told.denied} denied fetches, and not {guest.denied} or more"
    return ""
