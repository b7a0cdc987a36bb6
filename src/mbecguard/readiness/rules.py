# SPDX-License-Identifier: GPL-2.0-or-later
"""What follows from the facts: what keeps this host from guarding, and a machine from a seal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mbecguard.readiness.findings import SKIPPED, finding
from mbecguard.readiness.kvm import SERIES, Installed, Kvm, Origin, Signing, Skipped, flavour, series
from mbecguard.readiness.machines import Guarded, Running
from mbecguard.readiness.processor import Processor
from mbecguard.readiness.qemu import OFF, Qemu
from mbecguard.values.findings import Finding, Severity

INTEL = "GenuineIntel"


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known of a host itself."""

    processor: Processor | None
    release: str
    kvm: Kvm
    installed: Installed
    signing: Signing


def of_host(facts: Facts) -> Iterator[Finding]:
    """The cause alone is told, not what follows from it."""
    yield from _processor(facts.processor)
    yield from _module(facts)
    if facts.kvm.origin is Origin.OURS:
        yield from _mode(facts.kvm, facts.installed)
        if facts.processor and facts.processor.mbec and facts.processor.exit_information is not False:
            yield from _parameters(facts.kvm)
    for release in facts.installed.halves:
        yield finding("kvm-half", release=release)
    for skipped in facts.installed.skipped:
        if skipped.release != facts.release:
            yield _skipped("next-skipped", skipped, facts.installed)
    for older in facts.installed.older:
        yield _skipped("kvm-older", older, facts.installed)
    if facts.installed.stock_next:
        yield finding("stock-next", releases=", ".join(facts.installed.stock_next))


def _processor(processor: Processor | None) -> Iterator[Finding]:
    if processor is None:
        yield finding("processor-unknown")
        return
    if processor.vendor != INTEL:
        yield finding("processor-other", vendor=processor.vendor)
    elif not processor.vmx:
        yield finding("vmx-missing")
    elif not processor.mbec:
        yield finding("mbec-missing")
    elif processor.exit_information is False:
        yield finding("exit-information-missing")
    if processor.virtual:
        yield finding("host-virtual")


def _module(facts: Facts) -> Iterator[Finding]:
    if facts.kvm.origin is Origin.OURS:
        return
    if series(facts.release) not in SERIES:
        yield finding("kernel-series", release=facts.release, series=series(facts.release), known=", ".join(SERIES))
        return
    if not flavour(facts.release):
        yield finding("kernel-foreign", release=facts.release, known=" or ".join(SERIES))
        return
    if facts.kvm.origin is Origin.NONE:
        yield finding("kvm-missing")
    elif facts.kvm.builtin:
        yield finding("kvm-builtin", release=facts.release)
        return
    if not facts.installed.package:
        yield finding("kvm-not-installed", flavour=flavour(facts.release))
    elif facts.release not in facts.installed.built:
        skipped = [one for one in facts.installed.skipped if one.release == facts.release]
        yield from (_skipped("kvm-skipped", one, facts.installed) for one in skipped)
        if not skipped:
            yield finding("kvm-not-built", release=facts.release)
    else:
        if facts.kvm.origin is Origin.STOCK:
            yield finding("kvm-not-reloaded")
        yield from _signing(facts.signing)


def _skipped(id_: str, one: Skipped, installed: Installed) -> Finding:
    ours = f"kernel {' or '.join(installed.built)}" if installed.built else "a kernel that has ours"
    advice = SKIPPED.get(one.reason, SKIPPED["other"])
    advice = advice.format(
        ours=ours,
        release=one.release,
        series=series(one.release),
        flavour=flavour(one.release) or "amd64",
        known=" or ".join(SERIES),
    )
    return finding(id_, release=one.release, reason=one.reason, problem=one.problem, advice=advice)


def _signing(signing: Signing) -> Iterator[Finding]:
    why = "Secure Boot" if signing.secure_boot else "module.sig_enforce" if signing.enforced else ""
    if why and signing.enrolled is not True:
        yield finding("key-unknown" if signing.enrolled is None else "key-not-enrolled", why=why)


