# SPDX-License-Identifier: GPL-2.0-or-later
"""What a person must know of a fleet: a closed catalogue of findings. A blocker keeps it from passing."""

from __future__ import annotations

from mbecguard.values.escaped import escaped
from mbecguard.values.findings import Finding, Severity, Template, made

_B, _W, _I = Severity.BLOCKER, Severity.WARNING, Severity.INFO

_GONE = "remove the audits of a guest that is no more"

CATALOGUE: dict[str, Template] = {
    # Files.
    "file-unreadable": Template(_B, "{file} cannot be read: {problem}", "collect it again; it says nothing as it is"),
    "file-unfit": Template(
        _B,
        "{file} is no audit that can be used: {problem}",
        "collect it again by `mbecguard audit --json`, with an agent of this version",
    ),
    "files-ignored": Template(_I, "{count} files are not called *.json, and were not read", ""),
    "nothing-collected": Template(_B, "there is no audit in {folder}", "docs/FLEET.md says how audits get there"),
    # A guest by itself.
    "guest-degraded": Template(
        _B, "{guest} is degraded: {claims}", "`mbecguard status` there tells why; a reset and a lock bring it back"
    ),
    "audit-failed": Template(
        _B, "{guest}: the audit of {time} ended with {verdict}: {claims}", "`mbecguard audit` there names each"
    ),
    "audit-contradicts": Template(
        _B,
        "{guest}: {file} says pass, and {problem}",
        "no agent writes that: find out who did, and where between the guest and here",
    ),
    "guest-open": Template(
        _B,
        "{guest} is {state}, not sealed",
        "`mbecguard status` there tells why; `mbecguard check` what stands in the way",
    ),
    "guest-simulated": Template(_B, "{guest} is sealed by a simulator, which protects nothing", "lock it for real"),
    "audit-stale": Template(
        _B,
        "{guest}: the newest audit is of {time}, {hours} hours ago",
        f"look at mbecguard-audit.timer there, and at the way from there to here; {_GONE}",
    ),
    "audit-ahead": Template(
        _B,
        "{guest}: {file} is of {time}, which is yet to come",
        "put the clocks right; until then it never grows stale",
    ),
    "guest-never": Template(
        _B, "{guest} is in the inventory, and no audit of it is here", "`mbecguard audit` there, and collect it"
    ),
    "guest-nameless": Template(
        _W, "{file} tells neither machine-id nor UUID", "two such guests cannot be told apart: give them a machine-id"
    ),
    "guest-unlisted": Template(_W, "{guest} is not in the inventory", f"list it, or {_GONE}"),
    # A guest beside its host.
    "host-differs": Template(_B, "{guest} says that it is sealed, but {evidence}", "{action}"),
    "host-unseen": Template(_B, "{guest} says that it is sealed, but {evidence}", "{action}"),
    "host-twice": Template(_B, "{guest}: {evidence}", "{action}"),
    # Guests beside each other.
    "duplicate-machine-id": Template(
        _B,
        "{count} machines have the machine-id {id}: {guests}",
        "clones need one of their own: empty /etc/machine-id in the image; " + _GONE,
    ),
    "duplicate-uuid": Template(
        _B, "{count} guests have the machine's UUID {id}: {guests}", f"a host gives it once; {_GONE}"
    ),
    "two-at-once": Template(
        _B,
        "{guest}: audits of several boots alternate, so two machines tell under one name",
        "find the copy; one of them may be an attacker's",
    ),
    "content-differs": Template(
        _B,
        "{guest} and most guests with the kernel {build} have different files for modules of one name: {modules}",
        "take it for an intrusion until you know better: compare the files; if DKMS upgraded one, upgrade the others",
    ),
    "modules-differ": Template(
        _W,
        "{guest} has the kernel {build} as {others} others have, and other modules: {difference}",
        "find out why; if all is well, load the same everywhere before the lock",
    ),
    "content-split": Template(
        _W,
        "{guests} guests with the kernel {build} have {count} sets of modules, and none is that of most",
        "load the same everywhere before the lock, then one that is different stands out",
    ),
}


def finding(id_: str, **facts: object) -> Finding:
    """A finding of the catalogue with its texts filled in; a missing id or fact is a bug. Names are escaped."""
    plain = {name: escaped(fact) if isinstance(fact, str) else fact for name, fact in facts.items()}
    return made(CATALOGUE, id_, plain)
