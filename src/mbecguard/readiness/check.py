# SPDX-License-Identifier: GPL-2.0-or-later
"""The answer: a host, its machines, and what stands in the way."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from mbecguard.readiness import kvm, machines, processor, rules
from mbecguard.readiness.findings import finding
from mbecguard.readiness.kvm import Kvm, Signing
from mbecguard.readiness.machines import DEBUG, Guarded, Running
from mbecguard.readiness.processor import EPT_VPID_CAP, Processor
from mbecguard.readiness.source import Source
from mbecguard.values.errors import Exit
from mbecguard.values.facts import Absent, Fact, Unknown
from mbecguard.values.findings import Finding, Severity

SCHEMA = "mbecguard.host-check/1"


@dataclass(frozen=True, slots=True)
class Machine:
    """One virtual machine that runs."""

    pid: int
    name: str
    program: str
    state: Guarded  #: what the host says
    ready: bool  #: nothing is known that would keep it from a seal
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class HostCheck:
    """Whether a host can guard, and whether its machines can be sealed. What nobody can tell is null."""

    ready: bool  #: the host itself, and each machine that was looked at
    host_ready: bool
    release: str
    processor: Processor | None
    kvm: Kvm
    signing: Signing
    configured: str | None  #: the mode that modprobe.d and the kernel's command line ask for
    findings: tuple[Finding, ...]  #: of the host itself
    machines: tuple[Machine, ...]
    schema: str = SCHEMA

    @property
    def exit(self) -> Exit:
        """How the command ends."""
        if not self.ready:
            return Exit.REFUSED
        return Exit.AUDIT_MODE if self.kvm.mode == "audit" else Exit.OK

    @property
    def as_configured(self) -> bool:
        """Whether what is asked for is what runs. Stock KVM ignores a mode that it does not know."""
        return self.configured in (None, "off") or (self.host_ready and self.kvm.mode == self.configured)


def check(source: Source, names: Collection[str] = (), *, alone: bool = False) -> HostCheck:
    """Look at a host, and at those machines (all, or none if it is `alone`). Dies of a name that nobody has."""
    chosen = machines.chosen(() if alone else tuple(machines.running(source)), names)
    release = kvm.release(source)
    facts = rules.Facts(
        processor.look(source), release, kvm.loaded(source), kvm.installed(source, release), kvm.signing(source)
    )
    found = _sorted((*rules.of_host(facts), *_unseen(source, facts, chosen)))
    looked = tuple(_machine(one, facts.kvm) for one in chosen)
    host_ready = _passes(found)
    return HostCheck(
        host_ready and all(one.ready for one in looked),
        host_ready,
        release,
        facts.processor,
        facts.kvm,
        facts.signing,
        kvm.configured(source),
        found,
        looked,
    )


def _machine(running: Running, loaded: Kvm) -> Machine:
    found = _sorted(rules.of_machine(running, loaded))
    return Machine(running.pid, running.name, running.program, running.state, _passes(found), found)


def _unseen(source: Source, facts: rules.Facts, running: tuple[Running, ...]) -> Iterator[Finding]:
    """What would have mattered here. A KVM that uses MBEC has asked for the exit information itself."""
    if facts.processor and facts.processor.mbec and facts.processor.exit_information is None and not facts.kvm.mbec:
        yield from _untold("whether the processor has advanced exit information", source.msr(EPT_VPID_CAP))
    if any(one.on_kvm for one in running):
        yield from _untold("what the host says of each machine", source.names(DEBUG))


def _untold(what: str, fact: Fact[int] | Fact[tuple[str, ...]]) -> Iterator[Finding]:
    if isinstance(fact, Absent):
        fact = Unknown("debugfs is not mounted", "mount -t debugfs none /sys/kernel/debug")
    if isinstance(fact, Unknown):
        yield finding("unseen", what=what, problem=fact.reason, advice=fact.remedy)


def _sorted(found: Iterator[Finding] | tuple[Finding, ...]) -> tuple[Finding, ...]:
    return tuple(sorted(found, key=lambda one: one.severity.rank))


def _passes(found: tuple[Finding, ...]) -> bool:
    return all(one.severity is not Severity.BLOCKER for one in found)