def _mode(kvm: Kvm, installed: Installed) -> Iterator[Finding]:
    if kvm.mode in ("off", "audit"):
        yield finding(f"mode-{kvm.mode}")
    if kvm.mode in ("audit", "enforce") and kvm.mode not in installed.next_modes:
        yield finding("mode-not-kept", mode=kvm.mode, next=" or ".join(installed.next_modes) or "off")


def _parameters(kvm: Kvm) -> Iterator[Finding]:
    if kvm.ept is None:
        yield finding("kvm-intel-missing")
    elif kvm.mbec is None:
        yield finding("mbec-unknown")
    elif not kvm.mbec:
        cause = "ept" if not kvm.ept else "eptad" if kvm.eptad is False else "mbec"
        yield finding(f"{cause}-off")


Rule = Callable[[Qemu, Kvm], Iterator[Finding]]

#: Models that have VMX by themselves, if KVM lets them.
WITH_VMX = frozenset({"host", "max"})
CONFIDENTIAL = {"sev-guest": "SEV", "sev-snp-guest": "SEV-SNP", "tdx-guest": "TDX"}
#: The device that does S3, by machine type; a microvm has none.
POWER = {"q35": "ICH9-LPC", "pc-q35": "ICH9-LPC", "pc": "PIIX4_PM", "pc-i440fx": "PIIX4_PM"}


def of_machine(machine: Running, kvm: Kvm) -> Iterator[Finding]:
    """What the host says of a machine is stronger than what its command line does: nothing blocks a sealed one."""
    found = _of_machine(machine, kvm)
    if machine.state is Guarded.SEALED:
        return (one for one in found if one.severity is not Severity.BLOCKER)
    return found


def _of_machine(machine: Running, kvm: Kvm) -> Iterator[Finding]:
    if machine.nested:
        yield finding("machine-nested")
    if machine.qemu is None:
        yield finding("machine-program", program=machine.program)
    elif not machine.on_kvm:
        yield finding("machine-not-kvm")
    else:
        for rule in RULES:
            yield from rule(machine.qemu, kvm)


def _vmx(qemu: Qemu, kvm: Kvm) -> Iterator[Finding]:
    if kvm.nested is not False and qemu.feature("vmx", WITH_VMX):
        yield finding("machine-vmx")


def _smm(qemu: Qemu, _kvm: Kvm) -> Iterator[Finding]:
    apart = qemu.has("cfi.pflash01.secure") and "q35" in qemu.machine.get("type", "")
    if qemu.machine.get("smm") not in OFF and not apart:
        yield finding("machine-smm")


def _irqchip(qemu: Qemu, _kvm: Kvm) -> Iterator[Finding]:
    if qemu.accelerator("kernel-irqchip") in OFF:
        yield finding("machine-irqchip")


def _confidential(qemu: Qemu, _kvm: Kvm) -> Iterator[Finding]:
    if kinds := [CONFIDENTIAL[kind] for kind in qemu.objects if kind in CONFIDENTIAL]:
        yield finding("machine-confidential", kind=kinds[0])


def _others(qemu: Qemu, _kvm: Kvm) -> Iterator[Finding]:
    """Whoever answers in KVM's place."""
    words = [name for name, value in qemu.cpu.items() if name.lstrip("+").startswith("hv-") and value not in OFF]
    if words:
        yield finding("machine-hyperv", words=" ".join(words))
    if qemu.accelerator("xen-version"):
        yield finding("machine-xen")
    if not qemu.feature("kvm", frozenset({qemu.cpu.get("model", "")})) and qemu.cpu:
        yield finding("machine-kvm-hidden")


def _program(qemu: Qemu, _kvm: Kvm) -> Iterator[Finding]:
    if qemu.program == "qemu-system-i386":
        yield finding("machine-32-bit")
    yield from (finding("machine-config", path=path) for path in qemu.unread)


def _s3(qemu: Qemu, _kvm: Kvm) -> Iterator[Finding]:
    family = qemu.machine.get("type", "pc").partition("+")[0]
    device = POWER.get(family) or POWER.get("-".join(family.split("-")[:2]))
    if device and not qemu.has(f"{device}.disable_s3") and qemu.machine.get("acpi") not in OFF:
        yield finding("machine-s3", device=device)


RULES: tuple[Rule, ...] = (_program, _vmx, _smm, _irqchip, _confidential, _others, _s3)
