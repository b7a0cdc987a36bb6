# SPDX-License-Identifier: GPL-2.0-or-later
"""The answer: each machine of a host by name and UUID, and what the host enforces of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from mbecguard.readiness.machines import DEBUG, Guarded, Running, chosen, running
from mbecguard.readiness.source import Source
from mbecguard.values.clock import now
from mbecguard.values.errors import die
from mbecguard.values.facts import Known, Unknown, known
from mbecguard.witness.told import Told, parse

SCHEMA = "mbecguard.witness/1"


@dataclass(frozen=True, slots=True)
class Seen:
    """One virtual machine."""

    pid: int
    name: str
    uuid: str | None  #: as its guest finds it in its DMI tables; null: it is given none
    program: str
    state: Guarded
    told: Told | None  #: null: this host's KVM guards nothing, or the machine is none of KVM's


@dataclass(frozen=True, slots=True)
class HostWitness:
    """What a host says of its machines at one time."""

    time: str  #: UTC, ISO 8601
    host: str  #: name
    host_id: str | None  #: machine-id of the host
    release: str | None  #: of its kernel
    machines: tuple[Seen, ...]
    schema: str = SCHEMA


def witness(source: Source, names: Collection[str] = ()) -> HostWitness:
    """All machines, or those by name or process. Dies if the host does not let one look, or of an unknown name."""
    folders = source.names(DEBUG)
    if isinstance(folders, Unknown):
        die(f"what the host says of its machines cannot be told: {folders.reason}", folders.remedy)
    if not isinstance(folders, Known):
        die(f"/{DEBUG} is not there", "load KVM (`modprobe kvm_intel`); mount -t debugfs none /sys/kernel/debug")
    found = chosen(tuple(running(source)), names)
    return HostWitness(
        now(),
        known(source.text("proc/sys/kernel/hostname"), ""),
        known(source.text("etc/machine-id"), None),
        known(source.text("proc/sys/kernel/osrelease"), None),
        tuple(_seen(source, one) for one in found),
    )


def _seen(source: Source, one: Running) -> Seen:
    text = known(source.text(f"{DEBUG}/{one.folder}/mbecguard"), "") if one.folder else ""
    uuid = one.qemu.uuid if one.qemu else None
    return Seen(one.pid, one.name, uuid, one.program, one.state, parse(text))
