# SPDX-License-Identifier: GPL-2.0-or-later
"""From what was collected to where each guest stands, and to what stands out among all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from pathlib import Path

from mbecguard.audit.value import Verdict
from mbecguard.fleet import hosts
from mbecguard.fleet.findings import finding
from mbecguard.fleet.read import Collected, Modules, Track
from mbecguard.fleet.value import Fleet, Guest, Sheet, Standing
from mbecguard.records.record import State
from mbecguard.values.escaped import escaped
from mbecguard.values.findings import Finding, Severity
from mbecguard.witness.agree import Agreed
from mbecguard.witness.look import HostWitness

AHEAD = timedelta(minutes=10)  #: that a guest's clock may be wrong
NAMED = 5  #: guests or modules that a finding names

_ORDER = list(Standing)


@dataclass(slots=True)
class Known:
    """A guest, its audits, and what was found of it."""

    name: str
    track: Track | None  #: None: the inventory alone has it
    findings: list[Finding]
    host: Agreed | None = None

    @property
    def newest(self) -> Sheet | None:
        """Its newest audit."""
        return self.track.newest if self.track else None


def judge(found: Collected, folder: Path, listed: Iterable[str], now: datetime, stale_after: int) -> Fleet:
    """Of all guests; `listed` are those that should be there: host names, machine-ids or UUIDs."""
    limit = timedelta(hours=stale_after)
    guests = [_known(track, now, limit) for track in found.guests.values()]
    if wanted := list(dict.fromkeys(listed)):
        _compare(guests, wanted)
    _duplicates(guests)
    _contents(guests, found.modules)
    if found.witnesses:
        _ask_hosts(guests, found.witnesses)
    apart = list(found.findings)
    if not found.guests:
        apart.append(finding("nothing-collected", folder=folder))
    if found.ignored:
        apart.append(finding("files-ignored", count=found.ignored))
    return _fleet(guests, apart, found, now, stale_after)


def _fleet(guests: list[Known], apart: list[Finding], read: Collected, now: datetime, stale_after: int) -> Fleet:
    # What is said of several guests at once is one finding, and named by each of them.
    findings = {id(one): one for one in (*apart, *(one for guest in guests for one in guest.findings))}
    told = sorted((_told(guest) for guest in guests), key=lambda one: (_ORDER.index(one.standing), one.name))
    counts = Counter(one.standing for one in told)
    return Fleet(
        time=now.isoformat(timespec="seconds"),
        stale_after=stale_after,
        files=read.files,
        hosts=len({one.host_id or one.host for one in read.witnesses}),
        totals={standing.value: counts[standing] for standing in Standing},
        guests=tuple(told),
        findings=_sorted(findings.values()),
    )


def _known(track: Track, now: datetime, limit: timedelta) -> Known:
    name = escaped(_name(track.newest))
    findings = [*_of_audit(track.newest, name), *_of_time(track.newest, name, now, limit)]
    boots = [boot for boot, _ in groupby(boot for _, boot in sorted(track.seen))]
    if len(boots) > len(set(boots)):
        findings.append(finding("two-at-once", guest=name))
    return Known(name, track, findings)


def _name(sheet: Sheet) -> str:
    who = sheet.subject
    return who.hostname or who.machine_id or who.vm_uuid or sheet.file


def _of_audit(sheet: Sheet, name: str) -> Iterator[Finding]:
    failed = ", ".join(sheet.failed) or "no claim that it names"
    if sheet.state is State.DEGRADED:
        yield finding("guest-degraded", guest=name, claims=failed)
    elif sheet.verdict in (Verdict.FAIL, Verdict.ERROR):
        yield finding("audit-failed", guest=name, time=sheet.time, verdict=sheet.verdict, claims=failed)
    elif sheet.verdict is Verdict.NOT_APPLICABLE:
        yield finding("guest-open", guest=name, state=sheet.state)
    elif problem := _contradiction(sheet):
        yield finding("audit-contradicts", guest=name, file=sheet.file, problem=problem)
    if sheet.simulated:
        yield finding("guest-simulated", guest=name)
    if not (sheet.subject.machine_id or sheet.subject.vm_uuid):
        yield finding("guest-nameless", file=sheet.file)


def _of_time(sheet: Sheet, name: str, now: datetime, limit: timedelta) -> Iterator[Finding]:
    age = now - datetime.fromisoformat(sheet.time)
    if age > limit:
        yield finding("audit-stale", guest=name, time=sheet.time, hours=int(age / timedelta(hours=1)))
    elif -age > AHEAD:
        yield finding("audit-ahead", guest=name, file=sheet.file, time=sheet.time)


def _contradiction(sheet: Sheet) -> str:
    """What no agent writes into an audit that passes."""
    if sheet.state is not State.SEALED:
        return f"that the guest is {sheet.state}"
    if sheet.failed:
        return f"that {sheet.failed[0]} does not hold"
    if not sheet.ok or sheet.unknown:
        return f"that {sheet.unknown} ranges are unknown to the seal"
    return "" if sheet.content_digest else "not what is locked"


def _compare(guests: list[Known], wanted: list[str]) -> None:
    """With the inventory, of which any name will do."""
    names = {word.lower() for word in wanted}
    seen: set[str] = set()
    for guest in guests:
        own = _names(guest)
        seen |= own
        if not own & names:
            guest.findings.append(finding("guest-unlisted", guest=guest.name))
    missing = (word for word in wanted if word.lower() not in seen)
    guests += [Known(escaped(word), None, [finding("guest-never", guest=word)]) for word in missing]


def _names(guest: Known) -> set[str]:
    who = guest.newest.subject if guest.newest else None
    return {word.lower() for word in (who.hostname, who.machine_id, who.vm_uuid) if word} if who else set()


def _duplicates(guests: list[Known]) -> None:
    machine_ids: dict[str, list[Known]] = {}
    uuids: dict[str, list[Known]] = {}
    for guest in guests:
        if sheet := guest.newest:
            machine_ids.setdefault(sheet.subject.machine_id or "", []).append(guest)
            uuids.setdefault((sheet.subject.vm_uuid or "").lower(), []).append(guest)
    for id_, groups in (("duplicate-machine-id", machine_ids), ("duplicate-uuid", uuids)):
        for what, group in groups.items():
            if what and len(group) > 1:
                _tell(group, finding(id_, count=len(group), id=what, guests=_list(guest.name for guest in group)))


def _ask_hosts(guests: list[Known], witnesses: list[HostWitness]) -> None:
    """One host that was asked is enough: then a seal that no host knows is none."""
    audited = [(guest, sheet) for guest in guests if (sheet := guest.newest)]
    agreed = hosts.ask([(guest.name, sheet) for guest, sheet in audited], witnesses)
    for (guest, _), host in zip(audited, agreed, strict=True):
        guest.host = host
        if differs := hosts.disagreement(guest.name, host):
            guest.findings.append(differs)


def _contents(guests: list[Known], modules: dict[str, Modules]) -> None:
    """Guests with one kernel should have one content."""
    builds: dict[str, dict[Modules, list[Known]]] = {}
    for guest in guests:
        sheet = guest.newest
        if sheet and sheet.content_digest and sheet.subject.build_id:
            found = builds.setdefault(sheet.subject.build_id, {})
            found.setdefault(modules[sheet.content_digest], []).append(guest)
    for build, contents in builds.items():
        _other_code(build[:16], contents)
        sets: dict[frozenset[str], list[Known]] = {}
        for content, group in contents.items():
            sets.setdefault(frozenset(name for name, _ in content), []).extend(group)
        if len(sets) > 1:
            _other_modules(build[:16], sets)


def _other_code(build: str, contents: dict[Modules, list[Known]]) -> None:
    """A module is the same file wherever the kernel is the same, whichever modules a guest has beside it."""
    files: dict[str, Counter[str]] = {}
    for content, group in contents.items():
        for name, file in content:
            if file:  # else nobody can tell
                files.setdefault(name, Counter())[file] += len(group)
    for content, group in contents.items():
        odd = sorted(name for name, file in content if file and 2 * files[name][file] <= files[name].total())
        for guest in group if odd else ():
            guest.findings.append(finding("content-differs", guest=guest.name, build=build, modules=_list(odd)))


def _other_modules(build: str, sets: dict[frozenset[str], list[Known]]) -> None:
    """The few that have other modules than most stand out, if there are most."""
    total, usual = sum(map(len, sets.values())), max(sets, key=lambda names: len(sets[names]))
    if 2 * len(sets[usual]) <= total:
        split = finding("content-split", guests=total, build=build, count=len(sets))
        _tell((guest for group in sets.values() for guest in group), split)
        return
    for names in sets.keys() - {usual}:
        facts = {"build": build, "others": len(sets[usual]), "difference": _difference(names, usual)}
        for guest in sets[names]:
            guest.findings.append(finding("modules-differ", guest=guest.name, **facts))


def _difference(here: frozenset[str], usual: frozenset[str]) -> str:
    parts = (("only here", here - usual), ("missing", usual - here))
    return "; ".join(f"{what}: {_list(sorted(part))}" for what, part in parts if part)


def _list(words: Iterable[str]) -> str:
    every = list(words)
    more = f" and {len(every) - NAMED} more" if len(every) > NAMED else ""
    return ", ".join(every[:NAMED]) + more


def _tell(guests: Iterable[Known], what: Finding) -> None:
    for guest in guests:
        guest.findings.append(what)


#: What a blocker makes of a guest, if that is not a failure.
_STANDINGS = {
    "guest-degraded": Standing.DEGRADED,
    "guest-open": Standing.OPEN,
    "guest-simulated": Standing.OPEN,
    "guest-never": Standing.NEVER,
    "audit-stale": Standing.STALE,
    "audit-ahead": Standing.STALE,
}


def _told(guest: Known) -> Guest:
    blockers = [found.id for found in guest.findings if found.severity is Severity.BLOCKER]
    standings = (_STANDINGS.get(id_, Standing.FAIL) for id_ in blockers)
    worst = min(standings, key=_ORDER.index, default=Standing.PASS)
    audits = len(guest.track.seen) if guest.track else 0
    return Guest(guest.name, worst, _sorted(guest.findings), audits, guest.newest, guest.host)


def _sorted(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda one: (one.severity.rank, one.id, one.text)))
