# SPDX-License-Identifier: GPL-2.0-or-later
"""What `mbecguard-host check` tells, for people."""

from __future__ import annotations

from collections.abc import Iterator

from mbecguard.face.look import Look, totals
from mbecguard.readiness.check import HostCheck, Machine
from mbecguard.readiness.kvm import Kvm, Origin
from mbecguard.readiness.machines import Guarded
from mbecguard.readiness.processor import Processor

_STATE = {Guarded.SEALED: "green", Guarded.RESTRICTED: "yellow"}


def view(look: Look, answer: HostCheck) -> Iterator[str]:
    """The facts, what stands in the way, each machine, and the verdict."""
    yield from look.row("kernel", answer.release)
    if answer.processor:
        yield from look.row("processor", _processor(answer.processor))
    yield from look.row("KVM", _kvm(answer.kvm))
    if not answer.as_configured:
        yield from look.row("configured", f"kvm.mbecguard={answer.configured}, which is NOT what runs")
    yield from look.row("Secure Boot", _told(answer.signing.secure_boot, "on", "off"))
    yield from look.findings(answer.findings)
    for machine in answer.machines:
        yield from _machine(look, machine)
    yield f"this host {_verdict(look, answer.host_ready, 'can guard', 'can NOT guard')}: {totals(answer.findings)}"
    if answer.machines:
        stopped = [machine.name for machine in answer.machines if not machine.ready]
        told = f"machines that cannot be sealed as they run: {', '.join(stopped) or 'none'}"
        yield from look.fill("", told, 2, colour="red" if stopped else "")


def _machine(look: Look, machine: Machine) -> Iterator[str]:
    state = look.paint(machine.state.upper(), _STATE.get(machine.state, "bold"))
    yield f"{look.paint(machine.name, 'bold')}  process {machine.pid}, {machine.program}: {state}"
    yield from look.findings(machine.findings)


def _processor(processor: Processor) -> str:
    mbec = "MBEC" if processor.mbec else "no MBEC"
    return f"{processor.model}: {mbec}, advanced exit information {_told(processor.exit_information, 'yes', 'no')}"


def _kvm(kvm: Kvm) -> str:
    if kvm.origin is Origin.OURS:
        return f"mbecguard, mode {kvm.mode}, mbec {_told(kvm.mbec, 'on', 'off')}"
    return {Origin.STOCK: "stock", Origin.NONE: "not loaded"}[kvm.origin]


def _told(value: bool | None, yes: str, no: str) -> str:
    return "unknown" if value is None else yes if value else no


def _verdict(look: Look, good: bool, yes: str, no: str) -> str:
    return look.paint(yes, "green") if good else look.paint(no, "red")
